//! Packs of what was taken apart before.

use super::input;
use crate::graph::op::{Activation, Concat, StridedSlice};
use crate::graph::{Dim, Graph, Node, Op, ValueId, ValueType};
use crate::passes::Report;
use crate::passes::recurrence::ShapeTracer;
use crate::passes::values::{Aliases, is_set, reaches_end};
use crate::tensor::Tensor;

/// Replaces packs whose operands are the pieces of one value, in order or in the opposite order,
/// and pulls joins out of packs.
pub fn cancel(mut graph: Graph, report: &mut Report) -> Graph {
    let nodes = std::mem::take(&mut graph.nodes);
    let mut tracer = ShapeTracer::new(graph);
    let mut aliases = Aliases::default();
    for mut node in nodes {
        aliases.read_operands(&mut node);
        let whole = match &node.op {
            Op::Pack(pack) => packed(&mut tracer, &node, pack.axis),
            Op::StridedSlice(_) => only_entry(&tracer, &node),
            _ => None,
        };
        match (whole, node.output(0)) {
            (Some(whole), Some(output)) => {
                report.made.push(format!(
                    "`{}` puts together what was taken apart, or the reverse: canceled",
                    node.name
                ));
                aliases.set(output, whole);
            }
            _ => tracer.push(node),
        }
    }
    let mut graph = tracer.graph;
    aliases.read_results(&mut graph);
    graph
}

/// Entry 0 of a first axis that was only just added.
fn only_entry(tracer: &ShapeTracer, node: &Node) -> Option<ValueId> {
    let added = tracer.producer(input(node, 0)?)?;
    let axis = tracer.integers(input(added, 1)?)?;
    if !matches!(added.op, Op::ExpandDims) || axis != [0] {
        return None;
    }
    let output = node.output(0)?;
    let Op::StridedSlice(options) = &node.op else { return None };
    let piece = sliced(tracer, node, options, input(node, 0)?)?;
    let inner = input(added, 0)?;
    let same = tracer.graph.get(inner)?.ty.rank() == tracer.graph.get(output)?.ty.rank();
    (piece.axis == 0 && same).then_some(inner)
}

/// One index of one axis of a value.
#[derive(Clone, Copy, PartialEq)]
struct Piece {
    whole: ValueId,
    axis: usize,
    index: usize,
}

/// The result of a pack, without the pack.
fn packed(tracer: &mut ShapeTracer, node: &Node, axis: i64) -> Option<ValueId> {
    let operands: Vec<ValueId> = node.inputs.iter().copied().collect::<Option<_>>()?;
    let rank = tracer.graph.get(*operands.first()?)?.ty.rank()?;
    let axis = usize::try_from(if axis < 0 { axis + rank as i64 + 1 } else { axis }).ok()?;
    if !matches!(rank, 1 | 2) {
        return None;
    }
    if let Some(whole) = whole(tracer, &operands, axis, &node.name) {
        return Some(whole);
    }
    // A pack of joins on the last axis is a join of packs.
    let mut columns: Vec<Vec<ValueId>> = Vec::new();
    for &operand in &operands {
        let join = tracer.producer(operand)?;
        let Op::Concat(options) = &join.op else { return None };
        let last = options.axis == 1 || options.axis == -1;
        if !last || options.activation != Activation::Linear || axis >= rank {
            return None;
        }
        columns.resize(columns.len().max(join.inputs.len()), Vec::new());
        if columns.len() != join.inputs.len() {
            return None;
        }
        let parts: Vec<ValueId> = join.inputs.iter().copied().collect::<Option<_>>()?;
        for (column, part) in columns.iter_mut().zip(parts) {
            column.push(part);
        }
    }
    if columns
        .iter()
        .any(|column| column.len() != operands.len() || pieces(tracer, column).is_none())
    {
        return None;
    }
    let mut joined = Vec::new();
    let mut width = Some(0);
    for column in &columns {
        let part = whole(tracer, column, axis, &node.name)?;
        width = width.and_then(|width| {
            let own = tracer.graph.get(part)?.ty.shape.as_ref()?.last()?.known()?;
            Some(width + own)
        });
        joined.push(Some(part));
    }
    let first = joined.first().copied().flatten()?;
    let mut ty = tracer.graph.get(first)?.ty.clone();
    if let Some(last) = ty.shape.as_mut().and_then(|shape| shape.last_mut()) {
        *last = width.map_or(Dim::Unknown, Dim::Known);
    }
    let result = tracer.graph.add_value(format!("{}/joined", node.name), ty);
    let op = Op::Concat(Concat { axis: -1, activation: Activation::Linear });
    tracer.push(Node {
        name: format!("{}/join", node.name),
        op,
        inputs: joined,
        outputs: vec![Some(result)],
    });
    Some(result)
}

/// The pieces, when they are all of one value along one axis, in order (`false`) or in the opposite
/// order (`true`).
fn pieces(tracer: &ShapeTracer, operands: &[ValueId]) -> Option<(Piece, bool)> {
    let found: Vec<Piece> =
        operands.iter().map(|&operand| piece(tracer, operand)).collect::<Option<_>>()?;
    let first = *found.first()?;
    if found.iter().any(|piece| piece.whole != first.whole || piece.axis != first.axis) {
        return None;
    }
    let size = tracer.graph.get(first.whole)?.ty.shape.as_ref()?.get(first.axis)?.known()?;
    if size != found.len() {
        return None;
    }
    let forward = found.iter().enumerate().all(|(k, piece)| piece.index == k);
    let backward = found.iter().rev().enumerate().all(|(k, piece)| piece.index == k);
    (forward || backward).then_some((first, !forward))
}

fn piece(tracer: &ShapeTracer, value: ValueId) -> Option<Piece> {
    let node = tracer.producer(value)?;
    let whole = input(node, 0)?;
    let rank = tracer.graph.ty(whole)?.rank()?;
    let piece = match &node.op {
        Op::Unpack(unpack) => {
            let axis = axis_of(unpack.axis, rank)?;
            Some(Piece { whole, axis, index: tracer.slot(value)? })
        }
        Op::Gather(gather) if gather.batch_dims == 0 => {
            let indices = input(node, 1)?;
            let scalar = tracer.graph.constant(indices)?.shape().is_empty();
            let index = usize::try_from(*tracer.integers(indices)?.first()?).ok()?;
            scalar.then_some(Piece { whole, axis: axis_of(gather.axis, rank)?, index })
        }
        Op::StridedSlice(options) => sliced(tracer, node, options, whole),
        Op::Squeeze(_) | Op::Reshape => {
            let axis = dropped_axis(tracer, whole, value)?;
            Some(Piece { whole, axis, index: 0 })
        }
        _ => None,
    }?;
    // The only entry of a part of size 1 is that entry of the whole.
    match part(tracer, piece.whole, piece.axis) {
        Some((whole, index)) if piece.index == 0 => Some(Piece { whole, index, ..piece }),
        _ => {
            matches!(node.op, Op::Unpack(_) | Op::Gather(_) | Op::StridedSlice(_)).then_some(piece)
        }
    }
}

fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok()
}

/// The axis of size 1 that `value` lacks beside `whole`, when there is one only.
fn dropped_axis(tracer: &ShapeTracer, whole: ValueId, value: ValueId) -> Option<usize> {
    let (from, to) = (tracer.graph.shape(whole)?, tracer.graph.shape(value)?);
    let open = to.iter().filter(|dim| dim.known().is_none()).count();
    let mut fitting = (0..from.len()).filter(|&axis| {
        let mut rest = from.to_vec();
        rest.remove(axis).known() == Some(1) && rest == to
    });
    let axis = fitting.next()?;
    (fitting.next().is_none() && from.len() == to.len() + 1 && open <= 1).then_some(axis)
}

/// The value of which `value` is one entry along `axis`, the axis kept with size 1, and the entry.
fn part(tracer: &ShapeTracer, value: ValueId, axis: usize) -> Option<(ValueId, usize)> {
    let node = tracer.producer(value)?;
    let whole = input(node, 0)?;
    let rank = tracer.graph.ty(whole)?.rank()?;
    (tracer.graph.shape(value)?.get(axis)?.known() == Some(1)).then_some(())?;
    match &node.op {
        Op::Split if input(node, 2).is_none() => {
            let own = axis_of(*tracer.integers(input(node, 1)?)?.first()?, rank)?;
            (own == axis).then_some((whole, tracer.slot(value)?))
        }
        Op::Split => {
            let own = axis_of(*tracer.integers(input(node, 1)?)?.first()?, rank)?;
            let sizes = tracer.integers(input(node, 2)?)?;
            let single = own == axis && sizes.iter().all(|&size| size == 1);
            single.then_some((whole, tracer.slot(value)?))
        }
        Op::StridedSlice(options) if options.shrink_axis_mask == 0 => {
            let begin = one_of(tracer, node, options, whole, axis)?;
            Some((whole, begin))
        }
        _ => None,
    }
}

/// One index of one axis, cut out by a slice that drops the axis.
fn sliced(
    tracer: &ShapeTracer,
    node: &Node,
    options: &StridedSlice,
    whole: ValueId,
) -> Option<Piece> {
    let axis = usize::try_from(options.shrink_axis_mask.trailing_zeros()).ok()?;
    (options.shrink_axis_mask.count_ones() == 1).then_some(())?;
    Some(Piece { whole, axis, index: one_of(tracer, node, options, whole, axis)? })
}

/// The index of `axis` where a slice begins that leaves all other axes whole.
fn one_of(
    tracer: &ShapeTracer,
    node: &Node,
    options: &StridedSlice,
    whole: ValueId,
    axis: usize,
) -> Option<usize> {
    let (begin, end) = (tracer.integers(input(node, 1)?)?, tracer.integers(input(node, 2)?)?);
    let strides = tracer.integers(input(node, 3)?)?;
    if options.ellipsis_mask != 0 || options.new_axis_mask != 0 || options.offset {
        return None;
    }
    let shape = tracer.graph.shape(whole)?;
    let others = (0..begin.len()).filter(|&k| k != axis).all(|k| {
        let from = is_set(options.begin_mask, k) || begin.get(k) == Some(&0);
        let size = shape.get(k).and_then(|dim| dim.known());
        let to =
            is_set(options.end_mask, k) || end.get(k).is_some_and(|&end| reaches_end(end, size));
        from && to && strides.get(k) == Some(&1)
    });
    // Where the axis stays, its size of 1 is known by its type, and the slice goes forward.
    let forward = options.shrink_axis_mask != 0 || strides.get(axis) == Some(&1);
    (others && forward).then_some(())?;
    let begin = if is_set(options.begin_mask, axis) && options.shrink_axis_mask == 0 {
        0
    } else {
        *begin.get(axis)?
    };
    match (usize::try_from(begin), shape.get(axis)?.known()) {
        (Ok(index), _) => Some(index),
        (Err(_), Some(size)) => usize::try_from(begin + size as i64).ok(),
        (Err(_), None) => None,
    }
}

/// The pieces put together along `axis`: the value they were taken from, reversed and transposed as
/// needed.
fn whole(
    tracer: &mut ShapeTracer,
    operands: &[ValueId],
    axis: usize,
    name: &str,
) -> Option<ValueId> {
    let (piece, backward) = pieces(tracer, operands)?;
    let ty = tracer.graph.get(piece.whole)?.ty.clone();
    let rank = ty.rank()?;
    let mut value = piece.whole;
    let emit = |tracer: &mut ShapeTracer,
                op: Op,
                value: ValueId,
                operand: Vec<i32>,
                ty: ValueType|
     -> Option<ValueId> {
        let operand = Tensor::from_vec(&[operand.len()], operand).ok()?;
        let operand = tracer.graph.add_constant(format!("{name}/axes"), operand);
        let result = tracer.graph.add_value(format!("{name}/whole"), ty);
        let inputs = vec![Some(value), Some(operand)];
        tracer.push(Node { name: name.to_owned(), op, inputs, outputs: vec![Some(result)] });
        Some(result)
    };
    // A reversal stands where time is the first axis, next to the layer that it may go into.
    let moved = |ty: &ValueType| -> (Vec<usize>, ValueType) {
        let mut order: Vec<usize> = (0..rank).filter(|&k| k != piece.axis).collect();
        order.insert(axis.min(order.len()), piece.axis);
        let shape = ty
            .shape
            .as_ref()
            .map(|shape| order.iter().filter_map(|&k| shape.get(k).copied()).collect());
        (order, ValueType { shape, ..ty.clone() })
    };
    let (order, moved_ty) = moved(&ty);
    let order: Vec<i32> = order.into_iter().map(|k| k as i32).collect();
    let after = piece.axis > axis;
    if backward && !after {
        value = emit(tracer, Op::Reverse, value, vec![piece.axis as i32], ty)?;
    }
    if piece.axis != axis {
        value = emit(tracer, Op::Transpose, value, order, moved_ty.clone())?;
    }
    if backward && after {
        value = emit(tracer, Op::Reverse, value, vec![axis as i32], moved_ty)?;
    }
    Some(value)
}
