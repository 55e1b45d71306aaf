//! What each variable of a loop is: a counter, something that stays, a state, possibly under a
//! mask, or a list.

use super::body::{Loop, Read, is_true};
use crate::graph::op::BinaryFunction;
use crate::graph::{Op, ValueId};
use crate::passes::recurrence::algebra::first;
use crate::passes::recurrence::shape_tracer::{ShapeTracer, Size};
use crate::passes::recurrence::step::Reason;
use crate::tensor::DType;

/// Ops between a mask and the choice that it decides; real ones have up to five.
const MOST_WRAPPERS: usize = 16;

/// One loop variable, as the body uses it.
#[derive(Clone, Debug)]
pub enum Variable {
    /// An integer that follows the iterations: 0, 1, 2, … or n − 1, n − 2, …
    Counter,
    /// The same in every iteration.
    Invariant,
    /// A state; behind the mask, its next value.
    State { next: ValueId, mask: Option<Mask> },
    /// A list with one entry for each iteration, the last entry first when it is reversed.
    List { item: ValueId, reverse: bool },
    /// A list with one entry, overwritten in each iteration.
    Last { item: ValueId },
    /// The output of the iteration before, kept for masked iterations or for nothing: the value is that of a
    /// list's entry.
    Output,
    /// Something else: an error unless it iterations out to be an `Output`.
    Other,
}

/// Which iterations count for which rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mask {
    /// The first `n`: a loop variable `[B]`.
    Lengths(usize),
    /// Where a list of bools, a loop variable, holds: `[T, B]` or `[T, B, 1]`, or with time at
    /// another axis.
    List { list: usize, axis: usize, reverse: bool },
}

impl Loop<'_> {
    pub fn classify(&self, tracer: &ShapeTracer, k: usize) -> Result<Variable, Reason> {
        let (input, next) = (self.inputs[k], self.nexts[k]);
        if next == input {
            return Ok(Variable::Invariant);
        }
        if is_true(self.body(), next) && self.starts_true(k) {
            return Ok(Variable::Invariant);
        }
        if self.linear_of(k).is_some() {
            return Ok(Variable::Counter);
        }
        if let Some(item) = self.list_write(tracer, k) {
            return Ok(item);
        }
        let ty = self.inner.body.get(input).map(|value| &value.ty);
        if ty.is_none_or(|ty| !ty.dtype.is_float()) {
            return Err(format!("loop variable {k} is neither counter, state nor list"));
        }
        let Some((valid, new, old)) = self.masked(next) else {
            return Ok(Variable::State { next, mask: None });
        };
        if self.variable(old) != Some(k) {
            return Ok(Variable::Other);
        }
        Ok(Variable::State { next: new, mask: Some(valid) })
    }

    /// `select(mask, new, old)` in either order: the mask, the value where it holds, the value
    /// where it does not.
    pub fn masked(&self, value: ValueId) -> Option<(Mask, ValueId, ValueId)> {
        let choice = self.algebra.choice(self.algebra.through(value))?;
        self.algebra.is_by_row(choice.condition).then_some(())?;
        let (mask, holds) = self.mask(choice.condition)?;
        let (yes, no) = (self.algebra.through(choice.yes), self.algebra.through(choice.no));
        Some(if holds { (mask, yes, no) } else { (mask, no, yes) })
    }

    /// The mask behind a condition, and whether the condition holds where the iteration counts.
    fn mask(&self, mut condition: ValueId) -> Option<(Mask, bool)> {
        let mut holds = true;
        for _ in 0..MOST_WRAPPERS {
            if let Some(read) = self.reads.iter().find(|read| read.value == condition) {
                let Read { list, axis, reverse, kept, .. } = *read;
                return (!kept).then_some((Mask::List { list, axis, reverse }, holds));
            }
            let (node, _) = self.algebra.producer(condition)?;
            let operand = |slot: usize| node.input(slot);
            match &node.op {
                Op::Unary(crate::graph::op::Unary::Not) => {
                    holds = !holds;
                    condition = operand(0)?;
                }
                Op::ExpandDims | Op::Reshape | Op::Squeeze(_) | Op::BroadcastTo | Op::Tile => {
                    condition = operand(0)?
                }
                Op::Cast(DType::Bool) => condition = operand(0)?,
                Op::Binary(binary) => {
                    let (a, b) = (operand(0)?, operand(1)?);
                    use BinaryFunction::{And, Greater, GreaterEqual, Less, LessEqual, Or};
                    match binary.function {
                        // A mask joined with what is always true only widens it.
                        And | Or => {
                            condition = self.widened(binary.function == And, a, b)?;
                            continue;
                        }
                        _ => {}
                    }
                    let (time, lengths, function) = if self.counts(a) {
                        (a, b, binary.function)
                    } else {
                        let mirrored = match binary.function {
                            Less => Greater,
                            Greater => Less,
                            LessEqual => GreaterEqual,
                            GreaterEqual => LessEqual,
                            _ => return None,
                        };
                        (b, a, mirrored)
                    };
                    if !self.counts(time) {
                        return None;
                    }
                    let valid = match function {
                        Less => true,
                        GreaterEqual => false,
                        _ => return None,
                    };
                    return Some((Mask::Lengths(self.lengths(lengths)?), holds == valid));
                }
                _ => return None,
            }
        }
        None
    }

    /// The operand of `and` that is not constant true, or of `or` that is not constant false.
    fn widened(&self, and: bool, a: ValueId, b: ValueId) -> Option<ValueId> {
        let neutral = |value: ValueId| {
            let tensor = self.inner.body.constant(self.algebra.through(value))?;
            Some(tensor.as_slice::<bool>().ok()?.iter().all(|&x| x == and))
        };
        match (neutral(a), neutral(b)) {
            (Some(true), None) => Some(b),
            (None, Some(true)) => Some(a),
            _ => None,
        }
    }

    /// The loop variable that holds the lengths, possibly with another axis.
    fn lengths(&self, mut value: ValueId) -> Option<usize> {
        for _ in 0..8 {
            if let Some(k) = self.variable(value) {
                let rank = self.inner.body.get(self.inputs[k])?.ty.rank()?;
                return (self.nexts[k] == self.inputs[k] && rank == 1).then_some(k);
            }
            let (node, _) = self.algebra.producer(value)?;
            match &node.op {
                Op::ExpandDims | Op::Reshape | Op::Cast(_) => value = first(node)?,
                _ => return None,
            }
        }
        None
    }

    /// The entry that a list gets.
    fn list_write(&self, tracer: &ShapeTracer, k: usize) -> Option<Variable> {
        let (node, _) = self.algebra.producer(self.nexts[k])?;
        let operand = |slot: usize| node.input(slot);
        let entries = tracer.axis(self.operands[k], 0);
        match &node.op {
            Op::SetItem => {
                if self.variable(operand(0)?) != Some(k) {
                    return None;
                }
                let (index, item) = (operand(1)?, self.algebra.through(operand(2)?));
                if let Some(reverse) = self.direction(index, entries) {
                    return Some(Variable::List { item, reverse });
                }
                let only = self.integers(index)? == [0] && entries == Size::Known(1);
                only.then_some(Variable::Last { item })
            }
            Op::Concat(options) if options.axis == 0 && node.inputs.len() == 3 => {
                let (before, item, after) = (operand(0)?, operand(1)?, operand(2)?);
                let fits = self.is_slice(k, before, false) && self.is_slice(k, after, true);
                let item = self.entry(item)?;
                fits.then_some(Variable::List { item, reverse: false })
            }
            Op::Reshape | Op::ExpandDims | Op::Pack(_) if entries == Size::Known(1) => {
                let item = self.entry(self.nexts[k])?;
                Some(Variable::Last { item })
            }
            _ => None,
        }
    }

    /// `item` behind `item` with a leading axis of size 1.
    fn entry(&self, value: ValueId) -> Option<ValueId> {
        let (node, _) = self.algebra.producer(value)?;
        let input = first(node)?;
        let shape =
            |id: ValueId| self.inner.body.get(id).and_then(|value| value.ty.shape.as_deref());
        let (outer, inner) = (shape(value)?, shape(input)?);
        let leading = outer.split_first().is_some_and(|(one, rest)| {
            one.known() == Some(1)
                && rest.len() == inner.len()
                && rest.iter().zip(inner).all(|(a, b)| a.agrees_with(*b))
        });
        let plain = match &node.op {
            Op::Pack(pack) => pack.axis == 0 && node.inputs.len() == 1,
            Op::Reshape => {
                // Sizes that are not known twice may have moved.
                let (a, b) = (outer.iter().skip(1), inner.iter());
                a.zip(b).filter(|(a, b)| a.known().is_none() || b.known().is_none()).count() <= 1
            }
            Op::ExpandDims => self.integers(node.input(1)?)? == [0],
            _ => false,
        };
        (leading && plain).then(|| self.algebra.through(input))
    }

    /// Whether a value is the part of list `k` before the counter, or after it.
    fn is_slice(&self, k: usize, value: ValueId, after: bool) -> bool {
        let check = || -> Option<bool> {
            let (node, _) = self.algebra.producer(value)?;
            let operand = |slot: usize| node.input(slot);
            if !matches!(node.op, Op::Slice) || self.variable(operand(0)?) != Some(k) {
                return Some(false);
            }
            // [counter, rest, rest, …]
            let vector = |value: ValueId, rest: i64| -> Option<bool> {
                let (node, _) = self.algebra.producer(value)?;
                let (Op::Concat(_), [Some(head), Some(tail)]) = (&node.op, node.inputs.as_slice())
                else {
                    return Some(false);
                };
                let tail = self.integers(*tail)?.iter().all(|&x| x == rest);
                let (node, _) = self.algebra.producer(*head)?;
                if !matches!(node.op, Op::Reshape | Op::ExpandDims) {
                    return Some(false);
                }
                let head = first(node)?;
                let at = if after { self.counts_next(head) } else { self.counts(head) };
                Some(tail && at)
            };
            let constant = |value: ValueId, x: i64| {
                self.integers(value).is_some_and(|all| all.iter().all(|&y| y == x))
            };
            Some(if after {
                vector(operand(1)?, 0)? && constant(operand(2)?, -1)
            } else {
                constant(operand(1)?, 0) && vector(operand(2)?, -1)?
            })
        };
        check().unwrap_or(false)
    }
}

/// Every state must be under the same mask.
pub fn common_mask(variables: &[Variable]) -> Result<Option<Mask>, Reason> {
    let mut masks = variables.iter().filter_map(|variable| match variable {
        Variable::State { mask, .. } => Some(*mask),
        _ => None,
    });
    let Some(mask) = masks.next() else { return Ok(None) };
    if masks.any(|other| other != mask) {
        return Err("some states are masked and others not, or otherwise".into());
    }
    Ok(mask)
}
