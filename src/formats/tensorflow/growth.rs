//! Lists that grow: how long a list is that a counting loop fills, so that it can be made in full
//! before the loop.

use super::build::Builder;
use super::effects;
use super::elementwise::function_op;
use super::library::Library;
use super::scope::{Scope, ScopeNode, Source};
use super::step::{Growth, Items, Step, Val};
use crate::error::Result;
use crate::graph::op::BinaryFunction;
use crate::tensor::Tensor;

/// Gives every empty growing list that the loop writes once a turn, at the number of the turn, its
/// length after the loop: the loop's trip count.
pub fn preset_lengths(
    step: &mut Step<'_, '_>,
    cond: &Scope,
    body: &Scope,
    init: &mut [Val],
) -> Result<()> {
    for position in 0..init.len() {
        let Some(Val::List(list)) = init.get(position) else { continue };
        let is_empty = list.length.is_some_and(|id| is_constant(step.builder, id, 0));
        if !is_empty || !matches!(list.items, Items::Reserved) {
            continue;
        }
        let grows = list.growth == Growth::Grows;
        let Some(counter) = written_at(body, position, grows)? else { continue };
        let from_zero = matches!(
            init.get(counter), Some(Val::Tensor(id)) if is_constant(step.builder, *id, 0)
        );
        if !from_zero || !counts(step.builder, body, init, counter) {
            continue;
        }
        let Some(limits) = limits(cond, body, counter) else { continue };
        if let Some(length) = least(step, cond, init, &limits)?
            && let Some(Val::List(list)) = init.get_mut(position)
        {
            list.length = Some(length);
            list.growth = Growth::Preset;
        }
    }
    Ok(())
}

fn is_constant(builder: &Builder, id: crate::graph::ValueId, number: i64) -> bool {
    builder.integers(id).ok().flatten().is_some_and(|numbers| numbers == [number])
}

fn node(scope: &Scope, source: Source) -> Option<&ScopeNode> {
    match scope.resolve(source) {
        Source::Node(index, 0) => scope.nodes.get(index),
        _ => None,
    }
}

/// The loop variable at whose value the body writes the list at `position`, when that is all that
/// it does with it and the write makes the list longer.
fn written_at(body: &Scope, position: usize, grows: bool) -> Result<Option<usize>> {
    let result = body.results.get(position).map(|(_, source)| *source);
    let Some(write) = result.and_then(|source| node(body, source)) else { return Ok(None) };
    let (list, index, grows) = match write.op.as_str() {
        "TensorListSetItem" => (0, 1, grows || write.is(RESIZE)?),
        "TensorArrayWriteV3" => (3, 1, grows),
        _ => return Ok(None),
    };
    let at = |operand: usize| write.inputs.get(operand).map(|&source| body.resolve(source));
    match (at(list), at(index)) {
        (Some(Source::Arg(list)), Some(Source::Arg(counter))) if list == position && grows => {
            Ok(Some(counter))
        }
        _ => Ok(None),
    }
}

/// The attribute of a write that may make a list longer.
pub const RESIZE: &str = "resize_if_index_out_of_bounds";

/// Whether a loop with this body may make the list longer.
pub fn may_grow(library: &Library, body: &Scope, growth: Growth) -> bool {
    let grows = |node: &ScopeNode| {
        node.op == "TensorListPushBack"
            || node.op == "TensorListResize"
            || node.is(RESIZE).unwrap_or(true)
            || node.frame.is_some()
            || effects::called(node).any(|name| library.has(name))
    };
    match growth {
        Growth::Preset => false,
        Growth::Grows => true,
        Growth::ByWrite => body.nodes.iter().any(grows),
    }
}

/// Whether the body adds 1 to a loop variable: a constant, or a variable that stays 1.
fn counts(builder: &Builder, body: &Scope, init: &[Val], counter: usize) -> bool {
    let added = || {
        let sum = node(body, body.results.get(counter)?.1)?;
        if !matches!(sum.op.as_str(), "Add" | "AddV2") {
            return None;
        }
        let (a, b) = (*sum.inputs.first()?, *sum.inputs.get(1)?);
        match Source::Arg(counter) {
            arg if body.resolve(a) == arg => Some(body.resolve(b)),
            arg if body.resolve(b) == arg => Some(body.resolve(a)),
            _ => None,
        }
    };
    match added() {
        Some(Source::Arg(step)) => {
            stays(body, step)
                && matches!(init.get(step), Some(Val::Tensor(id)) if is_constant(builder, *id, 1))
        }
        Some(source) => node(body, source).and_then(constant) == Some(1),
        None => false,
    }
}

/// Whether the body returns a loop variable as it is.
fn stays(body: &Scope, position: usize) -> bool {
    let result = body.results.get(position);
    result.is_some_and(|(_, source)| body.resolve(*source) == Source::Arg(position))
}

fn constant(node: &ScopeNode) -> Option<i64> {
    if node.op != "Const" {
        return None;
    }
    match node.attr("value")? {
        super::messages::Attr::Tensor(proto) => {
            let mut budget = super::limits::Budget::new("a number", 64);
            match super::tensor::tensor(proto, &mut budget).ok()?.to_i64().ok()?.as_slice() {
                [number] => Some(*number),
                _ => None,
            }
        }
        _ => None,
    }
}

/// What bounds the counter: the loop goes on while it (or a variable that counts as it does) is
/// below every one of them, and for no other reason.
fn limits(cond: &Scope, body: &Scope, counter: usize) -> Option<Vec<Source>> {
    let mut open = vec![cond.results.first()?.1];
    let mut limits = Vec::new();
    while let Some(source) = open.pop() {
        let test = node(cond, source)?;
        let (&a, &b) = (test.inputs.first()?, test.inputs.get(1)?);
        match test.op.as_str() {
            "LogicalAnd" => open.extend([a, b]),
            "Less" | "Greater" => {
                let (below, limit) = if test.op == "Less" { (a, b) } else { (b, a) };
                let Source::Arg(variable) = cond.resolve(below) else { return None };
                if variable != counter {
                    return None;
                }
                let limit = cond.resolve(limit);
                if let Source::Arg(limit) = limit
                    && !stays(body, limit)
                {
                    return None;
                }
                limits.push(limit);
            }
            _ => return None,
        }
        if limits.len() + open.len() > 8 {
            return None;
        }
    }
    Some(limits)
}

/// The least limit, and at least 0, as an i32 scalar before the loop.
fn least(
    step: &mut Step<'_, '_>,
    cond: &Scope,
    init: &[Val],
    limits: &[Source],
) -> Result<Option<crate::graph::ValueId>> {
    let mut least = None;
    for &limit in limits {
        let value = match limit {
            Source::Arg(position) => match init.get(position) {
                Some(Val::Tensor(id)) => *id,
                _ => return Ok(None),
            },
            Source::Node(..) => {
                let Some(number) = node(cond, limit).and_then(constant) else { return Ok(None) };
                let Ok(number) = i32::try_from(number) else { return Ok(None) };
                step.scalar(number)
            }
        };
        let value = step.as_i32(value)?;
        least = Some(match least {
            None => value,
            Some(other) => step.add(function_op(BinaryFunction::Minimum), &[other, value])?,
        });
    }
    let Some(least) = least else { return Ok(None) };
    // A size is no less than 0 already.
    if step
        .builder
        .sizes(least)
        .is_some_and(|sizes| !matches!(sizes.as_slice(), [super::build::Size::Known(n)] if *n < 0))
    {
        return Ok(Some(least));
    }
    let zero = step.builder.constant_value(&step.node.name, Tensor::scalar(0i32));
    Ok(Some(step.add(function_op(BinaryFunction::Maximum), &[least, zero])?))
}
