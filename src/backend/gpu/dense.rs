//! `y = activation(x w + b)`: the matrix product behind fully connected layers and the input
//! products of recurrent ones.

use super::buffers::View;
use super::device::Device;
use super::ops::activation;
use super::pipeline::{Kernel, Part, Shader};
use super::record::{Phase, Recorder, Repeat, count};
use crate::backend::Product;
use crate::error::{Error, Result};
use crate::graph::op::Activation;

/// Most loop iterations of one invocation on a software adapter: llvmpipe ends loops silently after
/// 65,535, summed over all loops.
pub(super) const SOFTWARE_ITERATIONS: u32 = 60_000;

/// One product. `M` rows, depth `K`, `N` columns.
pub(super) struct Dense<'a> {
    /// `[K in eights, ceil(N/4)]` vectors of four columns, see [`pack`] and
    /// [`Storing`](super::weights::Storing).
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

/// Where the rows of a matrix lie: in runs of `inner`, `run` words from one run to the next (modulo
/// 2³², so that it may go backwards), `stride` words from one row of a run to the next.
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

/// A bias `[N]` padded with zeros to whole vectors (zeros when there is none), and the scales of
/// the columns.
pub(super) fn pack_bias(bias: Option<&[f32]>, columns: usize, scales: &[f32]) -> Vec<u32> {
    let mut packed: Vec<u32> = bias.unwrap_or_default().iter().map(|b| b.to_bits()).collect();
    packed.resize(columns.next_multiple_of(4), 0f32.to_bits());
    packed.extend(scales.iter().map(|s| s.to_bits()));
    packed
}

/// Fewest rows for which a tile of 64 is not mostly empty.
const TILED_ROWS: u32 = 32;
/// Fewest tiles of 128 by 128 that keep the 132 multiprocessors of the largest devices busy; below,
/// there are four times as many of 64.
const LARGE_TILES: u32 = 256;
/// Terms that `dense_tiled.wgsl` lays out at a time, times its tile.
const TILE_TERMS: u32 = 1024;

/// Loop iterations of one invocation for a sum over `depth` terms.
fn iterations(product: Product, depth: u32) -> u32 {
    let tiled = |tile: u32| depth.div_ceil(TILE_TERMS / tile).saturating_mul(1 + TILE_TERMS / tile);
    match product {
        Product::Direct | Product::Cooperative => depth,
        Product::Tiled64 => tiled(64),
        Product::Tiled128 => tiled(128),
    }
}

/// The form for a product of `rows` by `columns`: on the software driver always the direct one,
/// which is three times faster there.
fn planned(device: &Device, rows: u32, columns: u32) -> Product {
    if device.software || rows < TILED_ROWS {
        return Product::Direct;
    }
    let large = u64::from(rows.div_ceil(128)) * u64::from(columns.div_ceil(128));
    if large >= u64::from(LARGE_TILES) { Product::Tiled128 } else { Product::Tiled64 }
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
    let device = &ctx.shared.device;
    let product = ctx.shared.options.product.unwrap_or_else(|| planned(device, rows, columns));
    if device.software && iterations(product, depth) > SOFTWARE_ITERATIONS {
        return Err(Error::limit(format!(
            "a sum over {depth} terms by the {product} product: the software driver ends loops after {SOFTWARE_ITERATIONS}"
        )));
    }
    let note = format!("products of {rows} rows, {depth} terms, {columns} columns: {product}");
    if !ctx.notes.contains(&note) {
        ctx.notes.push(note);
    }
    let quads = columns.div_ceil(4);
    let [weights, products] = ctx.shared.product_parts(dense.weights);
    let Rows { offset, inner, run, stride } = dense.x_rows;
    let whole =
        [depth, offset, run, stride].iter().all(|n| n % 4 == 0) && dense.x.size.is_multiple_of(16);
    let x = if whole { Part::XQuads } else { Part::XWords };
    let tiled = |tile: u32| {
        let kernel = Kernel::with_parts(Shader::DenseTiled, &[weights, x]).with("TILE", tile);
        (kernel, ctx.linear(rows.div_ceil(tile) * columns.div_ceil(tile), 1))
    };
    let (kernel, groups) = match product {
        Product::Direct => {
            let tile = if rows >= 5 { 8 } else { rows.next_power_of_two() };
            let kernel =
                Kernel::with_parts(Shader::DenseDirect, &[weights, products, x]).with("ROWS", tile);
            (kernel, ctx.linear(quads.next_multiple_of(8) * rows.div_ceil(tile), 64))
        }
        Product::Tiled64 => tiled(64),
        Product::Tiled128 => tiled(128),
        Product::Cooperative => {
            let matrices = device.cooperative.ok_or_else(|| {
                Error::input("the cooperative product does not apply: the device was opened without cooperative matrices")
            })?;
            let kernel = Kernel::with_parts(Shader::DenseCooperative, &[weights, x, matrices.part]);
            (kernel.with("LANES", matrices.lanes), ctx.linear(matrices.groups(rows, columns), 1))
        }
    };
    let kernel = kernel
        .with("SCALED", ctx.shared.storing().scaled())
        .with("ACCUMULATE", u8::from(dense.accumulate));
    let kernel = activation::fused(kernel, dense.activation);
    let y_offset = count(dense.y_offset)?;
    let params = [rows, depth, quads, columns, columns, y_offset, offset, inner, run, stride];
    let bindings = [dense.weights, dense.x, dense.bias, dense.y];
    ctx.dispatch_repeated(&kernel, &bindings, &params, groups, Repeat::ONCE, dense.phase)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{max_abs, noise, open, run_once};
    use super::*;
    use crate::backend::{BackendOptions, Precision};
    use crate::graph::op::FullyConnected;
    use crate::graph::{Graph, Op, Port, ValueType};
    use crate::tensor::{DType, Tensor};

    /// `relu6(x w + b)` with the form of these options, and by the definition in f64.
    fn product(options: &BackendOptions, [m, k, n]: [usize; 3]) -> Option<(Vec<f32>, Vec<f32>)> {
        let gpu = open(options)?;
        let (x, b) = (noise(1, m * k), noise(2, n));
        let w: Vec<f32> = noise(3, n * k).iter().map(|w| 2.0 * w / (k as f32).sqrt()).collect();
        let mut graph = Graph::default();
        let from = graph.add_value("x", ValueType::fixed(DType::F32, &[m, k]));
        let weights = graph.add_constant("w", Tensor::from_slice(&[n, k], &w).unwrap());
        let bias = graph.add_constant("b", Tensor::from_slice(&[n], &b).unwrap());
        let to = graph.add_value("y", ValueType::fixed(DType::F32, &[m, n]));
        let op = FullyConnected {
            activation: Activation::Relu6,
            keep_leading_axes: false,
            asymmetric_inputs: false,
        };
        graph.add_node(
            "",
            Op::FullyConnected(op),
            vec![Some(from), Some(weights), Some(bias)],
            vec![Some(to)],
        );
        graph.inputs.push(Port { name: "x".into(), value: from });
        graph.outputs.push(Port { name: "y".into(), value: to });
        let want = (0..m * n).map(|i| {
            let (row, column) = (i / n, i % n);
            let sum: f64 =
                (0..k).map(|j| f64::from(x[row * k + j]) * f64::from(w[column * k + j])).sum();
            (sum + f64::from(b[column])).clamp(0.0, 6.0) as f32
        });
        let want = want.collect();
        let got = run_once(&gpu, graph, &[Tensor::from_slice(&[m, k], &x).unwrap()]).remove(0);
        Some((got.into_vec().unwrap(), want))
    }

    #[test]
    fn tiles_of_every_shape() {
        let shapes = [
            [1, 1, 1],
            [64, 16, 64],
            [65, 17, 67],
            [63, 40, 130],
            [130, 33, 5],
            [129, 12, 257],
            [200, 100, 20],
        ];
        for form in [Product::Tiled64, Product::Tiled128] {
            for (index, shape) in shapes.into_iter().enumerate() {
                let options = BackendOptions {
                    product: Some(form),
                    checked_shaders: index % 2 == 0 || index > 4,
                    ..BackendOptions::default()
                };
                let Some((got, want)) = product(&options, shape) else { return };
                let error = max_abs(&got, &want);
                assert!(error < 2e-6, "{form} {shape:?}: {error}");
            }
        }
    }

    /// Sums of weights rounded to 11 and 8 bits: a wrong scale or column would be off by the order
    /// of 1.
    #[test]
    fn tiles_of_rounded_weights() {
        for (precision, tolerance) in [(Precision::F16, 5e-3), (Precision::Int8, 5e-2)] {
            for form in [Product::Tiled64, Product::Tiled128] {
                let options =
                    BackendOptions { precision, product: Some(form), ..BackendOptions::default() };
                let Some((got, want)) = product(&options, [70, 34, 135]) else { return };
                let error = max_abs(&got, &want);
                assert!(error < tolerance && error > 0.0, "{form} {precision:?}: {error}");
            }
        }
    }

    /// Opened and right, or refused with what the adapter lists. The software driver lists nothing
    /// of use.
    #[test]
    fn cooperative_matrices_are_right_or_refused() {
        let Some(gpu) = open(&BackendOptions::default()) else { return };
        let product_of = |precision| BackendOptions {
            precision,
            product: Some(Product::Cooperative),
            uncached: true,
            ..BackendOptions::default()
        };
        for (precision, tolerance) in
            [(Precision::Full, 2e-6), (Precision::F16, 5e-3), (Precision::Int8, 5e-2)]
        {
            let options = product_of(precision);
            if let Err(refused) =
                super::super::Gpu::open(&crate::backend::AdapterSelector::Any, &options)
            {
                assert_eq!(refused.kind(), crate::ErrorKind::Unsupported);
                assert!(
                    refused.to_string().contains("cooperative matrices it lists: "),
                    "{refused}"
                );
                continue;
            }
            assert!(!gpu.shared.device.software, "{precision:?}");
            for shape in [[1, 1, 1], [64, 16, 64], [65, 17, 67], [130, 33, 5], [129, 12, 257]] {
                let Some((got, want)) = product(&options, shape) else { return };
                let error = max_abs(&got, &want);
                assert!(error < tolerance, "{precision:?} {shape:?}: {error}");
            }
        }
    }

    #[test]
    fn the_form_follows_the_device_and_the_size() {
        let Some(gpu) = open(&BackendOptions::default()) else { return };
        let device = &gpu.shared.device;
        let [few, one, many] =
            [(31, 4096), (32, 256), (32 * 128, 1024)].map(|(m, n)| planned(device, m, n));
        let tiled = |form: Product| if device.software { Product::Direct } else { form };
        assert_eq!(
            [few, one, many],
            [Product::Direct, tiled(Product::Tiled64), tiled(Product::Tiled128)]
        );
        assert_eq!(iterations(Product::Tiled64, 17), 34);
    }
}
