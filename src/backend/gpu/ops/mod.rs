//! Every op as commands on the device. One file an op, or a family of ops that share a kernel; the match here names them all.

use super::record::Recorder;
use super::recurrent;
use crate::error::{Error, Result};
use crate::graph::{Node, Op};

pub(super) mod activation;
mod fully_connected;

/// Records the commands of one node.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) when the device cannot run this node: it is then computed on the host, with the
/// message as the reason in the program's notes.
pub(super) fn record(ctx: &mut Recorder<'_>, node: &Node) -> Result<()> {
    match &node.op {
        Op::Recurrent(layer) => recurrent::record(ctx, node, layer),
        Op::FullyConnected(options) => fully_connected::record(ctx, node, options),
        Op::Activation(activation) => activation::record(ctx, node, *activation),
        Op::Reshape | Op::Squeeze(_) | Op::ExpandDims => ctx.alias(node),
        Op::While(_) => Err(Error::unsupported("the host decides when a loop ends")),
        Op::Custom(custom) => Err(Error::unsupported(format!("custom op {}", custom.name))),
        // Not on the device yet.
        Op::Svdf(_)
        | Op::MatMul(_)
        | Op::Conv2d(_)
        | Op::Unary(_)
        | Op::Binary(_)
        | Op::Select
        | Op::Softmax(_)
        | Op::Reduce(_)
        | Op::ArgMax(_)
        | Op::Cast(_)
        | Op::Quantize
        | Op::Dequantize
        | Op::Transpose
        | Op::Shape(_)
        | Op::Fill
        | Op::Range
        | Op::Tile
        | Op::BroadcastTo
        | Op::Pad
        | Op::Slice
        | Op::StridedSlice(_)
        | Op::Gather(_)
        | Op::Pack(_)
        | Op::Unpack(_)
        | Op::Split
        | Op::Concat(_)
        | Op::Reverse
        | Op::ReverseSequence(_)
        | Op::SetItem => Err(Error::unsupported("there is no kernel for this op")),
    }
}
