//! What the tests share: the corpus, the digits, and whether there is a GPU.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use fuselstm::Device;

/// A model of the corpus and its golden file.
pub struct Pair {
    pub case: String,
    pub model: PathBuf,
    pub golden: PathBuf,
    pub arithmetic: String,
    pub atol: f64,
}

/// The folder with the corpus; `None`, said loudly, when this checkout has none.
pub fn models() -> Option<PathBuf> {
    let models: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "shared", "models"].iter().collect();
    if models.join("index.json").is_file() {
        return Some(models);
    }
    eprintln!("NOT TESTED: the corpus is not at {}", models.display());
    None
}

/// Every TFLite pair whose recurrence is not a WHILE loop. `CORPUS=part` in the environment narrows
/// them to cases of that name.
pub fn corpus() -> Option<Vec<Pair>> {
    let pairs = selected(|kind, control_flow| kind == "tflite" && control_flow != "while")?;
    assert!(!pairs.is_empty(), "no pair of the corpus was selected");
    Some(pairs)
}

/// The TFLite pairs that [`corpus`] leaves out, and those of Keras.
pub fn loops_and_keras() -> Option<Vec<Pair>> {
    selected(|kind, control_flow| {
        (kind == "tflite" && control_flow == "while") || kind.starts_with("keras")
    })
}

/// The pairs whose kind and control flow `wanted` takes.
pub fn selected(wanted: impl Fn(&str, &str) -> bool) -> Option<Vec<Pair>> {
    let models = models()?;
    let index =
        std::fs::read_to_string(models.join("index.json")).expect("the corpus has an index");
    let index: serde_json::Value = serde_json::from_str(&index).expect("the index is JSON");
    let only = std::env::var("CORPUS").unwrap_or_default();
    let text =
        |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let rows = index.as_array().expect("the index is a list").iter();
    let pairs: Vec<Pair> = rows
        .filter(|row| wanted(&text(row, "kind"), &text(row, "control_flow")))
        .filter(|row| text(row, "case").contains(&only))
        .map(|row| Pair {
            case: text(row, "case"),
            model: models.join(text(row, "model")),
            golden: models.join(text(row, "golden")),
            arithmetic: text(row, "arithmetic"),
            atol: row["atol"].as_f64().expect("every pair has a tolerance"),
        })
        .collect();
    Some(pairs)
}

/// The GPU, or `None`, said loudly, when there is no adapter. `FUSELSTM_REQUIRE_GPU=1` makes its
/// absence a failure.
pub fn gpu_or_skip() -> Option<Device> {
    if fuselstm::devices().iter().any(|device| device.is_gpu && device.is_usable) {
        return Some(Device::gpu());
    }
    let required =
        std::env::var("FUSELSTM_REQUIRE_GPU").is_ok_and(|value| value != "0" && !value.is_empty());
    assert!(
        !required || !cfg!(feature = "gpu"),
        "FUSELSTM_REQUIRE_GPU is set, and there is no GPU adapter"
    );
    eprintln!("NOT TESTED on the gpu: there is no adapter");
    None
}

/// Every device there is.
pub fn devices() -> Vec<Device> {
    let mut devices = vec![Device::reference(), Device::cpu()];
    devices.extend(gpu_or_skip());
    devices
}

/// A file that ships with the examples.
pub fn example_data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data").join(name)
}
