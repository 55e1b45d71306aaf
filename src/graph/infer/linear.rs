//! Products with weights that have no memory, and SVDF.

use super::super::op::{Conv2d, FullyConnected, MatMul, Pool2d, Svdf, SvdfArithmetic};
use super::super::types::{Dim, ValueType};
use super::super::window::{Padding, WindowAxis};
use super::recurrent::{expect_matrix, expect_vector};
use super::{Operand, Operands, dims, ty};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// The type of a product's result, for the element types of activations and weights that go
/// together.
fn product_dtype(x: &Operand<'_>, w: &Operand<'_>) -> Result<DType> {
    let pair = (x.dtype(), w.dtype());
    match pair {
        // Float, with weights stored in half precision or (hybrid) int8.
        (DType::F32, DType::F32 | DType::F16 | DType::I8 | DType::U8) => Ok(DType::F32),
        (DType::F64, DType::F64) | (DType::F16, DType::F16) | (DType::I32, DType::I32) => {
            Ok(x.dtype())
        }
        (DType::I8 | DType::I16, DType::I8) | (DType::U8, DType::U8) | (DType::I16, DType::I16) => {
            Ok(x.dtype())
        }
        _ => Err(Error::graph(format!("no product of {} with weights of {}", pair.0, pair.1))),
    }
}

/// Checks `[rows]`: float for float results, int32 (int64 beside int16 activations) for integer
/// ones.
fn expect_bias(bias: Option<Operand<'_>>, rows: Option<Dim>, result: DType) -> Result<()> {
    let Some(bias) = bias else {
        return Ok(());
    };
    match result {
        DType::F32 | DType::F64 | DType::F16 => {
            bias.expect_dtype("bias", &[DType::F32, DType::F16, result])?
        }
        DType::I8 | DType::U8 | DType::I16 | DType::I32 | DType::I64 | DType::Bool => {
            bias.expect_dtype("bias", &[DType::I32, DType::I64])?;
        }
    }
    if let (Some(&[count]), Some(rows)) = (bias.ranked("bias", 1)?, rows)
        && !count.agrees_with(rows)
    {
        return Err(Error::graph(format!("bias: expected [{rows}], found [{count}]")));
    }
    Ok(())
}

pub(super) fn fully_connected(
    options: &FullyConnected,
    operands: &Operands<'_>,
) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    let w = operands.get(1, "weights")?;
    let dtype = product_dtype(&x, &w)?;
    let (rows, columns) = match w.ranked("weights", 2)? {
        Some(&[rows, columns]) => (rows, columns),
        _ => (Dim::Unknown, Dim::Unknown),
    };
    if columns == Dim::Known(0) || rows == Dim::Known(0) {
        return Err(Error::graph(format!(
            "weights: expected sizes of 1 or more, found {}",
            dims::show(w.dims())
        )));
    }
    expect_bias(operands.optional(2), Some(rows), dtype)?;
    let shape = match (x.dims(), options.keep_leading_axes) {
        (None, true) => None,
        (None, false) => Some(vec![Dim::Unknown, rows]),
        (Some([]), _) => return Err(Error::graph("x: expected rank 1 or more, found a scalar")),
        (Some([leading @ .., last]), true) => {
            expect_width("x", x.dims(), *last, columns)?;
            Some(leading.iter().copied().chain([rows]).collect())
        }
        (Some(sizes), false) => {
            let batch = match (sizes.split_last(), columns) {
                (Some((&last, leading)), _) if last == columns => dims::product(leading)?,
                (_, Dim::Known(width)) => dims::quotient(sizes, width)?,
                (_, Dim::Symbol(_) | Dim::Unknown) => Dim::Unknown,
            };
            Some(vec![batch, rows])
        }
    };
    Ok(ty(dtype, shape))
}

fn expect_width(name: &str, shape: Option<&[Dim]>, found: Dim, expected: Dim) -> Result<()> {
    if found.agrees_with(expected) {
        return Ok(());
    }
    Err(Error::graph(format!(
        "{name}: expected width {expected}, found shape {}",
        dims::show(shape)
    )))
}

pub(super) fn mat_mul(options: MatMul, operands: &Operands<'_>) -> Result<ValueType> {
    let a = operands.get(0, "a")?;
    let b = operands.get(1, "b")?;
    let dtype = product_dtype(&a, &b)?;
    let (Some(left), Some(right)) = (a.dims(), b.dims()) else {
        return Ok(ty(dtype, None));
    };
    let (Some((m, k, batch_a)), Some((k2, n, batch_b))) =
        (rows_and_columns(left, options.transpose_a), rows_and_columns(right, options.transpose_b))
    else {
        return Err(Error::graph(format!(
            "expected two matrices, found shapes {} and {}",
            dims::show(a.dims()),
            dims::show(b.dims())
        )));
    };
    if !k.agrees_with(k2) {
        return Err(Error::graph(format!(
            "inner sizes {k} and {k2} differ: a {}{}, b {}{}",
            dims::show(a.dims()),
            if options.transpose_a { " transposed" } else { "" },
            dims::show(b.dims()),
            if options.transpose_b { " transposed" } else { "" },
        )));
    }
    let mut shape = dims::broadcast(Some(batch_a), Some(batch_b))?.unwrap_or_default();
    shape.extend([m, n]);
    Ok(ty(dtype, Some(shape)))
}

/// Rows, columns and batch axes.
fn rows_and_columns(shape: &[Dim], transposed: bool) -> Option<(Dim, Dim, &[Dim])> {
    match shape {
        [batch @ .., rows, columns] if transposed => Some((*columns, *rows, batch)),
        [batch @ .., rows, columns] => Some((*rows, *columns, batch)),
        [] | [_] => None,
    }
}

pub(super) fn conv2d(options: &Conv2d, operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    let w = operands.get(1, "weights")?;
    let dtype = product_dtype(&x, &w)?;
    let open = [Dim::Unknown; 4];
    let sizes = x.ranked("x", 4)?.unwrap_or(&open);
    let kernel = w.ranked("weights", 4)?.unwrap_or(&open);
    if kernel.contains(&Dim::Known(0)) {
        return Err(Error::graph(format!(
            "weights: expected sizes of 1 or more, found {}",
            dims::show(w.dims())
        )));
    }
    let ([n, height, width, channels], [filters, kernel_height, kernel_width, depth]) =
        (sizes, kernel)
    else {
        return Err(Error::internal("rank 4 was checked"));
    };
    expect_groups(options.groups, *filters, *channels, *depth, x.dims())?;
    expect_bias(operands.optional(2), Some(*filters), dtype)?;
    let extent = |size: Dim, kernel: Dim, axis: usize| {
        let (strides, dilations) = (options.strides, options.dilations);
        positions(options.padding, axis, size, kernel, strides[axis], dilations[axis])
    };
    let shape =
        vec![*n, extent(*height, *kernel_height, 0)?, extent(*width, *kernel_width, 1)?, *filters];
    Ok(ty(dtype, Some(shape)))
}

/// Checks that channels and filters are divided evenly, and that the weights have a group's depth.
fn expect_groups(
    groups: usize,
    filters: Dim,
    channels: Dim,
    depth: Dim,
    x: Option<&[Dim]>,
) -> Result<()> {
    let divided = |dim: Dim| dim.known().is_none_or(|n| groups > 0 && n.is_multiple_of(groups));
    if !divided(filters) || !divided(channels) {
        return Err(Error::graph(format!(
            "{groups} groups do not divide {channels} channels and {filters} filters"
        )));
    }
    let expected = match depth {
        Dim::Known(depth) => Dim::Known(depth.saturating_mul(groups)),
        Dim::Symbol(_) | Dim::Unknown => Dim::Unknown,
    };
    if channels.agrees_with(expected) {
        return Ok(());
    }
    Err(Error::graph(format!("x: expected {expected} channels, found shape {}", dims::show(x))))
}

/// Positions of a window over one axis, as far as they are known.
fn positions(
    padding: Padding,
    axis: usize,
    size: Dim,
    kernel: Dim,
    stride: usize,
    dilation: usize,
) -> Result<Dim> {
    // With what is unknown taken for 1 the rest is checked all the same.
    let (n, taps) = (size.known().unwrap_or(1), kernel.known().unwrap_or(1));
    let window = WindowAxis::new(padding, axis, n, taps, stride, dilation)?;
    let follows_from_size = matches!(padding, Padding::Same | Padding::SameLower);
    let is_known = size.known().is_some() && (kernel.known().is_some() || follows_from_size);
    Ok(if is_known { Dim::Known(window.count) } else { Dim::Unknown })
}

pub(super) fn pool2d(options: &Pool2d, operands: &Operands<'_>) -> Result<ValueType> {
    let x = operands.get(0, "x")?;
    let floats = [DType::F32, DType::F16, DType::F64, DType::I8, DType::U8, DType::I16];
    x.expect_dtype("x", &floats)?;
    let open = [Dim::Unknown; 4];
    let &[n, height, width, channels] = x.ranked("x", 4)?.unwrap_or(&open) else {
        return Err(Error::internal("rank 4 was checked"));
    };
    let extent = |size: Dim, axis: usize| {
        let window = Dim::Known(options.window[axis]);
        let (strides, dilations) = (options.strides, options.dilations);
        positions(options.padding, axis, size, window, strides[axis], dilations[axis])
    };
    Ok(ty(x.dtype(), Some(vec![n, extent(height, 0)?, extent(width, 1)?, channels])))
}

/// Sizes: `F = units·rank` filters, `M` memory slots.
pub(super) fn svdf(svdf: &Svdf, operands: &Operands<'_>) -> Result<Vec<ValueType>> {
    let x = operands.get(0, "x")?;
    let (activations, memory, features, times, bias) = match &svdf.arithmetic {
        SvdfArithmetic::Float => (
            DType::F32,
            DType::F32,
            &[DType::F32, DType::F16, DType::I8][..],
            &[DType::F32, DType::F16, DType::I8][..],
            DType::F32,
        ),
        SvdfArithmetic::Hybrid { .. } => {
            (DType::F32, DType::F32, &[DType::I8][..], &[DType::F32, DType::I8][..], DType::F32)
        }
        SvdfArithmetic::Integer { input, state, output } => {
            for scale in [input.0, *state, output.0] {
                if !(scale.is_finite() && scale > 0.0) {
                    return Err(Error::graph(format!(
                        "scale: expected a positive number, found {scale}"
                    )));
                }
            }
            (DType::I8, DType::I16, &[DType::I8][..], &[DType::I16][..], DType::I32)
        }
    };
    x.expect_dtype("x", &[activations])?;
    let filters = svdf.feature.rows();
    if svdf.rank == 0 || filters == 0 || !filters.is_multiple_of(svdf.rank) {
        return Err(Error::graph(format!(
            "feature weights: expected a multiple of rank {} rows, found {filters}",
            svdf.rank
        )));
    }
    let (units, slots) = (filters / svdf.rank, svdf.time.columns());
    if slots == 0 {
        return Err(Error::graph("time weights: expected 1 column or more, found 0"));
    }
    expect_matrix("feature weights", &svdf.feature, filters, svdf.feature.columns(), features)?;
    expect_matrix("time weights", &svdf.time, filters, slots, times)?;
    if let Some(tensor) = &svdf.bias {
        expect_vector("bias", tensor, units, bias)?;
    }
    let batch = match x.ranked("x", 2)? {
        Some(sizes @ &[batch, _]) => {
            dims::expect("x", sizes, 1, svdf.feature.columns(), "input width")?;
            batch
        }
        _ => Dim::Unknown,
    };
    let width =
        filters.checked_mul(slots).ok_or_else(|| Error::limit("state: the size overflows"))?;
    let mut state_batch = Dim::Unknown;
    if let Some(state) = operands.optional(1) {
        state.expect_dtype("state", &[memory])?;
        if let Some(sizes) = state.ranked("state", 2)? {
            dims::expect("state", sizes, 1, width, "filters · memory slots")?;
            state_batch = sizes[0];
        }
    }
    let batch = dims::unify(batch, state_batch).ok_or_else(|| {
        Error::graph(format!("state: expected batch size {batch}, found {state_batch}"))
    })?;
    Ok(vec![
        ty(activations, Some(vec![batch, Dim::Known(units)])),
        ty(memory, Some(vec![batch, Dim::Known(width)])),
    ])
}
