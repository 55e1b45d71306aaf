//! placeholder
use super::operands::Operands;
use crate::error::{Error, Result};
use crate::graph::Recurrent;
use crate::tensor::Tensor;
pub(super) fn recurrent(_layer: &Recurrent, _operands: &Operands<'_>) -> Result<Vec<Option<Tensor>>> {
    Err(Error::unsupported("recurrent"))
}
