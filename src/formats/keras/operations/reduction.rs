//! Reductions.

use super::{Operation, dtype, flag, integer, integers, one, to_i32};
use crate::error::{Error, Result};
use crate::formats::keras::arguments::{Arg, Bound};
use crate::formats::keras::axis;
use crate::formats::keras::builder::Builder;
use crate::graph::ValueId;
use crate::graph::op::{Activation, ArgMax, BinaryFunction, Op, ReduceFunction, Unary};
use crate::tensor::{DType, Tensor};

type Made = Result<Vec<ValueId>>;

/// A reduction by one op.
macro_rules! plain {
    ($name:literal, $function:ident) => {
        Operation {
            name: $name,
            arguments: &["x", "axis", "keepdims", "initial", "dtype"],
            apply: |b, bound| reduce(b, bound, ReduceFunction::$function),
        }
    };
}

pub(super) const OPERATIONS: &[Operation] = &[
    plain!("Sum", Sum),
    plain!("Mean", Mean),
    plain!("Max", Maximum),
    plain!("Amax", Maximum),
    plain!("Min", Minimum),
    plain!("Amin", Minimum),
    plain!("Prod", Product),
    plain!("Any", Any),
    plain!("All", All),
    Operation {
        name: "Var",
        arguments: &["x", "axis", "keepdims"],
        apply: |b, bound| {
            let (x, axes, keep) = operands(b, bound)?;
            Ok(vec![variance(b, x, &axes, keep)?])
        },
    },
    Operation {
        name: "Std",
        arguments: &["x", "axis", "keepdims"],
        apply: |b, bound| {
            let (x, axes, keep) = operands(b, bound)?;
            let variance = variance(b, x, &axes, keep)?;
            Ok(vec![b.unary(Unary::Sqrt, variance)?])
        },
    },
    Operation { name: "Average", arguments: &["x", "weights", "axis"], apply: average },
    Operation { name: "Logsumexp", arguments: &["x", "axis", "keepdims"], apply: log_sum_exp },
    Operation { name: "Norm", arguments: &["x", "ord", "axis", "keepdims"], apply: norm },
    Operation {
        name: "Argmax",
        arguments: &["x", "axis", "keepdims"],
        apply: |b, bound| arg_extreme(b, bound, false),
    },
    Operation {
        name: "Argmin",
        arguments: &["x", "axis", "keepdims"],
        apply: |b, bound| arg_extreme(b, bound, true),
    },
];

/// The axes of an option; all when it is absent.
fn axes(b: &Builder, bound: &Bound<'_>, x: ValueId) -> Result<Vec<i32>> {
    let rank = b.rank(x)?;
    match integers(bound, "axis")? {
        None => (0..rank as i64).map(to_i32).collect(),
        Some(axes) => axes.into_iter().map(|at| axis(at, rank)).collect(),
    }
}

fn operands(b: &mut Builder, bound: &Bound<'_>) -> Result<(ValueId, Vec<i32>, bool)> {
    let x = one(b, bound, "x")?;
    Ok((x, axes(b, bound, x)?, flag(bound, "keepdims", false)?))
}

fn reduce(b: &mut Builder, bound: &Bound<'_>, function: ReduceFunction) -> Made {
    let (mut x, axes, keep) = operands(b, bound)?;
    if let Some(initial) = bound.get("initial") {
        return Err(Error::unsupported(format!("initial = {}", initial.shown())));
    }
    if let Some(dtype) = dtype(bound, "dtype")? {
        x = b.cast(x, dtype)?;
    }
    let from = b.ty(x)?.dtype;
    x = match function {
        ReduceFunction::Any | ReduceFunction::All => b.cast(x, DType::Bool)?,
        // Means of integers are floats; flags are counted.
        ReduceFunction::Mean => b.cast(x, DType::F32)?,
        _ if from == DType::Bool => b.cast(x, DType::I32)?,
        _ => x,
    };
    Ok(vec![b.reduce(function, x, &axes, keep)?])
}

fn variance(b: &mut Builder, x: ValueId, axes: &[i32], keep: bool) -> Result<ValueId> {
    let x = b.cast(x, DType::F32)?;
    let mean = b.reduce(ReduceFunction::Mean, x, axes, true)?;
    let centered = b.binary(BinaryFunction::Sub, x, mean)?;
    let squared = b.unary(Unary::Square, centered)?;
    b.reduce(ReduceFunction::Mean, squared, axes, keep)
}

/// Σ weights·x / Σ weights, or the mean.
fn average(b: &mut Builder, bound: &Bound<'_>) -> Made {
    let x = one(b, bound, "x")?;
    let axes = axes(b, bound, x)?;
    if let Some(weights) = bound.get("weights") {
        return Err(Error::unsupported(format!("an average with weights {}", weights.shown())));
    }
    let x = b.cast(x, DType::F32)?;
    Ok(vec![b.reduce(ReduceFunction::Mean, x, &axes, false)?])
}

/// max + ln Σ e^(x − max).
fn log_sum_exp(b: &mut Builder, bound: &Bound<'_>) -> Made {
    let (x, axes, keep) = operands(b, bound)?;
    let max = b.reduce(ReduceFunction::Maximum, x, &axes, true)?;
    let shifted = b.binary(BinaryFunction::Sub, x, max)?;
    let power = b.activation(Activation::Exponential, shifted)?;
    let sum = b.reduce(ReduceFunction::Sum, power, &axes, keep)?;
    let log = b.unary(Unary::Log, sum)?;
    let max = match keep {
        true => max,
        false => b.reduce(ReduceFunction::Maximum, x, &axes, false)?,
    };
    Ok(vec![b.binary(BinaryFunction::Add, max, log)?])
}

/// √Σ x².
fn norm(b: &mut Builder, bound: &Bound<'_>) -> Made {
    let (x, axes, keep) = operands(b, bound)?;
    match bound.get("ord") {
        None => {}
        Some(Arg::Plain(json)) if json.as_i64() == Some(2) && axes.len() == 1 => {}
        Some(Arg::Plain(json)) if json.as_str() == Some("euclidean") => {}
        Some(other) => return Err(Error::unsupported(format!("ord = {}", other.shown()))),
    }
    let squared = b.unary(Unary::Square, x)?;
    let sum = b.reduce(ReduceFunction::Sum, squared, &axes, keep)?;
    Ok(vec![b.unary(Unary::Sqrt, sum)?])
}

fn arg_extreme(b: &mut Builder, bound: &Bound<'_>, minimum: bool) -> Made {
    let x = one(b, bound, "x")?;
    let at = integer(bound, "axis")?;
    let at = at.ok_or_else(|| Error::unsupported("the index of the extreme of all axes"))?;
    let at = axis(at, b.rank(x)?)?;
    let operand = b.constant(Tensor::scalar(at));
    let y = b.op(Op::ArgMax(ArgMax { minimum, dtype: DType::I32 }), &[x, operand])?;
    Ok(vec![if flag(bound, "keepdims", false)? { b.expand(y, at)? } else { y }])
}
