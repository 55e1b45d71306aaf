//! Loop and Scan.

use super::messages::GraphProto;
use super::step::{Outputs, Step};
use crate::error::{Error, Result};

/// Holds the inputs and outputs of a body against those of its node.
fn check_body(body: &GraphProto, inputs: usize, outputs: usize) -> Result<()> {
    if body.input.len() != inputs || body.output.len() < outputs {
        return Err(Error::malformed(format!(
            "body: expected {inputs} inputs and {outputs} outputs or more, found {} and {}",
            body.input.len(),
            body.output.len()
        )));
    }
    Ok(())
}

pub fn repeat(step: &mut Step<'_, '_>) -> Result<Outputs> {
    let states = step.inputs.len().saturating_sub(2);
    check_body(step.attrs.graph("body")?, states + 2, states + 1)?;
    Err(Error::unsupported("loops"))
}

pub fn scan(_: &mut Step<'_, '_>) -> Result<Outputs> {
    Err(Error::unsupported("loops"))
}
