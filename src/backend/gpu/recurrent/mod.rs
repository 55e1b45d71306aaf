//! The recurrent layer on the GPU.

use super::record::Recorder;
use crate::error::{Error, Result};
use crate::graph::{Node, Recurrent};

/// Records a recurrent layer.
pub(super) fn record(_ctx: &mut Recorder<'_>, _node: &Node, _layer: &Recurrent) -> Result<()> {
    Err(Error::unsupported("the recurrent kernels are not written yet"))
}
