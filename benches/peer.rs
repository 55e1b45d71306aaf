//! One case of the peers benchmark on the cpu backend.
//!
//! ```text
//! cargo bench --bench peer -- CASE_FOLDER Y_FILE THREADS [full|f16|bf16|int8] [SECONDS]
//! ```
//!
//! Reads `case.json`, `x.f32` and the raw weights of the folder, runs until the time is spent,
//! writes the last output and prints one JSON line with the samples.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::time::Instant;

use common::{Bench, Shape};
use fuselstm::internal::backend::{BackendOptions, Precision};

fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn main() {
    // `cargo bench` adds `--bench`.
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let [folder, y, threads, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: CASE_FOLDER Y_FILE THREADS [full|f16|bf16|int8] [SECONDS]");
        return;
    };
    let folder = Path::new(folder);
    let case: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("case.json")).unwrap()).unwrap();
    let size = |key: &str| case[key].as_u64().unwrap() as usize;
    let shape = Shape {
        layers: size("layers"),
        bidirectional: case["bidir"].as_bool().unwrap(),
        ..Shape::layer(size("T"), size("B"), size("I"), size("H"))
    };
    let precision: Precision = rest.first().map_or(Precision::Full, |name| name.parse().unwrap());
    let seconds: f64 = rest.get(1).map_or(0.8, |s| s.parse().unwrap());
    let instruction_set =
        std::env::var("FUSELSTM_INSTRUCTION_SET").ok().map(|name| name.parse().unwrap());
    let options = BackendOptions {
        threads: threads.parse().ok(),
        precision,
        instruction_set,
        ..BackendOptions::default()
    };
    let weights = |layer: usize, direction: usize| {
        let part = |letter: &str| floats(&folder.join(format!("{letter}_{layer}_{direction}.f32")));
        (part("w"), part("r"), part("b"))
    };
    let mut bench = Bench::new(&shape, floats(&folder.join("x.f32")), weights, options);
    let begin = Instant::now();
    bench.run();
    while begin.elapsed().as_secs_f64() < 0.3 * seconds {
        bench.run();
    }
    let mut samples = Vec::new();
    let begin = Instant::now();
    while samples.len() < 3 || (begin.elapsed().as_secs_f64() < seconds && samples.len() < 2000) {
        let start = Instant::now();
        bench.run();
        samples.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let out = bench.outputs[0].as_slice::<f32>().unwrap();
    std::fs::write(y, out.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    println!("{}", serde_json::json!({ "samples_ms": samples }));
}
