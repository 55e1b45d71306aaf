//! Variables: their values as constants, or as states where the model writes them in every run
//! (stateful layers).

use std::collections::BTreeSet;

use super::build::Builder;
use super::step::{Context, Step, Val};
use super::tensor::STRING;
use crate::error::{Error, Place, Result};
use crate::graph::op::{Activation, Binary, BinaryFunction};
use crate::graph::{Graph, Op, Reset, State, ValueId, ValueMap, ValueType};
use crate::tensor::Tensor;

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    match step.node.op.as_str() {
        "VarHandleOp" => Ok(Some(vec![handle(step)?])),
        "ReadVariableOp" => match step.inputs.first() {
            Some(Val::Resource(name)) => {
                let name = name.clone();
                let value = read(step, &name)?;
                Ok(Some(vec![Val::Tensor(value)]))
            }
            Some(Val::Opaque(why)) => Ok(Some(vec![Val::Opaque(why.clone())])),
            _ => Err(Error::malformed("input 0 is no variable")),
        },
        "Variable" | "VariableV2" => {
            let name = step.node.name.clone();
            let value = read(step, &name)?;
            Ok(Some(vec![Val::Tensor(value)]))
        }
        "AssignVariableOp" => {
            let value = step.tensor(1)?;
            write(step, value)
        }
        "AssignAddVariableOp" => update(step, BinaryFunction::Add),
        "AssignSubVariableOp" => update(step, BinaryFunction::Sub),
        _ => Ok(None),
    }
}

fn variable(step: &Step<'_, '_>) -> Result<String> {
    match step.inputs.first() {
        Some(Val::Resource(name)) => Ok(name.clone()),
        _ => Err(Error::unsupported("something that is no variable is written")),
    }
}

/// From here on, the variable has this value.
fn write(step: &mut Step<'_, '_>, value: ValueId) -> Result<Option<Vec<Val>>> {
    let name = variable(step)?;
    step.builder.variables.insert(name.clone(), value);
    step.context.states.writes.insert(name, value);
    Ok(Some(Vec::new()))
}

fn update(step: &mut Step<'_, '_>, function: BinaryFunction) -> Result<Option<Vec<Val>>> {
    let name = variable(step)?;
    let (before, change) = (read(step, &name)?, step.tensor(1)?);
    let op = Op::Binary(Binary { function, activation: Activation::Linear });
    let value = step.add(op, &[before, change])?;
    write(step, value)
}

/// Two handles with one shared name are one variable.
fn handle(step: &Step<'_, '_>) -> Result<Val> {
    if step.node.type_number("dtype")?.is_some_and(|&number| number == STRING) {
        return Ok(Val::Opaque("a variable of strings is used".into()));
    }
    let shared = step.node.text("shared_name")?.filter(|name| !name.is_empty());
    Ok(Val::Resource(shared.unwrap_or(&step.node.name).to_owned()))
}

/// The value of a variable: a constant, or the state before the run.
pub fn read(step: &mut Step<'_, '_>, name: &str) -> Result<ValueId> {
    if let Some(&id) = step.builder.variables.get(name) {
        return Ok(id);
    }
    let tensor = step.context.variables.read(name).within(|| format!("variable '{name}'"))?;
    let id = if step.context.states.names.contains(name) {
        if step.context.states.conditional > 0 {
            return Err(Error::unsupported(format!(
                "the variable '{name}', which is written, is read in a loop"
            )));
        }
        add_state(step.builder, name, tensor)
    } else {
        step.builder.graph.add_constant(name, tensor)
    };
    step.builder.variables.insert(name.to_owned(), id);
    Ok(id)
}

/// A state that begins with the stored value; [`finish`] puts in what the model writes.
fn add_state(builder: &mut Builder, name: &str, tensor: Tensor) -> ValueId {
    let value = builder.graph.add_value(name, ValueType::fixed(tensor.dtype(), tensor.shape()));
    let reset = Reset::stored(tensor);
    builder.graph.states.push(State { name: name.to_owned(), value, next: value, reset });
    value
}

/// Gives the states what the model writes to them, and drops those that no result depends on: a
/// counter that only counts, the seeds of dropout. Returns the names of those that stay.
///
/// # Errors
/// Unsupported when one that stays is written where writes cannot be followed.
pub fn finish(context: &Context<'_>, builder: &mut Builder) -> Result<BTreeSet<String>> {
    for state in &mut builder.graph.states {
        if let Some(&value) = context.states.writes.get(&state.name) {
            state.next = value;
        }
    }
    let live = live_states(&builder.graph);
    let mut live = live.into_iter();
    builder.graph.states.retain(|_| live.next().unwrap_or(true));
    let names: BTreeSet<String> =
        builder.graph.states.iter().map(|state| state.name.clone()).collect();
    match names.iter().find_map(|name| context.states.refused.get_key_value(name)) {
        Some((name, why)) => {
            Err(Error::unsupported(why.clone()).within(format!("variable '{name}'")))
        }
        None => Ok(names),
    }
}

/// Which states a result depends on, in this run or a later one.
fn live_states(graph: &Graph) -> Vec<bool> {
    let producers = graph.producers();
    let mut needed: ValueMap<bool> = ValueMap::new(graph);
    let mut live = vec![false; graph.states.len()];
    let mut open: Vec<ValueId> = graph.outputs.iter().map(|port| port.value).collect();
    loop {
        while let Some(id) = open.pop() {
            if needed[id] {
                continue;
            }
            needed.set(id, true);
            if let Some(node) = producers[id].and_then(|id| graph.node(id)) {
                open.extend(node.inputs.iter().flatten());
            }
        }
        for (state, live) in graph.states.iter().zip(&mut live) {
            if !*live && needed[state.value] {
                *live = true;
                open.push(state.next);
            }
        }
        if open.is_empty() {
            return live;
        }
    }
}
