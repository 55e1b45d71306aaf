//! Operands that are nearly always constant, where they are not: as ops on their values.

use super::lower::Val;
use super::step::{Outputs, Step};
use crate::error::{Error, Result};
use crate::graph::op::{
    BinaryFunction as F, Gather, MatMul, Pack, Reduce, ReduceFunction, StridedSlice,
};
use crate::graph::{Dim, Op, ValueId};
use crate::tensor::{DType, Tensor};

/// Number of entries of a list.
fn count(step: &Step<'_, '_>, list: ValueId, name: &str) -> Result<usize> {
    match step.dims(list)?.as_slice() {
        [] => Ok(1),
        [Dim::Known(count)] => Ok(*count),
        _ => Err(Error::unsupported(format!("{name}: an open number of entries"))),
    }
}

/// A target shape, its zeros replaced by the sizes of x.
pub fn without_zeros(step: &mut Step<'_, '_>, x: ValueId, target: ValueId) -> Result<ValueId> {
    let target = step.cast(target, DType::I64)?;
    let (length, rank) = (count(step, target, "shape")?, step.rank(x)?);
    let mut own = step.shape_of(x)?;
    if rank < length {
        let rest = step.vector(&vec![0; length - rank])?;
        own = step.concat(0, &[own, rest])?;
    } else if rank > length {
        own = step.slice(own, 0, 0, length as i64)?;
    }
    let zero = step.scalar(0);
    let is_zero = step.binary(F::Equal, target, zero)?;
    step.add(Op::Select, &[is_zero, own, target])
}

/// For each of `rank` axes, 1 where it is in the list and 0 where not: f32 `[rank]`.
fn marks(step: &mut Step<'_, '_>, axes: ValueId, rank: usize) -> Result<ValueId> {
    let axes = step.cast(axes, DType::I64)?;
    let (zero, size) = (step.scalar(0), step.scalar(rank as i64));
    let negative = step.binary(F::Less, axes, zero)?;
    let wrapped = step.binary(F::Add, axes, size)?;
    let axes = step.add(Op::Select, &[negative, wrapped, axes])?;
    let column = step.vector(&[-1, 1])?;
    let axes = step.add(Op::Reshape, &[axes, column])?;
    let all: Vec<i64> = (0..rank as i64).collect();
    let all = step.vector(&all)?;
    let equal = step.binary(F::Equal, axes, all)?;
    let equal = step.cast(equal, DType::F32)?;
    let first = step.vector(&[0])?;
    let sum = Reduce { function: ReduceFunction::Sum, keep_dims: false };
    step.add(Op::Reduce(sum), &[equal, first])
}

/// How many of the marks up to each place are set, less one: `[rank]`.
fn places(step: &mut Step<'_, '_>, marks: ValueId, rank: usize) -> Result<ValueId> {
    let entries: Vec<f32> =
        (0..rank * rank).map(|k| f32::from(u8::from(k / rank <= k % rank))).collect();
    let triangle = step.constant(Tensor::from_vec(&[rank, rank], entries)?);
    let row = step.vector(&[1, -1])?;
    let row = step.add(Op::Reshape, &[marks, row])?;
    let product = MatMul { transpose_a: false, transpose_b: false, asymmetric_inputs: false };
    let sums = step.add(Op::MatMul(product), &[row, triangle])?;
    let list = step.vector(&[rank as i64])?;
    let sums = step.add(Op::Reshape, &[sums, list])?;
    let one = step.number(DType::F32, 1.0)?;
    step.binary(F::Sub, sums, one)
}

fn complement(step: &mut Step<'_, '_>, marks: ValueId) -> Result<ValueId> {
    let one = step.number(DType::F32, 1.0)?;
    step.binary(F::Sub, one, marks)
}

/// The shape of x with axes of size 1 at these positions of the result.
pub fn unsqueezed(step: &mut Step<'_, '_>, x: ValueId, axes: ValueId) -> Result<ValueId> {
    let rank = step.rank(x)? + count(step, axes, "axes")?;
    let new = marks(step, axes, rank)?;
    let old = complement(step, new)?;
    let places = places(step, old, rank)?;
    let zero = step.number(DType::F32, 0.0)?;
    let places = step.binary(F::Maximum, places, zero)?;
    let places = step.cast(places, DType::I64)?;
    // A scalar has no size to take.
    let one = step.vector(&[1])?;
    let mut shape = step.shape_of(x)?;
    shape = step.concat(0, &[shape, one])?;
    let sizes = step.add(Op::Gather(Gather { axis: 0, batch_dims: 0 }), &[shape, places])?;
    let half = step.number(DType::F32, 0.5)?;
    let is_new = step.binary(F::Greater, new, half)?;
    step.add(Op::Select, &[is_new, one, sizes])
}

/// The shape of x without these axes, which must be of size 1.
pub fn squeezed(step: &mut Step<'_, '_>, x: ValueId, axes: ValueId) -> Result<ValueId> {
    let rank = step.rank(x)?;
    let left = rank
        .checked_sub(count(step, axes, "axes")?)
        .ok_or_else(|| Error::malformed("axes: more than x has"))?;
    let gone = marks(step, axes, rank)?;
    let kept = complement(step, gone)?;
    let places = places(step, kept, rank)?;
    let places = step.cast(places, DType::I64)?;
    // [left, rank]: whether the axis is kept as this one of the result.
    let rows: Vec<i64> = (0..left as i64).collect();
    let rows = step.constant(Tensor::from_vec(&[left, 1], rows)?);
    let here = step.binary(F::Equal, places, rows)?;
    let half = step.number(DType::F32, 0.5)?;
    let kept = step.binary(F::Greater, kept, half)?;
    let here = step.binary(F::And, here, kept)?;
    let shape = step.shape_of(x)?;
    let zero = step.scalar(0);
    let sizes = step.add(Op::Select, &[here, shape, zero])?;
    let last = step.vector(&[1])?;
    let sum = Reduce { function: ReduceFunction::Sum, keep_dims: false };
    step.add(Op::Reduce(sum), &[sizes, last])
}

/// A slice whose axes or steps are no constants; `None` when they are.
pub fn slice(step: &mut Step<'_, '_>, [x, starts, ends]: [ValueId; 3]) -> Result<Option<Outputs>> {
    let is_open = |slot: usize| -> Result<bool> {
        let Some(id) = step.optional(slot)? else { return Ok(false) };
        Ok(step.builder.integers(id)?.is_none())
    };
    if !is_open(3)? && !is_open(4)? {
        return Ok(None);
    }
    let rank = step.rank(x)?;
    let entries = count(step, starts, "starts")?;
    let axes = match step.optional(3)? {
        Some(axes) => step.cast(axes, DType::I64)?,
        None => {
            let all: Vec<i64> = (0..entries as i64).collect();
            step.vector(&all)?
        }
    };
    let steps = match step.optional(4)? {
        Some(steps) => steps,
        None => step.vector(&vec![1; entries])?,
    };
    let mut begin = step.vector(&vec![0; rank])?;
    let mut end = step.shape_of(x)?;
    let mut stride = step.vector(&vec![1; rank])?;
    for entry in 0..entries as i64 {
        let axis = step.slice(axes, 0, entry, entry + 1)?;
        let here = marks(step, axis, rank)?;
        let half = step.number(DType::F32, 0.5)?;
        let here = step.binary(F::Greater, here, half)?;
        for (list, from) in [(&mut begin, starts), (&mut end, ends), (&mut stride, steps)] {
            let from = step.cast(from, DType::I64)?;
            let value = step.slice(from, 0, entry, entry + 1)?;
            *list = step.add(Op::Select, &[here, value, *list])?;
        }
    }
    let op = Op::StridedSlice(StridedSlice::default());
    step.one(op, &[x, begin, end, stride]).map(Some)
}

/// Constant padding whose amounts are no constants; `None` when they are.
pub fn pad(step: &mut Step<'_, '_>, x: ValueId) -> Result<Option<Outputs>> {
    let pads = step.tensor(1)?;
    if step.builder.integers(pads)?.is_some() {
        return Ok(None);
    }
    let dtype = step.dtype(x)?;
    let value = match step.optional(2)? {
        Some(value) => {
            let scalar = step.vector(&[])?;
            step.add(Op::Reshape, &[value, scalar])?
        }
        None => step.number(dtype, 0.0)?,
    };
    let rank = step.rank(x)?;
    let axes = match step.optional(3)? {
        Some(axes) => axes,
        None => {
            let all: Vec<i64> = (0..rank as i64).collect();
            step.vector(&all)?
        }
    };
    let entries = count(step, axes, "axes")? as i64;
    let pads = step.cast(pads, DType::I64)?;
    let mut sides = Vec::with_capacity(2);
    for first in [0, entries] {
        let mut side = step.vector(&vec![0; rank])?;
        for entry in 0..entries {
            let axis = step.slice(axes, 0, entry, entry + 1)?;
            let here = marks(step, axis, rank)?;
            let half = step.number(DType::F32, 0.5)?;
            let here = step.binary(F::Greater, here, half)?;
            let amount = step.slice(pads, 0, first + entry, first + entry + 1)?;
            side = step.add(Op::Select, &[here, amount, side])?;
        }
        sides.push(side);
    }
    let pairs = step.add(Op::Pack(Pack { axis: 1 }), &sides)?;
    let result = step.add(Op::Pad, &[x, pairs, value])?;
    Ok(Some(vec![Some(Val::Tensor(result))]))
}
