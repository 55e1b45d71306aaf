//! Values that are read as others, while a pass walks over a graph.

use crate::graph::{Graph, Node, ValueId, ValueMap};

/// The value that stands for another one from now on. No chain of look-ups: what is set is read
/// before.
#[derive(Default)]
pub(super) struct Aliases(ValueMap<Option<ValueId>>);

impl Aliases {
    /// What stands for a value: itself, unless something else was set.
    pub fn read(&self, id: ValueId) -> ValueId {
        self.0[id].unwrap_or(id)
    }

    /// From now on `to` stands for `id`.
    pub fn set(&mut self, id: ValueId, to: ValueId) {
        let to = self.read(to);
        self.0.set(id, Some(to));
    }

    /// Replaces the operands of a node.
    pub fn read_operands(&self, node: &mut Node) {
        node.inputs.iter_mut().flatten().for_each(|id| *id = self.read(*id));
    }

    /// Replaces what the outputs and states of a graph name.
    pub fn read_results(&self, graph: &mut Graph) {
        graph.outputs.iter_mut().for_each(|port| port.value = self.read(port.value));
        graph.states.iter_mut().for_each(|state| state.next = self.read(state.next));
    }
}

/// The values that leave a graph: outputs, and what states become.
pub(super) fn results(graph: &Graph) -> impl Iterator<Item = ValueId> + '_ {
    let outputs = graph.outputs.iter().map(|port| port.value);
    outputs.chain(graph.states.iter().map(|state| state.next))
}

/// Whether each value is read by a node or leaves the graph.
pub(super) fn used(graph: &Graph) -> ValueMap<bool> {
    let mut used = ValueMap::new(graph);
    for &id in graph.nodes.iter().flat_map(|node| node.inputs.iter().flatten()) {
        used.set(id, true);
    }
    results(graph).for_each(|id| used.set(id, true));
    used
}
