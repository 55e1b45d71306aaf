//! TensorFlow graphs and SavedModels of the corpus, run on the reference backend as they were read, without any pass.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use fuselstm::formats;
use fuselstm::measure::golden;
use fuselstm::{Device, Model, Session, Tensor};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/models");

/// A (model, golden file) pair of the corpus.
struct Pair {
    model: String,
    golden: String,
    atol: f32,
}

fn pairs(kind: &str) -> Vec<Pair> {
    let index = Path::new(CORPUS).join("index.json");
    let Ok(text) = std::fs::read_to_string(&index) else {
        eprintln!("SKIPPED: no corpus at {}", index.display());
        return Vec::new();
    };
    let index: serde_json::Value = serde_json::from_str(&text).unwrap();
    let text = |pair: &serde_json::Value, key: &str| format!("{CORPUS}/{}", pair[key].as_str().unwrap());
    let of_kind = index.as_array().unwrap().iter().filter(|pair| pair["kind"] == kind);
    let pairs = of_kind.map(|pair| Pair {
        model: text(pair, "model"),
        golden: text(pair, "golden"),
        atol: pair["atol"].as_f64().unwrap() as f32,
    });
    pairs.collect()
}

/// The largest difference over all runs and outputs, unfused, on the reference backend.
fn worst(pair: &Pair) -> Result<f32, String> {
    let show = |error: fuselstm::Error| format!("{error:?}");
    let loaded = formats::open(Path::new(&pair.model)).map_err(show)?;
    let model = Model::from_graph(loaded.graph).map_err(show)?;
    let session = Session::new(&model, Device::reference()).map_err(show)?;
    let mut worst = 0f32;
    for run in golden::load(&pair.golden).map_err(show)? {
        let outputs = session.run(&run.named_inputs()).map_err(show)?;
        for (name, expected) in &run.outputs {
            let got = outputs.get(name).map_err(show)?;
            worst = worst.max(distance(name, got, expected)?);
        }
    }
    Ok(worst)
}

fn distance(name: &str, got: &Tensor, expected: &Tensor) -> Result<f32, String> {
    if got.shape() != expected.shape() {
        return Err(format!("{name}: {:?} instead of {:?}", got.shape(), expected.shape()));
    }
    let pairs = got.to_f32().into_owned().into_iter().zip(expected.to_f32().into_owned());
    Ok(pairs
        .map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() })
        .fold(0.0, |a: f32, b| if b.is_nan() { b } else { a.max(b) }))
}

/// Runs every pair of a kind and lists all that fail.
fn check(kind: &str, count: usize) {
    let pairs = pairs(kind);
    assert!(pairs.is_empty() || pairs.len() >= count, "only {} pairs of kind {kind}", pairs.len());
    let only = std::env::var("CASE").unwrap_or_default();
    let mut failed = Vec::new();
    for pair in pairs.iter().filter(|pair| pair.model.contains(&only)) {
        match worst(pair) {
            Ok(worst) if worst <= pair.atol => println!("{}: {worst:.1e}", pair.model),
            Ok(worst) => failed.push(format!("{}: {worst:.1e} is more than {:.1e}", pair.model, pair.atol)),
            Err(error) => failed.push(format!("{}: {error}", pair.model)),
        }
    }
    assert!(failed.is_empty(), "{} of {} fail:\n{}", failed.len(), pairs.len(), failed.join("\n"));
}

#[test]
fn graphs_compute_what_tensorflow_computes() {
    check("graphdef", 40);
}

#[test]
fn saved_models_compute_what_tensorflow_computes() {
    check("saved_model", 12);
}
