//! Operations that move values about and are made of several ops.

use serde_json::Value as Json;

use super::shape::{product, size_at, split_sizes};
use super::{Operation, dtype, flag, integer, integers, one, operand, to_i32};
use crate::error::{Error, Result};
use crate::formats::keras::arguments::{Arg, Bound};
use crate::formats::keras::axis;
use crate::formats::keras::builder::Builder;
use crate::graph::ValueId;
use crate::graph::op::Op;
use crate::tensor::{DType, Tensor};

type Made = Result<Vec<ValueId>>;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "ConvertToTensor",
        arguments: &["x", "dtype", "sparse", "ragged"],
        apply: convert,
    },
    Operation {
        name: "Pad",
        arguments: &["x", "constant_values", "pad_width", "mode"],
        apply: pad,
    },
    Operation { name: "Moveaxis", arguments: &["x", "source", "destination"], apply: move_axis },
    Operation { name: "Roll", arguments: &["x", "shift", "axis"], apply: roll },
    Operation { name: "Cumsum", arguments: &["x", "axis", "dtype"], apply: cumulative_sum },
    Operation {
        name: "Normalize",
        arguments: &["x", "axis", "order", "epsilon"],
        apply: normalize,
    },
];

fn convert(b: &mut Builder, bound: &Bound<'_>) -> Made {
    for name in ["sparse", "ragged"] {
        if flag(bound, name, false)? {
            return Err(Error::unsupported(format!("{name} = true")));
        }
    }
    let x = one(b, bound, "x")?;
    Ok(vec![match dtype(bound, "dtype")? {
        Some(to) => b.cast(x, to)?,
        None => x,
    }])
}

/// Constants around the value: `[before, after]` for each axis, or for all.
fn pad(b: &mut Builder, bound: &Bound<'_>) -> Made {
    let x = one(b, bound, "x")?;
    match bound.get("mode") {
        None => {}
        Some(Arg::Plain(Json::String(mode))) if mode.eq_ignore_ascii_case("constant") => {}
        Some(other) => return Err(Error::unsupported(format!("mode = {}", other.shown()))),
    }
    let rank = b.rank(x)?;
    let width = bound.required("pad_width")?;
    let numbers = operand(width)?;
    let super::Operand::Weak { numbers, .. } = numbers else {
        return Err(Error::unsupported(format!("pad_width = {}", width.shown())));
    };
    let numbers = numbers.to_f32().iter().map(|&n| n as i32).collect::<Vec<i32>>();
    let sizes = match numbers.as_slice() {
        [all] => vec![*all; 2 * rank],
        [before, after] => [*before, *after].repeat(rank),
        each if each.len() == 2 * rank => each.to_vec(),
        _ => return Err(Error::malformed("pad_width of another rank")),
    };
    let paddings = b.constant(Tensor::from_slice(&[rank, 2], &sizes)?);
    let value = match bound.get("constant_values") {
        None => None,
        Some(arg) => {
            let like = b.ty(x)?.dtype;
            Some(operand(arg)?.value(b, like)?)
        }
    };
    Ok(b.node(Op::Pad, &[Some(x), Some(paddings), value], &[true])?.into_iter().flatten().collect())
}

fn move_axis(b: &mut Builder, bound: &Bound<'_>) -> Made {
    let x = one(b, bound, "x")?;
    let rank = b.rank(x)?;
    let listed = |name: &str| -> Result<Vec<i32>> {
        let axes = integers(bound, name)?.ok_or_else(|| Error::malformed(format!("no {name}")))?;
        axes.into_iter().map(|at| axis(at, rank)).collect()
    };
    let (from, to) = (listed("source")?, listed("destination")?);
    if from.len() != to.len() {
        return Err(Error::malformed("as many sources as destinations are needed"));
    }
    let mut order: Vec<i32> = (0..rank as i64).map(to_i32).collect::<Result<_>>()?;
    order.retain(|at| !from.contains(at));
    let mut moves: Vec<(i32, i32)> = to.into_iter().zip(from).collect();
    moves.sort_unstable();
    for (to, from) in moves {
        order.insert((to as usize).min(order.len()), from);
    }
    Ok(vec![b.transpose(x, &order)?])
}

/// The last `shift` entries come first.
fn roll(b: &mut Builder, bound: &Bound<'_>) -> Made {
    let x = one(b, bound, "x")?;
    let (Some(shift), Some(at)) = (integer(bound, "shift")?, integer(bound, "axis")?) else {
        return Err(Error::unsupported("a roll over all axes"));
    };
    let at = axis(at, b.rank(x)?)?;
    let size = to_i32(size_at(b, x, at)? as i64)?;
    let shift = to_i32(shift.rem_euclid(i64::from(size.max(1))))?;
    if shift == 0 {
        return Ok(vec![x]);
    }
    let parts = split_sizes(b, x, at, &[size - shift, shift])?;
    let [first, last] = parts[..] else { return Err(Error::internal("a split of two")) };
    Ok(vec![b.concat(&[last, first], at.into())?])
}

/// Sums of the entries up to each, as a product with a triangle of ones.
fn cumulative_sum(b: &mut Builder, bound: &Bound<'_>) -> Made {
    let x = one(b, bound, "x")?;
    let rank = b.rank(x)?;
    let at = integer(bound, "axis")?;
    let at = axis(at.ok_or_else(|| Error::unsupported("cumsum over all axes"))?, rank)?;
    let size = size_at(b, x, at)?;
    if size > 1 << 12 || rank < 2 {
        return Err(Error::unsupported(format!("cumsum over {size} entries of rank {rank}")));
    }
    let x = match dtype(bound, "dtype")? {
        Some(DType::F32) => b.cast(x, DType::F32)?,
        None if b.ty(x)?.dtype == DType::F32 => x,
        _ => return Err(Error::unsupported("cumsum of integers")),
    };
    let triangle = (0..size * size).map(|k| if k / size <= k % size { 1.0 } else { 0.0 });
    let triangle = b.constant(Tensor::from_vec(&[size, size], triangle.collect::<Vec<f32>>())?);
    let mut swap: Vec<i32> = (0..rank as i64).map(to_i32).collect::<Result<_>>()?;
    swap.swap(at as usize, rank - 1);
    let moved = b.transpose(x, &swap)?;
    let sums = product(b, moved, triangle, false, false)?;
    Ok(vec![b.transpose(sums, &swap)?])
}

/// x over its length along the axis.
fn normalize(b: &mut Builder, bound: &Bound<'_>) -> Made {
    let x = one(b, bound, "x")?;
    let at = axis(integer(bound, "axis")?.unwrap_or(-1), b.rank(x)?)?;
    if integer(bound, "order")?.unwrap_or(2) != 2 {
        return Err(Error::unsupported("a norm of another order than 2"));
    }
    if super::number(bound, "epsilon")?.is_some_and(|epsilon| epsilon != 1e-12) {
        return Err(Error::unsupported("an epsilon of its own"));
    }
    Ok(vec![crate::formats::keras::layers::unit_length(b, x, &[at])?])
}
