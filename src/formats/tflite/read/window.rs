//! Operators that move a window over an image.

use super::function::{Call, Function};
use super::options::{activation, natural};
use super::plain::signed_weights;
use crate::error::{Error, Result};
use crate::formats::tflite::schema;
use crate::graph::op::{Conv2d, Padding, Pool2d, PoolFunction};
use crate::graph::{Op, ValueId};
use crate::tensor::{DType, Tensor};

fn padding(number: i8) -> Result<Padding> {
    match number {
        0 => Ok(Padding::Same),
        1 => Ok(Padding::Valid),
        other => Err(Error::malformed(format!("padding {other}, expected 0 (SAME) or 1 (VALID)"))),
    }
}

fn positive(name: &str, value: i32) -> Result<usize> {
    match natural(name, value)? {
        0 => Err(Error::malformed(format!("{name} is 0, a positive number was expected"))),
        natural => Ok(natural),
    }
}

/// The operand of weights: unsigned hybrid weights as the signed ones that they stand for.
fn weights<'m>(function: &mut Function<'m>, call: &Call<'m>, x: ValueId) -> Result<ValueId> {
    let weights = function.input(call, 1)?;
    match function.ty(x)?.dtype {
        DType::F32 => signed_weights(function, weights),
        _ => Ok(weights),
    }
}

pub(super) fn conv_2d<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    call.expect_arity(2..=3, 1)?;
    let options: schema::Conv2dOptions = call.options()?;
    let op = Conv2d {
        padding: padding(options.padding())?,
        strides: [
            positive("stride_h", options.stride_h())?,
            positive("stride_w", options.stride_w())?,
        ],
        dilations: [
            positive("dilation_h", options.dilation_h())?,
            positive("dilation_w", options.dilation_w())?,
        ],
        // The channels of the image over those of a filter.
        groups: groups_of(function, call)?,
        activation: activation(options.activation())?,
    };
    let x = function.input(call, 0)?;
    let weights = weights(function, call, x)?;
    let bias = function.optional(call, 2)?;
    let output = function.output(call, 0)?;
    function.node(Op::Conv2d(op), vec![Some(x), Some(weights), bias], vec![Some(output)]);
    Ok(())
}

/// 1, unless image and filters tell of more: the operator has no option for it.
fn groups_of<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<usize> {
    let (x, weights) = (function.input(call, 0)?, function.input(call, 1)?);
    let channels = |id: ValueId| function.graph.shape(id)?.get(3)?.known();
    let (Some(channels), Some(depth)) = (channels(x), channels(weights)) else { return Ok(1) };
    match channels.checked_div(depth) {
        Some(groups) if groups > 1 && groups * depth == channels => Ok(groups),
        _ => Ok(1),
    }
}

/// Filters `[1, kh, kw, I · multiplier]`, output channel `i · multiplier + m` from channel `i`: a
/// convolution with as many groups as channels, its weights `[I · multiplier, kh, kw, 1]`.
pub(super) fn depthwise_conv_2d<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    call.expect_arity(2..=3, 1)?;
    let options: schema::DepthwiseConv2dOptions = call.options()?;
    let x = function.input(call, 0)?;
    let weights = weights(function, call, x)?;
    let channels = function.graph.shape(x).and_then(|shape| shape.get(3)?.known());
    let outputs = function.graph.shape(weights).and_then(|shape| shape.get(3)?.known());
    let (Some(channels), Some(outputs)) = (channels, outputs) else {
        return Err(Error::unsupported("image or filters whose number of channels is open"));
    };
    // Older writers leave the multiplier 0: the shapes tell.
    let multiplier = natural("depth_multiplier", options.multiplier())?;
    let fits = channels > 0
        && outputs.is_multiple_of(channels)
        && (multiplier == 0 || channels.checked_mul(multiplier) == Some(outputs));
    if !fits {
        return Err(Error::malformed(format!(
            "{outputs} filters for {channels} channels with depth_multiplier {multiplier}"
        )));
    }
    let op = Conv2d {
        padding: padding(options.padding())?,
        strides: [
            positive("stride_h", options.stride_h())?,
            positive("stride_w", options.stride_w())?,
        ],
        dilations: [
            positive("dilation_h", options.dilation_h())?,
            positive("dilation_w", options.dilation_w())?,
        ],
        groups: channels,
        activation: activation(options.activation())?,
    };
    let weights = filters_first(function, weights)?;
    let bias = function.optional(call, 2)?;
    let output = function.output(call, 0)?;
    function.node(Op::Conv2d(op), vec![Some(x), Some(weights), bias], vec![Some(output)]);
    Ok(())
}

/// Weights with their last axis in front and their first behind, and the axis of their scales with it.
fn filters_first(function: &mut Function<'_>, weights: ValueId) -> Result<ValueId> {
    let mut ty = function.ty(weights)?.clone();
    if let Some(quantization) = ty.quantization.as_mut().filter(|q| q.scales.len() > 1) {
        if quantization.axis != 3 {
            return Err(Error::malformed(format!(
                "the filters' scales run over axis {}, expected 3",
                quantization.axis
            )));
        }
        quantization.axis = 0;
    }
    if let Some(shape) = &mut ty.shape {
        shape.swap(0, 3);
    }
    let order = Tensor::from_slice(&[4], &[3i32, 1, 2, 0])?;
    let order = function.graph.add_constant("filters first", order);
    let name = function.graph.get(weights).map(|value| value.name.clone()).unwrap_or_default();
    let turned = function.graph.add_value(name, ty);
    function.node(Op::Transpose, vec![Some(weights), Some(order)], vec![Some(turned)]);
    Ok(turned)
}

pub(super) fn pool_2d<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    pool: PoolFunction,
) -> Result<()> {
    call.expect_arity(1..=1, 1)?;
    let options: schema::Pool2dOptions = call.options()?;
    let op = Pool2d {
        function: pool,
        window: [
            positive("filter_height", options.filter_height())?,
            positive("filter_width", options.filter_width())?,
        ],
        strides: [
            positive("stride_h", options.stride_h())?,
            positive("stride_w", options.stride_w())?,
        ],
        dilations: [1, 1],
        padding: padding(options.padding())?,
        activation: activation(options.activation())?,
    };
    let x = function.input(call, 0)?;
    let output = function.output(call, 0)?;
    function.node(Op::Pool2d(op), vec![Some(x)], vec![Some(output)]);
    Ok(())
}
