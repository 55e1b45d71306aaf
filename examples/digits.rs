//! Reads handwritten digits, row by row, with a trained two-layer LSTM, on every device of this
//! machine.
//!
//! `cargo run --release --example digits`
//!
//! The model is the TFLite file that TensorFlow's converter wrote for its LSTM tutorial; the digits
//! and the answers that TensorFlow stored for them are in `examples/data` (see the README there).

use std::time::Instant;

use fuselstm::measure::stats::Summary;
use fuselstm::measure::{Tolerance, compare::compare};
use fuselstm::types::npz;
use fuselstm::{Device, Model, Result, Session, Tensor};

/// The model compiled in, as a program that ships with its model would have it.
const MODEL: &[u8] = include_bytes!("data/digits.tflite");
const DIGITS: &[u8] = include_bytes!("data/digits.npz");

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let data = npz::from_bytes(DIGITS)?;
    let entry = |name: &str| {
        let found = data.iter().find(|(key, _)| key == name).map(|(_, tensor)| tensor);
        found.ok_or_else(|| format!("digits.npz has no `{name}`"))
    };
    let (images, labels, stored) = (entry("images")?, entry("labels")?.to_i64()?, entry("logits")?);
    let images: Vec<Tensor> = images
        .as_slice::<u8>()?
        .chunks(28 * 28)
        .map(|image| {
            Tensor::from_vec(&[1, 28, 28], image.iter().map(|&p| f32::from(p) / 255.0).collect())
        })
        .collect::<Result<_>>()?;
    let stored_classes: Vec<usize> = stored.as_slice::<f32>()?.chunks(10).map(class).collect();

    let model = Model::from_bytes(MODEL)?;
    println!(
        "{}",
        model
            .inputs()
            .iter()
            .chain(model.outputs())
            .map(|s| s.to_string())
            .collect::<Vec<_>>()
            .join("   ")
    );
    draw(&images[..6.min(images.len())])?;

    let mut rows = Vec::new();
    for device in [Device::reference(), Device::cpu()].into_iter().chain(gpu()) {
        let session = Session::new(&model, device)?;
        session.run(&[("INPUT", &images[0])])?; // compiles
        let mut classes = Vec::new();
        let mut times = Vec::new();
        let mut logits = Vec::new();
        for image in &images {
            let start = Instant::now();
            let outputs = session.run(&[("INPUT", image)])?; // every image from the reset state
            times.push(start.elapsed().as_secs_f64());
            let answer = outputs.get("LOGITS")?.as_slice::<f32>()?;
            classes.push(class(answer));
            logits.extend_from_slice(answer);
        }
        let same = classes.iter().zip(&stored_classes).filter(|(a, b)| a == b).count();
        let right = classes.iter().zip(&labels).filter(|(a, b)| **a as i64 == **b).count();
        let distance =
            compare(stored, &Tensor::from_vec(stored.shape(), logits)?, Tolerance::DEVICE, &[])?;
        let first: String = classes.iter().take(6).map(|class| format!("{:^19}", class)).collect();
        println!("{first}  {}: {}", session.device(), session.description());
        rows.push(format!(
            " {:<9} {:>21} {:>18} {:>15} {:>10}",
            session.device(),
            format!("{same} of {}", classes.len()),
            format!("{right} of {}", classes.len()),
            format!("{:.1e}", distance.max_abs),
            format!("{:.1} µs", Summary::of(&times).median * 1e6),
        ));
    }
    println!(
        "\n {:<9} {:>21} {:>18} {:>15} {:>10}",
        "device", "class as TensorFlow", "class as labeled", "logits off by", "an image"
    );
    println!("{}", "─".repeat(79));
    rows.iter().for_each(|row| println!("{row}"));
    Ok(())
}

/// The GPU, when this machine has an adapter (a software driver counts).
fn gpu() -> Option<Device> {
    let found = Device::list().iter().any(|device| device.is_gpu && device.is_usable);
    if !found {
        println!("no GPU adapter here (`fuselstm devices` says more): reference and cpu only");
    }
    found.then(Device::gpu)
}

/// Index of the largest score.
fn class(scores: &[f32]) -> usize {
    let largest = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    largest.map_or(0, |(index, _)| index)
}

/// Images side by side, two rows of pixels a line of text.
fn draw(images: &[Tensor]) -> Result<()> {
    for row in (0..28).step_by(2) {
        let mut line = String::new();
        for image in images {
            let pixels = image.as_slice::<f32>()?;
            for column in 5..24 {
                let ink = (pixels[row * 28 + column] + pixels[(row + 1) * 28 + column]) / 2.0;
                line.push([' ', '.', ':', 'o', 'O', '@'][(ink * 5.99) as usize]);
            }
        }
        if !line.trim().is_empty() {
            println!("{}", line.trim_end());
        }
    }
    Ok(())
}
