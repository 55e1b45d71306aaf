//! The recurrent kernels against `eval`, option by option.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod batches;
mod persistent;

use std::sync::Arc;

use crate::backend::gpu::testing::{gpu, max_abs, noise, open, plan};
use crate::backend::gpu::{Gpu, testing};
use crate::backend::{Backend, BackendOptions, Counters, Io, Precision, Product, Strategy};
use crate::graph::op::Activation;
use crate::graph::recurrent::{
    Arithmetic, Cell, CellWeights, Direction, Gru, Layout, Lstm, Masking, Matrix, Merge,
    Projection, Rnn, Source,
};
use crate::graph::{Graph, Op, Port, Recurrent, ValueType};
use crate::tensor::{DType, Tensor};

/// A layer to build: sizes and every option.
#[derive(Clone, Debug)]
pub(super) struct Case {
    cell: Cell,
    /// T, B, I, H.
    sizes: [usize; 4],
    /// P of a projection.
    projection: Option<usize>,
    peephole: bool,
    layer_norm: bool,
    diagonal: bool,
    /// Width of the auxiliary input, and whether the second direction reads it instead of x.
    auxiliary: Option<(usize, bool)>,
    /// `reverse` of each direction.
    directions: Vec<bool>,
    layout: Layout,
    mask: Option<(bool, Masking)>,
    merge: Merge,
    initial: bool,
    y: bool,
    /// Layers on top of one another, all of these options.
    layers: usize,
    /// The outputs of the lower layers are wanted, too.
    between: bool,
}

fn lstm() -> Lstm {
    Lstm {
        gate: Activation::Sigmoid,
        candidate: Activation::Tanh,
        output: Activation::Tanh,
        coupled_input_forget: false,
        cell_clip: None,
        projection_clip: None,
    }
}

fn gru(reset_after: bool) -> Cell {
    Cell::Gru(Gru { gate: Activation::Sigmoid, candidate: Activation::Tanh, reset_after })
}

pub(super) fn plain(cell: Cell, sizes: [usize; 4]) -> Case {
    Case {
        cell,
        sizes,
        projection: None,
        peephole: false,
        layer_norm: false,
        diagonal: false,
        auxiliary: None,
        directions: vec![false],
        layout: Layout::TimeMajor,
        mask: None,
        merge: Merge::Separate,
        initial: false,
        y: true,
        layers: 1,
        between: false,
    }
}

impl Case {
    fn width(&self) -> usize {
        self.projection.unwrap_or(self.sizes[3])
    }

    fn direction(&self, layer: usize, d: usize) -> Direction {
        let [_, _, i, h] = self.sizes;
        let (g, p) = (self.cell.gate_blocks(), self.width());
        let parallel = d == 1 && self.auxiliary.is_some_and(|(_, parallel)| parallel);
        let i = if parallel { self.auxiliary.unwrap().0 } else { i };
        let joined = if self.merge == Merge::Concat { self.directions.len() } else { 1 };
        let i = if layer > 0 { p * joined } else { i };
        let mut seed = (1000 * layer + 100 * (d + 1)) as u64;
        let mut random = |shape: &[usize], scale: f32| {
            seed += 1;
            let values = noise(seed, shape.iter().product()).iter().map(|x| x * scale).collect();
            Tensor::from_vec(shape, values).unwrap()
        };
        // Sums stay of order 1, as trained weights keep them.
        let scale = |n: usize| 1.5 / (n.max(1) as f32).sqrt();
        let gates =
            if matches!(&self.cell, Cell::Lstm(l) if l.coupled_input_forget) { 2 } else { 3 };
        let after = matches!(&self.cell, Cell::Gru(g) if g.reset_after);
        let recurrent =
            if self.diagonal { random(&[g * h], 0.8) } else { random(&[g * h, p], scale(p)) };
        let weights = CellWeights {
            input: Matrix::float(random(&[g * h, i], scale(i))),
            recurrent: Matrix::float(recurrent),
            auxiliary: match self.auxiliary {
                Some((a, false)) => Some(Matrix::float(random(&[g * h, a], scale(a)))),
                _ => None,
            },
            bias: Some(random(&[g * h], 0.3)),
            recurrent_bias: after.then(|| random(&[h], 0.3)),
            peephole: self.peephole.then(|| Matrix::float(random(&[gates * h], 0.5))),
            layer_norm: self.layer_norm.then(|| Matrix::float(random(&[g * h], 1.0))),
            projection: self.projection.map(|p| Projection {
                weight: Matrix::float(random(&[p, h], scale(h))),
                bias: Some(random(&[p], 0.2)),
            }),
        };
        let source = if parallel { Source::Auxiliary } else { Source::X };
        Direction { reverse: self.directions[d], source, weights: Arc::new(weights) }
    }

    /// The graph of the layers, each over the one before, and its inputs.
    pub(super) fn build(&self) -> (Graph, Vec<Tensor>) {
        let [t, b, i, h] = self.sizes;
        let (p, count) = (self.width(), self.directions.len());
        let outer = |width: usize| match self.layout {
            Layout::TimeMajor => [t, b, width],
            Layout::BatchMajor => [b, t, width],
        };
        let (mut graph, mut tensors) = (Graph::default(), Vec::new());
        let give = |graph: &mut Graph, tensors: &mut Vec<Tensor>, tensor: Tensor| {
            let name = format!("in{}", tensors.len());
            let value =
                graph.add_value(name.clone(), ValueType::fixed(tensor.dtype(), tensor.shape()));
            graph.inputs.push(Port { name, value });
            tensors.push(tensor);
            Some(value)
        };
        let random = |seed: u64, shape: &[usize]| {
            Tensor::from_vec(shape, noise(seed, shape.iter().product())).unwrap()
        };
        let mut x = give(&mut graph, &mut tensors, random(1, &outer(i)));
        let mask = self.mask.and_then(|(lengths, _)| {
            let tensor = if lengths {
                Tensor::from_vec(
                    &[b],
                    (0..b).map(|r| ((r * 5 + 2) % (t + 1)) as i32).collect::<Vec<_>>(),
                )
                .unwrap()
            } else {
                let shape = [outer(1)[0], outer(1)[1]];
                Tensor::from_vec(
                    &shape,
                    noise(7, t * b).iter().map(|&x| x > -0.3).collect::<Vec<bool>>(),
                )
                .unwrap()
            };
            give(&mut graph, &mut tensors, tensor)
        });
        let cells = self.cell.has_cell_state();
        for layer in 0..self.layers {
            let op = Recurrent {
                cell: self.cell.clone(),
                directions: (0..count).map(|d| self.direction(layer, d)).collect(),
                layout: self.layout,
                masking: self.mask.map_or(Masking::Zero, |(_, masking)| masking),
                merge: self.merge,
                gate_clip: None,
                arithmetic: Arithmetic::Float,
            };
            let mut inputs = vec![None; op.input_slots()];
            inputs[Recurrent::X] = x;
            inputs[Recurrent::MASK] = mask;
            if let Some((a, _)) = self.auxiliary {
                inputs[Recurrent::AUXILIARY] = give(&mut graph, &mut tensors, random(2, &outer(a)));
            }
            for d in (0..count).filter(|_| self.initial) {
                let seed = (10 * layer + d) as u64;
                inputs[Recurrent::h0(d)] =
                    give(&mut graph, &mut tensors, random(3 + seed, &[b, p]));
                if cells {
                    inputs[Recurrent::c0(d)] =
                        give(&mut graph, &mut tensors, random(5 + seed, &[b, h]));
                }
            }
            let mut outputs = vec![None; op.output_slots()];
            let mut want = |graph: &mut Graph, slot: usize, shape: &[usize], kept: bool| {
                let name = format!("layer {layer} out{slot}");
                let value = graph.add_value(name.clone(), ValueType::fixed(DType::F32, shape));
                outputs[slot] = Some(value);
                if kept {
                    graph.outputs.push(Port { name, value });
                }
            };
            let (top, kept) =
                (layer + 1 == self.layers, self.y && (layer + 1 == self.layers || self.between));
            match self.merge {
                Merge::Concat if kept || !top => {
                    want(&mut graph, Recurrent::y(0), &outer(p * count), kept)
                }
                Merge::Separate if kept || !top => {
                    (0..count).for_each(|d| want(&mut graph, Recurrent::y(d), &outer(p), kept))
                }
                Merge::Concat | Merge::Separate => {}
            }
            for d in 0..count {
                want(&mut graph, Recurrent::h_n(d), &[b, p], true);
                if cells {
                    want(&mut graph, Recurrent::c_n(d), &[b, h], true);
                }
            }
            x = outputs[Recurrent::y(0)];
            graph.add_node(format!("layer {layer}"), Op::Recurrent(op), inputs, outputs);
        }
        (graph, tensors)
    }
}

/// The results of every node by `eval`, as the graph's outputs want them.
fn expected(graph: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
    let mut known: Vec<_> =
        graph.inputs.iter().map(|p| p.value).zip(inputs.iter().cloned()).collect();
    for node in &graph.nodes {
        let find = |id| known.iter().find(|(known, _)| *known == id).map(|(_, tensor)| tensor);
        let operands: Vec<_> = node
            .inputs
            .iter()
            .map(|id| id.map(|id| (find(id).unwrap(), &graph.get(id).unwrap().ty)))
            .collect();
        let types: Vec<_> =
            node.outputs.iter().map(|id| id.map(|id| &graph.get(id).unwrap().ty)).collect();
        let results = crate::eval::evaluate(&node.op, &operands, &types).unwrap();
        known.extend(
            node.outputs.iter().zip(results).filter_map(|(id, tensor)| Some(((*id)?, tensor?))),
        );
    }
    let value = |port: &Port| known.iter().find(|(id, _)| *id == port.value).unwrap().1.clone();
    graph.outputs.iter().map(value).collect()
}

/// Runs a case on a device and holds it against `eval`.
fn check(gpu: &Gpu, case: &Case) -> Counters {
    // The project's bar for float layers; observed here: below 2e-6.
    check_within(gpu, case, 1e-5)
}

fn check_within(gpu: &Gpu, case: &Case, tolerance: f32) -> Counters {
    let (graph, inputs) = case.build();
    let want = expected(&graph, &inputs);
    let plan = plan(graph);
    let mut program = gpu.compile(&plan).unwrap_or_else(|e| panic!("{case:?}: {e}"));
    for round in 0..2 {
        let got = testing::run(program.as_mut(), &plan, &inputs);
        for ((got, want), port) in got.iter().zip(&want).zip(&plan.graph.outputs) {
            assert_eq!(got.shape(), want.shape(), "{case:?}");
            let error = max_abs(got.as_slice().unwrap(), want.as_slice().unwrap());
            assert!(
                error <= tolerance,
                "{} differs by {error} in round {round}: {case:?}",
                port.name
            );
        }
    }
    let counters = program.counters();
    assert_eq!(
        (counters.pipelines_created, counters.buffers_created),
        (0, 0),
        "the second run creates nothing"
    );
    counters
}

fn forced(strategy: Strategy, checked: bool) -> Option<Gpu> {
    open(&BackendOptions {
        strategy: Some(strategy),
        checked_shaders: checked,
        ..BackendOptions::default()
    })
}

/// Every strategy that needs no probe.
const STRATEGIES: [Strategy; 5] =
    [Strategy::Loop, Strategy::LoopSplit, Strategy::Step, Strategy::StepSplit, Strategy::Wavefront];

/// Cases that all strategies run.
fn common() -> Vec<Case> {
    let lstm_cell = Cell::Lstm(lstm());
    let base = plain(lstm_cell.clone(), [7, 3, 5, 20]);
    let coupled = Cell::Lstm(Lstm { coupled_input_forget: true, cell_clip: Some(0.6), ..lstm() });
    vec![
        base.clone(),
        Case { initial: true, sizes: [4, 1, 3, 7], ..base.clone() },
        Case { sizes: [0, 3, 5, 20], initial: true, ..base.clone() },
        Case { sizes: [4, 0, 5, 20], initial: true, ..base.clone() },
        Case { sizes: [3, 9, 4, 33], layout: Layout::BatchMajor, ..base.clone() },
        Case { y: false, initial: true, ..base.clone() },
        Case { directions: vec![false, true], merge: Merge::Concat, initial: true, ..base.clone() },
        Case {
            directions: vec![false, true],
            layout: Layout::BatchMajor,
            mask: Some((true, Masking::Zero)),
            ..base.clone()
        },
        Case {
            directions: vec![true],
            mask: Some((true, Masking::Hold)),
            initial: true,
            ..base.clone()
        },
        Case { mask: Some((false, Masking::Hold)), layout: Layout::BatchMajor, ..base.clone() },
        Case { mask: Some((false, Masking::Zero)), ..base.clone() },
        Case { cell: coupled, peephole: true, initial: true, ..base.clone() },
        Case { peephole: true, auxiliary: Some((4, false)), ..base.clone() },
        Case { directions: vec![false, true], auxiliary: Some((6, true)), ..base.clone() },
        Case { diagonal: true, initial: true, ..base.clone() },
        Case { cell: gru(true), initial: true, ..base.clone() },
        Case {
            cell: gru(true),
            directions: vec![false, true],
            mask: Some((true, Masking::Zero)),
            ..base.clone()
        },
        Case {
            cell: Cell::Rnn(Rnn { activation: Activation::Relu6 }),
            initial: true,
            ..base.clone()
        },
    ]
}

#[test]
fn the_loop_kernel() {
    let Some(gpu) = forced(Strategy::Loop, true) else { return };
    for case in common() {
        check(&gpu, &case);
    }
}

#[test]
fn the_loop_kernel_with_shared_terms() {
    let Some(gpu) = forced(Strategy::LoopSplit, true) else { return };
    for case in common().into_iter().filter(|case| !case.diagonal) {
        check(&gpu, &case);
    }
    // Asked for by name, it is never replaced by the host.
    let (graph, _) = Case { layer_norm: true, ..plain(Cell::Lstm(lstm()), [2, 1, 3, 8]) }.build();
    let refused = gpu.compile(&plan(graph)).err().unwrap();
    assert!(
        refused.kind() == crate::ErrorKind::InvalidInput
            && refused.to_string().contains("layer norm"),
        "{refused}"
    );
    let base = plain(Cell::Lstm(lstm()), [5, 2, 4, 64]);
    // One slice of few units, whole slices, a last slice that is part empty, and terms that no
    // register holds.
    for sizes in [
        [3, 1, 4, 1],
        [5, 2, 4, 64],
        [4, 1, 4, 100],
        [3, 1, 3, 128],
        [3, 2, 4, 131],
        [2, 1, 3, 300],
    ] {
        check(&gpu, &Case { sizes, initial: true, ..base.clone() });
    }
}

#[test]
fn the_step_kernel() {
    let Some(gpu) = forced(Strategy::Step, true) else { return };
    for case in common() {
        check(&gpu, &case);
    }
}

/// Input products whose rows are strided, go backwards, and add to what is there.
#[test]
fn tiled_input_products() {
    let base = plain(Cell::Lstm(lstm()), [7, 3, 5, 20]);
    let cases = [
        Case {
            sizes: [30, 5, 8, 33],
            layout: Layout::BatchMajor,
            directions: vec![true],
            ..base.clone()
        },
        Case { directions: vec![false, true], auxiliary: Some((6, true)), ..base.clone() },
        Case {
            auxiliary: Some((4, false)),
            layout: Layout::BatchMajor,
            directions: vec![false, true],
            ..base
        },
    ];
    for (product, checked_shaders) in
        [(Product::Tiled64, true), (Product::Tiled64, false), (Product::Tiled128, true)]
    {
        let options =
            BackendOptions { product: Some(product), checked_shaders, ..BackendOptions::default() };
        let Some(gpu) = open(&options) else { return };
        for case in &cases {
            check(&gpu, case);
        }
    }
}

/// The sums of several invocations, through workgroup memory and through subgroups.
#[test]
fn the_split_kernel() {
    let Some(gpu) = forced(Strategy::StepSplit, true) else { return };
    for case in common() {
        check(&gpu, &case);
    }
    let base = plain(Cell::Lstm(lstm()), [5, 1, 4, 130]);
    for case in [
        base.clone(),
        Case { sizes: [3, 3, 2, 65], ..base.clone() },
        Case { sizes: [2, 6, 2, 260], ..base },
    ] {
        check(&gpu, &case);
    }
}

/// Widths, batches and lengths around what tiles and vectors hold, none of anything included, with
/// and without checks in the shaders.
#[test]
fn odd_shapes() {
    let sizes = [
        [2, 3, 4, 1],
        [1, 9, 3, 3],
        [7, 1, 5, 17],
        [2, 9, 3, 65],
        [1, 3, 2, 130],
        [0, 3, 2, 17],
        [2, 0, 2, 3],
    ];
    for strategy in STRATEGIES {
        for checked in [true, false] {
            let Some(gpu) = forced(strategy, checked) else { return };
            // Every other shape each, so that both see every kind.
            for sizes in sizes.into_iter().skip(usize::from(checked)).step_by(2) {
                let case = Case { initial: true, sizes, ..plain(Cell::Lstm(lstm()), sizes) };
                check(
                    &gpu,
                    &Case {
                        directions: vec![false, true],
                        mask: Some((true, Masking::Zero)),
                        ..case
                    },
                );
            }
        }
    }
}

/// Stacks that run on a diagonal, with and without the outputs between them, and those that cannot.
#[test]
fn the_wavefront() {
    let Some(gpu) = forced(Strategy::Wavefront, true) else { return };
    let base = Case { layers: 3, ..plain(Cell::Lstm(lstm()), [7, 3, 5, 20]) };
    let coupled = Cell::Lstm(Lstm { coupled_input_forget: true, cell_clip: Some(0.6), ..lstm() });
    let stacks = [
        base.clone(),
        Case { between: true, initial: true, sizes: [6, 1, 3, 17], ..base.clone() },
        Case { sizes: [1, 9, 4, 65], layers: 4, between: true, ..base.clone() },
        Case { sizes: [2, 3, 70, 130], layers: 2, y: false, ..base.clone() },
        Case { sizes: [0, 3, 5, 20], initial: true, between: true, ..base.clone() },
        Case { sizes: [4, 0, 5, 20], initial: true, ..base.clone() },
        Case { sizes: [2, 2, 1, 1], layers: 5, ..base.clone() },
        Case {
            directions: vec![true],
            mask: Some((true, Masking::Hold)),
            initial: true,
            ..base.clone()
        },
        Case {
            mask: Some((true, Masking::Zero)),
            between: true,
            layout: Layout::BatchMajor,
            ..base.clone()
        },
        Case {
            directions: vec![true],
            mask: Some((false, Masking::Zero)),
            between: true,
            ..base.clone()
        },
        Case { cell: coupled, peephole: true, initial: true, ..base.clone() },
        Case { cell: gru(true), initial: true, sizes: [5, 8, 3, 33], ..base.clone() },
        Case { cell: Cell::Rnn(Rnn { activation: Activation::Relu6 }), layers: 2, ..base.clone() },
    ];
    for case in stacks {
        let counters = check(&gpu, &case);
        let [time, batch, ..] = case.sizes;
        let dispatches = if time * batch == 0 { 0 } else { time + case.layers };
        assert_eq!((counters.dispatches, counters.submissions), (dispatches as u64, 1), "{case:?}");
    }
    // Each layer is a wavefront of its own: both directions in each dispatch.
    let both = Case { directions: vec![false, true], merge: Merge::Concat, ..base };
    assert_eq!(check(&gpu, &both).dispatches, 3 * (7 + 2));
}

#[test]
fn a_wide_stack_becomes_a_wavefront() {
    let Some(gpu) = gpu() else { return };
    let case = Case { layers: 4, ..plain(Cell::Lstm(lstm()), [12, 2, 4, 300]) };
    let counters = check(gpu, &case);
    assert!(counters.dispatches <= 12 + 4 && counters.submissions == 1, "{counters:?}");
}

#[test]
fn rare_options() {
    let clipped = Cell::Lstm(Lstm { cell_clip: Some(0.5), projection_clip: Some(0.4), ..lstm() });
    let base = plain(Cell::Lstm(lstm()), [6, 3, 5, 20]);
    let cases = [
        Case { cell: clipped, projection: Some(9), initial: true, ..base.clone() },
        Case {
            projection: Some(24),
            mask: Some((true, Masking::Hold)),
            directions: vec![false, true],
            ..base.clone()
        },
        Case { layer_norm: true, initial: true, ..base.clone() },
        Case {
            layer_norm: true,
            peephole: true,
            projection: Some(7),
            mask: Some((true, Masking::Zero)),
            ..base.clone()
        },
        Case {
            cell: gru(false),
            initial: true,
            mask: Some((false, Masking::Hold)),
            ..base.clone()
        },
        Case { cell: gru(false), diagonal: true, sizes: [5, 2, 3, 40], ..base.clone() },
        Case {
            cell: gru(false),
            directions: vec![false, true],
            sizes: [3, 6, 3, 65],
            initial: true,
            ..base.clone()
        },
        Case { layer_norm: true, projection: Some(70), sizes: [2, 1, 3, 130], ..base.clone() },
        Case { layer_norm: true, peephole: true, sizes: [2, 2, 3, 300], ..base.clone() },
    ];
    for strategy in [Strategy::Loop, Strategy::Step] {
        let Some(gpu) = forced(strategy, true) else { return };
        for case in &cases {
            check(&gpu, case);
        }
    }
}

#[test]
fn without_checks_in_the_shaders() {
    for strategy in STRATEGIES {
        let Some(gpu) = forced(strategy, false) else { return };
        let case = plain(Cell::Lstm(lstm()), [9, 5, 6, 70]);
        check(&gpu, &Case { directions: vec![false, true], initial: true, ..case.clone() });
        check(&gpu, &Case { layers: 2, initial: true, ..case });
    }
}

#[test]
fn unequal_directions_and_dispatch_counts() {
    let Some(gpu) = gpu() else { return };
    let counters = check(gpu, &plain(Cell::Lstm(lstm()), [12, 2, 4, 64]));
    assert!(counters.dispatches <= 4 && counters.submissions == 1, "{counters:?}");
    let counters = check(gpu, &plain(Cell::Lstm(lstm()), [12, 2, 4, 200]));
    assert!(counters.dispatches <= 12 + 4 && counters.submissions == 1, "{counters:?}");
}

/// Rounded weights: the bars of the project, 5e-3 and 5e-2; a wrong scale or order would be off by
/// the order of 1.
#[test]
fn rounded_weights() {
    for (precision, tolerance) in [(Precision::F16, 5e-3), (Precision::Int8, 5e-2)] {
        let options = |s: Strategy| BackendOptions {
            precision,
            strategy: Some(s),
            ..BackendOptions::default()
        };
        let base = plain(Cell::Lstm(lstm()), [6, 3, 5, 20]);
        for strategy in STRATEGIES {
            let Some(gpu) = open(&options(strategy)) else { return };
            check_within(
                &gpu,
                &Case { directions: vec![false, true], initial: true, ..base.clone() },
                tolerance,
            );
            check_within(&gpu, &Case { layers: 2, initial: true, ..base.clone() }, tolerance);
        }
        for strategy in [Strategy::Loop, Strategy::Step] {
            let Some(gpu) = open(&options(strategy)) else { return };
            check_within(&gpu, &Case { cell: gru(false), ..base.clone() }, tolerance);
        }
    }
    let bf16 = BackendOptions { precision: Precision::Bf16, ..BackendOptions::default() };
    assert!(
        Gpu::open(&crate::backend::AdapterSelector::Any, &bf16)
            .is_err_and(|e| e.kind() == crate::ErrorKind::InvalidInput)
    );
}

/// A row of NaN stays alone.
#[test]
fn rows_are_independent() {
    for strategy in STRATEGIES {
        let Some(gpu) = forced(strategy, true) else { return };
        let (graph, mut inputs) = plain(Cell::Lstm(lstm()), [4, 6, 3, 20]).build();
        for t in 0..4 {
            inputs[0].as_mut_slice::<f32>().unwrap()[(t * 6 + 2) * 3] = f32::NAN;
        }
        let plan = plan(graph);
        let mut program = gpu.compile(&plan).unwrap();
        let mut outputs = vec![Tensor::scalar(0f32); plan.graph.outputs.len()];
        program.run(Io { inputs: &inputs, states: &mut [], outputs: &mut outputs }).unwrap();
        for (at, y) in outputs[0].as_slice::<f32>().unwrap().iter().enumerate() {
            assert_eq!(y.is_nan(), at / 20 % 6 == 2, "{strategy}: element {at} is {y}");
        }
    }
}

/// The error does not grow with the sequence, and the chunk limit of the software driver is kept.
#[test]
fn a_thousand_steps() {
    for (strategy, units, layers) in [
        (Strategy::Loop, 96, 1),
        (Strategy::LoopSplit, 40, 1),
        (Strategy::Step, 24, 1),
        (Strategy::StepSplit, 17, 1),
        (Strategy::Wavefront, 16, 2),
    ] {
        let Some(gpu) = forced(strategy, false) else { return };
        check(&gpu, &Case { layers, ..plain(Cell::Lstm(lstm()), [1000, 1, 3, units]) });
    }
}

/// Milliseconds of the shapes that the bars name; for a person, not for CI:
/// `cargo test --lib -- --ignored --nocapture timings`. `FUSELSTM_TIMINGS` may name the strategies
/// and shapes: `loop,step;1x64,1x512x4`, the last of four layers. The processor's time is that of
/// all threads.
#[test]
#[ignore = "timings are read, not asserted: the machine may be busy"]
fn timings() {
    let asked = std::env::var("FUSELSTM_TIMINGS")
        .unwrap_or_else(|_| ",loop,step;1x64,16x64,1x128,16x128,1x256,1x512".into());
    let (strategies, shapes) = asked.split_once(';').unwrap();
    // Ticks of user time; a hundred a second on every Linux.
    let ticks = || -> f64 {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        stat.split_whitespace().nth(13).and_then(|t| t.parse().ok()).unwrap_or(0.0)
    };
    for strategy in strategies.split(',') {
        let options = BackendOptions {
            strategy: (!strategy.is_empty()).then(|| strategy.parse().unwrap()),
            ..Default::default()
        };
        let Some(gpu) = open(&options) else { return };
        for shape in shapes.split(',') {
            let sizes: Vec<usize> = shape.split('x').map(|size| size.parse().unwrap()).collect();
            let (batch, units, layers) = (sizes[0], sizes[1], sizes.get(2).copied().unwrap_or(1));
            let (graph, inputs) =
                Case { layers, ..plain(Cell::Lstm(lstm()), [128, batch, units, units]) }.build();
            let plan = plan(graph);
            let mut program = gpu.compile(&plan).unwrap();
            testing::run(program.as_mut(), &plan, &inputs);
            let (begin, before) = (std::time::Instant::now(), ticks());
            let mut times = Vec::new();
            while times.len() < 3 || (times.len() < 50 && begin.elapsed().as_secs() < 3) {
                let start = std::time::Instant::now();
                testing::run(program.as_mut(), &plan, &inputs);
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
            let cpu = (ticks() - before) * 10.0 / times.len() as f64;
            times.sort_by(f64::total_cmp);
            let (min, median) = (times[0], times[times.len() / 2]);
            let dispatches = program.counters().dispatches;
            println!(
                "{strategy:5} B {batch:3} H {units:4} layers {layers}: min {min:7.2} median {median:7.2} processor {cpu:7.2} ms, {dispatches} dispatches"
            );
        }
    }
}
