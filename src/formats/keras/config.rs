//! Typed access to a layer's configuration. Every complaint names the field, and the reader knows
//! which fields were asked for: what is left over is an error.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};

/// Characters of a value that a message shows.
const MAX_SHOWN: usize = 80;

/// A JSON object of a configuration. Clones and inner objects share the list of what was not read.
#[derive(Clone)]
pub(super) struct Config<'a> {
    fields: &'a Map<String, Json>,
    path: String,
    unread: Rc<RefCell<BTreeMap<String, &'a Json>>>,
}

impl<'a> Config<'a> {
    /// The configuration `json`, an object.
    pub fn new(json: &'a Json) -> Result<Self> {
        let fields = json.as_object().ok_or_else(|| {
            Error::malformed(format!("expected an object, found {}", shown(json)))
        })?;
        Ok(Self::tracked(fields, String::new(), Rc::default()))
    }

    fn tracked(
        fields: &'a Map<String, Json>,
        path: String,
        unread: Rc<RefCell<BTreeMap<String, &'a Json>>>,
    ) -> Self {
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            unread.borrow_mut().insert(format!("{path}{name}"), value);
        }
        Config { fields, path, unread }
    }

    /// Notes that `field` was honored, whatever its value.
    fn note(&self, field: &str) {
        self.unread.borrow_mut().remove(&format!("{}{field}", self.path));
    }

    /// Passes over fields that cannot change what the layer computes.
    pub fn pass_over(&self, fields: &[&str]) {
        fields.iter().for_each(|field| self.note(field));
    }

    /// Complains of the first field that nothing asked for. A null field says no more than an
    /// absent one.
    pub fn finish(&self) -> Result<()> {
        match self.unread.borrow().iter().next() {
            None => Ok(()),
            Some((field, value)) => {
                Err(Error::unsupported(format!("the field {field} = {}", shown(value))))
            }
        }
    }

    /// The field, `None` when it is absent or null.
    pub fn get(&self, field: &str) -> Option<&'a Json> {
        self.note(field);
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// Whether the field is there, null or not.
    pub fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// The names of all fields.
    pub fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.fields.keys().map(String::as_str)
    }

    /// The object behind a field.
    pub fn object(&self, field: &str) -> Result<Config<'a>> {
        match self.get(field) {
            Some(Json::Object(fields)) => {
                Ok(Self::tracked(fields, format!("{}{field}.", self.path), Rc::clone(&self.unread)))
            }
            _ => Err(self.missing(field, "an object")),
        }
    }

    pub fn string(&self, field: &str) -> Result<&'a str> {
        self.get(field).and_then(Json::as_str).ok_or_else(|| self.missing(field, "a string"))
    }

    /// As [`string`](Self::string), with what an absent field means.
    pub fn string_or(&self, field: &str, default: &'a str) -> Result<&'a str> {
        if self.get(field).is_none() { Ok(default) } else { self.string(field) }
    }

    /// A size of at least 1.
    pub fn size(&self, field: &str) -> Result<usize> {
        let size = self.get(field).and_then(Json::as_u64).and_then(|n| usize::try_from(n).ok());
        size.filter(|n| (1..=1 << 31).contains(n))
            .ok_or_else(|| self.missing(field, "a size of at least 1"))
    }

    pub fn flag(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            // Keras keeps what it was given: 0 and 1 are flags too.
            Some(value) if value.as_u64() == Some(0) => Ok(false),
            Some(value) if value.as_u64() == Some(1) => Ok(true),
            Some(value) => value.as_bool().ok_or_else(|| self.missing(field, "true or false")),
        }
    }

    pub fn number(&self, field: &str, default: f32) -> Result<f32> {
        Ok(self.number_if(field)?.unwrap_or(default))
    }

    /// A number that may be absent. `tf_keras` writes some numbers as arrays of one value.
    pub fn number_if(&self, field: &str) -> Result<Option<f32>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let inner = match value {
            Json::Object(object) if is_array(object) => {
                self.pass_below(field);
                value.pointer("/config/value").or_else(|| object.get("value"))
            }
            value => Some(value),
        };
        let number = inner.and_then(Json::as_f64).map(|n| n as f32);
        Ok(Some(number.ok_or_else(|| self.missing(field, "a number"))?))
    }

    fn pass_below(&self, field: &str) {
        let prefix = format!("{}{field}.", self.path);
        self.unread.borrow_mut().retain(|name, _| !name.starts_with(&prefix));
    }

    pub fn integer(&self, field: &str, default: i64) -> Result<i64> {
        match self.get(field) {
            None => Ok(default),
            // Keras writes a lone axis as a list of one.
            Some(Json::Array(list)) if list.len() == 1 => {
                list.first().and_then(Json::as_i64).ok_or_else(|| self.missing(field, "an integer"))
            }
            Some(value) => value.as_i64().ok_or_else(|| self.missing(field, "an integer")),
        }
    }

    pub fn list(&self, field: &str) -> Result<&'a [Json]> {
        self.get(field)
            .and_then(Json::as_array)
            .map(Vec::as_slice)
            .ok_or_else(|| self.missing(field, "a list"))
    }

    pub fn integers(&self, field: &str) -> Result<Vec<i64>> {
        let list = self.list(field)?;
        list.iter()
            .map(|v| v.as_i64().ok_or_else(|| self.missing(field, "a list of integers")))
            .collect()
    }

    /// `count` sizes of at least 1: one number for all, or a list.
    pub fn sizes(&self, field: &str, count: usize, default: usize) -> Result<Vec<usize>> {
        let size = |value: &Json| {
            value
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .filter(|n| (1..=1 << 31).contains(n))
                .ok_or_else(|| self.missing(field, "sizes of at least 1"))
        };
        match self.get(field) {
            None => Ok(vec![default; count]),
            Some(Json::Array(list)) if list.len() == count => list.iter().map(size).collect(),
            Some(Json::Array(_)) => Err(self.missing(field, &format!("{count} sizes"))),
            Some(one) => Ok(vec![size(one)?; count]),
        }
    }

    /// Refuses a field whose value is not the one that is implemented.
    pub fn must_be(&self, field: &str, expected: &Json) -> Result<()> {
        match self.get(field) {
            Some(value) if value != expected => Err(Error::unsupported(format!(
                "{field} = {} is not supported, only {expected}",
                shown(value)
            ))),
            _ => Ok(()),
        }
    }

    /// The complaint that `field` is absent or not `expected`.
    pub fn missing(&self, field: &str, expected: &str) -> Error {
        match self.fields.get(field) {
            None => Error::malformed(format!("field {field:?} is missing, expected {expected}")),
            Some(found) => Error::malformed(format!(
                "field {field:?}: expected {expected}, found {}",
                shown(found)
            )),
        }
    }
}

/// Whether a JSON object stands for a number array: `__numpy__` and `__tensor__` of Keras, and
/// `ndarray` of old files.
pub(super) fn is_array(object: &Map<String, Json>) -> bool {
    let class = object.get("class_name").and_then(Json::as_str);
    matches!(class, Some("__numpy__" | "__tensor__"))
        || object.get("type").and_then(Json::as_str) == Some("ndarray")
}

/// A value as messages show it.
pub(super) fn shown(value: &Json) -> String {
    let text = value.to_string();
    if text.chars().count() > MAX_SHOWN {
        format!("{}…", text.chars().take(MAX_SHOWN).collect::<String>())
    } else {
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::Config;

    #[test]
    fn a_field_that_nothing_asked_for_is_an_error() {
        let json = json!({"units": 3, "cell": {"units": 2, "norm": 1}, "note": null});
        let config = Config::new(&json).unwrap();
        assert_eq!(config.size("units").unwrap(), 3);
        assert_eq!(config.object("cell").unwrap().size("units").unwrap(), 2);
        let error = config.finish().unwrap_err();
        assert!(error.to_string().contains("cell.norm = 1"), "{error}");
        config.object("cell").unwrap().pass_over(&["norm", "units"]);
        config.finish().unwrap();
    }
}
