//! From a graph to a `.tflite` file: sizes, quantization, and what is written.

mod calibrate;
mod int8;
mod weights;

use std::path::Path;

use crate::error::{Error, Result};
use crate::files;
use crate::formats::tflite;
use crate::graph::{Dim, Graph, Op};
use crate::session::Model;
use crate::tensor::Tensor;

/// How a model is written.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// Batch size, where the model leaves it open. A fused recurrent operator needs one; without it
    /// the batch is 1, which a warning says.
    pub batch: Option<usize>,
    /// Shapes of inputs by name; `None` for a size that stays open.
    pub shapes: Vec<(String, Vec<Option<usize>>)>,
    /// How weights and activations are stored.
    pub quantize: Quantize,
    /// Samples for [`Quantize::Int8`]: for each run the inputs in the model's order.
    pub calibration: Vec<Vec<Tensor>>,
}

impl Options {
    /// As the model has it.
    pub fn new() -> Options {
        Options::default()
    }

    /// Batch size, where the model leaves it open.
    #[must_use]
    pub fn batch(mut self, rows: usize) -> Options {
        self.batch = Some(rows);
        self
    }

    /// Shape of an input; `None` for a size that stays open.
    #[must_use]
    pub fn shape(mut self, input: impl Into<String>, sizes: Vec<Option<usize>>) -> Options {
        self.shapes.push((input.into(), sizes));
        self
    }

    /// How weights and activations are stored.
    #[must_use]
    pub fn quantize(mut self, quantize: Quantize) -> Options {
        self.quantize = quantize;
        self
    }

    /// Samples for [`Quantize::Int8`]: for each run the inputs in the model's order.
    #[must_use]
    pub fn calibration(mut self, samples: Vec<Vec<Tensor>>) -> Options {
        self.calibration = samples;
        self
    }
}

/// How weights and activations are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Quantize {
    /// As the model has them.
    #[default]
    None,
    /// Weights of 1,024 elements or more as int8 with one scale; activations stay float.
    Dynamic,
    /// Weights as halves; arithmetic stays float.
    Float16,
    /// Weights and activations as int8, cell states as int16; needs calibration samples.
    Int8,
}

/// A written file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Converted {
    /// The bytes of the file.
    pub bytes: Vec<u8>,
    /// Size of the file without quantization.
    pub float_bytes: usize,
    /// The graph that was written, as the file's operators say it.
    pub graph: Graph,
    /// Fused recurrent operators in the file.
    pub recurrent_ops: usize,
    /// Loops in the file.
    pub loops: usize,
    /// What the user should know: sizes that were chosen, weights that were rounded.
    pub warnings: Vec<String>,
}

/// Writes a fused graph as a `.tflite` file.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) with the node and the reason when TensorFlow Lite
/// cannot say what the graph does, [`InvalidInput`](crate::ErrorKind::InvalidInput) for a shape
/// that does not fit an input.
pub fn to_tflite(graph: &Graph, options: &Options) -> Result<Converted> {
    let mut warnings = Vec::new();
    let shapes = input_shapes(graph, options, &mut warnings)?;
    let quantized = match options.quantize {
        Quantize::None => None,
        Quantize::Dynamic => Some(weights::dynamic(graph)?),
        Quantize::Float16 => Some(weights::float16(graph)?),
        // Layers without an integer kernel have int8 weights at least.
        Quantize::Int8 => {
            Some(weights::dynamic(&int8::int8(graph, &options.calibration, &mut warnings)?)?)
        }
    };
    let written = tflite::write(quantized.as_ref().unwrap_or(graph), &shapes)?;
    let float_bytes = match quantized {
        Some(_) => tflite::write(graph, &shapes)?.bytes.len(),
        None => written.bytes.len(),
    };
    warnings.extend(written.warnings);
    Ok(Converted {
        bytes: written.bytes,
        float_bytes,
        recurrent_ops: recurrent_ops(&written.graph),
        loops: tflite::count_loops(&written.graph),
        graph: written.graph,
        warnings,
    })
}

impl Model {
    /// Writes the model as a `.tflite` file with fused recurrent ops, the file whole or not at all,
    /// and says what was written.
    ///
    /// # Errors
    /// Those of [`to_tflite`], and [`Io`](crate::ErrorKind::Io).
    pub fn save_tflite(&self, path: impl AsRef<Path>, options: &Options) -> Result<Converted> {
        let converted = to_tflite(self.graph(), options)?;
        files::write_whole(path.as_ref(), &converted.bytes)?;
        Ok(converted)
    }
}

/// Recurrent ops in a graph and in the loops of it.
fn recurrent_ops(graph: &Graph) -> usize {
    let count = |node: &crate::graph::Node| {
        if let Op::While(lo) = &node.op {
            return recurrent_ops(&lo.condition) + recurrent_ops(&lo.body);
        }
        usize::from(matches!(node.op, Op::Recurrent(_)))
    };
    graph.nodes.iter().map(count).sum()
}

/// The shape of each input: as the options say, else as the model does.
fn input_shapes(
    graph: &Graph,
    options: &Options,
    warnings: &mut Vec<String>,
) -> Result<Vec<Vec<Option<usize>>>> {
    for (name, _) in &options.shapes {
        if !graph.inputs.iter().any(|port| port.name == *name) {
            let names: Vec<&str> = graph.inputs.iter().map(|port| port.name.as_str()).collect();
            return Err(Error::input(format!("no input is called {name:?}; there are {names:?}")));
        }
    }
    let batches = batch_symbols(graph);
    let has_recurrent = recurrent_ops(graph) > 0 || !graph.states.is_empty();
    let (mut shapes, mut chosen) = (Vec::with_capacity(graph.inputs.len()), false);
    for port in &graph.inputs {
        let declared = graph.get(port.value).and_then(|value| value.ty.shape.clone());
        let given =
            options.shapes.iter().find(|(name, _)| *name == port.name).map(|(_, shape)| shape);
        let shape = match (declared, given) {
            (Some(declared), Some(given)) if declared.len() != given.len() => {
                return Err(Error::input(format!(
                    "input {:?}: shape {given:?} was given, the model's has {} axes",
                    port.name,
                    declared.len()
                )));
            }
            (_, Some(given)) => given.clone(),
            (None, None) => {
                return Err(Error::input(format!(
                    "input {:?} has no known rank: give its shape",
                    port.name
                )));
            }
            (Some(declared), None) => {
                let size = |(axis, dim): (usize, &Dim)| match dim {
                    Dim::Known(size) => Some(*size),
                    dim if batches.contains(dim) || (batches.is_empty() && axis == 0) => {
                        chosen |= has_recurrent && options.batch.is_none();
                        options.batch.or(if has_recurrent { Some(1) } else { None })
                    }
                    Dim::Symbol(_) | Dim::Unknown => None,
                };
                declared.iter().enumerate().map(size).collect()
            }
        };
        shapes.push(shape);
    }
    if chosen {
        warnings.push(
            "the batch size was open and is 1 now: a fused operator keeps its state in tensors of a fixed size"
                .to_owned(),
        );
    }
    Ok(shapes)
}

/// The open sizes that are batch sizes: those called so, and those of the batch axis of recurrent
/// ops.
fn batch_symbols(graph: &Graph) -> Vec<Dim> {
    let named = graph.symbols.iter().enumerate().filter(|(_, name)| name.starts_with("batch"));
    let mut found: Vec<Dim> =
        named.map(|(index, _)| Dim::Symbol(crate::graph::Symbol(index as u32))).collect();
    for node in &graph.nodes {
        if let Op::Recurrent(op) = &node.op {
            let axis = usize::from(op.layout == crate::graph::recurrent::Layout::TimeMajor);
            let x = node.input(0).and_then(|x| graph.get(x));
            let dim = x.and_then(|x| x.ty.shape.as_ref()).and_then(|shape| shape.get(axis));
            found.extend(dim.filter(|dim| matches!(dim, Dim::Symbol(_))));
        }
    }
    found
}
