//! A run of the cpu backend allocates nothing once it has run before: shown by a counting
//! allocator.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../benches/common/mod.rs"]
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Bench, Kind, Shape, Streamed};
use fuselstm::internal::backend::{BackendOptions, Precision};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One test, because the counter is of the whole process.
#[test]
fn runs_after_the_first_two_allocate_nothing() {
    let kinds = [Kind::Lstm, Kind::Gru, Kind::GruResetBefore, Kind::Rnn];
    let of_every_kind = kinds.into_iter().flat_map(|kind| {
        let small = Shape { kind, ..Shape::layer(20, 12, 24, 24) };
        let large = Shape { kind, ..Shape::layer(40, 32, 64, 64) };
        let lengths =
            [small, large].map(|shape| Shape { lengths: true, bidirectional: true, ..shape });
        [small, large].into_iter().chain(lengths)
    });
    let shapes = [
        Shape::layer(20, 1, 32, 32),
        Shape::layer(1, 1, 128, 128),
        Shape { layers: 2, ..Shape::layer(28, 20, 28, 64) },
        Shape { bidirectional: true, ..Shape::layer(40, 32, 64, 64) },
        Shape::layer(40, 1, 256, 256),
    ];
    for shape in shapes.into_iter().chain(of_every_kind) {
        for precision in [Precision::Full, Precision::F16, Precision::Bf16, Precision::Int8] {
            for threads in [1, 2] {
                let options = BackendOptions {
                    threads: Some(threads),
                    precision,
                    ..BackendOptions::default()
                };
                let mut bench = Bench::random(&shape, options);
                // The caller's first output tensor is not of the right size, so two runs fill both
                // buffers.
                bench.run();
                bench.run();
                // A helper that gets its core late begins while runs are counted, and beginning
                // allocates: once, so that one of three rounds is without. What a run allocates is
                // in all of them.
                let counts = [(); 3].map(|()| {
                    let before = ALLOCATIONS.load(Ordering::Relaxed);
                    for _ in 0..5 {
                        bench.run();
                    }
                    ALLOCATIONS.load(Ordering::Relaxed) - before
                });
                assert!(
                    counts.contains(&0),
                    "{shape:?} {precision:?} {threads} threads: {counts:?}"
                );
            }
        }
    }
    let mut streamed = Streamed::new(64);
    // The first step makes the states, the second one the copy that the next run writes to.
    (0..3).for_each(|_| streamed.step());
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (0..5).for_each(|_| streamed.step());
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "a stream");
}
