//! Loop and Scan as the structured loop of the graph.
//!
//! The variables of the structured loop are the iteration number, the condition where the body
//! computes one, the states, a tensor `[trip count, …]` for every output that each iteration adds
//! to, and every value from outside that the body reads, which stays as it is.

use super::loop_body::{Inner, item_shape};
use super::loop_bounds;
use super::lower::Val;
use super::messages::{GraphProto, NodeProto};
use super::names;
use super::sequences::{self, List};
use super::step::{Outputs, Step};
use crate::error::{Error, Place, Result};
use crate::graph::op::StridedSlice;
use crate::graph::{Dim, Op, ValueId, ValueType};
use crate::tensor::{DType, Tensor};

/// What a loop-carried value is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// The body returns it as it is.
    Fixed,
    /// A tensor of this type in every iteration.
    State(ValueType),
    /// A sequence that gets one item in each iteration.
    List,
    /// A tensor that each iteration joins an item to, on this axis.
    Growing {
        axis: i64,
        /// The item lacks the axis: it is one entry of it.
        is_entry: bool,
    },
}

/// A loop-carried value.
pub struct State<'a> {
    pub input: &'a str,
    /// Name of the next value; of the item where the value grows.
    pub output: &'a str,
    pub init: Val,
    pub kind: Kind,
}

/// A loop on its way in.
pub struct Plan<'a> {
    pub body: &'a GraphProto,
    /// Names of the iteration number and the condition among the body's inputs.
    pub counter: Option<&'a str>,
    pub condition_input: Option<&'a str>,
    /// The body's condition, where it matters, with its value before the first iteration.
    pub condition: Option<(&'a str, ValueId)>,
    /// Iterations at most: an i64 scalar.
    pub trips: Option<ValueId>,
    pub states: Vec<State<'a>>,
    /// Body inputs that are entries of tensors `[trip count, …]`.
    pub elements: Vec<(&'a str, ValueId)>,
    /// Body outputs that are stacked.
    pub scans: Vec<&'a str>,
}

/// Holds the inputs and outputs of a body against those of its node.
fn check_body(body: &GraphProto, inputs: usize, outputs: usize) -> Result<()> {
    if body.input.len() != inputs || body.output.len() < outputs {
        return Err(Error::malformed(format!(
            "body: expected {inputs} inputs and {outputs} outputs or more, found {} and {}",
            body.input.len(),
            body.output.len()
        )));
    }
    match body.sparse_initializer.first() {
        Some(tensor) => Err(super::sparse(tensor)),
        None => Ok(()),
    }
}

fn input_name(body: &GraphProto, position: usize) -> &str {
    body.input.get(position).map_or("", |input| input.name.as_str())
}

fn output_name(body: &GraphProto, position: usize) -> &str {
    body.output.get(position).map_or("", |output| output.name.as_str())
}

/// A scalar of the value's one element.
fn as_scalar(step: &mut Step<'_, '_>, id: ValueId) -> Result<ValueId> {
    match step.rank(id)? {
        0 => Ok(id),
        _ => {
            let scalar = step.vector(&[])?;
            step.add(Op::Reshape, &[id, scalar])
        }
    }
}

/// Loop: trip count?, condition?, states… → states…, stacked outputs….
pub fn repeat(step: &mut Step<'_, '_>) -> Result<Outputs> {
    let body = step.attrs.graph("body")?;
    let count = step.inputs.len().saturating_sub(2);
    check_body(body, count + 2, count + 1)?;
    let mut trips = None;
    if let Some(id) = step.optional(0)? {
        let id = as_scalar(step, id)?;
        let id = step.cast(id, DType::I64)?;
        // Exporters write the largest number for "no bound".
        const NO_BOUND: i64 = i32::MAX as i64;
        let known = step.builder.integers(id)?;
        if known.as_deref().is_none_or(|known| known.iter().all(|&n| n < NO_BOUND)) {
            trips = Some(id);
        }
    }
    let before = match step.optional(1)? {
        Some(id) => as_scalar(step, id)?,
        None => step.constant(Tensor::scalar(true)),
    };
    let mut states = Vec::with_capacity(count);
    for position in 0..count {
        let init = step.inputs.get(position + 2).cloned().flatten();
        let init = init.ok_or_else(|| Error::malformed(format!("state {position} is absent")))?;
        states.push(State {
            input: input_name(body, position + 2),
            output: output_name(body, position + 1),
            init,
            kind: Kind::Fixed,
        });
    }
    let mut plan = Plan {
        body,
        counter: Some(input_name(body, 0)),
        condition_input: Some(input_name(body, 1)),
        condition: Some((output_name(body, 0), before)),
        trips,
        states,
        elements: Vec::new(),
        scans: (count + 1..body.output.len()).map(|k| output_name(body, k)).collect(),
    };
    plan.sort_states(step)?;
    loop_bounds::settle(step, &mut plan)?;
    let outputs = plan.lower(step)?;
    Ok(outputs.into_iter().map(Some).collect())
}

/// Scan: states…, sequences… → states…, stacked outputs….
pub fn scan(step: &mut Step<'_, '_>) -> Result<Outputs> {
    const WITHOUT_BATCH: i64 = 9;
    if step.opset < WITHOUT_BATCH {
        return Err(Error::unsupported("Scan with a batch axis, as before opset 9"));
    }
    let body = step.attrs.graph("body")?;
    let count = step.attrs.int("num_scan_inputs")?;
    let count = count.ok_or_else(|| Error::malformed("num_scan_inputs is missing"))?;
    let count = usize::try_from(count).ok().filter(|&n| (1..=step.inputs.len()).contains(&n));
    let count = count.ok_or_else(|| Error::malformed("num_scan_inputs: more than inputs"))?;
    let carried = step.inputs.len() - count;
    check_body(body, step.inputs.len(), carried)?;
    let scans = body.output.len() - carried;
    let input_axes = axes(step, "scan_input_axes", count)?;
    let input_reversed = axes(step, "scan_input_directions", count)?;
    let output_axes = axes(step, "scan_output_axes", scans)?;
    let output_reversed = axes(step, "scan_output_directions", scans)?;
    let mut states = Vec::with_capacity(carried);
    for position in 0..carried {
        let init = Val::Tensor(step.tensor(position)?);
        let (input, output) = (input_name(body, position), output_name(body, position));
        states.push(State { input, output, init, kind: Kind::Fixed });
    }
    let mut elements = Vec::with_capacity(count);
    for (k, (&axis, &reversed)) in input_axes.iter().zip(&input_reversed).enumerate() {
        let x = step.tensor(carried + k)?;
        let rank = step.rank(x)?;
        let axis = step.axis(axis, rank)?;
        let mut order: Vec<usize> = (0..rank).filter(|&other| other != axis).collect();
        order.insert(0, axis);
        let mut x = step.transpose(x, &order)?;
        if reversed != 0 {
            x = reversed_first(step, x)?;
        }
        elements.push((input_name(body, carried + k), x));
    }
    let first = elements.first().map(|(_, id)| *id);
    let first = first.ok_or_else(|| Error::malformed("num_scan_inputs: expected 1 or more"))?;
    let shape = step.shape_of(first)?;
    let trips = step.slice(shape, 0, 0, 1)?;
    let trips = as_scalar(step, trips)?;
    let mut plan = Plan {
        body,
        counter: None,
        condition_input: None,
        condition: None,
        trips: Some(trips),
        states,
        elements,
        scans: (carried..body.output.len()).map(|k| output_name(body, k)).collect(),
    };
    plan.sort_states(step)?;
    let mut outputs = plan.lower(step)?;
    for ((output, &axis), &reversed) in
        outputs.iter_mut().skip(carried).zip(&output_axes).zip(&output_reversed)
    {
        let Val::Tensor(id) = output else { continue };
        let rank = step.rank(*id)?;
        let axis = step.axis(axis, rank)?;
        if reversed != 0 {
            *id = reversed_first(step, *id)?;
        }
        *id = sequences::moved(step, *id, axis)?;
    }
    Ok(outputs.into_iter().map(Some).collect())
}

/// A list of one number for each of `count` tensors; zeros when it is absent.
fn axes(step: &Step<'_, '_>, name: &str, count: usize) -> Result<Vec<i64>> {
    let list = step.attrs.ints(name)?.unwrap_or_else(|| vec![0; count]);
    if list.len() == count {
        return Ok(list);
    }
    Err(Error::malformed(format!("{name}: expected {count} entries, found {list:?}")))
}

fn reversed_first(step: &mut Step<'_, '_>, x: ValueId) -> Result<ValueId> {
    let axes = step.vector(&[0])?;
    step.add(Op::Reverse, &[x, axes])
}

impl<'a> Plan<'a> {
    /// The node of the body that computes a name.
    pub fn maker(&self, name: &str) -> Option<&'a NodeProto> {
        self.body.node.iter().find(|node| node.output.iter().any(|output| output == name))
    }

    /// A name behind copies of it.
    pub fn through<'n>(&self, mut name: &'n str, copies: &[&str]) -> &'n str
    where
        'a: 'n,
    {
        // Longer chains than this are no exporter's.
        for _ in 0..16 {
            match self.maker(name).filter(|node| copies.contains(&node.op_type.as_str())) {
                Some(node) => name = node.input.first().map_or("", String::as_str),
                None => break,
            }
        }
        name
    }

    /// Tells what each loop-carried value is.
    fn sort_states(&mut self, step: &Step<'_, '_>) -> Result<()> {
        for k in 0..self.states.len() {
            let (input, output) = (self.states[k].input, self.states[k].output);
            let kind = if self.through(output, &["Identity"]) == input {
                Kind::Fixed
            } else {
                match &self.states[k].init {
                    Val::List(List::Empty(_)) => Kind::List,
                    Val::List(_) => {
                        return Err(Error::unsupported(format!(
                            "the sequence '{input}' is not empty before the loop that changes it"
                        )));
                    }
                    Val::Tensor(id) => match self.growth(input, output) {
                        Some((axis, item)) => {
                            let entry = self.entry(step, item, axis);
                            self.states[k].output = entry.unwrap_or(item);
                            Kind::Growing { axis, is_entry: entry.is_some() }
                        }
                        None => Kind::State(step.builder.ty(*id)?.clone()),
                    },
                }
            };
            self.states[k].kind = kind;
        }
        Ok(())
    }

    /// Axis and item, when the next value is `Concat(value, item)` and nothing else reads the
    /// value.
    fn growth(&self, input: &'a str, output: &'a str) -> Option<(i64, &'a str)> {
        let name = self.through(output, &["Identity"]);
        let node = self.maker(name).filter(|node| node.op_type == "Concat")?;
        let [first, item] = node.input.as_slice() else { return None };
        let uses = self.body.node.iter().flat_map(names::reads).filter(|name| *name == input);
        let returned = self.body.output.iter().filter(|output| output.name == input).count();
        let next_uses = self.body.node.iter().flat_map(names::reads).filter(|other| *other == name);
        let axis = node.attribute.iter().find(|attribute| attribute.name == "axis")?.i?;
        let alone = uses.count() == 1 && returned == 0;
        let is_next = name == output && next_uses.count() == 0;
        (first == input && alone && is_next).then_some((axis, item.as_str()))
    }

    /// What an item is made of by inserting the axis that it is joined on.
    fn entry(&self, step: &Step<'_, '_>, item: &str, axis: i64) -> Option<&'a str> {
        let node = self.maker(item).filter(|node| node.op_type == "Unsqueeze")?;
        let entry = node.input.first()?;
        let inserted = match node.input.get(1) {
            Some(axes) => loop_bounds::constant(step, self, axes)? as i64,
            None => match node.attribute.iter().find(|attribute| attribute.name == "axes")? {
                axes if axes.ints.len() == 1 => *axes.ints.first()?,
                _ => return None,
            },
        };
        (inserted == axis).then_some(entry.as_str())
    }

    /// The results: the states after the loop, then the stacked outputs.
    fn lower(&mut self, step: &mut Step<'_, 'a>) -> Result<Vec<Val>> {
        step.cx.enter()?;
        let outside = std::mem::replace(&mut step.cx.in_loop, true);
        let inner = self.settle(step);
        step.cx.in_loop = outside;
        step.cx.leave();
        let mut inner = inner.within(|| "body")?;
        let buffers = self.buffers(step, &mut inner)?;
        let ids = inner.emit(step, self.trips)?;
        let counter = ids.first().copied();
        let mut buffers = buffers.into_iter();
        let mut stacked = |step: &mut Step<'_, '_>| -> Result<ValueId> {
            let slot = buffers.next().ok_or_else(|| Error::internal("an output without a list"))?;
            let id = ids.get(slot).copied();
            let id = id.ok_or_else(|| Error::internal("a loop without a result"))?;
            match (counter, self.condition) {
                (Some(counter), Some(_)) => head(step, id, counter),
                _ => Ok(id),
            }
        };
        let mut outputs = Vec::with_capacity(self.states.len() + self.scans.len());
        for (k, state) in self.states.iter().enumerate() {
            outputs.push(match &state.kind {
                Kind::Fixed => state.init.clone(),
                Kind::State(_) => {
                    let slot = inner.states.get(k).copied().flatten();
                    let id = slot.and_then(|slot| ids.get(slot).copied());
                    Val::Tensor(id.ok_or_else(|| Error::internal("a state without a result"))?)
                }
                Kind::List => Val::List(List::Tensor(stacked(step)?)),
                Kind::Growing { axis, is_entry } => {
                    let items = stacked(step)?;
                    Val::Tensor(grown(step, &state.init, items, *axis, *is_entry)?)
                }
            });
        }
        for _ in &self.scans {
            outputs.push(Val::Tensor(stacked(step)?));
        }
        Ok(outputs)
    }

    /// Reads the body until the types of the states hold in every iteration.
    fn settle(&mut self, step: &mut Step<'_, 'a>) -> Result<Inner> {
        // Each round opens sizes or a rank, so few are needed.
        for _ in 0..8 {
            let inner = Inner::read(step, self)?;
            let mut changed = false;
            for (k, state) in self.states.iter_mut().enumerate() {
                let (Kind::State(ty), Some(slot)) =
                    (&mut state.kind, inner.states.get(k).copied().flatten())
                else {
                    continue;
                };
                let next = inner.variables.get(slot).map(|variable| variable.next);
                let next = next.ok_or_else(|| Error::internal("a state without a variable"))?;
                changed |= widen(ty, inner.builder.ty(next)?)
                    .within(|| format!("state '{}'", state.input))?;
            }
            if !changed {
                return Ok(inner);
            }
        }
        Err(Error::unsupported("the shapes of the states do not settle"))
    }

    /// Adds a tensor `[trip count, …]` for every output that the iterations add to; returns their
    /// places among the variables.
    fn buffers(&self, step: &mut Step<'_, '_>, inner: &mut Inner) -> Result<Vec<usize>> {
        let items = inner.items.clone();
        let mut slots = Vec::with_capacity(items.len());
        for item in items {
            let Some(trips) = self.trips else {
                return Err(Error::unsupported(
                    "outputs of every iteration, in a loop whose trip count nothing bounds",
                ));
            };
            let ty = inner.builder.ty(item)?.clone();
            let axis = step.scalar(0);
            let count = step.add(Op::ExpandDims, &[trips, axis])?;
            let mut parts = vec![count];
            parts.extend(item_shape(step, inner, item)?);
            let shape = step.concat(0, &parts)?;
            let zero = step.constant(Tensor::zeros(ty.dtype, &[])?);
            let buffer = step.add(Op::Fill, &[shape, zero])?;
            let slot = inner.variables.len();
            let mut buffer_ty = step.builder.ty(buffer)?.clone();
            if let (Some(shape), Some(item)) = (&mut buffer_ty.shape, &ty.shape) {
                for (dim, &known) in shape.iter_mut().skip(1).zip(item) {
                    *dim = dim.refined_by(known);
                }
            }
            let inside = inner.add_variable("list", buffer_ty, buffer);
            let written = inner.add(step, Op::SetItem, &[inside, inner.counter, item])?;
            if let Some(variable) = inner.variables.get_mut(slot) {
                variable.next = written;
            }
            slots.push(slot);
        }
        Ok(slots)
    }
}

/// A type that holds before and after the body; whether it says less than before.
fn widen(ty: &mut ValueType, next: &ValueType) -> Result<bool> {
    if ty.dtype != next.dtype {
        return Err(Error::malformed(format!("expected {}, found {}", ty.dtype, next.dtype)));
    }
    let joined: Option<Vec<Dim>> = match (&ty.shape, &next.shape) {
        (Some(before), Some(after)) if before.len() == after.len() => {
            Some(before.iter().zip(after).map(|(&a, &b)| join(a, b)).collect())
        }
        _ => None,
    };
    let changed = joined != ty.shape;
    ty.shape = joined;
    Ok(changed)
}

/// A size that holds before and after the body.
fn join(before: Dim, after: Dim) -> Dim {
    match (before, after) {
        (a, b) if a == b => a,
        // A body that knows nothing keeps what it is given.
        (_, Dim::Unknown) => before,
        _ => Dim::Unknown,
    }
}

/// The first `count` entries.
fn head(step: &mut Step<'_, '_>, x: ValueId, count: ValueId) -> Result<ValueId> {
    let axis = step.scalar(0);
    let end = step.add(Op::ExpandDims, &[count, axis])?;
    let (begin, strides) = (step.vector(&[0])?, step.vector(&[1])?);
    step.add(Op::StridedSlice(StridedSlice::default()), &[x, begin, end, strides])
}

/// A tensor and the items that were joined to it.
fn grown(
    step: &mut Step<'_, '_>,
    init: &Val,
    items: ValueId,
    axis: i64,
    is_entry: bool,
) -> Result<ValueId> {
    let Val::Tensor(init) = init else {
        return Err(Error::internal("a tensor that grows is no tensor"));
    };
    let dims = step.dims(*init)?;
    let place = step.axis(axis, dims.len())?;
    let joined = if is_entry {
        sequences::moved(step, items, place)?
    } else {
        sequences::joined(step, items, place)?
    };
    if dims.get(place) == Some(&Dim::Known(0)) {
        return Ok(joined);
    }
    step.concat(axis, &[*init, joined])
}
