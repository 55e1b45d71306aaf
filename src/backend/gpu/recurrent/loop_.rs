//! A chunk of steps in one dispatch, one workgroup a tile of batch rows: for small widths, and for
//! the rare options at any width.

use super::loop_split::{self, SplitVariant};
use super::{Layer, Memory};
use crate::backend::gpu::dense::SOFTWARE_ITERATIONS;
use crate::backend::gpu::device::Device;
use crate::backend::gpu::pipeline::{Kernel, Part, Shader};
use crate::backend::gpu::record::{Phase, Recorder, Repeat};
use crate::error::{Error, Result};

/// The form of the kernel for one layer.
#[derive(Clone, Copy, Debug)]
pub(super) enum LoopVariant {
    /// One invocation for a unit.
    Whole(Whole),
    /// Several.
    Split(SplitVariant),
}

/// A form with one invocation for a unit, or for several.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    threads: usize,
    rows: usize,
    /// Weights of each unit held in registers over all steps; 0: they are loaded in every step.
    held: usize,
    /// Most steps of one dispatch.
    steps: usize,
}

/// Words of h, of c and of the gated output in workgroup memory, in powers of two so that
/// layers of like size share a pipeline.
fn sizes(layer: &Layer<'_>, rows: usize) -> [usize; 3] {
    let gated = layer.options.projection || layer.options.reset_before;
    let m = if gated { rows * layer.units } else { 1 };
    [2 * rows * layer.width.next_multiple_of(4), rows * layer.units, m]
        .map(|n| n.max(1).next_power_of_two())
}

/// The form that fits the device, or why there is none. On real devices invocations share the
/// units' terms where that form exists.
pub(super) fn form(layer: &Layer<'_>, device: &Device) -> Result<LoopVariant> {
    match loop_split::form(layer, device) {
        Ok(form) if !device.software => Ok(LoopVariant::Split(form)),
        Ok(_) | Err(_) => whole(layer, device).map(LoopVariant::Whole),
    }
}

fn whole(layer: &Layer<'_>, device: &Device) -> Result<Whole> {
    let threads = layer.units.next_power_of_two().clamp(32, 256);
    let fits = |rows: usize| {
        let [h, c, m] = sizes(layer, rows);
        4 * (h + c + m) + 16 * threads <= device.limits.max_compute_workgroup_storage_size as usize
    };
    let held = held(layer, device);
    let tiled = held == 0 && !layer.options.layer_norm && !layer.options.reset_before;
    let wanted = match layer.batch {
        _ if !tiled => 1,
        0 | 1 => 1,
        2 => 2,
        3 | 4 => 4,
        _ => 8,
    };
    let Some(rows) = [8, 4, 2, 1].into_iter().find(|&rows| rows <= wanted && fits(rows)) else {
        let most = device.limits.max_compute_workgroup_storage_size;
        return Err(Error::limit(format!(
            "the state of {} units passes the {most} bytes of workgroup memory",
            layer.units
        )));
    };
    let mut steps = usize::MAX;
    if device.software {
        steps = SOFTWARE_ITERATIONS as usize / iterations(layer, threads, rows);
        if steps == 0 {
            return Err(Error::limit(
                "one step has more loop iterations than the software driver allows",
            ));
        }
    }
    Ok(Whole { threads, rows, held, steps })
}

/// Numbers of terms that a kernel can hold.
const HELD: [usize; 8] = [16, 32, 48, 64, 96, 128, 192, 256];

/// How many weights of a unit to hold in registers: all of them, or 0.
///
/// Real devices have 255 registers for an invocation, of which 32 vectors take half. The software
/// driver holds them in its stack, from where it takes eight lanes at once, while a load takes a
/// lane after the other: 4.8 against 20.7 ms of processor time at H = 64.
fn held(layer: &Layer<'_>, device: &Device) -> usize {
    let most = if device.software { 256 } else { 32 };
    let depth = layer.width.max(layer.units);
    // With held weights a workgroup has one row, and there are only so many workgroups.
    let groups = device.limits.max_compute_workgroups_per_dimension as usize;
    if depth > most || layer.options.diagonal || layer.batch > groups {
        return 0;
    }
    HELD.into_iter().find(|&held| held >= layer.width).unwrap_or(0)
}

/// Loop iterations of one invocation in one step, all loops added.
fn iterations(layer: &Layer<'_>, threads: usize, rows: usize) -> usize {
    let units = layer.units.div_ceil(threads);
    let depth = if layer.options.diagonal { 1 } else { layer.width };
    let sums = units * (depth + 2);
    let norm = if layer.options.layer_norm { 5 * (units + 12) } else { 0 };
    let again = if layer.options.reset_before { sums } else { 0 };
    let project = if layer.options.projection {
        rows * (1 + layer.width.div_ceil(threads) * (layer.units + 2))
    } else {
        0
    };
    1 + sums + norm + again + project
}

/// Records the steps `first .. first + steps`.
pub(super) fn record(
    ctx: &mut Recorder<'_>,
    layer: &Layer<'_>,
    memory: &Memory,
    form: LoopVariant,
    (first, steps): (usize, usize),
) -> Result<()> {
    let form = match form {
        LoopVariant::Whole(form) => form,
        LoopVariant::Split(form) => {
            return loop_split::record(ctx, layer, memory, form, (first, steps));
        }
    };
    let [h_words, c_words, m_words] = sizes(layer, form.rows).map(|n| n as u32);
    let [weights, mut products] = ctx.shared.product_parts(&memory.weights);
    if form.held > 0 {
        let broadcasts = products == Part::ProductsBroadcast;
        products =
            if broadcasts { Part::ProductsRegistersBroadcast } else { Part::ProductsRegisters };
    }
    let kernel = layer
        .kernel(Kernel::with_parts(Shader::RecurrentLoop, &[weights, products]), memory.keep)
        .with("THREADS", form.threads as u32)
        .with("HELD", form.held.max(16) as u32)
        .with("ROWS", form.rows as u32)
        .with("H_WORDS", h_words)
        .with("C_WORDS", c_words)
        .with("M_WORDS", m_words);
    let groups = [layer.batch.div_ceil(form.rows) as u32, 1, layer.directions.len() as u32];
    for start in (first..first + steps).step_by(form.steps.min(steps).max(1)) {
        let count = form.steps.min(first + steps - start);
        let params = layer.params(memory, first, start, count);
        let bindings = memory.bindings();
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
