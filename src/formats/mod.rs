//! File formats: bytes to a graph, a graph to bytes. A format is known by its magic bytes, never by
//! the file's name alone.

#[cfg(feature = "tensorflow")]
mod einsum;
#[cfg(feature = "keras")]
pub mod keras;
#[cfg(feature = "onnx")]
pub mod onnx;
#[cfg(feature = "tensorflow")]
pub mod tensorflow;
#[cfg(feature = "tflite")]
pub mod tflite;

use std::fs;
use std::path::Path;

use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph::{Graph, Port, ValueId};

/// Largest file that is read into memory.
const MOST_BYTES: u64 = 1 << 31;

/// The formats that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
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
    /// ONNX model.
    Onnx,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Format::Tflite => "tflite",
            Format::GraphDef => "graphdef",
            Format::SavedModel => "saved_model",
            Format::Keras => "keras",
            Format::KerasH5 => "keras_h5",
            Format::Onnx => "onnx",
        })
    }
}

/// What reading a file yields.
#[derive(Debug)]
pub struct Loaded {
    /// The graph as the file has it, checked; foreign loops and chains not yet fused.
    pub graph: Graph,
    /// The format that was recognized.
    pub format: Format,
    /// What the reader wants the user to know: ignored metadata, guessed outputs.
    pub warnings: Vec<String>,
}

/// What a reader may be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Tensors to take as inputs, by name; empty: those that the file says, for a TensorFlow graph
    /// every placeholder.
    pub inputs: Vec<String>,
    /// Tensors to return, by name; empty: those that the file says, for a TensorFlow graph the
    /// results that nothing else uses and those that its author named.
    pub outputs: Vec<String>,
    /// Signature of a SavedModel; `None`: `serving_default`.
    pub signature: Option<String>,
    /// TensorFlow graphs with OpHint marks: make one custom op of every marked call whose name is
    /// no recurrent layer, instead of the ops that it computes. A custom op can be written, not
    /// run.
    pub custom_ops: bool,
}

impl Options {
    /// What a file says by itself.
    pub fn new() -> Options {
        Options::default()
    }

    /// Tensors to take as inputs, by name.
    #[must_use]
    pub fn inputs<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Options {
        self.inputs = names.into_iter().map(Into::into).collect();
        self
    }

    /// Tensors to return, by name.
    #[must_use]
    pub fn outputs<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Options {
        self.outputs = names.into_iter().map(Into::into).collect();
        self
    }

    /// Signature of a SavedModel.
    #[must_use]
    pub fn signature(mut self, name: impl Into<String>) -> Options {
        self.signature = Some(name.into());
        self
    }

    /// One custom op of every marked call whose name is no recurrent layer.
    #[must_use]
    pub fn custom_ops(mut self) -> Options {
        self.custom_ops = true;
        self
    }
}

/// Reads a model from bytes, by what they begin with.
///
/// # Errors
/// [`UnknownFormat`](crate::ErrorKind::UnknownFormat), or the reader's own.
pub fn read(bytes: &[u8]) -> Result<Loaded> {
    read_with(bytes, &Options::default())
}

/// As [`read`], with options.
///
/// # Errors
/// As [`read`]; [`InvalidInput`](crate::ErrorKind::InvalidInput) for an option that the format has
/// no use for, or a tensor that the model does not have.
pub fn read_with(bytes: &[u8], options: &Options) -> Result<Loaded> {
    let Some(format) = recognize(bytes) else { return Err(unknown(bytes)) };
    if format == Format::GraphDef {
        return read_graph_def(bytes, options);
    }
    let mut model = loaded(format, read_plain(format, bytes))?;
    if options.signature.is_some() || options.custom_ops {
        return Err(Error::input(
            "signatures and custom ops can be chosen in TensorFlow models only",
        ));
    }
    select_ports(&mut model.graph, options)?;
    Ok(model)
}

/// The first bytes of an HDF5 file.
const HDF5_MAGIC: &[u8] = b"\x89HDF\r\n\x1a\n";
/// The first bytes of a zip archive.
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
/// The identifier of a `.tflite` file, behind the offset of its root.
const TFLITE_MAGIC: &[u8] = b"TFL3";

/// The format of a file that begins like this.
fn recognize(bytes: &[u8]) -> Option<Format> {
    match bytes {
        _ if bytes.get(4..8) == Some(TFLITE_MAGIC) => Some(Format::Tflite),
        _ if bytes.starts_with(ZIP_MAGIC) => Some(Format::Keras),
        _ if bytes.starts_with(HDF5_MAGIC) => Some(Format::KerasH5),
        #[cfg(feature = "onnx")]
        _ if onnx::recognizes(bytes) => Some(Format::Onnx),
        #[cfg(feature = "tensorflow")]
        _ if tensorflow::recognizes(bytes) => Some(Format::GraphDef),
        _ => None,
    }
}

/// The formats that take no options of their own.
fn read_plain(format: Format, bytes: &[u8]) -> Result<(Graph, Vec<String>)> {
    match format {
        #[cfg(feature = "tflite")]
        Format::Tflite => tflite::read(bytes),
        #[cfg(feature = "keras")]
        Format::Keras => keras::read_archive(bytes),
        #[cfg(feature = "keras")]
        Format::KerasH5 => keras::read_h5(bytes),
        #[cfg(feature = "onnx")]
        Format::Onnx => onnx::read(bytes),
        other => {
            let _ = bytes;
            Err(absent(other))
        }
    }
}

#[cfg(feature = "tensorflow")]
fn read_graph_def(bytes: &[u8], options: &Options) -> Result<Loaded> {
    loaded(Format::GraphDef, tensorflow::read(bytes, options))
}

#[cfg(not(feature = "tensorflow"))]
fn read_graph_def(_: &[u8], _: &Options) -> Result<Loaded> {
    Err(absent(Format::GraphDef))
}

#[cfg(feature = "tensorflow")]
use tensorflow::is_saved_model;

#[cfg(not(feature = "tensorflow"))]
fn is_saved_model(path: &Path) -> bool {
    path.join("saved_model.pb").is_file()
}

#[cfg(feature = "tensorflow")]
fn open_saved_model(path: &Path, options: &Options) -> Result<Loaded> {
    loaded(Format::SavedModel, tensorflow::open_saved_model(path, options))
}

#[cfg(not(feature = "tensorflow"))]
fn open_saved_model(_: &Path, _: &Options) -> Result<Loaded> {
    Err(absent(Format::SavedModel))
}

/// The refusal of a format whose reader was not built.
fn absent(format: Format) -> Error {
    let feature = match format {
        Format::Tflite => "tflite",
        Format::GraphDef | Format::SavedModel => "tensorflow",
        Format::Keras | Format::KerasH5 => "keras",
        Format::Onnx => "onnx",
    };
    Error::unsupported(format!(
        "this build does not read {format} files (cargo feature `{feature}`)"
    ))
}

/// Keeps the outputs that were asked for, any value of the graph by its name; inputs must be those
/// of the file.
fn select_ports(graph: &mut Graph, options: &Options) -> Result<()> {
    if let Some(name) =
        options.inputs.iter().find(|name| graph.inputs.iter().all(|port| port.name != **name))
    {
        return Err(Error::input(format!("the model has no input '{name}'")));
    }
    let mut outputs = Vec::with_capacity(options.outputs.len());
    for name in &options.outputs {
        let port = graph.outputs.iter().find(|port| port.name == *name).map(|port| port.value);
        let value = || {
            graph
                .values
                .iter()
                .position(|value| value.name == *name)
                .map(|index| ValueId(index as u32))
        };
        let value = port
            .or_else(value)
            .ok_or_else(|| Error::input(format!("the model has no tensor '{name}'")))?;
        outputs.push(Port { name: name.clone(), value });
    }
    if !outputs.is_empty() {
        graph.outputs = outputs;
    }
    Ok(())
}

fn loaded(format: Format, read: Result<(Graph, Vec<String>)>) -> Result<Loaded> {
    read.map(|(graph, warnings)| Loaded { graph, format, warnings })
}

/// Reads a model from a file, or from the folder of a SavedModel.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) when the path cannot be read, or as [`read`]; the path stands in
/// front of the error's place.
pub fn open(path: &Path) -> Result<Loaded> {
    open_with(path, &Options::default())
}

/// As [`open`], with options.
///
/// # Errors
/// As [`open`] and [`read_with`].
pub fn open_with(path: &Path, options: &Options) -> Result<Loaded> {
    open_unplaced(path, options).within(|| path.display().to_string())
}

fn open_unplaced(path: &Path, options: &Options) -> Result<Loaded> {
    let about = fs::metadata(path)?;
    if about.is_dir() {
        if is_saved_model(path) {
            return open_saved_model(path, options);
        }
        return Err(Error::new(ErrorKind::UnknownFormat, "a folder without saved_model.pb"));
    }
    if !about.is_file() {
        return Err(Error::new(ErrorKind::Io, "is not a file"));
    }
    if about.len() > MOST_BYTES {
        return Err(Error::limit(format!(
            "the file has {} bytes, over the limit of {MOST_BYTES}",
            about.len()
        )));
    }
    read_with(&fs::read(path)?, options)
}

/// What the bytes begin with, for a person to recognize.
fn unknown(bytes: &[u8]) -> Error {
    let seen = match bytes {
        [] => "the file is empty".to_owned(),
        _ if bytes.len() < 8 => "the file is shorter than eight bytes".to_owned(),
        _ => format!("the file begins with {:02x?}", bytes.get(..8).unwrap_or(bytes)),
    };
    Error::new(ErrorKind::UnknownFormat, format!("{seen}: no known model format"))
}
