//! The input product of a chunk of steps: `x W + b` for all its `steps · B` rows at once.

use super::Layer;
use super::pack;
use crate::backend::gpu::buffers::View;
use crate::backend::gpu::dense::{self, Dense, Rows};
use crate::backend::gpu::record::{Operand, Phase, Recorder, count};
use crate::error::{Error, Result};
use crate::graph::op::Activation;
use crate::graph::recurrent::{Layout, Matrix, Source};

/// Records the input products of every direction into `inputs` `[d, chunk_steps, B, H]` quads, in
/// the order of processing.
pub(super) fn record(
    ctx: &mut Recorder<'_>,
    layer: &Layer<'_>,
    inputs: &View,
    chunk_steps: usize,
    first: usize,
    steps: usize,
) -> Result<()> {
    for (d, direction) in layer.directions().enumerate() {
        let offset = d * chunk_steps * layer.batch * layer.units * 4;
        let x = match direction.source {
            Source::X => Some(&layer.x),
            Source::Auxiliary => layer.auxiliary.as_ref(),
        };
        let x = x.ok_or_else(|| Error::graph("the auxiliary input is missing"))?;
        let target = (inputs, offset);
        product(ctx, layer, (d, &direction.weights.input, x), target, (first, steps), false)?;
        if let Some(matrix) = &direction.weights.auxiliary {
            let x = layer
                .auxiliary
                .as_ref()
                .ok_or_else(|| Error::graph("the auxiliary input is missing"))?;
            product(ctx, layer, (d, matrix, x), target, (first, steps), true)?;
        }
    }
    Ok(())
}

fn product(
    ctx: &mut Recorder<'_>,
    layer: &Layer<'_>,
    (d, matrix, x): (usize, &Matrix, &Operand),
    (y, y_offset): (&View, usize),
    (first, steps): (usize, usize),
    auxiliary: bool,
) -> Result<()> {
    let Some(direction) = layer.directions().nth(d) else {
        return Err(Error::internal("a direction that does not exist"));
    };
    let owner = &direction.weights;
    let (cell, units) = (&layer.op.cell, layer.units);
    let layout = if auxiliary { "auxiliary" } else { "input" };
    let storing = ctx.shared.storing();
    let stored = || storing.store(&pack::input(cell, matrix, units), 4 * units);
    let weights =
        ctx.matrix(std::slice::from_ref(owner), &format!("{layout} quads"), || Ok(stored().words))?;
    let bias = ctx.weights(owner, format!("{layout} bias quads"), || {
        Ok(super::words(&[pack::bias(cell, owner, units), stored().scales].concat()))
    })?;
    let depth = matrix.columns();
    let product = Dense {
        weights: &weights,
        bias: &bias,
        x: &x.view,
        x_rows: rows(layer, depth, direction.reverse, first)?,
        y,
        y_offset,
        accumulate: auxiliary,
        rows: steps * layer.batch,
        depth,
        columns: 4 * units,
        activation: Activation::Linear,
        phase: Phase::Projection,
    };
    dense::record(ctx, &product)
}

/// Where the rows of x lie in the order of processing, from step `first` on: a run is a step, a row
/// of it a batch row.
fn rows(layer: &Layer<'_>, depth: usize, reverse: bool, first: usize) -> Result<Rows> {
    count(layer.time * layer.batch * depth)?;
    let (step, row) = match layer.op.layout {
        Layout::TimeMajor => (layer.batch * depth, depth),
        Layout::BatchMajor => (depth, layer.time * depth),
    };
    let at = if reverse { layer.time - 1 - first } else { first };
    let run = if reverse { (step as u32).wrapping_neg() } else { step as u32 };
    Ok(Rows { offset: (at * step) as u32, inner: count(layer.batch)?, run, stride: row as u32 })
}
