//! LSTM layers on the gpu backend, by every strategy, from host memory to host memory.
//!
//! A strategy that does not apply to a shape or is refused on this adapter is left out with a
//! message.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fuselstm::graph::synthetic::{CellKind, Random, Shape};
use fuselstm::types::Strategy;
use fuselstm::{Device, Model, Outputs, Session};

/// Steps, batch rows, units, layers: small enough for a software driver.
const SHAPES: [(usize, usize, usize, usize); 5] =
    [(128, 1, 64, 1), (128, 1, 128, 1), (128, 1, 256, 1), (128, 16, 64, 1), (64, 1, 64, 4)];

fn strategies(criterion: &mut Criterion) {
    if let Err(error) = Session::new(&model(8, 1), Device::gpu()) {
        eprintln!("nothing is measured: {error}");
        return;
    }
    for (time, batch, hidden, layers) in SHAPES {
        let model = model(hidden, layers);
        let x = Random::new(1).tensor(&[time, batch, hidden], 1.0).unwrap();
        let mut group =
            criterion.benchmark_group(format!("gpu_T{time}_B{batch}_H{hidden}_L{layers}"));
        group.throughput(Throughput::Elements((time * batch) as u64));
        for &strategy in Strategy::ALL {
            let session =
                Session::builder(&model).device(Device::gpu()).strategy(strategy).build().unwrap();
            let mut stream = session.stream();
            let mut outputs = Outputs::default();
            // The first run compiles.
            if let Err(error) = stream.run_into(&[("x", &x)], &mut outputs) {
                eprintln!("{strategy} is left out: {error}");
                continue;
            }
            group.bench_function(strategy.name(), |bencher| {
                bencher.iter(|| {
                    stream.reset();
                    stream.run_into(&[("x", &x)], &mut outputs).expect("the session runs");
                });
            });
        }
        group.finish();
    }
}

fn model(hidden: usize, layers: usize) -> Model {
    let shape = Shape { cell: CellKind::Lstm, input: hidden, hidden, layers, bidirectional: false };
    Model::from_graph(shape.graph(1).unwrap()).unwrap()
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = strategies
}
criterion_main!(benches);
