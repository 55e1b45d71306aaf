//! From a scope to a graph: the nodes that the results need, in order, each by the table of its
//! kind.

use std::collections::HashMap;

use super::attributes;
use super::build::Builder;
use super::effects;
use super::messages::Attr;
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
    let mut body = Body { scope, args, done: given };
    body.read(context, builder, nodes(roots))?;
    body.values(roots)
}

/// Reads a function's body into `builder`, its writes to variables included.
pub fn function(
    context: &mut Context<'_>,
    builder: &mut Builder,
    scope: &Scope,
    args: &[Val],
) -> Result<Vec<Val>> {
    let results: Vec<Source> = scope.results.iter().map(|(_, source)| *source).collect();
    let mut body = Body { scope, args, done: HashMap::new() };
    let mut roots: Vec<usize> = nodes(&results).collect();
    roots.extend(body.effects(context, builder)?);
    body.read(context, builder, roots)?;
    body.values(&results)
}

/// Notes what the body of a loop writes to variables.
pub fn note_writes(
    context: &mut Context<'_>,
    builder: &mut Builder,
    scope: &Scope,
    args: &[Val],
) -> Result<()> {
    effects::refuse_calls(context.library, scope)?;
    Body { scope, args, done: HashMap::new() }.effects(context, builder).map(|_| ())
}

fn nodes(sources: &[Source]) -> impl Iterator<Item = usize> {
    sources.iter().filter_map(|source| match source {
        Source::Node(index, _) => Some(*index),
        Source::Arg(_) => None,
    })
}

/// A scope that is being read, with the outputs of the nodes that were.
struct Body<'a> {
    scope: &'a Scope,
    args: &'a [Val],
    done: HashMap<usize, Vec<Val>>,
}

impl Body<'_> {
    /// Reads what `roots` need; where variables are written, in TensorFlow's order.
    fn read(
        &mut self,
        context: &mut Context<'_>,
        builder: &mut Builder,
        roots: impl IntoIterator<Item = usize>,
    ) -> Result<()> {
        let scope = self.scope;
        let roots: Vec<usize> = roots.into_iter().collect();
        let known = |index| self.done.contains_key(&index);
        let mut order = scope.order(roots.iter().copied(), known, &HashMap::new())?;
        let writes = |&index: &usize| {
            scope.nodes.get(index).is_some_and(|node| effects::has_effect(context.library, node))
        };
        if order.iter().any(writes) {
            let before = effects::sequence(scope, &order, |count| context.expanded.take(count))?;
            order = scope.order(roots, known, &before)?;
        }
        for index in order {
            context.expanded.take(1)?;
            let node = scope.node(index)?;
            let outputs = lower(context, builder, scope, node, self.args, &self.done)
                .within(|| scope.place(index))?;
            self.done.insert(index, outputs);
        }
        Ok(())
    }

    /// The nodes that have to be read for what they write.
    fn effects(&mut self, context: &mut Context<'_>, builder: &mut Builder) -> Result<Vec<usize>> {
        let mut roots = Vec::new();
        for (index, node) in self.scope.nodes.iter().enumerate() {
            if !effects::has_effect(context.library, node) {
                continue;
            }
            if !effects::is_write(&node.op) {
                roots.push(index);
                continue;
            }
            let target = node.input(0).within(|| self.scope.place(index))?;
            self.read(context, builder, nodes(&[target]))?;
            match value(self.scope, self.args, &self.done, target)? {
                Val::Resource(name) if context.states.note(&name) => roots.push(index),
                Val::Resource(_) => {}
                _ => {
                    return Err(Error::unsupported("something that is no variable is written")
                        .within(self.scope.place(index)));
                }
            }
        }
        Ok(roots)
    }

    fn values(&self, sources: &[Source]) -> Result<Vec<Val>> {
        sources.iter().map(|&source| value(self.scope, self.args, &self.done, source)).collect()
    }
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
    for attr in node.attrs.values() {
        if let Some(Attr::Type(number)) = attr.value {
            context.note_type(number);
        }
    }
    node.read.clear();
    let mut step = Step { context, builder, node, inputs };
    if is_identity(&node.op) {
        let outputs = step.identity()?;
        attributes::check(node)?;
        return Ok(outputs);
    }
    for table in step.context.tables {
        if let Some(outputs) = table(&mut step)? {
            attributes::check(node)?;
            return Ok(outputs);
        }
    }
    Err(Error::unsupported(format!(
        "the op '{}' is not supported: a graph without it, or an equivalent of basic ops, is needed",
        node.op
    )))
}
