//! How often a loop runs: from the condition that its body computes.
//!
//! Exporters of TensorFlow write no trip count. The body computes `counter + 1 < limit`, both cast
//! to float, or several such tests joined by And, and the condition before the loop is the same of
//! the counter's first value. Then the trip count is the least `limit − first`.

use super::loops::{Kind, Plan};
use super::lower::Val;
use super::names;
use super::step::Step;
use super::tensor;
use crate::error::Result;
use crate::graph::op::{Activation, Binary, BinaryFunction as F};
use crate::graph::{Graph, Op, ValueId};
use crate::tensor::DType;

/// A counter's first value, and what it must stay below.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bound {
    first: Scalar,
    limit: Scalar,
}

/// A number, or a value that is known when the loop begins.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scalar {
    Number(f64),
    Value(ValueId),
}

/// Tests that are looked at in one condition; exporters write one or two.
const MOST_TESTS: usize = 16;

/// Drops a condition that always holds, or that a trip count says as well.
pub fn settle(step: &mut Step<'_, '_>, plan: &mut Plan<'_>) -> Result<()> {
    let Some((name, before)) = plan.condition else { return Ok(()) };
    let begins = number(&step.builder.graph, before) == Some(1.0);
    let name = plan.through(name, &["Identity"]);
    let unchanged = Some(name) == plan.condition_input;
    if begins && (unchanged || constant(step, plan, name) == Some(1.0)) {
        plan.condition = None;
        return Ok(());
    }
    let Some((bounds, late)) = bounds(step, plan, name) else { return Ok(()) };
    if !late.iter().all(|bound| bounds.contains(bound)) {
        return Ok(());
    }
    let Some(tests) = tests(&step.builder.graph, before) else { return Ok(()) };
    if !bounds.iter().all(|bound| tests.contains(bound))
        || !tests.iter().all(|test| bounds.contains(test))
    {
        return Ok(());
    }
    for bound in bounds {
        let Scalar::Value(limit) = bound.limit else { return Ok(()) };
        let shape = step.vector(&[])?;
        let limit = step.cast(limit, DType::I64)?;
        let limit = match step.rank(limit)? {
            0 => limit,
            _ => step.add(Op::Reshape, &[limit, shape])?,
        };
        let trips = match bound.first {
            Scalar::Number(0.0) => limit,
            Scalar::Number(first) => {
                let first = step.scalar(first as i64);
                step.binary(F::Sub, limit, first)?
            }
            Scalar::Value(first) => {
                let first = step.cast(first, DType::I64)?;
                step.binary(F::Sub, limit, first)?
            }
        };
        plan.trips = Some(match plan.trips {
            None => trips,
            Some(other) if same(&step.builder.graph, other, trips) => other,
            Some(other) => step.binary(F::Minimum, other, trips)?,
        });
    }
    plan.condition = None;
    Ok(())
}

/// Whether two integers are the same value, cast or not.
fn same(graph: &Graph, a: ValueId, b: ValueId) -> bool {
    uncast(graph, a) == uncast(graph, b)
}

/// The one number of a constant.
fn number(graph: &Graph, id: ValueId) -> Option<f64> {
    match graph.constant(id)?.to_f32().as_ref() {
        [one] => Some(f64::from(*one)),
        _ => None,
    }
}

fn scalar(graph: &Graph, id: ValueId) -> Scalar {
    number(graph, id).map_or(Scalar::Value(id), Scalar::Number)
}

/// A value behind casts.
fn uncast(graph: &Graph, mut id: ValueId) -> ValueId {
    for _ in 0..MOST_TESTS {
        let maker = graph.nodes.iter().rev().find(|node| node.outputs.contains(&Some(id)));
        match maker.and_then(|node| Some((&node.op, node.input(0)?))) {
            Some((Op::Cast(to), from)) if *to != DType::Bool => id = from,
            _ => break,
        }
    }
    id
}

/// The number of a name of the body: a constant of the body, or from outside.
pub fn constant(step: &Step<'_, '_>, plan: &Plan<'_>, name: &str) -> Option<f64> {
    let single = |values: &[f32]| match values {
        [one] => Some(f64::from(*one)),
        _ => None,
    };
    if let Some(proto) = plan.body.initializer.iter().find(|tensor| tensor.name == name) {
        return single(&tensor::tensor(proto).ok()?.to_f32());
    }
    if let Some(node) = plan.maker(name) {
        let value = node.attribute.iter().find(|attribute| attribute.name == "value")?;
        let proto = value.t.as_ref().filter(|_| node.op_type == "Constant")?;
        return single(&tensor::tensor(proto).ok()?.to_f32());
    }
    match outside(step, plan, name)? {
        Val::Tensor(id) => number(&step.builder.graph, id),
        Val::List(_) => None,
    }
}

/// What a name of the body is before the loop, when it does not change: a state that stays, or a
/// name from outside.
fn outside(step: &Step<'_, '_>, plan: &Plan<'_>, name: &str) -> Option<Val> {
    if let Some(state) = plan.states.iter().find(|state| state.input == name) {
        return matches!(state.kind, Kind::Fixed).then(|| state.init.clone());
    }
    let is_free = names::free(plan.body).contains(&name);
    is_free.then(|| step.scope.get(name).cloned()).flatten()
}

/// The bounds that the body's condition is made of; `None` when it is made of anything else. The
/// second list has those of a counter that is not one step further yet: they allow one iteration
/// more.
fn bounds(step: &Step<'_, '_>, plan: &Plan<'_>, name: &str) -> Option<(Vec<Bound>, Vec<Bound>)> {
    let mut open = vec![name.to_owned()];
    let mut bounds = Vec::new();
    let mut late = Vec::new();
    for _ in 0..MOST_TESTS {
        let Some(name) = open.pop() else {
            return (!bounds.is_empty()).then_some((bounds, late));
        };
        let node = plan.maker(plan.through(&name, &["Identity"]))?;
        let [a, b] = node.input.as_slice() else { return None };
        match node.op_type.as_str() {
            "And" => open.extend([a.clone(), b.clone()]),
            "Less" => {
                let counter = plan.through(a, &["Cast", "Identity"]);
                let limit = plan.through(b, &["Cast", "Identity"]);
                let Val::Tensor(limit) = outside(step, plan, limit)? else { return None };
                let limit = scalar(&step.builder.graph, uncast(&step.builder.graph, limit));
                if Some(counter) == plan.counter {
                    late.push(Bound { first: Scalar::Number(0.0), limit });
                    continue;
                }
                let bound = Bound { first: first_of(step, plan, counter)?, limit };
                if !bounds.contains(&bound) {
                    bounds.push(bound);
                }
            }
            _ => return None,
        }
    }
    None
}

/// The first value of a counter, of which `name` is the value one step further.
fn first_of(step: &Step<'_, '_>, plan: &Plan<'_>, name: &str) -> Option<Scalar> {
    let node = plan.maker(name).filter(|node| node.op_type == "Add")?;
    let [a, b] = node.input.as_slice() else { return None };
    let (counter, by) = match plan.maker(a) {
        None if plan.body.input.iter().any(|input| input.name == *a) => (a, b),
        _ => (b, a),
    };
    if constant(step, plan, plan.through(by, &["Identity"])) != Some(1.0) {
        return None;
    }
    if Some(counter.as_str()) == plan.counter {
        return Some(Scalar::Number(0.0));
    }
    let state = plan.states.iter().find(|state| state.input == counter)?;
    let Val::Tensor(init) = state.init else { return None };
    let steps = plan.through(state.output, &["Identity"]) == name;
    steps.then(|| scalar(&step.builder.graph, uncast(&step.builder.graph, init)))
}

/// The tests `a < b` that a value of the graph is made of.
fn tests(graph: &Graph, value: ValueId) -> Option<Vec<Bound>> {
    let mut open = vec![value];
    let mut tests = Vec::new();
    for _ in 0..MOST_TESTS {
        let Some(value) = open.pop() else { return Some(tests) };
        let node = graph.nodes.iter().rev().find(|node| node.outputs.contains(&Some(value)))?;
        let (a, b) = (node.input(0)?, node.input(1));
        match &node.op {
            Op::Reshape | Op::Squeeze(_) => open.push(a),
            Op::Binary(Binary { function: F::And, .. }) => open.extend([a, b?]),
            Op::Binary(Binary { function: F::Less, activation: Activation::Linear }) => {
                let side = |id: ValueId| scalar(graph, uncast(graph, id));
                let test = Bound { first: side(a), limit: side(b?) };
                if !tests.contains(&test) {
                    tests.push(test);
                }
            }
            _ => return None,
        }
    }
    None
}
