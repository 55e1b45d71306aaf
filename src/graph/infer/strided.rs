//! The strided slice: entries and masks resolved to a range of every axis.

use super::super::op::StridedSlice;
use super::super::types::{Dim, ValueType};
use super::{Operands, ty};
use crate::error::{Error, Result};

/// What a strided slice does, in the order of the axes of x and of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AxisRange {
    /// `start, start + stride, …`, this many; the axis stays.
    Keep {
        /// First index.
        start: i64,
        /// Step between the indices; not 0.
        stride: i64,
        /// Number of indices.
        count: usize,
    },
    /// One index; the axis goes.
    Take {
        /// The index.
        index: i64,
    },
    /// No axis of x: a new axis of size 1 in the result.
    New,
}

/// One entry of the slice beside the axis it speaks of.
enum Entry {
    New,
    /// An axis that no entry speaks of: all of it.
    Whole,
    Axis(usize),
}

fn bit(mask: u32, entry: usize) -> bool {
    u32::try_from(entry)
        .ok()
        .and_then(|entry| mask.checked_shr(entry))
        .is_some_and(|shifted| shifted & 1 == 1)
}

/// What each axis gets, in order: the ellipsis stands for the axes that the other entries leave
/// over, the end of the list too.
fn entries(options: &StridedSlice, count: usize, rank: usize) -> Result<Vec<Entry>> {
    // An entry may be ellipsis and new axis at once: the ellipsis wins, as in TensorFlow.
    let ellipses = (0..count).filter(|&k| bit(options.ellipsis_mask, k)).count();
    if ellipses > 1 {
        return Err(Error::graph(format!("expected one ellipsis at most, found {ellipses}")));
    }
    let is_axis = |&k: &usize| !bit(options.ellipsis_mask, k) && !bit(options.new_axis_mask, k);
    let named = (0..count).filter(is_axis).count();
    let Some(left) = rank.checked_sub(named) else {
        return Err(Error::graph(format!(
            "expected at most {rank} entries for as many axes, found {named}"
        )));
    };
    let mut list = Vec::new();
    for k in 0..count {
        if bit(options.ellipsis_mask, k) {
            list.extend((0..left).map(|_| Entry::Whole));
        } else if bit(options.new_axis_mask, k) {
            list.push(Entry::New);
        } else {
            list.push(Entry::Axis(k));
        }
    }
    if ellipses == 0 {
        list.extend((0..left).map(|_| Entry::Whole));
    }
    Ok(list)
}

/// The ranges that a strided slice takes of a tensor of `shape`.
///
/// # Errors
/// [`InvalidGraph`](crate::ErrorKind::InvalidGraph) for a zero stride, lists of different lengths,
/// too many entries, or an index of a vanishing axis that is out of range.
pub(crate) fn resolve(
    options: &StridedSlice,
    shape: &[usize],
    begin: &[i64],
    end: &[i64],
    strides: &[i64],
) -> Result<Vec<AxisRange>> {
    expect_lengths(begin.len(), end.len(), strides.len())?;
    let mut sizes = shape.iter();
    let mut ranges = Vec::new();
    for entry in entries(options, begin.len(), shape.len())? {
        if matches!(entry, Entry::New) {
            ranges.push(AxisRange::New);
            continue;
        }
        let size = *sizes.next().ok_or_else(|| Error::internal("more entries than axes"))?;
        ranges.push(match entry {
            Entry::New | Entry::Whole => AxisRange::Keep { start: 0, stride: 1, count: size },
            Entry::Axis(k) => axis_range(options, k, size, begin[k], end[k], strides[k])?,
        });
    }
    Ok(ranges)
}

fn expect_lengths(begin: usize, end: usize, strides: usize) -> Result<()> {
    if begin == end && begin == strides {
        return Ok(());
    }
    Err(Error::graph(format!(
        "begin, end and strides: expected as many entries in each, found {begin}, {end}, {strides}"
    )))
}

fn axis_range(
    options: &StridedSlice,
    k: usize,
    size: usize,
    begin: i64,
    end: i64,
    stride: i64,
) -> Result<AxisRange> {
    if stride == 0 {
        return Err(Error::graph(format!(
            "strides: expected a number that is not 0, found 0 in entry {k}"
        )));
    }
    let n = i64::try_from(size).map_err(|_| Error::limit("a size overflows"))?;
    if bit(options.shrink_axis_mask, k) {
        let index = if begin < 0 { begin.saturating_add(n) } else { begin };
        if stride < 0 || index < 0 || index >= n {
            return Err(Error::graph(format!(
                "entry {k}: index {begin} (stride {stride}) is out of an axis of {size}"
            )));
        }
        return Ok(AxisRange::Take { index });
    }
    // The bounds that a range may have: one past the last on the side that it runs to.
    let (low, high) = if stride > 0 { (0, n) } else { (-1, n - 1) };
    let bound = |at: i64| (if at < 0 { at.saturating_add(n) } else { at }).clamp(low, high);
    let start = match (bit(options.begin_mask, k), stride > 0) {
        (true, true) => low,
        (true, false) => high,
        (false, _) => bound(begin),
    };
    let stop = match (bit(options.end_mask, k), stride > 0) {
        (true, true) => high,
        (true, false) => low,
        // An offset counts from begin, so a negative sum does not count from the end.
        (false, _) if options.offset => start.saturating_add(end).clamp(low, high),
        (false, _) => bound(end),
    };
    let span = if stride > 0 { stop - start } else { start - stop };
    let count = if span <= 0 { 0 } else { (span - 1) / stride.saturating_abs() + 1 };
    Ok(AxisRange::Keep { start, stride, count: usize::try_from(count).unwrap_or(0) })
}

pub(super) fn strided_slice(options: &StridedSlice, operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    let (begin, end, strides) =
        (operands.get(1, "begin")?, operands.get(2, "end")?, operands.get(3, "strides")?);
    let lists = (begin.integers("begin")?, end.integers("end")?, strides.integers("strides")?);
    let lengths = [begin.list_len("begin")?, end.list_len("end")?, strides.list_len("strides")?];
    let Some(sizes) = x.dims() else {
        return Ok(ty(x.dtype(), None));
    };
    let Some(count) = lengths.iter().flatten().next().copied() else {
        return Ok(ty(x.dtype(), None));
    };
    let [b, e, s] = lengths.map(|length| length.unwrap_or(count));
    expect_lengths(b, e, s)?;

    let mut axes = sizes.iter();
    let mut shape = Vec::new();
    for entry in entries(options, count, sizes.len())? {
        let k = match entry {
            Entry::New => {
                shape.push(Dim::Known(1));
                continue;
            }
            Entry::Whole => {
                shape.extend(axes.next());
                continue;
            }
            Entry::Axis(k) => k,
        };
        let dim = axes.next().copied().unwrap_or(Dim::Unknown);
        let at = |list: &Option<Vec<i64>>| list.as_ref().and_then(|list| list.get(k).copied());
        let known = (at(&lists.0), at(&lists.1), at(&lists.2));
        if known.2 == Some(0) {
            return Err(Error::graph(format!(
                "strides: expected a number that is not 0, found 0 in entry {k}"
            )));
        }
        shape.extend(axis_dim(options, k, dim, known)?);
    }
    Ok(ty(x.dtype(), Some(shape)))
}

/// The size of one sliced axis; `None` when the axis goes.
fn axis_dim(
    options: &StridedSlice,
    k: usize,
    dim: Dim,
    (begin, end, stride): (Option<i64>, Option<i64>, Option<i64>),
) -> Result<Option<Dim>> {
    if bit(options.shrink_axis_mask, k) {
        if let (Dim::Known(size), Some(begin)) = (dim, begin) {
            axis_range(options, k, size, begin, end.unwrap_or(0), stride.unwrap_or(1))?;
        }
        return Ok(None);
    }
    // A masked bound need not be known.
    let begin = if bit(options.begin_mask, k) { Some(0) } else { begin };
    let end_is_free = bit(options.end_mask, k);
    let end = if end_is_free { Some(0) } else { end };
    let (Some(begin), Some(end), Some(stride)) = (begin, end, stride) else {
        return Ok(Some(Dim::Unknown));
    };
    match dim {
        Dim::Known(size) => match axis_range(options, k, size, begin, end, stride)? {
            AxisRange::Keep { count, .. } => Ok(Some(Dim::Known(count))),
            AxisRange::Take { .. } | AxisRange::New => Ok(None),
        },
        // The whole axis, forwards or backwards; i32::MAX is how an open end is often written.
        Dim::Symbol(_) | Dim::Unknown => {
            let from_start = bit(options.begin_mask, k) || (begin == 0 && stride > 0);
            let to_end =
                end_is_free || (stride > 0 && !options.offset && end >= i64::from(i32::MAX));
            Ok(Some(if from_start && to_end && stride.saturating_abs() == 1 {
                dim
            } else {
                Dim::Unknown
            }))
        }
    }
}
