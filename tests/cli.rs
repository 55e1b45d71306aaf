//! The command line as a process: exit statuses, JSON, and that nothing ends in a panic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/command.rs"]
mod command;
mod common;

use std::process::Command;

use command::{digits, fuselstm, json, scratch};
use common::{gpu_or_skip, models};
use fuselstm::types::npz;
use fuselstm::{DType, Tensor};
use serde_json::Value;

#[test]
fn wrong_usage_and_unreadable_inputs_have_status_2() {
    let broken = scratch("broken.tflite");
    let bytes = std::fs::read(digits()).unwrap();
    std::fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    let broken = broken.display().to_string();
    let digits = digits();
    for arguments in [
        vec![],
        vec!["frobnicate"],
        vec!["run"],
        vec!["run", "there-is-no-such-file.tflite"],
        vec!["run", "Cargo.toml"],
        vec!["run", "src"],
        vec!["run", &broken],
        vec!["inspect", &broken],
        vec!["run", &digits, "--device", "tpu"],
        vec!["run", &digits, "--steps", "0"],
        vec!["run", &digits, "-i", "there-is-no-such-file.npz"],
        vec!["run", &digits, "-i", "Cargo.toml"],
        vec!["run", &digits, "--device", "reference", "--threads", "2"],
        vec!["run", &digits, "--device", "cpu", "--strategy", "loop"],
        vec!["bench", "--device", "gpu", "--threads", "2"],
        vec!["bench", "--device", "reference", "--threads", "2"],
        vec!["bench", "--device", "cpu", "--strategy", "loop"],
        vec!["bench", "--device", "gpu", "--strategy", "split"],
        vec!["bench", "--device", "cpu", "--phases"],
        vec!["bench", "--device", "cpu", "--tune"],
        vec!["bench", "--device", "cpu", "--untuned"],
        vec!["bench", "--input-size", "8"],
        vec!["bench", "--step-ms", "0"],
        vec!["bench", &digits, "--hidden", "8"],
        vec!["crosscheck", &digits, "--golden", "Cargo.toml"],
        vec!["crosscheck", &digits, "--atol", "-1"],
        vec!["crosscheck", &digits, "--atol", "nan"],
        vec!["crosscheck", &digits, "--time", "3", "--golden", "x.npz"],
    ] {
        let output = fuselstm(&arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked") && !stderr.is_empty(), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_and_version_have_status_0() {
    for arguments in
        [vec!["--help"], vec!["--version"], vec!["run", "--help"], vec!["crosscheck", "--help"]]
    {
        let output = fuselstm(&arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty());
        assert!(
            !String::from_utf8_lossy(&output.stdout).contains('\u{1b}'),
            "no color when not on a terminal"
        );
    }
}

#[test]
fn a_failure_is_json_too() {
    let (status, document) = json(&["run", "there-is-no-such-file.tflite"]);
    assert_eq!((status, document["kind"].as_str()), (2, Some("Io")));
    assert!(document["error"].as_str().unwrap().contains("there-is-no-such-file.tflite"));
}

#[test]
fn devices_lists_reference_and_cpu_at_least() {
    let (status, document) = json(&["devices"]);
    let names: Vec<&str> = document["devices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["name"].as_str().unwrap())
        .collect();
    assert_eq!((status, &names[..2]), (0, &["reference", "cpu"][..]));
}

#[test]
fn inspect_counts_what_is_there() {
    let picture = scratch("digits.svg");
    let (status, document) =
        json(&["inspect", &digits(), "--passes", "--svg", picture.to_str().unwrap()]);
    assert_eq!(status, 0);
    assert_eq!(
        (
            document["format"].as_str(),
            document["recurrent_ops"].as_u64(),
            document["loops"].as_u64()
        ),
        (Some("tflite"), Some(2), Some(0))
    );
    assert!(document["nodes"].as_u64().unwrap() >= 4 && document["declined"].is_array());
    let input = &document["inputs"][0];
    assert_eq!((input["name"].as_str(), input["dtype"].as_str()), (Some("INPUT"), Some("float32")));
    assert_eq!(input["shape"].as_array().unwrap().len(), 3);
    assert_eq!(document["outputs"].as_array().unwrap().len(), 2);
    let svg = std::fs::read_to_string(picture).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.matches("LSTM").count() >= 2
    );
}

#[test]
fn inspect_says_how_a_device_runs_it() {
    let (status, document) =
        json(&["inspect", &digits(), "--device", "reference", "--threads", "1"]);
    assert_eq!(status, 2, "the reference has no threads: {document}");
    let (status, document) = json(&["inspect", &digits(), "--device", "cpu", "--threads", "1"]);
    assert_eq!(status, 0);
    let notes = document["devices"][0]["notes"].as_array().unwrap();
    assert!(notes.iter().any(|note| note.as_str().unwrap().contains("one thread")), "{document}");
}

#[test]
fn crosscheck_of_weights_of_less_precision() {
    // The reference has neither option: they are for the cpu.
    let checked = |precision: &str, more: &[&str]| {
        let arguments = [
            "crosscheck",
            &digits(),
            "--device",
            "reference,cpu",
            "--threads",
            "1",
            "--precision",
            precision,
        ];
        let (status, document) = json(&[&arguments, more].concat());
        let errors =
            document["checks"].as_array().unwrap().iter().filter(|check| check["device"] == "cpu");
        (status, errors.map(|check| check["max_abs"].as_f64().unwrap()).fold(0.0, f64::max))
    };
    let [(full, none), (half, some), (int8, most)] =
        ["full", "f16", "int8"].map(|precision| checked(precision, &[]));
    assert_eq!((full, half, int8), (0, 0, 0));
    assert!(none < 1e-5 && some > none && most > some, "{none} {some} {most}");
    assert_eq!(checked("int8", &["--atol", "1e-5"]).0, 1);
}

#[test]
fn run_takes_and_writes_arrays_by_name() {
    let (input, output) = (scratch("in.npz"), scratch("out.npz"));
    let image = Tensor::zeros(DType::F32, &[1, 28, 28]).unwrap();
    npz::save(&input, [("INPUT", &image)]).unwrap();
    let (input, output) = (input.to_str().unwrap(), output.to_str().unwrap());
    let (status, document) =
        json(&["run", &digits(), "-i", input, "-o", output, "--device", "reference"]);
    assert_eq!((status, document["device"].as_str()), (0, Some("reference")));
    assert_eq!(document["outputs"][0]["shape"], serde_json::json!([1, 10]));
    let written = npz::load(output).unwrap();
    let names: Vec<&str> = written.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["LOGITS", "OUTPUT_CLASS"]);

    let array = scratch("image.npy");
    std::fs::write(&array, npz::write_npy(&image)).unwrap();
    let named = format!("INPUT={}", array.display());
    let second = scratch("second.npz");
    let (status, _) =
        json(&["run", &digits(), "-i", &named, "-o", second.to_str().unwrap(), "--device", "cpu"]);
    assert_eq!(status, 0);
    let gap = |a: &Tensor, b: &Tensor| {
        a.to_f32().iter().zip(b.to_f32().iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(gap(&written[0].1, &npz::load(second).unwrap()[0].1) < 1e-5);
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let input = scratch("wrong.npz");
    for (name, tensor, part) in [
        ("INPUT", Tensor::zeros(DType::F64, &[1, 28, 28]).unwrap(), "float64"),
        ("INPUT", Tensor::zeros(DType::F32, &[28, 28]).unwrap(), "[28, 28]"),
        ("INPUT", Tensor::zeros(DType::F32, &[1, 28, 27]).unwrap(), "27"),
        ("IMAGE", Tensor::zeros(DType::F32, &[1, 28, 28]).unwrap(), "IMAGE"),
    ] {
        npz::save(&input, [(name, &tensor)]).unwrap();
        let (status, document) =
            json(&["run", &digits(), "-i", input.to_str().unwrap(), "--device", "cpu"]);
        let error = document["error"].as_str().unwrap();
        assert!(
            status == 2 && error.contains(part) && error.contains("INPUT"),
            "{status}: {error}"
        );
    }
}

#[test]
fn a_second_run_creates_nothing() {
    let mut arguments = vec![("reference", 0), ("cpu", 0)];
    if gpu_or_skip().is_some() {
        arguments.push(("gpu", 1));
    }
    for (device, least_submissions) in arguments {
        let (status, document) =
            json(&["run", &digits(), "--device", device, "--steps", "2", "--stream"]);
        assert_eq!((status, document["device"].as_str()), (0, Some(device)));
        assert_eq!(
            (document["pipelines_created"].as_u64(), document["buffers_created"].as_u64()),
            (Some(0), Some(0)),
            "{device}"
        );
        assert!(document["submissions"].as_u64().unwrap() >= least_submissions);
        assert!(document["dispatches"].as_u64().unwrap() >= least_submissions);
    }
}

#[test]
fn a_device_that_is_not_there_fails_and_says_what_was_looked_for() {
    let (status, document) = json(&["run", &digits(), "--device", "gpu:no-such-adapter"]);
    assert_eq!((status, document["kind"].as_str()), (1, Some("Device")));
    let (status, document) =
        json(&["crosscheck", &digits(), "--device", "cpu,gpu:no-such-adapter"]);
    assert_eq!((status, document["holds"].as_bool()), (1, Some(false)));
    let checks = document["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["device"] == "cpu" && check["holds"] == true));
}

#[test]
fn crosscheck_without_a_file_holds_the_devices_against_reference() {
    let (status, document) = json(&["crosscheck", &digits(), "--seed", "5", "--all"]);
    assert_eq!((status, document["holds"].as_bool()), (0, Some(true)), "{document:#}");
    let checks = document["checks"].as_array().unwrap();
    // Two outputs of a run from the reset state and of one that goes on from it.
    assert_eq!(checks.iter().filter(|check| check["device"] == "cpu").count(), 4);
    let values = document["intermediates"][0]["values"].as_array().unwrap();
    assert!(values.len() >= 4 && document["intermediates"][0]["first_divergence"].is_null());
}

#[test]
fn crosscheck_takes_other_sizes_where_the_model_can_follow() {
    // Written for a batch of one.
    let (status, document) = json(&["crosscheck", &digits(), "--batch", "3", "--device", "cpu"]);
    assert_eq!((status, document["checks"][0]["elements"].as_u64()), (0, Some(30)), "{document:#}");
    let models = models();
    let model = models.join("bsl_separate/model.tflite");
    let sizes = ["--batch", "5", "--time", "4", "--device", "cpu"];
    let (status, document) = json(&[&["crosscheck", model.to_str().unwrap()], &sizes[..]].concat());
    assert_eq!(status, 0, "{document:#}");
    assert_eq!(document["checks"][0]["elements"].as_u64(), Some(4 * 5 * 7));
}

#[test]
fn crosscheck_finds_a_difference_and_where_it_is() {
    let models = models();
    let (model, golden) = (
        models.join("bsl_separate/model.tflite"),
        models.join("bsl_separate/golden/model_tflite.npz"),
    );
    let (model, golden) = (model.to_str().unwrap(), golden.to_str().unwrap());
    let (status, document) =
        json(&["crosscheck", model, "--golden", golden, "--device", "reference,cpu"]);
    assert_eq!((status, document["holds"].as_bool()), (0, Some(true)), "{document:#}");

    // One stored number changed: time-major output, step 4, row 2, unit 6.
    let mut entries = npz::load(golden).unwrap();
    let (_, tensor) = entries.iter_mut().find(|(key, _)| key == "inv0.out.bw_output").unwrap();
    assert_eq!(tensor.shape(), [9, 3, 7]);
    tensor.as_mut_slice::<f32>().unwrap()[4 * 21 + 2 * 7 + 6] += 0.5;
    let changed = scratch("changed.npz");
    npz::save(&changed, entries.iter().map(|(key, tensor)| (key.as_str(), tensor))).unwrap();
    let (status, document) =
        json(&["crosscheck", model, "--golden", changed.to_str().unwrap(), "--device", "cpu"]);
    assert_eq!((status, document["holds"].as_bool()), (1, Some(false)));
    let failed: Vec<&Value> = document["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["holds"] == false)
        .collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(
        (failed[0]["run"].as_str(), failed[0]["output"].as_str()),
        (Some("inv0"), Some("bw_output"))
    );
    let worst = &failed[0]["worst"];
    assert_eq!(
        (worst["step"].as_u64(), worst["row"].as_u64(), worst["unit"].as_u64()),
        (Some(4), Some(2), Some(6))
    );
    assert_eq!(failed[0]["first_bad_step"].as_u64(), Some(4));
}

#[test]
fn hybrid_models_are_exact_on_reference_and_stated_elsewhere() {
    let models = models();
    let (model, golden) =
        (models.join("usl_hybrid/model.tflite"), models.join("usl_hybrid/golden/model_tflite.npz"));
    let arguments = [
        "crosscheck",
        model.to_str().unwrap(),
        "--golden",
        golden.to_str().unwrap(),
        "--device",
        "reference,cpu",
        "--atol",
        "2e-5",
    ];
    let (status, document) = json(&arguments);
    assert_eq!(status, 0, "{document:#}");
    for check in document["checks"].as_array().unwrap() {
        assert_eq!(check["judged"].as_bool(), Some(check["device"] == "reference"));
        assert!(
            check["device"] == "reference" || check["max_abs"].as_f64().unwrap() > 2e-5,
            "the distance is stated"
        );
    }
    let (status, _) = json(&[&arguments[..], &["--device-atol", "1e-9"]].concat());
    assert_eq!(status, 1);
}

#[test]
fn convert_writes_a_file_that_computes_the_same() {
    let file = scratch("again.tflite");
    let file = file.to_str().unwrap();
    let (status, document) = json(&["convert", &digits(), "-o", file, "--batch", "1"]);
    assert_eq!(
        (status, document["recurrent_ops"].as_u64(), document["loops"].as_u64()),
        (0, Some(2), Some(0)),
        "{document:#}"
    );
    assert_eq!(document["bytes"].as_u64(), Some(std::fs::metadata(file).unwrap().len()));
    assert!(document["warnings"].is_array());
    let [first, second] = ["first.npz", "again.npz"].map(scratch);
    for (model, output) in [(digits().as_str(), &first), (file, &second)] {
        let (status, _) = json(&[
            "run",
            model,
            "--device",
            "reference",
            "--seed",
            "9",
            "-o",
            output.to_str().unwrap(),
        ]);
        assert_eq!(status, 0);
    }
    let [first, second] = [first, second].map(|path| npz::load(path).unwrap());
    assert_eq!(first[0].1.to_f32(), second[0].1.to_f32());

    let digits = digits();
    for arguments in [
        vec!["convert", &digits],
        vec!["convert", &digits, "-o", file, "--quantize", "int8"],
        vec!["convert", &digits, "-o", file, "--calibrate", "x.npz"],
        vec!["convert", &digits, "-o", file, "--input", "INPUT=1,a"],
        vec!["convert", &digits, "-o", file, "--input", "NO_SUCH_INPUT"],
        vec!["convert", &digits, "-o", "no/such/folder/x.tflite"],
    ] {
        assert_eq!(fuselstm(&arguments).status.code(), Some(2), "{arguments:?}");
    }
}

/// Arguments of a sweep that takes no time.
const QUICK: &[&str] =
    &["--time", "4", "--hidden", "8", "--warmup", "1", "--runs", "2", "--seconds", "0"];

#[test]
fn bench_sweeps_lists_and_names_the_machine_in_every_row() {
    let sweep = [
        "--time",
        "4-16*4",
        "--batch",
        "1,2",
        "--hidden",
        "8",
        "--layers",
        "--bidirectional",
        "--cell",
    ];
    let effort =
        ["--warmup", "1", "--runs", "2", "--seconds", "0", "--precision", "--device", "cpu"];
    let (status, document) = json(&[&["bench"][..], &sweep, &effort].concat());
    assert_eq!(status, 0);
    let rows = document["rows"].as_array().unwrap();
    // Two lengths, two batches, three numbers of layers, three cells, four precisions.
    assert_eq!(rows.len(), 2 * 2 * 3 * 3 * 4);
    for row in rows {
        assert_eq!(
            (row["device"].as_str(), row["bidirectional"].as_bool()),
            (Some("cpu"), Some(true))
        );
        assert!(
            row["host"].as_str().is_some_and(|host| !host.is_empty()) && row["adapter"].is_string()
        );
        assert_eq!(row["version"].as_str(), Some(env!("CARGO_PKG_VERSION")));
        for number in
            ["median_ms", "min_ms", "p95_ms", "p99_ms", "steps_per_second", "sequences_per_second"]
        {
            assert!(row[number].as_f64().is_some_and(|n| n > 0.0), "{number}: {row}");
        }
        let (time, median) = (row["time"].as_f64().unwrap(), row["median_ms"].as_f64().unwrap());
        let factor = row["real_time_factor"].as_f64().unwrap();
        assert!((factor * median / (time * 10.0) - 1.0).abs() < 1e-9, "10 ms a step: {row}");
    }
}

#[test]
fn bench_prints_the_same_rows_in_every_form() {
    let with = |format: &str| {
        let output =
            fuselstm(&[&["bench", "--format", format, "--step-ms", "2.5"], QUICK].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let document: Value = serde_json::from_str(&with("json")).unwrap();
    let line: Value = serde_json::from_str(with("jsonl").trim()).unwrap();
    assert_eq!(line["step_ms"], 2.5);
    let names = |row: &Value| row.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&document["rows"][0]), names(&line));
    let csv = with("csv");
    let mut lines = csv.lines();
    let columns: Vec<&str> = lines.next().unwrap().split(',').collect();
    assert!(
        columns.contains(&"median_ms") && columns.contains(&"host") && columns.contains(&"p99_ms"),
        "{columns:?}"
    );
    assert_eq!(lines.count(), 1);
    let md = with("md");
    let lines: Vec<&str> = md.lines().collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0].matches('|').count(), lines[2].matches('|').count());
    assert!(lines[0].contains("version") && lines[2].contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn bench_against_an_earlier_document_fails_on_a_slower_row_only() {
    let earlier = scratch("earlier.json");
    let (_, document) = json(&[&["bench"], QUICK].concat());
    let write = |factor: f64| {
        let mut old = document.clone();
        for time in ["median_ms", "min_ms", "p95_ms", "p99_ms", "sd_ms"] {
            let row = &mut old["rows"][0][time];
            *row = (row.as_f64().unwrap() * factor).into();
        }
        std::fs::write(&earlier, old.to_string()).unwrap();
    };
    let path = earlier.display().to_string();
    let against = || json(&[&["bench", "--against", &path], QUICK].concat());
    write(1000.0);
    assert_eq!(against().0, 0, "a thousand times faster than before");
    write(1e-6);
    let (status, document) = against();
    assert_eq!((status, document["holds"].as_bool()), (1, Some(false)));
    std::fs::write(&earlier, "{\"rows\": []}").unwrap();
    assert_eq!(against().0, 2, "nothing to compare with");
}

#[test]
fn bench_splits_the_time_of_a_gpu_run_into_phases() {
    let Some(device) = gpu_or_skip() else { return };
    let device = device.to_string();
    let sizes = ["--time", "4", "--hidden", "16", "--warmup", "1", "--runs", "2", "--seconds", "0"];
    let (status, document) =
        json(&[&["bench", "--phases", "--device", &format!("{device},cpu")][..], &sizes].concat());
    assert_eq!(status, 0, "{document}");
    let rows = document["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert!(rows[1]["phases_ms"].is_null(), "the cpu has no such clock");
    let phases = &rows[0]["phases_ms"];
    for phase in ["upload", "projection", "recurrence", "readback", "idle"] {
        assert!(phases[phase].as_f64().is_some_and(|ms| ms > 0.0), "{phase}: {phases}");
    }
    assert!(rows[0]["driver"].as_str().is_some_and(|driver| !driver.is_empty()), "{document}");
}

#[test]
fn bench_measures_ceilings_and_states_shares_of_them() {
    let (status, document) = json(&[&["bench", "--ceilings", "--threads", "1"], QUICK].concat());
    assert_eq!(status, 0, "{document}");
    let ceilings = document["ceilings"].as_array().unwrap();
    assert!(
        ceilings.iter().any(|c| c["threads"] == 1) && ceilings.iter().all(|c| c["device"] == "cpu"),
        "{document}"
    );
    let row = &document["rows"][0];
    let one = ceilings.iter().find(|c| c["threads"] == 1).unwrap();
    let share = row["gflops"].as_f64().unwrap() / one["fma_gflops"].as_f64().unwrap();
    assert!((row["fma_share"].as_f64().unwrap() - share).abs() < 1e-12, "{row}");
    assert!(row["bandwidth_share"].as_f64().is_some_and(|share| share > 0.0), "{row}");
}

#[test]
fn bench_holds_rows_against_the_reference() {
    let (status, document) =
        json(&[&["bench", "--check", "--precision", "full,int8"], QUICK].concat());
    assert_eq!((status, document["holds"].as_bool()), (0, Some(true)), "{document}");
    let far = |row: usize| document["rows"][row]["max_abs"].as_f64().unwrap();
    assert!(far(0) <= 1e-5 && far(1) > far(0) && far(1) <= 5e-2, "{document}");
}

#[test]
fn bench_draws_a_line_for_each_strategy() {
    let picture = scratch("steps.svg");
    let sweep =
        ["--hidden", "8,16", "--time", "4", "--batch", "1,2", "--runs", "2", "--seconds", "0"];
    let (status, _) = json(&[&["bench", "--svg", picture.to_str().unwrap()][..], &sweep].concat());
    let svg = std::fs::read_to_string(picture).unwrap();
    assert_eq!(
        (status, svg.matches("class=\"line\"").count(), svg.matches("<circle").count()),
        (0, 2, 4)
    );
}

#[test]
fn bench_tunes_when_asked_and_later_sessions_use_it() {
    let Some(device) = gpu_or_skip() else { return };
    let device = device.to_string();
    let cache = scratch("cache");
    // The same arguments with a cache folder of this test's own.
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fuselstm"));
        command.args([&["bench", "--device", &device, "--json"], arguments, QUICK].concat());
        let output =
            command.env("XDG_CACHE_HOME", &cache).env("LOCALAPPDATA", &cache).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let folder = cache.join("fuselstm").join("tuned");
    run(&[]);
    assert!(!folder.exists(), "nothing is tuned without being asked for");
    run(&["--tune"]);
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let mut stored: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let choices = stored["choices"].as_object_mut().unwrap();
    assert_eq!(choices.len(), 1, "{choices:?}");
    // Whatever won: later sessions do what the file says.
    for strategy in ["step", "loop"] {
        for choice in stored["choices"].as_object_mut().unwrap().values_mut() {
            choice["strategy"] = strategy.into();
            choice["product"] = Value::Null;
        }
        std::fs::write(&file, stored.to_string()).unwrap();
        let row = &run(&[])["rows"][0];
        assert_eq!(
            (row["strategy"].as_str(), row["tuned"].as_bool()),
            (Some(strategy), Some(true)),
            "{row}"
        );
    }
    assert_eq!(run(&["--untuned"])["rows"][0]["tuned"], false);
    std::fs::write(&file, "{").unwrap();
    assert_eq!(run(&[])["rows"][0]["tuned"], false, "a broken file is ignored");
    std::fs::remove_dir_all(cache).unwrap();
}

/// The parts of `benches/real-gpu.sh` that need no GPU: its syntax, its refusals, and that what
/// does not run is said.
#[test]
#[cfg(unix)]
fn the_script_for_real_gpus_refuses_and_says_what_it_skips() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/real-gpu.sh");
    let run =
        |arguments: &[&str]| Command::new("bash").arg(script).args(arguments).output().unwrap();
    assert_eq!(run(&[]).status.code(), Some(2));
    let binary = env!("CARGO_BIN_EXE_fuselstm");
    for wrong in
        [&["--frobnicate"][..], &["--seconds"], &["--seconds", "x"], &["--peers", "/nowhere"]]
    {
        assert_eq!(run(&[&[binary], wrong].concat()).status.code(), Some(2), "{wrong:?}");
    }
    let out = scratch("real-gpu");
    // No time at all: every part is skipped, each by name.
    let output = run(&[binary, "--quick", "--seconds", "0", "--out", out.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in
        ["devices.txt", "check-long.jsonl", "ceilings.json", "strategies.jsonl", "tuned.jsonl"]
    {
        assert!(text.contains(&format!("SKIPPED: {part}")), "{part}: {text}");
    }
    std::fs::remove_dir_all(out).unwrap();
}
