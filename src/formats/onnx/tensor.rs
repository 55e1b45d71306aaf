//! ONNX's element types, shapes and constants to ours.

use half::f16;

use super::messages::TensorProto;
use crate::error::{Error, Result};
use crate::tensor::{DType, Element, Tensor, element_count};

/// Axes of a tensor; no op here needs more than 8.
pub const MOST_AXES: usize = 32;

/// The element type behind ONNX's number.
pub fn dtype(number: i32) -> Result<DType> {
    Ok(match number {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        9 => DType::Bool,
        10 => DType::F16,
        11 => DType::F64,
        0 => return Err(Error::malformed("the element type is missing")),
        _ => {
            const NAMES: [&str; 24] = [
                "",
                "",
                "",
                "",
                "uint16",
                "",
                "",
                "",
                "string",
                "",
                "",
                "",
                "uint32",
                "uint64",
                "complex64",
                "complex128",
                "bfloat16",
                "float8e4m3fn",
                "float8e4m3fnuz",
                "float8e5m2",
                "float8e5m2fnuz",
                "uint4",
                "int4",
                "float4e2m1",
            ];
            let name = usize::try_from(number).ok().and_then(|number| NAMES.get(number));
            return Err(match name {
                Some(name) => Error::unsupported(format!("elements of type {name}")),
                None => Error::malformed(format!("{number} is no element type of ONNX")),
            });
        }
    })
}

/// Sizes of a constant.
fn shape(dims: &[i64]) -> Result<Vec<usize>> {
    if dims.len() > MOST_AXES {
        return Err(Error::limit(format!("a shape has {} axes, over {MOST_AXES}", dims.len())));
    }
    dims.iter()
        .map(|&size| {
            usize::try_from(size)
                .map_err(|_| Error::malformed(format!("a shape has the size {size}")))
        })
        .collect()
}

/// A constant's elements, all of which are in the file.
pub fn tensor(proto: &TensorProto) -> Result<Tensor> {
    if proto.data_location != 0 || !proto.external_data.is_empty() {
        let file = proto.external_data.iter().find(|entry| entry.key == "location");
        let file = file.map_or_else(String::new, |entry| format!(" ('{}')", entry.value));
        return Err(Error::unsupported(format!(
            "external data: the elements are in another file{file}; join them with \
             onnx.save(onnx.load(path), path2), or export with external_data=False"
        )));
    }
    if proto.segment.is_some() {
        return Err(Error::unsupported("a constant that is stored in segments"));
    }
    let kind = dtype(proto.data_type)?;
    let shape = shape(&proto.dims)?;
    if !proto.raw_data.is_empty() {
        return Tensor::from_le_bytes(kind, &shape, &proto.raw_data);
    }
    match kind {
        DType::F32 => typed(&shape, &proto.float_data, |&x| Some(x)),
        DType::F64 => typed(&shape, &proto.double_data, |&x| Some(x)),
        DType::I64 => typed(&shape, &proto.int64_data, |&x| Some(x)),
        DType::I32 => typed(&shape, &proto.int32_data, |&x| Some(x)),
        DType::I16 => typed(&shape, &proto.int32_data, |&x| i16::try_from(x).ok()),
        DType::I8 => typed(&shape, &proto.int32_data, |&x| i8::try_from(x).ok()),
        DType::U8 => typed(&shape, &proto.int32_data, |&x| u8::try_from(x).ok()),
        DType::Bool => typed(&shape, &proto.int32_data, |&x| Some(x != 0)),
        DType::F16 => {
            typed(&shape, &proto.int32_data, |&x| u16::try_from(x).ok().map(f16::from_bits))
        }
    }
}

/// Elements from values of their own type.
fn typed<V, E: Element>(
    shape: &[usize],
    values: &[V],
    convert: impl Fn(&V) -> Option<E>,
) -> Result<Tensor> {
    let count = element_count(shape)?;
    if values.len() != count {
        return Err(Error::malformed(format!(
            "expected {count} elements for the shape {shape:?}, found {}",
            values.len()
        )));
    }
    let range = || Error::malformed(format!("an element does not fit {}", E::DTYPE));
    let data = values.iter().map(|value| convert(value).ok_or_else(range));
    Tensor::from_vec(shape, data.collect::<Result<_>>()?)
}
