//! Parts of a tensor, and a tensor with room around it.

use super::super::operands::{axis_index, checked_count, scalar_i64, sizes};
use super::{View, strides_of};
use crate::error::{Error, Result};
use crate::graph::infer::{AxisRange, resolve};
use crate::graph::op::StridedSlice;
use crate::tensor::{Element, Tensor, with_storage};

/// `size[k]` entries from `begin[k]` on, −1: up to the end.
pub(crate) fn slice(x: &Tensor, begin: &Tensor, size: &Tensor) -> Result<Tensor> {
    let (begin, size) = (begin.to_i64()?, size.to_i64()?);
    let wrong = || {
        Error::input(format!("slice from {begin:?} of {size:?} leaves the shape {:?}", x.shape()))
    };
    if begin.len() != x.shape().len() || size.len() != x.shape().len() {
        return Err(wrong());
    }
    let mut view = View::whole(x.shape());
    for (axis, (&begin, &size)) in begin.iter().zip(&size).enumerate() {
        let start = usize::try_from(begin)
            .ok()
            .filter(|&start| start <= view.shape[axis])
            .ok_or_else(wrong)?;
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
    let whole = View::whole(x.shape());
    let mut view = View { offset: 0, shape: Vec::new(), strides: Vec::new() };
    let mut shape = Vec::new();
    let mut own_strides = whole.strides.iter();
    for range in resolve(options, x.shape(), &begin, &end, &strides)? {
        let (start, count, stride) = match range {
            AxisRange::New => {
                shape.push(1);
                continue;
            }
            AxisRange::Keep { start, stride, count } => {
                shape.push(count);
                (start, count, stride)
            }
            AxisRange::Take { index } => (index, 1, 1),
        };
        let own = own_strides
            .next()
            .copied()
            .ok_or_else(|| Error::internal("a slice has more ranges than x axes"))?;
        // Where there is nothing to read, the start may lie past the end; with one entry the stride
        // is never taken.
        if count > 0 {
            view.offset += usize::try_from(start).unwrap_or(0) * own.unsigned_abs();
        }
        view.shape.push(count);
        view.strides.push(if count > 1 { stride as isize * own } else { own });
    }
    view.read(x, &shape)
}

/// x cut along an axis: into parts of `sizes` (one may be −1), or into `count` equal parts.
pub(crate) fn split(
    x: &Tensor,
    axis: &Tensor,
    parts: Option<&Tensor>,
    count: usize,
) -> Result<Vec<Tensor>> {
    let axis = axis_index(scalar_i64(axis, "axis")?, x.shape().len())?;
    let size = x.shape()[axis];
    let sizes = match parts {
        Some(parts) => part_sizes(&parts.to_i64()?, size)?,
        None if count > 0 && size.is_multiple_of(count) => vec![size / count; count],
        None => {
            return Err(Error::input(format!(
                "axis {axis} of size {size} cannot be cut into {count} equal parts"
            )));
        }
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
        return Err(Error::graph(format!(
            "axis {axis} of size {} unpacks into {count} results",
            x.shape()[axis]
        )));
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

/// x with `paddings[k] = [before, after]` entries around axis `k`, all of `value`, or of the stored
/// number `zero` without one.
pub(crate) fn pad(
    x: &Tensor,
    paddings: &Tensor,
    value: Option<&Tensor>,
    zero: i64,
) -> Result<Tensor> {
    if paddings.shape() != [x.shape().len(), 2] {
        return Err(Error::input(format!(
            "paddings of shape {:?} for a tensor of {:?}",
            paddings.shape(),
            x.shape()
        )));
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
