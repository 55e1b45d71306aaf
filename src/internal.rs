//! Everything behind the public face, for the tests, benchmarks and examples of this crate. It may
//! change with any version.

/// Devices that run plans.
pub mod backend {
    pub use crate::backend::*;
}

/// Quantization on the way to a file.
#[cfg(feature = "tflite")]
pub mod convert {
    pub use crate::convert::*;
}

/// The meaning of every op.
pub mod eval {
    pub use crate::eval::*;
}

/// Readers and writers.
pub mod formats {
    pub use crate::formats::*;
}

/// Rewrites of graphs.
pub mod passes {
    pub use crate::passes::*;
}

/// Shapes, lifetimes and memory of a run.
pub mod plan {
    pub use crate::plan::*;
}

/// Tensors.
pub mod tensor {
    pub use crate::tensor::*;
}

/// Numbers and names as people read them.
pub mod text {
    pub use crate::text::*;
}
