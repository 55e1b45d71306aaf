//! RNN, UNIDIRECTIONAL_SEQUENCE_RNN, BIDIRECTIONAL_SEQUENCE_RNN and SVDF.

use std::sync::Arc;

use super::super::schema;
use super::function::{Call, Function};
use super::lstm::{
    Linking, end_single_step, last_size, layout, narrow, scale_of, sequence, single_step,
};
use super::options::{activation, natural};
use super::weights::{Kind, Storage, Wanted, Weight, is_absent};
use crate::error::{Error, Place, Result};
use crate::graph::op::{Svdf, SvdfArithmetic};
use crate::graph::recurrent::{
    Arithmetic, Cell, CellWeights, Direction, Layout, Masking, Merge, Recurrent, Rnn, Source,
};
use crate::graph::{Op, ValueId};
use crate::tensor::DType;

/// Where the operands of one direction stand.
struct Slots {
    input: usize,
    recurrent: usize,
    bias: usize,
    state: usize,
    auxiliary: usize,
}

const FORWARD: Slots = Slots { input: 1, recurrent: 2, bias: 3, state: 4, auxiliary: 10 };
const BACKWARD: Slots = Slots { input: 5, recurrent: 6, bias: 7, state: 8, auxiliary: 11 };

/// One step: as the sequence of one step.
pub(super) fn read_single_step<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    call.expect_arity(5..=5, 1)?;
    let options: schema::RnnOptions = call.options()?;
    let settings = Settings {
        cell: cell(options.activation())?,
        layout: Layout::TimeMajor,
        asymmetric: options.asymmetric(),
    };
    let (x, y) = single_step(function, call)?;
    finish_single(function, call, settings, x, y)?;
    end_single_step(function, call, y)
}

/// The sequence operator.
pub(super) fn read_unidirectional<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    call.expect_arity(5..=5, 1)?;
    let options: schema::SequenceRnnOptions = call.options()?;
    let settings = Settings {
        cell: cell(options.activation())?,
        layout: layout(options.time_major()),
        asymmetric: options.asymmetric(),
    };
    let x = sequence(function, call, 0)?;
    let y = function.output(call, 0)?;
    finish_single(function, call, settings, x, y)
}

/// The options that all three share.
struct Settings {
    cell: Cell,
    layout: Layout,
    asymmetric: bool,
}

fn cell(number: i8) -> Result<Cell> {
    Ok(Cell::Rnn(Rnn { activation: activation(number)? }))
}

fn finish_single<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    settings: Settings,
    x: ValueId,
    y: ValueId,
) -> Result<()> {
    let kind = float_or_hybrid(function, call)?;
    let width = last_size(function, x).within(|| "input 0")?;
    let weights = read_weights(function, call, &FORWARD, kind, width)?;
    let (h, next) =
        function.recurrent_state(call, FORWARD.state, DType::F32, x, settings.layout)?;
    function.node(
        Op::Recurrent(Recurrent {
            cell: settings.cell,
            directions: vec![Direction {
                reverse: false,
                source: Source::X,
                weights: Arc::new(weights),
            }],
            layout: settings.layout,
            masking: Masking::Zero,
            merge: Merge::Separate,
            gate_clip: None,
            arithmetic: arithmetic(kind, settings.asymmetric),
        }),
        vec![Some(x), None, None, Some(h), None],
        vec![Some(y), None, Some(next), None],
    );
    function.write_state(call, FORWARD.state, next)
}

/// The bidirectional operator.
pub(super) fn read_bidirectional<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    let options: schema::BidirectionalRnnOptions = call.options()?;
    let merge = if options.merge_outputs() { Merge::Concat } else { Merge::Separate };
    // The auxiliary operands at the end of the list may be left out.
    call.expect_arity(9..=12, if merge == Merge::Concat { 1 } else { 2 })?;
    let layout = layout(options.time_major());
    let kind = float_or_hybrid(function, call)?;
    let x = sequence(function, call, 0)?;
    let linking = Linking::read(function, call, 9, &[FORWARD.auxiliary, BACKWARD.auxiliary])?;
    let width = last_size(function, x).within(|| "input 0")?;
    let width_b = linking.backward_width(function, width)?;
    let mut forward = read_weights(function, call, &FORWARD, kind, width)?;
    let mut backward = read_weights(function, call, &BACKWARD, kind, width_b)?;
    if let Linking::Cross(_) = linking {
        let width = linking.auxiliary_width(function)?;
        add_auxiliary(function, call, &FORWARD, kind, width, &mut forward)?;
        add_auxiliary(function, call, &BACKWARD, kind, width, &mut backward)?;
    }
    let (h, next) = function.recurrent_state(call, FORWARD.state, DType::F32, x, layout)?;
    let (h_b, next_b) = function.recurrent_state(call, BACKWARD.state, DType::F32, x, layout)?;
    let y = function.output(call, 0)?;
    let y_b = if merge == Merge::Separate { Some(function.output(call, 1)?) } else { None };
    function.node(
        Op::Recurrent(Recurrent {
            cell: cell(options.activation())?,
            directions: vec![
                Direction { reverse: false, source: Source::X, weights: Arc::new(forward) },
                Direction {
                    reverse: true,
                    source: linking.backward_source(),
                    weights: Arc::new(backward),
                },
            ],
            layout,
            masking: Masking::Zero,
            merge,
            gate_clip: None,
            arithmetic: arithmetic(kind, options.asymmetric()),
        }),
        vec![Some(x), None, linking.input(), Some(h), None, Some(h_b), None],
        vec![Some(y), y_b, Some(next), None, Some(next_b), None],
    );
    function.write_state(call, FORWARD.state, next)?;
    function.write_state(call, BACKWARD.state, next_b)
}

fn float_or_hybrid<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<Kind> {
    match function.kind(call, FORWARD.input, "input weights")? {
        Kind::Integer => {
            Err(Error::unsupported("int8 activations: float and hybrid forms are supported"))
        }
        kind @ (Kind::Float | Kind::Hybrid) => Ok(kind),
    }
}

fn arithmetic(kind: Kind, asymmetric: bool) -> Arithmetic {
    match kind {
        Kind::Hybrid => Arithmetic::Hybrid { asymmetric },
        Kind::Float | Kind::Integer => Arithmetic::Float,
    }
}

fn read_weights<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    slots: &Slots,
    kind: Kind,
    input_width: Option<usize>,
) -> Result<CellWeights> {
    let shape = function.weight_shape(call, slots.input, "input weights", 2)?;
    let units = shape[0];
    if units == 0 {
        return Err(Error::malformed("a layer of 0 units").within(format!("input {}", slots.input)));
    }
    let shape = [units, input_width.unwrap_or(shape[1])];
    let input = function.weight(
        call,
        &Wanted { slot: slots.input, what: "input weights", shape: &shape },
        kind.matrix(),
    )?;
    let wanted =
        Wanted { slot: slots.recurrent, what: "recurrent weights", shape: &[units, units] };
    let recurrent = function.weight(call, &wanted, kind.matrix())?;
    let bias = function.weight(
        call,
        &Wanted { slot: slots.bias, what: "bias", shape: &[units] },
        kind.bias(),
    )?;
    Ok(CellWeights {
        input: input.into_matrix(),
        recurrent: recurrent.into_matrix(),
        auxiliary: None,
        bias: Some(bias.into_bias()?),
        recurrent_bias: None,
        peephole: None,
        layer_norm: None,
        projection: None,
    })
}

fn add_auxiliary<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    slots: &Slots,
    kind: Kind,
    width: Option<usize>,
    weights: &mut CellWeights,
) -> Result<()> {
    let shape = function.weight_shape(call, slots.auxiliary, "auxiliary weights", 2)?;
    let shape = [weights.units(1), width.unwrap_or(shape[1])];
    let wanted = Wanted { slot: slots.auxiliary, what: "auxiliary weights", shape: &shape };
    weights.auxiliary = Some(function.weight(call, &wanted, kind.matrix())?.into_matrix());
    Ok(())
}

/// Input, feature weights, time weights, bias?, state.
pub(super) fn read_svdf<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    call.expect_arity(5..=5, 1)?;
    let options: schema::SvdfOptions = call.options()?;
    let rank = natural("rank", options.rank())?;
    let kind = function.kind(call, 1, "feature weights")?;
    let x = function.input(call, 0)?;
    let shape = function.weight_shape(call, 1, "feature weights", 2)?;
    let filters = shape[0];
    if rank == 0 || filters == 0 || filters % rank != 0 {
        return Err(Error::malformed(format!(
            "{filters} filters of rank {rank}: a multiple of the rank was expected"
        )));
    }
    let shape = [filters, last_size(function, x)?.unwrap_or(shape[1])];
    let feature = function.weight(
        call,
        &Wanted { slot: 1, what: "feature weights", shape: &shape },
        kind.matrix(),
    )?;
    let memory = function.weight_shape(call, 2, "time weights", 2)?[1];
    let storage = match kind {
        Kind::Float => Storage::Float,
        Kind::Hybrid => Storage::Int8,
        Kind::Integer => Storage::Int16,
    };
    let time = function.weight(
        call,
        &Wanted { slot: 2, what: "time weights", shape: &[filters, memory] },
        storage,
    )?;
    let units = filters / rank;
    let bias = function.optional_weight(
        call,
        &Wanted { slot: 3, what: "bias", shape: &[units] },
        kind.bias(),
    )?;
    if is_absent(call, 4) {
        return Err(
            Error::malformed("the operand is absent, and the operator needs it").within("input 4")
        );
    }
    let state_type = if kind == Kind::Integer { DType::I16 } else { DType::F32 };
    // The batch axis of `[B, I]` is the first one, as in a batch-major sequence.
    let (state, next) = function.recurrent_state(call, 4, state_type, x, Layout::BatchMajor)?;
    let y = function.output(call, 0)?;
    let arithmetic = match kind {
        Kind::Float => SvdfArithmetic::Float,
        Kind::Hybrid => SvdfArithmetic::Hybrid { asymmetric: options.asymmetric() },
        Kind::Integer => SvdfArithmetic::Integer {
            input: narrow(scale_of(function.ty(x)?.quantization.as_ref()).within(|| "input 0")?),
            state: scale_of(function.ty(state)?.quantization.as_ref()).within(|| "input 4")?.0,
            output: narrow(scale_of(function.ty(y)?.quantization.as_ref()).within(|| "output 0")?),
        },
    };
    let svdf = Svdf {
        rank,
        activation: activation(options.activation())?,
        feature: feature.into_matrix(),
        time: time.into_matrix(),
        bias: bias.map(Weight::into_bias).transpose()?,
        arithmetic,
    };
    function.node(Op::Svdf(svdf), vec![Some(x), Some(state)], vec![Some(y), Some(next)]);
    function.write_state(call, 4, next)
}
