//! The processor's rates: multiply-adds from registers, and reading from each level of memory.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::simd::{KernelSet, aligned_zeros};
use crate::backend::ceilings::{Bandwidth, Ceilings};

/// One measurement lasts at least this long; the best of [`ROUNDS`] counts, as what the processor
/// can do when it is left alone.
const LEAST: Duration = Duration::from_millis(15);
const ROUNDS: usize = 5;

/// Measures with each number of threads.
pub(super) fn measure(
    kernels: &'static KernelSet,
    adapter: &str,
    threads: &[usize],
) -> Vec<Ceilings> {
    threads.iter().map(|&threads| with_threads(kernels, adapter, threads.max(1))).collect()
}

fn with_threads(kernels: &'static KernelSet, adapter: &str, threads: usize) -> Ceilings {
    let rounds = 100_000;
    let (_, operations) = kernels.multiply_adds(1);
    let seconds = best(threads, |_| {
        black_box(kernels.multiply_adds(black_box(rounds)));
    });
    let fma_gflops = operations * rounds as f64 * threads as f64 / seconds / 1e9;
    let mut bandwidth = Vec::new();
    for (level, bytes, is_shared) in levels() {
        // Private levels hold a working set for each thread; the shared ones hold one for all.
        let each = if is_shared { bytes / threads } else { bytes };
        let elements = (each / 4).next_multiple_of(128);
        let mut data = Vec::new();
        for _ in 0..threads {
            let mut buffer = aligned_zeros(elements);
            // Pages that were never written are all one page.
            buffer.fill(1.0);
            data.push(buffer);
        }
        let seconds = best(threads, |thread| {
            if let Some(buffer) = data.get(thread) {
                black_box(kernels.read(black_box(buffer)));
            }
        });
        let total = (4 * elements * threads) as u64;
        bandwidth.push(Bandwidth {
            level: level.to_owned(),
            bytes: total,
            gbs: total as f64 / seconds / 1e9,
        });
    }
    let (device, adapter) = ("cpu".to_owned(), adapter.to_owned());
    Ceilings {
        device,
        adapter,
        threads: Some(threads),
        fma_gflops,
        bandwidth,
        ..Ceilings::default()
    }
}

/// Working sets: half of each private level, a quarter of the shared one, which other programs use
/// too, and four times its size for memory.
fn levels() -> [(&'static str, usize, bool); 4] {
    let size = |index: usize, otherwise: usize| cache_bytes(index).unwrap_or(otherwise);
    // Linux lists the first level's data, its instructions, the second level and the third.
    let (first, second, third) = (size(0, 32 << 10), size(2, 512 << 10), size(3, 16 << 20));
    let memory = (4 * third).clamp(64 << 20, 256 << 20);
    [
        ("L1", first / 2, false),
        ("L2", second / 2, false),
        ("L3", third / 4, true),
        ("memory", memory, true),
    ]
}

/// Size of a cache of the first processor, where the system tells.
fn cache_bytes(index: usize) -> Option<usize> {
    let text =
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size"))
            .ok()?;
    let text = text.trim();
    let (number, unit) = text.split_at(text.len().checked_sub(1)?);
    let unit = match unit {
        "K" => 1 << 10,
        "M" => 1 << 20,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(unit).filter(|&bytes| bytes > 0)
}

/// Seconds that `work` takes on each of so many threads at once: repeated until it is long enough
/// to time, the best of some rounds.
fn best(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let mut repeats = 1;
    while repeats < 1 << 30 {
        let time = once(1, 1, |_| (0..repeats).for_each(|_| work(0)));
        if time >= LEAST.as_secs_f64() {
            break;
        }
        repeats *= 2;
    }
    (0..ROUNDS).map(|_| once(threads, repeats, &work)).fold(f64::INFINITY, f64::min)
        / f64::from(repeats)
}

/// Seconds of `repeats` calls on each thread, until the last has finished.
fn once(threads: usize, repeats: u32, work: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        let each = |thread: usize| {
            barrier.wait();
            let start = Instant::now();
            (0..repeats).for_each(|_| work(thread));
            (start, Instant::now())
        };
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || each(thread))).collect();
        let (mut start, mut end) = each(0);
        for (s, e) in others.into_iter().filter_map(|other| other.join().ok()) {
            (start, end) = (start.min(s), end.max(e));
        }
        (end - start).as_secs_f64()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd;

    #[test]
    fn rates_fall_from_level_to_level_and_are_possible() {
        let found = measure(simd::select(None).unwrap(), "test", &[1]);
        assert_eq!(found.len(), 1);
        let one = &found[0];
        // A processor of any kind, busy or not: between a slow emulator and one that does not
        // exist.
        assert!((0.05..1000.0).contains(&one.fma_gflops), "{one:?}");
        let levels: Vec<&str> = one.bandwidth.iter().map(|b| b.level.as_str()).collect();
        assert_eq!(levels, ["L1", "L2", "L3", "memory"]);
        assert!(one.bandwidth.iter().all(|b| (0.05..10_000.0).contains(&b.gbs)), "{one:?}");
        assert!(one.bandwidth.windows(2).all(|pair| pair[0].bytes < pair[1].bytes), "{one:?}");
    }
}
