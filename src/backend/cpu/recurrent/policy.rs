//! Whether a run is shared with other threads: only while that is faster than one thread alone.

use std::time::Duration;

/// Runs alone after one that was not worth policy: doubled each time, up to this.
const LONGEST_BACKOFF: u32 = 128;

/// What the runs so far tell.
pub(super) struct ParallelPolicy {
    /// Runs to do alone, and how many it will be the next time.
    serial_runs: u32,
    backoff: u32,
    /// Shared runs so far; it matters only whether there was one.
    shared: bool,
    /// What a run takes one thread, about; unknown at first.
    alone: Option<Duration>,
}

impl ParallelPolicy {
    pub fn new() -> ParallelPolicy {
        ParallelPolicy { serial_runs: 0, backoff: 1, shared: false, alone: None }
    }

    /// Whether the next run should be shared. The second one is not, whatever the first was like:
    /// it tells what one thread takes.
    pub fn is_parallel_due(&mut self) -> bool {
        if self.serial_runs > 0 {
            self.serial_runs -= 1;
            return false;
        }
        !self.shared || self.alone.is_some()
    }

    /// What a run takes one thread, as far as is known.
    pub fn alone(&self) -> Option<Duration> {
        self.alone
    }

    /// Takes note of a run by one thread: a moving average over about four of them, in which one
    /// that was held up counts little.
    pub fn record_serial(&mut self, took: Duration) {
        self.alone =
            Some(self.alone.map_or(took, |before| (3 * before + took.min(before * 5 / 4)) / 4));
    }

    /// Takes note of a shared run: one that gained less than a tenth was not worth it.
    pub fn record_parallel(&mut self, took: Duration) {
        self.shared = true;
        if self.alone.is_some_and(|alone| took > alone * 9 / 10) {
            self.failed();
        } else {
            self.backoff = (self.backoff / 2).max(1);
        }
    }

    /// A shared run that was not worth it: rests, longer each time.
    pub fn failed(&mut self) {
        self.shared = true;
        self.serial_runs = self.backoff;
        self.backoff = (2 * self.backoff).min(LONGEST_BACKOFF);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_micros(300);
    const FAST: Duration = Duration::from_micros(200);

    /// Runs that are due, of `count`, when a shared one takes `shared` and one alone `SLOW`.
    fn due(policy: &mut ParallelPolicy, count: usize, shared: Duration) -> usize {
        let run = |_: &usize| {
            let due = policy.is_parallel_due();
            if due {
                policy.record_parallel(shared)
            } else {
                policy.record_serial(SLOW)
            }
            due
        };
        (0..count).filter(run).count()
    }

    #[test]
    fn sharing_that_pays_goes_on_and_sharing_that_does_not_becomes_rare() {
        assert_eq!(due(&mut ParallelPolicy::new(), 100, FAST), 99, "all but the second");
        let mut policy = ParallelPolicy::new();
        assert!(due(&mut policy, 1000, SLOW) < 20);
        // It finds out that the second core is free again, and is trusted again.
        assert!(due(&mut policy, 1000, FAST) > 800);
    }
}
