//! The layers that the benchmarks run: stacks of recurrent layers with random or given weights, as
//! graphs.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use fuselstm::graph::op::Activation;
use fuselstm::graph::recurrent::{
    Arithmetic, Cell, CellWeights, Direction, Gru, Layout, Lstm, Masking, Matrix, Merge, Recurrent,
    Rnn, Source,
};
use fuselstm::graph::{Graph, Op, Port, State, ValueType};
use fuselstm::internal::backend::cpu::CpuBackend;
use fuselstm::internal::backend::{Backend, BackendOptions, Io, Program};
use fuselstm::internal::plan::Plan;
use fuselstm::{DType, Device, Model, Outputs, Session, Stream, Tensor};

/// A cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Lstm,
    Gru,
    GruResetBefore,
    Rnn,
}

impl Kind {
    fn gates(self) -> usize {
        match self {
            Kind::Lstm => 4,
            Kind::Gru | Kind::GruResetBefore => 3,
            Kind::Rnn => 1,
        }
    }

    fn cell(self) -> Cell {
        match self {
            Kind::Lstm => Cell::Lstm(Lstm {
                gate: Activation::Sigmoid,
                candidate: Activation::Tanh,
                output: Activation::Tanh,
                coupled_input_forget: false,
                cell_clip: None,
                projection_clip: None,
            }),
            Kind::Gru | Kind::GruResetBefore => Cell::Gru(Gru {
                gate: Activation::Sigmoid,
                candidate: Activation::Tanh,
                reset_after: self == Kind::Gru,
            }),
            Kind::Rnn => Cell::Rnn(Rnn { activation: Activation::Tanh }),
        }
    }
}

/// A stack of layers: steps, batch, inputs, hidden units, layers, both directions; the cell, and
/// whether rows have lengths.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub kind: Kind,
    pub lengths: bool,
    pub steps: usize,
    pub batch: usize,
    pub inputs: usize,
    pub hidden: usize,
    pub layers: usize,
    pub bidirectional: bool,
}

impl Shape {
    pub const fn layer(steps: usize, batch: usize, inputs: usize, hidden: usize) -> Self {
        Shape {
            kind: Kind::Lstm,
            lengths: false,
            steps,
            batch,
            inputs,
            hidden,
            layers: 1,
            bidirectional: false,
        }
    }

    pub fn name(&self) -> String {
        let Shape { steps, batch, inputs, hidden, layers, bidirectional, .. } = *self;
        let layers = if layers > 1 { format!("_L{layers}") } else { String::new() };
        let both = if bidirectional { "_bi" } else { "" };
        format!("T{steps}_B{batch}_I{inputs}_H{hidden}{layers}{both}")
    }

    /// Multiply-adds count as two; the gates' element-wise work is left out.
    pub fn operations(&self) -> u64 {
        let directions = 1 + usize::from(self.bidirectional);
        let widths =
            (0..self.layers).map(|l| if l == 0 { self.inputs } else { directions * self.hidden });
        let per_step: usize = widths
            .map(|width| directions * 2 * self.kind.gates() * self.hidden * (width + self.hidden))
            .sum();
        (per_step * self.steps * self.batch) as u64
    }
}

/// Weights of a layer's direction: `[G·H, I]`, `[G·H, H]`, `[G·H]`, gates in the order of the cell
/// (LSTM: i, f, g, o).
pub type Weights = (Vec<f32>, Vec<f32>, Vec<f32>);

/// Numbers in [−1, 1), the same everywhere.
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}

/// Random weights of the usual magnitude.
pub fn random_weights(shape: &Shape, layer: usize, direction: usize) -> Weights {
    let scale = 1.0 / (shape.hidden as f32).sqrt();
    let directions = 1 + usize::from(shape.bidirectional);
    let width = if layer == 0 { shape.inputs } else { directions * shape.hidden };
    let rows = shape.kind.gates() * shape.hidden;
    let seed = (layer * 2 + direction) as u64 * 3;
    let scaled = |seed, count| noise(seed, count).into_iter().map(|x| x * scale).collect();
    (scaled(seed + 1, rows * width), scaled(seed + 2, rows * shape.hidden), scaled(seed + 3, rows))
}

/// The stack as a graph: x `[T, B, I]` → y `[T, B, D·H]`.
pub fn graph(shape: &Shape, weights: impl Fn(usize, usize) -> Weights) -> Graph {
    let mut graph = Graph::default();
    let x = graph
        .add_value("x", ValueType::fixed(DType::F32, &[shape.steps, shape.batch, shape.inputs]));
    graph.inputs.push(Port { name: "x".into(), value: x });
    let lengths = shape.lengths.then(|| {
        let lengths = graph.add_value("lengths", ValueType::fixed(DType::I32, &[shape.batch]));
        graph.inputs.push(Port { name: "lengths".into(), value: lengths });
        lengths
    });
    let directions = 1 + usize::from(shape.bidirectional);
    let rows = shape.kind.gates() * shape.hidden;
    let (mut from, mut width) = (x, shape.inputs);
    for layer in 0..shape.layers {
        let direction = |d: usize| {
            let (w, r, b) = weights(layer, d);
            let weights = CellWeights {
                input: Matrix::float(Tensor::from_vec(&[rows, width], w).unwrap()),
                recurrent: Matrix::float(Tensor::from_vec(&[rows, shape.hidden], r).unwrap()),
                auxiliary: None,
                bias: Some(Tensor::from_vec(&[rows], b).unwrap()),
                recurrent_bias: None,
                peephole: None,
                layer_norm: None,
                projection: None,
            };
            Direction { reverse: d == 1, source: Source::X, weights: Arc::new(weights) }
        };
        let op = Recurrent {
            cell: shape.kind.cell(),
            directions: (0..directions).map(direction).collect(),
            layout: Layout::TimeMajor,
            masking: Masking::Zero,
            merge: if shape.bidirectional { Merge::Concat } else { Merge::Separate },
            gate_clip: None,
            arithmetic: Arithmetic::Float,
        };
        width = directions * shape.hidden;
        let y =
            graph.add_value("y", ValueType::fixed(DType::F32, &[shape.steps, shape.batch, width]));
        let mut inputs = vec![None; op.input_slots()];
        inputs[Recurrent::X] = Some(from);
        inputs[Recurrent::MASK] = lengths;
        let mut outputs = vec![None; op.output_slots()];
        outputs[0] = Some(y);
        graph.add_node(format!("layer {layer}"), Op::Recurrent(op), inputs, outputs);
        from = y;
    }
    graph.outputs.push(Port { name: "y".into(), value: from });
    graph
}

/// A compiled stack with its input and output.
pub struct Bench {
    program: Box<dyn Program>,
    inputs: Vec<Tensor>,
    pub outputs: Vec<Tensor>,
}

impl Bench {
    pub fn new(
        shape: &Shape,
        x: Vec<f32>,
        weights: impl Fn(usize, usize) -> Weights,
        options: BackendOptions,
    ) -> Bench {
        let graph = Arc::new(graph(shape, weights));
        let x_shape = vec![shape.steps, shape.batch, shape.inputs];
        let mut shapes = vec![x_shape.clone()];
        shapes.extend(shape.lengths.then(|| vec![shape.batch]));
        let plan = Arc::new(Plan::new(&graph, &shapes).unwrap());
        let program = CpuBackend::new(options).unwrap().compile(&plan).unwrap();
        let mut inputs = vec![Tensor::from_vec(&x_shape, x).unwrap()];
        if shape.lengths {
            let lengths =
                (0..shape.batch).map(|row| (shape.steps - row % shape.steps) as i32).collect();
            inputs.push(Tensor::from_vec(&[shape.batch], lengths).unwrap());
        }
        Bench { program, inputs, outputs: vec![Tensor::scalar(0.0f32)] }
    }

    pub fn random(shape: &Shape, options: BackendOptions) -> Bench {
        let x = noise(99, shape.steps * shape.batch * shape.inputs);
        Bench::new(shape, x, |layer, direction| random_weights(shape, layer, direction), options)
    }

    pub fn run(&mut self) {
        self.program
            .run(Io { inputs: &self.inputs, states: &mut [], outputs: &mut self.outputs })
            .expect("the program runs");
    }
}

/// One LSTM layer of one row that a stream runs a step at a time.
pub struct Streamed {
    stream: Stream,
    x: Tensor,
    outputs: Outputs,
}

impl Streamed {
    pub fn new(hidden: usize) -> Streamed {
        let shape = Shape::layer(1, 1, hidden, hidden);
        let mut graph = graph(&shape, |layer, direction| random_weights(&shape, layer, direction));
        for (name, input, output) in
            [("h", Recurrent::h0(0), Recurrent::h_n(0)), ("c", Recurrent::c0(0), Recurrent::c_n(0))]
        {
            let mut value = || graph.add_value(name, ValueType::fixed(DType::F32, &[1, hidden]));
            let (value, next) = (value(), value());
            graph.nodes[0].inputs[input] = Some(value);
            graph.nodes[0].outputs[output] = Some(next);
            graph.states.push(State {
                name: name.into(),
                value,
                next,
                reset: fuselstm::graph::Reset::ZERO,
            });
        }
        let session = Session::builder(&Model::from_graph(graph).unwrap())
            .device(Device::cpu())
            .build()
            .unwrap();
        let x = Tensor::from_vec(&[1, 1, hidden], noise(7, hidden)).unwrap();
        Streamed { stream: session.stream(), x, outputs: Outputs::default() }
    }

    pub fn step(&mut self) {
        self.stream.run_into(&[("x", &self.x)], &mut self.outputs).expect("the stream runs");
    }
}
