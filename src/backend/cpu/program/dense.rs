//! Products with constant weights: fully connected, matrix product, convolution.

use super::slots::Slots;
use crate::backend::Precision;
use crate::backend::cpu::Resources;
use crate::backend::cpu::simd::{From, KernelSet, Packed, Quantized, Rows, Storage};
use crate::error::{Error, Result};
use crate::graph::op::{Activation, Conv2d, FullyConnected, MatMul};
use crate::graph::{Node, ValueId, WindowAxis};
use crate::plan::Plan;
use crate::tensor::{DType, Tensor};

/// `y[rows, outputs] = activation(a[rows, depth] · W + b)`, where a is x itself or its windows.
pub(super) struct Dense {
    x: ValueId,
    y: ValueId,
    rows: usize,
    packed: Packed,
    outputs: usize,
    bias: Bias,
    activation: Activation,
    windows: Option<Windows>,
    kernels: &'static KernelSet,
    scratch: Quantized,
}

/// The ops that are such products.
pub(super) enum Kind<'a> {
    FullyConnected(&'a FullyConnected),
    MatMul(&'a MatMul),
    Conv2d(&'a Conv2d),
}

/// What the rows of the product start from.
enum Bias {
    Known(Vec<f32>),
    Value(ValueId),
}

/// The windows of a convolution, gathered as rows.
struct Windows {
    images: usize,
    /// `I`.
    channels: usize,
    vertical: WindowAxis,
    horizontal: WindowAxis,
    /// `[N · h' · w', kh · kw · I]`.
    rows: Vec<f32>,
}

impl Dense {
    /// The kernel of a node, when its weights are known and everything is f32.
    pub fn new(
        kind: &Kind<'_>,
        plan: &Plan,
        node: &Node,
        resources: &Resources<'_>,
    ) -> Result<Option<Dense>> {
        let input = |slot: usize| node.input(slot);
        let (Some(x), Some(w), Some(Some(y))) = (input(0), input(1), node.outputs.first().copied())
        else {
            return Ok(None);
        };
        let (Some(weights), Some(x_shape), Some(y_shape)) =
            (plan.known(w), plan.shape(x), plan.shape(y))
        else {
            return Ok(None);
        };
        let real =
            |id: ValueId| plan.graph.get(id).is_some_and(|value| value.ty.dtype == DType::F32);
        let weights_are_floats = matches!(weights.dtype(), DType::F32 | DType::F16);
        if !real(x) || !real(y) || !weights_are_floats || !input(2).is_none_or(real) {
            return Ok(None);
        }
        // Depth and outputs; where the weight of (k, output) is; the activation.
        let mut windows = None;
        let data = weights.to_f32();
        let (depth, outputs, transposed, activation) = match kind {
            Kind::FullyConnected(options) => {
                let &[outputs, inputs] = weights.shape() else { return Ok(None) };
                (inputs, outputs, true, options.activation)
            }
            Kind::MatMul(options) => {
                let (false, &[a, b]) = (options.transpose_a, weights.shape()) else {
                    return Ok(None);
                };
                let (depth, outputs) = if options.transpose_b { (b, a) } else { (a, b) };
                (depth, outputs, options.transpose_b, Activation::Linear)
            }
            Kind::Conv2d(conv) => {
                let &[outputs, height, width, inputs] = weights.shape() else { return Ok(None) };
                let (&[n, h, w, i], &[_, out_h, out_w, _]) = (x_shape, y_shape) else {
                    return Ok(None);
                };
                if i != inputs {
                    // Groups have a kernel of their own: `windowed`.
                    return Ok(None);
                }
                let depth = height * width * inputs;
                let axis = |axis: usize, size, kernel| {
                    let (stride, dilation) = (conv.strides[axis], conv.dilations[axis]);
                    WindowAxis::new(conv.padding, axis, size, kernel, stride, dilation)
                };
                windows = Some(Windows {
                    images: n,
                    channels: inputs,
                    vertical: axis(0, h, height)?,
                    horizontal: axis(1, w, width)?,
                    rows: vec![0.0; n * out_h * out_w * depth],
                });
                (depth, outputs, true, conv.activation)
            }
        };
        let rows = y_shape.iter().product::<usize>() / outputs.max(1);
        if windows.is_none() && x_shape.iter().product::<usize>() != rows * depth {
            return Ok(None);
        }
        let storage = match resources.options.precision {
            Precision::Full => Storage::F32,
            Precision::Int8 => Storage::I8,
            Precision::F16 => Storage::F16,
            Precision::Bf16 => Storage::Bf16,
        };
        let kernels = resources.kernels;
        let width = if rows == 1 { kernels.vector_width } else { kernels.matrix_width };
        let packed = Packed::for_rows(rows, depth, outputs, width, storage, |k, o| {
            data.get(if transposed { o * depth + k } else { k * outputs + o })
                .copied()
                .unwrap_or(0.0)
        });
        let bias = match input(2) {
            None => Bias::Known(vec![0.0; outputs]),
            Some(id) => match plan.known(id) {
                Some(bias) => Bias::Known(bias.to_f32().into_owned()),
                None => Bias::Value(id),
            },
        };
        Ok(Some(Dense {
            x,
            y,
            rows,
            packed,
            outputs,
            bias,
            activation,
            windows,
            kernels,
            scratch: Quantized::default(),
        }))
    }

    pub fn run(&mut self, slots: &mut Slots, inputs: &[Tensor], states: &[Tensor]) -> Result<()> {
        let y_id = self.y;
        slots.with_taken(y_id, |slots, y| self.compute(slots, inputs, states, y.as_mut_slice()?))
    }

    fn compute(
        &mut self,
        slots: &Slots,
        inputs: &[Tensor],
        states: &[Tensor],
        y: &mut [f32],
    ) -> Result<()> {
        let x = slots.read(self.x, inputs, states)?.as_slice::<f32>()?;
        let a = match &mut self.windows {
            Some(windows) => windows.gather(x)?,
            None => x,
        };
        let bias = match &self.bias {
            Bias::Known(bias) => bias,
            Bias::Value(id) => slots.read(*id, inputs, states)?.as_slice::<f32>()?,
        };
        let a = Rows { data: a, stride: self.packed.depth() };
        let panels = 0..self.packed.panels();
        let from = From::Row(bias);
        self.kernels.product(
            self.rows,
            a,
            &self.packed,
            panels,
            false,
            from,
            y,
            self.outputs,
            self.outputs,
            &mut self.scratch,
        )?;
        self.kernels.activate(self.activation, y);
        Ok(())
    }
}

impl Windows {
    /// One row `[kh, kw, I]` for every element of the result; zeros outside x.
    fn gather(&mut self, x: &[f32]) -> Result<&[f32]> {
        let Windows { images, channels, vertical, horizontal, rows } = self;
        let (height, width) = (vertical.size, horizontal.size);
        rows.fill(0.0);
        let taps = vertical.kernel * horizontal.kernel;
        let mut rows_left = rows.chunks_exact_mut((taps * *channels).max(1));
        for image in 0..*images {
            for row in 0..vertical.count {
                for column in 0..horizontal.count {
                    let Some(to) = rows_left.next() else { return Ok(&self.rows) };
                    for (ky, y) in vertical.taps(row) {
                        for (kx, at_x) in horizontal.taps(column) {
                            let at = ((image * height + y) * width + at_x) * *channels;
                            let tap = (ky * horizontal.kernel + kx) * *channels;
                            let from = x.get(at..at + *channels);
                            let to = to.get_mut(tap..tap + *channels);
                            let (Some(from), Some(to)) = (from, to) else {
                                return Err(Error::internal("a window past the input"));
                            };
                            to.copy_from_slice(from);
                        }
                    }
                }
            }
        }
        Ok(&self.rows)
    }
}
