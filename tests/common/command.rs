//! The command as a process.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::example_data;

/// Runs it.
pub fn fuselstm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fuselstm"))
        .args(arguments)
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

/// Status and JSON document of a command; nothing but the document may be on stdout.
pub fn json(arguments: &[&str]) -> (i32, Value) {
    let output = fuselstm(&[arguments, &["--json"]].concat());
    let stdout = String::from_utf8(output.stdout).unwrap();
    let document = serde_json::from_str(&stdout).unwrap_or_else(|error| {
        panic!("{arguments:?}: {error}\n{stdout}\n{}", String::from_utf8_lossy(&output.stderr))
    });
    (output.status.code().unwrap(), document)
}

/// The model of the example.
pub fn digits() -> String {
    example_data("digits.tflite").display().to_string()
}

/// A file of this test run.
pub fn scratch(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(format!("{}-{name}", std::process::id()))
}

/// Status, standard output and standard error.
pub fn outcome(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = fuselstm(arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}
