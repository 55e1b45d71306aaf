//! Types and shapes of an op's results from those of its operands.

use super::op::Op;
use super::types::ValueType;
use crate::error::Result;
use crate::tensor::Tensor;

/// An operand of an op under inference.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// What is known of it.
    pub ty: &'a ValueType,
    /// Its elements, when they are known: axes, permutations, target shapes.
    pub known: Option<&'a Tensor>,
}

/// The types of the results of `op`, by output slot; `outputs` is the number of slots that the node has (split and unpack need it).
///
/// Checks ranks, sizes and types of the operands on the way, for every op. Sizes may be symbolic or unknown, so the same
/// function serves the readers (symbolic) and the planner (concrete). Quantisation of results is not inferred.
///
/// # Errors
/// [`InvalidGraph`](crate::ErrorKind::InvalidGraph) that says what was expected and what was found.
pub fn infer(op: &Op, inputs: &[Option<Operand<'_>>], outputs: usize) -> Result<Vec<ValueType>> {
    let _ = (op, inputs, outputs);
    todo!("infer")
}
