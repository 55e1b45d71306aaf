//! From a graph and the shapes of its inputs to what a backend needs: concrete shapes, known
//! values, the order of the nodes.

mod bind;
mod lifetime;
mod propagate;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::error::Result;
use crate::graph::{Graph, NodeId, ValueId};
use crate::tensor::Tensor;

/// A graph with concrete input shapes: everything that is the same for every run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The graph that is run.
    pub graph: Arc<Graph>,
    /// By value index.
    pub values: Vec<PlannedValue>,
    /// The nodes to run, in order. Nodes whose results are known or unused are left out.
    pub steps: Vec<NodeId>,
    /// Shapes of the states, in the graph's order: the shape of what is written to each.
    pub state_shapes: Vec<Vec<usize>>,
    /// Bytes that inputs, states and intermediate values of known shape take at the worst moment of
    /// a run.
    pub peak_bytes: u64,
}

/// What the plan knows of one value.
#[derive(Clone, Debug, Default)]
pub struct PlannedValue {
    /// Its shape; `None` when it depends on data (inside and after some loops), and for values that
    /// nothing needs.
    pub shape: Option<Vec<usize>>,
    /// Its elements, when they follow from constants and shapes alone.
    pub known: Option<Tensor>,
    /// Position in `steps` of the last step that reads it; `None` when no step does. Outputs and
    /// next states live to the end.
    pub last_use: Option<usize>,
    /// It is an output of the graph or the next value of a state.
    pub kept: bool,
}

/// What a caller may ask of the planner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanOptions {
    /// Most bytes that a run may need for inputs, states and intermediate values.
    pub memory_limit: u64,
}

impl Default for PlanOptions {
    /// What the bounds of this thread allow.
    fn default() -> Self {
        PlanOptions { memory_limit: crate::limits::memory() }
    }
}

impl Plan {
    /// Plans `graph` for inputs of these shapes, in the graph's order.
    ///
    /// Sizes that the model leaves open are bound by them; a size that the model fixes may be given
    /// another value where every node can follow (a longer batch, more time steps). The states take
    /// their batch size from what is written to them.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) naming the input, the declared and the
    /// given shape when the graph cannot take them; [`Limit`](crate::ErrorKind::Limit) when a value
    /// would pass the memory limit.
    pub fn new(graph: &Arc<Graph>, input_shapes: &[Vec<usize>]) -> Result<Plan> {
        Self::with_options(graph, input_shapes, PlanOptions::default())
    }

    /// As [`Plan::new`], with options.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn with_options(
        graph: &Arc<Graph>,
        input_shapes: &[Vec<usize>],
        options: PlanOptions,
    ) -> Result<Plan> {
        let bound = bind::bind(graph, input_shapes)?;
        let facts =
            propagate::with_states(graph, &bound.types).map_err(|error| bound.explain(error))?;
        lifetime::plan(graph, facts, options)
    }

    /// The known elements of a value.
    pub fn known(&self, id: ValueId) -> Option<&Tensor> {
        self.values.get(id.index())?.known.as_ref()
    }

    /// The concrete shape of a value.
    pub fn shape(&self, id: ValueId) -> Option<&[usize]> {
        self.values.get(id.index())?.shape.as_deref()
    }
}
