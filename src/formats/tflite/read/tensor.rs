//! Tensors of a file: element types, shapes, quantization, constants.

use half::f16;

use super::super::schema;
use super::Model;
use crate::error::{Error, Result};
use crate::graph::{Dim, ValueType};
use crate::tensor::{DType, Quantization, Tensor, element_count};

/// Largest rank of a tensor; the kernels of every known runtime stop at 8 or before.
const MOST_AXES: usize = 8;

/// The element type with this number.
pub(super) fn dtype(number: i8) -> Result<DType> {
    match number {
        0 => Ok(DType::F32),
        1 => Ok(DType::F16),
        2 => Ok(DType::I32),
        3 => Ok(DType::U8),
        4 => Ok(DType::I64),
        6 => Ok(DType::Bool),
        7 => Ok(DType::I16),
        9 => Ok(DType::I8),
        10 => Ok(DType::F64),
        5 => Err(Error::unsupported("tensors of strings are not supported")),
        8 | 11 => Err(Error::unsupported("tensors of complex numbers are not supported")),
        12 | 15 | 16 => Err(Error::unsupported(
            "tensors of unsigned 16, 32 and 64 bit integers are not supported",
        )),
        13 | 14 => Err(Error::unsupported(
            "resource and variant tensors are not supported where they are no variable's handle: for TensorList operators, convert the .keras file or the SavedModel instead",
        )),
        17..=22 => Err(Error::unsupported(format!(
            "tensors of type {number} (4 and 2 bit integers, bfloat16, float8) are not supported"
        ))),
        _ => Err(Error::malformed(format!("unknown tensor type {number}"))),
    }
}

/// Type, shape and quantization of a tensor. A size that the file leaves open is [`Dim::Unknown`].
pub(super) fn value_type(tensor: schema::Tensor<'_>) -> Result<ValueType> {
    if tensor.sparsity().is_some() {
        return Err(Error::unsupported(
            "the tensor is stored in sparse form: a dense tensor is needed",
        ));
    }
    if tensor.external_buffer() != 0 {
        return Err(Error::unsupported(
            "the tensor's data lies in another file, and no other file is opened",
        ));
    }
    let dtype = dtype(tensor.dtype())?;
    let shape = shape(&tensor.shape(), &tensor.shape_signature())?;
    let known: Vec<usize> = shape.iter().filter_map(|dim| dim.known()).collect();
    element_count(&known)?;
    let quantization = match tensor.quantization() {
        Some(table) => quantization(table, dtype, &shape)?,
        None => None,
    };
    Ok(ValueType { dtype, shape: Some(shape), quantization })
}

/// The shape: the signature's −1 marks what the caller may choose.
fn shape(sizes: &[i32], signature: &[i32]) -> Result<Vec<Dim>> {
    if sizes.len() > MOST_AXES {
        return Err(Error::malformed(format!(
            "rank {}, at most {MOST_AXES} was expected",
            sizes.len()
        )));
    }
    if !signature.is_empty() && signature.len() != sizes.len() {
        return Err(Error::malformed(format!(
            "shape {sizes:?} and its signature {signature:?} differ in rank"
        )));
    }
    let mut shape = Vec::with_capacity(sizes.len());
    for (axis, &size) in sizes.iter().enumerate() {
        let signed = signature.get(axis).copied().unwrap_or(size);
        shape.push(match (size, signed) {
            (-1.., -1) => Dim::Unknown,
            (0.., _) if size == signed => Dim::Known(size.unsigned_abs() as usize),
            _ => {
                return Err(Error::malformed(format!(
                    "axis {axis} has size {size} in the shape {sizes:?} and {signed} in its signature {signature:?}"
                )));
            }
        });
    }
    Ok(shape)
}

/// Scales and zero points; `None` when there are none (an empty table is usual for floats).
fn quantization(
    table: schema::Quantization<'_>,
    dtype: DType,
    shape: &[Dim],
) -> Result<Option<Quantization>> {
    if table.details_type() != 0 {
        return Err(Error::unsupported(
            "custom and blockwise quantization is not supported: scales per tensor or axis are",
        ));
    }
    let scales = table.scale();
    if scales.is_empty() || dtype.is_float() || dtype == DType::Bool {
        return Ok(None);
    }
    if let Some(scale) = scales.iter().find(|scale| !scale.is_finite() || **scale <= 0.0) {
        return Err(Error::malformed(format!(
            "quantization scale {scale}, a positive number was expected"
        )));
    }
    let mut zero_points = table.zero_point();
    if zero_points.is_empty() {
        zero_points = vec![0; scales.len()];
    }
    if zero_points.len() != scales.len() {
        return Err(Error::malformed(format!(
            "{} quantization scales and {} zero points",
            scales.len(),
            zero_points.len()
        )));
    }
    let (low, high) = match dtype {
        DType::I8 => (-128, 127),
        DType::U8 => (0, 255),
        DType::I16 => (-32768, 32767),
        _ => (i64::from(i32::MIN), i64::from(i32::MAX)),
    };
    if let Some(zero_point) = zero_points.iter().find(|zero| !(low..=high).contains(*zero)) {
        return Err(Error::malformed(format!(
            "zero point {zero_point} outside {low}..={high} of {dtype}"
        )));
    }
    let axis =
        if scales.len() == 1 { 0 } else { channel_axis(table.dimension(), scales.len(), shape)? };
    Ok(Some(Quantization { scales, zero_points, axis }))
}

/// The axis of per-channel scales, which must have as many indices as there are scales.
fn channel_axis(dimension: i32, scales: usize, shape: &[Dim]) -> Result<usize> {
    let axis = usize::try_from(dimension).ok().filter(|axis| *axis < shape.len());
    let size = axis.and_then(|axis| shape.get(axis)).and_then(|dim| dim.known());
    axis.filter(|_| size == Some(scales)).ok_or_else(|| {
        Error::malformed(format!(
            "{scales} quantization scales for axis {dimension} of a tensor of shape {shape:?}"
        ))
    })
}

/// The elements of a constant: exactly as many bytes as the shape and the type ask for.
pub(super) fn constant(
    model: &Model<'_>,
    bytes: &[u8],
    dtype: DType,
    shape: &[usize],
) -> Result<Tensor> {
    let count = element_count(shape)?;
    let expected = count.checked_mul(dtype.size());
    if expected != Some(bytes.len()) {
        return Err(Error::malformed(format!(
            "{dtype} of shape {shape:?} takes {} bytes, the buffer has {}",
            count.saturating_mul(dtype.size()),
            bytes.len()
        )));
    }
    model.spend_bytes(bytes.len())?;
    macro_rules! numbers {
        ($ty:ty) => {{
            let (chunks, _) = bytes.as_chunks::<{ size_of::<$ty>() }>();
            Tensor::from_vec(
                shape,
                chunks.iter().map(|chunk| <$ty>::from_le_bytes(*chunk)).collect(),
            )
        }};
    }
    match dtype {
        DType::F32 => numbers!(f32),
        DType::F64 => numbers!(f64),
        DType::F16 => numbers!(f16),
        DType::I8 => numbers!(i8),
        DType::U8 => Tensor::from_slice(shape, bytes),
        DType::I16 => numbers!(i16),
        DType::I32 => numbers!(i32),
        DType::I64 => numbers!(i64),
        DType::Bool => Tensor::from_vec(shape, bytes.iter().map(|&byte| byte != 0).collect()),
    }
}
