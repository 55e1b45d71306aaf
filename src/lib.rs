//! fuselstm reads recurrent models as people have them, fuses their loops and cells into single recurrent ops, and runs
//! them on any GPU through wgpu, on the processor, and on a plain reference path that judges both.

pub mod backend;
pub mod convert;
mod error;
pub mod eval;
pub mod formats;
pub mod graph;
pub mod measure;
pub mod passes;
pub mod plan;
mod session;
pub mod tensor;

pub use error::{Error, ErrorKind, Result};
pub use session::{Axis, Device, DeviceReport, Model, Outputs, Session, SessionBuilder, Stream, TensorSpec, devices};
pub use tensor::{DType, Element, Tensor};
