//! Loops and unrolled layers of the corpus become recurrent ops, and compute what they computed before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use fuselstm::graph::{Graph, Op};
use fuselstm::measure::compare::{Tolerance, compare};
use fuselstm::measure::golden;
use fuselstm::measure::inputs::{Sizes, seeded};
use fuselstm::{Device, Model, Session};

mod common;

use common::{Pair, is_whole_corpus, model, selected};

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
fn run(model: &Model, golden_file: &Path, atol: f64) -> Result<(), String> {
    let session =
        Session::new(model, Device::reference()).map_err(|error| format!("session: {error}"))?;
    let mut stream = session.stream();
    for run in golden::load(golden_file).map_err(|error| format!("golden file: {error}"))? {
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
fn check(pair: &Pair) -> Result<usize, String> {
    let model = Model::open(&pair.model).map_err(|error| format!("open: {error}"))?;
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
    run(&model, &pair.golden, pair.atol)
        .map_err(|error| format!("fused: {error} [{declined:?}]"))?;
    if std::env::var("UNFUSED").is_ok() {
        let unfused = Model::from_graph((**model.source_graph()).clone())
            .map_err(|error| format!("unfused: {error}"))?;
        run(&unfused, &pair.golden, pair.atol).map_err(|error| format!("unfused: {error}"))?;
    }
    if loops > 0 || recurrent == 0 {
        return Err(format!("{recurrent} recurrent ops, {loops} loops: {declined:?}"));
    }
    Ok(recurrent)
}

/// Checks the pairs that `wanted` takes and lists all that fail.
fn all_fuse(what: &str, wanted: impl Fn(&Pair) -> bool) {
    let mut failed = Vec::new();
    for pair in selected(wanted) {
        let model = pair.model.display();
        match check(&pair) {
            Ok(count) => eprintln!("{model}: {count} recurrent"),
            Err(error) => failed.push(format!("{model}: {error}")),
        }
    }
    assert!(failed.is_empty(), "{what}: {} fail\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn loops_of_tflite_files() {
    all_fuse("loops", |pair| pair.control_flow == "while");
}

#[test]
fn graphs_of_tensorflow() {
    // Custom hints become custom ops: there is no recurrent layer in them.
    all_fuse("graphdef", |pair| pair.kind == "graphdef" && pair.case != "oph_custom_function");
}

#[test]
fn saved_models() {
    all_fuse("saved_model", |pair| pair.kind == "saved_model");
}

/// Loops in forms that are not in the corpus, each one recurrent op and as exact as its arithmetic.
#[test]
fn joined_states_scans_single_steps_and_loops_in_float16() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fusion");
    for (name, model, atol) in [
        ("concat_state", "concat_state.pb", 1e-5),
        ("scan_lstm", "scan_lstm.pb", 1e-5),
        ("float16_scan", "float16_scan.pb", 2e-3),
        #[cfg(feature = "onnx")]
        ("script_lstm", "script_lstm.onnx", 3e-5),
    ] {
        let pair = Pair {
            case: name.to_owned(),
            kind: "graphdef".to_owned(),
            control_flow: String::new(),
            model: folder.join(model),
            golden: folder.join(format!("{name}.npz")),
            arithmetic: "float".to_owned(),
            atol,
        };
        assert_eq!(check(&pair), Ok(1), "{name}");
    }
}

/// What today's converter makes of plain TensorFlow graphs: loops, and unrolled layers whose first step is
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
    let mut failed = Vec::new();
    for (case, layers) in cases {
        let Some(file) = model(&format!("{case}/converted_b3.tflite")) else { continue };
        let model = Model::open(file).unwrap();
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
    if is_whole_corpus() {
        all_fuse("unrolled", |pair| pair.case == "k3_lstm_unroll" && pair.kind == "tflite");
    }
}
