//! The kernels that use vector instructions, and everything else in this backend that needs
//! `unsafe`: raw pointers into buffers that several threads write to. What leaves this module is
//! safe: every wrapper checks its slices before a kernel sees a pointer.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod ceiling;
mod grid;
mod kernels;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod pool;
mod portable;
#[cfg(test)]
pub(crate) mod tests;
mod vector;

pub(crate) use grid::{Grid, View, Window};
pub(crate) use kernels::{Storage, UNITS};
pub(crate) use pack::{Aligned, Packed, Quantized, aligned_zeros};
pub(crate) use pool::{Pool, for_each_part};

use kernels::{GruRows, Int8Row, LstmRows, Product, ProductI8, Start, WIDEST_PANEL};

use crate::backend::InstructionSet;
use crate::error::{Error, Result};
use crate::graph::op::Activation;

/// The kernels of one instruction set.
pub(crate) struct KernelSet {
    pub name: &'static str,
    /// Columns of a panel for products of several rows.
    pub matrix_width: usize,
    /// Columns of a panel for products of one row: eight registers, so that the latency of the sums
    /// is hidden.
    pub vector_width: usize,
    /// Columns of a panel of int8 for products of many rows: one of the two above.
    pub int8_width: usize,
    product: unsafe fn(&Product),
    product_i8: unsafe fn(&ProductI8),
    quantize_row: unsafe fn(*const f32, Int8Row, usize, f32) -> (f32, i32),
    lstm_rows: unsafe fn(&LstmRows),
    gru_rows: unsafe fn(&GruRows),
    activate: unsafe fn(Activation, *mut f32, usize),
    softmax_row: unsafe fn(f32, bool, *mut f32, usize),
}

/// The sets that this processor can run, best first.
fn available() -> Vec<&'static KernelSet> {
    let mut sets = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        // VNNI has the int8 products in one instruction; all else is the same, so it is no
        // instruction set of its own.
        if has!("avx512f")
            && has!("avx512bw")
            && has!("avx512vl")
            && has!("avx512dq")
            && has!("avx512vnni")
        {
            sets.push(&avx512::vnni::AVX512_VNNI);
        } else if has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq") {
            sets.push(&avx512::AVX512);
        }
        if has!("avx2") && has!("fma") && has!("f16c") {
            sets.push(&avx2::AVX2);
        }
    }
    #[cfg(target_arch = "aarch64")]
    sets.push(&neon::NEON);
    sets.push(&portable::PORTABLE);
    sets
}

/// The best kernels, or those of this instruction set.
///
/// # Errors
/// [`Device`](crate::ErrorKind::Device) when the processor lacks the instruction set, naming those
/// it has.
pub(crate) fn select(wanted: Option<InstructionSet>) -> Result<&'static KernelSet> {
    let sets = available();
    let found = match wanted {
        None => sets.first(),
        Some(set) => sets.iter().find(|kernels| kernels.name == set.name()),
    };
    found.copied().ok_or_else(|| {
        let have: Vec<_> = sets.iter().map(|kernels| kernels.name).collect();
        Error::device(format!(
            "this processor cannot run the instruction set `{}`; it has {}",
            wanted.map_or("", InstructionSet::name),
            have.join(", ")
        ))
    })
}

/// What a product starts from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From<'a> {
    /// Zero.
    Zero,
    /// What is in the result already.
    Result,
    /// This row, for every row of the result.
    Row(&'a [f32]),
}

/// Rows of a matrix inside a slice: `rows` of them, `stride` apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub data: &'a [f32],
    pub stride: usize,
}

fn defect(what: &str) -> Error {
    Error::internal(format!("cpu kernel: {what}"))
}

/// Whether `rows` rows of `width` elements, `stride` apart, lie within `len` elements.
fn holds(len: usize, rows: usize, stride: usize, width: usize) -> bool {
    rows == 0
        || (rows == 1 || stride >= width)
            && (rows - 1)
                .checked_mul(stride)
                .and_then(|n| n.checked_add(width))
                .is_some_and(|n| n <= len)
}

impl KernelSet {
    /// `c[rows, columns] = from + a[rows, b.depth] · b` over a range of b's panels, `columns` at
    /// most those of b's panels.
    ///
    /// # Errors
    /// [`Internal`](crate::ErrorKind::Internal) when a slice is too short.
    #[allow(clippy::too_many_arguments)]
    pub fn product(
        &self,
        rows: usize,
        a: Rows<'_>,
        b: &Packed,
        panels: std::ops::Range<usize>,
        backwards: bool,
        from: From<'_>,
        c: &mut [f32],
        c_stride: usize,
        columns: usize,
        scratch: &mut Quantized,
    ) -> Result<()> {
        if rows == 0 || panels.is_empty() || columns == 0 {
            return Ok(());
        }
        let end = (panels.end * b.width()).min(columns);
        let fits = panels.end <= b.panels()
            && (panels.end - 1) * b.width() < columns
            && (b.width() == self.matrix_width || b.width() == self.vector_width)
            && b.width() <= WIDEST_PANEL
            && holds(a.data.len(), rows, a.stride, b.depth())
            && holds(c.len(), rows, c_stride, end);
        let start = match from {
            From::Zero => Start::Zero,
            From::Result => Start::Accumulate,
            From::Row(row) if row.len() >= end => Start::Row(row.as_ptr()),
            From::Row(_) => return Err(defect("the first row is too short")),
        };
        if !fits {
            return Err(defect("a matrix is too small for its product"));
        }
        let product = Product {
            rows,
            depth: b.depth(),
            panels: (panels.start, panels.end),
            width: b.width(),
            backwards,
            a: a.data.as_ptr(),
            a_stride: a.stride,
            b: b.as_ptr(),
            storage: b.storage(),
            c: c.as_mut_ptr(),
            c_stride,
            columns,
            start,
        };
        if b.storage() == Storage::I8 {
            self.quantized_product(product, a, b, scratch);
        } else {
            // SAFETY: the processor has the instructions (`available`); the ranges were checked
            // above.
            unsafe { (self.product)(&product) };
        }
        Ok(())
    }

    /// The product with int8 weights; `product` was checked.
    fn quantized_product(
        &self,
        product: Product,
        a: Rows<'_>,
        b: &Packed,
        scratch: &mut Quantized,
    ) {
        let (rows, depth) = (product.rows, b.depth());
        let stride = depth.next_multiple_of(4);
        scratch.make_room(rows, rows * stride);
        for row in 0..rows {
            // SAFETY: `depth` elements from `row · a.stride` were checked to be there; there is
            // room for the bytes.
            unsafe {
                let from = a.data.as_ptr().add(row * a.stride);
                let bytes = scratch.bytes.as_mut_ptr().add(row * stride);
                let signs = scratch.signs.as_mut_ptr().add(row * stride);
                let (scale, negatives) =
                    (self.quantize_row)(from, Int8Row { bytes, signs }, depth, scratch.least);
                scratch.scales[row] = scale;
                scratch.negatives[row] = negatives;
                // What fills up the last group meets weights of zero.
                bytes.add(depth).write_bytes(0, stride - depth);
                signs.add(depth).write_bytes(0, stride - depth);
            }
        }
        let product = ProductI8 {
            product: Product { depth: stride / 4, ..product },
            a: scratch.bytes.as_ptr(),
            a_signs: scratch.signs.as_ptr(),
            a_negatives: scratch.negatives.as_ptr(),
            a_stride: stride,
            a_scales: scratch.scales.as_ptr(),
            b_scales: b.scales().as_ptr(),
            b_sums: b.sums().as_ptr(),
        };
        // SAFETY: as in `product`; scales and sums are as long as the padded columns.
        unsafe { (self.product_i8)(&product) };
    }

    /// One step of the plain LSTM for `rows` rows and some blocks of units; `y` (view, step, its
    /// first row) takes the first `units` of each.
    ///
    /// # Errors
    /// [`Internal`](crate::ErrorKind::Internal) when a slice is too short.
    #[allow(clippy::too_many_arguments)]
    pub fn lstm_rows(
        &self,
        rows: usize,
        units: usize,
        blocks: std::ops::Range<usize>,
        sums: Rows<'_>,
        c: &mut [f32],
        h: &mut [f32],
        state_stride: usize,
        y: Option<(&mut View<'_>, usize, usize)>,
    ) -> Result<()> {
        let (y, y_stride) = match y {
            Some((view, step, first)) => view.rows(step, first, rows, units)?,
            None => (std::ptr::null_mut(), 0),
        };
        let all = units.div_ceil(UNITS);
        let fits = blocks.end <= all
            && holds(sums.data.len(), rows, sums.stride, all * 4 * UNITS)
            && holds(c.len(), rows, state_stride, all * UNITS)
            && holds(h.len(), rows, state_stride, all * UNITS);
        if !fits {
            return Err(defect("a state is too small for the LSTM step"));
        }
        let step = LstmRows {
            rows,
            blocks: (blocks.start, blocks.end),
            sums: sums.data.as_ptr(),
            sums_stride: sums.stride,
            c: c.as_mut_ptr(),
            h: h.as_mut_ptr(),
            state_stride,
            y,
            y_stride,
            units,
        };
        // SAFETY: as in `product`.
        unsafe { (self.lstm_rows)(&step) };
        Ok(())
    }

    /// One step of the plain GRU for `rows` rows; both sums have the same stride.
    ///
    /// # Errors
    /// [`Internal`](crate::ErrorKind::Internal) when a slice is too short.
    #[allow(clippy::too_many_arguments)]
    pub fn gru_rows(
        &self,
        rows: usize,
        units: usize,
        input: Rows<'_>,
        recurrent: &[f32],
        h: &mut [f32],
        state_stride: usize,
        y: Option<(&mut View<'_>, usize, usize)>,
    ) -> Result<()> {
        let (y, y_stride) = match y {
            Some((view, step, first)) => view.rows(step, first, rows, units)?,
            None => (std::ptr::null_mut(), 0),
        };
        let blocks = units.div_ceil(UNITS);
        let fits = holds(input.data.len(), rows, input.stride, blocks * 3 * UNITS)
            && holds(recurrent.len(), rows, input.stride, blocks * 3 * UNITS)
            && holds(h.len(), rows, state_stride, blocks * UNITS);
        if !fits {
            return Err(defect("a state is too small for the GRU step"));
        }
        let step = GruRows {
            rows,
            blocks: (0, blocks),
            input: input.data.as_ptr(),
            recurrent: recurrent.as_ptr(),
            sums_stride: input.stride,
            h: h.as_mut_ptr(),
            state_stride,
            y,
            y_stride,
            units,
        };
        // SAFETY: as in `product`.
        unsafe { (self.gru_rows)(&step) };
        Ok(())
    }

    /// An activation in place.
    pub fn activate(&self, activation: Activation, x: &mut [f32]) {
        // SAFETY: as in `product`; the slice is its own range.
        unsafe { (self.activate)(activation, x.as_mut_ptr(), x.len()) }
    }

    /// `e^(beta·x)` divided by its sum, or the logarithm of that, in place.
    pub fn softmax(&self, beta: f32, log: bool, row: &mut [f32]) {
        if !row.is_empty() {
            // SAFETY: as in `activate`.
            unsafe { (self.softmax_row)(beta, log, row.as_mut_ptr(), row.len()) }
        }
    }
}
