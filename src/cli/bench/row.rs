//! Timing of a session: warm-up, repeated runs, a row of numbers; rows against those of an earlier
//! time.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::backend::ceilings::Ceilings;
use crate::backend::{Counters, PhaseTimes, Precision};
use crate::error::Result;
use crate::graph::synthetic::Shape;
use crate::measure::stats::Summary;
use crate::session::{Inputs, Outputs, Session};

/// How long to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Runs that are not counted, at the least; the first compiles, the next ones warm caches and
    /// clocks.
    pub warmup_runs: usize,
    /// Counted runs, at the least.
    pub runs: usize,
    /// Counted runs go on until this much time has passed.
    pub seconds: f64,
}

impl Default for Effort {
    fn default() -> Self {
        Effort { warmup_runs: 3, runs: 20, seconds: 0.5 }
    }
}

/// Most counted runs of one row: more would not sharpen a median that a user can see.
const MOST_RUNS: usize = 10_000;

/// Times and costs of one session.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Milliseconds of each counted run, from inputs in host memory to outputs in host memory.
    pub times_ms: Vec<f64>,
    /// Costs of the last run.
    pub counters: Counters,
    /// Outputs of the last run.
    pub outputs: Outputs,
}

/// Runs `session` from the reset state again and again.
///
/// # Errors
/// The session's.
pub fn measure(
    session: &Session,
    inputs: &(impl Inputs + ?Sized),
    effort: Effort,
) -> Result<Measured> {
    let mut stream = session.stream();
    let mut outputs = Outputs::default();
    for _ in 0..effort.warmup_runs.max(1) {
        stream.reset();
        stream.run_into(inputs, &mut outputs)?;
    }
    let mut times_ms = Vec::new();
    let begin = Instant::now();
    let enough = Duration::from_secs_f64(effort.seconds.clamp(0.0, 3600.0));
    while times_ms.len() < effort.runs.max(1)
        || (begin.elapsed() < enough && times_ms.len() < MOST_RUNS)
    {
        stream.reset();
        let start = Instant::now();
        stream.run_into(inputs, &mut outputs)?;
        times_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Measured { times_ms, counters: outputs.counters(), outputs })
}

/// Where a run's time goes, medians of some runs in ms; see [`PhaseTimes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// To the device.
    pub upload: f64,
    /// Input products of recurrent layers.
    pub projection: f64,
    /// Steps of recurrent layers.
    pub recurrence: f64,
    /// Every other op.
    pub other: f64,
    /// From the device.
    pub readback: f64,
    /// The device had nothing to do.
    pub idle: f64,
}

/// Runs a session that was built with [`timestamps`](crate::backend::BackendOptions::timestamps)
/// and returns where the time goes; `None` for one that was built without.
///
/// # Errors
/// The session's.
pub fn phases(
    session: &Session,
    inputs: &(impl Inputs + ?Sized),
    runs: usize,
) -> Result<Option<Phases>> {
    let mut stream = session.stream();
    let mut outputs = Outputs::default();
    let mut times = Vec::new();
    for run in 0..=runs.max(1) {
        stream.reset();
        stream.run_into(inputs, &mut outputs)?;
        // The first run compiles.
        times.extend(outputs.counters().phases.filter(|_| run > 0));
    }
    let median = |of: fn(&PhaseTimes) -> Duration| {
        Summary::of(&times.iter().map(|t| of(t).as_secs_f64() * 1e3).collect::<Vec<_>>()).median
    };
    Ok((!times.is_empty()).then(|| Phases {
        upload: median(|t| t.upload),
        projection: median(|t| t.projection),
        recurrence: median(|t| t.recurrence),
        other: median(|t| t.other),
        readback: median(|t| t.readback),
        idle: median(|t| t.idle),
    }))
}

/// One row of a benchmark. What does not apply to a model from a file (its cell, its width) is
/// absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// `reference`, `cpu` or `gpu`.
    pub device: String,
    /// The device in words.
    pub adapter: String,
    /// The adapter's driver and its version; absent where there is none.
    pub driver: Option<String>,
    /// What runs the recurrence: a GPU strategy, a CPU kernel.
    pub strategy: String,
    /// Whether the strategy is what `bench --tune` stored.
    pub tuned: bool,
    /// File of the model, when it is not synthetic.
    pub model: Option<String>,
    /// `lstm`, `gru` or `rnn`.
    pub cell: Option<String>,
    /// `T`.
    pub time: Option<usize>,
    /// `B`.
    pub batch: Option<usize>,
    /// `I`.
    pub input: Option<usize>,
    /// `H`.
    pub hidden: Option<usize>,
    /// Number of layers.
    pub layers: Option<usize>,
    /// Whether every layer runs in both directions.
    pub bidirectional: Option<bool>,
    /// `full`, `f16`, `bf16` or `int8`.
    pub precision: String,
    /// Threads that were asked for; absent: chosen by the size of the work.
    pub threads: Option<usize>,
    /// Counted runs.
    pub runs: usize,
    /// Median of the runs, ms.
    pub median_ms: f64,
    /// Fastest run, ms.
    pub min_ms: f64,
    /// 95th percentile, ms.
    pub p95_ms: f64,
    /// 99th percentile, ms.
    pub p99_ms: f64,
    /// Standard deviation, ms.
    pub sd_ms: f64,
    /// Time steps of all batch rows in a second, at the median.
    pub steps_per_second: Option<f64>,
    /// Sequences in a second, at the median.
    pub sequences_per_second: Option<f64>,
    /// Seconds of signal that one row gets done in a second, when a step lasts `step_ms`.
    pub real_time_factor: Option<f64>,
    /// What a time step is assumed to last in the world, ms.
    pub step_ms: Option<f64>,
    /// Arithmetic of the matrix products, GFLOP/s at the median.
    pub gflops: Option<f64>,
    /// Weights of the recurrence read once a step, GB/s at the median.
    pub weights_gbs: Option<f64>,
    /// `gflops` as a share of the device's multiply-add rate, when ceilings were measured.
    pub fma_share: Option<f64>,
    /// `weights_gbs` as a share of the bandwidth of the level that the weights fit in (of a GPU: of
    /// a copy in its memory).
    pub bandwidth_share: Option<f64>,
    /// Largest distance from the reference, when it was asked for.
    pub max_abs: Option<f64>,
    /// Where the time of a GPU run goes, by the device's own clock, when that was asked for; of
    /// other runs than the times above.
    pub phases_ms: Option<Phases>,
    /// GPU dispatches of a run.
    pub dispatches: u64,
    /// GPU submissions of a run.
    pub submissions: u64,
    /// GPU pipelines created by the last run.
    pub pipelines_created: u64,
    /// GPU buffers and bind groups created by the last run.
    pub buffers_created: u64,
    /// Operating system, architecture, processor and number of hardware threads.
    pub host: String,
    /// Version of this crate.
    pub version: String,
}

impl Default for Row {
    fn default() -> Self {
        Row {
            device: String::new(),
            adapter: String::new(),
            driver: None,
            strategy: String::new(),
            tuned: false,
            model: None,
            cell: None,
            time: None,
            batch: None,
            input: None,
            hidden: None,
            layers: None,
            bidirectional: None,
            precision: Precision::Full.to_string(),
            threads: None,
            runs: 0,
            median_ms: 0.0,
            min_ms: 0.0,
            p95_ms: 0.0,
            p99_ms: 0.0,
            sd_ms: 0.0,
            steps_per_second: None,
            sequences_per_second: None,
            real_time_factor: None,
            step_ms: None,
            gflops: None,
            weights_gbs: None,
            fma_share: None,
            bandwidth_share: None,
            max_abs: None,
            phases_ms: None,
            dispatches: 0,
            submissions: 0,
            pipelines_created: 0,
            buffers_created: 0,
            host: host().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

impl Row {
    /// A row of what was measured on `session`.
    pub fn of(session: &Session, measured: &Measured) -> Row {
        let summary = Summary::of(&measured.times_ms);
        Row {
            device: session.device().to_owned(),
            adapter: session.description(),
            driver: session.driver(),
            runs: summary.count,
            median_ms: summary.median,
            min_ms: summary.min,
            p95_ms: summary.p95,
            p99_ms: summary.p99,
            sd_ms: summary.sd,
            dispatches: measured.counters.dispatches,
            submissions: measured.counters.submissions,
            pipelines_created: measured.counters.pipelines_created,
            buffers_created: measured.counters.buffers_created,
            ..Row::default()
        }
    }

    /// The row with the shape of a synthetic network, and the rates that follow from it; a step
    /// lasts `step_ms` in the world.
    #[must_use]
    pub fn with_shape(mut self, shape: &Shape, time: usize, batch: usize, step_ms: f64) -> Row {
        let seconds = self.median_ms / 1e3;
        let rate = |count: f64| (seconds > 0.0).then(|| count / seconds);
        self.steps_per_second = rate((time * batch) as f64);
        self.sequences_per_second = rate(batch as f64);
        self.real_time_factor = rate(time as f64 * step_ms / 1e3);
        self.step_ms = Some(step_ms);
        self.gflops = rate(shape.operations(time, batch) / 1e9);
        self.weights_gbs = rate(self.weight_bytes(shape) * time as f64 / 1e9);
        self.cell = Some(shape.cell.name().to_owned());
        (self.time, self.batch, self.input) = (Some(time), Some(batch), Some(shape.input));
        (self.hidden, self.layers) = (Some(shape.hidden), Some(shape.layers));
        self.bidirectional = Some(shape.bidirectional);
        self
    }

    /// The row with its rates as shares of what the device can do; [`Row::with_shape`] comes first.
    #[must_use]
    pub fn with_ceilings(mut self, shape: &Shape, ceilings: &Ceilings) -> Row {
        let share =
            |of: Option<f64>, most: f64| of.filter(|_| most > 0.0).map(|value| value / most);
        self.fma_share = share(self.gflops, ceilings.fma_gflops);
        let level = ceilings.bandwidth_for(self.weight_bytes(shape));
        self.bandwidth_share = level.and_then(|level| share(self.weights_gbs, level.gbs));
        self
    }

    /// Bytes of the recurrent weights as this row's precision stores them.
    fn weight_bytes(&self, shape: &Shape) -> f64 {
        let bytes = self.precision.parse().unwrap_or(Precision::Full).bytes();
        shape.recurrent_bytes() * bytes as f64 / Precision::Full.bytes() as f64
    }

    /// How far the row may be from the reference.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a precision that there is not.
    pub fn allowed(&self) -> Result<f64> {
        self.precision.parse().map(Precision::allowed)
    }

    /// The row in words.
    pub fn title(&self) -> String {
        let size = |n: Option<usize>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let (time, batch, hidden) = (size(self.time), size(self.batch), size(self.hidden));
        format!(
            "{} {} {} T = {time} B = {batch} H = {hidden}",
            self.device, self.strategy, self.precision
        )
    }

    /// Whether both rows measure the same thing.
    fn same_point(&self, other: &Row) -> bool {
        self.device == other.device
            && self.model == other.model
            && self.cell == other.cell
            && (self.time, self.batch, self.input, self.hidden)
                == (other.time, other.batch, other.input, other.hidden)
            && (self.layers, self.bidirectional, self.threads)
                == (other.layers, other.bidirectional, other.threads)
            && (&self.precision, &self.strategy) == (&other.precision, &other.strategy)
    }
}

/// This machine in words.
fn host() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        // Linux tells; elsewhere the architecture has to do.
        let model = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(format!(", {}", line.split_once(':')?.1.trim()))
        });
        let (os, architecture) = (std::env::consts::OS, std::env::consts::ARCH);
        format!("{os} {architecture}{}, {threads} threads", model.unwrap_or_default())
    })
}

/// A row beside the same row of an earlier time.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Position of the row in the new list.
    pub row: usize,
    /// New median divided by the old one.
    pub ratio: f64,
    /// What the ratio may be by chance: three robust deviations of both, and at least 1.05.
    pub noise: f64,
}

impl Change {
    /// Slower than chance explains.
    pub fn is_regression(&self) -> bool {
        self.ratio > self.noise
    }
}

/// Finds each new row among the old ones.
pub fn against(new: &[Row], old: &[Row]) -> Vec<Change> {
    let spread = |row: &Row| {
        if row.median_ms > 0.0 {
            (row.median_ms - row.min_ms).max(row.sd_ms) / row.median_ms
        } else {
            0.0
        }
    };
    let mut changes = Vec::new();
    for (index, row) in new.iter().enumerate() {
        if let Some(before) =
            old.iter().find(|before| before.same_point(row)).filter(|before| before.median_ms > 0.0)
        {
            let noise = 1.0 + (spread(row).hypot(spread(before)) * 3.0).max(0.05);
            changes.push(Change { row: index, ratio: row.median_ms / before.median_ms, noise });
        }
    }
    changes
}

/// Where the GPU overtakes the CPU: for each shape but its hidden size, the smallest hidden size at
/// which the GPU's median is the smaller one; `None` when it never is.
pub fn crossovers(rows: &[Row]) -> Vec<(Row, Option<usize>)> {
    let mut seen: Vec<(Row, Option<usize>)> = Vec::new();
    let alike = |a: &Row, b: &Row| {
        (&a.cell, a.time, a.batch, a.layers, a.bidirectional, &a.precision)
            == (&b.cell, b.time, b.batch, b.layers, b.bidirectional, &b.precision)
    };
    let fastest = |device: &str, like: &Row| {
        let rows =
            rows.iter().filter(|r| r.device == device && alike(r, like) && r.hidden == like.hidden);
        rows.map(|row| row.median_ms).min_by(f64::total_cmp)
    };
    for row in rows.iter().filter(|row| row.device == "gpu" && row.hidden.is_some()) {
        let (Some(gpu), Some(cpu)) = (fastest("gpu", row), fastest("cpu", row)) else { continue };
        let from = (gpu < cpu).then_some(row.hidden).flatten();
        match seen.iter_mut().find(|(other, _)| alike(other, row)) {
            Some((_, smallest)) => *smallest = [*smallest, from].into_iter().flatten().min(),
            None => seen.push((row.clone(), from)),
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(device: &str, hidden: usize, median_ms: f64) -> Row {
        Row {
            device: device.into(),
            hidden: Some(hidden),
            median_ms,
            min_ms: median_ms * 0.99,
            ..Row::default()
        }
    }

    #[test]
    fn a_regression_is_more_than_noise() {
        let old = [row("cpu", 64, 1.0), row("cpu", 128, 1.0)];
        let changes =
            against(&[row("cpu", 64, 1.04), row("cpu", 128, 1.5), row("cpu", 256, 9.0)], &old);
        assert_eq!(changes.iter().map(Change::is_regression).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn the_crossover_is_the_smallest_size_where_the_gpu_wins() {
        let rows = [
            row("cpu", 64, 1.0),
            row("gpu", 64, 2.0),
            row("cpu", 256, 4.0),
            row("gpu", 256, 2.0),
            row("gpu", 512, 1.0),
        ];
        let found = crossovers(&rows);
        assert_eq!(found.len(), 1);
        assert_eq!(found.first().map(|(_, hidden)| *hidden), Some(Some(256)));
    }
}
