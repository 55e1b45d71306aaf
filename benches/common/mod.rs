//! The layers that the benchmarks run: stacks of LSTM layers with random or given weights, as graphs.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use fuselstm::backend::cpu::CpuBackend;
use fuselstm::backend::{Backend, BackendOptions, Io, Program};
use fuselstm::graph::op::Activation;
use fuselstm::graph::recurrent::{
    Arithmetic, Cell, CellWeights, Direction, Layout, Lstm, Masking, Matrix, Merge, Recurrent, Source,
};
use fuselstm::graph::{Graph, Op, Port, ValueType};
use fuselstm::plan::Plan;
use fuselstm::{DType, Tensor};

/// A stack of LSTM layers: steps, batch, inputs, hidden units, layers, both directions.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub steps: usize,
    pub batch: usize,
    pub inputs: usize,
    pub hidden: usize,
    pub layers: usize,
    pub bidirectional: bool,
}

impl Shape {
    pub const fn layer(steps: usize, batch: usize, inputs: usize, hidden: usize) -> Self {
        Shape { steps, batch, inputs, hidden, layers: 1, bidirectional: false }
    }

    pub fn name(&self) -> String {
        let Shape { steps, batch, inputs, hidden, layers, bidirectional } = *self;
        let layers = if layers > 1 { format!("_L{layers}") } else { String::new() };
        let both = if bidirectional { "_bi" } else { "" };
        format!("T{steps}_B{batch}_I{inputs}_H{hidden}{layers}{both}")
    }

    /// Multiply-adds count as two; the gates' element-wise work is left out.
    pub fn operations(&self) -> u64 {
        let directions = 1 + usize::from(self.bidirectional);
        let widths = (0..self.layers).map(|l| if l == 0 { self.inputs } else { directions * self.hidden });
        let per_step: usize = widths.map(|width| directions * 8 * self.hidden * (width + self.hidden)).sum();
        (per_step * self.steps * self.batch) as u64
    }
}

/// Weights of a layer's direction: `[4H, I]`, `[4H, H]`, `[4H]`, gates i, f, g, o.
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
    let rows = 4 * shape.hidden;
    let seed = (layer * 2 + direction) as u64 * 3;
    let scaled = |seed, count| noise(seed, count).into_iter().map(|x| x * scale).collect();
    (scaled(seed + 1, rows * width), scaled(seed + 2, rows * shape.hidden), scaled(seed + 3, rows))
}

/// The stack as a graph: x `[T, B, I]` → y `[T, B, D·H]`.
pub fn graph(shape: &Shape, weights: impl Fn(usize, usize) -> Weights) -> Graph {
    let mut graph = Graph::default();
    let x = graph.add_value("x", ValueType::fixed(DType::F32, &[shape.steps, shape.batch, shape.inputs]));
    graph.inputs.push(Port { name: "x".into(), value: x });
    let directions = 1 + usize::from(shape.bidirectional);
    let rows = 4 * shape.hidden;
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
            cell: Cell::Lstm(Lstm {
                gate: Activation::Sigmoid,
                candidate: Activation::Tanh,
                output: Activation::Tanh,
                coupled_input_forget: false,
                cell_clip: None,
                projection_clip: None,
            }),
            directions: (0..directions).map(direction).collect(),
            layout: Layout::TimeMajor,
            masking: Masking::Zero,
            merge: if shape.bidirectional { Merge::Concat } else { Merge::Separate },
            arithmetic: Arithmetic::Float,
        };
        width = directions * shape.hidden;
        let y = graph.add_value("y", ValueType::fixed(DType::F32, &[shape.steps, shape.batch, width]));
        let mut inputs = vec![None; op.input_slots()];
        inputs[Recurrent::X] = Some(from);
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
        let plan = Arc::new(Plan::new(&graph, std::slice::from_ref(&x_shape)).unwrap());
        let program = CpuBackend::new(options).unwrap().compile(&plan).unwrap();
        let inputs = vec![Tensor::from_vec(&x_shape, x).unwrap()];
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
