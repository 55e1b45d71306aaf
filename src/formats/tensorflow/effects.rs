//! The nodes of a function that write variables, and the order in which TensorFlow runs them.

use std::collections::{BTreeSet, HashMap};

use super::library::Library;
use super::scope::{Scope, ScopeNode};
use crate::error::{Error, Result};

/// Whether an op writes a variable.
pub fn is_write(op: &str) -> bool {
    op.starts_with("Assign") || op.starts_with("ResourceScatter")
}

/// The functions that a node may run.
pub fn called(node: &ScopeNode) -> impl Iterator<Item = &str> {
    ["f", "then_branch", "else_branch", "cond", "body"]
        .into_iter()
        .filter_map(|attr| node.function(attr).ok().flatten())
        .map(|function| function.name.as_str())
        .chain(std::iter::once(node.op.as_str()))
}

/// Whether a node writes a variable, or calls a function that does.
pub fn has_effect(library: &Library, node: &ScopeNode) -> bool {
    is_write(&node.op) || called(node).any(|name| library.writes(name))
}

/// For each node that reads or writes variables, the nodes of that kind that run before it as its
/// control inputs say; only `wanted` nodes count. `charge` pays for the nodes that are looked at.
pub fn sequence(
    scope: &Scope,
    wanted: &[usize],
    mut charge: impl FnMut(usize) -> Result<()>,
) -> Result<HashMap<usize, Vec<usize>>> {
    let stateful: BTreeSet<usize> = wanted
        .iter()
        .copied()
        .filter(|&index| scope.nodes.get(index).is_some_and(touches))
        .collect();
    let mut before = HashMap::new();
    for &index in &stateful {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut open = scope.node(index)?.controls.clone();
        while let Some(next) = open.pop() {
            if stateful.contains(&next) {
                found.insert(next);
            } else if seen.insert(next) {
                charge(1)?;
                let node = scope.node(next)?;
                open.extend(node.controls.iter().copied().chain(node.sources()));
            }
        }
        if !found.is_empty() {
            before.insert(index, found.into_iter().collect());
        }
    }
    Ok(before)
}

/// Whether a node reads or writes variables, by itself or in a function.
fn touches(node: &ScopeNode) -> bool {
    is_write(&node.op)
        || matches!(node.op.as_str(), "ReadVariableOp" | "ResourceGather")
        || called(node).count() > 1
}

/// Refuses a loop whose body calls a function for what it writes alone.
pub fn refuse_calls(library: &Library, scope: &Scope) -> Result<()> {
    match scope.nodes.iter().position(|node| !is_write(&node.op) && has_effect(library, node)) {
        Some(index) => {
            Err(Error::unsupported("a variable is written inside a loop")
                .within(scope.place(index)))
        }
        None => Ok(()),
    }
}
