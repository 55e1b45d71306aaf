//! Types of values: element type, symbolic shape, quantization.

use std::fmt;

use crate::tensor::{DType, Quantization};

/// A size that a graph was given by name, such as `batch`: an index into
/// [`Graph::symbols`](super::Graph::symbols).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol(pub u32);

impl Symbol {
    /// Position in [`Graph::symbols`](super::Graph::symbols).
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Size of one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// This many.
    Known(usize),
    /// A size that is the same wherever this symbol stands, known when the model runs.
    Symbol(Symbol),
    /// Some size that is known when the model runs.
    Unknown,
}

impl Dim {
    /// The size, when it is known.
    pub fn known(self) -> Option<usize> {
        match self {
            Dim::Known(size) => Some(size),
            Dim::Symbol(_) | Dim::Unknown => None,
        }
    }

    /// Whether both may be the same size.
    pub fn agrees_with(self, other: Dim) -> bool {
        match (self, other) {
            (Dim::Known(a), Dim::Known(b)) => a == b,
            _ => true,
        }
    }

    /// The more exact one of two that agree.
    #[must_use]
    pub fn refined_by(self, other: Dim) -> Dim {
        match (self, other) {
            (Dim::Known(_), _) => self,
            (_, Dim::Known(_)) => other,
            (Dim::Symbol(_), _) => self,
            (Dim::Unknown, _) => other,
        }
    }
}

/// What is known of a value before the model runs.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueType {
    /// Element type.
    pub dtype: DType,
    /// Sizes of the axes, outermost first; `None` when even the rank is unknown.
    pub shape: Option<Vec<Dim>>,
    /// How stored numbers map to real ones, for quantized types.
    pub quantization: Option<Quantization>,
}

impl ValueType {
    /// A type whose sizes are all known.
    pub fn fixed(dtype: DType, shape: &[usize]) -> Self {
        ValueType {
            dtype,
            shape: Some(shape.iter().map(|&n| Dim::Known(n)).collect()),
            quantization: None,
        }
    }

    /// A type of symbolic shape.
    pub fn symbolic(dtype: DType, shape: Vec<Dim>) -> Self {
        ValueType { dtype, shape: Some(shape), quantization: None }
    }

    /// A type of unknown rank.
    pub fn unranked(dtype: DType) -> Self {
        ValueType { dtype, shape: None, quantization: None }
    }

    /// The sizes, when all of them are known.
    pub fn known_shape(&self) -> Option<Vec<usize>> {
        self.shape.as_ref()?.iter().map(|dim| dim.known()).collect()
    }

    /// The rank, when it is known.
    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(size) => write!(f, "{size}"),
            Dim::Symbol(Symbol(index)) => write!(f, "s{index}"),
            Dim::Unknown => f.write_str("?"),
        }
    }
}
