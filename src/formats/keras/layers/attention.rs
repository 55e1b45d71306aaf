//! Attention, and the product of two inputs.

use serde_json::{Value as Json, json};

use super::normalization::unit_length;
use super::{KERNEL, Layer, Masks, RANDOM, Use, is_keras3};
use crate::error::{Error, Result};
use crate::formats::keras::activation::softmax;
use crate::formats::keras::arguments::Arg;
use crate::formats::keras::axis;
use crate::formats::keras::builder::{Builder, Flow, transposed};
use crate::graph::op::{
    Activation, BinaryFunction, FullyConnected, MatMul, Op, ReduceFunction, Squeeze,
};
use crate::graph::{Dim, ValueId};
use crate::tensor::{DType, Tensor};

/// What Keras takes from the score of a masked position.
const MASKED: f64 = 1e9;

pub(super) const LAYERS: &[Layer] = &[
    Layer {
        classes: &["Attention", "AdditiveAttention"],
        arguments: &["inputs", "mask", "training", "return_attention_scores", "use_causal_mask"],
        passed_over: &[&RANDOM],
        masks: Masks::Own,
        apply: attention,
    },
    Layer {
        classes: &["MultiHeadAttention"],
        arguments: &[
            "query",
            "value",
            "key",
            "query_mask",
            "value_mask",
            "key_mask",
            "attention_mask",
            "return_attention_scores",
            "training",
            "use_causal_mask",
        ],
        passed_over: &[&KERNEL, &RANDOM],
        masks: Masks::Own,
        apply: multi_head,
    },
    Layer {
        classes: &["Dot"],
        arguments: &["inputs"],
        passed_over: &[],
        masks: Masks::Drop,
        apply: dot,
    },
];

/// A flag of the call.
fn flag(used: &Use<'_, '_>, name: &str) -> Result<bool> {
    match used.arguments.get(name) {
        None => Ok(false),
        Some(Arg::Plain(Json::Bool(flag))) => Ok(*flag),
        Some(other) => {
            Err(Error::unsupported(format!("the call argument {name} = {}", other.shown())))
        }
    }
}

pub(super) fn product(
    b: &mut Builder,
    x: ValueId,
    y: ValueId,
    transpose_a: bool,
    transpose_b: bool,
) -> Result<ValueId> {
    let op = MatMul { transpose_a, transpose_b, asymmetric_inputs: false };
    b.op(Op::MatMul(op), &[x, y])
}

fn attention(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let inputs = used.arguments.flows("inputs")?;
    let (query, value, key) = match *inputs.as_slice() {
        [query, value] => (query, value, value),
        [query, value, key] => (query, value, key),
        _ => return Err(Error::malformed(format!("{} inputs", inputs.len()))),
    };
    let mut masks = [query.mask, value.mask];
    match used.arguments.get("mask") {
        None => {}
        Some(Arg::List(list)) => {
            for (mask, given) in masks.iter_mut().zip(list) {
                *mask = match given {
                    Arg::Tensor(flow) => Some(flow.value),
                    Arg::Null => None,
                    other => {
                        return Err(Error::unsupported(format!("the mask {}", other.shown())));
                    }
                };
            }
        }
        Some(other) => return Err(Error::unsupported(format!("the mask {}", other.shown()))),
    }
    let [query_mask, value_mask] = masks;
    let causal = flag(used, "use_causal_mask")? || used.config.flag("causal", false)?;
    let scores = match used.class {
        "AdditiveAttention" => additive_scores(b, used, query.value, key.value)?,
        _ => dot_scores(b, used, query.value, key.value)?,
    };
    let mut kept = match value_mask {
        Some(mask) => Some(b.expand(mask, -2)?),
        None => None,
    };
    if causal {
        let lower = causal_mask(b, query.value, value.value)?;
        kept = Some(match kept {
            Some(mask) => b.binary(BinaryFunction::And, mask, lower)?,
            None => lower,
        });
    }
    let scores = match kept {
        None => scores,
        Some(kept) => {
            let less = b.with_number(BinaryFunction::Sub, scores, MASKED)?;
            b.select(kept, scores, less)?
        }
    };
    let weights = softmax(b, scores, &[-1], false)?;
    let mut y = product(b, weights, value.value, false, false)?;
    if let Some(mask) = query_mask {
        let mask = b.expand(mask, -1)?;
        let zero = b.scalar_like(y, 0.0)?;
        y = b.select(mask, y, zero)?;
    }
    let mut out = vec![Flow { value: y, mask: query_mask }];
    if flag(used, "return_attention_scores")? {
        out.push(Flow::plain(weights));
    }
    Ok(out)
}

/// `scale · q · kᵀ`, or `weight · Σ tanh(scale · (q + k))`.
fn dot_scores(
    b: &mut Builder,
    used: &Use<'_, '_>,
    query: ValueId,
    key: ValueId,
) -> Result<ValueId> {
    let mode = used.config.string_or("score_mode", "dot")?;
    let scale = match used.config.flag("use_scale", false)? {
        true => {
            let scale = b.weight(used.scope, 0, &[], "scale")?;
            Some(b.constant(scale))
        }
        false => None,
    };
    match mode {
        "dot" => {
            let scores = product(b, query, key, false, true)?;
            match scale {
                Some(scale) => b.binary(BinaryFunction::Mul, scores, scale),
                None => Ok(scores),
            }
        }
        "concat" => {
            let index = usize::from(scale.is_some());
            let weight = b.weight(used.scope, index, &[], "concat score weight")?;
            let weight = b.constant(weight);
            let sum = pairwise_sum(b, query, key)?;
            let sum = match scale {
                Some(scale) => b.binary(BinaryFunction::Mul, sum, scale)?,
                None => sum,
            };
            let tanh = b.activation(Activation::Tanh, sum)?;
            let scores = b.reduce(ReduceFunction::Sum, tanh, &[-1], false)?;
            b.binary(BinaryFunction::Mul, scores, weight)
        }
        other => Err(Error::unsupported(format!("score_mode {other:?}"))),
    }
}

/// `q` `[B, T, 1, D]` + `k` `[B, 1, S, D]`.
fn pairwise_sum(b: &mut Builder, query: ValueId, key: ValueId) -> Result<ValueId> {
    let query = b.expand(query, -2)?;
    let key = b.expand(key, -3)?;
    b.binary(BinaryFunction::Add, query, key)
}

/// `Σ scale · tanh(q + k)`.
fn additive_scores(
    b: &mut Builder,
    used: &Use<'_, '_>,
    query: ValueId,
    key: ValueId,
) -> Result<ValueId> {
    used.config.must_be("score_mode", &json!("dot"))?;
    let sum = pairwise_sum(b, query, key)?;
    let mut tanh = b.activation(Activation::Tanh, sum)?;
    if used.config.flag("use_scale", true)? {
        let width = b.width(query)?;
        let scale = b.weight(used.scope, 0, &[width], "scale")?;
        let scale = b.constant(scale);
        tanh = b.binary(BinaryFunction::Mul, tanh, scale)?;
    }
    b.reduce(ReduceFunction::Sum, tanh, &[-1], false)
}

/// `[T, S]`: true where the query's step is not before the value's.
fn causal_mask(b: &mut Builder, query: ValueId, value: ValueId) -> Result<ValueId> {
    let query_steps = steps(b, query)?;
    let value_steps = steps(b, value)?;
    let column = b.expand(query_steps, -1)?;
    b.binary(BinaryFunction::GreaterEqual, column, value_steps)
}

/// 0, 1, … for the steps of `x`.
fn steps(b: &mut Builder, x: ValueId) -> Result<ValueId> {
    if let Some(&Dim::Known(size)) = b.dims(x)?.get(1) {
        let size = i32::try_from(size).map_err(|_| Error::limit("a size overflows"))?;
        return b.integers(&(0..size).collect::<Vec<i32>>());
    }
    let size = b.size_of(x, 1)?;
    let size = b.op(Op::Squeeze(Squeeze { axes: vec![0] }), &[size])?;
    let (zero, one) = (b.constant(Tensor::scalar(0i32)), b.constant(Tensor::scalar(1i32)));
    b.op(Op::Range, &[zero, size, one])
}

/// What attends to what: the query's mask by rows, the value's and the key's by columns.
fn attention_mask(
    b: &mut Builder,
    used: &Use<'_, '_>,
    query: &Flow,
    value: &Flow,
    key: Option<Flow>,
) -> Result<Option<ValueId>> {
    let given = |name: &str| used.arguments.flow_if(name);
    let value_mask = given("value_mask")?.map(|flow| flow.value).or(value.mask);
    let key_mask = given("key_mask")?.map(|flow| flow.value).or(key.and_then(|key| key.mask));
    // Keras takes the query's own mask, whatever is given.
    let query_mask = given("query_mask")?.map_or(query.mask, |_| query.mask);
    let mut masks = Vec::new();
    if let Some(mask) = query_mask {
        masks.push(b.expand(mask, -1)?);
    }
    for mask in [value_mask, key_mask].into_iter().flatten() {
        masks.push(b.expand(mask, -2)?);
    }
    if flag(used, "use_causal_mask")? {
        masks.push(causal_mask(b, query.value, value.value)?);
    }
    if let Some(mask) = given("attention_mask")? {
        let mask = b.cast(mask.value, DType::Bool)?;
        masks.push(mask);
    }
    let mut out = None;
    for mask in masks {
        out = Some(match out {
            None => mask,
            Some(before) => b.binary(BinaryFunction::And, before, mask)?,
        });
    }
    // One mask for all heads: [B, T, S] → [B, 1, T, S].
    match out {
        Some(mask) if b.rank(mask)? == 3 => Ok(Some(b.expand(mask, 1)?)),
        other => Ok(other),
    }
}

/// A dense layer to heads, `[B, T, D]` → `[B, N, T, H]`.
fn to_heads(
    b: &mut Builder,
    used: &Use<'_, '_>,
    name: &str,
    x: ValueId,
    [heads, size]: [usize; 2],
) -> Result<ValueId> {
    let width = b.width(x)?;
    let scope = format!("{}/{}", used.scope, sublayer(b, name));
    let rows = heads.checked_mul(size).ok_or_else(|| Error::limit("heads overflow"))?;
    let kernel = b.weight(&scope, 0, &[width, heads, size], name)?.reshaped(&[width, rows])?;
    let bias = match used.config.flag("use_bias", true)? {
        true => Some(b.weight(&scope, 1, &[heads, size], name)?.reshaped(&[rows])?),
        false => None,
    };
    let y = connected(b, x, &kernel, bias)?;
    let mut dims = b.dims(x)?.to_vec();
    dims.pop();
    dims.extend([Dim::Known(heads), Dim::Known(size)]);
    let open = open_axes(&dims, x);
    let y = b.reshape_to(y, &dims, &open)?;
    b.transpose(y, &[0, 2, 1, 3])
}

/// The group of a dense layer inside; Keras 2 keeps the underscore of the attribute's name.
fn sublayer(b: &Builder, name: &str) -> String {
    format!("{}{name}_dense", if is_keras3(b) { "" } else { "_" })
}

fn open_axes(dims: &[Dim], x: ValueId) -> Vec<(ValueId, usize)> {
    let open = dims.iter().enumerate().filter(|(_, dim)| dim.known().is_none());
    open.map(|(at, _)| (x, at)).collect()
}

fn connected(
    b: &mut Builder,
    x: ValueId,
    kernel: &Tensor,
    bias: Option<Tensor>,
) -> Result<ValueId> {
    let kernel = transposed(kernel)?;
    let kernel = b.constant(kernel);
    let bias = bias.map(|bias| b.constant(bias));
    let op = FullyConnected {
        activation: Activation::Linear,
        keep_leading_axes: true,
        asymmetric_inputs: false,
    };
    let y = b.node(Op::FullyConnected(op), &[Some(x), Some(kernel), bias], &[true])?;
    y.first().copied().flatten().ok_or_else(|| Error::internal("an op without a result"))
}

fn multi_head(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let config = used.config;
    let (query, value) = (used.arguments.flow("query")?, used.arguments.flow("value")?);
    let given_key = used.arguments.flow_if("key")?;
    let key = given_key.unwrap_or(value);
    for flow in [query, value, key] {
        if b.rank(flow.value)? != 3 {
            return Err(Error::unsupported("MultiHeadAttention over more than one axis"));
        }
    }
    config.must_be("attention_axes", &json!([1]))?;
    for field in ["sliding_window", "flash_attention", "partition_dim"] {
        config.must_be(field, &json!(null))?;
    }
    config.must_be("use_gate", &json!(false))?;
    // Shapes that follow from the inputs.
    config.pass_over(&["query_shape", "key_shape", "value_shape"]);
    let heads = config.size("num_heads")?;
    let key_dim = config.size("key_dim")?;
    let value_dim = match config.get("value_dim") {
        None => key_dim,
        Some(_) => config.size("value_dim")?,
    };
    let width = match config.get("output_shape") {
        None => b.width(query.value)?,
        Some(Json::Array(list)) if list.len() != 1 => {
            return Err(Error::unsupported("an output_shape of more than one axis"));
        }
        Some(_) => usize::try_from(config.integer("output_shape", 0)?).unwrap_or(0),
    };
    let mask = attention_mask(b, used, &query, &value, given_key)?;
    let q = to_heads(b, used, "query", query.value, [heads, key_dim])?;
    let k = to_heads(b, used, "key", key.value, [heads, key_dim])?;
    let v = to_heads(b, used, "value", value.value, [heads, value_dim])?;
    let q = b.with_number(BinaryFunction::Mul, q, 1.0 / (key_dim as f64).sqrt())?;
    let scores = product(b, q, k, false, true)?;
    let return_scores = flag(used, "return_attention_scores")?;
    let weights = masked_softmax(b, used, scores, mask, return_scores)?;
    let y = product(b, weights, v, false, false)?;
    let y = b.transpose(y, &[0, 2, 1, 3])?;
    let rows = heads.checked_mul(value_dim).ok_or_else(|| Error::limit("heads overflow"))?;
    let mut dims = b.dims(query.value)?.to_vec();
    dims.pop();
    dims.push(Dim::Known(rows));
    let open = open_axes(&dims, query.value);
    let y = b.reshape_to(y, &dims, &open)?;
    let scope = format!("{}/{}", used.scope, sublayer(b, "output"));
    let kernel = b.weight(&scope, 0, &[heads, value_dim, width], "output")?;
    let kernel = kernel.reshaped(&[rows, width])?;
    let bias = match config.flag("use_bias", true)? {
        true => Some(b.weight(&scope, 1, &[width], "output")?),
        false => None,
    };
    let y = connected(b, y, &kernel, bias)?;
    if is_keras3(b) {
        // `MultiHeadAttention.call` takes the masks off the tensors that it was given.
        b.unmasked.extend([query.value, value.value, key.value]);
    }
    let mut out = vec![Flow { value: y, mask: query.mask }];
    if return_scores {
        out.push(Flow::plain(weights));
    }
    Ok(out)
}

/// The softmax of the scores that the mask keeps. A row that has none differs by version: even
/// weights by a number that Keras 2 adds, even weights by one that the fused kernel of Keras 3 puts
/// in their place, and zeros where Keras 3 computes step by step (with dropout, or when the scores
/// are asked for).
fn masked_softmax(
    b: &mut Builder,
    used: &Use<'_, '_>,
    scores: ValueId,
    mask: Option<ValueId>,
    return_scores: bool,
) -> Result<ValueId> {
    let robust = used.config.flag("softmax_robust_masking", false)?;
    let Some(mask) = mask else { return softmax(b, scores, &[-1], false) };
    if !is_keras3(b) && !robust {
        let less = b.with_number(BinaryFunction::Sub, scores, MASKED)?;
        let scores = b.select(mask, scores, less)?;
        return softmax(b, scores, &[-1], false);
    }
    let low = b.scalar_like(scores, -MASKED)?;
    let kept = b.select(mask, scores, low)?;
    let weights = softmax(b, kept, &[-1], false)?;
    let dropout = used.config.number("dropout", 0.0)?;
    if is_keras3(b) && (dropout > 0.0 || return_scores) {
        let zero = b.scalar_like(weights, 0.0)?;
        return b.select(mask, weights, zero);
    }
    Ok(weights)
}

/// The product over one axis of each input; the batch stays.
fn dot(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let inputs = used.arguments.flows("inputs")?;
    let &[x, y] = inputs.as_slice() else {
        return Err(Error::malformed(format!("{} inputs", inputs.len())));
    };
    let (mut x, mut y) = (x.value, y.value);
    let (x_rank, y_rank) = (b.rank(x)?, b.rank(y)?);
    let axes = match used.config.get("axes") {
        Some(Json::Array(list)) if list.len() == 2 => used.config.integers("axes")?,
        _ => vec![used.config.integer("axes", -1)?; 2],
    };
    let &[a, z] = axes.as_slice() else {
        return Err(Error::malformed("axes of another number than two"));
    };
    let (a, z) = (axis(a, x_rank)?, axis(z, y_rank)?);
    if a == 0 || z == 0 || !(2..=3).contains(&x_rank) || !(2..=3).contains(&y_rank) {
        return Err(Error::unsupported(format!(
            "the axes [{a}, {z}] of values of rank {x_rank} and {y_rank}"
        )));
    }
    if used.config.flag("normalize", false)? {
        x = unit_length(b, x, &[a])?;
        y = unit_length(b, y, &[z])?;
    }
    // Rows [B, 1, D] and columns [B, D, 1] where there is one vector.
    if x_rank == 2 {
        x = b.expand(x, 1)?;
    }
    if y_rank == 2 {
        y = b.expand(y, 2)?;
    }
    let out = product(b, x, y, x_rank == 3 && a == 1, y_rank == 3 && z == 2)?;
    let squeezed = match (x_rank, y_rank) {
        (2, _) => Some(1),
        (_, 2) => Some(2),
        _ => None,
    };
    let out = match squeezed {
        Some(at) => b.op(Op::Squeeze(Squeeze { axes: vec![at] }), &[out])?,
        None => out,
    };
    Ok(vec![Flow::plain(out)])
}
