//! Weights of recurrent operators: constant operands of every storage form, stacked into the
//! canonical gate blocks.

use std::ops::Range;

use super::function::{Call, Function};
use super::lstm::{narrow, scale_of};
use crate::error::{Error, Place, Result};
use crate::graph::ValueId;
use crate::graph::recurrent::Matrix;
use crate::tensor::{DType, Tensor};

/// The arithmetic that an operator's operand types ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Float input, float weights.
    Float,
    /// Float input, 8-bit weights.
    Hybrid,
    /// 8-bit input and weights.
    Integer,
}

/// Which numbers a weight may be stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// f32, or f16 (directly or behind DEQUANTIZE).
    Float,
    /// i8 with one scale; u8 holds the same bytes.
    Int8,
    /// i8 with one scale, dequantized here.
    DequantizedInt8,
    /// i16 with one scale.
    Int16,
    /// i32, whose scale follows from those of its neighbors.
    Int32,
}

/// A constant operand.
#[derive(Clone, Debug)]
pub(super) struct Weight {
    data: Tensor,
    /// Scale of quantized data.
    scale: Option<f32>,
}

/// One operand that is wanted: slot, name in messages, shape.
pub(super) struct Wanted<'s> {
    pub(super) slot: usize,
    pub(super) what: &'static str,
    pub(super) shape: &'s [usize],
}

impl<'m> Function<'m> {
    /// The constant behind an operand as the file stores it (looking through DEQUANTIZE of f16),
    /// with its place in errors.
    pub(super) fn stored_constant(
        &mut self,
        call: &Call<'m>,
        slot: usize,
        what: &str,
    ) -> Result<(ValueId, Tensor)> {
        let value = self.input(call, slot)?;
        let stored = self.stored.get(&value).copied();
        let half = stored.filter(|stored| {
            self.graph.constant(*stored).is_some_and(|tensor| tensor.dtype() == DType::F16)
        });
        let source = half.unwrap_or(value);
        if let Some(tensor) = self.graph.constant(source) {
            return Ok((source, tensor.clone()));
        }
        if let Some(stored) = stored {
            return Ok((value, self.dequantized(stored).within(|| format!("input {slot}"))?));
        }
        Err(Error::unsupported(format!(
            "the {what} are computed by the model or given by the caller: constants are needed"
        ))
        .within(format!("input {slot}")))
    }

    /// A quantized constant as floats: what DEQUANTIZE makes of it.
    fn dequantized(&self, stored: ValueId) -> Result<Tensor> {
        let tensor =
            self.graph.constant(stored).ok_or_else(|| Error::internal("a constant is missing"))?;
        let scale = self
            .ty(stored)?
            .quantization
            .as_ref()
            .and_then(|quantization| quantization.as_per_tensor());
        let (scale, zero) = scale
            .ok_or_else(|| Error::unsupported("dequantized weights with no scale or several"))?;
        self.model.spend_bytes(tensor.len().saturating_mul(4))?;
        let zero = zero as f32;
        Tensor::from_vec(
            tensor.shape(),
            tensor.to_f32().iter().map(|q| scale * (q - zero)).collect(),
        )
    }

    /// A weight operand that must be there, of the wanted shape and stored in one of the allowed
    /// forms.
    pub(super) fn weight(
        &mut self,
        call: &Call<'m>,
        wanted: &Wanted<'_>,
        storage: Storage,
    ) -> Result<Weight> {
        let (value, data) = self.stored_constant(call, wanted.slot, wanted.what)?;
        self.checked_weight(value, data, wanted, storage)
            .within(|| format!("input {} ({})", wanted.slot, wanted.what))
    }

    fn checked_weight(
        &self,
        value: ValueId,
        data: Tensor,
        wanted: &Wanted<'_>,
        storage: Storage,
    ) -> Result<Weight> {
        if data.shape() != wanted.shape {
            return Err(Error::malformed(format!(
                "expected shape {:?}, found {:?}",
                wanted.shape,
                data.shape()
            )));
        }
        let found = data.dtype();
        let fits = match storage {
            Storage::Float => matches!(found, DType::F32 | DType::F16),
            Storage::Int8 | Storage::DequantizedInt8 => matches!(found, DType::I8 | DType::U8),
            Storage::Int16 => found == DType::I16,
            Storage::Int32 => found == DType::I32,
        };
        if !fits {
            return Err(Error::malformed(format!("expected {}, found {found}", storage.name())));
        }
        if matches!(storage, Storage::Float | Storage::Int32) {
            return Ok(Weight { data, scale: None });
        }
        let quantization = self.ty(value)?.quantization.as_ref();
        let quantization = quantization
            .ok_or_else(|| Error::malformed(format!("{found} without a quantization scale")))?;
        let (scale, zero) = quantization
            .as_per_tensor()
            .ok_or_else(|| Error::unsupported("several scales: one for the tensor is needed"))?;
        // The legacy u8 form holds the bytes of i8; its zero point says nothing.
        let data = match found {
            DType::U8 => Tensor::from_vec(
                data.shape(),
                data.as_slice::<u8>()?.iter().map(|&byte| byte.cast_signed()).collect(),
            )?,
            _ if zero != 0 => {
                return Err(Error::unsupported(format!(
                    "zero point {zero}: symmetric weights (0) are needed"
                )));
            }
            _ => data,
        };
        if storage == Storage::DequantizedInt8 {
            let floats = data.to_f32().iter().map(|q| q * scale).collect();
            return Ok(Weight { data: Tensor::from_vec(data.shape(), floats)?, scale: None });
        }
        Ok(Weight { data, scale: Some(scale) })
    }

    /// The u8 weights of the basic kernel, with any scale and zero point.
    pub(super) fn byte_weight(&mut self, call: &Call<'m>, slot: usize) -> Result<(Weight, i32)> {
        let (value, data) = self.stored_constant(call, slot, "weights")?;
        let scale = scale_of(self.ty(value)?.quantization.as_ref())
            .within(|| format!("input {slot} (weights)"))?;
        if data.dtype() != DType::U8 {
            return Err(Error::malformed(format!("expected uint8, found {}", data.dtype()))
                .within(format!("input {slot} (weights)")));
        }
        let (scale, zero) = narrow(scale);
        Ok((Weight { data, scale: Some(scale) }, zero))
    }

    /// A weight operand that may be absent.
    pub(super) fn optional_weight(
        &mut self,
        call: &Call<'m>,
        wanted: &Wanted<'_>,
        storage: Storage,
    ) -> Result<Option<Weight>> {
        if is_absent(call, wanted.slot) {
            Ok(None)
        } else {
            self.weight(call, wanted, storage).map(Some)
        }
    }

    /// The shape of a constant operand, which must have `rank` axes.
    pub(super) fn weight_shape(
        &mut self,
        call: &Call<'m>,
        slot: usize,
        what: &'static str,
        rank: usize,
    ) -> Result<Vec<usize>> {
        let (_, data) = self.stored_constant(call, slot, what)?;
        if data.shape().len() != rank {
            let found = data.shape();
            return Err(Error::malformed(format!("expected rank {rank}, found shape {found:?}"))
                .within(format!("input {slot} ({what})")));
        }
        Ok(data.shape().to_vec())
    }

    /// Float, hybrid or integer: by the type of the input (operand 0) and of the first weight.
    pub(super) fn kind(
        &mut self,
        call: &Call<'m>,
        weight: usize,
        what: &'static str,
    ) -> Result<Kind> {
        let input = self.input(call, 0)?;
        let input = self.ty(input)?.dtype;
        let (_, data) = self.stored_constant(call, weight, what)?;
        match (input, data.dtype()) {
            (DType::F32, DType::F32 | DType::F16) => Ok(Kind::Float),
            (DType::F32, DType::I8 | DType::U8) => Ok(Kind::Hybrid),
            (DType::I8, DType::I8) => Ok(Kind::Integer),
            (DType::I16, _) => Err(Error::unsupported(
                "int16 activations: float, hybrid and int8 forms are supported",
            )),
            (input, weight) => Err(Error::unsupported(format!(
                "an input of {input} with weights of {weight}: float32 with float32, float16 or int8, and int8 with int8 are supported"
            ))),
        }
    }
}

impl Storage {
    fn name(self) -> &'static str {
        match self {
            Storage::Float => "float32 or float16",
            Storage::Int8 | Storage::DequantizedInt8 => "int8",
            Storage::Int16 => "int16",
            Storage::Int32 => "int32",
        }
    }
}

impl Kind {
    /// How matrices are stored.
    pub(super) fn matrix(self) -> Storage {
        match self {
            Kind::Float => Storage::Float,
            Kind::Hybrid | Kind::Integer => Storage::Int8,
        }
    }

    /// How biases are stored.
    pub(super) fn bias(self) -> Storage {
        match self {
            Kind::Float | Kind::Hybrid => Storage::Float,
            Kind::Integer => Storage::Int32,
        }
    }
}

impl Weight {
    /// Rows `rows` of a matrix, columns `columns`.
    pub(super) fn block(&self, rows: Range<usize>, columns: Range<usize>) -> Result<Weight> {
        let width = self.data.shape().get(1).copied().unwrap_or(1);
        let shape = [rows.len(), columns.len()];
        let place = |row: usize| row * width + columns.start..row * width + columns.end;
        macro_rules! cut {
            ($ty:ty) => {{
                let all = self.data.as_slice::<$ty>()?;
                let mut out = Vec::with_capacity(shape[0] * shape[1]);
                for row in rows {
                    out.extend_from_slice(
                        all.get(place(row))
                            .ok_or_else(|| Error::internal("a block outside its matrix"))?,
                    );
                }
                Tensor::from_vec(&shape, out)?
            }};
        }
        let data = match self.data.dtype() {
            DType::U8 => cut!(u8),
            DType::F16 => cut!(half::f16),
            _ => cut!(f32),
        };
        Ok(Weight { data, scale: self.scale })
    }

    /// Entries `range` of a vector.
    pub(super) fn run(&self, range: Range<usize>) -> Result<Weight> {
        macro_rules! cut {
            ($ty:ty) => {
                self.data
                    .as_slice::<$ty>()?
                    .get(range.clone())
                    .map(|run| Tensor::from_slice(&[range.len()], run))
            };
        }
        let data = match self.data.dtype() {
            DType::I32 => cut!(i32),
            DType::F16 => cut!(half::f16),
            _ => cut!(f32),
        };
        let data = data.ok_or_else(|| Error::internal("a run outside its vector"))??;
        Ok(Weight { data, scale: self.scale })
    }

    /// The single operand as a matrix.
    pub(super) fn into_matrix(self) -> Matrix {
        Matrix { data: self.data, scales: self.scale.into_iter().collect() }
    }

    /// The operand as f32 (or i32) numbers without a scale.
    pub(super) fn into_bias(self) -> Result<Tensor> {
        if self.data.dtype() == DType::F16 {
            return Tensor::from_vec(self.data.shape(), self.data.to_f32().into_owned());
        }
        Ok(self.data)
    }
}

/// Whether an operand is absent.
pub(super) fn is_absent(call: &Call<'_>, slot: usize) -> bool {
    call.inputs.get(slot).is_none_or(|index| *index == -1)
}

/// Stacks equal blocks on their first axis: `[H, ·]` each to `[G·H, ·]`, one scale a block. Halves
/// beside floats become floats.
pub(super) fn stack(blocks: &[Weight]) -> Result<Matrix> {
    let first = blocks.first().ok_or_else(|| Error::internal("no weights to stack"))?;
    let mut shape = first.data.shape().to_vec();
    if let Some(rows) = shape.first_mut() {
        *rows = rows.saturating_mul(blocks.len());
    }
    macro_rules! join {
        ($ty:ty) => {{
            let mut all = Vec::new();
            for block in blocks {
                all.extend_from_slice(block.data.as_slice::<$ty>()?);
            }
            Tensor::from_vec(&shape, all)?
        }};
    }
    let same = blocks.iter().all(|block| block.data.dtype() == first.data.dtype());
    let data = match first.data.dtype() {
        DType::I8 if same => join!(i8),
        DType::U8 if same => join!(u8),
        DType::I16 if same => join!(i16),
        DType::I32 if same => join!(i32),
        DType::F16 if same => join!(half::f16),
        _ => Tensor::from_vec(
            &shape,
            blocks.iter().flat_map(|block| block.data.to_f32().into_owned()).collect(),
        )?,
    };
    Ok(Matrix { data, scales: blocks.iter().filter_map(|block| block.scale).collect() })
}

/// Stacks biases.
pub(super) fn stack_bias(blocks: &[Weight]) -> Result<Tensor> {
    Weight { data: stack(blocks)?.data, scale: None }.into_bias()
}
