//! Which function reads which op.

use super::lower::domain;
use super::messages::NodeProto;
use super::step::{Outputs, Step};
use super::{
    control, elementwise, functions, linear, movement, quantized, ranking, recurrent, reduce,
    sequences,
};
use crate::error::{Error, Result};

/// Microsoft's own operators, of which a few are read.
pub const MICROSOFT: &str = "com.microsoft";

/// Refuses a node of a domain that is not known, whether its results are needed or not.
pub fn check_domain(node: &NodeProto, is_function: bool) -> Result<()> {
    if is_function || matches!(domain(node), "" | MICROSOFT) {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "the op '{}' of domain '{}', and the model has no function of that name",
        node.op_type, node.domain
    )))
}

/// The results of a node.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Outputs> {
    if let Some(outputs) = functions::call(step)? {
        return Ok(outputs);
    }
    let (domain, op) = (domain(step.node), step.node.op_type.as_str());
    if domain.is_empty() && step.opset == 0 {
        return Err(Error::malformed("the model imports no operator set of domain ai.onnx"));
    }
    if domain.is_empty() {
        for table in [
            elementwise::lower,
            movement::lower,
            linear::lower,
            reduce::lower,
            quantized::lower,
            ranking::lower,
            recurrent::lower,
            control::lower,
            sequences::lower,
        ] {
            if let Some(outputs) = table(step)? {
                return Ok(outputs);
            }
        }
    }
    if domain == MICROSOFT
        && let Some(outputs) = recurrent::lower_microsoft(step)?
    {
        return Ok(outputs);
    }
    Err(Error::unsupported(format!("the op '{op}'")))
}
