//! One part of a layer's work: some batch rows of one direction over all steps, with buffers of its
//! own.

use std::ops::Range;

use super::super::simd::{
    Aligned, From, Packed, Quantized, Rows, Table, UNITS, View, aligned_zeros,
};
use super::cell;
use super::weights::Weights;
use super::{Mask, Operands, Shape};
use crate::error::{Error, Result};
use crate::graph::Recurrent;
use crate::graph::op::Activation;
use crate::graph::recurrent::{Cell, Gru, Lstm, Masking, Source};

/// What all parts share.
pub(super) struct Context<'a> {
    pub op: &'a Recurrent,
    pub shape: &'a Shape,
    pub weights: &'a Weights,
    pub table: &'static Table,
    pub operands: &'a Operands<'a>,
}

/// Some of the units of a layer, by the panels of its weights: what one thread computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Panels of the input weights.
    input: Range<usize>,
    /// Panels of the recurrent weights.
    recurrent: Range<usize>,
    /// Blocks of [`UNITS`] units.
    blocks: Range<usize>,
}

impl Span {
    /// All of them.
    pub fn whole(weights: &Weights) -> Span {
        Span {
            input: 0..weights.input.panels(),
            recurrent: 0..weights.recurrent.first().map_or(0, Packed::panels),
            blocks: 0..weights.units.div_ceil(UNITS),
        }
    }

    /// Even shares for `threads` threads, cut where units and panels of both weights end together;
    /// fewer where there are too few.
    pub fn shares(weights: &Weights, threads: usize) -> Vec<Span> {
        let whole = Span::whole(weights);
        let Some(recurrent) = weights.recurrent.first() else { return vec![whole] };
        let block = weights.gates * UNITS;
        let (input_width, recurrent_width) = (weights.input.width(), recurrent.width());
        let mut step = 1;
        while !(step * block).is_multiple_of(input_width)
            || !(step * block).is_multiple_of(recurrent_width)
        {
            step += 1;
        }
        let steps = whole.blocks.end / step;
        let count = threads.min(steps).max(1);
        let at = |share: usize| {
            if share == count { whole.blocks.end } else { share * steps / count * step }
        };
        let cut = |share: usize, width: usize, panels: usize| {
            let panel =
                |share: usize| if share == count { panels } else { at(share) * block / width };
            panel(share)..panel(share + 1)
        };
        (0..count)
            .map(|share| Span {
                input: cut(share, input_width, whole.input.end),
                recurrent: cut(share, recurrent_width, whole.recurrent.end),
                blocks: at(share)..at(share + 1),
            })
            .collect()
    }

    /// The units, those that fill up the last block among them.
    pub fn units(&self) -> Range<usize> {
        self.blocks.start * UNITS..self.blocks.end * UNITS
    }
}

/// Rows of one direction and their buffers.
pub(super) struct Part {
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
    /// The input and the state as bytes, for weights of bytes.
    quantized_input: Quantized,
    quantized_state: Quantized,
}

impl Part {
    pub fn new(
        direction: usize,
        rows: Range<usize>,
        chunk: usize,
        shape: &Shape,
        weights: &Weights,
    ) -> Part {
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
        Part {
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
        let whole = Span::whole(context.weights);
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

    /// The units of `span` of the plain LSTM, one step on: reads the whole output state, writes
    /// those units of both states.
    pub fn advance(
        &mut self,
        context: &Context<'_>,
        local: usize,
        backwards: bool,
        span: &Span,
    ) -> Result<()> {
        self.recurrent_product(context, local, backwards, span)?;
        self.plain_lstm(context, local, 0..self.rows.len(), span, None)
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
        span: &Span,
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
                &span.input,
                From::Row(&weights.bias),
            )?;
        } else {
            self.project_one(
                context,
                &steps,
                operands.x,
                &weights.input,
                &span.input,
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
        context.table.product(
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
        span: &Span,
    ) -> Result<()> {
        let count = self.rows.len();
        let size = count * self.columns;
        let h = Rows { data: &self.h, stride: self.p_stride };
        let sums = self.sums.get_mut(local * size..(local + 1) * size).ok_or_else(too_short)?;
        let Some(packed) = context.weights.recurrent.first() else { return Ok(()) };
        let (table, panels, scratch) =
            (context.table, span.recurrent.clone(), &mut self.quantized_state);
        if self.recurrent.is_empty() {
            let columns = packed.padded_columns();
            table.product(
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
            table.product(
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
        span: &Span,
        y: Option<(&mut View<'_>, usize)>,
    ) -> Result<()> {
        let base = (local * self.rows.len() + rows.start) * self.columns;
        let sums =
            Rows { data: self.sums.get(base..).ok_or_else(too_short)?, stride: self.columns };
        let c = &mut self.c[rows.start * self.h_stride..];
        let h = &mut self.h[rows.start * self.p_stride..];
        let y = y.map(|(view, step)| (view, step, rows.start));
        context.table.lstm_rows(
            rows.len(),
            self.units,
            span.blocks.clone(),
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
        whole: &Span,
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

    /// The cell of some rows that follow each other, and their output.
    fn rows_step(
        &mut self,
        context: &Context<'_>,
        local: usize,
        step: usize,
        rows: Range<usize>,
        whole: &Span,
        view: &mut Option<View<'_>>,
    ) -> Result<()> {
        let (table, weights) = (context.table, context.weights);
        let base = (local * self.rows.len() + rows.start) * self.columns;
        let sums =
            Rows { data: self.sums.get(base..).ok_or_else(too_short)?, stride: self.columns };
        let (c_at, h_at) = (rows.start * self.h_stride, rows.start * self.p_stride);
        match &context.op.cell {
            cell if is_fused_lstm(cell, weights) => {
                return self.plain_lstm(
                    context,
                    local,
                    rows,
                    whole,
                    view.as_mut().map(|view| (view, step)),
                );
            }
            Cell::Lstm(lstm) if cell::is_plain_lstm(lstm, &weights.vectors) => {
                let (c, m, blocks) =
                    (&mut self.c[c_at..], &mut self.m[c_at..], whole.blocks.clone());
                table.lstm_rows(rows.len(), self.units, blocks, sums, c, m, self.h_stride, None)?;
                self.finish_lstm(lstm, context, &rows)?;
            }
            Cell::Lstm(lstm) => {
                for row in rows.clone() {
                    self.general_lstm(lstm, context, base + (row - rows.start) * self.columns, row);
                }
                self.finish_lstm(lstm, context, &rows)?;
            }
            Cell::Gru(gru) if cell::is_plain_gru(gru) => {
                let y = view.as_mut().map(|view| (view, step, rows.start));
                let recurrent = &self.recurrent[rows.start * self.columns..];
                return table.gru_rows(
                    rows.len(),
                    self.units,
                    sums,
                    recurrent,
                    &mut self.h[h_at..],
                    self.h_stride,
                    y,
                );
            }
            Cell::Gru(gru) => self.general_gru(gru, context, local, &rows)?,
            Cell::Rnn(rnn) => self.rnn(rnn.activation, context, base, &rows),
        }
        if let Some(view) = view {
            for row in rows {
                view.row(step, row)?.copy_from_slice(&self.h[row * self.p_stride..][..self.width]);
            }
        }
        Ok(())
    }

    /// Any LSTM, one row, up to the gated output in `m`.
    fn general_lstm(&mut self, lstm: &Lstm, context: &Context<'_>, sums_at: usize, row: usize) {
        let (weights, units) = (context.weights, self.units);
        let s = &mut self.gates[..weights.gates * units];
        cell::unpack(&self.sums[sums_at..], weights.gates, units, s);
        if let Some(diagonal) = &weights.vectors.diagonal {
            let h = &self.h[row * self.p_stride..][..units];
            add_diagonal(s, diagonal, h);
        }
        let (c, m) = (
            &mut self.c[row * self.h_stride..][..units],
            &mut self.m[row * self.h_stride..][..units],
        );
        cell::lstm_row(lstm, &weights.vectors, context.table, s, c, m);
    }

    /// From the gated output to the new output state: the projection, where there is one.
    fn finish_lstm(
        &mut self,
        lstm: &Lstm,
        context: &Context<'_>,
        rows: &Range<usize>,
    ) -> Result<()> {
        let m = self.m.get(rows.start * self.h_stride..).ok_or_else(too_short)?;
        let h = self.h.get_mut(rows.start * self.p_stride..).ok_or_else(too_short)?;
        if let Some((packed, bias)) = &context.weights.projection {
            let (a, from) = (Rows { data: m, stride: self.h_stride }, From::Row(bias));
            let panels = 0..packed.panels();
            context.table.product(
                rows.len(),
                a,
                packed,
                panels,
                false,
                from,
                h,
                self.p_stride,
                self.width,
                &mut self.quantized_state,
            )?;
            if let Some(bound) = lstm.projection_clip {
                h.chunks_mut(self.p_stride)
                    .take(rows.len())
                    .for_each(|h| cell::clip(&mut h[..self.width], bound));
            }
        } else {
            for (h, m) in h.chunks_mut(self.p_stride).zip(m.chunks(self.h_stride)).take(rows.len())
            {
                h[..self.units].copy_from_slice(&m[..self.units]);
            }
        }
        Ok(())
    }

    /// Any GRU.
    fn general_gru(
        &mut self,
        gru: &Gru,
        context: &Context<'_>,
        local: usize,
        rows: &Range<usize>,
    ) -> Result<()> {
        let (weights, units, table) = (context.weights, self.units, context.table);
        let all = 3 * units;
        for row in rows.clone() {
            let sums_at = (local * self.rows.len() + row) * self.columns;
            let (x, r) = self.gates.split_at_mut(all);
            cell::unpack(&self.sums[sums_at..], 3, units, x);
            let h = &mut self.h[row * self.p_stride..][..units];
            let m = &mut self.m[row * self.h_stride..][..units];
            let recurrent = &self.recurrent[row * self.columns..];
            cell::unpack(recurrent, if gru.reset_after { 3 } else { 2 }, units, r);
            cell::gru_gates(gru, table, x, r, h, m);
            if gru.reset_after {
                cell::gru_state(gru, table, x, &r[2 * units..], h);
            } else {
                // The candidate's product waits for `reset ∘ h` of this row.
                let Some(packed) = weights.recurrent.get(1) else { return Err(too_short()) };
                let a = Rows { data: m, stride: self.h_stride };
                let to = &mut self.recurrent[row * self.columns..][..self.columns];
                let columns = packed.padded_columns().min(to.len());
                table.product(
                    1,
                    a,
                    packed,
                    0..packed.panels(),
                    false,
                    From::Zero,
                    to,
                    columns,
                    columns,
                    &mut self.quantized_state,
                )?;
                cell::unpack(to, 1, units, &mut r[2 * units..]);
                cell::gru_state(gru, table, x, &r[2 * units..], h);
            }
        }
        Ok(())
    }

    /// The plain cell; with one gate the packed order is the natural one.
    fn rnn(
        &mut self,
        activation: Activation,
        context: &Context<'_>,
        base: usize,
        rows: &Range<usize>,
    ) {
        for row in rows.clone() {
            let s = &mut self.sums[base + (row - rows.start) * self.columns..][..self.units];
            let h = &mut self.h[row * self.p_stride..][..self.units];
            context.table.activate(activation, s);
            h.copy_from_slice(s);
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
pub(super) fn is_fused_lstm(cell: &Cell, weights: &Weights) -> bool {
    weights.projection.is_none()
        && matches!(cell, Cell::Lstm(lstm) if cell::is_plain_lstm(lstm, &weights.vectors))
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

/// `s_k += d_k ∘ h` for every gate k.
fn add_diagonal(s: &mut [f32], diagonal: &[f32], h: &[f32]) {
    let units = h.len().max(1);
    for (s, d) in s.chunks_mut(units).zip(diagonal.chunks(units)) {
        for ((s, d), h) in s.iter_mut().zip(d).zip(h) {
            *s += d * h;
        }
    }
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
