//! Old-style conditionals to choices.
//!
//! TensorFlow 1 writes `cond(p, a, b)` as `Switch` nodes, which send a value to one of two
//! branches, and `Merge` nodes, which take what the branch that ran has computed. No op that is
//! read has side effects, so both branches may be computed and the `Merge` becomes a choice by `p`;
//! the branch of a constant `p` is taken at once and the other one never read.
//!
//! What a value is worth is told by the branches it stands in: the switches on its way, innermost
//! last.

use std::collections::HashMap;
use std::rc::Rc;

use super::messages::Attr;
use super::scope::{Scope, Source};
use crate::error::{Error, Result};

/// Op name of a rewritten `Merge`: condition, value if it holds, value if not.
pub const CHOICE: &str = "choice of a conditional";

/// A branch, and the branches around it.
#[derive(Debug)]
struct Branch {
    condition: Source,
    side: bool,
    around: Branches,
    depth: usize,
}

type Branches = Option<Rc<Branch>>;

fn depth(branches: &Branches) -> usize {
    branches.as_ref().map_or(0, |branch| branch.depth)
}

/// Replaces the conditionals of a scope. What does not have the form that TensorFlow writes is left
/// for the reader to refuse.
pub fn to_choices(scope: &mut Scope) -> Result<()> {
    let switches: Vec<usize> =
        (0..scope.nodes.len()).filter(|&index| is_switch(scope, index)).collect();
    if switches.is_empty() {
        return Ok(());
    }
    let merges: Vec<usize> =
        (0..scope.nodes.len()).filter(|&index| is_merge(scope, index)).collect();
    let branches = find_branches(scope, &merges)?;
    let mut choices = Vec::new();
    for &merge in &merges {
        let &[a, b] = scope.node(merge)?.inputs.as_slice() else { continue };
        let of = |source| branches_of(scope, &branches, source);
        let (in_a, in_b) = (of(a), of(b));
        let (inner, other, inner_is_a) =
            if depth(&in_a) >= depth(&in_b) { (in_a, in_b, true) } else { (in_b, in_a, false) };
        let Some(inner) = inner else { continue };
        let opposite = other
            .as_ref()
            .is_some_and(|other| other.condition == inner.condition && other.side != inner.side);
        if other.is_some() && depth(&other) == inner.depth && !opposite {
            continue;
        }
        let (yes, no) = if inner_is_a == inner.side { (a, b) } else { (b, a) };
        choices.push((merge, inner.condition, yes, no));
    }
    for (merge, condition, yes, no) in choices {
        let known = known_condition(scope, condition);
        let Some(node) = scope.nodes.get_mut(merge) else { continue };
        (node.op, node.inputs) = match known {
            Some(holds) => ("Identity".to_owned(), vec![if holds { yes } else { no }]),
            None => (CHOICE.to_owned(), vec![condition, yes, no]),
        };
    }
    for (index, _) in branches.iter().filter(|(_, branch)| branch.is_some()) {
        if let Some(node) = scope.nodes.get_mut(*index) {
            node.branch = true;
        }
    }
    for switch in switches {
        let Some(node) = scope.nodes.get_mut(switch) else { continue };
        if let Some(&data) = node.inputs.first() {
            node.op = "IdentityN".into();
            node.inputs = vec![data, data];
        }
    }
    Ok(())
}

fn op_of(scope: &Scope, source: Option<&Source>) -> Option<String> {
    match source {
        Some(Source::Node(index, _)) => scope.nodes.get(*index).map(|node| node.op.clone()),
        _ => None,
    }
}

/// A `Switch` that belongs to no loop.
fn is_switch(scope: &Scope, index: usize) -> bool {
    scope.nodes.get(index).is_some_and(|node| {
        node.op == "Switch"
            && node.inputs.len() == 2
            && op_of(scope, node.inputs.get(1)).as_deref() != Some("LoopCond")
    })
}

/// A `Merge` that belongs to no loop.
fn is_merge(scope: &Scope, index: usize) -> bool {
    let is_loop = |source: &Source| {
        matches!(op_of(scope, Some(source)).as_deref(), Some("Enter" | "NextIteration"))
    };
    scope
        .nodes
        .get(index)
        .is_some_and(|node| node.op == "Merge" && !node.inputs.iter().any(is_loop))
}

/// The branches that a value stands in.
fn branches_of(scope: &Scope, found: &HashMap<usize, Branches>, source: Source) -> Branches {
    let Source::Node(index, output) = source else { return None };
    let around = found.get(&index).cloned().flatten();
    if !is_switch(scope, index) {
        return around;
    }
    let condition = scope.resolve(scope.nodes.get(index)?.inputs.get(1).copied()?);
    let depth = depth(&around) + 1;
    Some(Rc::new(Branch { condition, side: output == 1, around, depth }))
}

/// The branches that each node before the merges stands in; for a `Switch`, those around it.
fn find_branches(scope: &Scope, merges: &[usize]) -> Result<HashMap<usize, Branches>> {
    let mut found: HashMap<usize, Branches> = HashMap::new();
    let mut open = std::collections::HashSet::new();
    let mut stack = merges.to_vec();
    while let Some(&index) = stack.last() {
        if found.contains_key(&index) {
            stack.pop();
            continue;
        }
        let node = scope.node(index)?;
        // A loop's Merge is what entered the loop; its NextIteration would lead back here.
        let is_loop = node.op == "Merge" && !is_merge(scope, index);
        let inputs: Vec<Source> = match is_loop {
            true => node
                .inputs
                .iter()
                .filter(|source| op_of(scope, Some(source)).as_deref() == Some("Enter"))
                .copied()
                .collect(),
            // Constants of a branch are tied to it by their order alone.
            false => node
                .inputs
                .iter()
                .copied()
                .chain(node.controls.iter().map(|&node| Source::Node(node, 0)))
                .collect(),
        };
        let missing = inputs.iter().filter_map(|source| match source {
            Source::Node(index, _) if !found.contains_key(index) => Some(*index),
            _ => None,
        });
        let before = stack.len();
        stack.extend(missing);
        if stack.len() > before {
            if !open.insert(index) {
                return Err(
                    Error::malformed("the node depends on itself").within(scope.place(index))
                );
            }
            continue;
        }
        let deepest = inputs
            .iter()
            .map(|&source| branches_of(scope, &found, source))
            .max_by_key(depth)
            .flatten();
        // After a Merge its own conditional is over.
        let branches = if is_merge(scope, index) {
            deepest.and_then(|branch| branch.around.clone())
        } else {
            deepest
        };
        found.insert(index, branches);
        stack.pop();
    }
    Ok(found)
}

/// The condition's value, when it is a constant, or an input whose default is one.
fn known_condition(scope: &Scope, condition: Source) -> Option<bool> {
    let Source::Node(mut index, _) = condition else { return None };
    if scope.nodes.get(index)?.op == "PlaceholderWithDefault" {
        let Source::Node(default, _) = scope.resolve(*scope.nodes.get(index)?.inputs.first()?)
        else {
            return None;
        };
        index = default;
    }
    let node = scope.nodes.get(index).filter(|node| node.op == "Const")?;
    match node.attr("value")? {
        Attr::Tensor(tensor) => {
            match (tensor.bool_val.as_slice(), tensor.tensor_content.as_slice()) {
                ([value], []) => Some(*value),
                ([], [byte]) => Some(*byte != 0),
                _ => None,
            }
        }
        _ => None,
    }
}
