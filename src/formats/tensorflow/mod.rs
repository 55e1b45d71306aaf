//! TensorFlow: frozen graphs (GraphDef, binary or text) and SavedModel folders.
//!
//! A graph's nodes become ops one by one; loops of either kind become
//! [`Op::While`](crate::graph::Op::While), lists of tensors dense tensors, function calls the
//! bodies of the functions. What layers these nodes make up is found later, by the passes.

mod attributes;
pub(super) mod build;
mod bundle;
mod cells;
mod conditionals;
mod control;
mod effects;
mod elementwise;
mod folder;
mod frames;
mod growth;
mod hints;
mod library;
pub(super) mod limits;
mod linear;
mod lists;
mod lower;
mod messages;
mod movement;
mod outputs;
pub(super) mod prune;
mod read;
mod saved_model;
mod scope;
mod state;
mod step;
mod stub;
mod tensor;
mod text;
mod windows;

use prost::Message;

pub use saved_model::{is_saved_model, open_saved_model};

use self::messages::GraphDef;
use self::read::Read;
use self::step::NoVariables;
use super::Options;
use crate::error::{Error, Result};
use crate::graph::Graph;

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
