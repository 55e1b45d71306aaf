//! What a device can do at best, measured on the spot, for the share of it that a network reaches.

#[cfg(feature = "serde")]
use serde::{Deserialize, Serialize};

/// Rates and latencies of a device.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Ceilings {
    /// `cpu` or `gpu`.
    pub device: String,
    /// The device in words.
    pub adapter: String,
    /// Threads that were busy at the same time; absent for a GPU.
    pub threads: Option<usize>,
    /// Multiply-adds of f32 from registers, two operations each, GFLOP/s.
    pub fma_gflops: f64,
    /// Bandwidth by where the data lie, smallest first.
    pub bandwidth: Vec<Bandwidth>,
    /// GPU: one of many dispatches that each wait for the one before, µs.
    pub dispatch_us: Option<f64>,
    /// GPU: from the submission of one small dispatch until the host knows that it has finished,
    /// µs.
    pub submit_us: Option<f64>,
    /// GPU: the same with a word of the result read back, µs.
    pub readback_us: Option<f64>,
}

/// Bytes in a second, from one place.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Bandwidth {
    /// `L1`, `L2`, `L3`, `memory` (each read); `copy` (a GPU's memory, reads and writes counted).
    pub level: String,
    /// Working set of all threads.
    pub bytes: u64,
    /// GB/s.
    pub gbs: f64,
}

impl Ceilings {
    /// The bandwidth for a working set of this many bytes: of the first level that was measured
    /// with as much, else of the last.
    pub fn bandwidth_for(&self, bytes: f64) -> Option<&Bandwidth> {
        // The working sets are half the levels' sizes.
        self.bandwidth
            .iter()
            .find(|level| bytes <= 2.0 * level.bytes as f64)
            .or(self.bandwidth.last())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_working_set_has_the_bandwidth_of_the_level_that_holds_it() {
        let level = |level: &str, bytes| Bandwidth { level: level.to_owned(), bytes, gbs: 1.0 };
        let ceilings = Ceilings {
            bandwidth: vec![level("L1", 16 << 10), level("L2", 256 << 10)],
            ..Ceilings::default()
        };
        let name = |bytes: f64| ceilings.bandwidth_for(bytes).map(|level| level.level.as_str());
        assert_eq!(name(32e3), Some("L1"));
        assert_eq!(name(33e3), Some("L2"));
        assert_eq!(name(1e9), Some("L2"));
        assert!(Ceilings::default().bandwidth_for(1.0).is_none());
    }
}
