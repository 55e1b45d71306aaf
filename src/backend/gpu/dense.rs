//! `y = activation(x w + b)`: the matrix product behind fully connected layers and the input products of recurrent ones.

use super::buffers::View;
use super::ops::activation;
use super::pipeline::{Kernel, Part, Shader};
use super::record::{Phase, Recorder, Repeat, count};
use crate::error::{Error, Result};
use crate::graph::op::Activation;

/// Most loop iterations of one invocation on a software adapter: llvmpipe ends loops silently after 65,535, summed over all loops.
pub(super) const SOFTWARE_ITERATIONS: u32 = 60_000;

/// One product. `M` rows, depth `K`, `N` columns.
pub(super) struct Dense<'a> {
    /// `[K in eights, ceil(N/4)]` vectors of four columns, see [`pack`] and [`Storing`](super::weights::Storing).
    pub(super) weights: &'a View,
    /// `[ceil(N/4)]` vectors, and the scales of the columns behind them.
    pub(super) bias: &'a View,
    pub(super) x: &'a View,
    /// Where the rows of x lie.
    pub(super) x_rows: Rows,
    pub(super) y: &'a View,
    /// Word of y where row 0 starts; the rows follow without gaps.
    pub(super) y_offset: usize,
    /// Add to what y holds, and leave the bias out; for `N` in fours.
    pub(super) accumulate: bool,
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) columns: usize,
    pub(super) activation: Activation,
    pub(super) phase: Phase,
}

/// Where the rows of a matrix lie: in runs of `inner`, `run` words from one run to the next (modulo 2³², so that it may go
/// backwards), `stride` words from one row of a run to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    pub(super) offset: u32,
    pub(super) inner: u32,
    pub(super) run: u32,
    pub(super) stride: u32,
}

impl Rows {
    /// Rows of `depth` words without gaps.
    pub(super) fn dense(depth: u32) -> Rows {
        Rows { offset: 0, inner: u32::MAX, run: 0, stride: depth }
    }
}

/// Weights `[N, K]` as `[K in eights, ceil(N/4)]` vectors of four columns, zero past the last.
pub(super) fn pack(weights: &[f32], columns: usize, depth: usize) -> Vec<f32> {
    let width = columns.next_multiple_of(4);
    let mut packed = vec![0f32; width * depth.next_multiple_of(8)];
    if depth > 0 {
        for (n, row) in weights.chunks_exact(depth).take(columns).enumerate() {
            for (k, w) in row.iter().enumerate() {
                packed[k * width + n] = *w;
            }
        }
    }
    packed
}

/// A bias `[N]` padded with zeros to whole vectors (zeros when there is none), and the scales of the columns.
pub(super) fn pack_bias(bias: Option<&[f32]>, columns: usize, scales: &[f32]) -> Vec<u32> {
    let mut packed: Vec<u32> = bias.unwrap_or_default().iter().map(|b| b.to_bits()).collect();
    packed.resize(columns.next_multiple_of(4), 0f32.to_bits());
    packed.extend(scales.iter().map(|s| s.to_bits()));
    packed
}

/// Records one product.
pub(super) fn record(ctx: &mut Recorder<'_>, dense: &Dense<'_>) -> Result<()> {
    let (rows, depth, columns) = (count(dense.rows)?, count(dense.depth)?, count(dense.columns)?);
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    if depth == 0 {
        return Err(Error::unsupported("a product over no terms"));
    }
    if ctx.shared.device.software && depth > SOFTWARE_ITERATIONS {
        return Err(Error::limit(format!(
            "a sum over {depth} terms, the software driver allows {SOFTWARE_ITERATIONS}"
        )));
    }
    let quads = columns.div_ceil(4);
    let tile = if rows >= 5 { 8 } else { rows.next_power_of_two() };
    let [weights, products] = ctx.shared.product_parts();
    let Rows { offset, run, stride, .. } = dense.x_rows;
    let whole = [depth, offset, run, stride].iter().all(|n| n % 4 == 0) && dense.x.size.is_multiple_of(16);
    let x = if whole { Part::XQuads } else { Part::XWords };
    let kernel = Kernel::with_parts(Shader::DenseDirect, &[weights, products, x])
        .with("SCALED", ctx.shared.storing().scaled())
        .with("ROWS", tile)
        .with("ACCUMULATE", u8::from(dense.accumulate));
    let kernel = activation::fused(kernel, dense.activation);
    let Rows { offset, inner, run, stride } = dense.x_rows;
    let y_offset = count(dense.y_offset)?;
    let params = [rows, depth, quads, columns, columns, y_offset, offset, inner, run, stride];
    let bindings = [dense.weights, dense.x, dense.bias, dense.y];
    let groups = ctx.linear(quads.next_multiple_of(8) * rows.div_ceil(tile), 64);
    ctx.dispatch_repeated(&kernel, &bindings, &params, groups, Repeat::ONCE, dense.phase)
}
