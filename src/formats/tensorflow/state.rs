//! Variables: their values as constants, or as states where the model writes them in every run
//! (stateful layers).

use super::build::Builder;

use super::scope::{Scope, Source};
use super::step::{Context, Step, Val};
use super::tensor::STRING;
use crate::error::{Error, Place, Result};
use crate::graph::{Graph, Reset, State, ValueId, ValueMap, ValueType};
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
        "AssignVariableOp" => Ok(Some(Vec::new())),
        _ => Ok(None),
    }
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
    let reset = everywhere(&tensor).map_or(Reset::Tensor(tensor), Reset::Fill);
    builder.graph.states.push(State { name: name.to_owned(), value, next: value, reset });
    value
}

/// The whole number that every element is, if there is one: such a state takes any batch size.
fn everywhere(tensor: &Tensor) -> Option<i64> {
    let first = tensor.to_f32().first().map_or(0, |&first| first as i64);
    let filled = Tensor::filled(tensor.dtype(), tensor.shape(), first).ok()?;
    (filled == *tensor).then_some(first)
}

/// The nodes of a function that write variables.
pub fn writes(scope: &Scope) -> Vec<usize> {
    let is_write = |op: &str| op.starts_with("Assign") || op.starts_with("ResourceScatter");
    scope
        .nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| is_write(&node.op))
        .map(|(index, _)| index)
        .collect()
}

/// The variable and the value of each write, as roots to be read with the function's results.
pub fn write_roots(context: &Context<'_>, scope: &Scope) -> Result<Vec<Source>> {
    let mut roots = Vec::new();
    for index in writes(scope) {
        let node = scope.node(index)?;
        let refused = if node.op != "AssignVariableOp" {
            Some("only plain assignments to variables are read")
        } else if context.states.conditional > 0 {
            Some("a variable is written inside a loop or a branch")
        } else if scope
            .nodes
            .iter()
            .any(|other| other.op == "ReadVariableOp" && other.controls.contains(&index))
        {
            Some("a variable is read again after it was written")
        } else {
            None
        };
        if let Some(why) = refused {
            return Err(Error::unsupported(why).within(scope.place(index)));
        }
        roots.extend([node.input(0)?, node.input(1)?]);
    }
    Ok(roots)
}

/// Notes what a function writes: pairs of variable and value.
pub fn note_writes(context: &mut Context<'_>, values: &[Val]) -> Result<()> {
    for pair in values.chunks_exact(2) {
        match pair {
            [Val::Resource(name), Val::Tensor(value)] => {
                if context.states.writes.insert(name.clone(), *value).is_some() {
                    return Err(Error::unsupported(format!(
                        "the variable '{name}' is written twice in a run"
                    )));
                }
            }
            _ => return Err(Error::unsupported("something that is no variable is written")),
        }
    }
    Ok(())
}

/// Refuses a function that writes variables where that may not happen in every run, or more than
/// once.
pub fn refuse(scope: &Scope) -> Result<()> {
    match writes(scope).first() {
        Some(&index) => Err(Error::unsupported("a variable is written inside a loop or a branch")
            .within(scope.place(index))),
        None => Ok(()),
    }
}

/// Gives the states what the model writes to them, and drops those that no result depends on: a
/// counter that only counts, the seeds of dropout.
pub fn finish(context: &Context<'_>, builder: &mut Builder) {
    for state in &mut builder.graph.states {
        if let Some(&value) = context.states.writes.get(&state.name) {
            state.next = value;
        }
    }
    let live = live_states(&builder.graph);
    let mut live = live.into_iter();
    builder.graph.states.retain(|_| live.next().unwrap_or(true));
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
