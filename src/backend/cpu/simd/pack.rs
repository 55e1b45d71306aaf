//! Weights in the order in which the product reads them.

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

use super::kernels::Storage;

/// A cache line: the vectors of these are what aligns the weights.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Size of the large pages that a processor has beside its usual ones.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

/// Zeroed lines; those of large matrices on large pages where the system has them to give. A step
/// at H = 1024 reads 16 MiB, more than the second-level kernels of addresses covers with pages of 4
/// KiB: 300 µs with them, 242 with large ones.
fn zeroed_lines(count: usize) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::with_capacity(count);
    #[cfg(target_os = "linux")]
    if count * size_of::<Line>() >= 2 * LARGE_PAGE {
        let begin = lines.as_mut_ptr().cast::<u8>();
        let skipped = begin.align_offset(LARGE_PAGE);
        let whole = (lines.capacity() * size_of::<Line>()).saturating_sub(skipped) / LARGE_PAGE
            * LARGE_PAGE;
        // SAFETY: whole pages of this allocation, which nothing refers to yet; the advice does not
        // change what they hold. Whether it is taken makes no difference to the result, so its
        // answer is not looked at.
        unsafe { libc::madvise(begin.wrapping_add(skipped).cast(), whole, libc::MADV_HUGEPAGE) };
    }
    lines.resize(count, Line::zeroed());
    lines
}

/// Zeroed f32 of a buffer that begins on a cache line.
#[derive(Clone, Default)]
pub(crate) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

/// `len` zeros that begin on a cache line.
pub(crate) fn aligned_zeros(len: usize) -> Aligned {
    Aligned { lines: vec![Line::zeroed(); len.div_ceil(16)], len }
}

impl std::ops::Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

/// Bytes of a core's second-level cache, about: 512 KiB to 2 MiB on today's desktop processors.
const SECOND_LEVEL: usize = 512 << 10;

/// A matrix `[depth, columns]` as panels of `width` columns, each `[depth, width]`; the last one is
/// filled up with zeros.
#[derive(Clone)]
pub(crate) struct Packed {
    lines: Vec<Line>,
    depth: usize,
    panels: usize,
    width: usize,
    storage: Storage,
    /// Of int8 only: a scale and the sum of the weights for each column, padded.
    scales: Vec<f32>,
    sums: Vec<i32>,
}

impl Packed {
    /// Packs a matrix whose element at (k, column) is `weight(k, column)`.
    pub fn new(
        depth: usize,
        columns: usize,
        width: usize,
        storage: Storage,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Packed {
        let panels = columns.div_ceil(width.max(1));
        let size = match storage {
            Storage::F32 => 4,
            Storage::F16 | Storage::Bf16 => 2,
            Storage::I8 => return Packed::bytes(depth, columns, width, |_| None, weight),
        };
        let mut lines = zeroed_lines((panels * depth * width * size).div_ceil(64));
        let elements = (0..panels).flat_map(|panel| {
            let weight = &weight;
            (0..depth).flat_map(move |k| {
                (0..width).map(move |column| {
                    let column = panel * width + column;
                    if column < columns { weight(k, column) } else { 0.0 }
                })
            })
        });
        match storage {
            Storage::F32 => fill::<f32>(&mut lines, elements),
            Storage::F16 => fill::<f16>(&mut lines, elements.map(f16::from_f32)),
            Storage::Bf16 => fill::<bf16>(&mut lines, elements.map(bf16::from_f32)),
            Storage::I8 => {}
        }
        Packed { lines, depth, panels, width, storage, scales: Vec::new(), sums: Vec::new() }
    }

    /// As [`Packed::new`], for a product of `rows` rows: weights of 16 bits are widened here, after
    /// rounding, unless reading them is what the product waits for. That is so for single rows and
    /// matrices beyond the second-level cache; elsewhere the conversion costs more than it saves
    /// (1.3 to 1.7 times the time of f32 at 16 rows).
    pub fn for_rows(
        rows: usize,
        depth: usize,
        columns: usize,
        width: usize,
        storage: Storage,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Packed {
        if rows == 1 && depth * columns * 4 > SECOND_LEVEL {
            return Packed::new(depth, columns, width, storage, weight);
        }
        match storage {
            Storage::F32 | Storage::I8 => Packed::new(depth, columns, width, storage, weight),
            Storage::F16 => Packed::new(depth, columns, width, Storage::F32, |k, c| {
                f16::from_f32(weight(k, c)).to_f32()
            }),
            Storage::Bf16 => Packed::new(depth, columns, width, Storage::F32, |k, c| {
                bf16::from_f32(weight(k, c)).to_f32()
            }),
        }
    }

    /// Packs as int8, `round(weight / scale)`: panels of `[depth / 4, width, 4]`. The scale of a
    /// column is the given one, or `max |weight| / 127`.
    pub fn bytes(
        depth: usize,
        columns: usize,
        width: usize,
        scale: impl Fn(usize) -> Option<f32>,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Packed {
        let panels = columns.div_ceil(width.max(1));
        let groups = depth.div_ceil(4);
        let padded = panels * width;
        let mut lines = zeroed_lines((padded * groups * 4).div_ceil(64));
        let (mut scales, mut sums) = (vec![0.0; padded], vec![0; padded]);
        let bytes: &mut [i8] = bytemuck::cast_slice_mut(&mut lines);
        for column in 0..columns {
            let most = (0..depth).map(|k| weight(k, column).abs()).fold(0.0, f32::max);
            let scale = scale(column).unwrap_or(most / 127.0);
            let base = (column / width * groups * width + column % width) * 4;
            for k in 0..depth {
                let rounded =
                    if scale > 0.0 { (weight(k, column) / scale).round_ties_even() } else { 0.0 };
                // Saturates; −128 is left out, because its magnitude is no byte.
                let byte = (rounded as i8).max(-127);
                bytes[base + k / 4 * width * 4 + k % 4] = byte;
                sums[column] += i32::from(byte);
            }
            scales[column] = scale;
        }
        Packed { lines, depth, panels, width, storage: Storage::I8, scales, sums }
    }

    pub(super) fn scales(&self) -> &[f32] {
        &self.scales
    }

    pub(super) fn sums(&self) -> &[i32] {
        &self.sums
    }

    pub fn depth(&self) -> usize {
        self.depth
    }

    pub fn panels(&self) -> usize {
        self.panels
    }

    pub fn width(&self) -> usize {
        self.width
    }

    /// Columns with the last panel's filling.
    pub fn padded_columns(&self) -> usize {
        self.panels * self.width
    }

    pub fn storage(&self) -> Storage {
        self.storage
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        self.lines.as_ptr().cast()
    }
}

fn fill<E: Pod>(lines: &mut [Line], elements: impl Iterator<Item = E>) {
    let to: &mut [E] = bytemuck::cast_slice_mut(lines);
    for (to, element) in to.iter_mut().zip(elements) {
        *to = element;
    }
}

/// Rows of A as int8, for products with int8 weights; grows to what is needed and stays.
#[derive(Default)]
pub(crate) struct Quantized {
    pub(super) bytes: Vec<i8>,
    pub(super) signs: Vec<i8>,
    pub(super) scales: Vec<f32>,
    pub(super) negatives: Vec<i32>,
    /// Least magnitude that 127 stands for.
    pub(super) least: f32,
}

impl Quantized {
    /// Grows to this many rows, and bytes in all of them, if it has to.
    pub(super) fn make_room(&mut self, rows: usize, bytes: usize) {
        if self.scales.len() < rows {
            self.scales.resize(rows, 0.0);
            self.negatives.resize(rows, 0);
        }
        if self.bytes.len() < bytes {
            self.bytes.resize(bytes, 0);
            self.signs.resize(bytes, 0);
        }
    }

    /// For output states, which are below 1 unless the caller gave others: the scale is 1/127 then.
    pub fn of_states() -> Quantized {
        Quantized { least: 1.0, ..Quantized::default() }
    }

    /// With room for this many rows that are multiplied with any of the matrices: none where their
    /// weights are not int8.
    #[must_use]
    pub fn with_room<'a>(
        mut self,
        rows: usize,
        matrices: impl IntoIterator<Item = &'a Packed>,
    ) -> Quantized {
        for matrix in matrices.into_iter().filter(|matrix| matrix.storage() == Storage::I8) {
            self.make_room(rows, rows * matrix.depth().next_multiple_of(4));
        }
        self
    }
}
