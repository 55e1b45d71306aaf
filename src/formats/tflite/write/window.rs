//! Operators that move a window over an image. What the format cannot say is rewritten first: padding
//! other than SAME and VALID by an operator of its own, filters of a depthwise convolution with
//! their outputs last.

use super::build::Build;
use super::emit::Emit;
use super::file::Field::{Byte, Int};
use super::file::Options;
use super::plain::{by_type, fused, one, weights_of};
use crate::error::{Error, Result};
use crate::formats::tflite::opcode;
use crate::graph::op::{Conv2d, Padding, Pool2d, PoolFunction};
use crate::graph::{Graph, Node, Op, ValueId};
use crate::tensor::{DType, Tensor};

/// The number of SAME and VALID.
fn padding(padding: Padding) -> Result<i8> {
    match padding {
        Padding::Same => Ok(0),
        Padding::Valid => Ok(1),
        Padding::SameLower | Padding::Explicit { .. } => Err(Error::unsupported(format!(
            "the padding {padding:?}: an operator of TensorFlow Lite knows SAME and VALID"
        ))),
    }
}

pub(super) fn conv_2d(emit: &mut Emit<'_>, node: &Node, op: &Conv2d) -> Result<()> {
    let [stride_h, stride_w] = op.strides.map(|stride| Int(stride as i32));
    let [dilation_h, dilation_w] = op.dilations.map(|dilation| Int(dilation as i32));
    let (types, mut inputs) = (weights_of(emit, node)?, emit.operands(node)?);
    inputs.truncate(3);
    let padding = Byte(padding(op.padding)?);
    if let Some(multiplier) = multiplier(emit, node, op)? {
        let fields = vec![
            (0, padding),
            (1, stride_w),
            (2, stride_h),
            (3, Int(multiplier as i32)),
            (4, fused(op.activation)?),
            (5, dilation_w),
            (6, dilation_h),
        ];
        let version = match types {
            (DType::F32, DType::I8) => 4,
            (DType::I8, _) => 3,
            _ if op.dilations != [1, 1] => 2,
            _ => 1,
        };
        let options = Options::new(2, fields);
        return one(emit, node, opcode::DEPTHWISE_CONV_2D, version, &inputs, options);
    }
    let fields = vec![
        (0, padding),
        (1, stride_w),
        (2, stride_h),
        (3, fused(op.activation)?),
        (4, dilation_w),
        (5, dilation_h),
    ];
    let version = match types {
        _ if op.groups > 1 => 6,
        (DType::F32, DType::I8) => 2,
        (DType::I8, _) => 3,
        _ => 1,
    };
    one(emit, node, opcode::CONV_2D, version, &inputs, Options::new(1, fields))
}

/// Outputs a channel of a depthwise convolution whose weights [`lower`] has turned.
fn multiplier(emit: &Emit<'_>, node: &Node, op: &Conv2d) -> Result<Option<usize>> {
    let Some(weights) = node.input(1).filter(|_| op.groups > 1) else { return Ok(None) };
    let shape = emit.ty(weights)?.known_shape();
    Ok(match shape.as_deref() {
        Some(&[1, _, _, outputs]) if outputs > 1 => Some(outputs / op.groups),
        _ => None,
    })
}

pub(super) fn pool_2d(emit: &mut Emit<'_>, node: &Node, op: &Pool2d) -> Result<()> {
    let number = match op.function {
        PoolFunction::Maximum => opcode::MAX_POOL_2D,
        PoolFunction::Average { count_padding } => {
            if count_padding && op.padding != Padding::Valid {
                return Err(Error::unsupported("padding that counts in an average"));
            }
            opcode::AVERAGE_POOL_2D
        }
    };
    if op.dilations != [1, 1] {
        return Err(Error::unsupported(format!("a pool with the dilations {:?}", op.dilations)));
    }
    let [stride_h, stride_w] = op.strides.map(|stride| Int(stride as i32));
    let [height, width] = op.window.map(|size| Int(size as i32));
    let fields = vec![
        (0, Byte(padding(op.padding)?)),
        (1, stride_w),
        (2, stride_h),
        (3, width),
        (4, height),
        (5, fused(op.activation)?),
    ];
    let (version, inputs) = (by_type(emit, node)?, emit.operands(node)?);
    one(emit, node, number, version, &inputs, Options::new(5, fields))
}

/// Makes of a convolution one that an operator can say.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) for a depthwise convolution whose weights are
/// computed.
pub(super) fn lower_conv(graph: &mut Graph, node: &mut Node, mut op: Conv2d) -> Result<()> {
    let x = node.input(0).ok_or_else(|| Error::graph("a convolution without an image"))?;
    if let Padding::Explicit { before, after } = op.padding {
        // What lies around the image is 0, also where it is stored as a zero point.
        node.inputs[0] = Some(padded(graph, node, x, before, after, None)?);
        op.padding = Padding::Valid;
    }
    let depth = node.input(1).and_then(|weights| graph.shape(weights)?.get(3)?.known());
    if op.groups > 1 && depth == Some(1) {
        let weights = node.input(1).ok_or_else(|| Error::graph("a convolution without weights"))?;
        node.inputs[1] = Some(outputs_last(graph, node, weights)?);
    }
    node.op = Op::Conv2d(op);
    Ok(())
}

/// Makes of a pool one that an operator can say, where that is possible.
pub(super) fn lower_pool(graph: &mut Graph, node: &mut Node, mut op: Pool2d) -> Result<()> {
    let x = node.input(0).ok_or_else(|| Error::graph("a pool without an image"))?;
    let fill = match op.function {
        PoolFunction::Maximum => Some(f32::MIN),
        PoolFunction::Average { count_padding: true } => None,
        PoolFunction::Average { count_padding: false } => return Ok(()),
    };
    if let Padding::Explicit { before, after } = op.padding
        && graph.ty(x).is_some_and(|ty| ty.dtype == DType::F32)
    {
        node.inputs[0] = Some(padded(graph, node, x, before, after, fill)?);
        op.padding = Padding::Valid;
        node.op = Op::Pool2d(op);
    }
    Ok(())
}

/// x with entries around its height and width: `fill`, or zeros.
fn padded(
    graph: &mut Graph,
    node: &Node,
    x: ValueId,
    before: [usize; 2],
    after: [usize; 2],
    fill: Option<f32>,
) -> Result<ValueId> {
    let ty = graph.ty(x).cloned().ok_or_else(|| Error::graph("an image that is not there"))?;
    let side = |n: usize| {
        i32::try_from(n).map_err(|_| Error::limit(format!("{n} entries around an image")))
    };
    let [top, left] = [side(before[0])?, side(before[1])?];
    let [bottom, right] = [side(after[0])?, side(after[1])?];
    let mut build = Build { graph, name: node.name.clone() };
    let paddings = Tensor::from_slice(&[4, 2], &[0, 0, top, bottom, left, right, 0, 0])?;
    let paddings = build.constant("paddings", paddings);
    let mut inputs = vec![x, paddings];
    inputs.extend(fill.map(|fill| build.number(fill)));
    let padded = build.op(Op::Pad, &inputs, ty.dtype);
    if let Some(value) = graph.get_mut(padded) {
        value.ty.quantization = ty.quantization;
    }
    Ok(padded)
}

/// Weights `[O, kh, kw, 1]` as `[1, kh, kw, O]`, and the axis of their scales with them.
fn outputs_last(graph: &mut Graph, node: &Node, weights: ValueId) -> Result<ValueId> {
    let value = graph.get(weights).ok_or_else(|| Error::graph("weights that are not there"))?;
    let Some(constant) = &value.constant else {
        return Err(Error::unsupported("a depthwise convolution with computed weights"));
    };
    let order = Tensor::from_slice(&[4], &[3i32, 1, 2, 0])?;
    let types = [value.ty.clone(), crate::graph::ValueType::fixed(DType::I32, &[4])];
    let operands = [Some((constant, &types[0])), Some((&order, &types[1]))];
    let turned = crate::eval::evaluate(&Op::Transpose, &operands, &[Some(&types[0])])?;
    let turned = turned.into_iter().next().flatten();
    let turned = turned.ok_or_else(|| Error::internal("a transposition without a result"))?;
    let mut quantization = types[0].quantization.clone();
    if let Some(scales) = quantization.as_mut().filter(|scales| scales.scales.len() > 1) {
        scales.axis = 3;
    }
    let id = graph.add_constant(format!("{}/weights", node.name), turned);
    if let Some(value) = graph.get_mut(id) {
        value.ty.quantization = quantization;
    }
    Ok(id)
}
