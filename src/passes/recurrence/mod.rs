//! Recurrent layers, found where they were written out: in structured loops and in unrolled chains.
//!
//! Four steps, the same for every source: find the cell from its equations ([`algebra`], [`cells`],
//! [`weights`]), find what repeats it ([`loops`], [`chains`]), make the recurrent op, and merge
//! what stands around it (the `merge` pass).

mod algebra;
mod build;
mod cells;
mod chains;
mod loops;
mod order;
mod sequence;
mod step;
mod sums;
mod trace;
mod turns;
mod variables;
mod weights;

pub(super) use order::sorted;
pub(super) use trace::Trace;

use super::Report;
use crate::error::Result;
use crate::graph::recurrent::Cell;
use crate::graph::{Graph, Recurrent};

/// Makes recurrent ops of structured loops.
///
/// # Errors
/// None of its own: a loop that is not understood stays.
pub fn loops(graph: Graph) -> Result<(Graph, Report)> {
    let mut report = Report::new("loops");
    let graph = loops::fuse(graph, &mut report)?;
    Ok((graph, report))
}

/// Makes recurrent ops of unrolled chains.
///
/// # Errors
/// None of its own: a chain that is not understood stays.
pub fn chains(graph: Graph) -> Result<(Graph, Report)> {
    let mut report = Report::new("chains");
    let graph = chains::fuse(graph, &mut report);
    Ok((graph, report))
}

/// One line about a recurrent op that was made.
fn describe(op: &Recurrent, name: &str) -> String {
    let blocks = op.cell.gate_blocks();
    let weights = op.directions.first().map(|direction| &direction.weights);
    let sizes = weights
        .map(|weights| format!("{} → {} units", weights.input.columns(), weights.units(blocks)));
    let kind = match &op.cell {
        Cell::Lstm(lstm) if lstm.coupled_input_forget => "LSTM (coupled gates)",
        Cell::Lstm(_) => "LSTM",
        Cell::Gru(gru) if gru.reset_after => "GRU (reset after)",
        Cell::Gru(_) => "GRU (reset before)",
        Cell::Rnn(_) => "RNN",
    };
    format!("{kind} `{name}` {}", sizes.unwrap_or_default())
}
