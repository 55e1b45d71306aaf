//! The layer classes. Each entry of [`Layer`] declares its class, the arguments of its call, the
//! configuration fields that it passes over, and what becomes of a mask; what an entry neither
//! reads nor lists is an error.

mod attention;
mod basic;
mod cells;
mod conv_lstm;
mod convolution;
mod merging;
mod normalization;
mod pooling;
mod recurrent;
mod reshaping;
mod wrappers;
mod written;

pub(super) use normalization::unit_length;
pub(super) use reshaping::repeated;
use serde_json::Value as Json;

use super::arguments::{Bound, Call};
use super::builder::{Builder, Flow};
use super::config::{Config, shown};
use super::version::Major;
use super::{operations, wiring};
use crate::error::{Error, Result};

/// What becomes of the mask of a layer's first input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Masks {
    /// The output carries it.
    Keep,
    /// As `Keep` in Keras 3; in Keras 2 it ends here.
    KeepIn3,
    /// The layer does not support masking: it ends here.
    Drop,
    /// The layer says itself.
    Own,
}

/// A kind of layer.
struct Layer {
    /// Its classes.
    classes: &'static [&'static str],
    /// The arguments of its call, in order.
    arguments: &'static [&'static str],
    /// Configuration fields that cannot change what it computes.
    passed_over: &'static [&'static PassedOver],
    /// What becomes of a mask.
    masks: Masks,
    /// Makes its ops.
    apply: fn(&mut Builder, &Use<'_, '_>) -> Result<Vec<Flow>>,
}

/// Fields of a configuration that cannot change what a layer computes.
struct PassedOver {
    fields: &'static [&'static str],
    /// Why not.
    #[allow(dead_code)]
    reason: &'static str,
}

/// One call of a layer.
struct Use<'c, 'a> {
    class: &'a str,
    config: &'c Config<'a>,
    /// Its group in a Keras 3 weight file.
    scope: &'c str,
    arguments: &'c Bound<'a>,
}

impl Use<'_, '_> {
    /// The one tensor of a layer that takes one.
    fn input(&self) -> Result<Flow> {
        self.arguments.flow("inputs")
    }
}

/// Fields that every layer has.
const COMMON: PassedOver = PassedOver {
    fields: &[
        "name",
        "trainable",
        "batch_input_shape",
        "input_dtype",
        "input_dim",
        "input_length",
        "activity_regularizer",
        "build_config",
    ],
    reason: "names the layer, is read for the order of weights or the shape of the input, or acts in training only",
};

/// Fields of layers with a kernel and a bias.
const KERNEL: PassedOver = PassedOver {
    fields: &[
        "kernel_initializer",
        "bias_initializer",
        "kernel_regularizer",
        "bias_regularizer",
        "kernel_constraint",
        "bias_constraint",
    ],
    reason: "says how weights begin and how training holds them; the file has their values",
};

/// Fields of layers that draw random numbers.
const RANDOM: PassedOver = PassedOver {
    fields: &["rate", "noise_shape", "seed", "stddev", "dropout", "recurrent_dropout"],
    reason: "random only in training",
};

const NOTHING: PassedOver = PassedOver { fields: &[], reason: "there is nothing to pass over" };

/// All layers, by kind.
const KINDS: &[&[Layer]] = &[
    basic::LAYERS,
    merging::LAYERS,
    recurrent::LAYERS,
    conv_lstm::LAYERS,
    wrappers::LAYERS,
    normalization::LAYERS,
    convolution::LAYERS,
    reshaping::LAYERS,
    pooling::LAYERS,
    attention::LAYERS,
];

fn find(class: &str) -> Option<&'static Layer> {
    KINDS.iter().copied().flatten().find(|layer| layer.classes.contains(&class))
}

/// A function or a slice of tensors that Keras 2 made a layer.
fn is_lambda(class: &str) -> bool {
    matches!(class, "TFOpLambda" | "SlicingOpLambda")
}

/// Complains of a class that cannot be read.
pub(super) fn known(class: &str) -> Result<()> {
    if wiring::is_model(class) || is_lambda(class) || find(class).is_some() {
        return Ok(());
    }
    Err(Error::unsupported(format!("the layer class {class} is not supported")))
}

/// Complains of a class that is not Keras' own, whatever its name: the module and the registered
/// name beside it say so.
pub(super) fn refuse_foreign(entry: &Config<'_>) -> Result<()> {
    const OWN: [&str; 4] = ["keras", "tf_keras", "tensorflow.python.keras", "tensorflow.keras"];
    let own = |module: &str| {
        OWN.iter().any(|own| {
            module.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    if let Some(module) = entry.get("module").and_then(Json::as_str).filter(|m| !own(m)) {
        return Err(Error::unsupported(format!("a class of its own, of the module {module}")));
    }
    if let Some(name) = entry.get("registered_name").and_then(Json::as_str)
        && name.contains('>')
    {
        return Err(Error::unsupported(format!("a class of its own, registered as {name}")));
    }
    Ok(())
}

/// Calls a layer; its results in order.
pub(super) fn apply<'a>(
    b: &mut Builder,
    class: &'a str,
    config: &Config<'a>,
    scope: &str,
    call: Call<'a, Flow>,
) -> Result<Vec<Flow>> {
    if wiring::is_model(class) {
        return model(b, class, config, scope, call);
    }
    if is_lambda(class) {
        config.pass_over(COMMON.fields);
        policy(b, config)?;
        return match class {
            "TFOpLambda" => operations::lambda(b, config, call),
            _ => operations::slicing(b, config, call),
        };
    }
    known(class)?;
    let layer = find(class).ok_or_else(|| Error::internal("a layer class went missing"))?;
    config.pass_over(COMMON.fields);
    layer.passed_over.iter().for_each(|passed| config.pass_over(passed.fields));
    policy(b, config)?;
    let bound = Bound::new(call, layer.arguments)?;
    only_inference(&bound)?;
    let used = Use { class, config, scope, arguments: &bound };
    let mut out = (layer.apply)(b, &used)?;
    bound.finish()?;
    match layer.masks {
        Masks::Own => {}
        Masks::KeepIn3 if b.major == Major::Keras2 => drop_masks(&mut out),
        Masks::Drop => drop_masks(&mut out),
        Masks::Keep | Masks::KeepIn3 => {
            let first = layer.arguments.first().copied().unwrap_or("inputs");
            let mask = bound.flows(first)?.first().and_then(|flow| flow.mask);
            for (k, flow) in out.iter_mut().enumerate() {
                flow.mask = mask.filter(|_| k == 0);
            }
        }
    }
    Ok(out)
}

fn drop_masks(flows: &mut [Flow]) {
    flows.iter_mut().for_each(|flow| flow.mask = None);
}

/// A model in the place of a layer.
fn model<'a>(
    b: &mut Builder,
    class: &'a str,
    config: &Config<'a>,
    scope: &str,
    call: Call<'a, Flow>,
) -> Result<Vec<Flow>> {
    let bound = Bound::new(call, &["inputs", "training", "mask"])?;
    only_inference(&bound)?;
    let mut inputs = bound.flows("inputs")?;
    if bound.get("mask").is_some() {
        let masks = bound.flows("mask")?;
        if masks.len() != inputs.len() {
            return Err(Error::unsupported("a model called with masks for some inputs only"));
        }
        for (input, mask) in inputs.iter_mut().zip(masks) {
            input.mask = Some(mask.value);
        }
    }
    bound.finish()?;
    wiring::nested(b, class, config, scope, &inputs)
}

/// `training=True` switches dropout on and batch statistics to the batch's own.
fn only_inference(bound: &Bound<'_>) -> Result<()> {
    match bound.get("training") {
        None | Some(super::arguments::Arg::Plain(Json::Bool(false))) => Ok(()),
        Some(super::arguments::Arg::Plain(Json::Number(n))) if n.as_f64() == Some(0.0) => Ok(()),
        Some(other) => {
            Err(Error::unsupported(format!("the call argument training = {}", other.shown())))
        }
    }
}

/// The layer's type policy. Everything is computed in float32: half precision is only less exact,
/// and float64 is exact to float32.
fn policy(b: &mut Builder, config: &Config<'_>) -> Result<()> {
    let name = match config.get("dtype") {
        None => return Ok(()),
        Some(Json::String(name)) => name.as_str(),
        Some(policy) => match policy.get("class_name").and_then(Json::as_str) {
            Some("DTypePolicy" | "FloatDTypePolicy" | "Policy" | "PolicyV1") => policy
                .pointer("/config/name")
                .and_then(Json::as_str)
                .ok_or_else(|| Error::malformed("a dtype policy without a name"))?,
            _ => return Err(Error::unsupported(format!("the dtype policy {}", shown(policy)))),
        },
    };
    match name {
        "float32" | "int32" | "int64" | "bool" => Ok(()),
        "mixed_float16" | "mixed_bfloat16" | "float16" | "bfloat16" | "float64" => {
            b.warn(format!("layers with the dtype policy {name} are computed in float32"));
            Ok(())
        }
        other => Err(Error::unsupported(format!("the dtype policy {other}"))),
    }
}

/// The class and configuration of a layer inside a wrapper.
fn inner_layer<'a>(config: &Config<'a>, field: &str) -> Result<(&'a str, Config<'a>)> {
    let inner = config.object(field)?;
    refuse_foreign(&inner)?;
    inner.pass_over(&["build_config", "compile_config", "shared_object_id", "name"]);
    inner.pass_over(&["inbound_nodes"]);
    Ok((inner.string("class_name")?, inner.object("config")?))
}

/// Reads a wrapped layer's weights under a group of their own.
fn inside<T>(
    b: &mut Builder,
    scope: &str,
    position: usize,
    config: &Config<'_>,
    class: &str,
    read: impl FnOnce(&mut Builder) -> Result<T>,
) -> Result<T> {
    let trained = config.flag("trainable", true)?;
    b.weights.enter(scope, position, trained, wiring::is_model(class));
    let out = read(b)?;
    b.weights.leave();
    Ok(out)
}

/// Whether a layer does otherwise under a mask, itself or by a layer inside.
fn heeds_masks(class: &str, config: &Json) -> bool {
    if wiring::is_model(class) {
        let layers = config.get("layers").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        return layers.iter().any(|entry| {
            let class = entry.get("class_name").and_then(Json::as_str).unwrap_or_default();
            class != "InputLayer" && heeds_masks(class, entry.get("config").unwrap_or(&Json::Null))
        });
    }
    let averages = class.starts_with("BatchNormalization");
    !averages
        && find(class)
            .is_some_and(|layer| layer.masks == Masks::Own || layer.arguments.contains(&"mask"))
}

/// The generation, for code that differs.
fn is_keras3(b: &Builder) -> bool {
    b.major == Major::Keras3
}
