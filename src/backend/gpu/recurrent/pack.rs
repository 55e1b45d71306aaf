//! Weights of recurrent layers in the layouts of the kernels.
//!
//! A quad is the four sums of one unit: LSTM (input, forget, candidate, output); GRU (update,
//! reset, candidate from x, candidate from h); RNN (sum, 0, 0, 0). A lane owns a unit, so that it
//! loads 16 bytes at once and no gate crosses lanes.

use super::Options;
use crate::backend::gpu::weights::{Stored, Storing};
use crate::graph::recurrent::{Cell, CellWeights, Matrix};

/// Which quad entry each gate block goes to.
#[derive(Clone, Copy)]
enum Side {
    Input,
    Recurrent,
}

fn entries(cell: &Cell, side: Side) -> &'static [usize] {
    match (cell, side) {
        (Cell::Lstm(lstm), _) if lstm.coupled_input_forget => &[1, 2, 3],
        (Cell::Lstm(_), _) => &[0, 1, 2, 3],
        (Cell::Gru(_), Side::Input) => &[0, 1, 2],
        (Cell::Gru(_), Side::Recurrent) => &[0, 1, 3],
        (Cell::Rnn(_), _) => &[0],
    }
}

/// `[G·H, K]` as `[K in eights, columns]` quads, or `[G·H]` as `[columns]` quads; zero past H.
fn quads(cell: &Cell, side: Side, matrix: &Matrix, units: usize, columns: usize) -> Vec<f32> {
    let depth = matrix.columns();
    let weights = matrix.to_f32();
    let rows = if matrix.data.shape().len() == 1 { 1 } else { depth.next_multiple_of(8) };
    let mut packed = vec![0.0; rows * columns * 4];
    for (block, &entry) in entries(cell, side).iter().enumerate() {
        for unit in 0..units {
            let row = (block * units + unit) * depth;
            for k in 0..depth {
                packed[(k * columns + unit) * 4 + entry] =
                    weights.get(row + k).copied().unwrap_or(0.0);
            }
        }
    }
    packed
}

/// Input weights `[G·H, I]` as `[I in eights, H]` quads: what the matrix product takes, with four
/// columns a unit.
pub(super) fn input(cell: &Cell, matrix: &Matrix, units: usize) -> Vec<f32> {
    quads(cell, Side::Input, matrix, units, units)
}

/// Recurrent weights `[G·H, P]` as `[H in eights, P in eights, 8]` quads (a diagonal `[G·H]` as
/// `[H in eights, 1, 8]`), stored as asked for. `stacked`: the input weights `[G·H, I]` before
/// them, as more rows.
pub(super) fn recurrent(
    cell: &Cell,
    weights: &CellWeights,
    units: usize,
    stacked: bool,
    storing: Storing,
) -> Stored {
    let columns = units.next_multiple_of(8);
    let mut rows =
        if stacked { quads(cell, Side::Input, &weights.input, units, columns) } else { Vec::new() };
    rows.extend(quads(cell, Side::Recurrent, &weights.recurrent, units, columns));
    let Stored { words, mut scales } = storing.store(&rows, 4 * columns);
    scales.truncate(4 * units);
    Stored { words: blocks(&words, rows.len() / (4 * columns).max(1), columns), scales }
}

/// `[rows, columns]` as `[columns / 8, rows, 8]`, so that what eight neighboring invocations load
/// lies together: the software driver loads memory in order then, and a real device fills whole
/// cache lines.
fn blocks(words: &[u32], rows: usize, columns: usize) -> Vec<u32> {
    let run = 8 * words.len() / (rows * columns).max(1);
    if run == 0 {
        return Vec::new();
    }
    let mut packed = Vec::with_capacity(words.len());
    for block in 0..columns / 8 {
        let column = words.chunks_exact(run).skip(block).step_by(columns / 8);
        column.for_each(|eight| packed.extend_from_slice(eight));
    }
    packed
}

/// A vector of gate blocks `[G·H]` as `[H]` quads.
fn vector(cell: &Cell, side: Side, values: &[f32], units: usize) -> Vec<f32> {
    let mut packed = vec![0.0; units * 4];
    for (block, &entry) in entries(cell, side).iter().enumerate() {
        for unit in 0..units {
            packed[unit * 4 + entry] = values.get(block * units + unit).copied().unwrap_or(0.0);
        }
    }
    packed
}

fn bias_quads(cell: &Cell, weights: &CellWeights, units: usize) -> Vec<f32> {
    let bias = weights.bias.as_ref().map(|b| b.to_f32());
    let mut packed = vector(cell, Side::Input, bias.as_deref().unwrap_or_default(), units);
    if let Some(recurrent) = &weights.recurrent_bias {
        for (quad, b) in packed.chunks_exact_mut(4).zip(recurrent.to_f32().iter()) {
            quad[3] = *b;
        }
    }
    packed
}

/// What the input product starts from: the bias as `[H]` quads; zeros under layer norm, which adds
/// it later.
pub(super) fn bias(cell: &Cell, weights: &CellWeights, units: usize) -> Vec<f32> {
    if weights.layer_norm.is_some() {
        vec![0.0; units * 4]
    } else {
        bias_quads(cell, weights, units)
    }
}

/// Where the parts of [`extras`] start, and how many words there are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extras {
    pub(super) peephole: usize,
    pub(super) norm: usize,
    pub(super) projection: usize,
    pub(super) scales: usize,
    pub(super) words: usize,
}

impl Extras {
    pub(super) fn new(options: &Options, units: usize, width: usize, scaled: bool) -> Extras {
        let norm = if options.peephole { 3 * units } else { 0 };
        let projection = norm
            + match (options.layer_norm, options.stacked) {
                (true, _) => 8 * units,
                (false, true) => 4 * units,
                (false, false) => 0,
            };
        let scales = projection + if options.projection { units * width + width } else { 0 };
        let words = scales + if scaled { 4 * units } else { 0 };
        Extras { peephole: 0, norm, projection, scales, words }
    }
}

/// The rare weights of one direction: peephole `[H]` of (input, forget, output); layer norm `[H]`
/// of (coefficient quad, bias quad), or the bias `[H]` quads of a layer in a stack; projection
/// transposed `[H, P]` and its bias `[P]`; the scales of the recurrent weights as stored.
pub(super) fn extras(
    cell: &Cell,
    weights: &CellWeights,
    (units, width): (usize, usize),
    stacked: bool,
    scales: &[f32],
) -> Vec<f32> {
    let mut packed = Vec::new();
    if let Some(peephole) = &weights.peephole {
        let values = peephole.to_f32();
        let coupled = values.len() < 3 * units;
        for unit in 0..units {
            for gate in 0..3usize {
                // Coupled: the blocks are forget and output.
                let block = if coupled { gate.checked_sub(1) } else { Some(gate) };
                packed
                    .push(block.and_then(|b| values.get(b * units + unit)).copied().unwrap_or(0.0));
            }
        }
    }
    if let Some(norm) = &weights.layer_norm {
        let coefficients = vector(cell, Side::Input, &norm.to_f32(), units);
        for (coefficient, bias) in
            coefficients.chunks_exact(4).zip(bias_quads(cell, weights, units).chunks_exact(4))
        {
            packed.extend_from_slice(coefficient);
            packed.extend_from_slice(bias);
        }
    } else if stacked {
        packed.extend(bias_quads(cell, weights, units));
    }
    if let Some(projection) = &weights.projection {
        let values = projection.weight.to_f32();
        for unit in 0..units {
            packed.extend((0..width).map(|p| values.get(p * units + unit).copied().unwrap_or(0.0)));
        }
        let bias = projection.bias.as_ref().map(|b| b.to_f32());
        packed.extend(
            (0..width).map(|p| bias.as_ref().and_then(|b| b.get(p)).copied().unwrap_or(0.0)),
        );
    }
    packed.extend_from_slice(scales);
    packed
}
