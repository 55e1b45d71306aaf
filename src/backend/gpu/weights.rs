//! How weights are stored on the device: f32, or rounded to half precision or int8 where the caller
//! asks for it.

use super::Shared;
use super::buffers::View;
use super::pipeline::Part;
use crate::backend::Precision;
use crate::error::{Error, Result};

/// Storage of a matrix whose columns go in fours. Sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storing {
    F32,
    F16,
    /// With a scale for each column (a row of the weights as they are in the graph).
    Int8,
}

/// A matrix `[K, 4 quads]` as words, and the scale of each column for [`Storing::Int8`].
pub(super) struct Stored {
    pub(super) words: Vec<u32>,
    pub(super) scales: Vec<f32>,
}

impl Storing {
    pub(super) fn of(precision: Precision) -> Result<Storing> {
        match precision {
            Precision::Full => Ok(Storing::F32),
            Precision::F16 => Ok(Storing::F16),
            Precision::Int8 => Ok(Storing::Int8),
            Precision::Bf16 => {
                Err(Error::input("the gpu backend has no bfloat16 weights (it has f16 and int8)"))
            }
        }
    }

    /// The value of the override `SCALED`.
    pub(super) fn scaled(self) -> u32 {
        u32::from(self == Storing::Int8)
    }

    /// `values` `[K, columns]`, columns in fours.
    pub(super) fn store(self, values: &[f32], columns: usize) -> Stored {
        match self {
            Storing::F32 => {
                Stored { words: values.iter().map(|v| v.to_bits()).collect(), scales: Vec::new() }
            }
            Storing::F16 => {
                let half = |v: f32| u32::from(half::f16::from_f32(v).to_bits());
                let words = values
                    .chunks(2)
                    .map(|pair| half(pair[0]) | pair.get(1).map_or(0, |&v| half(v) << 16))
                    .collect();
                Stored { words, scales: Vec::new() }
            }
            Storing::Int8 => {
                let mut scales = vec![0f32; columns];
                for row in values.chunks(columns.max(1)) {
                    scales
                        .iter_mut()
                        .zip(row)
                        .for_each(|(scale, v)| *scale = scale.max(v.abs() / 127.0));
                }
                let byte = |(at, &v): (usize, &f32)| {
                    let scale = scales[at % columns];
                    if scale > 0.0 {
                        (v / scale).round().clamp(-127.0, 127.0) as i8 as u8
                    } else {
                        0
                    }
                };
                let bytes: Vec<u8> = values.iter().enumerate().map(byte).collect();
                let words = bytes
                    .chunks_exact(4)
                    .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect();
                Stored { words, scales }
            }
        }
    }

    /// The file that reads them in a shader.
    pub(super) fn part(self) -> Part {
        match self {
            Storing::F32 => Part::WeightsF32,
            Storing::F16 => Part::WeightsF16,
            Storing::Int8 => Part::WeightsInt8,
        }
    }
}

impl Shared {
    /// How this session stores weights.
    pub(super) fn storing(&self) -> Storing {
        // Checked when the device was opened.
        Storing::of(self.options.precision).unwrap_or(Storing::F32)
    }

    /// The parts of a kernel that multiplies with weights: how they are stored, how terms are
    /// loaded.
    pub(super) fn product_parts(&self, weights: &View) -> [Part; 2] {
        let stored = if weights.is_texels() { Part::WeightsTexels } else { self.storing().part() };
        [stored, if self.device.broadcasts { Part::ProductsBroadcast } else { Part::ProductsPlain }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_has_a_scale_for_each_column() {
        let stored = Storing::Int8.store(&[1.0, -2.0, 0.0, 0.5, -1.0, 1.0, 0.0, 0.25], 4);
        assert_eq!(stored.scales, [1.0 / 127.0, 2.0 / 127.0, 0.0, 0.5 / 127.0]);
        let bytes: Vec<i8> =
            stored.words.iter().flat_map(|w| w.to_le_bytes()).map(|b| b as i8).collect();
        assert_eq!(bytes, [127, -127, 0, 127, -127, 64, 0, 64]);
    }

    #[test]
    fn halves_go_two_to_a_word() {
        let stored = Storing::F16.store(&[1.0, -2.0], 2);
        assert_eq!(stored.words, [0xc000_3c00]);
    }
}
