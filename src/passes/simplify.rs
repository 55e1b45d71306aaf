//! Nodes written as the plainer op that they are.

use std::collections::HashMap;

use super::values::is_set;
use crate::graph::op::{Activation, Pack};
use crate::graph::{Graph, Node, Op, ValueId};
use crate::tensor::Tensor;

/// One walk over the nodes of a graph, in order.
#[derive(Default)]
pub(super) struct Simplify {
    /// Values that are another one with an axis of size 1 more, and which axis.
    added: HashMap<ValueId, (ValueId, usize)>,
}

impl Simplify {
    /// Rewrites a node in place.
    pub fn node(&mut self, graph: &mut Graph, node: &mut Node) {
        only_adds_an_axis(graph, node);
        self.stack(graph, node);
        if let (Op::ExpandDims, Some(input), Some(output)) =
            (&node.op, node.input(0), node.output(0))
            && let Some(axis) = added_axis(graph, node)
        {
            self.added.insert(output, (input, axis));
        }
    }

    /// The value before an axis was added that a node drops again.
    pub fn undone(&self, node: &Node) -> Option<ValueId> {
        let Op::Squeeze(options) = &node.op else { return None };
        let (inner, axis) = self.added.get(&node.input(0)?)?;
        let &[own] = options.axes.as_slice() else { return None };
        (usize::try_from(own) == Ok(*axis)).then_some(*inner)
    }

    /// A join of values that got an axis of size 1 for it is a pack.
    fn stack(&self, graph: &Graph, node: &mut Node) {
        let Op::Concat(options) = &node.op else { return };
        let rank = node.output(0).and_then(|output| graph.ty(output)?.rank());
        let Some(rank) = rank.filter(|_| options.activation == Activation::Linear) else { return };
        let axis = if options.axis < 0 { options.axis + rank as i64 } else { options.axis };
        let inner = |input: &Option<ValueId>| -> Option<Option<ValueId>> {
            let (inner, own) = self.added.get(&(*input)?)?;
            (usize::try_from(axis) == Ok(*own)).then_some(Some(*inner))
        };
        if node.inputs.len() > 1
            && let Some(inputs) = node.inputs.iter().map(inner).collect::<Option<Vec<_>>>()
        {
            (node.op, node.inputs) = (Op::Pack(Pack { axis }), inputs);
        }
    }
}

/// The axis that a node adds, counted from the front.
fn added_axis(graph: &Graph, node: &Node) -> Option<usize> {
    let axis = *graph.constant(node.input(1)?)?.to_i64().ok()?.first()?;
    let rank = graph.ty(node.output(0)?)?.rank()?;
    usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok()
}

/// Writes `x[:, None]` as what it is, an axis of size 1 more.
fn only_adds_an_axis(graph: &mut Graph, node: &mut Node) {
    let Op::StridedSlice(options) = &node.op else { return };
    let added = options.new_axis_mask;
    let count = node.input(1).and_then(|id| graph.constant(id)).map(Tensor::len);
    let (Some(count), true) = (count, added.count_ones() == 1) else { return };
    let strides = node.input(3).and_then(|id| graph.constant(id)?.to_i64().ok());
    let whole = (0..count).all(|k| {
        is_set(added, k) || (is_set(options.begin_mask, k) && is_set(options.end_mask, k))
    });
    let forward = strides.is_some_and(|strides| strides.iter().all(|&stride| stride == 1));
    if !whole || !forward || options.ellipsis_mask != 0 || options.shrink_axis_mask & !added != 0 {
        return;
    }
    let axis = Tensor::scalar(added.trailing_zeros() as i32);
    let axis = graph.add_constant(format!("{}/axis", node.name), axis);
    node.op = Op::ExpandDims;
    node.inputs = vec![node.input(0), Some(axis)];
}
