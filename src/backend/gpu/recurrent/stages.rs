//! The `step` strategy for what needs all units in the middle of a step: two or three dispatches a
//! step.
//!
//! The sums of all units come first; then the layer norm, or the candidate of the GRU whose reset
//! gate acts on the state; then the projection. Between them lie the ends of dispatches, which
//! every workgroup waits for.

use super::{Layer, Memory};
use crate::backend::gpu::dense::SOFTWARE_ITERATIONS;
use crate::backend::gpu::pipeline::{Kernel, Shader};
use crate::backend::gpu::record::{Phase, Recorder, Repeat};
use crate::error::{Error, Result};

/// What a dispatch does; the numbers are those of `recurrent_stages.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Sums = 0,
    LayerNorm = 1,
    Candidate = 2,
    Projection = 3,
}

/// The dispatches of a step, in order.
fn stages(layer: &Layer<'_>) -> Vec<Stage> {
    let options = &layer.options;
    let rare = [
        (options.layer_norm, Stage::LayerNorm),
        (options.reset_before, Stage::Candidate),
        (options.projection, Stage::Projection),
    ];
    let chosen = rare.into_iter().filter(|&(on, _)| on).map(|(_, stage)| stage);
    std::iter::once(Stage::Sums).chain(chosen).collect()
}

/// How many dispatches a step takes.
pub(super) fn count(layer: &Layer<'_>) -> usize {
    stages(layer).len()
}

/// Records the steps `first .. first + steps`.
pub(super) fn record(
    ctx: &mut Recorder<'_>,
    layer: &Layer<'_>,
    memory: &Memory,
    (first, steps): (usize, usize),
) -> Result<()> {
    // The longest loop is over the terms of a projection, or over the units that an invocation of
    // the layer norm has.
    if ctx.shared.device.software && layer.units.max(layer.width) > SOFTWARE_ITERATIONS as usize {
        return Err(Error::limit(
            "one step has more loop iterations than the software driver allows",
        ));
    }
    let Some(gated) = &memory.gated else {
        return Err(Error::internal("there is no memory between the stages"));
    };
    let rows = if layer.batch >= 5 { 8 } else { layer.batch.next_power_of_two() as u32 };
    let (units, width, batch) = (layer.units as u32, layer.width as u32, layer.batch as u32);
    let kernels = stages(layer).into_iter().map(|stage| {
        // A row's layer norm has a workgroup to itself.
        let threads = if stage == Stage::LayerNorm { 256u32 } else { 64 };
        let [x, y] = match stage {
            Stage::Sums | Stage::Candidate => [units.div_ceil(threads), batch.div_ceil(rows)],
            Stage::LayerNorm => [1, batch],
            Stage::Projection => [width.div_ceil(threads), batch],
        };
        let parts = ctx.shared.product_parts(&memory.weights);
        let kernel = layer
            .kernel(Kernel::with_parts(Shader::RecurrentStages, &parts), memory.keep)
            .with("STAGE", stage as u32)
            .with("THREADS", threads)
            .with("ROWS", rows);
        (kernel, [x, y, layer.directions.len() as u32])
    });
    let kernels: Vec<_> = kernels.collect();
    let params = layer.params(memory, first, first, 1);
    let [a, b, c, d, e, f, g] = memory.bindings();
    let repeat = Repeat { count: steps as u32, word: 0, step: 1 };
    ctx.dispatch_rounds(&kernels, &[a, b, c, d, e, f, g, gated], &params, repeat, Phase::Recurrence)
}
