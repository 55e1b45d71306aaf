//! Convolutions, pools, padding by repetition, and the normalization that goes with them.

use super::elementwise::{constant_like, function_op};
use super::step::{Step, Val};
use crate::error::{Error, Result};
use crate::graph::op::Padding;
use crate::graph::op::{
    Activation, BinaryFunction, Concat, Conv2d, Pool2d, PoolFunction, StridedSlice, Unary,
};
use crate::graph::{Op, ValueId};
use crate::tensor::Tensor;

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    match step.node.op.as_str() {
        "Conv2D" => conv2d(step),
        "DepthwiseConv2dNative" => depthwise(step),
        "MaxPool" => pool(step, PoolFunction::Maximum),
        "AvgPool" => pool(step, PoolFunction::Average { count_padding: false }),
        "MirrorPad" => mirror_pad(step),
        "SpaceToBatchND" => space_to_batch(step),
        "BatchToSpaceND" => batch_to_space(step),
        "FusedBatchNorm" | "FusedBatchNormV2" | "FusedBatchNormV3" => batch_norm(step),
        _ => Ok(None),
    }
}

/// Whether channels stand behind the batch axis instead of last.
fn channels_first(step: &Step<'_, '_>) -> Result<bool> {
    match step.node.text("data_format")?.unwrap_or("NHWC") {
        "NHWC" => Ok(false),
        "NCHW" => Ok(true),
        other => Err(Error::unsupported(format!(
            "the attribute 'data_format' is {other}: only NHWC and NCHW"
        ))),
    }
}

/// The image with channels last.
fn channels_last(step: &mut Step<'_, '_>, x: ValueId, first: bool) -> Result<ValueId> {
    if !first {
        return Ok(x);
    }
    let order = step.vector(&[0, 2, 3, 1])?;
    step.add(Op::Transpose, &[x, order])
}

/// The result in the image's own order of axes.
fn result(step: &mut Step<'_, '_>, y: ValueId, first: bool) -> Result<ValueId> {
    if !first {
        return Ok(y);
    }
    let order = step.vector(&[0, 3, 1, 2])?;
    step.add(Op::Transpose, &[y, order])
}

/// Height and width of a list with one entry an axis.
fn image_axes<T: Copy>(list: &[T], first: bool) -> Option<([T; 2], [T; 2])> {
    match (list, first) {
        (&[n, height, width, c], false) | (&[n, c, height, width], true) => {
            Some(([height, width], [n, c]))
        }
        _ => None,
    }
}

/// Height and width of an attribute, 1 when it is absent.
fn window(step: &Step<'_, '_>, attr: &str, first: bool) -> Result<[usize; 2]> {
    let list = step.node.list(attr)?.map_or(&[][..], |list| list.i.as_slice());
    if list.is_empty() {
        return Ok([1, 1]);
    }
    let Some((sizes, [1, 1])) = image_axes(list, first) else {
        return Err(Error::unsupported(format!(
            "the attribute '{attr}' is {list:?}: only height and width may differ from 1"
        )));
    };
    let size = |size: i64| usize::try_from(size).ok().filter(|&size| size > 0);
    match sizes.map(size) {
        [Some(height), Some(width)] => Ok([height, width]),
        _ => Err(Error::malformed(format!("the attribute '{attr}' is {list:?}"))),
    }
}

fn padding(step: &Step<'_, '_>, first: bool) -> Result<Padding> {
    let explicit = step.node.list("explicit_paddings")?.map_or(&[][..], |list| list.i.as_slice());
    match step.node.text("padding")? {
        Some("SAME") => Ok(Padding::Same),
        Some("VALID") => Ok(Padding::Valid),
        Some("EXPLICIT") => {
            let (pairs, _) = explicit.as_chunks::<2>();
            let pair = |[before, after]: [i64; 2]| {
                Some([usize::try_from(before).ok()?, usize::try_from(after).ok()?])
            };
            let pairs: Option<Vec<[usize; 2]>> = pairs.iter().map(|&entry| pair(entry)).collect();
            match pairs.as_deref().and_then(|pairs| image_axes(pairs, first)) {
                Some(([height, width], [[0, 0], [0, 0]])) => Ok(Padding::Explicit {
                    before: [height[0], width[0]],
                    after: [height[1], width[1]],
                }),
                _ => Err(Error::unsupported(format!(
                    "the attribute 'explicit_paddings' is {explicit:?}: only height and width are padded"
                ))),
            }
        }
        other => Err(Error::unsupported(format!(
            "the attribute 'padding' is {other:?}: only SAME, VALID and EXPLICIT"
        ))),
    }
}

/// The size of an axis, which must be known.
fn size(step: &Step<'_, '_>, id: ValueId, axis: usize, what: &str) -> Result<usize> {
    let shape = step.builder.ty(id)?.shape.as_ref();
    shape
        .and_then(|shape| shape.get(axis)?.known())
        .ok_or_else(|| Error::unsupported(format!("the number of {what} is not known")))
}

/// TensorFlow's filter is `[kh, kw, I / groups, O]`, ours `[O, kh, kw, I / groups]`.
fn conv2d(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    step.expect_inputs(2)?;
    let first = channels_first(step)?;
    let (x, filter) = (step.tensor(0)?, step.tensor(1)?);
    let x = channels_last(step, x, first)?;
    let depth = size(step, filter, 2, "channels of the filter")?;
    // An image whose channels are not known has those of the filter.
    let channels = size(step, x, 3, "channels").unwrap_or(depth);
    if depth == 0 || !channels.is_multiple_of(depth) {
        return Err(Error::malformed(format!("a filter of {depth} channels for {channels}")));
    }
    let conv = Conv2d {
        padding: padding(step, first)?,
        strides: window(step, "strides", first)?,
        dilations: window(step, "dilations", first)?,
        groups: channels / depth,
        activation: Activation::Linear,
    };
    let order = step.vector(&[3, 0, 1, 2])?;
    let filter = step.add(Op::Transpose, &[filter, order])?;
    let y = step.add(Op::Conv2d(conv), &[x, filter])?;
    Ok(Some(vec![Val::Tensor(result(step, y, first)?)]))
}

/// The filter `[kh, kw, I, multiplier]` is a convolution's with as many groups as channels:
/// `[I · multiplier, kh, kw, 1]`.
fn depthwise(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    step.expect_inputs(2)?;
    let first = channels_first(step)?;
    let (x, filter) = (step.tensor(0)?, step.tensor(1)?);
    let x = channels_last(step, x, first)?;
    let mut sizes = [0; 4];
    for (axis, entry) in sizes.iter_mut().enumerate() {
        *entry = size(step, filter, axis, "weights of the filter")?;
    }
    let [height, width, channels, multiplier] = sizes;
    let conv = Conv2d {
        padding: padding(step, first)?,
        strides: window(step, "strides", first)?,
        dilations: window(step, "dilations", first)?,
        groups: channels,
        activation: Activation::Linear,
    };
    let outputs = channels.checked_mul(multiplier);
    let outputs = outputs.ok_or_else(|| Error::malformed("a filter of too many channels"))?;
    let sizes = [height, width, outputs, 1].map(|size| i32::try_from(size).unwrap_or(i32::MAX));
    let shape = step.vector(&sizes)?;
    let filter = step.add(Op::Reshape, &[filter, shape])?;
    let order = step.vector(&[2, 0, 1, 3])?;
    let filter = step.add(Op::Transpose, &[filter, order])?;
    let y = step.add(Op::Conv2d(conv), &[x, filter])?;
    Ok(Some(vec![Val::Tensor(result(step, y, first)?)]))
}

fn pool(step: &mut Step<'_, '_>, function: PoolFunction) -> Result<Option<Vec<Val>>> {
    step.expect_inputs(1)?;
    let first = channels_first(step)?;
    let x = step.tensor(0)?;
    let x = channels_last(step, x, first)?;
    let pool = Pool2d {
        function,
        window: window(step, "ksize", first)?,
        strides: window(step, "strides", first)?,
        dilations: [1, 1],
        padding: padding(step, first)?,
        activation: Activation::Linear,
    };
    let y = step.add(Op::Pool2d(pool), &[x])?;
    Ok(Some(vec![Val::Tensor(result(step, y, first)?)]))
}

/// Pads each axis with its own entries, reversed: the entry at the edge is repeated (`SYMMETRIC`)
/// or not (`REFLECT`).
fn mirror_pad(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    step.expect_inputs(2)?;
    let edge = match step.node.text("mode")? {
        Some("REFLECT") => 1,
        Some("SYMMETRIC") => 0,
        other => return Err(Error::unsupported(format!("the attribute 'mode' is {other:?}"))),
    };
    let mut x = step.tensor(0)?;
    let amounts = step.integers(1, "the amount of padding")?;
    let amount = |n: i64| i32::try_from(n).ok().filter(|n| (0..i32::MAX).contains(n));
    let (pairs, _) = amounts.as_chunks::<2>();
    for (axis, pair) in pairs.iter().enumerate() {
        let [Some(before), Some(after)] = pair.map(amount) else {
            return Err(Error::malformed(format!("a padding of {pair:?}")));
        };
        let mut parts = Vec::new();
        if before > 0 {
            let end = before.checked_add(edge).ok_or_else(|| Error::malformed("a padding"))?;
            parts.push(reversed(step, x, axis, (edge, Some(end)))?);
        }
        parts.push(x);
        if after > 0 {
            let begin = -after - edge;
            parts.push(reversed(step, x, axis, (begin, (edge > 0).then_some(-1)))?);
        }
        if parts.len() > 1 {
            let axis = axis as i64;
            let concat = Concat { axis, activation: Activation::Linear };
            x = step.add(Op::Concat(concat), &parts)?;
        }
    }
    Ok(Some(vec![Val::Tensor(x)]))
}

/// The entries `begin..end` of an axis, last first.
fn reversed(
    step: &mut Step<'_, '_>,
    x: ValueId,
    axis: usize,
    (begin, end): (i32, Option<i32>),
) -> Result<ValueId> {
    let others = (1u32 << axis.min(31)) - 1;
    let slice = StridedSlice {
        begin_mask: others,
        end_mask: if end.is_none() { others | 1 << axis.min(31) } else { others },
        ..StridedSlice::default()
    };
    let at = |value: i32, fill: i32| {
        let mut all = vec![fill; axis];
        all.push(value);
        all
    };
    let begin = step.vector(&at(begin, 0))?;
    let end = step.vector(&at(end.unwrap_or(0), 0))?;
    let strides = step.vector(&at(1, 1))?;
    let part = step.add(Op::StridedSlice(slice), &[x, begin, end, strides])?;
    let axis = step.vector(&[i32::try_from(axis).unwrap_or(i32::MAX)])?;
    step.add(Op::Reverse, &[part, axis])
}

/// Entries of an axis that lie `block` apart become batch entries, those of the first axis slowest:
/// a convolution of the result is a dilated one of the operand.
fn space_to_batch(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    step.expect_inputs(3)?;
    let blocks = blocks(step)?;
    let amounts = step.integers(2, "the amount of padding")?;
    let x = step.tensor(0)?;
    let rank = step.rank(x)?;
    let mut pairs = vec![0i32; rank * 2];
    for (slot, &amount) in pairs.iter_mut().skip(2).zip(&amounts) {
        *slot = i32::try_from(amount).map_err(|_| Error::malformed("a padding of this size"))?;
    }
    let pairs = step.builder.constant_value(&step.node.name, Tensor::from_vec(&[rank, 2], pairs)?);
    let x = step.add(Op::Pad, &[x, pairs])?;
    let sizes = sizes_behind_batch(step, x)?;
    let mut split = vec![-1];
    let mut merged = vec![-1];
    for (axis, &size) in sizes.iter().enumerate() {
        match blocks.get(axis) {
            Some(&block) if size % block == 0 => {
                split.extend([size / block, block]);
                merged.push(size / block);
            }
            Some(&block) => {
                return Err(Error::malformed(format!("{size} entries in blocks of {block}")));
            }
            None => {
                split.push(size);
                merged.push(size);
            }
        }
    }
    let count = blocks.len() as i32;
    let order: Vec<i32> = (0..count)
        .map(|axis| 2 * axis + 2)
        .chain(std::iter::once(0))
        .chain((0..count).map(|axis| 2 * axis + 1))
        .chain(2 * count + 1..split.len() as i32)
        .collect();
    let y = rearranged(step, x, &split, &order, &merged)?;
    Ok(Some(vec![Val::Tensor(y)]))
}

/// The inverse of [`space_to_batch`], with entries cut off instead of padding.
fn batch_to_space(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    step.expect_inputs(3)?;
    let blocks = blocks(step)?;
    let crops = step.integers(2, "the entries that are cut off")?;
    let x = step.tensor(0)?;
    let sizes = sizes_behind_batch(step, x)?;
    let count = blocks.len() as i32;
    let split: Vec<i32> =
        blocks.iter().copied().chain(std::iter::once(-1)).chain(sizes.iter().copied()).collect();
    let order: Vec<i32> = std::iter::once(count)
        .chain((0..count).flat_map(|axis| [count + 1 + axis, axis]))
        .chain(2 * count + 1..split.len() as i32)
        .collect();
    let whole = |axis: usize, size: i32| match blocks.get(axis) {
        Some(&block) => size.checked_mul(block).ok_or_else(|| Error::malformed("a block size")),
        None => Ok(size),
    };
    let wholes: Vec<i32> =
        sizes.iter().enumerate().map(|(axis, &size)| whole(axis, size)).collect::<Result<_>>()?;
    let merged: Vec<i32> = std::iter::once(-1).chain(wholes.iter().copied()).collect();
    let y = rearranged(step, x, &split, &order, &merged)?;
    let (mut begin, mut size) = (vec![0], vec![-1]);
    for (axis, &whole) in wholes.iter().enumerate() {
        let crop = |at: usize| crops.get(2 * axis + at).map_or(Some(0), |&n| i32::try_from(n).ok());
        let (Some(before), Some(after)) = (crop(0), crop(1)) else {
            return Err(Error::malformed("entries of this size are cut off"));
        };
        begin.push(before);
        let left = whole.checked_sub(before).and_then(|left| left.checked_sub(after));
        size.push(left.ok_or_else(|| Error::malformed("more is cut off than there is"))?);
    }
    let (begin, size) = (step.vector(&begin)?, step.vector(&size)?);
    step.one(Op::Slice, &[y, begin, size])
}

fn blocks(step: &Step<'_, '_>) -> Result<Vec<i32>> {
    let blocks = step.integers(1, "the block shape")?;
    let block = |&block: &i64| i32::try_from(block).ok().filter(|&block| block > 0);
    let blocks: Option<Vec<i32>> = blocks.iter().map(block).collect();
    blocks.ok_or_else(|| Error::malformed("a block of this size"))
}

/// The sizes of the axes behind the first, which must be known.
fn sizes_behind_batch(step: &Step<'_, '_>, x: ValueId) -> Result<Vec<i32>> {
    let rank = step.rank(x)?;
    (1..rank)
        .map(|axis| {
            let size = size(step, x, axis, "entries of an axis that is taken in blocks")?;
            i32::try_from(size).map_err(|_| Error::limit("an axis of over 2^31 entries"))
        })
        .collect()
}

fn rearranged(
    step: &mut Step<'_, '_>,
    x: ValueId,
    split: &[i32],
    order: &[i32],
    merged: &[i32],
) -> Result<ValueId> {
    let (split, order, merged) = (step.vector(split)?, step.vector(order)?, step.vector(merged)?);
    let x = step.add(Op::Reshape, &[x, split])?;
    let x = step.add(Op::Transpose, &[x, order])?;
    step.add(Op::Reshape, &[x, merged])
}

/// `y = (x − mean) · scale / sqrt(variance + ε) + offset`; the other results are for training.
fn batch_norm(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    step.expect_inputs(5)?;
    // TensorFlow trains when the attribute is absent.
    if step.node.flag("is_training")?.copied().unwrap_or(true) {
        return Err(Error::unsupported(
            "the attribute 'is_training' is true: freeze the graph for inference",
        ));
    }
    let first = channels_first(step)?;
    let epsilon = step.node.float("epsilon")?.copied().unwrap_or(1e-4);
    let operands = step.tensors()?;
    let &[x, scale, offset, mean, variance] = operands.as_slice() else {
        return Err(Error::internal("a batch normalization without five operands"));
    };
    let x = channels_last(step, x, first)?;
    let epsilon = constant_like(step, variance, f64::from(epsilon))?;
    let sum = step.add(function_op(BinaryFunction::Add), &[variance, epsilon])?;
    let factor = step.add(Op::Unary(Unary::Rsqrt), &[sum])?;
    let factor = step.add(function_op(BinaryFunction::Mul), &[factor, scale])?;
    let shift = step.add(function_op(BinaryFunction::Mul), &[mean, factor])?;
    let shift = step.add(function_op(BinaryFunction::Sub), &[offset, shift])?;
    let y = step.add(function_op(BinaryFunction::Mul), &[x, factor])?;
    let y = step.add(function_op(BinaryFunction::Add), &[y, shift])?;
    let training = || Val::Opaque("a result for training of a batch normalization is used".into());
    let mut outputs = vec![Val::Tensor(result(step, y, first)?)];
    outputs.extend((0..5).map(|_| training()));
    Ok(Some(outputs))
}
