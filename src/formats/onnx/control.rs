//! Branches and loops.

use super::lower;
use super::step::{Outputs, Step};
use super::{branches, loops};
use crate::error::{Error, Place, Result};

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Outputs>> {
    Ok(Some(match step.node.op_type.as_str() {
        "If" => conditional(step)?,
        "Loop" => loops::repeat(step)?,
        "Scan" => loops::scan(step)?,
        _ => return Ok(None),
    }))
}

/// The branch, where the condition is known.
fn conditional(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(1, 1)?;
    let condition = step.tensor(0)?;
    let branches = [
        ("then_branch", step.attrs.graph("then_branch")?),
        ("else_branch", step.attrs.graph("else_branch")?),
    ];
    if let Some(known) = step.builder.constant(condition) {
        let [truth] = *known.as_slice::<bool>().map_err(|_| {
            Error::malformed(format!("the condition: expected bool, found {}", known.dtype()))
        })?
        else {
            return Err(Error::malformed("the condition: expected one element"));
        };
        let (name, graph) = if truth { branches[0] } else { branches[1] };
        let outputs = lower::inner_graph(step.cx, step.builder, step.scope, graph, Vec::new())
            .within(|| name)?;
        return Ok(outputs.into_iter().map(Some).collect());
    }
    let [(_, yes), (_, no)] = branches;
    branches::choose(step, condition, [yes, no])
}
