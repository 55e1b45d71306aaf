//! Recurrent cells whose activations are no single op, written out step by step.

use super::cells::{Functions, states_of};
use crate::error::{Error, Result};
use crate::formats::keras::activation::Function;
use crate::formats::keras::builder::{Builder, Flow};
use crate::graph::op::{Activation, BinaryFunction, FullyConnected, Op, Pack, Unpack};
use crate::graph::recurrent::{Cell, CellWeights, Masking};
use crate::graph::{Dim, ValueId};
use crate::tensor::Tensor;

/// The most steps that are written out.
const MAX_STEPS: usize = 128;

/// A cell with the values of its weights.
struct Written<'c> {
    cell: &'c Cell,
    functions: &'c Functions,
    recurrent: ValueId,
    /// Rows of the recurrent kernel that the candidate has to itself, where the reset gate comes
    /// first.
    candidate: Option<ValueId>,
    candidate_bias: Option<ValueId>,
}

/// What the steps yield: the output at each input step `[B, T, H]`, and the final states.
pub(super) struct Steps {
    pub output: ValueId,
    pub states: Vec<ValueId>,
}

/// Runs a cell over x `[B, T, I]`.
pub(super) fn run(
    b: &mut Builder,
    (cell, weights, functions): (&Cell, &CellWeights, &Functions),
    (masking, reverse): (Masking, bool),
    x: Flow,
    initial: &[ValueId],
) -> Result<Steps> {
    let steps = match b.dims(x.value)?.get(1) {
        Some(Dim::Known(steps)) if (1..=MAX_STEPS).contains(steps) => *steps,
        _ => {
            return Err(Error::unsupported(format!(
                "{functions:?} inside a recurrent cell, but over 1 to {MAX_STEPS} steps"
            )));
        }
    };
    let units = weights.units(cell.gate_blocks());
    let input = b.constant(weights.input.data.clone());
    let bias = weights.bias.clone().map(|bias| b.constant(bias));
    let gates = connected(b, x.value, input, bias)?;
    let gates = apart(b, gates, steps)?;
    let masks = match x.mask {
        Some(mask) => apart(b, mask, steps)?,
        None => Vec::new(),
    };
    let written = Written::new(b, cell, weights, functions, units)?;
    let mut state = match initial {
        [] => vec![zeros(b, x.value, units)?; states_of(cell)],
        given => given.to_vec(),
    };
    let mut before: Option<ValueId> = None;
    let mut outputs = vec![None; steps];
    for k in 0..steps {
        let at = if reverse { steps - 1 - k } else { k };
        let gate = gates.get(at).copied().ok_or_else(missing)?;
        let mut next = written.step(b, gate, &state)?;
        let mut output = next.first().copied().ok_or_else(missing)?;
        if let Some(&mask) = masks.get(at) {
            let mask = b.expand(mask, -1)?;
            for (new, &old) in next.iter_mut().zip(&state) {
                *new = b.select(mask, *new, old)?;
            }
            let masked = match (masking, before) {
                (Masking::Hold, Some(before)) => before,
                _ => zeros(b, x.value, units)?,
            };
            output = b.select(mask, output, masked)?;
        }
        before = Some(output);
        state = next;
        if let Some(slot) = outputs.get_mut(at) {
            *slot = Some(output);
        }
    }
    let outputs: Vec<ValueId> = outputs.into_iter().flatten().collect();
    let output = b.op(Op::Pack(Pack { axis: 1 }), &outputs)?;
    Ok(Steps { output, states: state })
}

fn missing() -> Error {
    Error::internal("a step went missing")
}

/// One value for each step.
fn apart(b: &mut Builder, x: ValueId, steps: usize) -> Result<Vec<ValueId>> {
    let parts = b.node(Op::Unpack(Unpack { axis: 1 }), &[Some(x)], &vec![true; steps])?;
    Ok(parts.into_iter().flatten().collect())
}

/// `[B, H]` of zeros.
fn zeros(b: &mut Builder, x: ValueId, units: usize) -> Result<ValueId> {
    let batch = b.dims(x)?.first().copied().unwrap_or(Dim::Unknown);
    let width = i32::try_from(units).map_err(|_| Error::limit("units overflow"))?;
    let (rows, width) = (b.size_of(x, 0)?, b.integers(&[width])?);
    let shape = b.concat(&[rows, width], 0)?;
    let zero = b.constant(Tensor::scalar(0f32));
    let y = b.op(Op::Fill, &[shape, zero])?;
    b.declare(y, vec![batch, Dim::Known(units)]);
    Ok(y)
}

fn connected(
    b: &mut Builder,
    x: ValueId,
    weights: ValueId,
    bias: Option<ValueId>,
) -> Result<ValueId> {
    let op = FullyConnected {
        activation: Activation::Linear,
        keep_leading_axes: true,
        asymmetric_inputs: false,
    };
    let y = b.node(Op::FullyConnected(op), &[Some(x), Some(weights), bias], &[true])?;
    y.first().copied().flatten().ok_or_else(|| Error::internal("an op without a result"))
}

/// Equal parts of the last axis.
fn parts<const N: usize>(b: &mut Builder, x: ValueId) -> Result<[ValueId; N]> {
    let axis = b.constant(Tensor::scalar(-1i32));
    let parts = b.node(Op::Split, &[Some(x), Some(axis), None], &[true; N])?;
    let parts: Vec<ValueId> = parts.into_iter().flatten().collect();
    parts.try_into().map_err(|_| Error::internal("a split without results"))
}

/// Rows of a matrix.
fn rows(tensor: &Tensor, from: usize, to: usize) -> Result<Tensor> {
    let columns = tensor.shape().get(1).copied().unwrap_or(0);
    let data = tensor.as_slice::<f32>()?.get(from * columns..to * columns);
    let data = data.ok_or_else(|| Error::internal("rows outside of a matrix"))?;
    Tensor::from_slice(&[to - from, columns], data)
}

impl<'c> Written<'c> {
    fn new(
        b: &mut Builder,
        cell: &'c Cell,
        weights: &CellWeights,
        functions: &'c Functions,
        units: usize,
    ) -> Result<Self> {
        let whole = &weights.recurrent.data;
        let (recurrent, candidate) = match cell {
            Cell::Gru(gru) if !gru.reset_after => {
                (rows(whole, 0, 2 * units)?, Some(rows(whole, 2 * units, 3 * units)?))
            }
            _ => (whole.clone(), None),
        };
        let recurrent = b.constant(recurrent);
        let candidate = candidate.map(|rows| b.constant(rows));
        let candidate_bias = weights.recurrent_bias.clone().map(|bias| b.constant(bias));
        Ok(Written { cell, functions, recurrent, candidate, candidate_bias })
    }

    /// The next states from a step's `W·x + b` and the states before.
    fn step(&self, b: &mut Builder, x: ValueId, state: &[ValueId]) -> Result<Vec<ValueId>> {
        use BinaryFunction::{Add, Mul, Sub};
        let Functions { gate, candidate } = self.functions;
        let h = state.first().copied().ok_or_else(missing)?;
        match self.cell {
            Cell::Lstm(_) => {
                let product = connected(b, h, self.recurrent, None)?;
                let sum = b.binary(Add, x, product)?;
                let [i, f, g, o] = parts(b, sum)?;
                let (i, f, o) = (gate.apply(b, i)?, gate.apply(b, f)?, gate.apply(b, o)?);
                let g = candidate.apply(b, g)?;
                let before = state.get(1).copied().ok_or_else(missing)?;
                let (kept, added) = (b.binary(Mul, f, before)?, b.binary(Mul, i, g)?);
                let c = b.binary(Add, kept, added)?;
                let shown = candidate.apply(b, c)?;
                Ok(vec![b.binary(Mul, o, shown)?, c])
            }
            Cell::Gru(gru) => {
                let [xz, xr, xh] = parts(b, x)?;
                let product = connected(b, h, self.recurrent, None)?;
                let (z, inner) = if gru.reset_after {
                    let [hz, hr, hh] = parts(b, product)?;
                    let hh = match self.candidate_bias {
                        Some(bias) => b.binary(Add, hh, bias)?,
                        None => hh,
                    };
                    let r = sum_through(b, gate, xr, hr)?;
                    (sum_through(b, gate, xz, hz)?, b.binary(Mul, r, hh)?)
                } else {
                    let [hz, hr] = parts(b, product)?;
                    let r = sum_through(b, gate, xr, hr)?;
                    let reset = b.binary(Mul, r, h)?;
                    let rows = self.candidate.ok_or_else(missing)?;
                    (sum_through(b, gate, xz, hz)?, connected(b, reset, rows, None)?)
                };
                let new = sum_through(b, candidate, xh, inner)?;
                // z·h + (1 − z)·new.
                let kept = b.binary(Mul, z, h)?;
                let one = b.scalar_like(z, 1.0)?;
                let rest = b.binary(Sub, one, z)?;
                let added = b.binary(Mul, rest, new)?;
                Ok(vec![b.binary(Add, kept, added)?])
            }
            Cell::Rnn(_) => {
                let product = connected(b, h, self.recurrent, None)?;
                Ok(vec![sum_through(b, candidate, x, product)?])
            }
        }
    }
}

fn sum_through(b: &mut Builder, function: &Function, x: ValueId, y: ValueId) -> Result<ValueId> {
    let sum = b.binary(BinaryFunction::Add, x, y)?;
    function.apply(b, sum)
}
