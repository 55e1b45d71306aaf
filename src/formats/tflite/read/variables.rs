//! Resource variables: values that live from one run to the next, named by a handle instead of
//! standing in a variable tensor. Each becomes a state of the graph.

use std::collections::BTreeMap;

use super::super::{opcode, schema};
use super::function::{Call, Function};
use super::options::natural;
use super::tensor;
use crate::error::{Error, Place, Result};
use crate::graph::{Reset, State, ValueId};
use crate::tensor::Tensor;

/// The resource variables of a subgraph.
#[derive(Default)]
pub(super) struct Variables {
    /// The variable behind a tensor that holds a handle.
    handles: BTreeMap<usize, String>,
    /// What CALL_ONCE stores in a variable.
    initial: BTreeMap<String, Tensor>,
    /// The value of a variable at this point of the order.
    current: BTreeMap<String, ValueId>,
    /// Variables that a run reads before it writes them: their index in the graph's states.
    states: BTreeMap<String, usize>,
}

/// The name of the variable that a VAR_HANDLE stands for.
fn handle_name(call: &Call<'_>) -> Result<String> {
    let options: schema::VarHandleOptions = call.options()?;
    Ok(match options.container() {
        "" => options.shared_name().to_owned(),
        container => format!("{container}/{}", options.shared_name()),
    })
}

/// VAR_HANDLE: the result is no value, it names a variable.
pub(super) fn read_handle<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    call.expect_arity(0..=0, 1)?;
    let name = handle_name(call)?;
    let (position, _) = function.tensor(call.outputs.first().copied().unwrap_or(-1))?;
    function.variables.handles.insert(position, name);
    Ok(())
}

/// The variable behind the first operand.
fn variable<'m>(function: &Function<'m>, call: &Call<'m>) -> Result<String> {
    let (position, _) = function
        .tensor(call.inputs.first().copied().unwrap_or(-1))
        .within(|| "input 0 (resource)")?;
    function.variables.handles.get(&position).cloned().ok_or_else(|| {
        Error::unsupported(
            "the resource is no result of VAR_HANDLE in this subgraph: a variable that goes round a loop, or a hash table",
        )
        .within("input 0 (resource)")
    })
}

/// READ_VARIABLE: the value that the variable has at this point; a state where no operator of the
/// run has written it.
pub(super) fn read_variable<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    call.expect_arity(1..=1, 1)?;
    let name = variable(function, call)?;
    let (position, result) = function.tensor(call.outputs.first().copied().unwrap_or(-1))?;
    if let Some(&value) = function.variables.current.get(&name) {
        return function.define(position, value);
    }
    if function.is_inside_a_loop() {
        return Err(Error::unsupported(
            "a resource variable inside a loop: state must go round as a loop variable",
        ));
    }
    let ty = tensor::value_type(result)?;
    let Some(initial) = function.variables.initial.get(&name) else {
        return Err(Error::malformed(format!(
            "the variable `{name}` is read, and no CALL_ONCE stores a value in it"
        )));
    };
    if initial.dtype() != ty.dtype {
        return Err(Error::malformed(format!(
            "the variable `{name}` is read as {}, and {} is stored in it",
            ty.dtype,
            initial.dtype()
        )));
    }
    let reset = Reset::stored(initial.clone());
    let value = function.graph.add_value(result.name(), ty);
    function.variables.states.insert(name.clone(), function.graph.states.len());
    function.graph.states.push(State { name: name.clone(), value, next: value, reset });
    function.variables.current.insert(name, value);
    function.define(position, value)
}

/// ASSIGN_VARIABLE: what follows reads the new value, and so does the next run.
pub(super) fn assign_variable<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    call.expect_arity(2..=2, 0)?;
    let name = variable(function, call)?;
    let value = function.input(call, 1)?;
    if function.is_inside_a_loop() {
        return Err(Error::unsupported(
            "a resource variable inside a loop: state must go round as a loop variable",
        ));
    }
    let state = function.variables.states.get(&name);
    if let Some(state) = state.and_then(|state| function.graph.states.get_mut(*state)) {
        state.next = value;
    }
    function.variables.current.insert(name, value);
    Ok(())
}

/// CALL_ONCE: the first run starts with what a subgraph stores in variables. The subgraph may store
/// constants only.
pub(super) fn read_call_once<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    let options: schema::CallOnceOptions = call.options()?;
    let index = natural("the initialization's subgraph", options.subgraph())?;
    let model = function.model;
    let subgraph = *model.subgraphs.get(index).ok_or_else(|| {
        Error::malformed(format!(
            "subgraph {index} is asked for, the file has {}",
            model.subgraphs.len()
        ))
    })?;
    model.used.borrow_mut().insert(index);
    let mut initialization = Function::new(model, subgraph, vec![index]);
    for (number, operator) in subgraph.operators().into_iter().enumerate() {
        model.spend_operator()?;
        let call = Call::new(model, operator).within(|| format!("operator {number}"))?;
        initialize(&mut initialization, &call, &mut function.variables.initial)
            .within(|| format!("operator {number} ({})", call.name))
            .within(|| format!("subgraph {index}"))?;
    }
    Ok(())
}

fn initialize<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    initial: &mut BTreeMap<String, Tensor>,
) -> Result<()> {
    match call.number {
        opcode::VAR_HANDLE => read_handle(function, call),
        opcode::ASSIGN_VARIABLE => {
            call.expect_arity(2..=2, 0)?;
            let name = variable(function, call)?;
            let value = function.input(call, 1)?;
            let constant = function.graph.constant(value).cloned().ok_or_else(|| {
                Error::unsupported("a variable that begins with a computed value")
                    .within("input 1 (value)")
            })?;
            initial.insert(name, constant);
            Ok(())
        }
        opcode::HASHTABLE | opcode::HASHTABLE_IMPORT => Err(Error::unsupported("hash tables")),
        _ => Err(Error::unsupported("an initialization that stores other than constants")),
    }
}
