//! The product of f32 rows with packed weights of f32 or 16 bits.

// A loop's index is the number of a register tile's row or column, and often indexes several tiles;
// iterators would hide that.
#![allow(clippy::needless_range_loop)]

use super::super::vector::Vector;

/// How the elements of a packed matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    F32,
    F16,
    Bf16,
    /// Int8 with a scale for each column, four steps of the depth together.
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

/// `C[rows, columns] = start + A[rows, depth] · B[depth, columns]` with packed B: panels of `width`
/// columns, each `depth × width`.
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

/// How far ahead, in bytes, weights that are read once are asked for. The hardware's own
/// prefetchers stop at pages of 4 KiB, of which a panel has many. Measured for one row, µs without
/// and with: int8 of H = 512 18.6 and 15.5, of 1024 70 and 62; f32 of 512 56.5 and 54.1, of 1024
/// 294 and 289. With four times the distance it is slower than without.
pub(super) const PREFETCH: usize = 4096;
/// Bytes of weights above which they are asked for: below, they are in the second-level cache, and
/// asking costs (8 % at H = 64).
pub(super) const FAR: usize = 256 << 10;

/// Tiles of a panel from which its successor is asked for: 4 % faster with eleven of them (64 rows,
/// H = 1024), 4 % slower with three (16 rows, H = 256), of which each would have to ask for too
/// much.
const MANY_TILES: usize = 5;

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

/// A tile of C, `R` rows by `N` registers, kept in registers over the whole depth. `AHEAD`: weights
/// are far and asked for.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn tile<V: Vector, W: Weight, const N: usize, const R: usize, const AHEAD: bool>(
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
        // Four steps of the depth at a time: constant offsets instead of address arithmetic for
        // every row.
        for _ in 0..depth / 4 {
            if AHEAD && R == 1 {
                for line in (0..4 * N * V::LANES * size_of::<W>()).step_by(64) {
                    V::prefetch(b.cast::<u8>().wrapping_add(PREFETCH + line));
                }
            }
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
/// Those of several rows ask for a share of panel `next` each, which otherwise the first tile there
/// would wait for.
#[inline(always)]
unsafe fn panel<V: Vector, W: Weight, const N: usize, const TALL: usize, const AHEAD: bool>(
    p: &Product,
    index: usize,
    rows: (usize, usize),
    depths: (usize, usize),
    next: usize,
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
        let (ahead, share) = (
            p.b.cast::<W>().wrapping_add((next * p.depth + first) * width),
            depth * width / tiles.max(1),
        );
        for left in (1..=tiles).rev() {
            if AHEAD && TALL > 1 && tiles >= MANY_TILES {
                let begin = ahead.wrapping_add((left - 1) * share).cast::<u8>();
                for line in (0..share * size_of::<W>()).step_by(64) {
                    V::prefetch_to_second_level(begin.wrapping_add(line));
                }
            }
            let tall = (rows.1 - row).div_ceil(left);
            let a = p.a.add(row * p.a_stride + first);
            let c = p.c.add(row * p.c_stride + column);
            if existing == width {
                any_tile::<V, W, N, TALL, AHEAD>(
                    tall, depth, a, p.a_stride, b, c, p.c_stride, start,
                );
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
                any_tile::<V, W, N, TALL, AHEAD>(
                    tall,
                    depth,
                    a,
                    p.a_stride,
                    b,
                    edge.as_mut_ptr(),
                    width,
                    Start::Accumulate,
                );
                for r in 0..tall {
                    c.add(r * p.c_stride)
                        .copy_from_nonoverlapping(edge.as_ptr().add(r * width), existing);
                }
            }
            row += tall;
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn any_tile<V: Vector, W: Weight, const N: usize, const TALL: usize, const AHEAD: bool>(
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
            match tall { $($r if $r <= TALL => unsafe { tile::<V, W, N, $r, AHEAD>(depth, a, a_stride, b, c, c_stride, start) },)* _ => {} }
        };
    }
    rows!(6 5 4 3 2 1)
}

#[inline(always)]
unsafe fn blocks<V: Vector, W: Weight, const N: usize, const TALL: usize, const AHEAD: bool>(
    p: &Product,
) {
    let mut row = 0;
    while row < p.rows {
        let rows = (row, (row + ROW_BLOCK).min(p.rows));
        let mut first = 0;
        loop {
            // One row has no use for a block of the depth: every weight is read once.
            let depths =
                (first, if TALL == 1 { p.depth } else { (first + DEPTH_BLOCK).min(p.depth) });
            for step in 0..p.panels.1 - p.panels.0 {
                let index = if p.backwards { p.panels.1 - 1 - step } else { p.panels.0 + step };
                let next = if p.backwards { index.saturating_sub(1) } else { index + 1 };
                unsafe { panel::<V, W, N, TALL, AHEAD>(p, index, rows, depths, next) };
            }
            first = depths.1;
            if first >= p.depth {
                break;
            }
        }
        row = rows.1;
    }
}

/// The whole product, on panels of `MATRIX` or eight registers. `MATRIX` registers and `TALL` rows:
/// the tile that this instruction set has registers for.
#[inline(always)]
pub(crate) unsafe fn product<V: Vector, const MATRIX: usize, const TALL: usize>(p: &Product) {
    macro_rules! by_width {
        ($w:ty) => {
            unsafe {
                let far = (p.panels.1 - p.panels.0) * p.width * p.depth * size_of::<$w>() > FAR;
                match (p.width == MATRIX * V::LANES, far) {
                    (true, false) => blocks::<V, $w, MATRIX, TALL, false>(p),
                    (true, true) => blocks::<V, $w, MATRIX, TALL, true>(p),
                    (false, false) => blocks::<V, $w, 8, 1, false>(p),
                    (false, true) => blocks::<V, $w, 8, 1, true>(p),
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
