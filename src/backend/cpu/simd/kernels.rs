//! The kernels, written once over [`Vector`] and compiled for every instruction set by [`instantiate`].

// A loop's index is the number of a register tile's row or column, and often indexes several tiles; iterators would hide that.
#![allow(clippy::needless_range_loop)]
// Coefficients are written with the digits that the fit gave; one lies near ln 2 because e^x = 2^(x/ln 2).
#![allow(clippy::excessive_precision, clippy::approx_constant)]

use super::vector::{Dot, Vector};
use crate::graph::op::Activation;

/// Units of a block in the packed gate layout: per block the gates follow each other, sixteen units each.
pub(crate) const UNITS: usize = 16;

/// How the elements of a packed matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    F32,
    F16,
    Bf16,
    /// Signed bytes with a scale for each column, four steps of the depth together.
    I8,
}

/// What a product starts from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// The elements that are in C.
    Accumulate,
    /// A row of as many elements as C has columns, the same for every row of C.
    Row(*const f32),
    Zero,
}

/// `C[rows, columns] = start + A[rows, depth] · B[depth, columns]` with packed B: panels of `width` columns, each `depth × width`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    pub rows: usize,
    pub depth: usize,
    /// First and last (exclusive) panel.
    pub panels: (usize, usize),
    /// Columns of a panel.
    pub width: usize,
    /// From the last panel to the first.
    pub backwards: bool,
    pub a: *const f32,
    pub a_stride: usize,
    pub b: *const u8,
    pub storage: Storage,
    pub c: *mut f32,
    pub c_stride: usize,
    /// Columns of C that exist; a panel may go past them.
    pub columns: usize,
    pub start: Start,
}

/// One LSTM step of the plain form (sigmoid gates, tanh twice, no option) on packed sums `[rows, blocks, 4, UNITS]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LstmRows {
    pub rows: usize,
    /// Blocks of [`UNITS`] units: first and last (exclusive).
    pub blocks: (usize, usize),
    pub sums: *const f32,
    pub sums_stride: usize,
    /// `[rows, state_stride]`, read and written.
    pub c: *mut f32,
    /// Written.
    pub h: *mut f32,
    pub state_stride: usize,
    /// Written too, when not null; `units` elements a row.
    pub y: *mut f32,
    pub y_stride: usize,
    pub units: usize,
}

/// One GRU step of the plain form (sigmoid gates, tanh candidate, reset after) on packed sums `[rows, blocks, 3, UNITS]` of the
/// input and of the recurrent product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GruRows {
    pub rows: usize,
    pub blocks: (usize, usize),
    pub input: *const f32,
    pub recurrent: *const f32,
    pub sums_stride: usize,
    /// Read and written.
    pub h: *mut f32,
    pub state_stride: usize,
    pub y: *mut f32,
    pub y_stride: usize,
    pub units: usize,
}

/// An element type of packed weights.
trait Weight: Copy {
    unsafe fn load<V: Vector>(from: *const Self) -> V;
}

impl Weight for f32 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const f32) -> V {
        unsafe { V::load(from) }
    }
}

/// IEEE half.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Half(u16);

impl Weight for Half {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Half) -> V {
        unsafe { V::load_f16(from.cast()) }
    }
}

/// bfloat16.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Brain(u16);

impl Weight for Brain {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Brain) -> V {
        unsafe { V::load_bf16(from.cast()) }
    }
}

/// One step of the depth: an element of each row of A times a row of the panel.
#[inline(always)]
unsafe fn accumulate<V: Vector, W: Weight, const N: usize, const R: usize>(
    sums: &mut [[V; N]; R],
    a: *const f32,
    a_stride: usize,
    b: *const W,
) {
    unsafe {
        let mut w = [V::splat(0.0); N];
        for n in 0..N {
            w[n] = W::load(b.add(n * V::LANES));
        }
        for r in 0..R {
            let x = V::splat(*a.add(r * a_stride));
            for n in 0..N {
                sums[r][n] = x.fma(w[n], sums[r][n]);
            }
        }
    }
}

/// A tile of C, `R` rows by `N` registers, kept in registers over the whole depth.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn tile<V: Vector, W: Weight, const N: usize, const R: usize>(
    depth: usize,
    a: *const f32,
    a_stride: usize,
    b: *const W,
    c: *mut f32,
    c_stride: usize,
    start: Start,
) {
    unsafe {
        let mut sums = [[V::splat(0.0); N]; R];
        match start {
            Start::Zero => {}
            Start::Accumulate => {
                for r in 0..R {
                    for n in 0..N {
                        sums[r][n] = V::load(c.add(r * c_stride + n * V::LANES));
                    }
                }
            }
            Start::Row(row) => {
                for n in 0..N {
                    let x = V::load(row.add(n * V::LANES));
                    for r in 0..R {
                        sums[r][n] = x;
                    }
                }
            }
        }
        let (mut a, mut b) = (a, b);
        // Four steps of the depth at a time: constant offsets instead of address arithmetic for every row.
        for _ in 0..depth / 4 {
            for k in 0..4 {
                accumulate(&mut sums, a.add(k), a_stride, b.add(k * N * V::LANES));
            }
            a = a.add(4);
            b = b.add(4 * N * V::LANES);
        }
        for k in 0..depth % 4 {
            accumulate(&mut sums, a.add(k), a_stride, b.add(k * N * V::LANES));
        }
        for r in 0..R {
            for n in 0..N {
                sums[r][n].store(c.add(r * c_stride + n * V::LANES));
            }
        }
    }
}

/// Most columns of a panel, over all instruction sets.
pub(crate) const WIDEST_PANEL: usize = 128;
/// Most rows of a tile.
const TALLEST_TILE: usize = 6;
/// Depth of a block: a panel of 16 columns and this depth is half of a 32 KiB first-level cache.
const DEPTH_BLOCK: usize = 256;
/// Rows of a block: with the depth above, A takes 96 KiB of the second-level cache.
const ROW_BLOCK: usize = 96;

/// The tiles of one panel: rows shared out evenly, so that no tile is much lower than the others.
#[inline(always)]
unsafe fn panel<V: Vector, W: Weight, const N: usize, const TALL: usize>(
    p: &Product,
    index: usize,
    rows: (usize, usize),
    depths: (usize, usize),
) {
    unsafe {
        let width = N * V::LANES;
        let (first, depth) = (depths.0, depths.1 - depths.0);
        let b = p.b.cast::<W>().add((index * p.depth + first) * width);
        let column = index * width;
        let start = match p.start {
            _ if first > 0 => Start::Accumulate,
            Start::Row(row) => Start::Row(row.add(column)),
            other => other,
        };
        let existing = (p.columns - column).min(width);
        let tiles = (rows.1 - rows.0).div_ceil(TALL);
        let mut row = rows.0;
        for left in (1..=tiles).rev() {
            let tall = (rows.1 - row).div_ceil(left);
            let a = p.a.add(row * p.a_stride + first);
            let c = p.c.add(row * p.c_stride + column);
            if existing == width {
                any_tile::<V, W, N, TALL>(tall, depth, a, p.a_stride, b, c, p.c_stride, start);
            } else {
                // The panel goes past the last column: by way of a tile of its own.
                let mut edge = [0.0f32; TALLEST_TILE * WIDEST_PANEL];
                for r in 0..tall {
                    let from = match start {
                        Start::Zero => continue,
                        Start::Accumulate => c.add(r * p.c_stride).cast_const(),
                        Start::Row(row) => row,
                    };
                    edge.as_mut_ptr().add(r * width).copy_from_nonoverlapping(from, existing);
                }
                any_tile::<V, W, N, TALL>(tall, depth, a, p.a_stride, b, edge.as_mut_ptr(), width, Start::Accumulate);
                for r in 0..tall {
                    c.add(r * p.c_stride).copy_from_nonoverlapping(edge.as_ptr().add(r * width), existing);
                }
            }
            row += tall;
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn any_tile<V: Vector, W: Weight, const N: usize, const TALL: usize>(
    tall: usize,
    depth: usize,
    a: *const f32,
    a_stride: usize,
    b: *const W,
    c: *mut f32,
    c_stride: usize,
    start: Start,
) {
    macro_rules! rows {
        ($($r:literal)*) => {
            // A tile that this panel width never has is left out at compile time.
            match tall { $($r if $r <= TALL => unsafe { tile::<V, W, N, $r>(depth, a, a_stride, b, c, c_stride, start) },)* _ => {} }
        };
    }
    rows!(6 5 4 3 2 1)
}

#[inline(always)]
unsafe fn blocks<V: Vector, W: Weight, const N: usize, const TALL: usize>(p: &Product) {
    let mut row = 0;
    while row < p.rows {
        let rows = (row, (row + ROW_BLOCK).min(p.rows));
        let mut first = 0;
        loop {
            // One row has no use for a block of the depth: every weight is read once.
            let depths = (first, if TALL == 1 { p.depth } else { (first + DEPTH_BLOCK).min(p.depth) });
            for step in 0..p.panels.1 - p.panels.0 {
                let index = if p.backwards { p.panels.1 - 1 - step } else { p.panels.0 + step };
                unsafe { panel::<V, W, N, TALL>(p, index, rows, depths) };
            }
            first = depths.1;
            if first >= p.depth {
                break;
            }
        }
        row = rows.1;
    }
}

/// The whole product. `MATRIX` registers and `TALL` rows: the tile that this instruction set has registers for.
#[inline(always)]
pub(super) unsafe fn product<V: Vector, const MATRIX: usize, const TALL: usize>(p: &Product) {
    macro_rules! by_width {
        ($w:ty) => {
            unsafe {
                if p.width == MATRIX * V::LANES {
                    blocks::<V, $w, MATRIX, TALL>(p)
                } else if p.width == 8 * V::LANES {
                    blocks::<V, $w, 8, 1>(p)
                }
            }
        };
    }
    match p.storage {
        Storage::F32 => by_width!(f32),
        Storage::F16 => by_width!(Half),
        Storage::Bf16 => by_width!(Brain),
        // `product_i8` does these.
        Storage::I8 => {}
    }
}

/// `C[rows, columns] = start + scale · scaleᵀ ∘ (A · B)` on bytes: the part of [`Product`] that the two have in common, with rows of
/// A as bytes and their scales.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProductI8 {
    /// `a` is not used; `depth` counts groups of four.
    pub product: Product,
    pub a: *const i8,
    /// Bytes between rows.
    pub a_stride: usize,
    /// A scale for each row.
    pub a_scales: *const f32,
    /// A scale and the sum of the weights for each column.
    pub b_scales: *const f32,
    pub b_sums: *const i32,
}

/// A tile of C from bytes.
#[inline(always)]
unsafe fn tile_i8<D: Dot, const N: usize, const R: usize>(p: &ProductI8, row: usize, index: usize) {
    unsafe {
        let lanes = D::Float::LANES;
        let (width, groups) = (N * lanes, p.product.depth);
        let mut sums = [[D::zero(); N]; R];
        let mut b = p.product.b.cast::<i8>().add(index * groups * width * 4);
        let a = p.a.add(row * p.a_stride);
        for group in 0..groups {
            for r in 0..R {
                let h = a.add(r * p.a_stride + group * 4).cast::<i32>().read_unaligned();
                for n in 0..N {
                    sums[r][n] = sums[r][n].dot4(h, b.add(n * lanes * 4));
                }
            }
            b = b.add(width * 4);
        }
        let column = index * width;
        let existing = (p.product.columns - column).min(width);
        for r in 0..R {
            let c = p.product.c.add((row + r) * p.product.c_stride + column);
            let scale = D::Float::splat(*p.a_scales.add(row + r));
            for n in 0..N {
                let at = n * lanes;
                if at >= existing {
                    break;
                }
                let sum = sums[r][n].settle(p.b_sums.add(column + at)).to_float();
                let scale = scale.mul(D::Float::load(p.b_scales.add(column + at)));
                let start = match p.product.start {
                    Start::Zero => D::Float::splat(0.0),
                    Start::Accumulate => load_part(c.add(at), existing - at),
                    Start::Row(row) => load_part(row.add(column + at), existing - at),
                };
                store_part(sum.fma(scale, start), c.add(at), existing - at);
            }
        }
    }
}

#[inline(always)]
unsafe fn panels_i8<D: Dot, const N: usize, const TALL: usize>(p: &ProductI8) {
    let (first, last) = p.product.panels;
    for step in 0..last - first {
        let index = if p.product.backwards { last - 1 - step } else { first + step };
        let mut row = 0;
        while row < p.product.rows {
            let tall = (p.product.rows - row).min(TALL);
            macro_rules! rows {
                ($($r:literal)*) => {
                    match tall { $($r if $r <= TALL => unsafe { tile_i8::<D, N, $r>(p, row, index) },)* _ => {} }
                };
            }
            rows!(6 5 4 3 2 1);
            row += tall;
        }
    }
}

/// The whole product on bytes.
#[inline(always)]
pub(super) unsafe fn product_i8<D: Dot, const MATRIX: usize, const TALL: usize>(p: &ProductI8) {
    unsafe {
        if p.product.width == MATRIX * D::Float::LANES {
            panels_i8::<D, MATRIX, TALL>(p)
        } else if p.product.width == 8 * D::Float::LANES {
            panels_i8::<D, 8, 1>(p)
        }
    }
}

/// A row as bytes, `round(x / scale)`; returns the scale, `max(least, max |x|) / 127`. A row with NaN or infinity has
/// the scale NaN, so that they are not lost.
#[inline(always)]
pub(super) unsafe fn quantise_row(x: *const f32, to: *mut i8, count: usize, least: f32) -> f32 {
    // SAFETY: the caller vouches for `count` elements on both sides.
    let (x, to) = unsafe { (std::slice::from_raw_parts(x, count), std::slice::from_raw_parts_mut(to, count)) };
    // Magnitudes compare as their bits do, and a maximum of integers needs no order: the compiler makes vectors of it.
    let bits = x.iter().fold(least.to_bits(), |most, v| most.max(v.to_bits() & 0x7fff_ffff));
    let most = f32::from_bits(bits);
    if !most.is_finite() {
        to.fill(0);
        return f32::NAN;
    }
    let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
    for (to, &v) in to.iter_mut().zip(x) {
        // The integer is in the low byte after the addition.
        *to = (v * inverse + ROUND).to_bits() as i8;
    }
    most / 127.0
}

const LOG2E: f32 = std::f32::consts::LOG2_E;
/// ln 2 to nine bits, and the rest of it.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// 1.5·2²³: adding it rounds to an integer, which is then in the low bits.
const ROUND: f32 = 12_582_912.0;

/// `e^x` for |x| ≤ 87, relative error below 2e-7: `2^n · 2^f` with a minimax polynomial of 2^f on |f| ≤ ½ (2e-9). `n·LN2_HIGH` is
/// exact, with or without fused multiply-adds.
#[inline(always)]
pub(super) unsafe fn exp<V: Vector>(x: V) -> V {
    unsafe {
        let shifted = x.fma(V::splat(LOG2E), V::splat(ROUND));
        let n = shifted.sub(V::splat(ROUND));
        let rest = n.fma(V::splat(-LN2_LOW), n.fma(V::splat(-LN2_HIGH), x));
        let f = rest.mul(V::splat(LOG2E));
        let mut p = V::splat(1.535_336_2e-4);
        for c in [1.339_887_5e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0] {
            p = p.fma(f, V::splat(c));
        }
        p.scale_exponent(shifted)
    }
}

/// As [`exp`] over its whole range: 0 and infinity where f32 ends.
#[inline(always)]
pub(super) unsafe fn exp_any<V: Vector>(x: V) -> V {
    unsafe {
        let inside = V::splat(-87.0).max(V::splat(88.0).min(x));
        // What was cut off, as a second factor: e^(x − inside), itself cut off where the product has long saturated.
        let rest = V::splat(-30.0).max(V::splat(30.0).min(x.sub(inside)));
        exp(inside).mul(exp(rest))
    }
}

/// `e^−x` for the gates: |x| is cut at 40, where the sigmoid is within 5e-18 of its limit and no product below overflows; relative
/// error 3e-7 (polynomial 1e-7, the rest from rounding log₂e).
#[inline(always)]
unsafe fn exp_of_gate<V: Vector>(x: V) -> V {
    unsafe {
        let x = V::splat(-40.0).max(V::splat(40.0).min(x));
        let shifted = x.fma(V::splat(-LOG2E), V::splat(ROUND));
        let n = shifted.sub(V::splat(ROUND));
        let f = V::splat(0.0).sub(x.fma(V::splat(LOG2E), n));
        let mut p = V::splat(1.326_472_7e-3);
        for c in [9.671_513e-3, 5.550_733_7e-2, 2.402_224_2e-1, 6.931_47e-1, 1.0] {
            p = p.fma(f, V::splat(c));
        }
        p.scale_exponent(shifted)
    }
}

/// Numerator and denominator of `tanh x = x·P(x²) / Q(x²)`: minimax on |x| ≤ 7.9 (1.7e-8 relative; with f32 rounding 2.8e-7),
/// the value there being the largest f32 below 1.
#[inline(always)]
unsafe fn tanh_parts<V: Vector>(x: V) -> (V, V) {
    unsafe {
        let x = V::splat(-7.9).max(V::splat(7.9).min(x));
        let u = x.mul(x);
        let mut p = V::splat(2.410_568_9e-11);
        for c in [-1.490_646_3e-8, 9.939_268e-6, 2.992_106_5e-3, 1.298_491_9e-1, 1.0] {
            p = p.fma(u, V::splat(c));
        }
        let mut q = V::splat(2.380_881e-4);
        for c in [2.405_313_3e-2, 4.631_823_6e-1, 1.0] {
            q = q.fma(u, V::splat(c));
        }
        (x.mul(p), q)
    }
}

/// Hyperbolic tangent, absolute and relative error below 3e-7.
#[inline(always)]
pub(super) unsafe fn tanh<V: Vector>(x: V) -> V {
    unsafe {
        let (p, q) = tanh_parts(x);
        p.div(q)
    }
}

/// Logistic function, absolute error below 1.2e-7.
#[inline(always)]
pub(super) unsafe fn sigmoid<V: Vector>(x: V) -> V {
    unsafe { V::splat(1.0).div(V::splat(1.0).add(exp_of_gate(x))) }
}

/// Stores the elements of a register that exist.
#[inline(always)]
unsafe fn store_part<V: Vector>(x: V, to: *mut f32, existing: usize) {
    unsafe {
        if existing >= V::LANES {
            x.store(to);
        } else {
            let mut all = [0.0f32; 16];
            x.store(all.as_mut_ptr());
            to.copy_from_nonoverlapping(all.as_ptr(), existing);
        }
    }
}

/// Loads the elements of a register that exist.
#[inline(always)]
unsafe fn load_part<V: Vector>(from: *const f32, existing: usize) -> V {
    unsafe {
        if existing >= V::LANES {
            return V::load(from);
        }
        let mut all = [0.0f32; 16];
        all.as_mut_ptr().copy_from_nonoverlapping(from, existing);
        V::load(all.as_ptr())
    }
}

/// ```text
/// c' = σ(f)·c + σ(i)·tanh(g)     h = σ(o)·tanh(c')
/// ```
/// with three divisions instead of five: `σ(i)·tanh(g) = p / ((1 + e^−i)·q)` where `tanh g = p / q`.
#[inline(always)]
pub(super) unsafe fn lstm_rows<V: Vector>(s: &LstmRows) {
    unsafe {
        let one = V::splat(1.0);
        for row in 0..s.rows {
            let sums = s.sums.add(row * s.sums_stride);
            let (c, h) = (s.c.add(row * s.state_stride), s.h.add(row * s.state_stride));
            let y = s.y.wrapping_add(row * s.y_stride);
            for block in s.blocks.0..s.blocks.1 {
                for lane in (0..UNITS).step_by(V::LANES) {
                    let gate = |g: usize| V::load(sums.add((block * 4 + g) * UNITS + lane));
                    let unit = block * UNITS + lane;
                    let (p, q) = tanh_parts(gate(2));
                    let written = p.div(one.add(exp_of_gate(gate(0))).mul(q));
                    let kept = V::load(c.add(unit)).div(one.add(exp_of_gate(gate(1))));
                    let next = kept.add(written);
                    next.store(c.add(unit));
                    let (p, q) = tanh_parts(next);
                    let out = p.div(one.add(exp_of_gate(gate(3))).mul(q));
                    out.store(h.add(unit));
                    if unit < s.units && !s.y.is_null() {
                        store_part(out, y.add(unit), s.units - unit);
                    }
                }
            }
        }
    }
}

/// ```text
/// z = σ(xz + rz)   r = σ(xr + rr)   n = tanh(xn + r·rn)   h' = n + z·(h − n)
/// ```
#[inline(always)]
pub(super) unsafe fn gru_rows<V: Vector>(s: &GruRows) {
    unsafe {
        for row in 0..s.rows {
            let (x, r) = (s.input.add(row * s.sums_stride), s.recurrent.add(row * s.sums_stride));
            let h = s.h.add(row * s.state_stride);
            let y = s.y.wrapping_add(row * s.y_stride);
            for block in s.blocks.0..s.blocks.1 {
                for lane in (0..UNITS).step_by(V::LANES) {
                    let at = |g: usize| (block * 3 + g) * UNITS + lane;
                    let unit = block * UNITS + lane;
                    let update = sigmoid(V::load(x.add(at(0))).add(V::load(r.add(at(0)))));
                    let reset = sigmoid(V::load(x.add(at(1))).add(V::load(r.add(at(1)))));
                    let new = tanh(reset.fma(V::load(r.add(at(2))), V::load(x.add(at(2)))));
                    let out = update.fma(V::load(h.add(unit)).sub(new), new);
                    out.store(h.add(unit));
                    if unit < s.units && !s.y.is_null() {
                        store_part(out, y.add(unit), s.units - unit);
                    }
                }
            }
        }
    }
}

/// Applies `f` to every element; the last few by way of a whole register.
#[inline(always)]
unsafe fn map<V: Vector>(x: *mut f32, count: usize, f: impl Fn(V) -> V) {
    unsafe {
        let mut i = 0;
        while i + V::LANES <= count {
            f(V::load(x.add(i))).store(x.add(i));
            i += V::LANES;
        }
        if i < count {
            let mut rest = [0.0f32; 16];
            rest.as_mut_ptr().copy_from_nonoverlapping(x.add(i), count - i);
            f(V::load(rest.as_ptr())).store(rest.as_mut_ptr());
            x.add(i).copy_from_nonoverlapping(rest.as_ptr(), count - i);
        }
    }
}

/// An activation over `count` elements in place.
#[inline(always)]
pub(super) unsafe fn activate<V: Vector>(activation: Activation, x: *mut f32, count: usize) {
    unsafe {
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        // α·(e^x − 1) for negative x, on |x| ≤ 80.
        let expm1 = |v: V| exp(V::splat(-80.0).max(zero.min(v))).sub(one);
        match activation {
            Activation::Linear => {}
            Activation::Relu => map::<V>(x, count, |v| zero.max(v)),
            Activation::ReluN1To1 => map::<V>(x, count, |v| V::splat(-1.0).max(one.min(v))),
            Activation::Relu6 => map::<V>(x, count, |v| zero.max(V::splat(6.0).min(v))),
            Activation::Tanh => map::<V>(x, count, |v| tanh(v)),
            Activation::Sigmoid => map::<V>(x, count, |v| sigmoid(v)),
            Activation::HardSigmoid { alpha, beta } => {
                map::<V>(x, count, |v| zero.max(one.min(v.fma(V::splat(alpha), V::splat(beta)))))
            }
            Activation::LeakyRelu { alpha } => {
                map::<V>(x, count, |v| zero.max(v).add(V::splat(alpha).mul(zero.min(v))))
            }
            Activation::Elu { alpha } => map::<V>(x, count, |v| zero.max(v).add(V::splat(alpha).mul(expm1(v)))),
            Activation::Selu => map::<V>(x, count, |v| {
                let negative = V::splat(SELU_SCALE * SELU_ALPHA).mul(expm1(v));
                V::splat(SELU_SCALE).mul(zero.max(v)).add(negative)
            }),
            Activation::Softsign => map::<V>(x, count, |v| v.div(one.add(v.max(zero.sub(v))))),
            Activation::Swish => map::<V>(x, count, |v| v.mul(sigmoid(v))),
            Activation::Gelu { approximate: true } => map::<V>(x, count, |v| {
                let cubic = v.mul(v).fma(V::splat(0.044_715).mul(v), v);
                // ½·(1 + tanh z) = σ(2z), which keeps the small tail exact.
                v.mul(sigmoid(V::splat(2.0 * SQRT_2_OVER_PI).mul(cubic)))
            }),
            Activation::HardSwish => map::<V>(x, count, |v| {
                v.mul(zero.max(V::splat(6.0).min(v.add(V::splat(3.0))))).mul(V::splat(1.0 / 6.0))
            }),
            Activation::Exponential => map::<V>(x, count, |v| exp_any(v)),
            Activation::SignBit => scalar(x, count, |v| if v < 0.0 { 1.0 } else { 0.0 }),
            Activation::Softplus => scalar(x, count, |v| v.max(0.0) + (-v.abs()).exp().ln_1p()),
            Activation::Gelu { approximate: false } => scalar(x, count, |v| {
                let v = f64::from(v);
                (0.5 * v * (1.0 + erf(v * std::f64::consts::FRAC_1_SQRT_2))) as f32
            }),
        }
    }
}

/// √(2/π).
const SQRT_2_OVER_PI: f32 = 0.797_884_6;
/// Klambauer et al., 2017.
const SELU_SCALE: f32 = 1.050_701;
/// Klambauer et al., 2017.
const SELU_ALPHA: f32 = 1.673_263_2;

unsafe fn scalar(x: *mut f32, count: usize, f: impl Fn(f32) -> f32) {
    // SAFETY: the caller vouches for `count` elements that nobody else uses.
    for v in unsafe { std::slice::from_raw_parts_mut(x, count) } {
        *v = f(*v);
    }
}

/// The error function: its Taylor series, which converges well up to 3, and the continued fraction of its complement beyond.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 3.0 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-17 * sum.abs() {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let mut fraction = a;
    for k in (1..=40).rev() {
        fraction = a + 0.5 * f64::from(k) / fraction;
    }
    (1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())).copysign(x)
}

/// Softmax over rows in place: `e^(beta·(x − max)) / Σ`, or its logarithm.
#[inline(always)]
pub(super) unsafe fn softmax_row<V: Vector>(beta: f32, log: bool, x: *mut f32, count: usize) {
    unsafe {
        let row = std::slice::from_raw_parts_mut(x, count);
        let mut most = f32::NEG_INFINITY;
        for v in row.iter_mut() {
            *v *= beta;
            most = most.max(*v);
        }
        row.iter_mut().for_each(|v| *v -= most);
        if log {
            let sum: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
            let shift = sum.ln() as f32;
            row.iter_mut().for_each(|v| *v -= shift);
        } else {
            map::<V>(x, count, |v| exp_any(v));
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|v| *v /= sum);
        }
    }
}

/// Makes the functions of one instruction set and the table that lists them.
macro_rules! instantiate {
    ($table:ident, $name:literal, [$(#[$features:meta])?], $vector:ty, $dot:ty,
     matrix: $matrix:literal, tall: $tall:literal, tall_bytes: $tall_bytes:literal) => {
        mod compiled {
            use super::*;
            use crate::backend::cpu::simd::kernels::{self, GruRows, LstmRows, Product, ProductI8};
            use crate::graph::op::Activation;
            // SAFETY of each: called through the table only, which is handed out after the features were found present.
            $(#[$features])?
            pub(super) unsafe fn product(p: &Product) {
                unsafe { kernels::product::<$vector, $matrix, $tall>(p) }
            }
            $(#[$features])?
            pub(super) unsafe fn product_i8(p: &ProductI8) {
                unsafe { kernels::product_i8::<$dot, $matrix, $tall_bytes>(p) }
            }
            $(#[$features])?
            pub(super) unsafe fn quantise_row(x: *const f32, to: *mut i8, count: usize, least: f32) -> f32 {
                unsafe { kernels::quantise_row(x, to, count, least) }
            }
            $(#[$features])?
            pub(super) unsafe fn lstm_rows(s: &LstmRows) {
                unsafe { kernels::lstm_rows::<$vector>(s) }
            }
            $(#[$features])?
            pub(super) unsafe fn gru_rows(s: &GruRows) {
                unsafe { kernels::gru_rows::<$vector>(s) }
            }
            $(#[$features])?
            pub(super) unsafe fn activate(activation: Activation, x: *mut f32, count: usize) {
                unsafe { kernels::activate::<$vector>(activation, x, count) }
            }
            $(#[$features])?
            pub(super) unsafe fn softmax_row(beta: f32, log: bool, x: *mut f32, count: usize) {
                unsafe { kernels::softmax_row::<$vector>(beta, log, x, count) }
            }
        }

        /// The kernels of this instruction set.
        pub(crate) static $table: crate::backend::cpu::simd::Table = crate::backend::cpu::simd::Table {
            name: $name,
            matrix_width: $matrix * <$vector as Vector>::LANES,
            vector_width: 8 * <$vector as Vector>::LANES,
            product: compiled::product,
            product_i8: compiled::product_i8,
            quantise_row: compiled::quantise_row,
            lstm_rows: compiled::lstm_rows,
            gru_rows: compiled::gru_rows,
            activate: compiled::activate,
            softmax_row: compiled::softmax_row,
        };
    };
}
pub(super) use instantiate;
