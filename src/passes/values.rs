//! Tables over values that the passes share: what stands for a value, where it comes from, whether
//! it is used.

use crate::graph::{Graph, Node, NodeId, ValueId, ValueMap};

/// The node that computes each value, and which of its results it is.
pub(super) type Sources = ValueMap<Option<(NodeId, usize)>>;

/// The sources of all values: a look-up does not go through the results of a node, of which an
/// unrolled layer may have one for each step.
pub(super) fn sources(graph: &Graph) -> Sources {
    let mut sources = ValueMap::new(graph);
    for (id, node) in graph.enumerate() {
        note_results(&mut sources, id, node);
    }
    sources
}

/// Notes the results of one node.
pub(super) fn note_results(sources: &mut Sources, id: NodeId, node: &Node) {
    for (slot, output) in node.outputs.iter().enumerate() {
        if let Some(output) = *output {
            sources.set(output, Some((id, slot)));
        }
    }
}

/// The value that stands for another one from now on. No chain of look-ups: what is set is read
/// before.
#[derive(Default)]
pub(super) struct Aliases(ValueMap<Option<ValueId>>);

impl Aliases {
    /// The value that stands for another: itself, unless something else was set.
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

/// Whether a mask of axes, as slices have them, names an axis.
pub(super) fn is_set(mask: u32, axis: usize) -> bool {
    let bit = u32::try_from(axis).ok().and_then(|axis| mask.checked_shr(axis));
    bit.is_some_and(|bit| bit & 1 == 1)
}

/// Whether a slice that ends at `end` goes up to the end of an axis: no axis is longer than what
/// exporters write for "to the end".
pub(super) fn reaches_end(end: i64, size: Option<usize>) -> bool {
    end >= i64::from(i32::MAX) || size.is_some_and(|size| end >= 0 && end as usize >= size)
}
