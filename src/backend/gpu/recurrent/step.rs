//! One dispatch a step: for widths that one workgroup is too slow for.
//!
//! Two forms. Batch-tiled, an invocation has a unit of a tile of batch rows and loads its weights
//! once for all of them. Split, for few rows, several invocations share the terms of a unit's sums:
//! on a device with thousands of lanes H of them are too few to be fast.

use super::{Layer, Memory};
use crate::backend::gpu::device::Device;
use crate::backend::gpu::pipeline::{Kernel, Part, Shader};
use crate::backend::gpu::record::{Phase, Recorder, Repeat};
use crate::error::{Error, Result};

/// The form of the kernel for one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StepVariant {
    /// Units of a workgroup.
    units: u32,
    /// Batch rows of a workgroup.
    rows: u32,
    /// Invocations that share the terms of a unit; 1: batch-tiled.
    slices: u32,
    /// Invocations of a subgroup, over which sums are folded; 1: they are not.
    lanes: u32,
}

/// Fewest batch rows that are run batch-tiled on a real device.
const TILED_BATCH: usize = 8;

impl StepVariant {
    /// The form for a layer: split for few rows, but never on the software driver, where a lane
    /// costs as much as its work and barriers come on top.
    pub(super) fn of(layer: &Layer<'_>, device: &Device) -> StepVariant {
        if device.software || layer.batch >= TILED_BATCH {
            StepVariant::tiled(layer)
        } else {
            StepVariant::split(layer, device)
        }
    }

    /// An invocation for each unit.
    pub(super) fn tiled(layer: &Layer<'_>) -> StepVariant {
        let units = match layer.units {
            128.. => 64,
            17.. => 32,
            _ => 16,
        };
        StepVariant { units, rows: tile(layer.batch), slices: 1, lanes: 1 }
    }

    /// Eight units with 8 to 32 invocations each, so that every one has at least sixteen terms; no
    /// more than 16 KiB of partial sums.
    pub(super) fn split(layer: &Layer<'_>, device: &Device) -> StepVariant {
        if layer.options.diagonal {
            // A sum of one term.
            return StepVariant::tiled(layer);
        }
        let rows = tile(layer.batch);
        let slices = match layer.width / 16 {
            32.. if rows <= 4 => 32,
            16.. => 16,
            _ => 8,
        };
        let (least, most) = device.report.subgroup_lanes;
        let folds = device.report.features.contains(&"subgroups") && least == most && rows <= 4;
        match least {
            16 | 32 | 64 if folds => StepVariant { units: 8, rows, slices, lanes: least },
            // Subgroups of eight hold two slices of four units.
            8 if folds => StepVariant { units: 4, rows, slices, lanes: 8 },
            _ => StepVariant { units: 8, rows, slices, lanes: 1 },
        }
    }

    /// Several invocations share the terms of a unit.
    pub(super) fn is_split(self) -> bool {
        self.slices > 1
    }

    /// In words, for the notes.
    pub(super) fn describe(self) -> String {
        match self {
            StepVariant { slices: 1, rows, .. } => format!("{rows} rows an invocation"),
            StepVariant { slices, lanes: 1, .. } => format!("sums shared by {slices} invocations"),
            StepVariant { slices, .. } => {
                format!("sums shared by {slices} invocations, folded by subgroups")
            }
        }
    }
}

fn tile(batch: usize) -> u32 {
    if batch >= 5 { 8 } else { batch.next_power_of_two() as u32 }
}

/// Why the kernel cannot run a layer.
pub(super) fn refusal(layer: &Layer<'_>) -> Option<&'static str> {
    let options = &layer.options;
    if options.layer_norm {
        Some("layer norm needs the sums of all units")
    } else if options.projection {
        Some("the projection needs all units of the step")
    } else if options.reset_before {
        Some("the reset before the product needs all units of the step")
    } else {
        None
    }
}

/// The kernel of a layer, or of a stack of layers as a wave.
pub(super) fn kernel(
    ctx: &Recorder<'_>,
    layer: &Layer<'_>,
    memory: &Memory,
    form: StepVariant,
) -> Kernel {
    let [weights, mut products] = ctx.shared.product_parts(&memory.weights);
    if form.units < 8 {
        // Neighbors must share their terms to load them together.
        products = Part::ProductsPlain;
    }
    let reduce = if form.lanes > 1 { Part::ReduceSubgroup } else { Part::ReduceWorkgroup };
    let partials = if form.slices > 1 { form.units * form.slices * form.rows } else { 1 };
    layer
        .kernel(
            Kernel::with_parts(Shader::RecurrentStep, &[weights, products, reduce]),
            memory.keep,
        )
        .with("UNITS", form.units)
        .with("ROWS", form.rows)
        .with("SLICES", form.slices)
        .with("LANES", form.lanes)
        .with("THREADS", form.units * form.slices)
        .with("PARTIALS", partials)
        .with("WAVE", u32::from(layer.options.stacked))
}

/// The workgroups of `layers` layers (or directions).
pub(super) fn groups(layer: &Layer<'_>, form: StepVariant, layers: usize) -> [u32; 3] {
    [
        layers as u32,
        (layer.batch as u32).div_ceil(form.rows),
        (layer.units as u32).div_ceil(form.units),
    ]
}

/// Records the steps `first .. first + steps`.
pub(super) fn record(
    ctx: &mut Recorder<'_>,
    layer: &Layer<'_>,
    memory: &Memory,
    form: StepVariant,
    (first, steps): (usize, usize),
) -> Result<()> {
    if let Some(reason) = refusal(layer) {
        return Err(Error::internal(format!(
            "the step kernel was chosen for this layer, but {reason}"
        )));
    }
    let kernel = kernel(ctx, layer, memory, form);
    let groups = groups(layer, form, layer.directions.len());
    let params = layer.params(memory, first, first, 1);
    let repeat = Repeat { count: steps as u32, word: 0, step: 1 };
    ctx.dispatch_repeated(&kernel, &memory.bindings(), &params, groups, repeat, Phase::Recurrence)
}
