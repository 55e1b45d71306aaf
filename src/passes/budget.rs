//! What constant folding may make, in memory and in work.

use std::collections::HashSet;

use crate::graph::{Graph, Op};
use crate::tensor::Tensor;

/// Folded constants may take this many times the bytes of the model's own: half-precision weights
/// become float32, and are transposed once or twice on the way.
const BYTES_PER_BYTE: usize = 8;
/// Small models fold shapes and steps of cells whatever their weights are: a fortieth of this in
/// the largest unrolled ones.
const LEAST_BYTES: usize = 32 << 20;
/// Multiply-adds for each byte of the model's own constants: each weight is in a few products or
/// joins, which convert it as often.
const WORK_PER_BYTE: usize = 64;
/// A second or so of one core, without optimization.
const LEAST_WORK: usize = 1 << 26;

/// One budget for all passes over a model: a constant times the size of its own constants, plus a
/// floor. What would exceed it is not folded.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: usize,
    work: usize,
}

impl Budget {
    /// The budget for a graph as it was read.
    pub fn new(graph: &Graph) -> Self {
        let own = own_bytes(graph, &mut HashSet::new());
        Budget {
            bytes: own.saturating_mul(BYTES_PER_BYTE).saturating_add(LEAST_BYTES),
            work: own.saturating_mul(WORK_PER_BYTE).saturating_add(LEAST_WORK),
        }
    }

    /// Takes bytes and work; `false`, and nothing taken, when there is less left.
    pub fn take(&mut self, bytes: usize, work: usize) -> bool {
        let left = self.bytes.checked_sub(bytes).zip(self.work.checked_sub(work));
        if let Some((bytes, work)) = left {
            (self.bytes, self.work) = (bytes, work);
        }
        left.is_some()
    }

    /// Gives bytes back that are not kept after all.
    pub fn give_back(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// Bytes of the constants of a graph and of the loops in it, each store once however many values
/// share it.
fn own_bytes(graph: &Graph, seen: &mut HashSet<usize>) -> usize {
    let constants = graph.values.iter().filter_map(|value| value.constant.as_ref());
    let own =
        constants.filter(|tensor| seen.insert(tensor.storage().address())).map(Tensor::byte_len);
    let own = own.fold(0, usize::saturating_add);
    graph.nodes.iter().fold(own, |sum, node| match &node.op {
        Op::While(inner) => sum
            .saturating_add(own_bytes(&inner.condition, seen))
            .saturating_add(own_bytes(&inner.body, seen)),
        _ => sum,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_that_is_not_there() {
        let mut budget = Budget::new(&Graph::default());
        assert!(budget.take(LEAST_BYTES, LEAST_WORK));
        assert!(!budget.take(1, 0) && !budget.take(0, 1));
        budget.give_back(1);
        assert!(budget.take(1, 0));
    }
}
