//! Pooling.

use serde_json::json;

use super::convolution::{over_images, over_two};
use super::{Layer, Masks, Use};
use crate::error::{Error, Result};
use crate::formats::keras::builder::{Builder, Flow};
use crate::graph::op::{
    Activation, BinaryFunction, Op, Padding, Pool2d, PoolFunction, ReduceFunction,
};
use crate::tensor::DType;

pub(super) const LAYERS: &[Layer] = &[
    Layer {
        classes: &[
            "MaxPooling1D",
            "MaxPool1D",
            "MaxPooling2D",
            "MaxPool2D",
            "AveragePooling1D",
            "AvgPool1D",
            "AveragePooling2D",
            "AvgPool2D",
        ],
        arguments: &["inputs"],
        passed_over: &[],
        masks: Masks::Drop,
        apply: pool,
    },
    Layer {
        classes: &["GlobalAveragePooling1D", "GlobalAvgPool1D"],
        arguments: &["inputs", "mask"],
        passed_over: &[],
        masks: Masks::Drop,
        apply: average_over_time,
    },
    Layer {
        classes: &[
            "GlobalMaxPooling1D",
            "GlobalMaxPool1D",
            "GlobalMaxPooling2D",
            "GlobalMaxPool2D",
            "GlobalAveragePooling2D",
            "GlobalAvgPool2D",
        ],
        arguments: &["inputs"],
        passed_over: &[],
        masks: Masks::Drop,
        apply: global,
    },
];

fn pool(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let config = used.config;
    config.must_be("data_format", &json!("channels_last"))?;
    let axes = if used.class.ends_with("1D") { 1 } else { 2 };
    let size = config.sizes("pool_size", axes, 2)?;
    // Without strides the windows stand side by side.
    let strides = match config.get("strides") {
        None => size.clone(),
        Some(_) => config.sizes("strides", axes, 1)?,
    };
    let options = Pool2d {
        function: match used.class.starts_with("Max") {
            true => PoolFunction::Maximum,
            false => PoolFunction::Average { count_padding: false },
        },
        window: over_two(&size)?,
        strides: over_two(&strides)?,
        dilations: [1, 1],
        padding: match config.string_or("padding", "valid")? {
            "valid" => Padding::Valid,
            "same" => Padding::Same,
            other => return Err(Error::unsupported(format!("padding {other:?}"))),
        },
        activation: Activation::Linear,
    };
    let x = used.input()?.value;
    let y = over_images(b, x, axes, |b, x| b.op(Op::Pool2d(options), &[x]))?;
    Ok(vec![Flow::plain(y)])
}

/// The mean of the steps that the mask keeps.
fn average_over_time(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    used.config.must_be("data_format", &json!("channels_last"))?;
    let x = used.input()?;
    let keep_dims = used.config.flag("keepdims", false)?;
    let mask = used.arguments.flow_if("mask")?.map(|mask| mask.value).or(x.mask);
    let Some(mask) = mask else {
        let y = b.reduce(ReduceFunction::Mean, x.value, &[1], keep_dims)?;
        return Ok(vec![Flow::plain(y)]);
    };
    let mask = b.expand(mask, -1)?;
    let zero = b.scalar_like(x.value, 0.0)?;
    let kept = b.select(mask, x.value, zero)?;
    let weights = b.cast(mask, DType::F32)?;
    let sum = b.reduce(ReduceFunction::Sum, kept, &[1], keep_dims)?;
    let count = b.reduce(ReduceFunction::Sum, weights, &[1], keep_dims)?;
    Ok(vec![Flow::plain(b.binary(BinaryFunction::Div, sum, count)?)])
}

fn global(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    used.config.must_be("data_format", &json!("channels_last"))?;
    let x = used.input()?.value;
    let function = match used.class.starts_with("GlobalMax") {
        true => ReduceFunction::Maximum,
        false => ReduceFunction::Mean,
    };
    let axes: &[i32] = if used.class.ends_with("1D") { &[1] } else { &[1, 2] };
    let keep_dims = used.config.flag("keepdims", false)?;
    Ok(vec![Flow::plain(b.reduce(function, x, axes, keep_dims)?)])
}
