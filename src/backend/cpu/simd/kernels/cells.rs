//! One step of the plain cells, on sums in the packed gate layout.

use super::super::vector::Vector;
use super::UNITS;
use super::functions::{exp_of_gate, sigmoid, store_part, tanh, tanh_parts};

/// One LSTM step of the plain form (sigmoid gates, tanh twice, no option) on packed sums
/// `[rows, blocks, 4, UNITS]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LstmRows {
    pub rows: usize,
    /// Blocks of [`UNITS`] units: first and last (exclusive).
    pub blocks: (usize, usize),
    pub sums: *const f32,
    pub sums_stride: usize,
    /// `[rows, state_stride]`, read and written.
    pub c: *mut f32,
    /// Written.
    pub h: *mut f32,
    pub state_stride: usize,
    /// Written too, when not null; `units` elements a row.
    pub y: *mut f32,
    pub y_stride: usize,
    pub units: usize,
}

/// One GRU step of the plain form (sigmoid gates, tanh candidate, reset after) on packed sums
/// `[rows, blocks, 3, UNITS]` of the input and of the recurrent product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GruRows {
    pub rows: usize,
    pub blocks: (usize, usize),
    pub input: *const f32,
    pub recurrent: *const f32,
    pub sums_stride: usize,
    /// Read and written.
    pub h: *mut f32,
    pub state_stride: usize,
    pub y: *mut f32,
    pub y_stride: usize,
    pub units: usize,
}

/// ```text
/// c' = σ(f)·c + σ(i)·tanh(g)     h = σ(o)·tanh(c')
/// ```
/// with three divisions instead of five: `σ(i)·tanh(g) = p / ((1 + e^−i)·q)` where
/// `tanh g = p / q`. All of c' first, then all of h: two short chains of dependent instructions
/// overlap better than a long one (13.9 against 15.9 ns for eight of 64 units).
#[inline(always)]
pub(crate) unsafe fn lstm_rows<V: Vector>(s: &LstmRows) {
    unsafe {
        let one = V::splat(1.0);
        for row in 0..s.rows {
            let sums = s.sums.add(row * s.sums_stride);
            let (c, h) = (s.c.add(row * s.state_stride), s.h.add(row * s.state_stride));
            let y = s.y.wrapping_add(row * s.y_stride);
            let first = s.blocks.0 * UNITS;
            for unit in (first..s.blocks.1 * UNITS).step_by(V::LANES) {
                let gate =
                    |g: usize| V::load(sums.add((unit / UNITS * 4 + g) * UNITS + unit % UNITS));
                let (p, q) = tanh_parts(gate(2));
                let written = p.div(one.add(exp_of_gate(gate(0))).mul(q));
                let kept = V::load(c.add(unit)).div(one.add(exp_of_gate(gate(1))));
                kept.add(written).store(c.add(unit));
            }
            for unit in (first..s.blocks.1 * UNITS).step_by(V::LANES) {
                let gate = V::load(sums.add((unit / UNITS * 4 + 3) * UNITS + unit % UNITS));
                let (p, q) = tanh_parts(V::load(c.add(unit)));
                let out = p.div(one.add(exp_of_gate(gate)).mul(q));
                out.store(h.add(unit));
                if unit < s.units && !s.y.is_null() {
                    store_part(out, y.add(unit), s.units - unit);
                }
            }
        }
    }
}

/// ```text
/// z = σ(xz + rz)   r = σ(xr + rr)   n = tanh(xn + r·rn)   h' = n + z·(h − n)
/// ```
#[inline(always)]
pub(crate) unsafe fn gru_rows<V: Vector>(s: &GruRows) {
    unsafe {
        for row in 0..s.rows {
            let (x, r) = (s.input.add(row * s.sums_stride), s.recurrent.add(row * s.sums_stride));
            let h = s.h.add(row * s.state_stride);
            let y = s.y.wrapping_add(row * s.y_stride);
            for block in s.blocks.0..s.blocks.1 {
                for lane in (0..UNITS).step_by(V::LANES) {
                    let at = |g: usize| (block * 3 + g) * UNITS + lane;
                    let unit = block * UNITS + lane;
                    let update = sigmoid(V::load(x.add(at(0))).add(V::load(r.add(at(0)))));
                    let reset = sigmoid(V::load(x.add(at(1))).add(V::load(r.add(at(1)))));
                    let new = tanh(reset.fma(V::load(r.add(at(2))), V::load(x.add(at(2)))));
                    let out = update.fma(V::load(h.add(unit)).sub(new), new);
                    out.store(h.add(unit));
                    if unit < s.units && !s.y.is_null() {
                        store_part(out, y.add(unit), s.units - unit);
                    }
                }
            }
        }
    }
}
