//! Hybrid arithmetic: f32 activations, int8 weights. Every row of activations is quantized on the
//! spot, the product is summed in int32 and comes back to f32 by both scales. All in f32, as TFLite
//! computes it.
//!
//! ```text
//! symmetric:   a = max|v|,  q = clamp(round(v · (127 / a)), −127, 127),  scale = a / 127,  zero = 0
//! asymmetric:  s = (hi − lo) / 255 over the range with 0,  q = clamp(round(v · (1 / s)) + zero, −128, 127)
//! W v   ≈ (Σ w·q − zero · Σ w) · (scale · weight scale)
//! ```

use std::borrow::Cow;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::graph::ValueType;
use crate::graph::recurrent::Matrix;
use crate::tensor::{DType, Tensor};

/// A row of activations as int8.
pub(super) struct QuantizedRow {
    values: Vec<i8>,
    scale: f32,
    zero: i32,
}

impl QuantizedRow {
    /// Quantizes one row; a row of zeros has the scale 0 and adds nothing to any product.
    pub(super) fn new(row: &[f32], asymmetric: bool) -> QuantizedRow {
        if asymmetric { Self::asymmetric(row) } else { Self::symmetric(row) }
    }

    fn symmetric(row: &[f32]) -> QuantizedRow {
        let most = row.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        if most == 0.0 {
            return QuantizedRow { values: vec![0; row.len()], scale: 0.0, zero: 0 };
        }
        let inverse = 127.0 / most;
        // `round` is half away from zero.
        let values = row.iter().map(|v| (v * inverse).round().clamp(-127.0, 127.0) as i8).collect();
        QuantizedRow { values, scale: most / 127.0, zero: 0 }
    }

    fn asymmetric(row: &[f32]) -> QuantizedRow {
        let low = f64::from(row.iter().fold(0.0f32, |low, &v| low.min(v)));
        let high = f64::from(row.iter().fold(0.0f32, |high, &v| high.max(v)));
        if low == high {
            return QuantizedRow { values: vec![0; row.len()], scale: 0.0, zero: 0 };
        }
        let scale = (high - low) / 255.0;
        // The end of the range whose zero point has the smaller error decides.
        let zero = if 128.0 + (low / scale).abs() < 127.0 + (high / scale).abs() {
            -128.0 - low / scale
        } else {
            127.0 - high / scale
        };
        let zero = zero.round().clamp(-128.0, 127.0) as i32;
        let scale = scale as f32;
        let inverse = 1.0 / scale;
        let values = row
            .iter()
            .map(|v| ((v * inverse).round() + zero as f32).clamp(-128.0, 127.0) as i8)
            .collect();
        QuantizedRow { values, scale, zero }
    }
}

/// Int8 weights `[rows, columns]` with a scale for each run of rows.
pub(super) struct HybridMatrix<'a> {
    data: Cow<'a, [i8]>,
    columns: usize,
    /// Scale of each row.
    scales: Vec<f32>,
    /// `Σ w` of each row: takes the activations' zero point out.
    sums: Vec<i32>,
}

impl<'a> HybridMatrix<'a> {
    /// Weights of a recurrent layer.
    pub(super) fn from_matrix(matrix: &'a Matrix) -> Result<HybridMatrix<'a>> {
        Self::new(&matrix.data, &matrix.scales)
    }

    /// Weights that are an operand of their own.
    pub(super) fn from_operand(
        data: &'a Tensor,
        ty: Option<&ValueType>,
    ) -> Result<HybridMatrix<'a>> {
        let quantization = ty
            .and_then(|ty| ty.quantization.as_ref())
            .ok_or_else(|| Error::graph("int8 weights under float activations have no scale"))?;
        if quantization.zero_points.iter().any(|&zero| zero != 0) && data.dtype() == DType::I8 {
            return Err(Error::unsupported(
                "int8 weights with a zero point under float activations",
            ));
        }
        Self::new(data, &quantization.scales)
    }

    fn new(data: &'a Tensor, scales: &[f32]) -> Result<HybridMatrix<'a>> {
        let (&rows, rest) = data
            .shape()
            .split_first()
            .ok_or_else(|| Error::graph("a scalar as a weight matrix"))?;
        let columns: usize = rest.iter().product();
        // Sums of products of two int8 numbers stay in int32 below this width.
        if columns > 1 << 16 {
            return Err(Error::limit(format!(
                "{columns} columns of int8 weights would overflow the int32 sum"
            )));
        }
        if scales.is_empty() || rows % scales.len() != 0 {
            return Err(Error::graph(format!(
                "{} scales for {rows} rows of int8 weights",
                scales.len()
            )));
        }
        let run = rows / scales.len();
        let values: Cow<'a, [i8]> = match data.dtype() {
            // The retired converter's uint8 holds the very bytes of int8.
            DType::U8 => data.as_slice::<u8>()?.iter().map(|&w| w as i8).collect(),
            DType::I8
            | DType::I16
            | DType::I32
            | DType::I64
            | DType::F16
            | DType::F32
            | DType::F64
            | DType::Bool => Cow::Borrowed(data.as_slice::<i8>()?),
        };
        let sums = (0..rows)
            .map(|r| values[r * columns..][..columns].iter().map(|&w| i32::from(w)).sum())
            .collect();
        let scales = scales.iter().flat_map(|&scale| std::iter::repeat_n(scale, run)).collect();
        Ok(HybridMatrix { data: values, columns, scales, sums })
    }

    /// A row of activations for this matrix.
    pub(super) fn quantize(&self, row: &[f32], asymmetric: bool) -> QuantizedRow {
        QuantizedRow::new(row, asymmetric)
    }

    /// `out += W v`.
    pub(super) fn accumulate(&self, row: &QuantizedRow, out: &mut [f32]) {
        self.accumulate_rows(0..self.scales.len(), row, out);
    }

    /// `out += W v` for some rows of `W`.
    pub(super) fn accumulate_rows(&self, rows: Range<usize>, v: &QuantizedRow, out: &mut [f32]) {
        if v.scale == 0.0 {
            return;
        }
        for (out, r) in out.iter_mut().zip(rows) {
            let weights = &self.data[r * self.columns..][..self.columns];
            let sum: i32 =
                weights.iter().zip(&v.values).map(|(&w, &q)| i32::from(w) * i32::from(q)).sum();
            *out += (sum - v.zero * self.sums[r]) as f32 * (v.scale * self.scales[r]);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn symmetric_rows_use_the_largest_magnitude() {
        let row = QuantizedRow::new(&[0.5, -1.0, 0.0, 0.25], false);
        // 0.5·127 = 63.5 and 0.25·127 = 31.75: halves go away from zero.
        assert_eq!(row.values, [64, -127, 0, 32]);
        assert_eq!((row.scale, row.zero), (1.0 / 127.0, 0));
    }

    #[test]
    fn asymmetric_rows_map_their_range_to_all_256_numbers() {
        let row = QuantizedRow::new(&[0.0, 1.0, 2.55], true);
        assert_eq!((row.values, row.zero), (vec![-128, -28, 127], -128));
        assert!((row.scale - 0.01).abs() < 1e-9);
        let row = QuantizedRow::new(&[-2.55, -1.0], true);
        assert_eq!((row.values, row.zero), (vec![-128, 27], 127));
    }

    #[test]
    fn a_row_of_zeros_adds_nothing() {
        let data = Tensor::from_vec(&[1, 2], vec![3i8, 4]).unwrap();
        let matrix = HybridMatrix::new(&data, &[0.5]).unwrap();
        for asymmetric in [false, true] {
            let mut out = [7.0f32];
            matrix.accumulate(&matrix.quantize(&[0.0, 0.0], asymmetric), &mut out);
            assert_eq!(out, [7.0]);
        }
    }

    #[test]
    fn the_zero_point_leaves_through_the_row_sums() {
        let data = Tensor::from_vec(&[2, 2], vec![10i8, -20, 127, 1]).unwrap();
        let matrix = HybridMatrix::new(&data, &[0.5, 0.25]).unwrap();
        let mut out = [0.0f32; 2];
        matrix.accumulate(&matrix.quantize(&[1.0, 2.55], true), &mut out);
        // 1.0 is stored as -28 with zero point -128 and scale 0.01: exactly 1.0 up to f32.
        assert!(
            (out[0] - (5.0 - 25.5)).abs() < 1e-5 && (out[1] - (31.75 + 0.6375)).abs() < 1e-5,
            "{out:?}"
        );
    }
}
