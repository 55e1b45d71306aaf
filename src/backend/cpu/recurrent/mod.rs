//! The recurrent layer: for a chunk of steps one product of all inputs with the input weights, then
//! step by step the recurrent product and the cell.

mod cell;
mod policy;
mod row_block;
mod unit_parallel;
mod unit_range;
mod weights;

use std::ops::Range;

use std::sync::Arc;
use std::time::Instant;

use super::simd::{Grid, KernelSet, Pool, Storage, Window, for_each_part};
use crate::backend::{BackendOptions, Precision};
use crate::error::{Error, Result};
use crate::graph::Recurrent;
use crate::graph::recurrent::{Layout, Merge, Source};

use policy::ParallelPolicy;
use row_block::RowBlock;
use unit_parallel::UnitParallel;
use weights::{Packing, Weights};

/// Rows of the input product of one chunk, about: enough for the product to run at full speed, few
/// enough for the sums to stay in the second- or third-level cache until the steps use them.
const CHUNK_ROWS: usize = 128;

/// Which steps are computed.
#[derive(Clone, Copy)]
pub(super) enum Mask<'a> {
    /// All of them.
    None,
    /// The first ones of each row.
    Lengths(&'a [usize]),
    /// Those where the mask holds, laid out as the input.
    Flags(&'a [bool]),
}

/// What a run reads: by direction where there are two.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    pub x: &'a [f32],
    pub auxiliary: Option<&'a [f32]>,
    pub mask: Mask<'a>,
    pub h0: [Option<&'a [f32]>; 2],
    pub c0: [Option<&'a [f32]>; 2],
}

/// What a run writes, where it is wanted.
#[derive(Default)]
pub(super) struct Results<'a> {
    pub y: [Option<&'a mut [f32]>; 2],
    pub h_n: [Option<&'a mut [f32]>; 2],
    pub c_n: [Option<&'a mut [f32]>; 2],
}

/// The batch rows of one direction as parts. Twice as many as there are threads where the rows
/// allow it, so that a thread that is held up leaves the rest to the others; but every part reads
/// all weights at every step, so it needs enough rows to be worth that: eight while the weights fit
/// the second-level cache, sixteen beyond, 32 from 1,024 units, where 64 rows in four parts gained
/// 1.59 on two threads and in two parts 1.84.
fn split_rows(batch: usize, units: usize, directions: usize, threads: usize) -> Vec<Range<usize>> {
    let least = match units {
        ..=128 => 8,
        129..1024 => 16,
        1024.. => 32,
    };
    let wanted = (2 * threads).div_ceil(directions.max(1));
    let parts = if threads == 1 {
        1
    } else if batch >= wanted * least {
        wanted
    } else {
        threads.div_ceil(directions.max(1)).min(batch / 4).max(1)
    };
    (0..parts).map(|part| part * batch / parts..(part + 1) * batch / parts).collect()
}

/// The work of a layer in parts, and by output the windows of those that write to it.
struct Partition {
    parts: Vec<RowBlock>,
    windows: [Vec<Window>; 2],
}

impl Partition {
    fn new(
        op: &Recurrent,
        shape: &Shape,
        directions: &[Arc<Weights>],
        chunk: usize,
        threads: usize,
    ) -> Partition {
        let mut partition = Partition { parts: Vec::new(), windows: [Vec::new(), Vec::new()] };
        for (index, weights) in directions.iter().enumerate() {
            for rows in split_rows(shape.batch, weights.units, directions.len(), threads) {
                let window = Window {
                    part: partition.parts.len(),
                    rows: rows.clone(),
                    columns: 0..weights.output_width,
                };
                if let Some(windows) = partition.windows.get_mut(index) {
                    windows.push(window);
                }
                partition.parts.push(RowBlock::new(index, rows, chunk, shape, weights));
            }
        }
        if let (Merge::Concat, [first, second]) = (op.merge, directions) {
            let (left, right) = (first.output_width, second.output_width);
            let [to, from] = &mut partition.windows;
            to.append(from);
            for window in to.iter_mut() {
                if partition.parts.get(window.part).is_some_and(|part| part.direction == 1) {
                    window.columns = left..left + right;
                }
            }
        }
        partition
    }
}

/// A layer made ready: packed weights, and the buffers of each part of the work.
pub(super) struct Layer {
    op: Recurrent,
    shape: Shape,
    directions: Vec<Arc<Weights>>,
    /// For one thread: the rows of a direction together.
    whole: Partition,
    /// For several threads, where the rows or directions can be shared out.
    shared: Option<Partition>,
    /// Threads that share the units of a single row.
    group: Option<UnitParallel>,
    policy: ParallelPolicy,
    kernels: &'static KernelSet,
}

/// Sizes and order of the operands.
#[derive(Clone, Copy)]
struct Shape {
    steps: usize,
    batch: usize,
    inputs: usize,
    auxiliary: usize,
    time_major: bool,
}

impl Layer {
    /// Packs the weights of `op` for an input of shape `x` (and auxiliary input), partition the work
    /// out for up to `threads` threads and allocates every buffer.
    ///
    /// # Errors
    /// [`InvalidGraph`](crate::ErrorKind::InvalidGraph) when shapes do not fit together,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for arithmetic that is not float.
    pub fn new(
        op: &Recurrent,
        x: &[usize],
        auxiliary: Option<&[usize]>,
        kernels: &'static KernelSet,
        options: &BackendOptions,
        threads: usize,
    ) -> Result<Layer> {
        let &[first, second, inputs] = x else {
            return Err(Error::graph(format!(
                "a recurrent layer's input has three axes, not {x:?}"
            )));
        };
        let time_major = op.layout == Layout::TimeMajor;
        let (steps, batch) = if time_major { (first, second) } else { (second, first) };
        let shape = Shape {
            steps,
            batch,
            inputs,
            auxiliary: auxiliary.and_then(|a| a.last()).copied().unwrap_or(0),
            time_major,
        };
        let storage = match options.precision {
            Precision::Full => Storage::F32,
            Precision::Int8 => Storage::I8,
            Precision::F16 => Storage::F16,
            Precision::Bf16 => Storage::Bf16,
        };
        let chunk = (CHUNK_ROWS / batch.max(1)).clamp(1, steps.max(1));
        let mut directions = Vec::new();
        for (index, direction) in op.directions.iter().enumerate() {
            let packing = Packing { kernels, storage, input_rows: chunk * batch, step_rows: batch };
            let weights = Weights::pack(&op.cell, &direction.weights, &packing)?;
            let width =
                if direction.source == Source::Auxiliary { shape.auxiliary } else { inputs };
            if weights.input.depth() != width {
                return Err(Error::graph(format!(
                    "direction {index}: input weights for {} columns, the input has {width}",
                    weights.input.depth()
                )));
            }
            directions.push(Arc::new(weights));
        }
        let whole = Partition::new(op, &shape, &directions, chunk, 1);
        let shared = Some(threads)
            .filter(|&threads| threads > 1)
            .map(|threads| Partition::new(op, &shape, &directions, chunk, threads))
            .filter(|partition| partition.parts.len() > 1);
        let mut group = None;
        if let (None, [weights]) = (&shared, directions.as_slice())
            && batch == 1
            && weights.units >= unit_parallel::LEAST_UNITS
            && threads > 1
            && row_block::is_fused_lstm(op, weights)
            && weights.auxiliary.is_none()
            && !op.directions.iter().any(|direction| direction.source == Source::Auxiliary)
        {
            group = UnitParallel::new(op, &shape, weights, kernels, chunk, threads)?;
        }
        Ok(Layer {
            op: op.clone(),
            shape,
            directions,
            whole,
            shared,
            group,
            policy: ParallelPolicy::new(),
            kernels,
        })
    }

    /// Runs the layer over all steps.
    ///
    /// # Errors
    /// [`Internal`](crate::ErrorKind::Internal) when a buffer does not have the planned size.
    pub fn run(
        &mut self,
        pool: Option<&Pool>,
        operands: &Operands<'_>,
        results: Results<'_>,
    ) -> Result<()> {
        let Layer { op, shape, directions, whole, shared, group, policy, kernels } = self;
        // A group has no masks, and cannot begin while a worker is held up.
        let mut group =
            group.as_mut().filter(|group| matches!(operands.mask, Mask::None) && group.is_ready());
        let is_shared = (group.is_some() || shared.is_some()) && policy.is_parallel_due();
        let partition = match shared {
            Some(partition) if is_shared => partition,
            _ => whole,
        };
        let width = |output: usize| match (op.merge, directions.as_slice()) {
            (Merge::Concat, [first, second]) => first.output_width + second.output_width,
            _ => directions.get(output).map_or(0, |weights| weights.output_width),
        };
        let Results { y: [y0, y1], mut h_n, mut c_n } = results;
        let Partition { parts, windows: [windows0, windows1] } = partition;
        let sizes = |output: usize| [shape.steps, shape.batch, width(output)];
        let grids = [
            y0.map(|y| Grid::new(y, sizes(0), shape.time_major, windows0)).transpose()?,
            y1.map(|y| Grid::new(y, sizes(1), shape.time_major, windows1)).transpose()?,
        ];
        let began = Instant::now();
        let mut finished = true;
        if let (true, Some(group), [weights], [part]) =
            (is_shared, group.as_mut(), directions.as_slice(), parts.as_mut_slice())
        {
            let [grid, _] = grids;
            let mut view = grid.and_then(|grid| grid.into_view(0));
            let context = row_block::Context { op, shape, weights, kernels, operands };
            finished = group.run(part, &context, &mut view, policy.alone())?;
        } else {
            for_each_part(pool.filter(|_| is_shared), parts, &grids, |part, view| {
                let weights = directions
                    .get(part.direction)
                    .ok_or_else(|| Error::internal("a part of a direction that is not there"))?;
                part.run(&row_block::Context { op, shape, weights, kernels, operands }, view)
            })?;
        }
        match (is_shared, finished) {
            (true, true) => policy.record_parallel(began.elapsed()),
            (true, false) => policy.failed(),
            (false, _) => policy.record_serial(began.elapsed()),
        }
        for part in parts.iter() {
            let d = part.direction;
            if let Some(h) = h_n.get_mut(d).and_then(Option::as_mut) {
                part.final_h(h)?;
            }
            if let Some(c) = c_n.get_mut(d).and_then(Option::as_mut) {
                part.final_c(c)?;
            }
        }
        Ok(())
    }
}

impl Layer {
    /// What was chosen, in words.
    pub fn note(&self) -> String {
        format!("{} {}, {}", self.op.cell.name(), self.kernels.name, self.describe())
    }

    fn describe(&self) -> String {
        match (&self.group, &self.shared) {
            (Some(group), _) => format!("units shared by {} threads", group.threads()),
            (None, None) => "one thread".to_owned(),
            (None, Some(partition)) => {
                format!("{} parts of the rows and directions", partition.parts.len())
            }
        }
    }

    /// Whether there is work for more than one thread.
    pub fn is_shared_out(&self) -> bool {
        self.shared.is_some()
    }

    /// Multiply-adds of a run, each counted as two operations.
    pub fn operations(op: &Recurrent, x: &[usize]) -> u64 {
        let gates = op.cell.gate_blocks();
        let weights: usize = op
            .directions
            .iter()
            .map(|d| {
                d.weights.input.data.len()
                    + d.weights.units(gates) * d.weights.output_width(gates) * gates
            })
            .sum();
        let rows: usize = x.iter().take(2).product();
        2 * (rows as u64).saturating_mul(weights as u64)
    }
}
