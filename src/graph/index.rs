//! Tables over the values of a graph, and the index of producers and consumers.

use std::ops;

use super::{Graph, Node, NodeId, ValueId};

/// One `T` a value. A value without an entry reads as `T::default()`, so no look-up panics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValueMap<T> {
    entries: Vec<T>,
    default: T,
}

impl<T: Clone + Default> ValueMap<T> {
    /// An entry, `T::default()`, for each value that `graph` has now.
    pub fn new(graph: &Graph) -> Self {
        ValueMap { entries: vec![T::default(); graph.values.len()], default: T::default() }
    }

    /// Sets the entry of a value.
    pub fn set(&mut self, id: ValueId, entry: T) {
        *self.entry(id) = entry;
    }

    /// The entry of a value, made when there was none: a pass may add values after it made the
    /// table.
    pub fn entry(&mut self, id: ValueId) -> &mut T {
        if id.index() >= self.entries.len() {
            self.entries.resize(id.index() + 1, T::default());
        }
        // In range: resized above.
        #[allow(clippy::indexing_slicing)]
        &mut self.entries[id.index()]
    }

    /// Takes the entry of a value and leaves the default.
    pub fn take(&mut self, id: ValueId) -> T {
        self.entries.get_mut(id.index()).map(std::mem::take).unwrap_or_default()
    }
}

impl<T> ValueMap<T> {
    /// Forgets the entries of all but the first `values` values.
    pub fn truncate(&mut self, values: usize) {
        self.entries.truncate(values);
    }

    /// The values that have an entry, with it.
    pub fn iter(&self) -> impl Iterator<Item = (ValueId, &T)> {
        self.entries.iter().enumerate().map(|(position, entry)| (ValueId::at(position), entry))
    }
}

impl<T> ops::Index<ValueId> for ValueMap<T> {
    type Output = T;

    fn index(&self, id: ValueId) -> &T {
        self.entries.get(id.index()).unwrap_or(&self.default)
    }
}

/// Who computes and who reads each value of a graph, as of when it was made.
#[derive(Clone, Debug)]
pub struct Index {
    /// The node that computes a value: `None` for inputs, states and constants.
    pub producers: ValueMap<Option<NodeId>>,
    /// The nodes that read a value, in order, once for each operand that it is.
    pub consumers: ValueMap<Vec<NodeId>>,
}

impl Index {
    pub(super) fn new(graph: &Graph) -> Self {
        let mut consumers: ValueMap<Vec<NodeId>> = ValueMap::new(graph);
        for (id, node) in graph.enumerate() {
            for &input in node.inputs.iter().flatten() {
                consumers.entry(input).push(id);
            }
        }
        Index { producers: graph.producers(), consumers }
    }

    /// The node that computes a value.
    pub fn producer<'g>(&self, graph: &'g Graph, id: ValueId) -> Option<&'g Node> {
        graph.node(self.producers[id]?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::graph::{Op, ValueType};
    use crate::tensor::DType;

    #[test]
    fn an_index_knows_producers_and_consumers_and_a_map_has_every_value() {
        let mut graph = Graph::default();
        let [x, y] = ["x", "y"].map(|name| graph.add_value(name, ValueType::unranked(DType::F32)));
        let node = graph.add_node("same", Op::Reshape, vec![Some(x), Some(x)], vec![Some(y)]);
        let index = graph.index();
        assert_eq!(index.producers[y], Some(node));
        assert_eq!(index.producers[x], None);
        assert_eq!(index.consumers[x], [node, node]);
        assert_eq!(index.producer(&graph, y).unwrap().input(1), Some(x));
        assert_eq!(
            (graph.node(node).unwrap().input(2), graph.node(node).unwrap().output(1)),
            (None, None)
        );

        let mut map: ValueMap<u8> = ValueMap::new(&graph);
        map.set(ValueId(9), 7);
        assert_eq!(
            (
                map[ValueId(9)],
                map[ValueId(3)],
                map[ValueId(1000)],
                map.take(ValueId(9)),
                map[ValueId(9)]
            ),
            (7, 0, 0, 7, 0)
        );
    }
}
