//! Parts of a tensor: slices and gathered entries.

use super::movement::{Entry, one};
use super::open;
use super::step::{Outputs, Step};
use crate::error::{Error, Result};
use crate::graph::op::{BinaryFunction as F, Gather, Squeeze, StridedSlice};
use crate::graph::{Dim, Op, ValueId};
use crate::tensor::{DType, Tensor};

pub fn slice(step: &mut Step<'_, '_>) -> Result<Outputs> {
    const AS_INPUTS: i64 = 10;
    let x = step.tensor(0)?;
    let rank = step.rank(x)?;
    let (starts, ends, axes, steps);
    if step.opset < AS_INPUTS {
        step.expect_inputs(1, 1)?;
        let list = |name: &str| {
            let list = step.attrs.ints(name)?;
            list.ok_or_else(|| Error::malformed(format!("attribute '{name}' is missing")))
        };
        let (first, last) = (list("starts")?, list("ends")?);
        axes = step.attrs.ints("axes")?;
        (starts, ends) = (step.vector(&first)?, step.vector(&last)?);
        steps = None;
    } else {
        step.expect_inputs(3, 5)?;
        (starts, ends) = (step.tensor(1)?, step.tensor(2)?);
        if let Some(open) = open::slice(step, [x, starts, ends])? {
            return Ok(open);
        }
        axes = step.optional_integers(3, "axes")?;
        steps = step.optional_integers(4, "steps")?;
    }
    let count = step.dims(starts)?;
    let [Dim::Known(count)] = count.as_slice() else {
        return Err(Error::unsupported("starts: the number of entries is not known"));
    };
    let axes = axes.unwrap_or_else(|| (0..*count as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; *count]);
    if axes.len() != *count || steps.len() != *count {
        return Err(Error::malformed(format!(
            "expected {count} axes and steps as starts has, found {axes:?} and {steps:?}"
        )));
    }
    let mut places = vec![None; rank];
    for (entry, &axis) in axes.iter().enumerate() {
        let axis = step.axis(axis, rank)?;
        match places.get_mut(axis) {
            Some(place @ None) => *place = Some(entry),
            _ => return Err(Error::malformed(format!("axes: axis {axis} stands there twice"))),
        }
    }
    let (known_starts, known_ends) = (step.builder.integers(starts)?, step.builder.integers(ends)?);
    let at = |list: &Option<Vec<i64>>, entry: usize| list.as_ref()?.get(entry).copied();
    // Exporters write the largest i32 or i64 for the end of an axis.
    const END: i64 = i32::MAX as i64;
    let (mut begin_mask, mut end_mask) = (0u32, 0u32);
    let mut strides = vec![1; rank];
    for (axis, place) in places.iter().enumerate() {
        let bit = 1u32.checked_shl(axis as u32).unwrap_or(0);
        match place {
            None => (begin_mask, end_mask) = (begin_mask | bit, end_mask | bit),
            Some(entry) => {
                let stride = steps.get(*entry).copied().unwrap_or(1);
                if stride == 0 {
                    return Err(Error::malformed("steps: expected other numbers than 0"));
                }
                if let Some(slot) = strides.get_mut(axis) {
                    *slot = stride;
                }
                if stride > 0 && at(&known_starts, *entry) == Some(0) {
                    begin_mask |= bit;
                }
                if stride > 0 && at(&known_ends, *entry).is_some_and(|end| end >= END) {
                    end_mask |= bit;
                }
            }
        }
    }
    let begin = spread(step, starts, &places)?;
    let end = spread(step, ends, &places)?;
    let whole = u32::MAX.checked_shr(32u32.saturating_sub(rank as u32)).unwrap_or(0);
    if begin_mask == whole && end_mask == whole && strides.iter().all(|&stride| stride == 1) {
        return one(x);
    }
    let strides = step.vector(&strides)?;
    let options = StridedSlice { begin_mask, end_mask, ..StridedSlice::default() };
    step.one(Op::StridedSlice(options), &[x, begin, end, strides])
}

/// The entries of a list at the places of their axes, 0 elsewhere.
fn spread(step: &mut Step<'_, '_>, list: ValueId, places: &[Option<usize>]) -> Result<ValueId> {
    if let Some(known) = step.builder.integers(list)? {
        let entries: Vec<i64> = places
            .iter()
            .map(|place| place.and_then(|entry| known.get(entry).copied()).unwrap_or(0))
            .collect();
        return step.vector(&entries);
    }
    let list = step.cast(list, DType::I64)?;
    if places.iter().copied().eq((0..places.len()).map(Some)) {
        return Ok(list);
    }
    let mut entries = Vec::with_capacity(places.len());
    for place in places {
        entries.push(match place {
            None => Entry::Number(0),
            Some(entry) => Entry::Value(step.slice(list, 0, *entry as i64, *entry as i64 + 1)?),
        });
    }
    step.joined(&entries)
}

pub fn gather(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(2, 2)?;
    let (x, mut indices) = (step.tensor(0)?, step.tensor(1)?);
    let axis = step.attrs.int_or("axis", 0)?;
    let known = step.builder.integers(indices)?;
    let negative = known.as_ref().is_some_and(|known| known.iter().any(|&index| index < 0));
    if let Some(known) = known.filter(|_| negative) {
        let dims = step.dims(x)?;
        let place = step.axis(axis, dims.len())?;
        match (dims.get(place), known.as_slice(), step.rank(indices)?) {
            (Some(Dim::Known(size)), _, _) => {
                let shape = step.builder.constant(indices).map(|t| t.shape().to_vec());
                let size = *size as i64;
                let wrapped =
                    known.iter().map(|&k| if k < 0 { k + size } else { k }).collect::<Vec<_>>();
                indices = step.constant(Tensor::from_vec(&shape.unwrap_or_default(), wrapped)?);
            }
            // One entry from the end of an axis of open size.
            (_, [index], 0) => return last_entry(step, x, place, *index),
            _ => {
                let shape = step.shape_of(x)?;
                let size = step.slice(shape, 0, place as i64, place as i64 + 1)?;
                let wide = step.cast(indices, DType::I64)?;
                let zero = step.scalar(0);
                let negative = step.binary(F::Less, wide, zero)?;
                let wrapped = step.binary(F::Add, wide, size)?;
                indices = step.add(Op::Select, &[negative, wrapped, wide])?;
            }
        }
    }
    step.one(Op::Gather(Gather { axis, batch_dims: 0 }), &[x, indices])
}

/// `x[.., index, ..]` with an index that counts from the end.
fn last_entry(step: &mut Step<'_, '_>, x: ValueId, axis: usize, index: i64) -> Result<Outputs> {
    let end = if index == -1 { i64::MAX } else { index + 1 };
    let entry = step.slice(x, axis, index, end)?;
    step.one(Op::Squeeze(Squeeze { axes: vec![axis as i64] }), &[entry])
}
