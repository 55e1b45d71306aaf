//! Clips to constant bounds, and scaled ones.

use super::{Algebra, first};
use crate::graph::op::{Activation, Binary, BinaryFunction};
use crate::graph::{Node, Op, ValueId};
use crate::passes::recurrence::polynomial::{Columns, Polynomial, Role};

/// A clip to constant bounds.
#[derive(Clone, Copy, Debug)]
pub struct Clip {
    pub inner: ValueId,
    pub low: f64,
    pub high: f64,
}

impl Algebra<'_> {
    /// The clip behind a value: minimum and maximum with constants in either order, or an
    /// activation that is one.
    pub fn clip(&self, value: ValueId) -> Option<Clip> {
        let (node, _) = self.producer(value)?;
        if let Op::Activation(Activation::ReluN1To1) = node.op {
            return Some(Clip { inner: first(node)?, low: -1.0, high: 1.0 });
        }
        let (outer, bound, inner) = self.bound(value)?;
        let (other, other_bound, innermost) = self.bound(inner)?;
        use BinaryFunction::{Maximum, Minimum};
        match (outer, other) {
            (Minimum, Maximum) => Some(Clip { inner: innermost, low: other_bound, high: bound }),
            (Maximum, Minimum) => Some(Clip { inner: innermost, low: bound, high: other_bound }),
            _ => None,
        }
    }

    /// The operand of a scaling by a constant, and that constant.
    fn scaling(&self, node: &Node) -> Option<(ValueId, f64)> {
        let Op::Binary(Binary { function, activation: Activation::Linear }) = node.op else {
            return None;
        };
        let (a, b) = (first(node)?, node.input(1)?);
        match function {
            BinaryFunction::Mul => match (self.scalar(a), self.scalar(b)) {
                (None, Some(scale)) => Some((a, scale)),
                (Some(scale), None) => Some((b, scale)),
                _ => None,
            },
            BinaryFunction::Div => {
                let scale = self.scalar(b).filter(|scale| *scale != 0.0)?;
                Some((a, 1.0 / scale))
            }
            _ => None,
        }
    }

    /// `scale · clip(sum, 0, 1 / scale)`: the sum, the upper bound and the scale.
    pub fn scaled_clip(&self, part: Columns) -> Option<(Polynomial, f64, f64)> {
        self.scaled_clip_at(part, 0)
    }

    pub(super) fn scaled_clip_at(
        &self,
        part: Columns,
        depth: usize,
    ) -> Option<(Polynomial, f64, f64)> {
        let (node, _) = self.producer(part.value)?;
        let (inner, scale) = self.scaling(node)?;
        let atom = self.expand(Columns { value: inner, ..part }, depth).as_atom()?;
        let (sum, high) = match atom.role {
            Role::Activated => match self.before_activation(atom.part)? {
                (sum, Activation::Relu6) => (sum, 6.0),
                _ => return None,
            },
            Role::Clipped => {
                let clip = self.clip(atom.part.value).filter(|clip| clip.low == 0.0)?;
                (self.define(Columns { value: clip.inner, ..atom.part }), clip.high)
            }
            Role::Leaf | Role::Product | Role::Scaled => return None,
        };
        ((scale * high - 1.0).abs() <= 1e-6).then_some((sum, high, scale))
    }

    fn bound(&self, value: ValueId) -> Option<(BinaryFunction, f64, ValueId)> {
        let (node, _) = self.producer(value)?;
        let Op::Binary(Binary { function, activation: Activation::Linear }) = node.op else {
            return None;
        };
        if !matches!(function, BinaryFunction::Minimum | BinaryFunction::Maximum) {
            return None;
        }
        let (a, b) = (first(node)?, node.input(1)?);
        match (self.scalar(a), self.scalar(b)) {
            (None, Some(bound)) => Some((function, bound, a)),
            (Some(bound), None) => Some((function, bound, b)),
            _ => None,
        }
    }
}
