//! Recurrent layers, found where they were written out: in structured loops and in unrolled steps.
//!
//! Four steps, the same for every source: find the cell from its equations ([`algebra`], [`cells`],
//! [`weights`]), find what repeats it ([`loops`], [`unrolled`]), make the recurrent op, and merge
//! what stands around it (the `merge` pass).

mod algebra;
mod cells;
mod loops;
mod order;
mod polynomial;
mod shape_tracer;
mod step;
mod unrolled;
mod weights;

pub(super) use order::sorted;
pub(super) use shape_tracer::ShapeTracer;

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
    let graph = loops::fuse(graph, &mut report);
    Ok((graph, report))
}

/// Makes recurrent ops of unrolled steps.
///
/// # Errors
/// None of its own: steps that is not understood stays.
pub fn unrolled(graph: Graph) -> Result<(Graph, Report)> {
    let mut report = Report::new("unrolled");
    let graph = unrolled::fuse(graph, &mut report);
    Ok((graph, report))
}

/// Declares the results of the nodes from `first` on as inference finds them.
///
/// # Errors
/// The first node that would be invalid: the rewrite that made it is to be dropped.
fn check_nodes(graph: &mut Graph, first: usize) -> std::result::Result<(), step::Reason> {
    let nodes: Vec<_> = graph.nodes.get(first..).unwrap_or_default().to_vec();
    for node in &nodes {
        super::fold::try_refine(graph, node)
            .map_err(|error| format!("`{}` would be invalid: {error}", node.name))?;
    }
    Ok(())
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
