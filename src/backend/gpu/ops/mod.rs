//! Every op as commands on the device. One file an op, or a family of ops that share a kernel; the
//! match here names them all.

use super::record::Recorder;
use super::recurrent;
use crate::error::{Error, Result};
use crate::graph::{Node, Op};

pub(super) mod activation;
mod elementwise;
mod fully_connected;
mod gather;
mod movement;
mod product;
mod reduce;
mod walk;

/// Records the commands of one node.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) when the device cannot run this node: it is then
/// computed on the host, with the message as the reason in the program's notes.
pub(super) fn record(ctx: &mut Recorder<'_>, node: &Node) -> Result<()> {
    match &node.op {
        Op::Recurrent(layer) => recurrent::record(ctx, node, layer),
        Op::FullyConnected(options) => fully_connected::record(ctx, node, options),
        Op::Activation(activation) => activation::record(ctx, node, *activation),
        Op::Reshape | Op::Squeeze(_) | Op::ExpandDims => ctx.alias(node),
        Op::While(_) => Err(Error::unsupported("the host decides when a loop ends")),
        Op::Custom(custom) => Err(Error::unsupported(format!("custom op {}", custom.name))),
        Op::Svdf(layer) => product::svdf(ctx, node, layer),
        Op::MatMul(options) => product::matmul(ctx, node, options),
        Op::Conv2d(options) => product::conv2d(ctx, node, options),
        Op::Pool2d(options) => product::pool2d(ctx, node, options),
        Op::Unary(function) => elementwise::unary(ctx, node, *function),
        Op::Binary(options) => elementwise::binary(ctx, node, options),
        Op::Select => elementwise::select(ctx, node),
        Op::Cast(to) => elementwise::cast(ctx, node, *to),
        Op::Quantize => elementwise::quantize(ctx, node, false),
        Op::Dequantize => elementwise::quantize(ctx, node, true),
        Op::Softmax(options) => reduce::softmax(ctx, node, options),
        Op::Reduce(options) => reduce::reduce(ctx, node, options),
        Op::ArgMax(options) => reduce::arg_max(ctx, node, options),
        Op::Transpose => movement::transpose(ctx, node),
        Op::Fill => movement::fill(ctx, node),
        Op::Tile => movement::tile(ctx, node),
        Op::BroadcastTo => movement::broadcast_to(ctx, node),
        Op::Pad => movement::pad(ctx, node),
        Op::Slice => movement::slice(ctx, node),
        Op::StridedSlice(options) => movement::strided_slice(ctx, node, options),
        Op::Gather(options) => gather::gather(ctx, node, options),
        Op::Pack(options) => movement::pack(ctx, node, options),
        Op::Unpack(options) => movement::unpack(ctx, node, options),
        Op::Split => movement::split(ctx, node),
        Op::Concat(options) => movement::concat(ctx, node, options),
        Op::Reverse => movement::reverse(ctx, node),
        Op::ReverseSequence(options) => gather::reverse_sequence(ctx, node, options),
        Op::Shape(_) | Op::Range => {
            Err(Error::unsupported("sizes that depend on data are the host's"))
        }
        Op::SetItem => {
            Err(Error::unsupported("lists of tensors are written by loops, which the host runs"))
        }
    }
}
