//! ONNX models: small ones against their golden files, and files that are wrong, each of which
//! gives an error that names what is wrong with it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use fuselstm::internal::formats::{self, Format};
use fuselstm::measure::crosscheck::{Rule, check};
use fuselstm::measure::{Tolerance, golden};
use fuselstm::{Device, Error, ErrorKind, Model, Session};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/onnx").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(data(name)).unwrap()
}

fn error_of(bytes: &[u8]) -> Error {
    formats::read(bytes).expect_err("the file must be refused")
}

/// Golden values are f32; those of the half-precision model are rounded to f16 at the end.
const ATOL: f64 = 2e-5;
const HALF: f64 = 2e-3;

#[test]
fn small_models_give_their_golden_values() {
    let mut failures = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(data("pairs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "onnx") {
            continue;
        }
        count += 1;
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let atol = if name.ends_with("f16") { HALF } else { ATOL };
        let rule = Rule { tolerance: Tolerance { atol, rtol: 0.0 }, judged: true };
        let runs = golden::load(path.with_extension("npz")).unwrap();
        for device in [Device::reference(), Device::cpu()] {
            let checked = Model::open(&path)
                .and_then(|model| Session::new(&model, device.clone()))
                .map(|session| check(&session, "", &runs, rule));
            match checked {
                Ok(checks) => failures.extend(
                    checks
                        .iter()
                        .filter(|check| !check.holds())
                        .map(|check| format!("{name} on {device}: {:?}", check.result)),
                ),
                Err(error) => failures.push(format!("{name} on {device}: {error}")),
            }
        }
    }
    assert!(count >= 10, "the pairs are there");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn models_are_recognized_by_their_content() {
    assert_eq!(formats::read(&bytes("pairs/lstm_dyn_t.onnx")).unwrap().format, Format::Onnx);
}

#[test]
fn each_defect_is_named() {
    let cases: &[(&str, &[&str])] = &[
        ("external_data", &["W", "external", "onnx.save"]),
        ("w_rows", &["W", "24", "23"]),
        ("b_len", &["B: expected"]),
        ("dirs", &["W"]),
        ("hidden_size", &["hidden_size", "7", "6"]),
        ("direction", &["direction", "backward"]),
        ("act_count", &["activations", "3", "2"]),
        ("clip_negative", &["clip"]),
        ("lens_over", &["sequence_lens"]),
        ("unknown_op", &["com.example", "Mystery"]),
        ("undefined_value", &["nowhere"]),
        ("cycle", &["'a'", "'b'"]),
        ("opset_99", &["99", "28"]),
        ("dims_huge", &["'W'"]),
        ("constant_2_40", &["'y'"]),
        ("function_recursive", &["F", "calls itself"]),
        ("if_no_else", &["else_branch"]),
        ("loop_outputs", &["body"]),
        ("sequence_input", &["'s'", "sequence"]),
        ("truncated_50", &[]),
        ("no_graph", &["graph"]),
        ("torch_dynamo_proj", &["initial_c", "9", "4"]),
    ];
    let mut failures = Vec::new();
    for (name, words) in cases {
        let error = error_of(&bytes(&format!("refuse/{name}.onnx")));
        let text = error.to_string();
        let missing: Vec<_> = words.iter().filter(|word| !text.contains(**word)).collect();
        if !missing.is_empty() || error.kind() == ErrorKind::Internal {
            failures.push(format!("{name}: {text} lacks {missing:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn no_prefix_of_a_file_panics() {
    for name in ["pairs/lstm_dyn_t.onnx", "pairs/function.onnx", "pairs/if_shape.onnx"] {
        let whole = bytes(name);
        for length in 0..whole.len() {
            let _ = formats::read(&whole[..length]);
        }
    }
}

#[test]
fn no_changed_byte_panics() {
    for name in ["pairs/lstm_dyn_t.onnx", "pairs/function.onnx", "pairs/plain_op13.onnx"] {
        let whole = bytes(name);
        for position in 0..whole.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[position] ^= change;
                if let Err(error) = formats::read(&bytes) {
                    assert_ne!(error.kind(), ErrorKind::Internal, "{name} at {position}: {error}");
                }
            }
        }
    }
}
