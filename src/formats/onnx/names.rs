//! The names of a graph: what each node reads, and the order in which the nodes can be computed.

use std::collections::{HashMap, HashSet};

use super::limits::DEEPEST_GRAPHS;
use super::lower::shown_place;
use super::messages::{GraphProto, NodeProto, TensorProto};
use crate::error::{Error, Place, Result};

/// What a graph and the body of a function have in common.
#[derive(Clone, Copy)]
pub struct Body<'a> {
    pub nodes: &'a [NodeProto],
    pub initializers: &'a [TensorProto],
}

impl<'a> From<&'a GraphProto> for Body<'a> {
    fn from(graph: &'a GraphProto) -> Self {
        Body { nodes: &graph.node, initializers: &graph.initializer }
    }
}

/// The graphs in a node's attributes.
fn graphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().filter_map(|attribute| attribute.g.as_ref())
}

/// The names that a node reads, those of its graphs included, which the graphs do not define.
pub fn reads(node: &NodeProto) -> Vec<&str> {
    let mut all: Vec<&str> =
        node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    for graph in graphs(node) {
        all.extend(free(graph));
    }
    all
}

/// The names that a graph reads and does not define.
pub fn free(graph: &GraphProto) -> Vec<&str> {
    let defined: HashSet<&str> = graph
        .input
        .iter()
        .map(|input| input.name.as_str())
        .chain(graph.initializer.iter().map(|tensor| tensor.name.as_str()))
        .chain(graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str)))
        .collect();
    let outputs = graph.output.iter().map(|output| output.name.as_str());
    let mut seen = HashSet::new();
    let all = graph.node.iter().flat_map(reads).chain(outputs);
    all.filter(|name| !defined.contains(name) && seen.insert(*name)).collect()
}

/// A node's name for messages: its own, or that of its first result.
pub fn shown(node: &NodeProto) -> &str {
    if node.name.is_empty() {
        node.output.iter().find(|name| !name.is_empty()).map_or("", String::as_str)
    } else {
        &node.name
    }
}

/// Checks a graph and the graphs in it: every name is defined once in its graph, and every name
/// that is read is defined there or outside.
pub fn check(graph: &GraphProto) -> Result<()> {
    let inputs = graph.input.iter().map(|input| input.name.as_str());
    check_body(graph.into(), inputs, &mut Vec::new())?;
    outputs(graph, &[])
}

/// As [`check`], for the body of a function.
pub fn check_function<'a>(
    nodes: &'a [NodeProto],
    inputs: impl Iterator<Item = &'a str>,
) -> Result<()> {
    check_body(Body { nodes, initializers: &[] }, inputs, &mut Vec::new())
}

fn outputs(graph: &GraphProto, outer: &[HashSet<&str>]) -> Result<()> {
    let mut named = HashSet::new();
    for output in &graph.output {
        let name = output.name.as_str();
        let defined = graph.input.iter().any(|input| input.name == name)
            || graph.initializer.iter().any(|tensor| tensor.name == name)
            || graph.node.iter().any(|node| node.output.iter().any(|output| output == name))
            || outer.iter().any(|names| names.contains(name));
        if !defined {
            return Err(Error::malformed(format!("nothing defines the output '{name}'")));
        }
        if !named.insert(name) && outer.is_empty() {
            return Err(Error::malformed(format!("the output '{name}' stands there twice")));
        }
    }
    Ok(())
}

fn check_body<'a>(
    body: Body<'a>,
    inputs: impl Iterator<Item = &'a str>,
    outer: &mut Vec<HashSet<&'a str>>,
) -> Result<()> {
    if outer.len() > DEEPEST_GRAPHS {
        return Err(Error::limit(format!("graphs are nested more than {DEEPEST_GRAPHS} deep")));
    }
    let mut names: HashSet<&str> = inputs.collect();
    let mut constants = HashSet::new();
    for tensor in body.initializers {
        // An initializer may also be an input: its value is then the input's default.
        names.insert(&tensor.name);
        if !constants.insert(tensor.name.as_str()) {
            return Err(twice(&tensor.name));
        }
    }
    for name in body.nodes.iter().flat_map(|node| &node.output).filter(|name| !name.is_empty()) {
        if !names.insert(name) {
            return Err(twice(name));
        }
    }
    outer.push(names);
    for node in body.nodes {
        check_node(node, outer).within(|| shown_place(node))?;
    }
    outer.pop();
    Ok(())
}

fn check_node<'a>(node: &'a NodeProto, outer: &mut Vec<HashSet<&'a str>>) -> Result<()> {
    for name in node.input.iter().filter(|name| !name.is_empty()) {
        if !outer.iter().any(|names| names.contains(name.as_str())) {
            return Err(Error::malformed(format!("nothing defines the input '{name}'")));
        }
    }
    for graph in graphs(node) {
        let inputs = graph.input.iter().map(|input| input.name.as_str());
        check_body(graph.into(), inputs, outer)?;
        outputs(graph, outer)?;
    }
    Ok(())
}

fn twice(name: &str) -> Error {
    Error::malformed(format!("the name '{name}' is defined twice"))
}

/// The nodes that the results `roots` need, each after those that it needs itself.
pub fn order<'a>(body: Body<'a>, roots: impl Iterator<Item = &'a str>) -> Result<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let mut makers: HashMap<&str, usize> = HashMap::new();
    for (index, node) in body.nodes.iter().enumerate() {
        makers.extend(node.output.iter().map(|name| (name.as_str(), index)));
    }
    makers.remove("");
    let needs: Vec<Vec<usize>> = body
        .nodes
        .iter()
        .map(|node| reads(node).iter().filter_map(|name| makers.get(name).copied()).collect())
        .collect();
    let mut states = vec![State::New; body.nodes.len()];
    let mut order = Vec::new();
    // A node and how many of its needs were looked at.
    let mut stack: Vec<(usize, usize)> = Vec::new();
    for root in roots.filter_map(|name| makers.get(name).copied()) {
        stack.push((root, 0));
        while let Some((index, looked)) = stack.pop() {
            let Some(state) = states.get_mut(index) else { continue };
            if *state == State::Done {
                continue;
            }
            *state = State::Open;
            let Some(&next) = needs.get(index).and_then(|needs| needs.get(looked)) else {
                *state = State::Done;
                order.push(index);
                continue;
            };
            stack.push((index, looked + 1));
            match states.get(next) {
                Some(State::New) => stack.push((next, 0)),
                Some(State::Open) => return Err(cycle(body, &stack, next)),
                _ => {}
            }
        }
    }
    Ok(order)
}

fn cycle(body: Body<'_>, stack: &[(usize, usize)], from: usize) -> Error {
    /// Enough of a long cycle to find it.
    const SHOWN: usize = 8;
    let members = stack.iter().skip_while(|(index, _)| *index != from).take(SHOWN);
    let names: Vec<String> = members
        .filter_map(|(index, _)| body.nodes.get(*index))
        .map(|node| format!("'{}'", shown(node)))
        .collect();
    Error::malformed(format!("nodes feed each other in a cycle: {}", names.join(", ")))
}
