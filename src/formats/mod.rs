//! File formats: bytes to a graph, a graph to bytes. A format is known by its magic bytes, never by the file's name alone.

pub mod keras;
pub mod tensorflow;
pub mod tflite;

use std::fs;
use std::path::Path;

use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph::Graph;

/// Largest file that is read into memory.
const MOST_BYTES: u64 = 1 << 31;

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

/// Reads a model from bytes, by what they begin with.
///
/// # Errors
/// [`UnknownFormat`](crate::ErrorKind::UnknownFormat), or the reader's own.
pub fn read(bytes: &[u8]) -> Result<Loaded> {
    if tflite::recognises(bytes) {
        return loaded(Format::Tflite, tflite::read(bytes));
    }
    if bytes.starts_with(keras::ZIP_MAGIC) {
        return loaded(Format::Keras, keras::read_archive(bytes));
    }
    if bytes.starts_with(keras::HDF5_MAGIC) {
        return loaded(Format::KerasH5, keras::read_h5(bytes));
    }
    if tensorflow::recognises(bytes) {
        return loaded(Format::GraphDef, tensorflow::read(bytes, &tensorflow::Options::default()));
    }
    Err(unknown(bytes))
}

fn loaded(format: Format, read: Result<(Graph, Vec<String>)>) -> Result<Loaded> {
    read.map(|(graph, warnings)| Loaded { graph, format, warnings })
}

/// Reads a model from a file, or from the folder of a SavedModel.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) when the path cannot be read, or as [`read`]; the path stands in front of the error's place.
pub fn open(path: &Path) -> Result<Loaded> {
    open_unplaced(path).within(|| path.display().to_string())
}

fn open_unplaced(path: &Path) -> Result<Loaded> {
    let about = fs::metadata(path)?;
    if about.is_dir() {
        if path.join("saved_model.pb").is_file() {
            return loaded(Format::SavedModel, tensorflow::open_saved_model(path, &tensorflow::Options::default()));
        }
        return Err(Error::new(ErrorKind::UnknownFormat, "a folder without saved_model.pb"));
    }
    if !about.is_file() {
        return Err(Error::new(ErrorKind::Io, "is not a file"));
    }
    if about.len() > MOST_BYTES {
        return Err(Error::limit(format!("the file has {} bytes, over the limit of {MOST_BYTES}", about.len())));
    }
    read(&fs::read(path)?)
}

/// What the bytes begin with, for a person to recognise.
fn unknown(bytes: &[u8]) -> Error {
    let seen = match bytes {
        [] => "the file is empty".to_owned(),
        _ if bytes.len() < 8 => "the file is shorter than eight bytes".to_owned(),
        _ => format!("the file begins with {:02x?}", bytes.get(..8).unwrap_or(bytes)),
    };
    Error::new(ErrorKind::UnknownFormat, format!("{seen}: no known model format"))
}
