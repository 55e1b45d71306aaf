//! The attributes of every op that is read: each is honored, or stands here with the reason why it
//! does not matter. An attribute that was not read and does not stand here is refused by name.

use super::scope::ScopeNode;
use crate::error::{Error, Result};

/// Why an attribute does not matter.
type Reason = &'static str;

/// An op, the attributes that are honored, and those that do not matter.
type Row = (&'static str, &'static [&'static str], &'static [(&'static str, Reason)]);

/// A text for people.
const NOTE: Reason = "it is part of a message or a name for debugging";
/// Where and how TensorFlow runs the op.
const MACHINE: Reason = "it says where or in what way TensorFlow computes, not what";
/// Gradients and moving averages.
const TRAINING: Reason = "it is used in training only";
/// A type or a shape.
const KNOWN: Reason = "the operands, the functions or the stored value say the same";
/// A check of TensorFlow's.
const CHECK: Reason = "it asks for a check of what is checked here in any case";
/// Seeds.
const RANDOM: Reason = "random numbers are read only where their values do not matter";

/// Attributes that repeat the element types or the number of the operands, of whatever op.
const OF_OPERANDS: &[&str] = &[
    "Index",
    "N",
    "SrcT",
    "T",
    "TI",
    "Ta",
    "Taxis",
    "Tb",
    "Tblock_shape",
    "Tcond",
    "Tcrops",
    "Tdim",
    "Tidx",
    "Tin",
    "Tindices",
    "Tlen",
    "Tmultiples",
    "Tpaddings",
    "Tparams",
    "Tperm",
    "Tshape",
    "U",
    "index_type",
    "shape_type",
];

/// The attributes that are honored and those that do not matter, by op. Ops that have only
/// [`OF_OPERANDS`] need no row.
#[rustfmt::skip]
const OPS: &[Row] = &[
    ("All", &["keep_dims"], &[]),
    ("Any", &["keep_dims"], &[]),
    ("ArgMax", &["output_type"], &[]),
    ("ArgMin", &["output_type"], &[]),
    ("Assert", &[], &[("summarize", NOTE)]),
    ("AssignAddVariableOp", &[], &[("dtype", KNOWN)]),
    ("AssignSubVariableOp", &[], &[("dtype", KNOWN)]),
    ("AssignVariableOp", &[], &[("dtype", KNOWN), ("validate_shape", CHECK)]),
    ("AvgPool", &["ksize", "strides", "padding", "data_format"], &[]),
    ("BatchMatMul", &["adj_x", "adj_y"], &[("grad_x", TRAINING), ("grad_y", TRAINING)]),
    ("BatchMatMulV2", &["adj_x", "adj_y"], &[("grad_x", TRAINING), ("grad_y", TRAINING)]),
    ("BatchMatMulV3", &["Tout", "adj_x", "adj_y"], &[("grad_x", TRAINING), ("grad_y", TRAINING)]),
    ("BiasAdd", &["data_format"], &[]),
    ("BlockLSTM", &["forget_bias", "cell_clip", "use_peephole"], &[]),
    ("BlockLSTMV2", &["cell_clip", "use_peephole"], &[]),
    ("Cast", &["DstT", "Truncate"], &[]),
    ("CheckNumerics", &[], &[("message", NOTE)]),
    ("Const", &["value", "dtype"], &[]),
    ("Conv2D", &["strides", "padding", "explicit_paddings", "data_format", "dilations"], &[("use_cudnn_on_gpu", MACHINE)]),
    ("DepthwiseConv2dNative", &["strides", "padding", "explicit_paddings", "data_format", "dilations"], &[]),
    ("Einsum", &["equation"], &[]),
    ("EmptyTensorList", &["element_dtype"], &[]),
    ("EnsureShape", &["shape"], &[]),
    ("Equal", &[], &[("incompatible_shape_error", CHECK)]),
    ("FusedBatchNorm", &["epsilon", "data_format", "is_training"], &[("exponential_avg_factor", TRAINING)]),
    ("FusedBatchNormV2", &["epsilon", "data_format", "is_training"], &[("exponential_avg_factor", TRAINING)]),
    ("FusedBatchNormV3", &["epsilon", "data_format", "is_training"], &[("exponential_avg_factor", TRAINING)]),
    ("Gather", &[], &[("validate_indices", CHECK)]),
    ("GatherV2", &["batch_dims"], &[]),
    ("If", &["then_branch", "else_branch"], &[("Tout", KNOWN), ("output_shapes", KNOWN)]),
    ("LSTMBlockCell", &["forget_bias", "cell_clip", "use_peephole"], &[]),
    ("LeakyRelu", &["alpha"], &[]),
    ("MatMul", &["transpose_a", "transpose_b"], &[("grad_a", TRAINING), ("grad_b", TRAINING)]),
    ("Max", &["keep_dims"], &[]),
    ("MaxPool", &["ksize", "strides", "padding", "explicit_paddings", "data_format"], &[]),
    ("Mean", &["keep_dims"], &[]),
    ("Min", &["keep_dims"], &[]),
    ("MirrorPad", &["mode"], &[]),
    ("NotEqual", &[], &[("incompatible_shape_error", CHECK)]),
    ("OneHot", &["axis"], &[]),
    ("Pack", &["axis"], &[]),
    ("PartitionedCall", &["f"], &[("Tout", KNOWN), ("config", MACHINE), ("config_proto", MACHINE), ("executor_type", MACHINE)]),
    ("Placeholder", &["dtype", "shape"], &[]),
    ("PlaceholderV2", &["dtype", "shape"], &[]),
    ("PlaceholderWithDefault", &[], &[("dtype", KNOWN), ("shape", CHECK)]),
    ("PreventGradient", &[], &[("message", NOTE)]),
    ("Print", &[], &[("message", NOTE), ("first_n", NOTE), ("summarize", NOTE)]),
    ("Prod", &["keep_dims"], &[]),
    ("RandomUniform", &["dtype"], &[("seed", RANDOM), ("seed2", RANDOM)]),
    ("ReadVariableOp", &[], &[("dtype", KNOWN)]),
    ("ResourceGather", &["batch_dims"], &[("validate_indices", CHECK), ("dtype", KNOWN)]),
    ("ReverseSequence", &["seq_dim", "batch_dim"], &[]),
    ("Shape", &["out_type"], &[]),
    ("ShapeN", &["out_type"], &[]),
    ("Size", &["out_type"], &[]),
    ("Split", &["num_split"], &[]),
    ("SplitV", &["num_split"], &[]),
    ("Squeeze", &["squeeze_dims"], &[]),
    ("StatefulPartitionedCall", &["f"], &[("Tout", KNOWN), ("config", MACHINE), ("config_proto", MACHINE), ("executor_type", MACHINE)]),
    ("StatelessIf", &["then_branch", "else_branch"], &[("Tout", KNOWN), ("output_shapes", KNOWN)]),
    ("StatelessWhile", &["cond", "body"], &[("output_shapes", KNOWN), ("parallel_iterations", MACHINE)]),
    ("StridedSlice", &["begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"], &[]),
    ("Sum", &["keep_dims"], &[]),
    ("TensorArrayGatherV3", &[], &[("dtype", KNOWN), ("element_shape", CHECK)]),
    ("TensorArrayReadV3", &[], &[("dtype", KNOWN)]),
    ("TensorArrayV3", &["dtype", "element_shape", "dynamic_size"], &[("clear_after_read", MACHINE), ("identical_element_shapes", KNOWN), ("tensor_array_name", NOTE)]),
    ("TensorListFromTensor", &[], &[("element_dtype", KNOWN)]),
    ("TensorListGather", &[], &[("element_dtype", KNOWN)]),
    ("TensorListGetItem", &[], &[("element_dtype", KNOWN)]),
    ("TensorListPushBack", &[], &[("element_dtype", KNOWN)]),
    ("TensorListReserve", &["element_dtype"], &[]),
    ("TensorListScatter", &[], &[("element_dtype", KNOWN)]),
    ("TensorListScatterIntoExistingList", &[], &[("element_dtype", KNOWN)]),
    ("TensorListScatterV2", &[], &[("element_dtype", KNOWN)]),
    ("TensorListSetItem", &["resize_if_index_out_of_bounds"], &[("element_dtype", KNOWN)]),
    ("TensorListStack", &[], &[("element_dtype", KNOWN), ("num_elements", KNOWN)]),
    ("Unpack", &["num", "axis"], &[]),
    ("VarHandleOp", &["shared_name", "dtype"], &[("container", MACHINE), ("debug_name", NOTE), ("shape", KNOWN), ("allowed_devices", MACHINE)]),
    ("Variable", &[], &[("shape", KNOWN), ("dtype", KNOWN), ("container", MACHINE), ("shared_name", KNOWN)]),
    ("VariableV2", &[], &[("shape", KNOWN), ("dtype", KNOWN), ("container", MACHINE), ("shared_name", KNOWN)]),
    ("While", &["cond", "body"], &[("output_shapes", KNOWN), ("parallel_iterations", MACHINE)]),
];

/// Why an attribute of an op does not matter; `None` when it does.
fn irrelevant(op: &str, attribute: &str) -> Option<Reason> {
    if attribute.starts_with('_') {
        return Some("it is a mark of a tool, not of the op");
    }
    if OF_OPERANDS.contains(&attribute) {
        return Some(KNOWN);
    }
    let (.., others) = OPS.iter().find(|(name, ..)| *name == op)?;
    others.iter().find(|(name, _)| *name == attribute).map(|(_, reason)| *reason)
}

/// Refuses a node with an attribute that matters and was not read.
pub fn check(node: &ScopeNode) -> Result<()> {
    let unread = |name: &&String| !node.was_read(name) && irrelevant(&node.op, name).is_none();
    // The first by name, so that the message is the same every time.
    match node.attrs.keys().filter(unread).min() {
        Some(name) => Err(Error::unsupported(format!(
            "the attribute '{name}' of the op '{}' is not supported",
            node.op
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::formats::tensorflow::scope;

    /// Ops that are read, with their attributes and outputs as TensorFlow 2.21 registers them
    /// (`-`: none).
    const REGISTERED: &str = include_str!("../../../tests/data/tensorflow/ops.txt");

    /// An op, its attributes and its outputs.
    type Registered = (&'static str, Vec<&'static str>, Vec<&'static str>);

    fn registered() -> impl Iterator<Item = Registered> {
        REGISTERED.lines().map(|line| {
            let mut words = line.split(' ');
            let op = words.next().unwrap();
            let mut list = || -> Vec<&str> {
                let text = words.next().unwrap_or("-");
                if text == "-" { Vec::new() } else { text.split(',').collect() }
            };
            (op, list(), list())
        })
    }

    fn honored(op: &str) -> &'static [&'static str] {
        OPS.iter().find(|(name, ..)| *name == op).map_or(&[], |(_, honored, _)| honored)
    }

    #[test]
    fn every_attribute_of_every_op_is_honored_or_irrelevant_for_a_reason() {
        for (op, attributes, _) in registered() {
            for attribute in attributes {
                let (is_honored, why) =
                    (honored(op).contains(&attribute), irrelevant(op, attribute));
                assert!(is_honored != why.is_some(), "{op}: {attribute}: {is_honored}, {why:?}");
            }
        }
    }

    #[test]
    fn the_table_names_no_op_and_no_attribute_that_there_is_not() {
        for (op, honored, irrelevant) in OPS {
            let found = registered().find(|(name, ..)| name == op);
            let (_, attributes, _) = found.unwrap_or_else(|| panic!("{op} is not registered"));
            for name in honored.iter().chain(irrelevant.iter().map(|(name, _)| name)) {
                assert!(attributes.contains(name), "{op} has no attribute {name}");
            }
        }
    }

    #[test]
    fn every_op_with_several_outputs_has_their_names() {
        for (op, _, outputs) in registered().filter(|(.., outputs)| outputs.len() > 1) {
            assert_eq!(scope::outputs(op), outputs, "{op}");
        }
    }
}
