//! How layers are joined: Sequential and Functional models, one inside another, layers that are
//! called more than once.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::arguments::{Call, Key, key, parse};
use super::builder::{Builder, Flow};
use super::config::{Config, shown};
use super::version::Major;
use super::{layers, operations, snake_case};
use crate::error::{Error, Place, Result};
use crate::graph::Port;
use crate::tensor::DType;

/// Models inside models; each level costs stack.
const MAX_DEPTH: usize = 16;

/// Fields of a model that say nothing of what it computes: names, what training does, shapes that
/// follow from the inputs, and how it was compiled.
const MODEL_FIELDS: &[&str] =
    &["name", "trainable", "dtype", "build_input_shape", "build_config", "compile_config"];

/// Whether `class` is a model that says how its layers are joined.
pub(super) fn is_model(class: &str) -> bool {
    matches!(class, "Sequential" | "Functional" | "Model")
}

/// Reads the whole model: its inputs and outputs become those of the graph.
pub(super) fn model(b: &mut Builder, json: &Json) -> Result<()> {
    let root = Config::new(json)?;
    let class = root.string("class_name")?;
    if !is_model(class) {
        return Err(Error::unsupported(format!(
            "a model of class {class}: only Sequential and Functional models say how their layers are joined"
        )));
    }
    let outputs = match class {
        "Sequential" => sequential_root(b, &root)?,
        _ => functional(b, &root.object("config")?, "", None)?,
    };
    root.pass_over(&["module", "registered_name", "build_config", "compile_config"]);
    // Written by old versions beside the model's own class and configuration.
    root.pass_over(&["keras_version", "backend", "name"]);
    root.finish()?;
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (name, flow) in outputs {
        let count = seen.entry(name.clone()).or_insert(0);
        let port = if *count == 0 { name } else { format!("{name}:{count}") };
        *count += 1;
        b.graph.outputs.push(Port { name: port, value: flow.value });
    }
    Ok(())
}

/// A layer's entry in the configuration.
struct Entry<'a> {
    class: &'a str,
    name: String,
    config: &'a Json,
    /// Its group in a Keras 3 weight file.
    scope: String,
    calls: &'a [Json],
    /// Its place in the model's list of layers.
    position: usize,
    /// An operation of Keras 3, which can share its name with a layer (`Add`, `Average` …).
    is_operation: bool,
}

/// The layers of a model with the names of their weight groups: class in snake case, numbered from
/// the second on.
fn entries<'a>(major: Major, list: &'a [Json], prefix: &str) -> Result<Vec<Entry<'a>>> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut out = Vec::with_capacity(list.len());
    for (position, json) in list.iter().enumerate() {
        let entry = Config::new(json)?;
        let class = entry.string("class_name")?;
        let json_config =
            entry.get("config").ok_or_else(|| entry.missing("config", "an object"))?;
        let inner = Config::new(json_config)?;
        let name = entry.string("name").or_else(|_| inner.string("name")).unwrap_or(class);
        let place = || format!("layer {name} ({class})");
        layers::refuse_foreign(&entry).within(place)?;
        let is_operation = is_operation(major, class, &entry, &inner);
        let group = snake_case(class);
        let count = counts.entry(group.clone()).or_insert(0);
        let scope = if *count == 0 {
            format!("{prefix}layers/{group}")
        } else {
            format!("{prefix}layers/{group}_{count}")
        };
        // Operations have no group of weights.
        *count += usize::from(!is_operation);
        let calls =
            entry.get("inbound_nodes").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        // How the layer was built and compiled follows from its configuration and its inputs.
        entry.pass_over(&["build_config", "compile_config", "shared_object_id"]);
        entry.finish().within(place)?;
        let (name, config) = (name.to_owned(), json_config);
        out.push(Entry { class, name, config, scope, calls, position, is_operation });
    }
    Ok(out)
}

/// Whether an entry of Keras 3 is an operation, not a layer: its module says so, or, in an `.h5`
/// file, the absence of what every layer has.
fn is_operation(major: Major, class: &str, entry: &Config<'_>, config: &Config<'_>) -> bool {
    if major != Major::Keras3 || is_model(class) || class == "InputLayer" {
        return false;
    }
    match entry.get("module").and_then(Json::as_str) {
        Some(module) => {
            module.starts_with("keras.src.ops")
                || module.starts_with("keras.ops")
                || module.starts_with("keras.src.activations")
        }
        None => !config.has("trainable") && operations::is_known(class),
    }
}

fn sequential_root(b: &mut Builder, root: &Config<'_>) -> Result<Vec<(String, Flow)>> {
    // Keras before 2.2.3 stored the list of layers itself.
    let (list, inner) = match root.get("config") {
        Some(Json::Array(list)) => (list.as_slice(), None),
        _ => {
            let inner = root.object("config")?;
            inner.pass_over(MODEL_FIELDS);
            (inner.list("layers")?, Some(inner))
        }
    };
    let layers = entries(b.major, list, "")?;
    let first = layers.first().ok_or_else(|| Error::malformed("the model has no layers"))?;
    let place = || format!("layer {} ({})", first.name, first.class);
    let first_config = Config::new(first.config)?;
    let shape = batch_shape(&first_config)
        .or_else(|| inner.and_then(|inner| inner.list("build_input_shape").ok()))
        .ok_or_else(|| Error::malformed("the shape of the input is not stored"))
        .within(place)?;
    let dtype = input_dtype(first.class, &first_config, layers.get(1)).within(place)?;
    let name = if first.class == "InputLayer" {
        input_options(&first_config).within(place)?;
        first.name.clone()
    } else {
        format!("{}_input", first.name)
    };
    let input = b.input(&name, dtype, &sizes(shape).within(place)?);
    let (name, flows) = chain(b, &layers, vec![Flow::plain(input)])?;
    Ok(flows.into_iter().map(|flow| (name.clone(), flow)).collect())
}

/// Runs layers one after the other.
fn chain(
    b: &mut Builder,
    layers: &[Entry<'_>],
    mut flows: Vec<Flow>,
) -> Result<(String, Vec<Flow>)> {
    let mut name = String::new();
    for entry in layers.iter().filter(|entry| entry.class != "InputLayer") {
        flows = call(b, entry, Call::of(flows))?;
        name.clone_from(&entry.name);
    }
    Ok((name, flows))
}

/// Calls a layer of a model.
fn call<'a>(b: &mut Builder, entry: &Entry<'a>, call: Call<'a, Flow>) -> Result<Vec<Flow>> {
    let run = |b: &mut Builder| -> Result<Vec<Flow>> {
        let config = Config::new(entry.config)?;
        if entry.is_operation {
            let out = operations::keras3(b, entry.class, &config, call)?;
            config.finish()?;
            return Ok(out);
        }
        layers::known(entry.class)?;
        let whole_model = b.depth == 0;
        if whole_model {
            b.weights.enter_layer(&entry.name)?;
            b.layer.clone_from(&entry.name);
        }
        let trained = config.flag("trainable", true)?;
        b.weights.enter(&entry.scope, entry.position, trained, is_model(entry.class));
        let out = layers::apply(b, entry.class, &config, &entry.scope, call)?;
        config.finish()?;
        b.weights.leave();
        if whole_model {
            b.weights.leave_layer()?;
        }
        Ok(out)
    };
    run(b).within(|| format!("layer {} ({})", entry.name, entry.class))
}

/// A model in the place of a layer.
pub(super) fn nested(
    b: &mut Builder,
    class: &str,
    config: &Config<'_>,
    scope: &str,
    inputs: &[Flow],
) -> Result<Vec<Flow>> {
    if b.depth >= MAX_DEPTH {
        return Err(Error::limit(format!("models are nested more than {MAX_DEPTH} deep")));
    }
    b.depth += 1;
    let prefix = format!("{scope}/");
    let flows = if class == "Sequential" {
        config.pass_over(MODEL_FIELDS);
        let layers = entries(b.major, config.list("layers")?, &prefix)?;
        let inputs = match layers.first().filter(|first| first.class == "InputLayer") {
            Some(first) => conform(b, inputs, &[first])?,
            None => inputs.to_vec(),
        };
        chain(b, &layers, inputs)?.1
    } else {
        let outputs = functional(b, config, &prefix, Some(inputs))?;
        outputs.into_iter().map(|(_, flow)| flow).collect()
    };
    b.depth -= 1;
    Ok(flows)
}

/// The inputs of an inner model, cast to the types that it declares.
fn conform(b: &mut Builder, inputs: &[Flow], layers: &[&Entry<'_>]) -> Result<Vec<Flow>> {
    if inputs.len() != layers.len() {
        return Err(Error::malformed(format!(
            "expected {} inputs, found {}",
            layers.len(),
            inputs.len()
        )));
    }
    let mut out = Vec::with_capacity(inputs.len());
    for (flow, entry) in inputs.iter().zip(layers) {
        let place = || format!("layer {} (InputLayer)", entry.name);
        let config = Config::new(entry.config)?;
        let rank = batch_shape(&config)
            .ok_or_else(|| Error::malformed("no batch_shape"))
            .within(place)?
            .len();
        input_options(&config).within(place)?;
        let found = b.rank(flow.value)?;
        if found != rank {
            return Err(Error::unsupported(format!(
                "an input of rank {found} where the model declares {rank}"
            ))
            .within(place()));
        }
        let dtype = input_dtype(entry.class, &config, None).within(place)?;
        out.push(Flow { value: b.cast(flow.value, dtype)?, mask: flow.mask });
    }
    Ok(out)
}

/// A functional model; `given` are its inputs when it is a layer of another one. Returns outputs
/// with their layers' names.
fn functional(
    b: &mut Builder,
    config: &Config<'_>,
    prefix: &str,
    given: Option<&[Flow]>,
) -> Result<Vec<(String, Flow)>> {
    config.pass_over(MODEL_FIELDS);
    let layers = entries(b.major, config.list("layers")?, prefix)?;
    let mut tensors: HashMap<Key, Flow> = HashMap::new();
    let inputs = keys(config, "input_layers")?;
    let mut input_layers = Vec::with_capacity(inputs.len());
    for key in &inputs {
        let entry = layers.iter().find(|entry| entry.name == key.0);
        input_layers.push(entry.ok_or_else(|| {
            Error::malformed(format!("input_layers names {:?}, which is no layer", key.0))
        })?);
    }
    let flows = match given {
        Some(flows) => conform(b, flows, &input_layers)?,
        None => {
            let mut flows = Vec::with_capacity(inputs.len());
            for entry in &input_layers {
                let place = || format!("layer {} (InputLayer)", entry.name);
                flows.push(graph_input(b, entry).within(place)?);
            }
            flows
        }
    };
    tensors.extend(inputs.into_iter().zip(flows));
    let mut outputs = keys(config, "output_layers")?;
    if b.major == Major::Keras3 {
        // Here, and only here, Keras 3 counts the making of an inner functional model as its call
        // 0.
        for key in &mut outputs {
            let inner = layers.iter().find(|entry| entry.name == key.0);
            if inner.is_some_and(|entry| matches!(entry.class, "Functional" | "Model")) {
                key.1 = key.1.saturating_sub(1);
            }
        }
    }
    run_calls(b, &layers, &mut tensors, &outputs)?;
    outputs
        .into_iter()
        .map(|key| match tensors.get(&key) {
            Some(&flow) => Ok((key.0, flow)),
            None => Err(Error::malformed(format!(
                "output_layers names result {} of {:?}, which nothing computes",
                key.2, key.0
            ))),
        })
        .collect()
}

fn graph_input(b: &mut Builder, entry: &Entry<'_>) -> Result<Flow> {
    let config = Config::new(entry.config)?;
    let shape = batch_shape(&config).ok_or_else(|| Error::malformed("no batch_shape"))?;
    let dtype = input_dtype(entry.class, &config, None)?;
    input_options(&config)?;
    Ok(Flow::plain(b.input(&entry.name, dtype, &sizes(shape)?)))
}

/// Makes every call whose arguments are there, in the order of the file, until none is left.
fn run_calls<'a>(
    b: &mut Builder,
    layers: &[Entry<'a>],
    tensors: &mut HashMap<Key, Flow>,
    outputs: &[Key],
) -> Result<()> {
    let mut calls: Vec<Vec<Call<'a, Key>>> = Vec::with_capacity(layers.len());
    for entry in layers {
        let parsed: Result<_> = entry.calls.iter().map(parse).collect();
        calls.push(parsed.within(|| format!("layer {} ({})", entry.name, entry.class))?);
    }
    let last_used = match b.major {
        Major::Keras2 => last_used_calls(&calls, outputs),
        Major::Keras3 => HashMap::new(),
    };
    let mut waiting: Vec<(&Entry<'a>, usize, Call<'a, Key>)> = Vec::new();
    for (entry, calls) in layers.iter().zip(calls) {
        if entry.class == "InputLayer" {
            continue;
        }
        // Keras 2 counts the making of an inner model as its call 0 and does not store it.
        let skipped = last_used
            .get(entry.name.as_str())
            .map_or(0, |last| (last + 1).saturating_sub(calls.len()));
        waiting.extend(calls.into_iter().enumerate().map(|(k, call)| (entry, k + skipped, call)));
    }
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut later = Vec::new();
        for (entry, node, parsed) in waiting {
            if parsed.tensors().iter().any(|key| !tensors.contains_key(*key)) {
                later.push((entry, node, parsed));
                continue;
            }
            let resolved = parsed.map(|key| {
                let flow = tensors.get(key).copied();
                let mut flow = flow.ok_or_else(|| Error::internal("a tensor went missing"))?;
                flow.mask = flow.mask.filter(|_| !b.unmasked.contains(&flow.value));
                Ok(flow)
            })?;
            let made = call(b, entry, resolved)?;
            for (index, flow) in made.into_iter().enumerate() {
                tensors.insert((entry.name.clone(), node, index), flow);
            }
        }
        if later.len() == before {
            let names: Vec<&str> =
                later.iter().take(4).map(|(entry, ..)| entry.name.as_str()).collect();
            return Err(Error::malformed(format!(
                "the inputs of {} are never computed",
                names.join(", ")
            )));
        }
        waiting = later;
    }
    Ok(())
}

/// The highest call of each layer that anything refers to.
fn last_used_calls(calls: &[Vec<Call<'_, Key>>], outputs: &[Key]) -> HashMap<String, usize> {
    let mut last: HashMap<String, usize> = HashMap::new();
    let arguments = calls.iter().flatten().flat_map(Call::tensors);
    for key in outputs.iter().chain(arguments) {
        let highest = last.entry(key.0.clone()).or_insert(0);
        *highest = (*highest).max(key.1);
    }
    last
}

/// A list of references, one reference alone, or named references.
fn keys(config: &Config<'_>, field: &str) -> Result<Vec<Key>> {
    fn collect(json: &Json, depth: usize, out: &mut Vec<Key>) -> Result<()> {
        match json {
            Json::Array(list) if list.first().is_some_and(Json::is_string) => {
                out.push(key(list)?);
                Ok(())
            }
            Json::Array(list) if depth < MAX_DEPTH => {
                list.iter().try_for_each(|entry| collect(entry, depth + 1, out))
            }
            Json::Object(named) if depth < MAX_DEPTH => {
                named.values().try_for_each(|entry| collect(entry, depth + 1, out))
            }
            other => Err(Error::malformed(format!("{} is no reference", shown(other)))),
        }
    }
    let mut out = Vec::new();
    let list = config.get(field).ok_or_else(|| config.missing(field, "a list"))?;
    collect(list, 0, &mut out).within(|| format!("field {field:?}"))?;
    Ok(out)
}

fn batch_shape<'a>(config: &Config<'a>) -> Option<&'a [Json]> {
    config.list("batch_shape").or_else(|_| config.list("batch_input_shape")).ok()
}

fn sizes(shape: &[Json]) -> Result<Vec<Option<usize>>> {
    if shape.len() > 8 {
        return Err(Error::limit(format!("an input of rank {}, the limit is 8", shape.len())));
    }
    let size = |json: &Json| match json {
        Json::Null => Ok(None),
        size => {
            match size.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n < 1 << 31) {
                Some(n) => Ok(Some(n)),
                None => Err(Error::malformed(format!("{size} is no size of an input's axis"))),
            }
        }
    };
    shape.iter().map(size).collect()
}

/// What else an input's configuration may say.
fn input_options(config: &Config<'_>) -> Result<()> {
    for field in ["sparse", "ragged"] {
        config.must_be(field, &Json::Bool(false))?;
    }
    // Names; `optional` allows None in the place of a tensor, which no caller here can give; the
    // shapes and the type are read elsewhere.
    config.pass_over(&["name", "trainable", "optional", "batch_shape", "batch_input_shape"]);
    config.pass_over(&["dtype", "input_tensor", "type_spec"]);
    config.finish()
}

/// Type of the input; a Sequential model without InputLayer that begins with Embedding takes
/// integers.
fn input_dtype(class: &str, config: &Config<'_>, second: Option<&Entry<'_>>) -> Result<DType> {
    if class == "Embedding"
        || (class == "InputLayer" && second.is_some_and(|e| e.class == "Embedding"))
    {
        return Ok(DType::I32);
    }
    if class != "InputLayer" {
        return Ok(DType::F32);
    }
    match config.get("dtype").and_then(Json::as_str).unwrap_or("float32") {
        "float32" | "float16" | "bfloat16" | "float64" => Ok(DType::F32),
        "int32" => Ok(DType::I32),
        "int64" => Ok(DType::I64),
        "bool" => Ok(DType::Bool),
        other => Err(Error::unsupported(format!("an input of type {other}"))),
    }
}
