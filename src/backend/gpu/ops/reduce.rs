//! Reductions, the index of the extreme value, softmax.

use super::elementwise::type_code;
use super::movement::{axis, numbers};
use super::walk::{Walk, steps};
use crate::backend::gpu::buffers::Word;
use crate::backend::gpu::dense::SOFTWARE_ITERATIONS;
use crate::backend::gpu::pipeline::{Kernel, Shader};
use crate::backend::gpu::record::{Operand, Recorder};
use crate::error::{Error, Result};
use crate::graph::Node;
use crate::graph::op::{ArgMax, Reduce, ReduceFunction, Softmax};
use crate::tensor::DType;

pub(super) fn reduce(ctx: &mut Recorder<'_>, node: &Node, options: &Reduce) -> Result<()> {
    let axes = numbers(ctx, node, 1)?;
    let x = ctx.input(node, 0)?;
    let mut reduced = vec![false; x.shape.len()];
    for k in axes {
        reduced[axis(k, x.shape.len())?] = true;
    }
    let code = match options.function {
        ReduceFunction::Sum => 0,
        ReduceFunction::Mean => 1,
        ReduceFunction::Product => 2,
        ReduceFunction::Maximum => 3,
        ReduceFunction::Minimum => 4,
        ReduceFunction::Any => 5,
        ReduceFunction::All => 6,
    };
    along(ctx, node, &x, &reduced, code)
}

pub(super) fn arg_max(ctx: &mut Recorder<'_>, node: &Node, options: &ArgMax) -> Result<()> {
    let found = numbers(ctx, node, 1)?;
    let x = ctx.input(node, 0)?;
    let mut reduced = vec![false; x.shape.len()];
    reduced[axis(found.first().copied().unwrap_or(0), x.shape.len())?] = true;
    along(ctx, node, &x, &reduced, if options.minimum { 8 } else { 7 })
}

/// One invocation a result walks over the reduced axes.
fn along(
    ctx: &mut Recorder<'_>,
    node: &Node,
    x: &Operand,
    reduced: &[bool],
    code: u32,
) -> Result<()> {
    let part = |which: bool| {
        let keep = |k: &usize| reduced[*k] == which;
        let along = steps(&x.shape);
        let sizes = (0..x.shape.len()).filter(keep).map(|k| x.shape[k]).collect();
        Walk {
            sizes,
            tensors: vec![(0, (0..x.shape.len()).filter(keep).map(|k| along[k]).collect())],
        }
    };
    let (outer, inner) = (part(false), part(true));
    let (count, terms) = (outer.count()?, inner.count()?);
    if terms == 0 && code != 0 {
        return Err(Error::unsupported("a reduction of no elements is computed on the host"));
    }
    if x.word == Word::I32 && x.dtype != DType::I32 && !matches!(code, 3 | 4 | 7 | 8) {
        return Err(Error::unsupported(format!(
            "arithmetic of {} is computed on the host",
            x.dtype
        )));
    }
    let (outer, inner) = (outer.collapsed(), inner.collapsed());
    let each = terms.saturating_mul(inner.rank().max(1) + 1);
    if ctx.shared.device.software && each > SOFTWARE_ITERATIONS {
        return Err(Error::unsupported(format!(
            "a reduction of {terms} elements: the software driver ends loops after {SOFTWARE_ITERATIONS}"
        )));
    }
    let y = ctx.output(node, 0)?;
    if count == 0 {
        return Ok(());
    }
    // Each table ends with a word of padding; only the last one may.
    let mut table = outer.table()?;
    table.pop();
    table.extend(inner.table()?);
    let table = ctx.table(&table)?;
    let params = [count, outer.rank(), terms, inner.rank()];
    let kernel = Kernel::new(Shader::Reduce).with("FUNCTION", code).with("TYPE", type_code(x.word));
    ctx.dispatch(&kernel, &[&x.view, &table, &y.view], &params, ctx.linear(count, 64))
}

pub(super) fn softmax(ctx: &mut Recorder<'_>, node: &Node, options: &Softmax) -> Result<()> {
    let x = ctx.input(node, 0)?;
    if x.word != Word::F32 {
        return Err(Error::unsupported(format!(
            "a softmax of {} is computed on the host",
            x.dtype
        )));
    }
    let count = x.count()?;
    let width = crate::backend::gpu::record::count(x.shape.last().copied().unwrap_or(1))?;
    if ctx.shared.device.software && width.saturating_mul(3) > SOFTWARE_ITERATIONS {
        return Err(Error::unsupported(format!(
            "a row of {width} elements: the software driver ends loops after {SOFTWARE_ITERATIONS}"
        )));
    }
    let y = ctx.output(node, 0)?;
    let rows = count.checked_div(width).unwrap_or(0);
    let kernel = Kernel::new(Shader::Softmax).with("LOG", f64::from(u8::from(options.log)));
    let params = [rows, width, options.beta.to_bits()];
    ctx.dispatch(&kernel, &[&x.view, &y.view], &params, ctx.linear(rows, 64))
}
