//! Tensors from the bytes of a file.

use half::f16;

use super::{DType, Element, Tensor, element_count};
use crate::error::{Error, Result};

impl Tensor {
    /// Elements from raw little-endian bytes.
    pub(crate) fn from_le_bytes(kind: DType, shape: &[usize], bytes: &[u8]) -> Result<Tensor> {
        let count = element_count(shape)?;
        if count.checked_mul(kind.size()) != Some(bytes.len()) {
            return Err(Error::malformed(format!(
                "{} bytes for {kind} elements of shape {shape:?}, which need {}",
                bytes.len(),
                count.saturating_mul(kind.size())
            )));
        }
        fn elements<E: Element, const N: usize>(
            shape: &[usize],
            bytes: &[u8],
            from: impl Fn([u8; N]) -> E,
        ) -> Result<Tensor> {
            let (chunks, _) = bytes.as_chunks::<N>();
            Tensor::from_vec(shape, chunks.iter().map(|&chunk| from(chunk)).collect())
        }
        match kind {
            DType::F32 => elements(shape, bytes, f32::from_le_bytes),
            DType::F64 => elements(shape, bytes, f64::from_le_bytes),
            DType::F16 => elements(shape, bytes, f16::from_le_bytes),
            DType::I8 => elements(shape, bytes, i8::from_le_bytes),
            DType::U8 => elements(shape, bytes, u8::from_le_bytes),
            DType::I16 => elements(shape, bytes, i16::from_le_bytes),
            DType::I32 => elements(shape, bytes, i32::from_le_bytes),
            DType::I64 => elements(shape, bytes, i64::from_le_bytes),
            DType::Bool => elements(shape, bytes, |[byte]: [u8; 1]| byte != 0),
        }
    }
}
