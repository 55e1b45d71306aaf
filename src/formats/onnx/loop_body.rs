//! The body of a loop as a graph of its own.

use std::collections::HashMap;

use super::loops::{Kind, Plan};
use super::lower::{self, Scope, Val};
use super::names;
use super::sequences::List;
use super::step::Step;
use super::{Builder, prune};
use crate::error::{Error, Result};
use crate::graph::op::{Activation, Binary, BinaryFunction as F, Gather, While};
use crate::graph::{Dim, Op, Port, ValueId, ValueType};
use crate::tensor::{DType, Tensor};

/// A variable of the structured loop.
#[derive(Clone, Copy)]
pub struct Variable {
    /// Its value before the first iteration.
    pub outer: ValueId,
    pub inside: ValueId,
    /// Its value after an iteration: `inside` where it stays.
    pub next: ValueId,
}

/// A body that was read.
pub struct Inner {
    pub builder: Builder,
    pub variables: Vec<Variable>,
    /// The iteration number.
    pub counter: ValueId,
    /// Place of the condition among the variables.
    pub condition: Option<usize>,
    /// Place of each state among the variables.
    pub states: Vec<Option<usize>>,
    /// What each iteration adds to the outputs that are stacked.
    pub items: Vec<ValueId>,
    /// Values from outside, and what they are inside.
    brought: HashMap<ValueId, ValueId>,
}

impl Inner {
    /// A body of which only the iteration number and the trip count are there.
    pub fn new(step: &mut Step<'_, '_>, trips: Option<ValueId>) -> Result<Inner> {
        let start = step.scalar(0);
        let mut inner = Inner {
            builder: Builder::inside(&step.builder.graph, "body"),
            variables: Vec::new(),
            counter: start,
            condition: None,
            states: Vec::new(),
            items: Vec::new(),
            brought: HashMap::new(),
        };
        let counter = ValueType::fixed(DType::I64, &[]);
        inner.counter = inner.add_variable("iteration", counter, start);
        let one = inner.builder.constant_value("one", Tensor::scalar(1i64));
        let add = Op::Binary(Binary { function: F::Add, activation: Activation::Linear });
        let next = inner.add(step, add, &[inner.counter, one])?;
        inner.set_next(0, next);
        if let Some(trips) = trips {
            inner.bring(step, trips)?;
        }
        Ok(inner)
    }

    /// Reads the body of a loop with the types of its states as they are now.
    pub fn read<'a>(step: &mut Step<'_, 'a>, plan: &Plan<'a>) -> Result<Inner> {
        let mut inner = Inner::new(step, plan.trips)?;
        let mut scope = Scope::new(step.scope.call.clone(), step.scope.opsets.clone());
        if let Some(name) = plan.counter {
            scope.set(name, Val::Tensor(inner.counter));
        }
        inner.bring_condition(plan, &mut scope);
        inner.bring_states(step, plan, &mut scope)?;
        for &(name, tensor) in &plan.elements {
            let tensor = inner.bring(step, tensor)?;
            let gather = Op::Gather(Gather { axis: 0, batch_dims: 0 });
            let entry = inner.add(step, gather, &[tensor, inner.counter])?;
            scope.set(name, Val::Tensor(entry));
        }
        for name in names::free(plan.body) {
            let Some(val) = step.scope.get(name).cloned() else { continue };
            let val = inner.bring_val(step, &val)?;
            scope.set(name, val);
        }
        inner.results(step, plan, &mut scope)?;
        Ok(inner)
    }

    /// Adds the loop's node.
    pub fn emit(&self, step: &mut Step<'_, '_>, trips: Option<ValueId>) -> Result<Vec<ValueId>> {
        let mut condition = Builder::inside(&step.builder.graph, "condition");
        let mut inside = Vec::with_capacity(self.variables.len());
        for port in &self.builder.graph.inputs {
            let ty = self.builder.ty(port.value)?.clone();
            let id = condition.graph.add_value(port.name.as_str(), ty);
            condition.graph.inputs.push(Port { name: port.name.clone(), value: id });
            inside.push(id);
        }
        let mut tests = Vec::new();
        if let Some(trips) = trips {
            let limit = match step.builder.constant(trips) {
                Some(known) => condition.constant_value("trip count", known.clone()),
                None => self
                    .variables
                    .iter()
                    .position(|variable| variable.outer == trips)
                    .and_then(|slot| inside.get(slot).copied())
                    .ok_or_else(|| Error::internal("a trip count that is no variable"))?,
            };
            let counter = inside.first().copied();
            let counter = counter.ok_or_else(|| Error::internal("a loop without a counter"))?;
            tests.push(binary(step, &mut condition, F::Less, counter, limit)?);
        }
        tests.extend(self.condition.and_then(|slot| inside.get(slot).copied()));
        let test = match *tests.as_slice() {
            [one] => one,
            [a, b] => binary(step, &mut condition, F::And, a, b)?,
            _ => return Err(Error::unsupported("a loop that nothing ends")),
        };
        condition.graph.outputs.push(Port { name: "condition".into(), value: test });
        let mut body = self.builder.graph.clone();
        body.outputs = self
            .variables
            .iter()
            .zip(&body.inputs)
            .map(|(variable, port)| Port { name: port.name.clone(), value: variable.next })
            .collect();
        let op =
            Op::While(Box::new(While { condition: prune(condition.graph), body: prune(body) }));
        let inputs: Vec<_> = self.variables.iter().map(|variable| Some(variable.outer)).collect();
        let count = inputs.len();
        let name = step.name();
        let ids = step.builder.add(&mut step.cx.derived, name, op, inputs, count)?;
        if let Some(node) = step.builder.graph.nodes.last_mut() {
            for (output, variable) in node.outputs.iter_mut().zip(&self.variables) {
                if variable.next == variable.inside {
                    *output = None;
                }
            }
        }
        Ok(ids)
    }

    fn bring_condition<'a>(&mut self, plan: &Plan<'a>, scope: &mut Scope<'a>) {
        let inside = match plan.condition {
            Some((_, before)) => self.add_condition_variable(before),
            None => self.builder.constant_value("condition", Tensor::scalar(true)),
        };
        if let Some(name) = plan.condition_input {
            scope.set(name, Val::Tensor(inside));
        }
    }

    fn add_condition_variable(&mut self, before: ValueId) -> ValueId {
        self.condition = Some(self.variables.len());
        self.add_variable("condition", ValueType::fixed(DType::Bool, &[]), before)
    }

    /// Adds a condition that does not hold after the first iteration.
    pub fn add_condition(&mut self, before: ValueId) {
        let slot = self.variables.len();
        self.add_condition_variable(before);
        let no = self.builder.constant_value("condition", Tensor::scalar(false));
        self.set_next(slot, no);
    }

    fn bring_states<'a>(
        &mut self,
        step: &mut Step<'_, 'a>,
        plan: &Plan<'a>,
        scope: &mut Scope<'a>,
    ) -> Result<()> {
        for (k, state) in plan.states.iter().enumerate() {
            let mut slot = None;
            let val = match (&state.kind, &state.init) {
                (Kind::State(ty), Val::Tensor(outer)) => {
                    slot = Some(self.variables.len());
                    Val::Tensor(self.add_variable(state.input, ty.clone(), *outer))
                }
                (Kind::List, _) => Val::List(List::Growing(k)),
                // Its next value is not read: only the item is.
                (Kind::Growing { .. }, _) => {
                    self.states.push(None);
                    continue;
                }
                (_, init) => self.bring_val(step, init)?,
            };
            self.states.push(slot);
            scope.set(state.input, val);
        }
        Ok(())
    }

    /// Reads the body's nodes and takes what each iteration yields.
    fn results<'a>(
        &mut self,
        step: &mut Step<'_, 'a>,
        plan: &Plan<'a>,
        scope: &mut Scope<'a>,
    ) -> Result<()> {
        let carried = plan.states.iter().filter(|state| !matches!(state.kind, Kind::Fixed));
        let mut roots: Vec<&str> = plan.condition.iter().map(|(name, _)| *name).collect();
        roots.extend(carried.map(|state| state.output));
        roots.extend(&plan.scans);
        let values = lower::body(step.cx, &mut self.builder, scope, plan.body.into(), &roots)?;
        let mut values = values.into_iter();
        let mut next = || values.next().ok_or_else(|| Error::internal("a body without results"));
        if let Some(slot) = self.condition {
            let test = tensor(next()?)?;
            let test = self.scalar(step, test)?;
            self.set_next(slot, test);
        }
        for (k, state) in plan.states.iter().enumerate() {
            match &state.kind {
                Kind::Fixed => {}
                Kind::State(_) => {
                    let value = tensor(next()?)?;
                    if let Some(slot) = self.states.get(k).copied().flatten() {
                        self.set_next(slot, value);
                    }
                }
                Kind::List => match next()? {
                    Val::List(List::Grown(place, item)) if place == k => self.items.push(item),
                    _ => {
                        return Err(Error::unsupported(format!(
                            "the sequence '{}' does not get one item in each iteration",
                            state.input
                        )));
                    }
                },
                Kind::Growing { .. } => self.items.push(tensor(next()?)?),
            }
        }
        for _ in &plan.scans {
            self.items.push(tensor(next()?)?);
        }
        Ok(())
    }

    /// Says what a variable is after an iteration.
    pub fn set_next(&mut self, slot: usize, value: ValueId) {
        if let Some(variable) = self.variables.get_mut(slot) {
            variable.next = value;
        }
    }

    /// A condition may have one axis of size 1.
    fn scalar(&mut self, step: &mut Step<'_, '_>, id: ValueId) -> Result<ValueId> {
        if self.builder.ty(id)?.rank() == Some(0) {
            return Ok(id);
        }
        let shape = Tensor::from_vec(&[0], Vec::<i64>::new())?;
        let shape = self.builder.constant_value("scalar", shape);
        self.add(step, Op::Reshape, &[id, shape])
    }

    /// Adds a variable that stays as it is.
    pub fn add_variable(&mut self, name: &str, ty: ValueType, outer: ValueId) -> ValueId {
        let inside = self.builder.graph.add_value(name, ty);
        self.builder.graph.inputs.push(Port { name: name.to_owned(), value: inside });
        self.variables.push(Variable { outer, inside, next: inside });
        inside
    }

    /// Adds an op to the body.
    pub fn add(&mut self, step: &mut Step<'_, '_>, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        let name = step.name();
        self.builder.add_one(&mut step.cx.derived, name, op, inputs)
    }

    /// A value from outside: a constant is one inside, too.
    pub fn bring(&mut self, step: &Step<'_, '_>, outer: ValueId) -> Result<ValueId> {
        let value = step.builder.graph.get(outer);
        let value = value.ok_or_else(|| Error::internal("a value of another graph"))?;
        if let Some(tensor) = &value.constant {
            return Ok(self.builder.constant_value(&value.name, tensor.clone()));
        }
        if let Some(&inside) = self.brought.get(&outer) {
            return Ok(inside);
        }
        let (name, ty) = (value.name.clone(), value.ty.clone());
        let inside = self.add_variable(&name, ty, outer);
        self.brought.insert(outer, inside);
        Ok(inside)
    }

    pub fn bring_val(&mut self, step: &Step<'_, '_>, val: &Val) -> Result<Val> {
        Ok(match val {
            Val::Tensor(id) => Val::Tensor(self.bring(step, *id)?),
            Val::List(List::Tensor(id)) => Val::List(List::Tensor(self.bring(step, *id)?)),
            Val::List(List::Empty(dtype)) => Val::List(List::Empty(*dtype)),
            Val::List(List::Growing(_) | List::Grown(..)) => {
                return Err(Error::unsupported(
                    "a sequence of a loop that is used in a loop inside of it",
                ));
            }
        })
    }
}

fn binary(
    step: &mut Step<'_, '_>,
    builder: &mut Builder,
    function: F,
    a: ValueId,
    b: ValueId,
) -> Result<ValueId> {
    let op = Op::Binary(Binary { function, activation: Activation::Linear });
    builder.add_one(&mut step.cx.derived, "condition", op, &[a, b])
}

fn tensor(val: Val) -> Result<ValueId> {
    match val {
        Val::Tensor(id) => Ok(id),
        Val::List(_) => Err(Error::unsupported("a body yields a sequence where a tensor is due")),
    }
}

/// The shape of a state whose known sizes are those of an item.
fn like(step: &mut Step<'_, '_>, inner: &Inner, dims: &[Dim]) -> Result<Option<ValueId>> {
    let fits = |variable: &&Variable| {
        let shape = step.builder.graph.shape(variable.outer);
        shape.is_some_and(|shape| {
            shape.len() == dims.len() && shape.iter().zip(dims).all(|(a, b)| a.known() == b.known())
        })
    };
    let states = inner.states.iter().flatten().filter_map(|&slot| inner.variables.get(slot));
    let Some(state) = states.into_iter().find(fits) else { return Ok(None) };
    step.shape_of(state.outer).map(Some)
}

/// The shape of an item, from outside: its sizes as vectors.
pub fn item_shape(step: &mut Step<'_, '_>, inner: &Inner, item: ValueId) -> Result<Vec<ValueId>> {
    let unknown = || {
        Error::unsupported("outputs of every iteration whose shape is not known before the loop")
    };
    // An item that is the next value of a state has its shape.
    let state = inner
        .states
        .iter()
        .flatten()
        .find_map(|&slot| inner.variables.get(slot).filter(|variable| variable.next == item));
    let dims = inner.builder.graph.shape(item).map(<[Dim]>::to_vec);
    let dims = match (dims, state) {
        (Some(dims), _) if !dims.contains(&Dim::Unknown) => dims,
        (Some(dims), Some(state)) if step.dims(state.outer)?.len() == dims.len() => {
            return Ok(vec![step.shape_of(state.outer)?]);
        }
        // A state that may have its shape: another one would be refused when it is written.
        (Some(dims), _) => match like(step, inner, &dims)? {
            Some(shape) => return Ok(vec![shape]),
            None => dims,
        },
        (None, _) => return Err(unknown()),
    };
    let mut parts = Vec::with_capacity(dims.len());
    for dim in dims {
        if let Dim::Known(size) = dim {
            parts.push(step.vector(&[size as i64])?);
            continue;
        }
        let place = inner.variables.iter().find_map(|variable| {
            let shape = step.builder.graph.shape(variable.outer)?;
            let axis = shape.iter().position(|&other| other == dim && dim != Dim::Unknown)?;
            Some((variable.outer, axis as i64))
        });
        let (value, axis) = place.ok_or_else(unknown)?;
        let shape = step.shape_of(value)?;
        parts.push(step.slice(shape, 0, axis, axis + 1)?);
    }
    Ok(parts)
}
