//! Ops that move elements and compute nothing, for every element type. The cpu backend uses them as
//! they are.

mod fill;
mod join;
mod slice;

pub(crate) use fill::{cast, fill, floats, from_floats, from_integers, integers, range, shape_of};
pub(crate) use join::{concat, gather, pack, select, set_item};
pub(crate) use slice::{pad, slice, split, strided_slice, unpack};

use super::operands::{axis_index, checked_count, scalar_i64, sizes};
use crate::error::{Error, Result};
use crate::graph::op::{ReverseSequence, Squeeze};
use crate::tensor::{Tensor, with_storage};

/// How to walk over a tensor's elements: `element[i…] = data[offset + Σ i·stride]`.
pub(crate) struct View {
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<isize>,
}

/// Row-major strides of a shape.
pub(crate) fn strides_of(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![0; shape.len()];
    let mut step: isize = 1;
    for (stride, &size) in strides.iter_mut().zip(shape).rev() {
        *stride = step;
        step = step.saturating_mul(size.max(1) as isize);
    }
    strides
}

impl View {
    /// Every element of a tensor in order.
    pub(crate) fn whole(shape: &[usize]) -> View {
        View { offset: 0, shape: shape.to_vec(), strides: strides_of(shape) }
    }

    /// The elements that the view walks over, in order, as a tensor of `shape` (which has as many
    /// elements).
    pub(crate) fn read(&self, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
        let count = checked_count(x.dtype(), &self.shape)?;
        if !self.fits(x.len()) {
            return Err(Error::internal(format!(
                "a view of {:?} leaves a tensor of {:?}",
                self.shape,
                x.shape()
            )));
        }
        with_storage!(x.storage(), data => Tensor::from_vec(shape, self.copy(data, count)))
    }

    /// Whether every index lies below `len`.
    fn fits(&self, len: usize) -> bool {
        if self.shape.contains(&0) {
            return true;
        }
        let (mut low, mut high) = (self.offset as i128, self.offset as i128);
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            let reach = (size as i128 - 1) * stride as i128;
            low += reach.min(0);
            high += reach.max(0);
        }
        low >= 0 && high < len as i128
    }

    fn copy<E: Copy>(&self, data: &[E], count: usize) -> Vec<E> {
        // As many as there was found room for: a vector that grows asks for twice as much.
        let mut out = Vec::with_capacity(count);
        self.runs(|start, size, stride| {
            if stride == 1 {
                out.extend_from_slice(&data[start..start + size]);
            } else {
                out.extend(
                    (0..size as isize).map(|i| data[(start as isize + i * stride) as usize]),
                );
            }
        });
        out
    }

    /// Calls `run(start, size, stride)` for every row along the last axis, in order.
    pub(crate) fn runs(&self, mut run: impl FnMut(usize, usize, isize)) {
        if self.shape.contains(&0) {
            return;
        }
        let (inner, stride) = match (self.shape.last(), self.strides.last()) {
            (Some(&size), Some(&stride)) => (size, stride),
            _ => (1, 1),
        };
        let outer = &self.shape[..self.shape.len().saturating_sub(1)];
        let mut index = vec![0; outer.len()];
        let mut start = self.offset as isize;
        loop {
            run(start as usize, inner, stride);
            let mut axis = outer.len();
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                index[axis] += 1;
                start += self.strides[axis];
                if index[axis] < outer[axis] {
                    break;
                }
                start -= self.strides[axis] * outer[axis] as isize;
                index[axis] = 0;
            }
        }
    }
}

/// Axis `k` of the result is axis `permutation[k]` of x.
pub(crate) fn transpose(x: &Tensor, permutation: &Tensor) -> Result<Tensor> {
    let rank = x.shape().len();
    let axes = permutation
        .to_i64()?
        .into_iter()
        .map(|axis| axis_index(axis, rank))
        .collect::<Result<Vec<_>>>()?;
    let mut seen = vec![false; rank];
    axes.iter().for_each(|&axis| seen[axis] = true);
    if axes.len() != rank || seen.contains(&false) {
        return Err(Error::input(format!(
            "{axes:?} is no permutation of the axes of a tensor of rank {rank}"
        )));
    }
    let whole = View::whole(x.shape());
    let shape: Vec<usize> = axes.iter().map(|&axis| whole.shape[axis]).collect();
    let strides = axes.iter().map(|&axis| whole.strides[axis]).collect();
    View { offset: 0, shape: shape.clone(), strides }.read(x, &shape)
}

/// The same elements under another shape; one entry may be −1, it takes what is left.
pub(crate) fn reshape(x: &Tensor, target: &Tensor) -> Result<Tensor> {
    let target = target.to_i64()?;
    let wrong = || Error::input(format!("shape {:?} cannot become {target:?}", x.shape()));
    let open = target.iter().filter(|&&n| n == -1).count();
    let mut shape = Vec::with_capacity(target.len());
    for &n in &target {
        shape.push(if n == -1 { 1 } else { usize::try_from(n).map_err(|_| wrong())? });
    }
    if open > 1 {
        return Err(wrong());
    }
    if let Some(slot) = target.iter().position(|&n| n == -1) {
        let rest = checked_count(x.dtype(), &shape)?;
        // 0 elements fit any size of the open axis; 0 is what TensorFlow takes.
        shape[slot] = x.len().checked_div(rest).unwrap_or(0);
    }
    x.reshaped(&shape).map_err(|_| wrong())
}

/// x without axes of size 1: the named ones, or all.
pub(crate) fn squeeze(x: &Tensor, options: &Squeeze) -> Result<Tensor> {
    let rank = x.shape().len();
    let mut remove: Vec<bool> =
        x.shape().iter().map(|&n| n == 1 && options.axes.is_empty()).collect();
    for &axis in &options.axes {
        let axis = axis_index(axis, rank)?;
        if x.shape()[axis] != 1 {
            return Err(Error::input(format!(
                "axis {axis} of shape {:?} cannot be squeezed",
                x.shape()
            )));
        }
        remove[axis] = true;
    }
    let shape: Vec<usize> =
        x.shape().iter().zip(&remove).filter(|&(_, &gone)| !gone).map(|(&n, _)| n).collect();
    x.reshaped(&shape)
}

/// x with a new axis of size 1.
pub(crate) fn expand_dims(x: &Tensor, axis: &Tensor) -> Result<Tensor> {
    let axis = axis_index(scalar_i64(axis, "axis")?, x.shape().len() + 1)?;
    let mut shape = x.shape().to_vec();
    shape.insert(axis, 1);
    x.reshaped(&shape)
}

/// x repeated `multiples[k]` times along axis `k`.
pub(crate) fn tile(x: &Tensor, multiples: &Tensor) -> Result<Tensor> {
    let multiples = sizes(multiples, "multiples")?;
    if multiples.len() != x.shape().len() {
        return Err(Error::input(format!(
            "multiples {multiples:?} do not fit the shape {:?}",
            x.shape()
        )));
    }
    // Each axis becomes a pair: the repetition, which does not move in x, and the axis itself.
    let whole = View::whole(x.shape());
    let (mut shape, mut pairs, mut strides) = (Vec::new(), Vec::new(), Vec::new());
    for ((&size, &stride), &times) in whole.shape.iter().zip(&whole.strides).zip(&multiples) {
        let tiled = size.checked_mul(times);
        shape
            .push(tiled.ok_or_else(|| Error::limit(format!("tiling by {multiples:?} overflows")))?);
        pairs.extend([times, size]);
        strides.extend([0, stride]);
    }
    View { offset: 0, shape: pairs, strides }.read(x, &shape)
}

/// x stretched to a shape: axes of size 1 and missing leading axes repeat.
pub(crate) fn broadcast_to(x: &Tensor, shape: &Tensor) -> Result<Tensor> {
    broadcast(x, &sizes(shape, "shape")?)
}

/// As [`broadcast_to`], without a copy when the shape is x's already.
pub(crate) fn broadcast(x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if x.shape() == shape {
        return Ok(x.clone());
    }
    let wrong = || Error::input(format!("shape {:?} does not broadcast to {shape:?}", x.shape()));
    let missing = shape.len().checked_sub(x.shape().len()).ok_or_else(wrong)?;
    let mut strides = vec![0; shape.len()];
    for (axis, (&size, stride)) in x.shape().iter().zip(strides_of(x.shape())).enumerate() {
        if size == shape[missing + axis] {
            strides[missing + axis] = stride;
        } else if size != 1 {
            return Err(wrong());
        }
    }
    View { offset: 0, shape: shape.to_vec(), strides }.read(x, shape)
}

/// x with the named axes reversed.
pub(crate) fn reverse(x: &Tensor, axes: &Tensor) -> Result<Tensor> {
    let mut view = View::whole(x.shape());
    let mut reversed = vec![false; x.shape().len()];
    for axis in axes.to_i64()? {
        let axis = axis_index(axis, x.shape().len())?;
        if std::mem::replace(&mut reversed[axis], true) {
            return Err(Error::input(format!("axis {axis} is to be reversed twice")));
        }
        view.offset += view.shape[axis].saturating_sub(1) * view.strides[axis].unsigned_abs();
        view.strides[axis] = -view.strides[axis];
    }
    view.read(x, x.shape())
}

/// x with the first `lengths[b]` entries of the time axis reversed, for each index `b` of the batch
/// axis.
pub(crate) fn reverse_sequence(
    x: &Tensor,
    lengths: &Tensor,
    options: &ReverseSequence,
) -> Result<Tensor> {
    let rank = x.shape().len();
    let (time, batch) =
        (axis_index(options.time_axis, rank)?, axis_index(options.batch_axis, rank)?);
    let lengths = lengths.to_i64()?;
    let (steps, rows) = (x.shape()[time], x.shape()[batch]);
    if time == batch || lengths.len() != rows {
        return Err(Error::input(format!(
            "{} lengths for axis {batch} (time axis {time}) of shape {:?}",
            lengths.len(),
            x.shape()
        )));
    }
    if let Some((row, n)) = lengths.iter().enumerate().find(|&(_, &n)| n < 0 || n > steps as i64) {
        return Err(Error::input(format!("length {n} of row {row} is not in 0..={steps}")));
    }
    let strides = strides_of(x.shape());
    let (time_stride, batch_stride) = (strides[time] as usize, strides[batch] as usize);
    let source = |index: usize| {
        let (t, b) = (index / time_stride % steps, index / batch_stride % rows);
        // Checked above: 0 <= length <= steps.
        let length = lengths[b] as usize;
        if t < length { index - t * time_stride + (length - 1 - t) * time_stride } else { index }
    };
    with_storage!(x.storage(), data => Tensor::from_vec(x.shape(), (0..data.len()).map(|i| data[source(i)]).collect()))
}
