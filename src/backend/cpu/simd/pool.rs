//! Worker threads, and a piece of work that is done in parts by whoever is free.
//!
//! A worker that does not come (asleep, or its core is busy with something else) is not waited for:
//! it has to join while the work is open, and the caller does every part that nobody has taken.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};

use super::defect;
use super::grid::{Grid, View};
use crate::error::{Error, Result};

/// Rounds that a thread looks for news before it gives its core away: some tens of microseconds,
/// the time between two runs of a stream.
const SPINS: usize = 2000;
/// Times that an idle worker gives its core away before it sleeps.
const YIELDS: usize = 50;
/// The bit of the gate that closes it; the joined workers are counted below, the rounds above.
const CLOSED: u64 = 1 << 31;

type Job = *const (dyn Fn() + Sync);

struct Shared {
    /// Round in the upper half, [`CLOSED`], number of workers that joined.
    gate: AtomicU64,
    /// Workers that are done with this round.
    left: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    stop: AtomicBool,
}

// SAFETY: `job` is written only while the gate is closed and every joined worker has left, and read
// only after joining.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is used within the round it was set for, in which the closure
// outlives it (`Round`).
unsafe impl Send for Shared {}

/// Threads that wait for work.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the caller whose round it is.
    turn: Mutex<u32>,
}

impl Pool {
    /// Starts `workers` threads; the caller of [`for_each_part`] works too.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) when the system gives no thread.
    pub fn new(workers: usize) -> Result<Pool> {
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(CLOSED),
            left: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            stop: AtomicBool::new(false),
        });
        let mut pool = Pool { shared, workers: Vec::new(), turn: Mutex::new(0) };
        for index in 0..workers {
            let shared = pool.shared.clone();
            let name = format!("fuselstm cpu {}", index + 1);
            pool.workers.push(thread::Builder::new().name(name).spawn(move || serve(&shared))?);
        }
        Ok(pool)
    }

    /// Calls `job` here and on every worker that comes in time; returns when all of them have
    /// returned.
    fn run(&self, job: &(dyn Fn() + Sync)) {
        // Another program's round: this one does without the workers.
        let mut round = match self.turn.try_lock() {
            Ok(round) => round,
            Err(TryLockError::WouldBlock) => return job(),
            // A job panicked on the caller's thread; `Round` ended that round in order.
            Err(TryLockError::Poisoned(round)) => round.into_inner(),
        };
        *round = round.wrapping_add(1);
        self.shared.left.store(0, Ordering::Relaxed);
        // SAFETY: the last round is over (the lock). The lifetime is only erased: `Round` ends the
        // round before `job` does.
        unsafe {
            *self.shared.job.get() =
                Some(std::mem::transmute::<*const (dyn Fn() + Sync + '_), Job>(job));
        }
        self.shared.gate.store(u64::from(*round) << 32, Ordering::Release);
        let _round = Round(&self.shared);
        self.workers.iter().for_each(|worker| worker.thread().unpark());
        job();
    }
}

/// Ends a round when it is dropped, also by a panic: no worker joins any more, and those that did
/// are waited for.
struct Round<'a>(&'a Shared);

impl Drop for Round<'_> {
    fn drop(&mut self) {
        let joined = (self.0.gate.fetch_or(CLOSED, Ordering::AcqRel) & (CLOSED - 1)) as usize;
        let mut spins = 0;
        while self.0.left.load(Ordering::Acquire) < joined {
            wait(&mut spins);
        }
    }
}

/// Spins, then yields.
fn wait(spins: &mut usize) {
    *spins += 1;
    if *spins < SPINS { std::hint::spin_loop() } else { thread::yield_now() }
}

fn serve(shared: &Shared) {
    let (mut spins, mut last) = (0, 0);
    while !shared.stop.load(Ordering::Acquire) {
        let gate = shared.gate.load(Ordering::Acquire);
        let is_open = gate & CLOSED == 0 && gate >> 32 != last;
        if is_open
            && shared
                .gate
                .compare_exchange(gate, gate + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        {
            last = gate >> 32;
            // SAFETY: joined, so the job of this round is set and alive until `left` counts this
            // worker.
            if let Some(job) = unsafe { *shared.job.get() } {
                // A panic is reported by the part that was not done; the worker lives on.
                let _ = catch_unwind(AssertUnwindSafe(|| unsafe { (*job)() }));
            }
            shared.left.fetch_add(1, Ordering::Release);
            spins = 0;
        } else if spins < SPINS + YIELDS {
            wait(&mut spins);
        } else {
            thread::park();
            spins = 0;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches panics, so there is nothing to report.
            let _ = worker.join();
        }
    }
}

/// The parts, shared out by index.
struct Parts<P>(*mut P);
// SAFETY: every index is taken by one thread only, and P may be sent.
unsafe impl<P: Send> Sync for Parts<P> {}

impl<P> Parts<P> {
    /// # Safety
    /// `index` is in range, and nobody else has it.
    #[allow(clippy::mut_from_ref)]
    unsafe fn get(&self, index: usize) -> &mut P {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.0.add(index) }
    }
}

/// Calls `work` once for every part, with the view that one of the grids has for it (by the part's
/// index), if any.
///
/// # Errors
/// An error of one of the parts.
pub(crate) fn for_each_part<P: Send>(
    pool: Option<&Pool>,
    parts: &mut [P],
    grids: &[Option<Grid<'_>>],
    work: impl Fn(&mut P, Option<View<'_>>) -> Result<()> + Sync,
) -> Result<()> {
    // SAFETY (both uses): each index is visited once.
    let view = |index| grids.iter().flatten().find_map(|grid| unsafe { grid.view(index) });
    let (Some(pool), true) = (pool, parts.len() > 1) else {
        return parts.iter_mut().enumerate().try_for_each(|(index, part)| work(part, view(index)));
    };
    let count = parts.len();
    let parts = Parts(parts.as_mut_ptr());
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    pool.run(&|| {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            // SAFETY: below `count`, and the counter gives each index once.
            match work(unsafe { parts.get(index) }, view(index)) {
                Ok(()) => {
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
            }
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None if done.into_inner() == count => Ok(()),
        None => Err(defect("a part of the work panicked")),
    }
}
