//! The arguments of a call as `inbound_nodes` has them, in the form of either generation:
//! `{"args": […], "kwargs": {…}}` of Keras 3, and `[[layer, node, tensor, {…}], …]` of Keras 2.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

use super::builder::Flow;
use super::config::{Config, is_array, shown};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// A tensor of the configuration: result `tensor` of call `node` of a layer.
pub(super) type Key = (String, usize, usize);

/// Lists inside lists of one argument; each level costs stack.
const MAX_NESTING: usize = 16;

/// Name of the layer that Keras 2 gives a constant in the place of a tensor.
const CONSTANT: &str = "_CONSTANT_VALUE";

/// One argument; `T` stands for a tensor: its key in the file, or the value that was made.
#[derive(Clone, Debug)]
pub(super) enum Arg<'a, T> {
    /// A tensor of the model.
    Tensor(T),
    /// A number, a flag, a string, or an object that only the one who asks for it can read.
    Plain(&'a Json),
    /// Numbers in the file.
    Array(Tensor),
    /// Arguments in a list.
    List(Vec<Arg<'a, T>>),
    /// `start:stop:step`.
    Slice([Option<i64>; 3]),
    /// `…` of a slice.
    Ellipsis,
    /// Nothing.
    Null,
}

impl<'a, T> Arg<'a, T> {
    /// The same argument with its tensors mapped.
    pub fn map<U>(&self, f: &mut impl FnMut(&T) -> Result<U>) -> Result<Arg<'a, U>> {
        Ok(match self {
            Arg::Tensor(tensor) => Arg::Tensor(f(tensor)?),
            Arg::List(list) => Arg::List(list.iter().map(|arg| arg.map(f)).collect::<Result<_>>()?),
            Arg::Plain(json) => Arg::Plain(json),
            Arg::Array(tensor) => Arg::Array(tensor.clone()),
            Arg::Slice(bounds) => Arg::Slice(*bounds),
            Arg::Ellipsis => Arg::Ellipsis,
            Arg::Null => Arg::Null,
        })
    }

    /// Adds the tensors inside to `out`, in order.
    pub fn tensors<'t>(&'t self, out: &mut Vec<&'t T>) {
        match self {
            Arg::Tensor(tensor) => out.push(tensor),
            Arg::List(list) => list.iter().for_each(|arg| arg.tensors(out)),
            _ => {}
        }
    }

    /// The argument as messages show it.
    pub fn shown(&self) -> String {
        match self {
            Arg::Tensor(_) => "a tensor".to_owned(),
            Arg::Plain(json) => shown(json),
            Arg::Array(array) => format!("an array of shape {:?}", array.shape()),
            Arg::List(list) => {
                let parts: Vec<String> = list.iter().take(8).map(Arg::shown).collect();
                format!("[{}]", parts.join(", "))
            }
            Arg::Slice(_) => "a slice".to_owned(),
            Arg::Ellipsis => "...".to_owned(),
            Arg::Null => "null".to_owned(),
        }
    }
}

/// One entry of `inbound_nodes`: positional arguments, then those with a name.
#[derive(Clone, Debug)]
pub(super) struct Call<'a, T> {
    pub positional: Vec<Arg<'a, T>>,
    pub named: Vec<(&'a str, Arg<'a, T>)>,
}

impl<'a, T> Call<'a, T> {
    /// All tensors of the call.
    pub fn tensors(&self) -> Vec<&T> {
        let mut out = Vec::new();
        let named = self.named.iter().map(|(_, arg)| arg);
        self.positional.iter().chain(named).for_each(|arg| arg.tensors(&mut out));
        out
    }

    /// The same call with its tensors mapped.
    pub fn map<U>(&self, mut f: impl FnMut(&T) -> Result<U>) -> Result<Call<'a, U>> {
        let positional = self.positional.iter().map(|arg| arg.map(&mut f));
        let positional = positional.collect::<Result<_>>()?;
        let named = self.named.iter().map(|(name, arg)| Ok((*name, arg.map(&mut f)?)));
        Ok(Call { positional, named: named.collect::<Result<_>>()? })
    }
}

impl<'a> Call<'a, Flow> {
    /// A call with these tensors as its first argument.
    pub fn of(flows: Vec<Flow>) -> Self {
        let mut list: Vec<Arg<'a, Flow>> = flows.into_iter().map(Arg::Tensor).collect();
        let first = if list.len() == 1 { list.pop() } else { None };
        Call { positional: vec![first.unwrap_or(Arg::List(list))], named: Vec::new() }
    }
}

/// Reads one entry of `inbound_nodes`.
pub(super) fn parse(json: &Json) -> Result<Call<'_, Key>> {
    match json {
        Json::Object(_) => keras3_call(json),
        Json::Array(_) => keras2_call(json),
        _ => Err(Error::malformed(format!(
            "an entry of inbound_nodes is neither an object nor a list: {}",
            shown(json)
        ))),
    }
}

fn keras3_call(json: &Json) -> Result<Call<'_, Key>> {
    let node = Config::new(json)?;
    let mut positional = Vec::new();
    for argument in node.list("args")? {
        positional.push(value(argument, 0)?);
    }
    let mut named = Vec::new();
    if let Some(Json::Object(kwargs)) = node.get("kwargs") {
        for (name, argument) in kwargs {
            named.push((name.as_str(), value(argument, 0)?));
        }
    }
    node.finish()?;
    Ok(Call { positional, named })
}

/// Keras 2 repeats the named arguments beside every tensor of the first one.
fn keras2_call(json: &Json) -> Result<Call<'_, Key>> {
    let mut kwargs: Option<&Map<String, Json>> = None;
    let first = match keras2_tensors(json, &mut kwargs, 0)? {
        Arg::List(mut list) if list.len() == 1 => list.pop().unwrap_or(Arg::Null),
        first => first,
    };
    let mut named = Vec::new();
    for (name, argument) in kwargs.into_iter().flatten() {
        named.push((name.as_str(), keras2_value(argument, 0)?));
    }
    Ok(Call { positional: vec![first], named })
}

fn keras2_tensors<'a>(
    json: &'a Json,
    kwargs: &mut Option<&'a Map<String, Json>>,
    depth: usize,
) -> Result<Arg<'a, Key>> {
    let Json::Array(list) = json else {
        return Err(Error::unsupported(format!("the call arguments {}", shown(json))));
    };
    limit_nesting(depth)?;
    if !list.first().is_some_and(Json::is_string) {
        let list = list.iter().map(|entry| keras2_tensors(entry, kwargs, depth + 1));
        return Ok(Arg::List(list.collect::<Result<_>>()?));
    }
    match list.get(3) {
        None => {}
        Some(Json::Object(found)) => *kwargs = Some(found),
        Some(other) => {
            return Err(Error::malformed(format!("call arguments {} are no object", shown(other))));
        }
    }
    if list.len() > 4 {
        return Err(Error::malformed("a reference to a tensor has more than four parts"));
    }
    if list.first().and_then(Json::as_str) == Some(CONSTANT) {
        return keras2_value(list.get(2).unwrap_or(&Json::Null), depth + 1);
    }
    Ok(Arg::Tensor(key(list)?))
}

/// A named argument of Keras 2: tensors are `[layer, node, tensor]`.
fn keras2_value(json: &Json, depth: usize) -> Result<Arg<'_, Key>> {
    limit_nesting(depth)?;
    match json {
        Json::Array(list) if list.len() == 3 && is_key(list) => Ok(Arg::Tensor(key(list)?)),
        Json::Array(list) => {
            if list.first().and_then(Json::as_str) == Some(CONSTANT) {
                return keras2_value(list.get(2).unwrap_or(&Json::Null), depth + 1);
            }
            let list = list.iter().map(|entry| keras2_value(entry, depth + 1));
            Ok(Arg::List(list.collect::<Result<_>>()?))
        }
        Json::Object(object)
            if object.len() == 3
                && ["start", "stop", "step"].iter().all(|k| object.contains_key(*k)) =>
        {
            slice(json)
        }
        other => value(other, depth),
    }
}

/// An argument of Keras 3.
fn value(json: &Json, depth: usize) -> Result<Arg<'_, Key>> {
    limit_nesting(depth)?;
    Ok(match json {
        Json::Null => Arg::Null,
        Json::Array(list) => {
            Arg::List(list.iter().map(|entry| value(entry, depth + 1)).collect::<Result<_>>()?)
        }
        Json::Object(object) => match object.get("class_name").and_then(Json::as_str) {
            Some("__keras_tensor__") => {
                let history = json.pointer("/config/keras_history").and_then(Json::as_array);
                Arg::Tensor(key(
                    history.ok_or_else(|| Error::malformed("a tensor without keras_history"))?
                )?)
            }
            Some("__slice__") => slice(json.get("config").unwrap_or(&Json::Null))?,
            Some("__ellipsis__") => Arg::Ellipsis,
            _ if is_array(object) => Arg::Array(array(json)?),
            _ => Arg::Plain(json),
        },
        plain => Arg::Plain(plain),
    })
}

/// An option of a configuration, which holds no tensors.
pub(super) fn plain<'a>(json: &'a Json) -> Result<Arg<'a, Flow>> {
    value(json, 0)?.map(&mut |_| Err(Error::malformed("a tensor among a layer's options")))
}

fn limit_nesting(depth: usize) -> Result<()> {
    if depth > MAX_NESTING {
        return Err(Error::limit(format!("arguments are nested more than {MAX_NESTING} deep")));
    }
    Ok(())
}

fn slice<'a>(json: &Json) -> Result<Arg<'a, Key>> {
    let part = |name: &str| match json.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(value) => value
            .as_i64()
            .map(Some)
            .ok_or_else(|| Error::unsupported(format!("a slice whose {name} is {}", shown(value)))),
    };
    Ok(Arg::Slice([part("start")?, part("stop")?, part("step")?]))
}

fn is_key(list: &[Json]) -> bool {
    matches!(list, [Json::String(_), node, tensor] if node.is_u64() && tensor.is_u64())
}

/// `[layer, node, tensor, …]`.
pub(super) fn key(list: &[Json]) -> Result<Key> {
    let number =
        |k: usize| list.get(k).and_then(Json::as_u64).and_then(|n| usize::try_from(n).ok());
    match (list.first().and_then(Json::as_str), number(1), number(2)) {
        (Some(layer), Some(node), Some(tensor)) => Ok((layer.to_owned(), node, tensor)),
        _ => Err(Error::malformed("a reference to a tensor is not [layer, node, tensor]")),
    }
}

/// `{"class_name": "__numpy__", "config": {"value": …, "dtype": …}}`, or `{"type": "ndarray",
/// "value": …}` of old files.
pub(super) fn array(json: &Json) -> Result<Tensor> {
    let inner = json.get("config").unwrap_or(json);
    let value = inner.get("value").ok_or_else(|| Error::malformed("an array without a value"))?;
    let dtype = inner.get("dtype").and_then(Json::as_str).unwrap_or("float32");
    let mut shape = Vec::new();
    let mut at = value;
    while let Json::Array(list) = at {
        shape.push(list.len());
        let Some(first) = list.first() else { break };
        at = first;
    }
    let mut numbers = Vec::new();
    flatten(value, &shape, &mut numbers)?;
    let number = |json: &&Json| match json {
        Json::Bool(flag) => Ok(f64::from(u8::from(*flag))),
        json => json.as_f64().ok_or_else(|| Error::malformed("an array holds no numbers")),
    };
    let numbers: Vec<f64> = numbers.iter().map(number).collect::<Result<_>>()?;
    match dtype {
        "float16" | "bfloat16" | "float32" | "float64" => {
            Tensor::from_vec(&shape, numbers.iter().map(|&n| n as f32).collect::<Vec<f32>>())
        }
        "int8" | "uint8" | "int16" | "uint16" | "int32" => {
            Tensor::from_vec(&shape, numbers.iter().map(|&n| n as i32).collect::<Vec<i32>>())
        }
        "uint32" | "int64" => {
            Tensor::from_vec(&shape, numbers.iter().map(|&n| n as i64).collect::<Vec<i64>>())
        }
        "bool" => {
            Tensor::from_vec(&shape, numbers.iter().map(|&n| n != 0.0).collect::<Vec<bool>>())
        }
        other => Err(Error::unsupported(format!("an array of type {other}"))),
    }
}

/// The complaint that something else stands in the place of numbers.
pub(super) fn not_numbers(found: &Json) -> Error {
    Error::malformed(format!("expected numbers, found {}", shown(found)))
}

fn flatten<'a>(json: &'a Json, shape: &[usize], out: &mut Vec<&'a Json>) -> Result<()> {
    match (json, shape) {
        (Json::Array(list), [size, rest @ ..]) if list.len() == *size => {
            list.iter().try_for_each(|entry| flatten(entry, rest, out))
        }
        (leaf, []) if !leaf.is_array() => {
            out.push(leaf);
            Ok(())
        }
        _ => Err(Error::malformed("the rows of an array differ in length")),
    }
}

/// The arguments of a call by the names of the layer's signature; what nothing asks for is an
/// error.
pub(super) struct Bound<'a> {
    values: Vec<(&'a str, Arg<'a, Flow>)>,
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Bound<'a> {
    /// Gives positional arguments the names of `signature`.
    pub fn new(call: Call<'a, Flow>, signature: &[&'static str]) -> Result<Self> {
        let mut values: Vec<(&str, Arg<'a, Flow>)> = Vec::new();
        for (position, arg) in call.positional.into_iter().enumerate() {
            let name = signature.get(position).ok_or_else(|| {
                Error::unsupported(format!("the call argument {} = {}", position + 1, arg.shown()))
            })?;
            values.push((name, arg));
        }
        for (name, arg) in call.named {
            if !signature.contains(&name) && !matches!(arg, Arg::Null) {
                return Err(Error::unsupported(format!(
                    "the call argument {name} = {}",
                    arg.shown()
                )));
            }
            if values.iter().any(|(known, _)| *known == name) {
                return Err(Error::malformed(format!("the call argument {name} is given twice")));
            }
            values.push((name, arg));
        }
        Ok(Bound { values, read: RefCell::default() })
    }

    /// Adds what a configuration field says, for operations whose options stand there.
    pub fn add(&mut self, name: &'a str, arg: Arg<'a, Flow>) -> Result<()> {
        if self.values.iter().any(|(known, _)| *known == name) {
            return Err(Error::malformed(format!("{name} is given twice")));
        }
        self.values.push((name, arg));
        Ok(())
    }

    /// The argument, `None` when it is absent or null.
    pub fn get(&self, name: &str) -> Option<&Arg<'a, Flow>> {
        self.read.borrow_mut().insert(name.to_owned());
        let found = self.values.iter().find(|(known, _)| *known == name);
        found.map(|(_, arg)| arg).filter(|arg| !matches!(arg, Arg::Null))
    }

    /// The argument, which must be there.
    pub fn required(&self, name: &str) -> Result<&Arg<'a, Flow>> {
        self.get(name).ok_or_else(|| Error::malformed(format!("the call has no argument {name}")))
    }

    /// One tensor.
    pub fn flow(&self, name: &str) -> Result<Flow> {
        match self.required(name)? {
            Arg::Tensor(flow) => Ok(*flow),
            other => Err(Error::unsupported(format!(
                "the call argument {name} = {}, only one tensor is supported",
                other.shown()
            ))),
        }
    }

    /// One tensor, or nothing.
    pub fn flow_if(&self, name: &str) -> Result<Option<Flow>> {
        self.get(name).map(|_| self.flow(name)).transpose()
    }

    /// A tensor or a list of tensors; empty when it is absent.
    pub fn flows(&self, name: &str) -> Result<Vec<Flow>> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(arg) => {
                let mut out = Vec::new();
                match arg {
                    Arg::Tensor(flow) => out.push(*flow),
                    Arg::List(list) => {
                        for entry in list {
                            let Arg::Tensor(flow) = entry else {
                                return Err(Error::unsupported(format!(
                                    "the call argument {name} = {}, only tensors are supported",
                                    arg.shown()
                                )));
                            };
                            out.push(*flow);
                        }
                    }
                    other => {
                        return Err(Error::unsupported(format!(
                            "the call argument {name} = {}, only tensors are supported",
                            other.shown()
                        )));
                    }
                }
                Ok(out)
            }
        }
    }

    /// How many arguments hold tensors.
    pub fn with_tensors(&self) -> usize {
        let holds = |arg: &Arg<'a, Flow>| {
            let mut found = Vec::new();
            arg.tensors(&mut found);
            !found.is_empty()
        };
        self.values.iter().filter(|(_, arg)| holds(arg)).count()
    }

    /// Complains of the first argument that nothing asked for.
    pub fn finish(&self) -> Result<()> {
        let read = self.read.borrow();
        let left = self
            .values
            .iter()
            .find(|(name, arg)| !read.contains(*name) && !matches!(arg, Arg::Null));
        match left {
            None => Ok(()),
            Some((name, arg)) => {
                Err(Error::unsupported(format!("the call argument {name} = {}", arg.shown())))
            }
        }
    }
}
