//! SavedModel folders: a graph with a function library, signatures that name inputs and outputs,
//! and a bundle of variables.

use std::collections::HashMap;
use std::path::Path;

use prost::Message;

use super::bundle::Bundle;
use super::folder;
use super::library::Library;
use super::limits;
use super::messages::{
    Attr, MetaGraphDef, SavedModel, SignatureDef, TensorInfo, TrackableObjectGraph,
};
use super::read::{NamedTensor, Ports, Read};
use super::scope::{Scope, ScopeNode, Source};
use super::step::Variables;
use crate::error::{Error, Place, Result};
use crate::formats::Options;
use crate::graph::Graph;
use crate::tensor::Tensor;

/// Largest `saved_model.pb` that is read.
const MOST_BYTES: u64 = 1 << 31;

/// The file that makes a folder a SavedModel.
const FILE: &str = "saved_model.pb";

/// Key of the description of a checkpoint's objects.
const OBJECT_GRAPH: &str = "_CHECKPOINTABLE_OBJECT_GRAPH";

/// Whether a folder holds a SavedModel.
pub fn is_saved_model(folder: &Path) -> bool {
    folder::has(folder, FILE)
}

/// Reads a SavedModel folder; also returns what the user should know.
///
/// Inputs and outputs are those of the signature, in the order of their names.
///
/// # Errors
/// As reading a GraphDef, and [`Io`](crate::ErrorKind::Io) when a file of the folder is missing.
pub fn open_saved_model(folder: &Path, options: &Options) -> Result<(Graph, Vec<String>)> {
    let (graph, ports) = read_model(folder, options)?;
    let graph_def =
        graph.graph_def.ok_or_else(|| Error::malformed("there is no graph").within(FILE))?;
    let read = Read { options, ports };
    read.graph(graph_def, |main, library| Ok(Box::new(Stored::find(folder, main, library)?)))
}

/// The graph for inference, and the ports of the signature.
fn read_model(folder: &Path, options: &Options) -> Result<(MetaGraphDef, Option<Ports>)> {
    let bytes = folder::read(folder, FILE, MOST_BYTES)?;
    decode(&bytes, options).within(|| FILE)
}

fn decode(bytes: &[u8], options: &Options) -> Result<(MetaGraphDef, Option<Ports>)> {
    check_size(bytes)?;
    let model = SavedModel::decode(bytes)
        .map_err(|error| Error::malformed("the SavedModel cannot be decoded").with_source(error))?;
    let is_serving = |graph: &MetaGraphDef| {
        graph.meta_info_def.as_ref().is_some_and(|info| info.tags.iter().any(|tag| tag == "serve"))
    };
    let mut graphs = model.meta_graphs;
    let position = graphs.iter().position(is_serving).unwrap_or(0);
    if graphs.is_empty() {
        return Err(Error::malformed("the SavedModel has no graph"));
    }
    let mut graph = graphs.swap_remove(position);
    if !options.outputs.is_empty() {
        return Ok((graph, None));
    }
    let signature = signature(&mut graph, options.signature.as_deref())?;
    Ok((graph, Some(signature)))
}

/// Counts nodes before anything is allocated for them.
fn check_size(bytes: &[u8]) -> Result<()> {
    let mut result = Ok(());
    limits::for_each_field(bytes, |field, meta_graph| {
        if field == 2 {
            limits::for_each_field(meta_graph, |field, graph| {
                if field == 2 && result.is_ok() {
                    result = limits::check_node_count(graph);
                }
            });
        }
    });
    result
}

/// The asked signature; without a name `serving_default`, or the only one.
fn signature(graph: &mut MetaGraphDef, asked: Option<&str>) -> Result<Ports> {
    /// What savers call the signature that a server runs when none is asked for.
    const DEFAULT: &str = "serving_default";
    // Keras stores a call that only initializes as one more signature.
    let mut all: Vec<String> =
        graph.signature_def.keys().filter(|name| !name.starts_with("__")).cloned().collect();
    all.sort();
    let name = match (asked, all.as_slice()) {
        (Some(name), _) => name.to_owned(),
        (None, [only]) => only.clone(),
        (None, _) => DEFAULT.to_owned(),
    };
    let signature = graph.signature_def.remove(&name).ok_or_else(|| match (asked, all.len()) {
        (_, 0) => Error::unsupported(
            "the model has no signature: save it with one, or name the tensors that are its outputs",
        ),
        (None, _) => Error::input(format!(
            "the model has several signatures and none is '{DEFAULT}'; choose one of: {}",
            all.join(", ")
        )),
        (Some(_), _) => Error::input(format!(
            "there is no signature '{name}'; there are: {}",
            all.join(", ")
        )),
    })?;
    ports(signature).within(|| format!("signature '{name}'"))
}

fn ports(signature: SignatureDef) -> Result<Ports> {
    let sorted = |tensors: HashMap<String, TensorInfo>| -> Result<Vec<NamedTensor>> {
        let mut named = Vec::with_capacity(tensors.len());
        for (name, info) in tensors {
            if info.name.is_empty() {
                return Err(Error::unsupported(format!("'{name}' is no dense tensor")));
            }
            named.push(NamedTensor { name, tensor: info.name });
        }
        named.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(named)
    };
    let ports = Ports { inputs: sorted(signature.inputs)?, outputs: sorted(signature.outputs)? };
    if ports.outputs.is_empty() {
        return Err(Error::malformed("the signature has no outputs"));
    }
    Ok(ports)
}

/// The variables of a SavedModel.
struct Stored {
    bundle: Option<Bundle>,
    /// Key in the bundle, by variable.
    keys: HashMap<String, String>,
}

impl Stored {
    fn find(folder: &Path, main: &Scope, library: &Library) -> Result<Stored> {
        // A model without variables may be stored without the folder.
        let Some(bundle) = Bundle::open(folder, "variables/variables")? else {
            return Ok(Stored { bundle: None, keys: HashMap::new() });
        };
        let mut keys = HashMap::new();
        if bundle.has(OBJECT_GRAPH) {
            object_keys(&bundle, &mut keys).within(|| "the objects of the checkpoint")?;
        }
        restored_keys(main, None, main, &mut keys);
        for node in &main.nodes {
            let Ok(Some(function)) = node.function("f") else { continue };
            if is_restore(library, &function.name) {
                restored_keys(&*library.get(&function.name)?, Some(node), main, &mut keys);
            }
        }
        Ok(Stored { bundle: Some(bundle), keys })
    }
}

impl Variables for Stored {
    fn read(&self, name: &str) -> Result<Tensor> {
        let bundle = self.bundle.as_ref().ok_or_else(|| {
            Error::new(crate::error::ErrorKind::Io, "the folder has no variables/variables.index")
        })?;
        let key = self.keys.get(name).map_or(name, String::as_str);
        bundle.read(key)
    }
}

/// Keys by the full names that the checkpoint's objects had.
fn object_keys(bundle: &Bundle, keys: &mut HashMap<String, String>) -> Result<()> {
    let bytes = bundle.bytes(OBJECT_GRAPH)?;
    // A string tensor: the length of its one string, a checksum of the lengths (4 bytes), the
    // string.
    let mut rest = bytes.as_slice();
    let graph = limits::varint(&mut rest).and_then(|_| rest.get(4..)).unwrap_or_default();
    let graph = TrackableObjectGraph::decode(graph)
        .map_err(|error| Error::malformed("they cannot be decoded").with_source(error))?;
    for attribute in graph.nodes.into_iter().flat_map(|node| node.attributes) {
        if !attribute.full_name.is_empty() && bundle.has(&attribute.checkpoint_key) {
            keys.insert(attribute.full_name, attribute.checkpoint_key);
        }
    }
    Ok(())
}

/// Whether a function restores variables.
fn is_restore(library: &Library, name: &str) -> bool {
    library.functions().any(|(function, def)| {
        function == name && def.node_def.iter().any(|node| node.op == "RestoreV2")
    })
}

/// Keys by what the model's own restore code assigns to each variable: in the main graph, or in a
/// function that `call` calls.
fn restored_keys(
    scope: &Scope,
    call: Option<&ScopeNode>,
    main: &Scope,
    keys: &mut HashMap<String, String>,
) {
    for assign in
        scope.nodes.iter().filter(|node| matches!(node.op.as_str(), "AssignVariableOp" | "Assign"))
    {
        if let Some((variable, key)) = restored(scope, assign, call, main) {
            keys.insert(variable, key);
        }
    }
}

fn restored(
    scope: &Scope,
    assign: &ScopeNode,
    call: Option<&ScopeNode>,
    main: &Scope,
) -> Option<(String, String)> {
    let variable = match (scope.resolve(*assign.inputs.first()?), call) {
        (Source::Arg(position), Some(call)) => main.resolve(*call.inputs.get(position)?),
        (source @ Source::Node(..), None) => source,
        _ => return None,
    };
    let Source::Node(variable, _) = variable else { return None };
    let Source::Node(restore, output) = scope.resolve(*assign.inputs.get(1)?) else { return None };
    let restore = scope.nodes.get(restore).filter(|node| node.op == "RestoreV2")?;
    let Source::Node(names, _) = scope.resolve(*restore.inputs.get(1)?) else { return None };
    let Some(Attr::Tensor(names)) = scope.nodes.get(names)?.attr("value") else { return None };
    let key = String::from_utf8(names.string_val.get(output)?.clone()).ok()?;
    let node = main.nodes.get(variable)?;
    let shared = node.text("shared_name").ok().flatten().filter(|name| !name.is_empty());
    let name = if node.op == "VarHandleOp" { shared.unwrap_or(&node.name) } else { &node.name };
    Some((name.to_owned(), key))
}
