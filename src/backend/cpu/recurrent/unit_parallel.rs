//! One row, several threads: the units of a wide LSTM are shared out, and every step ends with an
//! exchange of the output state.
//!
//! A step takes some microseconds, so a worker that loses its core for a moment would hold up
//! everybody. The caller therefore never depends on one: workers read and write nothing that is the
//! caller's (the input is copied, the state goes through atomics), and one that is late is given
//! up. The caller then computes its share from the last state that it published, finishes alone,
//! and tries again some runs later. It also rests when the run took no less time than one thread
//! takes, whatever the reason.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::super::simd::{KernelSet, UNITS, View};
use super::row_block::{Context, RowBlock};
use super::unit_range::UnitRange;
use super::weights::Weights;
use super::{Mask, Operands, Shape};
use crate::error::{Error, Result};
use crate::graph::Recurrent;

/// Units from which half a step (1.3 µs at 128) is long enough for the exchange, about 0.3 µs, to
/// pay.
pub(super) const LEAST_UNITS: usize = 128;
/// Least units of a thread: with fewer, more threads only make the exchange longer.
const LEAST_UNITS_A_THREAD: usize = 64;
/// How long a worker may be late at a step, beside four steps of the mean time.
const PATIENCE: Duration = Duration::from_micros(20);
/// How long a sleeping worker may take to come at the start of a run.
const WAKING: Duration = Duration::from_micros(100);
/// Looks at the workers' counters before a caller that waits reads the clock: half a microsecond,
/// the usual wait and more, so that the clock costs nothing while all goes well.
const POLLS: usize = 32;
/// Rounds that an idle worker polls for work, then rounds that it gives its core away, before it
/// sleeps.
const SPINS: usize = 4000;
const YIELDS: usize = 50;

/// States that are kept. A worker that was timed out in step s may finish it and do step s + 1,
/// since the caller has done its share of s; it cannot begin s + 2. So it writes the entries of s +
/// 1 and s + 2, and that of s stays for the caller to go back to.
const ENTRIES: usize = 3;

/// A counter on a cache line of its own.
#[repr(align(128))]
#[derive(Default)]
struct Counter(AtomicUsize);

/// What caller and workers share.
struct Exchange {
    op: Recurrent,
    shape: Shape,
    weights: Arc<Weights>,
    kernels: &'static KernelSet,
    ranges: Vec<UnitRange>,
    chunk: usize,
    /// Input of the chunk at work.
    x: RwLock<Vec<f32>>,
    /// State before step s in the entry `s % ENTRIES`.
    h: [Vec<AtomicU32>; ENTRIES],
    c: [Vec<AtomicU32>; ENTRIES],
    /// Number of the run, chunks of it whose input is there, and the run that was timed out last.
    round: AtomicUsize,
    chunks: AtomicUsize,
    abandoned: AtomicUsize,
    /// By worker: steps done in this run, and the last run that it is done with.
    progress: Vec<Counter>,
    left: Vec<Counter>,
    /// Steps that the caller has done.
    caller: Counter,
    stop: AtomicBool,
}

fn write(to: &[AtomicU32], from: &[f32]) {
    for (to, x) in to.iter().zip(from) {
        to.store(x.to_bits(), Ordering::Relaxed);
    }
}

fn read(from: &[AtomicU32], to: &mut [f32]) {
    for (x, to) in from.iter().zip(to) {
        *to = f32::from_bits(x.load(Ordering::Relaxed));
    }
}

impl Exchange {
    /// First step of a chunk (in the order of the input) and its length.
    fn chunk_at(&self, done: usize) -> Range<usize> {
        let steps = self.shape.steps;
        let count = self.chunk.min(steps - done);
        if self.is_reverse() { steps - done - count..steps - done } else { done..done + count }
    }

    fn is_reverse(&self) -> bool {
        self.op.directions.first().is_some_and(|direction| direction.reverse)
    }

    /// The output state before step `s`, but for the units of share `own`.
    fn read_others(&self, own: usize, s: usize, h: &mut [f32]) {
        for (_, range) in self.ranges.iter().enumerate().filter(|(share, _)| *share != own) {
            read(&self.h[s % ENTRIES][range.units()], &mut h[range.units()]);
        }
    }

    fn context<'a>(&'a self, operands: &'a Operands<'a>) -> Context<'a> {
        Context {
            op: &self.op,
            shape: &self.shape,
            weights: &self.weights,
            kernels: self.kernels,
            operands,
        }
    }

    /// The worker's share of one run; returns early when it was timed out.
    fn serve_run(&self, index: usize, round: usize, part: &mut RowBlock) -> Result<()> {
        let range = self
            .ranges
            .get(index + 1)
            .ok_or_else(|| Error::internal("a worker without a share"))?;
        let progress = self
            .progress
            .get(index)
            .ok_or_else(|| Error::internal("a worker without a counter"))?;
        let abandoned =
            || self.abandoned.load(Ordering::Acquire) == round || self.stop.load(Ordering::Acquire);
        let wait = |ready: &dyn Fn() -> bool| {
            let mut spins = 0;
            while !ready() {
                if abandoned() {
                    return false;
                }
                pause(&mut spins);
            }
            true
        };
        read(&self.c[0], &mut part.c_row()[..range.units().end]);
        read(&self.h[0], part.h_row());
        let mut done = 0;
        while done < self.shape.steps {
            let steps = self.chunk_at(done);
            let chunk = done / self.chunk;
            if !wait(&|| self.chunks.load(Ordering::Acquire) > chunk) {
                return Ok(());
            }
            {
                let Ok(x) = self.x.try_read() else { return Ok(()) };
                part.project(&self.context(&operands(&x)), 0..steps.len(), range)?;
            }
            for k in 0..steps.len() {
                let s = done + k;
                let others = || {
                    self.caller.0.load(Ordering::Acquire) >= s
                        && self.progress.iter().all(|other| other.0.load(Ordering::Acquire) >= s)
                };
                if !wait(&others) {
                    return Ok(());
                }
                self.read_others(index + 1, s, part.h_row());
                let local = if self.is_reverse() { steps.len() - 1 - k } else { k };
                part.advance(&self.context(&operands(&[])), local, s % 2 == 1, range)?;
                let units = range.units();
                write(&self.h[(s + 1) % ENTRIES][units.clone()], &part.h_row()[units.clone()]);
                write(&self.c[(s + 1) % ENTRIES][units.clone()], &part.c_row()[units]);
                progress.0.store(s + 1, Ordering::Release);
            }
            done += steps.len();
        }
        Ok(())
    }
}

/// Operands of a chunk: x alone.
fn operands(x: &[f32]) -> Operands<'_> {
    Operands { x, auxiliary: None, mask: Mask::None, h0: [None; 2], c0: [None; 2] }
}

fn pause(spins: &mut usize) {
    *spins += 1;
    if *spins < SPINS { std::hint::spin_loop() } else { thread::yield_now() }
}

/// A worker's life: waits for runs.
fn serve(exchange: &Exchange, index: usize, mut part: RowBlock) {
    let (mut spins, mut last) = (0, 0);
    while !exchange.stop.load(Ordering::Acquire) {
        let round = exchange.round.load(Ordering::Acquire);
        if round != last {
            last = round;
            // An error leaves the progress where it is: the caller stops waiting for this worker and meets
            // the error itself.
            let _ = exchange.serve_run(index, round, &mut part);
            if let Some(left) = exchange.left.get(index) {
                left.0.store(round, Ordering::Release);
            }
            spins = 0;
        } else if spins < SPINS + YIELDS {
            pause(&mut spins);
        } else {
            thread::park();
            spins = 0;
        }
    }
}

/// The workers of one layer.
pub(super) struct UnitParallel {
    exchange: Arc<Exchange>,
    workers: Vec<JoinHandle<()>>,
    round: usize,
}

impl UnitParallel {
    /// Shares the units of the layer out to `threads` threads, the caller's own among them; `None`
    /// when there are too few.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) when the system gives no thread.
    pub fn new(
        op: &Recurrent,
        shape: &Shape,
        weights: &Arc<Weights>,
        kernels: &'static KernelSet,
        chunk: usize,
        threads: usize,
    ) -> Result<Option<UnitParallel>> {
        let ranges = UnitRange::shares(weights, threads.min(weights.units / LEAST_UNITS_A_THREAD));
        if ranges.len() < 2 {
            return Ok(None);
        }
        let workers = ranges.len() - 1;
        let atomics = || {
            (0..weights.units.next_multiple_of(UNITS))
                .map(|_| AtomicU32::new(0))
                .collect::<Vec<_>>()
        };
        let counters = || (0..workers).map(|_| Counter::default()).collect::<Vec<_>>();
        let exchange = Arc::new(Exchange {
            op: op.clone(),
            shape: *shape,
            weights: weights.clone(),
            kernels,
            ranges,
            chunk,
            x: RwLock::new(vec![0.0; chunk * shape.inputs]),
            h: [atomics(), atomics(), atomics()],
            c: [atomics(), atomics(), atomics()],
            round: AtomicUsize::new(0),
            chunks: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
            progress: counters(),
            left: counters(),
            caller: Counter::default(),
            stop: AtomicBool::new(false),
        });
        let mut group = UnitParallel { exchange, workers: Vec::new(), round: 0 };
        for index in 0..workers {
            let part = RowBlock::new(0, 0..1, chunk, shape, weights);
            let exchange = group.exchange.clone();
            let name = format!("fuselstm units {}", index + 1);
            group.workers.push(
                thread::Builder::new().name(name).spawn(move || serve(&exchange, index, part))?,
            );
        }
        Ok(Some(group))
    }

    /// Number of threads, the caller's among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Whether nobody is still held up in an earlier run.
    pub fn is_ready(&self) -> bool {
        self.exchange.left.iter().all(|left| left.0.load(Ordering::Acquire) == self.round)
    }

    /// The whole run, on the caller's thread, with `part` as its own (full) state; `alone` is what
    /// it takes one thread. Whether all workers stayed to the end.
    pub fn run(
        &mut self,
        part: &mut RowBlock,
        context: &Context<'_>,
        view: &mut Option<View<'_>>,
        alone: Option<Duration>,
    ) -> Result<bool> {
        let began = Instant::now();
        part.start(context)?;
        let exchange = self.exchange.clone();
        let e = &*exchange;
        write(&e.h[0], part.h_row());
        write(&e.c[0], part.c_row());
        e.chunks.store(0, Ordering::Relaxed);
        e.caller.0.store(0, Ordering::Relaxed);
        e.progress.iter().for_each(|progress| progress.0.store(0, Ordering::Relaxed));
        self.round += 1;
        e.round.store(self.round, Ordering::Release);
        self.workers.iter().for_each(|worker| worker.thread().unpark());
        let own =
            e.ranges.first().ok_or_else(|| Error::internal("a group without a caller's share"))?;
        let mut done = 0;
        while done < e.shape.steps {
            let steps = e.chunk_at(done);
            let chunk_began = Instant::now();
            // One thread would have done this chunk by then.
            let overtaken = alone.map(|alone| {
                began + alone.mul_f64((done + steps.len()) as f64 / e.shape.steps as f64)
            });
            {
                // Nobody reads it now: a worker that is late with the last chunk was timed out
                // below.
                let Ok(mut x) = e.x.try_write() else {
                    return self.finish_serial(part, context, view, done, 0);
                };
                let from =
                    &context.operands.x[steps.start * e.shape.inputs..steps.end * e.shape.inputs];
                x[..from.len()].copy_from_slice(from);
            }
            e.chunks.fetch_add(1, Ordering::Release);
            part.project(context, steps.clone(), own)?;
            for k in 0..steps.len() {
                let s = done + k;
                let local = if e.is_reverse() { steps.len() - 1 - k } else { k };
                part.advance(context, local, s % 2 == 1, own)?;
                let next = (s + 1) % ENTRIES;
                write(&e.h[next][own.units()], &part.h_row()[own.units()]);
                e.caller.0.store(s + 1, Ordering::Release);
                let until = |now: Instant| {
                    // The mean step, the chunk's projection in it: the first step of a chunk may
                    // take as long as that does.
                    let step = (now - chunk_began) / (k as u32 + 1);
                    let waking = if s == 0 { WAKING } else { Duration::ZERO };
                    let patient = now
                        + PATIENCE
                        + waking
                        + if k == 0 { step } else { 4 * step.min(PATIENCE) };
                    overtaken.map_or(patient, |overtaken| patient.min(overtaken))
                };
                if !self.all_done(s + 1, until) {
                    return self.finish_serial(part, context, view, done, k);
                }
                e.read_others(0, s + 1, part.h_row());
                part.write_y(steps.start + local, view)?;
            }
            done += steps.len();
        }
        for range in e.ranges.iter().skip(1) {
            read(&e.c[e.shape.steps % ENTRIES][range.units()], &mut part.c_row()[range.units()]);
        }
        Ok(true)
    }

    /// Waits until every worker has done `steps` steps, or the time has come that `until` names
    /// when the wait begins to be long.
    fn all_done(&self, steps: usize, until: impl Fn(Instant) -> Instant) -> bool {
        let (mut polls, mut last) = (0usize, None);
        while self
            .exchange
            .progress
            .iter()
            .any(|progress| progress.0.load(Ordering::Acquire) < steps)
        {
            polls += 1;
            if polls.is_multiple_of(POLLS) {
                let now = Instant::now();
                if now > *last.get_or_insert_with(|| until(now)) {
                    return false;
                }
            }
            std::hint::spin_loop();
        }
        true
    }

    /// Stops waiting for the workers in step `k` of the chunk that begins at `done`, of which the caller has
    /// its own share (`k` = 0 with nothing done when the chunk's input could not be handed out),
    /// and finishes the run without them: `false`.
    fn finish_serial(
        &mut self,
        part: &mut RowBlock,
        context: &Context<'_>,
        view: &mut Option<View<'_>>,
        done: usize,
        k: usize,
    ) -> Result<bool> {
        let exchange = self.exchange.clone();
        let e = &*exchange;
        e.abandoned.store(self.round, Ordering::Release);
        let s = done + k;
        let began = e.caller.0.load(Ordering::Relaxed) > s;
        let steps = e.chunk_at(done);
        let local = |k: usize| if e.is_reverse() { steps.len() - 1 - k } else { k };
        // The workers' state before this step is still there (see `ENTRIES`).
        for range in e.ranges.iter().skip(1) {
            read(&e.c[s % ENTRIES][range.units()], &mut part.c_row()[range.units()]);
        }
        let mut first = k;
        if began {
            let own = e
                .ranges
                .first()
                .ok_or_else(|| Error::internal("a group without a caller's share"))?;
            // The product reads the whole old state, so the new one is put together beside it.
            read(&e.h[(s + 1) % ENTRIES][own.units()], &mut part.m_row()[own.units()]);
            read(&e.h[s % ENTRIES], part.h_row());
            for range in e.ranges.iter().skip(1) {
                part.project(context, steps.clone(), range)?;
                part.advance(context, local(k), s % 2 == 1, range)?;
                part.move_h_to_m(range.units());
                read(&e.h[s % ENTRIES][range.units()], &mut part.h_row()[range.units()]);
            }
            part.move_m_to_h();
            part.write_y(steps.start + local(k), view)?;
            first = k + 1;
        } else {
            part.project(context, steps.clone(), &UnitRange::whole(&e.weights))?;
        }
        let whole = UnitRange::whole(&e.weights);
        for k in first..steps.len() {
            part.advance(context, local(k), (done + k) % 2 == 1, &whole)?;
            part.write_y(steps.start + local(k), view)?;
        }
        part.run_from(context, done + steps.len(), view)?;
        Ok(false)
    }
}

impl Drop for UnitParallel {
    fn drop(&mut self) {
        self.exchange.stop.store(true, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::super::{Layer, ParallelPolicy, Results};
    use super::*;
    use crate::backend::BackendOptions;
    use crate::backend::cpu::simd;
    use crate::backend::cpu::simd::tests::noise;
    use crate::graph::op::Activation;
    use crate::graph::recurrent::*;
    use crate::tensor::Tensor;

    const STEPS: usize = 300;
    const UNITS_OF_TEST: usize = 256;

    fn layer(reverse: bool, threads: usize) -> Layer {
        let (units, inputs) = (UNITS_OF_TEST, 24);
        let rows = 4 * units;
        let matrix = |seed, columns: usize| {
            let data = noise(seed, rows * columns).iter().map(|x| x / 16.0).collect();
            Matrix::float(Tensor::from_vec(&[rows, columns], data).unwrap())
        };
        let weights = CellWeights {
            input: matrix(1, inputs),
            recurrent: matrix(2, units),
            auxiliary: None,
            bias: None,
            recurrent_bias: None,
            peephole: None,
            layer_norm: None,
            projection: None,
        };
        let op = Recurrent {
            cell: Cell::Lstm(Lstm {
                gate: Activation::Sigmoid,
                candidate: Activation::Tanh,
                output: Activation::Tanh,
                coupled_input_forget: false,
                cell_clip: None,
                projection_clip: None,
            }),
            directions: vec![Direction { reverse, source: Source::X, weights: Arc::new(weights) }],
            layout: Layout::TimeMajor,
            masking: Masking::Zero,
            merge: Merge::Separate,
            gate_clip: None,
            arithmetic: Arithmetic::Float,
        };
        let kernels = simd::select(None).unwrap();
        Layer::new(&op, &[STEPS, 1, inputs], None, kernels, &BackendOptions::default(), threads)
            .unwrap()
    }

    fn run(layer: &mut Layer, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (mut y, mut c) = (vec![0.0; STEPS * UNITS_OF_TEST], vec![0.0; UNITS_OF_TEST]);
        let mut results = Results::default();
        results.y[0] = Some(&mut y);
        results.c_n[0] = Some(&mut c);
        layer.run(None, &operands(x), results).unwrap();
        (y, c)
    }

    /// Helpers that leave at any moment of a run, or never come: the result is that of one thread,
    /// bit for bit, because every unit is computed by the same kernel whoever computes it.
    #[test]
    fn workers_that_time_out() {
        let x = noise(3, STEPS * 24);
        for reverse in [false, true] {
            let expected = run(&mut layer(reverse, 1), &x);
            for threads in [2, 3] {
                let mut layer = layer(reverse, threads);
                let exchange = layer.group.as_ref().unwrap().exchange.clone();
                let stop = AtomicBool::new(false);
                thread::scope(|scope| {
                    scope.spawn(|| {
                        // Sends the workers away after other times in every run.
                        let mut wait = 50;
                        while !stop.load(Ordering::Relaxed) {
                            thread::sleep(Duration::from_micros(wait));
                            exchange
                                .abandoned
                                .store(exchange.round.load(Ordering::Acquire), Ordering::Release);
                            wait = wait * 7 % 5000 + 20;
                        }
                    });
                    for _ in 0..30 {
                        layer.policy = ParallelPolicy::new();
                        assert!(run(&mut layer, &x) == expected, "{threads} threads");
                    }
                    stop.store(true, Ordering::Relaxed);
                });
                exchange.stop.store(true, Ordering::Release);
                layer.policy = ParallelPolicy::new();
                assert!(run(&mut layer, &x) == expected, "no worker at all");
            }
        }
    }

    /// After a failure the next run is done alone.
    #[test]
    fn a_team_rests_after_a_failure() {
        let mut layer = layer(false, 2);
        let x = noise(3, STEPS * 24);
        layer.group.as_ref().unwrap().exchange.stop.store(true, Ordering::Release);
        run(&mut layer, &x);
        assert!(!layer.policy.is_parallel_due());
    }
}
