//! One part of a layer's work: some batch rows of one direction over all steps, with buffers of its
//! own.

mod step;

use std::ops::Range;

use super::super::simd::{Aligned, From, KernelSet, Packed, Quantized, Rows, View, aligned_zeros};
use super::cell;
use super::unit_range::UnitRange;
use super::weights::Weights;
use super::{Mask, Operands, Shape};
use crate::error::{Error, Result};
use crate::graph::Recurrent;
use crate::graph::recurrent::{Cell, Masking, Source};

/// What all parts share.
pub(super) struct Context<'a> {
    pub op: &'a Recurrent,
    pub shape: &'a Shape,
    pub weights: &'a Weights,
    pub kernels: &'static KernelSet,
    pub operands: &'a Operands<'a>,
}

impl Context<'_> {
    /// How the sums of the gates are activated.
    fn gates(&self) -> cell::Gates {
        cell::Gates { kernels: self.kernels, clip: self.op.gate_clip }
    }
}

/// Rows of one direction and their buffers.
pub(super) struct RowBlock {
    pub direction: usize,
    rows: Range<usize>,
    /// Steps of a chunk.
    chunk: usize,
    /// Elements between the rows of `sums` and `recurrent`: columns of the packed gates.
    columns: usize,
    /// `[chunk, rows, columns]`: input product, then all sums, of a chunk.
    sums: Aligned,
    /// `[rows, columns]`: the recurrent product where it is kept apart (GRU).
    recurrent: Aligned,
    /// `[chunk, rows, inputs]`, the rows [`apart`]: the input where its rows do not follow each
    /// other, or lie badly for the caches.
    gathered: Vec<f32>,
    /// `[rows, p_stride]`.
    h: Aligned,
    p_stride: usize,
    /// `[rows, h_stride]`: cell state, and gated output before the projection (GRU: reset ∘ h).
    c: Aligned,
    m: Aligned,
    h_stride: usize,
    units: usize,
    width: usize,
    /// `[2, G·H]`: one row's gates unpacked.
    gates: Vec<f32>,
    /// `[rows]`: a step was computed already.
    begun: Vec<bool>,
    /// The input and the state as int8, for int8 weights.
    quantized_input: Quantized,
    quantized_state: Quantized,
}

impl RowBlock {
    pub fn new(
        direction: usize,
        rows: Range<usize>,
        chunk: usize,
        shape: &Shape,
        weights: &Weights,
    ) -> RowBlock {
        let count = rows.len();
        let columns = weights
            .recurrent
            .iter()
            .chain(&weights.auxiliary)
            .map(Packed::padded_columns)
            .fold(weights.input.padded_columns(), usize::max);
        let columns = apart(columns, chunk * count);
        let p_stride = apart(weights.output_width.next_multiple_of(16), count);
        let h_stride = apart(weights.units.next_multiple_of(16), count);
        RowBlock {
            direction,
            rows,
            chunk,
            columns,
            sums: aligned_zeros(chunk * count * columns),
            recurrent: aligned_zeros(if weights.recurrent_bias.is_empty() {
                0
            } else {
                count * columns
            }),
            gathered: vec![
                0.0;
                chunk * count * apart(shape.inputs, 2).max(apart(shape.auxiliary, 2))
            ],
            h: aligned_zeros(count * p_stride),
            p_stride,
            c: aligned_zeros(count * h_stride),
            m: aligned_zeros(count * h_stride),
            h_stride,
            units: weights.units,
            width: weights.output_width,
            gates: vec![0.0; 2 * weights.gates * weights.units],
            begun: vec![false; count],
            quantized_input: Quantized::default().with_room(
                chunk * count,
                std::iter::once(&weights.input).chain(&weights.auxiliary),
            ),
            quantized_state: Quantized::of_states().with_room(count, &weights.recurrent),
        }
    }

    /// All steps of these rows.
    pub fn run(&mut self, context: &Context<'_>, mut view: Option<View<'_>>) -> Result<()> {
        self.start(context)?;
        self.run_from(context, 0, &mut view)
    }

    /// The state before the first step.
    pub fn start(&mut self, context: &Context<'_>) -> Result<()> {
        let operands = context.operands;
        let d = self.direction.min(1);
        set_rows(&mut self.h, self.p_stride, operands.h0[d], self.width, &self.rows)?;
        set_rows(&mut self.c, self.h_stride, operands.c0[d], self.units, &self.rows)?;
        self.begun.fill(false);
        Ok(())
    }

    /// All steps but the first `done`, which is at the end of a chunk.
    pub fn run_from(
        &mut self,
        context: &Context<'_>,
        mut done: usize,
        view: &mut Option<View<'_>>,
    ) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let steps = context.shape.steps;
        let reverse =
            context.op.directions.get(self.direction).is_some_and(|direction| direction.reverse);
        let whole = UnitRange::whole(context.weights);
        while done < steps {
            let count = self.chunk.min(steps - done);
            let first = if reverse { steps - done - count } else { done };
            self.project(context, first..first + count, &whole)?;
            for k in 0..count {
                let local = if reverse { count - 1 - k } else { k };
                self.step(context, local, first + local, &whole, view)?;
            }
            done += count;
        }
        Ok(())
    }

    /// The units of `range` of the plain LSTM, one step on: reads the whole output state, writes
    /// those units of both states.
    pub fn advance(
        &mut self,
        context: &Context<'_>,
        local: usize,
        backwards: bool,
        range: &UnitRange,
    ) -> Result<()> {
        self.recurrent_product(context, local, backwards, range)?;
        self.plain_lstm(context, local, 0..self.rows.len(), range, None)
    }

    /// The output state of the first row.
    pub fn h_row(&mut self) -> &mut [f32] {
        &mut self.h[..self.p_stride]
    }

    /// The cell state of the first row.
    pub fn c_row(&mut self) -> &mut [f32] {
        &mut self.c[..self.h_stride]
    }

    /// Scratch as wide as the output state.
    pub fn m_row(&mut self) -> &mut [f32] {
        &mut self.m[..self.h_stride]
    }

    /// Copies some units of the first row's output state to the scratch.
    pub fn move_h_to_m(&mut self, units: Range<usize>) {
        self.m[units.clone()].copy_from_slice(&self.h[units]);
    }

    /// Copies the scratch back.
    pub fn move_m_to_h(&mut self) {
        let width = self.h_stride;
        self.h[..width].copy_from_slice(&self.m[..width]);
    }

    /// The output of the first row at a step.
    pub fn write_y(&mut self, step: usize, view: &mut Option<View<'_>>) -> Result<()> {
        if let Some(view) = view {
            view.row(step, 0)?.copy_from_slice(&self.h[..self.width]);
        }
        Ok(())
    }

    /// The input product of a chunk of steps, with the bias.
    pub fn project(
        &mut self,
        context: &Context<'_>,
        steps: Range<usize>,
        range: &UnitRange,
    ) -> Result<()> {
        let (weights, operands) = (context.weights, context.operands);
        let direction = context.op.directions.get(self.direction);
        let auxiliary =
            |x: Option<_>| x.ok_or_else(|| Error::graph("the auxiliary input is missing"));
        if direction.is_some_and(|direction| direction.source == Source::Auxiliary) {
            self.project_one(
                context,
                &steps,
                auxiliary(operands.auxiliary)?,
                &weights.input,
                &range.input,
                From::Row(&weights.bias),
            )?;
        } else {
            self.project_one(
                context,
                &steps,
                operands.x,
                &weights.input,
                &range.input,
                From::Row(&weights.bias),
            )?;
        }
        if let Some(packed) = &weights.auxiliary {
            self.project_one(
                context,
                &steps,
                auxiliary(operands.auxiliary)?,
                packed,
                &(0..packed.panels()),
                From::Result,
            )?;
        }
        Ok(())
    }

    fn project_one(
        &mut self,
        context: &Context<'_>,
        steps: &Range<usize>,
        x: &[f32],
        packed: &Packed,
        panels: &Range<usize>,
        from: From<'_>,
    ) -> Result<()> {
        let (shape, width, count) = (context.shape, packed.depth(), self.rows.len());
        let rows = steps.len() * count;
        let contiguous = shape.batch == 1 || (shape.time_major && count == shape.batch);
        let stride = apart(width, if rows < LEAST_COPIED { 1 } else { rows });
        let a = if contiguous && stride == width {
            x.get(steps.start * count * width..).ok_or_else(too_short)?
        } else {
            for (local, step) in steps.clone().enumerate() {
                for (to, row) in self.rows.clone().enumerate() {
                    let at = if shape.time_major {
                        step * shape.batch + row
                    } else {
                        row * shape.steps + step
                    } * width;
                    let from = x.get(at..at + width).ok_or_else(too_short)?;
                    let to = (local * count + to) * stride;
                    self.gathered
                        .get_mut(to..to + width)
                        .ok_or_else(too_short)?
                        .copy_from_slice(from);
                }
            }
            &self.gathered
        };
        let columns = match from {
            From::Row(row) => row.len(),
            From::Result | From::Zero => packed.padded_columns(),
        };
        let a = Rows { data: a, stride };
        context.kernels.product(
            rows,
            a,
            packed,
            panels.clone(),
            false,
            from,
            &mut self.sums,
            self.columns,
            columns,
            &mut self.quantized_input,
        )
    }

    /// The recurrent product of a step. Every other step goes through the weights from the end:
    /// what the caches kept of the last step is used first.
    fn recurrent_product(
        &mut self,
        context: &Context<'_>,
        local: usize,
        backwards: bool,
        range: &UnitRange,
    ) -> Result<()> {
        let count = self.rows.len();
        let size = count * self.columns;
        let h = Rows { data: &self.h, stride: self.p_stride };
        let sums = self.sums.get_mut(local * size..(local + 1) * size).ok_or_else(too_short)?;
        let Some(packed) = context.weights.recurrent.first() else { return Ok(()) };
        let (kernels, panels, scratch) =
            (context.kernels, range.recurrent.clone(), &mut self.quantized_state);
        if self.recurrent.is_empty() {
            let columns = packed.padded_columns();
            kernels.product(
                count,
                h,
                packed,
                panels,
                backwards,
                From::Result,
                sums,
                self.columns,
                columns,
                scratch,
            )
        } else {
            let bias = &context.weights.recurrent_bias;
            let columns = bias.len().min(packed.padded_columns());
            let from =
                if context.weights.recurrent.len() == 1 { From::Row(bias) } else { From::Zero };
            kernels.product(
                count,
                h,
                packed,
                panels,
                backwards,
                from,
                &mut self.recurrent,
                self.columns,
                columns,
                scratch,
            )
        }
    }

    /// The fused cell of some rows and units, without projection.
    fn plain_lstm(
        &mut self,
        context: &Context<'_>,
        local: usize,
        rows: Range<usize>,
        range: &UnitRange,
        y: Option<(&mut View<'_>, usize)>,
    ) -> Result<()> {
        let base = (local * self.rows.len() + rows.start) * self.columns;
        let sums =
            Rows { data: self.sums.get(base..).ok_or_else(too_short)?, stride: self.columns };
        let c = &mut self.c[rows.start * self.h_stride..];
        let h = &mut self.h[rows.start * self.p_stride..];
        let y = y.map(|(view, step)| (view, step, rows.start));
        context.kernels.lstm_rows(
            rows.len(),
            self.units,
            range.blocks.clone(),
            sums,
            c,
            h,
            self.h_stride,
            y,
        )
    }

    /// One step: recurrent product, cell, output. `local` counts within the chunk, `step` within
    /// the sequence.
    fn step(
        &mut self,
        context: &Context<'_>,
        local: usize,
        step: usize,
        whole: &UnitRange,
        view: &mut Option<View<'_>>,
    ) -> Result<()> {
        let count = self.rows.len();
        self.recurrent_product(context, local, step % 2 == 1, whole)?;
        if matches!(context.operands.mask, Mask::None) {
            return self.rows_step(context, local, step, 0..count, whole, view);
        }
        let mut row = 0;
        while row < count {
            let active = self.is_active(context, step, row);
            let mut end = row + 1;
            while end < count && self.is_active(context, step, end) == active {
                end += 1;
            }
            if active {
                self.rows_step(context, local, step, row..end, whole, view)?;
                self.begun.get_mut(row..end).ok_or_else(too_short)?.fill(true);
            } else if let Some(view) = view {
                for row in row..end {
                    let hold =
                        context.op.masking == Masking::Hold && self.begun.get(row) == Some(&true);
                    let y = view.row(step, row)?;
                    if hold {
                        y.copy_from_slice(&self.h[row * self.p_stride..][..self.width]);
                    } else {
                        y.fill(0.0);
                    }
                }
            }
            row = end;
        }
        Ok(())
    }

    fn is_active(&self, context: &Context<'_>, step: usize, row: usize) -> bool {
        let (row, shape) = (self.rows.start + row, context.shape);
        match context.operands.mask {
            Mask::None => true,
            Mask::Lengths(lengths) => lengths.get(row).is_some_and(|&length| step < length),
            Mask::Flags(flags) => {
                let at = if shape.time_major {
                    step * shape.batch + row
                } else {
                    row * shape.steps + step
                };
                flags.get(at) == Some(&true)
            }
        }
    }

    /// Copies the output state to its rows of `[B, P]`.
    pub fn final_h(&self, to: &mut [f32]) -> Result<()> {
        get_rows(&self.h, self.p_stride, to, self.width, &self.rows)
    }

    /// Copies the cell state to its rows of `[B, H]`.
    pub fn final_c(&self, to: &mut [f32]) -> Result<()> {
        get_rows(&self.c, self.h_stride, to, self.units, &self.rows)
    }
}

/// Whether the step is the fused LSTM kernel and nothing else.
pub(super) fn is_fused_lstm(op: &Recurrent, weights: &Weights) -> bool {
    weights.projection.is_none()
        && matches!(&op.cell, Cell::Lstm(lstm) if cell::is_plain_lstm(lstm, op.gate_clip, &weights.vectors))
}

/// Rows from which input that lies badly is copied: below, each element is used too few times.
const LEAST_COPIED: usize = 16;

/// The stride for `rows` rows of `width` elements: a cache line more where the rows would lie a
/// multiple of 1 KiB apart. Those of a tile would share a few sets of the caches and push each
/// other out.
fn apart(width: usize, rows: usize) -> usize {
    if rows > 1 && width > 0 && width.is_multiple_of(256) { width + 16 } else { width }
}

fn too_short() -> Error {
    Error::internal("a buffer of the recurrent layer is shorter than planned")
}

/// Fills the rows of a state from `[B, width]`, or with zeros.
fn set_rows(
    to: &mut [f32],
    stride: usize,
    from: Option<&[f32]>,
    width: usize,
    rows: &Range<usize>,
) -> Result<()> {
    to.fill(0.0);
    if let Some(from) = from {
        let from = from.get(rows.start * width..rows.end * width).ok_or_else(too_short)?;
        for (to, from) in to.chunks_mut(stride.max(1)).zip(from.chunks(width.max(1))) {
            to[..width].copy_from_slice(from);
        }
    }
    Ok(())
}

fn get_rows(
    from: &[f32],
    stride: usize,
    to: &mut [f32],
    width: usize,
    rows: &Range<usize>,
) -> Result<()> {
    let to = to.get_mut(rows.start * width..rows.end * width).ok_or_else(too_short)?;
    for (to, from) in to.chunks_mut(width.max(1)).zip(from.chunks(stride.max(1))) {
        to.copy_from_slice(&from[..width]);
    }
    Ok(())
}
