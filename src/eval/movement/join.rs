//! Tensors put together, and entries picked by index.

use super::super::operands::{axis_index, broadcast_shape, checked_count, scalar_i64};
use super::broadcast;
use crate::error::{Error, Result};
use crate::graph::op::Gather;
use crate::tensor::{Element, Tensor, with_storage};

/// Tensors joined along an axis.
pub(crate) fn concat(parts: &[&Tensor], axis: i64) -> Result<Tensor> {
    let first = parts.first().ok_or_else(|| Error::graph("there is nothing to join"))?;
    let axis = axis_index(axis, first.shape().len())?;
    let mut shape = first.shape().to_vec();
    shape[axis] = 0;
    for part in parts {
        let fits = part.shape().len() == shape.len()
            && part
                .shape()
                .iter()
                .zip(first.shape())
                .enumerate()
                .all(|(k, (a, b))| k == axis || a == b);
        if !fits {
            return Err(Error::input(format!(
                "shapes {:?} and {:?} cannot be joined on axis {axis}",
                first.shape(),
                part.shape()
            )));
        }
        shape[axis] = shape[axis]
            .checked_add(part.shape()[axis])
            .ok_or_else(|| Error::limit(format!("joining on axis {axis} overflows")))?;
    }
    with_storage!(first.storage(), data => concat_typed(data, parts, axis, &shape))
}

/// `_like` only says which element type to read.
fn concat_typed<E: Element>(
    _like: &[E],
    parts: &[&Tensor],
    axis: usize,
    shape: &[usize],
) -> Result<Tensor> {
    let mut out = Vec::with_capacity(checked_count(E::DTYPE, shape)?);
    let outer: usize = shape[..axis].iter().product();
    let slices = parts.iter().map(|part| part.as_slice::<E>()).collect::<Result<Vec<_>>>()?;
    for index in 0..outer {
        for slice in &slices {
            let block = slice.len() / outer;
            out.extend_from_slice(&slice[index * block..(index + 1) * block]);
        }
    }
    Tensor::from_vec(shape, out)
}

/// Tensors of one shape as the entries of a new axis.
pub(crate) fn pack(parts: &[&Tensor], axis: i64) -> Result<Tensor> {
    let first = parts.first().ok_or_else(|| Error::graph("there is nothing to pack"))?;
    if let Some(other) = parts.iter().find(|part| part.shape() != first.shape()) {
        return Err(Error::input(format!(
            "shapes {:?} and {:?} cannot be packed",
            first.shape(),
            other.shape()
        )));
    }
    let axis = axis_index(axis, first.shape().len() + 1)?;
    let mut shape = first.shape().to_vec();
    shape.insert(axis, 1);
    let expanded = parts.iter().map(|part| part.reshaped(&shape)).collect::<Result<Vec<_>>>()?;
    concat(&expanded.iter().collect::<Vec<_>>(), axis as i64)
}

/// Entries of x along an axis, by index.
///
/// `y[batch.., before.., i.., after..] = x[batch.., before.., indices[batch.., i..], after..]`
pub(crate) fn gather(x: &Tensor, indices: &Tensor, options: &Gather) -> Result<Tensor> {
    let rank = x.shape().len();
    let axis = axis_index(options.axis, rank)?;
    let batch = if options.batch_dims == 0 {
        0
    } else {
        axis_index(options.batch_dims, indices.shape().len() + 1)?
    };
    if batch > axis || indices.shape().get(..batch) != x.shape().get(..batch) {
        return Err(Error::input(format!(
            "indices of shape {:?} do not share {batch} leading axes with x of shape {:?} (axis {axis})",
            indices.shape(),
            x.shape()
        )));
    }
    let size = x.shape()[axis];
    let picked = indices
        .to_i64()?
        .into_iter()
        .map(|index| {
            usize::try_from(index).ok().filter(|&index| index < size).ok_or_else(|| {
                Error::input(format!(
                    "index {index} is out of range for axis {axis} of size {size}"
                ))
            })
        })
        .collect::<Result<Vec<usize>>>()?;
    let shape = [&x.shape()[..axis], &indices.shape()[batch..], &x.shape()[axis + 1..]].concat();
    let count = checked_count(x.dtype(), &shape)?;
    let batches: usize = x.shape()[..batch].iter().product();
    let before: usize = x.shape()[batch..axis].iter().product();
    let block: usize = x.shape()[axis + 1..].iter().product();
    let each = picked.len() / batches.max(1);
    with_storage!(x.storage(), data => {
        let mut out = Vec::with_capacity(count);
        if count > 0 {
            for row in 0..batches * before {
                let own = &picked[row / before * each..][..each];
                for &index in own {
                    let start = (row * size + index) * block;
                    out.extend_from_slice(&data[start..start + block]);
                }
            }
        }
        Tensor::from_vec(&shape, out)
    })
}

/// x with `item` at `index` of the first axis.
pub(crate) fn set_item(x: &Tensor, index: &Tensor, item: &Tensor) -> Result<Tensor> {
    let index = scalar_i64(index, "index")?;
    let (&size, rest) = x
        .shape()
        .split_first()
        .ok_or_else(|| Error::input("a scalar has no items that could be set"))?;
    if item.shape() != rest {
        return Err(Error::input(format!(
            "an item of shape {:?} does not fit {:?}",
            item.shape(),
            x.shape()
        )));
    }
    let index = usize::try_from(index).ok().filter(|&index| index < size).ok_or_else(|| {
        Error::input(format!("index {index} is out of range for a list of {size} items"))
    })?;
    let mut out = x.clone();
    with_storage!(x.storage(), data => set_typed(data, &mut out, index, item))?;
    Ok(out)
}

fn set_typed<E: Element>(_like: &[E], out: &mut Tensor, index: usize, item: &Tensor) -> Result<()> {
    let item = item.as_slice::<E>()?;
    out.as_mut_slice::<E>()?[index * item.len()..][..item.len()].copy_from_slice(item);
    Ok(())
}

/// a where the condition holds, else b, all three broadcast.
pub(crate) fn select(condition: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let shape = broadcast_shape(condition.shape(), &broadcast_shape(a.shape(), b.shape())?)?;
    checked_count(a.dtype(), &shape)?;
    let condition = broadcast(condition, &shape)?;
    let (a, b) = (broadcast(a, &shape)?, broadcast(b, &shape)?);
    with_storage!(a.storage(), data => select_typed(condition.as_slice()?, data, &b, &shape))
}

fn select_typed<E: Element>(
    condition: &[bool],
    a: &[E],
    b: &Tensor,
    shape: &[usize],
) -> Result<Tensor> {
    let b = b.as_slice::<E>()?;
    let picked =
        condition.iter().zip(a.iter().zip(b)).map(|(&holds, (&a, &b))| if holds { a } else { b });
    Tensor::from_vec(shape, picked.collect())
}
