//! The product of rows and weights that are both int8.

// A loop's index is the number of a register tile's row or column, and often indexes several tiles;
// iterators would hide that.
#![allow(clippy::needless_range_loop)]

use super::super::vector::{Dot, Int8Layout, Vector};
use super::functions::{ROUND, load_part, store_part};
use super::product::{FAR, PREFETCH, Product, Start};

/// `C[rows, columns] = start + scale · scaleᵀ ∘ (A · B)` on int8: the part of [`Product`] that the
/// two have in common, with rows of A as int8 and their scales.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProductI8 {
    /// `a` is not used; `depth` counts groups of four.
    pub product: Product,
    pub a: *const i8,
    /// Of [`Int8Layout::Split`]: the signs, laid out as `a`, and for each row the sum of the magnitudes
    /// of what is negative.
    pub a_signs: *const i8,
    pub a_negatives: *const i32,
    /// Bytes between rows.
    pub a_stride: usize,
    /// A scale for each row.
    pub a_scales: *const f32,
    /// A scale and the sum of the weights for each column.
    pub b_scales: *const f32,
    pub b_sums: *const i32,
}

/// Adds to the sums of a tile the products of some groups; `b` is the panel at the first of them.
#[inline(always)]
unsafe fn add_groups<D: Dot, const N: usize, const R: usize, const AHEAD: bool>(
    p: &ProductI8,
    row: usize,
    groups: (usize, usize),
    mut b: *const i8,
    sums: &mut [[D; N]; R],
) {
    unsafe {
        let lanes = D::Float::LANES;
        let width = N * lanes;
        let first = row * p.a_stride;
        let four = |from: *const i8, at: usize| from.add(first + at).cast::<i32>().read_unaligned();
        for group in groups.0..groups.1 {
            if AHEAD && R == 1 {
                // Weights that are read once: see `PREFETCH`.
                for line in (0..width * 4).step_by(64) {
                    D::Float::prefetch(b.wrapping_add(PREFETCH + line).cast());
                }
            }
            for r in 0..R {
                let at = r * p.a_stride + group * 4;
                let h = four(p.a, at);
                let signs = if D::LAYOUT == Int8Layout::Split { four(p.a_signs, at) } else { 0 };
                for n in 0..N {
                    sums[r][n] = sums[r][n].dot4(h, signs, b.add(n * lanes * 4));
                }
            }
            b = b.add(width * 4);
        }
    }
}

/// A tile of C from int8.
#[inline(always)]
unsafe fn tile_i8<D: Dot, const N: usize, const R: usize, const AHEAD: bool>(
    p: &ProductI8,
    row: usize,
    index: usize,
) {
    unsafe {
        let (width, groups) = (N * D::Float::LANES, p.product.depth);
        let mut sums = [[D::zero(); N]; R];
        let b = p.product.b.cast::<i8>().add(index * groups * width * 4);
        add_groups::<D, N, R, AHEAD>(p, row, (0, groups), b, &mut sums);
        if index * width + width <= p.product.columns {
            finish::<D, N, R, true>(p, row, index, &sums);
        } else {
            finish::<D, N, R, false>(p, row, index, &sums);
        }
    }
}

/// Rows whose sums are kept while the blocks of a wide panel pass: with AVX2 8 KiB of them.
const ROW_BLOCK: usize = 32;
/// Groups of a block of a wide panel: with AVX2 16 KiB of weights, half of a first-level cache.
const GROUP_BLOCK: usize = 64;

/// Some rows of C from a wide panel, one after another: a row's bytes serve `N` registers, and what
/// is read of the panel stays in the first-level cache for all rows.
#[inline(always)]
unsafe fn rows_i8<D: Dot, const N: usize>(p: &ProductI8, rows: (usize, usize), index: usize) {
    unsafe {
        let (width, depth) = (N * D::Float::LANES, p.product.depth);
        let b = p.product.b.cast::<i8>().add(index * depth * width * 4);
        let mut sums = [[[D::zero(); N]; 1]; ROW_BLOCK];
        for first in (0..depth).step_by(GROUP_BLOCK) {
            let groups = (first, (first + GROUP_BLOCK).min(depth));
            for row in rows.0..rows.1 {
                let mut own = sums[row - rows.0];
                add_groups::<D, N, 1, false>(p, row, groups, b.add(first * width * 4), &mut own);
                sums[row - rows.0] = own;
            }
        }
        for row in rows.0..rows.1 {
            if index * width + width <= p.product.columns {
                finish::<D, N, 1, true>(p, row, index, &sums[row - rows.0]);
            } else {
                finish::<D, N, 1, false>(p, row, index, &sums[row - rows.0]);
            }
        }
    }
}

/// The sums of a tile to C. `WHOLE`: all columns of the panel exist.
#[inline(always)]
unsafe fn finish<D: Dot, const N: usize, const R: usize, const WHOLE: bool>(
    p: &ProductI8,
    row: usize,
    index: usize,
    sums: &[[D; N]; R],
) {
    unsafe {
        let lanes = D::Float::LANES;
        let column = index * N * lanes;
        for r in 0..R {
            let c = p.product.c.add((row + r) * p.product.c_stride + column);
            let scale = D::Float::splat(*p.a_scales.add(row + r));
            let negatives =
                if D::LAYOUT == Int8Layout::Split { *p.a_negatives.add(row + r) } else { 0 };
            for n in 0..N {
                let at = n * lanes;
                // Of a register that ends past the last column, what exists; the others are left
                // out.
                let existing =
                    if WHOLE { lanes } else { (p.product.columns - column).saturating_sub(at) };
                if !WHOLE && existing == 0 {
                    break;
                }
                let sum = sums[r][n].settle(p.b_sums.add(column + at), negatives).to_float();
                let scale = scale.mul(D::Float::load(p.b_scales.add(column + at)));
                let start = match p.product.start {
                    Start::Zero => D::Float::splat(0.0),
                    Start::Accumulate => load_part(c.add(at), existing),
                    Start::Row(row) => load_part(row.add(column + at), existing),
                };
                store_part(sum.fma(scale, start), c.add(at), existing);
            }
        }
    }
}

#[inline(always)]
unsafe fn panels_i8<D: Dot, const N: usize, const TALL: usize, const AHEAD: bool>(p: &ProductI8) {
    let (first, last) = p.product.panels;
    for step in 0..last - first {
        let index = if p.product.backwards { last - 1 - step } else { first + step };
        let mut row = 0;
        while row < p.product.rows {
            let tall = (p.product.rows - row).min(TALL);
            macro_rules! rows {
                ($($r:literal)*) => {
                    match tall { $($r if $r <= TALL => unsafe { tile_i8::<D, N, $r, AHEAD>(p, row, index) },)* _ => {} }
                };
            }
            rows!(6 5 4 3 2 1);
            row += tall;
        }
    }
}

/// The panels of eight registers for several rows.
#[inline(always)]
unsafe fn wide_panels_i8<D: Dot>(p: &ProductI8) {
    let (first, last) = p.product.panels;
    for step in 0..last - first {
        let index = if p.product.backwards { last - 1 - step } else { first + step };
        for row in (0..p.product.rows).step_by(ROW_BLOCK) {
            unsafe { rows_i8::<D, 8>(p, (row, (row + ROW_BLOCK).min(p.product.rows)), index) };
        }
    }
}

/// The whole product on int8.
#[inline(always)]
pub(crate) unsafe fn product_i8<D: Dot, const MATRIX: usize, const TALL: usize>(p: &ProductI8) {
    unsafe {
        // A panel of int8 is read in half the time that its f32 would take, so that asking pays a
        // little earlier.
        let far = (p.product.panels.1 - p.product.panels.0) * p.product.width * p.product.depth * 4
            >= FAR;
        match (p.product.width == MATRIX * D::Float::LANES, far) {
            (true, _) => panels_i8::<D, MATRIX, TALL, false>(p),
            (false, _) if p.product.rows > 1 => wide_panels_i8::<D>(p),
            (false, false) => panels_i8::<D, 8, 1, false>(p),
            (false, true) => panels_i8::<D, 8, 1, true>(p),
        }
    }
}

/// Where an int8 row goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Int8Row {
    pub bytes: *mut i8,
    /// Of [`Int8Layout::Split`]; may be null elsewhere.
    pub signs: *mut i8,
}

/// A row as int8, `round(x / scale)`, in the form that `D` takes; returns the scale,
/// `max(least, max |x|) / 127`, and the sum of the magnitudes of what is negative. A row with NaN
/// or infinity has the scale NaN, so that they are not lost.
#[inline(always)]
pub(crate) unsafe fn quantize_row<D: Dot>(
    x: *const f32,
    to: Int8Row,
    count: usize,
    least: f32,
) -> (f32, i32) {
    // SAFETY: the caller vouches for `count` elements on both sides.
    let (x, bytes) = unsafe {
        (std::slice::from_raw_parts(x, count), std::slice::from_raw_parts_mut(to.bytes, count))
    };
    // Magnitudes compare as their bits do, and a maximum of integers needs no order: the compiler
    // makes vectors of it.
    let bits = x.iter().fold(least.to_bits(), |most, v| most.max(v.to_bits() & 0x7fff_ffff));
    let most = f32::from_bits(bits);
    let is_finite = most.is_finite();
    let inverse = if is_finite && most > 0.0 { 127.0 / most } else { 0.0 };
    for (to, &v) in bytes.iter_mut().zip(x) {
        // The integer is in the low byte after the addition.
        *to = (v * inverse + ROUND).to_bits() as i8;
    }
    if !is_finite {
        bytes.fill(0);
    }
    let scale = if is_finite { most / 127.0 } else { f32::NAN };
    let mut negatives = 0;
    match D::LAYOUT {
        Int8Layout::Signed => {}
        Int8Layout::Offset => bytes.iter_mut().for_each(|byte| *byte ^= i8::MIN),
        Int8Layout::Split => {
            // SAFETY: as above.
            let signs = unsafe { std::slice::from_raw_parts_mut(to.signs, count) };
            for (byte, sign) in bytes.iter_mut().zip(signs) {
                *sign = *byte >> 7;
                negatives -= i32::from(*byte & *sign);
                *byte = byte.wrapping_abs();
            }
        }
    }
    (scale, negatives)
}
