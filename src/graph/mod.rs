//! The graph: values, the nodes that compute them, and the states that live from one run to the
//! next.

pub mod check;
mod index;
pub mod infer;
pub mod op;
pub mod print;
pub mod recurrent;
pub mod synthetic;
mod types;
mod window;

pub use index::{Index, ValueMap};
pub use op::Op;
pub use recurrent::Recurrent;
pub use types::{Dim, Symbol, ValueType};
pub use window::WindowAxis;

use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// Index of a value in [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

impl ValueId {
    /// The value at a position of [`Graph::values`]; readers cap the number of values far below
    /// 2^32.
    pub fn at(position: usize) -> Self {
        ValueId(position as u32)
    }

    /// Position in [`Graph::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Index of a node in [`Graph::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The node at a position of [`Graph::nodes`]; readers cap the number of nodes far below 2^32.
    pub fn at(position: usize) -> Self {
        NodeId(position as u32)
    }

    /// Position in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A model: values and the nodes that compute them, in an order in which every value is computed
/// before it is used.
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

impl Node {
    /// The operand in a slot; `None` where it is absent or the node has fewer operands.
    pub fn input(&self, slot: usize) -> Option<ValueId> {
        self.inputs.get(slot).copied().flatten()
    }

    /// The result in a slot; `None` where it is unused or the node has fewer results.
    pub fn output(&self, slot: usize) -> Option<ValueId> {
        self.outputs.get(slot).copied().flatten()
    }
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
    /// What the state is before the first run and after a reset.
    pub reset: Reset,
}

/// The value of a state before the first run and after a reset.
#[derive(Clone, Debug, PartialEq)]
pub enum Reset {
    /// This number in every element, for any batch size: 0, or the zero point of a quantized state.
    Fill(i64),
    /// These elements: a variable that the file stores with its value. The batch size is the
    /// tensor's.
    Tensor(Tensor),
}

impl Reset {
    /// The reset of a float state.
    pub const ZERO: Reset = Reset::Fill(0);

    /// The reset of a state that a file stores with these elements. One whole number in every
    /// element serves any batch size.
    pub fn stored(tensor: Tensor) -> Reset {
        let first = tensor.to_f32().first().map_or(0, |&first| first as i64);
        match Tensor::filled(tensor.dtype(), tensor.shape(), first) {
            Ok(filled) if filled == tensor => Reset::Fill(first),
            _ => Reset::Tensor(tensor),
        }
    }

    /// The state of a run with these sizes.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the stored value has another shape,
    /// [`Limit`](crate::ErrorKind::Limit) when the state is too large.
    pub fn state(&self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        match self {
            Reset::Fill(value) => Tensor::filled(dtype, shape, *value),
            Reset::Tensor(stored) if stored.shape() == shape && stored.dtype() == dtype => {
                Ok(stored.clone())
            }
            Reset::Tensor(stored) => Err(Error::input(format!(
                "the model stores this state as {} {:?}, the run needs {dtype} {shape:?}: run with the stored batch size",
                stored.dtype(),
                stored.shape()
            ))),
        }
    }
}

impl Graph {
    /// Adds a value and returns its index.
    pub fn add_value(&mut self, name: impl Into<String>, ty: ValueType) -> ValueId {
        let id = ValueId::at(self.values.len());
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
        let id = NodeId::at(self.nodes.len());
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
        self.values.get(id.index())
    }

    /// As [`get`](Self::get), to change it.
    pub fn get_mut(&mut self, id: ValueId) -> Option<&mut Value> {
        self.values.get_mut(id.index())
    }

    /// The node behind an index, `None` when the index is not of this graph.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.index())
    }

    /// As [`node`](Self::node), to change it.
    pub fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id.index())
    }

    /// The type of a value, `None` when the index is not of this graph.
    pub fn ty(&self, id: ValueId) -> Option<&ValueType> {
        Some(&self.get(id)?.ty)
    }

    /// The sizes of a value's axes, outermost first; `None` when the rank is unknown.
    pub fn shape(&self, id: ValueId) -> Option<&[Dim]> {
        self.ty(id)?.shape.as_deref()
    }

    /// The elements of a value, when it is a constant.
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.get(id)?.constant.as_ref()
    }

    /// Every node with its index, in order.
    pub fn enumerate(
        &self,
    ) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> + ExactSizeIterator {
        self.nodes.iter().enumerate().map(|(position, node)| (NodeId::at(position), node))
    }

    /// The producer and the consumers of every value.
    pub fn index(&self) -> Index {
        Index::new(self)
    }

    /// The node that computes each value: `None` for inputs, states and constants.
    pub fn producers(&self) -> ValueMap<Option<NodeId>> {
        let mut producers = ValueMap::new(self);
        for (id, node) in self.enumerate() {
            for &output in node.outputs.iter().flatten() {
                producers.set(output, Some(id));
            }
        }
        producers
    }
}
