//! LSTM, GRU and RNN to the canonical recurrent op.

use std::sync::Arc;

use super::activations::{self, Function, Functions};
use super::composed::{Composed, Weight};
use super::lower::Val;
use super::step::{Outputs, Step};
use super::weights::{Kind, Sizes, Weights};
use crate::error::{Error, Result};
use crate::graph::op::{BinaryFunction as F, Pack, Unpack};
use crate::graph::recurrent::{
    Arithmetic, Cell, Direction, Gru, Layout, Lstm, Masking, Merge, Recurrent, Rnn, Source,
};
use crate::graph::{Dim, Op, ValueId};
use crate::tensor::DType;

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Outputs>> {
    let kind = match step.node.op_type.as_str() {
        "LSTM" => Kind::Lstm,
        "GRU" => Kind::Gru,
        "RNN" => Kind::Rnn,
        _ => return Ok(None),
    };
    let layer = Layer::read(step, kind, false)?;
    layer.lower(step).map(Some)
}

/// The LSTM with 8-bit weights `[D, I, 4·H]` and `[D, H, 4·H]`, a scale and a zero point of each
/// direction (or of each column of it); x and h are quantized when the model runs, each as a whole.
pub fn lower_microsoft(step: &mut Step<'_, '_>) -> Result<Option<Outputs>> {
    if step.node.op_type != "DynamicQuantizeLSTM" {
        return Ok(None);
    }
    let layer = Layer::read(step, Kind::Lstm, true)?;
    layer.lower(step).map(Some)
}

/// A layer as the node says it.
struct Layer {
    kind: Kind,
    /// W and R are integers.
    quantized: bool,
    /// Whether each direction is reversed.
    directions: Vec<bool>,
    functions: Vec<Functions>,
    clip: Option<f32>,
    /// LSTM: the forget gate is `1 − i`.
    input_forget: bool,
    /// GRU: the reset gate acts on the recurrent product.
    linear_before_reset: bool,
    /// Batch before time.
    batch_major: bool,
    sizes: Sizes,
    x: ValueId,
    lengths: Option<ValueId>,
    h0: Option<ValueId>,
    c0: Option<ValueId>,
    dtype: DType,
}

impl Layer {
    fn read(step: &mut Step<'_, '_>, kind: Kind, quantized: bool) -> Result<Self> {
        match (kind, quantized) {
            (_, true) => step.expect_inputs(11, 12)?,
            (Kind::Lstm, _) => step.expect_inputs(3, 8)?,
            (Kind::Gru | Kind::Rnn, _) => step.expect_inputs(3, 6)?,
        }
        let directions = directions(step)?;
        let functions = activations::read(step, kind, directions.len())?;
        let x = step.tensor(0)?;
        let sizes = Sizes::read(step, kind, directions.len(), quantized)?;
        let layer = Layer {
            kind,
            quantized,
            functions,
            clip: clip(step)?,
            input_forget: kind == Kind::Lstm && step.attrs.flag("input_forget", false)?,
            linear_before_reset: linear_before_reset(step, kind)?,
            batch_major: layout(step)?,
            sizes,
            x,
            lengths: step.optional(4)?,
            h0: step.optional(5)?,
            c0: if kind == Kind::Lstm { step.optional(6)? } else { None },
            dtype: step.dtype(x)?,
            directions,
        };
        layer.check(step)?;
        Ok(layer)
    }

    /// Holds the operands against the sizes of the weights, as far as theirs are known.
    fn check(&self, step: &Step<'_, '_>) -> Result<()> {
        let x = step.dims(self.x)?;
        let [first, second, width] = *x.as_slice() else {
            return Err(Error::malformed(format!("X: expected 3 axes, found {}", x.len())));
        };
        let (time, batch) = if self.batch_major { (second, first) } else { (first, second) };
        let expect = |name: &str, found: &[Dim], expected: &[Dim]| {
            let fits = found.len() == expected.len()
                && found.iter().zip(expected).all(|(a, b)| a.agrees_with(*b));
            if fits {
                return Ok(());
            }
            let show = |dims: &[Dim]| {
                let sizes: Vec<String> = dims.iter().map(Dim::to_string).collect();
                format!("[{}]", sizes.join(", "))
            };
            Err(Error::malformed(format!(
                "{name}: expected shape {}, found {}",
                show(expected),
                show(found)
            )))
        };
        expect("X", &[width], &[Dim::Known(self.sizes.input)])?;
        let count = Dim::Known(self.directions.len());
        let hidden = Dim::Known(self.sizes.hidden);
        let state = if self.batch_major { [batch, count, hidden] } else { [count, batch, hidden] };
        for (name, id) in [("initial_h", self.h0), ("initial_c", self.c0)] {
            if let Some(shape) = id.and_then(|id| step.builder.graph.shape(id)) {
                expect(name, shape, &state)?;
            }
        }
        let Some(lengths) = self.lengths else { return Ok(()) };
        if step.dtype(lengths)? != DType::I32 {
            return Err(Error::malformed(format!(
                "sequence_lens: expected int32, found {}",
                step.dtype(lengths)?
            )));
        }
        if let Some(shape) = step.builder.graph.shape(lengths) {
            expect("sequence_lens", shape, &[batch])?;
        }
        let most = time.known().map_or(i64::MAX, |time| time as i64);
        let known = step.builder.integers(lengths)?.unwrap_or_default();
        match known.iter().find(|length| !(0..=most).contains(*length)) {
            None => Ok(()),
            Some(length) => Err(Error::malformed(format!(
                "sequence_lens: expected lengths from 0 to {time}, found {length}"
            ))),
        }
    }

    fn lower(&self, step: &mut Step<'_, '_>) -> Result<Outputs> {
        if self.dtype == DType::F64 {
            step.cx.warn(
                "float64 recurrent layers are computed in float32, which keeps 7 digits".to_owned(),
            );
        }
        let x = step.cast(self.x, DType::F32)?;
        let h0 = self.states(step, self.h0)?;
        let c0 = self.states(step, self.c0)?;
        let weights = match Weights::read(step, &self.sizes)? {
            Some(weights) if self.is_canonical() && !self.quantized && !self.is_step(step)? => {
                weights
            }
            _ => return self.composed(step, x, &h0, &c0),
        };
        let count = self.directions.len();
        let alike =
            self.functions.iter().all(|functions| Some(functions) == self.functions.first());
        // The canonical op has one cell: directions with functions of their own are two ops.
        let groups: Vec<Vec<usize>> =
            if alike { vec![(0..count).collect()] } else { (0..count).map(|d| vec![d]).collect() };
        let mut results = Results::default();
        for group in &groups {
            let op = self.op(&weights, group)?;
            let mut inputs = vec![None; op.input_slots()];
            set(&mut inputs, Recurrent::X, Some(x));
            set(&mut inputs, Recurrent::MASK, self.lengths);
            for (slot, &d) in group.iter().enumerate() {
                set(&mut inputs, Recurrent::h0(slot), h0.get(d).copied().flatten());
                set(&mut inputs, Recurrent::c0(slot), c0.get(d).copied().flatten());
            }
            let slots = op.output_slots();
            let ids = step.add_all(Op::Recurrent(op), inputs, slots)?;
            self.keep_wanted(step, group.len());
            for slot in 0..group.len() {
                let at = |k: usize| {
                    ids.get(k).copied().ok_or_else(|| Error::internal("a layer without results"))
                };
                results.y.push(at(Recurrent::y(slot))?);
                results.h.push(at(Recurrent::h_n(slot))?);
                results.c.push(at(Recurrent::c_n(slot))?);
            }
        }
        self.outputs(step, results)
    }

    /// Whether the layer is one step of a loop around it, whose cell it then is.
    fn is_step(&self, step: &Step<'_, '_>) -> Result<bool> {
        let axis = usize::from(self.batch_major);
        let one = step.dims(self.x)?.get(axis) == Some(&Dim::Known(1));
        Ok(step.cx.in_loop && one && self.lengths.is_none() && self.directions == [false])
    }

    /// Whether the canonical op says all of the layer.
    fn is_canonical(&self) -> bool {
        let known = |f: &Functions| {
            let mirrored = !self.input_forget || activations::mirrored(f.gate);
            let all = [f.gate, f.candidate, f.output];
            mirrored && all.iter().all(|function| function.plain().is_some())
        };
        self.functions.iter().all(known)
    }

    /// The layer as loops of basic ops, one for each direction.
    fn composed(
        &self,
        step: &mut Step<'_, '_>,
        x: ValueId,
        h0: &[Option<ValueId>],
        c0: &[Option<ValueId>],
    ) -> Result<Outputs> {
        let x = if self.batch_major { step.transpose(x, &[1, 0, 2])? } else { x };
        let (w, r) = (self.weights(step, 1)?, self.weights(step, 2)?);
        let mut weights = Vec::with_capacity(2);
        for slot in [3, 7] {
            let operand =
                if slot == 7 && self.kind != Kind::Lstm { None } else { step.optional(slot)? };
            weights.push(match operand {
                None => vec![None; self.directions.len()],
                Some(operand) => self.split(step, operand, 0)?,
            });
        }
        let mut results = Results::default();
        for (d, &reverse) in self.directions.iter().enumerate() {
            let weight = |k: usize| weights.get(k).and_then(|all| all.get(d).copied()).flatten();
            let missing = || Error::internal("weights that were checked are absent");
            let functions = self.functions.get(d).copied();
            let composed = Composed {
                kind: self.kind,
                hidden: self.sizes.hidden,
                functions: functions.ok_or_else(missing)?,
                clip: self.clip,
                input_forget: self.input_forget,
                reset_after: self.linear_before_reset,
                reverse,
                x,
                lengths: self.lengths,
                w: w.get(d).copied().ok_or_else(missing)?,
                r: r.get(d).copied().ok_or_else(missing)?,
                b: weight(0),
                p: weight(1),
                h0: h0.get(d).copied().flatten(),
                c0: c0.get(d).copied().flatten(),
            };
            let [mut y, h, c] = if self.is_step(step)? {
                let frame = step.without_axis(x, 0)?;
                let [h, c] = composed.once(step, frame)?;
                let axis = step.scalar(0);
                [step.add(Op::ExpandDims, &[h, axis])?, h, c]
            } else {
                composed.lower(step)?
            };
            if self.batch_major {
                y = step.transpose(y, &[1, 0, 2])?;
            }
            results.y.push(y);
            results.h.push(h);
            results.c.push(c);
        }
        self.outputs(step, results)
    }

    /// The node's results that nobody reads are absent.
    fn keep_wanted(&self, step: &mut Step<'_, '_>, directions: usize) {
        let wants = [step.wants(0), step.wants(1), step.wants(2) && self.kind == Kind::Lstm];
        let Some(node) = step.builder.graph.nodes.last_mut() else { return };
        let mut keep = vec![false; node.outputs.len()];
        for d in 0..directions {
            for (slot, wanted) in
                [Recurrent::y(d), Recurrent::h_n(d), Recurrent::c_n(d)].into_iter().zip(wants)
            {
                if let Some(keep) = keep.get_mut(slot) {
                    *keep = wanted;
                }
            }
        }
        for (output, keep) in node.outputs.iter_mut().zip(keep) {
            if !keep {
                *output = None;
            }
        }
    }

    /// Initial states of each direction, in f32; zeros are absent.
    fn states(
        &self,
        step: &mut Step<'_, '_>,
        state: Option<ValueId>,
    ) -> Result<Vec<Option<ValueId>>> {
        let Some(state) = state else { return Ok(Vec::new()) };
        let zero =
            step.builder.constant(state).is_some_and(|t| t.to_f32().iter().all(|&x| x == 0.0));
        if zero {
            return Ok(Vec::new());
        }
        self.split(step, state, i64::from(self.batch_major))
    }

    /// W or R of each direction.
    fn weights(&self, step: &mut Step<'_, '_>, slot: usize) -> Result<Vec<Weight>> {
        let operand = step.tensor(slot)?;
        if !self.quantized {
            let parts = self.split(step, operand, 0)?;
            return Ok(parts.into_iter().flatten().map(Weight::Float).collect());
        }
        let q = step.cast(operand, DType::I32)?;
        let parts = self.parts(step, q, 0)?;
        let (scale, zero) = (step.tensor(6 + 2 * slot)?, step.optional(7 + 2 * slot)?);
        let scales = self.split(step, scale, 0)?;
        let mut weights = Vec::with_capacity(parts.len());
        for (d, (&q, scale)) in parts.iter().zip(scales.into_iter().flatten()).enumerate() {
            let mut q = q;
            if let Some(zero) = zero {
                let zero = step.cast(zero, DType::I32)?;
                let zeros = self.parts(step, zero, 0)?;
                let zero = zeros.get(d).copied();
                let zero = zero.ok_or_else(|| Error::internal("a direction without weights"))?;
                q = step.binary(F::Sub, q, zero)?;
            }
            weights.push(Weight::Quantized { q, scale });
        }
        Ok(weights)
    }

    /// One value for each direction, in f32.
    fn split(
        &self,
        step: &mut Step<'_, '_>,
        value: ValueId,
        axis: i64,
    ) -> Result<Vec<Option<ValueId>>> {
        let value = step.cast(value, DType::F32)?;
        Ok(self.parts(step, value, axis)?.into_iter().map(Some).collect())
    }

    fn parts(&self, step: &mut Step<'_, '_>, value: ValueId, axis: i64) -> Result<Vec<ValueId>> {
        if self.directions.len() == 1 {
            return Ok(vec![step.without_axis(value, axis)?]);
        }
        step.add_all(Op::Unpack(Unpack { axis }), vec![Some(value)], 2)
    }

    fn op(&self, weights: &Weights, group: &[usize]) -> Result<Recurrent> {
        let first = group.first().and_then(|&d| self.functions.get(d));
        let functions = first.ok_or_else(|| Error::internal("a layer without directions"))?;
        let coupled = self.input_forget;
        let plain = |function: Function| {
            function.plain().ok_or_else(|| Error::internal("a function that the graph lacks"))
        };
        let cell = match self.kind {
            Kind::Lstm => Cell::Lstm(Lstm {
                gate: plain(functions.gate)?,
                candidate: plain(functions.candidate)?,
                output: plain(functions.output)?,
                coupled_input_forget: coupled,
                cell_clip: None,
                projection_clip: None,
            }),
            Kind::Gru => Cell::Gru(Gru {
                gate: plain(functions.gate)?,
                candidate: plain(functions.candidate)?,
                reset_after: self.linear_before_reset,
            }),
            Kind::Rnn => Cell::Rnn(Rnn { activation: plain(functions.gate)? }),
        };
        let mut directions = Vec::with_capacity(group.len());
        for &d in group {
            directions.push(Direction {
                reverse: self.directions.get(d).copied().unwrap_or(false),
                source: Source::X,
                weights: Arc::new(weights.direction(
                    d,
                    coupled,
                    self.kind == Kind::Gru && self.linear_before_reset,
                )?),
            });
        }
        Ok(Recurrent {
            cell,
            directions,
            layout: if self.batch_major { Layout::BatchMajor } else { Layout::TimeMajor },
            masking: Masking::Zero,
            merge: Merge::Separate,
            gate_clip: self.clip,
            arithmetic: Arithmetic::Float,
        })
    }

    /// Y `[T, D, B, H]` (or `[B, T, D, H]`), Y_h and Y_c `[D, B, H]` (or `[B, D, H]`).
    fn outputs(&self, step: &mut Step<'_, '_>, results: Results) -> Result<Outputs> {
        let (y_axis, state_axis) = if self.batch_major { (2, 1) } else { (1, 0) };
        let mut outputs = Vec::new();
        let has_cell_state = self.kind == Kind::Lstm;
        for (slot, (parts, axis)) in
            [(&results.y, y_axis), (&results.h, state_axis), (&results.c, state_axis)]
                .into_iter()
                .take(if has_cell_state { 3 } else { 2 })
                .enumerate()
        {
            if !step.wants(slot) {
                outputs.push(None);
                continue;
            }
            let mut parts = parts.clone();
            if slot > 0 {
                for part in &mut parts {
                    *part = self.zero_where_empty(step, *part)?;
                }
            }
            let joined = match parts.as_slice() {
                [one] => {
                    let axis = step.scalar(axis);
                    step.add(Op::ExpandDims, &[*one, axis])?
                }
                parts => step.add(Op::Pack(Pack { axis }), parts)?,
            };
            outputs.push(Some(Val::Tensor(step.cast(joined, self.dtype)?)));
        }
        Ok(outputs)
    }

    /// The final state of a row without steps is 0, also where there is an initial state.
    fn zero_where_empty(&self, step: &mut Step<'_, '_>, state: ValueId) -> Result<ValueId> {
        let Some(lengths) = self.lengths else { return Ok(state) };
        if self.h0.is_none() && self.c0.is_none() {
            return Ok(state);
        }
        if step.builder.integers(lengths)?.is_some_and(|known| known.iter().all(|&n| n > 0)) {
            return Ok(state);
        }
        let zero = step.number(DType::I32, 0.0)?;
        let empty = step.binary(F::Equal, lengths, zero)?;
        let last = step.scalar(-1);
        let empty = step.add(Op::ExpandDims, &[empty, last])?;
        let zero = step.number(DType::F32, 0.0)?;
        step.add(Op::Select, &[empty, zero, state])
    }
}

/// Results of each direction.
#[derive(Default)]
struct Results {
    y: Vec<ValueId>,
    h: Vec<ValueId>,
    c: Vec<ValueId>,
}

fn set(slots: &mut [Option<ValueId>], slot: usize, value: Option<ValueId>) {
    if let Some(place) = slots.get_mut(slot) {
        *place = value;
    }
}

fn directions(step: &Step<'_, '_>) -> Result<Vec<bool>> {
    match step.attrs.string("direction")? {
        None | Some("forward") => Ok(vec![false]),
        Some("reverse") => Ok(vec![true]),
        Some("bidirectional") => Ok(vec![false, true]),
        Some(other) => Err(Error::malformed(format!(
            "direction: expected forward, reverse or bidirectional, found '{other}'"
        ))),
    }
}

fn clip(step: &Step<'_, '_>) -> Result<Option<f32>> {
    match step.attrs.float("clip")? {
        // ONNX Runtime takes 0 for no bound.
        Some(0.0) | None => Ok(None),
        Some(clip) if clip.is_finite() && clip > 0.0 => Ok(Some(clip)),
        Some(clip) => {
            Err(Error::malformed(format!("clip: expected a positive number, found {clip}")))
        }
    }
}

fn linear_before_reset(step: &Step<'_, '_>, kind: Kind) -> Result<bool> {
    const SINCE: i64 = 3;
    if kind != Kind::Gru || step.opset < SINCE {
        return Ok(false);
    }
    step.attrs.flag("linear_before_reset", false)
}

/// Whether the batch comes before the time.
fn layout(step: &Step<'_, '_>) -> Result<bool> {
    const SINCE: i64 = 14;
    const WITHOUT_OUTPUT_SEQUENCE: i64 = 7;
    if step.opset < WITHOUT_OUTPUT_SEQUENCE {
        // It told old engines whether Y is computed; the node's outputs say so too.
        step.attrs.int("output_sequence")?;
    }
    if step.opset < SINCE { Ok(false) } else { step.attrs.flag("layout", false) }
}
