//! Ops that move, shape and make elements without computing with them.

use super::build::Size;
use super::elementwise::function_op;
use super::step::{Step, Val};
use crate::error::{Error, Result};
use crate::graph::op::{
    Activation, BinaryFunction, Concat, Gather, Pack, Reduce, ReduceFunction, ReverseSequence,
    Squeeze, StridedSlice, Unpack,
};
use crate::graph::{Op, ValueId};
use crate::tensor::DType;

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    match shapes(step)? {
        Some(outputs) => Ok(Some(outputs)),
        None => parts(step),
    }
}

/// Ops that make or change shapes.
fn shapes(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    match step.node.op.as_str() {
        "Shape" | "ShapeN" => {
            let dtype = index_type(step, "out_type")?;
            let mut outputs = Vec::with_capacity(step.inputs.len());
            for x in step.tensors()? {
                outputs.push(Val::Tensor(step.add(Op::Shape(dtype), &[x])?));
            }
            Ok(Some(outputs))
        }
        "Rank" => {
            let x = step.tensor(0)?;
            let rank = i32::try_from(step.rank(x)?).unwrap_or(i32::MAX);
            Ok(Some(vec![Val::Tensor(step.scalar(rank))]))
        }
        "Size" => {
            let x = step.tensor(0)?;
            let dtype = index_type(step, "out_type")?;
            let shape = step.add(Op::Shape(dtype), &[x])?;
            let axis = step.vector(&[0])?;
            step.one(
                Op::Reduce(Reduce { function: ReduceFunction::Product, keep_dims: false }),
                &[shape, axis],
            )
        }
        "Reshape" => two(step, Op::Reshape),
        "BroadcastTo" => two(step, Op::BroadcastTo),
        "ExpandDims" => two(step, Op::ExpandDims),
        "Tile" => two(step, Op::Tile),
        "Transpose" => two(step, Op::Transpose),
        "Fill" => two(step, Op::Fill),
        "ReverseV2" => two(step, Op::Reverse),
        "Squeeze" => {
            let axes = step.node.list("squeeze_dims")?.map_or_else(Vec::new, |list| list.i.clone());
            let x = step.tensor(0)?;
            step.one(Op::Squeeze(Squeeze { axes }), &[x])
        }
        "ZerosLike" => like(step, 0.0),
        "OnesLike" => like(step, 1.0),
        "Range" => range(step),
        "InvertPermutation" => invert_permutation(step),
        _ => Ok(None),
    }
}

/// Ops that take apart and join.
fn parts(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    match step.node.op.as_str() {
        "Pack" => {
            let operands = step.tensors()?;
            let axis = step.node.int_or("axis", 0)?;
            step.one(Op::Pack(Pack { axis }), &operands)
        }
        "Unpack" => {
            let &num = step
                .node
                .int("num")?
                .ok_or_else(|| Error::malformed("attribute 'num' is missing"))?;
            let x = step.tensor(0)?;
            let axis = step.node.int_or("axis", 0)?;
            let count = outputs(step, num)?;
            step.many(Op::Unpack(Unpack { axis }), &[x], count)
        }
        "ConcatV2" => {
            let mut operands = step.tensors()?;
            operands.pop();
            concat(step, operands, step.inputs.len().saturating_sub(1))
        }
        "Concat" => {
            let operands = step.tensors()?.into_iter().skip(1).collect();
            concat(step, operands, 0)
        }
        "Split" => {
            step.expect_inputs(2)?;
            let &num = step
                .node
                .int("num_split")?
                .ok_or_else(|| Error::malformed("attribute 'num_split' is missing"))?;
            let (axis, x) = (step.tensor(0)?, step.tensor(1)?);
            let count = outputs(step, num)?;
            step.many(Op::Split, &[x, axis], count)
        }
        "SplitV" => {
            step.expect_inputs(3)?;
            let (x, sizes, axis) = (step.tensor(0)?, step.tensor(1)?, step.tensor(2)?);
            let &num = step
                .node
                .int("num_split")?
                .ok_or_else(|| Error::malformed("attribute 'num_split' is missing"))?;
            let count = outputs(step, num)?;
            step.many(Op::Split, &[x, axis, sizes], count)
        }
        "Slice" => three(step, Op::Slice),
        "StridedSlice" => strided_slice(step),
        "Gather" | "GatherV2" | "ResourceGather" => gather(step),
        "ReverseSequence" => {
            step.expect_inputs(2)?;
            let &time_axis = step
                .node
                .int("seq_dim")?
                .ok_or_else(|| Error::malformed("attribute 'seq_dim' is missing"))?;
            let batch_axis = step.node.int_or("batch_dim", 0)?;
            let (x, lengths) = (step.tensor(0)?, step.tensor(1)?);
            step.one(Op::ReverseSequence(ReverseSequence { time_axis, batch_axis }), &[x, lengths])
        }
        "Pad" => two(step, Op::Pad),
        "PadV2" => three(step, Op::Pad),
        "OneHot" => one_hot(step),
        _ => Ok(None),
    }
}

fn two(step: &mut Step<'_, '_>, op: Op) -> Result<Option<Vec<Val>>> {
    step.expect_inputs(2)?;
    let operands = step.tensors()?;
    step.one(op, &operands)
}

fn three(step: &mut Step<'_, '_>, op: Op) -> Result<Option<Vec<Val>>> {
    step.expect_inputs(3)?;
    let operands = step.tensors()?;
    step.one(op, &operands)
}

/// Number of outputs of a node, each charged as a node is.
fn outputs(step: &mut Step<'_, '_>, num: i64) -> Result<usize> {
    let count = usize::try_from(num)
        .map_err(|_| Error::malformed(format!("the node is said to have {num} outputs")))?;
    step.context.expanded.take(count)?;
    Ok(count)
}

fn index_type(step: &Step<'_, '_>, attr: &str) -> Result<DType> {
    match step.node.type_number(attr)? {
        None => Ok(DType::I32),
        Some(&number) => super::tensor::dtype(number),
    }
}

/// A tensor of one value, shaped as the operand.
fn like(step: &mut Step<'_, '_>, value: f64) -> Result<Option<Vec<Val>>> {
    let x = step.tensor(0)?;
    let shape = step.add(Op::Shape(DType::I32), &[x])?;
    let value = super::elementwise::constant_like(step, x, value)?;
    step.one(Op::Fill, &[shape, value])
}

fn range(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    step.expect_inputs(3)?;
    let (start, limit, delta) = (step.tensor(0)?, step.tensor(1)?, step.tensor(2)?);
    let is = |id: ValueId, number: i64| {
        let size = step.builder.sizes(id);
        size.as_deref() == Some(&[Size::Known(number)])
    };
    let counts = is(start, 0) && is(delta, 1);
    let range = step.add(Op::Range, &[start, limit, delta])?;
    if counts {
        step.builder.counts.insert(range, limit);
    }
    Ok(Some(vec![Val::Tensor(range)]))
}

/// Only of constants: permutations are.
fn invert_permutation(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    let order = step.integers(0, "a permutation")?;
    let mut inverse = vec![-1i32; order.len()];
    for (place, &index) in order.iter().enumerate() {
        let slot = usize::try_from(index)
            .ok()
            .and_then(|index| inverse.get_mut(index))
            .filter(|slot| **slot == -1);
        let slot = slot.ok_or_else(|| Error::malformed(format!("{order:?} is no permutation")))?;
        *slot = i32::try_from(place).unwrap_or(i32::MAX);
    }
    Ok(Some(vec![Val::Tensor(step.vector(&inverse)?)]))
}

fn concat(
    step: &mut Step<'_, '_>,
    operands: Vec<ValueId>,
    axis: usize,
) -> Result<Option<Vec<Val>>> {
    let axis = match step.integers(axis, "the axis of a concatenation")?.as_slice() {
        [axis] => *axis,
        _ => return Err(Error::malformed("the axis of a concatenation is no scalar")),
    };
    if let [only] = operands.as_slice() {
        return Ok(Some(vec![Val::Tensor(*only)]));
    }
    step.one(Op::Concat(Concat { axis, activation: Activation::Linear }), &operands)
}

fn strided_slice(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    step.expect_inputs(4)?;
    let mask = |name: &str| -> Result<u32> {
        let mask = step.node.int_or(name, 0)?;
        u32::try_from(mask).map_err(|_| Error::malformed(format!("attribute '{name}' is {mask}")))
    };
    let slice = StridedSlice {
        begin_mask: mask("begin_mask")?,
        end_mask: mask("end_mask")?,
        ellipsis_mask: mask("ellipsis_mask")?,
        new_axis_mask: mask("new_axis_mask")?,
        shrink_axis_mask: mask("shrink_axis_mask")?,
        offset: false,
    };
    let operands = step.tensors()?;
    step.one(Op::StridedSlice(slice), &operands)
}

fn gather(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    let axis = if step.node.op == "GatherV2" {
        step.expect_inputs(3)?;
        step.integers(2, "the axis of a gather")?.first().copied().unwrap_or(0)
    } else {
        step.expect_inputs(2)?;
        0
    };
    let x = match step.inputs.first() {
        Some(Val::Resource(name)) if step.node.op == "ResourceGather" => {
            let name = name.clone();
            super::state::read(step, &name)?
        }
        _ => step.tensor(0)?,
    };
    let indices = step.tensor(1)?;
    let batch_dims = step.node.int_or("batch_dims", 0)?;
    step.one(Op::Gather(Gather { axis, batch_dims }), &[x, indices])
}

/// `on` where the index is that of the new last axis, else `off`.
fn one_hot(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    step.expect_inputs(4)?;
    if step.node.int_or("axis", -1)? != -1 {
        return Err(Error::unsupported("one-hot on another axis than the last"));
    }
    let (indices, depth, on, off) =
        (step.tensor(0)?, step.tensor(1)?, step.tensor(2)?, step.tensor(3)?);
    let last = step.scalar(-1);
    let indices = step.add(Op::ExpandDims, &[indices, last])?;
    let (zero, one) = (step.scalar(0), step.scalar(1));
    let classes = step.add(Op::Range, &[zero, depth, one])?;
    let dtype = step.builder.ty(indices)?.dtype;
    let classes = match dtype {
        DType::I32 => classes,
        _ => step.add(Op::Cast(dtype), &[classes])?,
    };
    let chosen = step.add(function_op(BinaryFunction::Equal), &[indices, classes])?;
    step.one(Op::Select, &[chosen, on, off])
}
