//! Parts of a tensor, and a tensor with room around it.

use super::super::operands::{axis_index, checked_count, scalar_i64, sizes};
use super::{View, strides_of};
use crate::error::{Error, Result};
use crate::graph::op::StridedSlice;
use crate::tensor::{Element, Tensor, with_storage};

/// `size[k]` entries from `begin[k]` on, −1: up to the end.
pub(crate) fn slice(x: &Tensor, begin: &Tensor, size: &Tensor) -> Result<Tensor> {
    let (begin, size) = (begin.to_i64()?, size.to_i64()?);
    let wrong = || Error::input(format!("slice from {begin:?} of {size:?} leaves the shape {:?}", x.shape()));
    if begin.len() != x.shape().len() || size.len() != x.shape().len() {
        return Err(wrong());
    }
    let mut view = View::whole(x.shape());
    for (axis, (&begin, &size)) in begin.iter().zip(&size).enumerate() {
        let start = usize::try_from(begin).ok().filter(|&start| start <= view.shape[axis]).ok_or_else(wrong)?;
        let left = view.shape[axis] - start;
        let take = if size == -1 { left } else { usize::try_from(size).map_err(|_| wrong())? };
        if take > left {
            return Err(wrong());
        }
        view.offset += start * view.strides[axis].unsigned_abs();
        view.shape[axis] = take;
    }
    let shape = view.shape.clone();
    view.read(x, &shape)
}

/// Entries `begin, begin + stride, …` up to `end` of each axis, as Python and TensorFlow slice.
pub(crate) fn strided_slice(
    x: &Tensor,
    begin: &Tensor,
    end: &Tensor,
    strides: &Tensor,
    options: &StridedSlice,
) -> Result<Tensor> {
    let (begin, end, strides) = (begin.to_i64()?, end.to_i64()?, strides.to_i64()?);
    let (view, shape) = strided_view(x.shape(), &begin, &end, &strides, options)?;
    view.read(x, &shape)
}

/// The walk of a strided slice, and the shape of its result.
fn strided_view(
    shape: &[usize],
    begin: &[i64],
    end: &[i64],
    strides: &[i64],
    options: &StridedSlice,
) -> Result<(View, Vec<usize>)> {
    let entries = begin.len();
    if end.len() != entries || strides.len() != entries || entries > 32 {
        return Err(Error::input(format!("begin {begin:?}, end {end:?} and strides {strides:?} do not fit together")));
    }
    let bit = |mask: u32, entry: usize| mask >> entry & 1 == 1;
    let taken =
        (0..entries).filter(|&entry| !bit(options.ellipsis_mask, entry) && !bit(options.new_axis_mask, entry)).count();
    let left = shape
        .len()
        .checked_sub(taken)
        .ok_or_else(|| Error::input(format!("a slice of {taken} axes does not fit a tensor of shape {shape:?}")))?;
    if options.ellipsis_mask.count_ones() > 1 {
        return Err(Error::input("a slice has more than one ellipsis"));
    }
    let whole = View::whole(shape);
    let mut view = View { offset: 0, shape: Vec::new(), strides: Vec::new() };
    let (mut axis, mut result) = (0, Vec::new());
    let keep = |axes: std::ops::Range<usize>, view: &mut View, result: &mut Vec<usize>| {
        view.shape.extend(&whole.shape[axes.clone()]);
        view.strides.extend(&whole.strides[axes.clone()]);
        result.extend(&whole.shape[axes]);
    };
    for entry in 0..entries {
        if bit(options.ellipsis_mask, entry) {
            keep(axis..axis + left, &mut view, &mut result);
            axis += left;
        } else if bit(options.new_axis_mask, entry) {
            result.push(1);
        } else {
            let range = Entry {
                begin: (!bit(options.begin_mask, entry)).then_some(begin[entry]),
                end: (!bit(options.end_mask, entry)).then_some(end[entry]),
                stride: strides[entry],
                shrink: bit(options.shrink_axis_mask, entry),
                offset: options.offset,
            };
            let (start, count) = range.resolve(shape[axis], begin[entry])?;
            // With no entry at all the walk reads nothing; the offset must only stay inside.
            view.offset += if count == 0 { 0 } else { start * whole.strides[axis].unsigned_abs() };
            view.shape.push(count);
            // A stride past the axis is never taken: one entry is all there is.
            let stride = if count > 1 { strides[entry] as isize } else { 1 };
            view.strides.push(stride * whole.strides[axis]);
            if !range.shrink {
                result.push(count);
            }
            axis += 1;
        }
    }
    keep(axis..shape.len(), &mut view, &mut result);
    Ok((view, result))
}

/// One entry of a strided slice, `None` where a mask says that the bound is ignored.
struct Entry {
    begin: Option<i64>,
    end: Option<i64>,
    stride: i64,
    shrink: bool,
    offset: bool,
}

impl Entry {
    /// The first index and the number of indices on an axis of `size`.
    fn resolve(&self, size: usize, begin: i64) -> Result<(usize, usize)> {
        let n = size as i64;
        if self.stride == 0 {
            return Err(Error::input("a slice has the stride 0"));
        }
        if self.shrink {
            let index = if begin < 0 { begin.saturating_add(n) } else { begin };
            return match usize::try_from(index) {
                Ok(index) if index < size => Ok((index, 1)),
                _ => Err(Error::input(format!("slice index {begin} is out of range for an axis of size {size}"))),
            };
        }
        // Going up, an index may lie one past the end; going down, one before the start.
        let (low, high) = if self.stride > 0 { (0, n) } else { (-1, n - 1) };
        let clamped = |index: i64| (if index < 0 { index.saturating_add(n) } else { index }).clamp(low, high);
        let start = self.begin.map_or(if self.stride > 0 { low } else { high }, clamped);
        let end = match self.end {
            None => {
                if self.stride > 0 {
                    high
                } else {
                    low
                }
            }
            Some(end) if self.offset => begin.saturating_add(end).clamp(low, high),
            Some(end) => clamped(end),
        };
        let distance = if self.stride > 0 { end - start } else { start - end };
        let step = self.stride.unsigned_abs();
        let count = if distance > 0 { (distance as u64).div_ceil(step) } else { 0 };
        Ok((start.max(0) as usize, count as usize))
    }
}

/// x cut along an axis: into parts of `sizes` (one may be −1), or into `count` equal parts.
pub(crate) fn split(x: &Tensor, axis: &Tensor, parts: Option<&Tensor>, count: usize) -> Result<Vec<Tensor>> {
    let axis = axis_index(scalar_i64(axis, "axis")?, x.shape().len())?;
    let size = x.shape()[axis];
    let sizes = match parts {
        Some(parts) => part_sizes(&parts.to_i64()?, size)?,
        None if count > 0 && size % count == 0 => vec![size / count; count],
        None => return Err(Error::input(format!("axis {axis} of size {size} cannot be cut into {count} equal parts"))),
    };
    if sizes.len() != count {
        return Err(Error::graph(format!("{} sizes for {count} results", sizes.len())));
    }
    let mut start = 0;
    sizes
        .into_iter()
        .map(|part| {
            let mut view = View::whole(x.shape());
            view.offset = if part == 0 { 0 } else { start * view.strides[axis].unsigned_abs() };
            view.shape[axis] = part;
            start += part;
            let shape = view.shape.clone();
            view.read(x, &shape)
        })
        .collect()
}

/// Sizes that add up to `total`; one may be −1.
fn part_sizes(sizes: &[i64], total: usize) -> Result<Vec<usize>> {
    let wrong = || Error::input(format!("sizes {sizes:?} do not add up to {total}"));
    let mut known: usize = 0;
    for &size in sizes.iter().filter(|&&size| size != -1) {
        let size = usize::try_from(size).map_err(|_| wrong())?;
        known = known.checked_add(size).filter(|&known| known <= total).ok_or_else(wrong)?;
    }
    match sizes.iter().filter(|&&size| size == -1).count() {
        0 if known == total => {}
        1 => {}
        _ => return Err(wrong()),
    }
    Ok(sizes.iter().map(|&size| if size == -1 { total - known } else { size as usize }).collect())
}

/// x taken apart along an axis, which goes.
pub(crate) fn unpack(x: &Tensor, axis: i64, count: usize) -> Result<Vec<Tensor>> {
    let axis = axis_index(axis, x.shape().len())?;
    if x.shape()[axis] != count {
        return Err(Error::graph(format!("axis {axis} of size {} unpacks into {count} results", x.shape()[axis])));
    }
    let mut shape = x.shape().to_vec();
    shape.remove(axis);
    (0..count)
        .map(|index| {
            let mut view = View::whole(x.shape());
            view.offset = index * view.strides[axis].unsigned_abs();
            view.shape[axis] = 1;
            view.read(x, &shape)
        })
        .collect()
}

/// x with `paddings[k] = [before, after]` entries around axis `k`, all of `value`, or of the stored number `zero` without one.
pub(crate) fn pad(x: &Tensor, paddings: &Tensor, value: Option<&Tensor>, zero: i64) -> Result<Tensor> {
    if paddings.shape() != [x.shape().len(), 2] {
        return Err(Error::input(format!("paddings of shape {:?} for a tensor of {:?}", paddings.shape(), x.shape())));
    }
    let paddings = sizes(paddings, "paddings")?;
    let mut shape = x.shape().to_vec();
    for (size, around) in shape.iter_mut().zip(paddings.chunks_exact(2)) {
        *size = around
            .iter()
            .try_fold(*size, |sum, &n| sum.checked_add(n))
            .ok_or_else(|| Error::limit(format!("padding by {around:?} overflows")))?;
    }
    let value = match value {
        Some(value) => value.clone(),
        None => super::cast(&Tensor::scalar(zero), x.dtype())?,
    };
    let before: Vec<usize> = paddings.chunks_exact(2).map(|around| around[0]).collect();
    with_storage!(x.storage(), data => pad_typed(data, x.shape(), &before, &shape, &value))
}

fn pad_typed<E: Element>(
    data: &[E],
    inner: &[usize],
    before: &[usize],
    shape: &[usize],
    value: &Tensor,
) -> Result<Tensor> {
    let &[value] = value.as_slice::<E>()? else {
        return Err(Error::input(format!("the padding value has the shape {:?}", value.shape())));
    };
    let mut out = vec![value; checked_count(E::DTYPE, shape)?];
    let strides = strides_of(shape);
    let offset = before.iter().zip(&strides).map(|(&n, &stride)| n * stride.unsigned_abs()).sum();
    let mut taken = 0;
    let view = View { offset, shape: inner.to_vec(), strides };
    view.runs(|start, size, _| {
        out[start..start + size].copy_from_slice(&data[taken..taken + size]);
        taken += size;
    });
    Tensor::from_vec(shape, out)
}
