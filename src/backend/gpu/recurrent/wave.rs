//! Stacked layers on a diagonal: in dispatch n, layer l runs step n − l, so that T + L − 1
//! dispatches run a whole stack of L layers.
//!
//! Only the lowest layer has an input product for many steps at once. A layer above takes in what
//! the layer below wrote in the dispatch before, as more terms of the same sums:
//! `s = b + W y + R h`. Layers over both directions do not stack up like this: the first step of
//! one direction needs the last step of the other.

use std::sync::Arc;

use super::choose::widest_loop;
use super::pack::Extras;
use super::step::{self, StepVariant};
use super::{Layer, Memory, Rows, loop_, part, projection};
use crate::backend::Strategy;
use crate::backend::gpu::buffers::aligned;
use crate::backend::gpu::device::Device;
use crate::backend::gpu::record::{Phase, Recorder, Repeat};
use crate::error::Result;
use crate::graph::recurrent::{Arithmetic, Cell, CellWeights, Direction, Layout, Source};
use crate::graph::{Node, Op, Recurrent};
use crate::plan::Plan;

/// Most layers of a wave: what is particular to a layer is a bit of a word.
const MOST_LAYERS: usize = 32;

/// Most units of all batch rows in a step for which a wave pays on a real device. Beyond, a step of
/// one layer keeps the device busy by itself, and input products for many steps at once load their
/// weights less often. From the model of a device with 132 multiprocessors, not measured.
const WIDEST_STEP: usize = 1 << 15;

/// Recurrent layers of which each takes in the outputs of the one before and nothing else: indices
/// of nodes, lowest first.
pub(in crate::backend::gpu) struct Stack {
    pub(in crate::backend::gpu) nodes: Vec<usize>,
}

/// The stacks of a plan. What they record belongs where the plan computes their last layer: nothing
/// before that needs their results.
pub(in crate::backend::gpu) fn stacks(plan: &Plan) -> Vec<Stack> {
    let node = |position: usize| plan.graph.nodes.get(plan.steps.get(position)?.0 as usize);
    let mut found: Vec<Vec<usize>> = Vec::new();
    for position in 0..plan.steps.len() {
        let Some((upper, op)) = node(position).and_then(|n| Some((n, plain(n)?))) else { continue };
        let below = found.iter_mut().find(|stack| {
            let lower = stack.last().and_then(|&p| node(p));
            lower
                .and_then(|n| Some((n, plain(n)?)))
                .is_some_and(|lower| follows(lower, (upper, op)))
        });
        match below {
            Some(stack) => stack.push(position),
            None => found.push(vec![position]),
        }
    }
    let interrupted = |stack: &[usize]| {
        let (Some(&first), Some(&top)) = (stack.first(), stack.last()) else { return true };
        let results: Vec<_> = stack
            .iter()
            .filter_map(|&p| node(p))
            .flat_map(|n| n.outputs.iter().flatten())
            .collect();
        let others = (first..top).filter(|p| !stack.contains(p)).filter_map(node);
        others.flat_map(|n| n.inputs.iter().flatten()).any(|id| results.contains(&id))
    };
    found.retain(|stack| stack.len() > 1 && !interrupted(stack));
    let index = |position: &usize| plan.steps.get(*position).map(|id| id.index());
    found.iter().map(|stack| Stack { nodes: stack.iter().filter_map(index).collect() }).collect()
}

/// The op of a node that may be a layer of a stack.
fn plain(node: &Node) -> Option<&Recurrent> {
    let Op::Recurrent(op) = &node.op else { return None };
    let direction = only(op)?;
    let weights = &direction.weights;
    let rare = weights.layer_norm.is_some()
        || weights.projection.is_some()
        || weights.auxiliary.is_some()
        || weights.is_diagonal()
        || matches!(&op.cell, Cell::Gru(gru) if !gru.reset_after);
    (op.arithmetic == Arithmetic::Float && direction.source == Source::X && !rare).then_some(op)
}

/// The direction of a layer that has one.
fn only(op: &Recurrent) -> Option<&Direction> {
    match op.directions.as_slice() {
        [direction] => Some(direction),
        _ => None,
    }
}

/// Whether a layer takes in the outputs of another with the same sizes, options and mask.
fn follows((lower, below): (&Node, &Recurrent), (upper, above): (&Node, &Recurrent)) -> bool {
    let operand = |node: &Node, slot: usize| node.input(slot);
    let y = lower.output(Recurrent::y(0));
    let blocks = above.cell.gate_blocks();
    let alike = |a: &Direction, b: &Direction| {
        a.reverse == b.reverse
            && a.weights.units(blocks) == b.weights.units(blocks)
            && a.weights.peephole.is_some() == b.weights.peephole.is_some()
    };
    y.is_some()
        && y == operand(upper, Recurrent::X)
        && operand(lower, Recurrent::MASK) == operand(upper, Recurrent::MASK)
        && (&below.cell, below.layout, below.masking) == (&above.cell, above.layout, above.masking)
        && only(below).zip(only(above)).is_some_and(|(a, b)| alike(a, b))
}

/// Records a stack as a wave; `false` when each layer is better off, or only possible, on its own.
pub(in crate::backend::gpu) fn record(ctx: &mut Recorder<'_>, nodes: &[&Node]) -> Result<bool> {
    let Some((node, op)) = nodes.first().and_then(|n| Some((*n, plain(n)?))) else {
        return Ok(false);
    };
    let Some(direction) = only(op) else { return Ok(false) };
    // What is wrong with the layer is said when it is recorded on its own.
    let Ok(mut lowest) = Layer::new(ctx, node, op, 0, direction) else { return Ok(false) };
    lowest.options.stacked = true;
    lowest.extras =
        Extras::new(&lowest.options, lowest.units, lowest.width, lowest.storing.scaled() == 1);
    let weights = nodes.iter().filter_map(|n| Some(Arc::clone(&only(plain(n)?)?.weights)));
    let stack = Wave { kept: kept(ctx.plan, nodes), weights: weights.collect(), lowest, nodes };
    let forced = ctx.shared.options.strategy;
    let names = || nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", ");
    match stack.reason(ctx, forced) {
        Ok(reason) => {
            let form = StepVariant::of(&stack.lowest, &ctx.shared.device);
            ctx.notes.push(format!(
                "{}: wavefront strategy ({reason}; {})",
                names(),
                form.describe()
            ));
            stack.record(ctx, form)?;
            Ok(true)
        }
        Err(reason) => {
            ctx.notes.push(format!("{}: no wavefront ({reason})", names()));
            Ok(false)
        }
    }
}

/// Bit l: the outputs of layer l are wanted by others than layer l + 1.
fn kept(plan: &Plan, nodes: &[&Node]) -> u32 {
    let wanted = |l: usize, node: &Node| {
        let Some(y) = node.output(Recurrent::y(0)) else { return false };
        let readers = plan.steps.iter().filter_map(|id| plan.graph.node(*id));
        let mut others =
            readers.filter(|n| nodes.get(l + 1).is_none_or(|above| !std::ptr::eq(*n, *above)));
        plan.values.get(y.index()).is_some_and(|v| v.kept)
            || others.any(|n| n.inputs.contains(&Some(y)))
    };
    nodes.iter().take(MOST_LAYERS).enumerate().map(|(l, n)| u32::from(wanted(l, n)) << l).sum()
}

/// A stack with what its kernels need.
struct Wave<'a> {
    nodes: &'a [&'a Node],
    lowest: Layer<'a>,
    weights: Vec<Arc<CellWeights>>,
    kept: u32,
}

impl Wave<'_> {
    /// Why the stack runs as a wave, or why not.
    fn reason(
        &self,
        ctx: &Recorder<'_>,
        forced: Option<Strategy>,
    ) -> std::result::Result<&'static str, String> {
        let device = &ctx.shared.device;
        let Layer { units, batch, .. } = self.lowest;
        if let Some(other) = forced.filter(|&name| name != Strategy::Wavefront) {
            return Err(format!("{other} is asked for"));
        }
        if let Some(limit) = self.over(device) {
            return Err(limit);
        }
        if forced.is_some() {
            return Ok("asked for");
        }
        let widest = widest_loop(&self.lowest, device);
        if units <= widest && loop_::form(&self.lowest, device).is_ok() {
            return Err(format!("layers of at most {widest} units run fastest in a loop each"));
        }
        if !device.software && batch * units > WIDEST_STEP {
            return Err(format!("a step of over {WIDEST_STEP} units keeps the device busy"));
        }
        Ok("a dispatch runs a step of every layer")
    }

    /// The limit that the wave would pass.
    fn over(&self, device: &Device) -> Option<String> {
        let layers = self.nodes.len();
        let Layer { units, batch, time, .. } = self.lowest;
        if layers > MOST_LAYERS {
            return Some(format!("over {MOST_LAYERS} layers"));
        }
        let most = device.limits.max_storage_buffer_binding_size;
        let columns = units.next_multiple_of(8);
        let sizes = [
            ("weights", 16 * (2 * layers - 1) * columns * columns),
            ("states", 2 * layers * 16 * batch * columns.div_ceil(4)),
            ("outputs", self.kept.count_ones() as usize * 4 * (time * batch * units + 64)),
        ];
        let over = sizes.into_iter().find(|&(_, bytes)| bytes as u64 > most);
        over.map(|(what, bytes)| {
            format!("the {what} of the stack take {bytes} bytes, the adapter binds {most}")
        })
    }

    fn record(&self, ctx: &mut Recorder<'_>, form: StepVariant) -> Result<()> {
        let (layer, layers) = (&self.lowest, self.nodes.len());
        let memory = self.memory(ctx)?;
        let kernel = step::kernel(ctx, layer, &memory, form);
        let groups = step::groups(layer, form, layers);
        for first in (0..layer.time).step_by(memory.chunk_steps.max(1)) {
            if layer.batch == 0 || layer.units == 0 {
                break;
            }
            let steps = memory.chunk_steps.min(layer.time - first);
            projection::record(ctx, layer, &memory.inputs, memory.chunk_steps, first, steps)?;
            let last = first + steps == layer.time;
            let dispatches = if last { steps + layers - 1 } else { steps };
            let params = layer.params(&memory, first, first, self.kept as usize);
            let repeat = Repeat { count: dispatches as u32, word: 0, step: 1 };
            ctx.dispatch_repeated(
                &kernel,
                &memory.bindings(),
                &params,
                groups,
                repeat,
                Phase::Recurrence,
            )?;
        }
        self.unpad(ctx, &memory)
    }

    /// Memory as [`Layer::memory`] makes it for one layer, with a layer of the stack in the place
    /// of a direction.
    fn memory(&self, ctx: &mut Recorder<'_>) -> Result<Memory> {
        let (layer, layers) = (&self.lowest, self.nodes.len());
        let Layer { units, width, batch, time, .. } = *layer;
        let (weights, extras) = layer.weights_of(ctx, &self.weights)?;
        let (inputs, chunk_steps) = layer.inputs(ctx)?;
        let h_bytes = aligned(16 * (batch * width.div_ceil(4)) as u64);
        let c_bytes = aligned(4 * (batch * units) as u64);
        let h = ctx.scratch(h_bytes * (2 * layers) as u64)?;
        let c = ctx.scratch(c_bytes * layers as u64)?;
        let padded =
            Rows { count: batch, bytes: 4 * width as u64, packed: width.is_multiple_of(4) };
        if !padded.packed {
            // What lies past H is multiplied by weights that are zero: it may not be NaN.
            ctx.clear(&h);
        }
        for (l, node) in self.nodes.iter().enumerate() {
            // The last step writes slot 0, so the first of T reads slot T & 1.
            padded.start(
                ctx,
                node,
                Recurrent::h0(0),
                &part(&h, h_bytes, (time & 1) * layers + l)?,
            )?;
            if padded.packed {
                ctx.place_output(node, Recurrent::h_n(0), &part(&h, h_bytes, l)?)?;
            }
            if layer.op.cell.has_cell_state() {
                let state = part(&c, c_bytes, l)?;
                let rows = Rows { count: batch, bytes: 4 * units as u64, packed: true };
                rows.start(ctx, node, Recurrent::c0(0), &state)?;
                ctx.place_output(node, Recurrent::c_n(0), &state)?;
            }
        }
        let bytes = aligned(4 * (time * batch * width) as u64);
        let y = ctx.scratch(bytes * u64::from(self.kept.count_ones()))?;
        for (slot, (_, node)) in
            self.nodes.iter().enumerate().filter(|(l, _)| self.kept >> l & 1 == 1).enumerate()
        {
            ctx.place_output(node, Recurrent::y(0), &part(&y, bytes, slot)?)?;
        }
        let (y_step, y_row) = match layer.op.layout {
            Layout::TimeMajor => (batch * width, width),
            Layout::BatchMajor => (width, time * width),
        };
        let mask = layer.mask.as_ref().map_or_else(|| ctx.unused().clone(), |m| m.view.clone());
        let (h_direction, c_direction) = ((h_bytes / 4) as usize, (c_bytes / 4) as usize);
        Ok(Memory {
            weights,
            inputs,
            extras,
            mask,
            h,
            c,
            y,
            gated: None,
            keep: self.kept != 0,
            chunk_steps,
            h_slot: layers * h_direction,
            h_direction,
            c_direction,
            y_first: 0,
            y_step,
            y_row,
            y_direction: (bytes / 4) as usize,
        })
    }

    /// Copies final output states whose rows are no whole vectors to where they are wanted.
    fn unpad(&self, ctx: &mut Recorder<'_>, memory: &Memory) -> Result<()> {
        let bytes = 4 * self.lowest.width as u64;
        if bytes.is_multiple_of(16) {
            return Ok(());
        }
        for (l, node) in self.nodes.iter().enumerate() {
            if let Some(h_n) = ctx.optional_output(node, Recurrent::h_n(0))? {
                let state = part(&memory.h, 4 * memory.h_direction as u64, l)?;
                ctx.copy_rows(
                    (&state, bytes.next_multiple_of(16)),
                    (&h_n.view, bytes),
                    self.lowest.batch,
                    bytes,
                );
            }
        }
        Ok(())
    }
}
