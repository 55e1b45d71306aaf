//! Branches and loops.

use super::loops;
use super::lower::{self, Val};
use super::step::{Outputs, Step};
use crate::error::{Error, Place, Result};
use crate::graph::{Dim, Op, ValueId};

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Outputs>> {
    Ok(Some(match step.node.op_type.as_str() {
        "If" => conditional(step)?,
        "Loop" => loops::repeat(step)?,
        "Scan" => loops::scan(step)?,
        _ => return Ok(None),
    }))
}

/// One branch where the condition is known.
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
    let mut results = Vec::with_capacity(2);
    for (name, graph) in branches {
        let outputs = lower::inner_graph(step.cx, step.builder, step.scope, graph, Vec::new())
            .within(|| name)?;
        results.push(outputs);
    }
    let (Some(no), Some(yes)) = (results.pop(), results.pop()) else {
        return Err(Error::internal("two branches were read"));
    };
    if yes.len() != no.len() {
        return Err(Error::malformed(format!(
            "the branches have {} and {} results",
            yes.len(),
            no.len()
        )));
    }
    let mut outputs = Vec::with_capacity(yes.len());
    for (yes, no) in yes.into_iter().zip(no) {
        let (Val::Tensor(yes), Val::Tensor(no)) = (yes, no) else {
            return Err(Error::unsupported("a branch yields a sequence"));
        };
        outputs.push(Some(Val::Tensor(choose(step, condition, yes, no)?)));
    }
    Ok(outputs)
}

/// Nothing here has side effects, so that both branches may be computed where their results have
/// one shape.
fn choose(
    step: &mut Step<'_, '_>,
    condition: ValueId,
    yes: ValueId,
    no: ValueId,
) -> Result<ValueId> {
    let (a, b) = (step.dims(yes)?, step.dims(no)?);
    if a != b || a.contains(&Dim::Unknown) {
        return Err(Error::unsupported(
            "a condition that is not known, and branches whose results may differ in shape",
        ));
    }
    step.add(Op::Select, &[condition, yes, no])
}
