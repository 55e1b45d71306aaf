//! Operands of an op under evaluation, and the checks that every op needs.

use crate::error::{Error, Result};
use crate::graph::ValueType;
use crate::limits::{MOST_TENSOR_BYTES, room_for};
use crate::tensor::{DType, Tensor, element_count};

/// The operands of a node by slot, with named errors for what is missing.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a> {
    inputs: &'a [Option<(&'a Tensor, &'a ValueType)>],
    outputs: &'a [Option<&'a ValueType>],
}

impl<'a> Operands<'a> {
    pub(crate) fn new(
        inputs: &'a [Option<(&'a Tensor, &'a ValueType)>],
        outputs: &'a [Option<&'a ValueType>],
    ) -> Operands<'a> {
        Operands { inputs, outputs }
    }

    /// The operand in `slot`, `None` when it is absent.
    pub(crate) fn optional(&self, slot: usize) -> Option<&'a Tensor> {
        self.inputs.get(slot).copied().flatten().map(|(tensor, _)| tensor)
    }

    /// The operand in `slot`; `name` is for the message.
    pub(crate) fn tensor(&self, slot: usize, name: &str) -> Result<&'a Tensor> {
        self.optional(slot)
            .ok_or_else(|| Error::graph(format!("operand {slot} ({name}) is missing")))
    }

    /// Every operand; none may be absent.
    pub(crate) fn all(&self) -> Result<Vec<&'a Tensor>> {
        (0..self.inputs.len()).map(|slot| self.tensor(slot, "x")).collect()
    }

    /// Number of operand slots.
    pub(crate) fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Number of result slots.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs.len()
    }

    /// The type of the operand in `slot`.
    pub(crate) fn ty(&self, slot: usize) -> Option<&'a ValueType> {
        self.inputs.get(slot).copied().flatten().map(|(_, ty)| ty)
    }

    /// The declared type of the result in `slot`.
    pub(crate) fn output(&self, slot: usize) -> Option<&'a ValueType> {
        self.outputs.get(slot).copied().flatten()
    }

    /// Whether the operand in `slot` holds quantized numbers: a small integer type with a scale.
    pub(crate) fn is_quantized(&self, slot: usize) -> bool {
        self.ty(slot).is_some_and(is_quantized)
    }

    /// Scale and zero point of the operand in `slot`.
    pub(crate) fn scale(&self, slot: usize, name: &str) -> Result<Affine> {
        Affine::of(self.ty(slot), name)
    }

    /// Scale and zero point of the result in `slot`.
    pub(crate) fn output_scale(&self, slot: usize) -> Result<Affine> {
        Affine::of(self.output(slot), "the result")
    }
}

/// Whether a type stands for quantized numbers.
pub(crate) fn is_quantized(ty: &ValueType) -> bool {
    matches!(ty.dtype, DType::I8 | DType::U8 | DType::I16) && ty.quantization.is_some()
}

/// `real = scale · (stored − zero)` for a whole tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Affine {
    pub scale: f32,
    pub zero: i32,
}

impl Affine {
    fn of(ty: Option<&ValueType>, name: &str) -> Result<Affine> {
        let quantization = ty
            .and_then(|ty| ty.quantization.as_ref())
            .ok_or_else(|| Error::graph(format!("{name} is quantized and has no scale")))?;
        let (scale, zero) = quantization
            .as_per_tensor()
            .ok_or_else(|| Error::unsupported(format!("{name} has a scale for each channel")))?;
        Affine::new(scale, zero, name)
    }

    /// Checks that the numbers can be computed with.
    pub(crate) fn new(scale: f32, zero: i64, name: &str) -> Result<Affine> {
        if !(scale.is_finite() && scale > 0.0) {
            return Err(Error::graph(format!("{name} has the scale {scale}")));
        }
        // The widest quantized type is int16.
        let zero = i32::try_from(zero)
            .ok()
            .filter(|zero| zero.unsigned_abs() <= 1 << 16)
            .ok_or_else(|| Error::graph(format!("{name} has the zero point {zero}")))?;
        Ok(Affine { scale, zero })
    }
}

/// The number of elements of a result, checked against what one tensor may take and what memory
/// there is, before anything is allocated.
pub(crate) fn checked_count(dtype: DType, shape: &[usize]) -> Result<usize> {
    let count = element_count(shape)?;
    let bytes = (count as u64).saturating_mul(dtype.size() as u64);
    if bytes > MOST_TENSOR_BYTES {
        return Err(Error::limit(format!(
            "a {dtype} tensor of shape {shape:?} takes {bytes} bytes, the limit is {MOST_TENSOR_BYTES}"
        )));
    }
    room_for(count, dtype.size())?;
    Ok(count)
}

/// Resolves an axis that may count from the end.
pub(crate) fn axis_index(axis: i64, rank: usize) -> Result<usize> {
    let wrapped = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    wrapped.and_then(|axis| usize::try_from(axis).ok()).filter(|&axis| axis < rank).ok_or_else(
        || Error::input(format!("axis {axis} does not exist in a tensor of rank {rank}")),
    )
}

/// The one integer of a scalar operand.
pub(crate) fn scalar_i64(tensor: &Tensor, name: &str) -> Result<i64> {
    match tensor.to_i64()?.as_slice() {
        [value] => Ok(*value),
        _ => Err(Error::input(format!(
            "{name} must be one number, its shape is {:?}",
            tensor.shape()
        ))),
    }
}

/// Sizes from an integer operand.
pub(crate) fn sizes(tensor: &Tensor, name: &str) -> Result<Vec<usize>> {
    tensor
        .to_i64()?
        .into_iter()
        .map(|n| usize::try_from(n).map_err(|_| Error::input(format!("{name} has the size {n}"))))
        .collect()
}

/// The shape that two shapes broadcast to: aligned at the last axis, size 1 stretches.
pub(crate) fn broadcast_shape(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], axis: usize| {
        (axis + shape.len()).checked_sub(rank).and_then(|k| shape.get(k)).copied().unwrap_or(1)
    };
    (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (m, n) if m == n => Ok(m),
            (1, n) => Ok(n),
            (m, 1) => Ok(m),
            _ => Err(Error::input(format!("shapes {a:?} and {b:?} do not broadcast"))),
        })
        .collect()
}
