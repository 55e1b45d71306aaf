//! What the tests share: the corpus, the digits, and whether there is a GPU.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use fuselstm::Device;

/// A model of the corpus and its golden file.
pub struct Pair {
    pub case: String,
    pub kind: String,
    /// `while` where the model is a `.tflite` file whose recurrence is a loop.
    pub control_flow: String,
    pub model: PathBuf,
    pub golden: PathBuf,
    pub arithmetic: String,
    pub atol: f64,
}

/// The folder that `FUSELSTM_CORPUS` names, which has to be there.
fn named_corpus() -> Option<PathBuf> {
    let named = PathBuf::from(std::env::var_os("FUSELSTM_CORPUS")?);
    assert!(
        named.join("index.json").is_file(),
        "FUSELSTM_CORPUS names {}, which has no index.json",
        named.display()
    );
    Some(named)
}

/// Whether the tests use a corpus larger than the one in this repository.
pub fn is_whole_corpus() -> bool {
    named_corpus().is_some()
}

/// The folder with the corpus: the one that `FUSELSTM_CORPUS` names, else that of this repository.
pub fn models() -> PathBuf {
    named_corpus()
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/corpus"))
}

/// A file or folder of the corpus; `None`, said loudly, where the small corpus lacks it.
pub fn model(name: &str) -> Option<PathBuf> {
    let path = models().join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(!is_whole_corpus(), "{} is absent", path.display());
    eprintln!("NOT TESTED: {name} is not in the small corpus (set FUSELSTM_CORPUS)");
    None
}

/// Every TFLite pair whose recurrence is not a WHILE loop.
pub fn corpus() -> Vec<Pair> {
    selected(|pair| pair.kind == "tflite" && pair.control_flow != "while")
}

/// The TFLite pairs that [`corpus`] leaves out, and those of Keras.
pub fn loops_and_keras() -> Vec<Pair> {
    selected(|pair| {
        (pair.kind == "tflite" && pair.control_flow == "while") || pair.kind.starts_with("keras")
    })
}

/// The pairs that `wanted` takes, at least one. `CORPUS=part` in the environment narrows them to
/// models whose path contains it.
pub fn selected(wanted: impl Fn(&Pair) -> bool) -> Vec<Pair> {
    let models = models();
    let index =
        std::fs::read_to_string(models.join("index.json")).expect("the corpus has an index");
    let index: serde_json::Value = serde_json::from_str(&index).expect("the index is JSON");
    let only = std::env::var("CORPUS").unwrap_or_default();
    let text =
        |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let rows = index.as_array().expect("the index is a list").iter();
    let pairs = rows.map(|row| Pair {
        case: text(row, "case"),
        kind: text(row, "kind"),
        control_flow: text(row, "control_flow"),
        model: models.join(text(row, "model")),
        golden: models.join(text(row, "golden")),
        arithmetic: text(row, "arithmetic"),
        atol: row["atol"].as_f64().expect("every pair has a tolerance"),
    });
    let pairs: Vec<Pair> = pairs
        .filter(|pair| pair.model.to_string_lossy().contains(&only))
        .filter(|pair| wanted(pair))
        .collect();
    assert!(!pairs.is_empty() || !only.is_empty(), "no pair of the corpus was selected");
    pairs
}

/// The GPU, or `None`, said loudly, when there is no adapter. `FUSELSTM_REQUIRE_GPU=1` makes its
/// absence a failure.
pub fn gpu_or_skip() -> Option<Device> {
    if Device::list().iter().any(|device| device.is_gpu && device.is_usable) {
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
