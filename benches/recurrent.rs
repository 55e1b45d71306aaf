//! LSTM layers on the cpu backend: the shapes of the peers benchmark, one thread and two.

mod common;

use std::time::Duration;

use common::{Bench, Shape, Streamed};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fuselstm::internal::backend::{BackendOptions, Precision};

const SHAPES: [Shape; 14] = [
    Shape::layer(128, 1, 64, 64),
    Shape::layer(128, 1, 128, 128),
    Shape::layer(128, 1, 256, 256),
    Shape::layer(128, 1, 512, 512),
    Shape::layer(128, 1, 1024, 1024),
    Shape::layer(128, 16, 128, 128),
    Shape::layer(128, 16, 256, 256),
    Shape::layer(128, 64, 256, 256),
    Shape::layer(128, 64, 512, 512),
    Shape::layer(128, 256, 512, 512),
    Shape::layer(128, 64, 1024, 1024),
    Shape { layers: 2, ..Shape::layer(28, 1, 28, 64) },
    Shape { layers: 2, ..Shape::layer(28, 20, 28, 64) },
    Shape { bidirectional: true, ..Shape::layer(128, 16, 128, 128) },
];

fn recurrent(criterion: &mut Criterion) {
    for threads in [1, 2] {
        let mut group = criterion.benchmark_group(format!("lstm_f32_{threads}"));
        for shape in SHAPES {
            group.throughput(Throughput::Elements(shape.operations()));
            let options = BackendOptions { threads: Some(threads), ..BackendOptions::default() };
            let mut bench = Bench::random(&shape, options);
            group.bench_function(shape.name(), |bencher| bencher.iter(|| bench.run()));
        }
        group.finish();
    }
    let mut group = criterion.benchmark_group("lstm_b1_reduced");
    for shape in SHAPES.iter().filter(|shape| shape.batch == 1) {
        for precision in [Precision::F16, Precision::Bf16, Precision::Int8] {
            let options =
                BackendOptions { threads: Some(1), precision, ..BackendOptions::default() };
            let mut bench = Bench::random(shape, options);
            group.bench_function(format!("{}_{precision:?}", shape.name()), |bencher| {
                bencher.iter(|| bench.run())
            });
        }
    }
    group.finish();
    // One step: the program alone, and through a stream, whose call has to cost little beside it.
    let mut group = criterion.benchmark_group("lstm_one_step");
    for hidden in [16, 128] {
        let mut bench =
            Bench::random(&Shape::layer(1, 1, hidden, hidden), BackendOptions::default());
        group.bench_function(format!("H{hidden}"), |bencher| bencher.iter(|| bench.run()));
        let mut streamed = Streamed::new(hidden);
        group.bench_function(format!("H{hidden}_stream"), |bencher| {
            bencher.iter(|| streamed.step())
        });
    }
    group.finish();
    // The time of a step does not depend on the length of the sequence.
    let mut group = criterion.benchmark_group("lstm_per_step");
    for steps in [256, 16_384] {
        group.throughput(Throughput::Elements(steps as u64));
        let options = BackendOptions { threads: Some(1), ..BackendOptions::default() };
        let mut bench = Bench::random(&Shape::layer(steps, 1, 64, 64), options);
        group.bench_function(format!("T{steps}_H64"), |bencher| bencher.iter(|| bench.run()));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = recurrent
}
criterion_main!(benches);
