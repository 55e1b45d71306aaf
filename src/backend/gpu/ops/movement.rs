//! The ops that move elements without computing: each is one walk, or one for each of its parts, of
//! the same kernel.

use super::walk::{Walk, broadcast_steps, steps};
use crate::backend::gpu::pipeline::{Kernel, Shader};
use crate::backend::gpu::record::{Operand, Recorder};
use crate::error::{Error, Result};
use crate::graph::Node;
use crate::graph::infer::{AxisRange, resolve};
use crate::graph::op::{Concat, Pack, StridedSlice, Unpack};
use crate::tensor::{DType, Tensor};

/// The known numbers of an operand that decides a shape.
pub(super) fn numbers(ctx: &Recorder<'_>, node: &Node, slot: usize) -> Result<Vec<i64>> {
    known(ctx, node, slot)
        .ok_or_else(|| Error::unsupported(format!("operand {slot} is computed from data")))?
        .to_i64()
}

/// A known operand.
pub(super) fn known(ctx: &Recorder<'_>, node: &Node, slot: usize) -> Option<Tensor> {
    let id = node.input(slot)?;
    ctx.plan.known(id).or_else(|| ctx.plan.graph.constant(id)).cloned()
}

/// An axis that may be counted from the end.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize> {
    let wrapped = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    let found = wrapped.and_then(|axis| usize::try_from(axis).ok()).filter(|&axis| axis < rank);
    found.ok_or_else(|| Error::graph(format!("axis {axis} of a tensor of rank {rank}")))
}

/// Copies along a walk over x (tensor 0) and y (tensor 1).
fn copy(ctx: &mut Recorder<'_>, x: &Operand, y: &Operand, walk: &Walk) -> Result<()> {
    let count = walk.count()?;
    if count == 0 {
        return Ok(());
    }
    let walk = walk.collapsed();
    let table = ctx.table(&walk.table()?)?;
    let params = [count, walk.rank(), walk.start(0)?, walk.start(1)?];
    ctx.dispatch(
        &Kernel::new(Shader::Copy),
        &[&x.view, &table, &y.view],
        &params,
        ctx.linear(count, 64),
    )
}

/// y, contiguous, from x by a start and steps along y's axes.
fn gathered(ctx: &mut Recorder<'_>, node: &Node, start: i64, x_steps: Vec<i64>) -> Result<()> {
    let (x, y) = (ctx.input(node, 0)?, ctx.output(node, 0)?);
    let walk =
        Walk { sizes: y.shape.clone(), tensors: vec![(start, x_steps), (0, steps(&y.shape))] };
    copy(ctx, &x, &y, &walk)
}

pub(super) fn transpose(ctx: &mut Recorder<'_>, node: &Node) -> Result<()> {
    let permutation = numbers(ctx, node, 1)?;
    let x = ctx.input(node, 0)?;
    let from = steps(&x.shape);
    let turned =
        permutation.iter().map(|&p| Ok(from[axis(p, from.len())?])).collect::<Result<Vec<_>>>()?;
    // Moving axes of size 1 about changes no element's place.
    let order: Vec<i64> =
        permutation.iter().copied().filter(|&p| x.dim(p.max(0) as usize) != 1).collect();
    if order.is_sorted() && permutation.iter().all(|&p| p >= 0) {
        return ctx.alias(node);
    }
    gathered(ctx, node, 0, turned)
}

pub(super) fn reverse(ctx: &mut Recorder<'_>, node: &Node) -> Result<()> {
    let axes = numbers(ctx, node, 1)?;
    let x = ctx.input(node, 0)?;
    let (mut start, mut along) = (0, steps(&x.shape));
    for k in axes {
        let k = axis(k, along.len())?;
        start += along[k] * (x.shape[k] as i64 - 1).max(0);
        along[k] = -along[k];
    }
    gathered(ctx, node, start, along)
}

pub(super) fn slice(ctx: &mut Recorder<'_>, node: &Node) -> Result<()> {
    let begin = numbers(ctx, node, 1)?;
    let x = ctx.input(node, 0)?;
    let along = steps(&x.shape);
    let start = begin.iter().zip(&along).map(|(b, step)| b * step).sum();
    gathered(ctx, node, start, along)
}

pub(super) fn strided_slice(
    ctx: &mut Recorder<'_>,
    node: &Node,
    options: &StridedSlice,
) -> Result<()> {
    let (begin, end, strides) =
        (numbers(ctx, node, 1)?, numbers(ctx, node, 2)?, numbers(ctx, node, 3)?);
    let x = ctx.input(node, 0)?;
    let from = steps(&x.shape);
    let mut sizes = from.iter();
    let (mut start, mut along) = (0, Vec::new());
    for range in resolve(options, &x.shape, &begin, &end, &strides)? {
        if range == AxisRange::New {
            along.push(0);
            continue;
        }
        let step = sizes.next().copied().unwrap_or(0);
        match range {
            AxisRange::Keep { start: first, stride, count } => {
                start += if count == 0 { 0 } else { first * step };
                along.push(step.saturating_mul(stride));
            }
            AxisRange::Take { index } => start += index * step,
            AxisRange::New => {}
        }
    }
    gathered(ctx, node, start, along)
}

pub(super) fn broadcast_to(ctx: &mut Recorder<'_>, node: &Node) -> Result<()> {
    let x = ctx.input(node, 0)?;
    let y = ctx.output(node, 0)?;
    let along = broadcast_steps(&x.shape, y.shape.len());
    let walk = Walk { sizes: y.shape.clone(), tensors: vec![(0, along), (0, steps(&y.shape))] };
    copy(ctx, &x, &y, &walk)
}

/// Each axis of y is an axis of repetitions around an axis of x.
pub(super) fn tile(ctx: &mut Recorder<'_>, node: &Node) -> Result<()> {
    let (x, y) = (ctx.input(node, 0)?, ctx.output(node, 0)?);
    let (from, to) = (steps(&x.shape), steps(&y.shape));
    let (mut sizes, mut x_steps, mut y_steps) = (Vec::new(), Vec::new(), Vec::new());
    for (k, (&size, &total)) in x.shape.iter().zip(&y.shape).enumerate() {
        sizes.extend([total.checked_div(size).unwrap_or(0), size]);
        x_steps.extend([0, from[k]]);
        y_steps.extend([to[k].saturating_mul(size as i64), to[k]]);
    }
    copy(ctx, &x, &y, &Walk { sizes, tensors: vec![(0, x_steps), (0, y_steps)] })
}

pub(super) fn concat(ctx: &mut Recorder<'_>, node: &Node, options: &Concat) -> Result<()> {
    if options.activation != crate::graph::op::Activation::Linear {
        return Err(Error::unsupported("concatenation with an activation"));
    }
    let parts =
        (0..node.inputs.len()).map(|slot| ctx.input(node, slot)).collect::<Result<Vec<_>>>()?;
    let y = ctx.output(node, 0)?;
    let (along, to) = (axis(options.axis, y.shape.len())?, steps(&y.shape));
    let mut done = 0;
    for x in parts {
        let walk = Walk {
            sizes: x.shape.clone(),
            tensors: vec![(0, steps(&x.shape)), (done * to[along], to.clone())],
        };
        copy(ctx, &x, &y, &walk)?;
        done += x.shape[along] as i64;
    }
    Ok(())
}

pub(super) fn pack(ctx: &mut Recorder<'_>, node: &Node, options: &Pack) -> Result<()> {
    let parts =
        (0..node.inputs.len()).map(|slot| ctx.input(node, slot)).collect::<Result<Vec<_>>>()?;
    let y = ctx.output(node, 0)?;
    let along = axis(options.axis, y.shape.len())?;
    let mut to = steps(&y.shape);
    let step = to.remove(along);
    for (k, x) in parts.iter().enumerate() {
        let walk = Walk {
            sizes: x.shape.clone(),
            tensors: vec![(0, steps(&x.shape)), (k as i64 * step, to.clone())],
        };
        copy(ctx, x, &y, &walk)?;
    }
    Ok(())
}

pub(super) fn unpack(ctx: &mut Recorder<'_>, node: &Node, options: &Unpack) -> Result<()> {
    let x = ctx.input(node, 0)?;
    let along = axis(options.axis, x.shape.len())?;
    let mut from = steps(&x.shape);
    let step = from.remove(along);
    for slot in 0..node.outputs.len() {
        if let Some(y) = ctx.optional_output(node, slot)? {
            let tensors = vec![(slot as i64 * step, from.clone()), (0, steps(&y.shape))];
            copy(ctx, &x, &y, &Walk { sizes: y.shape.clone(), tensors })?;
        }
    }
    Ok(())
}

pub(super) fn split(ctx: &mut Recorder<'_>, node: &Node) -> Result<()> {
    let along = numbers(ctx, node, 1)?;
    let x = ctx.input(node, 0)?;
    let along = axis(along.first().copied().unwrap_or(0), x.shape.len())?;
    let from = steps(&x.shape);
    // The sizes of unwanted parts count too, so they are taken from the operand rather than from
    // the results.
    let parts = node.outputs.len().max(1);
    let sizes = match node.input(2) {
        None => vec![x.shape[along] / parts; parts],
        Some(_) => {
            let given = numbers(ctx, node, 2)?;
            let named: i64 = given.iter().filter(|size| **size >= 0).sum();
            given
                .iter()
                .map(|&n| {
                    if n >= 0 { n as usize } else { x.shape[along].saturating_sub(named as usize) }
                })
                .collect()
        }
    };
    let mut done = 0;
    for (slot, size) in sizes.into_iter().enumerate() {
        if let Some(y) = ctx.optional_output(node, slot)? {
            let tensors = vec![(done * from[along], from.clone()), (0, steps(&y.shape))];
            copy(ctx, &x, &y, &Walk { sizes: y.shape.clone(), tensors })?;
        }
        done += size as i64;
    }
    Ok(())
}

/// The value everywhere, then x over it.
pub(super) fn pad(ctx: &mut Recorder<'_>, node: &Node) -> Result<()> {
    let paddings = numbers(ctx, node, 1)?;
    let value = if node.input(2).is_some() {
        let value = known(ctx, node, 2)
            .ok_or_else(|| Error::unsupported("the padding value is computed from data"))?;
        word(&value)?
    } else {
        0
    };
    let (x, y) = (ctx.input(node, 0)?, ctx.output(node, 0)?);
    fill_with(ctx, &y, value)?;
    let to = steps(&y.shape);
    let start = paddings
        .chunks(2)
        .zip(&to)
        .map(|(pair, step)| pair.first().copied().unwrap_or(0) * step)
        .sum();
    copy(
        ctx,
        &x,
        &y,
        &Walk { sizes: x.shape.clone(), tensors: vec![(0, steps(&x.shape)), (start, to)] },
    )
}

pub(super) fn fill(ctx: &mut Recorder<'_>, node: &Node) -> Result<()> {
    let value =
        known(ctx, node, 1).ok_or_else(|| Error::unsupported("the value is computed from data"))?;
    let value = word(&value)?;
    let y = ctx.output(node, 0)?;
    fill_with(ctx, &y, value)
}

fn fill_with(ctx: &mut Recorder<'_>, y: &Operand, value: u32) -> Result<()> {
    let count = y.count()?;
    ctx.dispatch(&Kernel::new(Shader::Fill), &[&y.view], &[count, value], ctx.linear(count, 64))
}

/// The device's word of a scalar.
fn word(value: &Tensor) -> Result<u32> {
    let one = || Error::graph("a scalar was expected");
    match value.dtype() {
        DType::F32 => Ok(value.as_slice::<f32>()?.first().ok_or_else(one)?.to_bits()),
        DType::Bool => Ok(u32::from(*value.as_slice::<bool>()?.first().ok_or_else(one)?)),
        DType::I8 | DType::U8 | DType::I16 | DType::I32 | DType::I64 => {
            let number = *value.to_i64()?.first().ok_or_else(one)?;
            let number = i32::try_from(number)
                .map_err(|_| Error::unsupported(format!("{number} needs 64 bits")))?;
            Ok(number as u32)
        }
        other @ (DType::F16 | DType::F64) => Err(Error::unsupported(format!("a value of {other}"))),
    }
}
