//! One step of some rows: the cell on the sums of both products, and the output.

use std::ops::Range;

use super::super::cell;
use super::{Context, From, RowBlock, Rows, UnitRange, View, is_fused_lstm, too_short};
use crate::error::Result;
use crate::graph::op::Activation;
use crate::graph::recurrent::{Cell, Gru, Lstm};

impl RowBlock {
    /// The cell of some rows that follow each other, and their output.
    pub(super) fn rows_step(
        &mut self,
        context: &Context<'_>,
        local: usize,
        step: usize,
        rows: Range<usize>,
        whole: &UnitRange,
        view: &mut Option<View<'_>>,
    ) -> Result<()> {
        let (kernels, weights) = (context.kernels, context.weights);
        let base = (local * self.rows.len() + rows.start) * self.columns;
        let sums =
            Rows { data: self.sums.get(base..).ok_or_else(too_short)?, stride: self.columns };
        let (c_at, h_at) = (rows.start * self.h_stride, rows.start * self.p_stride);
        match &context.op.cell {
            _ if is_fused_lstm(context.op, weights) => {
                return self.plain_lstm(
                    context,
                    local,
                    rows,
                    whole,
                    view.as_mut().map(|view| (view, step)),
                );
            }
            Cell::Lstm(lstm)
                if cell::is_plain_lstm(lstm, context.op.gate_clip, &weights.vectors) =>
            {
                let (c, m, blocks) =
                    (&mut self.c[c_at..], &mut self.m[c_at..], whole.blocks.clone());
                kernels.lstm_rows(
                    rows.len(),
                    self.units,
                    blocks,
                    sums,
                    c,
                    m,
                    self.h_stride,
                    None,
                )?;
                self.finish_lstm(lstm, context, &rows)?;
            }
            Cell::Lstm(lstm) => {
                for row in rows.clone() {
                    self.general_lstm(lstm, context, base + (row - rows.start) * self.columns, row);
                }
                self.finish_lstm(lstm, context, &rows)?;
            }
            Cell::Gru(gru) if cell::is_plain_gru(gru, context.op.gate_clip) => {
                let y = view.as_mut().map(|view| (view, step, rows.start));
                let recurrent = &self.recurrent[rows.start * self.columns..];
                return kernels.gru_rows(
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
        cell::lstm_row(lstm, &weights.vectors, &context.gates(), s, c, m);
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
            context.kernels.product(
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
        let (weights, units, kernels) = (context.weights, self.units, context.kernels);
        let all = 3 * units;
        for row in rows.clone() {
            let sums_at = (local * self.rows.len() + row) * self.columns;
            let (x, r) = self.gates.split_at_mut(all);
            cell::unpack(&self.sums[sums_at..], 3, units, x);
            let h = &mut self.h[row * self.p_stride..][..units];
            let m = &mut self.m[row * self.h_stride..][..units];
            let recurrent = &self.recurrent[row * self.columns..];
            cell::unpack(recurrent, if gru.reset_after { 3 } else { 2 }, units, r);
            cell::gru_gates(gru, &context.gates(), x, r, h, m);
            if gru.reset_after {
                cell::gru_state(gru, &context.gates(), x, &r[2 * units..], h);
            } else {
                // The candidate's product waits for `reset ∘ h` of this row.
                let Some(packed) = weights.recurrent.get(1) else { return Err(too_short()) };
                let a = Rows { data: m, stride: self.h_stride };
                let to = &mut self.recurrent[row * self.columns..][..self.columns];
                let columns = packed.padded_columns().min(to.len());
                kernels.product(
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
                cell::gru_state(gru, &context.gates(), x, &r[2 * units..], h);
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
            context.gates().activate(activation, s);
            h.copy_from_slice(s);
        }
    }
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
