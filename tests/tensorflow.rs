//! TensorFlow graphs and SavedModels of the corpus, run on the reference backend as they were read,
//! without any pass.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use fuselstm::internal::formats;
use fuselstm::measure::golden;
use fuselstm::{Device, Model, Session, Tensor};

mod common;

/// A (model, golden file) pair.
struct Pair {
    model: String,
    golden: String,
    atol: f32,
}

/// The pairs of a kind in the corpus.
fn pairs(kind: &str) -> Vec<Pair> {
    let of_kind = common::selected(|pair| pair.kind == kind).into_iter();
    let text = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    of_kind
        .map(|pair| Pair {
            model: text(pair.model),
            golden: text(pair.golden),
            atol: pair.atol as f32,
        })
        .collect()
}

fn show(error: fuselstm::Error) -> String {
    format!("{error:?}")
}

/// The largest difference over all runs and outputs, unfused, on the reference backend.
fn worst(pair: &Pair) -> Result<f32, String> {
    let loaded = formats::open(Path::new(&pair.model)).map_err(show)?;
    let model = Model::from_graph(loaded.graph).map_err(show)?;
    worst_of(&model, &pair.golden)
}

fn worst_of(model: &Model, golden: &str) -> Result<f32, String> {
    let session = Session::new(model, Device::reference()).map_err(show)?;
    let mut stream = session.stream();
    let mut worst = 0f32;
    for run in golden::load(golden).map_err(show)? {
        if !run.continues() {
            stream.reset();
        }
        let outputs = stream.run(&run.named_inputs()).map_err(show)?;
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
    let whole = common::is_whole_corpus() && std::env::var_os("CORPUS").is_none();
    assert!(!whole || pairs.len() >= count, "only {} pairs of kind {kind}", pairs.len());
    let mut failed = Vec::new();
    for pair in &pairs {
        match worst(pair) {
            Ok(worst) if worst <= pair.atol => println!("{}: {worst:.1e}", pair.model),
            Ok(worst) => {
                failed.push(format!("{}: {worst:.1e} is more than {:.1e}", pair.model, pair.atol))
            }
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

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tensorflow");

/// A graph of `tests/data/tensorflow`, made with TensorFlow by the script there.
fn check_own(file: &str) {
    let stem = file.split('.').next().unwrap();
    let pair =
        Pair { model: format!("{DATA}/{file}"), golden: format!("{DATA}/{stem}.npz"), atol: 1e-6 };
    let worst = worst(&pair).unwrap();
    assert!(worst <= pair.atol, "{file}: {worst:.1e}");
}

#[test]
fn stacked_gru_with_lengths_and_state_input_in_frames() {
    check_own("gru_stack_v1.pb");
}

#[test]
fn stacked_gru_with_lengths_and_state_input_in_functions() {
    check_own("gru_stack_v2.pb");
}

#[test]
fn bidirectional_lstm_with_lengths_peepholes_projection_and_clips() {
    check_own("bilen_v1.pb");
}

#[test]
fn unrolled_lstm_with_lengths_has_conditionals_at_every_step() {
    check_own("static_len_v1.pb");
    check_own("static_len_v2.pb");
}

#[test]
fn dropout_that_keeps_everything_is_no_randomness() {
    check_own("dropout_v1.pb");
}

#[test]
fn embedding_with_lengths_from_padding() {
    check_own("embed_v1.pb");
    check_own("embed_v2.pb");
}

#[test]
fn list_of_outputs_that_are_no_state() {
    check_own("outproj_v1.pb");
    check_own("outproj_v2.pb");
}

#[test]
fn loops_in_loops() {
    check_own("nested_v1.pbtxt");
    check_own("nested_v2.pb");
}

#[test]
fn conditional_in_text_form() {
    check_own("cond_v1.pbtxt");
}

#[test]
fn block_lstm_of_both_versions_with_peepholes_a_clip_and_fewer_steps() {
    check_own("block_lstm_v1.pb");
    check_own("block_lstm_v2.pb");
}

#[test]
fn block_cell_in_a_function_yields_the_output_that_is_named() {
    check_own("gru_block_cell_v2.pb");
}

#[test]
fn list_that_grows_in_a_counting_loop() {
    check_own("growing_v2.pb");
}

#[test]
fn variables_are_read_and_written_in_the_order_of_the_run_and_begin_as_stored() {
    check_own("states");
}

#[test]
fn stateful_layer_keeps_its_state_between_runs() {
    check_own("stateful");
}

#[test]
fn inputs_and_outputs_can_be_named() {
    let options =
        formats::Options::new().inputs(["x", "lengths", "state:0"]).outputs(["state_out:0"]);
    let loaded =
        formats::open_with(Path::new(&format!("{DATA}/gru_stack_v1.pb")), &options).unwrap();
    let names: Vec<&str> = loaded.graph.inputs.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["x", "lengths", "state"]);
    let names: Vec<&str> = loaded.graph.outputs.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["state_out"]);
    let options = options.outputs(["nothing"]);
    let error =
        formats::open_with(Path::new(&format!("{DATA}/gru_stack_v1.pb")), &options).unwrap_err();
    assert!(error.to_string().contains("nothing"), "{error}");
}

/// The graphs that TensorFlow's own stub pass made. In some of them the pass has lost clips,
/// activations or the layout (ophint-graphs, section 5); those that it left right must give the
/// stored outputs.
#[test]
fn stubbed_graphs_are_read_as_they_stand() {
    let lossy = ["clip", "relu", "static"];
    let pairs = pairs("graphdef");
    let mut checked = 0;
    for pair in pairs.iter().filter(|pair| !pair.model.contains("custom")) {
        let stub = pair.model.replace("graph.pb", "stub.pb");
        if !Path::new(&stub).exists() {
            continue;
        }
        let loaded = formats::open(Path::new(&stub));
        if stub.contains("fixedbatch") {
            // The pass has fed the batch where time is expected: the initial states do not fit.
            let error = loaded.unwrap_err();
            assert!(error.to_string().contains("batch"), "{error}");
            continue;
        }
        let loaded = loaded.unwrap_or_else(|error| panic!("{error:?}"));
        let is_layer =
            |node: &&fuselstm::graph::Node| matches!(node.op, fuselstm::graph::Op::Recurrent(_));
        assert!(
            loaded.graph.nodes.iter().any(|node| is_layer(&node)),
            "{stub} has no recurrent layer"
        );
        if lossy.iter().any(|name| stub.contains(name)) {
            continue;
        }
        let worst =
            worst(&Pair { model: stub.clone(), golden: pair.golden.clone(), atol: pair.atol });
        assert!(worst.as_ref().is_ok_and(|worst| *worst <= pair.atol), "{stub}: {worst:?}");
        checked += 1;
    }
    let whole = common::is_whole_corpus() && std::env::var_os("CORPUS").is_none();
    assert!(!whole || checked >= 12, "only {checked} stubbed graphs were run");
}

#[test]
fn hinted_calls_of_other_names_become_custom_ops_on_request() {
    let Some(path) = common::model("oph_custom_function/graph.pb") else { return };
    let options = formats::Options::new().custom_ops();
    let graph = formats::open_with(Path::new(&path), &options).unwrap().graph;
    let customs = graph.nodes.iter().filter_map(|node| match &node.op {
        fuselstm::graph::Op::Custom(custom) => {
            Some((custom.name.as_str(), node.inputs.len(), node.outputs.len()))
        }
        _ => None,
    });
    assert_eq!(customs.collect::<Vec<_>>(), [("cool_activation", 2, 1)]);
    // The ops between the marks are gone: Mul, ReverseV2 and Add around the call are left.
    let names: Vec<&str> = graph.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
}
