//! Ops that take tensors apart and put them together.

use super::super::op::{Activation, Concat, Gather, Pack, ReverseSequence, Unpack};
use super::super::types::{Dim, ValueType};
use super::{Operand, Operands, dims, ty};
use crate::error::{Error, Result};
use crate::tensor::DType;

pub(super) fn slice(operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    let (begin, size) = (operands.get(1, "begin")?, operands.get(2, "size")?);
    let (begins, counts) = (begin.integers("begin")?, size.integers("size")?);
    let rank = match (x.dims(), begin.list_len("begin")?, size.list_len("size")?) {
        (Some(sizes), b, s) => {
            let rank = sizes.len();
            if b.is_some_and(|n| n != rank) || s.is_some_and(|n| n != rank) {
                return Err(Error::graph(format!(
                    "begin and size: expected {rank} entries each, found {b:?} and {s:?}"
                )));
            }
            rank
        }
        (None, Some(rank), _) | (None, None, Some(rank)) => rank,
        (None, None, None) => return Ok(ty(x.dtype(), None)),
    };
    let unknown = vec![Dim::Unknown; rank];
    let sizes = x.dims().unwrap_or(&unknown);
    let Some(counts) = counts else {
        return Ok(ty(x.dtype(), Some(unknown)));
    };
    let entry = |list: &[i64], axis: usize| {
        list.get(axis)
            .copied()
            .ok_or_else(|| Error::graph(format!("begin and size: expected {rank} entries each")))
    };
    let mut shape = Vec::with_capacity(rank);
    for (axis, &dim) in sizes.iter().enumerate() {
        let start = begins.as_deref().map(|begins| entry(begins, axis)).transpose()?;
        shape.push(slice_axis(dim, start, entry(&counts, axis)?).ok_or_else(|| {
            Error::graph(format!(
                "axis {axis}: begin {} and size {} leave {}",
                start.unwrap_or(0),
                counts[axis],
                dims::show(x.dims())
            ))
        })?);
    }
    Ok(ty(x.dtype(), Some(shape)))
}

/// `None` when the slice leaves the axis.
fn slice_axis(dim: Dim, begin: Option<i64>, size: i64) -> Option<Dim> {
    let begin = begin.map(usize::try_from).transpose().ok()?;
    let size = if size == -1 { None } else { Some(usize::try_from(size).ok()?) };
    match (dim, begin, size) {
        (Dim::Known(n), Some(begin), Some(size)) => {
            (begin.checked_add(size)? <= n).then_some(Dim::Known(size))
        }
        (Dim::Known(n), Some(begin), None) => n.checked_sub(begin).map(Dim::Known),
        (Dim::Known(n), None, Some(size)) => (size <= n).then_some(Dim::Known(size)),
        (_, _, Some(size)) => Some(Dim::Known(size)),
        (dim, Some(0), None) => Some(dim),
        (_, _, None) => Some(Dim::Unknown),
    }
}

pub(super) fn gather(gather: Gather, operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    let indices = operands.get(1, "indices")?;
    indices.expect_integer("indices")?;
    let (Some(sizes), Some(picks)) = (x.dims(), indices.dims()) else {
        return Ok(ty(x.dtype(), None));
    };
    let axis = dims::axis(gather.axis, sizes.len())?;
    let shared = if gather.batch_dims < 0 {
        dims::axis(gather.batch_dims, picks.len())?
    } else {
        usize::try_from(gather.batch_dims).unwrap_or(usize::MAX)
    };
    if shared > axis || shared > picks.len() {
        return Err(Error::graph(format!(
            "batch_dims {}: expected at most the axis {axis} and the rank of the indices {}",
            gather.batch_dims,
            picks.len()
        )));
    }
    let mut shape = Vec::with_capacity(sizes.len() + picks.len());
    for (&a, &b) in sizes.iter().zip(picks).take(shared) {
        shape.push(dims::unify(a, b).ok_or_else(|| {
            Error::graph(format!(
                "x {} and indices {} differ in their first {shared} axes",
                dims::show(x.dims()),
                dims::show(indices.dims())
            ))
        })?);
    }
    shape.extend(&sizes[shared..axis]);
    shape.extend(&picks[shared..]);
    shape.extend(&sizes[axis + 1..]);
    Ok(ty(x.dtype(), Some(shape)))
}

pub(super) fn pack(pack: Pack, operands: &Operands<'_>) -> Result<ValueType> {
    let items = operands.all()?;
    let first = operands.get(0, "input")?;
    let mut item: Option<Vec<Dim>> = first.dims().map(<[Dim]>::to_vec);
    for (slot, other) in items.iter().enumerate().skip(1) {
        other.expect_same_dtype(&format!("input {slot}, as input 0"), &first)?;
        item = dims::unify_shapes(&format!("input {slot}"), item.as_deref(), other.dims())?;
    }
    let shape = match item {
        None => None,
        Some(mut shape) => {
            shape.insert(dims::axis(pack.axis, shape.len() + 1)?, Dim::Known(items.len()));
            Some(shape)
        }
    };
    Ok(ty(first.dtype(), shape))
}

pub(super) fn unpack(
    unpack: Unpack,
    operands: &Operands<'_>,
    outputs: usize,
) -> Result<Vec<ValueType>> {
    let x = operands.get(0, "x")?;
    let item = match x.dims() {
        None => None,
        Some(sizes) => {
            let axis = dims::axis(unpack.axis, sizes.len())?;
            dims::expect("x", sizes, axis, outputs, "number of outputs")?;
            let mut rest = sizes.to_vec();
            rest.remove(axis);
            Some(rest)
        }
    };
    Ok(vec![ty(x.dtype(), item); outputs])
}

pub(super) fn split(operands: &Operands<'_>, outputs: usize) -> Result<Vec<ValueType>> {
    let x = operands.get(0, "x")?;
    let axis = operands.get(1, "axis")?.integer("axis")?;
    if outputs == 0 {
        return Err(Error::graph("split: expected one output or more, found 0"));
    }
    let sizes_operand = operands.optional(2);
    if let Some(sizes) = sizes_operand
        && sizes.list_len("sizes")?.is_some_and(|count| count != outputs)
    {
        return Err(Error::graph(format!(
            "sizes: expected {outputs} entries, found {}",
            dims::show(sizes.dims())
        )));
    }
    let (Some(shape), Some(axis)) = (x.dims(), axis) else {
        return Ok(vec![
            ty(x.dtype(), x.dims().map(|dims| vec![Dim::Unknown; dims.len()]));
            outputs
        ]);
    };
    let axis = dims::axis(axis, shape.len())?;
    let parts = match sizes_operand {
        None => equal_parts(shape[axis], outputs)?,
        Some(sizes) => match sizes.integers("sizes")? {
            Some(entries) => given_parts(shape[axis], &entries, outputs)?,
            None => vec![Dim::Unknown; outputs],
        },
    };
    let part = |dim: Dim| {
        let mut shape = shape.to_vec();
        shape[axis] = dim;
        ty(x.dtype(), Some(shape))
    };
    Ok(parts.into_iter().map(part).collect())
}

fn equal_parts(dim: Dim, outputs: usize) -> Result<Vec<Dim>> {
    let part = match dim {
        Dim::Known(size) if size % outputs == 0 => Dim::Known(size / outputs),
        Dim::Known(size) => {
            return Err(Error::graph(format!(
                "x: expected a multiple of {outputs} on the split axis, found {size}"
            )));
        }
        Dim::Symbol(_) if outputs == 1 => dim,
        Dim::Symbol(_) | Dim::Unknown => Dim::Unknown,
    };
    Ok(vec![part; outputs])
}

fn given_parts(dim: Dim, entries: &[i64], outputs: usize) -> Result<Vec<Dim>> {
    let fail = || {
        Error::graph(format!("sizes: {entries:?} do not make {outputs} parts of an axis of {dim}"))
    };
    if entries.len() != outputs || entries.iter().filter(|&&entry| entry == -1).count() > 1 {
        return Err(fail());
    }
    let mut total = 0usize;
    for &entry in entries.iter().filter(|&&entry| entry != -1) {
        total = usize::try_from(entry).ok().and_then(|n| total.checked_add(n)).ok_or_else(fail)?;
    }
    let rest = match dim {
        Dim::Known(size) => Dim::Known(size.checked_sub(total).ok_or_else(fail)?),
        Dim::Symbol(_) | Dim::Unknown => Dim::Unknown,
    };
    if !entries.contains(&-1) && !rest.agrees_with(Dim::Known(0)) {
        return Err(fail());
    }
    Ok(entries.iter().map(|&entry| usize::try_from(entry).map_or(rest, Dim::Known)).collect())
}

pub(super) fn concat(concat: Concat, operands: &Operands<'_>) -> Result<ValueType> {
    let parts = operands.all()?;
    let first = operands.get(0, "input")?;
    if first.dtype() == DType::Bool && concat.activation != Activation::Linear {
        return Err(Error::graph("a bool result takes no activation"));
    }
    for (slot, part) in parts.iter().enumerate() {
        part.expect_same_dtype(&format!("input {slot}, as input 0"), &first)?;
    }
    let Some(rank) = parts.iter().find_map(|part| part.ty.rank()) else {
        return Ok(ty(first.dtype(), None));
    };
    let axis = dims::axis(concat.axis, rank)?;
    let mut shape = vec![Dim::Unknown; rank];
    shape[axis] = Dim::Known(0);
    for (slot, part) in parts.iter().enumerate() {
        let unknown = vec![Dim::Unknown; rank];
        let sizes = part.ranked(&format!("input {slot}"), rank)?.unwrap_or(&unknown);
        for (i, (so_far, &dim)) in shape.iter_mut().zip(sizes).enumerate() {
            *so_far = if i == axis {
                dims::add(*so_far, dim)?
            } else {
                dims::unify(*so_far, dim).ok_or_else(|| {
                    Error::graph(format!(
                        "input {slot}: expected {so_far} on axis {i}, found shape {}",
                        dims::show(part.dims())
                    ))
                })?
            };
        }
    }
    Ok(ty(first.dtype(), Some(shape)))
}

pub(super) fn reverse(operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    let axes = operands.get(1, "axes")?.integers("axes")?;
    if let (Some(sizes), Some(axes)) = (x.dims(), axes) {
        let named = dims::axis_set(&axes, sizes.len())?;
        if named.iter().filter(|&&named| named).count() != axes.len() {
            return Err(Error::graph(format!("axes: expected each axis once, found {axes:?}")));
        }
    }
    Ok(ty(x.dtype(), x.dims().map(<[Dim]>::to_vec)))
}

pub(super) fn reverse_sequence(
    options: ReverseSequence,
    operands: &Operands<'_>,
) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    let lengths = operands.get(1, "lengths")?;
    lengths.expect_integer("lengths")?;
    let list = lengths.ranked("lengths", 1)?;
    let Some(sizes) = x.dims() else {
        return Ok(ty(x.dtype(), None));
    };
    let time = dims::axis(options.time_axis, sizes.len())?;
    let batch = dims::axis(options.batch_axis, sizes.len())?;
    if time == batch {
        return Err(Error::graph(format!(
            "time and batch axis: expected two axes, found {time} for both"
        )));
    }
    let mut shape = sizes.to_vec();
    if let Some(&[count]) = list {
        shape[batch] = dims::unify(sizes[batch], count).ok_or_else(|| {
            Error::graph(format!("lengths: expected {} entries, found {count}", sizes[batch]))
        })?;
    }
    Ok(ty(x.dtype(), Some(shape)))
}

pub(super) fn set_item(operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    let item: Operand<'_> = operands.get(2, "item")?;
    operands.get(1, "index")?.integer("index")?;
    item.expect_same_dtype("item, as x", &x)?;
    let shape = match (x.dims(), item.dims()) {
        (None, None) => None,
        (None, Some(rest)) => {
            let mut shape = vec![Dim::Unknown];
            shape.extend(rest);
            Some(shape)
        }
        (Some([]), _) => return Err(Error::graph("x: expected rank 1 or more, found a scalar")),
        (Some([count, rest @ ..]), _) => {
            let mut shape = vec![*count];
            shape.extend(dims::unify_shapes("item", Some(rest), item.dims())?.unwrap_or_default());
            Some(shape)
        }
    };
    Ok(ty(x.dtype(), shape))
}
