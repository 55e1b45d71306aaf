//! A forward and a backward layer on one input, joined, as one op.

use std::collections::HashMap;

use super::{Consumers, input};
use crate::graph::op::Activation;
use crate::graph::recurrent::{Arithmetic, Merge};
use crate::graph::{Graph, NodeId, Op, Recurrent, ValueId, ValueMap};
use crate::passes::Report;

/// Pairs layers whose outputs meet in a join on the last axis and nowhere else.
pub fn pair(mut graph: Graph, report: &mut Report) -> Graph {
    let consumers = Consumers::new(&graph);
    let producers = graph.producers();
    let mut gone = vec![false; graph.nodes.len()];
    let mut moved: HashMap<usize, usize> = HashMap::new();
    for index in 0..graph.nodes.len() {
        let Some((first, second)) = candidates(&graph, &consumers, &producers, index) else {
            continue;
        };
        if gone[first] || gone[second] || moved.contains_key(&first) || moved.contains_key(&second)
        {
            continue;
        }
        let Some((op, inputs, mut outputs)) = joined(&graph, first, second) else { continue };
        let Some(join) = graph.nodes.get_mut(index) else { continue };
        outputs[Recurrent::y(0)] = join.output(0);
        report.made.push(format!("`{}` and its reverse: one bidirectional op", join.name));
        (join.op, join.inputs, join.outputs) = (Op::Recurrent(op), inputs, outputs);
        (gone[first], gone[second]) = (true, true);
        moved.insert(index, first);
    }
    if moved.is_empty() {
        return graph;
    }
    let mut kept = gone.iter();
    graph.nodes.retain(|_| !kept.next().copied().unwrap_or(false));
    // The final states may be read before the join stood.
    if let Some(nodes) = crate::passes::recurrence::sorted(&graph) {
        graph.nodes = nodes;
    }
    graph
}

/// The two layers that a join brings together.
fn candidates(
    graph: &Graph,
    consumers: &Consumers,
    producers: &ValueMap<Option<NodeId>>,
    index: usize,
) -> Option<(usize, usize)> {
    let node = graph.nodes.get(index)?;
    let Op::Concat(options) = &node.op else { return None };
    let &[Some(a), Some(b)] = node.inputs.as_slice() else { return None };
    let last = options.axis == -1 || options.axis == 2;
    if !last || options.activation != Activation::Linear || a == b {
        return None;
    }
    let layer = |value: ValueId| -> Option<usize> {
        (consumers.of(value)? == [NodeId::at(index)]).then_some(())?;
        let layer = producers[value]?.index();
        let node = graph.nodes.get(layer)?;
        let is_y = node.output(Recurrent::y(0)) == Some(value);
        (matches!(node.op, Op::Recurrent(_)) && is_y).then_some(layer)
    };
    let (first, second) = (layer(a)?, layer(b)?);
    (first != second).then_some((first, second))
}

type Parts = (Recurrent, Vec<Option<ValueId>>, Vec<Option<ValueId>>);

fn joined(graph: &Graph, first: usize, second: usize) -> Option<Parts> {
    let (a, b) = (graph.nodes.get(first)?, graph.nodes.get(second)?);
    let (Op::Recurrent(x), Op::Recurrent(y)) = (&a.op, &b.op) else { return None };
    let ([forward], [backward]) = (x.directions.as_slice(), y.directions.as_slice()) else {
        return None;
    };
    let shared =
        [Recurrent::X, Recurrent::MASK].iter().all(|&slot| input(a, slot) == input(b, slot));
    let auxiliary =
        input(a, Recurrent::AUXILIARY).is_some() || input(b, Recurrent::AUXILIARY).is_some();
    let arithmetic = matches!(x.arithmetic, Arithmetic::Float | Arithmetic::Hybrid { .. });
    let alike = x.cell == y.cell
        && x.layout == y.layout
        && x.gate_clip == y.gate_clip
        && x.arithmetic == y.arithmetic;
    let masking = x.masking == y.masking || input(a, Recurrent::MASK).is_none();
    if !shared
        || auxiliary
        || !arithmetic
        || !alike
        || !masking
        || forward.reverse
        || !backward.reverse
    {
        return None;
    }
    let op = Recurrent {
        directions: vec![forward.clone(), backward.clone()],
        merge: Merge::Concat,
        ..x.clone()
    };
    let mut inputs = vec![None; op.input_slots()];
    let mut outputs = vec![None; op.output_slots()];
    inputs[Recurrent::X] = input(a, Recurrent::X);
    inputs[Recurrent::MASK] = input(a, Recurrent::MASK);
    for (d, node) in [(0, a), (1, b)] {
        inputs[Recurrent::h0(d)] = input(node, Recurrent::h0(0));
        inputs[Recurrent::c0(d)] = input(node, Recurrent::c0(0));
        outputs[Recurrent::h_n(d)] = node.output(Recurrent::h_n(0));
        outputs[Recurrent::c_n(d)] = node.output(Recurrent::c_n(0));
    }
    Some((op, inputs, outputs))
}
