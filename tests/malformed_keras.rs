//! Keras files that are wrong: each defect gives an error that names it, never a panic and never
//! another file's bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Cursor, Write};

use fuselstm::internal::formats::{self, Format};
use fuselstm::{Error, ErrorKind};
use serde_json::{Value as Json, json};
use zip::write::{SimpleFileOptions, ZipWriter};

const WEIGHTS: &[u8] = include_bytes!("data/keras/dense.weights.h5");

fn dense_model() -> Json {
    json!({"class_name": "Sequential", "config": {"name": "m", "layers": [
        {"class_name": "InputLayer", "config": {"batch_shape": [null, 3], "dtype": "float32", "name": "x"}},
        {"class_name": "Dense", "config": {"name": "dense", "units": 2, "activation": "linear", "use_bias": true}},
    ]}})
}

/// A `.keras` archive of these entries.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn with_config(config: &[u8]) -> Vec<u8> {
    archive(&[
        ("metadata.json", br#"{"keras_version": "3.15.1"}"#),
        ("config.json", config),
        ("model.weights.h5", WEIGHTS),
    ])
}

fn error_of(bytes: &[u8]) -> Error {
    formats::read(bytes).expect_err("the file must be refused")
}

fn refused(bytes: &[u8], kind: ErrorKind, says: &str) {
    let error = error_of(bytes);
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(says), "{error} does not say {says:?}");
}

/// The dense model with one change.
fn changed(change: impl FnOnce(&mut Json)) -> Vec<u8> {
    let mut config = dense_model();
    change(&mut config);
    with_config(config.to_string().as_bytes())
}

#[test]
fn the_unchanged_files_are_read() {
    let loaded = formats::read(&changed(|_| {})).unwrap();
    assert_eq!(loaded.format, Format::Keras);
    assert_eq!(loaded.graph.nodes.len(), 1);
    let loaded = formats::read(include_bytes!("data/keras/dense.h5")).unwrap();
    assert_eq!(loaded.format, Format::KerasH5);
}

#[test]
fn external_links_are_not_followed() {
    refused(include_bytes!("data/keras/external_link.h5"), ErrorKind::Malformed, "kernel");
}

#[test]
fn external_storage_is_not_read() {
    refused(include_bytes!("data/keras/external_storage.h5"), ErrorKind::Malformed, "kernel");
}

#[test]
fn a_configuration_200_levels_deep_is_refused() {
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    refused(&with_config(deep.as_bytes()), ErrorKind::Malformed, "config.json");
}

#[test]
fn models_nested_without_end_are_refused() {
    let mut inner = json!({"class_name": "Dense", "config": {"name": "dense", "units": 2}});
    for level in 0..25 {
        inner = json!({"class_name": "Sequential", "config": {"name": format!("m{level}"), "layers": [inner]}});
    }
    let bytes = changed(|model| model["config"]["layers"][1] = inner);
    refused(&bytes, ErrorKind::Limit, "nested");
}

#[test]
fn an_unknown_layer_is_named() {
    let bytes = changed(|model| model["config"]["layers"][1]["class_name"] = json!("Frobnicate"));
    refused(&bytes, ErrorKind::Unsupported, "layer dense (Frobnicate)");
}

#[test]
fn a_lambda_layer_is_refused_by_name() {
    let bytes = changed(|model| model["config"]["layers"][1]["class_name"] = json!("Lambda"));
    refused(&bytes, ErrorKind::Unsupported, "Lambda");
}

#[test]
fn a_cudnn_layer_is_refused_by_name() {
    let bytes = changed(|model| {
        model["config"]["layers"][0]["config"]["batch_shape"] = json!([null, null, 3]);
        model["config"]["layers"][1]["class_name"] = json!("CuDNNLSTM");
    });
    refused(&bytes, ErrorKind::Unsupported, "CuDNNLSTM");
}

#[test]
fn units_that_disagree_with_the_weights_are_refused() {
    let bytes = changed(|model| model["config"]["layers"][1]["config"]["units"] = json!(5));
    refused(&bytes, ErrorKind::Malformed, "expected shape [3, 5], found [3, 2]");
}

#[test]
fn units_of_every_wrong_kind_are_refused() {
    for units in [json!(0), json!(-1), json!(1.5), json!("2"), json!(null), json!(u64::MAX)] {
        let bytes = changed(|model| model["config"]["layers"][1]["config"]["units"] = units);
        refused(&bytes, ErrorKind::Malformed, "units");
    }
}

#[test]
fn missing_weights_are_named() {
    let bytes = changed(|model| {
        let mut second = model["config"]["layers"][1].clone();
        second["config"]["name"] = json!("dense_1");
        model["config"]["layers"].as_array_mut().unwrap().push(second);
    });
    refused(&bytes, ErrorKind::Malformed, "layer dense_1 (Dense): kernel (layers/dense_1/vars/0)");
}

#[test]
fn an_activation_that_is_unknown_is_named() {
    let bytes =
        changed(|model| model["config"]["layers"][1]["config"]["activation"] = json!("frob"));
    refused(&bytes, ErrorKind::Unsupported, "\"frob\"");
}

#[test]
fn half_precision_is_computed_in_float32_and_said() {
    let bytes =
        changed(|model| model["config"]["layers"][1]["config"]["dtype"] = json!("mixed_float16"));
    let warnings = formats::read(&bytes).unwrap().warnings;
    assert!(warnings.iter().any(|text| text.contains("mixed_float16")), "{warnings:?}");
    let bytes = changed(|model| {
        model["config"]["layers"][1]["config"]["dtype"] = json!("int8_from_float32")
    });
    refused(&bytes, ErrorKind::Unsupported, "int8_from_float32");
}

#[test]
fn a_field_that_no_layer_reads_is_refused_by_name() {
    let bytes = changed(|model| model["config"]["layers"][1]["config"]["sharpness"] = json!(7));
    refused(&bytes, ErrorKind::Unsupported, "sharpness = 7");
}

/// x `[B, 3]` through one more layer, called with these arguments.
fn called(layer: Json, arguments: Json) -> Vec<u8> {
    let mut layer = layer;
    layer["name"] = json!("y");
    layer["inbound_nodes"] = json!([arguments]);
    let model = json!({"class_name": "Functional", "config": {"name": "m", "layers": [
        {"class_name": "InputLayer", "name": "x", "config": {"batch_shape": [null, 3], "name": "x"}, "inbound_nodes": []},
        layer,
    ], "input_layers": [["x", 0, 0]], "output_layers": [["y", 0, 0]]}});
    with_config(model.to_string().as_bytes())
}

fn x() -> Json {
    json!({"class_name": "__keras_tensor__", "config": {"keras_history": ["x", 0, 0]}})
}

#[test]
fn a_call_argument_that_no_layer_reads_is_refused_by_name() {
    let tanh = json!({"class_name": "Activation", "module": "keras.layers",
        "config": {"name": "y", "trainable": true, "activation": "tanh"}});
    formats::read(&called(tanh.clone(), json!({"args": [x()], "kwargs": {}}))).unwrap();
    for (kwargs, says) in [
        (json!({"gain": 2.0}), "gain = 2.0"),
        (json!({"gain": x()}), "gain = a tensor"),
        (json!({"gain": [x(), 1]}), "gain = [a tensor, 1]"),
    ] {
        let bytes = called(tanh.clone(), json!({"args": [x()], "kwargs": kwargs}));
        refused(&bytes, ErrorKind::Unsupported, says);
    }
    refused(
        &called(tanh, json!({"args": [x(), 5], "kwargs": {}})),
        ErrorKind::Unsupported,
        "argument 2 = 5",
    );
}

#[test]
fn an_operation_is_not_taken_for_the_layer_of_its_name() {
    let names = |module: &str, args: Json| {
        let layer = json!({"class_name": "Multiply", "module": module, "config": {"name": "y"}});
        let graph = formats::read(&called(layer, json!({"args": args, "kwargs": {}})))?.graph;
        Ok::<_, Error>(graph.nodes.iter().map(|node| node.op.name()).collect::<Vec<_>>())
    };
    assert_eq!(names("keras.src.ops.numpy", json!([x(), 0.5])).unwrap(), ["Mul"]);
    // The layer takes tensors only.
    let error = names("keras.layers", json!([[x(), 0.5]])).unwrap_err().to_string();
    assert!(error.contains("inputs = [a tensor, 0.5]"), "{error}");
}

#[test]
fn a_mask_ends_where_the_generation_of_keras_ends_it() {
    // [B, 4, 3] → Masking → Rescaling → the sum of two: Keras 3 carries the mask on, Keras 2 does
    // not, so that only there the average over time counts the masked steps.
    for (version, divisions) in [("3.15.1", 1), ("2.21.0", 0)] {
        let layer = |class: &str, config: Json| json!({"class_name": class, "config": config});
        let model = json!({"class_name": "Sequential", "config": {"name": "m", "layers": [
            layer("InputLayer", json!({"batch_shape": [null, 4, 3], "name": "x"})),
            layer("Masking", json!({"mask_value": 0.0, "trainable": true})),
            layer("Rescaling", json!({"scale": 2.0, "trainable": true})),
            layer("GlobalAveragePooling1D", json!({"trainable": true})),
        ]}});
        let metadata = json!({"keras_version": version}).to_string();
        let bytes = archive(&[
            ("metadata.json", metadata.as_bytes()),
            ("config.json", model.to_string().as_bytes()),
            ("model.weights.h5", WEIGHTS),
        ]);
        let graph = formats::read(&bytes).unwrap().graph;
        let found = graph.nodes.iter().filter(|node| node.op.name() == "Div").count();
        assert_eq!(found, divisions, "{version}");
    }
}

#[test]
fn a_class_of_the_users_own_is_refused_whatever_its_name() {
    for (module, registered) in [("my_layers", "LSTM"), ("keras.layers", "mine>LSTM")] {
        let layer = json!({"class_name": "Activation", "module": module,
            "registered_name": registered, "config": {"trainable": true, "activation": "tanh"}});
        let bytes = called(layer, json!({"args": [x()], "kwargs": {}}));
        refused(&bytes, ErrorKind::Unsupported, "a class of its own");
    }
}

#[test]
fn a_class_that_is_not_supported_is_named_before_its_inputs_are_counted() {
    let layer = json!({"class_name": "Wavelet", "module": "keras.layers",
        "config": {"name": "y", "trainable": true}});
    let bytes = called(layer, json!({"args": [[x(), x()]], "kwargs": {}}));
    refused(&bytes, ErrorKind::Unsupported, "the layer class Wavelet is not supported");
}

#[test]
fn the_options_of_an_activation_object_are_read_or_refused() {
    let relu = |config: Json| {
        let activation = json!({"class_name": "ReLU", "module": "keras.layers", "config": config});
        let layer = json!({"class_name": "Activation", "module": "keras.layers",
            "config": {"trainable": true, "activation": activation}});
        formats::read(&called(layer, json!({"args": [x()], "kwargs": {}})))
    };
    let graph = relu(json!({"max_value": 0.5})).unwrap().graph;
    assert!(graph.nodes.iter().any(|node| node.op.name() == "Minimum"));
    let error = relu(json!({"softness": 2})).unwrap_err().to_string();
    assert!(error.contains("softness = 2"), "{error}");
}

#[test]
fn a_zip_bomb_is_refused_before_it_is_unpacked() {
    let zeros = vec![0u8; 32 << 20];
    let bytes =
        archive(&[("config.json", &zeros), ("metadata.json", b"{}"), ("model.weights.h5", b"")]);
    refused(&bytes, ErrorKind::Limit, "config.json");
}

#[test]
fn duplicate_entries_are_refused() {
    let mut bytes =
        archive(&[("config.json", b"{}"), ("confiX.json", b"{}"), ("metadata.json", b"{}")]);
    for at in 0..bytes.len() - 6 {
        if &bytes[at..at + 6] == b"confiX" {
            bytes[at + 5] = b'g';
        }
    }
    refused(&bytes, ErrorKind::Malformed, "same name");
}

#[test]
fn entry_names_that_leave_the_archive_are_refused() {
    refused(&archive(&[("../config.json", b"{}")]), ErrorKind::Malformed, "leaves the archive");
}

#[test]
fn missing_entries_are_named() {
    refused(&archive(&[("config.json", b"{}")]), ErrorKind::Malformed, "metadata.json");
}

#[test]
fn inputs_that_nothing_computes_are_named() {
    let model = json!({"class_name": "Functional", "config": {"name": "m", "layers": [
        {"class_name": "InputLayer", "name": "x", "config": {"batch_shape": [null, 3], "name": "x"}, "inbound_nodes": []},
        {"class_name": "Activation", "name": "a", "config": {"name": "a", "activation": "tanh"}, "inbound_nodes": [[["b", 0, 0, {}]]]},
        {"class_name": "Activation", "name": "b", "config": {"name": "b", "activation": "tanh"}, "inbound_nodes": [[["a", 0, 0, {}]]]},
    ], "input_layers": [["x", 0, 0]], "output_layers": [["b", 0, 0]]}});
    refused(&with_config(model.to_string().as_bytes()), ErrorKind::Malformed, "never computed");
}

#[test]
fn every_prefix_and_every_changed_byte_of_a_file_is_survived() {
    let whole = include_bytes!("data/keras/dense.h5");
    for length in (0..whole.len()).step_by(7) {
        let _ = formats::read(&whole[..length]);
    }
    for at in 0..whole.len() {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 0x55;
        let _ = formats::read(&bytes);
    }
}
