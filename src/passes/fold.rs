//! Constants computed ahead, ops that change nothing left out, nodes whose results nobody wants
//! removed.
//!
//! One walk forward and one back, so linear in the number of nodes. Sizes are *not* turned into
//! constants even where the model fixes them: a run may bind others (a longer batch), and the
//! planner knows the values then.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use half::f16;

use super::budget::Budget;
use super::simplify::Simplify;
use super::values::{Aliases, is_set, reaches_end, results, used};
use super::{Declined, Report};
use crate::error::{Error, Result};
use crate::eval::evaluate;
use crate::graph::infer::{Operand, infer};
use crate::graph::op::{Activation, StridedSlice, While};
use crate::graph::{Dim, Graph, Node, Op, ValueId, ValueMap, ValueType};
use crate::tensor::{DType, Tensor};

/// Results of up to this many elements are computed ahead whatever they are made of; larger ones
/// only when they are no larger than their operands (a transposed weight), so that a file never
/// grows: a filled or tiled tensor stays a recipe.
const SMALL: usize = 4096;

/// Folds a graph and the bodies of its loops.
///
/// # Errors
/// None of its own; a node that cannot be computed stays.
pub fn fold(graph: Graph, budget: &mut Budget) -> Result<(Graph, Report)> {
    let mut report = Report::new("fold");
    let mut counts = Counts::default();
    let graph = rewrite(graph, &mut counts, budget);
    for (count, what) in [
        (counts.folded, "nodes computed ahead"),
        (counts.aliased, "nodes that change nothing left out"),
        (counts.dead, "nodes without use removed"),
        (counts.invariants, "constants moved into loops"),
    ] {
        if count > 0 {
            report.made.push(format!("{count} {what}"));
        }
    }
    if counts.too_much > 0 {
        report.declined.push(Declined {
            what: format!("{} nodes of constants", counts.too_much),
            reason: "the results are too large, or too much work, for the size of the model".into(),
        });
    }
    Ok((graph, report))
}

/// As [`fold`], without a report: for passes that clean up between their rounds.
pub(super) fn cleanup(graph: Graph, budget: &mut Budget) -> Graph {
    rewrite(graph, &mut Counts::default(), budget)
}

#[derive(Default)]
struct Counts {
    folded: usize,
    aliased: usize,
    dead: usize,
    invariants: usize,
    /// Nodes that were left because the budget was spent.
    too_much: usize,
}

fn rewrite(mut graph: Graph, counts: &mut Counts, budget: &mut Budget) -> Graph {
    let mut aliases = Aliases::default();
    let mut constants = Constants::default();
    for index in 0..graph.values.len() {
        constants.merge(&graph, ValueId::at(index), &mut aliases);
    }
    let mut known = Known::default();
    let mut simplify = Simplify::default();
    let nodes = std::mem::take(&mut graph.nodes);
    for mut node in nodes {
        aliases.read_operands(&mut node);
        if let Op::While(inner) = &mut node.op {
            inner.condition = rewrite(std::mem::take(&mut inner.condition), counts, budget);
            inner.body = rewrite(std::mem::take(&mut inner.body), counts, budget);
            counts.invariants += move_invariants(&graph, &mut node, &mut aliases);
        }
        refine(&mut graph, &node);
        simplify.node(&mut graph, &mut node);
        // A name that the caller sees is kept by its port.
        let from = unchanged(&graph, &node).or_else(|| simplify.undone(&node));
        if let (Some(from), Some(to)) = (from, node.output(0)) {
            aliases.set(to, from);
            counts.aliased += 1;
            continue;
        }
        if known.same(&node, &mut aliases) {
            counts.folded += 1;
            continue;
        }
        match computed(&graph, &node, budget) {
            Computed::Results(results) => {
                for (output, tensor) in node.outputs.iter().zip(results) {
                    let (Some(id), Some(tensor)) = (*output, tensor) else { continue };
                    let bytes = tensor.byte_len();
                    declare_constant(&mut graph, id, tensor);
                    if constants.merge(&graph, id, &mut aliases) {
                        // An equal one is there already: this copy is not kept.
                        budget.give_back(bytes);
                        if let Some(value) = graph.get_mut(id) {
                            value.constant = None;
                        }
                    }
                }
                known.note(node);
                counts.folded += 1;
                continue;
            }
            Computed::TooMuch => counts.too_much += 1,
            Computed::Not => {}
        }
        graph.nodes.push(node);
    }
    aliases.read_results(&mut graph);
    counts.dead += remove_dead(&mut graph);
    compact(graph)
}

fn declare_constant(graph: &mut Graph, id: ValueId, tensor: Tensor) {
    if let Some(value) = graph.get_mut(id) {
        let quantization = value.ty.quantization.take();
        value.ty = ValueType { quantization, ..ValueType::fixed(tensor.dtype(), tensor.shape()) };
        value.constant = Some(tensor);
    }
}

/// Nodes that were computed ahead, by their operands: unrolled steps take the same piece of the
/// same weight again and again.
#[derive(Default)]
struct Known {
    nodes: HashMap<Vec<Option<ValueId>>, Vec<Node>>,
}

impl Known {
    /// Whether the same was computed before; its results then stand for those of the node.
    fn same(&self, node: &Node, aliases: &mut Aliases) -> bool {
        let Some(known) = self.nodes.get(&node.inputs) else { return false };
        let is_same = |other: &&Node| {
            let wanted = node.outputs.iter().zip(&other.outputs);
            other.op == node.op
                && other.outputs.len() == node.outputs.len()
                && wanted.into_iter().all(|(own, other)| own.is_none() || other.is_some())
        };
        let Some(other) = known.iter().find(is_same) else { return false };
        for (own, other) in node.outputs.iter().zip(&other.outputs) {
            if let (Some(own), Some(other)) = (*own, *other) {
                aliases.set(own, other);
            }
        }
        true
    }

    fn note(&mut self, node: Node) {
        self.nodes.entry(node.inputs.clone()).or_default().push(node);
    }
}

/// Declares the results of a node from what its operands are known to be now: the more exact one of
/// this and the declaration.
pub(super) fn refine(graph: &mut Graph, node: &Node) {
    // A node that is not understood keeps what the file declares of it.
    let _ = try_refine(graph, node);
}

/// As [`refine`].
///
/// # Errors
/// Operands that the op does not take, or a declared element type that is not that of its results.
pub(super) fn try_refine(graph: &mut Graph, node: &Node) -> Result<()> {
    let operands: Vec<Option<Operand<'_>>> = node
        .inputs
        .iter()
        .map(|input| {
            let value = graph.get((*input)?)?;
            Some(Operand { ty: &value.ty, known: value.constant.as_ref() })
        })
        .collect();
    let types = infer(&node.op, &operands, node.outputs.len())?;
    for (output, inferred) in node.outputs.iter().zip(types) {
        let Some(value) = output.and_then(|id| graph.get_mut(id)) else { continue };
        if value.ty.dtype != inferred.dtype {
            let (found, declared) = (inferred.dtype, value.ty.dtype);
            return Err(Error::graph(format!("expected a result of {declared}, found {found}")));
        }
        value.ty.shape = match (value.ty.shape.take(), inferred.shape) {
            (Some(declared), Some(inferred)) if declared.len() == inferred.len() => {
                Some(declared.iter().zip(&inferred).map(|(&a, &b)| a.refined_by(b)).collect())
            }
            (None, inferred) => inferred,
            (declared, _) => declared,
        };
    }
    Ok(())
}

/// The operand that a node passes on as it is.
fn unchanged(graph: &Graph, node: &Node) -> Option<ValueId> {
    let input = node.input(0)?;
    let output = node.output(0)?;
    let (from, to) = (graph.get(input)?, graph.get(output)?);
    if from.ty.dtype != to.ty.dtype || from.ty.quantization != to.ty.quantization {
        return None;
    }
    let same_shape = || -> bool {
        match (&from.ty.shape, &to.ty.shape) {
            (Some(a), Some(b)) => a == b && a.iter().all(|dim| *dim != Dim::Unknown),
            _ => false,
        }
    };
    let second = |slot: usize| graph.constant(node.input(slot)?)?.to_i64().ok();
    let same = match &node.op {
        Op::Activation(Activation::Linear) => true,
        Op::Cast(dtype) => from.ty.dtype == *dtype,
        Op::Transpose => {
            second(1).is_some_and(|axes| axes.iter().enumerate().all(|(k, &axis)| axis == k as i64))
        }
        Op::Reshape | Op::Squeeze(_) | Op::BroadcastTo => same_shape(),
        Op::Tile => second(1).is_some_and(|times| times.iter().all(|&n| n == 1)),
        Op::Concat(options) => node.inputs.len() == 1 && options.activation == Activation::Linear,
        Op::Reverse => second(1).is_some_and(|axes| axes.is_empty()),
        Op::StridedSlice(options) => takes_all(graph, node, options),
        Op::Recurrent(_)
        | Op::Svdf(_)
        | Op::FullyConnected(_)
        | Op::MatMul(_)
        | Op::Conv2d(_)
        | Op::Pool2d(_)
        | Op::Unary(_)
        | Op::Activation(_)
        | Op::Binary(_)
        | Op::Select
        | Op::Softmax(_)
        | Op::Reduce(_)
        | Op::ArgMax(_)
        | Op::Quantize
        | Op::Dequantize
        | Op::ExpandDims
        | Op::Shape(_)
        | Op::Fill
        | Op::Range
        | Op::Pad
        | Op::Slice
        | Op::Gather(_)
        | Op::Pack(_)
        | Op::Unpack(_)
        | Op::Split
        | Op::ReverseSequence(_)
        | Op::SetItem
        | Op::While(_)
        | Op::Custom(_) => false,
    };
    same.then_some(input)
}

/// Whether a slice takes all of its operand.
fn takes_all(graph: &Graph, node: &Node, options: &StridedSlice) -> bool {
    let vector = |slot: usize| graph.constant(node.input(slot)?)?.to_i64().ok();
    let (Some(begin), Some(end), Some(strides)) = (vector(1), vector(2), vector(3)) else {
        return false;
    };
    let shape = node.input(0).and_then(|id| graph.shape(id)).unwrap_or_default();
    let whole = |k: usize| {
        let size = shape.get(k).and_then(|dim| dim.known());
        (is_set(options.begin_mask, k) || begin.get(k) == Some(&0))
            && (is_set(options.end_mask, k)
                || end.get(k).is_some_and(|&end| reaches_end(end, size)))
    };
    let plain = [options.new_axis_mask, options.shrink_axis_mask, options.ellipsis_mask] == [0; 3];
    plain
        && !options.offset
        && begin.len() <= shape.len()
        && strides.iter().all(|&stride| stride == 1)
        && (0..begin.len()).all(whole)
}

/// The outcome of computing a node ahead.
enum Computed {
    Results(Vec<Option<Tensor>>),
    /// Its operands are not all constant, or it is no op to compute ahead.
    Not,
    /// It could be, but the budget does not allow it.
    TooMuch,
}

/// The results of a node whose operands are all constant, when they are worth keeping.
fn computed(graph: &Graph, node: &Node, budget: &mut Budget) -> Computed {
    match &node.op {
        Op::Recurrent(_) | Op::Svdf(_) | Op::While(_) | Op::Custom(_) | Op::Shape(_) => {
            return Computed::Not;
        }
        _ => {}
    }
    let operands: Option<Vec<_>> = node.inputs.iter().map(|id| constant(graph, *id)).collect();
    let Some(inputs) = operands else { return Computed::Not };
    let largest = inputs.iter().flatten().map(|(tensor, _)| tensor.byte_len()).max().unwrap_or(0);
    let outputs: Vec<Option<&ValueType>> =
        node.outputs.iter().map(|output| graph.ty((*output)?)).collect();
    // Sizes before the work: nothing large is even computed.
    let (mut bytes, mut elements) = (0usize, 0usize);
    for ty in outputs.iter().flatten() {
        let Some(count) = count(ty) else { return Computed::Not };
        let Some(size) = count.checked_mul(ty.dtype.size()) else { return Computed::Not };
        // Half-precision weights are worth twice their size: the cells behind them can be seen.
        if count > SMALL && size > largest.saturating_mul(2) {
            return Computed::Not;
        }
        (bytes, elements) = (bytes.saturating_add(size), elements.saturating_add(count));
    }
    if !budget.take(bytes, work(node, &inputs, elements)) {
        return Computed::TooMuch;
    }
    let results = evaluate(&node.op, &inputs, &outputs).ok();
    let complete = |results: &Vec<Option<Tensor>>| {
        let pairs = results.iter().zip(&node.outputs);
        pairs.into_iter().all(|(result, output)| output.is_none() || result.is_some())
    };
    match results.filter(complete) {
        Some(results) => Computed::Results(results),
        None => {
            budget.give_back(bytes);
            Computed::Not
        }
    }
}

type Constant<'g> = Option<(&'g Tensor, &'g ValueType)>;

/// A constant operand, or the absence of one; `None` when it is no constant.
fn constant(graph: &Graph, id: Option<ValueId>) -> Option<Constant<'_>> {
    let Some(id) = id else { return Some(None) };
    let value = graph.get(id)?;
    Some(Some((value.constant.as_ref()?, &value.ty)))
}

/// Number of elements.
fn count(ty: &ValueType) -> Option<usize> {
    ty.known_shape()?.iter().try_fold(1usize, |n, &size| n.checked_mul(size))
}

/// Elements that are read and written; for products, multiply-adds.
fn work(node: &Node, inputs: &[Constant<'_>], outputs: usize) -> usize {
    let size = |slot: usize| inputs.get(slot).copied().flatten().map_or(0, |(t, _)| t.len());
    let read = (0..inputs.len()).map(size).fold(outputs, usize::saturating_add);
    match &node.op {
        // Each row of the result meets all of the weights.
        Op::FullyConnected(_) | Op::MatMul(_) | Op::Conv2d(_) => {
            let columns = inputs
                .get(1)
                .copied()
                .flatten()
                .and_then(|(t, _)| t.shape().iter().copied().filter(|&size| size > 0).min());
            let rows = outputs.checked_div(columns.unwrap_or(1)).unwrap_or(outputs);
            read.saturating_add(rows.saturating_mul(size(1)))
        }
        _ => read,
    }
}

/// Loop variables that the body leaves alone and that are constant before the loop become constants
/// of body and condition.
fn move_invariants(graph: &Graph, node: &mut Node, aliases: &mut Aliases) -> usize {
    let Op::While(inner) = &mut node.op else { return 0 };
    let While { condition, body } = &mut **inner;
    let count = node.inputs.len();
    if [body.inputs.len(), body.outputs.len(), condition.inputs.len(), node.outputs.len()]
        .iter()
        .any(|&n| n != count)
    {
        return 0;
    }
    let mut keep = vec![true; count];
    for (k, keep) in keep.iter_mut().enumerate() {
        if body.inputs[k].value != body.outputs[k].value {
            continue;
        }
        let Some(operand) = node.inputs[k] else { continue };
        // Whatever it is, after the loop it is what it was before.
        if let Some(result) = node.outputs[k].take() {
            aliases.set(result, operand);
        }
        let Some(value) = graph.get(operand).filter(|value| value.constant.is_some()) else {
            continue;
        };
        for part in [&mut *body, &mut *condition] {
            let id = part.inputs[k].value;
            if let Some(inner) = part.get_mut(id) {
                inner.constant = value.constant.clone();
                inner.ty = value.ty.clone();
            }
        }
        *keep = false;
    }
    // A loop with no variable left would be endless or none: it stays as it is.
    let moved = keep.iter().filter(|keep| !**keep).count();
    if moved == 0 {
        return 0;
    }
    fn retain<T>(list: &mut Vec<T>, keep: &[bool]) {
        let mut kept = keep.iter();
        list.retain(|_| kept.next().copied().unwrap_or(true));
    }
    retain(&mut node.inputs, &keep);
    retain(&mut node.outputs, &keep);
    retain(&mut body.inputs, &keep);
    retain(&mut body.outputs, &keep);
    retain(&mut condition.inputs, &keep);
    moved
}

/// Removes the nodes that no output and no state needs, and the results that nobody reads; returns
/// how many nodes.
fn remove_dead(graph: &mut Graph) -> usize {
    let mut wanted = ValueMap::new(graph);
    results(graph).for_each(|id| wanted.set(id, true));
    let before = graph.nodes.len();
    let mut kept = Vec::with_capacity(before);
    for mut node in std::mem::take(&mut graph.nodes).into_iter().rev() {
        if !node.outputs.iter().flatten().any(|&id| wanted[id]) {
            continue;
        }
        for output in &mut node.outputs {
            *output = output.filter(|&id| wanted[id]);
        }
        node.inputs.iter().flatten().for_each(|&id| wanted.set(id, true));
        kept.push(node);
    }
    kept.reverse();
    graph.nodes = kept;
    before - graph.nodes.len()
}

/// The graph without the values that nothing names any more.
fn compact(mut graph: Graph) -> Graph {
    let mut named = used(&graph);
    graph.inputs.iter().for_each(|port| named.set(port.value, true));
    graph.states.iter().for_each(|state| named.set(state.value, true));
    for &id in graph.nodes.iter().flat_map(|node| node.outputs.iter().flatten()) {
        named.set(id, true);
    }
    let mut places: ValueMap<Option<ValueId>> = ValueMap::new(&graph);
    let mut values = Vec::new();
    for (index, value) in std::mem::take(&mut graph.values).into_iter().enumerate() {
        let id = ValueId::at(index);
        if named[id] {
            places.set(id, Some(ValueId::at(values.len())));
            values.push(value);
        }
    }
    graph.values = values;
    let place = |id: &mut ValueId| *id = places[*id].unwrap_or(*id);
    graph.inputs.iter_mut().chain(&mut graph.outputs).for_each(|port| place(&mut port.value));
    for state in &mut graph.states {
        place(&mut state.value);
        place(&mut state.next);
    }
    for node in &mut graph.nodes {
        node.inputs.iter_mut().chain(&mut node.outputs).flatten().for_each(place);
    }
    graph
}

/// Constants by content: equal ones become one, so that steps of a chain which carry copies of
/// their weights share them.
#[derive(Default)]
struct Constants {
    by_content: HashMap<u64, Vec<ValueId>>,
}

impl Constants {
    /// Whether an equal constant is there already; it then stands for this one.
    fn merge(&mut self, graph: &Graph, id: ValueId, aliases: &mut Aliases) -> bool {
        let Some(value) = graph.get(id) else { return false };
        let Some(tensor) = &value.constant else { return false };
        let mut hasher = DefaultHasher::new();
        tensor.shape().hash(&mut hasher);
        let hashed = match tensor.dtype() {
            DType::F32 => tensor
                .as_slice::<f32>()
                .map(|data| bytemuck::cast_slice::<f32, u8>(data).hash(&mut hasher)),
            DType::F16 => tensor
                .as_slice::<f16>()
                .map(|data| bytemuck::cast_slice::<f16, u8>(data).hash(&mut hasher)),
            DType::I8 => tensor.as_slice::<i8>().map(|data| data.hash(&mut hasher)),
            DType::I32 => tensor.as_slice::<i32>().map(|data| data.hash(&mut hasher)),
            DType::I64 => tensor.as_slice::<i64>().map(|data| data.hash(&mut hasher)),
            DType::F64 | DType::U8 | DType::I16 | DType::Bool => return false,
        };
        if hashed.is_err() {
            return false;
        }
        let same = self.by_content.entry(hasher.finish()).or_default();
        let is_same = |other: &&ValueId| {
            graph.get(**other).is_some_and(|other| {
                other.ty.quantization == value.ty.quantization
                    && bits_equal(other.constant.as_ref(), tensor)
            })
        };
        match same.iter().find(is_same) {
            Some(first) if *first != id => {
                aliases.set(id, *first);
                true
            }
            Some(_) => false,
            None => {
                same.push(id);
                false
            }
        }
    }
}

/// Equal to the bit: 0 and −0 differ, a NaN is itself.
fn bits_equal(a: Option<&Tensor>, b: &Tensor) -> bool {
    let Some(a) = a else { return false };
    if a.shape() != b.shape() || a.dtype() != b.dtype() {
        return false;
    }
    match (a.as_slice::<f32>(), b.as_slice::<f32>()) {
        (Ok(a), Ok(b)) => bytemuck::cast_slice::<f32, u8>(a) == bytemuck::cast_slice::<f32, u8>(b),
        _ => a == b,
    }
}
