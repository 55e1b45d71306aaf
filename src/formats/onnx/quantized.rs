//! Integers that stand for numbers: `x = scale · (q − zero point)`, as ops on integers and floats.

use super::lower::Val;
use super::step::{Outputs, Step};
use super::windows;
use crate::error::{Error, Result};
use crate::graph::op::{BinaryFunction as F, MatMul, Reduce, ReduceFunction, Unary};
use crate::graph::{Op, ValueId};
use crate::tensor::DType;

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Outputs>> {
    Ok(Some(match step.node.op_type.as_str() {
        "QuantizeLinear" => quantize_linear(step)?,
        "DequantizeLinear" => dequantize_linear(step)?,
        "DynamicQuantizeLinear" => {
            step.expect_inputs(1, 1)?;
            let x = step.tensor(0)?;
            let quantized = dynamic(step, x)?;
            let zero = step.cast(quantized.zero, DType::U8)?;
            let q = step.cast(quantized.q, DType::U8)?;
            [q, quantized.scale, zero].map(|id| Some(Val::Tensor(id))).to_vec()
        }
        "MatMulInteger" => mat_mul_integer(step)?,
        "ConvInteger" => conv_integer(step)?,
        _ => return Ok(None),
    }))
}

/// Smallest and largest integer of a quantized type.
fn bounds(dtype: DType) -> Result<(f64, f64)> {
    Ok(match dtype {
        DType::I8 => (-128.0, 127.0),
        DType::U8 => (0.0, 255.0),
        DType::I16 => (-32768.0, 32767.0),
        other => {
            return Err(Error::unsupported(format!("quantized numbers of type {other}")));
        }
    })
}

/// The options of QuantizeLinear and DequantizeLinear beside the operands; returns the axis.
fn options(step: &Step<'_, '_>, dtype: DType) -> Result<i64> {
    const PER_AXIS: i64 = 13;
    let axis = if step.opset < PER_AXIS { 1 } else { step.attrs.int_or("axis", 1)? };
    if step.opset >= 21 && step.attrs.int_or("block_size", 0)? != 0 {
        return Err(Error::unsupported("block_size: a scale for each block"));
    }
    if step.opset >= 21 {
        let stated = step.attrs.int_or("output_dtype", 0)?;
        let number = i32::try_from(stated).unwrap_or(-1);
        if number != 0 && super::tensor::dtype(number)? != dtype {
            return Err(Error::unsupported(format!(
                "output_dtype: expected {dtype}, found type {stated}"
            )));
        }
    }
    Ok(axis)
}

/// A scale or zero point beside x: one for all, or one for each index of an axis.
fn beside(step: &mut Step<'_, '_>, x: ValueId, value: ValueId, axis: i64) -> Result<ValueId> {
    let shape = step.dims(value)?;
    let one = shape.iter().all(|dim| dim.known() == Some(1));
    if one {
        let scalar = step.vector(&[])?;
        return step.add(Op::Reshape, &[value, scalar]);
    }
    if shape.len() != 1 {
        return Err(Error::unsupported("scales over more than one axis"));
    }
    let rank = step.rank(x)?;
    let axis = step.axis(axis, rank)?;
    let mut target = vec![1; rank - axis];
    if let Some(first) = target.first_mut() {
        *first = -1;
    }
    let target = step.vector(&target)?;
    step.add(Op::Reshape, &[value, target])
}

/// `round(x / scale) + zero`, inside the bounds of the type, as floats.
fn rounded(
    step: &mut Step<'_, '_>,
    x: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
    (low, high): (f64, f64),
) -> Result<ValueId> {
    let mut q = step.binary(F::Div, x, scale)?;
    q = step.add(Op::Unary(Unary::Round), &[q])?;
    if let Some(zero) = zero {
        q = step.binary(F::Add, q, zero)?;
    }
    let (low, high) = (step.number(DType::F32, low)?, step.number(DType::F32, high)?);
    q = step.binary(F::Maximum, q, low)?;
    step.binary(F::Minimum, q, high)
}

fn quantize_linear(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(2, 3)?;
    let (x, scale, zero) = (step.tensor(0)?, step.tensor(1)?, step.optional(2)?);
    let dtype = match zero {
        Some(zero) => step.dtype(zero)?,
        None => DType::U8,
    };
    let axis = options(step, dtype)?;
    if step.opset >= 19 {
        // It speaks of 8-bit floats.
        step.attrs.int("saturate")?;
    }
    if step.opset >= 23 && step.attrs.int_or("precision", 0)? > 1 {
        return Err(Error::unsupported("precision: another than that of float32"));
    }
    let limits = bounds(dtype)?;
    let scale = step.cast(scale, DType::F32)?;
    let scale = beside(step, x, scale, axis)?;
    let zero = match zero {
        None => None,
        Some(zero) => {
            let zero = step.cast(zero, DType::F32)?;
            Some(beside(step, x, zero, axis)?)
        }
    };
    let x = step.cast(x, DType::F32)?;
    let q = rounded(step, x, scale, zero, limits)?;
    Ok(vec![Some(Val::Tensor(step.cast(q, dtype)?))])
}

fn dequantize_linear(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(2, 3)?;
    let (x, scale, zero) = (step.tensor(0)?, step.tensor(1)?, step.optional(2)?);
    let dtype = step.dtype(scale)?;
    let axis = options(step, dtype)?;
    let mut q = step.cast(x, DType::I32)?;
    if let Some(zero) = zero {
        let zero = step.cast(zero, DType::I32)?;
        let zero = beside(step, x, zero, axis)?;
        q = step.binary(F::Sub, q, zero)?;
    }
    let scale = beside(step, x, scale, axis)?;
    let q = step.cast(q, dtype)?;
    Ok(vec![Some(Val::Tensor(step.binary(F::Mul, q, scale)?))])
}

/// A tensor that was quantized to u8 with one scale for all of it; `q` and `zero` are floats.
pub struct Dynamic {
    pub q: ValueId,
    pub scale: ValueId,
    pub zero: ValueId,
}

/// `lo = min(x, 0)`, `hi = max(x, 0)`, `scale = (hi − lo)/255`, `zero = round(−lo/scale)`.
pub fn dynamic(step: &mut Step<'_, '_>, x: ValueId) -> Result<Dynamic> {
    let limits = bounds(DType::U8)?;
    let axes: Vec<i64> = (0..step.rank(x)? as i64).collect();
    let axes = step.vector(&axes)?;
    let zero = step.number(DType::F32, 0.0)?;
    let mut ends = Vec::with_capacity(2);
    for (function, with) in
        [(ReduceFunction::Minimum, F::Minimum), (ReduceFunction::Maximum, F::Maximum)]
    {
        let end = step.add(Op::Reduce(Reduce { function, keep_dims: false }), &[x, axes])?;
        ends.push(step.binary(with, end, zero)?);
    }
    let [low, high] = *ends.as_slice() else {
        return Err(Error::internal("two ends were computed"));
    };
    let span = step.binary(F::Sub, high, low)?;
    let steps = step.number(DType::F32, limits.1)?;
    let scale = step.binary(F::Div, span, steps)?;
    // Zeros alone have no scale: ONNX Runtime takes 1.
    let (is_zero, one) = (step.binary(F::Equal, scale, zero)?, step.number(DType::F32, 1.0)?);
    let scale = step.add(Op::Select, &[is_zero, one, scale])?;
    let lowest = step.add(Op::Unary(Unary::Neg), &[low])?;
    let zero = rounded(step, lowest, scale, None, limits)?;
    let q = rounded(step, x, scale, Some(zero), limits)?;
    Ok(Dynamic { q, scale, zero })
}

/// An integer operand less its zero point, as i32. `column`: a zero point for each row.
fn centered(step: &mut Step<'_, '_>, slot: usize, zero: usize, column: bool) -> Result<ValueId> {
    let x = step.tensor(slot)?;
    let x = step.cast(x, DType::I32)?;
    let Some(zero) = step.optional(zero)? else { return Ok(x) };
    let mut zero = step.cast(zero, DType::I32)?;
    if column && step.rank(zero)? == 1 {
        let last = step.scalar(-1);
        zero = step.add(Op::ExpandDims, &[zero, last])?;
    }
    step.binary(F::Sub, x, zero)
}

fn mat_mul_integer(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(2, 4)?;
    let a = centered(step, 0, 2, true)?;
    let b = centered(step, 1, 3, false)?;
    let op = MatMul { transpose_a: false, transpose_b: false, asymmetric_inputs: false };
    step.one(Op::MatMul(op), &[a, b])
}

fn conv_integer(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(2, 4)?;
    let x = centered(step, 0, 2, false)?;
    let mut w = step.tensor(1)?;
    let dims = step.dims(w)?;
    // Sums of products of bytes are integers that f64 holds exactly.
    let x = step.cast(x, DType::F64)?;
    w = step.cast(w, DType::I32)?;
    if let Some(zero) = step.optional(3)? {
        let zero = step.cast(zero, DType::I32)?;
        let zero = beside(step, w, zero, 0)?;
        w = step.binary(F::Sub, w, zero)?;
    }
    let w = step.cast(w, DType::F64)?;
    let mut outputs = windows::convolution(step, x, w, &dims, None)?;
    for output in &mut outputs {
        if let Some(Val::Tensor(id)) = output {
            *id = step.cast(*id, DType::I32)?;
        }
    }
    Ok(outputs)
}
