//! The recurrent layer: every weight against one derived set of sizes, every operand against them.

use super::super::recurrent::{
    Arithmetic, Cell, CellWeights, Direction, Layout, Matrix, Merge, Recurrent, Source,
};
use super::super::types::{Dim, ValueType};
use super::{Operand, Operands, dims, ty};
use crate::error::{Error, Place, Result};
use crate::tensor::{DType, Tensor};

/// The sizes of one direction, in the letters of [`Recurrent`].
struct Sizes {
    /// Gate blocks · cells.
    rows: usize,
    cells: usize,
    output: usize,
    input: usize,
    /// Width of the auxiliary input, where the direction has weights for it.
    auxiliary: Option<usize>,
}

/// The element types that an arithmetic works with.
struct Types {
    activation: DType,
    cell_state: DType,
    bias: DType,
    matrices: &'static [DType],
    vectors: &'static [DType],
}

fn types(arithmetic: &Arithmetic) -> Types {
    const FLOAT: &[DType] = &[DType::F32, DType::F16, DType::I8];
    match arithmetic {
        Arithmetic::Float | Arithmetic::Hybrid { .. } => Types {
            activation: DType::F32,
            cell_state: DType::F32,
            bias: DType::F32,
            matrices: FLOAT,
            vectors: &[DType::F32, DType::F16],
        },
        Arithmetic::Integer(_) => Types {
            activation: DType::I8,
            cell_state: DType::I16,
            bias: DType::I32,
            matrices: &[DType::I8],
            vectors: &[DType::I16],
        },
        Arithmetic::IntegerBasic { .. } => Types {
            activation: DType::U8,
            cell_state: DType::I16,
            bias: DType::I32,
            matrices: &[DType::U8],
            vectors: &[],
        },
    }
}

/// Whether the layer has a result in this output slot.
pub(crate) fn has_output(layer: &Recurrent, slot: usize) -> bool {
    let directions = layer.directions.len();
    if slot < Recurrent::h_n(0) {
        return slot == 0 || (directions == 2 && layer.merge == Merge::Separate);
    }
    slot < layer.output_slots() && (layer.cell.has_cell_state() || slot.is_multiple_of(2))
}

/// Checks the layer and its operands; returns a type for every output slot, also for those that
/// [`has_output`] denies.
pub(super) fn recurrent(layer: &Recurrent, operands: &Operands<'_>) -> Result<Vec<ValueType>> {
    let directions = layer.directions.len();
    if !(1..=2).contains(&directions) {
        return Err(Error::graph(format!("expected one or two directions, found {directions}")));
    }
    if layer.merge == Merge::Concat && directions != 2 {
        return Err(Error::graph("merged outputs: expected two directions, found one"));
    }
    options(layer)?;
    let types = types(&layer.arithmetic);
    let mut sizes = Vec::new();
    for (d, direction) in layer.directions.iter().enumerate() {
        sizes.push(weights(layer, direction, &types).within(|| format!("direction {d}"))?);
    }

    let x = operands.get(Recurrent::X, "input")?;
    x.expect_dtype("input", &[types.activation])?;
    let open = [Dim::Unknown; 3];
    let x_dims = x.ranked("input", 3)?.unwrap_or(&open);
    let mut frame = frame(layer.layout, x_dims);
    if let Some(auxiliary) = operands.optional(Recurrent::AUXILIARY) {
        auxiliary_input(layer, &auxiliary, &types, &mut frame)?;
    }
    widths(layer, &sizes, x_dims, operands)?;
    if let Some(mask) = operands.optional(Recurrent::MASK) {
        masking(layer.layout, &mask, &mut frame)?;
    }
    states(layer, &sizes, &types, operands, &mut frame)?;
    Ok(results(layer, &sizes, &types, frame))
}

/// Time steps and batch rows, as exactly as the operands seen so far tell.
struct Frame {
    time: Dim,
    batch: Dim,
}

fn frame(layout: Layout, x: &[Dim]) -> Frame {
    let at = |axis: usize| x.get(axis).copied().unwrap_or(Dim::Unknown);
    match layout {
        Layout::TimeMajor => Frame { time: at(0), batch: at(1) },
        Layout::BatchMajor => Frame { time: at(1), batch: at(0) },
    }
}

impl Frame {
    fn leading(&self, layout: Layout) -> [Dim; 2] {
        match layout {
            Layout::TimeMajor => [self.time, self.batch],
            Layout::BatchMajor => [self.batch, self.time],
        }
    }

    /// Refines by the leading axes of another operand.
    fn join(&mut self, name: &str, layout: Layout, found: &[Dim]) -> Result<()> {
        let other = frame(layout, found);
        match (dims::unify(self.time, other.time), dims::unify(self.batch, other.batch)) {
            (Some(time), Some(batch)) => {
                *self = Frame { time, batch };
                Ok(())
            }
            _ => Err(Error::graph(format!(
                "{name}: expected leading axes {} as those of the input, found shape {}",
                dims::show(Some(&self.leading(layout))),
                dims::show(Some(found))
            ))),
        }
    }

    fn join_batch(&mut self, name: &str, found: Dim) -> Result<()> {
        self.batch = dims::unify(self.batch, found).ok_or_else(|| {
            Error::graph(format!("{name}: expected batch size {}, found {found}", self.batch))
        })?;
        Ok(())
    }
}

fn options(layer: &Recurrent) -> Result<()> {
    if let Some(clip) = layer.gate_clip.filter(|clip| !(clip.is_finite() && *clip > 0.0)) {
        return Err(Error::graph(format!("gate clip: expected a positive number, found {clip}")));
    }
    if layer.gate_clip.is_some() && layer.arithmetic != Arithmetic::Float {
        return Err(Error::graph("gate clip: only float arithmetic has one"));
    }
    if let Cell::Lstm(lstm) = &layer.cell {
        for (name, clip) in
            [("cell clip", lstm.cell_clip), ("projection clip", lstm.projection_clip)]
        {
            if clip.is_some_and(|clip| !(clip.is_finite() && clip > 0.0)) {
                return Err(Error::graph(format!(
                    "{name}: expected a positive number, found {clip:?}"
                )));
            }
        }
    }
    match &layer.arithmetic {
        Arithmetic::Float | Arithmetic::Hybrid { .. } => Ok(()),
        Arithmetic::Integer(scales) => {
            let Cell::Lstm(_) = &layer.cell else {
                return Err(Error::graph(format!(
                    "integer arithmetic: expected an LSTM cell, found {}",
                    layer.cell.name()
                )));
            };
            let all = [scales.input.0, scales.output_state.0, scales.hidden.0];
            match all.iter().find(|scale| !(scale.is_finite() && **scale > 0.0)) {
                Some(scale) => {
                    Err(Error::graph(format!("scale: expected a positive number, found {scale}")))
                }
                None => Ok(()),
            }
        }
        Arithmetic::IntegerBasic { weight_zero_point } => match (&layer.cell, weight_zero_point) {
            (Cell::Lstm(lstm), 0..=255)
                if !lstm.coupled_input_forget && lstm.cell_clip.is_none() =>
            {
                Ok(())
            }
            _ => Err(Error::graph(format!(
                "basic integer arithmetic: expected a plain LSTM and a zero point of uint8, found {} and {weight_zero_point}",
                layer.cell.name()
            ))),
        },
    }
}

/// Derives the sizes of a direction from its input weights and holds every other weight against
/// them.
fn weights(layer: &Recurrent, direction: &Direction, types: &Types) -> Result<Sizes> {
    let w: &CellWeights = &direction.weights;
    let blocks = layer.cell.gate_blocks();
    let rows = w.input.rows();
    if rows == 0 || !rows.is_multiple_of(blocks) {
        return Err(Error::graph(format!(
            "input weights: expected a multiple of {blocks} rows for {blocks} gate blocks, found {rows}"
        )));
    }
    let cells = rows / blocks;
    let output = w.output_width(blocks);
    if output == 0 {
        return Err(Error::graph("projection weights: expected 1 row or more, found 0"));
    }
    let sizes = Sizes {
        rows,
        cells,
        output,
        input: w.input.columns(),
        auxiliary: w.auxiliary.as_ref().map(Matrix::columns),
    };
    expect_matrix("input weights", &w.input, rows, sizes.input, types.matrices)?;
    if w.is_diagonal() {
        if !layer.cell.has_cell_state() || output != cells {
            return Err(Error::graph(format!(
                "diagonal recurrent weights: expected an LSTM without narrowing projection, found {} with {cells} cells and output width {output}",
                layer.cell.name()
            )));
        }
        expect_matrix_shape("recurrent weights", &w.recurrent, &[rows], types.matrices)?;
    } else {
        expect_matrix("recurrent weights", &w.recurrent, rows, output, types.matrices)?;
    }
    if let Some(auxiliary) = &w.auxiliary {
        expect_matrix("auxiliary weights", auxiliary, rows, auxiliary.columns(), types.matrices)?;
    }
    if let Some(bias) = &w.bias {
        expect_vector("bias", bias, rows, types.bias)?;
    }
    recurrent_bias(&layer.cell, w, cells)?;
    lstm_parts(&layer.cell, w, &sizes, types)?;
    Ok(sizes)
}

fn recurrent_bias(cell: &Cell, w: &CellWeights, cells: usize) -> Result<()> {
    match (&w.recurrent_bias, cell) {
        (None, _) => Ok(()),
        (Some(bias), Cell::Gru(gru)) if gru.reset_after => {
            expect_vector("recurrent bias", bias, cells, DType::F32)
        }
        (Some(_), _) => Err(Error::graph(
            "recurrent bias: expected only in a GRU that resets after the product",
        )),
    }
}

/// Peephole, layer norm and projection, which only the LSTM has.
fn lstm_parts(cell: &Cell, w: &CellWeights, sizes: &Sizes, types: &Types) -> Result<()> {
    let Cell::Lstm(lstm) = cell else {
        let extra = [
            ("peephole", w.peephole.is_some()),
            ("layer norm", w.layer_norm.is_some()),
            ("projection", w.projection.is_some()),
        ];
        return match extra.iter().find(|(_, present)| *present) {
            Some((name, _)) => Err(Error::graph(format!(
                "{name}: expected only in an LSTM, found in {}",
                cell.name()
            ))),
            None => Ok(()),
        };
    };
    if types.vectors.is_empty()
        && (w.peephole.is_some() || w.layer_norm.is_some() || w.projection.is_some())
    {
        return Err(Error::graph(
            "basic integer arithmetic: expected no peephole, layer norm or projection",
        ));
    }
    if let Some(peephole) = &w.peephole {
        let blocks: usize = if lstm.coupled_input_forget { 2 } else { 3 };
        let count = blocks
            .checked_mul(sizes.cells)
            .ok_or_else(|| Error::limit("peephole: the size overflows"))?;
        expect_matrix_shape("peephole", peephole, &[count], types.vectors)?;
    }
    if let Some(coefficients) = &w.layer_norm {
        expect_matrix_shape("layer norm", coefficients, &[sizes.rows], types.vectors)?;
    }
    if let Some(projection) = &w.projection {
        expect_matrix(
            "projection weights",
            &projection.weight,
            sizes.output,
            sizes.cells,
            types.matrices,
        )?;
        if let Some(bias) = &projection.bias {
            expect_vector("projection bias", bias, sizes.output, types.bias)?;
        }
    }
    Ok(())
}

/// Checks `[rows, columns]`, the element type and the scales.
pub(super) fn expect_matrix(
    name: &str,
    matrix: &Matrix,
    rows: usize,
    columns: usize,
    dtypes: &[DType],
) -> Result<()> {
    expect_matrix_shape(name, matrix, &[rows, columns], dtypes)
}

fn expect_matrix_shape(
    name: &str,
    matrix: &Matrix,
    shape: &[usize],
    dtypes: &[DType],
) -> Result<()> {
    let data = &matrix.data;
    if data.shape() != shape {
        return Err(Error::graph(format!(
            "{name}: expected shape {shape:?}, found {:?}",
            data.shape()
        )));
    }
    if !dtypes.contains(&data.dtype()) {
        let names: Vec<&str> = dtypes.iter().map(|dtype| dtype.name()).collect();
        return Err(Error::graph(format!(
            "{name}: expected {}, found {}",
            names.join(" or "),
            data.dtype()
        )));
    }
    match (data.dtype().is_float(), matrix.scales.len()) {
        (true, 0) => return Ok(()),
        (true, found) => {
            return Err(Error::graph(format!(
                "{name}: expected no scales for float weights, found {found}"
            )));
        }
        (false, 0) => {
            return Err(Error::graph(format!(
                "{name}: expected scales for {} weights",
                data.dtype()
            )));
        }
        (false, found) if !matrix.rows().is_multiple_of(found) => {
            return Err(Error::graph(format!(
                "{name}: expected scales that divide {} rows evenly, found {found}",
                matrix.rows()
            )));
        }
        (false, _) => {}
    }
    match matrix.scales.iter().find(|scale| !(scale.is_finite() && **scale >= 0.0)) {
        Some(scale) => {
            Err(Error::graph(format!("{name}: expected scales of 0 or more, found {scale}")))
        }
        None => Ok(()),
    }
}

/// Checks `[count]` and the element type.
pub(super) fn expect_vector(name: &str, vector: &Tensor, count: usize, dtype: DType) -> Result<()> {
    if vector.shape() == [count] && vector.dtype() == dtype {
        return Ok(());
    }
    Err(Error::graph(format!(
        "{name}: expected {dtype} [{count}], found {} {:?}",
        vector.dtype(),
        vector.shape()
    )))
}

fn auxiliary_input(
    layer: &Recurrent,
    auxiliary: &Operand<'_>,
    types: &Types,
    frame: &mut Frame,
) -> Result<()> {
    auxiliary.expect_dtype("auxiliary input", &[types.activation])?;
    let used = layer
        .directions
        .iter()
        .any(|d| d.source == Source::Auxiliary || d.weights.auxiliary.is_some());
    if !used {
        return Err(Error::graph("auxiliary input: no direction has weights for it"));
    }
    match auxiliary.ranked("auxiliary input", 3)? {
        Some(found) => frame.join("auxiliary input", layer.layout, found),
        None => Ok(()),
    }
}

/// Every direction's input weights against the operand that they act on.
fn widths(layer: &Recurrent, sizes: &[Sizes], x: &[Dim], operands: &Operands<'_>) -> Result<()> {
    let auxiliary = operands.optional(Recurrent::AUXILIARY);
    for (d, (direction, sizes)) in layer.directions.iter().zip(sizes).enumerate() {
        let place = || format!("direction {d}");
        let (source_width, cross_width) = match direction.source {
            Source::X => (None, sizes.auxiliary),
            Source::Auxiliary if sizes.auxiliary.is_some() => {
                return Err(Error::graph(
                    "auxiliary weights: the input weights act on the auxiliary input already",
                ))
                .within(place);
            }
            Source::Auxiliary => (Some(sizes.input), None),
        };
        if direction.source == Source::X {
            dims::expect("input", x, 2, sizes.input, "columns of the input weights")
                .within(place)?;
        }
        if let Some(width) = source_width.or(cross_width) {
            let Some(auxiliary) = auxiliary else {
                return Err(Error::graph("auxiliary input: expected by the weights, found none"))
                    .within(place);
            };
            if let Some(found) = auxiliary.dims() {
                dims::expect("auxiliary input", found, 2, width, "columns of its weights")
                    .within(place)?;
            }
        }
    }
    Ok(())
}

/// Lengths `[B]` of an integer type, or a mask of bool with the leading axes of the input.
fn masking(layout: Layout, mask: &Operand<'_>, frame: &mut Frame) -> Result<()> {
    if mask.dtype() == DType::Bool {
        return match mask.ranked("mask", 2)? {
            Some(found) => frame.join("mask", layout, found),
            None => Ok(()),
        };
    }
    mask.expect_dtype(
        "lengths or mask",
        &[DType::I32, DType::I64, DType::I16, DType::I8, DType::U8],
    )?;
    match mask.ranked("lengths", 1)? {
        Some(&[count]) => frame.join_batch("lengths", count),
        _ => Ok(()),
    }
}

/// The initial states `[B, P]` and `[B, H]`.
fn states(
    layer: &Recurrent,
    sizes: &[Sizes],
    types: &Types,
    operands: &Operands<'_>,
    frame: &mut Frame,
) -> Result<()> {
    for (d, sizes) in sizes.iter().enumerate() {
        let slots = [
            (Recurrent::h0(d), "output state", types.activation, sizes.output),
            (Recurrent::c0(d), "cell state", types.cell_state, sizes.cells),
        ];
        for (slot, name, dtype, width) in slots {
            let Some(state) = operands.optional(slot) else {
                continue;
            };
            let name = format!("{name} of direction {d}");
            if slot == Recurrent::c0(d) && !layer.cell.has_cell_state() {
                return Err(Error::graph(format!(
                    "{name}: expected only in an LSTM, found in {}",
                    layer.cell.name()
                )));
            }
            state.expect_dtype(&name, &[dtype])?;
            if let Some(found) = state.ranked(&name, 2)? {
                dims::expect(&name, found, 1, width, "width")?;
                frame.join_batch(&name, found[0])?;
            }
        }
    }
    Ok(())
}

fn results(layer: &Recurrent, sizes: &[Sizes], types: &Types, frame: Frame) -> Vec<ValueType> {
    let [first, second] = frame.leading(layer.layout);
    let sequence =
        |width: usize| ty(types.activation, Some(vec![first, second, Dim::Known(width)]));
    let width = |d: usize| sizes.get(d).map_or(0, |sizes| sizes.output);
    // Widths are those of tensors that exist, far from overflow; saturation keeps the sum total.
    let merged = width(0).saturating_add(width(1));
    let mut results = match layer.merge {
        Merge::Concat => vec![sequence(merged), sequence(0)],
        Merge::Separate => vec![sequence(width(0)), sequence(width(1))],
    };
    for sizes in sizes {
        results.push(ty(types.activation, Some(vec![frame.batch, Dim::Known(sizes.output)])));
        results.push(ty(types.cell_state, Some(vec![frame.batch, Dim::Known(sizes.cells)])));
    }
    results
}
