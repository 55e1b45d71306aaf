//! Weights in the order in which the product reads them.

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

use super::kernels::Storage;

/// A cache line: the vectors of these are what aligns the weights.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

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

/// A matrix `[depth, columns]` as panels of `width` columns, each `[depth, width]`; the last one is filled up with zeros.
#[derive(Clone)]
pub(crate) struct Packed {
    lines: Vec<Line>,
    depth: usize,
    panels: usize,
    width: usize,
    storage: Storage,
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
        };
        let mut lines = vec![Line::zeroed(); (panels * depth * width * size).div_ceil(64)];
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
        }
        Packed { lines, depth, panels, width, storage }
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

    /// Bytes that one product reads.
    pub fn bytes(&self) -> usize {
        self.lines.len() * 64
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
