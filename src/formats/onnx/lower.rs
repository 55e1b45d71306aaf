//! From ONNX nodes to a graph: the nodes that the results need, in order, each by the table of its
//! kind.

use std::collections::HashMap;
use std::rc::Rc;

use super::attributes::{Attributes, CallAttributes};
use super::functions::Functions;
use super::limits::{DEEPEST_GRAPHS, MOST_DERIVED_BYTES, most_expanded};
use super::messages::{GraphProto, NodeProto};
use super::names::{Body, order, shown};
use super::sequences::List;
use super::step::Step;
use super::{Budget, Builder};
use super::{tables, tensor};
use crate::error::{Error, Place, Result};
use crate::graph::ValueId;

/// What a name of ONNX stands for.
#[derive(Clone, Debug)]
pub enum Val {
    /// A tensor of the graph under construction.
    Tensor(ValueId),
    /// A sequence of tensors.
    List(List),
}

/// Versions of the operator sets, by domain.
pub type Opsets<'a> = HashMap<&'a str, i64>;

/// What is the same for every graph of a model.
pub struct Context<'a> {
    pub functions: Functions<'a>,
    /// Bytes that constants may still take beyond what the file holds.
    pub derived: Budget,
    /// Nodes that may still be read, each time a function is called.
    pub expanded: Budget,
    pub warnings: Vec<String>,
    /// Depth of functions, branches and loops.
    pub depth: usize,
    /// Whether the body of a loop is read.
    pub in_loop: bool,
}

impl<'a> Context<'a> {
    /// `nodes`: how many the file has, functions and inner graphs included.
    pub fn new(functions: Functions<'a>, nodes: usize) -> Self {
        Context {
            functions,
            derived: Budget::new(
                "constants that the file does not hold in full",
                MOST_DERIVED_BYTES,
            ),
            expanded: Budget::new("nodes with all functions inlined", most_expanded(nodes)),
            warnings: Vec::new(),
            depth: 0,
            in_loop: false,
        }
    }

    /// Goes into a function, a branch or a loop; [`leave`](Self::leave) goes out.
    pub fn enter(&mut self) -> Result<()> {
        if self.depth >= DEEPEST_GRAPHS {
            return Err(Error::limit(format!(
                "functions, branches and loops are nested more than {DEEPEST_GRAPHS} deep"
            )));
        }
        self.depth += 1;
        Ok(())
    }

    pub fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    /// Says something to the user once.
    pub fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

/// The names that can be read: those of the graph, and of the graphs around it.
#[derive(Clone)]
pub struct Scope<'a> {
    frames: Vec<HashMap<&'a str, Val>>,
    pub call: Rc<CallAttributes<'a>>,
    pub opsets: Rc<Opsets<'a>>,
}

impl<'a> Scope<'a> {
    pub fn new(call: Rc<CallAttributes<'a>>, opsets: Rc<Opsets<'a>>) -> Self {
        Scope { frames: vec![HashMap::new()], call, opsets }
    }

    pub fn get(&self, name: &str) -> Option<&Val> {
        self.frames.iter().rev().find_map(|frame| frame.get(name))
    }

    pub fn set(&mut self, name: &'a str, val: Val) {
        if let Some(frame) = self.frames.last_mut() {
            frame.insert(name, val);
        }
    }

    fn required(&self, name: &str) -> Result<Val> {
        self.get(name)
            .cloned()
            .ok_or_else(|| Error::malformed(format!("nothing defines the value '{name}'")))
    }
}

/// Reads the part of a body that its results need; the inputs are in the scope.
pub fn body<'a>(
    cx: &mut Context<'a>,
    builder: &mut Builder,
    scope: &mut Scope<'a>,
    body: Body<'a>,
    results: &[&'a str],
) -> Result<Vec<Val>> {
    for proto in body.initializers {
        if scope.frames.last().is_some_and(|frame| frame.contains_key(proto.name.as_str())) {
            continue;
        }
        let value = tensor::tensor(proto).within(|| format!("initializer '{}'", proto.name))?;
        let id = builder.constant_value(&proto.name, value);
        scope.set(&proto.name, Val::Tensor(id));
    }
    for index in order(body, results.iter().copied())? {
        let Some(proto) = body.nodes.get(index) else { continue };
        cx.expanded.take(1)?;
        node(cx, builder, scope, proto).within(|| place(proto, &scope.opsets))?;
    }
    results.iter().map(|name| scope.required(name)).collect()
}

/// Reads a graph inside of another, whose names it sees; `args` are its inputs.
pub fn inner_graph<'a>(
    cx: &mut Context<'a>,
    builder: &mut Builder,
    scope: &mut Scope<'a>,
    graph: &'a GraphProto,
    args: Vec<Val>,
) -> Result<Vec<Val>> {
    if let Some(sparse) = graph.sparse_initializer.first() {
        return Err(super::sparse(sparse));
    }
    if graph.input.len() != args.len() {
        return Err(Error::malformed(format!(
            "expected {} inputs, found {}",
            args.len(),
            graph.input.len()
        )));
    }
    cx.enter()?;
    scope.frames.push(HashMap::new());
    for (input, val) in graph.input.iter().zip(args) {
        scope.set(&input.name, val);
    }
    let results: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
    let outputs = body(cx, builder, scope, graph.into(), &results);
    scope.frames.pop();
    cx.leave();
    outputs
}

/// A node in a message: name, op, domain and opset.
fn place(node: &NodeProto, opsets: &Opsets<'_>) -> String {
    let domain = domain(node);
    let version = opsets.get(domain).map_or("none".to_owned(), i64::to_string);
    let domain = if domain.is_empty() { "ai.onnx" } else { domain };
    format!("node '{}' ({}, domain {domain}, opset {version})", shown(node), node.op_type)
}

/// A node in a message, before its operator set matters.
pub fn shown_place(node: &NodeProto) -> String {
    format!("node '{}' ({})", shown(node), node.op_type)
}

/// ONNX's own domain has two names.
pub fn domain(node: &NodeProto) -> &str {
    if node.domain == "ai.onnx" { "" } else { &node.domain }
}

fn node<'a>(
    cx: &mut Context<'a>,
    builder: &mut Builder,
    scope: &mut Scope<'a>,
    node: &'a NodeProto,
) -> Result<()> {
    let inputs = node
        .input
        .iter()
        .map(|name| match name.as_str() {
            "" => Ok(None),
            name => scope.required(name).map(Some),
        })
        .collect::<Result<Vec<_>>>()?;
    let attrs = Attributes::new(node, &scope.call)?;
    let mut step = Step::new(cx, builder, scope, node, attrs, inputs)?;
    let outputs = tables::lower(&mut step)?;
    step.attrs.finish()?;
    if outputs.len() < node.output.iter().rposition(|name| !name.is_empty()).map_or(0, |k| k + 1) {
        return Err(Error::malformed(format!(
            "the op has {} results, the node names {}",
            outputs.len(),
            node.output.len()
        )));
    }
    for (name, val) in node.output.iter().zip(outputs).filter(|(name, _)| !name.is_empty()) {
        let Some(val) = val else {
            return Err(Error::unsupported(format!("the result '{name}' is not computed")));
        };
        if let Val::Tensor(id) = val {
            rename(builder, id, name);
        }
        scope.set(name, val);
    }
    Ok(())
}

/// Gives a fresh value the name that the file has for it.
fn rename(builder: &mut Builder, id: ValueId, name: &str) {
    let is_last = builder.graph.nodes.last().is_some_and(|node| node.outputs.contains(&Some(id)));
    if is_last && let Some(value) = builder.graph.get_mut(id) {
        value.name = name.to_owned();
    }
}
