//! A loop beside what its body computes: which values count its iterations, stay, or are read at
//! the counter.

use std::collections::HashMap;

use crate::graph::op::{BinaryFunction, While};
use crate::graph::{Graph, Node, Op, ValueId, ValueMap};
use crate::passes::recurrence::algebra::{Algebra, first};
use crate::passes::recurrence::cells;
use crate::passes::recurrence::shape_tracer::ShapeTracer;
use crate::passes::recurrence::step::Reason;

/// Casts and changes of rank between the counter and the place where it is used.
const MOST_WRAPPERS: usize = 8;

/// An entry of a list that the body reads in each iteration: index `counter` of one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The value of the body that holds the entry.
    pub value: ValueId,
    /// Position of the loop variable that holds the list.
    pub list: usize,
    /// The axis that is indexed.
    pub axis: usize,
}

/// A loop and what its body computes.
pub struct Loop<'a> {
    pub node: &'a Node,
    pub inner: &'a While,
    pub algebra: Algebra<'a>,
    /// The variables inside of the body.
    pub inputs: Vec<ValueId>,
    /// What the body makes of each variable.
    pub nexts: Vec<ValueId>,
    /// What each variable is before the loop.
    pub operands: Vec<ValueId>,
    /// What the body reads at the counter.
    pub reads: Vec<Read>,
    positions: ValueMap<Option<usize>>,
    counters: Vec<bool>,
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
        let used = crate::passes::alias::used(&inner.body);
        let mut this = Loop {
            node,
            inner,
            algebra,
            inputs,
            nexts,
            operands,
            reads: Vec::new(),
            positions,
            counters: Vec::new(),
            true_before: Vec::new(),
            used,
        };
        let from_zero = |operand: &ValueId| tracer.integers(*operand).is_some_and(|at| at == [0]);
        let starts: Vec<bool> = this.operands.iter().map(from_zero).collect();
        this.counters =
            (0..starts.len()).map(|k| starts[k] && this.is_next_of(this.nexts[k], k)).collect();
        this.true_before =
            this.operands.iter().map(|&operand| is_true(&tracer.graph, operand)).collect();
        this.reads = inner.body.nodes.iter().filter_map(|node| this.read(node)).collect();
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
        self.counters.get(k).copied().unwrap_or(false)
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

    /// Whether `value` is `variable k + 1`.
    fn is_next_of(&self, value: ValueId, k: usize) -> bool {
        self.plus_one(value).is_some_and(|before| self.variable(before) == Some(k))
    }

    /// `a` behind `a + 1`.
    fn plus_one(&self, value: ValueId) -> Option<ValueId> {
        let (node, _) = self.algebra.producer(self.algebra.through(value))?;
        let Op::Binary(binary) = &node.op else { return None };
        let (a, b) = (node.input(0)?, node.input(1)?);
        let one = |value: ValueId| self.integers(value).is_some_and(|step| step == [1]);
        match binary.function {
            BinaryFunction::Add if one(b) => Some(a),
            BinaryFunction::Add if one(a) => Some(b),
            _ => None,
        }
    }

    pub fn integers(&self, value: ValueId) -> Option<Vec<i64>> {
        self.body().constant(self.algebra.through(value))?.to_i64().ok()
    }

    /// Whether a value of the body is a counter, as a scalar or a vector of one.
    pub fn counts(&self, value: ValueId) -> bool {
        let mut value = self.algebra.through(value);
        for _ in 0..MOST_WRAPPERS {
            if let Some(k) = self.positions[value] {
                return self.is_counter(k);
            }
            let Some((node, _)) = self.algebra.producer(value) else { return false };
            let wraps = match &node.op {
                Op::Reshape | Op::ExpandDims | Op::Cast(_) | Op::Squeeze(_) => true,
                Op::Pack(_) => node.inputs.len() == 1,
                _ => false,
            };
            let Some(input) = first(node).filter(|_| wraps) else { return false };
            value = self.algebra.through(input);
        }
        false
    }

    /// Whether a value of the body is the counter of the next iteration.
    pub fn counts_next(&self, value: ValueId) -> bool {
        self.plus_one(value).is_some_and(|before| self.counts(before))
            || (0..self.inputs.len())
                .any(|k| self.is_counter(k) && self.nexts[k] == self.algebra.through(value))
    }

    /// Whether every element of a value of the body is 0.
    pub fn is_zero(&self, tracer: &ShapeTracer, value: ValueId) -> bool {
        if cells::is_zero(&self.algebra, value) {
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
    fn read(&self, node: &Node) -> Option<Read> {
        let source = node.input(0)?;
        let list = self.variable(source).filter(|&k| self.is_invariant(k))?;
        let rank = self.body().ty(self.inputs[list])?.rank()?;
        let value = node.output(0)?;
        let axis = match &node.op {
            Op::Gather(gather) if gather.batch_dims == 0 => {
                let index = node.input(1)?;
                let scalar = self.body().ty(index)?.rank() == Some(0);
                let axis = if gather.axis < 0 { gather.axis + rank as i64 } else { gather.axis };
                (scalar && self.counts(index)).then_some(usize::try_from(axis).ok()?)?
            }
            Op::StridedSlice(_) => self.sliced_axis(node, self.inputs[list])?,
            _ => return None,
        };
        Some(Read { value, list, axis })
    }

    /// The axis that a slice `x[:, …, counter, …]` drops; every other axis is whole.
    fn sliced_axis(&self, node: &Node, source: ValueId) -> Option<usize> {
        let shape = self.body().shape(source)?;
        let Op::StridedSlice(options) = &node.op else { return None };
        let axis = usize::try_from(options.shrink_axis_mask.trailing_zeros()).ok()?;
        let one = options.shrink_axis_mask.count_ones() == 1;
        if !one || options.ellipsis_mask != 0 || options.new_axis_mask != 0 || options.offset {
            return None;
        }
        let (begin, end) = (self.vector(node.input(1)?)?, self.vector(node.input(2)?)?);
        let strides = self.integers(node.input(3)?)?;
        let whole = |k: usize| {
            let from = options.begin_mask >> k & 1 == 1 || begin.get(k) == Some(&Entry::Known(0));
            let size = shape.get(k).and_then(|dim| dim.known());
            let to = match (end.get(k), size) {
                (Some(&Entry::Known(end)), Some(size)) => end >= size as i64,
                _ => false,
            };
            from && (to || options.end_mask >> k & 1 == 1)
        };
        let others = (0..begin.len()).filter(|&k| k != axis).all(whole);
        let masked = (options.begin_mask | options.end_mask) >> axis & 1 == 1;
        let counted = begin.get(axis) == Some(&Entry::Counter) && !masked;
        let fits = begin.len() <= shape.len() && end.len() == begin.len();
        (fits && others && counted && strides.iter().all(|&stride| stride == 1)).then_some(axis)
    }

    /// The elements of a vector of integers, as far as they are known.
    fn vector(&self, value: ValueId) -> Option<Vec<Entry>> {
        if let Some(all) = self.integers(value) {
            return Some(all.into_iter().map(Entry::Known).collect());
        }
        let value = self.algebra.through(value);
        if self.counts(value) {
            return Some(vec![Entry::Counter]);
        }
        let (node, _) = self.algebra.producer(value)?;
        match &node.op {
            Op::Pack(_) => {
                let entry = |input: &Option<ValueId>| -> Option<Entry> { self.number((*input)?) };
                node.inputs.iter().map(entry).collect()
            }
            Op::Concat(_) => {
                let mut entries = Vec::new();
                for input in &node.inputs {
                    entries.extend(self.vector((*input)?)?);
                }
                Some(entries)
            }
            Op::Reshape | Op::ExpandDims => Some(vec![self.number(first(node)?)?]),
            _ => None,
        }
    }

    /// One number of a vector.
    fn number(&self, value: ValueId) -> Option<Entry> {
        if self.counts(value) {
            return Some(Entry::Counter);
        }
        let scalar = self.body().ty(value)?.rank() == Some(0);
        match self.integers(value) {
            Some(all) => all.first().copied().map(Entry::Known),
            None => scalar.then_some(Entry::Other),
        }
    }
}

/// One number of a vector that the body computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Known(i64),
    Counter,
    Other,
}

/// Whether a value is the constant `true`.
pub fn is_true(graph: &Graph, value: ValueId) -> bool {
    graph
        .constant(value)
        .is_some_and(|tensor| tensor.as_slice::<bool>().is_ok_and(|truth| truth == [true]))
}
