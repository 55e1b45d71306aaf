//! Masks between unrolled steps: a row that has ended keeps its state, and puts out zeros or its
//! last output.

use std::collections::HashMap;

use crate::graph::op::{Activation, Binary, BinaryFunction, Unary};
use crate::graph::{Op, ValueId};
use crate::passes::recurrence::algebra::{Algebra, first};
use crate::tensor::DType;

/// Changes of rank and negations between a mask and the choice that it decides.
const MOST_WRAPPERS: usize = 16;

/// Which rows a step counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    /// A value of bools.
    pub base: ValueId,
    /// Whether the step counts where it holds, or where it does not.
    pub holds: bool,
}

/// `new` where a step counts, `old` elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Masked {
    pub condition: Condition,
    pub new: ValueId,
    pub old: ValueId,
}

/// The choices of a graph.
pub struct Masks {
    by_value: HashMap<ValueId, Masked>,
    by_branch: HashMap<ValueId, Vec<ValueId>>,
}

impl Masks {
    pub fn find(algebra: &Algebra<'_>) -> Masks {
        let mut masks = Masks { by_value: HashMap::new(), by_branch: HashMap::new() };
        for node in &algebra.graph.nodes {
            if !matches!(node.op, Op::Select | Op::Binary(_)) {
                continue;
            }
            let Some(value) = node.output(0) else { continue };
            let Some(choice) = algebra.choice(value) else { continue };
            let by_row = algebra.is_by_row(choice.condition);
            let condition = condition(algebra, choice.condition).filter(|_| by_row);
            let Some(condition) = condition else { continue };
            let (new, old) = (algebra.through(choice.yes), algebra.through(choice.no));
            masks.by_value.insert(value, Masked { condition, new, old });
            for branch in [new, old] {
                masks.by_branch.entry(branch).or_default().push(value);
            }
        }
        masks
    }

    /// Every value that is a choice.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.by_value.keys().copied()
    }

    /// The choice that a value is, with `new` as the branch where a step counts.
    pub fn of(&self, value: ValueId, new: ValueId) -> Option<Masked> {
        let masked = *self.by_value.get(&value)?;
        if masked.new == new {
            return Some(masked);
        }
        let Condition { base, holds } = masked.condition;
        let condition = Condition { base, holds: !holds };
        (masked.old == new).then_some(Masked { condition, new, old: masked.new })
    }

    /// The two branches of the choice that a value is.
    pub fn branches(&self, value: ValueId) -> Option<[ValueId; 2]> {
        self.by_value.get(&value).map(|masked| [masked.new, masked.old])
    }

    /// The choices under a condition with `new` where the step counts, and what they are elsewhere.
    pub fn with_new(
        &self,
        new: ValueId,
        condition: Condition,
    ) -> impl Iterator<Item = (ValueId, ValueId)> + '_ {
        let values = self.by_branch.get(&new).map_or(&[][..], Vec::as_slice);
        values.iter().filter_map(move |&value| {
            let masked = self.of(value, new).filter(|masked| masked.condition == condition)?;
            Some((value, masked.old))
        })
    }

    /// The conditions of the choices that have `new` as a branch.
    pub fn conditions(&self, new: ValueId) -> impl Iterator<Item = (Condition, ValueId)> + '_ {
        let values = self.by_branch.get(&new).map_or(&[][..], Vec::as_slice);
        values.iter().filter_map(move |&value| {
            let masked = self.of(value, new)?;
            Some((masked.condition, masked.old))
        })
    }
}

/// A condition without negations and changes of rank.
fn condition(algebra: &Algebra<'_>, mut base: ValueId) -> Option<Condition> {
    let mut holds = true;
    for _ in 0..MOST_WRAPPERS {
        let Some((node, _)) = algebra.producer(base) else { break };
        let inner = match &node.op {
            Op::Unary(Unary::Not) => {
                holds = !holds;
                first(node)
            }
            Op::ExpandDims | Op::Reshape | Op::Squeeze(_) | Op::BroadcastTo | Op::Tile => {
                let inner = first(node)?;
                // [B] as [B, 1], or the other way round: rows stay rows.
                let rows = |value: ValueId| algebra.graph.shape(value)?.first().copied();
                (rows(inner) == rows(base)).then_some(inner)
            }
            _ => None,
        };
        match inner {
            Some(inner) => base = inner,
            None => break,
        }
    }
    let shape = algebra.graph.shape(base)?;
    let bools = algebra.graph.ty(base)?.dtype == DType::Bool;
    let one = shape.get(1).is_none_or(|dim| dim.known() == Some(1));
    (bools && one && matches!(shape.len(), 1 | 2)).then_some(Condition { base, holds })
}

/// The lengths `[B]` when step `t` of each condition counts where `t < length`.
pub fn lengths(algebra: &Algebra<'_>, conditions: &[Condition]) -> Option<ValueId> {
    let mut found = None;
    for (t, condition) in conditions.iter().enumerate() {
        let (lengths, step) = compared(algebra, *condition)?;
        if usize::try_from(step) != Ok(t) || found.is_some_and(|other| other != lengths) {
            return None;
        }
        found = Some(lengths);
    }
    found
}

/// `step < lengths`.
fn compared(algebra: &Algebra<'_>, condition: Condition) -> Option<(ValueId, i64)> {
    use BinaryFunction::{Greater, GreaterEqual, Less, LessEqual};
    let (node, _) = algebra.producer(condition.base)?;
    let Op::Binary(Binary { function, activation: Activation::Linear }) = node.op else {
        return None;
    };
    let (a, b) = (first(node)?, node.input(1)?);
    let (step, lengths) = match (function, condition.holds) {
        (Less, true) | (GreaterEqual, false) => (a, b),
        (Greater, true) | (LessEqual, false) => (b, a),
        _ => return None,
    };
    let lengths = match algebra.producer(lengths) {
        Some((node, _)) if matches!(node.op, Op::ExpandDims) => first(node)?,
        _ => lengths,
    };
    let integers = matches!(algebra.graph.ty(lengths)?.dtype, DType::I32 | DType::I64);
    let rows = algebra.graph.ty(lengths)?.rank() == Some(1);
    let step = algebra.graph.constant(step)?.to_i64().ok()?;
    match step.as_slice() {
        &[step] if integers && rows => Some((lengths, step)),
        _ => None,
    }
}
