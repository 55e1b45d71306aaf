//! Element-wise ops, reductions and conversions.

use super::super::op::{Activation, ArgMax, Binary, BinaryFunction, Reduce, ReduceFunction, Unary};
use super::super::types::{Dim, ValueType};
use super::{Operand, Operands, dims, ty};
use crate::error::{Error, Result};
use crate::tensor::DType;

fn same(x: &Operand<'_>) -> ValueType {
    ty(x.dtype(), x.dims().map(<[Dim]>::to_vec))
}

fn expect_number(x: &Operand<'_>, name: &str) -> Result<()> {
    if x.dtype() == DType::Bool {
        return Err(Error::graph(format!("{name}: expected numbers, found bool")));
    }
    Ok(())
}

pub(super) fn unary(function: Unary, operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    match function {
        Unary::Not => x.expect_dtype("x", &[DType::Bool])?,
        Unary::Neg
        | Unary::Abs
        | Unary::Exp
        | Unary::Log
        | Unary::Sqrt
        | Unary::Rsqrt
        | Unary::Square
        | Unary::Sin
        | Unary::Cos
        | Unary::Floor
        | Unary::Ceil
        | Unary::Round
        | Unary::Sign
        | Unary::Erf => expect_number(&x, "x")?,
    }
    Ok(same(&x))
}

pub(super) fn activation(operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    expect_number(&x, "x")?;
    Ok(same(&x))
}

pub(super) fn binary(binary: Binary, operands: &Operands<'_>) -> Result<ValueType> {
    use BinaryFunction as F;
    let a = operands.get(0, "a")?;
    let b = operands.get(1, "b")?;
    b.expect_same_dtype("b, as a", &a)?;
    let dtype = match binary.function {
        F::Add
        | F::Sub
        | F::Mul
        | F::Div
        | F::FloorDiv
        | F::FloorMod
        | F::Pow
        | F::Minimum
        | F::Maximum
        | F::SquaredDifference => {
            expect_number(&a, "a")?;
            a.dtype()
        }
        F::Less | F::LessEqual | F::Greater | F::GreaterEqual => {
            expect_number(&a, "a")?;
            DType::Bool
        }
        F::Equal | F::NotEqual => DType::Bool,
        F::And | F::Or => {
            a.expect_dtype("a", &[DType::Bool])?;
            DType::Bool
        }
    };
    if dtype == DType::Bool && binary.activation != Activation::Linear {
        return Err(Error::graph(format!(
            "{}: a bool result takes no activation",
            binary.function.name()
        )));
    }
    Ok(ty(dtype, dims::broadcast(a.dims(), b.dims())?))
}

pub(super) fn select(operands: &Operands<'_>) -> Result<ValueType> {
    let condition = operands.get(0, "condition")?;
    let a = operands.get(1, "a")?;
    let b = operands.get(2, "b")?;
    condition.expect_dtype("condition", &[DType::Bool])?;
    b.expect_same_dtype("b, as a", &a)?;
    let values = dims::broadcast(a.dims(), b.dims())?;
    Ok(ty(a.dtype(), dims::broadcast(condition.dims(), values.as_deref())?))
}

pub(super) fn softmax(operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    expect_number(&x, "x")?;
    if x.dims().is_some_and(<[Dim]>::is_empty) {
        return Err(Error::graph("x: expected rank 1 or more, found a scalar"));
    }
    Ok(same(&x))
}

pub(super) fn reduce(reduce: Reduce, operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    let axes_operand = operands.get(1, "axes")?;
    match reduce.function {
        ReduceFunction::Any | ReduceFunction::All => x.expect_dtype("x", &[DType::Bool])?,
        ReduceFunction::Sum
        | ReduceFunction::Mean
        | ReduceFunction::Product
        | ReduceFunction::Maximum
        | ReduceFunction::Minimum => expect_number(&x, "x")?,
    }
    let axes = axes_operand.integers("axes")?;
    let Some(sizes) = x.dims() else {
        return Ok(ty(x.dtype(), None));
    };
    let Some(axes) = axes else {
        let shape = reduce.keep_dims.then(|| vec![Dim::Unknown; sizes.len()]);
        return Ok(ty(x.dtype(), shape));
    };
    let reduced = dims::axis_set(&axes, sizes.len())?;
    let kept =
        sizes.iter().zip(reduced).filter_map(|(&dim, gone)| match (gone, reduce.keep_dims) {
            (false, _) => Some(dim),
            (true, true) => Some(Dim::Known(1)),
            (true, false) => None,
        });
    Ok(ty(x.dtype(), Some(kept.collect())))
}

pub(super) fn arg_max(options: ArgMax, operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    expect_number(&x, "x")?;
    if !matches!(options.dtype, DType::I32 | DType::I64) {
        return Err(Error::graph(format!(
            "indices: expected int32 or int64, found {}",
            options.dtype
        )));
    }
    let axis = operands.get(1, "axis")?.integer("axis")?;
    let shape = match (x.dims(), axis) {
        (None, _) => None,
        (Some([]), _) => return Err(Error::graph("x: expected rank 1 or more, found a scalar")),
        (Some(sizes), None) => Some(vec![Dim::Unknown; sizes.len() - 1]),
        (Some(sizes), Some(axis)) => {
            let axis = dims::axis(axis, sizes.len())?;
            if sizes[axis] == Dim::Known(0) {
                return Err(Error::graph(format!(
                    "x: axis {axis} of {} has no element to choose",
                    dims::show(x.dims())
                )));
            }
            let mut rest = sizes.to_vec();
            rest.remove(axis);
            Some(rest)
        }
    };
    Ok(ty(options.dtype, shape))
}

pub(super) fn cast(dtype: DType, operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    Ok(ty(dtype, x.dims().map(<[Dim]>::to_vec)))
}

pub(super) fn dequantize(operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    x.expect_dtype("x", &[DType::I8, DType::U8, DType::I16, DType::I32, DType::F16])?;
    Ok(ty(DType::F32, x.dims().map(<[Dim]>::to_vec)))
}
