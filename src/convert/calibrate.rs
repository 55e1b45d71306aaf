//! The ranges that the values of a float model reach on samples.

use std::collections::HashMap;

use crate::error::{Error, Place, Result};
use crate::eval::evaluate;
use crate::graph::recurrent::{Cell, CellWeights, Layout, Recurrent};
use crate::graph::{Graph, Node, Op, Port, ValueId, ValueType};
use crate::session::{Device, Model, Session};
use crate::tensor::{DType, Tensor};

/// The smallest and the largest number, and 0.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Range {
    low: f32,
    high: f32,
}

impl Range {
    pub(super) fn take_in(&mut self, numbers: &[f32]) {
        for number in numbers.iter().filter(|number| number.is_finite()) {
            self.low = self.low.min(*number);
            self.high = self.high.max(*number);
        }
    }

    fn of_magnitude(bound: f32) -> Self {
        Range { low: -bound, high: bound }
    }

    /// Scale and zero point that map the range to int8.
    pub(super) fn asymmetric(self) -> (f32, i64) {
        let scale = (self.high - self.low) / 255.0;
        if !scale.is_normal() {
            return (1.0, 0);
        }
        let zero = (-128.0 - self.low / scale).round().clamp(-128.0, 127.0);
        (scale, zero as i64)
    }
}

/// Runs the graph on every sample, each from the reset state, and returns the wanted values.
pub(super) fn observe(
    graph: &Graph,
    wanted: &[ValueId],
    samples: &[Vec<Tensor>],
) -> Result<Vec<HashMap<ValueId, Tensor>>> {
    let mut graph = graph.clone();
    graph.outputs = wanted
        .iter()
        .map(|value| Port { name: format!("value {}", value.0), value: *value })
        .collect();
    let inputs: Vec<String> = graph.inputs.iter().map(|port| port.name.clone()).collect();
    let session = Session::new(&Model::from_graph(graph)?, Device::reference())?;
    let mut stream = session.stream();
    let mut runs = Vec::with_capacity(samples.len());
    for (number, sample) in samples.iter().enumerate() {
        if sample.len() != inputs.len() {
            let message =
                format!("{} tensors, the model has {} inputs", sample.len(), inputs.len());
            return Err(Error::input(message).within(format!("calibration sample {number}")));
        }
        let named: Vec<(&str, &Tensor)> = inputs.iter().map(String::as_str).zip(sample).collect();
        stream.reset();
        let outputs = stream.run(&named).within(|| format!("calibration sample {number}"))?;
        runs.push(wanted.iter().copied().zip(outputs.into_tensors()).collect());
    }
    Ok(runs)
}

/// What the inside of an LSTM layer reached.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LstmRanges {
    /// The output state.
    pub(super) output: Range,
    /// Largest magnitude of the cell state.
    pub(super) cell: f32,
    /// The gated output before a projection.
    pub(super) hidden: Range,
    /// With layer norm: largest magnitude of each gate's sum before it, input, forget, cell,
    /// output.
    pub(super) gates: Option<[f32; 4]>,
}

/// Runs a layer of one direction step by step on every run's input.
pub(super) fn lstm_ranges(
    op: &Recurrent,
    node: &Node,
    runs: &[HashMap<ValueId, Tensor>],
) -> Result<LstmRanges> {
    let missing = || Error::internal("an observed value is missing");
    let operand = |slot: usize| node.input(slot);
    let direction = op.directions.first().ok_or_else(missing)?;
    let weights = &direction.weights;
    let gates = op.cell.gate_blocks();
    let (units, width) = (weights.units(gates), weights.output_width(gates));
    let mut step = op.clone();
    step.layout = Layout::TimeMajor;
    step.directions.iter_mut().for_each(|direction| direction.reverse = false);
    let step = Op::Recurrent(step);
    let mut ranges = LstmRanges {
        gates: weights.layer_norm.as_ref().map(|_| [0.0; 4]),
        ..LstmRanges::default()
    };
    for run in runs {
        let x = run.get(&operand(Recurrent::X).ok_or_else(missing)?).ok_or_else(missing)?;
        let (times, rows) = match (op.layout, x.shape()) {
            (Layout::TimeMajor, &[times, rows, _]) | (Layout::BatchMajor, &[rows, times, _]) => {
                (times, rows)
            }
            _ => return Err(Error::internal("a sequence of another rank")),
        };
        let state =
            |slot: usize, width: usize| match operand(slot).and_then(|value| run.get(&value)) {
                Some(given) => Ok(given.clone()),
                None => Tensor::zeros(DType::F32, &[rows, width]),
            };
        let (mut h, mut c) = (state(Recurrent::h0(0), width)?, state(Recurrent::c0(0), units)?);
        for t in 0..times {
            let t = if direction.reverse { times - 1 - t } else { t };
            let x = entry(x, op.layout, t, times, rows)?;
            let types = [&x, &h, &c].map(|tensor| ValueType::fixed(DType::F32, tensor.shape()));
            let inputs =
                [Some((&x, &types[0])), None, None, Some((&h, &types[1])), Some((&c, &types[2]))];
            let results =
                evaluate(&step, &inputs, &[None, None, Some(&types[1]), Some(&types[2])])?;
            let mut results = results.into_iter().skip(2).flatten();
            let (next_h, next_c) =
                (results.next().ok_or_else(missing)?, results.next().ok_or_else(missing)?);
            if let Some(most) = &mut ranges.gates {
                gate_sums(weights, &op.cell, &x, &h, &c, &next_c, most);
            }
            (h, c) = (next_h, next_c);
            ranges.output.take_in(&h.to_f32());
            ranges.cell = c.to_f32().iter().fold(ranges.cell, |most, c| most.max(c.abs()));
        }
    }
    // |o ∘ tanh(c)| ≤ tanh(|c|).
    ranges.hidden = Range::of_magnitude(ranges.cell.tanh());
    Ok(ranges)
}

/// The input of one step, `[1, B, I]`.
fn entry(x: &Tensor, layout: Layout, t: usize, times: usize, rows: usize) -> Result<Tensor> {
    let data = x.as_slice::<f32>()?;
    let width = x.shape().last().copied().unwrap_or(0);
    let mut out = Vec::with_capacity(rows * width);
    for row in 0..rows {
        let at = if layout == Layout::TimeMajor { t * rows + row } else { row * times + t };
        let run = data.get(at * width..(at + 1) * width);
        out.extend_from_slice(run.ok_or_else(|| Error::internal("a step outside its sequence"))?);
    }
    Tensor::from_vec(&[1, rows, width], out)
}

/// Takes in `W x + R h + p ∘ c` of every gate, what the layer norm acts on.
fn gate_sums(
    weights: &CellWeights,
    cell: &Cell,
    x: &Tensor,
    h: &Tensor,
    c: &Tensor,
    next_c: &Tensor,
    most: &mut [f32; 4],
) {
    let blocks = cell.gate_blocks();
    let (units, first) = (weights.units(blocks), 4usize.saturating_sub(blocks));
    let (w, r) = (weights.input.to_f32(), weights.recurrent.to_f32());
    let (x, h, c, next_c) = (x.to_f32(), h.to_f32(), c.to_f32(), next_c.to_f32());
    let (inputs, outputs) = (weights.input.columns().max(1), weights.recurrent.columns().max(1));
    let peephole = weights.peephole.as_ref().map(crate::graph::recurrent::Matrix::to_f32);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    for (((x, h), c), next_c) in x
        .chunks(inputs)
        .zip(h.chunks(outputs))
        .zip(c.chunks(units.max(1)))
        .zip(next_c.chunks(units.max(1)))
    {
        for (row, (w, r)) in w.chunks(inputs).zip(r.chunks(outputs)).enumerate() {
            let (block, unit) = (row / units.max(1), row % units.max(1));
            let gate = first + block;
            // The candidate (gate 2) has no peephole, the output gate sees the new cell state.
            let (slot, seen) = match gate {
                0 | 1 => (Some(block), c),
                3 => (block.checked_sub(1), next_c),
                _ => (None, c),
            };
            let weight = peephole
                .as_ref()
                .zip(slot)
                .and_then(|(p, slot)| p.get(slot * units + unit))
                .copied();
            let peep = weight.unwrap_or(0.0) * seen.get(unit).copied().unwrap_or(0.0);
            if let Some(most) = most.get_mut(gate) {
                *most = most.max((dot(w, x) + dot(r, h) + peep).abs());
            }
        }
    }
}
