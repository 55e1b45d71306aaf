//! A session with state: runs that go on from one another.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::pool::Ready;
use super::{Inputs, Key, Session};
use crate::backend::{Counters, Io};
use crate::error::{Error, Result};
use crate::graph::print::type_text;
use crate::graph::{Dim, State, ValueType};
use crate::limits::{Bounds, RunOptions};
use crate::tensor::{Tensor, TensorView};

/// Runs of one sequence, piece by piece: every run goes on from the state that the run before it
/// left.
///
/// Any number of streams share one session. A run that fails leaves the state as it was.
///
/// ```no_run
/// # use fuselstm::{Device, Model, Session, Tensor, DType};
/// # let session = Session::new(&Model::open("model.tflite")?, Device::auto())?;
/// let mut stream = session.stream();
/// let mut outputs = fuselstm::Outputs::default();
/// for _ in 0..100 {
///     let frame = Tensor::zeros(DType::F32, &[1, 1, 64])?;
///     stream.run_into(&[("frame", &frame)], &mut outputs)?; // writes into the tensors of the step before
/// }
/// stream.reset();
/// # Ok::<(), fuselstm::Error>(())
/// ```
pub struct Stream {
    session: Session,
    /// In the graph's order; `None`: as a reset leaves it, its batch size still open.
    states: Vec<Option<Tensor>>,
    /// What the next run writes; swapped with `states` when it went well. Kept, so that a step
    /// allocates nothing.
    next: Vec<Tensor>,
    /// The inputs in the graph's order while a run lasts, `nothing` otherwise.
    inputs: Vec<Tensor>,
    given: Vec<bool>,
    /// The stream's own memory for inputs that are views, in the graph's order.
    copies: Vec<Tensor>,
    nothing: Tensor,
    options: RunOptions,
}

/// The outputs of a run, by name or position, in the model's order.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    pub(super) names: Vec<String>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) counters: Counters,
}

impl Stream {
    pub(super) fn new(session: Session) -> Stream {
        let graph = &session.inner.graph;
        // The placeholder shares one empty vector, so that putting it somewhere allocates nothing.
        let nothing = Tensor::scalar(0u8);
        let states = vec![None; graph.states.len()];
        let (inputs, given) =
            (vec![nothing.clone(); graph.inputs.len()], vec![false; graph.inputs.len()]);
        Stream {
            states,
            next: Vec::new(),
            copies: inputs.clone(),
            inputs,
            given,
            nothing,
            options: RunOptions::new(),
            session,
        }
    }

    /// The session that this stream runs on.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Bounds of every run from now on.
    pub fn set_options(&mut self, options: RunOptions) {
        self.options = options;
    }

    /// Runs one piece and returns its outputs. [`Inputs`] by name, by position, or one tensor alone.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) naming the input, what was expected and
    /// what was given, also when the batch size differs from that of the steps before; or the
    /// backend's. The state stays as it was.
    pub fn run(&mut self, inputs: &(impl Inputs + ?Sized)) -> Result<Outputs> {
        let mut outputs = Outputs::of(self)?;
        self.run_into(inputs, &mut outputs)?;
        Ok(outputs)
    }

    /// As [`Stream::run`], into the outputs of an earlier run: where shapes are the same and the
    /// tensors are not shared, their elements are written in place.
    ///
    /// # Errors
    /// As [`Stream::run`]; what `outputs` holds then is unspecified.
    pub fn run_into(
        &mut self,
        inputs: &(impl Inputs + ?Sized),
        outputs: &mut Outputs,
    ) -> Result<()> {
        let result = self.gather(inputs).and_then(|()| self.step(outputs));
        self.let_go();
        result
    }

    /// As [`Stream::run`], without blocking the thread where the device allows it. A future that is
    /// dropped before it is done leaves the state as it was.
    ///
    /// # Errors
    /// As [`Stream::run`].
    pub fn run_async(
        &mut self,
        inputs: &(impl Inputs + ?Sized),
    ) -> impl Future<Output = Result<Outputs>> + Send + '_ {
        let gathered = self.gather(inputs);
        async move {
            gathered?;
            let mut outputs = Outputs::of(self)?;
            let result = self.step_async(&mut outputs).await;
            self.let_go();
            result.map(|()| outputs)
        }
    }

    /// Back to the reset state; the next run may have another batch size.
    pub fn reset(&mut self) {
        self.states.fill(None);
    }

    /// Names of the states, in the model's order.
    pub fn state_names(&self) -> impl Iterator<Item = &str> {
        self.session.inner.graph.states.iter().map(|state| state.name.as_str())
    }

    /// A state; `None` when it is as a reset leaves it and no run has given it a size.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when there is no such state.
    pub fn state<'k>(&self, key: impl Into<Key<'k>>) -> Result<Option<&Tensor>> {
        let index = self.state_index(key.into())?;
        Ok(self.states.get(index).and_then(Option::as_ref))
    }

    /// Replaces a state, for example by that of another stream. After a run or another state it has
    /// to have their batch size; [`Stream::reset`] lifts that.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when there is no such state, or the model
    /// has it of another type or shape.
    pub fn set_state<'k>(&mut self, key: impl Into<Key<'k>>, state: Tensor) -> Result<()> {
        let key = key.into();
        let index = self.state_index(key)?;
        let ty = self.state_type(index)?;
        let is_held = self.states.get(index).and_then(Option::as_ref);
        let fits = match is_held {
            Some(held) => held.shape() == state.shape(),
            None => fits(ty, state.shape()) && self.agrees(index, &state)?,
        };
        if ty.dtype != state.dtype() || !fits {
            let expected = match is_held {
                Some(held) => format!("{} {:?}, as before,", held.dtype(), held.shape()),
                None => type_text(&self.session.inner.graph, ty),
            };
            let found = format!("{} {:?}", state.dtype(), state.shape());
            return Err(Error::input(format!(
                "state {key}: {expected} was expected, {found} was given"
            )));
        }
        if let Some(slot) = self.states.get_mut(index) {
            *slot = Some(state);
        }
        Ok(())
    }

    /// Whether the states that are set already have as many batch rows.
    fn agrees(&self, index: usize, state: &Tensor) -> Result<bool> {
        let rows = |ty: &ValueType| ty.shape.as_ref().and_then(|shape| shape.first().copied());
        let own = rows(self.state_type(index)?);
        for (other, held) in self.states.iter().enumerate() {
            let Some(held) = held else { continue };
            let same_axis = own.is_some() && rows(self.state_type(other)?) == own;
            if same_axis && held.shape().first() != state.shape().first() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn state_index(&self, key: Key<'_>) -> Result<usize> {
        let states = &self.session.inner.graph.states;
        index_of(states, |state: &State| &state.name, key, "state")
    }

    fn state_type(&self, index: usize) -> Result<&ValueType> {
        let graph = &self.session.inner.graph;
        let value = graph.states.get(index).and_then(|state| graph.get(state.value));
        value.map(|value| &value.ty).ok_or_else(|| Error::internal("a state without a value"))
    }

    /// Puts the caller's inputs into the graph's order: elements of tensors are shared, views are
    /// copied into memory that the stream keeps.
    pub(super) fn gather(&mut self, inputs: &(impl Inputs + ?Sized)) -> Result<()> {
        let Stream { session, inputs: slots, given, copies, nothing, .. } = self;
        given.fill(false);
        let model = &session.inner.model;
        inputs.give(&mut |key: Key<'_>, view: TensorView<'_>| {
            let index = model.input_index(key)?;
            model.check_input(index, &view)?;
            match (slots.get_mut(index), copies.get_mut(index), given.get_mut(index)) {
                (Some(slot), Some(copy), Some(given @ false)) => {
                    if view.is_shared() {
                        view.store_in(slot);
                    } else {
                        slot.share(nothing);
                        view.store_in(copy);
                        slot.share(copy);
                    }
                    *given = true;
                    Ok(())
                }
                _ => Err(Error::input(format!("input {key} was given twice"))),
            }
        })?;
        match self.given.iter().position(|given| !given) {
            Some(index) => Err(model.missing_input(index)),
            None => Ok(()),
        }
    }

    /// The inputs that were gathered.
    pub(super) fn into_inputs(self) -> Vec<Tensor> {
        self.inputs
    }

    /// The caller's tensors are let go, so that writing to them does not have to copy.
    fn let_go(&mut self) {
        self.inputs.iter_mut().for_each(|input| input.share(&self.nothing));
    }

    fn step(&mut self, outputs: &mut Outputs) -> Result<()> {
        let _bounds = self.options.begin().enter();
        let mut ready = self.prepare(outputs)?;
        ready.program.run(Io {
            inputs: &self.inputs,
            states: &mut self.next,
            outputs: &mut outputs.tensors,
        })?;
        self.finish(ready, outputs);
        Ok(())
    }

    pub(super) async fn step_async(&mut self, outputs: &mut Outputs) -> Result<()> {
        let bounds = self.options.begin();
        let mut ready = {
            let _bounds = bounds.enter();
            self.prepare(outputs)?
        };
        let future = {
            // A backend that cannot wait runs here already.
            let _bounds = bounds.enter();
            let (inputs, states) = (&self.inputs, &mut self.next);
            ready.program.run_async(Io { inputs, states, outputs: &mut outputs.tensors })
        };
        Bounded { future, bounds }.await?;
        self.finish(ready, outputs);
        Ok(())
    }

    /// A program for the gathered inputs, and the states and outputs that it is to write.
    fn prepare(&mut self, outputs: &mut Outputs) -> Result<Ready> {
        let ready = self.session.checkout(&self.inputs)?;
        if let Err(error) = self.prepare_states(&ready.plan.state_shapes) {
            self.session.inner.pool.give_back(ready);
            return Err(error);
        }
        outputs.fit(&self.session)?;
        Ok(ready)
    }

    /// Takes over what a run that went well has left.
    fn finish(&mut self, ready: Ready, outputs: &mut Outputs) {
        outputs.counters = self.session.ran(ready);
        for (state, next) in self.states.iter_mut().zip(&mut self.next) {
            match state {
                Some(state) => std::mem::swap(state, next),
                None => *state = Some(std::mem::replace(next, self.nothing.clone())),
            }
        }
    }

    /// Copies the states to where the run will write them: the run may fail half-way.
    fn prepare_states(&mut self, shapes: &[Vec<usize>]) -> Result<()> {
        for ((state, shape), name) in self
            .states
            .iter()
            .zip(shapes)
            .zip(self.session.inner.graph.states.iter().map(|s| &s.name))
        {
            if let Some(state) = state.as_ref().filter(|state| state.shape() != shape) {
                return Err(Error::input(format!(
                    "state `{name}` of this stream is {:?}, inputs of these shapes need {shape:?}: the batch size may not change \
                     between the steps of a stream; reset it first, or open another one",
                    state.shape()
                )));
            }
        }
        if self.next.len() != self.states.len() || self.states.iter().any(Option::is_none) {
            self.next = self.session.reset_states(shapes)?;
        }
        for (state, next) in self.states.iter().zip(&mut self.next) {
            if let Some(state) = state {
                next.assign(state);
            }
        }
        Ok(())
    }
}

impl Outputs {
    pub(super) fn of(stream: &Stream) -> Result<Outputs> {
        let mut outputs = Outputs::default();
        outputs.fit(&stream.session)?;
        Ok(outputs)
    }

    /// Makes the names those of the session's model; the tensors stay where there are as many.
    fn fit(&mut self, session: &Session) -> Result<()> {
        let specs = session.model().outputs();
        if self.names.len() != specs.len()
            || self.names.iter().zip(specs).any(|(name, spec)| *name != spec.name)
        {
            self.names = specs.iter().map(|spec| spec.name.clone()).collect();
            self.tensors =
                specs.iter().map(|spec| Tensor::zeros(spec.dtype, &[0])).collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// An output by name or position; `outputs["name"]` and `outputs[0]` are the same for outputs
    /// that are known to be there.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) that lists the names there are.
    pub fn get<'k>(&self, key: impl Into<Key<'k>>) -> Result<&Tensor> {
        let index = index_of(&self.names, |name| name, key.into(), "output")?;
        self.tensors.get(index).ok_or_else(|| Error::internal("an output without a tensor"))
    }

    /// Names and tensors, in the model's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.names.iter().map(String::as_str).zip(&self.tensors)
    }

    /// The tensors, in the model's order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensors to keep, in the model's order.
    pub fn into_tensors(self) -> Vec<Tensor> {
        self.tensors
    }

    /// What the run cost.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

impl std::ops::Index<&str> for Outputs {
    type Output = Tensor;

    /// # Panics
    /// Where the model has no output of this name; [`Outputs::get`] does not.
    #[allow(clippy::panic)]
    fn index(&self, name: &str) -> &Tensor {
        self.get(name).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl std::ops::Index<usize> for Outputs {
    type Output = Tensor;

    /// # Panics
    /// Where the model has fewer outputs; [`Outputs::get`] does not.
    #[allow(clippy::panic)]
    fn index(&self, position: usize) -> &Tensor {
        self.get(position).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// A future whose every poll happens within bounds.
struct Bounded<'a> {
    future: Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>,
    bounds: Bounds,
}

impl Future for Bounded<'_> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let _bounds = self.bounds.enter();
        self.future.as_mut().poll(context)
    }
}

/// Whether a tensor of this shape may be a state of this type: the batch rows, outermost, are the
/// caller's choice.
fn fits(ty: &ValueType, shape: &[usize]) -> bool {
    let Some(declared) = &ty.shape else { return true };
    declared.len() == shape.len()
        && declared.iter().zip(shape).skip(1).all(|(dim, &size)| match dim {
            Dim::Known(known) => *known == size,
            Dim::Symbol(_) | Dim::Unknown => true,
        })
}

/// Position of what has this name or position.
pub(super) fn index_of<T>(
    list: &[T],
    name_of: impl Fn(&T) -> &String,
    key: Key<'_>,
    what: &str,
) -> Result<usize> {
    let name = match key {
        Key::Position(index) if index < list.len() => return Ok(index),
        Key::Position(_) => None,
        Key::Name(name) => Some(name),
    };
    let mut named =
        list.iter().enumerate().filter(|(_, item)| Some(name_of(item).as_str()) == name);
    match (named.next(), named.next()) {
        (Some((index, _)), None) => return Ok(index),
        (Some(_), Some(_)) => {
            return Err(Error::input(format!(
                "more than one {what} is called {key}: take it by its position, 0, 1, …"
            )));
        }
        (None, _) => {}
    }
    // A position may be written as a name, as golden files and the command line do.
    match name.and_then(|name| name.parse::<usize>().ok()) {
        Some(index) if index < list.len() => Ok(index),
        _ => {
            let names: Vec<String> =
                list.iter().map(|item| format!("`{}`", name_of(item))).collect();
            Err(Error::input(format!(
                "the model has no {what} {key}; it has {}",
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            )))
        }
    }
}
