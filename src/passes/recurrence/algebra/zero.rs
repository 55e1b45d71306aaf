//! Zeros: states before the first step.

use super::Algebra;
use crate::graph::{Op, ValueId};

/// Ops between a zero and a state; real ones have up to three.
const MOST_WRAPPERS: usize = 8;

/// Whether every element of a value is 0, whatever its shape.
pub fn is_zero(algebra: &Algebra<'_>, value: ValueId) -> bool {
    let mut value = value;
    // A fill or a repetition whose shape is known only at run time, and what passes it on.
    for _ in 0..MOST_WRAPPERS {
        value = algebra.through(value);
        if let Some(tensor) = algebra.graph.constant(value) {
            return tensor.to_f32().iter().all(|&x| x == 0.0);
        }
        let Some((node, _)) = algebra.producer(value) else { return false };
        let inner = match &node.op {
            Op::Fill => node.input(1),
            Op::BroadcastTo
            | Op::Tile
            | Op::Reshape
            | Op::ExpandDims
            | Op::Squeeze(_)
            | Op::Slice
            | Op::StridedSlice(_)
            | Op::Cast(_) => node.input(0),
            // Matched by op: no other one is known to make zeros.
            _ => None,
        };
        let Some(inner) = inner else { return false };
        value = inner;
    }
    false
}
