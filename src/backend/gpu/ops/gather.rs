//! Ops that read at positions which other values give.

use super::movement::axis;
use super::walk::steps;
use crate::backend::gpu::buffers::Word;
use crate::backend::gpu::pipeline::{Kernel, Shader};
use crate::backend::gpu::record::{Recorder, count};
use crate::error::{Error, Result};
use crate::graph::Node;
use crate::graph::op::{Gather, ReverseSequence};
use crate::tensor::element_count;

/// x `[B.., O.., size, N..]`, indices `[B.., I..]`.
pub(super) fn gather(ctx: &mut Recorder<'_>, node: &Node, options: &Gather) -> Result<()> {
    let (x, indices) = (ctx.input(node, 0)?, ctx.input(node, 1)?);
    if indices.word != Word::I32 {
        return Err(Error::graph(format!("indices of {}", indices.dtype)));
    }
    let along = axis(options.axis, x.shape.len())?;
    let batch = if options.batch_dims < 0 {
        axis(options.batch_dims, indices.shape.len())?
    } else {
        options.batch_dims as usize
    };
    let part = |shape: &[usize], from: usize, to: usize| -> Result<u32> {
        count(element_count(
            shape.get(from..to).ok_or_else(|| Error::graph("batch axes of gather"))?,
        )?)
    };
    ctx.check_range(node, 1, x.dim(along))?;
    let y = ctx.output(node, 0)?;
    let outer = part(&x.shape, batch, along)?;
    let each = part(&indices.shape, batch, indices.shape.len())?;
    let inner = part(&x.shape, along + 1, x.shape.len())?;
    let total = y.count()?;
    let params = [total, outer, count(x.dim(along))?, each, inner];
    ctx.dispatch(
        &Kernel::new(Shader::Gather),
        &[&x.view, &indices.view, &y.view],
        &params,
        ctx.linear(total, 64),
    )
}

pub(super) fn reverse_sequence(
    ctx: &mut Recorder<'_>,
    node: &Node,
    options: &ReverseSequence,
) -> Result<()> {
    let (x, lengths) = (ctx.input(node, 0)?, ctx.input(node, 1)?);
    let (time, batch) =
        (axis(options.time_axis, x.shape.len())?, axis(options.batch_axis, x.shape.len())?);
    ctx.check_range(node, 1, x.dim(time).saturating_add(1))?;
    let y = ctx.output(node, 0)?;
    let along = steps(&x.shape);
    let total = x.count()?;
    let step = |k: usize| u32::try_from(along[k]).map_err(|_| Error::limit("a step overflows"));
    let params = [total, step(time)?, count(x.dim(time))?, step(batch)?, count(x.dim(batch))?];
    let kernel = Kernel::new(Shader::ReverseSequence);
    ctx.dispatch(&kernel, &[&x.view, &lengths.view, &y.view], &params, ctx.linear(total, 64))
}
