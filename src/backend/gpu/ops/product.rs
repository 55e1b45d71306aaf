//! Matrix products whose factors are both computed, convolutions, and the memory layer.

use super::activation;
use super::walk::{Walk, broadcast_steps, steps};
use crate::backend::gpu::buffers::{self, Word};
use crate::backend::gpu::dense::SOFTWARE_ITERATIONS;
use crate::backend::gpu::pipeline::{Kernel, Shader};
use crate::backend::gpu::record::{Recorder, count};
use crate::error::{Error, Result};
use crate::graph::op::{Conv2d, MatMul, Pool2d, PoolFunction, Svdf, SvdfArithmetic};
use crate::graph::{Node, WindowAxis};

/// The software driver ends loops silently; a longer sum is refused.
fn refuse_long_sums(ctx: &Recorder<'_>, terms: usize) -> Result<()> {
    if ctx.shared.device.software && terms > SOFTWARE_ITERATIONS as usize {
        return Err(Error::unsupported(format!(
            "a sum over {terms} terms: the software driver ends loops after {SOFTWARE_ITERATIONS}"
        )));
    }
    Ok(())
}

/// a `[.., M, K]`, b `[.., K, N]`, either with its last axes swapped.
pub(super) fn matmul(ctx: &mut Recorder<'_>, node: &Node, options: &MatMul) -> Result<()> {
    let (a, b) = (ctx.input(node, 0)?, ctx.input(node, 1)?);
    if a.word != Word::F32 || b.word != Word::F32 {
        return Err(Error::unsupported(format!("a product of {} and {}", a.dtype, b.dtype)));
    }
    let (ra, rb) = (a.shape.len(), b.shape.len());
    if ra < 2 || rb < 2 {
        return Err(Error::graph(format!(
            "factors of rank {ra} and {rb}, at least 2 was expected"
        )));
    }
    let (sa, sb) = (steps(&a.shape), steps(&b.shape));
    let swapped =
        |rank: usize, swap: bool| if swap { (rank - 1, rank - 2) } else { (rank - 2, rank - 1) };
    let ((row, depth_a), (depth_b, column)) =
        (swapped(ra, options.transpose_a), swapped(rb, options.transpose_b));
    let (rows, columns, depth) = (a.dim(row), b.dim(column), a.dim(depth_a));
    refuse_long_sums(ctx, depth)?;
    let y = ctx.output(node, 0)?;
    let total = y.count()?;
    if total == 0 {
        return Ok(());
    }
    let batch = y.shape.len() - 2;
    // The batch axes alone would step as if the matrix were one element: scale them to its size.
    let along = |shape: &[usize]| -> Vec<i64> {
        let matrix = (shape[shape.len() - 2] * shape[shape.len() - 1]) as i64;
        broadcast_steps(&shape[..shape.len() - 2], batch).iter().map(|step| step * matrix).collect()
    };
    let tensors = vec![(0, along(&a.shape)), (0, along(&b.shape))];
    let walk = Walk { sizes: y.shape[..batch].to_vec(), tensors }.collapsed();
    let table = ctx.table(&walk.table()?)?;
    let step = |s: i64| u32::try_from(s).map_err(|_| Error::limit("a step overflows"));
    let params = [
        total,
        count(rows)?,
        count(columns)?,
        count(depth)?,
        step(sa[row])?,
        step(sa[depth_a])?,
        step(sb[depth_b])?,
        step(sb[column])?,
        walk.rank(),
    ];
    ctx.dispatch(
        &Kernel::new(Shader::Matmul),
        &[&a.view, &b.view, &table, &y.view],
        &params,
        ctx.linear(total, 64),
    )
}

pub(super) fn conv2d(ctx: &mut Recorder<'_>, node: &Node, options: &Conv2d) -> Result<()> {
    let (x, weights) = (ctx.input(node, 0)?, ctx.input(node, 1)?);
    if x.word != Word::F32 || weights.word != Word::F32 {
        return Err(Error::unsupported(format!(
            "a convolution of {} with {}",
            x.dtype, weights.dtype
        )));
    }
    refuse_long_sums(ctx, weights.shape.get(1..).map_or(0, |kernel| kernel.iter().product()))?;
    let bias = match ctx.optional_input(node, 2)? {
        Some(bias) => bias.view,
        None => ctx.table(&vec![0; weights.dim(0).max(1)])?,
    };
    let y = ctx.output(node, 0)?;
    let total = y.count()?;
    let axis = |k: usize| {
        let (stride, dilation) = (options.strides[k], options.dilations[k]);
        WindowAxis::new(options.padding, k, x.dim(1 + k), weights.dim(1 + k), stride, dilation)
    };
    let mut params = vec![total];
    for size in [
        x.dim(1),
        x.dim(2),
        weights.dim(3),
        y.dim(1),
        y.dim(2),
        y.dim(3),
        weights.dim(1),
        weights.dim(2),
        options.strides[0],
        options.strides[1],
        options.dilations[0],
        options.dilations[1],
        axis(0)?.before,
        axis(1)?.before,
        y.dim(3) / options.groups.max(1),
    ] {
        params.push(count(size)?);
    }
    let kernel = activation::fused(Kernel::new(Shader::Conv2d), options.activation);
    let bindings = [&x.view, &weights.view, &bias, &y.view];
    ctx.dispatch(&kernel, &bindings, &params, ctx.linear(total, 64))
}

/// One invocation for every element of the result.
pub(super) fn pool2d(ctx: &mut Recorder<'_>, node: &Node, options: &Pool2d) -> Result<()> {
    let x = ctx.input(node, 0)?;
    if x.word != Word::F32 {
        return Err(Error::unsupported(format!("a pool of {}", x.dtype)));
    }
    refuse_long_sums(ctx, options.window.iter().product())?;
    let axis = |k: usize| {
        let (window, stride) = (options.window[k], options.strides[k]);
        WindowAxis::new(options.padding, k, x.dim(1 + k), window, stride, options.dilations[k])
    };
    let (vertical, horizontal) = (axis(0)?, axis(1)?);
    let y = ctx.output(node, 0)?;
    let total = y.count()?;
    let mut params = vec![total];
    for size in [
        x.dim(1),
        x.dim(2),
        x.dim(3),
        y.dim(1),
        y.dim(2),
        options.window[0],
        options.window[1],
        options.strides[0],
        options.strides[1],
        options.dilations[0],
        options.dilations[1],
        vertical.before,
        horizontal.before,
        vertical.after,
        horizontal.after,
    ] {
        params.push(count(size)?);
    }
    let kind = match options.function {
        PoolFunction::Maximum => 0.0,
        PoolFunction::Average { count_padding: false } => 1.0,
        PoolFunction::Average { count_padding: true } => 2.0,
    };
    let kernel = activation::fused(Kernel::new(Shader::Pool2d), options.activation);
    let kernel = kernel.with("FUNCTION", kind);
    ctx.dispatch(&kernel, &[&x.view, &y.view], &params, ctx.linear(total, 64))
}

/// The memory first, then the output from it.
pub(super) fn svdf(ctx: &mut Recorder<'_>, node: &Node, layer: &Svdf) -> Result<()> {
    if layer.arithmetic != SvdfArithmetic::Float {
        return Err(Error::unsupported("hybrid and integer arithmetic is computed on the host"));
    }
    let x = ctx.input(node, 0)?;
    let before = ctx.optional_input(node, 1)?;
    let (filters, inputs, slots) =
        (layer.feature.rows(), layer.feature.columns(), layer.time.columns());
    let units = filters.checked_div(layer.rank).unwrap_or(0);
    refuse_long_sums(ctx, inputs + slots)?;
    refuse_long_sums(ctx, layer.rank * slots)?;
    let words = |weights: Vec<f32>| weights.iter().map(|w| w.to_bits()).collect::<Vec<u32>>();
    let feature = ctx.table(&words(layer.feature.to_f32()))?;
    let time = ctx.table(&words(layer.time.to_f32()))?;
    let bias = match &layer.bias {
        Some(bias) => words(bias.to_f32().into_owned()),
        None => vec![0; units],
    };
    let bias = ctx.table(&bias)?;
    let y = ctx.output(node, 0)?;
    let rows = x.dim(0);
    let total = count(rows * filters)?;
    let after = match ctx.optional_output(node, 1)? {
        Some(after) => after.view,
        None => ctx.scratch(buffers::bytes(rows * filters * slots))?,
    };
    let fresh = u32::from(before.is_none());
    let previous = before.map_or_else(|| ctx.unused().clone(), |state| state.view);
    let params = [total, count(filters)?, count(inputs)?, count(slots)?, fresh];
    let bindings = [&x.view, &feature, &previous, &after];
    ctx.dispatch(&Kernel::new(Shader::SvdfMemory), &bindings, &params, ctx.linear(total, 64))?;
    let total = count(rows * units)?;
    let kernel = activation::fused(Kernel::new(Shader::SvdfOutput), layer.activation);
    let params = [total, count(units)?, count(layer.rank * slots)?];
    ctx.dispatch(&kernel, &[&after, &time, &bias, &y.view], &params, ctx.linear(total, 64))
}
