//! The plain layers, each as the ops it stands for.

use serde_json::{Value as Json, json};

use super::builder::{Builder, Flow, transposed};
use super::config::{Config, Named, activation};
use super::recurrent;
use super::wiring::{Call, values};
use crate::error::{Error, Result};
use crate::graph::op::{
    Activation, BinaryFunction, Concat, Conv2d, FullyConnected, Gather, Op, Padding, Reduce,
    ReduceFunction, Squeeze, Unary,
};
use crate::graph::{Dim, ValueId};
use crate::tensor::{DType, Tensor};

/// Layers that do something in training only.
const IDENTITY: &[&str] = &[
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
    "ActivityRegularization",
];

/// Layers that work on the last axis alone, so that `TimeDistributed` around them changes nothing.
const LAST_AXIS_ONLY: &[&str] = &[
    "Dense",
    "Activation",
    "ReLU",
    "LeakyReLU",
    "ELU",
    "Softmax",
    "LayerNormalization",
    "Dropout",
    "GaussianNoise",
];

/// Calls a layer; its results in order.
pub(super) fn apply(
    b: &mut Builder,
    class: &str,
    config: Config<'_>,
    scope: &str,
    call: &Call<'_>,
) -> Result<Vec<Flow>> {
    refuse_low_precision(config)?;
    let (&x, rest) = call
        .inputs
        .split_first()
        .ok_or_else(|| Error::malformed("the layer is called without a tensor"))?;
    if recurrent::is_recurrent(class) {
        return recurrent::layer(b, class, config, scope, x, &values(rest));
    }
    if class == "Bidirectional" {
        return recurrent::bidirectional(b, config, scope, x, &values(rest));
    }
    if let Some(function) = merge_function(class) {
        return Ok(vec![merge(b, function, class == "Average", &call.inputs)?]);
    }
    if class == "Concatenate" {
        let op = Op::Concat(Concat {
            axis: config.integer("axis", -1)?,
            activation: Activation::Linear,
        });
        return Ok(vec![Flow { value: b.op(op, &values(&call.inputs))?, mask: x.mask }]);
    }
    if !rest.is_empty() {
        return Err(Error::malformed(format!("expected one input, found {}", call.inputs.len())));
    }
    let keep = |value: ValueId| Flow { value, mask: x.mask };
    let flow = match class {
        class if IDENTITY.contains(&class) => x,
        "Activation" => {
            let named = activation(config, "activation", b.keras3)?;
            keep(b.activate(named, x.value)?)
        }
        "ReLU" | "LeakyReLU" | "ELU" | "Softmax" => {
            keep(activation_layer(b, class, config, x.value)?)
        }
        "Dense" => keep(dense(b, config, scope, x.value)?),
        "Embedding" => embedding(b, config, scope, x)?,
        "Masking" => masking(b, config, x)?,
        "TimeDistributed" => {
            let inner = config.object("layer")?;
            let class = inner.string("class_name")?;
            if !LAST_AXIS_ONLY.contains(&class) {
                return Err(Error::unsupported(format!("TimeDistributed around {class}")));
            }
            return apply(b, class, inner.object("config")?, &format!("{scope}/layer"), call);
        }
        "BatchNormalization" => keep(batch_normalization(b, config, scope, x.value)?),
        "LayerNormalization" => keep(layer_normalization(b, config, scope, x.value)?),
        "Conv1D" => Flow::plain(conv1d(b, config, scope, x.value)?),
        "Flatten" | "Reshape" | "Permute" | "RepeatVector" => {
            Flow::plain(reshaping(b, class, config, x.value)?)
        }
        "GlobalAveragePooling1D" | "GlobalMaxPooling1D" => {
            Flow::plain(pooling(b, class, config, x)?)
        }
        // Keras 3 writes the computation of a mask into the model.
        "NotEqual" | "Any" => Flow::plain(mask_op(b, class, config, x.value, call)?),
        other => {
            return Err(Error::unsupported(format!("the layer class {other} is not supported")));
        }
    };
    Ok(vec![flow])
}

/// Half-precision policies change results; they are not computed here.
fn refuse_low_precision(config: Config<'_>) -> Result<()> {
    let name = match config.get("dtype") {
        Some(Json::String(name)) => name.as_str(),
        Some(policy) => policy.pointer("/config/name").and_then(Json::as_str).unwrap_or("float32"),
        None => "float32",
    };
    match name {
        "float32" | "float64" | "int32" | "int64" | "bool" => Ok(()),
        other => Err(Error::unsupported(format!("the dtype policy {other}"))),
    }
}

fn activation_layer(
    b: &mut Builder,
    class: &str,
    config: Config<'_>,
    x: ValueId,
) -> Result<ValueId> {
    let negative = |field: &str, default: f32| match config.get("negative_slope") {
        Some(_) => config.number("negative_slope", default),
        None => config.number(field, default),
    };
    let named = match class {
        "LeakyReLU" => Named::Elementwise(Activation::LeakyRelu { alpha: negative("alpha", 0.3)? }),
        "ELU" => Named::Elementwise(Activation::Elu { alpha: config.number("alpha", 1.0)? }),
        "Softmax" => {
            config.must_be("axis", &json!(-1))?;
            Named::Softmax { log: false }
        }
        _ => {
            let slope = config.number("negative_slope", 0.0)?;
            let threshold = config.number("threshold", 0.0)?;
            let highest = config.get("max_value").and_then(Json::as_f64);
            match (slope == 0.0, threshold == 0.0, highest) {
                (true, true, None) => Named::Elementwise(Activation::Relu),
                (true, true, Some(6.0)) => Named::Elementwise(Activation::Relu6),
                (false, true, None) => Named::Elementwise(Activation::LeakyRelu { alpha: slope }),
                _ => {
                    return Err(Error::unsupported(
                        "ReLU with this combination of max_value, negative_slope and threshold",
                    ));
                }
            }
        }
    };
    b.activate(named, x)
}

fn dense(b: &mut Builder, config: Config<'_>, scope: &str, x: ValueId) -> Result<ValueId> {
    let units = config.size("units")?;
    let width = b.width(x)?;
    let kernel = transposed(&b.weights.take(scope, 0, &[width, units], "kernel")?)?;
    let mut inputs = vec![Some(x), Some(b.constant(kernel)), None];
    if config.flag("use_bias", true)? {
        let bias = b.weights.take(scope, 1, &[units], "bias")?;
        let bias = b.constant(bias);
        inputs.pop();
        inputs.push(Some(bias));
    }
    let named = activation(config, "activation", b.keras3)?;
    let fused = match named {
        Named::Elementwise(activation) => activation,
        Named::Softmax { .. } => Activation::Linear,
    };
    let op =
        FullyConnected { activation: fused, keep_leading_axes: true, asymmetric_inputs: false };
    let y = b.node(Op::FullyConnected(op), &inputs, &[true])?;
    let y =
        y.first().copied().flatten().ok_or_else(|| Error::internal("an op without a result"))?;
    match named {
        Named::Softmax { .. } => b.activate(named, y),
        Named::Elementwise(_) => Ok(y),
    }
}

fn embedding(b: &mut Builder, config: Config<'_>, scope: &str, x: Flow) -> Result<Flow> {
    let shape = [config.size("input_dim")?, config.size("output_dim")?];
    let table = b.weights.take(scope, 0, &shape, "embeddings")?;
    let table = b.constant(table);
    let indices = match b.ty(x.value)?.dtype {
        DType::I32 | DType::I64 => x.value,
        _ => b.op(Op::Cast(DType::I32), &[x.value])?,
    };
    let value = b.op(Op::Gather(Gather { axis: 0, batch_dims: 0 }), &[table, indices])?;
    let mask = if config.flag("mask_zero", false)? {
        let zero = match b.ty(indices)?.dtype {
            DType::I64 => Tensor::scalar(0i64),
            _ => Tensor::scalar(0i32),
        };
        let zero = b.constant(zero);
        Some(b.binary(BinaryFunction::NotEqual, indices, zero)?)
    } else {
        None
    };
    Ok(Flow { value, mask })
}

/// A step is masked when all its features equal the mask value; its features become zero.
fn masking(b: &mut Builder, config: Config<'_>, x: Flow) -> Result<Flow> {
    let value = b.constant(Tensor::scalar(config.number("mask_value", 0.0)?));
    let differs = b.binary(BinaryFunction::NotEqual, x.value, value)?;
    let axis = b.integers(&[-1])?;
    let any = |keep_dims| Op::Reduce(Reduce { function: ReduceFunction::Any, keep_dims });
    let kept = b.op(any(true), &[differs, axis])?;
    let mask = b.op(any(false), &[differs, axis])?;
    let factor = b.op(Op::Cast(DType::F32), &[kept])?;
    Ok(Flow { value: b.binary(BinaryFunction::Mul, x.value, factor)?, mask: Some(mask) })
}

fn mask_op(
    b: &mut Builder,
    class: &str,
    config: Config<'_>,
    x: ValueId,
    call: &Call<'_>,
) -> Result<ValueId> {
    if class == "Any" {
        let axis = config.integer("axis", -1)?;
        let axis =
            b.integers(&[i32::try_from(axis).map_err(|_| Error::malformed("axis out of range"))?])?;
        let keep_dims = config.flag("keepdims", false)?;
        return b.op(Op::Reduce(Reduce { function: ReduceFunction::Any, keep_dims }), &[x, axis]);
    }
    let number = call.numbers.first().and_then(|n| n.as_f64());
    let number = number.ok_or_else(|| Error::malformed("expected a number to compare with"))?;
    let other = match b.ty(x)?.dtype {
        DType::F32 => Tensor::scalar(number as f32),
        DType::I32 => Tensor::scalar(number as i32),
        DType::I64 => Tensor::scalar(number as i64),
        dtype => return Err(Error::unsupported(format!("a comparison of {dtype}"))),
    };
    let other = b.constant(other);
    b.binary(BinaryFunction::NotEqual, x, other)
}

fn merge_function(class: &str) -> Option<BinaryFunction> {
    match class {
        "Add" | "Average" => Some(BinaryFunction::Add),
        "Subtract" => Some(BinaryFunction::Sub),
        "Multiply" => Some(BinaryFunction::Mul),
        "Maximum" => Some(BinaryFunction::Maximum),
        "Minimum" => Some(BinaryFunction::Minimum),
        _ => None,
    }
}

/// Folds the inputs from the left; the mask is true where all masks are, and there only when every
/// input has one.
fn merge(
    b: &mut Builder,
    function: BinaryFunction,
    average: bool,
    inputs: &[Flow],
) -> Result<Flow> {
    let (first, rest) = inputs
        .split_first()
        .ok_or_else(|| Error::malformed("the layer is called without a tensor"))?;
    let mut out = *first;
    for flow in rest {
        out.value = b.binary(function, out.value, flow.value)?;
        out.mask = match (out.mask, flow.mask) {
            (Some(a), Some(z)) if a == z => Some(a),
            (Some(a), Some(z)) => Some(b.binary(BinaryFunction::And, a, z)?),
            _ => None,
        };
    }
    if average {
        let factor = b.constant(Tensor::scalar(1.0 / inputs.len() as f32));
        out.value = b.binary(BinaryFunction::Mul, out.value, factor)?;
    }
    Ok(out)
}

/// `gamma · (x − mean) / sqrt(variance + epsilon) + beta` with stored statistics: one factor and
/// one offset.
fn batch_normalization(
    b: &mut Builder,
    config: Config<'_>,
    scope: &str,
    x: ValueId,
) -> Result<ValueId> {
    let rank = b.rank(x)? as i64;
    let axis = config.integer("axis", -1)?;
    if axis != -1 && axis != rank - 1 {
        return Err(Error::unsupported(format!(
            "BatchNormalization on axis {axis}, only the last"
        )));
    }
    let width = [b.width(x)?];
    let epsilon = f64::from(config.number("epsilon", 1e-3)?);
    let mut index = 0;
    let mut take = |b: &mut Builder, wanted: bool, what: &str, default: f32| -> Result<Vec<f32>> {
        if !wanted {
            return Ok(vec![default; width[0]]);
        }
        index += 1;
        b.weights.take(scope, index - 1, &width, what)?.into_vec::<f32>()
    };
    let gamma = take(b, config.flag("scale", true)?, "gamma", 1.0)?;
    let beta = take(b, config.flag("center", true)?, "beta", 0.0)?;
    let mean = take(b, true, "moving mean", 0.0)?;
    let variance = take(b, true, "moving variance", 1.0)?;
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
    let factor = b.constant(Tensor::from_vec(
        &width,
        factor.iter().map(|&f| f as f32).collect::<Vec<f32>>(),
    )?);
    let offset = b.constant(Tensor::from_vec(&width, offset)?);
    let scaled = b.binary(BinaryFunction::Mul, x, factor)?;
    b.binary(BinaryFunction::Add, scaled, offset)
}

/// `gamma · (x − mean) / sqrt(variance + epsilon) + beta` over the last axis of each position.
fn layer_normalization(
    b: &mut Builder,
    config: Config<'_>,
    scope: &str,
    x: ValueId,
) -> Result<ValueId> {
    let rank = b.rank(x)? as i64;
    let axis = config.integer("axis", -1)?;
    if axis != -1 && axis != rank - 1 {
        return Err(Error::unsupported(format!(
            "LayerNormalization on axis {axis}, only the last"
        )));
    }
    config.must_be("rms_scaling", &json!(false))?;
    let width = [b.width(x)?];
    let last = b.integers(&[-1])?;
    let mean_of = Op::Reduce(Reduce { function: ReduceFunction::Mean, keep_dims: true });
    let mean = b.op(mean_of.clone(), &[x, last])?;
    let centerd = b.binary(BinaryFunction::Sub, x, mean)?;
    let squared = b.op(Op::Unary(Unary::Square), &[centerd])?;
    let variance = b.op(mean_of, &[squared, last])?;
    let epsilon = b.constant(Tensor::scalar(config.number("epsilon", 1e-3)?));
    let variance = b.binary(BinaryFunction::Add, variance, epsilon)?;
    let factor = b.op(Op::Unary(Unary::Rsqrt), &[variance])?;
    let mut y = b.binary(BinaryFunction::Mul, centerd, factor)?;
    let mut index = 0;
    for (field, what, function) in
        [("scale", "gamma", BinaryFunction::Mul), ("center", "beta", BinaryFunction::Add)]
    {
        if config.flag(field, true)? {
            let weight = b.weights.take(scope, index, &width, what)?;
            let weight = b.constant(weight);
            y = b.binary(function, y, weight)?;
            index += 1;
        }
    }
    Ok(y)
}

/// Conv1D as a convolution of height 1: `[B, T, I]` → `[B, 1, T, I]` → `[B, 1, T', O]` →
/// `[B, T', O]`.
fn conv1d(b: &mut Builder, config: Config<'_>, scope: &str, x: ValueId) -> Result<ValueId> {
    config.must_be("data_format", &json!("channels_last"))?;
    config.must_be("groups", &json!(1))?;
    let one = |field: &str| -> Result<usize> {
        let n = config.integer(field, 1)?;
        usize::try_from(n)
            .ok()
            .filter(|&n| n >= 1)
            .ok_or_else(|| Error::malformed(format!("{field} = {n}")))
    };
    let (filters, width) = (config.size("filters")?, b.width(x)?);
    let (kernel, stride, dilation) = (one("kernel_size")?, one("strides")?, one("dilation_rate")?);
    let weights = b.weights.take(scope, 0, &[kernel, width, filters], "kernel")?;
    let weights = transposed(&weights.reshaped(&[kernel * width, filters])?)?
        .reshaped(&[filters, 1, kernel, width])?;
    let weights = b.constant(weights);
    let bias = match config.flag("use_bias", true)? {
        true => b.weights.take(scope, 1, &[filters], "bias")?,
        false => Tensor::zeros(DType::F32, &[filters])?,
    };
    let bias = b.constant(bias);
    let mut x = x;
    let padding = match config.string("padding").unwrap_or("valid") {
        "valid" => Padding::Valid,
        "same" => Padding::Same,
        "causal" => {
            let before = i32::try_from((kernel - 1).saturating_mul(dilation))
                .map_err(|_| Error::limit("padding overflows"))?;
            let paddings = b.constant(Tensor::from_slice(&[3, 2], &[0, 0, before, 0, 0, 0])?);
            let inputs = [Some(x), Some(paddings), None];
            let padded = b.node(Op::Pad, &inputs, &[true])?;
            x = padded
                .first()
                .copied()
                .flatten()
                .ok_or_else(|| Error::internal("an op without a result"))?;
            Padding::Valid
        }
        other => return Err(Error::unsupported(format!("padding {other:?}"))),
    };
    let axis = b.constant(Tensor::scalar(1i32));
    let tall = b.op(Op::ExpandDims, &[x, axis])?;
    let options =
        Conv2d { padding, strides: [1, stride], dilations: [1, dilation], ..Conv2d::default() };
    let y = b.op(Op::Conv2d(options), &[tall, weights, bias])?;
    let y = b.op(Op::Squeeze(Squeeze { axes: vec![1] }), &[y])?;
    let named = activation(config, "activation", b.keras3)?;
    b.activate(named, y)
}

fn reshaping(b: &mut Builder, class: &str, config: Config<'_>, x: ValueId) -> Result<ValueId> {
    let rank = b.rank(x)?;
    let to_i32 = |n: i64| {
        i32::try_from(n).map_err(|_| Error::malformed(format!("{n} is no size of an axis")))
    };
    match class {
        "Permute" => {
            let mut permutation = vec![0];
            for axis in config.integers("dims")? {
                permutation.push(to_i32(axis)?);
            }
            let permutation = b.integers(&permutation)?;
            b.op(Op::Transpose, &[x, permutation])
        }
        "RepeatVector" => {
            let axis = b.constant(Tensor::scalar(1i32));
            let row = b.op(Op::ExpandDims, &[x, axis])?;
            let count =
                i32::try_from(config.size("n")?).map_err(|_| Error::limit("n overflows"))?;
            let multiples = b.integers(&[1, count, 1])?;
            b.op(Op::Tile, &[row, multiples])
        }
        _ => {
            let mut sizes = Vec::new();
            let first = b.dims(x)?.first().copied().unwrap_or(Dim::Unknown);
            if class == "Reshape" {
                for size in config.integers("target_shape")? {
                    sizes.push(to_i32(size)?);
                }
            } else {
                // The product of the known sizes, so that an empty batch stays well defined; -1
                // where one is open.
                let rest = b.dims(x)?.get(1..).unwrap_or(&[]);
                let product = rest.iter().try_fold(1usize, |n, dim| n.checked_mul(dim.known()?));
                sizes.push(product.and_then(|n| i32::try_from(n).ok()).unwrap_or(-1));
            }
            // The batch comes first: [shape(x)[0], sizes…].
            let shape = b.op(Op::Shape(DType::I32), &[x])?;
            let (zero, one) = (b.integers(&[0])?, b.integers(&[1])?);
            let batch = if rank == 1 { shape } else { b.op(Op::Slice, &[shape, zero, one])? };
            let known = |&size: &i32| usize::try_from(size).map_or(Dim::Unknown, Dim::Known);
            let dims = std::iter::once(first).chain(sizes.iter().map(known)).collect();
            let sizes = b.integers(&sizes)?;
            let target = b.op(
                Op::Concat(Concat { axis: 0, activation: Activation::Linear }),
                &[batch, sizes],
            )?;
            let y = b.op(Op::Reshape, &[x, target])?;
            b.declare(y, dims);
            Ok(y)
        }
    }
}

fn pooling(b: &mut Builder, class: &str, config: Config<'_>, x: Flow) -> Result<ValueId> {
    config.must_be("data_format", &json!("channels_last"))?;
    if x.mask.is_some() && class == "GlobalAveragePooling1D" {
        return Err(Error::unsupported("GlobalAveragePooling1D under a mask"));
    }
    let function =
        if class == "GlobalMaxPooling1D" { ReduceFunction::Maximum } else { ReduceFunction::Mean };
    let axis = b.integers(&[1])?;
    b.op(
        Op::Reduce(Reduce { function, keep_dims: config.flag("keepdims", false)? }),
        &[x.value, axis],
    )
}
