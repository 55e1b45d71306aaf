//! Products of matrices: fully connected, matrix product, convolution.

use super::elementwise::{activate, activate_all};
use super::hybrid::HybridMatrix;
use super::movement::{self, View, broadcast};
use super::operands::{Operands, broadcast_shape, checked_count};
use super::quantized;
use crate::error::{Error, Result};
use crate::graph::op::{Activation, Conv2d, FullyConnected, MatMul};
use crate::graph::{ValueType, WindowAxis};
use crate::tensor::{DType, Tensor};

/// `Σ a·b` in f64.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Sizes of a fully connected op.
pub(super) struct Dense {
    /// Rows of x.
    pub rows: usize,
    /// `I`.
    pub inputs: usize,
    /// `O`.
    pub outputs: usize,
    /// Shape of y.
    pub shape: Vec<usize>,
}

impl Dense {
    fn new(
        options: &FullyConnected,
        x: &Tensor,
        weights: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Dense> {
        let &[outputs, inputs] = weights.shape() else {
            return Err(Error::input(format!(
                "weights of shape {:?} are no matrix",
                weights.shape()
            )));
        };
        if let Some(bias) = bias.filter(|bias| bias.len() != outputs) {
            return Err(Error::input(format!(
                "a bias of shape {:?} for {outputs} outputs",
                bias.shape()
            )));
        }
        let wrong = || Error::input(format!("x of shape {:?} has no rows of {inputs}", x.shape()));
        let shape = if options.keep_leading_axes {
            let (&last, leading) = x.shape().split_last().ok_or_else(wrong)?;
            if last != inputs {
                return Err(wrong());
            }
            [leading, &[outputs]].concat()
        } else {
            if inputs == 0 || !x.len().is_multiple_of(inputs) {
                return Err(wrong());
            }
            vec![x.len() / inputs, outputs]
        };
        let rows = shape.iter().rev().skip(1).product();
        checked_count(DType::F32, &shape)?;
        Ok(Dense { rows, inputs, outputs, shape })
    }
}

/// Op [`Op::FullyConnected`](crate::graph::Op::FullyConnected): `y = activation(W x + b)` for every
/// row.
pub(super) fn fully_connected(options: &FullyConnected, operands: &Operands<'_>) -> Result<Tensor> {
    let (x, weights) = (operands.tensor(0, "x")?, operands.tensor(1, "weights")?);
    let bias = operands.optional(2);
    let sizes = Dense::new(options, x, weights, bias)?;
    if operands.is_quantized(0) {
        return quantized::fully_connected(options, &sizes, operands);
    }
    if is_hybrid(operands, 1) {
        let weights = HybridMatrix::from_operand(weights, operands.ty(1))?;
        let mut out = initial(bias, &sizes)?;
        let x = x.as_slice::<f32>()?;
        for row in 0..sizes.rows {
            let quantized = weights
                .quantize(&x[row * sizes.inputs..][..sizes.inputs], options.asymmetric_inputs);
            weights.accumulate(&quantized, &mut out[row * sizes.outputs..][..sizes.outputs]);
        }
        return activate_all(options.activation, &Tensor::from_vec(&sizes.shape, out)?);
    }
    let (dtype, x) = float_operand(x, "x")?;
    let (_, weights) = float_operand(weights, "weights")?;
    let bias = bias.map(|bias| float_operand(bias, "bias")).transpose()?;
    let mut out = Vec::with_capacity(sizes.rows * sizes.outputs);
    for row in 0..sizes.rows {
        let x = &x[row * sizes.inputs..][..sizes.inputs];
        for unit in 0..sizes.outputs {
            let sum = dot(&weights[unit * sizes.inputs..][..sizes.inputs], x);
            let bias = bias.as_ref().map_or(0.0, |(_, bias)| bias[unit]);
            out.push(activate(options.activation, sum + bias));
        }
    }
    movement::from_floats(dtype, &sizes.shape, out)
}

/// Every row starts as the bias.
fn initial(bias: Option<&Tensor>, sizes: &Dense) -> Result<Vec<f32>> {
    Ok(match bias {
        Some(bias) => bias.as_slice::<f32>()?.repeat(sizes.rows),
        None => vec![0.0; sizes.rows * sizes.outputs],
    })
}

/// Int8 weights with a scale under f32 activations.
fn is_hybrid(operands: &Operands<'_>, weights: usize) -> bool {
    let is_small =
        |ty: &ValueType| matches!(ty.dtype, DType::I8 | DType::U8) && ty.quantization.is_some();
    operands.ty(weights).is_some_and(is_small)
        && operands.ty(0).is_some_and(|ty| ty.dtype == DType::F32)
}

fn float_operand(x: &Tensor, name: &str) -> Result<(DType, Vec<f64>)> {
    if x.dtype().is_float() {
        Ok((x.dtype(), movement::floats(x)))
    } else {
        Err(Error::graph(format!("{name} is {}, a float type was expected", x.dtype())))
    }
}

/// Sizes of a matrix product, and both operands as stacks of matrices: a `[batches, M, K]`, b
/// `[batches, N, K]` (transposed).
pub(super) struct Product {
    pub a: Tensor,
    pub b: Tensor,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub shape: Vec<usize>,
}

impl Product {
    fn new(options: &MatMul, a: &Tensor, b: &Tensor) -> Result<Product> {
        let wrong = || {
            Error::input(format!("shapes {:?} and {:?} cannot be multiplied", a.shape(), b.shape()))
        };
        let (a_rank, b_rank) = (a.shape().len(), b.shape().len());
        if a_rank < 2 || b_rank < 2 {
            return Err(wrong());
        }
        let (a, b) = (ordered(a, options.transpose_a)?, ordered(b, !options.transpose_b)?);
        let (a_batch, a_matrix) = a.shape().split_at(a_rank - 2);
        let (b_batch, b_matrix) = b.shape().split_at(b_rank - 2);
        if a_matrix[1] != b_matrix[1] {
            return Err(wrong());
        }
        let (m, n, k) = (a_matrix[0], b_matrix[0], a_matrix[1]);
        let batch = broadcast_shape(a_batch, b_batch)?;
        let shape = [&batch[..], &[m, n]].concat();
        checked_count(DType::F32, &shape)?;
        let (a, b) = (
            broadcast(&a, &[&batch[..], &[m, k]].concat())?,
            broadcast(&b, &[&batch[..], &[n, k]].concat())?,
        );
        Ok(Product { a, b, m, n, k, shape })
    }

    /// Calls `f(row of a, row of b)`, both by number, for every element of the result in order.
    pub fn pairs(&self, mut f: impl FnMut(usize, usize)) {
        let batches: usize = self.shape[..self.shape.len() - 2].iter().product();
        for batch in 0..batches {
            for row in batch * self.m..(batch + 1) * self.m {
                for column in batch * self.n..(batch + 1) * self.n {
                    f(row, column);
                }
            }
        }
    }
}

/// x with the last two axes swapped, if asked for.
fn ordered(x: &Tensor, swapped: bool) -> Result<Tensor> {
    if !swapped {
        return Ok(x.clone());
    }
    let mut view = View::whole(x.shape());
    let rank = x.shape().len();
    view.shape.swap(rank - 2, rank - 1);
    view.strides.swap(rank - 2, rank - 1);
    let shape = view.shape.clone();
    view.read(x, &shape)
}

/// Op [`Op::MatMul`](crate::graph::Op::MatMul): `y[m, n] = Σ_k a[m, k] · b[k, n]`.
pub(super) fn matmul(options: &MatMul, operands: &Operands<'_>) -> Result<Tensor> {
    let (a, b) = (operands.tensor(0, "a")?, operands.tensor(1, "b")?);
    let product = Product::new(options, a, b)?;
    let (k, count) = (product.k, product.shape.iter().product());
    if operands.is_quantized(0) {
        return quantized::matmul(&product, operands);
    }
    if is_hybrid(operands, 1) {
        return hybrid_matmul(options, &product, operands);
    }
    if a.dtype().is_float() {
        let ((dtype, a), (_, b)) =
            (float_operand(&product.a, "a")?, float_operand(&product.b, "b")?);
        let mut out = Vec::with_capacity(count);
        product.pairs(|row, column| out.push(dot(&a[row * k..][..k], &b[column * k..][..k])));
        return movement::from_floats(dtype, &product.shape, out);
    }
    let (a, b) = (product.a.to_i64()?, product.b.to_i64()?);
    let mut out = Vec::with_capacity(count);
    product.pairs(|row, column| {
        let terms = a[row * k..][..k].iter().zip(&b[column * k..][..k]);
        out.push(terms.fold(0i64, |sum, (a, b)| sum.wrapping_add(a.wrapping_mul(*b))));
    });
    movement::from_integers(operands.tensor(0, "a")?.dtype(), &product.shape, out)
}

fn hybrid_matmul(options: &MatMul, product: &Product, operands: &Operands<'_>) -> Result<Tensor> {
    let batches: usize = product.shape[..product.shape.len() - 2].iter().product();
    let a = product.a.as_slice::<f32>()?;
    // The rows of all batches under each other; a batch multiplies with its own N rows.
    let stacked = product.b.reshaped(&[batches * product.n, product.k])?;
    let weights = HybridMatrix::from_operand(&stacked, operands.ty(1))?;
    let mut out = vec![0.0f32; product.shape.iter().product()];
    for row in 0..batches * product.m {
        let first = row / product.m * product.n;
        let quantized =
            weights.quantize(&a[row * product.k..][..product.k], options.asymmetric_inputs);
        weights.accumulate_rows(
            first..first + product.n,
            &quantized,
            &mut out[row * product.n..][..product.n],
        );
    }
    Tensor::from_vec(&product.shape, out)
}

/// Sizes of a convolution.
pub(super) struct Convolution {
    images: usize,
    channels: usize,
    /// `O`.
    pub outputs: usize,
    groups: usize,
    vertical: WindowAxis,
    horizontal: WindowAxis,
    /// Shape of y.
    pub shape: Vec<usize>,
}

impl Convolution {
    fn new(
        options: &Conv2d,
        x: &Tensor,
        weights: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Convolution> {
        let wrong = || {
            Error::input(format!(
                "x of shape {:?} does not fit weights of shape {:?}",
                x.shape(),
                weights.shape()
            ))
        };
        let (&[images, h, w, channels], &[outputs, kh, kw, inputs]) = (x.shape(), weights.shape())
        else {
            return Err(wrong());
        };
        let groups = options.groups;
        let divided = groups > 0
            && outputs.is_multiple_of(groups)
            && inputs.checked_mul(groups) == Some(channels);
        if !divided || bias.is_some_and(|bias| bias.len() != outputs) {
            return Err(wrong());
        }
        let axis = |axis: usize, size, kernel| {
            let (stride, dilation) = (options.strides[axis], options.dilations[axis]);
            WindowAxis::new(options.padding, axis, size, kernel, stride, dilation)
        };
        let (vertical, horizontal) = (axis(0, h, kh)?, axis(1, w, kw)?);
        let shape = vec![images, vertical.count, horizontal.count, outputs];
        checked_count(DType::F32, &shape)?;
        Ok(Convolution { images, channels, outputs, groups, vertical, horizontal, shape })
    }

    /// `Σ product(index in x, index in the weights)` for every element of the result in order;
    /// `finish(sum, unit)` takes it.
    pub fn sums<S: Default>(
        &self,
        add: impl Fn(&mut S, usize, usize),
        mut finish: impl FnMut(S, usize),
    ) {
        let (channels, h, w) = (self.channels, self.vertical.size, self.horizontal.size);
        let (kh, kw) = (self.vertical.kernel, self.horizontal.kernel);
        // Of a group; both are 0 where there is no channel or no unit.
        let depth = channels / self.groups.max(1);
        let units = (self.outputs / self.groups.max(1)).max(1);
        for image in 0..self.images {
            for row in 0..self.vertical.count {
                for column in 0..self.horizontal.count {
                    for unit in 0..self.outputs {
                        let mut sum = S::default();
                        for (i, y) in self.vertical.taps(row) {
                            for (j, x) in self.horizontal.taps(column) {
                                let first = unit / units * depth;
                                let pixel = ((image * h + y) * w + x) * channels + first;
                                let weight = ((unit * kh + i) * kw + j) * depth;
                                (0..depth).for_each(|c| add(&mut sum, pixel + c, weight + c));
                            }
                        }
                        finish(sum, unit);
                    }
                }
            }
        }
    }
}

/// Op [`Op::Conv2d`](crate::graph::Op::Conv2d):
/// `y[n, r, c, o] = activation(b[o] + Σ_{i, j, k} x[n, r·s + i·d − pad, c·s + j·d − pad, k] · w[o, i, j, k])`,
/// zeros outside x.
pub(super) fn conv2d(options: &Conv2d, operands: &Operands<'_>) -> Result<Tensor> {
    let (x, weights) = (operands.tensor(0, "x")?, operands.tensor(1, "weights")?);
    let bias = operands.optional(2);
    let sizes = Convolution::new(options, x, weights, bias)?;
    if operands.is_quantized(0) {
        return quantized::conv2d(options, &sizes, operands);
    }
    if is_hybrid(operands, 1) {
        return Err(Error::unsupported("a convolution of float data with int8 weights"));
    }
    let ((dtype, x), (_, weights)) = (float_operand(x, "x")?, float_operand(weights, "weights")?);
    let bias = bias.map(|bias| float_operand(bias, "bias")).transpose()?;
    let mut out = Vec::with_capacity(sizes.shape.iter().product());
    sizes.sums(
        |sum: &mut f64, i, w| *sum += x[i] * weights[w],
        |sum, unit| {
            let bias = bias.as_ref().map_or(0.0, |(_, bias)| bias[unit]);
            out.push(activate(options.activation, sum + bias));
        },
    );
    movement::from_floats(dtype, &sizes.shape, out)
}

/// The activations that a quantized sum can be clamped to.
pub(super) fn clamping(activation: Activation) -> Result<(Option<f32>, Option<f32>)> {
    match activation {
        Activation::Linear => Ok((None, None)),
        Activation::Relu => Ok((Some(0.0), None)),
        Activation::Relu6 => Ok((Some(0.0), Some(6.0))),
        Activation::ReluN1To1 => Ok((Some(-1.0), Some(1.0))),
        Activation::Tanh
        | Activation::Sigmoid
        | Activation::HardSigmoid { .. }
        | Activation::SignBit
        | Activation::Elu { .. }
        | Activation::LeakyRelu { .. }
        | Activation::Selu
        | Activation::Softplus
        | Activation::Softsign
        | Activation::Swish
        | Activation::Gelu { .. }
        | Activation::HardSwish
        | Activation::Exponential => {
            Err(Error::unsupported(format!("{activation:?} fused into a quantized op")))
        }
    }
}
