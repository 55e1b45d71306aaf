//! From a graph to the bytes of a `.tflite` file.
//!
//! 1. What TensorFlow Lite has no operator for is rewritten with those it has ([`lower`]): a
//!    direction that runs backwards alone becomes `REVERSE_V2`, the forward operator, `REVERSE_V2`;
//!    a GRU and every other cell that no fused operator computes becomes a `WHILE` ([`lower`] says
//!    how and why).
//! 2. Every node becomes an operator ([`plain`], [`recurrent`]), of the smallest version that says
//!    what it does.
//! 3. The records become a flatbuffer ([`file`]).
//!
//! # States
//! A fused operator keeps its states in variable tensors, which live from one run to the next. A
//! state of the graph is such a tensor. A recurrent op whose initial state is *not* a state of the
//! graph gets a variable tensor of its own, into which an ordinary operator writes the initial
//! value (or the zeros) at the beginning of every run; so a model that was stateless stays
//! stateless. The final state is what the tensor holds after the operator, and ordinary operators
//! read it there.

mod basic;
mod build;
mod emit;
mod file;
mod fits;
mod lower;
mod plain;
mod recurrent;
mod sizes;
mod step_loop;
mod weights;
mod window;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::graph::check::check;

pub(crate) use sizes::count_loops;
use sizes::{Shape, Sizes};

/// A written file.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) bytes: Vec<u8>,
    /// The graph as it was written.
    pub(crate) graph: Graph,
    pub(crate) warnings: Vec<String>,
}

/// Writes a graph. `inputs`: the shape of each input, `None` for a size that the caller of the file
/// may choose.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) with the node and the reason when TensorFlow Lite
/// cannot say what the graph does; [`Limit`](crate::ErrorKind::Limit) when the file would pass 2
/// GiB.
pub(crate) fn write(graph: &Graph, inputs: &[Shape]) -> Result<Written> {
    let graph = Arc::new(graph.clone());
    let sizes = Sizes::new(&graph, inputs)?;
    let mut warnings = Vec::new();
    // The second time for what the first one made.
    let lowered = Arc::new(lower::lower(&graph, &sizes)?);
    let sizes = Sizes::new(&lowered, inputs)?;
    let lowered = Arc::new(lower::lower(&lowered, &sizes)?);
    check(&lowered)?;
    let sizes = Sizes::new(&lowered, inputs)?;
    let mut file = file::File::new(format!("fuselstm {}", env!("CARGO_PKG_VERSION")));
    let weight_bytes: usize = lowered
        .values
        .iter()
        .filter_map(|value| value.constant.as_ref())
        .map(|tensor| tensor.byte_len())
        .sum();
    if weight_bytes > file::MOST_BYTES {
        return Err(Error::limit(format!(
            "the constants take {weight_bytes} bytes, a file holds {}",
            file::MOST_BYTES
        )));
    }
    emit::main(&mut file, &lowered, &sizes, &mut warnings)?;
    let about =
        format!("{{\"writer\":\"fuselstm\",\"version\":\"{}\"}}", env!("CARGO_PKG_VERSION"));
    let buffer = file.buffer(about.into_bytes());
    file.metadata.push(("fuselstm".to_owned(), buffer));
    let bytes = file.serialize();
    if bytes.len() > file::MOST_BYTES {
        return Err(Error::limit(format!(
            "the file has {} bytes, the format holds {}",
            bytes.len(),
            file::MOST_BYTES
        )));
    }
    let graph = Arc::unwrap_or_clone(lowered);
    Ok(Written { bytes, graph, warnings })
}
