//! Arithmetic on sizes that may be known, symbolic or unknown.

use super::super::types::Dim;
use crate::error::{Error, Result};

/// `[2, s0, ?]`, or `[..]` for an unknown rank.
pub(crate) fn show(dims: Option<&[Dim]>) -> String {
    match dims {
        None => "[..]".to_owned(),
        Some(dims) => {
            let sizes: Vec<String> = dims.iter().map(Dim::to_string).collect();
            format!("[{}]", sizes.join(", "))
        }
    }
}

fn overflow() -> Error {
    Error::limit("a size overflows")
}

/// `a + b`.
pub(super) fn add(a: Dim, b: Dim) -> Result<Dim> {
    Ok(match (a, b) {
        (Dim::Known(a), Dim::Known(b)) => Dim::Known(a.checked_add(b).ok_or_else(overflow)?),
        (Dim::Known(0), other) | (other, Dim::Known(0)) => other,
        (_, _) => Dim::Unknown,
    })
}

/// `a · b`.
pub(super) fn mul(a: Dim, b: Dim) -> Result<Dim> {
    Ok(match (a, b) {
        (Dim::Known(a), Dim::Known(b)) => Dim::Known(a.checked_mul(b).ok_or_else(overflow)?),
        (Dim::Known(0), _) | (_, Dim::Known(0)) => Dim::Known(0),
        (Dim::Known(1), other) | (other, Dim::Known(1)) => other,
        (_, _) => Dim::Unknown,
    })
}

/// The product of all sizes; 1 for none.
pub(super) fn product(dims: &[Dim]) -> Result<Dim> {
    // A zero anywhere makes the product 0, whatever overflows before it.
    if dims.contains(&Dim::Known(0)) {
        return Ok(Dim::Known(0));
    }
    dims.iter().try_fold(Dim::Known(1), |product, &dim| mul(product, dim))
}

/// How many runs of `divisor > 0` elements a tensor of these sizes has; an error when they do not
/// come out even.
///
/// `[s0, 28, 28]` by 784 is `s0`.
pub(super) fn quotient(dims: &[Dim], divisor: usize) -> Result<Dim> {
    let mut known = 1usize;
    let mut open = Vec::new();
    if dims.contains(&Dim::Known(0)) {
        return Ok(Dim::Known(0));
    }
    for &dim in dims {
        match dim {
            Dim::Known(size) => known = known.checked_mul(size).ok_or_else(overflow)?,
            Dim::Symbol(_) | Dim::Unknown => open.push(dim),
        }
    }
    match open.as_slice() {
        [] if known.checked_rem(divisor) == Some(0) => Ok(Dim::Known(known / divisor)),
        [] => Err(Error::graph(format!(
            "expected a multiple of {divisor} elements, found {known}: {}",
            show(Some(dims))
        ))),
        [one] if known == divisor => Ok(*one),
        _ => Ok(Dim::Unknown),
    }
}

/// The position of an axis in `0..rank`, counted from the end when negative.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize> {
    let signed = i64::try_from(rank).map_err(|_| overflow())?;
    let wrapped = if axis < 0 { axis.checked_add(signed) } else { Some(axis) };
    wrapped
        .filter(|&position| position < signed)
        .and_then(|position| usize::try_from(position).ok())
        .ok_or_else(|| Error::graph(format!("axis {axis}: expected −{rank} ≤ axis < {rank}")))
}

/// Which axes a list names; duplicates count once.
pub(super) fn axis_set(axes: &[i64], rank: usize) -> Result<Vec<bool>> {
    let mut named = vec![false; rank];
    for &a in axes {
        named[axis(a, rank)?] = true;
    }
    Ok(named)
}

/// One size of two tensors that must agree, as exactly as either knows it.
pub(super) fn unify(a: Dim, b: Dim) -> Option<Dim> {
    a.agrees_with(b).then(|| a.refined_by(b))
}

/// The shape of two tensors that must have the same one.
pub(super) fn unify_shapes(
    what: &str,
    a: Option<&[Dim]>,
    b: Option<&[Dim]>,
) -> Result<Option<Vec<Dim>>> {
    match (a, b) {
        (Some(left), Some(right)) => {
            let unified = (left.len() == right.len())
                .then(|| {
                    left.iter().zip(right).map(|(&x, &y)| unify(x, y)).collect::<Option<Vec<Dim>>>()
                })
                .flatten();
            unified.map(Some).ok_or_else(|| {
                Error::graph(format!("{what}: expected {}, found {}", show(a), show(b)))
            })
        }
        (Some(one), None) | (None, Some(one)) => Ok(Some(one.to_vec())),
        (None, None) => Ok(None),
    }
}

/// One size after broadcasting; `None` when the two do not fit.
fn broadcast_dim(a: Dim, b: Dim) -> Option<Dim> {
    Some(match (a, b) {
        (Dim::Known(1), other) | (other, Dim::Known(1)) => other,
        (Dim::Known(a), Dim::Known(b)) => return (a == b).then_some(Dim::Known(a)),
        // The open one can only be 1 or this size.
        (Dim::Known(size), _) | (_, Dim::Known(size)) => Dim::Known(size),
        (Dim::Symbol(a), Dim::Symbol(b)) if a == b => Dim::Symbol(a),
        (_, _) => Dim::Unknown,
    })
}

/// The shape of two tensors after broadcasting: sizes are aligned at the end, 1 stretches.
pub(super) fn broadcast(a: Option<&[Dim]>, b: Option<&[Dim]>) -> Result<Option<Vec<Dim>>> {
    let (Some(left), Some(right)) = (a, b) else {
        return Ok(None);
    };
    let rank = left.len().max(right.len());
    let at = |dims: &[Dim], i: usize| {
        (i + dims.len()).checked_sub(rank).map_or(Dim::Known(1), |k| dims[k])
    };
    (0..rank)
        .map(|i| broadcast_dim(at(left, i), at(right, i)))
        .collect::<Option<Vec<Dim>>>()
        .map(Some)
        .ok_or_else(|| Error::graph(format!("shapes {} and {} do not broadcast", show(a), show(b))))
}

/// Checks that `dims` has size `expected` at `axis`, as far as it is known.
pub(super) fn expect(
    name: &str,
    dims: &[Dim],
    axis: usize,
    expected: usize,
    meaning: &str,
) -> Result<()> {
    let found = dims.get(axis).copied().unwrap_or(Dim::Unknown);
    if found.agrees_with(Dim::Known(expected)) {
        return Ok(());
    }
    Err(Error::graph(format!(
        "{name}: expected {meaning} = {expected} on axis {axis}, found shape {}",
        show(Some(dims))
    )))
}

/// Known sizes from integers that must not be negative.
pub(super) fn from_integers(name: &str, values: &[i64]) -> Result<Vec<Dim>> {
    values
        .iter()
        .map(|&value| {
            usize::try_from(value).map(Dim::Known).map_err(|_| {
                Error::graph(format!("{name}: expected sizes of 0 or more, found {values:?}"))
            })
        })
        .collect()
}
