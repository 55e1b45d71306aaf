//! What can be said of values of the graph around a loop: sizes, zeros.

use crate::graph::op::{Activation, BinaryFunction, ReduceFunction};
use crate::graph::recurrent::Layout;
use crate::graph::{Dim, Graph, Node, NodeId, Op, Recurrent, Symbol, ValueId};
use crate::passes::values::{Sources, note_results, sources};

/// Longest way back that is followed.
const MOST_STEPS: usize = 64;

/// A size that is a number, a symbol, or that of an axis of some value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Known(usize),
    Symbol(Symbol),
    Axis(ValueId, usize),
}

/// A graph with the node of each value.
pub struct ShapeTracer {
    pub graph: Graph,
    sources: Sources,
}

impl ShapeTracer {
    pub fn new(graph: Graph) -> Self {
        let sources = sources(&graph);
        ShapeTracer { graph, sources }
    }

    /// Adds a node at the end.
    pub fn push(&mut self, node: Node) {
        let id = NodeId::at(self.graph.nodes.len());
        note_results(&mut self.sources, id, &node);
        self.graph.nodes.push(node);
    }

    /// Takes back everything after `nodes` nodes and `values` values.
    pub fn truncate(&mut self, nodes: usize, values: usize) {
        self.graph.nodes.truncate(nodes);
        self.graph.values.truncate(values);
        self.sources.truncate(values);
    }

    pub fn producer(&self, value: ValueId) -> Option<&Node> {
        self.graph.node(self.sources[value]?.0)
    }

    /// Which result of its node a value is.
    pub fn slot(&self, value: ValueId) -> Option<usize> {
        Some(self.sources[value]?.1)
    }

    /// The constant integers of a value.
    pub fn integers(&self, value: ValueId) -> Option<Vec<i64>> {
        self.graph.constant(value)?.to_i64().ok()
    }

    fn operand(&self, node: &Node, slot: usize) -> Option<ValueId> {
        node.input(slot)
    }

    /// Size of an axis, followed back as far as ops leave it alone.
    pub fn axis(&self, mut value: ValueId, mut axis: usize) -> Size {
        for _ in 0..MOST_STEPS {
            match self
                .graph
                .get(value)
                .and_then(|v| v.ty.shape.as_ref())
                .and_then(|shape| shape.get(axis))
            {
                Some(Dim::Known(size)) => return Size::Known(*size),
                Some(Dim::Symbol(symbol)) => return Size::Symbol(*symbol),
                _ => {}
            }
            let Some((next, next_axis)) = self.step(value, axis) else { break };
            (value, axis) = (next, next_axis);
        }
        Size::Axis(value, axis)
    }

    /// The operand that an axis comes from.
    fn step(&self, value: ValueId, axis: usize) -> Option<(ValueId, usize)> {
        let node = self.producer(value)?;
        let first = self.operand(node, 0)?;
        let rank = |id: ValueId| self.graph.get(id).and_then(|v| v.ty.rank());
        match &node.op {
            Op::Unary(_)
            | Op::Activation(_)
            | Op::Softmax(_)
            | Op::Cast(_)
            | Op::Quantize
            | Op::Dequantize
            | Op::Reverse
            | Op::ReverseSequence(_) => Some((first, axis)),
            Op::Transpose => {
                let axis = *self.integers(self.operand(node, 1)?)?.get(axis)?;
                Some((first, usize::try_from(axis).ok()?))
            }
            Op::FullyConnected(options) if options.keep_leading_axes && axis + 1 < rank(value)? => {
                Some((first, axis))
            }
            Op::MatMul(_) if axis + 2 < rank(value)? => Some((first, axis)),
            Op::MatMul(options) if axis + 2 == rank(value)? && !options.transpose_a => {
                Some((first, axis))
            }
            Op::Binary(_) => {
                // An operand that has as many axes and may not be repeated along this one.
                let second = self.operand(node, 1)?;
                let plain = |id: ValueId| {
                    let shape = self.graph.get(id)?.ty.shape.as_ref()?;
                    Some(shape.len() == rank(value)? && shape.get(axis)?.known() != Some(1))
                };
                match (plain(first), plain(second)) {
                    (Some(true), Some(false)) => Some((first, axis)),
                    (Some(false), Some(true)) => Some((second, axis)),
                    _ => None,
                }
            }
            Op::Concat(options) => {
                let rank = rank(value)? as i64;
                let joined = if options.axis < 0 { options.axis + rank } else { options.axis };
                (joined != axis as i64).then_some((first, axis))
            }
            // [indices] take the place of the gathered axis.
            Op::Gather(options) if options.batch_dims == 0 && options.axis == 0 => {
                let indices = self.operand(node, 1)?;
                let count = rank(indices)?;
                if axis < count {
                    Some((indices, axis))
                } else {
                    Some((first, (axis - count).checked_add(1)?))
                }
            }
            Op::Recurrent(layer) => {
                let slot = self.slot(value)?;
                let x = self.operand(node, Recurrent::X)?;
                let batch = usize::from(layer.layout == Layout::TimeMajor);
                if slot < Recurrent::h_n(0) {
                    (axis < 2).then_some((x, axis))
                } else {
                    (axis == 0).then_some((x, batch))
                }
            }
            _ => None,
        }
    }

    /// A scalar as a size, if any, plus a number: `n − 1`, for example.
    pub fn linear(&self, value: ValueId) -> Option<(Option<Size>, i64)> {
        self.linear_at(value, 0)
    }

    fn linear_at(&self, value: ValueId, depth: usize) -> Option<(Option<Size>, i64)> {
        match self.scalar_at(value, 0, depth) {
            Some(Size::Known(number)) => return Some((None, i64::try_from(number).ok()?)),
            Some(size) => return Some((Some(size), 0)),
            None => {}
        }
        if let Some(integers) = self.integers(value) {
            return (integers.len() == 1).then_some((None, *integers.first()?));
        }
        let node = self.producer(value).filter(|_| depth < MOST_STEPS)?;
        let first = node.input(0)?;
        match &node.op {
            Op::Cast(_) | Op::Reshape | Op::Squeeze(_) | Op::ExpandDims => {
                self.linear_at(first, depth + 1)
            }
            Op::Binary(binary) if binary.activation == Activation::Linear => {
                let (a, b) = (first, node.input(1)?);
                let (a, b) = (self.linear_at(a, depth + 1)?, self.linear_at(b, depth + 1)?);
                match (binary.function, a, b) {
                    (BinaryFunction::Add, (size, x), (None, y))
                    | (BinaryFunction::Add, (None, x), (size, y)) => {
                        Some((size, x.checked_add(y)?))
                    }
                    (BinaryFunction::Sub, (size, x), (None, y)) => Some((size, x.checked_sub(y)?)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The size that a scalar holds: a constant, or taken from a shape.
    pub fn scalar(&self, value: ValueId) -> Option<Size> {
        self.scalar_at(value, 0, 0)
    }

    /// Element `index` of a value as a size.
    fn scalar_at(&self, value: ValueId, index: usize, depth: usize) -> Option<Size> {
        if depth > MOST_STEPS {
            return None;
        }
        if let Some(integers) = self.integers(value) {
            return usize::try_from(*integers.get(index)?).ok().map(Size::Known);
        }
        let node = self.producer(value)?;
        let first = self.operand(node, 0)?;
        let depth = depth + 1;
        match &node.op {
            Op::Cast(_) | Op::Reshape | Op::Squeeze(_) | Op::ExpandDims => {
                self.scalar_at(first, index, depth)
            }
            Op::Shape(_) => Some(self.axis(first, index)),
            Op::StridedSlice(options) => {
                let begin = self.integers(self.operand(node, 1)?)?;
                let strides = self.integers(self.operand(node, 3)?)?;
                let plain =
                    options.new_axis_mask == 0 && options.ellipsis_mask == 0 && begin.len() == 1;
                let start = if options.begin_mask & 1 == 1 { 0 } else { *begin.first()? };
                (plain && strides == [1]).then_some(())?;
                self.scalar_at(first, usize::try_from(start).ok()?.checked_add(index)?, depth)
            }
            Op::Slice => {
                let begin = self.integers(self.operand(node, 1)?)?;
                (begin.len() == 1).then_some(())?;
                self.scalar_at(
                    first,
                    usize::try_from(*begin.first()?).ok()?.checked_add(index)?,
                    depth,
                )
            }
            Op::Gather(options) if options.axis == 0 && options.batch_dims == 0 => {
                let picked = *self.integers(self.operand(node, 1)?)?.get(index)?;
                self.scalar_at(first, usize::try_from(picked).ok()?, depth)
            }
            Op::Unpack(_) => {
                let slot = self.slot(value)?;
                self.scalar_at(first, slot, depth)
            }
            Op::Pack(_) => self.scalar_at(self.operand(node, index)?, 0, depth),
            Op::Concat(_) => {
                // Vectors of known length.
                let mut index = index;
                for input in node.inputs.iter().flatten() {
                    let len = self.graph.get(*input)?.ty.shape.as_ref()?.first()?.known()?;
                    if index < len {
                        return self.scalar_at(*input, index, depth);
                    }
                    index -= len;
                }
                None
            }
            // min(n, max(1, n))
            Op::Binary(binary) if binary.function == BinaryFunction::Minimum && index == 0 => {
                let second = self.operand(node, 1)?;
                let least = |value: ValueId, other: ValueId| {
                    self.scalar_at(value, 0, depth)
                        .filter(|size| self.is_at_least(other, *size, depth))
                };
                least(first, second).or_else(|| least(second, first))
            }
            Op::Binary(binary) if binary.function == BinaryFunction::Maximum => {
                let (a, b) = (
                    self.scalar_at(first, index, depth)?,
                    self.scalar_at(self.operand(node, 1)?, index, depth)?,
                );
                (a == b).then_some(a)
            }
            _ => None,
        }
    }

    /// Whether a scalar is no less than a size: the size itself, or a maximum with it.
    fn is_at_least(&self, value: ValueId, size: Size, depth: usize) -> bool {
        if depth > MOST_STEPS {
            return false;
        }
        if self.scalar_at(value, 0, depth + 1) == Some(size) {
            return true;
        }
        let value = self.uncast(value);
        let Some(node) = self.producer(value) else { return false };
        match self.extreme(node, BinaryFunction::Maximum) {
            Some((a, b)) => {
                self.is_at_least(a, size, depth + 1) || self.is_at_least(b, size, depth + 1)
            }
            None => false,
        }
    }

    /// `min(size, max(1, longest of lengths))`: TensorFlow stops a loop with lengths there. Returns
    /// the size and the lengths.
    pub fn longest(&self, value: ValueId) -> Option<(Size, ValueId)> {
        let value = self.uncast(value);
        let node = self.producer(value)?;
        let (a, b) = self.extreme(node, BinaryFunction::Minimum)?;
        let lengths = |value: ValueId| -> Option<ValueId> {
            let node = self.producer(self.uncast(value))?;
            let (a, b) = self.extreme(node, BinaryFunction::Maximum)?;
            let (one, longest) = if self.integers(a).is_some() { (a, b) } else { (b, a) };
            (self.integers(one)? == [1]).then_some(())?;
            let node = self.producer(self.uncast(longest))?;
            match &node.op {
                Op::Reduce(reduce) if reduce.function == ReduceFunction::Maximum => {
                    Some(self.uncast(self.operand(node, 0)?))
                }
                _ => None,
            }
        };
        match (lengths(a), lengths(b)) {
            (Some(lengths), None) => Some((self.scalar(b)?, lengths)),
            (None, Some(lengths)) => Some((self.scalar(a)?, lengths)),
            _ => None,
        }
    }

    fn extreme(&self, node: &Node, function: BinaryFunction) -> Option<(ValueId, ValueId)> {
        match &node.op {
            Op::Binary(binary) if binary.function == function => {
                Some((self.operand(node, 0)?, self.operand(node, 1)?))
            }
            _ => None,
        }
    }

    /// The value behind casts between integer types.
    pub fn uncast(&self, mut value: ValueId) -> ValueId {
        for _ in 0..MOST_STEPS {
            match self.producer(value) {
                Some(node) if matches!(node.op, Op::Cast(_)) => match self.operand(node, 0) {
                    Some(inner) if self.is_integer(inner) && self.is_integer(value) => {
                        value = inner
                    }
                    _ => break,
                },
                _ => break,
            }
        }
        value
    }

    fn is_integer(&self, value: ValueId) -> bool {
        use crate::tensor::DType;
        self.graph.get(value).is_some_and(|v| matches!(v.ty.dtype, DType::I32 | DType::I64))
    }

    /// Whether every element is 0, whatever the shape.
    pub fn is_zero(&self, value: ValueId) -> bool {
        self.zero_at(value, 0)
    }

    fn zero_at(&self, value: ValueId, depth: usize) -> bool {
        if let Some(tensor) = self.graph.constant(value) {
            return tensor.to_f32().iter().all(|&x| x == 0.0);
        }
        let Some(node) = self.producer(value).filter(|_| depth < MOST_STEPS) else { return false };
        let zero = |slot: usize| {
            self.operand(node, slot).is_some_and(|value| self.zero_at(value, depth + 1))
        };
        match &node.op {
            Op::Fill => zero(1),
            Op::BroadcastTo
            | Op::Tile
            | Op::Reshape
            | Op::ExpandDims
            | Op::Squeeze(_)
            | Op::Cast(_)
            | Op::Transpose
            | Op::Slice
            | Op::StridedSlice(_)
            | Op::Split
            | Op::Unpack(_) => zero(0),
            _ => false,
        }
    }

    /// Whether a list of tensors has `size` entries.
    pub fn has_entries(&self, list: ValueId, size: Size) -> bool {
        if self.axis(list, 0) == size {
            return true;
        }
        let Some(node) = self.producer(list) else { return false };
        let shape = match &node.op {
            Op::Fill => self.operand(node, 0),
            Op::BroadcastTo => self.operand(node, 1),
            _ => None,
        };
        shape.and_then(|shape| self.scalar_at(shape, 0, 0)) == Some(size)
    }
}
