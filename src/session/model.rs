//! What a model file says: the fused graph, its inputs and outputs, and what the passes did.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::Key;
use super::stream::index_of;
use crate::error::{Error, Result};
use crate::formats::{self, Format, Loaded};
use crate::graph::{self, Dim, Graph, Port, Symbol};
use crate::passes::{self, Report};
use crate::tensor::{DType, Quantization, TensorView};

/// A model: read, checked, fused. Independent of any device; cloning shares it.
#[derive(Clone, Debug)]
pub struct Model {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    source: Arc<Graph>,
    graph: Arc<Graph>,
    format: Option<Format>,
    reports: Vec<Report>,
    warnings: Vec<String>,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
}

/// What a model says of one of its inputs or outputs.
///
/// Printed as `INPUT: float32 [batch, 28, 28]`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TensorSpec {
    /// Name in the model.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// The axes, outermost first; `None` when even their number is open.
    pub axes: Option<Vec<Axis>>,
    /// How stored numbers map to real ones, for quantized types.
    pub quantization: Option<Quantization>,
}

/// Size of an axis, as a model declares it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Axis {
    /// This many.
    Known(usize),
    /// A size that is the same wherever this name stands: `batch`, `time`, …
    Named(String),
    /// Any size.
    Open,
}

impl Model {
    /// Reads a model file, or a SavedModel folder, and fuses its loops and cells. The format is
    /// known by its magic bytes.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io), [`UnknownFormat`](crate::ErrorKind::UnknownFormat), or what
    /// the reader of the format says: which part of the file is malformed, too large or not
    /// supported.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        Model::open_with(path, &formats::Options::default())
    }

    /// As [`Model::open`], with options: which tensors are inputs and outputs, which signature of a
    /// SavedModel.
    ///
    /// # Errors
    /// As [`Model::open`]; [`InvalidInput`](crate::ErrorKind::InvalidInput) for an option that the
    /// format has no use for.
    pub fn open_with(path: impl AsRef<Path>, options: &formats::Options) -> Result<Model> {
        Model::from_loaded(formats::open_with(path.as_ref(), options)?)
    }

    /// As [`Model::open`], one signature of a SavedModel.
    ///
    /// # Errors
    /// As [`Model::open`]; [`InvalidInput`](crate::ErrorKind::InvalidInput) that lists the
    /// signatures there are.
    pub fn open_signature(path: impl AsRef<Path>, name: &str) -> Result<Model> {
        Model::open_with(path, &formats::Options::new().signature(name))
    }

    /// Reads a model from the bytes of its file.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Model> {
        Model::from_loaded(formats::read(bytes)?)
    }

    /// A model of a graph that a program built, as it is: it is checked, and no pass is run.
    ///
    /// # Errors
    /// [`InvalidGraph`](crate::ErrorKind::InvalidGraph).
    pub fn from_graph(graph: Graph) -> Result<Model> {
        graph::check::check(&graph)?;
        let graph = Arc::new(graph);
        Model::new(graph.clone(), graph, None, Vec::new(), Vec::new())
    }

    fn from_loaded(mut loaded: Loaded) -> Result<Model> {
        graph::check::refine(&mut loaded.graph)?;
        let source = Arc::new(loaded.graph.clone());
        let (graph, reports) = passes::run_all(loaded.graph)?;
        Model::new(source, Arc::new(graph), Some(loaded.format), reports, loaded.warnings)
    }

    fn new(
        source: Arc<Graph>,
        graph: Arc<Graph>,
        format: Option<Format>,
        reports: Vec<Report>,
        warnings: Vec<String>,
    ) -> Result<Model> {
        let specs = |ports: &[Port]| {
            ports.iter().map(|port| TensorSpec::of(&graph, port)).collect::<Result<_>>()
        };
        let (inputs, outputs) = (specs(&graph.inputs)?, specs(&graph.outputs)?);
        Ok(Model {
            inner: Arc::new(Inner { source, graph, format, reports, warnings, inputs, outputs }),
        })
    }

    /// The inputs, in the model's order.
    pub fn inputs(&self) -> &[TensorSpec] {
        &self.inner.inputs
    }

    /// The outputs, in the model's order.
    pub fn outputs(&self) -> &[TensorSpec] {
        &self.inner.outputs
    }

    /// The graph after the passes.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.inner.graph
    }

    /// The graph as the file has it, before the passes.
    pub fn source_graph(&self) -> &Arc<Graph> {
        &self.inner.source
    }

    /// The format of the file; `None` for a graph that a program built.
    pub fn format(&self) -> Option<Format> {
        self.inner.format
    }

    /// What each pass made, and what it left and why.
    pub fn reports(&self) -> &[Report] {
        &self.inner.reports
    }

    /// What the reader wants the user to know: ignored metadata, guessed outputs.
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    /// Whether a stream of this model has state to carry from one run to the next.
    pub fn is_stateful(&self) -> bool {
        !self.inner.graph.states.is_empty()
    }

    /// Position of an input. A position may be written as a name (`"0"`), where no input has that
    /// name: golden files and the command line have names only.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) that lists the names there are.
    pub fn input_index<'k>(&self, key: impl Into<Key<'k>>) -> Result<usize> {
        index_of(&self.inner.inputs, |spec| &spec.name, key.into(), "input")
    }

    /// Position of an output, likewise.
    ///
    /// # Errors
    /// As [`Model::input_index`].
    pub fn output_index<'k>(&self, key: impl Into<Key<'k>>) -> Result<usize> {
        index_of(&self.inner.outputs, |spec| &spec.name, key.into(), "output")
    }

    pub(super) fn check_input(&self, index: usize, given: &TensorView<'_>) -> Result<()> {
        let Some(spec) = self.inner.inputs.get(index) else {
            return Err(Error::internal("an input that is not there"));
        };
        let rank_fits = spec.axes.as_ref().is_none_or(|axes| axes.len() == given.shape().len());
        if spec.dtype == given.dtype() && rank_fits {
            return Ok(());
        }
        let found = format!("{} {:?}", given.dtype(), given.shape());
        Err(Error::input(format!("{} was expected, {found} was given", spec.kind()))
            .within(format!("input `{}`", spec.name)))
    }

    pub(super) fn missing_input(&self, index: usize) -> Error {
        match self.inner.inputs.get(index) {
            Some(spec) => {
                Error::input(format!("input `{}` ({}) was not given", spec.name, spec.kind()))
            }
            None => Error::internal("an input that is not there"),
        }
    }
}

impl TensorSpec {
    fn of(graph: &Graph, port: &Port) -> Result<TensorSpec> {
        let value =
            graph.get(port.value).ok_or_else(|| Error::internal("a port without a value"))?;
        let axis = |dim: &Dim| match *dim {
            Dim::Known(size) => Axis::Known(size),
            Dim::Symbol(Symbol(index)) => {
                graph.symbols.get(index as usize).cloned().map_or(Axis::Open, Axis::Named)
            }
            Dim::Unknown => Axis::Open,
        };
        Ok(TensorSpec {
            name: port.name.clone(),
            dtype: value.ty.dtype,
            axes: value.ty.shape.as_ref().map(|shape| shape.iter().map(axis).collect()),
            quantization: value.ty.quantization.clone(),
        })
    }

    /// Type and shape without the name: `float32 [batch, 28, 28]`.
    pub fn kind(&self) -> String {
        format!("{} {}", self.dtype, self.shape_text())
    }

    /// The shape as text: `[batch, 28, 28]`.
    pub fn shape_text(&self) -> String {
        match &self.axes {
            Some(axes) => {
                let axes: Vec<String> = axes.iter().map(ToString::to_string).collect();
                format!("[{}]", axes.join(", "))
            }
            None => "of any rank".to_owned(),
        }
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.kind())
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Axis::Known(size) => write!(f, "{size}"),
            Axis::Named(name) => f.write_str(name),
            Axis::Open => f.write_str("?"),
        }
    }
}
