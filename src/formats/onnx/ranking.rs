//! Ops over the entries of one axis in an order: running sums and the largest entries, by comparing
//! every entry with every other.

use super::lower::Val;
use super::step::{Outputs, Step};
use crate::error::{Error, Result};
use crate::graph::op::{BinaryFunction as F, Gather, Reduce, ReduceFunction};
use crate::graph::{Op, ValueId};
use crate::tensor::DType;

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Outputs>> {
    Ok(Some(match step.node.op_type.as_str() {
        "CumSum" => running_sum(step)?,
        "TopK" => top(step)?,
        _ => return Ok(None),
    }))
}

/// One axis moved to the end.
struct Moved {
    x: ValueId,
    /// The permutation, which is its own inverse.
    order: Vec<usize>,
    /// Indices of the axis: i64 `[n]`.
    indices: ValueId,
}

impl Moved {
    fn new(step: &mut Step<'_, '_>, x: ValueId, axis: i64) -> Result<Self> {
        let rank = step.rank(x)?;
        let axis = step.axis(axis, rank)?;
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(axis, rank - 1);
        let x = step.transpose(x, &order)?;
        let shape = step.shape_of(x)?;
        let last = step.scalar(rank as i64 - 1);
        let size = step.add(Op::Gather(Gather { axis: 0, batch_dims: 0 }), &[shape, last])?;
        let (zero, one) = (step.scalar(0), step.scalar(1));
        let indices = step.add(Op::Range, &[zero, size, one])?;
        Ok(Moved { x, order, indices })
    }

    fn back(&self, step: &mut Step<'_, '_>, y: ValueId) -> Result<ValueId> {
        step.transpose(y, &self.order)
    }
}

fn expanded(step: &mut Step<'_, '_>, x: ValueId, axis: i64) -> Result<ValueId> {
    let axis = step.scalar(axis);
    step.add(Op::ExpandDims, &[x, axis])
}

fn sum(step: &mut Step<'_, '_>, x: ValueId, axis: i64) -> Result<ValueId> {
    let axes = step.vector(&[axis])?;
    let sum = Reduce { function: ReduceFunction::Sum, keep_dims: false };
    step.add(Op::Reduce(sum), &[x, axes])
}

/// `y_j = Σ_{i ≤ j} x_i`; `exclusive`: i < j; `reverse`: from the end.
fn running_sum(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(2, 2)?;
    let x = step.tensor(0)?;
    let axis = match step.integers(1, "axis")?.as_slice() {
        [axis] => *axis,
        other => return Err(Error::malformed(format!("axis: expected one, found {other:?}"))),
    };
    let exclusive = step.attrs.flag("exclusive", false)?;
    let reverse = step.attrs.flag("reverse", false)?;
    let moved = Moved::new(step, x, axis)?;
    let dtype = step.dtype(x)?;
    let rows = expanded(step, moved.indices, 1)?;
    let function = match (exclusive, reverse) {
        (false, false) => F::LessEqual,
        (true, false) => F::Less,
        (false, true) => F::GreaterEqual,
        (true, true) => F::Greater,
    };
    // [n, n]: whether entry i (row) is in the sum j (column).
    let counts = step.binary(function, rows, moved.indices)?;
    let x = expanded(step, moved.x, -1)?;
    let zero = step.number(dtype, 0.0)?;
    let parts = step.add(Op::Select, &[counts, x, zero])?;
    let result = sum(step, parts, -2)?;
    Ok(vec![Some(Val::Tensor(moved.back(step, result)?))])
}

/// The k largest (or smallest) entries in order, equal ones by their index, and their indices.
///
/// The rank of an entry is the number of larger ones and of equal ones before it.
fn top(step: &mut Step<'_, '_>) -> Result<Outputs> {
    const K_AS_INPUT: i64 = 10;
    const HAS_ORDER: i64 = 11;
    let x = step.tensor(0)?;
    let k = if step.opset < K_AS_INPUT {
        step.expect_inputs(1, 1)?;
        let k = step.attrs.int("k")?;
        step.scalar(k.ok_or_else(|| Error::malformed("attribute 'k' is missing"))?)
    } else {
        step.expect_inputs(2, 2)?;
        let (k, scalar) = (step.tensor(1)?, step.vector(&[])?);
        step.add(Op::Reshape, &[k, scalar])?
    };
    let axis = step.attrs.int_or("axis", -1)?;
    let largest = step.opset < HAS_ORDER || step.attrs.flag("largest", true)?;
    if step.opset >= HAS_ORDER {
        // Without an order any will do, also this one.
        step.attrs.flag("sorted", true)?;
    }
    let moved = Moved::new(step, x, axis)?;
    let dtype = step.dtype(x)?;
    let (own, other) = (expanded(step, moved.x, -1)?, expanded(step, moved.x, -2)?);
    let function = if largest { F::Greater } else { F::Less };
    let ahead = step.binary(function, other, own)?;
    let equal = step.binary(F::Equal, other, own)?;
    let rows = expanded(step, moved.indices, 1)?;
    let earlier = step.binary(F::Less, moved.indices, rows)?;
    let tied = step.binary(F::And, equal, earlier)?;
    let ahead = step.binary(F::Or, ahead, tied)?;
    let ahead = step.cast(ahead, DType::I32)?;
    let rank = sum(step, ahead, -1)?;
    let rank = step.cast(rank, DType::I64)?;
    // [.., k, n]: whether an entry (column) is this one of the result (row).
    let (zero, one) = (step.scalar(0), step.scalar(1));
    let places = step.add(Op::Range, &[zero, k, one])?;
    let places = expanded(step, places, 1)?;
    let rank = expanded(step, rank, -2)?;
    let here = step.binary(F::Equal, rank, places)?;
    let mut outputs = Vec::with_capacity(2);
    for (slot, values) in [other, moved.indices].into_iter().enumerate() {
        if !step.wants(slot) {
            outputs.push(None);
            continue;
        }
        let zero = step.number(if slot == 0 { dtype } else { DType::I64 }, 0.0)?;
        let chosen = step.add(Op::Select, &[here, values, zero])?;
        let chosen = sum(step, chosen, -1)?;
        outputs.push(Some(Val::Tensor(moved.back(step, chosen)?)));
    }
    Ok(outputs)
}
