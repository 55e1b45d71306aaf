//! WHILE.

use super::super::schema;
use super::function::{self, Call, Function};
use super::options::natural;
use crate::error::{Error, Result};
use crate::graph::op::While;
use crate::graph::{Graph, Op};
use crate::tensor::DType;

/// A loop: its condition and its body are subgraphs of the loop's variables.
pub(super) fn read_while<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    let options: schema::WhileOptions = call.options()?;
    let variables = call.inputs.len();
    call.expect_arity(0..=usize::MAX, variables)?;
    let condition = natural("the condition's subgraph", options.condition())?;
    let body = natural("the body's subgraph", options.body())?;
    if condition == body {
        return Err(Error::malformed(format!(
            "subgraph {condition} is both the condition and the body of the loop"
        )));
    }
    let condition = function::read(function.model, condition, &function.callers)?;
    let body = function::read(function.model, body, &function.callers)?;
    expect_signature(&condition, "condition", variables, 1)?;
    expect_signature(&body, "body", variables, variables)?;
    let holds = condition.outputs.first().and_then(|port| condition.get(port.value));
    if holds.is_none_or(|value| value.ty.dtype != DType::Bool) {
        return Err(Error::malformed("the condition of the loop does not yield a boolean"));
    }
    let mut inputs = Vec::with_capacity(variables);
    for slot in 0..variables {
        inputs.push(Some(function.input(call, slot)?));
    }
    let mut outputs = Vec::with_capacity(variables);
    for slot in 0..variables {
        // A result of a loop that nobody wants may be marked absent.
        outputs.push(if call.outputs.get(slot) == Some(&-1) {
            None
        } else {
            Some(function.output(call, slot)?)
        });
    }
    function.node(Op::While(Box::new(While { condition, body })), inputs, outputs);
    Ok(())
}

fn expect_signature(graph: &Graph, what: &str, inputs: usize, outputs: usize) -> Result<()> {
    let found = (graph.inputs.len(), graph.outputs.len());
    if found != (inputs, outputs) {
        return Err(Error::malformed(format!(
            "the {what} of the loop has {} inputs and {} outputs, expected {inputs} and {outputs}",
            found.0, found.1
        )));
    }
    Ok(())
}
