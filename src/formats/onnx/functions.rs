//! Functions of the model: counted, then read in the place of their calls.

use std::collections::HashMap;
use std::rc::Rc;

use super::attributes::CallAttributes;
use super::lower::{self, Opsets, Scope, Val};
use super::messages::{FunctionProto, GraphProto, NodeProto};
use super::names::{self, Body};
use super::step::{Outputs, Step};
use super::tables;
use crate::error::{Error, Place, Result};

type Key<'a> = (&'a str, &'a str, &'a str);

/// The functions of a model, by domain, name and overload.
pub struct Functions<'a> {
    functions: HashMap<Key<'a>, Function<'a>>,
}

struct Function<'a> {
    proto: &'a FunctionProto,
    opsets: Rc<Opsets<'a>>,
}

fn key(node: &NodeProto) -> Key<'_> {
    (lower::domain(node), &node.op_type, &node.overload)
}

impl<'a> Functions<'a> {
    /// Takes the functions of a model.
    pub fn new(protos: &'a [FunctionProto], ir_version: i64) -> Result<Self> {
        let mut functions = HashMap::new();
        for proto in protos {
            let place = || format!("function '{}::{}'", proto.domain, proto.name);
            let inputs = proto.input.iter().map(String::as_str);
            names::check_function(&proto.node, inputs).within(place)?;
            let opsets = Rc::new(super::opsets(&proto.opset_import, ir_version).within(place)?);
            let domain = if proto.domain == "ai.onnx" { "" } else { &proto.domain };
            let key = (domain, proto.name.as_str(), proto.overload.as_str());
            if functions.insert(key, Function { proto, opsets }).is_some() {
                return Err(Error::malformed("two functions have this name")).within(place);
            }
        }
        Ok(Functions { functions })
    }

    fn get(&self, node: &'a NodeProto) -> Option<&Function<'a>> {
        self.functions.get(&key(node))
    }

    /// Counts the nodes of the model with every call in the place of its function, before any is
    /// read: functions that call the next twice would have `2^n`.
    pub fn count(&self, graph: &'a GraphProto, most: usize) -> Result<()> {
        let mut count = Count { functions: self, sizes: HashMap::new(), open: Vec::new() };
        let total = count.nodes(&graph.node)?;
        if total > most {
            return Err(Error::limit(format!(
                "with its functions inlined the model has {total} nodes, more than {most}"
            )));
        }
        Ok(())
    }
}

struct Count<'f, 'a> {
    functions: &'f Functions<'a>,
    sizes: HashMap<Key<'a>, usize>,
    open: Vec<Key<'a>>,
}

impl<'a> Count<'_, 'a> {
    fn nodes(&mut self, nodes: &'a [NodeProto]) -> Result<usize> {
        let mut total = 0usize;
        for node in nodes {
            total = total.saturating_add(1);
            tables::check_domain(node, self.functions.get(node).is_some())
                .within(|| lower::shown_place(node))?;
            for graph in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
                total = total.saturating_add(self.nodes(&graph.node)?);
            }
            if let Some(function) = self.functions.get(node) {
                total = total.saturating_add(self.function(key(node), function.proto)?);
            }
        }
        Ok(total)
    }

    fn function(&mut self, key: Key<'a>, proto: &'a FunctionProto) -> Result<usize> {
        if let Some(&size) = self.sizes.get(&key) {
            return Ok(size);
        }
        let name = || format!("the function '{}::{}'", proto.domain, proto.name);
        if self.open.contains(&key) {
            return Err(Error::malformed(format!("{} calls itself", name())));
        }
        if self.open.len() >= super::limits::DEEPEST_GRAPHS {
            return Err(Error::limit(format!(
                "functions call each other more than {} deep, at {}",
                super::limits::DEEPEST_GRAPHS,
                name()
            )));
        }
        self.open.push(key);
        let size = self.nodes(&proto.node);
        self.open.pop();
        let size = size?;
        self.sizes.insert(key, size);
        Ok(size)
    }
}

/// Reads a function in the place of its call; `None` when the node calls none.
pub fn call(step: &mut Step<'_, '_>) -> Result<Option<Outputs>> {
    let Some(function) = step.cx.functions.get(step.node) else { return Ok(None) };
    let (proto, opsets) = (function.proto, function.opsets.clone());
    let mut call = CallAttributes::new();
    for default in &proto.attribute_proto {
        call.insert(&default.name, step.attrs.any(&default.name).unwrap_or(default));
    }
    for name in &proto.attribute {
        if let Some(value) = step.attrs.any(name) {
            call.insert(name, value);
        }
    }
    step.expect_inputs(0, proto.input.len())?;
    let mut scope = Scope::new(Rc::new(call), opsets);
    for (name, val) in proto.input.iter().zip(std::mem::take(&mut step.inputs)) {
        if let Some(val) = val {
            scope.set(name, val);
        }
    }
    step.cx.enter()?;
    let results: Vec<&str> = proto.output.iter().map(String::as_str).collect();
    let body = Body { nodes: &proto.node, initializers: &[] };
    let outputs: Vec<Val> = lower::body(step.cx, step.builder, &mut scope, body, &results)
        .within(|| format!("function '{}::{}'", proto.domain, proto.name))?;
    step.cx.leave();
    Ok(Some(outputs.into_iter().map(Some).collect()))
}
