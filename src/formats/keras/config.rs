//! Typed access to a layer's configuration; every complaint names the field.

use serde_json::Value as Json;

use crate::error::{Error, Result};
use crate::graph::op::Activation;

/// A JSON object of a configuration.
#[derive(Clone, Copy)]
pub(super) struct Config<'a> {
    json: &'a Json,
}

impl<'a> Config<'a> {
    pub fn new(json: &'a Json) -> Self {
        Config { json }
    }

    /// The field, `None` when it is absent or null.
    pub fn get(self, field: &str) -> Option<&'a Json> {
        self.json.get(field).filter(|value| !value.is_null())
    }

    pub fn json(self) -> &'a Json {
        self.json
    }

    /// The object behind a field.
    pub fn object(self, field: &str) -> Result<Config<'a>> {
        self.get(field)
            .filter(|v| v.is_object())
            .map(Config::new)
            .ok_or_else(|| self.missing(field, "an object"))
    }

    pub fn string(self, field: &str) -> Result<&'a str> {
        self.get(field).and_then(Json::as_str).ok_or_else(|| self.missing(field, "a string"))
    }

    /// A size of at least 1.
    pub fn size(self, field: &str) -> Result<usize> {
        let size = self.get(field).and_then(Json::as_u64).and_then(|n| usize::try_from(n).ok());
        size.filter(|n| (1..=1 << 31).contains(n))
            .ok_or_else(|| self.missing(field, "a size of at least 1"))
    }

    pub fn flag(self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.missing(field, "true or false")),
        }
    }

    pub fn number(self, field: &str, default: f32) -> Result<f32> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => {
                value.as_f64().map(|n| n as f32).ok_or_else(|| self.missing(field, "a number"))
            }
        }
    }

    pub fn integer(self, field: &str, default: i64) -> Result<i64> {
        match self.get(field) {
            None => Ok(default),
            // Keras writes a lone axis as a list of one.
            Some(Json::Array(list)) if list.len() == 1 => {
                list.first().and_then(Json::as_i64).ok_or_else(|| self.missing(field, "an integer"))
            }
            Some(value) => value.as_i64().ok_or_else(|| self.missing(field, "an integer")),
        }
    }

    pub fn list(self, field: &str) -> Result<&'a [Json]> {
        self.get(field)
            .and_then(Json::as_array)
            .map(Vec::as_slice)
            .ok_or_else(|| self.missing(field, "a list"))
    }

    pub fn integers(self, field: &str) -> Result<Vec<i64>> {
        let list = self.list(field)?;
        list.iter()
            .map(|v| v.as_i64().ok_or_else(|| self.missing(field, "a list of integers")))
            .collect()
    }

    /// Refuses a field whose value is not the one that is implemented.
    pub fn must_be(self, field: &str, expected: &Json) -> Result<()> {
        match self.get(field) {
            Some(value) if value != expected => Err(Error::unsupported(format!(
                "{field} = {value} is not supported, only {expected}"
            ))),
            _ => Ok(()),
        }
    }

    fn missing(self, field: &str, expected: &str) -> Error {
        match self.json.get(field) {
            None => Error::malformed(format!("field {field:?} is missing, expected {expected}")),
            Some(found) => {
                let mut found = found.to_string();
                if found.len() > 80 {
                    found = format!("{}…", found.chars().take(80).collect::<String>());
                }
                Error::malformed(format!("field {field:?}: expected {expected}, found {found}"))
            }
        }
    }
}

/// What an activation's name means: a function of one element, or the softmax of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Named {
    Elementwise(Activation),
    Softmax { log: bool },
}

/// The activation behind a configuration field; absent means linear.
pub(super) fn activation(config: Config<'_>, field: &str, keras3: bool) -> Result<Named> {
    let Some(value) = config.get(field) else { return Ok(Named::Elementwise(Activation::Linear)) };
    let name = match value {
        Json::String(name) => name.as_str(),
        // A registered function: the name stands in `config`; a layer object in its class name.
        Json::Object(object) => {
            let inner = object.get("config");
            let plain = inner.and_then(Json::as_str);
            plain.or_else(|| object.get("class_name").and_then(Json::as_str)).unwrap_or("?")
        }
        _ => "?",
    };
    named_activation(name, keras3).ok_or_else(|| {
        Error::unsupported(format!("{field}: the activation {name:?} is not supported"))
    })
}

/// As [`activation`], for places that need a function of one element.
pub(super) fn cell_activation(
    config: Config<'_>,
    field: &str,
    default: &str,
    keras3: bool,
) -> Result<Activation> {
    let named = if config.json().get(field).is_none() {
        named_activation(default, keras3).unwrap_or(Named::Elementwise(Activation::Linear))
    } else {
        activation(config, field, keras3)?
    };
    match named {
        Named::Elementwise(activation) => Ok(activation),
        Named::Softmax { .. } => {
            Err(Error::unsupported(format!("{field}: softmax inside a recurrent cell")))
        }
    }
}

/// The function of a Keras name. The hard sigmoid changed its slope between Keras 2 (0.2) and Keras
/// 3 (1/6), and the leaky ReLU's default slope is 0.2 in both.
fn named_activation(name: &str, keras3: bool) -> Option<Named> {
    let hard_sigmoid = if keras3 { (1.0 / 6.0, 0.5) } else { (0.2, 0.5) };
    Some(Named::Elementwise(match name {
        "linear" => Activation::Linear,
        "tanh" => Activation::Tanh,
        "sigmoid" => Activation::Sigmoid,
        "hard_sigmoid" => Activation::HardSigmoid { alpha: hard_sigmoid.0, beta: hard_sigmoid.1 },
        "relu" | "ReLU" => Activation::Relu,
        "relu6" => Activation::Relu6,
        "elu" => Activation::Elu { alpha: 1.0 },
        "selu" => Activation::Selu,
        "softplus" => Activation::Softplus,
        "softsign" => Activation::Softsign,
        "exponential" => Activation::Exponential,
        "swish" | "silu" => Activation::Swish,
        "gelu" => Activation::Gelu { approximate: false },
        "hard_swish" | "hard_silu" if keras3 => Activation::HardSwish,
        "leaky_relu" => Activation::LeakyRelu { alpha: 0.2 },
        "softmax" => return Some(Named::Softmax { log: false }),
        "log_softmax" => return Some(Named::Softmax { log: true }),
        _ => return None,
    }))
}
