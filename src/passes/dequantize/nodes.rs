//! The float form of each op.

use super::weights::{float_bias, float_matrix, float_recurrent, row_scale, scaled};
use super::{float_type, is_quantized, rewrite};
use crate::error::{Error, Place, Result};
use crate::graph::op::{Activation, Binary, BinaryFunction, Svdf, SvdfArithmetic, While};
use crate::graph::recurrent::{Arithmetic, IntegerScales};
use crate::graph::{Graph, Node, Op, Recurrent, ValueId};
use crate::passes::Report;
use crate::passes::values::Aliases;
use crate::tensor::{Quantization, Tensor};

/// Adds the float form of one node.
pub(super) fn rewrite_node(
    graph: &Graph,
    node: &Node,
    out: &mut Graph,
    aliases: &mut Aliases,
    report: &mut Report,
) -> Result<()> {
    let quantized = |id: Option<ValueId>| id.and_then(|id| graph.ty(id)).is_some_and(is_quantized);
    let (first_in, first_out) = (quantized(node.input(0)), quantized(node.output(0)));
    let mut inputs: Vec<Option<ValueId>> =
        node.inputs.iter().map(|id| id.map(|id| aliases.read(id))).collect();

    let op = match &node.op {
        Op::Quantize | Op::Dequantize if first_in || first_out => {
            // Both sides stand for the same real numbers.
            if let (Some(from), Some(to)) = (inputs.first().copied().flatten(), node.output(0)) {
                aliases.set(to, from);
                report.made.push(format!("{} `{}`: removed", op_word(&node.op), node.name));
            }
            return Ok(());
        }
        Op::Cast(_) if first_in || first_out => {
            let raw_input = node.input(0);
            if first_out || !graph.inputs.iter().any(|port| Some(port.value) == raw_input) {
                return Err(Error::unsupported(
                    "a cast of the stored integers of a quantized value has no float form",
                ));
            }
            inputs = node.inputs.clone();
            node.op.clone()
        }
        Op::Recurrent(recurrent) => Op::Recurrent(float_recurrent(recurrent, &node.name, report)?),
        Op::Svdf(svdf) => Op::Svdf(float_svdf(svdf, &node.name, report)?),
        Op::FullyConnected(options) => {
            float_bias(graph, node, out, &mut inputs)?;
            let mut options = *options;
            options.asymmetric_inputs = false;
            Op::FullyConnected(options)
        }
        Op::MatMul(options) => {
            let mut options = *options;
            options.asymmetric_inputs = false;
            Op::MatMul(options)
        }
        Op::Conv2d(options) => {
            float_bias(graph, node, out, &mut inputs)?;
            Op::Conv2d(*options)
        }
        Op::While(inner) => Op::While(Box::new(While {
            condition: rewrite(&inner.condition, false, report).within(|| "condition")?,
            body: rewrite(&inner.body, false, report).within(|| "body")?,
        })),
        Op::Unary(_)
        | Op::Pool2d(_)
        | Op::Activation(_)
        | Op::Binary(_)
        | Op::Select
        | Op::Softmax(_)
        | Op::Reduce(_)
        | Op::ArgMax(_)
        | Op::Cast(_)
        | Op::Quantize
        | Op::Dequantize
        | Op::Transpose
        | Op::Reshape
        | Op::Squeeze(_)
        | Op::ExpandDims
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
        | Op::SetItem
        | Op::Custom(_) => node.op.clone(),
    };
    out.nodes.push(Node { name: node.name.clone(), op, inputs, outputs: node.outputs.clone() });
    if let Op::Recurrent(Recurrent { arithmetic: Arithmetic::Integer(scales), .. }) = &node.op {
        raw_copy(graph, node, scales, out)?;
    }
    Ok(())
}

fn float_svdf(svdf: &Svdf, name: &str, report: &mut Report) -> Result<Svdf> {
    let mut svdf = svdf.clone();
    match svdf.arithmetic {
        SvdfArithmetic::Float => {}
        SvdfArithmetic::Hybrid { .. } => {
            report.made.push(format!("SVDF `{}`: hybrid → float", name));
        }
        SvdfArithmetic::Integer { state, .. } => {
            report.made.push(format!("SVDF `{}`: integer → float", name));
            // bias scale = state scale · time scale; the integer kernel applies no
            // activation.
            let bias = svdf.bias.as_ref();
            svdf.bias =
                bias.map(|bias| scaled(bias, |_| state * row_scale(&svdf.time, 0))).transpose()?;
            svdf.activation = Activation::Linear;
        }
    }
    svdf.time = float_matrix(&svdf.time)?;
    svdf.arithmetic = SvdfArithmetic::Float;
    Ok(svdf)
}

/// The integer LSTM copies its raw int8 state to the output, whatever scale the output declares:
/// what the next op reads is `y = s_y·(h/s_h + z_h − z_y)`. Where the two differ, the float op is
/// followed by this line.
fn raw_copy(graph: &Graph, node: &Node, scales: &IntegerScales, out: &mut Graph) -> Result<()> {
    let (state_scale, state_zero) = scales.output_state;
    for slot in 0..2 {
        let Some(Some(id)) = node.outputs.get(Recurrent::y(slot)).copied() else { continue };
        let Some(ty) = graph.get(id).map(|value| &value.ty) else { continue };
        let Some((scale, zero)) = ty.quantization.as_ref().and_then(Quantization::as_per_tensor)
        else {
            continue;
        };
        let factor = scale / state_scale;
        let offset = scale * (f64::from(state_zero) - zero as f64) as f32;
        if factor == 1.0 && offset == 0.0 {
            continue;
        }
        let exact = out.add_value(format!("{}/exact", node.name), float_type(ty));
        if let Some(slot) =
            out.nodes.last_mut().and_then(|last| last.outputs.get_mut(Recurrent::y(slot)))
        {
            *slot = Some(exact);
        }
        let scaled = out.add_value(format!("{}/rescaled", node.name), float_type(ty));
        let factor = out.add_constant(format!("{}/scale", node.name), Tensor::scalar(factor));
        let offset = out.add_constant(format!("{}/offset", node.name), Tensor::scalar(offset));
        let binary = |function| Op::Binary(Binary { function, activation: Activation::Linear });
        // Kept in order: the recurrent node, then these two.
        out.add_node(
            format!("{}/rescale", node.name),
            binary(BinaryFunction::Mul),
            vec![Some(exact), Some(factor)],
            vec![Some(scaled)],
        );
        out.add_node(
            format!("{}/shift", node.name),
            binary(BinaryFunction::Add),
            vec![Some(scaled), Some(offset)],
            vec![Some(id)],
        );
        // Integer recurrent ops have one direction.
        return Ok(());
    }
    Ok(())
}

fn op_word(op: &Op) -> &'static str {
    if matches!(op, Op::Quantize) { "quantize" } else { "dequantize" }
}
