//! The uint8 LSTM step of TFLite's BASIC kernel: activations of scale 1/128 and zero point 128,
//! cell state of scale 1/2048.
//!
//! ```text
//! acc = Σ (v − 128)·(w − w_zero) + bias          over input and state, bias scale = weight scale / 128
//! s = sat16(MBQM(acc, 4096·bias scale))          3 integer bits
//! c' = sat16((σ(s_i) ⊗ tanh(s_g)) >>r 4 + σ(s_f) ⊗ c)                4 integer bits
//! h' = clamp((σ(s_o) ⊗ tanh(c')) >>r 8, −128, 127) + 128
//! ```

use super::{Sizes, Step};
use crate::error::{Error, Result};
use crate::eval::fixed_point::{
    Multiplier, logistic16, product16, rounding_shift, saturate16, tanh16,
};
use crate::graph::Recurrent;
use crate::graph::op::Activation;
use crate::graph::recurrent::{Cell, Direction, Matrix};

/// Stored number of the real 0 in every activation.
const ZERO: u8 = 128;

/// A step of the BASIC kernel.
pub(super) struct BasicStep {
    units: usize,
    /// `[4·H, I]` and `[4·H, H]` less the zero point.
    weights: [Vec<i32>; 2],
    bias: Vec<i32>,
    factor: Multiplier,
}

impl BasicStep {
    pub(super) fn new(
        layer: &Recurrent,
        direction: &Direction,
        sizes: &Sizes,
        zero: i32,
    ) -> Result<BasicStep> {
        let plain = match &layer.cell {
            Cell::Lstm(lstm) => {
                (lstm.gate, lstm.candidate, lstm.output)
                    == (Activation::Sigmoid, Activation::Tanh, Activation::Tanh)
                    && !lstm.coupled_input_forget
                    && lstm.cell_clip.is_none_or(|clip| clip <= 0.0)
            }
            Cell::Gru(_) | Cell::Rnn(_) => false,
        };
        let weights = &*direction.weights;
        let options = [
            weights.auxiliary.is_some(),
            weights.peephole.is_some(),
            weights.layer_norm.is_some(),
            weights.projection.is_some(),
            weights.is_diagonal(),
        ];
        if !plain || options.contains(&true) {
            return Err(Error::unsupported("the uint8 BASIC kernel knows the plain LSTM only"));
        }
        // One scale, stored once or once for each gate.
        let scales = || weights.input.scales.iter().chain(&weights.recurrent.scales);
        let scale = scales().copied().next().unwrap_or(f32::NAN);
        if scales().any(|&other| other != scale) {
            return Err(Error::graph("the uint8 BASIC kernel has one weight scale"));
        }
        if !(scale.is_finite() && scale > 0.0 && (0..=255).contains(&zero)) {
            return Err(Error::graph(format!("weights of scale {scale}, zero point {zero}")));
        }
        let centerd = |matrix: &Matrix| -> Result<Vec<i32>> {
            Ok(matrix.data.as_slice::<u8>()?.iter().map(|&w| i32::from(w) - zero).collect())
        };
        let bias = match &weights.bias {
            Some(bias) => bias.as_slice::<i32>()?.to_vec(),
            None => vec![0; sizes.blocks * sizes.units],
        };
        Ok(BasicStep {
            units: sizes.units,
            weights: [centerd(&weights.input)?, centerd(&weights.recurrent)?],
            bias,
            factor: Multiplier::new(f64::from(4096.0 * (scale / 128.0))),
        })
    }

    /// `s` of unit `j` in gate `block`.
    fn sum(&self, block: usize, j: usize, x: &[u8], h: &[u8]) -> i16 {
        let row = block * self.units + j;
        let product = |weights: &[i32], v: &[u8]| {
            let weights = &weights[row * v.len()..][..v.len()];
            weights
                .iter()
                .zip(v)
                .fold(0i32, |sum, (&w, &v)| sum.wrapping_add(w * (i32::from(v) - i32::from(ZERO))))
        };
        let sum = product(&self.weights[0], x).wrapping_add(product(&self.weights[1], h));
        saturate16(self.factor.apply(sum.wrapping_add(self.bias[row])))
    }
}

impl Step for BasicStep {
    type X = u8;
    type H = u8;
    type C = i16;

    fn step(&mut self, _row: usize, x: &[u8], _auxiliary: &[u8], h: &mut [u8], c: &mut [i16]) {
        let before = h.to_vec();
        for (j, (h, c)) in h.iter_mut().zip(c).enumerate() {
            let [i, f, g, o] = [0, 1, 2, 3].map(|block| self.sum(block, j, x, &before));
            let added = rounding_shift(product16(logistic16(i, 3), tanh16(g, 3)).into(), 4);
            *c = saturate16(added + i32::from(product16(logistic16(f, 3), *c)));
            let y = rounding_shift(product16(logistic16(o, 3), tanh16(*c, 4)).into(), 8);
            *h = (y.clamp(-128, 127) + i32::from(ZERO)) as u8;
        }
    }

    fn zero(&self) -> (u8, i16) {
        (ZERO, 0)
    }
}
