//! Reductions and what is made of them.

use super::lower::Val;
use super::movement::{AXES_AS_INPUT, to_matrix};
use super::step::{Outputs, Step};
use crate::error::{Error, Result};
use crate::graph::op::{ArgMax, BinaryFunction as F, Reduce, ReduceFunction, Softmax, Unary};
use crate::graph::{Dim, Op, ValueId};
use crate::tensor::DType;

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Outputs>> {
    Ok(Some(match step.node.op_type.as_str() {
        "ReduceSum" => reduce(step, ReduceFunction::Sum, AXES_AS_INPUT)?,
        "ReduceMean" => reduce(step, ReduceFunction::Mean, 18)?,
        "ReduceMax" => reduce(step, ReduceFunction::Maximum, 18)?,
        "ReduceMin" => reduce(step, ReduceFunction::Minimum, 18)?,
        "ReduceProd" => reduce(step, ReduceFunction::Product, 18)?,
        "ReduceL1" => of_elements(step, Unary::Abs, None)?,
        "ReduceL2" => of_elements(step, Unary::Square, Some(Unary::Sqrt))?,
        "ReduceSumSquare" => of_elements(step, Unary::Square, None)?,
        "ArgMax" => arg(step, false)?,
        "ArgMin" => arg(step, true)?,
        "Softmax" => softmax(step, false)?,
        "LogSoftmax" => softmax(step, true)?,
        _ => return Ok(None),
    }))
}

/// The axes to reduce, `None` for none at all, and whether they stay.
fn axes(step: &mut Step<'_, '_>, x: ValueId, since: i64) -> Result<(Option<ValueId>, bool)> {
    step.expect_inputs(1, if step.opset < since { 1 } else { 2 })?;
    let keep_dims = step.attrs.flag("keepdims", true)?;
    let none_if_empty = step.opset >= since && step.attrs.flag("noop_with_empty_axes", false)?;
    if step.opset >= since
        && let Some(axes) = step.optional(1)?
        && step.builder.integers(axes)?.is_none()
    {
        return match step.dims(axes)?.as_slice() {
            [Dim::Known(1..)] => Ok((Some(axes), keep_dims)),
            [Dim::Known(0)] if none_if_empty => Ok((None, keep_dims)),
            [Dim::Known(0)] => {
                let all: Vec<i64> = (0..step.rank(x)? as i64).collect();
                Ok((Some(step.vector(&all)?), keep_dims))
            }
            _ => Err(Error::unsupported("axes: an open number of axes")),
        };
    }
    let axes = match step.list("axes", since, 1)? {
        Some(axes) if !axes.is_empty() => axes,
        _ if none_if_empty => return Ok((None, keep_dims)),
        _ => (0..step.rank(x)? as i64).collect(),
    };
    Ok((Some(step.vector(&axes)?), keep_dims))
}

fn reduce(step: &mut Step<'_, '_>, function: ReduceFunction, since: i64) -> Result<Outputs> {
    let x = step.tensor(0)?;
    let (axes, keep_dims) = axes(step, x, since)?;
    match axes {
        None => Ok(vec![Some(Val::Tensor(x))]),
        Some(axes) => {
            let function = match (function, step.dtype(x)?) {
                (ReduceFunction::Maximum, DType::Bool) => ReduceFunction::Any,
                (ReduceFunction::Minimum, DType::Bool) => ReduceFunction::All,
                (function, _) => function,
            };
            step.one(Op::Reduce(Reduce { function, keep_dims }), &[x, axes])
        }
    }
}

/// `outer(Σ inner(x))`.
fn of_elements(step: &mut Step<'_, '_>, inner: Unary, outer: Option<Unary>) -> Result<Outputs> {
    const SINCE: i64 = 18;
    let x = step.tensor(0)?;
    let (axes, keep_dims) = axes(step, x, SINCE)?;
    let mut result = step.add(Op::Unary(inner), &[x])?;
    if let Some(axes) = axes {
        let sum = Reduce { function: ReduceFunction::Sum, keep_dims };
        result = step.add(Op::Reduce(sum), &[result, axes])?;
    }
    if let Some(outer) = outer {
        result = step.add(Op::Unary(outer), &[result])?;
    }
    Ok(vec![Some(Val::Tensor(result))])
}

fn arg(step: &mut Step<'_, '_>, minimum: bool) -> Result<Outputs> {
    const SELECTS: i64 = 12;
    step.expect_inputs(1, 1)?;
    let x = step.tensor(0)?;
    let axis = step.attrs.int_or("axis", 0)?;
    let keep_dims = step.attrs.flag("keepdims", true)?;
    let last = step.opset >= SELECTS && step.attrs.flag("select_last_index", false)?;
    let rank = step.rank(x)?;
    let axis = step.axis(axis, rank)? as i64;
    let (axis_value, axis_list) = (step.scalar(axis), step.vector(&[axis])?);
    let options = ArgMax { minimum, dtype: DType::I64 };
    let mut result = if last {
        // The first of the reversed entries, counted from the end.
        let reversed = step.add(Op::Reverse, &[x, axis_list])?;
        let first = step.add(Op::ArgMax(options), &[reversed, axis_value])?;
        let shape = step.shape_of(x)?;
        let size = step.slice(shape, 0, axis, axis + 1)?;
        let scalar = step.vector(&[])?;
        let size = step.add(Op::Reshape, &[size, scalar])?;
        let one = step.scalar(1);
        let highest = step.binary(F::Sub, size, one)?;
        step.binary(F::Sub, highest, first)?
    } else {
        step.add(Op::ArgMax(options), &[x, axis_value])?
    };
    if keep_dims {
        result = step.add(Op::ExpandDims, &[result, axis_value])?;
    }
    Ok(vec![Some(Val::Tensor(result))])
}

/// Over one axis; before opset 13 over all axes from it on.
fn softmax(step: &mut Step<'_, '_>, log: bool) -> Result<Outputs> {
    const ONE_AXIS: i64 = 13;
    step.expect_inputs(1, 1)?;
    let x = step.tensor(0)?;
    let rank = step.rank(x)?;
    let op = Op::Softmax(Softmax { beta: 1.0, log });
    let flattens = step.opset < ONE_AXIS;
    let axis = step.attrs.int_or("axis", if flattens { 1 } else { -1 })?;
    let axis = if flattens { step.border(axis, rank)? } else { step.axis(axis, rank)? };
    if axis + 1 == rank {
        return step.one(op, &[x]);
    }
    if flattens {
        let matrix = to_matrix(step, x, axis)?;
        let result = step.add(op, &[matrix])?;
        let shape = step.shape_of(x)?;
        return step.one(Op::Reshape, &[result, shape]);
    }
    let mut order: Vec<usize> = (0..rank).collect();
    order.swap(axis, rank - 1);
    let moved = step.transpose(x, &order)?;
    let result = step.add(op, &[moved])?;
    Ok(vec![Some(Val::Tensor(step.transpose(result, &order)?))])
}

/// The mean over axes, which stay.
pub fn mean(step: &mut Step<'_, '_>, x: ValueId, axes: &[i64]) -> Result<ValueId> {
    let axes = step.vector(axes)?;
    let mean = Reduce { function: ReduceFunction::Mean, keep_dims: true };
    step.add(Op::Reduce(mean), &[x, axes])
}

/// `(x − mean) / sqrt(var + epsilon)` over axes, with the mean and the factor.
pub fn normalized(
    step: &mut Step<'_, '_>,
    x: ValueId,
    axes: &[i64],
    epsilon: f32,
) -> Result<[ValueId; 3]> {
    let average = mean(step, x, axes)?;
    let centered = step.binary(F::Sub, x, average)?;
    let square = step.binary(F::Mul, centered, centered)?;
    let variance = mean(step, square, axes)?;
    let dtype = step.dtype(x)?;
    let epsilon = step.number(dtype, f64::from(epsilon))?;
    let sum = step.binary(F::Add, variance, epsilon)?;
    let deviation = step.add(Op::Unary(Unary::Sqrt), &[sum])?;
    let result = step.binary(F::Div, centered, deviation)?;
    Ok([result, average, deviation])
}

/// Refuses what is only said of training.
pub fn refuse_training(training: bool) -> Result<()> {
    if training {
        return Err(Error::unsupported("training_mode: statistics of the batch"));
    }
    Ok(())
}
