//! Float and hybrid steps. Float computes in f64 from f32 data and rounds the states to f32 once a
//! step. Hybrid computes in f32, with every matrix product of int8 weights as
//! [`hybrid`](super::super::hybrid) says; its activations are rounded once to f32.

use std::ops::{Add, Mul, Range, Sub};

use super::{Sizes, Step};
use crate::error::{Error, Result};
use crate::eval::elementwise::activate;
use crate::eval::hybrid::{HybridMatrix, QuantizedRow};
use crate::graph::Recurrent;
use crate::graph::op::Activation;
use crate::graph::recurrent::{Cell, Direction, Gru, Lstm, Matrix, Rnn};
use crate::tensor::Tensor;

/// Added to the variance before the root.
const LAYER_NORM_EPSILON: f64 = 1e-8;

/// The number type that a step computes in: f64 for float, f32 for hybrid arithmetic.
pub(super) trait Real:
    Copy
    + PartialOrd
    + Default
    + From<f32>
    + Into<f64>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
{
    /// Rounds to this type.
    fn round_from(x: f64) -> Self;
}

impl Real for f64 {
    fn round_from(x: f64) -> f64 {
        x
    }
}

impl Real for f32 {
    fn round_from(x: f64) -> f32 {
        x as f32
    }
}

fn activated<R: Real>(function: Activation, x: R) -> R {
    if function == Activation::Linear { x } else { R::round_from(activate(function, x.into())) }
}

fn to_f32<R: Real>(x: R) -> f32 {
    let x: f64 = x.into();
    x as f32
}

/// Weights under a vector.
enum Product<'a> {
    /// `[rows, columns]`.
    Dense { weights: Vec<f32>, columns: usize },
    /// Each row times its own unit of the vector.
    Diagonal(Vec<f32>),
    /// Int8 with scales.
    Hybrid(HybridMatrix<'a>),
}

impl<'a> Product<'a> {
    /// Float weights, or int8 weights under hybrid arithmetic. A diagonal is dequantized: it has no
    /// sum to quantize for.
    fn new(matrix: &'a Matrix, hybrid: bool) -> Result<Product<'a>> {
        if matrix.data.shape().len() == 1 {
            return Ok(Product::Diagonal(matrix.to_f32()));
        }
        if hybrid && !matrix.data.dtype().is_float() {
            return Ok(Product::Hybrid(HybridMatrix::from_matrix(matrix)?));
        }
        // Weights may be stored in int8 for a float layer: then they have scales.
        if !matrix.data.dtype().is_float() && matrix.scales.is_empty() {
            return Err(Error::graph(format!(
                "float arithmetic with {} weights",
                matrix.data.dtype()
            )));
        }
        Ok(Product::Dense { weights: matrix.to_f32(), columns: matrix.columns() })
    }

    /// `out += W v` for some rows of `W`.
    fn accumulate<R: Real>(&self, rows: Range<usize>, v: &Vector<R>, out: &mut [R]) {
        match (self, &v.quantized) {
            (Product::Hybrid(matrix), Some(quantized)) => {
                let mut sums: Vec<f32> = out.iter().map(|&x| to_f32(x)).collect();
                matrix.accumulate_rows(rows, quantized, &mut sums);
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum.into());
            }
            // `Vector::new` quantizes whenever the arithmetic is hybrid, and hybrid weights exist
            // only then.
            (Product::Hybrid(_), None) => {}
            (Product::Dense { weights, columns }, _) => {
                for (out, row) in out.iter_mut().zip(rows) {
                    let weights = &weights[row * columns..][..*columns];
                    let sum = weights
                        .iter()
                        .zip(&v.values)
                        .fold(R::default(), |sum, (&w, &v)| sum + R::from(w) * v);
                    *out = *out + sum;
                }
            }
            (Product::Diagonal(weights), _) => {
                for (out, row) in out.iter_mut().zip(rows) {
                    *out = *out + R::from(weights[row]) * v.values[row % v.values.len()];
                }
            }
        }
    }
}

/// A vector that matrices act on, with its int8 form under hybrid arithmetic: the products of all
/// gates share one quantization.
struct Vector<R> {
    values: Vec<R>,
    quantized: Option<QuantizedRow>,
}

impl<R: Real> Vector<R> {
    fn new(values: Vec<R>, asymmetric: Option<bool>) -> Vector<R> {
        let quantized = asymmetric.map(|asymmetric| {
            let row: Vec<f32> = values.iter().map(|&v| to_f32(v)).collect();
            QuantizedRow::new(&row, asymmetric)
        });
        Vector { values, quantized }
    }

    fn from_f32(values: &[f32], asymmetric: Option<bool>) -> Vector<R> {
        Vector::new(values.iter().map(|&v| R::from(v)).collect(), asymmetric)
    }
}

/// A step of any cell in float (`R` = f64) or hybrid (`R` = f32) arithmetic.
pub(super) struct CellStep<'a, R> {
    cell: &'a Cell,
    gate_clip: Option<f32>,
    sizes: Sizes,
    /// Hybrid arithmetic: whether the activations' zero point is free.
    asymmetric: Option<bool>,
    input: Product<'a>,
    recurrent: Product<'a>,
    auxiliary: Option<Product<'a>>,
    bias: Vec<R>,
    recurrent_bias: Vec<R>,
    peephole: Option<Vec<R>>,
    layer_norm: Option<Vec<R>>,
    projection: Option<(Product<'a>, Vec<R>)>,
}

impl<'a, R: Real> CellStep<'a, R> {
    /// Prepares a direction; `asymmetric` is given for hybrid arithmetic.
    pub(super) fn new(
        layer: &'a Recurrent,
        direction: &'a Direction,
        sizes: &Sizes,
        asymmetric: Option<bool>,
    ) -> Result<CellStep<'a, R>> {
        let weights = &*direction.weights;
        let product = |matrix: &'a Matrix| Product::new(matrix, asymmetric.is_some());
        let projection = match &weights.projection {
            Some(projection) => Some((
                product(&projection.weight)?,
                vector(projection.bias.as_ref(), sizes.output)?,
            )),
            None => None,
        };
        if let Cell::Gru(gru) = &layer.cell
            && (weights.recurrent_bias.is_some() && !gru.reset_after || weights.auxiliary.is_some())
        {
            return Err(Error::unsupported(
                "a GRU with auxiliary weights, or with a recurrent bias and reset before",
            ));
        }
        let reals = |matrix: &Matrix| matrix.to_f32().into_iter().map(R::from).collect();
        Ok(CellStep {
            cell: &layer.cell,
            gate_clip: layer.gate_clip,
            sizes: *sizes,
            asymmetric,
            input: product(&weights.input)?,
            recurrent: product(&weights.recurrent)?,
            auxiliary: weights.auxiliary.as_ref().map(product).transpose()?,
            bias: vector(weights.bias.as_ref(), sizes.blocks * sizes.units)?,
            recurrent_bias: vector(weights.recurrent_bias.as_ref(), sizes.units)?,
            peephole: weights.peephole.as_ref().map(reals),
            layer_norm: weights.layer_norm.as_ref().map(reals),
            projection,
        })
    }

    fn all_rows(&self) -> Range<usize> {
        0..self.sizes.blocks * self.sizes.units
    }

    fn vector(&self, values: &[f32]) -> Vector<R> {
        Vector::from_f32(values, self.asymmetric)
    }

    /// `out += W x (+ A a)` for all gates.
    fn add_inputs(&self, x: &[f32], auxiliary: &[f32], out: &mut [R]) {
        self.input.accumulate(self.all_rows(), &self.vector(x), out);
        if let Some(weights) = &self.auxiliary {
            weights.accumulate(self.all_rows(), &self.vector(auxiliary), out);
        }
    }

    /// One LSTM step:
    ///
    /// ```text
    /// s_k = b_k + W_k x + R_k h (+ A_k a) (+ p_k ∘ c)           without layer norm
    /// s_k = b_k + coef_k ∘ (s_k − mean) / sqrt(var + 1e-8)      with it, the sum inside without bias
    /// i = gate(s_i)   or 1 − f when coupled      f = gate(s_f)      g = candidate(s_g)
    /// c' = clip(f ∘ c + i ∘ g, cell_clip)        o = gate(s_o)      m = o ∘ output(c')
    /// h' = m          or clip(Q m + q, projection_clip) with a projection
    /// ```
    ///
    /// The peephole of i and f sees the old `c`, that of o the new, clipped one.
    fn lstm(&self, lstm: &Lstm, x: &[f32], auxiliary: &[f32], h: &mut [f32], c: &mut [f32]) {
        let units = self.sizes.units;
        let mut sums = match self.layer_norm {
            Some(_) => vec![R::default(); self.bias.len()],
            None => self.bias.clone(),
        };
        self.add_inputs(x, auxiliary, &mut sums);
        self.recurrent.accumulate(self.all_rows(), &self.vector(h), &mut sums);

        // Blocks of the gates; the peephole has the same without the candidate.
        let (forget, candidate, output) =
            if lstm.coupled_input_forget { (0, 1, 2) } else { (1, 2, 3) };
        let old: Vec<R> = c.iter().map(|&c| R::from(c)).collect();
        let f = self.gate(&mut sums, forget, Some((forget, &old)), lstm.gate);
        let i = if lstm.coupled_input_forget {
            f.iter().map(|&f| R::from(1.0) - f).collect()
        } else {
            self.gate(&mut sums, 0, Some((0, &old)), lstm.gate)
        };
        let g = self.gate(&mut sums, candidate, None, lstm.candidate);
        let new: Vec<R> =
            (0..units).map(|j| clipped(f[j] * old[j] + i[j] * g[j], lstm.cell_clip)).collect();
        let o = self.gate(&mut sums, output, Some((output - 1, &new)), lstm.gate);
        let m: Vec<R> = o.iter().zip(&new).map(|(&o, &c)| o * activated(lstm.output, c)).collect();

        c.iter_mut().zip(&new).for_each(|(c, &new)| *c = to_f32(new));
        let y = match &self.projection {
            None => m,
            Some((weights, bias)) => {
                let mut y = bias.clone();
                weights.accumulate(0..self.sizes.output, &Vector::new(m, self.asymmetric), &mut y);
                y.into_iter().map(|y| clipped(y, lstm.projection_clip)).collect()
            }
        };
        h.iter_mut().zip(y).for_each(|(h, y)| *h = to_f32(y));
    }

    /// Finishes the sums of one gate block: peephole `(its block, the cell state it sees)`, layer
    /// norm, activation.
    fn gate(
        &self,
        sums: &mut [R],
        block: usize,
        peephole: Option<(usize, &[R])>,
        activation: Activation,
    ) -> Vec<R> {
        let units = self.sizes.units;
        let sums = &mut sums[block * units..][..units];
        if let (Some((block, cell)), Some(weights)) = (peephole, &self.peephole) {
            let weights = &weights[block * units..][..units];
            sums.iter_mut().zip(weights.iter().zip(cell)).for_each(|(s, (&p, &c))| *s = *s + p * c);
        }
        if let Some(coefficients) = &self.layer_norm {
            let (coefficients, bias) =
                (&coefficients[block * units..][..units], &self.bias[block * units..][..units]);
            normalize(sums);
            sums.iter_mut()
                .zip(coefficients.iter().zip(bias))
                .for_each(|(s, (&k, &b))| *s = *s * k + b);
        }
        sums.iter().map(|&s| self.activated(activation, s)).collect()
    }

    /// `activation(clip(s, gate_clip))`.
    fn activated(&self, activation: Activation, s: R) -> R {
        activated(activation, clipped(s, self.gate_clip))
    }

    /// One GRU step:
    ///
    /// ```text
    /// z = gate(W_z x + R_z h + b_z)      r = gate(W_r x + R_r h + b_r)
    /// n = candidate(W_n x + b_n + R_n (r ∘ h))             reset before
    /// n = candidate(W_n x + b_n + r ∘ (R_n h + rb_n))      reset after; rb = recurrent_bias
    /// h' = z ∘ h + (1 − z) ∘ n
    /// ```
    fn gru(&self, gru: &Gru, x: &[f32], h: &mut [f32]) {
        let units = self.sizes.units;
        let mut sums = self.bias.clone();
        self.input.accumulate(self.all_rows(), &self.vector(x), &mut sums);
        let state = self.vector(h);
        self.recurrent.accumulate(0..2 * units, &state, &mut sums[..2 * units]);
        let z: Vec<R> = sums[..units].iter().map(|&s| self.activated(gru.gate, s)).collect();
        let r: Vec<R> =
            sums[units..2 * units].iter().map(|&s| self.activated(gru.gate, s)).collect();
        let n = &mut sums[2 * units..];
        if gru.reset_after {
            let mut product = self.recurrent_bias.clone();
            self.recurrent.accumulate(2 * units..3 * units, &state, &mut product);
            n.iter_mut().zip(r.iter().zip(product)).for_each(|(n, (&r, p))| *n = *n + r * p);
        } else {
            let reset = r.iter().zip(&state.values).map(|(&r, &h)| r * h).collect();
            self.recurrent.accumulate(
                2 * units..3 * units,
                &Vector::new(reset, self.asymmetric),
                n,
            );
        }
        for (j, h) in h.iter_mut().enumerate() {
            let n = self.activated(gru.candidate, n[j]);
            *h = to_f32(z[j] * state.values[j] + (R::from(1.0) - z[j]) * n);
        }
    }

    /// One step of the plain cell: `h' = activation(W x + R h (+ A a) + b)`.
    fn rnn(&self, rnn: &Rnn, x: &[f32], auxiliary: &[f32], h: &mut [f32]) {
        let mut sums = self.bias.clone();
        self.add_inputs(x, auxiliary, &mut sums);
        self.recurrent.accumulate(self.all_rows(), &self.vector(h), &mut sums);
        h.iter_mut().zip(sums).for_each(|(h, s)| *h = to_f32(self.activated(rnn.activation, s)));
    }
}

impl<R: Real> Step for CellStep<'_, R> {
    type X = f32;
    type H = f32;
    type C = f32;

    fn step(&mut self, _row: usize, x: &[f32], auxiliary: &[f32], h: &mut [f32], c: &mut [f32]) {
        match self.cell {
            Cell::Lstm(lstm) => self.lstm(lstm, x, auxiliary, h, c),
            Cell::Gru(gru) => self.gru(gru, x, h),
            Cell::Rnn(rnn) => self.rnn(rnn, x, auxiliary, h),
        }
    }

    fn zero(&self) -> (f32, f32) {
        (0.0, 0.0)
    }
}

/// A bias as numbers; absent: zeros.
fn vector<R: Real>(bias: Option<&Tensor>, count: usize) -> Result<Vec<R>> {
    match bias {
        None => Ok(vec![R::default(); count]),
        Some(bias) if bias.dtype().is_float() => {
            Ok(bias.to_f32().iter().map(|&b| R::from(b)).collect())
        }
        Some(bias) => Err(Error::graph(format!("float arithmetic with a {} bias", bias.dtype()))),
    }
}

/// `±bound` when there is a positive bound.
fn clipped<R: Real>(x: R, bound: Option<f32>) -> R {
    match bound {
        Some(bound) if bound > 0.0 => {
            let (low, high) = (R::from(-bound), R::from(bound));
            if x < low {
                low
            } else if x > high {
                high
            } else {
                x
            }
        }
        _ => x,
    }
}

/// `(v − mean) / sqrt(var + 1e-8)` with the population variance.
fn normalize<R: Real>(values: &mut [R]) {
    let count = values.len() as f64;
    let mean = |sum: R| R::round_from(sum.into() / count);
    let average = mean(values.iter().fold(R::default(), |sum, &v| sum + v));
    values.iter_mut().for_each(|v| *v = *v - average);
    let variance = mean(values.iter().fold(R::default(), |sum, &d| sum + d * d));
    let deviation: f64 = (variance + R::round_from(LAYER_NORM_EPSILON)).into();
    let inverse = R::round_from(1.0 / deviation.sqrt());
    values.iter_mut().for_each(|v| *v = *v * inverse);
}
