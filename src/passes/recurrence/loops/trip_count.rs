//! The trip count of a loop.

use super::body::{Loop, is_true};
use super::counter::Linear;
use super::variables::Mask;
use crate::graph::op::BinaryFunction;
use crate::graph::{NodeId, Op, ValueId, ValueMap};
use crate::passes::recurrence::shape_tracer::{ShapeTracer, Size};
use crate::passes::recurrence::step::Reason;

/// A bound that a counter must stay below.
pub enum Limit {
    Known(i64),
    Operand(ValueId),
    Size(Size),
}

/// Terms of a condition; real ones have one to three.
const MOST_TERMS: usize = 64;

impl Loop<'_> {
    /// The bounds that every counter must stay below.
    pub fn limits(&self) -> Result<Vec<Limit>, Reason> {
        let condition = &self.inner.condition;
        let producers = condition.producers();
        let mut limits = Vec::new();
        let holds = condition.outputs.first().map(|port| port.value);
        let mut open = vec![holds.ok_or("the loop has no condition")?];
        for _ in 0..MOST_TERMS {
            let Some(value) = open.pop() else { return Ok(limits) };
            if is_true(condition, value) || self.stays_true(value) {
                continue;
            }
            let node = producers[value].and_then(|id| condition.node(id)).ok_or_else(refuse)?;
            let (a, b) = (node.input(0).ok_or_else(refuse)?, node.input(1));
            match (&node.op, b) {
                (Op::Reshape | Op::Squeeze(_) | Op::Cast(_), _) => open.push(a),
                (Op::Binary(binary), Some(b)) => match binary.function {
                    BinaryFunction::And => open.extend([a, b]),
                    BinaryFunction::Less => limits.push(self.limit(&producers, a, b)?),
                    BinaryFunction::Greater => limits.push(self.limit(&producers, b, a)?),
                    BinaryFunction::GreaterEqual => limits.push(self.down_to(a, b)?),
                    BinaryFunction::LessEqual => limits.push(self.down_to(b, a)?),
                    _ => return Err(refuse()),
                },
                _ => return Err(refuse()),
            }
        }
        Err(refuse())
    }

    /// `counter < bound`, each perhaps behind a cast.
    fn limit(
        &self,
        producers: &ValueMap<Option<NodeId>>,
        counter: ValueId,
        bound: ValueId,
    ) -> Result<Limit, Reason> {
        let condition = &self.inner.condition;
        let uncast = |value: ValueId| match producers[value].and_then(|id| condition.node(id)) {
            Some(node) if matches!(node.op, Op::Cast(_)) => node.input(0).unwrap_or(value),
            _ => value,
        };
        let (counter, bound) = (uncast(counter), uncast(bound));
        if !self.held(counter).is_some_and(|k| self.is_counter(k)) {
            return Err(refuse());
        }
        match (condition.constant(bound), self.held(bound)) {
            (Some(tensor), _) => match tensor.to_i64().ok().as_deref() {
                Some([bound]) => Ok(Limit::Known(*bound)),
                _ => Err(refuse()),
            },
            (None, Some(k)) if self.is_invariant(k) => Ok(Limit::Operand(self.operands[k])),
            _ => Err("the bound of the loop changes in the loop".into()),
        }
    }

    /// `counter >= 0` for a counter that goes down: what it starts at, plus 1.
    fn down_to(&self, counter: ValueId, bound: ValueId) -> Result<Limit, Reason> {
        let zero = self.inner.condition.constant(bound).and_then(|tensor| tensor.to_i64().ok());
        let linear = self.held(counter).and_then(|k| self.linear_of(k));
        match (linear, zero.as_deref()) {
            (Some(Linear { size: None, step: -1, offset }), Some([0])) => {
                Ok(Limit::Known(offset.saturating_add(1)))
            }
            (Some(Linear { size: Some(size), step: -1, offset: -1 }), Some([0])) => {
                Ok(Limit::Size(size))
            }
            _ => Err(refuse()),
        }
    }

    /// Position of the loop variable that a value of the condition is.
    fn held(&self, value: ValueId) -> Option<usize> {
        self.inner.condition.inputs.iter().position(|port| port.value == value)
    }

    /// Whether a value of the condition is a variable that the body makes true each time; what it
    /// is before the first iteration is asked with the bounds.
    fn stays_true(&self, value: ValueId) -> bool {
        let next = self.held(value).and_then(|k| self.nexts.get(k));
        next.is_some_and(|&next| is_true(self.body(), next))
            && self.held(value).is_some_and(|k| self.starts_true(k))
    }

    /// Whether a bound stops the loop before the end of the lists, where only masked iterations follow.
    pub fn check_limit(
        &self,
        tracer: &ShapeTracer,
        limit: &Limit,
        time: Size,
        mask: Option<Mask>,
    ) -> Result<bool, Reason> {
        let size = match limit {
            Limit::Known(bound) => usize::try_from(*bound).ok().map(Size::Known),
            Limit::Operand(value) => tracer.scalar(*value),
            Limit::Size(size) => Some(*size),
        };
        if size == Some(time) {
            return Ok(false);
        }
        if let (Limit::Operand(value), Some(Mask::Lengths(k))) = (limit, mask)
            && tracer.longest(*value) == Some((time, tracer.uncast(self.operands[k])))
        {
            return Ok(true);
        }
        Err("the trip count may differ from the number of entries that are read".into())
    }
}

fn refuse() -> Reason {
    "the condition is not `counter < bound`".into()
}
