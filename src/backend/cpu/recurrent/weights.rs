//! Weights of one direction as the kernels read them.
//!
//! Packed gate layout: the units in blocks of [`UNITS`]; in a block the gates follow each other, so
//! that everything a unit needs of one row of sums lies together: `[blocks, gates, UNITS]`. Missing
//! units of the last block have zero weights.

use super::super::simd::{KernelSet, Packed, Storage, UNITS};
use crate::error::{Error, Result};
use crate::graph::recurrent::{Cell, CellWeights, Matrix};
use crate::tensor::DType;

/// What the equations need beside the matrices; vectors by gate, then unit.
#[derive(Default)]
pub(super) struct Vectors {
    /// `[G·H]`, when the recurrent weights are a diagonal.
    pub diagonal: Option<Vec<f32>>,
    /// `[3·H]` or `[2·H]`.
    pub peephole: Option<Vec<f32>>,
    /// `[G·H]` and the bias `[G·H]` that is added after it.
    pub layer_norm: Option<(Vec<f32>, Vec<f32>)>,
}

/// One direction, packed.
pub(super) struct Weights {
    /// `[I, blocks·G·UNITS]`.
    pub input: Packed,
    /// `[A, blocks·G·UNITS]`.
    pub auxiliary: Option<Packed>,
    /// Recurrent products in the order in which they are made: one, or for the reset-before GRU
    /// (update, reset) and (candidate).
    pub recurrent: Vec<Packed>,
    /// First row of the input product, in its layout.
    pub bias: Vec<f32>,
    /// First row of the recurrent product where it is kept apart (GRU), in its layout.
    pub recurrent_bias: Vec<f32>,
    pub vectors: Vectors,
    /// `[H, P]` and its first row.
    pub projection: Option<(Packed, Vec<f32>)>,
    pub units: usize,
    pub output_width: usize,
    pub gates: usize,
}

/// What decides how weights are packed.
pub(super) struct Packing {
    pub kernels: &'static KernelSet,
    pub storage: Storage,
    /// Rows of the input product of one chunk.
    pub input_rows: usize,
    /// Rows of the recurrent product.
    pub step_rows: usize,
}

/// Position of `unit` of gate `gate` in a packed row of `gates` gates.
pub(super) fn packed_index(gates: usize, gate: usize, unit: usize) -> usize {
    (unit / UNITS * gates + gate) * UNITS + unit % UNITS
}

/// Columns of a packed row.
pub(super) fn packed_columns(gates: usize, units: usize) -> usize {
    units.div_ceil(UNITS) * gates * UNITS
}

/// Rows from which a product of int8 takes the panels that are made for many; measured from 16
/// rows on (4 to 8 % faster with AVX2).
const MANY_ROWS: usize = 16;

impl Packing {
    fn width(&self, rows: usize) -> usize {
        if rows == 1 { self.kernels.vector_width } else { self.kernels.matrix_width }
    }

    /// Packs gates `which` of a `[G·H, K]` matrix; `scales` are the file's own, when it stores
    /// bytes.
    fn gates(
        &self,
        matrix: &[f32],
        scales: &[f32],
        which: std::ops::Range<usize>,
        units: usize,
        depth: usize,
        rows: usize,
    ) -> Packed {
        let gates = which.len();
        let row = |column: usize| {
            let unit = column / (gates * UNITS) * UNITS + column % UNITS;
            let gate = which.start + column / UNITS % gates;
            (unit < units).then_some(gate * units + unit)
        };
        let weight =
            |k: usize, column: usize| row(column).map_or(0.0, |row| matrix[row * depth + k]);
        let columns = packed_columns(gates, units);
        let mut width = self.width(rows);
        if self.storage == Storage::I8 {
            if rows >= MANY_ROWS && columns.is_multiple_of(self.kernels.int8_width) {
                width = self.kernels.int8_width;
            }
            let all = matrix.len() / depth.max(1);
            let run = all.div_ceil(scales.len().max(1)).max(1);
            return Packed::bytes(
                depth,
                columns,
                width,
                |c| scales.get(row(c)? / run).copied(),
                weight,
            );
        }
        Packed::for_rows(rows, depth, columns, width, self.storage, weight)
    }
}

/// A `[G·H]` vector in the packed layout.
fn packed_row(vector: Option<&[f32]>, which: std::ops::Range<usize>, units: usize) -> Vec<f32> {
    let gates = which.len();
    let mut row = vec![0.0; packed_columns(gates, units)];
    for (to, gate) in which.enumerate() {
        for unit in 0..units {
            row[packed_index(gates, to, unit)] =
                vector.and_then(|v| v.get(gate * units + unit)).copied().unwrap_or(0.0);
        }
    }
    row
}

/// The scales of a matrix that is stored as int8.
fn own_scales(matrix: &Matrix) -> &[f32] {
    if matrix.data.dtype() == DType::I8 { &matrix.scales } else { &[] }
}

fn sized(matrix: &Matrix, rows: usize, columns: usize, name: &str) -> Result<Vec<f32>> {
    let data = matrix.to_f32();
    if data.len() != rows * columns {
        return Err(Error::graph(format!(
            "{name}: {} elements where [{rows}, {columns}] were expected",
            data.len()
        )));
    }
    Ok(data)
}

impl Weights {
    /// Packs the weights of one direction.
    ///
    /// # Errors
    /// [`InvalidGraph`](crate::ErrorKind::InvalidGraph) when they do not fit together.
    pub fn pack(cell: &Cell, weights: &CellWeights, packing: &Packing) -> Result<Weights> {
        let gates = cell.gate_blocks();
        let units = weights.units(gates);
        let output_width = weights.output_width(gates);
        let rows = gates * units;
        let inputs = weights.input.columns();
        let input = sized(&weights.input, rows, inputs, "input weights")?;
        let auxiliary = match &weights.auxiliary {
            Some(matrix) => {
                let data = sized(matrix, rows, matrix.columns(), "auxiliary weights")?;
                Some(packing.gates(
                    &data,
                    own_scales(matrix),
                    0..gates,
                    units,
                    matrix.columns(),
                    packing.input_rows,
                ))
            }
            None => None,
        };
        let bias = weights.bias.as_ref().map(|bias| bias.to_f32().into_owned());
        let mut vectors = Vectors::default();
        if let Some(peephole) = &weights.peephole {
            vectors.peephole = Some(sized(peephole, (gates - 1) * units, 1, "peephole")?);
        }
        if let Some(coefficients) = &weights.layer_norm {
            let coefficients = sized(coefficients, rows, 1, "layer norm")?;
            vectors.layer_norm =
                Some((coefficients, bias.clone().unwrap_or_else(|| vec![0.0; rows])));
        }
        let first_bias = if vectors.layer_norm.is_some() { None } else { bias.as_deref() };
        let mut recurrent = Vec::new();
        let mut recurrent_bias = Vec::new();
        if weights.is_diagonal() {
            if !cell.has_cell_state() {
                return Err(Error::unsupported(
                    "diagonal recurrent weights of a cell other than LSTM",
                ));
            }
            vectors.diagonal = Some(sized(&weights.recurrent, rows, 1, "recurrent weights")?);
        } else {
            let data = sized(&weights.recurrent, rows, output_width, "recurrent weights")?;
            let groups = match cell {
                Cell::Gru(gru) if !gru.reset_after => vec![(0, 2), (2, 3)],
                Cell::Lstm(_) | Cell::Gru(_) | Cell::Rnn(_) => vec![(0, gates)],
            };
            let pack = |&(first, end): &(usize, usize)| {
                let scales = own_scales(&weights.recurrent);
                packing.gates(&data, scales, first..end, units, output_width, packing.step_rows)
            };
            recurrent = groups.iter().map(pack).collect();
        }
        if let Cell::Gru(gru) = cell {
            let mut all = vec![0.0; rows];
            if let (true, Some(bias)) = (gru.reset_after, &weights.recurrent_bias) {
                let bias = bias.to_f32();
                if bias.len() != units {
                    return Err(Error::graph(format!(
                        "recurrent bias: {} elements, {units} units",
                        bias.len()
                    )));
                }
                all[2 * units..].copy_from_slice(&bias);
            }
            recurrent_bias = packed_row(Some(&all), 0..gates, units);
        }
        let projection = match &weights.projection {
            Some(projection) => {
                let data = sized(&projection.weight, output_width, units, "projection weights")?;
                let width = packing.width(packing.step_rows);
                let weight = |k: usize, p: usize| data[p * units + k];
                let rows = packing.step_rows;
                let packed =
                    Packed::for_rows(rows, units, output_width, width, packing.storage, weight);
                let mut bias = projection
                    .bias
                    .as_ref()
                    .map_or_else(Vec::new, |bias| bias.to_f32().into_owned());
                bias.resize(output_width, 0.0);
                Some((packed, bias))
            }
            None => None,
        };
        Ok(Weights {
            input: packing.gates(
                &input,
                own_scales(&weights.input),
                0..gates,
                units,
                inputs,
                packing.input_rows,
            ),
            auxiliary,
            recurrent,
            bias: packed_row(first_bias, 0..gates, units),
            recurrent_bias,
            vectors,
            projection,
            units,
            output_width,
            gates,
        })
    }
}
