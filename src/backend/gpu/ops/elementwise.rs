//! Functions of one, two and three arguments, element by element, and conversions of type.

use super::activation;
use super::walk::{Walk, broadcast_steps};
use crate::backend::gpu::buffers::Word;
use crate::backend::gpu::pipeline::{Kernel, Shader};
use crate::backend::gpu::record::{Operand, Recorder};
use crate::error::{Error, Result};
use crate::graph::op::{Activation, Binary, BinaryFunction, Unary};
use crate::graph::{Node, ValueId};
use crate::tensor::DType;

/// The code of a type in the shaders.
pub(super) fn type_code(word: Word) -> u32 {
    match word {
        Word::F32 => 0,
        Word::I32 => 1,
        Word::Bool => 2,
    }
}

fn binary_code(function: BinaryFunction) -> u32 {
    match function {
        BinaryFunction::Add => 0,
        BinaryFunction::Sub => 1,
        BinaryFunction::Mul => 2,
        BinaryFunction::Div => 3,
        BinaryFunction::FloorDiv => 4,
        BinaryFunction::FloorMod => 5,
        BinaryFunction::Pow => 6,
        BinaryFunction::Minimum => 7,
        BinaryFunction::Maximum => 8,
        BinaryFunction::SquaredDifference => 9,
        BinaryFunction::Equal => 10,
        BinaryFunction::NotEqual => 11,
        BinaryFunction::Less => 12,
        BinaryFunction::LessEqual => 13,
        BinaryFunction::Greater => 14,
        BinaryFunction::GreaterEqual => 15,
        BinaryFunction::And => 16,
        BinaryFunction::Or => 17,
    }
}

pub(super) fn binary(ctx: &mut Recorder<'_>, node: &Node, options: &Binary) -> Result<()> {
    let (a, b) = (ctx.input(node, 0)?, ctx.input(node, 1)?);
    let integer_only = a.word == Word::I32;
    if integer_only
        && (options.activation != Activation::Linear || options.function == BinaryFunction::Pow)
    {
        return Err(Error::unsupported(
            "powers and activations of integers are computed on the host",
        ));
    }
    if integer_only
        && matches!(
            options.function,
            BinaryFunction::Div | BinaryFunction::FloorDiv | BinaryFunction::FloorMod
        )
    {
        return Err(Error::unsupported(
            "a division of integers, whose divisor must be checked, is computed on the host",
        ));
    }
    if a.dtype != DType::I32
        && integer_only
        && options.function as u32 <= BinaryFunction::SquaredDifference as u32
    {
        return Err(Error::unsupported(format!(
            "arithmetic of {} is computed on the host",
            a.dtype
        )));
    }
    let y = ctx.output(node, 0)?;
    let kernel = Kernel::new(Shader::Binary)
        .with("FUNCTION", binary_code(options.function))
        .with("TYPE", type_code(a.word));
    let kernel = activation::fused(kernel, options.activation);
    broadcast(ctx, &kernel, &[&a, &b], &y)
}

pub(super) fn select(ctx: &mut Recorder<'_>, node: &Node) -> Result<()> {
    let (condition, a, b) = (ctx.input(node, 0)?, ctx.input(node, 1)?, ctx.input(node, 2)?);
    let y = ctx.output(node, 0)?;
    broadcast(ctx, &Kernel::new(Shader::Select), &[&condition, &a, &b], &y)
}

/// Dispatches a kernel over y, with the steps of each operand along y's axes.
fn broadcast(
    ctx: &mut Recorder<'_>,
    kernel: &Kernel,
    operands: &[&Operand],
    y: &Operand,
) -> Result<()> {
    let tensors = operands.iter().map(|x| (0, broadcast_steps(&x.shape, y.shape.len()))).collect();
    let walk = Walk { sizes: y.shape.clone(), tensors };
    let count = walk.count()?;
    if count == 0 {
        return Ok(());
    }
    let walk = walk.collapsed();
    let table = ctx.table(&walk.table()?)?;
    let mut bindings: Vec<_> = operands.iter().map(|x| &x.view).collect();
    bindings.extend([&table, &y.view]);
    ctx.dispatch(kernel, &bindings, &[count, walk.rank()], ctx.linear(count, 64))
}

pub(super) fn unary(ctx: &mut Recorder<'_>, node: &Node, function: Unary) -> Result<()> {
    let x = ctx.input(node, 0)?;
    let code = match function {
        Unary::Neg => 0,
        Unary::Abs => 1,
        Unary::Exp => 2,
        Unary::Log => 3,
        Unary::Sqrt => 4,
        Unary::Rsqrt => 5,
        Unary::Square => 6,
        Unary::Sin => 7,
        Unary::Cos => 8,
        Unary::Floor => 9,
        Unary::Ceil => 10,
        Unary::Round => 11,
        Unary::Sign => 12,
        Unary::Not => 13,
        Unary::Erf => return Err(Error::unsupported("Erf is computed on the host")),
    };
    if x.word == Word::I32 && (x.dtype != DType::I32 || !matches!(code, 0 | 1 | 6 | 12)) {
        return Err(Error::unsupported(format!(
            "{function:?} of {} is computed on the host",
            x.dtype
        )));
    }
    apply(ctx, node, code, x.word)
}

/// `code` of `unary.wgsl` on every element.
fn apply(ctx: &mut Recorder<'_>, node: &Node, code: u32, word: Word) -> Result<()> {
    let (x, y) = (ctx.input(node, 0)?, ctx.output(node, 0)?);
    let count = x.count()?;
    let kernel = Kernel::new(Shader::Unary)
        .with("FUNCTION", code)
        .with("TYPE", u32::from(word == Word::I32));
    ctx.dispatch(&kernel, &[&x.view, &y.view], &[count], ctx.linear(count, 64))
}

pub(super) fn cast(ctx: &mut Recorder<'_>, node: &Node, to: DType) -> Result<()> {
    let x = ctx.input(node, 0)?;
    let narrowing = |from: DType| x.word == Word::I32 && to != from && to.size() < from.size();
    if narrowing(x.dtype) || matches!(to, DType::I8 | DType::U8 | DType::I16) && x.dtype != to {
        return Err(Error::unsupported(format!(
            "a cast from {} to {to} is computed on the host",
            x.dtype
        )));
    }
    let target = Word::of(to)
        .ok_or_else(|| Error::unsupported(format!("{to} has no type on the device")))?;
    let code = match (x.word, target) {
        (Word::F32, Word::F32) | (Word::I32, Word::I32) | (Word::Bool, Word::Bool) => {
            return ctx.alias(node);
        }
        (Word::I32 | Word::Bool, Word::F32) => 14,
        // The range of an i64 result is wider than the device's: the host converts.
        (Word::F32, Word::I32) if to == DType::I64 => {
            return Err(Error::unsupported("a cast from float32 to int64 is computed on the host"));
        }
        (Word::F32, Word::I32) => 15,
        (Word::F32, Word::Bool) => 16,
        (Word::I32, Word::Bool) => 17,
        (Word::Bool, Word::I32) => 18,
    };
    apply(ctx, node, code, x.word)
}

/// Real numbers to stored ones or back, at the ports of a model whose inside is float.
pub(super) fn quantize(ctx: &mut Recorder<'_>, node: &Node, to_real: bool) -> Result<()> {
    let (x, y) = (ctx.input(node, 0)?, ctx.output(node, 0)?);
    let slot = if to_real { &node.inputs } else { &node.outputs };
    let quantized =
        slot.first().copied().flatten().ok_or_else(|| Error::graph("no quantized value"))?;
    let (scale, zero) = quantization(ctx, quantized)?;
    let (real, stored) = if to_real { (&y, &x) } else { (&x, &y) };
    let range = match stored.dtype {
        DType::I8 => (-128, 127),
        DType::U8 => (0, 255),
        DType::I16 => (-32768, 32767),
        other => return Err(Error::unsupported(format!("quantized numbers of {other}"))),
    };
    if real.word != Word::F32 {
        return Err(Error::unsupported("a change of scale is computed on the host"));
    }
    let count = x.count()?;
    let (low, high): (i32, i32) = range;
    let params = [count, scale.to_bits(), zero as u32, low as u32, high as u32];
    let kernel = Kernel::new(Shader::Quantize).with("TO_REAL", f64::from(u8::from(to_real)));
    ctx.dispatch(&kernel, &[&x.view, &y.view], &params, ctx.linear(count, 64))
}

fn quantization(ctx: &Recorder<'_>, id: ValueId) -> Result<(f32, i32)> {
    let value =
        ctx.plan.graph.get(id).ok_or_else(|| Error::internal("a value that does not exist"))?;
    let pair = value.ty.quantization.as_ref().and_then(|q| q.as_per_tensor());
    let (scale, zero) = pair.ok_or_else(|| Error::unsupported("a scale for each channel"))?;
    Ok((scale, i32::try_from(zero).map_err(|_| Error::graph(format!("zero point {zero}")))?))
}
