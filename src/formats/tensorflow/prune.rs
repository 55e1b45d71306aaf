//! Drops what no result needs.

use crate::graph::{Graph, Port, ValueId};

/// The graph without nodes and constants that no output and no state needs; inputs stay.
pub fn prune(graph: Graph) -> Graph {
    let mut needed = vec![false; graph.values.len()];
    let mut need = |id: ValueId| {
        if let Some(slot) = needed.get_mut(id.index()) {
            *slot = true;
        }
    };
    graph.inputs.iter().chain(&graph.outputs).for_each(|port| need(port.value));
    for state in &graph.states {
        need(state.value);
        need(state.next);
    }
    // Nodes stand after those that they need, so one walk from the end sees every use before its
    // source.
    let mut kept = Vec::with_capacity(graph.nodes.len());
    for node in graph.nodes.into_iter().rev() {
        let wanted = |id: &ValueId| needed.get(id.index()).copied().unwrap_or(false);
        if node.outputs.iter().flatten().any(wanted) {
            for id in node.inputs.iter().chain(&node.outputs).flatten() {
                if let Some(slot) = needed.get_mut(id.index()) {
                    *slot = true;
                }
            }
            kept.push(node);
        }
    }
    kept.reverse();
    let mut places = vec![ValueId(0); needed.len()];
    let mut values = Vec::new();
    for ((value, needed), place) in graph.values.into_iter().zip(&needed).zip(&mut places) {
        if *needed {
            *place = ValueId(values.len() as u32);
            values.push(value);
        }
    }
    let place = |id: ValueId| places.get(id.index()).copied().unwrap_or(id);
    for node in &mut kept {
        node.inputs.iter_mut().chain(&mut node.outputs).flatten().for_each(|id| *id = place(*id));
    }
    let moved = |port: Port| Port { value: place(port.value), ..port };
    let mut states = graph.states;
    for state in &mut states {
        (state.value, state.next) = (place(state.value), place(state.next));
    }
    Graph {
        name: graph.name,
        values,
        nodes: kept,
        inputs: graph.inputs.into_iter().map(moved).collect(),
        outputs: graph.outputs.into_iter().map(moved).collect(),
        states,
        symbols: graph.symbols,
    }
}
