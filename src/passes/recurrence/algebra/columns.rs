//! Pieces that were cut from a value or joined, along its last axis.

use super::{Algebra, first};
use crate::graph::op::{Activation, StridedSlice};
use crate::graph::{Dim, Node, Op, ValueId};
use crate::passes::values::{is_set, reaches_end};

impl Algebra<'_> {
    /// The operands that are joined to make the argument of a product, with their first columns and
    /// widths; `total` columns in all.
    pub fn joined(&self, argument: ValueId, total: usize) -> Option<Vec<(ValueId, usize, usize)>> {
        let argument = self.through(argument);
        let Some((node, _)) = self.producer(argument).filter(|_| !self.is_cut_leaf(argument))
        else {
            return Some(vec![(argument, 0, total)]);
        };
        let Op::Concat(options) = &node.op else { return Some(vec![(argument, 0, total)]) };
        if !self.is_last_axis(options.axis, argument) || options.activation != Activation::Linear {
            return Some(vec![(argument, 0, total)]);
        }
        let inputs: Vec<ValueId> = node.inputs.iter().copied().collect::<Option<_>>()?;
        let widths: Vec<Option<usize>> = inputs.iter().map(|&input| self.width(input)).collect();
        let known: usize = widths.iter().flatten().sum();
        let unknown = widths.iter().filter(|width| width.is_none()).count();
        if unknown > 1 || (unknown == 0 && known != total) {
            return None;
        }
        let rest = total.checked_sub(known)?;
        let mut parts = Vec::new();
        let mut start = 0;
        for (input, width) in inputs.into_iter().zip(widths) {
            let width = width.unwrap_or(rest);
            for (value, offset, len) in self.joined(input, width)? {
                parts.push((value, start + offset, len));
            }
            start += width;
        }
        Some(parts)
    }

    /// The operand and first column behind a piece that was cut along the last axis.
    pub fn columns(&self, node: &Node, slot: usize, value: ValueId) -> Option<(ValueId, usize)> {
        let input = first(node)?;
        let start = match &node.op {
            Op::Split => self.split_start(node, slot, input),
            Op::Slice => self.slice_start(node, input),
            Op::StridedSlice(options) if self.rank(value)? == self.rank(input)? => {
                self.strided_start(node, options, input)
            }
            _ => None,
        };
        Some((input, start?))
    }

    fn operand(&self, node: &Node, slot: usize) -> Option<Vec<i64>> {
        self.graph.constant(node.input(slot)?)?.to_i64().ok()
    }

    fn split_start(&self, node: &Node, slot: usize, input: ValueId) -> Option<usize> {
        let width = self.width(input)?;
        let axis = *self.operand(node, 1)?.first()?;
        if !self.is_last_axis(axis, input) {
            return None;
        }
        if node.input(2).is_none() {
            return Some(width / node.outputs.len().max(1) * slot);
        }
        let sizes = self.operand(node, 2)?;
        let known = sizes
            .iter()
            .filter(|&&size| size >= 0)
            .try_fold(0i64, |n, &size| n.checked_add(size))?;
        let rest = i64::try_from(width).ok()?.checked_sub(known)?;
        let before = sizes.iter().take(slot).map(|&size| if size < 0 { rest } else { size });
        usize::try_from(before.sum::<i64>()).ok()
    }

    fn slice_start(&self, node: &Node, input: ValueId) -> Option<usize> {
        let (begin, size) = (self.operand(node, 1)?, self.operand(node, 2)?);
        let shape = self.graph.shape(input)?;
        if begin.len() != shape.len() || size.len() != shape.len() {
            return None;
        }
        let whole = shape.iter().zip(begin.iter().zip(&size)).rev().skip(1).all(
            |(dim, (&begin, &size))| {
                begin == 0 && (size < 0 || dim.known().is_some_and(|n| n as i64 == size))
            },
        );
        usize::try_from(*begin.last().filter(|_| whole)?).ok()
    }

    fn strided_start(&self, node: &Node, options: &StridedSlice, input: ValueId) -> Option<usize> {
        let (begin, end) = (self.operand(node, 1)?, self.operand(node, 2)?);
        let strides = self.operand(node, 3)?;
        let shape = self.graph.shape(input)?;
        let last = begin.len().checked_sub(1)?;
        let plain = options.new_axis_mask == 0 && options.shrink_axis_mask == 0 && !options.offset;
        if !plain || strides.iter().any(|&stride| stride != 1) {
            return None;
        }
        // [..., a:b]: an ellipsis, then the last axis.
        let elliptic = options.ellipsis_mask == 1 && begin.len() == 2;
        let complete = options.ellipsis_mask == 0 && begin.len() == shape.len();
        let whole = |axis: usize| {
            let size = shape.get(axis).and_then(|dim: &Dim| dim.known());
            (is_set(options.begin_mask, axis) || begin.get(axis) == Some(&0))
                && (is_set(options.end_mask, axis)
                    || end.get(axis).is_some_and(|&end| reaches_end(end, size)))
        };
        let whole_rows = elliptic || (complete && (0..last).all(whole));
        if !whole_rows {
            return None;
        }
        let from = if is_set(options.begin_mask, last) { 0 } else { *begin.get(last)? };
        let from = if from < 0 { from.checked_add(self.width(input)? as i64)? } else { from };
        usize::try_from(from).ok()
    }
}
