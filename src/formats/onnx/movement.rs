//! Ops that arrange, make and repeat elements.

use super::lower::Val;
use super::step::{Outputs, Step};
use super::{Size, open, padding, slices, tensor};
use crate::error::{Error, Result};
use crate::graph::op::{BinaryFunction as F, Reduce, ReduceFunction, ReverseSequence, Squeeze};
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
        "Slice" => slices::slice(step)?,
        "Gather" => slices::gather(step)?,
        "Expand" => expand(step)?,
        "Tile" => tile(step)?,
        "Pad" => padding::pad(step)?,
        "ConstantOfShape" => constant_of_shape(step)?,
        "Range" => range(step)?,
        "ReverseSequence" => reverse_sequence(step)?,
        _ => return Ok(None),
    }))
}

/// A value as the node's one result.
pub fn one(id: ValueId) -> Result<Outputs> {
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
pub enum Entry {
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
    pub fn joined(&mut self, entries: &[Entry]) -> Result<ValueId> {
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
    if let [axis] = *axes.as_slice() {
        return one(step.without_axis(x, axis)?);
    }
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
