//! Layers that bring values to a common scale.

use serde_json::{Value as Json, json};

use super::{Layer, Masks, PassedOver, Use};
use crate::error::{Error, Result};
use crate::formats::keras::arguments::array;
use crate::formats::keras::builder::{Builder, Flow};
use crate::formats::keras::config::{Config, is_array};
use crate::formats::keras::weights::Wanted;
use crate::formats::keras::{arguments, axis};
use crate::graph::op::{BinaryFunction, ReduceFunction, Unary};
use crate::graph::{Dim, ValueId};
use crate::tensor::{DType, Tensor};

/// What a scale and an offset have beside their values.
const SCALE: PassedOver = PassedOver {
    fields: &[
        "gamma_initializer",
        "beta_initializer",
        "moving_mean_initializer",
        "moving_variance_initializer",
        "gamma_regularizer",
        "beta_regularizer",
        "gamma_constraint",
        "beta_constraint",
        "momentum",
        "fused",
        "synchronized",
        "mode",
    ],
    reason: "says how weights begin and are trained, how fast averages move in training, or which kernel is taken",
};

/// The least standard deviation of `Normalization`: `backend.epsilon()` of Keras.
const LEAST_DEVIATION: f32 = 1e-7;

pub(super) const LAYERS: &[Layer] = &[
    Layer {
        classes: &["BatchNormalization", "SyncBatchNormalization", "BatchNormalizationV1"],
        arguments: &["inputs", "training", "mask"],
        passed_over: &[&SCALE],
        masks: Masks::Keep,
        apply: batch_normalization,
    },
    Layer {
        classes: &["LayerNormalization"],
        arguments: &["inputs"],
        passed_over: &[&SCALE],
        masks: Masks::Keep,
        apply: layer_normalization,
    },
    Layer {
        classes: &["GroupNormalization"],
        arguments: &["inputs"],
        passed_over: &[&SCALE],
        masks: Masks::Keep,
        apply: group_normalization,
    },
    Layer {
        classes: &["Normalization"],
        arguments: &["inputs"],
        passed_over: &[],
        masks: Masks::KeepIn3,
        apply: normalization,
    },
    Layer {
        classes: &["Rescaling"],
        arguments: &["inputs"],
        passed_over: &[],
        masks: Masks::KeepIn3,
        apply: rescaling,
    },
    Layer {
        classes: &["UnitNormalization"],
        arguments: &["inputs"],
        passed_over: &[],
        masks: Masks::Keep,
        apply: unit_normalization,
    },
];

/// The axes of a field that holds one or several, sorted.
fn axes(config: &Config<'_>, field: &str, rank: usize) -> Result<Vec<usize>> {
    let listed = match config.get(field) {
        Some(Json::Array(_)) => config.integers(field)?,
        _ => vec![config.integer(field, -1)?],
    };
    let mut out = Vec::with_capacity(listed.len());
    for at in listed {
        out.push(axis(at, rank)? as usize);
    }
    if !out.is_sorted() {
        return Err(Error::unsupported(format!("{field} = {out:?}, only in rising order")));
    }
    Ok(out)
}

fn sizes(dims: &[Dim], axes: &[usize]) -> Result<Vec<usize>> {
    let size = |&axis: &usize| dims.get(axis).copied().and_then(Dim::known);
    axes.iter()
        .map(size)
        .collect::<Option<_>>()
        .ok_or_else(|| Error::unsupported(format!("axes {axes:?} of an open size")))
}

/// The sizes of `axes`, with axes of size 1 between them up to the last axis.
fn broadcast_shape(sizes: &[usize], axes: &[usize], rank: usize) -> Vec<usize> {
    let first = axes.first().copied().unwrap_or(rank);
    let size = |k: usize| axes.iter().position(|&at| at == k).and_then(|at| sizes.get(at)).copied();
    (first..rank).map(|k| size(k).unwrap_or(1)).collect()
}

fn broadcast(tensor: &Tensor, axes: &[usize], rank: usize) -> Result<Tensor> {
    tensor.reshaped(&broadcast_shape(tensor.shape(), axes, rank))
}

/// `gamma · (x − mean) / sqrt(variance + epsilon) + beta` with stored statistics: one factor and
/// one offset.
fn batch_normalization(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let (x, config) = (used.input()?, used.config);
    // A mask only picks what training averages over.
    used.arguments.get("mask");
    config.must_be("renorm", &json!(false))?;
    config.pass_over(&["renorm_clipping", "renorm_momentum", "adjustment"]);
    config.must_be("virtual_batch_size", &json!(null))?;
    let rank = b.rank(x.value)?;
    let kept = axes(config, "axis", rank)?;
    if kept.len() != 1 {
        return Err(Error::unsupported(format!("BatchNormalization over the axes {kept:?}")));
    }
    let width = sizes(b.dims(x.value)?, &kept)?;
    let count = width.iter().product();
    let epsilon = f64::from(config.number("epsilon", 1e-3)?);
    let mut index = 0;
    let mut take = |b: &mut Builder, wanted: bool, what: &str, default: f32, trained: bool| {
        if !wanted {
            return Ok(vec![default; count]);
        }
        index += 1;
        let wanted = Wanted { scope: used.scope, index: index - 1, shape: &width, what, trained };
        b.weights.take(wanted)?.into_vec::<f32>()
    };
    let gamma = take(b, config.flag("scale", true)?, "gamma", 1.0, true)?;
    let beta = take(b, config.flag("center", true)?, "beta", 0.0, true)?;
    let mean = take(b, true, "moving mean", 0.0, false)?;
    let variance = take(b, true, "moving variance", 1.0, false)?;
    let factor: Vec<f64> = gamma
        .iter()
        .zip(&variance)
        .map(|(&g, &v)| f64::from(g) / (f64::from(v) + epsilon).sqrt())
        .collect();
    let offset: Vec<f32> = beta
        .iter()
        .zip(&mean)
        .zip(&factor)
        .map(|((&o, &m), f)| (f64::from(o) - f64::from(m) * f) as f32)
        .collect();
    let factor: Vec<f32> = factor.iter().map(|&f| f as f32).collect();
    let factor = broadcast(&Tensor::from_vec(&width, factor)?, &kept, rank)?;
    let offset = broadcast(&Tensor::from_vec(&width, offset)?, &kept, rank)?;
    let (factor, offset) = (b.constant(factor), b.constant(offset));
    let scaled = b.binary(BinaryFunction::Mul, x.value, factor)?;
    Ok(vec![Flow::plain(b.binary(BinaryFunction::Add, scaled, offset)?)])
}

/// `(x − mean) / sqrt(variance + epsilon)`, both over `axes`.
fn standardized(b: &mut Builder, x: ValueId, axes: &[i32], epsilon: f32) -> Result<ValueId> {
    let mean = b.reduce(ReduceFunction::Mean, x, axes, true)?;
    let centered = b.binary(BinaryFunction::Sub, x, mean)?;
    let squared = b.unary(Unary::Square, centered)?;
    let variance = b.reduce(ReduceFunction::Mean, squared, axes, true)?;
    let variance = b.with_number(BinaryFunction::Add, variance, epsilon.into())?;
    let factor = b.unary(Unary::Rsqrt, variance)?;
    b.binary(BinaryFunction::Mul, centered, factor)
}

/// `gamma · x + beta` where the configuration asks for them.
fn scaled(
    b: &mut Builder,
    used: &Use<'_, '_>,
    x: ValueId,
    sizes: &[usize],
    shape: &[usize],
) -> Result<ValueId> {
    let (mut y, mut index) = (x, 0);
    for (field, what, function) in
        [("scale", "gamma", BinaryFunction::Mul), ("center", "beta", BinaryFunction::Add)]
    {
        if used.config.flag(field, true)? {
            let weight = b.weight(used.scope, index, sizes, what)?.reshaped(shape)?;
            let weight = b.constant(weight);
            y = b.binary(function, y, weight)?;
            index += 1;
        }
    }
    Ok(y)
}

fn layer_normalization(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let (x, config) = (used.input()?.value, used.config);
    config.must_be("rms_scaling", &json!(false))?;
    let rank = b.rank(x)?;
    let over = axes(config, "axis", rank)?;
    let sizes = sizes(b.dims(x)?, &over)?;
    let indices: Vec<i32> = over.iter().map(|&at| at as i32).collect();
    let y = standardized(b, x, &indices, config.number("epsilon", 1e-3)?)?;
    let y = scaled(b, used, y, &sizes, &broadcast_shape(&sizes, &over, rank))?;
    Ok(vec![Flow::plain(y)])
}

/// As layer normalization, over all axes but the batch, by groups of channels.
fn group_normalization(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let (x, config) = (used.input()?.value, used.config);
    let dims = b.dims(x)?.to_vec();
    let at = axis(config.integer("axis", -1)?, dims.len())? as usize;
    if at + 1 != dims.len() {
        return Err(Error::unsupported("GroupNormalization on another axis than the last"));
    }
    let width = b.width(x)?;
    let groups = match config.integer("groups", 32)? {
        -1 => width,
        groups => usize::try_from(groups).unwrap_or(0),
    };
    if groups == 0 || width % groups != 0 {
        return Err(Error::malformed(format!("{groups} groups of {width} channels")));
    }
    let mut apart = dims.clone();
    apart.pop();
    apart.extend([Dim::Known(groups), Dim::Known(width / groups)]);
    let open: Vec<(ValueId, usize)> = dims
        .iter()
        .enumerate()
        .filter(|(_, dim)| dim.known().is_none())
        .map(|(axis, _)| (x, axis))
        .collect();
    let grouped = b.reshape_to(x, &apart, &open)?;
    let last = apart.len() - 1;
    let over: Vec<i32> = (1..apart.len()).filter(|&k| k + 1 != last).map(|k| k as i32).collect();
    let y = standardized(b, grouped, &over, config.number("epsilon", 1e-3)?)?;
    let y = b.reshape_to(y, &dims, &open)?;
    Ok(vec![Flow::plain(scaled(b, used, y, &[width], &[width])?)])
}

/// `(x − mean) / max(sqrt(variance), ε)`, or its inverse, with the statistics of `adapt` or of the
/// configuration.
fn normalization(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let (x, config) = (used.input()?.value, used.config);
    let rank = b.rank(x)?;
    // An absent axis is the last one; null is none.
    let kept = match config.get("axis") {
        None if config.has("axis") => Vec::new(),
        _ => axes(config, "axis", rank)?,
    };
    let shape = sizes(b.dims(x)?, &kept)?;
    let given = (config.get("mean"), config.get("variance"));
    let (mean, variance) = match given {
        (Some(mean), Some(variance)) => (given_array(mean)?, given_array(variance)?),
        _ => {
            let scope = used.scope;
            let want = |index, what| Wanted { scope, index, shape: &shape, what, trained: false };
            let mean = b.weights.take(want(0, "mean"))?;
            let variance = b.weights.take(want(1, "variance"))?;
            // How many values `adapt` saw.
            b.weights.skip(Wanted { shape: &[], ..want(2, "count") });
            (mean, variance)
        }
    };
    let deviation: Vec<f32> =
        variance.to_f32().iter().map(|v| v.sqrt().max(LEAST_DEVIATION)).collect();
    let deviation = Tensor::from_vec(variance.shape(), deviation)?;
    let placed = |tensor: &Tensor| match tensor.shape().len() == kept.len() {
        true => broadcast(tensor, &kept, rank),
        false if tensor.len() == 1 => tensor.reshaped(&[]),
        false => Err(Error::unsupported("a mean of another rank than its axes")),
    };
    let (mean, deviation) = (placed(&mean)?, placed(&deviation)?);
    let (mean, deviation) = (b.constant(mean), b.constant(deviation));
    let x = b.cast(x, DType::F32)?;
    let y = if config.flag("invert", false)? {
        let scaled = b.binary(BinaryFunction::Mul, x, deviation)?;
        b.binary(BinaryFunction::Add, scaled, mean)?
    } else {
        let centered = b.binary(BinaryFunction::Sub, x, mean)?;
        b.binary(BinaryFunction::Div, centered, deviation)?
    };
    Ok(vec![Flow::plain(y)])
}

/// Numbers of a configuration: one, nested lists, or an array object.
fn given_array(json: &Json) -> Result<Tensor> {
    match json {
        Json::Object(object) if is_array(object) => array(json),
        Json::Array(_) | Json::Number(_) => array(&json!({ "value": json })),
        other => Err(arguments::not_numbers(other)),
    }
}

/// `scale · x + offset`.
fn rescaling(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let mut y = b.cast(used.input()?.value, DType::F32)?;
    for (field, function) in [("scale", BinaryFunction::Mul), ("offset", BinaryFunction::Add)] {
        if let Some(json) = used.config.get(field) {
            let tensor = given_array(json)?;
            let tensor = Tensor::from_vec(tensor.shape(), tensor.to_f32().into_owned())?;
            let tensor = b.constant(tensor);
            y = b.binary(function, y, tensor)?;
        }
    }
    Ok(vec![Flow::plain(y)])
}

/// `x / sqrt(max(Σ x², ε))` over the axes.
fn unit_normalization(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let x = used.input()?.value;
    let over = axes(used.config, "axis", b.rank(x)?)?;
    let over: Vec<i32> = over.iter().map(|&at| at as i32).collect();
    Ok(vec![Flow::plain(unit_length(b, x, &over)?)])
}

/// `x / sqrt(max(Σ x², 1e−12))`, as `tf.nn.l2_normalize` and `normalize` of Keras.
pub(in crate::formats::keras) fn unit_length(
    b: &mut Builder,
    x: ValueId,
    axes: &[i32],
) -> Result<ValueId> {
    let squared = b.unary(Unary::Square, x)?;
    let sum = b.reduce(ReduceFunction::Sum, squared, axes, true)?;
    let sum = b.with_number(BinaryFunction::Maximum, sum, 1e-12)?;
    let factor = b.unary(Unary::Rsqrt, sum)?;
    b.binary(BinaryFunction::Mul, x, factor)
}
