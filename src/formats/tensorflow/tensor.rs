//! TensorFlow's element types, shapes and constants to ours.

use half::{bf16, f16};

use super::limits::Budget;
use super::messages::{TensorProto, TensorShapeProto};
use crate::error::{Error, Result};
use crate::tensor::{DType, Element, Tensor, element_count};

/// The number of `DT_STRING`, which is no tensor here.
pub const STRING: i32 = 7;

/// The number of `DT_HALF`: float16.
pub const HALF: i32 = 19;

/// The number of `DT_BFLOAT16`.
pub const BFLOAT16: i32 = 14;

/// TensorFlow's number without the mark of reference types (old variables), which count as their
/// base type.
pub fn base(number: i32) -> i32 {
    if number > 100 { number - 100 } else { number }
}

/// How the elements of a stored tensor are written.
#[derive(Clone, Copy, Debug)]
pub enum Stored {
    /// As they are here.
    Plain(DType),
    /// float16: read as f32, exactly.
    Half,
    /// bfloat16: read as f32, exactly.
    Bfloat16,
}

impl Stored {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Stored::Plain(dtype) => dtype.size(),
            Stored::Half | Stored::Bfloat16 => 2,
        }
    }

    /// The type of the elements here.
    pub fn dtype(self) -> DType {
        match self {
            Stored::Plain(dtype) => dtype,
            Stored::Half | Stored::Bfloat16 => DType::F32,
        }
    }
}

/// The element type behind TensorFlow's number. float16 and bfloat16 are computed as f32, which
/// has all of their values.
pub fn dtype(number: i32) -> Result<DType> {
    stored(number).map(Stored::dtype)
}

/// How tensors of TensorFlow's type number are stored.
pub fn stored(number: i32) -> Result<Stored> {
    Ok(Stored::Plain(match base(number) {
        1 => DType::F32,
        2 => DType::F64,
        3 => DType::I32,
        4 => DType::U8,
        5 => DType::I16,
        6 => DType::I8,
        9 => DType::I64,
        10 => DType::Bool,
        BFLOAT16 => return Ok(Stored::Bfloat16),
        HALF => return Ok(Stored::Half),
        STRING => return Err(Error::unsupported("strings are not supported")),
        0 => return Err(Error::malformed("the element type is missing")),
        8 | 11..=18 | 20..=33 => {
            return Err(Error::unsupported(format!(
                "TensorFlow's element type {number} is not supported"
            )));
        }
        _ => return Err(Error::malformed(format!("{number} is no element type of TensorFlow"))),
    }))
}

/// Sizes of the axes, `None` for an open one; `None` as a whole when the rank is open.
pub fn dims(shape: &TensorShapeProto) -> Result<Option<Vec<Option<usize>>>> {
    /// TensorFlow itself stops at 254 axes; no op here needs more than 8.
    const MOST_AXES: usize = 32;
    if shape.unknown_rank {
        return Ok(None);
    }
    if shape.dim.len() > MOST_AXES {
        return Err(Error::limit(format!("a shape has {} axes", shape.dim.len())));
    }
    let size = |size: i64| match size {
        -1 => Ok(None),
        size => usize::try_from(size)
            .map(Some)
            .map_err(|_| Error::malformed(format!("a shape has the size {size}"))),
    };
    shape.dim.iter().map(|dim| size(dim.size)).collect::<Result<_>>().map(Some)
}

/// A constant's elements. `budget` pays for what the file does not hold in full.
pub fn tensor(proto: &TensorProto, budget: &mut Budget) -> Result<Tensor> {
    let kind = stored(proto.dtype)?;
    let dims = match &proto.tensor_shape {
        Some(shape) => dims(shape)?,
        None => Some(Vec::new()),
    };
    let shape: Vec<usize> = dims
        .and_then(|dims| dims.into_iter().collect())
        .ok_or_else(|| Error::malformed("the shape of a constant is open"))?;
    if !proto.tensor_content.is_empty() {
        return from_bytes(kind, &shape, &proto.tensor_content);
    }
    let bits = |&bits: &i32| u16::try_from(bits).ok();
    let dtype = match kind {
        Stored::Half => {
            let value = |value: &i32| bits(value).map(|bits| f16::from_bits(bits).to_f32());
            return splat(&shape, &proto.half_val, budget, value);
        }
        Stored::Bfloat16 => {
            let value = |value: &i32| bits(value).map(|bits| bf16::from_bits(bits).to_f32());
            return splat(&shape, &proto.half_val, budget, value);
        }
        Stored::Plain(dtype) => dtype,
    };
    match dtype {
        DType::F32 => splat(&shape, &proto.float_val, budget, |&x| Some(x)),
        DType::F64 => splat(&shape, &proto.double_val, budget, |&x| Some(x)),
        DType::I64 => splat(&shape, &proto.int64_val, budget, |&x| Some(x)),
        DType::Bool => splat(&shape, &proto.bool_val, budget, |&x| Some(x)),
        DType::F16 => splat(&shape, &proto.half_val, budget, |x| bits(x).map(f16::from_bits)),
        DType::I32 => splat(&shape, &proto.int_val, budget, |&x| Some(x)),
        DType::I16 => splat(&shape, &proto.int_val, budget, |&x| i16::try_from(x).ok()),
        DType::I8 => splat(&shape, &proto.int_val, budget, |&x| i8::try_from(x).ok()),
        DType::U8 => splat(&shape, &proto.int_val, budget, |&x| u8::try_from(x).ok()),
    }
}

/// Elements from values of which the last one is repeated to the end; no value at all means zeros.
fn splat<V, E: Element>(
    shape: &[usize],
    values: &[V],
    budget: &mut Budget,
    convert: impl Fn(&V) -> Option<E>,
) -> Result<Tensor> {
    let count = element_count(shape)?;
    if values.len() > count {
        return Err(Error::malformed(format!(
            "a constant of shape {shape:?} has {} values",
            values.len()
        )));
    }
    let repeated = (count - values.len()).saturating_mul(std::mem::size_of::<E>());
    budget.take(repeated)?;
    let range = || Error::malformed(format!("a value of a constant does not fit {}", E::DTYPE));
    let mut data = Vec::with_capacity(count);
    for value in values {
        data.push(convert(value).ok_or_else(range)?);
    }
    data.resize(count, data.last().copied().unwrap_or_default());
    Tensor::from_vec(shape, data)
}

/// Elements from raw little-endian bytes.
pub fn from_bytes(kind: Stored, shape: &[usize], bytes: &[u8]) -> Result<Tensor> {
    let convert: fn([u8; 2]) -> f32 = match kind {
        Stored::Plain(dtype) => return Tensor::from_le_bytes(dtype, shape, bytes),
        Stored::Half => |bytes| f16::from_le_bytes(bytes).to_f32(),
        Stored::Bfloat16 => |bytes| bf16::from_le_bytes(bytes).to_f32(),
    };
    let (halves, rest) = bytes.as_chunks::<2>();
    if halves.len() != element_count(shape)? || !rest.is_empty() {
        return Err(Error::malformed(format!(
            "{} bytes for {kind:?} elements of shape {shape:?}",
            bytes.len()
        )));
    }
    Tensor::from_vec(shape, halves.iter().map(|&half| convert(half)).collect())
}
