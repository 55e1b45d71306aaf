//! What every op means: the equations as written, on host tensors, slow and obvious. Used to fold constants, to plan shapes, and by
//! the `reference` backend, which judges every other one.

use crate::error::Result;
use crate::graph::{Op, ValueType};
use crate::tensor::Tensor;

/// Computes one op.
///
/// `inputs` by operand slot, each with its type (for the quantisation); `outputs`: the declared types of the results by slot, `None`
/// for a result that nobody wants (the returned entry is then `None` too).
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) or [`InvalidGraph`](crate::ErrorKind::InvalidGraph) with what was expected and found;
/// never panics, whatever the operands.
pub fn evaluate(
    op: &Op,
    inputs: &[Option<(&Tensor, &ValueType)>],
    outputs: &[Option<&ValueType>],
) -> Result<Vec<Option<Tensor>>> {
    let _ = (op, inputs, outputs);
    todo!("evaluate")
}
