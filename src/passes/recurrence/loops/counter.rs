//! Integers of a loop's body that follow its iterations.

use crate::passes::recurrence::shape_tracer::Size;

/// `size + step · iteration + offset`, the iterations counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    pub size: Option<Size>,
    pub step: i64,
    pub offset: i64,
}

impl Linear {
    /// 0, 1, 2, …
    pub const COUNTER: Linear = Linear { size: None, step: 1, offset: 0 };

    /// A number.
    pub fn number(offset: i64) -> Linear {
        Linear { size: None, step: 0, offset }
    }

    /// The same, one more.
    pub fn next(self) -> Option<Linear> {
        Some(Linear { offset: self.offset.checked_add(1)?, ..self })
    }

    pub fn plus(self, other: Linear) -> Option<Linear> {
        let size = match (self.size, other.size) {
            (size, None) | (None, size) => size,
            (Some(_), Some(_)) => return None,
        };
        Some(Linear {
            size,
            step: self.step.checked_add(other.step)?,
            offset: self.offset.checked_add(other.offset)?,
        })
    }

    pub fn minus(self, other: Linear) -> Option<Linear> {
        let size = match (self.size, other.size) {
            (size, None) => size,
            (a, b) if a == b => None,
            _ => return None,
        };
        Some(Linear {
            size,
            step: self.step.checked_sub(other.step)?,
            offset: self.offset.checked_sub(other.offset)?,
        })
    }

    /// Whether an axis of `size` entries is gone through from its first (`false`) or from its last
    /// (`true`) entry on.
    pub fn direction(self, size: Size) -> Option<bool> {
        if self == Linear::COUNTER {
            return Some(false);
        }
        let last = match (self.size, size) {
            (None, Size::Known(size)) => i64::try_from(size).ok()?.checked_sub(1)? == self.offset,
            (own, size) => own == Some(size) && self.offset == -1,
        };
        (self.step == -1 && last).then_some(true)
    }
}
