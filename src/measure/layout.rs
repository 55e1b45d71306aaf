//! What the axes of a value mean, traced back to the recurrent op that it comes from.

use crate::graph::recurrent::{Layout, Recurrent};
use crate::graph::{Graph, NodeId, Op, ValueId, ValueMap};

/// What an axis runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AxisRole {
    /// Time steps.
    Step,
    /// Batch rows.
    Row,
    /// Units or features.
    Unit,
    /// Something else.
    Other,
}

/// Nodes followed back at most: a chain in a real model is far shorter.
const MOST_NODES: usize = 10_000;

/// What the axes of `value` mean. Where no recurrent op can be found behind it, `[.., rows, units]`
/// is assumed for two axes and nothing for others; the answer is then empty.
pub fn roles(graph: &Graph, value: ValueId) -> Vec<AxisRole> {
    let producers = graph.producers();
    let mut fuel = MOST_NODES;
    if let Some(roles) = trace(graph, &producers, value, &mut fuel) {
        return roles;
    }
    match graph.get(value).and_then(|value| value.ty.rank()) {
        Some(2) => vec![AxisRole::Row, AxisRole::Unit],
        _ => Vec::new(),
    }
}

fn trace(
    graph: &Graph,
    producers: &ValueMap<Option<NodeId>>,
    value: ValueId,
    fuel: &mut usize,
) -> Option<Vec<AxisRole>> {
    *fuel = fuel.checked_sub(1)?;
    let id = producers[value]?;
    let node = graph.node(id)?;
    let operand = |slot: usize| node.input(slot);
    let mut behind = |slot: usize| trace(graph, producers, operand(slot)?, fuel);
    let constant = |slot: usize| graph.constant(operand(slot)?)?.to_i64().ok();
    match &node.op {
        Op::Recurrent(recurrent) => {
            let slot = node.outputs.iter().position(|output| *output == Some(value))?;
            Some(recurrent_roles(recurrent, slot))
        }
        Op::Svdf(_) => Some(vec![AxisRole::Row, AxisRole::Unit]),
        // The same axes, element by element.
        Op::Unary(_)
        | Op::Activation(_)
        | Op::Softmax(_)
        | Op::Cast(_)
        | Op::Quantize
        | Op::Dequantize
        | Op::Reverse
        | Op::ReverseSequence(_)
        | Op::Pad
        | Op::Slice
        | Op::SetItem => behind(0),
        Op::Concat(_) | Op::Binary(_) => {
            // The operand with the most axes decides; a bias or a constant is not it.
            let slots = 0..node.inputs.len();
            slots.filter_map(&mut behind).max_by_key(Vec::len)
        }
        Op::Select => behind(1).or_else(|| behind(2)),
        Op::StridedSlice(options) => {
            let roles = behind(0)?;
            if options.ellipsis_mask != 0 || options.new_axis_mask != 0 {
                return None;
            }
            let kept = |axis: &usize| *axis >= 32 || options.shrink_axis_mask & (1 << *axis) == 0;
            Some(
                (0..roles.len()).filter(kept).filter_map(|axis| roles.get(axis).copied()).collect(),
            )
        }
        // The last axis is made anew.
        Op::FullyConnected(_) | Op::MatMul(_) => {
            let mut roles = behind(0)?;
            *roles.last_mut()? = AxisRole::Unit;
            Some(roles).filter(|roles| {
                graph.get(value).and_then(|v| v.ty.rank()).is_none_or(|rank| rank == roles.len())
            })
        }
        Op::Transpose => {
            let roles = behind(0)?;
            constant(1)?.iter().map(|&axis| roles.get(wrap(axis, roles.len())?).copied()).collect()
        }
        Op::Squeeze(squeeze) => {
            let roles = behind(0)?;
            let removed: Option<Vec<usize>> =
                squeeze.axes.iter().map(|&axis| wrap(axis, roles.len())).collect();
            let removed = removed.filter(|removed| !removed.is_empty())?;
            Some(
                roles
                    .iter()
                    .enumerate()
                    .filter(|(axis, _)| !removed.contains(axis))
                    .map(|(_, role)| *role)
                    .collect(),
            )
        }
        Op::ExpandDims => insert(behind(0)?, *constant(1)?.first()?, AxisRole::Other),
        // Outputs of an unrolled chain, one a step.
        Op::Pack(pack) => insert(behind(0)?, pack.axis, AxisRole::Step),
        Op::Unpack(unpack) => {
            let mut roles = behind(0)?;
            roles.remove(wrap(unpack.axis, roles.len())?);
            Some(roles)
        }
        Op::Split => behind(0),
        Op::Reshape => {
            let roles = behind(0)?;
            reshaped(&sizes(graph, operand(0)?)?, &roles, &sizes(graph, value)?)
        }
        Op::Conv2d(_)
        | Op::Pool2d(_)
        | Op::Reduce(_)
        | Op::ArgMax(_)
        | Op::Shape(_)
        | Op::Fill
        | Op::Range
        | Op::Tile
        | Op::BroadcastTo
        | Op::Gather(_)
        | Op::While(_)
        | Op::Custom(_) => None,
    }
}

fn recurrent_roles(recurrent: &Recurrent, slot: usize) -> Vec<AxisRole> {
    if slot >= Recurrent::h_n(0) {
        return vec![AxisRole::Row, AxisRole::Unit];
    }
    match recurrent.layout {
        Layout::TimeMajor => vec![AxisRole::Step, AxisRole::Row, AxisRole::Unit],
        Layout::BatchMajor => vec![AxisRole::Row, AxisRole::Step, AxisRole::Unit],
    }
}

/// What the axes of an input mean, by the first recurrent op that it feeds. Where none can be
/// found, `[rows, units]` is assumed for two axes and nothing for others; the answer is then empty.
pub fn input_roles(graph: &Graph, value: ValueId) -> Vec<AxisRole> {
    // What is known of each value, from the last node to the first.
    let mut known: Vec<Option<Vec<AxisRole>>> = vec![None; graph.values.len()];
    for node in graph.nodes.iter().rev() {
        let result =
            node.outputs.iter().flatten().find_map(|id| known.get(id.index()).cloned().flatten());
        for (slot, id) in node.inputs.iter().enumerate() {
            let Some(id) = *id else { continue };
            let constant = |slot: usize| graph.constant(node.input(slot)?)?.to_i64().ok();
            if let (Op::Reshape, 0, Some(result)) = (&node.op, slot, result.as_deref())
                && let Some(entry) = known.get_mut(id.index())
            {
                let y = node.output(0);
                *entry = y.and_then(|y| reshaped(&sizes(graph, y)?, result, &sizes(graph, id)?));
                continue;
            }
            if let (Some(roles), Some(entry)) = (
                operand_roles(&node.op, slot, result.as_deref(), &constant),
                known.get_mut(id.index()),
            ) {
                *entry = Some(roles);
            }
        }
    }
    let rank = graph.get(value).and_then(|value| value.ty.rank());
    match known.get(value.index()).cloned().flatten() {
        Some(roles) if rank.is_none_or(|rank| rank == roles.len()) => roles,
        _ if rank == Some(2) => vec![AxisRole::Row, AxisRole::Unit],
        _ => Vec::new(),
    }
}

/// What the axes of an operand mean, from what those of the result mean.
fn operand_roles(
    op: &Op,
    slot: usize,
    result: Option<&[AxisRole]>,
    constant: &dyn Fn(usize) -> Option<Vec<i64>>,
) -> Option<Vec<AxisRole>> {
    let same = || result.map(<[AxisRole]>::to_vec);
    match op {
        Op::Recurrent(recurrent) => match slot {
            Recurrent::X | Recurrent::AUXILIARY => {
                Some(recurrent_roles(recurrent, Recurrent::y(0)))
            }
            // Lengths `[B]`, or a mask over steps and rows: the rank would have to tell.
            Recurrent::MASK => None,
            _ => Some(vec![AxisRole::Row, AxisRole::Unit]),
        },
        Op::Svdf(_) => Some(vec![AxisRole::Row, AxisRole::Unit]),
        Op::Unary(_)
        | Op::Activation(_)
        | Op::Softmax(_)
        | Op::Cast(_)
        | Op::Quantize
        | Op::Dequantize
        | Op::FullyConnected(_)
        | Op::MatMul(_)
        | Op::Reverse
        | Op::ReverseSequence(_)
        | Op::Pad
        | Op::Slice
        | Op::Split
            if slot == 0 =>
        {
            same()
        }
        Op::Binary(_) | Op::Concat(_) => same(),
        Op::Transpose if slot == 0 => {
            let (result, permutation) = (result?, constant(1)?);
            let mut roles = vec![AxisRole::Other; result.len()];
            for (role, axis) in result.iter().zip(permutation) {
                *roles.get_mut(wrap(axis, result.len())?)? = *role;
            }
            Some(roles)
        }
        Op::Unpack(unpack) => insert(same()?, unpack.axis, AxisRole::Step),
        Op::Pack(pack) => {
            let mut roles = same()?;
            let axis = wrap(pack.axis, roles.len()).filter(|&axis| axis < roles.len())?;
            roles.remove(axis);
            Some(roles)
        }
        Op::ExpandDims if slot == 0 => {
            let mut roles = same()?;
            let axis = wrap(*constant(1)?.first()?, roles.len())?;
            roles.remove(axis);
            Some(roles)
        }
        // An embedding: the indices have the axes of the result but the last.
        Op::Gather(_) if slot == 1 => {
            let mut roles = same()?;
            roles.pop()?;
            Some(roles)
        }
        Op::Unary(_)
        | Op::Activation(_)
        | Op::Softmax(_)
        | Op::Cast(_)
        | Op::Quantize
        | Op::Dequantize
        | Op::FullyConnected(_)
        | Op::MatMul(_)
        | Op::Reverse
        | Op::ReverseSequence(_)
        | Op::Pad
        | Op::Slice
        | Op::Split
        | Op::Transpose
        | Op::Gather(_)
        | Op::Select
        | Op::SetItem
        | Op::StridedSlice(_)
        | Op::Squeeze(_)
        | Op::ExpandDims
        | Op::Reshape
        | Op::Conv2d(_)
        | Op::Pool2d(_)
        | Op::Reduce(_)
        | Op::ArgMax(_)
        | Op::Shape(_)
        | Op::Fill
        | Op::Range
        | Op::Tile
        | Op::BroadcastTo
        | Op::While(_)
        | Op::Custom(_) => None,
    }
}

/// Declared sizes of a value's axes, 0 where one is open (no declared axis has that size where this
/// is used).
fn sizes(graph: &Graph, id: ValueId) -> Option<Vec<usize>> {
    let shape = graph.get(id)?.ty.shape.as_ref()?;
    Some(shape.iter().map(|dim| dim.known().unwrap_or(0)).collect())
}

/// What the axes mean after a reshape that only moves, adds or removes axes of size 1: how
/// converters write the transposition of a batch of one.
fn reshaped(from: &[usize], roles: &[AxisRole], to: &[usize]) -> Option<Vec<AxisRole>> {
    let long =
        |sizes: &[usize]| sizes.iter().copied().filter(|&size| size != 1).collect::<Vec<_>>();
    if from.len() != roles.len() || long(from) != long(to) {
        return None;
    }
    let of = |is_one: bool| {
        from.iter()
            .zip(roles)
            .filter(move |(size, _)| (**size == 1) == is_one)
            .map(|(_, role)| *role)
    };
    let (mut ones, mut others) = (of(true), of(false));
    to.iter()
        .map(
            |&size| {
                if size == 1 { Some(ones.next().unwrap_or(AxisRole::Other)) } else { others.next() }
            },
        )
        .collect()
}

fn wrap(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let axis = if axis < 0 { axis.checked_add(rank)? } else { axis };
    usize::try_from(axis).ok().filter(|_| axis < rank)
}

fn insert(mut roles: Vec<AxisRole>, axis: i64, role: AxisRole) -> Option<Vec<AxisRole>> {
    let axis = wrap(axis, roles.len() + 1)?;
    roles.insert(axis, role);
    Some(roles)
}

#[cfg(test)]
mod tests {
    use super::*;
    use AxisRole::{Other, Row, Step, Unit};

    #[test]
    fn a_reshape_that_moves_a_one_is_followed() {
        assert_eq!(
            reshaped(&[28, 1, 64], &[Step, Row, Unit], &[1, 28, 64]),
            Some(vec![Row, Step, Unit])
        );
        assert_eq!(reshaped(&[28, 1, 64], &[Step, Row, Unit], &[28, 64]), Some(vec![Step, Unit]));
        assert_eq!(reshaped(&[2, 8], &[Row, Unit], &[1, 2, 8]), Some(vec![Other, Row, Unit]));
        assert_eq!(reshaped(&[28, 2, 64], &[Step, Row, Unit], &[56, 64]), None);
        assert_eq!(reshaped(&[2, 3], &[Row, Unit], &[3, 2]), None);
    }
}
