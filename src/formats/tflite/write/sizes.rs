//! Which sizes of a graph are the same for every run, and which follow the caller's inputs.
//!
//! The graph is planned twice, with two different values for everything that the caller may choose:
//! what is the same in both plans is fixed and can be written down, what differs must be computed
//! by the model when it runs.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::graph::{Graph, Op, ValueId};
use crate::plan::Plan;
use crate::tensor::Tensor;

/// The two values of an open size: primes, so that no product or quotient of sizes makes them
/// alike, and larger than the steps that models cut out of a sequence.
const PROBES: [usize; 2] = [61, 67];

/// A shape: `None` for a size that the caller chooses.
pub(super) type Shape = Vec<Option<usize>>;

/// What is known of the values of a graph.
pub(super) struct Sizes {
    shapes: Vec<Option<Shape>>,
    known: Vec<Option<Tensor>>,
    /// By node: whether it has to be written.
    needed: Vec<bool>,
}

impl Sizes {
    pub(super) fn new(graph: &Arc<Graph>, inputs: &[Shape]) -> Result<Self> {
        let [first, second] = PROBES.map(|probe| {
            let shapes: Vec<Vec<usize>> = inputs
                .iter()
                .map(|shape| shape.iter().map(|size| size.unwrap_or(probe)).collect())
                .collect();
            Plan::new(graph, &shapes)
        });
        let (first, second) = (first?, second?);
        let mut shapes = Vec::with_capacity(graph.values.len());
        let mut known = Vec::with_capacity(graph.values.len());
        for (a, b) in first.values.iter().zip(&second.values) {
            shapes.push(match (&a.shape, &b.shape) {
                (Some(a), Some(b)) if a.len() == b.len() => {
                    Some(a.iter().zip(b).map(|(a, b)| (a == b).then_some(*a)).collect())
                }
                _ => None,
            });
            known.push(match (&a.known, &b.known) {
                (Some(a), Some(b)) if a == b => Some(a.clone()),
                _ => None,
            });
        }
        let mut sizes = Sizes { shapes, known, needed: Vec::new() };
        sizes.needed = sizes.find_needed(graph);
        Ok(sizes)
    }

    /// Walks back from what the caller gets: a node is needed when somebody reads a result of it
    /// that is not known.
    fn find_needed(&self, graph: &Graph) -> Vec<bool> {
        let mut wanted = vec![false; graph.values.len()];
        let want = |value: ValueId, wanted: &mut Vec<bool>| {
            if self.known(value).is_none()
                && let Some(slot) = wanted.get_mut(value.index())
            {
                *slot = true;
            }
        };
        for port in &graph.outputs {
            want(port.value, &mut wanted);
        }
        for state in &graph.states {
            want(state.next, &mut wanted);
        }
        let mut needed = vec![false; graph.nodes.len()];
        for (node, needed) in graph.nodes.iter().zip(&mut needed).rev() {
            *needed =
                node.outputs.iter().flatten().any(|value| wanted.get(value.index()) == Some(&true));
            if *needed {
                node.inputs.iter().flatten().for_each(|value| want(*value, &mut wanted));
            }
        }
        needed
    }

    pub(super) fn is_needed(&self, node: usize) -> bool {
        self.needed.get(node) == Some(&true)
    }

    /// The shape of a value, when its rank is known.
    pub(super) fn shape(&self, value: ValueId) -> Option<&Shape> {
        self.shapes.get(value.index())?.as_ref()
    }

    /// The shape of a value that must be the same for every run.
    pub(super) fn fixed(&self, value: ValueId, what: &str) -> Result<Vec<usize>> {
        let shape = self
            .shape(value)
            .ok_or_else(|| Error::unsupported(format!("the shape of {what} depends on data")))?;
        shape.iter().copied().collect::<Option<Vec<usize>>>().ok_or_else(|| {
            Error::unsupported(format!("{what} has an open size {shape:?}: give a size for it"))
        })
    }

    /// The elements of a value that are the same for every run.
    pub(super) fn known(&self, value: ValueId) -> Option<&Tensor> {
        self.known.get(value.index())?.as_ref()
    }

    /// The shapes that the variables of a loop have in every round: sizes that change from round to
    /// round are open.
    pub(super) fn loop_variables(
        &self,
        inputs: &[Option<ValueId>],
        outputs: &[Option<ValueId>],
    ) -> Result<Vec<Shape>> {
        let mut shapes = Vec::with_capacity(inputs.len());
        for (slot, input) in inputs.iter().enumerate() {
            let before = input.and_then(|value| self.shape(value));
            let before = before
                .ok_or_else(|| Error::unsupported("a loop variable whose rank depends on data"))?;
            let after = outputs.get(slot).copied().flatten().map(|value| self.shape(value));
            shapes.push(match after {
                // Nobody reads the last value; it may still change from round to round.
                None => before.clone(),
                Some(Some(after)) if after.len() == before.len() => {
                    before.iter().zip(after).map(|(a, b)| if a == b { *a } else { None }).collect()
                }
                Some(_) => vec![None; before.len()],
            });
        }
        Ok(shapes)
    }
}

/// Loops in a graph and in the loops of it.
pub(crate) fn count_loops(graph: &Graph) -> usize {
    graph
        .nodes
        .iter()
        .map(|node| {
            let Op::While(lo) = &node.op else { return 0 };
            1 + count_loops(&lo.condition) + count_loops(&lo.body)
        })
        .sum()
}
