//! From a scope to a graph: the nodes that the results need, in order, each by the table of its
//! kind.

use std::collections::HashMap;

use super::build::Builder;
use super::scope::{Scope, ScopeNode, Source, is_identity};
use super::step::{Context, Step, Val};
use crate::error::{Error, Place, Result};

/// Reads the part of `scope` that `roots` need into `builder`; `args` are the values of the scope's
/// arguments, `given` the outputs of nodes that are not to be read but taken as they are.
pub fn scope(
    context: &mut Context<'_>,
    builder: &mut Builder,
    scope: &Scope,
    args: &[Val],
    roots: &[Source],
    given: HashMap<usize, Vec<Val>>,
) -> Result<Vec<Val>> {
    let mut done = given;
    let nodes = roots.iter().filter_map(|root| match root {
        Source::Node(index, _) => Some(*index),
        Source::Arg(_) => None,
    });
    let order = scope.order(nodes, |index| done.contains_key(&index))?;
    for index in order {
        context.expanded.take(1)?;
        let node = scope.node(index)?;
        let outputs =
            lower(context, builder, scope, node, args, &done).within(|| scope.place(index))?;
        done.insert(index, outputs);
    }
    roots.iter().map(|&root| value(scope, args, &done, root)).collect()
}

/// The value behind a reference.
fn value(
    scope: &Scope,
    args: &[Val],
    done: &HashMap<usize, Vec<Val>>,
    source: Source,
) -> Result<Val> {
    match source {
        Source::Arg(position) => args.get(position).cloned().ok_or_else(|| {
            Error::malformed(format!(
                "argument {position} is used, and the call has {}",
                args.len()
            ))
        }),
        Source::Node(index, output) => {
            let outputs = done.get(&index).map_or(&[][..], Vec::as_slice);
            outputs.get(output).cloned().ok_or_else(|| {
                Error::malformed(format!(
                    "output {output} of {} is used, which has {}",
                    scope.place(index),
                    outputs.len()
                ))
            })
        }
    }
}

fn lower(
    context: &mut Context<'_>,
    builder: &mut Builder,
    scope: &Scope,
    node: &ScopeNode,
    args: &[Val],
    done: &HashMap<usize, Vec<Val>>,
) -> Result<Vec<Val>> {
    let inputs = node
        .inputs
        .iter()
        .map(|&source| value(scope, args, done, source))
        .collect::<Result<Vec<_>>>()?;
    let mut step = Step { context, builder, node, inputs };
    if is_identity(&node.op) {
        return step.identity();
    }
    for table in step.context.tables {
        if let Some(outputs) = table(&mut step)? {
            return Ok(outputs);
        }
    }
    Err(Error::unsupported(format!(
        "the op '{}' is not supported: a graph without it, or an equivalent of basic ops, is needed",
        node.op
    )))
}
