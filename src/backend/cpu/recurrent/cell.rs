//! One step of the cells with every option, row by row on unpacked gates. The plain LSTM and GRU
//! have fused kernels of their own ([`KernelSet::lstm_rows`], [`KernelSet::gru_rows`]) and do not come
//! here, so the options cost them nothing.

use super::super::simd::KernelSet;
use super::weights::{Vectors, packed_index};
use crate::graph::op::Activation;
use crate::graph::recurrent::{Gru, Lstm};

/// The gates of one row, one after the other, `units` each.
pub(super) fn unpack(packed: &[f32], gates: usize, units: usize, to: &mut [f32]) {
    for gate in 0..gates {
        for (unit, x) in to[gate * units..(gate + 1) * units].iter_mut().enumerate() {
            *x = packed[packed_index(gates, gate, unit)];
        }
    }
}

/// `s += p ∘ v`.
fn add_product(s: &mut [f32], p: &[f32], v: &[f32]) {
    for ((s, p), v) in s.iter_mut().zip(p).zip(v) {
        *s += p * v;
    }
}

/// `s = b + coefficient ∘ (s − mean) / sqrt(variance + 1e-8)`; mean and variance in f64, which
/// costs little and is exact enough for any width.
fn normalize(s: &mut [f32], coefficients: &[f32], bias: &[f32]) {
    let count = s.len().max(1) as f64;
    let mean = s.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let variance = s.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
    let scale = 1.0 / (variance + 1e-8).sqrt();
    for ((x, coefficient), bias) in s.iter_mut().zip(coefficients).zip(bias) {
        *x = bias + coefficient * ((f64::from(*x) - mean) * scale) as f32;
    }
}

/// The LSTM step of one row: equations in [`Lstm`]. `s` holds the gates' sums and is used up; `m`
/// takes the gated output.
pub(super) fn lstm_row(
    lstm: &Lstm,
    vectors: &Vectors,
    gates: &Gates,
    s: &mut [f32],
    c: &mut [f32],
    m: &mut [f32],
) {
    let units = c.len();
    let blocks = if lstm.coupled_input_forget { 3 } else { 4 };
    // Blocks from the end: forget, cell and output are always there.
    let (rest, o) = s.split_at_mut((blocks - 1) * units);
    let (rest, g) = rest.split_at_mut((blocks - 2) * units);
    let (i, f) = rest.split_at_mut((blocks - 3) * units);
    let norm = |s: &mut [f32], gate: usize| {
        if let Some((coefficients, bias)) = &vectors.layer_norm {
            let range = gate * units..(gate + 1) * units;
            normalize(s, &coefficients[range.clone()], &bias[range]);
        }
    };
    let peephole = |k: usize| vectors.peephole.as_ref().map(|p| &p[k * units..(k + 1) * units]);
    if let Some(p) = peephole(blocks - 3) {
        add_product(f, p, c);
    }
    norm(f, blocks - 3);
    gates.activate(lstm.gate, f);
    norm(g, blocks - 2);
    gates.activate(lstm.candidate, g);
    if lstm.coupled_input_forget {
        for ((c, f), g) in c.iter_mut().zip(f.iter()).zip(g.iter()) {
            *c = f * *c + (1.0 - f) * g;
        }
    } else {
        if let Some(p) = peephole(0) {
            add_product(i, p, c);
        }
        norm(i, 0);
        gates.activate(lstm.gate, i);
        for (((c, f), g), i) in c.iter_mut().zip(f.iter()).zip(g.iter()).zip(i.iter()) {
            *c = f * *c + i * g;
        }
    }
    if let Some(bound) = lstm.cell_clip {
        clip(c, bound);
    }
    if let Some(p) = peephole(blocks - 2) {
        add_product(o, p, c);
    }
    norm(o, blocks - 1);
    gates.activate(lstm.gate, o);
    m.copy_from_slice(c);
    gates.kernels.activate(lstm.output, m);
    m.iter_mut().zip(o.iter()).for_each(|(m, o)| *m *= o);
}

/// How the sums of the gates are activated.
pub(super) struct Gates {
    pub kernels: &'static KernelSet,
    /// Bound of the magnitude of what is activated.
    pub clip: Option<f32>,
}

impl Gates {
    /// `activation(clip(s))`, in place.
    pub fn activate(&self, activation: Activation, s: &mut [f32]) {
        if let Some(bound) = self.clip {
            clip(s, bound);
        }
        self.kernels.activate(activation, s);
    }
}

/// Bounds the magnitude; NaN stays.
pub(super) fn clip(x: &mut [f32], bound: f32) {
    for v in x {
        if *v > bound {
            *v = bound;
        } else if *v < -bound {
            *v = -bound;
        }
    }
}

/// First half of the GRU step of one row: gates from the sums of the input (`x`, three gates) and
/// of the recurrent product (`r`: three gates, or the first two when the reset comes before).
/// Leaves update and reset in `x`, and with reset before `r ∘ h` in `reset_h`.
pub(super) fn gru_gates(
    gru: &Gru,
    gates: &Gates,
    x: &mut [f32],
    r: &[f32],
    h: &[f32],
    reset_h: &mut [f32],
) {
    let units = h.len();
    for (x, r) in x.iter_mut().zip(&r[..2 * units]) {
        *x += r;
    }
    gates.activate(gru.gate, &mut x[..2 * units]);
    if !gru.reset_after {
        for ((to, r), h) in reset_h.iter_mut().zip(&x[units..2 * units]).zip(h) {
            *to = r * h;
        }
    }
}

/// Second half: the candidate from its recurrent product `r`, and the new state in `h`.
pub(super) fn gru_state(gru: &Gru, gates: &Gates, x: &mut [f32], r: &[f32], h: &mut [f32]) {
    let units = h.len();
    let (zr, n) = x.split_at_mut(2 * units);
    let (z, reset) = zr.split_at(units);
    for ((n, r), reset) in n.iter_mut().zip(r).zip(reset) {
        *n += if gru.reset_after { reset * r } else { *r };
    }
    gates.activate(gru.candidate, n);
    for ((h, z), n) in h.iter_mut().zip(z).zip(n.iter()) {
        *h = z * *h + (1.0 - z) * n;
    }
}

/// Whether the fused LSTM kernel computes this cell.
pub(super) fn is_plain_lstm(lstm: &Lstm, gate_clip: Option<f32>, vectors: &Vectors) -> bool {
    gate_clip.is_none()
        && lstm.gate == Activation::Sigmoid
        && lstm.candidate == Activation::Tanh
        && lstm.output == Activation::Tanh
        && !lstm.coupled_input_forget
        && lstm.cell_clip.is_none()
        && vectors.peephole.is_none()
        && vectors.layer_norm.is_none()
        && vectors.diagonal.is_none()
}

/// Whether the fused GRU kernel computes this cell.
pub(super) fn is_plain_gru(gru: &Gru, gate_clip: Option<f32>) -> bool {
    gate_clip.is_none()
        && gru.gate == Activation::Sigmoid
        && gru.candidate == Activation::Tanh
        && gru.reset_after
}
