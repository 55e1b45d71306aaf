//! Affine quantization of a tensor's values.

/// `real = scale · (stored − zero_point)`, with one pair for the whole tensor or one for each index
/// of an axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantization {
    /// One scale, or one for each index of `axis`.
    pub scales: Vec<f32>,
    /// As many zero points as scales.
    pub zero_points: Vec<i64>,
    /// The axis that the scales belong to, when there is more than one.
    pub axis: usize,
}

impl Quantization {
    /// One scale and zero point for the whole tensor.
    pub fn per_tensor(scale: f32, zero_point: i64) -> Self {
        Quantization { scales: vec![scale], zero_points: vec![zero_point], axis: 0 }
    }

    /// Scale and zero point when they hold for the whole tensor.
    pub fn as_per_tensor(&self) -> Option<(f32, i64)> {
        match (self.scales.as_slice(), self.zero_points.as_slice()) {
            ([scale], [zero_point]) => Some((*scale, *zero_point)),
            _ => None,
        }
    }
}
