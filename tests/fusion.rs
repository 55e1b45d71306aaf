//! Loops and chains of the corpus become recurrent ops, and compute what they computed before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use fuselstm::graph::{Graph, Op};
use fuselstm::measure::compare::{Tolerance, compare};
use fuselstm::measure::golden;
use fuselstm::measure::inputs::{Sizes, seeded};
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
    let session =
        Session::new(model, Device::reference()).map_err(|error| format!("session: {error}"))?;
    let mut stream = session.stream();
    for run in
        golden::load(models().join(golden_file)).map_err(|error| format!("golden file: {error}"))?
    {
        if !run.continues() {
            stream.reset();
        }
        let outputs =
            stream.run(&run.named_inputs()).map_err(|error| format!("run {}: {error}", run.tag))?;
        for (name, expected) in &run.outputs {
            let actual = outputs.get(name).map_err(|error| format!("run {}: {error}", run.tag))?;
            let result = compare(expected, actual, Tolerance { atol, rtol: 0.0 }, &[])
                .map_err(|e| e.to_string())?;
            if !result.holds() {
                return Err(format!(
                    "run {} output {name}: max |difference| {:.3e}",
                    run.tag, result.max_abs
                ));
            }
        }
    }
    Ok(())
}

/// Opens one pair, checks both forms of the graph against the golden file and that nothing is left
/// to fuse.
fn check(row: &serde_json::Value) -> Result<usize, String> {
    let field = |name: &str| row[name].as_str().unwrap();
    let model =
        Model::open(models().join(field("model"))).map_err(|error| format!("open: {error}"))?;
    let (recurrent, loops) = count(model.graph());
    let declined: Vec<String> = model
        .reports()
        .iter()
        .flat_map(|report| &report.declined)
        .map(|declined| format!("{}: {}", declined.what, declined.reason))
        .collect();
    if std::env::var("PRINT").is_ok() {
        eprintln!("{}", model.graph());
    }
    let atol = row["atol"].as_f64().unwrap();
    run(&model, field("golden"), atol).map_err(|error| format!("fused: {error} [{declined:?}]"))?;
    if std::env::var("UNFUSED").is_ok() {
        let unfused = Model::from_graph((**model.source_graph()).clone())
            .map_err(|error| format!("unfused: {error}"))?;
        run(&unfused, field("golden"), atol).map_err(|error| format!("unfused: {error}"))?;
    }
    if loops > 0 || recurrent == 0 {
        return Err(format!("{recurrent} recurrent ops, {loops} loops: {declined:?}"));
    }
    Ok(recurrent)
}

/// The pairs that a test takes; `CORPUS=part` in the environment narrows them to cases whose name
/// contains it.
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
fn graphs_of_tensorflow() {
    // Custom hints become custom ops: there is no recurrent layer in them.
    corpus("graphdef", |row| row["kind"] == "graphdef" && row["case"] != "oph_custom_function");
}

#[test]
fn saved_models() {
    corpus("saved_model", |row| row["kind"] == "saved_model");
}

/// What today's converter makes of plain TensorFlow graphs: loops, and chains whose first step is
/// simplified. There are no golden files for these; the judge is the graph as it was.
#[test]
fn converted_files() {
    let cases = [
        ("plain_basiclstm_static", 1),
        ("plain_basicrnn_static", 1),
        ("plain_bilstm_dyn_fixedbatch", 2),
        ("plain_gru_static", 1),
        ("plain_lstmcell_dyn_fixedbatch", 2),
        ("plain_lstmcell_peep_proj", 1),
        ("plain_multirnn_static", 2),
    ];
    if !models().exists() {
        eprintln!("SKIPPED: the corpus is not there: {}", models().display());
        return;
    }
    let mut failed = Vec::new();
    for (case, layers) in cases {
        let model = Model::open(models().join(case).join("converted_b3.tflite")).unwrap();
        let reasons: Vec<_> = model.reports().iter().flat_map(|report| &report.declined).collect();
        if count(model.graph()).1 != 0 || count(model.graph()).0 == 0 {
            failed.push(format!(
                "{case}: {:?}, expected {layers} layers: {reasons:?}",
                count(model.graph())
            ));
        }
        if let Err(error) = same_function(&model) {
            failed.push(format!("{case}: {error}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The graph before and after the passes on the same seeded inputs, twice.
fn same_function(model: &Model) -> Result<(), String> {
    let unfused =
        Model::from_graph((**model.source_graph()).clone()).map_err(|error| error.to_string())?;
    let sessions = [model, &unfused].map(|model| Session::new(model, Device::reference()).unwrap());
    let mut streams = sessions.each_ref().map(Session::stream);
    for seed in 0..2 {
        let inputs = seeded(model, Sizes::default(), seed).map_err(|error| error.to_string())?;
        let inputs: Vec<_> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let [fused, plain] = streams.each_mut().map(|stream| stream.run(&inputs).unwrap());
        for output in model.outputs() {
            let (a, b) = (plain.get(&output.name).unwrap(), fused.get(&output.name).unwrap());
            let result = compare(a, b, Tolerance { atol: 2e-6, rtol: 0.0 }, &[])
                .map_err(|error| error.to_string())?;
            if !result.holds() {
                return Err(format!(
                    "output {}: max |difference| {:.3e}",
                    output.name, result.max_abs
                ));
            }
        }
    }
    Ok(())
}

#[test]
fn unrolled_tflite_files() {
    corpus("unrolled", |row| row["case"] == "k3_lstm_unroll" && row["kind"] == "tflite");
}
