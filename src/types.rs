//! The types that the functions of [`Model`](crate::Model), [`Session`](crate::Session) and
//! [`Tensor`](crate::Tensor) take and return: options, what a model declares, what was counted.

pub use crate::backend::ceilings::{Bandwidth, Ceilings};
pub use crate::backend::{
    AdapterSelector, Choice, Counters, InstructionSet, PhaseTimes, Precision, Product, Strategy,
    Trial, Tuning,
};
#[cfg(feature = "tflite")]
pub use crate::convert::{Converted, Options as WriteOptions, Quantize};
pub use crate::formats::{Format, Options as ReadOptions};
pub use crate::limits::{Cancel, RunOptions};
pub use crate::passes::{Declined, Report};
pub use crate::session::{AsKey, AsView, Axis, DeviceReport, Inputs, Key, TensorSpec};
#[cfg(feature = "npz")]
pub use crate::tensor::npz;
pub use crate::tensor::{Element, Quantization};
