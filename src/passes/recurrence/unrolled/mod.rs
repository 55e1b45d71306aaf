//! Unrolled steps that share their weights to recurrent ops.
//!
//! Every value that may be the new state of a step is matched on its own; steps whose old state is
//! another step's new one are linked, also behind a mask. A first step that a converter has
//! simplified because its state is zero is recognized by what is left of it. The inputs of the steps
//! are packed, their outputs unpacked: the `merge` pass cancels that against how they came about.
//!
//! The parts use each other in this order only: [`masks`], [`zero_state`], [`layer`], [`find`].

mod find;
mod layer;
mod masks;
mod zero_state;

use std::collections::HashMap;

use find::find;

use super::order::sorted;
use crate::graph::{Graph, Op, ValueId};
use crate::passes::{Declined, Report};

/// Makes recurrent ops of the unrolled layers of a graph and of the loops in it.
pub fn fuse(mut graph: Graph, report: &mut Report) -> Graph {
    for node in &mut graph.nodes {
        if let Op::While(inner) = &mut node.op {
            inner.body = fuse(std::mem::take(&mut inner.body), report);
        }
    }
    let layers = find(&graph, report);
    if layers.is_empty() {
        return graph;
    }
    // All at once; only when inputs of one layer turn out to depend on its own outputs, one by one.
    let mut all = graph.clone();
    let first = all.nodes.len();
    let pieces: Vec<_> = layers.iter().filter_map(|layer| layer.emit(&mut all)).collect();
    read_pieces(&mut all, &pieces);
    if let (Ok(()), Some(nodes)) = (super::check_nodes(&mut all, first), sorted(&all)) {
        all.nodes = nodes;
        report.made.extend(layers.iter().map(|layer| layer.line()));
        return all;
    }
    for layer in &layers {
        let mut next = graph.clone();
        let pieces: Vec<_> = layer.emit(&mut next).into_iter().collect();
        read_pieces(&mut next, &pieces);
        let reason = match (super::check_nodes(&mut next, graph.nodes.len()), sorted(&next)) {
            (Err(reason), _) => reason,
            (Ok(()), None) => "the input of a step depends on an output of the same layer".into(),
            (Ok(()), Some(nodes)) => {
                next.nodes = nodes;
                graph = next;
                report.made.push(layer.line());
                continue;
            }
        };
        let what = format!("{} unrolled steps `{}`", layer.steps.len(), layer.name);
        report.declined.push(Declined { what, reason });
    }
    graph
}

/// Packs and joins read the last output from the sequence, as the other outputs, rather than the
/// final state.
fn read_pieces(graph: &mut Graph, pieces: &[(ValueId, ValueId)]) {
    let pieces: HashMap<ValueId, ValueId> = pieces.iter().copied().collect();
    for node in graph.nodes.iter_mut().filter(|node| matches!(node.op, Op::Pack(_) | Op::Concat(_)))
    {
        for input in node.inputs.iter_mut().flatten() {
            *input = pieces.get(input).copied().unwrap_or(*input);
        }
    }
}
