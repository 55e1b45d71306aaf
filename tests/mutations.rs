//! Files with flipped bytes, read, planned and run once on the `reference` device: a value or an
//! error, never a panic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::panic::catch_unwind;

use fuselstm::graph::Graph;
use fuselstm::graph::synthetic::Random;
use fuselstm::{Device, Model, Session, Tensor};

/// Flips a file suffers, one after another on the same copy of the file.
const FLIPS: usize = 3;
/// Damaged copies of each file: about a second for all of them.
const COPIES: usize = 2_000;

/// Reads the bytes and runs the model on zeros when it is small and has no loop, whose end a
/// flipped byte may put off for hours.
fn read_and_run(bytes: &[u8]) -> Result<(), fuselstm::Error> {
    let model = Model::from_bytes(bytes)?;
    let graph: &Graph = model.graph();
    let shapes: Vec<Vec<usize>> = graph
        .inputs
        .iter()
        .map(|port| {
            let ty = &graph.get(port.value).unwrap().ty;
            ty.shape.iter().flatten().map(|dim| dim.known().unwrap_or(2)).collect()
        })
        .collect();
    let plan = fuselstm::internal::plan::Plan::new(model.graph(), &shapes)?;
    let has_loop = graph.nodes.iter().any(|node| node.op.name() == "While");
    if has_loop || plan.peak_bytes > 1 << 20 {
        return Ok(());
    }
    let session = Session::new(&model, Device::reference())?;
    let inputs: Vec<(String, Tensor)> = graph
        .inputs
        .iter()
        .zip(&shapes)
        .enumerate()
        .map(|(index, (port, shape))| {
            let dtype = graph.get(port.value).unwrap().ty.dtype;
            Ok((index.to_string(), Tensor::zeros(dtype, shape)?))
        })
        .collect::<Result<_, fuselstm::Error>>()?;
    let named: Vec<(&str, &Tensor)> =
        inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    session.run(&named)?;
    Ok(())
}

#[test]
fn damaged_files_give_a_value_or_an_error() {
    let models = common::models();
    let cases = [
        "lstm_full_all",
        "lstm_full_int8",
        "bsl_cifg",
        "bsl_hybrid",
        "bsr_merged",
        "svdf_int8",
        "lstm_basic_uint8",
    ];
    let (mut ran, mut refused) = (0, 0);
    let mut panicked = Vec::new();
    for case in cases {
        let bytes = std::fs::read(models.join(case).join("model.tflite")).unwrap();
        let mut noise = Random::new(7);
        // In [0, below).
        let mut pick = |below: usize| {
            ((f64::from(noise.next_f32()) + 1.0) / 2.0 * below as f64) as usize % below
        };
        for copy in 0..COPIES {
            let mut damaged = bytes.clone();
            for _ in 0..FLIPS {
                let at = pick(damaged.len());
                damaged[at] = pick(256) as u8;
            }
            match catch_unwind(|| read_and_run(&damaged)) {
                Ok(Ok(())) => ran += 1,
                Ok(Err(_)) => refused += 1,
                Err(_) => panicked.push(format!("{case}, copy {copy}")),
            }
        }
    }
    eprintln!("{ran} ran, {refused} refused");
    assert!(panicked.is_empty(), "{}", panicked.join("\n"));
    assert!(
        ran > 0 && refused > 0,
        "the damage must reach further than the reader, and not spare every file"
    );
}
