//! Layers of one op or none: dense, embedding, masking, activations, and those that act in training
//! only.

use serde_json::json;

use super::{KERNEL, Layer, Masks, NOTHING, PassedOver, RANDOM, Use};
use crate::error::{Error, Result};
use crate::formats::keras::activation::{self, Function};
use crate::formats::keras::builder::{Builder, Flow, transposed};
use crate::formats::keras::config::Config;
use crate::formats::keras::operations::einsum;
use crate::graph::ValueId;
use crate::graph::op::{Activation, BinaryFunction, FullyConnected, Gather, Op, ReduceFunction};
use crate::tensor::{DType, Tensor};

/// What Keras keeps of an embedding beside its table.
const EMBEDDING: PassedOver = PassedOver {
    fields: &[
        "embeddings_initializer",
        "embeddings_regularizer",
        "embeddings_constraint",
        "sparse",
        "dropout",
    ],
    reason: "says how the table begins and is trained; sparse speaks of its gradient",
};

/// What Keras keeps of a PReLU beside its slopes.
const SLOPES: PassedOver = PassedOver {
    fields: &["alpha_initializer", "alpha_regularizer", "alpha_constraint"],
    reason: "says how the slopes begin and are trained",
};

/// Penalties of training.
const PENALTY: PassedOver = PassedOver { fields: &["l1", "l2"], reason: "a penalty of training" };

/// The most categories that a constant lists.
const MAX_TOKENS: usize = 1 << 20;

pub(super) const LAYERS: &[Layer] = &[
    Layer {
        classes: &[
            "Dropout",
            "SpatialDropout1D",
            "SpatialDropout2D",
            "SpatialDropout3D",
            "GaussianNoise",
            "GaussianDropout",
            "AlphaDropout",
        ],
        arguments: &["inputs", "training"],
        passed_over: &[&RANDOM],
        masks: Masks::Keep,
        apply: identity,
    },
    Layer {
        classes: &["ActivityRegularization"],
        arguments: &["inputs"],
        passed_over: &[&PENALTY],
        masks: Masks::Keep,
        apply: identity,
    },
    Layer {
        classes: &["Identity"],
        arguments: &["inputs"],
        passed_over: &[&NOTHING],
        masks: Masks::KeepIn3,
        apply: identity,
    },
    Layer {
        classes: &["Activation"],
        arguments: &["inputs"],
        passed_over: &[&NOTHING],
        masks: Masks::Keep,
        apply: |b, used| {
            let function = activation::read(used.config, "activation", b.major)?;
            let x = used.input()?;
            Ok(vec![Flow::plain(function.apply(b, x.value)?)])
        },
    },
    Layer {
        classes: &["ReLU", "LeakyReLU", "ELU", "ThresholdedReLU"],
        arguments: &["inputs"],
        passed_over: &[&NOTHING],
        masks: Masks::Keep,
        apply: activation_layer,
    },
    Layer {
        classes: &["Softmax"],
        arguments: &["inputs", "mask"],
        passed_over: &[&NOTHING],
        masks: Masks::Keep,
        apply: |b, used| {
            if used.arguments.get("mask").is_some() || used.input()?.mask.is_some() {
                return Err(Error::unsupported("a softmax under a mask"));
            }
            activation_layer(b, used)
        },
    },
    Layer {
        classes: &["PReLU"],
        arguments: &["inputs"],
        passed_over: &[&SLOPES],
        masks: Masks::Keep,
        apply: prelu,
    },
    Layer {
        classes: &["Dense"],
        arguments: &["inputs", "training"],
        passed_over: &[&KERNEL],
        masks: Masks::Keep,
        apply: dense,
    },
    Layer {
        classes: &["EinsumDense"],
        arguments: &["inputs", "training"],
        passed_over: &[&KERNEL],
        masks: Masks::Drop,
        apply: einsum_dense,
    },
    Layer {
        classes: &["Embedding"],
        arguments: &["inputs"],
        passed_over: &[&EMBEDDING],
        masks: Masks::Own,
        apply: embedding,
    },
    Layer {
        classes: &["CategoryEncoding"],
        arguments: &["inputs", "count_weights"],
        passed_over: &[],
        masks: Masks::Drop,
        apply: category_encoding,
    },
    Layer {
        classes: &["Masking"],
        arguments: &["inputs"],
        passed_over: &[&NOTHING],
        masks: Masks::Own,
        apply: masking,
    },
];

fn identity(_: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    Ok(vec![used.input()?])
}

fn activation_layer(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let x = used.input()?;
    let function =
        activation::from_options(used.class, used.config, b.major)?.ok_or_else(|| {
            Error::unsupported(format!("the layer class {} is not supported", used.class))
        })?;
    Ok(vec![Flow::plain(function.apply(b, x.value)?)])
}

/// max(x, 0) + alpha·min(x, 0), with slopes of the shape of x but for its batch and shared axes.
fn prelu(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let x = used.input()?.value;
    let dims = b.dims(x)?.to_vec();
    let shared = match used.config.get("shared_axes") {
        None => Vec::new(),
        Some(_) => used.config.integers("shared_axes")?,
    };
    let mut shape = Vec::new();
    for (axis, dim) in dims.iter().enumerate().skip(1) {
        let is_shared =
            shared.iter().any(|&s| s == axis as i64 || s + dims.len() as i64 == axis as i64);
        shape.push(match dim.known() {
            _ if is_shared => 1,
            Some(size) => size,
            None => return Err(Error::unsupported("slopes of an open size")),
        });
    }
    let alpha = b.weight(used.scope, 0, &shape, "alpha")?;
    let alpha = b.constant(alpha);
    let above = b.activation(Activation::Relu, x)?;
    let below = b.with_number(BinaryFunction::Minimum, x, 0.0)?;
    let below = b.binary(BinaryFunction::Mul, below, alpha)?;
    Ok(vec![Flow::plain(b.binary(BinaryFunction::Add, above, below)?)])
}

fn dense(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let x = used.input()?.value;
    Ok(vec![Flow::plain(dense_of(b, used.config, used.scope, x)?)])
}

/// `activation(x · kernel + bias)` over the last axis.
pub(super) fn dense_of(
    b: &mut Builder,
    config: &Config<'_>,
    scope: &str,
    x: ValueId,
) -> Result<ValueId> {
    let units = config.size("units")?;
    let width = b.width(x)?;
    config.must_be("lora_rank", &json!(null))?;
    let kernel = transposed(&b.weight(scope, 0, &[width, units], "kernel")?)?;
    let x = b.cast(x, DType::F32)?;
    let mut inputs = vec![Some(x), Some(b.constant(kernel)), None];
    if config.flag("use_bias", true)? {
        let bias = b.weight(scope, 1, &[units], "bias")?;
        let bias = b.constant(bias);
        inputs.pop();
        inputs.push(Some(bias));
    }
    let function = activation::read(config, "activation", b.major)?;
    let fused = function.simple().unwrap_or(Activation::Linear);
    let op =
        FullyConnected { activation: fused, keep_leading_axes: true, asymmetric_inputs: false };
    let y = b.node(Op::FullyConnected(op), &inputs, &[true])?;
    let y =
        y.first().copied().flatten().ok_or_else(|| Error::internal("an op without a result"))?;
    match function {
        function if function.simple().is_some() => Ok(y),
        Function::Simple(_) => Ok(y),
        function => function.apply(b, y),
    }
}

/// `activation(einsum(equation, x, kernel) + bias)`, with the sizes of the output's letters given.
fn einsum_dense(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let (x, config) = (used.input()?.value, used.config);
    config.must_be("lora_rank", &json!(null))?;
    let equation = config.string("equation")?;
    let refuse = || Error::unsupported(format!("equation = {equation:?}"));
    let (inputs, output) = equation.split_once("->").ok_or_else(refuse)?;
    let (input, kernel) = inputs.split_once(',').ok_or_else(refuse)?;
    let given = match config.get("output_shape") {
        Some(serde_json::Value::Array(list)) => list.clone(),
        Some(one) => vec![one.clone()],
        None => return Err(config.missing("output_shape", "sizes")),
    };
    // The output's shape has no batch; the letters of the input have the input's sizes.
    let known = |letter: char| -> Option<usize> {
        let from_output = output.chars().rev().zip(given.iter().rev()).find(|(c, _)| *c == letter);
        let from_output = from_output.and_then(|(_, size)| usize::try_from(size.as_u64()?).ok());
        let dims = b.dims(x).ok()?;
        let at = input.chars().position(|c| c == letter);
        from_output.or_else(|| dims.get(at?)?.known())
    };
    let shape: Option<Vec<usize>> = kernel.chars().map(known).collect();
    let shape = shape.ok_or_else(refuse)?;
    let bias_shape: Option<Vec<usize>> = match config.get("bias_axes") {
        None => None,
        Some(_) => {
            let axes = config.string("bias_axes")?;
            let first = output.chars().position(|c| axes.contains(c)).ok_or_else(refuse)?;
            let sizes = output.chars().skip(first);
            let sizes = sizes.map(|c| if axes.contains(c) { known(c) } else { Some(1) });
            Some(sizes.collect::<Option<_>>().ok_or_else(refuse)?)
        }
    };
    let weights = b.weight(used.scope, 0, &shape, "kernel")?;
    let weights = b.constant(weights);
    let mut y = einsum(b, equation, &[x, weights])?;
    if let Some(shape) = bias_shape {
        let bias = b.weight(used.scope, 1, &shape, "bias")?;
        let bias = b.constant(bias);
        y = b.binary(BinaryFunction::Add, y, bias)?;
    }
    let function = activation::read(config, "activation", b.major)?;
    Ok(vec![Flow::plain(function.apply(b, y)?)])
}

fn embedding(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let (x, config) = (used.input()?, used.config);
    let shape = [config.size("input_dim")?, config.size("output_dim")?];
    let table = b.weight(used.scope, 0, &shape, "embeddings")?;
    let table = b.constant(table);
    let indices = match b.ty(x.value)?.dtype {
        DType::I32 | DType::I64 => x.value,
        _ => b.op(Op::Cast(DType::I32), &[x.value])?,
    };
    let value = b.op(Op::Gather(Gather { axis: 0, batch_dims: 0 }), &[table, indices])?;
    // The mask looks at what came in, before it was cast.
    let mask = if config.flag("mask_zero", false)? {
        Some(b.with_number(BinaryFunction::NotEqual, x.value, 0.0)?)
    } else {
        None
    };
    Ok(vec![Flow { value, mask }])
}

/// Whole numbers as rows of zeros and ones, or as how often each occurs.
fn category_encoding(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let config = used.config;
    config.must_be("sparse", &json!(false))?;
    let mode = config.string_or("output_mode", "multi_hot")?;
    let tokens = config.size("num_tokens")?;
    if tokens > MAX_TOKENS {
        return Err(Error::limit(format!("{tokens} tokens, the limit is {MAX_TOKENS}")));
    }
    let x = b.cast(used.input()?.value, DType::I32)?;
    let single = b.width(x).is_ok_and(|width| width == 1);
    let x = if mode == "one_hot" && single { x } else { b.expand(x, -1)? };
    let classes: Vec<i32> = (0..).take(tokens).collect();
    let classes = b.integers(&classes)?;
    let same = b.binary(BinaryFunction::Equal, x, classes)?;
    let rows = b.cast(same, DType::F32)?;
    let y = match mode {
        "one_hot" => rows,
        "multi_hot" => b.reduce(ReduceFunction::Maximum, rows, &[-2], false)?,
        "count" => b.reduce(ReduceFunction::Sum, rows, &[-2], false)?,
        other => return Err(Error::unsupported(format!("output_mode {other:?}"))),
    };
    Ok(vec![Flow::plain(y)])
}

/// A step is masked when all its features equal the mask value; its features become zero.
fn masking(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let x = used.input()?;
    let value = b.constant(Tensor::scalar(used.config.number("mask_value", 0.0)?));
    let differs = b.binary(BinaryFunction::NotEqual, x.value, value)?;
    let kept = b.reduce(ReduceFunction::Any, differs, &[-1], true)?;
    let mask = b.reduce(ReduceFunction::Any, differs, &[-1], false)?;
    let factor = b.op(Op::Cast(DType::F32), &[kept])?;
    let value = b.binary(BinaryFunction::Mul, x.value, factor)?;
    Ok(vec![Flow { value, mask: Some(mask) }])
}
