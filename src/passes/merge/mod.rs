//! What stands around recurrent ops goes into them: packs and unpacks cancel, transposes become
//! layouts, reversals directions, and a forward and a backward layer on one input, joined, one
//! bidirectional op.

mod bidirectional;
mod layout;
mod packs;

use super::Report;
use super::budget::Budget;
use crate::error::Result;
use crate::graph::{Graph, Node, NodeId, Op, ValueId, ValueMap};
use crate::passes::values::results;

/// Rounds of the rewrites: one frees what the next needs. Stacks of bidirectional layers take
/// three.
const MOST_ROUNDS: usize = 8;

/// Merges what can be merged.
///
/// # Errors
/// None of its own.
pub fn merge(mut graph: Graph, budget: &mut Budget) -> Result<(Graph, Report)> {
    let mut report = Report::new("merge");
    for _ in 0..MOST_ROUNDS {
        let before = report.made.len();
        graph = packs::cancel(graph, &mut report);
        graph = layout::absorb(graph, &mut report);
        graph = bidirectional::pair(graph, &mut report);
        if report.made.len() == before {
            break;
        }
        // Nodes without use would count as consumers in the next round.
        graph = super::fold::cleanup(graph, budget);
    }
    Ok((graph, report))
}

/// The nodes that read each value; `kept` values are read from outside.
struct Consumers {
    nodes: ValueMap<Vec<NodeId>>,
    kept: ValueMap<bool>,
}

impl Consumers {
    fn new(graph: &Graph) -> Self {
        let mut kept = ValueMap::new(graph);
        results(graph).for_each(|id| kept.set(id, true));
        Consumers { nodes: graph.index().consumers, kept }
    }

    /// The nodes that read a value; `None` when it is also read from outside.
    fn of(&self, value: ValueId) -> Option<&[NodeId]> {
        (!self.kept[value]).then(|| self.nodes[value].as_slice())
    }
}

/// The axis that a node reverses, when it is one.
fn reversed_axis(graph: &Graph, node: &Node) -> Option<usize> {
    if !matches!(node.op, Op::Reverse) {
        return None;
    }
    let axes = graph.constant(node.input(1)?)?.to_i64().ok()?;
    let &[axis] = axes.as_slice() else { return None };
    let rank = graph.get(input(node, 0)?)?.ty.rank();
    match (usize::try_from(axis), rank) {
        (Ok(axis), _) => Some(axis),
        (Err(_), Some(rank)) => usize::try_from(axis + rank as i64).ok(),
        (Err(_), None) => None,
    }
}

/// Whether a node swaps the first two of three axes (or of two, for masks): a transpose, or a
/// reshape where one of them has size 1.
fn swaps(graph: &Graph, node: &Node) -> bool {
    let shape = |id: Option<ValueId>| graph.get(id?)?.ty.known_shape();
    match &node.op {
        Op::Transpose => {
            let axes = node.input(1).and_then(|id| graph.constant(id));
            let axes = axes.and_then(|axes| axes.to_i64().ok());
            matches!(axes.as_deref(), Some([1, 0, 2] | [1, 0]))
        }
        Op::Reshape => match (shape(input(node, 0)), shape(node.output(0))) {
            (Some(from), Some(to)) => match (from.as_slice(), to.as_slice()) {
                (&[a, b, c], &[d, e, f]) => {
                    a == e && b == d && c == f && (a == 1 || b == 1) && a != b
                }
                _ => false,
            },
            _ => false,
        },
        _ => false,
    }
}

fn input(node: &Node, slot: usize) -> Option<ValueId> {
    node.input(slot)
}
