//! What the unit tests of the kernels share: an adapter, and plans made by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Arc, OnceLock};

use super::Gpu;
use crate::backend::{Backend, BackendOptions, Io, Program};
use crate::graph::{Graph, NodeId, ValueId};
use crate::plan::{Plan, PlannedValue};
use crate::tensor::Tensor;

/// The adapter of this machine, checked shaders; `None`, said loudly, when there is none.
/// `FUSELSTM_REQUIRE_GPU=1` makes that a failure.
pub(super) fn gpu() -> Option<&'static Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    GPU.get_or_init(|| open(&BackendOptions { checked_shaders: true, ..BackendOptions::default() }))
        .as_ref()
}

/// An adapter of its own.
pub(crate) fn open(options: &BackendOptions) -> Option<Gpu> {
    // The tests leave the files of the user alone.
    match Gpu::open(
        &crate::backend::AdapterSelector::Any,
        &BackendOptions { uncached: true, ..options.clone() },
    ) {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            eprintln!("SKIPPED, there is no GPU to test on: {error}");
            assert!(
                std::env::var_os("FUSELSTM_REQUIRE_GPU").is_none_or(|v| v != "1"),
                "a GPU is required: {error}"
            );
            None
        }
    }
}

/// A plan of a graph whose shapes are all fixed: every node runs, constants are known.
pub(super) fn plan(graph: Graph) -> Arc<Plan> {
    let mut values: Vec<_> = graph
        .values
        .iter()
        .map(|v| PlannedValue {
            shape: v.ty.known_shape(),
            known: v.constant.clone(),
            ..PlannedValue::default()
        })
        .collect();
    for (position, node) in graph.nodes.iter().enumerate() {
        for id in node.inputs.iter().flatten() {
            values[id.index()].last_use = Some(position);
        }
    }
    let kept: Vec<ValueId> =
        graph.outputs.iter().map(|p| p.value).chain(graph.states.iter().map(|s| s.next)).collect();
    for id in kept {
        values[id.index()].kept = true;
    }
    let state_shapes =
        graph.states.iter().map(|s| values[s.next.index()].shape.clone().unwrap()).collect();
    let steps = (0..graph.nodes.len() as u32).map(NodeId).collect();
    Arc::new(Plan { graph: Arc::new(graph), values, steps, state_shapes, peak_bytes: 0 })
}

/// Runs a program on a stateless graph.
pub(super) fn run(program: &mut dyn Program, plan: &Plan, inputs: &[Tensor]) -> Vec<Tensor> {
    let mut outputs = vec![Tensor::scalar(0.0f32); plan.graph.outputs.len()];
    program.run(Io { inputs, states: &mut [], outputs: &mut outputs }).unwrap();
    outputs
}

/// Compiles and runs a stateless graph.
pub(super) fn run_once(gpu: &Gpu, graph: Graph, inputs: &[Tensor]) -> Vec<Tensor> {
    let plan = plan(graph);
    let mut program = gpu.compile(&plan).unwrap();
    run(program.as_mut(), &plan, inputs)
}

/// Numbers in [-1, 1] from a seed.
pub(super) fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}

/// The largest difference; NaN in one of two alone counts as infinite.
pub(super) fn max_abs(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let difference =
        |(x, y): (&f32, &f32)| if x.is_nan() != y.is_nan() { f32::INFINITY } else { (x - y).abs() };
    a.iter().zip(b).map(difference).fold(0.0, f32::max)
}
