//! Written .tflite files: read back they compute the same, and the real interpreter agrees with the
//! golden files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use fuselstm::internal::convert::{Options, to_tflite};
use fuselstm::types::npz;
use fuselstm::{Device, Model, Session, Tensor};
use serde_json::{Value, json};

mod common;

/// One run of a golden file.
#[derive(Default)]
struct Run {
    tag: String,
    inputs: Vec<(String, Tensor)>,
    outputs: Vec<(String, Tensor)>,
}

fn runs(golden: &Path) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (key, tensor) in npz::load(golden).unwrap() {
        let (tag, side, name) = match key.split_once(".in.") {
            Some((tag, name)) => (tag, true, name),
            None => key.split_once(".out.").map(|(tag, name)| (tag, false, name)).unwrap(),
        };
        if runs.last().is_none_or(|run| run.tag != tag) {
            runs.push(Run { tag: tag.to_owned(), ..Run::default() });
        }
        let run = runs.last_mut().unwrap();
        let side = if side { &mut run.inputs } else { &mut run.outputs };
        side.push((name.to_owned(), tensor));
    }
    runs
}

/// Runs that have the same input shapes, which one file of fixed sizes serves.
fn groups(runs: Vec<Run>) -> Vec<Vec<Run>> {
    let mut groups: BTreeMap<Vec<Vec<usize>>, Vec<Run>> = BTreeMap::new();
    for run in runs {
        let shapes = run.inputs.iter().map(|(_, tensor)| tensor.shape().to_vec()).collect();
        groups.entry(shapes).or_default().push(run);
    }
    groups.into_values().collect()
}

fn port_name(model: &Model, name: &str) -> String {
    match name.parse::<usize>() {
        Ok(position) if model.inputs().iter().all(|input| input.name != name) => {
            model.inputs()[position].name.clone()
        }
        _ => name.to_owned(),
    }
}

fn max_abs(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (a.to_f32(), b.to_f32());
    a.iter()
        .zip(b.iter())
        .map(|(a, b)| f64::from((a - b).abs()))
        .fold(0.0, |m, x| if x.is_nan() { f64::INFINITY } else { m.max(x) })
}

/// Runs a model in the reference backend and returns the largest difference.
fn check_reference(model: &Model, runs: &[Run]) -> fuselstm::Result<f64> {
    let session = Session::new(model, Device::reference())?;
    let mut stream = session.stream();
    let mut worst = 0.0f64;
    for run in runs {
        if !run.tag.ends_with('+') {
            stream.reset();
        }
        let inputs: Vec<(String, &Tensor)> =
            run.inputs.iter().map(|(name, t)| (port_name(model, name), t)).collect();
        let inputs: Vec<(&str, &Tensor)> =
            inputs.iter().map(|(name, t)| (name.as_str(), *t)).collect();
        let outputs = stream.run(&inputs)?;
        for (name, expected) in &run.outputs {
            let found = match outputs.get(name) {
                Ok(found) => found,
                Err(_) => &outputs.tensors()[name.parse::<usize>().unwrap()],
            };
            worst = worst.max(max_abs(found, expected));
        }
    }
    Ok(worst)
}

#[test]
fn converted_files_compute_the_same() {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("converted");
    std::fs::create_dir_all(&out).unwrap();
    let (mut failed, mut entries, mut refused, mut count) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let corpus = common::models();
    for pair in common::selected(|pair| pair.kind != "onnx") {
        let name = &pair.model.strip_prefix(&corpus).unwrap().display().to_string();
        let (golden, atol) = (&pair.golden, pair.atol);
        let model = match Model::open(&pair.model) {
            Ok(model) => model,
            Err(error) => {
                refused.push(format!("{name}: not read: {error}"));
                continue;
            }
        };
        for (number, runs) in groups(runs(golden)).into_iter().enumerate() {
            count += 1;
            let mut options = Options::new();
            for (name, tensor) in &runs[0].inputs {
                let sizes = tensor.shape().iter().map(|size| Some(*size)).collect();
                options = options.shape(port_name(&model, name), sizes);
            }
            let written = match to_tflite(model.graph(), &options) {
                Ok(written) => written,
                Err(error) => {
                    refused.push(format!("{name} ({number}): {error}"));
                    continue;
                }
            };
            let file = out.join(format!("{}_{number}.tflite", name.replace('/', "_")));
            std::fs::write(&file, &written.bytes).unwrap();
            let label = format!("{name} ({number})");
            match Model::from_bytes(&written.bytes).and_then(|again| check_reference(&again, &runs))
            {
                // What the writer rewrites (a sum taken in another order) may differ in the last
                // bits of a float.
                Ok(worst) if worst <= atol.max(1e-6) => {}
                Ok(worst) => failed
                    .push(format!("{label}: read back, differs by {worst:e}, allowed {atol:e}")),
                Err(error) => failed.push(format!("{label}: read back: {error}")),
            }
            let tags: Vec<&str> = runs.iter().map(|run| run.tag.as_str()).collect();
            let stateless = model.graph().states.is_empty();
            let entry = |name: &str, file: &Path| json!({"name": name, "file": file, "golden": golden, "runs": tags, "stateless": stateless, "atol": atol});
            entries.push(entry(&label, &file));
            let axes = |input: &fuselstm::types::TensorSpec| input.axes.clone().unwrap_or_default();
            let open = model.inputs().iter().any(|input| {
                axes(input)
                    .iter()
                    .skip(1)
                    .any(|axis| !matches!(axis, fuselstm::types::Axis::Known(_)))
            });
            if open && !runs[0].inputs.is_empty() {
                // The batch alone is fixed: the interpreter chooses the length.
                let rows = runs[0].inputs[0].1.shape().first().copied();
                let options = rows.into_iter().fold(Options::new(), Options::batch);
                match to_tflite(model.graph(), &options) {
                    Ok(written) => {
                        let file = file.with_extension("open.tflite");
                        std::fs::write(&file, &written.bytes).unwrap();
                        entries.push(entry(&format!("{label}, open length"), &file));
                    }
                    Err(error) => refused.push(format!("{label}, open length: {error}")),
                }
            }
        }
    }
    let mut report =
        format!("{count} conversions, {} refused:\n{}\n", refused.len(), refused.join("\n"));
    interpret(&out, &entries, &mut failed, &mut report);
    eprintln!("{report}");
    assert!(failed.is_empty(), "{} failures:\n{}", failed.len(), failed.join("\n"));
}

/// The Python that has the interpreter, when there is one.
fn python() -> Option<String> {
    let candidates = [
        std::env::var("FUSELSTM_PYTHON").ok(),
        Some("python3".to_owned()),
        Some("python".to_owned()),
    ];
    candidates.into_iter().flatten().find(|python| {
        let probe = Command::new(python).args(["-c", "import ai_edge_litert, numpy"]).output();
        probe.is_ok_and(|output| output.status.success())
    })
}

fn interpret(out: &Path, entries: &[Value], failed: &mut Vec<String>, report: &mut String) {
    let Some(python) = python() else {
        report.push_str("NOT TESTED in the real interpreter: no Python with ai_edge_litert (set FUSELSTM_PYTHON)\n");
        return;
    };
    let list = out.join("list.json");
    std::fs::write(&list, serde_json::to_vec(entries).unwrap()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/interpret.py");
    let output = Command::new(python).arg(script).arg(&list).output().unwrap();
    let lines: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    if lines.len() != 2 * entries.len() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = errors.lines().rev().take(5).collect();
        failed.push(format!(
            "the interpreter ended early, after {} of {}: {tail:?}",
            lines.len(),
            2 * entries.len()
        ));
    }
    let mut worst = 0.0f64;
    for line in lines {
        let entry = entries.iter().find(|entry| entry["name"] == line["name"]).unwrap();
        let atol = entry["atol"].as_f64().unwrap();
        // The interpreter's reference kernels are registered for diagonal recurrent weights under
        // no version.
        if line["resolver"] == "reference" && line["name"].as_str().unwrap().contains("usl_diag") {
            assert!(line["error"].as_str().unwrap().contains("version '4'"), "{line}");
            continue;
        }
        match line["max_abs"].as_f64() {
            Some(found) if found <= atol.max(1e-5) => worst = worst.max(found),
            _ => failed.push(format!("interpreter: {line}, allowed {atol:e}")),
        }
    }
    report.push_str(&format!("in the real interpreter the largest difference is {worst:e}\n"));
}
