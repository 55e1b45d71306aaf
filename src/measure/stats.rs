//! What a series of measurements says.

/// Order statistics and spread of a series, in the unit of its numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// How many.
    pub count: usize,
    /// The smallest.
    pub min: f64,
    /// The middle one.
    pub median: f64,
    /// Of 100 measurements, 95 are not larger.
    pub p95: f64,
    /// Of 100 measurements, 99 are not larger.
    pub p99: f64,
    /// The largest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// The standard deviation around the mean, of a sample.
    pub sd: f64,
}

impl Summary {
    /// Summarizes a series; all zero for an empty one. NaN sorts last.
    pub fn of(values: &[f64]) -> Summary {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Summary::default();
        };
        let count = sorted.len();
        let mean = sorted.iter().sum::<f64>() / count as f64;
        let squares: f64 = sorted.iter().map(|value| (value - mean).powi(2)).sum();
        let sd = if count > 1 { (squares / (count - 1) as f64).sqrt() } else { 0.0 };
        let at = |share| percentile(&sorted, share);
        Summary { count, min, median: at(0.5), p95: at(0.95), p99: at(0.99), max, mean, sd }
    }
}

/// The value at this share (0 to 1) of a sorted series, interpolated between neighbors; 0 for an
/// empty one.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let position = share.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    let (low, high) = (
        sorted.get(below).copied().unwrap_or(0.0),
        sorted.get(below + 1).or(sorted.last()).copied().unwrap_or(0.0),
    );
    low + (high - low) * (position - position.floor())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_series() {
        let s = Summary::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!((s.count, s.min, s.median, s.max, s.mean), (4, 1.0, 2.5, 4.0, 2.5));
        assert!((s.sd - (5.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!((s.p95 - 3.85).abs() < 1e-12);
    }

    #[test]
    fn one_and_none() {
        assert_eq!(Summary::of(&[]), Summary::default());
        let s = Summary::of(&[7.0]);
        assert_eq!((s.min, s.median, s.p99, s.max, s.sd), (7.0, 7.0, 7.0, 7.0, 0.0));
    }
}
