//! A walk over the elements of some tensors at once: sizes of the axes, and for each tensor the
//! step that every axis makes.

use crate::error::{Error, Result};

/// Common axes, outermost first, and how each tensor moves along them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Walk {
    pub sizes: Vec<usize>,
    /// For each tensor: where it starts, and its step along every axis. In elements; 0 repeats,
    /// negative runs backwards.
    pub tensors: Vec<(i64, Vec<i64>)>,
}

/// Row-major steps of a shape.
pub(super) fn steps(shape: &[usize]) -> Vec<i64> {
    let mut steps = vec![1i64; shape.len()];
    for axis in (1..shape.len()).rev() {
        steps[axis - 1] = steps[axis].saturating_mul(shape[axis] as i64);
    }
    steps
}

/// Steps of a tensor of `shape` along the axes of a broadcast result of `rank` axes.
pub(super) fn broadcast_steps(shape: &[usize], rank: usize) -> Vec<i64> {
    let mut all = vec![0; rank.saturating_sub(shape.len())];
    all.extend(
        steps(shape).iter().zip(shape).map(|(&step, &size)| if size == 1 { 0 } else { step }),
    );
    all
}

impl Walk {
    /// Number of elements.
    pub fn count(&self) -> Result<u32> {
        super::super::record::count(crate::tensor::element_count(&self.sizes)?)
    }

    /// Without axes of size 1, and with neighboring axes joined where every tensor steps through
    /// them evenly.
    pub fn collapsed(&self) -> Walk {
        let mut out = Walk {
            sizes: Vec::new(),
            tensors: self.tensors.iter().map(|(at, _)| (*at, Vec::new())).collect(),
        };
        for (axis, &size) in self.sizes.iter().enumerate().filter(|(_, size)| **size != 1) {
            let joins = !out.sizes.is_empty()
                && out.tensors.iter().zip(&self.tensors).all(|((_, done), (_, steps))| {
                    done.last() == steps[axis].checked_mul(size as i64).as_ref()
                });
            match out.sizes.last_mut().filter(|_| joins) {
                Some(last) => *last *= size,
                None => out.sizes.push(size),
            }
            for ((_, done), (_, steps)) in out.tensors.iter_mut().zip(&self.tensors) {
                if joins {
                    done.pop();
                }
                done.push(steps[axis]);
            }
        }
        out
    }

    /// The table that kernels read: sizes, then the steps of each tensor, innermost axis first;
    /// steps wrap in 32 bits.
    pub fn table(&self) -> Result<Vec<u32>> {
        let mut words = Vec::new();
        for &size in self.sizes.iter().rev() {
            words.push(super::super::record::count(size)?);
        }
        for (_, steps) in &self.tensors {
            words.extend(steps.iter().rev().map(|&step| step as u32));
        }
        // A storage binding cannot be empty.
        words.push(0);
        Ok(words)
    }

    /// Number of axes.
    pub fn rank(&self) -> u32 {
        self.sizes.len() as u32
    }

    /// Where a tensor starts.
    pub fn start(&self, tensor: usize) -> Result<u32> {
        let at = self.tensors.get(tensor).map(|(at, _)| *at);
        at.and_then(|at| u32::try_from(at).ok())
            .ok_or_else(|| Error::internal("a walk that starts outside its tensor"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_axes_are_joined() {
        let walk = Walk {
            sizes: vec![2, 1, 3, 4],
            tensors: vec![(0, steps(&[2, 1, 3, 4])), (0, vec![12, 0, 4, 1])],
        };
        let collapsed = walk.collapsed();
        assert_eq!(collapsed.sizes, [24]);
        assert_eq!(collapsed.tensors, [(0, vec![1]), (0, vec![1])]);
        assert_eq!(collapsed.table().ok(), Some(vec![24, 1, 1, 0]));
    }

    #[test]
    fn a_transpose_keeps_its_axes() {
        let walk = Walk { sizes: vec![3, 2], tensors: vec![(0, vec![1, 3]), (0, vec![2, 1])] };
        assert_eq!(walk.collapsed(), walk);
        assert_eq!(walk.table().ok(), Some(vec![2, 3, 3, 1, 1, 2, 0]));
    }

    #[test]
    fn a_scalar_repeats() {
        assert_eq!(broadcast_steps(&[], 2), [0, 0]);
        assert_eq!(broadcast_steps(&[3, 1], 3), [0, 1, 0]);
        let walk = Walk { sizes: vec![2, 3], tensors: vec![(0, vec![3, 1]), (0, vec![0, 0])] };
        assert_eq!(walk.collapsed().tensors, [(0, vec![1]), (0, vec![0])]);
    }
}
