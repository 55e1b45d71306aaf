//! TensorFlow: frozen graphs (GraphDef, binary or text) and SavedModel folders.
//!
//! A graph's nodes become ops one by one; loops of either kind become
//! [`Op::While`](crate::graph::Op::While), lists of tensors dense tensors, function calls the
//! bodies of the functions. What layers these nodes make up is found later, by the passes.

mod build;
mod bundle;
mod conditionals;
mod control;
mod elementwise;
mod folder;
mod frames;
mod hints;
mod limits;
mod linear;
mod lists;
mod lower;
mod messages;
mod movement;
mod prune;
mod saved_model;
mod scope;
mod state;
mod stub;
mod tensor;
mod text;

use std::collections::HashMap;

use prost::Message;

pub use saved_model::{is_saved_model, open_saved_model};

use self::build::Builder;
use self::lower::{Context, Library, NoVariables, Val, Variables};
use self::messages::GraphDef;
use self::scope::{Scope, ScopeNode, Source};
use super::Options;
use crate::error::{Error, Place, Result};
use crate::graph::{Dim, Graph, Port, ValueType, check};

/// Whether the bytes begin as a GraphDef does, binary or text.
pub fn recognizes(bytes: &[u8]) -> bool {
    // A node (field 1), the function library (2) or the versions (4) come first; a node begins with
    // its name (field 1).
    let binary = match bytes {
        [0x0a, rest @ ..] => {
            let mut rest = rest;
            limits::varint(&mut rest).is_some() && rest.first() == Some(&0x0a)
        }
        [0x12 | 0x22, _, 0x0a | 0x08, ..] => true,
        _ => false,
    };
    binary || text::recognizes(bytes)
}

/// Reads a GraphDef; also returns what the user should know.
///
/// # Errors
/// [`Malformed`](crate::ErrorKind::Malformed), [`Unsupported`](crate::ErrorKind::Unsupported) or
/// [`Limit`](crate::ErrorKind::Limit) with the node that it was found at.
pub fn read(bytes: &[u8], options: &Options) -> Result<(Graph, Vec<String>)> {
    let graph = decode(bytes)?;
    let read = Read { options, ports: None };
    read.graph(graph, |_, _| Ok(Box::new(NoVariables)))
}

fn decode(bytes: &[u8]) -> Result<GraphDef> {
    let binary;
    let bytes = if text::recognizes(bytes) {
        binary = text::to_binary(bytes)?;
        binary.as_slice()
    } else {
        bytes
    };
    limits::check_node_count(bytes)?;
    let graph = GraphDef::decode(bytes)
        .map_err(|error| Error::malformed("the GraphDef cannot be decoded").with_source(error))?;
    if graph.node.is_empty() {
        return Err(Error::malformed("the graph has no nodes"));
    }
    Ok(graph)
}

/// An input or output of a signature.
struct NamedTensor {
    /// Name that the caller uses.
    name: String,
    /// Name in the graph.
    tensor: String,
}

/// Inputs and outputs of a signature, in order.
struct Ports {
    inputs: Vec<NamedTensor>,
    outputs: Vec<NamedTensor>,
}

/// A graph on its way in.
struct Read<'a> {
    options: &'a Options,
    ports: Option<Ports>,
}

impl Read<'_> {
    /// `variables` finds the values of the variables, given the main graph and the functions.
    fn graph(
        &self,
        graph: GraphDef,
        variables: impl FnOnce(&Scope, &Library) -> Result<Box<dyn Variables>>,
    ) -> Result<(Graph, Vec<String>)> {
        hints::check(&graph.node)?;
        let producer = graph.versions.as_ref().map_or(0, |versions| versions.producer);
        let in_functions = graph
            .library
            .iter()
            .flat_map(|library| &library.function)
            .map(|function| function.node_def.len());
        let nodes = graph.node.len() + in_functions.sum::<usize>();
        let library = Library::new(graph.library, self.options.custom_ops)?;
        let mut main = Scope::from_graph(graph.node)?;
        self.take_as_inputs(&mut main);
        let index: HashMap<String, usize> = main
            .nodes
            .iter()
            .enumerate()
            .map(|(position, node)| (node.name.clone(), position))
            .collect();
        let (inputs, outputs) = match &self.ports {
            Some(ports) => (resolve(&ports.inputs, &index)?, resolve(&ports.outputs, &index)?),
            None => (self.inputs(&main, &index)?, self.outputs(&main, &index)?),
        };
        library.prepare(&mut main)?;
        let variables = variables(&main, &library)?;
        let reading = Reading { main: &main, library: &library, inputs, outputs, producer };
        // A variable that the model writes must be a state from the start, which is known only
        // after a first reading.
        let mut context = Context::new(&library, &*variables, nodes);
        let first = reading.lower(&mut context)?;
        if context.states.writes.is_empty() {
            return Ok((first, context.warnings));
        }
        let names = context.states.writes.keys().cloned().collect();
        let mut context = Context::new(&library, &*variables, nodes);
        context.states.names = names;
        let graph = reading.lower(&mut context)?;
        Ok((graph, context.warnings))
    }

    /// A placeholder whose default would be used is an input when it was asked for.
    fn take_as_inputs(&self, main: &mut Scope) {
        let asked = |name: &str| {
            self.options
                .inputs
                .iter()
                .any(|input| input.strip_suffix(":0").unwrap_or(input) == name)
        };
        for node in main.nodes.iter_mut().filter(|node| node.op == "PlaceholderWithDefault") {
            if asked(&node.name) {
                node.op = "Placeholder".into();
                node.inputs.clear();
            }
        }
    }

    /// The inputs that were asked for, or every placeholder.
    fn inputs(
        &self,
        main: &Scope,
        index: &HashMap<String, usize>,
    ) -> Result<Vec<(String, Source)>> {
        if !self.options.inputs.is_empty() {
            let named = |name: &String| NamedTensor { name: name.clone(), tensor: name.clone() };
            return resolve(&self.options.inputs.iter().map(named).collect::<Vec<_>>(), index);
        }
        let is_input = |node: &ScopeNode| {
            let dtype = node.type_number("dtype").ok().flatten();
            matches!(node.op.as_str(), "Placeholder" | "PlaceholderV2")
                && dtype != Some(&tensor::STRING)
        };
        let nodes = main.nodes.iter().enumerate().filter(|(_, node)| is_input(node));
        Ok(nodes.map(|(position, node)| (node.name.clone(), Source::Node(position, 0))).collect())
    }

    /// The outputs that were asked for, or those that look like results.
    fn outputs(
        &self,
        main: &Scope,
        index: &HashMap<String, usize>,
    ) -> Result<Vec<(String, Source)>> {
        if !self.options.outputs.is_empty() {
            let named = |name: &String| NamedTensor { name: name.clone(), tensor: name.clone() };
            return resolve(&self.options.outputs.iter().map(named).collect::<Vec<_>>(), index);
        }
        let found = guess_outputs(main);
        if found.is_empty() {
            return Err(Error::malformed(
                "the graph has no node that could be its result; name its outputs",
            ));
        }
        Ok(found)
    }
}

/// `name:0` is written without the zero, as users do.
fn resolve(names: &[NamedTensor], index: &HashMap<String, usize>) -> Result<Vec<(String, Source)>> {
    names
        .iter()
        .map(|port| {
            let source = scope::tensor_name(&port.tensor, index)?;
            let name = port.name.strip_suffix(":0").unwrap_or(&port.name);
            Ok((name.to_owned(), source))
        })
        .collect()
}

/// The nodes that look like results: those that no other node uses, and those with a name of their
/// own that only such nodes use (logits before a softmax).
///
/// Marks of hinted calls, parts of loops, variables and side effects are no results.
fn guess_outputs(main: &Scope) -> Vec<(String, Source)> {
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); main.nodes.len()];
    for (user, node) in main.nodes.iter().enumerate() {
        for input in &node.inputs {
            if let Source::Node(index, _) = input
                && let Some(users) = users.get_mut(*index)
            {
                users.push(user);
            }
        }
    }
    let in_loop = in_loops(main, &users);
    let flags = main.nodes.iter().zip(&users).zip(in_loop);
    let last: Vec<bool> = flags
        .map(|((node, users), in_loop)| !in_loop && users.is_empty() && is_result(node))
        .collect();
    let is_last = |index: &usize| last.get(*index) == Some(&true);
    let nodes = main.nodes.iter().zip(&users).enumerate();
    let results = nodes.filter(|(index, (node, users))| {
        let before_last = !users.is_empty() && users.iter().all(is_last);
        is_last(index) || before_last && is_result(node) && has_own_name(node)
    });
    results.map(|(index, (node, _))| (node.name.clone(), Source::Node(index, 0))).collect()
}

/// Which nodes stand in an old-style loop: those that an `Enter` leads to before an `Exit`.
fn in_loops(main: &Scope, users: &[Vec<usize>]) -> Vec<bool> {
    let mut inside = vec![false; main.nodes.len()];
    let is = |index: usize, op: &str| main.nodes.get(index).is_some_and(|node| node.op == op);
    let mut open: Vec<usize> = (0..main.nodes.len()).filter(|&index| is(index, "Enter")).collect();
    while let Some(index) = open.pop() {
        match inside.get_mut(index) {
            Some(inside) if !*inside && !is(index, "Exit") => *inside = true,
            _ => continue,
        }
        open.extend(users.get(index).into_iter().flatten());
    }
    inside
}

/// Whether a node computes something that may be a result.
fn is_result(node: &ScopeNode) -> bool {
    let silent = [
        "Const",
        "Placeholder",
        "PlaceholderV2",
        "PlaceholderWithDefault",
        "NoOp",
        "Assert",
        "Enter",
        "Exit",
        "Merge",
        "Switch",
        "NextIteration",
        "LoopCond",
        "While",
        "StatelessWhile",
        "VarHandleOp",
        "ReadVariableOp",
        "VarIsInitializedOp",
        "TensorArrayV3",
        "TensorListReserve",
        "TensorListFromTensor",
        "Shape",
        "SaveV2",
        "RestoreV2",
        "MergeV2Checkpoints",
        "ShardedFilename",
        "StringJoin",
        "Unpack",
        "Split",
        "SplitV",
    ];
    let op = node.op.as_str();
    !silent.contains(&op)
        && !op.starts_with("Assign")
        && !op.contains("Variable")
        && !hints::is_marked(node)
}

/// Whether the author gave the node a name: at the top level, and not the one that TensorFlow makes
/// from the op.
fn has_own_name(node: &ScopeNode) -> bool {
    let plain = |name: &str| {
        name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
    };
    // Names that the Python functions give, where they differ from the op's.
    let made = [
        "add",
        "sub",
        "mul",
        "truediv",
        "div",
        "stack",
        "unstack",
        "concat",
        "reverse",
        "lstm",
        "gru",
        "rnn",
        "onehot",
        "gather",
        "transpose",
        "reduce",
        "mean",
        "sum",
        "identity",
        "cond",
        "while",
        "select",
        "where",
        "cast",
        "tofloat",
        "tofloat32",
        "todouble",
        "toint32",
        "toint64",
        "logicaland",
        "zeros",
        "ones",
        "embeddinglookup",
        "expanddims",
        "squeeze",
    ];
    let is_list = node.op.starts_with("TensorArray") || node.op.starts_with("TensorList");
    if node.name.contains('/') || is_uuid(&node.name) || node.name.starts_with("OpHint") || is_list
    {
        return false;
    }
    let base = node.name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_');
    let base = plain(base);
    let op = plain(node.op.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('V'));
    base != op && !made.contains(&base.as_str())
}

/// The stub pass names fused nodes by the call's identifier.
fn is_uuid(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A main graph with its ports.
struct Reading<'a> {
    main: &'a Scope,
    library: &'a Library,
    inputs: Vec<(String, Source)>,
    outputs: Vec<(String, Source)>,
    producer: i32,
}

impl Reading<'_> {
    fn lower(&self, context: &mut Context<'_>) -> Result<Graph> {
        debug_assert!(std::ptr::eq(self.library, context.library));
        let mut builder = Builder::default();
        let mut names = SymbolNames::default();
        let mut given: HashMap<usize, Vec<Val>> = HashMap::new();
        for (name, source) in &self.inputs {
            let Source::Node(index, output) = *source else { continue };
            let node = self.main.node(index)?;
            let id = self
                .add_input(&mut builder, &mut names, name, node)
                .within(|| self.main.place(index))?;
            let outputs = given.entry(index).or_default();
            outputs.resize(
                outputs.len().max(output + 1),
                Val::Opaque("this output is cut off by an input".into()),
            );
            if let Some(slot) = outputs.get_mut(output) {
                *slot = Val::Tensor(id);
            }
        }
        for (index, node) in self.main.nodes.iter().enumerate() {
            if node.op == "Placeholder" && !given.contains_key(&index) {
                let why = format!("the placeholder '{}' is not among the inputs", node.name);
                given.insert(index, vec![Val::Opaque(why)]);
            }
        }
        let roots: Vec<Source> = self.outputs.iter().map(|(_, source)| *source).collect();
        let values = lower::scope(context, &mut builder, self.main, &[], &roots, given)?;
        for ((name, _), value) in self.outputs.iter().zip(values) {
            match value {
                Val::Tensor(value) => {
                    builder.graph.outputs.push(Port { name: name.clone(), value })
                }
                Val::Opaque(why) => {
                    return Err(Error::unsupported(why).within(format!("output '{name}'")));
                }
                _ => {
                    return Err(Error::unsupported("the output is no tensor")
                        .within(format!("output '{name}'")));
                }
            }
        }
        state::finish(context, &mut builder);
        let graph = prune::prune(builder.graph);
        check::check(&graph)?;
        Ok(graph)
    }

    fn add_input(
        &self,
        builder: &mut Builder,
        names: &mut SymbolNames,
        name: &str,
        node: &ScopeNode,
    ) -> Result<crate::graph::ValueId> {
        let placeholder = node.op.starts_with("Placeholder");
        let attrs =
            if placeholder { ["dtype", "dtype", "dtype"] } else { ["dtype", "T", "out_type"] };
        let attr = attrs.into_iter().find(|attr| node.attr(attr).is_some()).unwrap_or("dtype");
        let dtype = node.dtype(attr)?;
        let shape = match node.shape("shape")? {
            // Before version 24 an empty shape meant that nothing was known.
            Some(shape) if shape.dim.is_empty() && (1..24).contains(&self.producer) => None,
            Some(shape) if placeholder => tensor::dims(shape)?,
            _ => None,
        };
        let ty = match shape {
            None => ValueType::unranked(dtype),
            Some(dims) => {
                let dims = dims.into_iter().enumerate();
                let dims = dims.map(|(axis, size)| {
                    size.map_or_else(|| names.symbol(&mut builder.graph, axis), Dim::Known)
                });
                ValueType::symbolic(dtype, dims.collect())
            }
        };
        let id = builder.graph.add_value(name, ty);
        builder.graph.inputs.push(Port { name: name.to_owned(), value: id });
        Ok(id)
    }
}

/// Names for the open sizes of inputs. Two inputs may differ in theirs, so that each has its own.
#[derive(Default)]
struct SymbolNames {
    /// How many symbols there are of each of [`SymbolNames::BASES`].
    taken: [usize; 3],
}

impl SymbolNames {
    /// Names by axis; the last one stands for all further axes.
    const BASES: [&str; 3] = ["batch", "time", "size"];

    fn symbol(&mut self, graph: &mut Graph, axis: usize) -> Dim {
        let mut bases = Self::BASES.iter().zip(&mut self.taken).skip(axis.min(2));
        let Some((name, taken)) = bases.next() else { return Dim::Unknown };
        *taken += 1;
        graph.add_symbol(if *taken == 1 { (*name).to_owned() } else { format!("{name}{taken}") })
    }
}
