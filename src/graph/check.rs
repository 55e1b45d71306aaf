//! The checker, run after every reader and every pass.

use super::Graph;
use crate::error::Result;

/// Checks a whole graph: indices in range, every value computed once and before it is used, operand counts, types and shapes of
/// every node ([`infer`](super::infer::infer)), weights of recurrent ops against each other, ports and states.
///
/// # Errors
/// [`InvalidGraph`](crate::ErrorKind::InvalidGraph) with the node's name and index.
pub fn check(graph: &Graph) -> Result<()> {
    let _ = graph;
    todo!("check")
}
