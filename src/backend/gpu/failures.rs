//! Failures of the device end in errors that say what happened: never in a panic, a wait without
//! end, or numbers that are wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use super::testing::{open, run};
use crate::ErrorKind;
use crate::backend::{Backend, BackendOptions, Io};
use crate::graph::synthetic::{CellKind, Random, Shape};
use crate::plan::Plan;
use crate::tensor::Tensor;

/// A layer for four steps, and its input.
fn layer(hidden: usize) -> (Arc<Plan>, [Tensor; 1]) {
    let shape = Shape { cell: CellKind::Lstm, input: 8, hidden, layers: 1, bidirectional: false };
    let plan = Plan::new(&Arc::new(shape.graph(1).unwrap()), &[vec![4, 2, 8]]).unwrap();
    (Arc::new(plan), [Random::new(2).tensor(&[4, 2, 8], 1.0).unwrap()])
}

#[test]
fn a_device_that_is_lost() {
    let Some(gpu) = open(&BackendOptions::default()) else { return };
    let (plan, inputs) = layer(16);
    let mut program = gpu.compile(&plan).unwrap();
    run(program.as_mut(), &plan, &inputs);
    gpu.lose();
    for _ in 0..2 {
        let mut outputs = vec![Tensor::scalar(0f32); plan.graph.outputs.len()];
        let error = program
            .run(Io { inputs: &inputs, states: &mut [], outputs: &mut outputs })
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device, "{error}");
    }
    let error = gpu.compile(&layer(24).0).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Device, "{error}");
}

#[test]
fn a_binding_that_is_too_large() {
    let Some(gpu) = open(&BackendOptions::default()) else { return };
    let gpu = gpu.with_largest_binding(4096);
    let error = gpu.compile(&layer(600).0).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    assert!(error.to_string().contains("4096"), "{error}");
    // What fits still runs.
    let (plan, inputs) = layer(8);
    run(gpu.compile(&plan).unwrap().as_mut(), &plan, &inputs);
}
