//! Variables: their values as constants, or as states where the model writes them in every run
//! (stateful layers).

use std::collections::{BTreeMap, BTreeSet};

use super::build::Builder;
use super::lower::{Context, Step, Val};
use super::scope::{Scope, Source};
use super::tensor::STRING;
use crate::error::{Error, Place, Result};
use crate::graph::{State, ValueId, ValueType};
use crate::tensor::Tensor;

/// What is known of the variables that a model writes.
#[derive(Debug, Default)]
pub struct States {
    /// Variables that are states: known from a first reading of the model.
    pub names: BTreeSet<String>,
    /// What the model writes, by variable.
    pub writes: BTreeMap<String, ValueId>,
    /// Loops and branches around what is being read: nothing may be written there.
    pub conditional: usize,
}

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
        add_state(step.builder, name, &tensor)?
    } else {
        step.builder.graph.add_constant(name, tensor)
    };
    step.builder.variables.insert(name.to_owned(), id);
    Ok(id)
}

/// A state that keeps its value; [`finish`] puts in what the model writes.
fn add_state(builder: &mut Builder, name: &str, tensor: &Tensor) -> Result<ValueId> {
    let values = tensor.to_f32();
    let first = values.first().copied().unwrap_or(0.0);
    if values.iter().any(|&x| x != first) || first.fract() != 0.0 || first.abs() > 1e9 {
        return Err(Error::unsupported(format!(
            "the variable '{name}' is written by the model and does not begin with one whole number in every element"
        )));
    }
    let value = builder.graph.add_value(name, ValueType::fixed(tensor.dtype(), tensor.shape()));
    builder.graph.states.push(State {
        name: name.to_owned(),
        value,
        next: value,
        reset: first as i64,
    });
    Ok(value)
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

/// Gives the states what the model writes to them. A variable that nobody reads is no state: no
/// result depends on it.
pub fn finish(context: &Context<'_>, builder: &mut Builder) {
    for state in &mut builder.graph.states {
        if let Some(&value) = context.states.writes.get(&state.name) {
            state.next = value;
        }
    }
}
