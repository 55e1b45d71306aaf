//! Quantization on the way out, on the trained digit model: size, accuracy in the reference backend
//! and in the real interpreter.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;

use fuselstm::internal::convert::{Options, Quantize, to_tflite};
use fuselstm::types::npz;
use fuselstm::{Device, Model, Session, Tensor};
use serde_json::Value;

mod common;

use common::example_data;

/// Images `[1, 28, 28]` from 0 to 1, and their labels.
fn digits() -> Vec<(Tensor, i32)> {
    let arrays = npz::load(example_data("digits.npz")).unwrap();
    let array = |name: &str| arrays.iter().find(|(key, _)| key == name).unwrap().1.clone();
    let (images, labels) = (array("images"), array("labels"));
    let images = images.as_slice::<u8>().unwrap().chunks(28 * 28);
    let image = |pixels: &[u8]| {
        Tensor::from_vec(&[1, 28, 28], pixels.iter().map(|p| f32::from(*p) / 255.0).collect())
    };
    images
        .map(|pixels| image(pixels).unwrap())
        .zip(labels.as_slice::<i32>().unwrap().iter().copied())
        .collect()
}

fn accuracy(model: &Model, digits: &[(Tensor, i32)]) -> f64 {
    let session = Session::new(model, Device::reference()).unwrap();
    let mut stream = session.stream();
    let name = model.inputs()[0].name.clone();
    let mut right = 0;
    for (image, label) in digits {
        stream.reset();
        let outputs = stream.run(&[(&name, image)]).unwrap();
        let scores = outputs.tensors()[0].to_f32().into_owned();
        let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap();
        right += i32::from(best as i32 == *label);
    }
    f64::from(right) / digits.len() as f64
}

#[test]
fn the_digit_model_stays_accurate() {
    let model = Model::open(example_data("digits.tflite")).unwrap();
    let digits = digits();
    let (calibration, test) = digits.split_at(100);
    let out = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut files = Vec::new();
    // Least accuracy on these 100 images and on the 1,000 of the test set, and largest size beside
    // the float file.
    for (quantize, here, there, size) in [
        (Quantize::None, 0.96, 0.96, 1.0),
        (Quantize::Float16, 0.96, 0.96, 0.55),
        (Quantize::Dynamic, 0.95, 0.96, 0.35),
        (Quantize::Int8, 0.94, 0.95, 0.35),
    ] {
        let samples = calibration.iter().map(|(image, _)| vec![image.clone()]).collect();
        let options = Options::new().quantize(quantize).calibration(samples);
        let written = to_tflite(model.graph(), &options).unwrap();
        let ratio = written.bytes.len() as f64 / written.float_bytes as f64;
        let again = Model::from_bytes(&written.bytes).unwrap();
        let found = accuracy(&again, test);
        eprintln!(
            "{quantize:?}: {} bytes ({ratio:.3} of float), accuracy {found:.3}, {:?}",
            written.bytes.len(),
            written.warnings
        );
        assert!(ratio <= size, "{quantize:?}: {ratio}");
        assert!(found >= here, "{quantize:?}: {found}");
        assert_eq!(written.recurrent_ops, 2, "{quantize:?}");
        let file = out.join(format!("digits_{quantize:?}.tflite"));
        std::fs::write(&file, &written.bytes).unwrap();
        files.push((file, there));
    }
    let python = std::env::var("FUSELSTM_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let probe = Command::new(&python).args(["-c", "import ai_edge_litert, numpy"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "NOT TESTED in the real interpreter: no Python with ai_edge_litert (set FUSELSTM_PYTHON)"
        );
        return;
    }
    // The 1,000 images lie beside the large corpus.
    if !common::is_whole_corpus() {
        eprintln!("NOT TESTED in the real interpreter: the small corpus has no test set");
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/accuracy.py");
    let output = Command::new(python)
        .arg(script)
        .arg(common::models().join("../data"))
        .args(files.iter().map(|(file, _)| file))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<Value> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(lines.len(), 2 * files.len(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in lines {
        eprintln!("{line}");
        let least =
            files.iter().find(|(file, _)| file.to_str() == line["file"].as_str()).unwrap().1;
        assert!(line["accuracy"].as_f64().unwrap() >= least, "{line}");
    }
}
