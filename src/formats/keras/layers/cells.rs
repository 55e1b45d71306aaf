//! The cells of recurrent layers: alone, or stacked inside `RNN`.

use super::recurrent::RECURRENT;
use super::{inner_layer, is_keras3, refuse_foreign};
use crate::error::{Error, Place, Result};
use crate::formats::keras::activation::{Function, read_or};
use crate::formats::keras::builder::{Builder, transposed};
use crate::formats::keras::config::Config;
use crate::formats::keras::snake_case;
use crate::graph::op::Activation;
use crate::graph::recurrent::{Cell, CellWeights, Gru, Lstm, Matrix, Rnn};
use crate::tensor::Tensor;

/// A cell with its weights.
pub(super) struct ReadCell {
    pub cell: Cell,
    pub weights: CellWeights,
    /// Its activations, where they are no single ops and the cell must be written out; those of
    /// `cell` are then linear.
    pub written: Option<Functions>,
}

/// The activations of a cell.
#[derive(Debug)]
pub(super) struct Functions {
    /// Of the gates.
    pub gate: Function,
    /// Of the candidate, and of what an LSTM shows of its cell.
    pub candidate: Function,
}

/// How many states a cell has.
pub(super) fn states_of(cell: &Cell) -> usize {
    if cell.has_cell_state() { 2 } else { 1 }
}

/// The cells of an `RNN` layer: one, or several that run one after the other in each step.
pub(super) fn cells(
    b: &mut Builder,
    config: &Config<'_>,
    scope: &str,
    width: usize,
) -> Result<Vec<ReadCell>> {
    let (class, inner) = inner_layer(config, "cell")?;
    if class != "StackedRNNCells" {
        return Ok(vec![cell(b, class, &inner, scope, width)?]);
    }
    // The order in which states are returned, which Keras 2 could turn round.
    inner.must_be("reverse_state_order", &serde_json::Value::Bool(false))?;
    inner.pass_over(super::COMMON.fields);
    super::policy(b, &inner)?;
    let mut out: Vec<ReadCell> = Vec::new();
    let mut counts = std::collections::HashMap::new();
    let mut width = width;
    for json in inner.list("cells")? {
        let entry = Config::new(json)?;
        refuse_foreign(&entry)?;
        entry.pass_over(&["build_config", "shared_object_id", "name"]);
        let class = entry.string("class_name")?;
        let group = snake_case(class);
        let count: &mut usize = counts.entry(group.clone()).or_default();
        let group = match *count {
            0 => format!("{scope}/cells/{group}"),
            k => format!("{scope}/cells/{group}_{k}"),
        };
        *count += 1;
        let options = entry.object("config")?;
        let read =
            cell(b, class, &options, &group, width).within(|| format!("cell {}", out.len()))?;
        entry.finish()?;
        width = read.weights.units(read.cell.gate_blocks());
        out.push(read);
    }
    if out.is_empty() {
        return Err(Error::malformed("no cells"));
    }
    Ok(out)
}

fn cell(
    b: &mut Builder,
    class: &str,
    config: &Config<'_>,
    scope: &str,
    width: usize,
) -> Result<ReadCell> {
    let kind = match class {
        "LSTMCell" => "LSTM",
        "GRUCell" => "GRU",
        "SimpleRNNCell" => "SimpleRNN",
        other => return Err(Error::unsupported(format!("RNN around the cell {other}"))),
    };
    config.pass_over(super::COMMON.fields);
    config.pass_over(RECURRENT.fields);
    super::policy(b, config)?;
    read_cell(b, kind, config, scope, width)
}

/// The cell of a layer or cell class, with its weights.
pub(super) fn read_cell(
    b: &mut Builder,
    kind: &str,
    config: &Config<'_>,
    scope: &str,
    width: usize,
) -> Result<ReadCell> {
    let units = config.size("units")?;
    let use_bias = config.flag("use_bias", true)?;
    let keras3 = is_keras3(b);
    // Keras 2 before 2.3 wrote neither reset_after nor, for some layers, the gate activation, whose
    // default was the hard sigmoid.
    let default = if keras3 { "sigmoid" } else { "hard_sigmoid" };
    let functions = Functions {
        gate: match kind {
            "SimpleRNN" => Function::Simple(Activation::Linear),
            _ => read_or(config, "recurrent_activation", default, b.major)?,
        },
        candidate: read_or(config, "activation", "tanh", b.major)?,
    };
    let simple = (functions.gate.simple(), functions.candidate.simple());
    let (gate, candidate, written) = match simple {
        (Some(gate), Some(candidate)) => (gate, candidate, None),
        _ => (Activation::Linear, Activation::Linear, Some(functions)),
    };
    let cell = match kind {
        "LSTM" => Cell::Lstm(Lstm {
            gate,
            candidate,
            output: candidate,
            coupled_input_forget: false,
            cell_clip: None,
            projection_clip: None,
        }),
        "GRU" => {
            Cell::Gru(Gru { gate, candidate, reset_after: config.flag("reset_after", keras3)? })
        }
        "SimpleRNN" => Cell::Rnn(Rnn { activation: candidate }),
        other => return Err(Error::internal(format!("no recurrent layer {other}"))),
    };
    let rows =
        units.checked_mul(cell.gate_blocks()).ok_or_else(|| Error::limit("units overflow"))?;
    let input = transposed(&b.weight(scope, 0, &[width, rows], "kernel")?)?;
    let recurrent = transposed(&b.weight(scope, 1, &[units, rows], "recurrent kernel")?)?;
    let (bias, recurrent_bias) = match &cell {
        _ if !use_bias => (None, None),
        Cell::Gru(gru) if gru.reset_after => {
            let (bias, recurrent) =
                split_gru_bias(&b.weight(scope, 2, &[2, rows], "bias")?, units)?;
            (Some(bias), Some(recurrent))
        }
        _ => (Some(b.weight(scope, 2, &[rows], "bias")?), None),
    };
    let weights = CellWeights {
        input: Matrix::float(input),
        recurrent: Matrix::float(recurrent),
        auxiliary: None,
        bias,
        recurrent_bias,
        peephole: None,
        layer_norm: None,
        projection: None,
    };
    Ok(ReadCell { cell, weights, written })
}

/// `[2, 3·H]` (input bias, recurrent bias) → one bias `[3·H]` with both summed for the gates, and
/// the candidate's recurrent bias `[H]`, which the reset gate acts on and which therefore stays
/// apart.
fn split_gru_bias(both: &Tensor, units: usize) -> Result<(Tensor, Tensor)> {
    let (input, recurrent) = both.as_slice::<f32>()?.split_at(3 * units);
    let mut bias = input.to_vec();
    bias.iter_mut().zip(recurrent).take(2 * units).for_each(|(b, r)| *b += r);
    Ok((
        Tensor::from_vec(&[3 * units], bias)?,
        Tensor::from_slice(&[units], recurrent.get(2 * units..).unwrap_or(&[]))?,
    ))
}
