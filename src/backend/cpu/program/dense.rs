//! Products with constant weights: fully connected, matrix product, convolution.

use super::slots::Slots;
use crate::backend::Precision;
use crate::backend::cpu::Resources;
use crate::backend::cpu::simd::{From, KernelSet, Packed, Quantized, Rows, Storage};
use crate::error::{Error, Result};
use crate::graph::op::{Activation, Conv2d, FullyConnected, MatMul};
use crate::graph::{Node, ValueId};
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
    /// `[N, h, w, I]`.
    x: [usize; 4],
    /// Height and width of the kernel, then of the result.
    kernel: [usize; 2],
    result: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
    /// Zeros above and to the left.
    before: [usize; 2],
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
                    return Ok(None);
                }
                let depth = height * width * inputs;
                let rows = vec![0.0; n * out_h * out_w * depth];
                windows =
                    Some(Windows::new(conv, [n, h, w, i], [height, width], [out_h, out_w], rows));
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
    fn new(
        conv: &Conv2d,
        x: [usize; 4],
        kernel: [usize; 2],
        result: [usize; 2],
        rows: Vec<f32>,
    ) -> Windows {
        let mut before = [0; 2];
        if conv.same_padding {
            for axis in 0..2 {
                // The last window's end, past the first one's begin; what is over is halved, the
                // odd one goes to the end.
                let reach = (result[axis].saturating_sub(1)) * conv.strides[axis]
                    + kernel[axis].saturating_sub(1) * conv.dilations[axis]
                    + 1;
                before[axis] = reach.saturating_sub(x[axis + 1]) / 2;
            }
        }
        Windows {
            x,
            kernel,
            result,
            strides: conv.strides,
            dilations: conv.dilations,
            before,
            rows,
        }
    }

    /// One row `[kh, kw, I]` for every element of the result.
    fn gather(&mut self, x: &[f32]) -> Result<&[f32]> {
        let [n, h, w, width] = self.x;
        let mut to = self.rows.chunks_exact_mut(width.max(1));
        for image in 0..n {
            for (row, column) in
                (0..self.result[0]).flat_map(|row| (0..self.result[1]).map(move |c| (row, c)))
            {
                for (ky, kx) in
                    (0..self.kernel[0]).flat_map(|ky| (0..self.kernel[1]).map(move |kx| (ky, kx)))
                {
                    let at_y = (row * self.strides[0] + ky * self.dilations[0])
                        .checked_sub(self.before[0]);
                    let at_x = (column * self.strides[1] + kx * self.dilations[1])
                        .checked_sub(self.before[1]);
                    let Some(to) = to.next() else { return Ok(&self.rows) };
                    match (at_y.filter(|&y| y < h), at_x.filter(|&x| x < w)) {
                        (Some(y), Some(x_at)) => {
                            let at = ((image * h + y) * w + x_at) * width;
                            let from = x
                                .get(at..at + width)
                                .ok_or_else(|| Error::internal("a window past the input"))?;
                            to.copy_from_slice(from);
                        }
                        _ => to.fill(0.0),
                    }
                }
            }
        }
        Ok(&self.rows)
    }
}
