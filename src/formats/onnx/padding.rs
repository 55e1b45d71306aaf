//! Padding: constant, mirrored, repeated or wrapped.

use super::movement::one;
use super::open;
use super::step::{Outputs, Step};
use crate::error::{Error, Result};
use crate::graph::{Dim, Op, ValueId};
use crate::tensor::Tensor;

/// How a pad fills the room.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Constant,
    Reflect,
    Edge,
    Wrap,
}

pub fn pad(step: &mut Step<'_, '_>) -> Result<Outputs> {
    const AS_INPUTS: i64 = 11;
    const WRAPS: i64 = 19;
    let mode = match step.attrs.string("mode")? {
        None | Some("constant") => Mode::Constant,
        Some("reflect") => Mode::Reflect,
        Some("edge") => Mode::Edge,
        Some("wrap") if step.opset >= WRAPS => Mode::Wrap,
        Some(other) => {
            return Err(Error::malformed(format!(
                "mode: expected constant, reflect or edge, found '{other}'"
            )));
        }
    };
    let x = step.tensor(0)?;
    let (dtype, rank) = (step.dtype(x)?, step.rank(x)?);
    let (pads, value);
    let mut axes: Vec<usize> = (0..rank).collect();
    if step.opset < AS_INPUTS {
        step.expect_inputs(1, 1)?;
        let name = if step.opset == 1 { "paddings" } else { "pads" };
        let list = step.attrs.ints(name)?;
        pads = list.ok_or_else(|| Error::malformed(format!("attribute '{name}' is missing")))?;
        let number = step.attrs.float_or("value", 0.0)?;
        value = step.number(dtype, f64::from(number))?;
    } else {
        step.expect_inputs(2, 4)?;
        if mode == Mode::Constant
            && let Some(open) = open::pad(step, x)?
        {
            return Ok(open);
        }
        pads = step.integers(1, "pads")?;
        value = match step.optional(2)? {
            Some(value) => value,
            None => step.number(dtype, 0.0)?,
        };
        if let Some(list) = step.optional_integers(3, "axes")? {
            axes = list.iter().map(|&axis| step.axis(axis, rank)).collect::<Result<_>>()?;
        }
    }
    if pads.len() != 2 * axes.len() {
        return Err(Error::malformed(format!(
            "pads: expected {} entries, found {}",
            2 * axes.len(),
            pads.len()
        )));
    }
    /// Entries of padding; far more than any axis has.
    const MOST: u64 = 1 << 31;
    if let Some(amount) = pads.iter().find(|amount| amount.unsigned_abs() > MOST) {
        return Err(Error::limit(format!("pads: {amount} entries, over 2^31")));
    }
    let (before, after) = pads.split_at(axes.len());
    let mut result = x;
    let mut room = vec![0; 2 * rank];
    for ((&axis, &before), &after) in axes.iter().zip(before).zip(after) {
        if before < 0 || after < 0 {
            let end = if after < 0 { after } else { i64::MAX };
            result = step.slice(result, axis, (-before).max(0), end)?;
        }
        let (before, after) = (before.max(0), after.max(0));
        if mode != Mode::Constant {
            result = extended(step, result, axis, [before, after], mode)?;
        } else if let Some([first, last]) = room.get_mut(2 * axis..2 * axis + 2) {
            (*first, *last) = (before, after);
        }
    }
    if room.iter().all(|&amount| amount == 0) {
        return one(result);
    }
    let room = step.constant(Tensor::from_vec(&[rank, 2], room)?);
    step.one(Op::Pad, &[result, room, value])
}

/// One axis with entries of its own before and after.
fn extended(
    step: &mut Step<'_, '_>,
    x: ValueId,
    axis: usize,
    [before, after]: [i64; 2],
    mode: Mode,
) -> Result<ValueId> {
    // Mirrored entries beside the border need one entry more than their number.
    if let Some(Dim::Known(size)) = step.dims(x)?.get(axis).copied() {
        let most = match mode {
            Mode::Reflect => size as i64 - 1,
            Mode::Edge | Mode::Constant => i64::MAX,
            Mode::Wrap => size as i64,
        };
        if before > most || after > most || size == 0 {
            return Err(Error::unsupported(format!(
                "pads: {before} and {after} entries from an axis of size {size}"
            )));
        }
    }
    let mut parts = Vec::new();
    for (amount, is_before) in [(before, true), (after, false)] {
        if !is_before {
            parts.push(x);
        }
        if amount == 0 {
            continue;
        }
        let (begin, end) = match (mode, is_before) {
            (Mode::Reflect, true) => (1, amount + 1),
            (Mode::Reflect, false) => (-amount - 1, -1),
            (Mode::Wrap, true) => (-amount, i64::MAX),
            (Mode::Wrap, false) => (0, amount),
            (Mode::Edge | Mode::Constant, true) => (0, 1),
            (Mode::Edge | Mode::Constant, false) => (-1, i64::MAX),
        };
        let mut part = step.slice(x, axis, begin, end)?;
        match mode {
            Mode::Reflect => {
                let axes = step.vector(&[axis as i64])?;
                part = step.add(Op::Reverse, &[part, axes])?;
            }
            Mode::Edge => {
                let mut multiples = vec![1; step.rank(x)?];
                if let Some(slot) = multiples.get_mut(axis) {
                    *slot = amount;
                }
                let multiples = step.vector(&multiples)?;
                part = step.add(Op::Tile, &[part, multiples])?;
            }
            Mode::Wrap | Mode::Constant => {}
        }
        parts.push(part);
    }
    step.concat(axis as i64, &parts)
}
