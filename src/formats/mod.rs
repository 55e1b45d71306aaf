//! File formats: bytes to a graph, a graph to bytes. A format is known by its magic bytes, never by the file's name alone.

pub mod keras;
pub mod tflite;

use crate::error::Result;
use crate::graph::Graph;

/// The formats that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// TensorFlow Lite flatbuffer.
    Tflite,
    /// TensorFlow GraphDef, binary or text.
    GraphDef,
    /// TensorFlow SavedModel folder.
    SavedModel,
    /// Keras 3 archive.
    Keras,
    /// Keras HDF5 file with its configuration.
    KerasH5,
}

/// What reading a file yields.
#[derive(Debug)]
pub struct Loaded {
    /// The graph as the file has it, checked; foreign loops and chains not yet fused.
    pub graph: Graph,
    /// The format that was recognised.
    pub format: Format,
    /// What the reader wants the user to know: ignored metadata, guessed outputs.
    pub warnings: Vec<String>,
}

/// Reads a model from bytes.
///
/// # Errors
/// [`UnknownFormat`](crate::ErrorKind::UnknownFormat), or the reader's own.
pub fn read(bytes: &[u8]) -> Result<Loaded> {
    if bytes.starts_with(keras::ZIP_MAGIC) {
        let (graph, warnings) = keras::read_archive(bytes)?;
        return Ok(Loaded { graph, format: Format::Keras, warnings });
    }
    if bytes.starts_with(keras::HDF5_MAGIC) {
        let (graph, warnings) = keras::read_h5(bytes)?;
        return Ok(Loaded { graph, format: Format::KerasH5, warnings });
    }
    let graph = tflite::read(bytes)?;
    Ok(Loaded { graph, format: Format::Tflite, warnings: Vec::new() })
}
