//! The .tflite reader on every file of the corpus.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

mod common;

fn tflite_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tflite_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "tflite") {
            found.push(path);
        }
    }
}

#[test]
fn every_file_of_the_corpus_is_read() {
    let models = common::models();
    let mut files = Vec::new();
    tflite_files(&models, &mut files);
    files.sort();
    let least = if common::is_whole_corpus() { 150 } else { 20 };
    assert!(files.len() >= least, "only {} files found", files.len());
    let mut failed = Vec::new();
    for file in &files {
        let read = fuselstm::internal::formats::open(file);
        // Two converters took the batch axis of this model for the time axis; no interpreter runs
        // what they wrote.
        let broken = file.to_str().unwrap().contains("oph_lstm_static_fixedbatch");
        match read {
            Err(error) if broken => assert!(error.to_string().contains("result 2"), "{error}"),
            Err(error) => failed.push(error.to_string()),
            Ok(_) => assert!(!broken, "{}", file.display()),
        }
    }
    assert!(failed.is_empty(), "{} of {} files:\n{}", failed.len(), files.len(), failed.join("\n"));
}
