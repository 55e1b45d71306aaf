//! Products, convolutions, pools and normalizations.

use super::lower::Val;
use super::movement::one;
use super::reduce::{normalized, refuse_training};
use super::step::{Outputs, Step};
use super::windows;
use crate::error::{Error, Result};
use crate::formats::einsum::{self, Sink};
use crate::graph::op::{BinaryFunction as F, MatMul, Reduce, ReduceFunction, Squeeze, Unary};
use crate::graph::{Op, ValueId, ValueType};
use crate::tensor::{DType, Tensor};

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Outputs>> {
    Ok(Some(match step.node.op_type.as_str() {
        "MatMul" => mat_mul(step)?,
        "Gemm" => gemm(step)?,
        "Einsum" => einsum(step)?,
        "Conv" => windows::conv(step)?,
        "MaxPool" => windows::max_pool(step)?,
        "AveragePool" => windows::average_pool(step)?,
        "GlobalAveragePool" => global_pool(step, ReduceFunction::Mean)?,
        "GlobalMaxPool" => global_pool(step, ReduceFunction::Maximum)?,
        "BatchNormalization" => batch_normalization(step)?,
        "LayerNormalization" => layer_normalization(step)?,
        "InstanceNormalization" => instance_normalization(step)?,
        _ => return Ok(None),
    }))
}

/// Where an einsum puts its nodes.
struct Nodes<'n, 's, 'a>(&'n mut Step<'s, 'a>);

impl Sink for Nodes<'_, '_, '_> {
    fn ty(&self, id: ValueId) -> Result<ValueType> {
        self.0.builder.ty(id).cloned()
    }

    fn add(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        self.0.add(op, inputs)
    }

    fn vector(&mut self, values: &[i32]) -> Result<ValueId> {
        let values = Tensor::from_slice(&[values.len()], values)?;
        Ok(self.0.constant(values))
    }
}

fn einsum(step: &mut Step<'_, '_>) -> Result<Outputs> {
    let equation = step.attrs.string("equation")?;
    let equation = equation.ok_or_else(|| Error::malformed("attribute 'equation' is missing"))?;
    let operands = step.tensors()?;
    one(einsum::lower(&mut Nodes(step), equation, &operands)?)
}

fn product(transpose_a: bool, transpose_b: bool) -> Op {
    Op::MatMul(MatMul { transpose_a, transpose_b, asymmetric_inputs: false })
}

/// As NumPy: a vector is a row on the left, a column on the right, and goes from the result.
fn mat_mul(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(2, 2)?;
    let (mut a, mut b) = (step.tensor(0)?, step.tensor(1)?);
    let (row, column) = (step.rank(a)? == 1, step.rank(b)? == 1);
    let mut axes = Vec::new();
    if row {
        let axis = step.scalar(0);
        a = step.add(Op::ExpandDims, &[a, axis])?;
        axes.push(-2);
    }
    if column {
        let axis = step.scalar(1);
        b = step.add(Op::ExpandDims, &[b, axis])?;
        axes.push(-1);
    }
    let result = step.add(product(false, false), &[a, b])?;
    if axes.is_empty() {
        return one(result);
    }
    step.one(Op::Squeeze(Squeeze { axes }), &[result])
}

/// `alpha · A' B' + beta · C`.
fn gemm(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(2, 3)?;
    const BROADCASTS: i64 = 7;
    if step.opset < BROADCASTS {
        step.attrs.flag("broadcast", false)?;
    }
    let (a, b) = (step.tensor(0)?, step.tensor(1)?);
    let (alpha, beta) = (step.attrs.float_or("alpha", 1.0)?, step.attrs.float_or("beta", 1.0)?);
    let transpose_a = step.attrs.int_or("transA", 0)? != 0;
    let transpose_b = step.attrs.int_or("transB", 0)? != 0;
    for (name, id) in [("A", a), ("B", b)] {
        if step.rank(id)? != 2 {
            return Err(Error::malformed(format!("{name}: expected a matrix")));
        }
    }
    let mut result = step.add(product(transpose_a, transpose_b), &[a, b])?;
    let dtype = step.dtype(result)?;
    if alpha != 1.0 {
        let alpha = step.number(dtype, f64::from(alpha))?;
        result = step.binary(F::Mul, result, alpha)?;
    }
    if let Some(mut c) = step.optional(2)?.filter(|_| beta != 0.0) {
        if beta != 1.0 {
            let beta = step.number(dtype, f64::from(beta))?;
            c = step.binary(F::Mul, c, beta)?;
        }
        result = step.binary(F::Add, result, c)?;
    }
    one(result)
}

fn global_pool(step: &mut Step<'_, '_>, function: ReduceFunction) -> Result<Outputs> {
    step.expect_inputs(1, 1)?;
    let x = step.tensor(0)?;
    let axes: Vec<i64> = (2..step.rank(x)? as i64).collect();
    let axes = step.vector(&axes)?;
    step.one(Op::Reduce(Reduce { function, keep_dims: true }), &[x, axes])
}

/// A vector over axis 1, with axes of size 1 behind it.
fn over_channels(step: &mut Step<'_, '_>, vector: ValueId, rank: usize) -> Result<ValueId> {
    let mut shape = vec![1; rank.saturating_sub(1)];
    if let Some(first) = shape.first_mut() {
        *first = -1;
    }
    let shape = step.vector(&shape)?;
    step.add(Op::Reshape, &[vector, shape])
}

/// `(x − mean) / sqrt(var + epsilon) · scale + b`, with statistics of the training.
fn batch_normalization(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(5, 5)?;
    let x = step.tensor(0)?;
    let dtype = step.dtype(x)?;
    let epsilon = step.attrs.float_or("epsilon", 1e-5)?;
    step.attrs.float("momentum")?;
    if step.opset < 6 {
        step.attrs.ints("consumed_inputs")?;
    }
    if step.opset < 7 {
        refuse_training(!step.attrs.flag("is_test", false)?)?;
    }
    if step.opset < 9 && !step.attrs.flag("spatial", true)? {
        return Err(Error::unsupported("spatial: statistics of each position"));
    }
    if step.opset >= 14 {
        refuse_training(step.attrs.flag("training_mode", false)?)?;
    }
    if (1..5).any(|slot| step.wants(slot)) {
        return Err(Error::unsupported("statistics of the batch as results"));
    }
    let mut statistics = Vec::with_capacity(4);
    for slot in 1..5 {
        let value = step.tensor(slot)?;
        statistics.push(step.cast(value, DType::F32)?);
    }
    let [scale, offset, mean, variance] = *statistics.as_slice() else {
        return Err(Error::internal("four statistics were read"));
    };
    let epsilon = step.number(DType::F32, f64::from(epsilon))?;
    let sum = step.binary(F::Add, variance, epsilon)?;
    let deviation = step.add(Op::Unary(Unary::Sqrt), &[sum])?;
    let factor = step.binary(F::Div, scale, deviation)?;
    let moved = step.binary(F::Mul, mean, factor)?;
    let shift = step.binary(F::Sub, offset, moved)?;
    let rank = step.rank(x)?;
    let (factor, shift) = (over_channels(step, factor, rank)?, over_channels(step, shift, rank)?);
    let x = step.cast(x, DType::F32)?;
    let scaled = step.binary(F::Mul, x, factor)?;
    let result = step.binary(F::Add, scaled, shift)?;
    one(step.cast(result, dtype)?)
}

/// Over all axes from `axis` on; computed in f32, as `stash_type` 1 says.
fn layer_normalization(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(2, 3)?;
    let (x, scale, offset) = (step.tensor(0)?, step.tensor(1)?, step.optional(2)?);
    let dtype = step.dtype(x)?;
    let axis = step.attrs.int_or("axis", -1)?;
    let epsilon = step.attrs.float_or("epsilon", 1e-5)?;
    let rank = step.rank(x)?;
    let axis = step.axis(axis, rank)?;
    let stash = match step.attrs.int_or("stash_type", 1)? {
        1 => DType::F32,
        11 => DType::F64,
        10 => DType::F16,
        other => return Err(Error::unsupported(format!("stash_type {other}"))),
    };
    let wide = step.cast(x, stash)?;
    let axes: Vec<i64> = (axis as i64..rank as i64).collect();
    let [mut result, mean, deviation] = normalized(step, wide, &axes, epsilon)?;
    result = step.cast(result, dtype)?;
    result = step.binary(F::Mul, result, scale)?;
    if let Some(offset) = offset {
        result = step.binary(F::Add, result, offset)?;
    }
    let mut outputs = vec![Some(Val::Tensor(result))];
    if step.wants(1) || step.wants(2) {
        let unit = step.number(stash, 1.0)?;
        let inverse = step.binary(F::Div, unit, deviation)?;
        outputs.push(Some(Val::Tensor(mean)));
        outputs.push(Some(Val::Tensor(inverse)));
    }
    Ok(outputs)
}

fn instance_normalization(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(3, 3)?;
    if step.opset < 6 {
        step.attrs.ints("consumed_inputs")?;
    }
    let (x, scale, offset) = (step.tensor(0)?, step.tensor(1)?, step.tensor(2)?);
    let epsilon = step.attrs.float_or("epsilon", 1e-5)?;
    let (dtype, rank) = (step.dtype(x)?, step.rank(x)?);
    let x = step.cast(x, DType::F32)?;
    let axes: Vec<i64> = (2..rank as i64).collect();
    let [result, ..] = normalized(step, x, &axes, epsilon)?;
    let (scale, offset) = (step.cast(scale, DType::F32)?, step.cast(offset, DType::F32)?);
    let (scale, offset) = (over_channels(step, scale, rank)?, over_channels(step, offset, rank)?);
    let scaled = step.binary(F::Mul, result, scale)?;
    let result = step.binary(F::Add, scaled, offset)?;
    one(step.cast(result, dtype)?)
}
