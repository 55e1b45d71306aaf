//! How layers are joined: Sequential and Functional models, one inside another, layers that are
//! called more than once.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::builder::{Builder, Flow};
use super::config::Config;
use super::{layers, snake_case};
use crate::error::{Error, Place, Result};
use crate::graph::{Port, ValueId};
use crate::tensor::DType;

/// Models inside models; each level costs stack.
const MAX_DEPTH: usize = 16;

/// A tensor of the configuration: result `tensor` of call `node` of a layer.
type Key = (String, usize, usize);

/// Reads the whole model: its inputs and outputs become those of the graph.
pub(super) fn model(b: &mut Builder, root: Config<'_>) -> Result<()> {
    let class = root.string("class_name")?;
    let outputs = match class {
        "Sequential" => sequential_root(b, root)?,
        "Functional" | "Model" => {
            let config = root.object("config")?;
            functional(b, config, "", 0, None)?
        }
        other => {
            return Err(Error::unsupported(format!(
                "a model of class {other}: only Sequential and Functional models say how their layers are joined"
            )));
        }
    };
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
    config: Config<'a>,
    /// Its group in a Keras 3 weight file.
    scope: String,
    calls: &'a [Json],
}

/// The layers of a model with the names of their weight groups: class in snake case, numbered from
/// the second on.
fn entries<'a>(list: &'a [Json], prefix: &str) -> Result<Vec<Entry<'a>>> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut out = Vec::with_capacity(list.len());
    for json in list {
        let entry = Config::new(json);
        let class = entry.string("class_name")?;
        let config = entry.object("config")?;
        let name =
            entry.string("name").or_else(|_| config.string("name")).unwrap_or(class).to_owned();
        let group = snake_case(class);
        let count = counts.entry(group.clone()).or_insert(0);
        let scope = if *count == 0 {
            format!("{prefix}layers/{group}")
        } else {
            format!("{prefix}layers/{group}_{count}")
        };
        *count += 1;
        let calls =
            entry.get("inbound_nodes").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        out.push(Entry { class, name, config, scope, calls });
    }
    Ok(out)
}

fn sequential_root(b: &mut Builder, root: Config<'_>) -> Result<Vec<(String, Flow)>> {
    // Keras before 2.2.3 stored the list of layers itself.
    let list = match root.get("config") {
        Some(Json::Array(list)) => list.as_slice(),
        _ => root.object("config")?.list("layers")?,
    };
    let layers = entries(list, "")?;
    let first = layers.first().ok_or_else(|| Error::malformed("the model has no layers"))?;
    let shape = batch_shape(first.config)
        .or_else(|| root.object("config").ok()?.list("build_input_shape").ok())
        .ok_or_else(|| {
            Error::malformed("the shape of the input is not stored")
                .within(format!("layer {}", first.name))
        })?;
    let dtype = input_dtype(first, layers.get(1))?;
    let name = if first.class == "InputLayer" {
        first.name.clone()
    } else {
        format!("{}_input", first.name)
    };
    let input = b.input(&name, dtype, &sizes(shape)?);
    let (name, flows) = chain(b, &layers, vec![Flow::plain(input)], 0)?;
    Ok(flows.into_iter().map(|flow| (name.clone(), flow)).collect())
}

/// Runs layers one after the other.
fn chain(
    b: &mut Builder,
    layers: &[Entry<'_>],
    mut flows: Vec<Flow>,
    depth: usize,
) -> Result<(String, Vec<Flow>)> {
    let mut name = String::new();
    for entry in layers.iter().filter(|entry| entry.class != "InputLayer") {
        flows = call(b, entry, &Call { inputs: flows, ..Call::default() }, depth)?;
        name.clone_from(&entry.name);
    }
    Ok((name, flows))
}

/// One use of a layer.
#[derive(Default)]
pub(super) struct Call<'a> {
    /// Tensor arguments in order; for a recurrent layer, its initial states after the input.
    pub inputs: Vec<Flow>,
    /// Arguments that are plain numbers.
    pub numbers: Vec<&'a Json>,
}

fn call(b: &mut Builder, entry: &Entry<'_>, call: &Call<'_>, depth: usize) -> Result<Vec<Flow>> {
    let run = |b: &mut Builder| -> Result<Vec<Flow>> {
        if depth == 0 {
            b.weights.enter_layer(&entry.name)?;
            b.layer.clone_from(&entry.name);
        }
        let out = match entry.class {
            "Sequential" | "Functional" | "Model" => nested(b, entry, call, depth + 1)?,
            class => layers::apply(b, class, entry.config, &entry.scope, call)?,
        };
        if depth == 0 {
            b.weights.leave_layer()?;
        }
        Ok(out)
    };
    run(b).within(|| format!("layer {} ({})", entry.name, entry.class))
}

fn nested(b: &mut Builder, entry: &Entry<'_>, call: &Call<'_>, depth: usize) -> Result<Vec<Flow>> {
    if depth > MAX_DEPTH {
        return Err(Error::limit(format!("models are nested more than {MAX_DEPTH} deep")));
    }
    let prefix = format!("{}/", entry.scope);
    if entry.class == "Sequential" {
        let layers = entries(entry.config.list("layers")?, &prefix)?;
        return Ok(chain(b, &layers, call.inputs.clone(), depth)?.1);
    }
    let outputs = functional(b, entry.config, &prefix, depth, Some(&call.inputs))?;
    Ok(outputs.into_iter().map(|(_, flow)| flow).collect())
}

/// A functional model; `given` are its inputs when it is a layer of another one. Returns outputs
/// with their layers' names.
fn functional(
    b: &mut Builder,
    config: Config<'_>,
    prefix: &str,
    depth: usize,
    given: Option<&[Flow]>,
) -> Result<Vec<(String, Flow)>> {
    let layers = entries(config.list("layers")?, prefix)?;
    let mut tensors: HashMap<Key, Flow> = HashMap::new();
    let inputs = keys(config.get("input_layers"), "input_layers")?;
    for (position, key) in inputs.iter().enumerate() {
        let entry = layers.iter().find(|entry| entry.name == key.0);
        let entry = entry.ok_or_else(|| {
            Error::malformed(format!("input_layers names {:?}, which is no layer", key.0))
        })?;
        let flow = match given {
            Some(flows) => *flows.get(position).ok_or_else(|| {
                Error::malformed(format!("expected {} inputs, found {}", inputs.len(), flows.len()))
            })?,
            None => {
                let place = || format!("layer {} (InputLayer)", entry.name);
                let shape = batch_shape(entry.config)
                    .ok_or_else(|| Error::malformed("no batch_shape").within(place()))?;
                let dtype = input_dtype(entry, None).within(place)?;
                Flow::plain(b.input(&entry.name, dtype, &sizes(shape).within(place)?))
            }
        };
        tensors.insert(key.clone(), flow);
    }
    let outputs = keys(config.get("output_layers"), "output_layers")?;
    run_calls(b, &layers, &mut tensors, &outputs, depth)?;
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

/// Makes every call whose arguments are there, in the order of the file, until none is left.
fn run_calls(
    b: &mut Builder,
    layers: &[Entry<'_>],
    tensors: &mut HashMap<Key, Flow>,
    outputs: &[Key],
    depth: usize,
) -> Result<()> {
    let last_used = last_used_calls(layers, outputs)?;
    let mut waiting: Vec<(&Entry<'_>, usize, &Json)> = Vec::new();
    for entry in layers.iter().filter(|entry| entry.class != "InputLayer") {
        // Keras 2 counts the making of an inner model as its call 0 and does not store it.
        let skipped = last_used
            .get(entry.name.as_str())
            .map_or(0, |last| (last + 1).saturating_sub(entry.calls.len()));
        waiting.extend(
            entry.calls.iter().enumerate().map(|(call, json)| (entry, call + skipped, json)),
        );
    }
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut later = Vec::new();
        for (entry, node, json) in waiting {
            let parsed = arguments(json).within(|| format!("layer {}", entry.name))?;
            if parsed.keys().any(|key| !tensors.contains_key(key)) {
                later.push((entry, node, json));
                continue;
            }
            let made = call(b, entry, &parsed.resolve(tensors)?, depth)?;
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
fn last_used_calls(layers: &[Entry<'_>], outputs: &[Key]) -> Result<HashMap<String, usize>> {
    let mut last: HashMap<String, usize> = HashMap::new();
    let mut note = |key: &Key| {
        let highest = last.entry(key.0.clone()).or_insert(0);
        *highest = (*highest).max(key.1);
    };
    outputs.iter().for_each(&mut note);
    for entry in layers {
        for json in entry.calls {
            arguments(json).within(|| format!("layer {}", entry.name))?.keys().for_each(&mut note);
        }
    }
    Ok(last)
}

/// The arguments of one entry of `inbound_nodes`, before the tensors are looked up.
#[derive(Default)]
struct Arguments<'a> {
    tensors: Vec<Key>,
    initial: Vec<Key>,
    mask: Option<Key>,
    numbers: Vec<&'a Json>,
}

impl<'a> Arguments<'a> {
    fn keys(&self) -> impl Iterator<Item = &Key> {
        self.tensors.iter().chain(&self.initial).chain(&self.mask)
    }

    fn resolve(self, tensors: &HashMap<Key, Flow>) -> Result<Call<'a>> {
        let find = |key: &Key| {
            tensors.get(key).copied().ok_or_else(|| Error::internal("a tensor went missing"))
        };
        let mut inputs =
            self.tensors.iter().chain(&self.initial).map(find).collect::<Result<Vec<_>>>()?;
        if let (Some(mask), Some(first)) = (&self.mask, inputs.first_mut()) {
            first.mask = Some(find(mask)?.value);
        }
        Ok(Call { inputs, numbers: self.numbers })
    }
}

fn arguments(json: &Json) -> Result<Arguments<'_>> {
    let mut out = Arguments::default();
    match json {
        Json::Object(_) => {
            let node = Config::new(json);
            for argument in node.list("args")? {
                collect(argument, &mut out.tensors, &mut out.numbers)?;
            }
            if let Ok(kwargs) = node.object("kwargs") {
                keywords(kwargs, &mut out)?;
            }
        }
        // Keras 2: a list of [layer, node, tensor, keywords], or one such entry alone.
        Json::Array(list) => {
            let lone = list.first().is_some_and(Json::is_string);
            let calls = if lone { std::slice::from_ref(json) } else { list.as_slice() };
            for argument in calls {
                out.tensors.push(key(argument)?);
                if let Some(kwargs) = argument.get(3).filter(|v| v.is_object()) {
                    keywords(Config::new(kwargs), &mut out)?;
                }
            }
        }
        _ => {
            return Err(Error::malformed(
                "an entry of inbound_nodes is neither an object nor a list",
            ));
        }
    }
    Ok(out)
}

fn keywords<'a>(kwargs: Config<'a>, out: &mut Arguments<'a>) -> Result<()> {
    let Some(object) = kwargs.json().as_object() else { return Ok(()) };
    for (name, value) in object.iter().filter(|(_, value)| !value.is_null()) {
        match name.as_str() {
            "mask" => out.mask = Some(key(value)?),
            "initial_state" => match value {
                Json::Array(list) if !list.first().is_some_and(Json::is_string) => {
                    for entry in list {
                        out.initial.push(key(entry)?);
                    }
                }
                lone => out.initial.push(key(lone)?),
            },
            // Only inference is meant here.
            "training" if value == &Json::Bool(false) => {}
            other => {
                return Err(Error::unsupported(format!("the call argument {other} = {value}")));
            }
        }
    }
    Ok(())
}

fn collect<'a>(json: &'a Json, tensors: &mut Vec<Key>, numbers: &mut Vec<&'a Json>) -> Result<()> {
    match json {
        Json::Array(list) => list.iter().try_for_each(|entry| collect(entry, tensors, numbers)),
        Json::Object(_) => {
            tensors.push(key(json)?);
            Ok(())
        }
        Json::Null => Ok(()),
        number => {
            numbers.push(number);
            Ok(())
        }
    }
}

/// `{"class_name": "__keras_tensor__", …}` of Keras 3, or `[layer, node, tensor]`.
fn key(json: &Json) -> Result<Key> {
    let history = match json {
        Json::Object(_) => Config::new(json).object("config")?.list("keras_history")?,
        Json::Array(list) => list.as_slice(),
        _ => {
            return Err(Error::malformed(format!(
                "expected a reference to a tensor, found {json}"
            )));
        }
    };
    let number =
        |k: usize| history.get(k).and_then(Json::as_u64).and_then(|n| usize::try_from(n).ok());
    match (history.first().and_then(Json::as_str), number(1), number(2)) {
        (Some(layer), Some(node), Some(tensor)) => Ok((layer.to_owned(), node, tensor)),
        _ => Err(Error::malformed("a reference to a tensor is not [layer, node, tensor]")),
    }
}

/// A list of references, or one reference alone.
fn keys(json: Option<&Json>, field: &str) -> Result<Vec<Key>> {
    match json {
        Some(Json::Array(list)) if list.first().is_some_and(Json::is_string) => {
            Ok(vec![key(&Json::Array(list.clone()))?])
        }
        Some(Json::Array(list)) => list.iter().map(key).collect(),
        Some(Json::Object(named)) => named.values().map(key).collect(),
        _ => Err(Error::malformed(format!("field {field:?} is missing or no list"))),
    }
}

fn batch_shape(config: Config<'_>) -> Option<&[Json]> {
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

/// Type of the input; a Sequential model without InputLayer that begins with Embedding takes
/// integers.
fn input_dtype(first: &Entry<'_>, second: Option<&Entry<'_>>) -> Result<DType> {
    if first.class == "Embedding"
        || (first.class == "InputLayer" && second.is_some_and(|e| e.class == "Embedding"))
    {
        return Ok(DType::I32);
    }
    if first.class != "InputLayer" {
        return Ok(DType::F32);
    }
    match first.config.get("dtype").and_then(Json::as_str).unwrap_or("float32") {
        "float32" | "float16" | "float64" => Ok(DType::F32),
        "int32" => Ok(DType::I32),
        "int64" => Ok(DType::I64),
        "bool" => Ok(DType::Bool),
        other => Err(Error::unsupported(format!("an input of type {other}"))),
    }
}

/// The values of flows, for ops that take no masks.
pub(super) fn values(flows: &[Flow]) -> Vec<ValueId> {
    flows.iter().map(|flow| flow.value).collect()
}
