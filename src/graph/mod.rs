//! The graph: values, the nodes that compute them, and the states that live from one run to the next.

pub mod check;
pub mod infer;
pub mod op;
pub mod print;
pub mod recurrent;
mod types;

pub use op::Op;
pub use recurrent::Recurrent;
pub use types::{Dim, Symbol, ValueType};

use crate::tensor::Tensor;

/// Index of a value in [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Index of a node in [`Graph::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// A model: values and the nodes that compute them, in an order in which every value is computed before it is used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Name of the model or function; may be empty.
    pub name: String,
    /// Every value, computed or given.
    pub values: Vec<Value>,
    /// The nodes, each after the nodes that compute its inputs.
    pub nodes: Vec<Node>,
    /// Values that the caller gives.
    pub inputs: Vec<Port>,
    /// Values that the caller gets.
    pub outputs: Vec<Port>,
    /// Values that are kept from one run of a stream to the next.
    pub states: Vec<State>,
    /// Names of the symbolic sizes, by [`Symbol`]: `batch`, `time`, …
    pub symbols: Vec<String>,
}

/// An input or an output: the name that the caller uses, and the value behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name in the model.
    pub name: String,
    /// The value.
    pub value: ValueId,
}

/// A value: what a node computes, the caller gives, a state holds or the file stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Name in the model; for messages, not unique.
    pub name: String,
    /// What is known of it.
    pub ty: ValueType,
    /// Its elements, when it is a constant.
    pub constant: Option<Tensor>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name in the model; for messages, not unique.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// Operands in the op's order; `None` where an optional one is absent.
    pub inputs: Vec<Option<ValueId>>,
    /// Results in the op's order; `None` where nobody wants one.
    pub outputs: Vec<Option<ValueId>>,
}

/// A value that is kept between the runs of a stream (a variable tensor of TFLite).
///
/// Its batch size follows the run: the shape of `next` is the shape of the state.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Name in the model.
    pub name: String,
    /// What the nodes of a run read: the state before the run.
    pub value: ValueId,
    /// What the state is after the run; `value` itself when no node writes it.
    pub next: ValueId,
    /// What every element is after a reset: 0, or the zero point of a quantised state.
    pub reset: i64,
}

impl Graph {
    /// Adds a value and returns its index.
    pub fn add_value(&mut self, name: impl Into<String>, ty: ValueType) -> ValueId {
        // More than 2^32 values cannot be built: readers cap the number of nodes far below.
        let id = ValueId(self.values.len() as u32);
        self.values.push(Value { name: name.into(), ty, constant: None });
        id
    }

    /// Adds a constant and returns its index.
    pub fn add_constant(&mut self, name: impl Into<String>, tensor: Tensor) -> ValueId {
        let id = self.add_value(name, ValueType::fixed(tensor.dtype(), tensor.shape()));
        if let Some(value) = self.values.last_mut() {
            value.constant = Some(tensor);
        }
        id
    }

    /// Adds a node at the end.
    pub fn add_node(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        outputs: Vec<Option<ValueId>>,
    ) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node { name: name.into(), op, inputs, outputs });
        id
    }

    /// Adds a symbolic size and returns it.
    pub fn add_symbol(&mut self, name: impl Into<String>) -> Dim {
        let symbol = Symbol(self.symbols.len() as u32);
        self.symbols.push(name.into());
        Dim::Symbol(symbol)
    }

    /// The value behind an index, `None` when the index is not of this graph.
    pub fn get(&self, id: ValueId) -> Option<&Value> {
        self.values.get(id.0 as usize)
    }

    /// The elements of a value, when it is a constant.
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.get(id)?.constant.as_ref()
    }

    /// The node that computes each value, by value index: `None` for inputs, states and constants.
    pub fn producers(&self) -> Vec<Option<NodeId>> {
        let mut producers = vec![None; self.values.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for output in node.outputs.iter().flatten() {
                if let Some(slot) = producers.get_mut(output.0 as usize) {
                    *slot = Some(NodeId(index as u32));
                }
            }
        }
        producers
    }
}
