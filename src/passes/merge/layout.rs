//! Transposes and reversals around a recurrent op.

use std::collections::HashMap;

use super::{Consumers, input, reversed_axis, swaps};
use crate::graph::op::ReverseSequence;
use crate::graph::recurrent::{Layout, Masking};
use crate::graph::{Graph, Node, NodeId, Op, Recurrent, ValueId, ValueMap};
use crate::passes::Report;
use crate::tensor::Tensor;

/// One walk over the recurrent ops.
struct Walk {
    graph: Graph,
    producers: ValueMap<Option<NodeId>>,
    consumers: Consumers,
    /// Results that are now another value.
    alias: HashMap<ValueId, ValueId>,
    /// Nodes to add behind a node.
    after: HashMap<usize, Vec<Node>>,
    /// Nodes that a rewrite of this walk has changed the meaning of: the next round looks at them.
    touched: Vec<bool>,
}

/// Absorbs reversals and transposes where that removes one on either side.
pub fn absorb(graph: Graph, report: &mut Report) -> Graph {
    let (producers, consumers) = (graph.producers(), Consumers::new(&graph));
    let touched = vec![false; graph.nodes.len()];
    let mut walk =
        Walk { graph, producers, consumers, alias: HashMap::new(), after: HashMap::new(), touched };
    for index in 0..walk.graph.nodes.len() {
        if walk.reverse(index).is_some() {
            report.made.push(format!(
                "`{}`: the reversals around it are its direction",
                walk.graph.nodes[index].name
            ));
        } else if walk.transpose(index).is_some() {
            report.made.push(format!(
                "`{}`: the transposes around it are its layout",
                walk.graph.nodes[index].name
            ));
        }
    }
    walk.finish()
}

impl Walk {
    fn producer(&self, value: ValueId) -> Option<(usize, &Node)> {
        let index = self.producers[value]?.index();
        Some((index, self.graph.nodes.get(index)?))
    }

    /// The node behind a value, when nothing in this walk has changed what it yields.
    fn untouched(&self, value: ValueId) -> Option<(usize, &Node)> {
        self.producer(value).filter(|(index, _)| self.touched.get(*index) == Some(&false))
    }

    /// The same lengths, perhaps in another integer type.
    fn same_lengths(&self, a: Option<ValueId>, b: Option<ValueId>) -> bool {
        let uncast = |value: Option<ValueId>| match value.and_then(|value| self.producer(value)) {
            Some((_, node)) if matches!(node.op, Op::Cast(_)) => input(node, 0),
            _ => value,
        };
        a.is_some() && uncast(a) == uncast(b)
    }

    fn layer(&self, index: usize) -> Option<(&Node, &Recurrent)> {
        let node = self.graph.nodes.get(index)?;
        match &node.op {
            Op::Recurrent(layer)
                if layer.directions.len() == 1 && !self.touched.get(index).copied()? =>
            {
                Some((node, layer))
            }
            _ => None,
        }
    }

    /// The nodes that read a result, `None` where one of them was changed in this walk or stands
    /// outside.
    fn readers(&self, value: Option<ValueId>) -> Option<Vec<usize>> {
        let Some(value) = value else { return Some(Vec::new()) };
        let readers: Vec<usize> =
            self.consumers.of(value)?.iter().map(|reader| reader.index()).collect();
        readers.iter().all(|&reader| self.touched.get(reader) == Some(&false)).then_some(readers)
    }

    /// Reverse(x) → layer → Reverse(y): the layer in the other direction.
    fn reverse(&mut self, index: usize) -> Option<()> {
        let (node, layer) = self.layer(index)?;
        let time = if layer.layout == Layout::TimeMajor { 0 } else { 1 };
        let (_, before) = self.untouched(input(node, Recurrent::X)?)?;
        let x = input(before, 0)?;
        let mask = input(node, Recurrent::MASK);
        if input(node, Recurrent::AUXILIARY).is_some() {
            return None;
        }
        // What counts as the same reversal behind the layer, and the mask without it.
        let lengths = match (&before.op, mask) {
            (Op::ReverseSequence(options), Some(mask)) => {
                let own = *options
                    == (ReverseSequence { time_axis: time as i64, batch_axis: 1 - time as i64 });
                let zero = layer.masking == Masking::Zero;
                (own && zero && self.same_lengths(input(before, 1), Some(mask)))
                    .then_some(Some(mask))?
            }
            _ => None,
        };
        let new_mask = if lengths.is_some() {
            mask
        } else {
            (reversed_axis(&self.graph, before)? == time).then_some(())?;
            match mask {
                None => None,
                Some(mask) => {
                    let (_, reversal) = self.untouched(mask)?;
                    let rank = self.graph.get(mask)?.ty.rank();
                    (rank == Some(2) && reversed_axis(&self.graph, reversal)? == time)
                        .then_some(())?;
                    Some(input(reversal, 0)?)
                }
            }
        };
        let undone = |reader: usize, axis: usize| -> Option<()> {
            let reader = self.graph.nodes.get(reader)?;
            match (&reader.op, lengths) {
                (Op::ReverseSequence(options), Some(lengths)) => {
                    let own = *options
                        == (ReverseSequence {
                            time_axis: axis as i64,
                            batch_axis: 1 - axis as i64,
                        });
                    (own && self.same_lengths(input(reader, 1), Some(lengths))).then_some(())
                }
                (_, None) => (reversed_axis(&self.graph, reader)? == axis).then_some(()),
                _ => None,
            }
        };
        // Directly behind it, or behind a swap of time and batch.
        let mut reversals = Vec::new();
        for reader in self.readers(node.output(Recurrent::y(0)))? {
            if undone(reader, time).is_some() {
                reversals.push(reader);
                continue;
            }
            let swap = self.graph.nodes.get(reader).filter(|reader| swaps(&self.graph, reader))?;
            for reader in self.readers(swap.output(0))? {
                undone(reader, 1 - time)?;
                reversals.push(reader);
            }
        }
        for reversal in reversals {
            let reader = self.graph.nodes.get(reversal)?;
            let (from, to) = (input(reader, 0)?, reader.output(0)?);
            self.alias.insert(to, from);
            *self.touched.get_mut(reversal)? = true;
        }
        let node = self.graph.nodes.get_mut(index)?;
        node.inputs[Recurrent::X] = Some(x);
        node.inputs[Recurrent::MASK] = new_mask;
        if let Op::Recurrent(layer) = &mut node.op {
            layer
                .directions
                .iter_mut()
                .for_each(|direction| direction.reverse = !direction.reverse);
        }
        *self.touched.get_mut(index)? = true;
        Some(())
    }

    /// Transpose(x) → layer → Transpose(y): the layer in the other layout.
    fn transpose(&mut self, index: usize) -> Option<()> {
        let (node, _) = self.layer(index)?;
        let (_, before) = self.untouched(input(node, Recurrent::X)?)?;
        if !swaps(&self.graph, before) || input(node, Recurrent::AUXILIARY).is_some() {
            return None;
        }
        let x = input(before, 0)?;
        let mask = input(node, Recurrent::MASK);
        let mut new_mask = mask;
        if let Some(mask) = mask
            && self.graph.get(mask)?.ty.rank()? == 2
        {
            let (_, swap) = self.untouched(mask)?;
            swaps(&self.graph, swap).then_some(())?;
            new_mask = Some(input(swap, 0)?);
        }
        let y = node.output(Recurrent::y(0));
        let name = node.name.clone();
        let mut swapped = Vec::new();
        let mut others = false;
        for reader in self.readers(y)? {
            let node = self.graph.nodes.get(reader)?;
            if swaps(&self.graph, node) {
                swapped.push(reader);
                continue;
            }
            // The next layer of a stack takes the transpose over.
            let stacked = matches!(&node.op, Op::Recurrent(_)) && input(node, Recurrent::X) == y;
            stacked.then_some(())?;
            others = true;
        }
        let node = self.graph.nodes.get_mut(index)?;
        node.inputs[Recurrent::X] = Some(x);
        node.inputs[Recurrent::MASK] = new_mask;
        if let Op::Recurrent(layer) = &mut node.op {
            layer.layout = match layer.layout {
                Layout::TimeMajor => Layout::BatchMajor,
                Layout::BatchMajor => Layout::TimeMajor,
            };
        }
        *self.touched.get_mut(index)? = true;
        let Some(y) = y else { return Some(()) };
        let mut ty = self.graph.get(y)?.ty.clone();
        if let Some([a, b, ..]) = ty.shape.as_deref_mut() {
            std::mem::swap(a, b);
        }
        let fresh = self.graph.add_value(format!("{name}/y"), ty);
        self.graph.nodes.get_mut(index)?.outputs[Recurrent::y(0)] = Some(fresh);
        for reader in swapped {
            let output = self.graph.nodes.get(reader)?.output(0)?;
            self.alias.insert(output, fresh);
            *self.touched.get_mut(reader)? = true;
        }
        if others {
            let axes = Tensor::from_slice(&[3], &[1i32, 0, 2]).ok()?;
            let axes = self.graph.add_constant(format!("{name}/axes"), axes);
            self.after.entry(index).or_default().push(Node {
                name: format!("{name}/transpose"),
                op: Op::Transpose,
                inputs: vec![Some(fresh), Some(axes)],
                outputs: vec![Some(y)],
            });
            // The next round sees the transpose in front of the next layer.
            for reader in self.readers(Some(y)).unwrap_or_default() {
                *self.touched.get_mut(reader)? = true;
            }
        }
        Some(())
    }

    /// The graph with aliases in place and new nodes where they belong.
    fn finish(mut self) -> Graph {
        let read = |alias: &HashMap<ValueId, ValueId>, mut id: ValueId| {
            // Aliases of aliases: a reversal behind a transpose.
            while let Some(&to) = alias.get(&id) {
                id = to;
            }
            id
        };
        let mut nodes = Vec::with_capacity(self.graph.nodes.len());
        for (index, mut node) in std::mem::take(&mut self.graph.nodes).into_iter().enumerate() {
            // What became an alias has no result of its own any more.
            if node.outputs.iter().flatten().any(|id| self.alias.contains_key(id)) {
                continue;
            }
            node.inputs.iter_mut().flatten().for_each(|id| *id = read(&self.alias, *id));
            nodes.push(node);
            nodes.extend(self.after.remove(&index).unwrap_or_default());
        }
        self.graph.nodes = nodes;
        for port in &mut self.graph.outputs {
            port.value = read(&self.alias, port.value);
        }
        for state in &mut self.graph.states {
            state.next = read(&self.alias, state.next);
        }
        self.graph
    }
}
