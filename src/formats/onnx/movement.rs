//! Ops that arrange, make and repeat elements.

use super::lower::Val;
use super::step::{Outputs, Step};
use super::{Size, open, tensor};
use crate::error::{Error, Result};
use crate::graph::op::{
    BinaryFunction as F, Gather, Reduce, ReduceFunction, ReverseSequence, Squeeze, StridedSlice,
};
use crate::graph::{Dim, Op, ValueId};
use crate::tensor::{DType, Tensor};

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Outputs>> {
    Ok(Some(match step.node.op_type.as_str() {
        "Shape" => shape(step)?,
        "Size" => size(step)?,
        "Reshape" => reshape(step)?,
        "Flatten" => flatten(step)?,
        "Transpose" => transpose(step)?,
        "Squeeze" => squeeze(step)?,
        "Unsqueeze" => unsqueeze(step)?,
        "Concat" => concat(step)?,
        "Split" => split(step)?,
        "Slice" => slice(step)?,
        "Gather" => gather(step)?,
        "Expand" => expand(step)?,
        "Tile" => tile(step)?,
        "Pad" => pad(step)?,
        "ConstantOfShape" => constant_of_shape(step)?,
        "Range" => range(step)?,
        "ReverseSequence" => reverse_sequence(step)?,
        _ => return Ok(None),
    }))
}

fn one(id: ValueId) -> Result<Outputs> {
    Ok(vec![Some(Val::Tensor(id))])
}

fn shape(step: &mut Step<'_, '_>) -> Result<Outputs> {
    const HAS_RANGE: i64 = 15;
    step.expect_inputs(1, 1)?;
    let x = step.tensor(0)?;
    let shape = step.shape_of(x)?;
    let (start, end) = if step.opset < HAS_RANGE {
        (None, None)
    } else {
        (step.attrs.int("start")?, step.attrs.int("end")?)
    };
    if start.is_none() && end.is_none() {
        return one(shape);
    }
    one(step.slice(shape, 0, start.unwrap_or(0), end.unwrap_or(i64::MAX))?)
}

fn size(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(1, 1)?;
    let x = step.tensor(0)?;
    let shape = step.shape_of(x)?;
    let axes = step.vector(&[0])?;
    let product = Reduce { function: ReduceFunction::Product, keep_dims: false };
    step.one(Op::Reduce(product), &[shape, axes])
}

/// One size of a shape that is put together.
enum Entry {
    Number(i64),
    /// A vector of one entry.
    Value(ValueId),
}

impl Step<'_, '_> {
    /// Size of an axis as a vector of one entry, or a number where it is known.
    fn entry(&mut self, x: ValueId, axis: usize) -> Result<Entry> {
        if let Some(Dim::Known(size)) = self.dims(x)?.get(axis) {
            return Ok(Entry::Number(*size as i64));
        }
        let shape = self.shape_of(x)?;
        Ok(Entry::Value(self.slice(shape, 0, axis as i64, axis as i64 + 1)?))
    }

    /// The shape that entries make up.
    fn joined(&mut self, entries: &[Entry]) -> Result<ValueId> {
        let mut parts = Vec::with_capacity(entries.len());
        for entry in entries {
            parts.push(match entry {
                Entry::Number(number) => self.vector(&[*number])?,
                Entry::Value(id) => *id,
            });
        }
        match parts.is_empty() {
            true => self.vector(&[]),
            false => self.concat(0, &parts),
        }
    }
}

/// 0 keeps the size of the axis at its position, unless `allowzero` says that it is a size.
fn reshape(step: &mut Step<'_, '_>) -> Result<Outputs> {
    const SHAPE_AS_INPUT: i64 = 5;
    const ALLOWS_ZERO: i64 = 14;
    let x = step.tensor(0)?;
    let target = if step.opset < SHAPE_AS_INPUT {
        step.attrs.ints("consumed_inputs")?;
        let shape = step.attrs.ints("shape")?;
        let shape = shape.ok_or_else(|| Error::malformed("attribute 'shape' is missing"))?;
        step.vector(&shape)?
    } else {
        step.expect_inputs(2, 2)?;
        step.tensor(1)?
    };
    let allow_zero = step.opset >= ALLOWS_ZERO && step.attrs.flag("allowzero", false)?;
    let Some(sizes) = step.builder.sizes(target) else {
        let target = if allow_zero { target } else { open::without_zeros(step, x, target)? };
        return step.one(Op::Reshape, &[x, target]);
    };
    let copied = |size: &Size| !allow_zero && *size == Size::Known(0);
    if sizes.iter().all(|size| !copied(size) && *size != Size::Known(-1)) {
        return step.one(Op::Reshape, &[x, target]);
    }
    let mut entries = Vec::with_capacity(sizes.len());
    for (axis, size) in sizes.iter().enumerate() {
        entries.push(match size {
            size if copied(size) => {
                if axis >= step.rank(x)? {
                    return Err(Error::malformed(format!(
                        "shape: entry {axis} is 0 and x has only {} axes",
                        step.rank(x)?
                    )));
                }
                step.entry(x, axis)?
            }
            Size::Known(number) => Entry::Number(*number),
            Size::Axis(_) => Entry::Value(step.slice(target, 0, axis as i64, axis as i64 + 1)?),
        });
    }
    if let Some(rest) = remaining(step, x, &sizes, copied) {
        for entry in &mut entries {
            if matches!(entry, Entry::Number(-1)) {
                *entry = Entry::Number(rest);
            }
        }
    }
    // One open size is better left to the op than computed.
    let open = entries.iter().filter(|entry| !matches!(entry, Entry::Number(0..))).count();
    if open == 1 {
        for entry in &mut entries {
            if matches!(entry, Entry::Value(_)) {
                *entry = Entry::Number(-1);
            }
        }
    }
    let target = step.joined(&entries)?;
    let result = step.add(Op::Reshape, &[x, target])?;
    keep_sizes(step, x, result, &sizes, copied)?;
    one(result)
}

/// What −1 stands for, when the sizes that are not copied are known.
fn remaining(
    step: &Step<'_, '_>,
    x: ValueId,
    sizes: &[Size],
    copied: impl Fn(&Size) -> bool,
) -> Option<i64> {
    let mut rest: Vec<Dim> = step.builder.ty(x).ok()?.shape.clone()?;
    let mut others = 1usize;
    for (axis, size) in sizes.iter().enumerate() {
        match *size {
            ref size if copied(size) => *rest.get_mut(axis)? = Dim::Known(1),
            Size::Known(-1) => {}
            Size::Known(number) => others = others.checked_mul(usize::try_from(number).ok()?)?,
            // The same symbol above and below the line.
            Size::Axis(dim) if dim != Dim::Unknown => {
                let position = rest.iter().position(|other| *other == dim)?;
                *rest.get_mut(position)? = Dim::Known(1);
            }
            Size::Axis(_) => return None,
        }
    }
    let product = rest.iter().try_fold(1usize, |product, dim| product.checked_mul(dim.known()?))?;
    let exact = others != 0 && product.is_multiple_of(others);
    exact.then(|| i64::try_from(product / others).ok()).flatten()
}

/// Sizes that are copied keep what is known of them.
fn keep_sizes(
    step: &mut Step<'_, '_>,
    x: ValueId,
    result: ValueId,
    sizes: &[Size],
    copied: impl Fn(&Size) -> bool,
) -> Result<()> {
    let from = step.builder.ty(x)?.shape.clone();
    let Some(value) = step.builder.graph.get_mut(result) else { return Ok(()) };
    let Some(shape) = value.ty.shape.as_mut().filter(|shape| shape.len() == sizes.len()) else {
        return Ok(());
    };
    for (axis, (dim, size)) in shape.iter_mut().zip(sizes).enumerate() {
        let known = match *size {
            ref size if copied(size) => from.as_ref().and_then(|dims| dims.get(axis).copied()),
            Size::Axis(dim) => Some(dim),
            Size::Known(_) => None,
        };
        if let Some(known) = known {
            *dim = dim.refined_by(known);
        }
    }
    Ok(())
}

/// `[d₀·…·d_{axis−1}, d_axis·…]`.
fn flatten(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(1, 1)?;
    let x = step.tensor(0)?;
    let dims = step.dims(x)?;
    let axis = step.attrs.int_or("axis", 1)?;
    let axis = step.border(axis, dims.len())?;
    one(to_matrix(step, x, axis)?)
}

/// x as a matrix, its axes before `axis` in the rows.
pub fn to_matrix(step: &mut Step<'_, '_>, x: ValueId, axis: usize) -> Result<ValueId> {
    let dims = step.dims(x)?;
    let (head, tail) = dims.split_at(axis.min(dims.len()));
    let product = |dims: &[Dim]| {
        dims.iter()
            .try_fold(1usize, |product, dim| product.checked_mul(dim.known()?))
            .and_then(|product| i64::try_from(product).ok())
    };
    let target = match (product(head), product(tail)) {
        (Some(rows), Some(columns)) => step.vector(&[rows, columns])?,
        (None, Some(columns)) if columns > 0 => step.vector(&[-1, columns])?,
        (Some(rows), None) if rows > 0 => step.vector(&[rows, -1])?,
        _ => {
            let shape = step.shape_of(x)?;
            let mut parts = Vec::new();
            for (begin, end) in [(0, axis as i64), (axis as i64, i64::MAX)] {
                let part = step.slice(shape, 0, begin, end)?;
                let axes = step.vector(&[0])?;
                let product = Reduce { function: ReduceFunction::Product, keep_dims: true };
                parts.push(step.add(Op::Reduce(product), &[part, axes])?);
            }
            step.concat(0, &parts)?
        }
    };
    step.add(Op::Reshape, &[x, target])
}

fn transpose(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(1, 1)?;
    let x = step.tensor(0)?;
    let permutation = match step.attrs.ints("perm")? {
        Some(permutation) => permutation,
        None => (0..step.rank(x)? as i64).rev().collect(),
    };
    let permutation = step.vector(&permutation)?;
    step.one(Op::Transpose, &[x, permutation])
}

/// Axes are an operand from here on, in Squeeze, Unsqueeze, Split and ReduceSum.
pub const AXES_AS_INPUT: i64 = 13;

/// Axes that are an operand and no constant.
fn open_axes(step: &Step<'_, '_>) -> Result<Option<ValueId>> {
    if step.opset < AXES_AS_INPUT {
        return Ok(None);
    }
    let Some(axes) = step.optional(1)? else { return Ok(None) };
    Ok(step.builder.integers(axes)?.is_none().then_some(axes))
}

fn squeeze(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(1, 2)?;
    let x = step.tensor(0)?;
    if let Some(axes) = open_axes(step)? {
        let target = open::squeezed(step, x, axes)?;
        return step.one(Op::Reshape, &[x, target]);
    }
    let axes = match step.list("axes", AXES_AS_INPUT, 1)? {
        Some(axes) if axes.is_empty() => return one(x),
        Some(axes) => axes,
        None => Vec::new(),
    };
    step.one(Op::Squeeze(Squeeze { axes }), &[x])
}

fn unsqueeze(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(1, 2)?;
    let x = step.tensor(0)?;
    if let Some(axes) = open_axes(step)? {
        let target = open::unsqueezed(step, x, axes)?;
        return step.one(Op::Reshape, &[x, target]);
    }
    let axes = step.list("axes", AXES_AS_INPUT, 1)?;
    let axes = axes.ok_or_else(|| Error::malformed("'axes' are missing"))?;
    one(insert_axes(step, x, &axes)?)
}

/// x with axes of size 1 at these positions of the result.
fn insert_axes(step: &mut Step<'_, '_>, mut x: ValueId, axes: &[i64]) -> Result<ValueId> {
    if axes.len() > tensor::MOST_AXES {
        return Err(Error::limit(format!("'axes' has {} entries", axes.len())));
    }
    if let [axis] = axes {
        let axis = step.scalar(*axis);
        return step.add(Op::ExpandDims, &[x, axis]);
    }
    let rank = step.rank(x)? + axes.len();
    let mut sorted =
        axes.iter().map(|&axis| step.axis(axis, rank)).collect::<Result<Vec<usize>>>()?;
    sorted.sort_unstable();
    for axis in sorted {
        let axis = step.scalar(axis as i64);
        x = step.add(Op::ExpandDims, &[x, axis])?;
    }
    Ok(x)
}

fn concat(step: &mut Step<'_, '_>) -> Result<Outputs> {
    const NEEDS_AXIS: i64 = 4;
    let axis = match step.attrs.int("axis")? {
        Some(axis) => axis,
        None if step.opset < NEEDS_AXIS => 1,
        None => return Err(Error::malformed("attribute 'axis' is missing")),
    };
    let parts = step.tensors()?;
    if parts.is_empty() {
        return Err(Error::malformed("expected 1 input or more, found 0"));
    }
    one(step.concat(axis, &parts)?)
}

fn split(step: &mut Step<'_, '_>) -> Result<Outputs> {
    const COUNTS: i64 = 18;
    step.expect_inputs(1, 2)?;
    let x = step.tensor(0)?;
    let outputs = step.node.output.len();
    let axis = step.attrs.int_or("axis", 0)?;
    if step.opset >= AXES_AS_INPUT
        && let Some(sizes) = step.optional(1)?
        && step.builder.integers(sizes)?.is_none()
    {
        let axis = step.scalar(axis);
        let ids = step.add_all(Op::Split, vec![Some(x), Some(axis), Some(sizes)], outputs)?;
        return Ok(ids.into_iter().map(|id| Some(Val::Tensor(id))).collect());
    }
    let sizes = step.list("split", AXES_AS_INPUT, 1)?;
    let count = if step.opset < COUNTS { None } else { step.attrs.int("num_outputs")? };
    if count.is_some_and(|count| usize::try_from(count) != Ok(outputs)) {
        return Err(Error::malformed(format!(
            "num_outputs: expected {outputs} as the node has, found {count:?}"
        )));
    }
    let sizes = match (sizes, count) {
        (Some(sizes), _) => Some(sizes),
        (None, Some(_)) => uneven(step, x, axis, outputs)?,
        (None, None) => None,
    };
    let mut inputs = vec![Some(x), Some(step.scalar(axis))];
    if let Some(sizes) = sizes {
        if sizes.len() != outputs {
            return Err(Error::malformed(format!(
                "split: expected {outputs} sizes, found {sizes:?}"
            )));
        }
        inputs.push(Some(step.vector(&sizes)?));
    }
    let ids = step.add_all(Op::Split, inputs, outputs)?;
    Ok(ids.into_iter().map(|id| Some(Val::Tensor(id))).collect())
}

/// Parts of ⌈n / count⌉, the last one smaller; `None` when they are equal.
fn uneven(step: &Step<'_, '_>, x: ValueId, axis: i64, count: usize) -> Result<Option<Vec<i64>>> {
    let dims = step.dims(x)?;
    let axis = step.axis(axis, dims.len())?;
    let Some(Dim::Known(size)) = dims.get(axis).copied() else {
        return Err(Error::unsupported("num_outputs: the size of the axis is not known"));
    };
    if size.is_multiple_of(count.max(1)) {
        return Ok(None);
    }
    let part = size.div_ceil(count.max(1));
    let sizes = (0..count).map(|k| part.min(size.saturating_sub(k * part)) as i64);
    Ok(Some(sizes.collect()))
}

fn slice(step: &mut Step<'_, '_>) -> Result<Outputs> {
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
    let mut mask = 0u32;
    let mut strides = vec![1; rank];
    for (axis, place) in places.iter().enumerate() {
        match place {
            None => mask |= 1u32.checked_shl(axis as u32).unwrap_or(0),
            Some(entry) => {
                let stride = steps.get(*entry).copied().unwrap_or(1);
                if stride == 0 {
                    return Err(Error::malformed("steps: expected other numbers than 0"));
                }
                if let Some(slot) = strides.get_mut(axis) {
                    *slot = stride;
                }
            }
        }
    }
    let begin = spread(step, starts, &places)?;
    let end = spread(step, ends, &places)?;
    let strides = step.vector(&strides)?;
    let options = StridedSlice { begin_mask: mask, end_mask: mask, ..StridedSlice::default() };
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

fn gather(step: &mut Step<'_, '_>) -> Result<Outputs> {
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

/// Both shapes are broadcast: 1 in the target keeps the size of x.
fn expand(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(2, 2)?;
    let (x, target) = (step.tensor(0)?, step.tensor(1)?);
    let target = step.cast(target, DType::I64)?;
    let dims = step.dims(x)?;
    let asked = match step.dims(target)?.as_slice() {
        [Dim::Known(count)] => *count,
        _ => return Err(Error::unsupported("shape: the number of entries is not known")),
    };
    let sizes = step.builder.sizes(target);
    let rank = dims.len().max(asked);
    if rank > tensor::MOST_AXES {
        return Err(Error::limit(format!("the result has {rank} axes")));
    }
    let mut entries = Vec::with_capacity(rank);
    for axis in 0..rank {
        let own = (axis + dims.len()).checked_sub(rank);
        let place = (axis + asked).checked_sub(rank);
        let Some(place) = place else {
            entries.push(step.entry(x, own.unwrap_or(0))?);
            continue;
        };
        let slot = |step: &mut Step<'_, '_>| step.slice(target, 0, place as i64, place as i64 + 1);
        let own_size = own.map_or(Some(Dim::Known(1)), |own| dims.get(own).copied());
        let size = sizes.as_ref().and_then(|sizes| sizes.get(place).copied());
        entries.push(match (own_size, size) {
            (_, Some(Size::Known(number))) if number != 1 => Entry::Number(number),
            (Some(Dim::Known(1)), Some(Size::Known(_))) => Entry::Number(1),
            (Some(Dim::Known(1)), _) => Entry::Value(slot(step)?),
            (_, Some(Size::Known(_))) => step.entry(x, own.unwrap_or(0))?,
            (Some(own_dim), Some(Size::Axis(dim))) if own_dim == dim && dim != Dim::Unknown => {
                step.entry(x, own.unwrap_or(0))?
            }
            _ => {
                let asked = slot(step)?;
                let own = step.entry(x, own.unwrap_or(0))?;
                let own = step.joined(&[own])?;
                Entry::Value(step.binary(F::Maximum, asked, own)?)
            }
        });
    }
    let shape = step.joined(&entries)?;
    step.one(Op::BroadcastTo, &[x, shape])
}

fn tile(step: &mut Step<'_, '_>) -> Result<Outputs> {
    const REPEATS: i64 = 6;
    step.expect_inputs(2, 2)?;
    if step.opset < REPEATS {
        return Err(Error::unsupported("Tile with tiles and axis, as before opset 6"));
    }
    let operands = step.tensors()?;
    step.one(Op::Tile, &operands)
}

/// How a pad fills the room.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Constant,
    Reflect,
    Edge,
    Wrap,
}

fn pad(step: &mut Step<'_, '_>) -> Result<Outputs> {
    const AS_INPUTS: i64 = 11;
    const WRAPS: i64 = 19;
    let mode = match step.attrs.string("mode")? {
        None | Some("constant") => Mode::Constant,
        Some("reflect") => Mode::Reflect,
        Some("edge") => Mode::Edge,
        Some("wrap") if step.opset >= WRAPS => Mode::Wrap,
        Some(other) => {
            return Err(Error::malformed(format!(
                "mode: expected constant, reflect or edge, found '{other}'"
            )));
        }
    };
    let x = step.tensor(0)?;
    let (dtype, rank) = (step.dtype(x)?, step.rank(x)?);
    let (pads, value);
    let mut axes: Vec<usize> = (0..rank).collect();
    if step.opset < AS_INPUTS {
        step.expect_inputs(1, 1)?;
        let name = if step.opset == 1 { "paddings" } else { "pads" };
        let list = step.attrs.ints(name)?;
        pads = list.ok_or_else(|| Error::malformed(format!("attribute '{name}' is missing")))?;
        let number = step.attrs.float_or("value", 0.0)?;
        value = step.number(dtype, f64::from(number))?;
    } else {
        step.expect_inputs(2, 4)?;
        if mode == Mode::Constant
            && let Some(open) = open::pad(step, x)?
        {
            return Ok(open);
        }
        pads = step.integers(1, "pads")?;
        value = match step.optional(2)? {
            Some(value) => value,
            None => step.number(dtype, 0.0)?,
        };
        if let Some(list) = step.optional_integers(3, "axes")? {
            axes = list.iter().map(|&axis| step.axis(axis, rank)).collect::<Result<_>>()?;
        }
    }
    if pads.len() != 2 * axes.len() {
        return Err(Error::malformed(format!(
            "pads: expected {} entries, found {}",
            2 * axes.len(),
            pads.len()
        )));
    }
    /// Entries of padding; far more than any axis has.
    const MOST: u64 = 1 << 31;
    if let Some(amount) = pads.iter().find(|amount| amount.unsigned_abs() > MOST) {
        return Err(Error::limit(format!("pads: {amount} entries, over 2^31")));
    }
    let (before, after) = pads.split_at(axes.len());
    let mut result = x;
    let mut room = vec![0; 2 * rank];
    for ((&axis, &before), &after) in axes.iter().zip(before).zip(after) {
        if before < 0 || after < 0 {
            let end = if after < 0 { after } else { i64::MAX };
            result = step.slice(result, axis, (-before).max(0), end)?;
        }
        let (before, after) = (before.max(0), after.max(0));
        if mode != Mode::Constant {
            result = extended(step, result, axis, [before, after], mode)?;
        } else if let Some([first, last]) = room.get_mut(2 * axis..2 * axis + 2) {
            (*first, *last) = (before, after);
        }
    }
    if room.iter().all(|&amount| amount == 0) {
        return one(result);
    }
    let room = step.constant(Tensor::from_vec(&[rank, 2], room)?);
    step.one(Op::Pad, &[result, room, value])
}

/// One axis with entries of its own before and after.
fn extended(
    step: &mut Step<'_, '_>,
    x: ValueId,
    axis: usize,
    [before, after]: [i64; 2],
    mode: Mode,
) -> Result<ValueId> {
    // Mirrored entries beside the border need one entry more than their number.
    if let Some(Dim::Known(size)) = step.dims(x)?.get(axis).copied() {
        let most = match mode {
            Mode::Reflect => size as i64 - 1,
            Mode::Edge | Mode::Constant => i64::MAX,
            Mode::Wrap => size as i64,
        };
        if before > most || after > most || size == 0 {
            return Err(Error::unsupported(format!(
                "pads: {before} and {after} entries from an axis of size {size}"
            )));
        }
    }
    let mut parts = Vec::new();
    for (amount, is_before) in [(before, true), (after, false)] {
        if !is_before {
            parts.push(x);
        }
        if amount == 0 {
            continue;
        }
        let (begin, end) = match (mode, is_before) {
            (Mode::Reflect, true) => (1, amount + 1),
            (Mode::Reflect, false) => (-amount - 1, -1),
            (Mode::Wrap, true) => (-amount, i64::MAX),
            (Mode::Wrap, false) => (0, amount),
            (Mode::Edge | Mode::Constant, true) => (0, 1),
            (Mode::Edge | Mode::Constant, false) => (-1, i64::MAX),
        };
        let mut part = step.slice(x, axis, begin, end)?;
        match mode {
            Mode::Reflect => {
                let axes = step.vector(&[axis as i64])?;
                part = step.add(Op::Reverse, &[part, axes])?;
            }
            Mode::Edge => {
                let mut multiples = vec![1; step.rank(x)?];
                if let Some(slot) = multiples.get_mut(axis) {
                    *slot = amount;
                }
                let multiples = step.vector(&multiples)?;
                part = step.add(Op::Tile, &[part, multiples])?;
            }
            Mode::Wrap | Mode::Constant => {}
        }
        parts.push(part);
    }
    step.concat(axis as i64, &parts)
}

fn constant_of_shape(step: &mut Step<'_, '_>) -> Result<Outputs> {
    /// Bytes of one constant that a file may ask for with a few numbers.
    const MOST_BYTES: u128 = 1 << 31;
    step.expect_inputs(1, 1)?;
    let shape = step.tensor(0)?;
    let value = match step.attrs.tensor("value")? {
        Some(proto) => tensor::tensor(proto)?,
        None => Tensor::scalar(0f32),
    };
    if value.len() != 1 {
        return Err(Error::malformed(format!("value: expected 1 element, found {}", value.len())));
    }
    if let Some(sizes) = step.builder.integers(shape)? {
        let bytes = sizes.iter().try_fold(value.dtype().size() as u128, |bytes, &size| {
            bytes.checked_mul(u128::try_from(size).ok()?)
        });
        if bytes.is_none_or(|bytes| bytes > MOST_BYTES) {
            return Err(Error::limit(format!(
                "a constant of shape {sizes:?} passes the limit of 2^31 bytes"
            )));
        }
    }
    let value = step.constant(value.reshaped(&[])?);
    step.one(Op::Fill, &[shape, value])
}

fn range(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(3, 3)?;
    let operands = step.tensors()?;
    step.one(Op::Range, &operands)
}

fn reverse_sequence(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(2, 2)?;
    let operands = step.tensors()?;
    let batch_axis = step.attrs.int_or("batch_axis", 1)?;
    let time_axis = step.attrs.int_or("time_axis", 0)?;
    step.one(Op::ReverseSequence(ReverseSequence { time_axis, batch_axis }), &operands)
}
