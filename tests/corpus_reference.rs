//! Every model of the corpus on the `reference` device, against its golden file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use fuselstm::measure::compare::{Tolerance, compare};
use fuselstm::measure::golden;
use fuselstm::{Device, Model, Session};

fn models() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "shared", "models"].iter().collect()
}

/// Runs one pair of the index; `Err` says what went wrong.
fn check(model: &str, golden_file: &str, atol: f64) -> Result<(), String> {
    let model = Model::open(models().join(model)).map_err(|error| format!("open: {error}"))?;
    let session = Session::new(&model, Device::reference()).map_err(|error| format!("session: {error}"))?;
    let runs = golden::load(models().join(golden_file)).map_err(|error| format!("golden file: {error}"))?;
    let mut stream = session.stream();
    for run in runs {
        if !run.continues() {
            stream.reset();
        }
        let outputs = stream.run(&run.named_inputs()).map_err(|error| format!("run {}: {error}", run.tag))?;
        for (name, expected) in &run.outputs {
            let actual = outputs.get(name).map_err(|error| format!("run {}: {error}", run.tag))?;
            let tolerance = Tolerance { atol, rtol: 0.0 };
            let result = compare(expected, actual, tolerance, &[]).map_err(|error| error.to_string())?;
            if !result.holds() {
                return Err(format!(
                    "run {} output {name}: max |difference| {:.3e} over {atol:.0e}, {} of {} outside, {:?} {:?}",
                    run.tag, result.max_abs, result.outside, result.elements, result.mismatch, result.worst
                ));
            }
        }
    }
    Ok(())
}

/// The rows of one kind of file; `CORPUS=part` in the environment narrows them to cases whose name contains it.
fn corpus(kind: &str) {
    let index = models().join("index.json");
    let Ok(text) = std::fs::read_to_string(&index) else {
        eprintln!("SKIPPED: the corpus is not there: {}", index.display());
        return;
    };
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    let only = std::env::var("CORPUS").unwrap_or_default();
    let (mut held, mut failed) = (0, Vec::new());
    for row in rows.as_array().unwrap() {
        let field = |name: &str| row[name].as_str().unwrap();
        if field("kind") != kind || !field("case").contains(&only) {
            continue;
        }
        match check(field("model"), field("golden"), row["atol"].as_f64().unwrap()) {
            Ok(()) => held += 1,
            Err(error) => failed.push(format!("{}: {error}", field("model"))),
        }
    }
    eprintln!("{kind}: {held} hold, {} fail", failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn tflite() {
    corpus("tflite");
}
