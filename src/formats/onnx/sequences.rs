//! Sequences of tensors of one shape, as tensors `[n, item…]`.

use super::lower::Val;
use super::movement::one;
use super::step::{Outputs, Step};
use super::tensor;
use crate::error::{Error, Result};
use crate::graph::op::{Gather, Pack, Squeeze};
use crate::graph::{Dim, Op, ValueId};
use crate::tensor::DType;

/// A sequence.
#[derive(Clone, Debug)]
pub enum List {
    /// Nothing yet.
    Empty(DType),
    /// `[n, item…]`.
    Tensor(ValueId),
    /// The list of a loop at the beginning of an iteration, by its place among the loop's
    /// variables.
    Growing(usize),
    /// The same with one more item at its end.
    Grown(usize, ValueId),
}

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Outputs>> {
    Ok(Some(match step.node.op_type.as_str() {
        "SequenceEmpty" => {
            step.expect_inputs(0, 0)?;
            let dtype = step.attrs.int_or("dtype", 1)?;
            let dtype = tensor::dtype(i32::try_from(dtype).unwrap_or(-1))?;
            list(List::Empty(dtype))
        }
        "SequenceConstruct" => {
            let items = step.tensors()?;
            list(List::Tensor(pack(step, &items)?))
        }
        "SequenceInsert" => insert(step)?,
        "SequenceAt" => at(step)?,
        "SequenceLength" => {
            step.expect_inputs(1, 1)?;
            length(step)?
        }
        "SplitToSequence" => split(step)?,
        "ConcatFromSequence" => concat(step)?,
        _ => return Ok(None),
    }))
}

fn list(list: List) -> Outputs {
    vec![Some(Val::List(list))]
}

fn operand(step: &Step<'_, '_>, slot: usize) -> Result<List> {
    match step.inputs.get(slot) {
        Some(Some(Val::List(list))) => Ok(list.clone()),
        _ => Err(Error::malformed(format!("input {slot} is no sequence"))),
    }
}

/// Tensors of one shape on a new first axis.
fn pack(step: &mut Step<'_, '_>, items: &[ValueId]) -> Result<ValueId> {
    step.add(Op::Pack(Pack { axis: 0 }), items)
}

/// The tensor behind a list that can be read.
fn items(step: &Step<'_, '_>, slot: usize) -> Result<ValueId> {
    match operand(step, slot)? {
        List::Tensor(items) => Ok(items),
        List::Empty(_) => Err(Error::unsupported("an empty sequence is read")),
        List::Growing(_) | List::Grown(..) => {
            Err(Error::unsupported("a sequence is read in the loop that appends to it"))
        }
    }
}

fn insert(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(2, 3)?;
    let item = step.tensor(1)?;
    if step.optional(2)?.is_some() {
        return Err(Error::unsupported("an item that is inserted elsewhere than at the end"));
    }
    Ok(list(match operand(step, 0)? {
        List::Empty(dtype) => {
            let found = step.dtype(item)?;
            if found != dtype {
                return Err(Error::malformed(format!("item: expected {dtype}, found {found}")));
            }
            List::Tensor(pack(step, &[item])?)
        }
        List::Tensor(before) => {
            let item = pack(step, &[item])?;
            List::Tensor(step.concat(0, &[before, item])?)
        }
        List::Growing(place) => List::Grown(place, item),
        List::Grown(..) => return Err(Error::unsupported("two items in one iteration of a loop")),
    }))
}

fn at(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(2, 2)?;
    let items = items(step, 0)?;
    let position = step.tensor(1)?;
    if let Some(&[index]) = step.builder.integers(position)?.as_deref()
        && index < 0
    {
        let end = if index == -1 { i64::MAX } else { index + 1 };
        let entry = step.slice(items, 0, index, end)?;
        return step.one(Op::Squeeze(Squeeze { axes: vec![0] }), &[entry]);
    }
    step.one(Op::Gather(Gather { axis: 0, batch_dims: 0 }), &[items, position])
}

fn length(step: &mut Step<'_, '_>) -> Result<Outputs> {
    if matches!(operand(step, 0)?, List::Empty(_)) {
        return one(step.scalar(0));
    }
    let items = items(step, 0)?;
    let shape = step.shape_of(items)?;
    let index = step.scalar(0);
    step.one(Op::Gather(Gather { axis: 0, batch_dims: 0 }), &[shape, index])
}

/// Entries of an axis.
fn split(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(1, 2)?;
    let x = step.tensor(0)?;
    let axis = step.attrs.int_or("axis", 0)?;
    let keep_dims = step.attrs.flag("keepdims", true)?;
    let sizes = step.optional_integers(1, "split")?;
    if sizes.as_ref().is_some_and(|sizes| sizes.iter().any(|&size| size != 1)) {
        return Err(Error::unsupported("split: parts of more than one entry"));
    }
    let rank = step.rank(x)?;
    let axis = step.axis(axis, rank)?;
    let mut order: Vec<usize> = (0..rank).filter(|&other| other != axis).collect();
    order.insert(0, axis);
    let mut items = step.transpose(x, &order)?;
    // Sizes of one number are for every part; a list of sizes keeps the axis.
    let listed = match step.optional(1)? {
        Some(sizes) => step.rank(sizes)? > 0,
        None => false,
    };
    if keep_dims || listed {
        let axis = step.scalar(axis as i64 + 1);
        items = step.add(Op::ExpandDims, &[items, axis])?;
    }
    Ok(list(List::Tensor(items)))
}

fn concat(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(1, 1)?;
    let items = items(step, 0)?;
    let axis = step.attrs.int("axis")?;
    let axis = axis.ok_or_else(|| Error::malformed("attribute 'axis' is missing"))?;
    let new_axis = step.attrs.flag("new_axis", false)?;
    let rank = step.rank(items)?;
    let axis = step.axis(axis, if new_axis { rank } else { rank.saturating_sub(1) })?;
    one(if new_axis { moved(step, items, axis)? } else { joined(step, items, axis)? })
}

/// The first axis at another place.
pub fn moved(step: &mut Step<'_, '_>, items: ValueId, axis: usize) -> Result<ValueId> {
    let mut order: Vec<usize> = (1..step.rank(items)?).collect();
    order.insert(axis.min(order.len()), 0);
    step.transpose(items, &order)
}

/// `[n, .., a, ..]` to `[.., n·a, ..]`.
pub fn joined(step: &mut Step<'_, '_>, items: ValueId, axis: usize) -> Result<ValueId> {
    let side = moved(step, items, axis)?;
    let dims = step.dims(side)?;
    if dims.get(axis + 1) == Some(&Dim::Known(1)) {
        return step.add(Op::Squeeze(Squeeze { axes: vec![axis as i64 + 1] }), &[side]);
    }
    let shape = step.shape_of(side)?;
    let mut parts = Vec::new();
    if axis > 0 {
        parts.push(step.slice(shape, 0, 0, axis as i64)?);
    }
    parts.push(step.vector(&[-1])?);
    if axis + 2 < dims.len() {
        parts.push(step.slice(shape, 0, axis as i64 + 2, i64::MAX)?);
    }
    let shape = step.concat(0, &parts)?;
    step.add(Op::Reshape, &[side, shape])
}
