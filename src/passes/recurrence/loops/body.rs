//! A loop beside what its body computes: which values count its iterations, stay, or are read at
//! the counter.

use std::collections::HashMap;

use super::counter::Linear;
use crate::graph::op::{Activation, BinaryFunction, StridedSlice, While};
use crate::graph::{Dim, Graph, Node, Op, ValueId, ValueMap};
use crate::passes::recurrence::algebra::{Algebra, first, is_zero};
use crate::passes::recurrence::shape_tracer::{ShapeTracer, Size};
use crate::passes::recurrence::step::Reason;
use crate::passes::values::{is_set, reaches_end, used};
use crate::tensor::DType;

/// Ops between the counter and the place where it is used; real ones have up to five.
const MOST_DEPTH: usize = 12;

/// An entry of a list that the body reads in each iteration: one index of one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The value of the body that holds the entry.
    pub value: ValueId,
    /// Position of the loop variable that holds the list.
    pub list: usize,
    /// The axis that is indexed.
    pub axis: usize,
    /// Whether the list is read from its last entry on.
    pub reverse: bool,
    /// Whether the axis stays, with size 1.
    pub kept: bool,
}

/// A loop and what its body computes.
pub struct Loop<'a> {
    pub node: &'a Node,
    pub inner: &'a While,
    pub algebra: Algebra<'a>,
    /// The variables inside of the body.
    pub inputs: Vec<ValueId>,
    /// The next value of each variable.
    pub nexts: Vec<ValueId>,
    /// The first value of each variable, around the loop.
    pub operands: Vec<ValueId>,
    /// The entries of lists that the body reads at the counter.
    pub reads: Vec<Read>,
    positions: ValueMap<Option<usize>>,
    linear: Vec<Option<Linear>>,
    /// Whether a variable is constant true before the loop.
    true_before: Vec<bool>,
    used: ValueMap<bool>,
}

impl<'a> Loop<'a> {
    pub fn new(node: &'a Node, inner: &'a While, tracer: &ShapeTracer) -> Result<Self, Reason> {
        let algebra = Algebra::new(&inner.body);
        let inputs: Vec<ValueId> = inner.body.inputs.iter().map(|port| port.value).collect();
        let nexts: Vec<ValueId> =
            inner.body.outputs.iter().map(|port| algebra.through(port.value)).collect();
        let operands: Option<Vec<ValueId>> = node.inputs.iter().copied().collect();
        let operands = operands.ok_or("an operand is missing")?;
        if inputs.len() != nexts.len() || inputs.len() != operands.len() {
            return Err("the loop variables do not match".into());
        }
        let mut positions = ValueMap::new(&inner.body);
        for (k, &input) in inputs.iter().enumerate() {
            positions.set(input, Some(k));
        }
        let used = used(&inner.body);
        let mut this = Loop {
            node,
            inner,
            algebra,
            inputs,
            nexts,
            operands,
            reads: Vec::new(),
            positions,
            linear: Vec::new(),
            true_before: Vec::new(),
            used,
        };
        this.linear = (0..this.inputs.len()).map(|k| this.linear_before(tracer, k)).collect();
        this.true_before =
            this.operands.iter().map(|&operand| is_true(&tracer.graph, operand)).collect();
        this.reads = inner.body.nodes.iter().filter_map(|node| this.read(tracer, node)).collect();
        Ok(this)
    }

    pub fn body(&self) -> &'a Graph {
        &self.inner.body
    }

    /// Position of a loop variable that a value of the body is.
    pub fn variable(&self, value: ValueId) -> Option<usize> {
        self.positions[self.algebra.through(value)]
    }

    /// Whether variable `k` is 0, 1, 2, …
    pub fn is_counter(&self, k: usize) -> bool {
        self.linear_of(k) == Some(Linear::COUNTER)
    }

    /// Variable `k` as a function of the iterations.
    pub fn linear_of(&self, k: usize) -> Option<Linear> {
        self.linear.get(k).copied().flatten()
    }

    /// Whether variable `k` is true before the first iteration.
    pub fn starts_true(&self, k: usize) -> bool {
        self.true_before.get(k).copied().unwrap_or(false)
    }

    /// Whether the body leaves variable `k` alone.
    pub fn is_invariant(&self, k: usize) -> bool {
        self.nexts.get(k).is_some_and(|next| self.inputs.get(k) == Some(next))
    }

    /// Whether the body reads what variable `k` was before.
    pub fn is_used(&self, k: usize) -> bool {
        self.inputs.get(k).is_some_and(|&input| self.used[input])
    }

    pub fn integers(&self, value: ValueId) -> Option<Vec<i64>> {
        self.body().constant(self.algebra.through(value))?.to_i64().ok()
    }

    /// Variable `k` as a function of the iterations.
    fn linear_before(&self, tracer: &ShapeTracer, k: usize) -> Option<Linear> {
        let dtype = self.body().ty(self.inputs[k])?.dtype;
        let (size, offset) = tracer.linear(self.operands[k])?;
        let step = if self.is_invariant(k) { 0 } else { self.step_of(k)? };
        matches!(dtype, DType::I32 | DType::I64).then_some(Linear { size, step, offset })
    }

    /// The constant that the body adds to a variable.
    fn step_of(&self, k: usize) -> Option<i64> {
        let (node, _) = self.algebra.producer(self.nexts[k])?;
        let Op::Binary(binary) = &node.op else { return None };
        let (a, b) = (node.input(0)?, node.input(1)?);
        let is_old = |value: ValueId| self.variable(value) == Some(k);
        let number = |value: ValueId| match self.integers(value)?.as_slice() {
            &[step] => Some(step),
            _ => None,
        };
        match binary.function {
            _ if binary.activation != Activation::Linear => None,
            BinaryFunction::Add if is_old(a) => number(b),
            BinaryFunction::Add if is_old(b) => number(a),
            BinaryFunction::Sub if is_old(a) => number(b)?.checked_neg(),
            _ => None,
        }
    }

    /// A value of the body as a scalar or a vector of one that follows the iterations.
    fn linear(&self, value: ValueId, depth: usize) -> Option<Linear> {
        let value = self.algebra.through(value);
        if let Some(k) = self.variable(value) {
            return self.linear_of(k);
        }
        if let Some(numbers) = self.integers(value) {
            return match numbers.as_slice() {
                &[number] => Some(Linear::number(number)),
                _ => None,
            };
        }
        let (node, _) = self.algebra.producer(value).filter(|_| depth < MOST_DEPTH)?;
        let operand = |slot: usize| self.linear(node.input(slot)?, depth + 1);
        match &node.op {
            Op::Reshape | Op::ExpandDims | Op::Cast(_) | Op::Squeeze(_) => operand(0),
            Op::Pack(_) if node.inputs.len() == 1 => operand(0),
            Op::Binary(binary) if binary.activation == Activation::Linear => {
                match binary.function {
                    BinaryFunction::Add => operand(0)?.plus(operand(1)?),
                    BinaryFunction::Sub => operand(0)?.minus(operand(1)?),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Whether a value of the body is a counter, as a scalar or a vector of one.
    pub fn counts(&self, value: ValueId) -> bool {
        self.linear(value, 0) == Some(Linear::COUNTER)
    }

    /// Whether a value of the body is the counter of the next iteration.
    pub fn counts_next(&self, value: ValueId) -> bool {
        self.linear(value, 0) == Linear::COUNTER.next()
    }

    /// Whether an index goes through an axis of a list from its first or from its last entry on.
    pub fn direction(&self, index: ValueId, size: Size) -> Option<bool> {
        self.linear(index, 0)?.direction(size)
    }

    /// Whether every element of a value of the body is 0.
    pub fn is_zero(&self, tracer: &ShapeTracer, value: ValueId) -> bool {
        if is_zero(&self.algebra, value) {
            return true;
        }
        match self.variable(value).filter(|&k| self.is_invariant(k)) {
            Some(k) => tracer.is_zero(self.operands[k]),
            None => false,
        }
    }

    /// The loop variables that the body leaves alone, as values around the loop.
    pub fn invariants(&self) -> HashMap<ValueId, ValueId> {
        (0..self.inputs.len())
            .filter(|&k| self.is_invariant(k))
            .map(|k| (self.inputs[k], self.operands[k]))
            .collect()
    }

    /// The list that a node reads at the counter.
    fn read(&self, tracer: &ShapeTracer, node: &Node) -> Option<Read> {
        let value = node.output(0)?;
        if let Some(inner) = self.squeezed(node) {
            // x[:, t:t+1] without the axis of size 1.
            let read = self.read(tracer, inner).filter(|read| read.kept)?;
            let mut rest = self.body().shape(read.value)?.to_vec();
            (read.axis < rest.len()).then(|| rest.remove(read.axis))?;
            let same = self.body().shape(value)? == rest.as_slice();
            let open = rest.iter().filter(|dim| dim.known().is_none()).count();
            return (same && open <= 1).then_some(Read { value, kept: false, ..read });
        }
        let list = self.variable(node.input(0)?).filter(|&k| self.is_invariant(k))?;
        let shape = self.body().shape(self.inputs[list])?;
        let (axis, index, kept) = match &node.op {
            Op::Gather(gather) if gather.batch_dims == 0 => {
                let index = node.input(1)?;
                let scalar = self.body().ty(index)?.rank() == Some(0);
                let rank = shape.len() as i64;
                let axis = if gather.axis < 0 { gather.axis + rank } else { gather.axis };
                let index = self.linear(index, 0).filter(|_| scalar)?;
                (usize::try_from(axis).ok()?, index, false)
            }
            Op::StridedSlice(options) => self.strided_index(node, options, shape)?,
            Op::Slice => self.sliced_index(node, shape)?,
            _ => return None,
        };
        let reverse = index.direction(tracer.axis(self.operands[list], axis))?;
        Some(Read { value, list, axis, reverse, kept })
    }

    /// The slice that a node only takes an axis from.
    fn squeezed(&self, node: &Node) -> Option<&'a Node> {
        let squeezes = matches!(node.op, Op::Squeeze(_) | Op::Reshape);
        let (inner, _) = self.algebra.producer(node.input(0)?).filter(|_| squeezes)?;
        matches!(inner.op, Op::Slice | Op::StridedSlice(_)).then_some(inner)
    }

    /// The axis of which `x[:, …, index, …]` or `x[:, …, index:index + 1, …]` takes one entry, the
    /// index, and whether the axis stays; every other axis is whole.
    fn strided_index(
        &self,
        node: &Node,
        options: &StridedSlice,
        shape: &[Dim],
    ) -> Option<(usize, Linear, bool)> {
        if options.ellipsis_mask != 0 || options.new_axis_mask != 0 || options.offset {
            return None;
        }
        let (begin, end) = (self.vector(node.input(1)?)?, self.vector(node.input(2)?)?);
        let strides = self.integers(node.input(3)?)?;
        let whole = |k: usize| {
            let shrinks = is_set(options.shrink_axis_mask, k);
            let from =
                is_set(options.begin_mask, k) || begin.get(k) == Some(&Some(Linear::number(0)));
            let size = shape.get(k).and_then(|dim| dim.known());
            let to = match end.get(k) {
                Some(&Some(Linear { size: None, step: 0, offset })) => reaches_end(offset, size),
                _ => false,
            };
            !shrinks && from && (to || is_set(options.end_mask, k))
        };
        let mut others = (0..begin.len()).filter(|&k| !whole(k));
        let axis = others.next().filter(|_| others.next().is_none())?;
        let index = (*begin.get(axis)?)?;
        let fits = begin.len() <= shape.len() && end.len() == begin.len();
        let plain = strides.iter().all(|&stride| stride == 1) && index.step != 0;
        (fits && plain && !is_set(options.begin_mask, axis)).then_some(())?;
        if is_set(options.shrink_axis_mask, axis) {
            return Some((axis, index, false));
        }
        let one = !is_set(options.end_mask, axis) && *end.get(axis)? == index.next();
        one.then_some((axis, index, true))
    }

    /// As [`strided_index`](Self::strided_index), of a slice by begin and size.
    fn sliced_index(&self, node: &Node, shape: &[Dim]) -> Option<(usize, Linear, bool)> {
        let (begin, size) = (self.vector(node.input(1)?)?, self.integers(node.input(2)?)?);
        if begin.len() != shape.len() || size.len() != shape.len() {
            return None;
        }
        let whole = |k: usize| {
            let all = shape[k].known().and_then(|all| i64::try_from(all).ok());
            begin[k] == Some(Linear::number(0)) && (size[k] == -1 || Some(size[k]) == all)
        };
        let mut others = (0..shape.len()).filter(|&k| !whole(k));
        let axis = others.next().filter(|_| others.next().is_none())?;
        let index = begin[axis].filter(|index| index.step != 0)?;
        (size[axis] == 1).then_some((axis, index, true))
    }

    /// The elements of a vector of integers, `None` where one does not follow the iterations.
    fn vector(&self, value: ValueId) -> Option<Vec<Option<Linear>>> {
        if let Some(all) = self.integers(value) {
            return Some(all.into_iter().map(|number| Some(Linear::number(number))).collect());
        }
        let value = self.algebra.through(value);
        let (node, _) = self.algebra.producer(value)?;
        match &node.op {
            Op::Pack(_) => {
                Some(node.inputs.iter().map(|input| self.linear((*input)?, 0)).collect())
            }
            Op::Concat(_) => {
                let mut entries = Vec::new();
                for input in &node.inputs {
                    entries.extend(self.vector((*input)?)?);
                }
                Some(entries)
            }
            Op::Reshape | Op::ExpandDims => Some(vec![self.linear(first(node)?, 0)]),
            _ => None,
        }
    }
}

/// Whether a value is the constant `true`.
pub fn is_true(graph: &Graph, value: ValueId) -> bool {
    graph
        .constant(value)
        .is_some_and(|tensor| tensor.as_slice::<bool>().is_ok_and(|truth| truth == [true]))
}
