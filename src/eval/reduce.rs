//! Reductions, the index of an extreme, softmax.

use super::movement::{self, View};
use super::operands::{Operands, axis_index, checked_count, scalar_i64};
use super::quantized;
use crate::error::{Error, Result};
use crate::graph::op::{ArgMax, Reduce, ReduceFunction, Softmax};
use crate::tensor::{DType, Tensor};

/// x with the reduced axes moved to the end: as `groups` rows of `size` elements, and the result's
/// shape.
pub(super) struct Groups {
    pub rows: Tensor,
    pub groups: usize,
    pub size: usize,
    pub shape: Vec<usize>,
}

/// Groups the elements of x that reduce to one.
pub(super) fn group(x: &Tensor, axes: &Tensor, keep_dims: bool) -> Result<Groups> {
    let rank = x.shape().len();
    let mut reduced = vec![false; rank];
    for axis in axes.to_i64()? {
        reduced[axis_index(axis, rank)?] = true;
    }
    let whole = View::whole(x.shape());
    let order = (0..rank).filter(|&k| !reduced[k]).chain((0..rank).filter(|&k| reduced[k]));
    let (shape, strides) = order.map(|k| (whole.shape[k], whole.strides[k])).unzip();
    let rows = View { offset: 0, shape, strides }.read(x, x.shape())?;
    let part = |of: bool| (0..rank).filter(|&k| reduced[k] == of).map(|k| whole.shape[k]).product();
    let shape = (0..rank)
        .filter(|&k| keep_dims || !reduced[k])
        .map(|k| if reduced[k] { 1 } else { whole.shape[k] });
    Ok(Groups { rows, groups: part(false), size: part(true), shape: shape.collect() })
}

/// Op [`Op::Reduce`](crate::graph::Op::Reduce).
pub(super) fn reduce(options: &Reduce, operands: &Operands<'_>) -> Result<Tensor> {
    let x = operands.tensor(0, "x")?;
    let groups = group(x, operands.tensor(1, "axes")?, options.keep_dims)?;
    checked_count(x.dtype(), &groups.shape)?;
    if operands.is_quantized(0) {
        return quantized::reduce(options.function, &groups, operands);
    }
    let (count, size) = (groups.groups, groups.size);
    if x.dtype().is_float() {
        let values = movement::floats(&groups.rows);
        let results = (0..count)
            .map(|g| reduce_floats(options.function, &values[g * size..][..size]))
            .collect::<Result<Vec<_>>>()?;
        return movement::from_floats(x.dtype(), &groups.shape, results);
    }
    let values = movement::integers(&groups.rows)?;
    let bounds = bounds(x.dtype());
    let results = (0..count)
        .map(|g| reduce_integers(options.function, &values[g * size..][..size], x.dtype(), bounds))
        .collect::<Result<Vec<_>>>()?;
    movement::from_integers(x.dtype(), &groups.shape, results)
}

fn reduce_floats(function: ReduceFunction, values: &[f64]) -> Result<f64> {
    let largest = |a: f64, b: f64| if a > b || a.is_nan() { a } else { b };
    let smallest = |a: f64, b: f64| if a < b || a.is_nan() { a } else { b };
    Ok(match function {
        ReduceFunction::Sum => values.iter().sum(),
        ReduceFunction::Mean => values.iter().sum::<f64>() / values.len() as f64,
        ReduceFunction::Product => values.iter().product(),
        ReduceFunction::Maximum => values.iter().copied().fold(f64::NEG_INFINITY, largest),
        ReduceFunction::Minimum => values.iter().copied().fold(f64::INFINITY, smallest),
        ReduceFunction::Any | ReduceFunction::All => {
            return Err(Error::graph(format!("{function:?} of floats")));
        }
    })
}

/// Smallest and largest number of an integer type.
fn bounds(dtype: DType) -> (i64, i64) {
    match dtype {
        DType::I8 => (i8::MIN.into(), i8::MAX.into()),
        DType::U8 => (0, u8::MAX.into()),
        DType::I16 => (i16::MIN.into(), i16::MAX.into()),
        DType::I32 => (i32::MIN.into(), i32::MAX.into()),
        DType::Bool => (0, 1),
        DType::I64 | DType::F16 | DType::F32 | DType::F64 => (i64::MIN, i64::MAX),
    }
}

fn reduce_integers(
    function: ReduceFunction,
    values: &[i64],
    dtype: DType,
    bounds: (i64, i64),
) -> Result<i64> {
    let logical = matches!(function, ReduceFunction::Any | ReduceFunction::All);
    if logical != (dtype == DType::Bool) {
        return Err(Error::graph(format!("{function:?} of {dtype} numbers")));
    }
    let sum = || values.iter().fold(0i64, |sum, &v| sum.wrapping_add(v));
    Ok(match function {
        ReduceFunction::Sum => sum(),
        ReduceFunction::Mean if values.is_empty() => {
            return Err(Error::input("the mean of no integer"));
        }
        ReduceFunction::Mean => sum() / values.len() as i64,
        ReduceFunction::Product => values.iter().fold(1i64, |product, &v| product.wrapping_mul(v)),
        ReduceFunction::Maximum => values.iter().copied().max().unwrap_or(bounds.0),
        ReduceFunction::Minimum => values.iter().copied().min().unwrap_or(bounds.1),
        ReduceFunction::Any => i64::from(values.iter().any(|&v| v != 0)),
        ReduceFunction::All => i64::from(values.iter().all(|&v| v != 0)),
    })
}

/// Op [`Op::ArgMax`](crate::graph::Op::ArgMax); quantized numbers compare as they are stored.
pub(super) fn arg_max(options: &ArgMax, operands: &Operands<'_>) -> Result<Tensor> {
    let x = operands.tensor(0, "x")?;
    let axis = axis_index(scalar_i64(operands.tensor(1, "axis")?, "axis")?, x.shape().len())?;
    let groups = group(x, &Tensor::scalar(axis as i64), false)?;
    let size = groups.size;
    if size == 0 && groups.groups > 0 {
        return Err(Error::input(format!(
            "axis {axis} of shape {:?} has no largest entry",
            x.shape()
        )));
    }
    let first = |better: &dyn Fn(usize, usize) -> bool, g: usize| {
        let row = g * size;
        (0..size).fold(0, |best, i| if better(row + i, row + best) { i } else { best }) as i64
    };
    let indices = if x.dtype().is_float() {
        let v = movement::floats(&groups.rows);
        let better =
            |i: usize, best: usize| if options.minimum { v[i] < v[best] } else { v[i] > v[best] };
        (0..groups.groups).map(|g| first(&better, g)).collect()
    } else {
        let v = movement::integers(&groups.rows)?;
        let better =
            |i: usize, best: usize| if options.minimum { v[i] < v[best] } else { v[i] > v[best] };
        (0..groups.groups).map(|g| first(&better, g)).collect()
    };
    movement::from_integers(options.dtype, &groups.shape, indices)
}

/// Op [`Op::Softmax`](crate::graph::Op::Softmax): `y_i = e^(β (x_i − max)) / Σ_j e^(β (x_j − max))`
/// over the last axis.
///
/// The largest element is taken off first: it cancels, and nothing overflows.
pub(super) fn softmax(options: &Softmax, operands: &Operands<'_>) -> Result<Tensor> {
    let x = operands.tensor(0, "x")?;
    if operands.is_quantized(0) {
        return quantized::softmax(options, operands);
    }
    if !x.dtype().is_float() {
        return Err(Error::graph(format!("softmax of {} numbers", x.dtype())));
    }
    let mut values = movement::floats(x);
    let width = x.shape().last().copied().unwrap_or(1).max(1);
    let beta = f64::from(options.beta);
    for row in values.chunks_exact_mut(width) {
        row.iter_mut().for_each(|v| *v *= beta);
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.iter_mut().for_each(|v| *v -= most);
        let sum: f64 = row.iter().map(|v| v.exp()).sum();
        row.iter_mut().for_each(|v| *v = if options.log { *v - sum.ln() } else { v.exp() / sum });
    }
    movement::from_floats(x.dtype(), x.shape(), values)
}
