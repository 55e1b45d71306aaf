//! Loops and chains of the corpus become recurrent ops, and compute what they computed before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use fuselstm::graph::{Graph, Op};
use fuselstm::measure::compare::{Tolerance, compare};
use fuselstm::measure::golden;
use fuselstm::{Device, Model, Session};

fn models() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "shared", "models"].iter().collect()
}

/// Recurrent ops and loops, at any depth.
fn count(graph: &Graph) -> (usize, usize) {
    graph.nodes.iter().fold((0, 0), |(recurrent, loops), node| match &node.op {
        Op::Recurrent(_) => (recurrent + 1, loops),
        Op::While(inner) => {
            let (a, b) = (count(&inner.condition), count(&inner.body));
            (recurrent + a.0 + b.0, loops + 1 + a.1 + b.1)
        }
        _ => (recurrent, loops),
    })
}

/// The outputs of every run of a golden file, compared with it.
fn run(model: &Model, golden_file: &str, atol: f64) -> Result<(), String> {
    let session = Session::new(model, Device::reference()).map_err(|error| format!("session: {error}"))?;
    let mut stream = session.stream();
    for run in golden::load(models().join(golden_file)).map_err(|error| format!("golden file: {error}"))? {
        if !run.continues() {
            stream.reset();
        }
        let outputs = stream.run(&run.named_inputs()).map_err(|error| format!("run {}: {error}", run.tag))?;
        for (name, expected) in &run.outputs {
            let actual = outputs.get(name).map_err(|error| format!("run {}: {error}", run.tag))?;
            let result = compare(expected, actual, Tolerance { atol, rtol: 0.0 }, &[]).map_err(|e| e.to_string())?;
            if !result.holds() {
                return Err(format!("run {} output {name}: max |difference| {:.3e}", run.tag, result.max_abs));
            }
        }
    }
    Ok(())
}

/// Opens one pair, checks both forms of the graph against the golden file and that nothing is left to fuse.
fn check(row: &serde_json::Value) -> Result<usize, String> {
    let field = |name: &str| row[name].as_str().unwrap();
    let model = Model::open(models().join(field("model"))).map_err(|error| format!("open: {error}"))?;
    let (recurrent, loops) = count(model.graph());
    let declined: Vec<String> = model
        .reports()
        .iter()
        .flat_map(|report| &report.declined)
        .map(|declined| format!("{}: {}", declined.what, declined.reason))
        .collect();
    let atol = row["atol"].as_f64().unwrap();
    run(&model, field("golden"), atol).map_err(|error| format!("fused: {error} [{declined:?}]"))?;
    if std::env::var("UNFUSED").is_ok() {
        let unfused =
            Model::from_graph((**model.source_graph()).clone()).map_err(|error| format!("unfused: {error}"))?;
        run(&unfused, field("golden"), atol).map_err(|error| format!("unfused: {error}"))?;
    }
    if loops > 0 || recurrent == 0 {
        return Err(format!("{recurrent} recurrent ops, {loops} loops: {declined:?}"));
    }
    Ok(recurrent)
}

/// The pairs that a test takes; `CORPUS=part` in the environment narrows them to cases whose name contains it.
fn corpus(what: &str, takes: impl Fn(&serde_json::Value) -> bool) {
    let index = models().join("index.json");
    let Ok(text) = std::fs::read_to_string(&index) else {
        eprintln!("SKIPPED: the corpus is not there: {}", index.display());
        return;
    };
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    let only = std::env::var("CORPUS").unwrap_or_default();
    let mut failed = Vec::new();
    for row in rows.as_array().unwrap().iter().filter(|row| takes(row)) {
        let model = row["model"].as_str().unwrap();
        if !model.contains(&only) {
            continue;
        }
        match check(row) {
            Ok(count) => eprintln!("{model}: {count} recurrent"),
            Err(error) => failed.push(format!("{model}: {error}")),
        }
    }
    assert!(failed.is_empty(), "{what}: {} fail\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn loops_of_tflite_files() {
    corpus("loops", |row| row["control_flow"] == "while");
}

#[test]
fn unrolled_tflite_files() {
    corpus("unrolled", |row| row["case"] == "k3_lstm_unroll" && row["kind"] == "tflite");
}
