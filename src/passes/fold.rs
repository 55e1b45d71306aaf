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

use super::Report;
use crate::error::Result;
use crate::eval::evaluate;
use crate::graph::infer::{Operand, infer};
use crate::graph::op::{Activation, While};
use crate::graph::{Dim, Graph, Node, Op, ValueId, ValueType};
use crate::tensor::{DType, Tensor};

/// Results of up to this many elements are computed ahead whatever they are made of; larger ones
/// only when they are no larger than their operands (a transposed weight), so that a file never
/// grows: a filled or tiled tensor stays a recipe.
const SMALL: usize = 4096;

/// Folds a graph and the bodies of its loops.
///
/// # Errors
/// None of its own; a node that cannot be computed stays.
pub fn fold(graph: Graph) -> Result<(Graph, Report)> {
    let mut report = Report::new("fold");
    let mut counts = Counts::default();
    let graph = rewrite(graph, &mut counts);
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
    Ok((graph, report))
}

/// As [`fold`], without a report: for passes that clear up between their rounds.
pub(super) fn clear(graph: Graph) -> Graph {
    rewrite(graph, &mut Counts::default())
}

#[derive(Default)]
struct Counts {
    folded: usize,
    aliased: usize,
    dead: usize,
    invariants: usize,
}

fn rewrite(mut graph: Graph, counts: &mut Counts) -> Graph {
    let mut alias: Vec<ValueId> = (0..graph.values.len() as u32).map(ValueId).collect();
    let mut constants = Constants::default();
    for index in 0..graph.values.len() {
        constants.merge(&graph, ValueId(index as u32), &mut alias);
    }
    let nodes = std::mem::take(&mut graph.nodes);
    for mut node in nodes {
        for input in node.inputs.iter_mut().flatten() {
            *input = read(&alias, *input);
        }
        if let Op::While(inner) = &mut node.op {
            inner.condition = rewrite(std::mem::take(&mut inner.condition), counts);
            inner.body = rewrite(std::mem::take(&mut inner.body), counts);
            counts.invariants += move_invariants(&graph, &mut node, &mut alias);
        }
        refine(&mut graph, &node);
        // A name that the caller sees is kept by its port.
        if let Some(from) = unchanged(&graph, &node)
            && let Some(Some(to)) = node.outputs.first().copied()
        {
            set(&mut alias, to, from);
            counts.aliased += 1;
            continue;
        }
        if let Some(results) = computed(&graph, &node) {
            for (output, tensor) in node.outputs.iter().zip(results) {
                let (Some(id), Some(tensor)) = (output, tensor) else { continue };
                if let Some(value) = graph.get_mut(*id) {
                    let quantization = value.ty.quantization.take();
                    value.ty = ValueType {
                        quantization,
                        ..ValueType::fixed(tensor.dtype(), tensor.shape())
                    };
                    value.constant = Some(tensor);
                }
                constants.merge(&graph, *id, &mut alias);
            }
            counts.folded += 1;
            continue;
        }
        graph.nodes.push(node);
    }
    for port in &mut graph.outputs {
        port.value = read(&alias, port.value);
    }
    for state in &mut graph.states {
        state.next = read(&alias, state.next);
    }
    counts.dead += remove_dead(&mut graph);
    compact(graph)
}

/// What a node's results are, from what its operands are known to be now: the more exact one of
/// this and the declaration.
pub(super) fn refine(graph: &mut Graph, node: &Node) {
    let operands: Vec<Option<Operand<'_>>> = node
        .inputs
        .iter()
        .map(|input| {
            let value = graph.get((*input)?)?;
            Some(Operand { ty: &value.ty, known: value.constant.as_ref() })
        })
        .collect();
    let Ok(types) = infer(&node.op, &operands, node.outputs.len()) else { return };
    for (output, inferred) in node.outputs.iter().zip(types) {
        let Some(value) = output.and_then(|id| graph.get_mut(id)) else { continue };
        value.ty.shape = match (value.ty.shape.take(), inferred.shape) {
            (Some(declared), Some(inferred)) if declared.len() == inferred.len() => {
                Some(declared.iter().zip(&inferred).map(|(&a, &b)| a.refined_by(b)).collect())
            }
            (None, inferred) => inferred,
            (declared, _) => declared,
        };
    }
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
        Op::Recurrent(_)
        | Op::Svdf(_)
        | Op::FullyConnected(_)
        | Op::MatMul(_)
        | Op::Conv2d(_)
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
        | Op::StridedSlice(_)
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

/// The results of a node whose operands are all constant, when they are worth keeping.
fn computed(graph: &Graph, node: &Node) -> Option<Vec<Option<Tensor>>> {
    match &node.op {
        Op::Recurrent(_) | Op::Svdf(_) | Op::While(_) | Op::Custom(_) | Op::Shape(_) => {
            return None;
        }
        _ => {}
    }
    let mut size = 0usize;
    let mut inputs = Vec::with_capacity(node.inputs.len());
    for input in &node.inputs {
        inputs.push(match input {
            None => None,
            Some(id) => {
                let value = graph.get(*id)?;
                let tensor = value.constant.as_ref()?;
                size = size.max(tensor.byte_len());
                Some((tensor, &value.ty))
            }
        });
    }
    let outputs: Vec<Option<&ValueType>> = node
        .outputs
        .iter()
        .map(|output| output.and_then(|id| graph.get(id)).map(|value| &value.ty))
        .collect();
    // Sizes before the work: nothing large is even computed.
    for ty in outputs.iter().flatten() {
        let count = ty.known_shape()?.iter().try_fold(1usize, |n, &size| n.checked_mul(size))?;
        let bytes = count.checked_mul(ty.dtype.size())?;
        // Half-precision weights are worth twice their size: the cells behind them can be seen.
        if count > SMALL && bytes > size.saturating_mul(2) {
            return None;
        }
    }
    let results = evaluate(&node.op, &inputs, &outputs).ok()?;
    results
        .iter()
        .zip(&node.outputs)
        .all(|(result, output)| output.is_none() || result.is_some())
        .then_some(results)
}

/// Loop variables that the body leaves alone and that are constant before the loop become constants
/// of body and condition.
fn move_invariants(graph: &Graph, node: &mut Node, alias: &mut [ValueId]) -> usize {
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
            set(alias, result, operand);
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
    let mut wanted = vec![false; graph.values.len()];
    let want = |id: ValueId, wanted: &mut Vec<bool>| {
        if let Some(slot) = wanted.get_mut(id.index()) {
            *slot = true;
        }
    };
    for id in graph
        .outputs
        .iter()
        .map(|port| port.value)
        .chain(graph.states.iter().map(|state| state.next))
    {
        want(id, &mut wanted);
    }
    let before = graph.nodes.len();
    let mut kept = Vec::with_capacity(before);
    for mut node in std::mem::take(&mut graph.nodes).into_iter().rev() {
        let is_wanted = |id: &ValueId| wanted.get(id.index()).copied().unwrap_or(false);
        if !node.outputs.iter().flatten().any(is_wanted) {
            continue;
        }
        for output in &mut node.outputs {
            if !output.as_ref().is_some_and(is_wanted) {
                *output = None;
            }
        }
        for input in node.inputs.iter().flatten() {
            want(*input, &mut wanted);
        }
        kept.push(node);
    }
    kept.reverse();
    graph.nodes = kept;
    before - graph.nodes.len()
}

/// The graph without the values that nothing names any more.
fn compact(mut graph: Graph) -> Graph {
    let mut named = vec![false; graph.values.len()];
    let mut name = |id: ValueId| {
        if let Some(slot) = named.get_mut(id.index()) {
            *slot = true;
        }
    };
    graph.inputs.iter().chain(&graph.outputs).for_each(|port| name(port.value));
    graph.states.iter().for_each(|state| [state.value, state.next].into_iter().for_each(&mut name));
    for node in &graph.nodes {
        node.inputs.iter().chain(&node.outputs).flatten().for_each(|id| name(*id));
    }
    let mut places = vec![ValueId(0); graph.values.len()];
    let mut values = Vec::new();
    for (index, value) in std::mem::take(&mut graph.values).into_iter().enumerate() {
        if named.get(index).copied().unwrap_or(false) {
            places[index] = ValueId(values.len() as u32);
            values.push(value);
        }
    }
    graph.values = values;
    let place = |id: &mut ValueId| *id = read(&places, *id);
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
    fn merge(&mut self, graph: &Graph, id: ValueId, alias: &mut [ValueId]) {
        let Some(value) = graph.get(id) else { return };
        let Some(tensor) = &value.constant else { return };
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
            DType::F64 | DType::U8 | DType::I16 | DType::Bool => return,
        };
        if hashed.is_err() {
            return;
        }
        let same = self.by_content.entry(hasher.finish()).or_default();
        let is_same = |other: &&ValueId| {
            graph.get(**other).is_some_and(|other| {
                other.ty.quantization == value.ty.quantization
                    && bits_equal(other.constant.as_ref(), tensor)
            })
        };
        match same.iter().find(is_same) {
            Some(first) if *first != id => set(alias, id, *first),
            Some(_) => {}
            None => same.push(id),
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

fn read(alias: &[ValueId], id: ValueId) -> ValueId {
    alias.get(id.index()).copied().unwrap_or(id)
}

/// `alias` never leads from an alias to another: what is set was read before.
fn set(alias: &mut [ValueId], id: ValueId, to: ValueId) {
    let to = read(alias, to);
    if let Some(slot) = alias.get_mut(id.index()) {
        *slot = to;
    }
}
