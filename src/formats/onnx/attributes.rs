//! The attributes of a node. Every attribute must be read: one that is left over is an error, so
//! that none is ignored.

use std::cell::Cell;
use std::collections::HashMap;

use super::messages::{AttributeProto, GraphProto, NodeProto, TensorProto};
use crate::error::{Error, Result};

/// Numbers of the attribute types.
mod kind {
    pub const FLOAT: i32 = 1;
    pub const INT: i32 = 2;
    pub const STRING: i32 = 3;
    pub const TENSOR: i32 = 4;
    pub const GRAPH: i32 = 5;
    pub const FLOATS: i32 = 6;
    pub const INTS: i32 = 7;
    pub const STRINGS: i32 = 8;
}

/// The attributes of a call, by name, for the nodes of the function.
pub type CallAttributes<'a> = HashMap<&'a str, &'a AttributeProto>;

/// The attributes of one node; remembers which were read.
#[derive(Debug, Default)]
pub struct Attributes<'a> {
    items: Vec<Item<'a>>,
}

#[derive(Debug)]
struct Item<'a> {
    name: &'a str,
    value: &'a AttributeProto,
    read: Cell<bool>,
}

impl<'a> Attributes<'a> {
    /// The attributes of a node; references are looked up among those of the call.
    pub fn new(node: &'a NodeProto, call: &CallAttributes<'a>) -> Result<Self> {
        let mut items: Vec<Item<'a>> = Vec::with_capacity(node.attribute.len());
        for attribute in &node.attribute {
            let name = attribute.name.as_str();
            if items.iter().any(|item| item.name == name) {
                return Err(Error::malformed(format!("attribute '{name}' stands there twice")));
            }
            let value = match attribute.ref_attr_name.as_str() {
                "" => attribute,
                // An attribute that the call does not have takes the operator's default.
                reference => match call.get(reference) {
                    Some(&value) => value,
                    None => continue,
                },
            };
            items.push(Item { name, value, read: Cell::new(false) });
        }
        Ok(Attributes { items })
    }

    /// An attribute of any type.
    pub fn any(&self, name: &str) -> Option<&'a AttributeProto> {
        let item = self.items.iter().find(|item| item.name == name)?;
        item.read.set(true);
        Some(item.value)
    }

    /// Refuses attributes that were not read.
    pub fn finish(&self) -> Result<()> {
        match self.items.iter().find(|item| !item.read.get()) {
            None => Ok(()),
            Some(item) => Err(Error::unsupported(format!(
                "attribute '{}' is not known for this op at this opset",
                item.name
            ))),
        }
    }

    fn take(&self, name: &str, expected: i32) -> Result<Option<&'a AttributeProto>> {
        let Some(item) = self.items.iter().find(|item| item.name == name) else { return Ok(None) };
        item.read.set(true);
        // Files of the first version do not say the type.
        if item.value.kind != expected && item.value.kind != 0 {
            return Err(Error::malformed(format!(
                "attribute '{name}': expected type {expected}, found {}",
                item.value.kind
            )));
        }
        Ok(Some(item.value))
    }

    /// An integer.
    pub fn int(&self, name: &str) -> Result<Option<i64>> {
        Ok(self.take(name, kind::INT)?.map(|value| value.i.unwrap_or_default()))
    }

    /// An integer, or its default.
    pub fn int_or(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// An integer that is 0 or 1.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.int(name)? {
            None => Ok(default),
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(found) => {
                Err(Error::malformed(format!("attribute '{name}': expected 0 or 1, found {found}")))
            }
        }
    }

    /// A number.
    pub fn float(&self, name: &str) -> Result<Option<f32>> {
        Ok(self.take(name, kind::FLOAT)?.map(|value| value.f.unwrap_or_default()))
    }

    /// A number, or its default.
    pub fn float_or(&self, name: &str, default: f32) -> Result<f32> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    /// A text.
    pub fn string(&self, name: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.take(name, kind::STRING)? else { return Ok(None) };
        text(name, value.s.as_deref().unwrap_or_default()).map(Some)
    }

    /// A list of integers.
    pub fn ints(&self, name: &str) -> Result<Option<Vec<i64>>> {
        Ok(self.take(name, kind::INTS)?.map(|value| value.ints.clone()))
    }

    /// A list of numbers.
    pub fn floats(&self, name: &str) -> Result<Option<Vec<f32>>> {
        Ok(self.take(name, kind::FLOATS)?.map(|value| value.floats.clone()))
    }

    /// A list of texts.
    pub fn strings(&self, name: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(value) = self.take(name, kind::STRINGS)? else { return Ok(None) };
        value.strings.iter().map(|item| text(name, item)).collect::<Result<_>>().map(Some)
    }

    /// A constant.
    pub fn tensor(&self, name: &str) -> Result<Option<&'a TensorProto>> {
        let Some(value) = self.take(name, kind::TENSOR)? else { return Ok(None) };
        value.t.as_ref().map(Some).ok_or_else(|| missing(name))
    }

    /// A graph; its absence is an error.
    pub fn graph(&self, name: &str) -> Result<&'a GraphProto> {
        let value = self.take(name, kind::GRAPH)?.ok_or_else(|| missing(name))?;
        value.g.as_ref().ok_or_else(|| missing(name))
    }
}

fn missing(name: &str) -> Error {
    Error::malformed(format!("attribute '{name}' is missing"))
}

fn text<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes)
        .map_err(|_| Error::malformed(format!("attribute '{name}' is no text in UTF-8")))
}
