//! Pools, and convolutions in groups: loops over windows whose inner loop runs over channels.

use super::slots::Slots;
use crate::backend::cpu::simd::KernelSet;
use crate::error::{Error, Result};
use crate::graph::op::{Activation, Conv2d, Pool2d, PoolFunction};
use crate::graph::{Node, ValueId, WindowAxis};
use crate::plan::Plan;
use crate::tensor::{DType, Tensor};

/// The ops that are computed here.
pub(super) enum Kind<'a> {
    Pool2d(&'a Pool2d),
    Conv2d(&'a Conv2d),
}

/// A node of this kind made ready.
pub(super) struct Windowed {
    x: ValueId,
    y: ValueId,
    images: usize,
    channels: usize,
    vertical: WindowAxis,
    horizontal: WindowAxis,
    function: Function,
    activation: Activation,
    kernels: &'static KernelSet,
}

enum Function {
    Pool(PoolFunction),
    /// `[kh, kw, I / groups, O]`, the outputs of a tap side by side, and the bias `[O]`.
    Grouped {
        weights: Vec<f32>,
        bias: Vec<f32>,
        groups: usize,
    },
}

impl Windowed {
    /// The kernel of a node, when everything is f32 and its weights are known.
    pub fn new(
        kind: &Kind<'_>,
        plan: &Plan,
        node: &Node,
        kernels: &'static KernelSet,
    ) -> Result<Option<Windowed>> {
        let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(None) };
        let real = |id: ValueId| plan.graph.ty(id).is_some_and(|ty| ty.dtype == DType::F32);
        let Some(&[images, height, width, channels]) = plan.shape(x) else { return Ok(None) };
        if !real(x) || !real(y) {
            return Ok(None);
        }
        let (function, activation, [vertical, horizontal]) = match kind {
            Kind::Pool2d(pool) => {
                let axis = |axis: usize, size| {
                    let (window, stride) = (pool.window[axis], pool.strides[axis]);
                    let dilation = pool.dilations[axis];
                    WindowAxis::new(pool.padding, axis, size, window, stride, dilation)
                };
                let axes = [axis(0, height)?, axis(1, width)?];
                (Function::Pool(pool.function), pool.activation, axes)
            }
            Kind::Conv2d(conv) => {
                let Some(weights) = node.input(1).and_then(|id| plan.known(id)) else {
                    return Ok(None);
                };
                let &[outputs, kernel_height, kernel_width, depth] = weights.shape() else {
                    return Ok(None);
                };
                let bias = match node.input(2) {
                    None => vec![0.0; outputs],
                    Some(id) => match plan.known(id) {
                        Some(bias) => bias.to_f32().into_owned(),
                        None => return Ok(None),
                    },
                };
                let groups = conv.groups;
                let fits = groups > 0
                    && depth.checked_mul(groups) == Some(channels)
                    && outputs.is_multiple_of(groups)
                    && bias.len() == outputs;
                if !fits || !matches!(weights.dtype(), DType::F32 | DType::F16) {
                    return Ok(None);
                }
                let axis = |axis: usize, size, kernel| {
                    let (stride, dilation) = (conv.strides[axis], conv.dilations[axis]);
                    WindowAxis::new(conv.padding, axis, size, kernel, stride, dilation)
                };
                let axes = [axis(0, height, kernel_height)?, axis(1, width, kernel_width)?];
                let taps = kernel_height * kernel_width * depth;
                let weights = outputs_innermost(&weights.to_f32(), outputs, taps);
                (Function::Grouped { weights, bias, groups }, conv.activation, axes)
            }
        };
        Ok(Some(Windowed {
            x,
            y,
            images,
            channels,
            vertical,
            horizontal,
            function,
            activation,
            kernels,
        }))
    }

    pub fn run(&mut self, slots: &mut Slots, inputs: &[Tensor], states: &[Tensor]) -> Result<()> {
        let this = &*self;
        slots.with_taken(self.y, |slots, y| {
            let x = slots.read(this.x, inputs, states)?.as_slice::<f32>()?;
            let y = y.as_mut_slice::<f32>()?;
            this.compute(x, y).ok_or_else(|| Error::internal("a window past the input"))?;
            this.kernels.activate(this.activation, y);
            Ok(())
        })
    }

    /// `None` when x or y is shorter than planned.
    fn compute(&self, x: &[f32], y: &mut [f32]) -> Option<()> {
        let outputs = match &self.function {
            Function::Pool(_) => self.channels,
            Function::Grouped { bias, .. } => bias.len(),
        };
        let (height, width) = (self.vertical.size, self.horizontal.size);
        let mut pixels = y.chunks_exact_mut(outputs.max(1));
        for image in 0..self.images {
            for row in 0..self.vertical.count {
                for column in 0..self.horizontal.count {
                    if outputs == 0 {
                        continue;
                    }
                    let y = pixels.next()?;
                    self.function.begin(y);
                    let mut count = 0;
                    for (tap_row, at_row) in self.vertical.taps(row) {
                        for (tap_column, at_column) in self.horizontal.taps(column) {
                            let at =
                                ((image * height + at_row) * width + at_column) * self.channels;
                            let x = x.get(at..at + self.channels)?;
                            self.function.add(
                                tap_row * self.horizontal.kernel + tap_column,
                                x,
                                y,
                            )?;
                            count += 1;
                        }
                    }
                    let padded = || {
                        self.vertical.taps_with_padding(row)
                            * self.horizontal.taps_with_padding(column)
                    };
                    self.function.finish(y, count, padded);
                }
            }
        }
        Some(())
    }
}

impl Function {
    fn begin(&self, y: &mut [f32]) {
        match self {
            Function::Pool(PoolFunction::Maximum) => y.fill(f32::MIN),
            Function::Pool(PoolFunction::Average { .. }) => y.fill(0.0),
            Function::Grouped { bias, .. } => y.copy_from_slice(bias),
        }
    }

    /// One tap of a window: x `[C]` onto y `[O]`.
    fn add(&self, tap: usize, x: &[f32], y: &mut [f32]) -> Option<()> {
        match self {
            // NaN wins, as in a reduction.
            Function::Pool(PoolFunction::Maximum) => {
                y.iter_mut()
                    .zip(x)
                    .for_each(|(y, &x)| *y = if x > *y || x.is_nan() { x } else { *y });
            }
            Function::Pool(PoolFunction::Average { .. }) => {
                y.iter_mut().zip(x).for_each(|(y, &x)| *y += x);
            }
            Function::Grouped { weights, groups, .. } => {
                let (depth, outputs) = (x.len() / groups, y.len());
                let units = outputs / groups;
                for k in 0..depth {
                    let first = (tap * depth + k) * outputs;
                    let weights = weights.get(first..first + outputs)?;
                    if units == 1 {
                        let x = x.iter().skip(k).step_by(depth);
                        y.iter_mut().zip(x).zip(weights).for_each(|((y, &x), &w)| *y += x * w);
                        continue;
                    }
                    let groups = y.chunks_exact_mut(units).zip(weights.chunks_exact(units));
                    for ((y, w), x) in groups.zip(x.chunks_exact(depth)) {
                        let x = x.get(k)?;
                        y.iter_mut().zip(w).for_each(|(y, &w)| *y += x * w);
                    }
                }
            }
        }
        Some(())
    }

    fn finish(&self, y: &mut [f32], count: usize, padded: impl Fn() -> usize) {
        if let Function::Pool(PoolFunction::Average { count_padding }) = self {
            let count = if *count_padding { padded() } else { count };
            y.iter_mut().for_each(|y| *y /= count.max(1) as f32);
        }
    }
}

/// Weights `[O, taps]` as `[taps, O]`.
fn outputs_innermost(weights: &[f32], outputs: usize, taps: usize) -> Vec<f32> {
    let at = |index: usize| (index % outputs.max(1)) * taps + index / outputs.max(1);
    (0..outputs * taps).map(|index| weights.get(at(index)).copied().unwrap_or(0.0)).collect()
}
