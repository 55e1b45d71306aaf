//! The two traits that every backend implements: [`Backend`] turns a plan into a [`Program`]; a
//! program runs.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "serde")]
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::tensor::Tensor;

pub mod ceilings;
pub mod cpu;
#[cfg(feature = "gpu")]
pub mod gpu;
mod options;
pub mod placement;
pub mod reference;

pub use options::{AdapterSelector, InstructionSet, Precision, Product, Strategy};

/// A device that can run plans. It keeps what the programs of one session share: uploaded or packed
/// weights, pipelines.
pub trait Backend: Send + Sync {
    /// `reference`, `cpu` or `gpu`.
    fn name(&self) -> &'static str;

    /// The device in words, for reports: the processor's features, the adapter and its driver.
    fn description(&self) -> String;

    /// The driver that the device is reached through, with its version, where there is one.
    fn driver(&self) -> Option<String> {
        None
    }

    /// What the device can do at best, measured now, in about a second; on the processor with each
    /// of these numbers of threads.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where nothing is measured,
    /// [`Device`](crate::ErrorKind::Device).
    fn ceilings(&self, threads: &[usize]) -> Result<Vec<ceilings::Ceilings>> {
        let _ = threads;
        Err(Error::unsupported(format!("no ceilings are measured of the device {}", self.name())))
    }

    /// Searches for the fastest way to run a plan from these states, and stores it for later
    /// sessions of this user.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where there is nothing to choose,
    /// [`Io`](crate::ErrorKind::Io) when the choice cannot be stored.
    fn tune(&self, plan: &Arc<Plan>, inputs: &[Tensor], states: &[Tensor]) -> Result<Tuning> {
        let _ = (plan, inputs, states);
        Err(Error::unsupported(format!("there is nothing to tune on the device {}", self.name())))
    }

    /// Makes a plan ready to run: chooses kernels, packs and uploads weights, allocates every
    /// buffer.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) with the node that cannot run here,
    /// [`Limit`](crate::ErrorKind::Limit) with the number that was passed, or
    /// [`Device`](crate::ErrorKind::Device).
    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Program>>;
}

/// A plan made ready on one device. It may be run any number of times, one run at a time.
pub trait Program: Send {
    /// Runs once and waits for the result.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for values that cannot be computed with (an
    /// index out of range), [`Device`](crate::ErrorKind::Device) when the device fails.
    fn run(&mut self, io: Io<'_>) -> Result<()>;

    /// As [`Program::run`], without blocking the thread where the device allows it.
    fn run_async<'a>(
        &'a mut self,
        io: Io<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>> {
        let result = self.run(io);
        Box::pin(std::future::ready(result))
    }

    /// What the last run and the compilation cost.
    fn counters(&self) -> Counters;

    /// How many times a failure made the program replace itself; its notes say why.
    fn replacements(&self) -> u32 {
        0
    }

    /// Notes for the user, a line each: which strategy was chosen for a node and why, what runs on
    /// the host.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What goes in and out of a run. Shapes and types were checked against the plan.
pub struct Io<'a> {
    /// The graph's inputs, in its order.
    pub inputs: &'a [Tensor],
    /// The graph's states, in its order; on return, the states after the run.
    pub states: &'a mut [Tensor],
    /// The graph's outputs, in its order: written in place when the tensor that is there fits and
    /// is not shared, replaced otherwise.
    pub outputs: &'a mut [Tensor],
}

/// Counts of the last run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Compute pipelines created during the last run.
    pub pipelines_created: u64,
    /// GPU buffers and bind groups created during the last run.
    pub buffers_created: u64,
    /// Command submissions of the last run.
    pub submissions: u64,
    /// Compute dispatches of the last run.
    pub dispatches: u64,
    /// Where the time of the last run went, when [`BackendOptions::timestamps`] asked for it.
    pub phases: Option<PhaseTimes>,
}

/// Where a run's time went, as the device's own clock has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PhaseTimes {
    /// From staging buffers to the device.
    pub upload: Duration,
    /// Input products of recurrent layers.
    pub projection: Duration,
    /// The steps of recurrent layers.
    pub recurrence: Duration,
    /// Every other op, and copies between values.
    pub other: Duration,
    /// From the device to staging buffers.
    pub readback: Duration,
    /// The rest of the run's wall time, in which the device had nothing to do: encoding,
    /// submitting, copying on the host.
    pub idle: Duration,
}

impl PhaseTimes {
    /// The run's wall time.
    pub fn total(&self) -> Duration {
        self.upload + self.projection + self.recurrence + self.other + self.readback + self.idle
    }
}

/// What was found to be fastest for some layers.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Choice {
    /// The strategy to force; `None`: the planner's is the fastest.
    pub strategy: Option<Strategy>,
    /// The form of the matrix products to force.
    pub product: Option<Product>,
    /// Median of its runs, µs.
    pub median_us: f64,
    /// Median of the runs without it, µs.
    pub default_us: f64,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let forced = [
            ("strategy", self.strategy.map(Strategy::name)),
            ("product", self.product.map(Product::name)),
        ];
        let forced: Vec<String> =
            forced.iter().filter_map(|(what, name)| Some(format!("{what} {}", (*name)?))).collect();
        let forced = if forced.is_empty() {
            "the planner's own choice".to_owned()
        } else {
            forced.join(", ")
        };
        write!(f, "{forced}, {:.1} µs against {:.1}", self.median_us, self.default_us)
    }
}

/// One candidate of a search.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Trial {
    /// The strategy that was forced.
    pub strategy: Option<Strategy>,
    /// The form of the matrix products that was forced.
    pub product: Option<Product>,
    /// Median of its runs, µs.
    pub median_us: Option<f64>,
    /// Why it was not timed.
    pub refused: Option<String>,
}

/// The result of a search.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Tuning {
    /// What was stored.
    pub choice: Choice,
    /// Every candidate, the planner's choice first.
    pub trials: Vec<Trial>,
    /// The file that it was stored in.
    pub stored: PathBuf,
}

/// What a caller may ask of a backend.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackendOptions {
    /// Threads of the cpu backend; `None`: chosen by the size of the work.
    pub threads: Option<usize>,
    /// How recurrent and dense weights are stored and multiplied.
    pub precision: Precision,
    /// GPU: force a strategy; an error when it does not apply.
    pub strategy: Option<Strategy>,
    /// GPU: force the form of matrix products; an error when it does not apply.
    pub product: Option<Product>,
    /// GPU: ignore what `bench --tune` stored.
    pub untuned: bool,
    /// GPU: keep naga's bounds checks in the shaders.
    pub checked_shaders: bool,
    /// GPU: neither read nor write the file of compiled pipelines in the user's cache folder.
    pub uncached: bool,
    /// GPU: measure the phases of every run with timestamps ([`Counters::phases`]); an error where
    /// the adapter has none. Costs a little in every run.
    pub timestamps: bool,
    /// CPU: force an instruction set; an error when the processor lacks it.
    pub instruction_set: Option<InstructionSet>,
}
