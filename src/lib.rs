//! fuselstm reads recurrent models as people have them, fuses their loops and cells into single
//! recurrent ops, and runs them on any GPU through wgpu, on the processor, and on a plain reference
//! path that judges both.
//!
//! This page walks through a whole use: load, inspect, run, stream, compare.
//!
//! ```
//! use fuselstm::{Device, Model, Session, Tensor};
//!
//! let model = Model::open("examples/data/digits.tflite")?;
//! println!("{}", model.inputs()[0]); // INPUT: float32 [1, 28, 28]
//! let session = Session::new(&model, Device::auto())?;
//! let image = Tensor::from_vec(&[1, 28, 28], vec![0.0f32; 28 * 28])?;
//! let outputs = session.run(&[("INPUT", &image)])?;
//! let scores = outputs["OUTPUT_CLASS"].as_slice::<f32>()?;
//! assert_eq!(scores.len(), 10);
//! # Ok::<(), fuselstm::Error>(())
//! ```
//!
//! # Load
//!
//! [`Model::open`] takes a file, or the folder of a SavedModel; [`Model::from_bytes`] takes what is
//! in memory already. The format is known by its first bytes: TensorFlow Lite, TensorFlow GraphDef
//! and SavedModel, Keras archives and HDF5 files, ONNX. Whatever a file is, loading ends in a model
//! or in an [`Error`] that says which part of the file is wrong, too large or not supported; it
//! never panics, and never opens anything else that the file names.
//!
//! # Inspect
//!
//! [`Model::inputs`] and [`Model::outputs`] tell names, types and shapes, open sizes by their name.
//! [`Model::graph`] is the fused graph and prints as text; [`Model::reports`] says what each
//! rewrite made, and what it declined and why.
//!
//! ```
//! # let model = fuselstm::Model::open("examples/data/digits.tflite")?;
//! print!("{}", model.graph());
//! for report in model.reports() {
//!     report.declined.iter().for_each(|left| println!("{}: {}", left.what, left.reason));
//! }
//! # Ok::<(), fuselstm::Error>(())
//! ```
//!
//! # Run
//!
//! A [`Session`] is a model on a [`Device`]. It may be cloned and shared between threads: each run
//! takes a compiled program from a pool, so that a second run with inputs of the same shapes plans,
//! compiles and (on a GPU) allocates nothing. Batch size and number of steps may differ from run to
//! run, also where the file was written for one batch size, as long as every op can follow.
//! [`Session::run_async`] is the same without blocking, in any async runtime or none.
//!
//! Inputs are [pairs of a name or a position and a tensor](types::Inputs), tensors in the model's
//! order, or one tensor alone; a [`TensorView`] is one over numbers that are elsewhere. A run can be
//! [bounded in time and memory, or called off](types::RunOptions).
//!
//! # Stream
//!
//! [`Session::run`] starts from the reset state every time. A [`Stream`] keeps the state (the
//! variable tensors of a TFLite file) from one run to the next, so that a sequence may come in
//! pieces:
//!
//! ```
//! # use fuselstm::{Device, DType, Model, Outputs, Session, Tensor};
//! # let session = Session::new(&Model::open("examples/data/digits.tflite")?, Device::cpu())?;
//! # let pieces = vec![Tensor::zeros(DType::F32, &[1, 28, 28])?];
//! let mut stream = session.stream();
//! let mut outputs = Outputs::default();
//! for piece in &pieces {
//!     stream.run_into(&[("INPUT", piece)], &mut outputs)?; // writes into the same memory every time
//! }
//! stream.reset();
//! # Ok::<(), fuselstm::Error>(())
//! ```
//!
//! # Compare
//!
//! `reference` computes every float op in f64 and rounds once a step; hybrid and integer models it
//! computes as TFLite does, bit for bit. [`measure::crosscheck`] holds other devices against it, or
//! all of them against stored results, and says where they differ most:
//!
//! ```
//! use fuselstm::measure::{Tolerance, compare::compare};
//! # use fuselstm::{Device, DType, Model, Session, Tensor};
//! # let model = Model::open("examples/data/digits.tflite")?;
//! # let image = Tensor::zeros(DType::F32, &[1, 28, 28])?;
//! let expected = Session::new(&model, Device::reference())?.run(&image)?;
//! let actual = Session::new(&model, Device::cpu())?.run(&image)?;
//! let distance = compare(&expected["LOGITS"], &actual["LOGITS"], Tolerance::DEVICE, &[])?;
//! assert!(distance.holds(), "off by {} at {:?}", distance.max_abs, distance.worst);
//! # Ok::<(), fuselstm::Error>(())
//! ```
//!
//! The command `fuselstm crosscheck` does the same from a shell.
//!
//! # Supported ops
//!
//! Every op runs on every device: what has no kernel on the GPU is computed on the host between the
//! GPU's parts, and [`Session::notes`] names it. The exceptions stand in the table.
//!
//! | op | kinds |
//! |---|---|
//! | `Recurrent` | LSTM (peephole, coupled gates, projection, layer norm, diagonal, clips), GRU (reset before and after), plain cell; forward, reverse, both; lengths and masks; float, hybrid and integer |
//! | `Svdf` | any rank; float, hybrid and integer |
//! | `FullyConnected`, `MatMul`, `Conv2d` | float, hybrid and integer; convolutions in groups and with any padding |
//! | `Pool2d` | maximum and average |
//! | `Unary`, `Binary`, `Activation`, `Softmax`, `Select` | element-wise, with broadcasting |
//! | `Reduce`, `ArgMax` | sum, mean, product, maximum, minimum, any, all |
//! | `Cast`, `Quantize`, `Dequantize` | |
//! | `Transpose`, `Reshape`, `Squeeze`, `ExpandDims`, `BroadcastTo`, `Tile`, `Pad` | |
//! | `Slice`, `StridedSlice`, `Gather`, `Reverse`, `ReverseSequence` | |
//! | `Pack`, `Unpack`, `Split`, `Concat`, `SetItem` | |
//! | `Shape`, `Fill`, `Range` | usually known when the run is planned |
//! | `While` | loops that no pass could fuse |
//! | `Custom` | carried and written, not run |

mod backend;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "tflite")]
mod convert;
mod error;
mod eval;
#[cfg(any(feature = "tflite", feature = "npz"))]
mod files;
mod formats;
pub mod graph;
#[doc(hidden)]
pub mod internal;
mod limits;
pub mod measure;
mod passes;
mod plan;
mod session;
mod tensor;
mod text;
pub mod types;

pub use error::{Error, ErrorKind, Result};
pub use session::{Device, Model, Outputs, Session, SessionBuilder, Stream};
pub use tensor::{DType, Tensor, TensorView};

/// The example of the README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    /// The table in the crate's documentation names every op there is, and nothing else.
    #[test]
    fn the_table_of_ops_is_complete() {
        let declared = include_str!("graph/op.rs")
            .split_once("pub enum Op {")
            .unwrap()
            .1
            .split_once("\n}")
            .unwrap()
            .0;
        let mut ops: Vec<&str> = declared
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with(char::is_uppercase))
            .map(|line| line.split(['(', ',']).next().unwrap())
            .collect();
        let documentation = include_str!("lib.rs").split_once("# Supported ops").unwrap().1;
        let rows = documentation.lines().skip(1).take_while(|line| line.starts_with("//!"));
        let cells = rows
            .filter_map(|line| line.strip_prefix("//! | `"))
            .map(|row| row.split('|').next().unwrap());
        let mut named: Vec<&str> =
            cells.flat_map(|cell| cell.split(',')).map(|op| op.trim().trim_matches('`')).collect();
        ops.sort_unstable();
        named.sort_unstable();
        assert_eq!(ops, named);
    }
}
