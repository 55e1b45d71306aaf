//! The command at the limits of machines and files: time, memory, disks, names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/command.rs"]
mod command;
mod common;

use std::process::Command;

use command::{digits, json, outcome, scratch};
use fuselstm::types::npz;
use fuselstm::{DType, Tensor};

#[test]
fn a_command_ends_at_its_limits_with_both_numbers() {
    let digits = digits();
    let begin = std::time::Instant::now();
    let arguments =
        ["run", &digits, "--device", "cpu", "--steps", "1000000000", "--limit-time", "0.5"];
    let (status, _, stderr) = outcome(&arguments);
    assert_eq!(status, Some(1), "{stderr}");
    assert!(stderr.contains("the limit is 0.5 s"), "{stderr}");
    assert!(begin.elapsed().as_secs() < 20);
    let (status, document) = json(&["run", &digits, "--device", "cpu", "--limit-memory", "1kB"]);
    assert_eq!((status, document["kind"].as_str()), (1, Some("Limit")), "{document}");
    assert!(document["error"].as_str().unwrap().contains("1000"), "{document}");
    for arguments in [
        vec!["run", &digits, "--limit-time", "-1"],
        vec!["inspect", &digits, "--limit-memory", "much"],
    ] {
        assert_eq!(outcome(&arguments).0, Some(2), "{arguments:?}");
    }
}

#[test]
fn what_would_not_fit_in_memory_is_refused_before_it_is_made() {
    let digits = digits();
    for arguments in [
        vec!["run", &digits, "--device", "cpu", "--batch", "100000000"],
        vec!["crosscheck", &digits, "--batch", "100000000"],
        vec!["bench", &digits, "--batch", "100000000"],
        vec!["bench", "--hidden", "100000"],
        vec!["bench", "--hidden", "8", "--time", "100000", "--batch", "100000"],
    ] {
        let (status, _, stderr) = outcome(&arguments);
        assert_eq!(status, Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains("the limit is"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn output_files_of_another_kind_are_refused() {
    let digits = digits();
    for arguments in [
        vec!["run", &digits, "-o", "x.txt"],
        vec!["bench", &digits, "-o", "x.csv"],
        vec!["convert", &digits, "-o", "x.onnx"],
        vec!["inspect", &digits, "--svg", "x.png"],
        vec!["bench", "--hidden", "8", "--svg", "x.png"],
    ] {
        let (status, _, stderr) = outcome(&arguments);
        assert_eq!(status, Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains("no other kind"), "{stderr}");
    }
}

#[test]
fn a_signature_is_honored_or_refused_by_every_command() {
    let digits = digits();
    let out = scratch("signature.tflite").display().to_string();
    for arguments in [
        vec!["run", &digits],
        vec!["crosscheck", &digits],
        vec!["bench", &digits],
        vec!["inspect", &digits],
        vec!["convert", &digits, "-o", &out],
    ] {
        let arguments = [&arguments[..], &["--signature", "none such"]].concat();
        let (status, _, stderr) = outcome(&arguments);
        assert_eq!(status, Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains("ignature"), "{stderr}");
    }
    assert_eq!(outcome(&["bench", "--signature", "x"]).0, Some(2));
}

#[test]
fn inputs_of_convert_are_named_by_position_too() {
    let (digits, file) = (digits(), scratch("position.tflite").display().to_string());
    let convert = |input: &str| outcome(&["convert", &digits, "-o", &file, "--input", input]);
    let (status, _, stderr) = convert("0=2,28,28");
    assert_eq!(status, Some(0), "{stderr}");
    let (_, document) = json(&["inspect", &file]);
    assert_eq!(document["inputs"][0]["shape"], serde_json::json!([2, 28, 28]));
    assert_eq!(convert("7=2,28,28").0, Some(2));
}

#[test]
fn a_golden_file_without_numbers_does_not_hold() {
    let golden = scratch("empty.npz");
    let x = Tensor::zeros(DType::F32, &[1, 28, 28]).unwrap();
    let y = Tensor::zeros(DType::F32, &[0, 10]).unwrap();
    npz::save(&golden, [("a.in.INPUT", &x), ("a.out.LOGITS", &y)]).unwrap();
    let golden = golden.display().to_string();
    let (status, _, stderr) = outcome(&["crosscheck", &digits(), "--golden", &golden]);
    assert_eq!(status, Some(2), "{stderr}");
    assert!(stderr.contains("nothing to check"), "{stderr}");
}

/// A full disk as standard output, and one as the file that is written.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_failure_and_leaves_the_old_file() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fuselstm"));
    let output = command.args(["inspect", &digits(), "--json"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("could not be written"));

    let folder = scratch("full");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("kept.npz");
    std::fs::write(&file, "as it was").unwrap();
    // A file may have 16 blocks of 512 bytes: the archive has more.
    let script = format!(
        "trap '' XFSZ; ulimit -f 1; {} run {} --device cpu --batch 2000 -o {}",
        env!("CARGO_BIN_EXE_fuselstm"),
        digits(),
        file.display()
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "as it was");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
}
