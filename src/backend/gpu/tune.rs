//! The search that `bench --tune` makes: a plan compiled with one choice after the other, and timed
//! on the data it is given.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Gpu;
use super::program::GpuProgram;
use crate::backend::{Choice, Io, Product, Program as _, Strategy, Trial, Tuning};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Plan;
use crate::tensor::Tensor;

/// Forms of the matrix product, tried with the strategy that won.
const PRODUCTS: [Product; 3] = [Product::Direct, Product::Tiled64, Product::Tiled128];
/// All runs together take about this long; compilation is not counted.
const BUDGET: Duration = Duration::from_secs(1);
/// Timed runs of a candidate.
const RUNS: usize = 15;
/// Faster by less than this is chance.
const GAIN: f64 = 0.97;
/// Results of candidates may be apart by rounding; more, and the candidate is out.
const APART: f32 = 1e-4;

/// What is run.
pub(super) struct Work<'a> {
    pub(super) plan: &'a Arc<Plan>,
    pub(super) inputs: &'a [Tensor],
    pub(super) states: &'a [Tensor],
}

struct Search<'a> {
    gpu: &'a Gpu,
    work: &'a Work<'a>,
    trials: Vec<Trial>,
    /// Results without any choice, which the others are held against.
    expected: Vec<Tensor>,
    /// Time of the runs so far, and how much they may take.
    spent: Duration,
    budget: Duration,
}

/// Tries every candidate and stores the fastest when it beats what is chosen without it.
pub(super) fn tune(gpu: &Gpu, work: &Work<'_>) -> Result<Tuning> {
    let mut search = Search {
        gpu,
        work,
        trials: Vec::new(),
        expected: Vec::new(),
        spent: Duration::ZERO,
        budget: BUDGET,
    };
    let default_us = search.time(None, None)?;
    // One that does not apply to a layer refuses, and is passed over.
    for &strategy in Strategy::ALL {
        search.attempt(Some(strategy), None)?;
    }
    let strategy = search.best().and_then(|best| best.strategy);
    for product in PRODUCTS {
        search.attempt(strategy, Some(product))?;
    }
    let best = search.best().filter(|best| best.median_us.is_some_and(|us| us < GAIN * default_us));
    let choice = match best {
        Some(Trial { strategy, product, median_us: Some(median_us), .. }) => {
            Choice { strategy: *strategy, product: *product, median_us: *median_us, default_us }
        }
        // Nothing beats the planner: that is worth remembering too, so that an older choice goes.
        _ => Choice { strategy: None, product: None, median_us: default_us, default_us },
    };
    let stored = gpu.remember(work.plan, choice.clone())?;
    Ok(Tuning { choice, trials: search.trials, stored })
}

impl Search<'_> {
    fn best(&self) -> Option<&Trial> {
        let timed = self.trials.iter().filter(|trial| trial.median_us.is_some());
        timed.min_by(|a, b| {
            a.median_us.unwrap_or(f64::MAX).total_cmp(&b.median_us.unwrap_or(f64::MAX))
        })
    }

    /// Times a candidate; one that does not apply is passed over with the reason.
    fn attempt(&mut self, strategy: Option<Strategy>, product: Option<Product>) -> Result<()> {
        let refused =
            |reason: String| Trial { strategy, product, median_us: None, refused: Some(reason) };
        if self.spent > self.budget {
            self.trials.push(refused("the time was used up".to_owned()));
            return Ok(());
        }
        match self.time(strategy, product) {
            Ok(_) => Ok(()),
            Err(error)
                if error.kind() == ErrorKind::Device && self.gpu.shared.device.check().is_err() =>
            {
                Err(error)
            }
            Err(error) => {
                self.trials.push(refused(error.to_string()));
                Ok(())
            }
        }
    }

    /// Median microseconds of a candidate's runs, which are added to the trials.
    fn time(&mut self, strategy: Option<Strategy>, product: Option<Product>) -> Result<f64> {
        let shared = self.gpu.with(strategy, product);
        let mut program = GpuProgram::compile(&shared, self.work.plan)?;
        if strategy == Some(Strategy::Persistent) && !program.says("persistent strategy") {
            return Err(Error::unsupported(
                "the adapter or the layer does not allow it, so that steps would be timed",
            ));
        }
        let mut times = Vec::new();
        let limit = self.best().and_then(|best| best.median_us).map_or(f64::MAX, |us| 3.0 * us);
        for run in 0..=RUNS {
            let mut states = self.work.states.to_vec();
            let mut outputs = vec![Tensor::scalar(0.0f32); self.work.plan.graph.outputs.len()];
            let start = Instant::now();
            program.run(Io {
                inputs: self.work.inputs,
                states: &mut states,
                outputs: &mut outputs,
            })?;
            let took = start.elapsed();
            if run == 0 {
                // Warm-up, in which some drivers compile, and the results to judge it by.
                self.judge(outputs)?;
                continue;
            }
            self.spent += took;
            times.push(took.as_secs_f64() * 1e6);
            // A candidate far behind needs no sharper number.
            if took.as_secs_f64() * 1e6 > limit || (times.len() >= 3 && self.spent > self.budget) {
                break;
            }
        }
        times.sort_by(f64::total_cmp);
        let median = times.get(times.len() / 2).copied().unwrap_or(f64::MAX);
        self.trials.push(Trial { strategy, product, median_us: Some(median), refused: None });
        Ok(median)
    }

    fn judge(&mut self, outputs: Vec<Tensor>) -> Result<()> {
        if self.expected.is_empty() {
            self.expected = outputs;
            return Ok(());
        }
        for (expected, got) in self.expected.iter().zip(&outputs) {
            let apart = expected
                .to_f32()
                .iter()
                .zip(got.to_f32().iter())
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            if apart > APART {
                return Err(Error::internal(format!(
                    "its results are {apart} away from the others"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::backend::BackendOptions;
    use crate::backend::gpu::testing::open;
    use crate::graph::synthetic::{CellKind, Random, Shape};

    #[test]
    fn every_candidate_is_timed_or_refused_with_a_reason() {
        let Some(gpu) = open(&BackendOptions::default()) else { return };
        let shape =
            Shape { cell: CellKind::Lstm, input: 8, hidden: 8, layers: 1, bidirectional: false };
        let plan =
            Arc::new(Plan::new(&Arc::new(shape.graph(1).unwrap()), &[vec![3, 2, 8]]).unwrap());
        let inputs = [Random::new(1).tensor(&[3, 2, 8], 1.0).unwrap()];
        let work = Work { plan: &plan, inputs: &inputs, states: &[] };
        let mut search = Search {
            gpu: &gpu,
            work: &work,
            trials: Vec::new(),
            expected: Vec::new(),
            spent: Duration::ZERO,
            budget: 60 * BUDGET,
        };
        search.time(None, None).unwrap();
        for &strategy in Strategy::ALL {
            search.attempt(Some(strategy), None).unwrap();
        }
        for product in PRODUCTS {
            search.attempt(Some(Strategy::Loop), Some(product)).unwrap();
        }
        assert!(search.trials.len() <= 20);
        for trial in &search.trials {
            assert_ne!(trial.median_us.is_some(), trial.refused.is_some(), "{trial:?}");
            if matches!(trial.strategy, None | Some(Strategy::Loop | Strategy::Step)) {
                assert!(trial.median_us.is_some(), "{trial:?}");
            }
        }
    }
}
