//! Recurrent networks of any size with seeded random weights, to measure and to compare devices on.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::graph::op::Activation;
use crate::graph::recurrent::{
    Arithmetic, Cell, CellWeights, Direction, Gru, Layout, Lstm, Masking, Matrix, Merge, Recurrent,
    Rnn, Source,
};
use crate::graph::{Dim, Graph, Op, Port, ValueType};
use crate::limits::room_for;
use crate::tensor::{DType, Tensor};
use crate::text::by_name;

/// Which cell a synthetic network is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CellKind {
    /// LSTM with sigmoid gates and tanh.
    Lstm,
    /// GRU with the reset gate after the product (the Keras default).
    Gru,
    /// Plain cell with tanh.
    Rnn,
}

by_name!(CellKind, "cell", Lstm => "lstm", Gru => "gru", Rnn => "rnn");

impl CellKind {
    fn cell(self) -> Cell {
        match self {
            CellKind::Lstm => Cell::Lstm(Lstm {
                gate: Activation::Sigmoid,
                candidate: Activation::Tanh,
                output: Activation::Tanh,
                coupled_input_forget: false,
                cell_clip: None,
                projection_clip: None,
            }),
            CellKind::Gru => Cell::Gru(Gru {
                gate: Activation::Sigmoid,
                candidate: Activation::Tanh,
                reset_after: true,
            }),
            CellKind::Rnn => Cell::Rnn(Rnn { activation: Activation::Tanh }),
        }
    }
}

/// Shape of a synthetic network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// The cell.
    pub cell: CellKind,
    /// `I`: width of the input.
    pub input: usize,
    /// `H`: units of every layer and direction.
    pub hidden: usize,
    /// Layers, one on top of the other.
    pub layers: usize,
    /// Every layer runs in both directions and joins them.
    pub bidirectional: bool,
}

impl Shape {
    /// Multiplications and additions of `time` steps of `batch` rows, counted as two operations
    /// each; the gates' activations and products, linear in `H`, are left out.
    pub fn operations(&self, time: usize, batch: usize) -> f64 {
        let directions = if self.bidirectional { 2.0 } else { 1.0 };
        let gates = self.cell.cell().gate_blocks() as f64;
        let hidden = self.hidden as f64;
        let first = self.input as f64 + hidden;
        let upper = (self.layers.saturating_sub(1)) as f64 * (directions * hidden + hidden);
        2.0 * gates * hidden * directions * (first + upper) * time as f64 * batch as f64
    }

    /// Bytes of the recurrent weights of all layers and directions, as f32: what every step reads
    /// at least once.
    pub fn recurrent_bytes(&self) -> f64 {
        let directions = if self.bidirectional { 2.0 } else { 1.0 };
        4.0 * self.cell.cell().gate_blocks() as f64
            * (self.hidden * self.hidden * self.layers) as f64
            * directions
    }

    /// A network of this shape: input `x` `[time, batch, I]`, output `y` `[time, batch, H or 2·H]`,
    /// time-major, batch and time open.
    ///
    /// Weights are uniform in `±1/sqrt(H)`, the usual initialization, so that states stay in the
    /// range of a trained network.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a size of 0,
    /// [`Limit`](crate::ErrorKind::Limit) when sizes overflow.
    pub fn graph(&self, seed: u64) -> Result<Graph> {
        if self.input == 0 || self.hidden == 0 || self.layers == 0 {
            return Err(Error::input("input, hidden and layers are at least 1"));
        }
        // All of it at once, before the first matrix is made.
        let wanted = self.recurrent_bytes() * (1.0 + self.input as f64 / self.hidden as f64);
        room_for(wanted as usize, 1)?;
        let mut graph =
            Graph { name: format!("{}-{}", self.cell.name(), self.hidden), ..Graph::default() };
        let mut random = Random::new(seed);
        let (time, batch) = (graph.add_symbol("time"), graph.add_symbol("batch"));
        let of_width =
            |width| ValueType::symbolic(DType::F32, vec![time, batch, Dim::Known(width)]);
        let mut x = graph.add_value("x", of_width(self.input));
        graph.inputs.push(Port { name: "x".into(), value: x });
        let mut width = self.input;
        for layer in 0..self.layers {
            let op = self.layer(width, &mut random)?;
            width = if self.bidirectional { 2 * self.hidden } else { self.hidden };
            let y = graph.add_value(format!("layer {layer}"), of_width(width));
            let mut inputs = vec![None; op.input_slots()];
            let mut outputs = vec![None; op.output_slots()];
            inputs[Recurrent::X] = Some(x);
            outputs[Recurrent::y(0)] = Some(y);
            graph.add_node(format!("layer {layer}"), Op::Recurrent(op), inputs, outputs);
            x = y;
        }
        graph.outputs.push(Port { name: "y".into(), value: x });
        Ok(graph)
    }

    fn layer(&self, width: usize, random: &mut Random) -> Result<Recurrent> {
        let cell = self.cell.cell();
        let reversed: &[bool] = if self.bidirectional { &[false, true] } else { &[false] };
        let mut directions = Vec::new();
        for &reverse in reversed {
            let weights = Arc::new(self.weights(&cell, width, random)?);
            directions.push(Direction { reverse, source: Source::X, weights });
        }
        Ok(Recurrent {
            cell,
            merge: if self.bidirectional { Merge::Concat } else { Merge::Separate },
            directions,
            layout: Layout::TimeMajor,
            masking: Masking::Zero,
            gate_clip: None,
            arithmetic: Arithmetic::Float,
        })
    }

    fn weights(&self, cell: &Cell, width: usize, random: &mut Random) -> Result<CellWeights> {
        let hidden = self.hidden;
        let rows = hidden
            .checked_mul(cell.gate_blocks())
            .ok_or_else(|| Error::limit("hidden overflows"))?;
        let bound = 1.0 / (hidden as f32).sqrt();
        let recurrent_bias = match self.cell {
            CellKind::Gru => Some(random.tensor(&[hidden], bound)?),
            CellKind::Lstm | CellKind::Rnn => None,
        };
        Ok(CellWeights {
            input: Matrix::float(random.tensor(&[rows, width], bound)?),
            recurrent: Matrix::float(random.tensor(&[rows, hidden], bound)?),
            auxiliary: None,
            bias: Some(random.tensor(&[rows], bound)?),
            recurrent_bias,
            peephole: None,
            layer_norm: None,
            projection: None,
        })
    }
}

/// A small generator of uniform numbers (SplitMix64): the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator; equal seeds give equal numbers.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number, uniform in `-1 .. 1`.
    pub fn next_f32(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        // 24 bits: every value is exact in f32.
        (z >> 40) as f32 / 8_388_608.0 - 1.0
    }

    /// A tensor of numbers uniform in `±bound`.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) when there is no memory for so many elements.
    pub fn tensor(&mut self, shape: &[usize], bound: f32) -> Result<Tensor> {
        let count = crate::tensor::element_count(shape)?;
        room_for(count, size_of::<f32>())?;
        Tensor::from_vec(shape, (0..count).map(|_| self.next_f32() * bound).collect::<Vec<f32>>())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn operations_count_every_product_once() {
        let shape =
            Shape { cell: CellKind::Lstm, input: 3, hidden: 2, layers: 2, bidirectional: true };
        // A row and step: first layer 2 directions × 8×(3+2), second 2 × 8×(4+2); two operations
        // each.
        assert_eq!(shape.operations(1, 1), 2.0 * (2.0 * 8.0 * 5.0 + 2.0 * 8.0 * 6.0));
        assert_eq!(shape.operations(7, 3), 21.0 * shape.operations(1, 1));
    }

    #[test]
    fn equal_seeds_give_equal_networks() {
        let shape =
            Shape { cell: CellKind::Gru, input: 3, hidden: 4, layers: 2, bidirectional: false };
        assert_eq!(shape.graph(1).unwrap(), shape.graph(1).unwrap());
        assert_ne!(shape.graph(1).unwrap(), shape.graph(2).unwrap());
    }

    #[test]
    fn sizes_of_zero_are_refused() {
        let shape =
            Shape { cell: CellKind::Rnn, input: 3, hidden: 0, layers: 1, bidirectional: false };
        assert!(shape.graph(1).is_err());
    }
}
