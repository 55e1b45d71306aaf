//! Choices between two values by a mask.

use super::{Algebra, first};
use crate::graph::op::{Activation, Binary, BinaryFunction, Unary};
use crate::graph::{Node, Op, ValueId};
use crate::tensor::DType;

/// Casts and changes of rank between a mask and what it multiplies; real ones have up to four.
const MOST_WRAPPERS: usize = 8;

/// Values on the way to a condition; real ones have up to six.
const MOST_CONDITIONS: usize = 32;

/// A value times a mask of 0 and 1.
struct MaskedFactor {
    condition: ValueId,
    /// Whether the value stays where the condition holds, or where it does not.
    holds: bool,
    value: ValueId,
}

/// A choice between two values, element by element.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    pub condition: ValueId,
    /// The value where the condition holds.
    pub yes: ValueId,
    /// The value where it does not.
    pub no: ValueId,
}

impl Algebra<'_> {
    /// The choice that a value is: a `Select`, or `m∘yes + (1 − m)∘no` with a mask of 0 and 1, as
    /// exporters to ONNX write it.
    pub fn choice(&self, value: ValueId) -> Option<Choice> {
        let (node, _) = self.producer(value)?;
        let (a, b) = (first(node)?, node.input(1)?);
        match &node.op {
            Op::Select => Some(Choice { condition: a, yes: b, no: node.input(2)? }),
            Op::Binary(Binary {
                function: BinaryFunction::Add,
                activation: Activation::Linear,
            }) => {
                let (a, b) = (self.masked_factor(a)?, self.masked_factor(b)?);
                let (yes, no) = match (a.holds, b.holds) {
                    (true, false) => (a, b),
                    (false, true) => (b, a),
                    _ => return None,
                };
                let same = yes.condition == no.condition;
                same.then_some(Choice { condition: yes.condition, yes: yes.value, no: no.value })
            }
            _ => None,
        }
    }

    /// Whether a node is that of a choice, or one of its two products.
    pub fn is_in_choice(&self, node: &Node, choice: ValueId) -> bool {
        let own = |value: ValueId| node.outputs.contains(&Some(value));
        let products = self.producer(choice).map(|(choice, _)| choice.inputs.as_slice());
        own(choice)
            || (matches!(node.op, Op::Binary(_))
                && products.unwrap_or_default().iter().flatten().any(|&product| own(product)))
    }

    /// `m∘value` or `(1 − m)∘value` for a mask `m` of 0 and 1.
    fn masked_factor(&self, value: ValueId) -> Option<MaskedFactor> {
        let (node, _) = self.producer(value)?;
        let Op::Binary(Binary { function: BinaryFunction::Mul, activation: Activation::Linear }) =
            node.op
        else {
            return None;
        };
        let (a, b) = (first(node)?, node.input(1)?);
        let factor = |mask: ValueId, value: ValueId| {
            let (condition, holds) = self.indicator(mask)?;
            Some(MaskedFactor { condition, holds, value })
        };
        factor(a, b).or_else(|| factor(b, a))
    }

    /// The condition behind a number that is 1 where it holds and 0 elsewhere, or the other way
    /// round.
    fn indicator(&self, mut value: ValueId) -> Option<(ValueId, bool)> {
        let (mut holds, mut is_number) = (true, true);
        for _ in 0..MOST_WRAPPERS {
            if !is_number && !self.is_changed_mask(value) {
                return Some((value, holds));
            }
            let (node, _) = self.producer(value)?;
            value = match &node.op {
                Op::Reshape | Op::ExpandDims | Op::Squeeze(_) | Op::BroadcastTo | Op::Tile => {
                    first(node)?
                }
                Op::Unary(Unary::Not) if !is_number => {
                    holds = !holds;
                    first(node)?
                }
                Op::Cast(_) => {
                    let inner = first(node)?;
                    is_number &= self.graph.ty(inner)?.dtype != DType::Bool;
                    inner
                }
                // 1 − m
                Op::Binary(binary)
                    if is_number
                        && binary.function == BinaryFunction::Sub
                        && binary.activation == Activation::Linear =>
                {
                    (self.scalar(first(node)?) == Some(1.0)).then_some(())?;
                    holds = !holds;
                    node.input(1)?
                }
                _ => return None,
            };
        }
        None
    }

    /// Whether a mask is the opposite of another one.
    fn is_changed_mask(&self, value: ValueId) -> bool {
        matches!(self.producer(value), Some((Node { op: Op::Unary(Unary::Not), .. }, _)))
    }

    /// Whether a condition is one for each row: `[B, 1]` somewhere on the way to it. A vector would
    /// be repeated along the rows.
    pub fn is_by_row(&self, condition: ValueId) -> bool {
        let mut open = vec![condition];
        for _ in 0..MOST_CONDITIONS {
            let Some(value) = open.pop() else { return false };
            let shape = self.graph.shape(value).unwrap_or_default();
            if let [_, last] = shape
                && last.known() == Some(1)
            {
                return true;
            }
            let Some((node, _)) = self.producer(value) else { continue };
            match &node.op {
                Op::Reshape | Op::ExpandDims | Op::Squeeze(_) | Op::BroadcastTo | Op::Tile => {
                    open.extend(first(node));
                }
                Op::Cast(_) | Op::Unary(Unary::Not) => open.extend(first(node)),
                Op::Binary(Binary {
                    function: BinaryFunction::And | BinaryFunction::Or, ..
                }) => {
                    open.extend(node.inputs.iter().flatten());
                }
                _ => {}
            }
        }
        false
    }
}
