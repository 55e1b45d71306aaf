//! Reshapes that a converter made of transposes, made transposes again.
//!
//! With one batch row, swapping the batch and the time axis moves no element, and converters write
//! the swap as a reshape to constant sizes: `[1, T, I]` to `[T, 1, I]`. Such a model takes no
//! second batch row, though every layer in it could. The transpose gives the same result for one
//! row, and the only sensible one for more.

use super::Report;
use crate::error::Result;
use crate::graph::{Dim, Graph, Op, ValueId};
use crate::tensor::Tensor;

/// Rewrites every reshape that moves one axis of size 1 past others.
///
/// # Errors
/// None of its own.
pub fn batch(mut graph: Graph) -> Result<(Graph, Report)> {
    let mut report = Report::new("batch");
    for index in 0..graph.nodes.len() {
        let Some(permutation) = moved_axis(&graph, index) else { continue };
        let node = &graph.nodes[index];
        report.made.push(format!("reshape {} becomes a transpose {permutation:?}", node.name));
        let name = format!("{}/permutation", node.name);
        let permutation =
            graph.add_constant(name, Tensor::from_vec(&[permutation.len()], permutation)?);
        let node = &mut graph.nodes[index];
        node.op = Op::Transpose;
        if let Some(slot) = node.inputs.get_mut(1) {
            *slot = Some(permutation);
        }
    }
    Ok((graph, report))
}

/// The permutation that a reshape stands for: its only axis of size 1 goes elsewhere, the others
/// keep their order.
fn moved_axis(graph: &Graph, index: usize) -> Option<Vec<i32>> {
    let node = graph.nodes.get(index)?;
    if !matches!(node.op, Op::Reshape) {
        return None;
    }
    let target: ValueId = node.input(1)?;
    // A target that is computed follows the batch by itself.
    graph.constant(target)?;
    let before = sizes(graph, node.input(0)?)?;
    let after = sizes(graph, node.output(0)?)?;
    let (from, to) = (only_one(&before)?, only_one(&after)?);
    let without = |list: &[usize], axis: usize| -> Vec<usize> {
        list.iter().enumerate().filter(|(k, _)| *k != axis).map(|(_, &size)| size).collect()
    };
    if from == to || without(&before, from) != without(&after, to) {
        return None;
    }
    let mut permutation: Vec<i32> = (0i32..).take(before.len()).collect();
    let moved = permutation.remove(from);
    permutation.insert(to, moved);
    Some(permutation)
}

fn sizes(graph: &Graph, id: ValueId) -> Option<Vec<usize>> {
    graph.get(id)?.ty.shape.as_ref()?.iter().map(|dim: &Dim| dim.known()).collect()
}

/// The position of the only axis of size 1. Two of them could each be the batch.
fn only_one(sizes: &[usize]) -> Option<usize> {
    let mut ones = sizes.iter().enumerate().filter(|(_, size)| **size == 1).map(|(axis, _)| axis);
    ones.next().filter(|_| ones.next().is_none())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::graph::{Port, ValueType};
    use crate::tensor::DType;

    fn reshape(from: &[usize], to: &[i32]) -> Graph {
        let mut graph = Graph::default();
        let x = graph.add_value("x", ValueType::fixed(DType::F32, from));
        let target = graph.add_constant("target", Tensor::from_slice(&[to.len()], to).unwrap());
        let y = graph.add_value("y", ValueType::unranked(DType::F32));
        graph.inputs.push(Port { name: "x".into(), value: x });
        graph.outputs.push(Port { name: "y".into(), value: y });
        graph.add_node("swap", Op::Reshape, vec![Some(x), Some(target)], vec![Some(y)]);
        crate::graph::check::refine(&mut graph).unwrap();
        graph
    }

    fn permutation(from: &[usize], to: &[i32]) -> Option<Vec<i64>> {
        let (graph, report) = batch(reshape(from, to)).unwrap();
        crate::graph::check::check(&graph).unwrap();
        match graph.nodes[0].op {
            Op::Transpose => {
                assert_eq!(report.made.len(), 1);
                Some(graph.constant(graph.nodes[0].inputs[1].unwrap()).unwrap().to_i64().unwrap())
            }
            _ => None,
        }
    }

    #[test]
    fn a_moved_axis_is_a_transpose() {
        assert_eq!(permutation(&[1, 7, 5], &[7, 1, 5]), Some(vec![1, 0, 2]));
        assert_eq!(permutation(&[7, 1, 5], &[1, -1, 5]), Some(vec![1, 0, 2]));
        assert_eq!(permutation(&[1, 7, 5], &[7, 5, 1]), Some(vec![1, 2, 0]));
        assert_eq!(permutation(&[7, 5, 1], &[1, 7, 5]), Some(vec![2, 0, 1]));
    }

    #[test]
    fn other_reshapes_stay() {
        for (from, to) in [
            (&[1, 7, 5][..], &[1, 7, 5][..]),
            (&[1, 7, 5], &[7, 5]),
            (&[1, 7, 5], &[5, 1, 7]),
            (&[1, 1, 5], &[1, 5, 1]),
            (&[2, 7, 5], &[7, 2, 5]),
            (&[1, 35], &[7, 5]),
        ] {
            assert_eq!(permutation(from, to), None, "{from:?} {to:?}");
        }
    }

    #[test]
    fn another_batch_can_follow() {
        let shapes = [vec![3, 7, 5]];
        let before = std::sync::Arc::new(reshape(&[1, 7, 5], &[7, 1, 5]));
        assert!(crate::plan::Plan::new(&before, &shapes).is_err());
        let (after, _) = batch(reshape(&[1, 7, 5], &[7, 1, 5])).unwrap();
        let plan = crate::plan::Plan::new(&std::sync::Arc::new(after), &shapes).unwrap();
        assert_eq!(plan.shape(plan.graph.outputs[0].value), Some(&[7, 3, 5][..]));
    }
}
