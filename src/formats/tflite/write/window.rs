//! Operators that move a window over an image. What the format cannot say is rewritten first: padding
//! other than SAME and VALID by an operator of its own, filters of a depthwise convolution with
//! their outputs last.

use super::build::Build;
use super::emit::Emit;
use super::file::Field::{Byte, Int};
use super::file::Options;
use super::plain::{by_type, fused, one, weights_of};
use crate::error::{Error, Result};
use crate::eval::evaluate;
use crate::formats::tflite::opcode;
use crate::graph::op::{Conv2d, Padding, Pool2d, PoolFunction};
use crate::graph::{Graph, Node, Op, ValueId, ValueType};
use crate::tensor::{DType, Quantization, Tensor};

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
    let types = weights_of(emit, node)?;
    let padding = Byte(padding(op.padding)?);
    if let Some((weights, multiplier)) = depthwise_weights(emit, node, op)? {
        let inputs = [Some(0), None, Some(2)].map(|slot| match slot {
            Some(slot) => node.input(slot).map_or(Ok(-1), |value| emit.tensor(value)),
            None => Ok(weights),
        });
        let inputs = inputs.into_iter().collect::<Result<Vec<_>>>()?;
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
    let mut inputs = emit.operands(node)?;
    inputs.truncate(3);
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

/// The weights of a depthwise convolution with their outputs last, `[1, kh, kw, O]`, and the outputs
/// of each channel.
fn depthwise_weights(
    emit: &mut Emit<'_>,
    node: &Node,
    op: &Conv2d,
) -> Result<Option<(i32, usize)>> {
    let Some(weights) = node.input(1).filter(|_| op.groups > 1) else { return Ok(None) };
    let ty = emit.ty(weights)?.clone();
    let outputs = match ty.known_shape().as_deref() {
        Some(&[outputs, _, _, 1]) => outputs,
        _ => return Ok(None),
    };
    let known = emit.graph.constant(weights).or_else(|| emit.sizes.known(weights));
    let Some(known) = known.cloned() else {
        return Err(Error::unsupported("a depthwise convolution with computed weights"));
    };
    let order = Tensor::from_slice(&[4], &[3i32, 1, 2, 0])?;
    let order_ty = ValueType::fixed(DType::I32, &[4]);
    let operands = [Some((&known, &ty)), Some((&order, &order_ty))];
    let turned = evaluate(&Op::Transpose, &operands, &[Some(&ty)])?.into_iter().next().flatten();
    let turned = turned.ok_or_else(|| Error::internal("a transposition without a result"))?;
    let mut quantization = ty.quantization;
    if let Some(scales) = quantization.as_mut().filter(|scales| scales.scales.len() > 1) {
        scales.axis = 3;
    }
    let tensor = emit.constant(&format!("{}/weights", node.name), &turned, quantization);
    Ok(Some((tensor, outputs / op.groups)))
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
/// [`Unsupported`](crate::ErrorKind::Unsupported) for weights of an open shape.
pub(super) fn lower_conv(graph: &mut Graph, node: &mut Node, mut op: Conv2d) -> Result<()> {
    let x = node.input(0).ok_or_else(|| Error::graph("a convolution without an image"))?;
    if let Padding::Explicit { before, after } = op.padding {
        // What lies around the image is 0, also where it is stored as a zero point.
        node.inputs[0] = Some(padded(graph, node, x, before, after, None)?);
        op.padding = Padding::Valid;
    }
    if node.input(2).is_none() {
        let bias = zero_bias(graph, node)?;
        node.inputs.resize(3, None);
        node.inputs[2] = Some(bias);
    }
    node.op = Op::Conv2d(op);
    Ok(())
}

/// The bias of a convolution that has none: the interpreter asks for one.
fn zero_bias(graph: &mut Graph, node: &Node) -> Result<ValueId> {
    let missing = || Error::graph("a convolution without image or weights");
    let x = node.input(0).and_then(|x| graph.ty(x)).ok_or_else(missing)?;
    let weights = node.input(1).and_then(|weights| graph.ty(weights)).ok_or_else(missing)?;
    let outputs = weights.known_shape().and_then(|shape| shape.first().copied());
    let outputs = outputs.ok_or_else(|| Error::unsupported("weights of an open shape"))?;
    let x_dtype = x.dtype;
    // Integer sums have the scale of the image times that of the weights.
    let scales = match (&x.quantization, &weights.quantization) {
        (Some(x), Some(weights)) if !x_dtype.is_float() => Some(Quantization {
            scales: weights.scales.iter().map(|w| w * x.scales.first().unwrap_or(&1.0)).collect(),
            zero_points: vec![0; weights.scales.len()],
            axis: 0,
        }),
        _ => None,
    };
    let dtype = if scales.is_some() { DType::I32 } else { DType::F32 };
    let id = graph.add_constant(format!("{}/bias", node.name), Tensor::zeros(dtype, &[outputs])?);
    if let Some(value) = graph.get_mut(id) {
        value.ty.quantization = scales;
    }
    Ok(id)
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
