//! Where the values of a run live.

use super::with_shape;
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::plan::Plan;
use crate::tensor::Tensor;

/// Where a value is found during a run.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// The caller's input of this index.
    Input(usize),
    /// The state of this index, as it was before the run.
    State(usize),
    /// Known before the run.
    Known(Tensor),
    /// A buffer of the program, shared with the values that only see it under another shape.
    Buffer(usize),
}

/// The buffers of a program, allocated once.
pub(super) struct Slots {
    /// By value index.
    places: Vec<Option<Place>>,
    shapes: Vec<Option<Vec<usize>>>,
    buffers: Vec<Tensor>,
    /// By value index: whether an output may take the buffer itself rather than a copy.
    own: Vec<bool>,
    nothing: Tensor,
    /// Bytes of the buffers whose size the plan does not know.
    live: u64,
}

impl Slots {
    pub fn new(plan: &Plan) -> Slots {
        let graph = &plan.graph;
        let mut slots = Slots {
            places: graph
                .values
                .iter()
                .map(|value| value.constant.clone().map(Place::Known))
                .collect(),
            shapes: plan.values.iter().map(|value| value.shape.clone()).collect(),
            buffers: Vec::new(),
            own: vec![false; graph.values.len()],
            nothing: Tensor::scalar(0.0f32),
            live: 0,
        };
        slots.shapes.resize(graph.values.len(), None);
        for (place, value) in slots.places.iter_mut().zip(&plan.values) {
            if let Some(known) = &value.known {
                *place = Some(Place::Known(known.clone()));
            }
        }
        for (index, port) in graph.inputs.iter().enumerate() {
            slots.place(port.value, Place::Input(index));
        }
        for (index, state) in graph.states.iter().enumerate() {
            slots.place(state.value, Place::State(index));
        }
        let is_output = |id: ValueId| graph.outputs.iter().filter(|port| port.value == id).count();
        let is_next = |id: ValueId| graph.states.iter().any(|state| state.next == id);
        for index in 0..graph.values.len() {
            let id = ValueId(index as u32);
            slots.own[index] = is_output(id) == 1 && !is_next(id);
        }
        slots
    }

    fn place(&mut self, id: ValueId, place: Place) {
        if let Some(slot) = self.places.get_mut(id.index()) {
            *slot = Some(place);
        }
    }

    /// The planned shape.
    pub fn shape(&self, id: ValueId) -> Option<&[usize]> {
        self.shapes.get(id.index())?.as_deref()
    }

    /// Gives a value a buffer of its own: of the planned type and shape, or to be filled when the
    /// shape depends on data.
    pub fn allocate(&mut self, id: ValueId, plan: &Plan) -> Result<()> {
        let buffer = match (self.shape(id), plan.graph.get(id)) {
            (Some(shape), Some(value)) => Tensor::zeros(value.ty.dtype, shape)?,
            _ => self.nothing.clone(),
        };
        self.place(id, Place::Buffer(self.buffers.len()));
        self.buffers.push(buffer);
        Ok(())
    }

    /// Lets `id` be the elements of `of` under its own shape.
    pub fn alias(&mut self, id: ValueId, of: ValueId) {
        let place = self.places.get(of.index()).cloned().flatten();
        // A buffer that two values see stays with the program.
        for value in [id, of] {
            if let Some(own) = self.own.get_mut(value.index()) {
                *own = false;
            }
        }
        if let Some(slot) = self.places.get_mut(id.index()) {
            *slot = place;
        }
    }

    /// The tensor behind a value.
    pub fn read<'a>(
        &'a self,
        id: ValueId,
        inputs: &'a [Tensor],
        states: &'a [Tensor],
    ) -> Result<&'a Tensor> {
        let found = match self.places.get(id.index()) {
            Some(Some(Place::Input(index))) => inputs.get(*index),
            Some(Some(Place::State(index))) => states.get(*index),
            Some(Some(Place::Known(tensor))) => Some(tensor),
            Some(Some(Place::Buffer(index))) => self.buffers.get(*index),
            Some(None) | None => None,
        };
        found.ok_or_else(|| Error::internal(format!("value {} has no place", id.0)))
    }

    /// Takes the buffer of a value to write to; [`Slots::put`] gives it back.
    pub fn take(&mut self, id: ValueId) -> Result<Tensor> {
        let buffer = match self.places.get(id.index()) {
            Some(Some(Place::Buffer(index))) => self.buffers.get_mut(*index),
            _ => None,
        };
        let buffer =
            buffer.ok_or_else(|| Error::internal(format!("value {} has no buffer", id.0)))?;
        Ok(std::mem::replace(buffer, self.nothing.clone()))
    }

    /// Lets `work` write to the buffer of a value while it reads others.
    pub fn with_taken(
        &mut self,
        id: ValueId,
        work: impl FnOnce(&Slots, &mut Tensor) -> Result<()>,
    ) -> Result<()> {
        let mut tensor = self.take(id)?;
        let done = work(self, &mut tensor);
        self.put(id, tensor);
        done
    }

    /// Puts a buffer back, or another tensor in its place.
    pub fn put(&mut self, id: ValueId, tensor: Tensor) {
        let is_planned = self.shape(id).is_some();
        if let Some(Some(Place::Buffer(index))) = self.places.get(id.index())
            && let Some(buffer) = self.buffers.get_mut(*index)
        {
            if !is_planned {
                self.live = self.live.saturating_add(tensor.byte_len() as u64);
                self.live = self.live.saturating_sub(buffer.byte_len() as u64);
            }
            *buffer = tensor;
        }
    }

    /// Bytes of the buffers whose size depends on data.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// Hands a value to the caller: the buffer itself, in exchange for the caller's tensor where
    /// that fits, else a copy.
    pub fn give(
        &mut self,
        id: ValueId,
        inputs: &[Tensor],
        states: &[Tensor],
        output: &mut Tensor,
    ) -> Result<()> {
        if self.own.get(id.index()) == Some(&true)
            && let Some(Some(Place::Buffer(index))) = self.places.get(id.index())
            && let Some(buffer) = self.buffers.get_mut(*index)
        {
            if buffer.shape() == output.shape()
                && buffer.dtype() == output.dtype()
                && !output.is_shared()
            {
                std::mem::swap(buffer, output);
            } else {
                let fresh = Tensor::zeros(buffer.dtype(), buffer.shape())?;
                *output = std::mem::replace(buffer, fresh);
            }
            return Ok(());
        }
        let tensor = self.read(id, inputs, states)?;
        match self.shape(id) {
            Some(shape) if shape != tensor.shape() => *output = with_shape(tensor, Some(shape))?,
            _ => output.assign(tensor),
        }
        Ok(())
    }

    /// Writes the next value of every state.
    pub fn write_states(
        &self,
        plan: &Plan,
        inputs: &[Tensor],
        states: &mut [Tensor],
    ) -> Result<()> {
        // A state that becomes what another one was reads it before that one is written.
        let mut moved = Vec::new();
        for (index, state) in plan.graph.states.iter().enumerate() {
            if let Some(Some(Place::State(from))) = self.places.get(state.next.index())
                && *from != index
                && let Some(tensor) = states.get(*from)
            {
                moved.push((index, with_shape(tensor, self.shape(state.next))?));
            }
        }
        for (index, state) in plan.graph.states.iter().enumerate() {
            if let Some(Some(Place::State(_))) = self.places.get(state.next.index()) {
                continue;
            }
            let next = self.read(state.next, inputs, &[])?;
            let Some(to) = states.get_mut(index) else { continue };
            match self.shape(state.next) {
                Some(shape) if shape != next.shape() => to.assign(&next.reshaped(shape)?),
                _ => to.assign(next),
            }
        }
        for (index, tensor) in moved {
            if let Some(to) = states.get_mut(index) {
                *to = tensor;
            }
        }
        Ok(())
    }
}
