//! Ops that arrange, make and repeat elements.

use super::super::op::Squeeze;
use super::super::types::{Dim, ValueType};
use super::{Operand, Operands, dims, ty};
use crate::error::{Error, Result};
use crate::tensor::DType;

pub(super) fn transpose(operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    let permutation = operands.get(1, "permutation")?;
    let entries = permutation.integers("permutation")?;
    if let (Some(sizes), Some(count)) = (x.dims(), permutation.list_len("permutation")?)
        && sizes.len() != count
    {
        return Err(Error::graph(format!(
            "permutation: expected {} entries, found {count}",
            sizes.len()
        )));
    }
    let rank = x.dims().map(<[Dim]>::len).or(entries.as_ref().map(Vec::len));
    let (Some(rank), Some(entries)) = (rank, entries) else {
        return Ok(ty(x.dtype(), rank.map(|rank| vec![Dim::Unknown; rank])));
    };
    let named = dims::axis_set(&entries, rank)?;
    if named.contains(&false) || entries.len() != rank {
        return Err(Error::graph(format!(
            "permutation: expected every axis of {rank} once, found {entries:?}"
        )));
    }
    let shape = match x.dims() {
        None => vec![Dim::Unknown; rank],
        Some(sizes) => {
            entries.iter().map(|&axis| Ok(sizes[dims::axis(axis, rank)?])).collect::<Result<_>>()?
        }
    };
    Ok(ty(x.dtype(), Some(shape)))
}

pub(super) fn reshape(operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    let target = operands.get(1, "shape")?;
    let Some(entries) = target.integers("shape")? else {
        return Ok(ty(x.dtype(), target.list_len("shape")?.map(|rank| vec![Dim::Unknown; rank])));
    };
    if entries.iter().any(|&entry| entry < -1)
        || entries.iter().filter(|&&entry| entry == -1).count() > 1
    {
        return Err(Error::graph(format!(
            "shape: expected sizes and at most one −1, found {entries:?}"
        )));
    }
    let mut shape: Vec<Dim> = entries
        .iter()
        .map(|&entry| usize::try_from(entry).map_or(Dim::Unknown, Dim::Known))
        .collect();
    let free = entries.iter().position(|&entry| entry == -1);
    let rest: Vec<Dim> = shape.iter().copied().filter(|dim| dim.known().is_some()).collect();
    let Dim::Known(count) = dims::product(&rest)? else {
        return Err(Error::internal("a product of known sizes is not known"));
    };
    let Some(sizes) = x.dims() else {
        return Ok(ty(x.dtype(), Some(shape)));
    };
    let fail =
        || Error::graph(format!("cannot reshape {} to {entries:?}", dims::show(Some(sizes))));
    match free {
        Some(_) if count == 0 => return Err(fail()),
        Some(position) => shape[position] = dims::quotient(sizes, count).map_err(|_| fail())?,
        None => {
            if dims::product(sizes)?.known().is_some_and(|found| found != count) {
                return Err(fail());
            }
        }
    }
    Ok(ty(x.dtype(), Some(shape)))
}

pub(super) fn squeeze(squeeze: &Squeeze, operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    let Some(sizes) = x.dims() else {
        return Ok(ty(x.dtype(), None));
    };
    if squeeze.axes.is_empty() {
        // Which axes go is only known once every size is.
        let shape = sizes
            .iter()
            .all(|dim| dim.known().is_some())
            .then(|| sizes.iter().copied().filter(|&dim| dim != Dim::Known(1)).collect());
        return Ok(ty(x.dtype(), shape));
    }
    let gone = dims::axis_set(&squeeze.axes, sizes.len())?;
    if sizes.iter().zip(&gone).any(|(dim, &gone)| gone && !dim.agrees_with(Dim::Known(1))) {
        return Err(Error::graph(format!(
            "x: expected size 1 on the axes {:?}, found {}",
            squeeze.axes,
            dims::show(x.dims())
        )));
    }
    Ok(ty(
        x.dtype(),
        Some(sizes.iter().zip(gone).filter(|(_, gone)| !gone).map(|(&dim, _)| dim).collect()),
    ))
}

pub(super) fn expand_dims(operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    let axis = operands.get(1, "axis")?.integer("axis")?;
    let shape = match (x.dims(), axis) {
        (None, _) => None,
        (Some(sizes), None) => Some(vec![Dim::Unknown; sizes.len() + 1]),
        (Some(sizes), Some(axis)) => {
            let mut shape = sizes.to_vec();
            shape.insert(dims::axis(axis, sizes.len() + 1)?, Dim::Known(1));
            Some(shape)
        }
    };
    Ok(ty(x.dtype(), shape))
}

pub(super) fn shape(dtype: DType, operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    if !matches!(dtype, DType::I32 | DType::I64) {
        return Err(Error::graph(format!("shape: expected int32 or int64, found {dtype}")));
    }
    Ok(ty(dtype, Some(vec![x.dims().map_or(Dim::Unknown, |dims| Dim::Known(dims.len()))])))
}

/// The sizes that an operand asks for: known, or only as many as its length says.
fn asked_shape(target: &Operand<'_>) -> Result<Option<Vec<Dim>>> {
    match target.integers("shape")? {
        Some(entries) => Ok(Some(dims::from_integers("shape", &entries)?)),
        None => Ok(target.list_len("shape")?.map(|rank| vec![Dim::Unknown; rank])),
    }
}

pub(super) fn fill(operands: &Operands<'_>) -> Result<ValueType> {
    let value = operands.get(1, "value")?;
    value.expect_single("value")?;
    Ok(ty(value.dtype(), asked_shape(&operands.get(0, "shape")?)?))
}

/// `n = max(0, ⌈(limit − start) / delta⌉)`.
pub(super) fn range(operands: &Operands<'_>) -> Result<ValueType> {
    let start = operands.get(0, "start")?;
    let limit = operands.get(1, "limit")?;
    let delta = operands.get(2, "delta")?;
    if start.dtype() == DType::Bool {
        return Err(Error::graph("start: expected numbers, found bool"));
    }
    limit.expect_same_dtype("limit, as start", &start)?;
    delta.expect_same_dtype("delta, as start", &start)?;
    for (name, operand) in [("start", &start), ("limit", &limit), ("delta", &delta)] {
        operand.expect_single(name)?;
        if operand.known.is_some_and(|tensor| tensor.len() != 1) {
            return Err(Error::graph(format!("{name}: expected one number")));
        }
    }
    let (Some(first), Some(end), Some(step)) = (start.known, limit.known, delta.known) else {
        return Ok(ty(start.dtype(), Some(vec![Dim::Unknown])));
    };
    let count = if start.dtype().is_float() {
        let at = |tensor: &crate::Tensor| tensor.to_f32().first().copied().map_or(0.0, f64::from);
        float_count(at(first), at(end), at(step))
    } else {
        let at = |tensor: &crate::Tensor| {
            tensor.to_i64().map(|v| v.first().copied().map_or(0, i128::from))
        };
        integer_count(at(first)?, at(end)?, at(step)?)
    };
    let count =
        count.ok_or_else(|| Error::graph("delta: expected a finite number that is not 0"))?;
    Ok(ty(start.dtype(), Some(vec![Dim::Known(count)])))
}

fn integer_count(start: i128, limit: i128, delta: i128) -> Option<usize> {
    if delta == 0 {
        return None;
    }
    let (span, step) = if delta > 0 { (limit - start, delta) } else { (start - limit, -delta) };
    if span <= 0 { Some(0) } else { usize::try_from((span + step - 1) / step).ok() }
}

fn float_count(start: f64, limit: f64, delta: f64) -> Option<usize> {
    let count = ((limit - start) / delta).ceil();
    // 2^53: beyond it the count is no integer of f64, and far beyond every limit on elements.
    if delta == 0.0 || !count.is_finite() || count > 9_007_199_254_740_992.0 {
        return None;
    }
    Some(count.max(0.0) as usize)
}

pub(super) fn tile(operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    let multiples = operands.get(1, "multiples")?;
    let entries = multiples.integers("multiples")?;
    let Some(sizes) = x.dims() else {
        return Ok(ty(
            x.dtype(),
            multiples.list_len("multiples")?.map(|rank| vec![Dim::Unknown; rank]),
        ));
    };
    let Some(entries) = entries else {
        return Ok(ty(x.dtype(), Some(vec![Dim::Unknown; sizes.len()])));
    };
    if entries.len() != sizes.len() {
        return Err(Error::graph(format!(
            "multiples: expected {} entries, found {}",
            sizes.len(),
            entries.len()
        )));
    }
    let entries = dims::from_integers("multiples", &entries)?;
    let shape =
        sizes.iter().zip(entries).map(|(&dim, by)| dims::mul(dim, by)).collect::<Result<_>>()?;
    Ok(ty(x.dtype(), Some(shape)))
}

pub(super) fn broadcast_to(operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    let target = asked_shape(&operands.get(1, "shape")?)?;
    if let (Some(sizes), Some(target)) = (x.dims(), &target) {
        let tail = target.len().checked_sub(sizes.len()).map(|skip| &target[skip..]);
        let fits = tail.is_some_and(|tail| {
            sizes
                .iter()
                .zip(tail)
                .all(|(&dim, &to)| dim.agrees_with(Dim::Known(1)) || dim.agrees_with(to))
        });
        if !fits {
            return Err(Error::graph(format!(
                "cannot broadcast {} to {}",
                dims::show(x.dims()),
                dims::show(Some(target.as_slice()))
            )));
        }
    }
    Ok(ty(x.dtype(), target))
}

pub(super) fn pad(operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    let paddings = operands.get(1, "paddings")?;
    paddings.expect_integer("paddings")?;
    if let Some(value) = operands.optional(2) {
        value.expect_same_dtype("value, as x", &x)?;
        value.expect_single("value")?;
    }
    let pairs = paddings.ranked("paddings", 2)?;
    if let Some(pairs) = pairs {
        dims::expect("paddings", pairs, 1, 2, "before and after")?;
        if let Some(sizes) = x.dims() {
            dims::expect("paddings", pairs, 0, sizes.len(), "rank of x")?;
        }
    }
    let rank = x.dims().map(<[Dim]>::len).or_else(|| pairs?.first()?.known());
    let (Some(sizes), Some(known)) = (x.dims(), paddings.known) else {
        return Ok(ty(x.dtype(), rank.map(|rank| vec![Dim::Unknown; rank])));
    };
    let amounts = dims::from_integers("paddings", &known.to_i64()?)?;
    if Some(amounts.len()) != sizes.len().checked_mul(2) {
        return Err(Error::graph(format!(
            "paddings: expected {} pairs, found {} numbers",
            sizes.len(),
            amounts.len()
        )));
    }
    let shape = sizes
        .iter()
        .zip(amounts.chunks_exact(2))
        .map(|(&dim, pair)| dims::add(dims::add(dim, pair[0])?, pair[1]))
        .collect::<Result<_>>()?;
    Ok(ty(x.dtype(), Some(shape)))
}
