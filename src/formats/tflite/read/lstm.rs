//! LSTM, UNIDIRECTIONAL_SEQUENCE_LSTM and BIDIRECTIONAL_SEQUENCE_LSTM.
//!
//! Their operand lists differ in where things stand and in nothing else, so that one reader serves
//! all three, told by [`Slots`]. Gates are in the order input, forget, cell, output everywhere;
//! CIFG is signalled by an absent input gate.

use std::sync::Arc;

use super::super::schema;
use super::Model;
use super::function::{Call, Function};
use super::lstm_weights::{
    BACKWARD, FORWARD, SINGLE, Slots, expect_absent, gates, read_blocks, read_weights,
};
use super::options::{activation, clip};
use super::weights::{Kind, is_absent};
use crate::error::{Error, Place, Result};
use crate::graph::op::{Activation, Squeeze};
use crate::graph::recurrent::{
    Arithmetic, Cell, CellWeights, Direction, IntegerScales, Layout, Lstm, Masking, Merge,
    Recurrent, Source,
};
use crate::graph::{Dim, Op, ValueId, ValueType};
use crate::tensor::{DType, Quantization};

/// Slot of the auxiliary input of the bidirectional operator.
const AUXILIARY: usize = 39;

/// The options that all three share.
pub(super) struct Settings {
    activation: Activation,
    cell_clip: Option<f32>,
    projection_clip: Option<f32>,
    layout: Layout,
    asymmetric: bool,
    pub(super) diagonal: bool,
}

impl Settings {
    fn new(
        number: i8,
        cell_clip: f32,
        projection_clip: f32,
        time_major: bool,
        asymmetric: bool,
    ) -> Result<Self> {
        Ok(Settings {
            activation: activation(number)?,
            cell_clip: clip("cell_clip", cell_clip)?,
            projection_clip: clip("proj_clip", projection_clip)?,
            layout: layout(time_major),
            asymmetric,
            diagonal: false,
        })
    }

    /// Says so when the file asks for what TensorFlow Lite itself gets wrong.
    fn warn(&self, model: &Model<'_>) {
        if self.activation == Activation::Linear {
            model.warn(
                "an LSTM without fused activation: TensorFlow Lite's kernel then reads a stale buffer; here the activation is linear"
                    .to_owned(),
            );
        }
    }

    fn cell(&self, coupled_input_forget: bool) -> Cell {
        Cell::Lstm(Lstm {
            gate: Activation::Sigmoid,
            candidate: self.activation,
            output: self.activation,
            coupled_input_forget,
            cell_clip: self.cell_clip,
            projection_clip: self.projection_clip,
        })
    }
}

pub(super) fn layout(time_major: bool) -> Layout {
    if time_major { Layout::TimeMajor } else { Layout::BatchMajor }
}

/// The sequence operator.
pub(super) fn read_unidirectional<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    expect_operands(call, &[20, 24])?;
    let options: schema::SequenceLstmOptions = call.options()?;
    let mut settings = Settings::new(
        options.activation(),
        options.cell_clip(),
        options.projection_clip(),
        options.time_major(),
        options.asymmetric(),
    )?;
    settings.diagonal = options.diagonal();
    let x = sequence(function, call, 0)?;
    let y = function.output(call, 0)?;
    finish_single(function, call, &settings, x, y)
}

/// One step: the input gets a time axis of one step in front, the output loses it again.
pub(super) fn read_single_step<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    let options: schema::LstmOptions = call.options()?;
    match options.kernel_type() {
        0 => {}
        1 => return super::basic::read(function, call),
        other => {
            return Err(Error::malformed(format!(
                "kernel type {other}, expected 0 (FULL) or 1 (BASIC)"
            )));
        }
    }
    expect_operands(call, &[20, 24])?;
    let settings = Settings::new(
        options.activation(),
        options.cell_clip(),
        options.projection_clip(),
        true,
        options.asymmetric(),
    )?;
    let (x, y) = single_step(function, call)?;
    finish_single(function, call, &settings, x, y)?;
    end_single_step(function, call, y)
}

fn expect_operands(call: &Call<'_>, counts: &[usize]) -> Result<()> {
    expect_inputs(call, counts)?;
    call.expect_arity(0..=usize::MAX, 1)
}

/// A value with rank 3.
pub(super) fn sequence<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    slot: usize,
) -> Result<ValueId> {
    let x = function.input(call, slot)?;
    expect_rank(function, x, 3).within(|| format!("input {slot}"))?;
    Ok(x)
}

fn expect_rank(function: &Function<'_>, value: ValueId, rank: usize) -> Result<()> {
    match function.ty(value)?.rank() {
        Some(found) if found != rank => {
            Err(Error::malformed(format!("expected rank {rank}, found {found}")))
        }
        _ => Ok(()),
    }
}

/// Wraps an operator of one step: its input `[B, I]` as a sequence `[1, B, I]`, and a sequence
/// `[1, B, P]` whose only step becomes its output `[B, P]`.
pub(super) fn single_step<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
) -> Result<(ValueId, ValueId)> {
    let x = function.input(call, 0)?;
    expect_rank(function, x, 2).within(|| "input 0")?;
    let ty = with_time(function.ty(x)?);
    let name = function.graph.get(x).map(|value| value.name.clone()).unwrap_or_default();
    let axis = function.integers("time axis", &[], vec![0])?;
    let sequence = function.graph.add_value(format!("{name}/sequence"), ty);
    function.node(Op::ExpandDims, vec![Some(x), Some(axis)], vec![Some(sequence)]);
    let position = call.outputs.first().copied().unwrap_or(-1);
    let ty = with_time(&function.intermediate(position).within(|| "output 0")?);
    let y = function.graph.add_value(format!("{name}/outputs"), ty);
    Ok((sequence, y))
}

fn with_time(ty: &ValueType) -> ValueType {
    let mut ty = ty.clone();
    if let Some(shape) = &mut ty.shape {
        shape.insert(0, Dim::Known(1));
    }
    ty
}

/// Ends what [`single_step`] began, after the node that computes `y`.
pub(super) fn end_single_step<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    y: ValueId,
) -> Result<()> {
    let output = function.output(call, 0)?;
    function.node(Op::Squeeze(Squeeze { axes: vec![0] }), vec![Some(y)], vec![Some(output)]);
    Ok(())
}

/// The recurrent node of one direction.
fn finish_single<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    settings: &Settings,
    x: ValueId,
    y: ValueId,
) -> Result<()> {
    settings.warn(function.model);
    let kind = function.kind(call, SINGLE.input[1], "input to forget gate weights")?;
    let width = last_size(function, x).within(|| "input 0")?;
    let (coupled, weights) = read_weights(function, call, &SINGLE, kind, settings, width)?;
    let arithmetic = match kind {
        Kind::Float => Arithmetic::Float,
        Kind::Hybrid => Arithmetic::Hybrid { asymmetric: settings.asymmetric },
        Kind::Integer => {
            Arithmetic::Integer(integer_scales(function, call, weights.layer_norm.is_some())?)
        }
    };
    let states = read_states(function, call, &SINGLE, kind, x, settings.layout)?;
    function.node(
        Op::Recurrent(Recurrent {
            cell: settings.cell(coupled),
            directions: vec![Direction {
                reverse: false,
                source: Source::X,
                weights: Arc::new(weights),
            }],
            layout: settings.layout,
            masking: Masking::Zero,
            merge: Merge::Separate,
            gate_clip: None,
            arithmetic,
        }),
        vec![Some(x), None, None, Some(states.h), Some(states.c)],
        vec![Some(y), None, Some(states.next_h), Some(states.next_c)],
    );
    states.write(function, call, &SINGLE)
}

/// The bidirectional operator.
pub(super) fn read_bidirectional<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    expect_inputs(call, &[48])?;
    let options: schema::BidirectionalLstmOptions = call.options()?;
    let merge = if options.merge_outputs() { Merge::Concat } else { Merge::Separate };
    call.expect_arity(48..=48, if merge == Merge::Concat { 1 } else { 2 })?;
    let settings = Settings::new(
        options.activation(),
        options.cell_clip(),
        options.projection_clip(),
        options.time_major(),
        options.asymmetric(),
    )?;
    settings.warn(function.model);
    let kind = function.kind(call, FORWARD.input[1], "input to forget gate weights")?;
    if kind == Kind::Integer {
        return Err(Error::unsupported(
            "int8 activations: no runtime has an integer kernel of this operator",
        ));
    }
    let x = sequence(function, call, 0)?;
    let linking = Linking::read(function, call, AUXILIARY, &[40, 41, 42, 43, 44, 45, 46, 47])?;
    let width = last_size(function, x).within(|| "input 0")?;
    let width_b = linking.backward_width(function, width)?;
    let (coupled, forward) = linked(function, call, &FORWARD, kind, &settings, width, &linking)?;
    let (coupled_b, backward) =
        linked(function, call, &BACKWARD, kind, &settings, width_b, &linking)?;
    if coupled != coupled_b {
        return Err(Error::unsupported(
            "one direction couples its input and forget gate and the other does not",
        ));
    }
    let states = read_states(function, call, &FORWARD, kind, x, settings.layout)?;
    let states_b = read_states(function, call, &BACKWARD, kind, x, settings.layout)?;
    let y = function.output(call, 0)?;
    let y_b = if merge == Merge::Separate { Some(function.output(call, 1)?) } else { None };
    function.node(
        Op::Recurrent(Recurrent {
            cell: settings.cell(coupled),
            directions: vec![
                Direction { reverse: false, source: Source::X, weights: Arc::new(forward) },
                Direction {
                    reverse: true,
                    source: linking.backward_source(),
                    weights: Arc::new(backward),
                },
            ],
            layout: settings.layout,
            masking: Masking::Zero,
            merge,
            gate_clip: None,
            arithmetic: match kind {
                Kind::Hybrid => Arithmetic::Hybrid { asymmetric: settings.asymmetric },
                Kind::Float | Kind::Integer => Arithmetic::Float,
            },
        }),
        vec![
            Some(x),
            None,
            linking.input(),
            Some(states.h),
            Some(states.c),
            Some(states_b.h),
            Some(states_b.c),
        ],
        vec![
            Some(y),
            y_b,
            Some(states.next_h),
            Some(states.next_c),
            Some(states_b.next_h),
            Some(states_b.next_c),
        ],
    );
    states.write(function, call, &FORWARD)?;
    states_b.write(function, call, &BACKWARD)
}

/// What the auxiliary input of a bidirectional operator is for.
pub(super) enum Linking {
    /// There is none.
    None,
    /// It has weights of its own in both directions and is added to every gate.
    Cross(ValueId),
    /// It has no weights: the backward cell reads it instead of the input.
    Parallel(ValueId),
}

impl Linking {
    /// `weights`: the slots of all auxiliary weights, which are all there or all absent (but for
    /// those of coupled input gates).
    pub(super) fn read<'m>(
        function: &mut Function<'m>,
        call: &Call<'m>,
        slot: usize,
        weights: &[usize],
    ) -> Result<Self> {
        let given = weights.iter().any(|slot| !is_absent(call, *slot));
        if is_absent(call, slot) {
            return if given {
                Err(Error::malformed("auxiliary weights without an auxiliary input")
                    .within(format!("input {slot}")))
            } else {
                Ok(Linking::None)
            };
        }
        let value = sequence(function, call, slot)?;
        Ok(if given { Linking::Cross(value) } else { Linking::Parallel(value) })
    }

    pub(super) fn input(&self) -> Option<ValueId> {
        match self {
            Linking::None => None,
            Linking::Cross(value) | Linking::Parallel(value) => Some(*value),
        }
    }

    pub(super) fn backward_source(&self) -> Source {
        match self {
            Linking::None | Linking::Cross(_) => Source::X,
            Linking::Parallel(_) => Source::Auxiliary,
        }
    }

    /// Width of what the backward cell reads.
    pub(super) fn backward_width(
        &self,
        function: &Function<'_>,
        width: Option<usize>,
    ) -> Result<Option<usize>> {
        match self {
            Linking::None | Linking::Cross(_) => Ok(width),
            Linking::Parallel(value) => last_size(function, *value),
        }
    }

    /// Width of the auxiliary input where it has weights of its own.
    pub(super) fn auxiliary_width(&self, function: &Function<'_>) -> Result<Option<usize>> {
        match self {
            Linking::Cross(value) => last_size(function, *value),
            Linking::None | Linking::Parallel(_) => Ok(None),
        }
    }
}

/// Weights of one direction of the bidirectional operator.
fn linked<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    slots: &Slots,
    kind: Kind,
    settings: &Settings,
    width: Option<usize>,
    linking: &Linking,
) -> Result<(bool, CellWeights)> {
    let (coupled, mut weights) = read_weights(function, call, slots, kind, settings, width)?;
    let (Linking::Cross(_), Some(auxiliary)) = (linking, slots.auxiliary) else {
        return Ok((coupled, weights));
    };
    if coupled {
        expect_absent(call, auxiliary[0], "auxiliary to input gate weights")?;
    }
    let gates = gates(coupled);
    let width = match linking.auxiliary_width(function)? {
        Some(width) => width,
        None => {
            function.weight_shape(call, auxiliary[1], "auxiliary to forget gate weights", 2)?[1]
        }
    };
    let shape = [weights.units(gates.len()), width];
    weights.auxiliary = Some(read_blocks(
        function,
        call,
        auxiliary,
        gates,
        "auxiliary weights",
        &shape,
        kind.matrix(),
    )?);
    Ok((coupled, weights))
}

/// Size of the last axis, when it is known.
pub(super) fn last_size(function: &Function<'_>, value: ValueId) -> Result<Option<usize>> {
    Ok(function
        .ty(value)?
        .shape
        .as_ref()
        .and_then(|shape| shape.last())
        .and_then(|dim| dim.known()))
}

fn expect_inputs(call: &Call<'_>, counts: &[usize]) -> Result<()> {
    if counts.contains(&call.inputs.len()) {
        return Ok(());
    }
    let counts: Vec<String> = counts.iter().map(usize::to_string).collect();
    Err(Error::malformed(format!("{} inputs, expected {}", call.inputs.len(), counts.join(" or "))))
}

/// The states of one direction, before and after.
struct States {
    h: ValueId,
    c: ValueId,
    next_h: ValueId,
    next_c: ValueId,
}

fn read_states<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    slots: &Slots,
    kind: Kind,
    x: ValueId,
    layout: Layout,
) -> Result<States> {
    let (h_type, c_type) =
        if kind == Kind::Integer { (DType::I8, DType::I16) } else { (DType::F32, DType::F32) };
    let (h, next_h) = function.recurrent_state(call, slots.h, h_type, x, layout)?;
    let (c, next_c) = function.recurrent_state(call, slots.c, c_type, x, layout)?;
    Ok(States { h, c, next_h, next_c })
}

impl States {
    fn write<'m>(self, function: &mut Function<'m>, call: &Call<'m>, slots: &Slots) -> Result<()> {
        function.write_state(call, slots.h, self.next_h)?;
        function.write_state(call, slots.c, self.next_c)
    }
}

impl<'m> Function<'m> {
    /// A state operand of a recurrent operator, `[B, ·]`, and the new value that the operator
    /// leaves in it. The batch size of the state is that of the operator's input, where the caller
    /// chooses it.
    pub(super) fn recurrent_state(
        &mut self,
        call: &Call<'m>,
        slot: usize,
        dtype: DType,
        x: ValueId,
        layout: Layout,
    ) -> Result<(ValueId, ValueId)> {
        let value = self.state_input(call, slot)?;
        let ty = self.ty(value)?;
        if ty.dtype != dtype || ty.rank() != Some(2) {
            let found =
                format!("{} of shape {:?}", ty.dtype, ty.shape.as_deref().unwrap_or_default());
            return Err(Error::malformed(format!(
                "expected a state of {dtype} and rank 2, found {found}"
            ))
            .within(format!("input {slot}")));
        }
        let axis = if layout == Layout::TimeMajor { 1 } else { 0 };
        let batch = self.ty(x)?.shape.as_ref().and_then(|shape| shape.get(axis)).copied();
        let open = batch.filter(|dim| matches!(dim, Dim::Symbol(_)));
        let state = self.graph.get_mut(value);
        let state = state.ok_or_else(|| Error::internal("a state is missing"))?;
        if let (Some(dim), Some(open)) =
            (state.ty.shape.as_mut().and_then(|shape| shape.first_mut()), open)
        {
            *dim = open;
        }
        let (name, ty) = (format!("{}/next", state.name), state.ty.clone());
        let next = self.graph.add_value(name, ty);
        Ok((value, next))
    }
}

/// Scales of the integer operator: those of its operands, its states and its five intermediates.
fn integer_scales(
    function: &mut Function<'_>,
    call: &Call<'_>,
    layer_norm: bool,
) -> Result<IntegerScales> {
    let intermediates = call.table.intermediates();
    match intermediates.len() {
        5 => {}
        12 => {
            return Err(Error::unsupported(
                "the integer LSTM of twelve intermediates (8x8→8): the form of five is supported",
            ));
        }
        other => {
            return Err(Error::malformed(format!(
                "{other} intermediates, an integer LSTM has five"
            )));
        }
    }
    let mut scales = [(0.0f32, 0i64); 5];
    for (number, (slot, &index)) in scales.iter_mut().zip(&intermediates).enumerate() {
        // Those of the gates are used with layer norm only, and need not be there otherwise.
        if layer_norm || number == 4 {
            let ty = function.intermediate(index).within(|| format!("intermediate {number}"))?;
            *slot =
                scale_of(ty.quantization.as_ref()).within(|| format!("intermediate {number}"))?;
        }
    }
    let operand = |slot: usize| {
        let value = call.inputs.get(slot).copied().unwrap_or(-1);
        scale_of(function.intermediate(value)?.quantization.as_ref())
            .within(|| format!("input {slot}"))
    };
    let (input, state, cell) = (operand(0)?, operand(SINGLE.h)?, operand(SINGLE.c)?);
    let gate = |number: usize| if layer_norm { scales[number].0 } else { f32::exp2(-12.0) };
    Ok(IntegerScales {
        input: narrow(input),
        output_state: narrow(state),
        cell_scale_log2: cell_scale(cell).within(|| format!("input {}", SINGLE.c))?,
        gates: [gate(0), gate(1), gate(2), gate(3)],
        hidden: narrow(scales[4]),
    })
}

/// `k` of a cell state's scale `2^k`.
fn cell_scale((scale, zero): (f32, i64)) -> Result<i32> {
    let log2 = scale.log2();
    if log2.fract() != 0.0 || zero != 0 {
        return Err(Error::malformed(format!(
            "the cell state has scale {scale} and zero point {zero}, expected a power of two and 0"
        )));
    }
    // Outside this range tanh has less than 0 or more than 6 integer bits, for which no kernel is
    // defined.
    if !(-15.0..=-9.0).contains(&log2) {
        return Err(Error::unsupported(format!(
            "the cell state has scale 2^{log2}, 2^-15 to 2^-9 are supported"
        )));
    }
    Ok(log2 as i32)
}

/// The scale and zero point of a tensor that must have one pair.
pub(super) fn scale_of(quantization: Option<&Quantization>) -> Result<(f32, i64)> {
    quantization.and_then(Quantization::as_per_tensor).ok_or_else(|| {
        Error::malformed("one quantization scale was expected, there is none or there are several")
    })
}

/// Zero points were held against their type's range when they were read.
pub(super) fn narrow((scale, zero): (f32, i64)) -> (f32, i32) {
    (scale, zero as i32)
}
