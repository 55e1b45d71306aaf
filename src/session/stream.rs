//! A session with state: runs that go on from one another.

use super::Session;
use crate::backend::{Counters, Io};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

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
    nothing: Tensor,
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
        Stream { states, next: Vec::new(), inputs, given, nothing, session }
    }

    /// The session that this stream runs on.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Runs one piece and returns its outputs. Inputs by name, or by position (`"0"`, `"1"`, …).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) naming the input, what was expected and
    /// what was given, also when the batch size differs from that of the steps before; or the
    /// backend's. The state stays as it was.
    pub fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Outputs> {
        let mut outputs = Outputs::of(&self.session)?;
        self.run_into(inputs, &mut outputs)?;
        Ok(outputs)
    }

    /// As [`Stream::run`], into the outputs of an earlier run: where shapes are the same and the
    /// tensors are not shared, their elements are written in place.
    ///
    /// # Errors
    /// As [`Stream::run`]; what `outputs` holds then is unspecified.
    pub fn run_into(&mut self, inputs: &[(&str, &Tensor)], outputs: &mut Outputs) -> Result<()> {
        let result = self.gather(inputs).and_then(|()| self.step(outputs));
        // The caller's tensors are let go, so that writing to them does not have to copy.
        self.inputs.iter_mut().for_each(|input| input.share(&self.nothing));
        result
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
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when there is no state of this name (or
    /// position).
    pub fn state(&self, name: &str) -> Result<Option<&Tensor>> {
        let index = self.state_index(name)?;
        Ok(self.states.get(index).and_then(Option::as_ref))
    }

    /// Replaces a state, for example by that of another stream. Its shape is checked by the next
    /// run.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when there is no state of this name (or
    /// position), or it has another type.
    pub fn set_state(&mut self, name: &str, state: Tensor) -> Result<()> {
        let index = self.state_index(name)?;
        let expected = self.state_dtype(index)?;
        if state.dtype() != expected {
            return Err(Error::input(format!(
                "state `{name}`: {expected} was expected, {} was given",
                state.dtype()
            )));
        }
        if let Some(slot) = self.states.get_mut(index) {
            *slot = Some(state);
        }
        Ok(())
    }

    fn state_index(&self, name: &str) -> Result<usize> {
        let states = &self.session.inner.graph.states;
        let numbered = || name.parse().ok().filter(|&index| index < states.len());
        states.iter().position(|state| state.name == name).or_else(numbered).ok_or_else(|| {
            let names: Vec<String> = self.state_names().map(|name| format!("`{name}`")).collect();
            Error::input(format!("there is no state `{name}`; the model has {}", names.join(", ")))
        })
    }

    fn state_dtype(&self, index: usize) -> Result<DType> {
        let graph = &self.session.inner.graph;
        let value = graph.states.get(index).and_then(|state| graph.get(state.value));
        value.map(|value| value.ty.dtype).ok_or_else(|| Error::internal("a state without a value"))
    }

    /// Puts the caller's inputs into the graph's order, sharing their elements.
    fn gather(&mut self, given: &[(&str, &Tensor)]) -> Result<()> {
        let model = &self.session.inner.model;
        self.given.fill(false);
        for (name, tensor) in given {
            let index = model.input_index(name)?;
            model.check_input(index, tensor)?;
            match (self.inputs.get_mut(index), self.given.get_mut(index)) {
                (Some(slot), Some(given @ false)) => {
                    slot.share(tensor);
                    *given = true;
                }
                _ => return Err(Error::input(format!("input `{name}` was given twice"))),
            }
        }
        match self.given.iter().position(|given| !given) {
            Some(index) => Err(model.missing_input(index)),
            None => Ok(()),
        }
    }

    fn step(&mut self, outputs: &mut Outputs) -> Result<()> {
        let mut ready = self.session.checkout(&self.inputs)?;
        if let Err(error) = self.prepare_states(&ready.plan.state_shapes) {
            self.session.inner.pool.give_back(ready);
            return Err(error);
        }
        outputs.fit(&self.session)?;
        ready.program.run(Io {
            inputs: &self.inputs,
            states: &mut self.next,
            outputs: &mut outputs.tensors,
        })?;
        outputs.counters = self.session.ran(ready);
        for (state, next) in self.states.iter_mut().zip(&mut self.next) {
            match state {
                Some(state) => std::mem::swap(state, next),
                None => *state = Some(std::mem::replace(next, self.nothing.clone())),
            }
        }
        Ok(())
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
    pub(super) fn of(session: &Session) -> Result<Outputs> {
        let mut outputs = Outputs::default();
        outputs.fit(session)?;
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

    /// The output of this name, or of this position written as a number.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) that lists the names there are.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        let numbered = || name.parse().ok().filter(|&index| index < self.names.len());
        let index = self.names.iter().position(|other| other == name).or_else(numbered);
        index.and_then(|index| self.tensors.get(index)).ok_or_else(|| {
            let names: Vec<String> = self.names.iter().map(|name| format!("`{name}`")).collect();
            Error::input(format!("the model has no output `{name}`; it has {}", names.join(", ")))
        })
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
