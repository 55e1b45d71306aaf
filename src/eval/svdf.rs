//! placeholder
use super::operands::Operands;
use crate::error::{Error, Result};
use crate::graph::op::Svdf;
use crate::tensor::Tensor;
pub(super) fn svdf(_layer: &Svdf, _operands: &Operands<'_>) -> Result<Vec<Option<Tensor>>> {
    Err(Error::unsupported("svdf"))
}
