//! A model on its way in: its inputs and outputs, its states, its graph.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::build::Builder;
use super::library::Library;
use super::messages::GraphDef;
use super::prune;
use super::scope::{self, Scope, ScopeNode, Source};
use super::step::{Context, States, Table, Val, Variables};
use super::{
    cells, control, elementwise, hints, linear, lists, lower, movement, outputs, state, stub,
    tensor, windows,
};
use crate::error::{Error, Place, Result};
use crate::formats::Options;
use crate::graph::{Dim, Graph, Op, Port, ValueId, ValueType, check};
use crate::tensor::DType;

/// The ops that are read, by kind.
const TABLES: [Table; 9] = [
    control::lower,
    lists::lower,
    state::lower,
    elementwise::lower,
    linear::lower,
    windows::lower,
    cells::lower,
    movement::lower,
    stub::lower,
];

/// Freezing leaves placeholders of this name behind, which nothing uses: what the control flow of
/// the graph's functions once was given.
const LEFT_OVER: &str = "unused_control_flow_input";

/// An input or output of a signature.
pub struct NamedTensor {
    /// Name that the caller uses.
    pub name: String,
    /// Name in the graph.
    pub tensor: String,
}

/// Inputs and outputs of a signature, in order.
pub struct Ports {
    pub inputs: Vec<NamedTensor>,
    pub outputs: Vec<NamedTensor>,
}

/// A graph on its way in.
pub struct Read<'a> {
    pub options: &'a Options,
    pub ports: Option<Ports>,
}

impl Read<'_> {
    /// `variables` finds the values of the variables, given the main graph and the functions.
    pub fn graph(
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
        // A variable that the model writes must be a state from the start, and only those that a
        // result depends on have to be followed: both are known only after a reading.
        let mut states = States::default();
        loop {
            let mut context = Context::new(&library, &*variables, &TABLES, nodes);
            context.states.names = states.names.clone();
            context.states.live = states.live.clone();
            let (graph, live) = reading.lower(&mut context)?;
            let known = states.names.len() + states.live.len();
            states.names.extend(context.states.written);
            states.live.extend(live);
            if states.names.len() + states.live.len() == known {
                return Ok((graph, context.warnings));
            }
        }
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
        let used: HashSet<usize> = main.nodes.iter().flat_map(ScopeNode::sources).collect();
        let nodes = main.nodes.iter().enumerate().filter(|(position, node)| {
            is_input(node) && (used.contains(position) || !node.name.starts_with(LEFT_OVER))
        });
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
        let found = outputs::guess(main);
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

/// A main graph with its ports.
struct Reading<'a> {
    main: &'a Scope,
    library: &'a Library,
    inputs: Vec<(String, Source)>,
    outputs: Vec<(String, Source)>,
    producer: i32,
}

impl Reading<'_> {
    fn lower(&self, context: &mut Context<'_>) -> Result<(Graph, BTreeSet<String>)> {
        debug_assert!(std::ptr::eq(self.library, context.library));
        let mut builder = Builder::default();
        let mut names = SymbolNames::default();
        let mut given: HashMap<usize, Vec<Val>> = HashMap::new();
        for (name, source) in &self.inputs {
            let Source::Node(index, output) = *source else { continue };
            let node = self.main.node(index)?;
            let id = self
                .add_input(context, &mut builder, &mut names, name, node)
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
        for ((name, source), value) in self.outputs.iter().zip(values) {
            match value {
                Val::Tensor(value) => {
                    let value = self.output(context, &mut builder, name, *source, value)?;
                    builder.graph.outputs.push(Port { name: name.clone(), value });
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
        let live = state::finish(context, &mut builder)?;
        let graph = prune::prune(builder.graph);
        check::check(&graph)?;
        Ok((graph, live))
    }

    /// A result in the type that the file says.
    fn output(
        &self,
        context: &mut Context<'_>,
        builder: &mut Builder,
        name: &str,
        source: Source,
        value: ValueId,
    ) -> Result<ValueId> {
        let Source::Node(index, output) = source else { return Ok(value) };
        let number = self.main.node(index)?.output_type(output).map(tensor::base);
        if number != Some(tensor::HALF) || builder.ty(value)?.dtype != DType::F32 {
            return Ok(value);
        }
        builder.add_one(&mut context.derived, name, Op::Cast(DType::F16), &[value])
    }

    fn add_input(
        &self,
        context: &mut Context<'_>,
        builder: &mut Builder,
        names: &mut SymbolNames,
        name: &str,
        node: &ScopeNode,
    ) -> Result<ValueId> {
        let placeholder = node.op.starts_with("Placeholder");
        let attrs =
            if placeholder { ["dtype", "dtype", "dtype"] } else { ["dtype", "T", "out_type"] };
        let attr = attrs.into_iter().find(|attr| node.attr(attr).is_some()).unwrap_or("dtype");
        let missing = || Error::malformed(format!("attribute '{attr}' is missing"));
        let &number = node.type_number(attr)?.ok_or_else(missing)?;
        // The caller gives and gets float16; in between it is f32.
        let is_half = tensor::base(number) == tensor::HALF;
        let dtype = if is_half { DType::F16 } else { tensor::dtype(number)? };
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
        context.note_type(number);
        if is_half {
            return builder.add_one(&mut context.derived, name, Op::Cast(DType::F32), &[id]);
        }
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
