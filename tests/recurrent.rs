//! Recurrent layers against the reference: random cells, options, sizes and operands, on every
//! instruction set of this machine and on the gpu.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "gpu")]
mod common;

use std::sync::Arc;

use fuselstm::graph::op::Activation;
use fuselstm::graph::recurrent::{
    Arithmetic, Cell, CellWeights, Direction, Gru, Layout, Lstm, Masking, Matrix, Merge,
    Projection, Recurrent, Rnn, Source,
};
use fuselstm::graph::{Graph, Op, Port, ValueId, ValueType};
use fuselstm::internal::backend::cpu::CpuBackend;
use fuselstm::internal::backend::reference::Reference;
use fuselstm::internal::backend::{Backend, BackendOptions, InstructionSet, Io, Precision};
use fuselstm::internal::plan::Plan;
use fuselstm::{DType, Tensor};
use proptest::prelude::*;

/// Numbers in [−scale, scale) from a seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn tensor(&mut self, shape: &[usize], scale: f32) -> Tensor {
        let count = shape.iter().product();
        Tensor::from_vec(shape, (0..count).map(|_| scale * self.next()).collect()).unwrap()
    }

    fn matrix(&mut self, shape: &[usize], scale: f32) -> Matrix {
        Matrix::float(self.tensor(shape, scale))
    }
}

/// What mask operand there is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum MaskKind {
    None,
    Lengths,
    Flags,
}

/// One random layer and its operands.
#[derive(Clone, Debug)]
struct Case {
    cell: Cell,
    steps: usize,
    batch: usize,
    inputs: usize,
    units: usize,
    /// Width of the auxiliary input; 0: none.
    auxiliary: usize,
    cross: bool,
    projection: Option<usize>,
    peephole: bool,
    layer_norm: bool,
    diagonal: bool,
    bidirectional: bool,
    reverse: bool,
    concat: bool,
    layout: Layout,
    masking: Masking,
    mask: MaskKind,
    initial: bool,
    bias: bool,
    seed: u64,
}

impl Case {
    fn weights(&self, noise: &mut Noise, source: Source) -> Arc<CellWeights> {
        let (gates, units) = (self.cell.gate_blocks(), self.units);
        let rows = gates * units;
        let is_lstm = self.cell.has_cell_state();
        let projection = self.projection.filter(|_| is_lstm && !self.diagonal);
        let width = projection.unwrap_or(units);
        let scale = 1.0 / (units as f32).sqrt();
        let inputs = if source == Source::Auxiliary { self.auxiliary } else { self.inputs };
        let reset_after = matches!(&self.cell, Cell::Gru(gru) if gru.reset_after);
        Arc::new(CellWeights {
            input: noise.matrix(&[rows, inputs], scale),
            recurrent: if self.diagonal && is_lstm {
                noise.matrix(&[rows], 0.5)
            } else {
                noise.matrix(&[rows, width], scale)
            },
            auxiliary: (self.cross() && self.auxiliary > 0 && source == Source::X)
                .then(|| noise.matrix(&[rows, self.auxiliary], scale)),
            bias: self.bias.then(|| noise.tensor(&[rows], 0.3)),
            recurrent_bias: reset_after.then(|| noise.tensor(&[units], 0.3)),
            peephole: (is_lstm && self.peephole).then(|| noise.matrix(&[(gates - 1) * units], 0.4)),
            layer_norm: (is_lstm && self.layer_norm).then(|| noise.matrix(&[rows], 1.0)),
            projection: projection.map(|width| Projection {
                weight: noise.matrix(&[width, units], scale),
                bias: self.bias.then(|| noise.tensor(&[width], 0.2)),
            }),
        })
    }

    /// Cross linking: a GRU has none.
    fn cross(&self) -> bool {
        self.cross && !matches!(self.cell, Cell::Gru(_))
    }

    fn graph(&self) -> (Graph, Vec<Tensor>) {
        let mut noise = Noise(self.seed);
        let (steps, batch) = (self.steps, self.batch);
        let two = |a: usize, b: usize, rest: &[usize]| {
            let mut shape = if self.layout == Layout::TimeMajor { vec![a, b] } else { vec![b, a] };
            shape.extend(rest);
            shape
        };
        let has_auxiliary = self.auxiliary > 0;
        let mut directions = Vec::new();
        for d in 0..1 + usize::from(self.bidirectional) {
            // Without cross weights the second direction reads the auxiliary input, as in TFLite's
            // parallel linking.
            let source = if has_auxiliary && !self.cross() && d == 1 {
                Source::Auxiliary
            } else {
                Source::X
            };
            let weights = self.weights(&mut noise, source);
            directions.push(Direction { reverse: (d == 1) != self.reverse, source, weights });
        }
        let uses_auxiliary = directions
            .iter()
            .any(|d| d.source == Source::Auxiliary || d.weights.auxiliary.is_some());
        let concat = self.concat && self.bidirectional;
        let op = Recurrent {
            cell: self.cell.clone(),
            directions,
            layout: self.layout,
            masking: self.masking,
            merge: if concat { Merge::Concat } else { Merge::Separate },
            // Small enough to bind.
            gate_clip: self.seed.is_multiple_of(4).then_some(0.4),
            arithmetic: Arithmetic::Float,
        };
        let mut tensors = vec![None; op.input_slots()];
        tensors[Recurrent::X] = Some(noise.tensor(&two(steps, batch, &[self.inputs]), 1.0));
        if uses_auxiliary {
            tensors[Recurrent::AUXILIARY] =
                Some(noise.tensor(&two(steps, batch, &[self.auxiliary]), 1.0));
        }
        match self.mask {
            MaskKind::None => {}
            MaskKind::Lengths => {
                let lengths: Vec<i32> = (0..batch)
                    .map(|_| ((noise.next() + 1.0) * 0.5 * (steps as f32 + 1.0)) as i32)
                    .collect();
                tensors[Recurrent::MASK] = Some(Tensor::from_vec(&[batch], lengths).unwrap());
            }
            MaskKind::Flags => {
                let flags: Vec<bool> = (0..steps * batch).map(|_| noise.next() > -0.4).collect();
                tensors[Recurrent::MASK] =
                    Some(Tensor::from_vec(&two(steps, batch, &[]), flags).unwrap());
            }
        }
        if self.initial {
            let gates = op.cell.gate_blocks();
            for (d, direction) in op.directions.iter().enumerate() {
                let width = direction.weights.output_width(gates);
                tensors[Recurrent::h0(d)] = Some(noise.tensor(&[batch, width], 0.8));
                if op.cell.has_cell_state() {
                    tensors[Recurrent::c0(d)] = Some(noise.tensor(&[batch, self.units], 1.5));
                }
            }
        }
        let mut graph = Graph::default();
        let mut inputs = Vec::new();
        let mut given = Vec::new();
        for tensor in tensors {
            inputs.push(tensor.map(|tensor: Tensor| {
                let id = graph.add_value("", ValueType::fixed(tensor.dtype(), tensor.shape()));
                graph.inputs.push(Port { name: format!("in{}", given.len()), value: id });
                given.push(tensor);
                id
            }));
        }
        let mut outputs: Vec<Option<ValueId>> = Vec::new();
        for slot in 0..op.output_slots() {
            let there = match slot {
                0 => true,
                1 => op.directions.len() == 2 && !concat,
                _ => op.cell.has_cell_state() || slot % 2 == 0,
            };
            outputs.push(there.then(|| {
                let id = graph.add_value("", ValueType::unranked(DType::F32));
                graph.outputs.push(Port { name: format!("out{slot}"), value: id });
                id
            }));
        }
        graph.add_node("layer", Op::Recurrent(op), inputs, outputs);
        (graph, given)
    }
}

fn run(backend: &dyn Backend, graph: &Arc<Graph>, inputs: &[Tensor]) -> Vec<Tensor> {
    let shapes: Vec<Vec<usize>> = inputs.iter().map(|t| t.shape().to_vec()).collect();
    let plan = Arc::new(Plan::new(graph, &shapes).unwrap());
    let mut program = backend.compile(&plan).unwrap();
    let mut outputs = vec![Tensor::scalar(0.0f32); graph.outputs.len()];
    // Twice: the second run must not see the first.
    for _ in 0..2 {
        program.run(Io { inputs, states: &mut [], outputs: &mut outputs }).unwrap();
    }
    outputs
}

fn instruction_sets() -> Vec<InstructionSet> {
    let has = |set: &InstructionSet| {
        CpuBackend::new(BackendOptions { instruction_set: Some(*set), ..Default::default() })
            .is_ok()
    };
    InstructionSet::ALL.iter().copied().filter(has).collect()
}

fn largest_difference(a: &[Tensor], b: &[Tensor]) -> f32 {
    let mut most = 0.0f32;
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.shape(), b.shape());
        for (x, y) in a.as_slice::<f32>().unwrap().iter().zip(b.as_slice::<f32>().unwrap()) {
            let difference = (x - y).abs() / y.abs().max(1.0);
            most = if difference.is_nan() { f32::INFINITY } else { most.max(difference) };
        }
    }
    most
}

fn check(case: &Case, tolerance: f32) {
    let (graph, inputs) = case.graph();
    let graph = Arc::new(graph);
    let expected = run(&Reference, &graph, &inputs);
    for name in instruction_sets() {
        let options = BackendOptions { instruction_set: Some(name), ..Default::default() };
        let found = run(&CpuBackend::new(options).unwrap(), &graph, &inputs);
        let difference = largest_difference(&found, &expected);
        assert!(difference <= tolerance, "{name}: {difference} over {tolerance} in {case:?}");
    }
}

fn activation() -> impl Strategy<Value = Activation> {
    prop_oneof![
        Just(Activation::Tanh),
        Just(Activation::Sigmoid),
        Just(Activation::Relu6),
        Just(Activation::Linear),
        Just(Activation::ReluN1To1),
        Just(Activation::HardSigmoid { alpha: 0.2, beta: 0.5 }),
        Just(Activation::Softsign),
        Just(Activation::Elu { alpha: 0.9 }),
    ]
}

fn cell() -> impl Strategy<Value = Cell> {
    let clip = prop::option::weighted(0.3, 0.2f32..1.5);
    let gate = || prop_oneof![3 => Just(Activation::Sigmoid), 1 => Just(Activation::HardSigmoid { alpha: 0.2, beta: 0.5 })];
    let bounded = || prop_oneof![3 => Just(Activation::Tanh), 1 => activation()];
    let lstm = (gate(), bounded(), bounded(), any::<bool>(), clip.clone(), clip).prop_map(
        |(gate, candidate, output, coupled_input_forget, cell_clip, projection_clip)| {
            Cell::Lstm(Lstm {
                gate,
                candidate,
                output,
                coupled_input_forget,
                cell_clip,
                projection_clip,
            })
        },
    );
    let plain = Just(plain_lstm());
    let gru = (gate(), bounded(), any::<bool>())
        .prop_map(|(gate, candidate, reset_after)| Cell::Gru(Gru { gate, candidate, reset_after }));
    let rnn = bounded().prop_map(|activation| Cell::Rnn(Rnn { activation }));
    prop_oneof![3 => lstm, 2 => plain, 2 => gru, 1 => rnn]
}

fn plain_lstm() -> Cell {
    Cell::Lstm(Lstm {
        gate: Activation::Sigmoid,
        candidate: Activation::Tanh,
        output: Activation::Tanh,
        coupled_input_forget: false,
        cell_clip: None,
        projection_clip: None,
    })
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (
        0usize..9,
        0usize..9,
        1usize..20,
        prop_oneof![1usize..20, Just(32), Just(48), 30usize..70],
    );
    let rare = || prop::bool::weighted(0.25);
    let parts = (
        rare(),
        rare(),
        rare(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    let auxiliary = prop_oneof![3 => Just(0usize), 1 => 1usize..9];
    let projection = prop::option::weighted(0.3, 1usize..24);
    let order = (
        prop_oneof![Just(Layout::TimeMajor), Just(Layout::BatchMajor)],
        prop_oneof![Just(Masking::Zero), Just(Masking::Hold)],
        prop_oneof![2 => Just(MaskKind::None), 1 => Just(MaskKind::Lengths), 1 => Just(MaskKind::Flags)],
    );
    (cell(), sizes, parts, auxiliary, any::<bool>(), projection, order, any::<bool>(), any::<u64>())
        .prop_map(
            |(
                cell,
                sizes,
                parts,
                auxiliary,
                cross,
                projection,
                (layout, masking, mask),
                bias,
                seed,
            )| {
                let (steps, batch, inputs, units) = sizes;
                let (peephole, layer_norm, diagonal, bidirectional, reverse, concat, initial, _) =
                    parts;
                Case {
                    cell,
                    steps,
                    batch,
                    inputs,
                    units,
                    auxiliary,
                    cross,
                    projection,
                    peephole,
                    layer_norm,
                    diagonal,
                    bidirectional,
                    reverse,
                    concat,
                    layout,
                    masking,
                    mask,
                    initial,
                    bias,
                    seed,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Few steps: the difference is that of f32 rounding. Layer norm of one or two units amplifies
    /// it without bound (the variance of one unit is 0), so those widths are left to the
    /// reference's own tests.
    #[test]
    fn random_layers(case in case()) {
        let narrow = case.layer_norm && case.cell.has_cell_state() && case.units < 4;
        prop_assume!(!narrow);
        check(&case, 1e-5);
    }
}

/// The same on the gpu, fewer of them: on the software driver a case costs a compilation of its
/// kernels.
#[cfg(feature = "gpu")]
#[test]
fn random_layers_on_the_gpu() {
    use proptest::test_runner::{TestCaseError, TestRunner};

    if common::gpu_or_skip().is_none() {
        return;
    }
    let gpu = fuselstm::internal::backend::gpu::Gpu::open(
        &fuselstm::types::AdapterSelector::Any,
        &BackendOptions::default(),
    )
    .unwrap();
    let config = ProptestConfig {
        cases: 48,
        failure_persistence: None,
        max_shrink_iters: 40,
        ..ProptestConfig::default()
    };
    let result = TestRunner::new(config).run(&case(), |case| {
        let narrow = case.layer_norm && case.cell.has_cell_state() && case.units < 4;
        prop_assume!(!narrow);
        let (graph, inputs) = case.graph();
        let graph = Arc::new(graph);
        let difference =
            largest_difference(&run(&gpu, &graph, &inputs), &run(&Reference, &graph, &inputs));
        if difference > 1e-5 {
            Err(TestCaseError::fail(format!("off by {difference}")))
        } else {
            Ok(())
        }
    });
    result.unwrap();
}

fn plain(cell: Cell, steps: usize, batch: usize, units: usize) -> Case {
    Case {
        cell,
        steps,
        batch,
        inputs: units,
        units,
        auxiliary: 0,
        cross: false,
        projection: None,
        peephole: false,
        layer_norm: false,
        diagonal: false,
        bidirectional: false,
        reverse: false,
        concat: false,
        layout: Layout::TimeMajor,
        masking: Masking::Zero,
        mask: MaskKind::None,
        initial: true,
        bias: true,
        seed: 7,
    }
}

#[test]
fn a_thousand_steps() {
    let gru = Cell::Gru(Gru {
        gate: Activation::Sigmoid,
        candidate: Activation::Tanh,
        reset_after: true,
    });
    let rnn = Cell::Rnn(Rnn { activation: Activation::Tanh });
    for cell in [plain_lstm(), gru, rnn] {
        for batch in [1, 3] {
            check(&plain(cell.clone(), 1000, batch, 40), 1e-5);
        }
    }
}

#[test]
fn wide_layers_and_many_rows() {
    check(&plain(plain_lstm(), 3, 1, 300), 1e-5);
    check(&plain(plain_lstm(), 2, 1000, 24), 1e-5);
    check(&Case { layout: Layout::BatchMajor, ..plain(plain_lstm(), 5, 130, 40) }, 1e-5);
}

#[test]
fn no_steps_and_no_rows() {
    for (steps, batch) in [(0, 3), (4, 0), (0, 0)] {
        for bidirectional in [false, true] {
            check(
                &Case { bidirectional, concat: true, ..plain(plain_lstm(), steps, batch, 20) },
                0.0,
            );
        }
    }
}

/// Sizes that are shared out: by rows, by direction, by units; every run of several must be right,
/// whether helpers come or not.
#[test]
fn several_threads() {
    let gru = Cell::Gru(Gru {
        gate: Activation::Sigmoid,
        candidate: Activation::Tanh,
        reset_after: true,
    });
    let cases = [
        plain(plain_lstm(), 30, 24, 64),
        plain(gru, 40, 24, 64),
        Case { bidirectional: true, concat: true, ..plain(plain_lstm(), 20, 9, 80) },
        Case {
            mask: MaskKind::Flags,
            layout: Layout::BatchMajor,
            ..plain(plain_lstm(), 30, 33, 64)
        },
        plain(plain_lstm(), 150, 1, 256),
        Case { reverse: true, ..plain(plain_lstm(), 140, 1, 272) },
    ];
    for case in cases {
        let (graph, inputs) = case.graph();
        let graph = Arc::new(graph);
        let expected = run(&Reference, &graph, &inputs);
        for threads in [2, 3] {
            let backend =
                CpuBackend::new(BackendOptions { threads: Some(threads), ..Default::default() })
                    .unwrap();
            let shapes: Vec<Vec<usize>> = inputs.iter().map(|t| t.shape().to_vec()).collect();
            let plan = Arc::new(Plan::new(&graph, &shapes).unwrap());
            let mut program = backend.compile(&plan).unwrap();
            assert!(!program.notes()[0].ends_with("one thread"), "{:?}", program.notes());
            for _ in 0..8 {
                let mut outputs = vec![Tensor::scalar(0.0f32); graph.outputs.len()];
                program
                    .run(Io { inputs: &inputs, states: &mut [], outputs: &mut outputs })
                    .unwrap();
                let difference = largest_difference(&outputs, &expected);
                assert!(difference <= 1e-5, "{threads} threads: {difference} in {case:?}");
            }
        }
    }
}

#[test]
fn no_threads_are_refused() {
    assert!(CpuBackend::new(BackendOptions { threads: Some(0), ..Default::default() }).is_err());
}

/// Reduced weights: the result stays within the error that the storage allows, and is not that of
/// full precision.
#[test]
fn reduced_precision() {
    let gru = Cell::Gru(Gru {
        gate: Activation::Sigmoid,
        candidate: Activation::Tanh,
        reset_after: true,
    });
    let cases = [
        plain(plain_lstm(), 50, 1, 64),
        plain(plain_lstm(), 20, 1, 200),
        plain(plain_lstm(), 20, 5, 40),
        plain(gru, 30, 2, 48),
        Case { projection: Some(20), peephole: true, ..plain(plain_lstm(), 30, 3, 40) },
    ];
    for case in cases {
        let (graph, inputs) = case.graph();
        let graph = Arc::new(graph);
        let expected = run(&Reference, &graph, &inputs);
        for name in instruction_sets() {
            for (precision, least, most) in [
                (Precision::F16, 1e-6, 1e-3),
                (Precision::Bf16, 1e-5, 8e-3),
                (Precision::Int8, 1e-4, 3e-2),
            ] {
                let options =
                    BackendOptions { instruction_set: Some(name), precision, ..Default::default() };
                let found = run(&CpuBackend::new(options).unwrap(), &graph, &inputs);
                let difference = largest_difference(&found, &expected);
                assert!(
                    (least..most).contains(&difference),
                    "{name} {precision:?}: {difference} in {case:?}"
                );
            }
        }
    }
}
