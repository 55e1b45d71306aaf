//! The recurrent layer as a step: its operands and results.

use super::slots::Slots;
use crate::backend::cpu::Resources;
use crate::backend::cpu::recurrent::{Layer, Mask, Operands, Results};
use crate::backend::cpu::simd::Pool;
use crate::error::{Error, Result};
use crate::graph::{Node, Recurrent, ValueId};
use crate::plan::Plan;
use crate::tensor::{DType, Storage, Tensor};

/// Operations of a run below which one thread does it all: 0.2 ms, against some microseconds to
/// wake a worker.
const LEAST_SHARED: u64 = 20_000_000;

/// A layer with the values it reads and writes.
pub(in crate::backend::cpu) struct RecurrentStep {
    layer: Layer,
    inputs: Vec<Option<ValueId>>,
    outputs: Vec<Option<ValueId>>,
    lengths: Vec<usize>,
    /// The results while they are written, by output slot.
    taken: Vec<Option<Tensor>>,
}

impl RecurrentStep {
    pub fn new(
        op: &Recurrent,
        plan: &Plan,
        node: &Node,
        resources: &Resources<'_>,
    ) -> Result<RecurrentStep> {
        let shape = |slot: usize| node.input(slot).and_then(|id| plan.shape(id));
        let x =
            shape(Recurrent::X).ok_or_else(|| Error::graph("a recurrent layer without input"))?;
        let small = Layer::operations(op, x) < LEAST_SHARED;
        let threads = if small { 1 } else { resources.threads };
        let layer = Layer::new(
            op,
            x,
            shape(Recurrent::AUXILIARY),
            resources.kernels,
            resources.options,
            threads,
        )?;
        Ok(RecurrentStep {
            layer,
            inputs: node.inputs.clone(),
            outputs: node.outputs.clone(),
            lengths: Vec::new(),
            taken: node.outputs.iter().map(|_| None).collect(),
        })
    }

    pub fn note(&self) -> String {
        self.layer.note()
    }

    pub fn is_shared_out(&self) -> bool {
        self.layer.is_shared_out()
    }

    pub fn run(
        &mut self,
        slots: &mut Slots,
        pool: Option<&Pool>,
        inputs: &[Tensor],
        states: &[Tensor],
    ) -> Result<()> {
        for (taken, id) in self.taken.iter_mut().zip(&self.outputs) {
            *taken = id.map(|id| slots.take(id)).transpose()?;
        }
        let done = self.compute(slots, pool, inputs, states);
        for (taken, id) in self.taken.iter_mut().zip(&self.outputs) {
            if let (Some(tensor), Some(id)) = (taken.take(), id) {
                slots.put(*id, tensor);
            }
        }
        done
    }

    fn compute(
        &mut self,
        slots: &Slots,
        pool: Option<&Pool>,
        inputs: &[Tensor],
        states: &[Tensor],
    ) -> Result<()> {
        let RecurrentStep { layer, inputs: ids, lengths, taken, .. } = self;
        let id = |slot: usize| ids.get(slot).copied().flatten();
        let floats = |slot: usize| -> Result<Option<&[f32]>> {
            id(slot).map(|id| slots.read(id, inputs, states)?.as_slice::<f32>()).transpose()
        };
        let mask = match id(Recurrent::MASK).map(|id| slots.read(id, inputs, states)).transpose()? {
            None => Mask::None,
            Some(tensor) if tensor.dtype() == DType::Bool => {
                Mask::Flags(tensor.as_slice::<bool>()?)
            }
            Some(tensor) => {
                read_lengths(tensor, lengths)?;
                Mask::Lengths(lengths)
            }
        };
        let operands = Operands {
            x: floats(Recurrent::X)?
                .ok_or_else(|| Error::graph("a recurrent layer without input"))?,
            auxiliary: floats(Recurrent::AUXILIARY)?,
            mask,
            h0: [floats(Recurrent::h0(0))?, floats(Recurrent::h0(1))?],
            c0: [floats(Recurrent::c0(0))?, floats(Recurrent::c0(1))?],
        };
        let mut results = Results::default();
        for (slot, tensor) in taken.iter_mut().enumerate() {
            let Some(tensor) = tensor else { continue };
            let data = Some(tensor.as_mut_slice::<f32>()?);
            // Slots as in `Recurrent`: y of both directions, then h and c of each.
            match slot {
                0 | 1 => results.y[slot] = data,
                2 | 4 => results.h_n[slot / 2 - 1] = data,
                3 | 5 => results.c_n[slot / 2 - 1] = data,
                _ => return Err(Error::graph("a recurrent layer has six results at most")),
            }
        }
        layer.run(pool, &operands, results)
    }
}

/// The lengths, negative ones as 0.
fn read_lengths(tensor: &Tensor, lengths: &mut Vec<usize>) -> Result<()> {
    lengths.clear();
    match tensor.storage() {
        Storage::I32(v) => lengths.extend(v.iter().map(|&n| usize::try_from(n).unwrap_or(0))),
        Storage::I64(v) => lengths.extend(v.iter().map(|&n| usize::try_from(n).unwrap_or(0))),
        _ => lengths.extend(tensor.to_i64()?.iter().map(|&n| usize::try_from(n).unwrap_or(0))),
    }
    Ok(())
}
