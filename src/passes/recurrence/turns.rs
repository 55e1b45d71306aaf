//! How many turns a loop takes.

use super::loops::Loop;
use super::step::Reason;
use super::trace::{Size, Trace};
use super::variables::Mask;
use crate::graph::op::BinaryFunction;
use crate::graph::{Op, ValueId};

/// What a counter must stay below.
pub enum Limit {
    Known(i64),
    Operand(ValueId),
}

impl Loop<'_> {
    /// The bounds that every counter must stay below.
    pub fn limits(&self, trace: &Trace) -> Result<Vec<Limit>, Reason> {
        let condition = &self.inner.condition;
        let producers = condition.producers();
        let mut limits = Vec::new();
        let mut open = vec![
            condition.outputs.first().map(|port| port.value).ok_or("the loop has no condition")?,
        ];
        let refuse = || Reason::from("the condition is not `counter < bound`");
        let mut budget = 64;
        while let Some(value) = open.pop() {
            budget -= 1;
            if let Some(tensor) = condition.constant(value)
                && tensor.as_slice::<bool>().is_ok_and(|truth| truth == [true])
            {
                continue;
            }
            let node = producers[value];
            let node = node.and_then(|id| condition.node(id)).filter(|_| budget > 0);
            let node = node.ok_or_else(refuse)?;
            let operand = |slot: usize| node.input(slot);
            let (Some(a), b) = (operand(0), operand(1)) else { return Err(refuse()) };
            let function = match &node.op {
                Op::Binary(binary) => binary.function,
                Op::Reshape | Op::Squeeze(_) => {
                    open.push(a);
                    continue;
                }
                _ => return Err(refuse()),
            };
            let b = b.ok_or_else(refuse)?;
            let (counter, bound) = match function {
                BinaryFunction::And => {
                    open.extend([a, b]);
                    continue;
                }
                BinaryFunction::Less => (a, b),
                BinaryFunction::Greater => (b, a),
                _ => return Err(refuse()),
            };
            let position =
                |value: ValueId| condition.inputs.iter().position(|port| port.value == value);
            if !position(counter).is_some_and(|k| self.is_counter(trace, k)) {
                return Err(refuse());
            }
            limits.push(match (condition.constant(bound), position(bound)) {
                (Some(tensor), _) => match tensor.to_i64().ok().as_deref() {
                    Some([bound]) => Limit::Known(*bound),
                    _ => return Err(refuse()),
                },
                (None, Some(k)) if self.nexts[k] == self.inputs[k] => {
                    Limit::Operand(self.operands[k])
                }
                _ => return Err("the bound of the loop changes in the loop".into()),
            });
        }
        Ok(limits)
    }

    /// Whether a bound stops the loop before the end of the lists, where only masked turns follow.
    pub fn check_limit(
        &self,
        trace: &Trace,
        limit: &Limit,
        time: Size,
        mask: Option<Mask>,
    ) -> Result<bool, Reason> {
        let size = match limit {
            Limit::Known(bound) => usize::try_from(*bound).ok().map(Size::Known),
            Limit::Operand(value) => trace.scalar(*value),
        };
        if size == Some(time) {
            return Ok(false);
        }
        if let (Limit::Operand(value), Some(Mask::Lengths(k))) = (limit, mask)
            && trace.longest(*value) == Some((time, trace.uncast(self.operands[k])))
        {
            return Ok(true);
        }
        Err("the number of turns may differ from the number of entries that are read".into())
    }
}
