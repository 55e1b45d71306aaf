//! The int8 LSTM with an int16 cell state, bit-exact with TFLite's "8x8→16" kernel.
//!
//! Scales: `s_x` input, `s_h` output state, `2^k` cell state, `u` gate sums (`2^−12`, or the
//! intermediate's under layer norm), `s_m` gated output. `MBQM` is [`Multiplier::apply`]; `>>r`
//! rounds halves away from zero.
//!
//! ```text
//! b'_in = b − z_x·rowsum(W)  (without b under layer norm)    b'_rec = −z_h·rowsum(R)    b'_proj = q − z_m·rowsum(Q)
//! v = sat16(MBQM(W x + b'_in, s_W s_x / u))
//! v = sat16(v + MBQM(R h + b'_rec, s_R s_h / u))
//! v = sat16(v + MBQM(p ∘ c, 2^k s_p / u))            peephole; i and f see the old c, o the new one
//! v = layer norm(v)
//! f, i, o = logistic(v)   g = tanh(v)                3 integer bits
//! i = 32767 − f                                      when coupled
//! c' = clip(sat16((f·c >>r 15) + (i·g >>r (30 + k))))
//! m = clamp8(MBQM(o·tanh(c'), 2^−30 / s_m) + z_m)    tanh with 15 + k integer bits
//! h' = m      or clip(clamp8(MBQM(Q m + b'_proj, s_Q s_m / s_h) + z_h)) with a projection
//! ```

use super::{Sizes, Step};
use crate::error::{Error, Result};
use crate::eval::fixed_point::{
    Multiplier, inverse_square_root, logistic16, rounding_shift, saturate16, tanh16,
};
use crate::eval::operands::Affine;
use crate::graph::Recurrent;
use crate::graph::op::Activation;
use crate::graph::recurrent::{Cell, Direction, IntegerScales, Lstm, Matrix};
use crate::tensor::Tensor;

/// Int8 weights of one gate: rows, folded bias, factor to the scale of the sum.
struct Rows {
    weights: Vec<i8>,
    columns: usize,
    bias: Vec<i32>,
    factor: Multiplier,
}

impl Rows {
    /// Block `block` of `blocks`; `zero` is the zero point of what the weights act on.
    fn new(
        matrix: &Matrix,
        block: (usize, usize),
        bias: Option<&[i32]>,
        zero: i32,
        factor: f32,
    ) -> Result<Rows> {
        let (columns, count) = (matrix.columns(), matrix.rows() / block.1);
        let weights =
            matrix.data.as_slice::<i8>()?[block.0 * count * columns..][..count * columns].to_vec();
        let folded = (0..count).map(|r| {
            let sum = weights[r * columns..][..columns]
                .iter()
                .fold(0i32, |sum, &w| sum.wrapping_add(w.into()));
            bias.map_or(0, |bias| bias[r]).wrapping_sub(zero.wrapping_mul(sum))
        });
        Ok(Rows {
            bias: folded.collect(),
            weights,
            columns,
            factor: Multiplier::new(factor.into()),
        })
    }

    /// `MBQM(W v + b', factor)` of one row.
    fn product(&self, row: usize, v: &[i8]) -> i32 {
        let weights = &self.weights[row * self.columns..][..self.columns];
        let terms = weights.iter().zip(v).map(|(&w, &v)| i32::from(w) * i32::from(v));
        self.factor.apply(terms.fold(self.bias[row], i32::wrapping_add))
    }
}

/// Int16 weights of one gate with a factor: the peephole.
struct Peephole {
    weights: Vec<i16>,
    factor: Multiplier,
}

/// Integer layer norm of one gate.
struct LayerNorm {
    coefficients: Vec<i16>,
    bias: Vec<i32>,
    /// The coefficients' scale, with 12 more bits.
    factor: Multiplier,
    /// Stands in for a variance below 1.
    least_variance: i32,
}

impl LayerNorm {
    /// ```text
    /// mean = trunc(1024·Σv / n)        var = trunc((Σv²·trunc(2^20/n) − mean²) / 2^20)
    /// y = MBQM(1024·v − mean, 1/√var)  w = y·coef + bias, to 10 bits less
    /// v' = sat16(MBQM(w, coefficient scale · 2^12))
    /// ```
    fn apply(&self, values: &mut [i16]) {
        let count = values.len() as i64;
        if count == 0 {
            return;
        }
        let sum: i64 = values.iter().map(|&v| i64::from(v)).sum();
        let squares: i64 = values.iter().map(|&v| i64::from(v) * i64::from(v)).sum();
        let mean = sum * 1024 / count;
        let variance = ((squares * ((1 << 20) / count) - mean * mean) / (1 << 20)) as i32;
        let inverse =
            inverse_square_root(if variance < 1 { self.least_variance } else { variance });
        for (v, (&coefficient, &bias)) in
            values.iter_mut().zip(self.coefficients.iter().zip(&self.bias))
        {
            let y = inverse.apply(1024 * i32::from(*v) - mean as i32);
            let w = i64::from(y) * i64::from(coefficient) + i64::from(bias);
            let w = (if w > 0 { w + 512 } else { w - 512 }) / 1024;
            *v = saturate16(self.factor.apply(w as i32));
        }
    }
}

/// Everything that makes the sum of one gate.
struct Gate {
    input: Rows,
    recurrent: Rows,
    peephole: Option<Peephole>,
    layer_norm: Option<LayerNorm>,
}

/// A step of the integer LSTM.
pub(super) struct LstmStep {
    sizes: Sizes,
    /// Input (absent when coupled), forget, cell, output.
    gates: [Option<Gate>; 4],
    projection: Option<Rows>,
    /// Factor and zero point of the gated output.
    hidden: (Multiplier, i32),
    /// Zero point of the output state.
    output_zero: i32,
    /// `15 + k`: integer bits of the cell state minus its sign.
    cell_bits: u32,
    cell_clip: Option<i16>,
    projection_clip: Option<i8>,
}

impl LstmStep {
    pub(super) fn new(
        layer: &Recurrent,
        direction: &Direction,
        sizes: &Sizes,
        scales: &IntegerScales,
    ) -> Result<LstmStep> {
        let Cell::Lstm(lstm) = &layer.cell else {
            return Err(Error::unsupported(format!(
                "a {} cell in integer arithmetic",
                layer.cell.name()
            )));
        };
        let weights = &*direction.weights;
        if (lstm.gate, lstm.candidate, lstm.output)
            != (Activation::Sigmoid, Activation::Tanh, Activation::Tanh)
        {
            return Err(Error::unsupported(
                "other activations than logistic and tanh in integer arithmetic",
            ));
        }
        if weights.auxiliary.is_some() || weights.is_diagonal() {
            return Err(Error::unsupported("auxiliary or diagonal weights in integer arithmetic"));
        }
        let k = scales.cell_scale_log2;
        if !(-15..=-9).contains(&k) {
            return Err(Error::unsupported(format!(
                "an integer cell state of scale 2^{k}: only 2^-15 to 2^-9 work"
            )));
        }
        let output =
            Affine::new(scales.output_state.0, scales.output_state.1.into(), "the output state")?;
        let hidden = Affine::new(scales.hidden.0, scales.hidden.1.into(), "the gated output")?;
        if weights.projection.is_none() && hidden != output {
            return Err(Error::graph(
                "without a projection the gated output has the scale of the output state",
            ));
        }
        let gate = |index| build_gate(lstm, direction, sizes, scales, index).map(Some);
        let projection = match &weights.projection {
            Some(projection) => {
                let bias = projection.bias.as_ref().map(Tensor::as_slice::<i32>).transpose()?;
                let factor = block_scale(&projection.weight, 0, 1)? * hidden.scale / output.scale;
                Some(Rows::new(&projection.weight, (0, 1), bias, hidden.zero, factor)?)
            }
            None => None,
        };
        let bound = |clip: Option<f32>, scale: f64| {
            clip.filter(|&clip| clip > 0.0).map(|clip| f64::from(clip) / scale)
        };
        Ok(LstmStep {
            sizes: *sizes,
            gates: [
                if lstm.coupled_input_forget { None } else { gate(0)? },
                gate(1)?,
                gate(2)?,
                gate(3)?,
            ],
            projection,
            hidden: (Multiplier::new(2f64.powi(-30) / f64::from(hidden.scale)), hidden.zero),
            output_zero: output.zero,
            cell_bits: (15 + k) as u32,
            // Casts truncate and saturate.
            cell_clip: bound(lstm.cell_clip, 2f64.powi(k)).map(|bound| bound as i16),
            projection_clip: bound(lstm.projection_clip, output.scale.into())
                .map(|bound| bound as i8),
        })
    }

    /// The finished sum of one gate; `cell` is the state that its peephole sees.
    fn sum(&self, gate: &Gate, row: usize, x: &[i8], h: &[i8], cell: &[i16]) -> Vec<i16> {
        let units = self.sizes.units;
        let add = |v: i16, more: i32| saturate16(i32::from(v).saturating_add(more));
        let mut values: Vec<i16> = (0..units)
            .map(|j| add(saturate16(gate.input.product(j, x)), gate.recurrent.product(j, h)))
            .collect();
        if let Some(peephole) = &gate.peephole {
            // The kernel walks over the flattened [B, H] state in B runs of P: with P < H the
            // weights shift from row to row and the last cells get no term.
            let (width, all) = (self.sizes.output, self.sizes.rows * self.sizes.output);
            for (j, (v, &c)) in values.iter_mut().zip(cell).enumerate() {
                let flat = row * units + j;
                if flat < all
                    && let Some(&p) = peephole.weights.get(flat % width)
                {
                    *v = add(*v, peephole.factor.apply(i32::from(p) * i32::from(c)));
                }
            }
        }
        if let Some(layer_norm) = &gate.layer_norm {
            layer_norm.apply(&mut values);
        }
        values
    }

    fn logistic(&self, gate: &Gate, row: usize, x: &[i8], h: &[i8], cell: &[i16]) -> Vec<i16> {
        self.sum(gate, row, x, h, cell).into_iter().map(|v| logistic16(v, 3)).collect()
    }
}

/// Gate `index` of input, forget, cell, output.
fn build_gate(
    lstm: &Lstm,
    direction: &Direction,
    sizes: &Sizes,
    scales: &IntegerScales,
    index: usize,
) -> Result<Gate> {
    let weights = &*direction.weights;
    let blocks = sizes.blocks;
    let block = index - usize::from(lstm.coupled_input_forget);
    let input = Affine::new(scales.input.0, scales.input.1.into(), "the input")?;
    let output =
        Affine::new(scales.output_state.0, scales.output_state.1.into(), "the output state")?;
    let sum_scale = match weights.layer_norm {
        Some(_) => Affine::new(scales.gates[index], 0, "the sum of a gate")?.scale,
        None => 2f32.powi(-12),
    };
    let bias = match &weights.bias {
        Some(bias) => bias.as_slice::<i32>()?[block * sizes.units..][..sizes.units].to_vec(),
        None => vec![0; sizes.units],
    };
    let added = weights.layer_norm.is_none().then_some(bias.as_slice());
    // All factors are formed in f32 from left to right.
    let input_factor = block_scale(&weights.input, block, blocks)? * input.scale / sum_scale;
    let recurrent_factor =
        block_scale(&weights.recurrent, block, blocks)? * output.scale / sum_scale;
    let peephole = match (&weights.peephole, index) {
        (Some(matrix), 0 | 1 | 3) => {
            // The peephole has no block for the candidate.
            let block = if index == 3 { blocks - 2 } else { block };
            let factor = 2f32.powi(scales.cell_scale_log2)
                * block_scale(matrix, block, blocks - 1)?
                / sum_scale;
            let weights =
                matrix.data.as_slice::<i16>()?[block * sizes.units..][..sizes.units].to_vec();
            Some(Peephole { weights, factor: Multiplier::new(factor.into()) })
        }
        _ => None,
    };
    let layer_norm = match &weights.layer_norm {
        Some(matrix) => {
            let scale = block_scale(matrix, block, blocks)?;
            let factor = Multiplier::new(scale.into());
            Some(LayerNorm {
                coefficients: matrix.data.as_slice::<i16>()?[block * sizes.units..][..sizes.units]
                    .to_vec(),
                bias: bias.clone(),
                factor: Multiplier { shift: factor.shift + 12, ..factor },
                least_variance: ((10_000.0 * scale) as i32).max(1),
            })
        }
        None => None,
    };
    Ok(Gate {
        input: Rows::new(&weights.input, (block, blocks), added, input.zero, input_factor)?,
        recurrent: Rows::new(
            &weights.recurrent,
            (block, blocks),
            None,
            output.zero,
            recurrent_factor,
        )?,
        peephole,
        layer_norm,
    })
}

/// The scale of one of `blocks` equal blocks of rows: each has its own, or all share one.
fn block_scale(matrix: &Matrix, block: usize, blocks: usize) -> Result<f32> {
    let scale = match matrix.scales.as_slice() {
        [scale] => Some(scale),
        scales if scales.len() == blocks => scales.get(block),
        _ => None,
    };
    match scale {
        Some(&scale) if scale.is_finite() && scale > 0.0 => Ok(scale),
        _ => Err(Error::graph(format!(
            "integer weights with the scales {:?} for {blocks} gates",
            matrix.scales
        ))),
    }
}

impl Step for LstmStep {
    type X = i8;
    type H = i8;
    type C = i16;

    fn step(&mut self, row: usize, x: &[i8], _auxiliary: &[i8], h: &mut [i8], c: &mut [i16]) {
        let [input, Some(forget), Some(candidate), Some(output)] = &self.gates else { return };
        let f = self.logistic(forget, row, x, h, c);
        let i = match input {
            Some(input) => self.logistic(input, row, x, h, c),
            None => f.iter().map(|&f| i16::MAX - f).collect(),
        };
        let g: Vec<i16> =
            self.sum(candidate, row, x, h, c).into_iter().map(|v| tanh16(v, 3)).collect();
        for (j, c) in c.iter_mut().enumerate() {
            let kept = rounding_shift(i32::from(f[j]) * i32::from(*c), 15);
            // 30 + k, with cell_bits = 15 + k.
            let added =
                rounding_shift(i32::from(i[j]) * i32::from(g[j]), 15 + self.cell_bits as i32);
            *c = saturate16(kept + added);
            if let Some(bound) = self.cell_clip {
                *c = (*c).clamp(-bound, bound);
            }
        }
        let o = self.logistic(output, row, x, h, c);
        let clamp8 = |x: i32| x.clamp(i8::MIN.into(), i8::MAX.into()) as i8;
        let m: Vec<i8> = o
            .iter()
            .zip(c.iter())
            .map(|(&o, &c)| {
                let product = i32::from(o) * i32::from(tanh16(c, self.cell_bits));
                clamp8(self.hidden.0.apply(product).saturating_add(self.hidden.1))
            })
            .collect();
        match &self.projection {
            None => h.copy_from_slice(&m),
            Some(projection) => {
                for (r, h) in h.iter_mut().enumerate() {
                    *h = clamp8(projection.product(r, &m).saturating_add(self.output_zero));
                    // The bound is in stored units and does not know the zero point.
                    if let Some(bound) = self.projection_clip {
                        *h = (*h).clamp(-bound, bound);
                    }
                }
            }
        }
    }

    fn zero(&self) -> (i8, i16) {
        (self.output_zero as i8, 0)
    }
}
