//! Layers that join several inputs, with the mask rules of each generation (see
//! [`version`](crate::formats::keras::version)).

use super::{Layer, Masks, NOTHING, Use};
use crate::error::{Error, Result};
use crate::formats::keras::builder::{Builder, Flow};
use crate::formats::keras::version::Major;
use crate::graph::ValueId;
use crate::graph::op::{BinaryFunction, ReduceFunction};

pub(super) const LAYERS: &[Layer] = &[
    Layer {
        classes: &["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"],
        arguments: &["inputs"],
        passed_over: &[&NOTHING],
        masks: Masks::Own,
        apply: merge,
    },
    Layer {
        classes: &["Concatenate"],
        arguments: &["inputs"],
        passed_over: &[&NOTHING],
        masks: Masks::Own,
        apply: concatenate,
    },
];

fn merge(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let inputs = used.arguments.flows("inputs")?;
    let least = if b.major == Major::Keras3 { 1 } else { 2 };
    if inputs.len() < least || (used.class == "Subtract" && inputs.len() != 2) {
        return Err(Error::malformed(format!("{} input(s)", inputs.len())));
    }
    let masks: Vec<Option<ValueId>> = inputs.iter().map(|flow| flow.mask).collect();
    let mask = match b.major {
        Major::Keras2 => all_of_some(b, &masks)?,
        Major::Keras3 => any_of_all(b, &masks)?,
    };
    let inputs = of_one_rank(b, &inputs)?;
    let value = match (b.major, used.class) {
        (Major::Keras3, "Multiply") => multiply_masked(b, &inputs)?,
        (Major::Keras3, "Maximum") => extreme_masked(b, BinaryFunction::Maximum, &inputs)?,
        (Major::Keras3, "Minimum") => extreme_masked(b, BinaryFunction::Minimum, &inputs)?,
        (_, class) => fold(b, function(class), &inputs)?,
    };
    let value = if used.class == "Average" {
        b.with_number(BinaryFunction::Mul, value, 1.0 / inputs.len() as f64)?
    } else {
        value
    };
    Ok(vec![Flow { value, mask }])
}

fn function(class: &str) -> BinaryFunction {
    match class {
        "Subtract" => BinaryFunction::Sub,
        "Multiply" => BinaryFunction::Mul,
        "Maximum" => BinaryFunction::Maximum,
        "Minimum" => BinaryFunction::Minimum,
        _ => BinaryFunction::Add,
    }
}

fn fold(b: &mut Builder, function: BinaryFunction, inputs: &[Flow]) -> Result<ValueId> {
    let mut values = inputs.iter().map(|flow| flow.value);
    let first = values.next().ok_or_else(|| Error::malformed("no inputs"))?;
    values.try_fold(first, |out, value| b.binary(function, out, value))
}

/// Inputs of lower rank get axes of size 1 behind the batch; a new tensor carries no mask into the
/// values' rule.
fn of_one_rank(b: &mut Builder, inputs: &[Flow]) -> Result<Vec<Flow>> {
    let mut rank = 0;
    for flow in inputs {
        rank = rank.max(b.rank(flow.value)?);
    }
    let mut out = Vec::with_capacity(inputs.len());
    for flow in inputs {
        let mut flow = *flow;
        for _ in b.rank(flow.value)?..rank {
            flow = Flow::plain(b.expand(flow.value, 1)?);
        }
        out.push(flow);
    }
    Ok(out)
}

/// Keras 2: true where all masks are; inputs without one do not count.
fn all_of_some(b: &mut Builder, masks: &[Option<ValueId>]) -> Result<Option<ValueId>> {
    joined(b, BinaryFunction::And, masks.iter().flatten().copied())
}

/// Keras 3: true where any mask is, when all inputs have one.
fn any_of_all(b: &mut Builder, masks: &[Option<ValueId>]) -> Result<Option<ValueId>> {
    match masks.iter().copied().collect::<Option<Vec<ValueId>>>() {
        None => Ok(None),
        Some(masks) => joined(b, BinaryFunction::Or, masks.into_iter()),
    }
}

fn joined(
    b: &mut Builder,
    function: BinaryFunction,
    masks: impl Iterator<Item = ValueId>,
) -> Result<Option<ValueId>> {
    let mut out = None;
    for mask in masks {
        out = Some(match out {
            None => mask,
            Some(before) if before == mask => mask,
            Some(before) => b.binary(function, before, mask)?,
        });
    }
    Ok(out)
}

/// The mask of a value with an axis of size 1 for the features.
fn beside_features(b: &mut Builder, flow: &Flow, mask: ValueId) -> Result<ValueId> {
    let (rank, mask_rank) = (b.rank(flow.value)?, b.rank(mask)?);
    if mask_rank + 1 != rank {
        return Err(Error::unsupported(format!(
            "merging under a mask of rank {mask_rank} beside values of rank {rank}"
        )));
    }
    b.expand(mask, -1)
}

/// Keras 3: masked elements count as 1; where no input is kept and all have masks, the product is
/// 0.
fn multiply_masked(b: &mut Builder, inputs: &[Flow]) -> Result<ValueId> {
    let mut out: Option<ValueId> = None;
    let mut masks = Vec::new();
    for flow in inputs {
        let mut value = flow.value;
        if let Some(mask) = flow.mask {
            let mask = beside_features(b, flow, mask)?;
            masks.push(mask);
            let one = b.scalar_like(value, 1.0)?;
            value = b.select(mask, value, one)?;
        }
        out = Some(match out {
            None => value,
            Some(before) => b.binary(BinaryFunction::Mul, before, value)?,
        });
    }
    let out = out.ok_or_else(|| Error::malformed("no inputs"))?;
    if masks.len() < inputs.len() {
        return Ok(out);
    }
    match joined(b, BinaryFunction::Or, masks.into_iter())? {
        None => Ok(out),
        Some(kept) => {
            let zero = b.scalar_like(out, 0.0)?;
            b.select(kept, out, zero)
        }
    }
}

/// Keras 3: a masked element takes the other side's place; the mask of what was folded so far is
/// gone with the first input that has none.
fn extreme_masked(b: &mut Builder, function: BinaryFunction, inputs: &[Flow]) -> Result<ValueId> {
    let mut out: Option<(ValueId, Option<ValueId>)> = None;
    for flow in inputs {
        let mask = match flow.mask {
            Some(mask) => Some(beside_features(b, flow, mask)?),
            None => None,
        };
        let Some((before, before_mask)) = out else {
            out = Some((flow.value, mask));
            continue;
        };
        let value = match mask {
            Some(mask) => b.select(mask, flow.value, before)?,
            None => flow.value,
        };
        let before = match before_mask {
            Some(mask) => b.select(mask, before, value)?,
            None => before,
        };
        let joined_mask = match (before_mask, mask) {
            (Some(a), Some(z)) => Some(b.binary(BinaryFunction::Or, a, z)?),
            _ => None,
        };
        out = Some((b.binary(function, before, value)?, joined_mask));
    }
    out.map(|(value, _)| value).ok_or_else(|| Error::malformed("no inputs"))
}

fn concatenate(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let inputs = used.arguments.flows("inputs")?;
    let axis = used.config.integer("axis", -1)?;
    let values: Vec<ValueId> = inputs.iter().map(|flow| flow.value).collect();
    let value = b.concat(&values, axis)?;
    if inputs.iter().all(|flow| flow.mask.is_none()) {
        return Ok(vec![Flow::plain(value)]);
    }
    Ok(vec![Flow { value, mask: Some(joined_mask(b, &inputs, axis)?) }])
}

/// The masks joined like the values. Over the features: true where any mask is in Keras 3, where
/// all are in Keras 2. An input without a mask counts as true.
fn joined_mask(b: &mut Builder, inputs: &[Flow], axis: i64) -> Result<ValueId> {
    let first = inputs.first().ok_or_else(|| Error::malformed("no inputs"))?;
    let rank = b.rank(first.value)?;
    let axis = crate::formats::keras::axis(axis, rank)?;
    let over_features = axis as usize + 1 == rank;
    let mut masks = Vec::with_capacity(inputs.len());
    for flow in inputs {
        masks.push(match flow.mask {
            Some(mask) if b.rank(mask)? + 1 == rank => mask,
            Some(mask) => {
                return Err(Error::unsupported(format!(
                    "joining a mask of rank {} beside values of rank {rank}",
                    b.rank(mask)?
                )));
            }
            None => always(b, flow.value)?,
        });
    }
    if !over_features {
        return b.concat(&masks, axis.into());
    }
    let function = match b.major {
        Major::Keras2 => BinaryFunction::And,
        Major::Keras3 => BinaryFunction::Or,
    };
    joined(b, function, masks.into_iter())?.ok_or_else(|| Error::malformed("no inputs"))
}

/// True for each position of `x`, its features left out.
fn always(b: &mut Builder, x: ValueId) -> Result<ValueId> {
    let same = b.binary(BinaryFunction::Equal, x, x)?;
    // NaN alone differs from itself.
    let other = b.binary(BinaryFunction::NotEqual, x, x)?;
    let all = b.binary(BinaryFunction::Or, same, other)?;
    b.reduce(ReduceFunction::Any, all, &[-1], false)
}
