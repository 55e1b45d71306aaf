//! The recurrent layer on the GPU: the input product of many steps as one matrix product
//! ([`projection`]), then the recurrence by one of several strategies, one file each. [`choose`]
//! says which.
//!
//! Directions of equal form run in the same dispatches. Nothing is read back inside a sequence.

mod choose;
mod loop_;
mod loop_split;
mod pack;
mod persistent;
mod projection;
mod stages;
mod step;
mod wave;

use std::sync::Arc;

use super::buffers::{View, Word, aligned};
use super::ops::activation;
use super::pipeline::Kernel;
use super::record::{Operand, Recorder, count};
use super::weights::Storing;
use crate::error::{Error, Result};
use crate::graph::op::Activation;
use crate::graph::recurrent::{Arithmetic, Cell, CellWeights, Direction, Layout, Masking, Merge};
use crate::graph::{Node, Recurrent};
use choose::Prepared;
use pack::Extras;
pub(super) use persistent::{Look, Trust, probe};
pub(super) use wave::{Stack, record as record_wave, stacks};

/// Most bytes of input products held at a time; longer sequences go in chunks. Enough for 128 steps
/// of 64 rows of 512 units.
const CHUNK_BYTES: u64 = 64 << 20;

/// What changes the kernel; each is an override of `recurrent.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Options {
    peephole: bool,
    layer_norm: bool,
    projection: bool,
    diagonal: bool,
    reset_before: bool,
    /// A layer of a stack that runs as a wave: its sums start from the bias, and take in the layer
    /// below.
    stacked: bool,
}

/// Directions of a layer that have the same sizes and options, with their operands.
struct Layer<'a> {
    op: &'a Recurrent,
    /// Indices of the directions, in the order of the kernel's `d`.
    directions: Vec<usize>,
    options: Options,
    time: usize,
    batch: usize,
    units: usize,
    width: usize,
    x: Operand,
    auxiliary: Option<Operand>,
    mask: Option<Operand>,
    extras: Extras,
    storing: Storing,
}

/// The memory of a layer as its kernels bind it, and its strides in words.
#[derive(Clone)]
struct Memory {
    weights: View,
    inputs: View,
    extras: View,
    mask: View,
    h: View,
    c: View,
    y: View,
    /// What one stage of a step leaves for the next; see [`stages`].
    gated: Option<View>,
    /// y is wanted.
    keep: bool,
    chunk_steps: usize,
    h_slot: usize,
    h_direction: usize,
    c_direction: usize,
    y_first: usize,
    y_step: usize,
    y_row: usize,
    y_direction: usize,
}

impl Memory {
    fn bindings(&self) -> [&View; 7] {
        [&self.weights, &self.inputs, &self.extras, &self.mask, &self.h, &self.c, &self.y]
    }
}

/// Numbers as words.
fn words(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Records a recurrent layer.
pub(super) fn record(ctx: &mut Recorder<'_>, node: &Node, op: &Recurrent) -> Result<()> {
    if op.arithmetic != Arithmetic::Float {
        return Err(Error::unsupported("the gpu backend runs the float form of a layer"));
    }
    if op.gate_clip.is_some() {
        return Err(Error::unsupported("bounds of what goes into the gates are the host's"));
    }
    let mut layers: Vec<Layer<'_>> = Vec::new();
    for (index, direction) in op.directions.iter().enumerate() {
        let layer = Layer::new(ctx, node, op, index, direction)?;
        match layers.iter_mut().find(|l| l.runs_with(&layer)) {
            Some(first) => first.directions.push(index),
            None => layers.push(layer),
        }
    }
    let outputs = Outputs::new(ctx, node, op, &layers)?;
    for layer in &layers {
        layer.record(ctx, node, &outputs)?;
    }
    Ok(())
}

/// Where y goes: one block for both directions.
struct Outputs {
    y: View,
    keep: bool,
    /// Words of one row of one step.
    row: usize,
    /// Word where each direction starts.
    first: [usize; 2],
}

impl Outputs {
    fn new(
        ctx: &mut Recorder<'_>,
        node: &Node,
        op: &Recurrent,
        layers: &[Layer<'_>],
    ) -> Result<Outputs> {
        let mut widths = [0; 2];
        for layer in layers {
            layer.directions.iter().filter(|&&d| d < 2).for_each(|&d| widths[d] = layer.width);
        }
        let Some(Layer { time, batch, .. }) = layers.first() else {
            return Err(Error::graph("a layer without directions"));
        };
        let wanted = |slot: usize| node.output(slot).is_some();
        let keep =
            wanted(Recurrent::y(0)) || (op.merge == Merge::Separate && wanted(Recurrent::y(1)));
        if !keep {
            // A binding that is written to may not be one that others read, so it has memory of its
            // own.
            return Ok(Outputs { y: ctx.scratch(4)?, keep, row: 0, first: [0, 0] });
        }
        if op.merge == Merge::Concat {
            let y = ctx.output(node, Recurrent::y(0))?.view;
            return Ok(Outputs { y, keep, row: widths[0] + widths[1], first: [0, widths[0]] });
        }
        let bytes = widths.map(|w| aligned(4 * (time * batch * w) as u64));
        let y = ctx.scratch(bytes[0] + bytes[1])?;
        for (slot, offset) in [(0, 0), (1, bytes[0])] {
            if wanted(Recurrent::y(slot)) {
                let part = y.part(offset, (y.size - offset).min(bytes[slot].max(4)))?;
                ctx.place_output(node, Recurrent::y(slot), &part)?;
            }
        }
        // Directions of unequal width have kernels of their own, each with its own row length.
        Ok(Outputs { y, keep, row: 0, first: [0, (bytes[0] / 4) as usize] })
    }
}

impl<'a> Layer<'a> {
    fn new(
        ctx: &mut Recorder<'_>,
        node: &Node,
        op: &'a Recurrent,
        index: usize,
        direction: &Direction,
    ) -> Result<Layer<'a>> {
        let weights = &direction.weights;
        let blocks = op.cell.gate_blocks();
        let (units, width) = (weights.units(blocks), weights.output_width(blocks));
        let options = Options {
            peephole: weights.peephole.is_some(),
            layer_norm: weights.layer_norm.is_some(),
            projection: weights.projection.is_some(),
            diagonal: weights.is_diagonal(),
            reset_before: matches!(&op.cell, Cell::Gru(gru) if !gru.reset_after),
            stacked: false,
        };
        let lstm = matches!(op.cell, Cell::Lstm(_));
        if !lstm && (options.peephole || options.layer_norm || options.projection) {
            return Err(Error::unsupported(format!(
                "{} with peephole, layer norm or projection",
                op.cell.name()
            )));
        }
        if options.diagonal && options.projection {
            return Err(Error::unsupported("diagonal recurrent weights with a projection"));
        }
        let x = ctx.input(node, Recurrent::X)?;
        if x.word != Word::F32 {
            return Err(Error::unsupported(format!("a recurrent layer over {}", x.dtype)));
        }
        let (time, batch) = match op.layout {
            Layout::TimeMajor => (x.dim(0), x.dim(1)),
            Layout::BatchMajor => (x.dim(1), x.dim(0)),
        };
        let auxiliary = ctx.optional_input(node, Recurrent::AUXILIARY)?;
        let mask = ctx.optional_input(node, Recurrent::MASK)?;
        let storing = ctx.shared.storing();
        let extras = Extras::new(&options, units, width, storing == Storing::Int8);
        count(batch * units.max(width) * 4)?;
        Ok(Layer {
            op,
            directions: vec![index],
            options,
            time,
            batch,
            units,
            width,
            x,
            auxiliary,
            mask,
            extras,
            storing,
        })
    }

    /// Whether another direction can go into the same dispatches.
    fn runs_with(&self, other: &Layer<'_>) -> bool {
        self.options == other.options && self.units == other.units && self.width == other.width
    }

    fn directions(&self) -> impl Iterator<Item = &'a Direction> + '_ {
        self.directions.iter().filter_map(|&d| self.op.directions.get(d))
    }

    fn record(&self, ctx: &mut Recorder<'_>, node: &Node, outputs: &Outputs) -> Result<()> {
        let (strategy, reason) = choose::choose(ctx, self)?;
        let reason = match strategy {
            Prepared::Loop(_) | Prepared::Persistent(_) => reason,
            Prepared::Stages => format!("{reason}; {} dispatches a step", stages::count(self)),
            Prepared::Step(form) => format!("{reason}; {}", form.describe()),
        };
        ctx.notes.push(format!("{}: {} strategy ({reason})", node.name, strategy.strategy()));
        let memory = self.memory(ctx, node, outputs, &strategy)?;
        let runs = self.time * self.batch * self.units > 0;
        let exchange = match strategy {
            Prepared::Persistent(_) if runs => {
                Some(persistent::Exchange::new(ctx, self, memory.chunk_steps)?)
            }
            Prepared::Persistent(_) | Prepared::Loop(_) | Prepared::Step(_) | Prepared::Stages => {
                None
            }
        };
        for first in (0..self.time).step_by(memory.chunk_steps.max(1)) {
            if self.batch == 0 || self.units == 0 {
                break;
            }
            let steps = memory.chunk_steps.min(self.time - first);
            projection::record(ctx, self, &memory.inputs, memory.chunk_steps, first, steps)?;
            match (strategy, &exchange) {
                (Prepared::Loop(form), _) => {
                    loop_::record(ctx, self, &memory, form, (first, steps))?
                }
                (Prepared::Step(form), _) => {
                    step::record(ctx, self, &memory, form, (first, steps))?
                }
                (Prepared::Stages, _) => stages::record(ctx, self, &memory, (first, steps))?,
                (Prepared::Persistent(form), Some(exchange)) => {
                    persistent::record(ctx, self, &memory, (form, exchange), (first, steps))?;
                }
                (Prepared::Persistent(_), None) => {}
            }
        }
        self.unpad(ctx, node, &memory)
    }

    /// Copies final output states whose rows are no whole vectors to where they are wanted.
    fn unpad(&self, ctx: &mut Recorder<'_>, node: &Node, memory: &Memory) -> Result<()> {
        if self.width.is_multiple_of(4) {
            return Ok(());
        }
        for (d, &direction) in self.directions.iter().enumerate() {
            if let Some(h_n) = ctx.optional_output(node, Recurrent::h_n(direction))? {
                let bytes = 4 * self.width as u64;
                let state = part(&memory.h, 4 * memory.h_direction as u64, d)?;
                ctx.copy_rows(
                    (&state, bytes.next_multiple_of(16)),
                    (&h_n.view, bytes),
                    self.batch,
                    bytes,
                );
            }
        }
        Ok(())
    }

    /// Makes the layer's memory: packed weights, input products, states that start from their
    /// operands.
    fn memory(
        &self,
        ctx: &mut Recorder<'_>,
        node: &Node,
        outputs: &Outputs,
        strategy: &Prepared,
    ) -> Result<Memory> {
        let slots = match strategy {
            Prepared::Loop(_) => 1,
            Prepared::Step(_) | Prepared::Stages | Prepared::Persistent(_) => 2,
        };
        let (weights, extras) = self.weights(ctx)?;
        let (inputs, chunk_steps) = self.inputs(ctx)?;
        let count = self.directions.len();
        let quads = self.width.div_ceil(4);
        let h_bytes = aligned(16 * (self.batch * quads) as u64);
        let c_bytes = aligned(4 * (self.batch * self.units) as u64);
        let h = ctx.scratch(h_bytes * (slots * count) as u64)?;
        let c = ctx.scratch(c_bytes * count as u64)?;
        // The last turn writes slot 0, so the first of n reads slot n & 1.
        let turns = match strategy {
            Prepared::Loop(_) => 0,
            Prepared::Step(_) | Prepared::Stages => self.time,
            Prepared::Persistent(_) => self.time.div_ceil(chunk_steps.max(1)),
        };
        let first_slot = (turns & 1) * count;
        let padded = Rows {
            count: self.batch,
            bytes: 4 * self.width as u64,
            packed: self.width.is_multiple_of(4),
        };
        if !padded.packed {
            // What lies past P is multiplied by weights that are zero: it may not be NaN.
            ctx.clear(&h);
        }
        for (d, &direction) in self.directions.iter().enumerate() {
            let state = part(&h, h_bytes, first_slot + d)?;
            padded.start(ctx, node, Recurrent::h0(direction), &state)?;
            if padded.packed {
                ctx.place_output(node, Recurrent::h_n(direction), &part(&h, h_bytes, d)?)?;
            }
            if self.op.cell.has_cell_state() {
                let state = part(&c, c_bytes, d)?;
                let rows = Rows { count: self.batch, bytes: 4 * self.units as u64, packed: true };
                rows.start(ctx, node, Recurrent::c0(direction), &state)?;
                ctx.place_output(node, Recurrent::c_n(direction), &state)?;
            }
        }
        let gated = match strategy {
            Prepared::Stages => {
                let gated =
                    ctx.scratch((16 * count * self.batch * self.units.div_ceil(4)) as u64)?;
                // Multiplied by weights that are zero past H.
                ctx.clear(&gated);
                Some(gated)
            }
            Prepared::Loop(_) | Prepared::Step(_) | Prepared::Persistent(_) => None,
        };
        let mask = self.mask.as_ref().map_or_else(|| ctx.unused().clone(), |m| m.view.clone());
        let row = if outputs.row > 0 { outputs.row } else { self.width };
        let (y_step, y_row) = match self.op.layout {
            Layout::TimeMajor => (self.batch * row, row),
            Layout::BatchMajor => (row, self.time * row),
        };
        let y_first =
            self.directions.first().and_then(|&d| outputs.first.get(d)).copied().unwrap_or(0);
        let (y, keep) = (outputs.y.clone(), outputs.keep);
        let y_direction = outputs.first[1];
        let (h_direction, c_direction) = ((h_bytes / 4) as usize, (c_bytes / 4) as usize);
        let h_slot = count * h_direction;
        Ok(Memory {
            weights,
            inputs,
            extras,
            mask,
            h,
            c,
            y,
            gated,
            keep,
            chunk_steps,
            h_slot,
            h_direction,
            c_direction,
            y_first,
            y_step,
            y_row,
            y_direction,
        })
    }

    /// Recurrent weights, see [`pack::recurrent`], and the rare weights of every direction.
    fn weights(&self, ctx: &Recorder<'_>) -> Result<(View, View)> {
        let owners: Vec<_> = self.directions().map(|d| Arc::clone(&d.weights)).collect();
        self.weights_of(ctx, &owners)
    }

    /// The weights of several owners that have the sizes and options of this layer: of its
    /// directions, or of the layers of a stack.
    fn weights_of(&self, ctx: &Recorder<'_>, owners: &[Arc<CellWeights>]) -> Result<(View, View)> {
        let (cell, sizes, stacked) =
            (&self.op.cell, (self.units, self.width), self.options.stacked);
        let stored = || {
            let one = |(d, w): (usize, &Arc<CellWeights>)| {
                pack::recurrent(cell, w, self.units, stacked && d > 0, self.storing)
            };
            owners.iter().enumerate().map(one).collect::<Vec<_>>()
        };
        let layout = if stacked { "stacked" } else { "recurrent" };
        let weights = || Ok(stored().into_iter().flat_map(|s| s.words).collect());
        let weights = ctx.matrix(owners, &format!("{layout} quads"), weights)?;
        let extras = || {
            let each = owners
                .iter()
                .zip(stored())
                .map(|(w, s)| pack::extras(cell, w, sizes, stacked, &s.scales));
            Ok(each.flat_map(|e| words(&e)).collect())
        };
        let extras = match self.extras.words {
            0 => ctx.unused().clone(),
            _ => ctx.weights_of(owners, &format!("{layout} extras"), extras)?,
        };
        Ok((weights, extras))
    }

    /// Memory for the input products of a chunk, and the steps of a chunk.
    fn inputs(&self, ctx: &mut Recorder<'_>) -> Result<(View, usize)> {
        let step = 16 * (self.directions.len() * self.batch * self.units) as u64;
        let most = ctx.shared.device.limits.max_storage_buffer_binding_size;
        if step > most {
            return Err(Error::limit(format!(
                "the sums of one step take {step} bytes, the adapter allows {most}"
            )));
        }
        let steps = (CHUNK_BYTES.clamp(step.max(1), most) / step.max(1)).min(self.time as u64);
        Ok((ctx.scratch(steps * step)?, steps as usize))
    }

    /// A kernel with the overrides that all strategies share.
    fn kernel(&self, kernel: Kernel, keep: bool) -> Kernel {
        let (cell, gate, candidate, output, clipped, coupled) = match &self.op.cell {
            Cell::Lstm(l) => {
                (0u32, l.gate, l.candidate, l.output, l.cell_clip.is_some(), l.coupled_input_forget)
            }
            Cell::Gru(g) => (1, g.gate, g.candidate, Activation::Tanh, false, false),
            Cell::Rnn(r) => (2, Activation::Sigmoid, r.activation, Activation::Tanh, false, false),
        };
        let mask = self.mask.as_ref().map_or(0u32, |m| if m.word == Word::Bool { 2 } else { 1 });
        let flag = |on: bool| u32::from(on);
        kernel
            .with("CELL", cell)
            .with("GATE", activation::code(gate).0)
            .with("CANDIDATE", activation::code(candidate).0)
            .with("OUTPUT", activation::code(output).0)
            .with("COUPLED", flag(coupled))
            .with("PEEPHOLE", flag(self.options.peephole))
            .with("LAYER_NORM", flag(self.options.layer_norm))
            .with("PROJECTION", flag(self.options.projection))
            .with("CLIPPED", flag(clipped))
            .with("DIAGONAL", flag(self.options.diagonal))
            .with("RESET_AFTER", flag(!self.options.reset_before))
            .with("MASK", mask)
            .with("HOLD", flag(mask != 0 && self.op.masking == Masking::Hold))
            .with("KEEP", flag(keep))
            .with("SCALED", self.storing.scaled())
    }

    /// The immediates of `recurrent.wgsl`.
    fn params(&self, memory: &Memory, chunk_first: usize, step: usize, count: usize) -> Vec<u32> {
        let (gate, candidate, output, cell_clip, projection_clip) = match &self.op.cell {
            Cell::Lstm(l) => (l.gate, l.candidate, l.output, l.cell_clip, l.projection_clip),
            Cell::Gru(g) => (g.gate, g.candidate, Activation::Linear, None, None),
            Cell::Rnn(r) => (Activation::Linear, r.activation, Activation::Linear, None, None),
        };
        let directions = self.directions().enumerate();
        let reverse =
            match directions.map(|(d, direction)| usize::from(direction.reverse) << d).sum() {
                // All layers of a stack go the same way.
                1 if self.options.stacked => u32::MAX as usize,
                bits => bits,
            };
        let (mask_step, mask_row) = match self.op.layout {
            Layout::TimeMajor => (self.batch, 1),
            Layout::BatchMajor => (1, self.time),
        };
        let sizes = [
            step,
            chunk_first,
            memory.chunk_steps,
            count,
            self.time,
            self.batch,
            self.units,
            self.width,
            self.width.div_ceil(4),
            reverse,
            memory.y_first,
            memory.y_step,
            memory.y_row,
            memory.y_direction,
            memory.h_slot,
            memory.h_direction,
            memory.c_direction,
            mask_step,
            mask_row,
            self.extras.peephole,
            self.extras.norm,
            self.extras.projection,
            self.extras.scales,
            self.extras.words,
        ];
        let mut params: Vec<u32> = sizes.iter().map(|&n| n as u32).collect();
        params.extend([cell_clip, projection_clip].map(|clip| clip.unwrap_or(f32::MAX).to_bits()));
        for activation in [gate, candidate, output] {
            let (_, alpha, beta) = activation::code(activation);
            params.extend([alpha.to_bits(), beta.to_bits()]);
        }
        params
    }
}

/// Part `index` of `bytes` each; of a block that is nearly empty, the block.
fn part(block: &View, bytes: u64, index: usize) -> Result<View> {
    if bytes == 0 { Ok(block.clone()) } else { block.part(bytes * index as u64, bytes) }
}

/// Rows of a state: one after the other outside, in whole vectors inside when they are not
/// `packed`.
#[derive(Clone, Copy)]
struct Rows {
    count: usize,
    bytes: u64,
    packed: bool,
}

impl Rows {
    /// Records what a state starts from: its operand, or zeros.
    fn start(self, ctx: &mut Recorder<'_>, node: &Node, slot: usize, state: &View) -> Result<()> {
        match ctx.optional_input(node, slot)? {
            Some(operand) if self.packed => ctx.copy(&operand.view, state),
            Some(operand) => {
                ctx.copy_rows(
                    (&operand.view, self.bytes),
                    (state, self.bytes.next_multiple_of(16)),
                    self.count,
                    self.bytes,
                );
                Ok(())
            }
            None => {
                ctx.clear(state);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
