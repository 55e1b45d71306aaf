//! Layers that move values about: reshape, permute, repeat, pad, crop.

use serde_json::{Value as Json, json};

use super::{Layer, Masks, Use};
use crate::error::{Error, Result};
use crate::formats::keras::builder::{Builder, Flow};
use crate::formats::keras::config::Config;
use crate::graph::op::{Op, StridedSlice};
use crate::graph::{Dim, ValueId};
use crate::tensor::Tensor;

/// A layer of one input that ends a mask.
const fn moving(
    classes: &'static [&'static str],
    apply: fn(&mut Builder, &Use<'_, '_>) -> Result<Vec<Flow>>,
) -> Layer {
    Layer { classes, arguments: &["inputs"], passed_over: &[], masks: Masks::Drop, apply }
}

pub(super) const LAYERS: &[Layer] = &[
    moving(&["Flatten"], flatten),
    moving(&["Reshape"], reshape),
    moving(&["Permute"], permute),
    moving(&["RepeatVector"], repeat_vector),
    moving(&["ZeroPadding1D", "ZeroPadding2D"], zero_padding),
    moving(&["Cropping1D", "Cropping2D"], cropping),
    moving(&["UpSampling1D", "UpSampling2D"], up_sampling),
];

fn to_i32(n: impl TryInto<i32> + Copy + std::fmt::Display) -> Result<i32> {
    n.try_into().map_err(|_| Error::malformed(format!("{n} is no size of an axis")))
}

/// The batch and these sizes, with a −1 that follows from the input where it can.
pub(super) fn reshaped(b: &mut Builder, x: ValueId, target: &[i64]) -> Result<ValueId> {
    let dims = b.dims(x)?.to_vec();
    let rest = dims.get(1..).unwrap_or(&[]);
    let total = rest.iter().try_fold(1usize, |n, dim| n.checked_mul(dim.known()?));
    let mut known = 1usize;
    let mut out = vec![dims.first().copied().unwrap_or(Dim::Unknown)];
    for &size in target {
        out.push(match usize::try_from(size) {
            Ok(size) => {
                known = known.checked_mul(size).ok_or_else(|| Error::limit("a size overflows"))?;
                Dim::Known(size)
            }
            Err(_) if size == -1 => Dim::Unknown,
            Err(_) => return Err(Error::malformed(format!("{size} is no size of an axis"))),
        });
    }
    if target.iter().filter(|&&size| size == -1).count() > 1 {
        return Err(Error::malformed("more than one size of −1"));
    }
    let inferred =
        total.filter(|total| known != 0 && total % known == 0).map(|total| total / known);
    let mut sizes = Vec::with_capacity(target.len());
    for (&size, dim) in target.iter().zip(out.iter_mut().skip(1)) {
        match (size, inferred) {
            (-1, Some(size)) => {
                *dim = Dim::Known(size);
                sizes.push(to_i32(size)?);
            }
            (size, _) => sizes.push(to_i32(size)?),
        }
    }
    let batch = b.size_of(x, 0)?;
    let sizes = b.integers(&sizes)?;
    let target = if out.len() == 1 { batch } else { b.concat(&[batch, sizes], 0)? };
    let y = b.op(Op::Reshape, &[x, target])?;
    b.declare(y, out);
    Ok(y)
}

fn flatten(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let mut x = used.input()?.value;
    let rank = b.rank(x)?;
    // Channels first: Keras moves the channels to the end before it flattens.
    if used.config.string_or("data_format", "channels_last")? == "channels_first" && rank > 2 {
        let mut moved: Vec<i32> = vec![0];
        moved.extend(2..to_i32(rank)?);
        moved.push(1);
        x = b.transpose(x, &moved)?;
    }
    Ok(vec![Flow::plain(reshaped(b, x, &[-1])?)])
}

fn reshape(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let x = used.input()?.value;
    let target = used.config.integers("target_shape")?;
    Ok(vec![Flow::plain(reshaped(b, x, &target)?)])
}

fn permute(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let x = used.input()?.value;
    let mut permutation = vec![0];
    for axis in used.config.integers("dims")? {
        permutation.push(to_i32(axis)?);
    }
    Ok(vec![Flow::plain(b.transpose(x, &permutation)?)])
}

fn repeat_vector(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let x = used.input()?.value;
    let row = b.expand(x, 1)?;
    let count = to_i32(used.config.size("n")?)?;
    let multiples = b.integers(&[1, count, 1])?;
    Ok(vec![Flow::plain(b.op(Op::Tile, &[row, multiples])?)])
}

/// `[before, after]` for each spatial axis: one number for all, one for each axis, or pairs.
fn pairs(config: &Config<'_>, field: &str, axes: usize) -> Result<Vec<[i32; 2]>> {
    let number =
        |json: &Json| json.as_i64().and_then(|n| i32::try_from(n).ok()).filter(|&n| n >= 0);
    let pair = |json: &Json| match json {
        Json::Array(list) => match list.as_slice() {
            [before, after] => Some([number(before)?, number(after)?]),
            _ => None,
        },
        one => number(one).map(|n| [n, n]),
    };
    let found = match config.get(field) {
        Some(Json::Array(list)) if axes == 1 && list.len() == 2 => {
            pair(&Json::Array(list.clone())).map(|pair| vec![pair])
        }
        Some(Json::Array(list)) if list.len() == axes => list.iter().map(pair).collect(),
        Some(one) => pair(one).map(|pair| vec![pair; axes]),
        None => Some(vec![[1, 1]; axes]),
    };
    found.ok_or_else(|| config.missing(field, "sizes"))
}

fn spatial_axes(class: &str) -> usize {
    if class.ends_with("1D") { 1 } else { 2 }
}

fn zero_padding(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    used.config.must_be("data_format", &json!("channels_last"))?;
    let x = used.input()?.value;
    let pairs = pairs(used.config, "padding", spatial_axes(used.class))?;
    let mut sizes = vec![0, 0];
    sizes.extend(pairs.iter().flatten());
    sizes.extend([0, 0]);
    Ok(vec![Flow::plain(padded(b, x, &sizes)?)])
}

/// `x` with zeros around: `[before, after]` for each axis.
pub(super) fn padded(b: &mut Builder, x: ValueId, sizes: &[i32]) -> Result<ValueId> {
    let paddings = b.constant(Tensor::from_slice(&[sizes.len() / 2, 2], sizes)?);
    let y = b.node(Op::Pad, &[Some(x), Some(paddings), None], &[true])?;
    y.first().copied().flatten().ok_or_else(|| Error::internal("an op without a result"))
}

fn cropping(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    used.config.must_be("data_format", &json!("channels_last"))?;
    let x = used.input()?.value;
    let pairs = pairs(used.config, "cropping", spatial_axes(used.class))?;
    let (mut begin, mut end) = (vec![0], vec![0]);
    let mut end_mask = 1;
    for (k, [before, after]) in pairs.iter().enumerate() {
        begin.push(*before);
        end.push(-*after);
        if *after == 0 {
            end_mask |= 2 << k;
        }
    }
    let strides = b.integers(&vec![1; begin.len()])?;
    let (begin, end) = (b.integers(&begin)?, b.integers(&end)?);
    let options = StridedSlice { begin_mask: 1, end_mask, ..StridedSlice::default() };
    Ok(vec![Flow::plain(b.op(Op::StridedSlice(options), &[x, begin, end, strides])?)])
}

/// Repeats each step: a new axis behind the step's, tiled, and joined with it.
fn up_sampling(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let config = used.config;
    config.must_be("data_format", &json!("channels_last"))?;
    config.must_be("interpolation", &json!("nearest"))?;
    let mut x = used.input()?.value;
    let sizes = config.sizes("size", spatial_axes(used.class), 2)?;
    for (k, size) in sizes.into_iter().enumerate() {
        x = repeated(b, x, k + 1, size)?;
    }
    Ok(vec![Flow::plain(x)])
}

/// Each entry of `axis` `count` times.
pub(in crate::formats::keras) fn repeated(
    b: &mut Builder,
    x: ValueId,
    axis: usize,
    count: usize,
) -> Result<ValueId> {
    let mut dims = b.dims(x)?.to_vec();
    let apart = b.expand(x, to_i32(axis + 1)?)?;
    let mut multiples = vec![1; dims.len() + 1];
    if let Some(entry) = multiples.get_mut(axis + 1) {
        *entry = to_i32(count)?;
    }
    let multiples = b.integers(&multiples)?;
    let tiled = b.op(Op::Tile, &[apart, multiples])?;
    let size = dims.get(axis).copied().and_then(Dim::known);
    let size = size.ok_or_else(|| Error::unsupported("repeating along an axis of an open size"))?;
    let size = size.checked_mul(count).ok_or_else(|| Error::limit("a size overflows"))?;
    if let Some(dim) = dims.get_mut(axis) {
        *dim = Dim::Known(size);
    }
    let open: Vec<(ValueId, usize)> = dims
        .iter()
        .enumerate()
        .filter(|(_, dim)| dim.known().is_none())
        .map(|(at, _)| (x, at))
        .collect();
    b.reshape_to(tiled, &dims, &open)
}
