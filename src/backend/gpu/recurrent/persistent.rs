//! Several workgroups run a chunk of steps in one dispatch, each with the recurrent weights of its
//! units in registers, and hand each other the outputs through memory (`recurrent_persistent.wgsl`
//! says how).
//!
//! The workgroups wait for one another, which only works when all of them run at the same time. No
//! graphics interface promises that, so the strategy is used only when it is asked for and a
//! [`probe`] on this adapter gave the right results; the waits are bounded, and a flag comes back
//! with the results: when it is set, the run is done again by steps and the session keeps to them.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Layer, Memory};
use crate::backend::gpu::Shared;
use crate::backend::gpu::buffers::{View, aligned};
use crate::backend::gpu::dense::SOFTWARE_ITERATIONS;
use crate::backend::gpu::device::Device;
use crate::backend::gpu::pipeline::{Kernel, Shader};
use crate::backend::gpu::program::GpuProgram;
use crate::backend::gpu::record::{Phase, Recorder, Repeat};
use crate::backend::reference::Reference;
use crate::backend::{Backend, Io, Program};
use crate::error::{Error, Result};
use crate::graph::synthetic::{CellKind, Random, Shape};
use crate::plan::Plan;
use crate::tensor::Tensor;

/// Most workgroups of a dispatch. All of them must be resident: half the multiprocessors of a large
/// device; on a software adapter the two threads that every machine has.
const GROUPS: usize = 64;
const SOFTWARE_GROUPS: usize = 2;
/// Most steps of a dispatch: below a tenth of a millisecond, so that a dispatch whose workgroups do
/// not all run gives up soon.
const STEPS: usize = 64;
/// Most looks of an invocation on a real device: at about a microsecond each, a quarter of a
/// second, below every watchdog.
const POLLS: usize = 1 << 18;
/// Fewest looks for each wait; fewer steps go into a dispatch rather than that.
const LEAST_POLLS: usize = 64;
/// Largest partial sums in workgroup memory: two rows of 256 invocations.
const PARTIAL_BYTES: usize = 2 * 256 * 16;

/// How a workgroup looks for a word that another one stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::gpu) enum Look {
    /// An atomic load.
    Load,
    /// A read-modify-write that changes nothing: some drivers (llvmpipe) move an atomic load out of
    /// its loop.
    Exchange,
    /// Not at all, so that every wait fails.
    #[cfg(test)]
    Never,
}

impl Look {
    /// Looks for words that others store.
    fn waits(self) -> bool {
        matches!(self, Look::Load | Look::Exchange)
    }
}

/// The form of the kernel for one layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct PersistentVariant {
    threads: usize,
    slices: usize,
    held: usize,
    /// Workgroups of one direction.
    groups: usize,
    /// Most steps of one dispatch.
    steps: usize,
    polls: usize,
    look: Look,
}

/// What a session knows of the strategy on its adapter.
#[derive(Debug, Default)]
pub(in crate::backend::gpu) struct Trust {
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
enum State {
    /// Nobody asked for it.
    #[default]
    Untried,
    Passed(Look),
    Refused(String),
}

impl Trust {
    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// No program of the session uses the strategy from now on.
    pub(in crate::backend::gpu) fn refuse(&self, reason: &str) {
        self.set(State::Refused(reason.to_owned()));
    }

    /// As a probe that passed leaves it.
    #[cfg(test)]
    pub(super) fn pass(&self, look: Look) {
        self.set(State::Passed(look));
    }

    /// How to look for words; or why the strategy is not used.
    pub(super) fn look(&self) -> std::result::Result<Look, String> {
        match self.state.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            State::Passed(look) => Ok(look),
            State::Untried => Err("the strategy persistent was not tried on this adapter".into()),
            State::Refused(reason) => Err(reason),
        }
    }
}

/// Why the kernel cannot run a layer.
fn refusal(layer: &Layer<'_>) -> Option<&'static str> {
    let options = &layer.options;
    if options.layer_norm {
        Some("layer norm needs the sums of all units")
    } else if options.projection {
        Some("the projection needs all units of the step")
    } else if options.reset_before {
        Some("the reset before the product needs all units of the step")
    } else if options.diagonal {
        Some("diagonal weights leave nothing to exchange")
    } else {
        None
    }
}

/// The variant for a layer, with what the notes say of it.
pub(super) fn prepare(
    layer: &Layer<'_>,
    device: &Device,
    look: Look,
) -> Result<(PersistentVariant, String)> {
    let variant = form(layer, device, look)?;
    Ok((variant, format!("asked for; {} workgroups a direction", variant.groups)))
}

/// The form that fits the device, or why there is none.
fn form(layer: &Layer<'_>, device: &Device, look: Look) -> Result<PersistentVariant> {
    let refused = |reason: &str| {
        Err(Error::input(format!("the strategy persistent does not apply: {reason}")))
    };
    if let Some(reason) = refusal(layer) {
        return refused(reason);
    }
    // An invocation of a real device has 255 registers, of which 48 vectors leave 63. As many
    // invocations share a multiprocessor's registers whatever their number, so the largest
    // workgroup needs the fewest.
    let (most_groups, held, threads): (usize, &[usize], &[usize]) = match device.software {
        true => (SOFTWARE_GROUPS, &[64, 48, 32, 16], &[32, 64, 128, 256]),
        false => (GROUPS, &[32, 48, 16], &[256]),
    };
    let most_groups = (most_groups / layer.directions.len().max(1)).max(1);
    let (units, rows) = (layer.units.max(1), layer.batch.max(1));
    let candidates =
        held.iter().flat_map(|&held| threads.iter().map(move |&threads| (held, threads)));
    for (held, threads) in candidates {
        let slices = units.div_ceil(held).next_power_of_two();
        if slices > 32 || slices > threads {
            continue;
        }
        let groups = units.div_ceil(threads / slices);
        let memory = PARTIAL_BYTES + 4 * rows * (slices * held + threads / slices);
        if groups > most_groups
            || memory > device.limits.max_compute_workgroup_storage_size as usize
        {
            continue;
        }
        let form =
            PersistentVariant { threads, slices, held, groups, steps: STEPS, polls: POLLS, look };
        return if device.software { form.bounded(units, rows) } else { Ok(form) };
    }
    refused(&format!("{rows} rows of {units} units do not fit in {most_groups} workgroups"))
}

impl PersistentVariant {
    /// With as many steps and looks as the software driver's limit on loop iterations leaves.
    fn bounded(self, units: usize, rows: usize) -> Result<PersistentVariant> {
        let words = rows * units;
        let rounds = words.div_ceil(4 * self.threads);
        let once =
            rows * self.slices * self.held / self.threads + words / self.threads + 2 * rows + 4;
        let step = 2 + rounds + rows * (1 + self.slices);
        let limit = SOFTWARE_ITERATIONS as usize;
        let steps = STEPS.min(limit.saturating_sub(once) / (step + rounds * LEAST_POLLS));
        if steps < 2 {
            return Err(Error::limit(
                "one step has more loop iterations than the software driver allows",
            ));
        }
        Ok(PersistentVariant { steps, polls: limit - once - steps * step, ..self })
    }
}

/// The exchange of a layer: a flag in the first bytes, then a word for each output of a chunk.
pub(super) struct Exchange {
    words: View,
}

/// Bytes before the first output.
const FIRST: u64 = 256;

impl Exchange {
    /// Makes the exchange, cleared at the start of a run; its flag is read back with the results.
    pub(super) fn new(
        ctx: &mut Recorder<'_>,
        layer: &Layer<'_>,
        chunk_steps: usize,
    ) -> Result<Exchange> {
        let outputs = chunk_steps * layer.directions.len() * layer.batch * layer.units;
        let words = ctx.lasting(FIRST + aligned(4 * outputs.max(1) as u64))?;
        ctx.clear(&words);
        ctx.guard(&words.part(0, 4)?);
        Ok(Exchange { words })
    }
}

/// Records the steps `first .. first + steps`.
pub(super) fn record(
    ctx: &mut Recorder<'_>,
    layer: &Layer<'_>,
    memory: &Memory,
    (form, exchange): (PersistentVariant, &Exchange),
    (first, steps): (usize, usize),
) -> Result<()> {
    let (h_words, c_words) =
        (layer.batch * form.slices * form.held, layer.batch * form.threads / form.slices);
    let [weights, _] = ctx.shared.product_parts(&memory.weights);
    let kernel = layer
        .kernel(Kernel::with_parts(Shader::RecurrentPersistent, &[weights]), memory.keep)
        .with("THREADS", form.threads as u32)
        .with("SLICES", form.slices as u32)
        .with("HELD", form.held as u32)
        // In powers of two, so that layers of like size share a pipeline.
        .with("H_WORDS", h_words.max(1).next_power_of_two() as u32)
        .with("C_WORDS", c_words.max(1).next_power_of_two() as u32)
        .with("POLLS", if form.look.waits() { form.polls as u32 } else { 0 })
        .with("EXCHANGE", u8::from(form.look != Look::Load));
    if first > 0 {
        ctx.clear(&exchange.words.part(FIRST, exchange.words.size - FIRST)?);
    }
    // The kernel writes the slot that it does not read; the last chunk writes slot 0.
    let left = (layer.time - first).div_ceil(memory.chunk_steps.max(1));
    let memory = Memory { h_slot: (left & 1) * memory.h_slot, ..memory.clone() };
    let [weights, inputs, extras, mask, h, c, y] = memory.bindings();
    let bindings = [weights, inputs, extras, mask, h, c, y, &exchange.words];
    let groups = [form.groups as u32, 1, layer.directions.len() as u32];
    for start in (first..first + steps).step_by(form.steps) {
        let count = form.steps.min(first + steps - start);
        let params = layer.params(&memory, first, start, count);
        ctx.dispatch_repeated(
            &kernel,
            &bindings,
            &params,
            groups,
            Repeat::ONCE,
            Phase::Recurrence,
        )?;
    }
    Ok(())
}

/// Rounds of the probe: on a busy machine a software adapter does not always run both workgroups at
/// once.
const ATTEMPTS: usize = 3;
/// Largest difference to the reference that the probe takes for rounding; the project's bar for
/// float layers.
const TOLERANCE: f32 = 1e-5;

/// Tries the strategy on this adapter: a small layer over a chunk and a half of steps, held against
/// the reference.
pub(in crate::backend::gpu) fn probe(shared: &Arc<Shared>) {
    // Real devices first with the load, which is cheaper.
    probe_with(
        shared,
        if shared.device.software { &[Look::Exchange] } else { &[Look::Load, Look::Exchange] },
    );
}

pub(super) fn probe_with(shared: &Arc<Shared>, looks: &[Look]) {
    let mut reasons = Vec::new();
    for &look in looks {
        match try_out(shared, look) {
            Ok(()) => return shared.persistent.set(State::Passed(look)),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    let reason = format!("the probe of the strategy persistent failed: {}", reasons.join("; "));
    log::warn!("gpu: {reason}");
    shared.persistent.refuse(&reason);
}

fn try_out(shared: &Arc<Shared>, look: Look) -> Result<()> {
    // Eight workgroups of a real device, two of a software one; more than one chunk of steps.
    let hidden = if shared.device.software { 64 } else { 256 };
    let shape = Shape { cell: CellKind::Lstm, input: 8, hidden, layers: 1, bidirectional: false };
    let dims = [STEPS + STEPS / 2, 1, shape.input];
    let plan = Arc::new(Plan::new(&Arc::new(shape.graph(1)?), &[dims.to_vec()])?);
    let x = [Random::new(2).tensor(&dims, 1.0)?];
    let run = |program: &mut dyn Program| -> Result<Vec<f32>> {
        let mut outputs = vec![Tensor::scalar(0f32); plan.graph.outputs.len()];
        program.run(Io { inputs: &x, states: &mut [], outputs: &mut outputs })?;
        let y = outputs
            .into_iter()
            .next()
            .ok_or_else(|| Error::internal("a network without an output"))?;
        y.into_vec()
    };
    let want = run(Reference.compile(&plan)?.as_mut())?;
    let mut program = GpuProgram::compile_as(shared, &plan, Some(look))?;
    let mut failure = None;
    for _ in 0..ATTEMPTS {
        let got = match run(&mut program) {
            Ok(got) => got,
            Err(error) => {
                failure = Some(error);
                continue;
            }
        };
        let error = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        let whole = got.len() == want.len() && got.iter().all(|y| y.is_finite());
        return match whole && error <= allowed(shared) {
            true => Ok(()),
            false => {
                Err(Error::device(format!("its outputs differ by {error} from the reference")))
            }
        };
    }
    Err(failure.unwrap_or_else(|| Error::internal("a probe without attempts")))
}

/// The difference that the session's precision makes: the bars of the project.
fn allowed(shared: &Shared) -> f32 {
    use crate::backend::gpu::weights::Storing;
    match shared.storing() {
        Storing::F32 => TOLERANCE,
        Storing::F16 => 5e-3,
        Storing::Int8 => 5e-2,
    }
}
