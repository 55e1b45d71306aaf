//! Orders of nodes.

use crate::graph::{Graph, Node};

/// The nodes in an order in which every value is computed before it is used, close to the present
/// one; nodes without results are left out. `None` when there is no such order.
pub fn sorted(graph: &Graph) -> Option<Vec<Node>> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let producers = graph.producers();
    let mut states = vec![State::New; graph.nodes.len()];
    let mut order = Vec::with_capacity(graph.nodes.len());
    let mut stack: Vec<(usize, usize)> = Vec::new();
    for start in 0..graph.nodes.len() {
        if states[start] == State::New && graph.nodes[start].outputs.iter().any(Option::is_some) {
            stack.push((start, 0));
            states[start] = State::Open;
        }
        while let Some((index, next)) = stack.pop() {
            let node = graph.nodes.get(index)?;
            let Some(input) = node.inputs.get(next) else {
                states[index] = State::Done;
                order.push(index);
                continue;
            };
            stack.push((index, next + 1));
            let producer = input.and_then(|id| producers[id]);
            let Some(producer) = producer.map(|id| id.index()) else { continue };
            match states.get(producer)? {
                State::Done => {}
                State::Open => return None,
                State::New => {
                    states[producer] = State::Open;
                    stack.push((producer, 0));
                }
            }
        }
    }
    let mut nodes: Vec<Option<Node>> = graph.nodes.iter().cloned().map(Some).collect();
    order.into_iter().map(|index| nodes.get_mut(index)?.take()).collect()
}
