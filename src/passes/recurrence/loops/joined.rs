//! States that hold two or more side by side: `[c, h]` as one variable, as TensorFlow keeps them
//! with `state_is_tuple=False`.

use std::collections::HashMap;

use crate::graph::op::{Activation, Concat, While};
use crate::graph::{Dim, Node, Op, Port, ValueId, ValueType};
use crate::passes::recurrence::algebra::{Algebra, first};
use crate::passes::recurrence::shape_tracer::ShapeTracer;
use crate::tensor::Tensor;

/// A loop whose joined states are variables of their own.
pub struct Apart {
    pub node: Node,
    pub inner: While,
    /// For each result that was a joined state, its parts.
    joins: Vec<(ValueId, Vec<ValueId>)>,
}

impl Apart {
    /// The parts that stand for results of the loop.
    pub fn parts_of_results(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.joins.iter().flat_map(|(_, parts)| parts.iter().copied())
    }

    /// Joins what became of the parts.
    pub fn join(
        &self,
        tracer: &mut ShapeTracer,
        mut results: Vec<(ValueId, ValueId)>,
    ) -> Vec<(ValueId, ValueId)> {
        let of: HashMap<ValueId, ValueId> = results.iter().copied().collect();
        for (whole, parts) in &self.joins {
            let ty = tracer
                .graph
                .ty(*whole)
                .cloned()
                .unwrap_or(ValueType::unranked(crate::tensor::DType::F32));
            let joined = tracer.graph.add_value(format!("{}/state", self.node.name), ty);
            let inputs = parts.iter().map(|part| Some(of.get(part).copied().unwrap_or(*part)));
            tracer.push(Node {
                name: format!("{}/state", self.node.name),
                op: Op::Concat(Concat { axis: -1, activation: Activation::Linear }),
                inputs: inputs.collect(),
                outputs: vec![Some(joined)],
            });
            results.push((*whole, joined));
        }
        results
    }
}

/// The loop with a variable for each part of a joined state; `None` when it has no such state.
pub fn take_apart(node: &Node, inner: &While, tracer: &mut ShapeTracer) -> Option<Apart> {
    let count = node.inputs.len();
    let ports = [&inner.body.inputs, &inner.body.outputs, &inner.condition.inputs];
    if ports.iter().any(|list| list.len() != count) {
        return None;
    }
    let algebra = Algebra::new(&inner.body);
    let states: Vec<(usize, State)> =
        (0..count).filter_map(|k| Some((k, State::find(&algebra, k)?))).collect();
    if states.is_empty() {
        return None;
    }
    let mut apart = Apart { node: node.clone(), inner: inner.clone(), joins: Vec::new() };
    apart.node.outputs.resize(count, None);
    // From the last variable to the first, so that positions stay what they are.
    for (k, state) in states.into_iter().rev() {
        let operand = node.input(k)?;
        let parts = split(tracer, operand, &state.widths, &node.name)?;
        state.replace(&mut apart.inner, k)?;
        let result = node.output(k);
        let outputs: Vec<Option<ValueId>> = parts
            .iter()
            .map(|&part| {
                let ty = tracer.graph.ty(part)?.clone();
                result.map(|_| tracer.graph.add_value(format!("{}/part", node.name), ty))
            })
            .collect();
        if let Some(result) = result {
            apart.joins.push((result, outputs.iter().copied().collect::<Option<_>>()?));
        }
        apart.node.inputs.splice(k..=k, parts.into_iter().map(Some));
        apart.node.outputs.splice(k..=k, outputs);
    }
    Some(apart)
}

/// The columns of a value around the loop.
fn split(
    tracer: &mut ShapeTracer,
    value: ValueId,
    widths: &[usize],
    name: &str,
) -> Option<Vec<ValueId>> {
    let ty = tracer.graph.ty(value)?.clone();
    let sizes: Option<Vec<i32>> = widths.iter().map(|&width| i32::try_from(width).ok()).collect();
    let sizes = Tensor::from_vec(&[widths.len()], sizes?).ok()?;
    let axis = tracer.graph.add_constant(format!("{name}/axis"), Tensor::scalar(-1i32));
    let sizes = tracer.graph.add_constant(format!("{name}/sizes"), sizes);
    let parts: Vec<ValueId> = widths
        .iter()
        .map(|&width| tracer.graph.add_value(format!("{name}/part"), columns_type(&ty, width)))
        .collect();
    tracer.push(Node {
        name: format!("{name}/split"),
        op: Op::Split,
        inputs: vec![Some(value), Some(axis), Some(sizes)],
        outputs: parts.iter().copied().map(Some).collect(),
    });
    Some(parts)
}

fn columns_type(ty: &ValueType, width: usize) -> ValueType {
    let mut ty = ty.clone();
    if let Some(last) = ty.shape.as_mut().and_then(|shape| shape.last_mut()) {
        *last = Dim::Known(width);
    }
    ty
}

/// A state that is a join of others in the body, and is read there by its parts only.
struct State {
    widths: Vec<usize>,
    /// The parts of what it becomes.
    nexts: Vec<ValueId>,
    /// The condition of a mask, and whether the new parts stand where it holds.
    mask: Option<(ValueId, bool)>,
    /// Values of the body that are part `.1` of what the state was before.
    reads: Vec<(ValueId, usize)>,
}

impl State {
    fn find(algebra: &Algebra<'_>, k: usize) -> Option<State> {
        let body = algebra.graph;
        let (input, output) = (body.inputs.get(k)?.value, body.outputs.get(k)?.value);
        if !body.ty(input)?.dtype.is_float() || body.ty(input)?.rank() != Some(2) {
            return None;
        }
        let next = algebra.through(output);
        // Behind a mask, with its own old value.
        let (mask, choice, joined) = match algebra.choice(next) {
            None => (None, None, next),
            Some(choice) => {
                let (yes, no) = (algebra.through(choice.yes), algebra.through(choice.no));
                let joined = match input {
                    _ if no == input => yes,
                    _ if yes == input => no,
                    _ => return None,
                };
                (Some((choice.condition, no == input)), Some(next), joined)
            }
        };
        let (join, _) = algebra.producer(joined)?;
        let Op::Concat(options) = &join.op else { return None };
        if !matches!(options.axis, -1 | 1) || options.activation != Activation::Linear {
            return None;
        }
        let nexts: Vec<ValueId> = join.inputs.iter().copied().collect::<Option<_>>()?;
        let widths: Vec<usize> =
            nexts.iter().map(|&part| algebra.width(part)).collect::<Option<_>>()?;
        let reads = reads(algebra, input, choice, &widths)?;
        (nexts.len() > 1).then_some(State { widths, nexts, mask, reads })
    }

    /// Puts the parts in the place of variable `k`.
    fn replace(&self, inner: &mut While, k: usize) -> Option<()> {
        let port = inner.body.inputs.get(k)?.clone();
        let ty = inner.body.ty(port.value)?.clone();
        let parts: Vec<ValueId> = self
            .widths
            .iter()
            .map(|&width| inner.body.add_value(port.name.clone(), columns_type(&ty, width)))
            .collect();
        let of: HashMap<ValueId, ValueId> = self
            .reads
            .iter()
            .filter_map(|&(value, part)| Some((value, *parts.get(part)?)))
            .collect();
        inner.body.nodes.retain(|node| node.input(0) != Some(port.value) || !is_columns(&node.op));
        let read = |id: ValueId| of.get(&id).copied().unwrap_or(id);
        for id in inner.body.nodes.iter_mut().flat_map(|node| node.inputs.iter_mut().flatten()) {
            *id = read(*id);
        }
        inner.body.outputs.iter_mut().for_each(|port| port.value = read(port.value));
        let mut nexts = Vec::new();
        for (&next, &part) in self.nexts.iter().zip(&parts) {
            nexts.push(match self.mask {
                None => read(next),
                Some((condition, holds)) => {
                    let ty = inner.body.ty(part)?.clone();
                    let chosen = inner.body.add_value(port.name.clone(), ty);
                    let (yes, no) = if holds { (read(next), part) } else { (part, read(next)) };
                    let inputs = vec![Some(condition), Some(yes), Some(no)];
                    let name = port.name.clone();
                    inner.body.add_node(name, Op::Select, inputs, vec![Some(chosen)]);
                    chosen
                }
            });
        }
        let port_of = |value: ValueId| Port { name: port.name.clone(), value };
        let condition = inner.condition.inputs.get(k)?.clone();
        let held: Vec<Port> = self
            .widths
            .iter()
            .map(|&width| {
                let value =
                    inner.condition.add_value(condition.name.clone(), columns_type(&ty, width));
                Port { name: condition.name.clone(), value }
            })
            .collect();
        inner.body.inputs.splice(k..=k, parts.iter().copied().map(port_of));
        inner.body.outputs.splice(k..=k, nexts.into_iter().map(port_of));
        inner.condition.inputs.splice(k..=k, held);
        Some(())
    }
}

fn is_columns(op: &Op) -> bool {
    matches!(op, Op::Split | Op::Slice | Op::StridedSlice(_))
}

/// The values that are parts of `input`; `None` when it is read in another way, or there are none.
/// `choice` is the mask behind which the state keeps its value.
fn reads(
    algebra: &Algebra<'_>,
    input: ValueId,
    choice: Option<ValueId>,
    widths: &[usize],
) -> Option<Vec<(ValueId, usize)>> {
    let mut reads = Vec::new();
    for node in algebra.graph.nodes.iter().filter(|node| node.inputs.contains(&Some(input))) {
        if choice.is_some_and(|choice| algebra.is_in_choice(node, choice)) {
            continue;
        }
        if !is_columns(&node.op) || first(node) != Some(input) {
            return None;
        }
        for (slot, output) in node.outputs.iter().enumerate() {
            let Some(output) = *output else { continue };
            let (_, start) = algebra.columns(node, slot, output)?;
            let mut from = 0;
            let part = widths.iter().position(|&width| {
                from += width;
                from - width == start && algebra.width(output) == Some(width)
            })?;
            reads.push((output, part));
        }
    }
    (!reads.is_empty()).then_some(reads)
}
