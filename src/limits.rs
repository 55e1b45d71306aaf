//! Bounds of what a thread does: until when, how much memory, and whether it was called off.
//!
//! Whoever sets bounds enters them for a thread; loops and steps ask [`check`], what makes something
//! large asks [`room_for`] first. Nothing is charged where no bound is set but the memory that is
//! allowed by default.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::text::bytes;

/// Most bytes of a run's inputs, states and intermediate values: more than any recurrent model here
/// needs, less than a desk computer has.
pub(crate) const DEFAULT_MEMORY: u64 = 8 << 30;

/// Most bytes of one tensor that a model makes: what a `.tflite` file could hold.
pub(crate) const MOST_TENSOR_BYTES: u64 = 1 << 31;

/// Calls off the runs that were given it, from any thread.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    called_off: Arc<AtomicBool>,
}

impl Cancel {
    /// A handle that has called off nothing.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Calls off what was given this handle: it ends in an error of the kind
    /// [`Cancelled`](ErrorKind::Cancelled) at its next step, round of a loop, or submission.
    pub fn cancel(&self) {
        self.called_off.store(true, Ordering::Relaxed);
    }

    /// Whether it was called off.
    pub fn is_cancelled(&self) -> bool {
        self.called_off.load(Ordering::Relaxed)
    }
}

/// Bounds of a run. Without any, a run goes on until it is done, in the memory that is allowed by
/// default (8 GiB).
///
/// ```
/// use std::time::Duration;
/// use fuselstm::types::{Cancel, RunOptions};
///
/// let stop = Cancel::new();
/// let options = RunOptions::new().time_limit(Duration::from_secs(2)).cancel(&stop);
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "bounds hold where they are given to"]
pub struct RunOptions {
    deadline: Option<Instant>,
    time: Option<Duration>,
    memory: Option<u64>,
    cancel: Option<Cancel>,
}

impl RunOptions {
    /// No bounds.
    pub fn new() -> RunOptions {
        RunOptions::default()
    }

    /// Each run ends in an error of the kind [`Limit`](ErrorKind::Limit) when it takes longer.
    pub fn time_limit(mut self, limit: Duration) -> RunOptions {
        self.time = Some(limit);
        self
    }

    /// As [`RunOptions::time_limit`], for all runs together: until then.
    pub fn deadline(mut self, deadline: Instant) -> RunOptions {
        self.deadline = Some(deadline);
        self
    }

    /// Most bytes of inputs, states and intermediate values; a run that needs more is refused
    /// before it takes them.
    pub fn memory_limit(mut self, bytes: u64) -> RunOptions {
        self.memory = Some(bytes);
        self
    }

    /// Runs can be called off with this handle.
    pub fn cancel(mut self, handle: &Cancel) -> RunOptions {
        self.cancel = Some(handle.clone());
        self
    }

    /// These bounds from now on.
    pub(crate) fn begin(&self) -> Bounds {
        let now = Instant::now();
        let timed = self.time.and_then(|time| now.checked_add(time));
        let deadline = match (timed, self.deadline) {
            (Some(timed), Some(deadline)) => Some(timed.min(deadline)),
            (timed, deadline) => timed.or(deadline),
        };
        let is_bounded = deadline.is_some() || self.memory.is_some() || self.cancel.is_some();
        Bounds(is_bounded.then(|| {
            Arc::new(Inner {
                begin: now,
                deadline,
                memory: self.memory,
                cancel: self.cancel.clone(),
                outer: None,
            })
        }))
    }
}

/// Bounds that are running.
#[derive(Clone, Default)]
pub(crate) struct Bounds(Option<Arc<Inner>>);

struct Inner {
    begin: Instant,
    deadline: Option<Instant>,
    memory: Option<u64>,
    cancel: Option<Cancel>,
    /// Bounds that hold as well: those that were entered before these.
    outer: Option<Arc<Inner>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Inner>>> = const { RefCell::new(None) };
}

impl Bounds {
    /// Makes them hold for this thread, beside those that hold already, until the guard goes.
    pub(crate) fn enter(&self) -> Guard {
        let Some(inner) = &self.0 else { return Guard { before: None, is_entered: false } };
        let before = CURRENT.with_borrow(Option::clone);
        let entered = Inner {
            begin: inner.begin,
            deadline: inner.deadline,
            memory: inner.memory,
            cancel: inner.cancel.clone(),
            outer: before.clone(),
        };
        CURRENT.set(Some(Arc::new(entered)));
        Guard { before, is_entered: true }
    }
}

/// Bounds that were entered; those before them hold again when it goes.
pub(crate) struct Guard {
    before: Option<Arc<Inner>>,
    is_entered: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.is_entered {
            CURRENT.set(self.before.take());
        }
    }
}

/// Whether this thread may go on.
///
/// # Errors
/// [`Limit`](ErrorKind::Limit) past the deadline, [`Cancelled`](ErrorKind::Cancelled).
pub(crate) fn check() -> Result<()> {
    CURRENT.with_borrow(|current| {
        let mut next = current.as_ref();
        while let Some(bounds) = next {
            bounds.check()?;
            next = bounds.outer.as_ref();
        }
        Ok(())
    })
}

impl Inner {
    fn check(&self) -> Result<()> {
        if self.cancel.as_ref().is_some_and(Cancel::is_cancelled) {
            return Err(Error::new(ErrorKind::Cancelled, "it was called off"));
        }
        let Some(deadline) = self.deadline else { return Ok(()) };
        let now = Instant::now();
        if now < deadline {
            return Ok(());
        }
        let seconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64();
        Err(Error::limit(format!(
            "it has taken {:.1} s, the limit is {:.1} s",
            seconds(self.begin, now),
            seconds(self.begin, deadline)
        )))
    }
}

/// Most bytes that a run on this thread may need.
pub(crate) fn memory() -> u64 {
    CURRENT.with_borrow(|current| {
        let mut most: Option<u64> = None;
        let mut next = current.as_ref();
        while let Some(bounds) = next {
            most = most.into_iter().chain(bounds.memory).min();
            next = bounds.outer.as_ref();
        }
        most.unwrap_or(DEFAULT_MEMORY)
    })
}

/// Refuses values that together take more than a run may need: those whose shapes depend on data
/// are known only when they are there.
///
/// # Errors
/// [`Limit`](ErrorKind::Limit) with both numbers.
pub(crate) fn check_live(live: u64) -> Result<()> {
    let most = memory();
    if live <= most {
        return Ok(());
    }
    Err(Error::limit(format!(
        "the values of the run take {live} bytes by now, the limit is {most}"
    )))
}

/// Allocations below this are not asked for: the system has that much, or nothing works.
const SMALL: u64 = 1 << 20;

/// Asks for so many bytes before they are taken: what cannot be had is an error, where taking it
/// would end the process.
///
/// # Errors
/// [`Limit`](ErrorKind::Limit) with both numbers.
pub(crate) fn room_for(count: usize, size: usize) -> Result<()> {
    let wanted = (count as u64).saturating_mul(size as u64);
    if wanted < SMALL {
        return Ok(());
    }
    let most = memory();
    if wanted > most {
        return Err(Error::limit(format!(
            "{} are needed at once ({wanted} bytes), the limit is {} ({most} bytes)",
            bytes(wanted),
            bytes(most)
        )));
    }
    let refused = || Error::limit(format!("the system has no {} ({wanted} bytes)", bytes(wanted)));
    let mut probe: Vec<u8> = Vec::new();
    probe.try_reserve_exact(usize::try_from(wanted).map_err(|_| refused())?).map_err(|_| refused())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_while_they_are_entered_and_the_outer_ones_as_well() {
        assert!(check().is_ok());
        let stop = Cancel::new();
        let outer = RunOptions::new().cancel(&stop).memory_limit(1 << 21).begin();
        let guard = outer.enter();
        {
            let _inner = RunOptions::new().memory_limit(1 << 30).begin().enter();
            assert!(check().is_ok());
            assert_eq!(memory(), 1 << 21);
            stop.cancel();
            assert_eq!(check().unwrap_err().kind(), ErrorKind::Cancelled);
        }
        drop(guard);
        assert!(check().is_ok());
        assert_eq!(memory(), DEFAULT_MEMORY);
    }

    #[test]
    fn a_deadline_and_a_refusal_of_memory_name_both_numbers() {
        let past = RunOptions::new().time_limit(Duration::ZERO).begin();
        let _guard = past.enter();
        let error = check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
        assert!(error.to_string().contains("the limit is 0.0 s"), "{error}");
        let error = room_for(1 << 40, 4).unwrap_err().to_string();
        assert!(error.contains("4.0 TiB") && error.contains("8.0 GiB"), "{error}");
        assert!(room_for(usize::MAX, 8).is_err() && room_for(1 << 20, 4).is_ok());
    }
}
