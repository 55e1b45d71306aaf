//! The `loop` strategy with the terms of every product shared out over invocations, for real
//! devices: one row a workgroup.
//!
//! One invocation for a unit leaves most of a multiprocessor idle, and its 4 · H weights pass the
//! 255 registers that it can have from H = 64 on. Here up to four invocations hold 16 or 32 terms
//! each: 64 or 128 registers, and 512 invocations of 128 registers are what a multiprocessor's
//! 65,536 registers hold at H = 128.

use super::{Layer, Memory};
use crate::backend::gpu::dense::SOFTWARE_ITERATIONS;
use crate::backend::gpu::device::Device;
use crate::backend::gpu::pipeline::{Kernel, Part, Shader};
use crate::backend::gpu::record::{Phase, Recorder, Repeat};
use crate::error::{Error, Result};

/// The form of the kernel for one layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct SplitVariant {
    slices: usize,
    /// Invocations of a slice.
    span: usize,
    /// Terms of a slice.
    terms: usize,
    /// Its weights are held in registers over all steps; else they are read in every step.
    held: bool,
    /// Most steps of one dispatch.
    steps: usize,
}

/// Terms that an invocation holds at most, and slices.
const MOST_HELD: usize = 32;
const MOST_SLICES: usize = 4;

/// The form that fits the device, or why there is none.
pub(super) fn form(layer: &Layer<'_>, device: &Device) -> Result<SplitVariant> {
    let options = &layer.options;
    if options.layer_norm || options.projection || options.reset_before || options.diagonal {
        return Err(Error::unsupported(
            "the shared loop has no layer norm, projection, reset before or diagonal weights",
        ));
    }
    let groups = device.limits.max_compute_workgroups_per_dimension as usize;
    if layer.batch > groups {
        return Err(Error::limit(format!(
            "{} rows take a workgroup each, the adapter allows {groups}",
            layer.batch
        )));
    }
    let span = layer.units.next_multiple_of(32).max(32);
    let most =
        (device.limits.max_compute_invocations_per_workgroup as usize / span).min(MOST_SLICES);
    if most == 0 {
        return Err(Error::limit(format!(
            "{} units pass the invocations of one workgroup",
            layer.units
        )));
    }
    let each = if layer.width <= 64 { 16 } else { MOST_HELD };
    let held = layer.width <= each * most;
    let slices = if held { layer.width.div_ceil(each).max(1) } else { most };
    // The packed rows end with eights, zero past the last.
    let terms = if held { each } else { layer.width.div_ceil(slices).next_multiple_of(8) };
    let form = SplitVariant { slices, span, terms, held, steps: usize::MAX };
    let bytes = 4 * form.h_words(layer) + 16 * slices * span;
    if bytes > device.limits.max_compute_workgroup_storage_size as usize {
        return Err(Error::limit(format!(
            "the sums of {} units take {bytes} bytes of workgroup memory",
            layer.units
        )));
    }
    let steps = if device.software {
        SOFTWARE_ITERATIONS as usize / (1 + slices + terms)
    } else {
        usize::MAX
    };
    Ok(SplitVariant { steps, ..form })
}

impl SplitVariant {
    fn h_words(&self, layer: &Layer<'_>) -> usize {
        (self.slices * self.terms).max(layer.width.next_multiple_of(4))
    }
}

/// Records the steps `first .. first + steps`.
pub(super) fn record(
    ctx: &mut Recorder<'_>,
    layer: &Layer<'_>,
    memory: &Memory,
    form: SplitVariant,
    (first, steps): (usize, usize),
) -> Result<()> {
    let products = if form.held { Part::ProductsRegisters } else { Part::ProductsPlain };
    let [weights, _] = ctx.shared.product_parts(&memory.weights);
    let parts = [weights, products];
    let kernel = layer
        .kernel(Kernel::with_parts(Shader::RecurrentLoopSplit, &parts), memory.keep)
        .with("THREADS", (form.slices * form.span) as u32)
        .with("SLICES", form.slices as u32)
        .with("SPAN", form.span as u32)
        .with("TERMS", form.terms as u32)
        .with("HELD", if form.held { form.terms as u32 } else { 16 })
        .with("H_WORDS", form.h_words(layer) as u32);
    let groups = [layer.batch as u32, 1, layer.directions.len() as u32];
    for start in (first..first + steps).step_by(form.steps.min(steps).max(1)) {
        let count = form.steps.min(first + steps - start);
        let params = layer.params(memory, first, start, count);
        ctx.dispatch_repeated(
            &kernel,
            &memory.bindings(),
            &params,
            groups,
            Repeat::ONCE,
            Phase::Recurrence,
        )?;
    }
    Ok(())
}
