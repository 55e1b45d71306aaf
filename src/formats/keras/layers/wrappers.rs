//! `TimeDistributed`: a layer at each step.

use serde_json::Value as Json;

use super::{Layer, Masks, Use, apply, heeds_masks, inner_layer, inside};
use crate::error::{Error, Result};
use crate::formats::keras::arguments::Call;
use crate::formats::keras::builder::{Builder, Flow};
use crate::graph::{Dim, ValueId};

pub(super) const LAYERS: &[Layer] = &[Layer {
    classes: &["TimeDistributed"],
    arguments: &["inputs", "training", "mask"],
    passed_over: &[],
    masks: Masks::Keep,
    apply: time_distributed,
}];

/// Layers that work on the last axis alone, so that they need no steps of their own.
const LAST_AXIS_ONLY: &[&str] = &[
    "Dense",
    "Activation",
    "ReLU",
    "LeakyReLU",
    "ELU",
    "LayerNormalization",
    "Dropout",
    "GaussianNoise",
    "Embedding",
];

/// `[B, T, …]` → `[B·T, …]`, the layer, and back.
fn time_distributed(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let x = used.input()?;
    let masked = used.arguments.get("mask").is_some() || x.mask.is_some();
    let (class, config) = inner_layer(used.config, "layer")?;
    let inner = used.config.get("layer").and_then(|layer| layer.get("config"));
    if masked && heeds_masks(class, inner.unwrap_or(&Json::Null)) {
        return Err(Error::unsupported(format!("TimeDistributed around {class} under a mask")));
    }
    let scope = format!("{}/layer", used.scope);
    let call = |b: &mut Builder, x: ValueId| {
        inside(b, &scope, 0, &config, class, |b| {
            apply(b, class, &config, &scope, Call::of(vec![Flow::plain(x)]))
        })
    };
    // The axis of a normalization counts the batch and not the step: the last one is the same.
    let last_only = LAST_AXIS_ONLY.contains(&class)
        && (class != "LayerNormalization" || config.integer("axis", -1)? == -1);
    if last_only {
        let out = call(b, x.value)?;
        return match out.iter().any(|flow| flow.mask.is_some()) {
            true => Err(Error::unsupported(format!("TimeDistributed around {class} with a mask"))),
            false => Ok(out),
        };
    }
    let dims = b.dims(x.value)?.to_vec();
    let [batch, time, inner @ ..] = dims.as_slice() else {
        return Err(Error::malformed(format!("an input of rank {}", dims.len())));
    };
    let steps = joined_steps(b, x.value, inner)?;
    let mut out = Vec::new();
    for flow in call(b, steps)? {
        if flow.mask.is_some() {
            return Err(Error::unsupported(format!("TimeDistributed around {class} with a mask")));
        }
        let mut apart = vec![*batch, *time];
        let made = b.dims(flow.value)?.to_vec();
        apart.extend(made.get(1..).unwrap_or(&[]));
        let mut open = Vec::new();
        for (at, _) in apart.iter().enumerate().filter(|(_, dim)| dim.known().is_none()) {
            open.push(if at < 2 { (x.value, at) } else { (flow.value, at - 1) });
        }
        out.push(Flow::plain(b.reshape_to(flow.value, &apart, &open)?));
    }
    Ok(out)
}

/// `[B, T, …]` → `[B·T, …]`.
pub(super) fn joined_steps(b: &mut Builder, x: ValueId, inner: &[Dim]) -> Result<ValueId> {
    let known: Option<Vec<i32>> =
        inner.iter().map(|dim| dim.known().and_then(|n| i32::try_from(n).ok())).collect();
    let mut dims = vec![Dim::Unknown];
    dims.extend(inner);
    let target = match known {
        Some(sizes) => {
            let mut target = vec![-1];
            target.extend(sizes);
            b.integers(&target)?
        }
        None => {
            let mut parts = vec![b.integers(&[-1])?];
            for at in 0..inner.len() {
                parts.push(b.size_of(x, at + 2)?);
            }
            b.concat(&parts, 0)?
        }
    };
    let y = b.op(crate::graph::op::Op::Reshape, &[x, target])?;
    b.declare(y, dims);
    Ok(y)
}
