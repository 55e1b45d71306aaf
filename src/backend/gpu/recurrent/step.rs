//! One dispatch a step, one invocation a unit of a tile of batch rows: for widths that one workgroup is too slow for.

use super::{Layer, Memory};
use crate::backend::gpu::pipeline::{Kernel, Shader};
use crate::backend::gpu::record::{Phase, Recorder, Repeat};
use crate::error::{Error, Result};

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

/// Records the steps `first .. first + steps`.
pub(super) fn record(
    ctx: &mut Recorder<'_>,
    layer: &Layer<'_>,
    memory: &Memory,
    (first, steps): (usize, usize),
) -> Result<()> {
    if let Some(reason) = refusal(layer) {
        return Err(Error::internal(format!("the step kernel was chosen for this layer, but {reason}")));
    }
    let rows = if layer.batch >= 5 { 8 } else { layer.batch.next_power_of_two() as u32 };
    let width = if layer.units >= 128 {
        64u32
    } else if layer.units > 16 {
        32
    } else {
        16
    };
    let kernel = layer
        .kernel(Kernel::with_parts(Shader::RecurrentStep, &ctx.shared.product_parts(&memory.weights)), memory.keep)
        .with("WIDTH", width)
        .with("ROWS", rows);
    let groups =
        [(layer.units as u32).div_ceil(width), (layer.batch as u32).div_ceil(rows), layer.directions.len() as u32];
    let params = layer.params(memory, first, first, 1);
    let repeat = Repeat { count: steps as u32, word: 0, step: 1 };
    ctx.dispatch_repeated(&kernel, &memory.bindings(), &params, groups, repeat, Phase::Recurrence)
}
