//! Tensors made from sizes and scalars, and conversion between element types.

use half::f16;

use super::super::operands::{checked_count, scalar_i64, sizes};
use crate::error::{Error, Result};
use crate::tensor::{DType, Storage, Tensor, with_storage};

/// The sizes of x's axes as a tensor.
pub(crate) fn shape_of(x: &Tensor, dtype: DType) -> Result<Tensor> {
    // Sizes stay below 2^40, so i64 holds them.
    let sizes: Vec<i64> = x.shape().iter().map(|&n| n as i64).collect();
    if dtype == DType::I32
        && let Some(size) = sizes.iter().find(|&&size| i32::try_from(size).is_err())
    {
        return Err(Error::limit(format!("an axis of size {size} does not fit {dtype}")));
    }
    cast(&Tensor::from_vec(&[sizes.len()], sizes)?, dtype)
}

/// A tensor of one value.
pub(crate) fn fill(shape: &Tensor, value: &Tensor) -> Result<Tensor> {
    let shape = sizes(shape, "shape")?;
    let count = checked_count(value.dtype(), &shape)?;
    with_storage!(value.storage(), data => match data.as_slice() {
        &[value] => Tensor::from_vec(&shape, vec![value; count]),
        _ => Err(Error::input(format!("the value to fill with has the shape {:?}", value.shape()))),
    })
}

/// `start, start + delta, …` short of `limit`.
pub(crate) fn range(start: &Tensor, limit: &Tensor, delta: &Tensor) -> Result<Tensor> {
    let dtype = start.dtype();
    if limit.dtype() != dtype || delta.dtype() != dtype {
        return Err(Error::input(format!(
            "the bounds of a range are {dtype}, {} and {}",
            limit.dtype(),
            delta.dtype()
        )));
    }
    let one = |tensor: &Tensor| match floats(tensor).as_slice() {
        &[value] if value.is_finite() => Ok(value),
        _ => Err(Error::input("a range needs finite scalars")),
    };
    // f64 holds every i32 and every difference of two of them; larger i64 ranges would pass the
    // memory limit.
    let (first, last, step) = (one(start)?, one(limit)?, one(delta)?);
    if step == 0.0 {
        return Err(Error::input("a range has the step 0"));
    }
    let count = ((last - first) / step).ceil().max(0.0);
    // The cast saturates, so the check below sees what is too large.
    let count = checked_count(dtype, &[(count as usize).min(1 << 40)])?;
    if dtype.is_float() {
        let values = (0..count).map(|i| first + i as f64 * step).collect();
        return from_floats(dtype, &[count], values);
    }
    let (first, step) = (scalar_i64(start, "start")?, scalar_i64(delta, "delta")?);
    let values = (0..count as i64).map(|i| first.wrapping_add(i.wrapping_mul(step))).collect();
    cast(&Tensor::from_vec::<i64>(&[count], values)?, dtype)
}

/// x with another element type: floats truncate towards zero and saturate, integers wrap, non-zero
/// is true.
pub(crate) fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype {
        return Ok(x.clone());
    }
    checked_count(dtype, x.shape())?;
    if let Ok(integers) = integers(x) {
        return from_integers(dtype, x.shape(), integers);
    }
    let values = floats(x);
    let truncated =
        |low: f64, high: f64| values.iter().map(move |&v| v.clamp(low, high) as i64).collect();
    let bounds = match dtype {
        DType::F32 | DType::F64 | DType::F16 => return from_floats(dtype, x.shape(), values),
        DType::Bool => {
            return Tensor::from_vec(x.shape(), values.iter().map(|&v| v != 0.0).collect());
        }
        DType::I8 => (f64::from(i8::MIN), f64::from(i8::MAX)),
        DType::U8 => (0.0, f64::from(u8::MAX)),
        DType::I16 => (f64::from(i16::MIN), f64::from(i16::MAX)),
        DType::I32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
        DType::I64 => (i64::MIN as f64, i64::MAX as f64),
    };
    from_integers(dtype, x.shape(), truncated(bounds.0, bounds.1))
}

/// The elements as f64: exact for every type but i64 past 2^53.
pub(crate) fn floats(x: &Tensor) -> Vec<f64> {
    match x.storage() {
        Storage::F32(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Storage::F64(v) => v.to_vec(),
        Storage::F16(v) => v.iter().map(|&x| x.to_f64()).collect(),
        Storage::I8(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Storage::U8(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Storage::I16(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Storage::I32(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Storage::I64(v) => v.iter().map(|&x| x as f64).collect(),
        Storage::Bool(v) => v.iter().map(|&x| f64::from(u8::from(x))).collect(),
    }
}

/// The elements of an integer or bool tensor as i64.
pub(crate) fn integers(x: &Tensor) -> Result<Vec<i64>> {
    match x.storage() {
        Storage::Bool(v) => Ok(v.iter().map(|&x| i64::from(x)).collect()),
        Storage::F32(_)
        | Storage::F64(_)
        | Storage::F16(_)
        | Storage::I8(_)
        | Storage::U8(_)
        | Storage::I16(_)
        | Storage::I32(_)
        | Storage::I64(_) => x.to_i64(),
    }
}

/// A float tensor, each value rounded once.
pub(crate) fn from_floats(dtype: DType, shape: &[usize], values: Vec<f64>) -> Result<Tensor> {
    match dtype {
        DType::F32 => Tensor::from_vec(shape, values.iter().map(|&v| v as f32).collect()),
        DType::F64 => Tensor::from_vec(shape, values),
        DType::F16 => Tensor::from_vec(shape, values.iter().map(|&v| f16::from_f64(v)).collect()),
        DType::I8 | DType::U8 | DType::I16 | DType::I32 | DType::I64 | DType::Bool => {
            Err(Error::graph(format!("a float type was expected, not {dtype}")))
        }
    }
}

/// A tensor of any type from integers; narrower integers keep the low bits.
pub(crate) fn from_integers(dtype: DType, shape: &[usize], values: Vec<i64>) -> Result<Tensor> {
    match dtype {
        DType::F32 => Tensor::from_vec(shape, values.iter().map(|&v| v as f32).collect()),
        DType::F64 => Tensor::from_vec(shape, values.iter().map(|&v| v as f64).collect()),
        DType::F16 => {
            Tensor::from_vec(shape, values.iter().map(|&v| f16::from_f64(v as f64)).collect())
        }
        DType::I8 => Tensor::from_vec(shape, values.iter().map(|&v| v as i8).collect()),
        DType::U8 => Tensor::from_vec(shape, values.iter().map(|&v| v as u8).collect()),
        DType::I16 => Tensor::from_vec(shape, values.iter().map(|&v| v as i16).collect()),
        DType::I32 => Tensor::from_vec(shape, values.iter().map(|&v| v as i32).collect()),
        DType::I64 => Tensor::from_vec(shape, values),
        DType::Bool => Tensor::from_vec(shape, values.iter().map(|&v| v != 0).collect()),
    }
}
