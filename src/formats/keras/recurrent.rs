//! LSTM, GRU, SimpleRNN, `RNN` around their cells, and Bidirectional around any of them.

use std::sync::Arc;

use super::builder::{Builder, Flow, transposed};
use super::config::{Config, cell_activation};
use crate::error::{Error, Place, Result};
use crate::graph::op::{BinaryFunction, Concat, Op};
use crate::graph::recurrent::{
    Arithmetic, Cell, CellWeights, Direction, Gru, Layout, Lstm, Masking, Matrix, Merge, Recurrent,
    Rnn, Source,
};
use crate::graph::{State, ValueId, ValueType};
use crate::tensor::{DType, Tensor};

/// The options that all recurrent layers share.
struct Options {
    return_sequences: bool,
    return_state: bool,
    go_backwards: bool,
    stateful: bool,
    layout: Layout,
    masking: Masking,
}

/// One layer with its weights read.
struct Layer {
    cell: Cell,
    weights: CellWeights,
    options: Options,
}

/// What one direction of a layer yields.
struct Yield {
    /// All steps, or the last one.
    output: ValueId,
    states: Vec<ValueId>,
}

/// Whether `class` is a recurrent layer.
pub(super) fn is_recurrent(class: &str) -> bool {
    matches!(class, "LSTM" | "GRU" | "SimpleRNN" | "RNN" | "CuDNNLSTM" | "CuDNNGRU")
}

/// A recurrent layer: its output, and its final states when they are returned.
pub(super) fn layer(
    b: &mut Builder,
    class: &str,
    config: Config<'_>,
    scope: &str,
    x: Flow,
    initial: &[ValueId],
) -> Result<Vec<Flow>> {
    let layer = read_layer(b, class, config, scope, x.value)?;
    let masks_output = layer.options.return_sequences;
    let return_state = layer.options.return_state;
    let yielded = direction(b, layer, x, initial, false)?;
    let mut out = vec![Flow { value: yielded.output, mask: x.mask.filter(|_| masks_output) }];
    if return_state {
        out.extend(yielded.states.into_iter().map(Flow::plain));
    }
    Ok(out)
}

/// A layer run forward and a twin run backward. Where both are alike but for their weights they
/// become one op.
pub(super) fn bidirectional(
    b: &mut Builder,
    config: Config<'_>,
    scope: &str,
    x: Flow,
    initial: &[ValueId],
) -> Result<Vec<Flow>> {
    let forward_config = config.object("layer")?;
    let backward_config = config.object("backward_layer").unwrap_or(forward_config);
    let read = |b: &mut Builder, config: Config<'_>, name: &str| -> Result<Layer> {
        let class = config.string("class_name")?;
        read_layer(b, class, config.object("config")?, &format!("{scope}/{name}"), x.value)
    };
    let mut forward = read(b, forward_config, "forward_layer").within(|| "forward layer")?;
    let mut backward = read(b, backward_config, "backward_layer").within(|| "backward layer")?;
    // Keras sets this by itself, whatever the configuration says: zeros where steps are masked, so
    // that merging is well defined.
    if forward.options.return_sequences {
        forward.options.masking = Masking::Zero;
        backward.options.masking = Masking::Zero;
    }
    // Without a configuration of its own the backward layer is the forward one turned round.
    backward.options.go_backwards = !forward.options.go_backwards;
    let (sequences, return_state) =
        (forward.options.return_sequences, forward.options.return_state);
    if backward.options.return_sequences != sequences
        || backward.options.return_state != return_state
    {
        return Err(Error::malformed(
            "the two directions differ in return_sequences or return_state",
        ));
    }
    let merge = if config.json().get("merge_mode").is_some_and(serde_json::Value::is_null) {
        None
    } else {
        Some(config.string("merge_mode").unwrap_or("concat"))
    };

    let (first, second) = initial.split_at(initial.len() / 2);
    let (a, z) = if merge == Some("concat") && sequences && can_share(&forward, &backward) {
        let [joined, states_a, states_z] = both(b, forward, backward, x, first, second)?;
        let mut out = vec![Flow { value: one(joined)?, mask: x.mask }];
        if return_state {
            out.extend(states_a.into_iter().chain(states_z).map(Flow::plain));
        }
        return Ok(out);
    } else {
        (direction(b, forward, x, first, true)?, direction(b, backward, x, second, true)?)
    };
    let mask = x.mask.filter(|_| sequences);
    let mut out = match merge {
        None => vec![Flow { value: a.output, mask }, Flow { value: z.output, mask }],
        Some(mode) => vec![Flow { value: merged(b, mode, a.output, z.output)?, mask }],
    };
    if return_state {
        out.extend(a.states.into_iter().chain(z.states).map(Flow::plain));
    }
    Ok(out)
}

fn merged(b: &mut Builder, mode: &str, forward: ValueId, backward: ValueId) -> Result<ValueId> {
    use crate::graph::op::Activation;
    match mode {
        "concat" => b.op(
            Op::Concat(Concat { axis: -1, activation: Activation::Linear }),
            &[forward, backward],
        ),
        "sum" => b.binary(BinaryFunction::Add, forward, backward),
        "mul" => b.binary(BinaryFunction::Mul, forward, backward),
        "ave" => {
            let sum = b.binary(BinaryFunction::Add, forward, backward)?;
            let half = b.constant(Tensor::scalar(0.5f32));
            b.binary(BinaryFunction::Mul, sum, half)
        }
        other => Err(Error::unsupported(format!("merge_mode {other:?}"))),
    }
}

/// Two directions fit into one op when the op says the same of both.
fn can_share(a: &Layer, b: &Layer) -> bool {
    a.cell == b.cell
        && a.options.layout == b.options.layout
        && a.options.masking == b.options.masking
        && !a.options.stateful
        && !b.options.stateful
}

/// Both directions as one op: the joined output, and the states of each.
fn both(
    b: &mut Builder,
    forward: Layer,
    backward: Layer,
    x: Flow,
    first: &[ValueId],
    second: &[ValueId],
) -> Result<[Vec<ValueId>; 3]> {
    let per_direction = states_of(&forward.cell);
    let op = Recurrent {
        cell: forward.cell,
        directions: [
            (forward.weights, forward.options.go_backwards),
            (backward.weights, backward.options.go_backwards),
        ]
        .map(|(weights, reverse)| Direction {
            reverse,
            source: Source::X,
            weights: Arc::new(weights),
        })
        .into(),
        layout: forward.options.layout,
        masking: forward.options.masking,
        merge: Merge::Concat,
        arithmetic: Arithmetic::Float,
    };
    let mut inputs = vec![Some(x.value), x.mask, None];
    for initial in [first, second] {
        inputs.extend(initial_operands(initial, per_direction)?);
    }
    let has_cell = per_direction == 2;
    let wanted = [true, false, true, has_cell, true, has_cell];
    let outputs = b.node(Op::Recurrent(op), &inputs, &wanted)?;
    let slot = |k: usize| outputs.get(k).copied().flatten().into_iter();
    Ok([slot(0).collect(), slot(2).chain(slot(3)).collect(), slot(4).chain(slot(5)).collect()])
}

/// One direction as one op. `by_input_step`: the outputs of a backward layer stay at their input's
/// step (inside Bidirectional); a lone backward layer returns them in the order in which it
/// computed them.
fn direction(
    b: &mut Builder,
    layer: Layer,
    x: Flow,
    initial: &[ValueId],
    by_input_step: bool,
) -> Result<Yield> {
    let Layer { cell, weights, options } = layer;
    let states = states_of(&cell);
    let time_axis = match options.layout {
        Layout::TimeMajor => 0,
        Layout::BatchMajor => 1,
    };
    let reverse = options.go_backwards;
    let units = weights.units(cell.gate_blocks());
    let op = Recurrent {
        cell,
        directions: vec![Direction { reverse, source: Source::X, weights: Arc::new(weights) }],
        layout: options.layout,
        masking: options.masking,
        merge: Merge::Separate,
        arithmetic: Arithmetic::Float,
    };
    let kept = if options.stateful {
        Some(add_states(b, x.value, options.layout, states, units)?)
    } else {
        None
    };
    let before = match (&kept, initial) {
        (Some(_), [_, ..]) => {
            return Err(Error::unsupported("a stateful layer with an initial state of its own"));
        }
        (Some(kept), []) => kept.clone(),
        (None, given) => given.to_vec(),
    };
    let mut inputs = vec![Some(x.value), x.mask, None];
    inputs.extend(initial_operands(&before, states)?);
    let outputs = b.node(Op::Recurrent(op), &inputs, &[true, false, true, states == 2])?;
    let slot = |k: usize| outputs.get(k).copied().flatten();
    let after: Vec<ValueId> = [slot(2), slot(3)].into_iter().flatten().collect();
    if let Some(kept) = kept {
        for (value, next) in kept.into_iter().zip(&after) {
            let name = format!("{}/state", b.layer);
            b.graph.states.push(State {
                name,
                value,
                next: *next,
                reset: crate::graph::Reset::ZERO,
            });
        }
    }
    let y = slot(0).ok_or_else(|| Error::internal("a recurrent op without an output"))?;
    let output = if options.return_sequences {
        if reverse && !by_input_step { b.reversed(y, time_axis)? } else { y }
    } else if x.mask.is_none() {
        *after.first().ok_or_else(|| Error::internal("a recurrent op without a state"))?
    } else {
        // Under a mask the last output is not the last state: it may be zero or, before any valid
        // step, not there.
        b.pick(y, time_axis as usize, if reverse { 0 } else { -1 })?
    };
    Ok(Yield { output, states: after })
}

/// The values that hold a stateful layer's states between runs.
fn add_states(
    b: &mut Builder,
    x: ValueId,
    layout: Layout,
    states: usize,
    units: usize,
) -> Result<Vec<ValueId>> {
    use crate::graph::Dim;
    let axis = match layout {
        Layout::TimeMajor => 1,
        Layout::BatchMajor => 0,
    };
    let batch = b.dims(x)?.get(axis).copied().unwrap_or(Dim::Unknown);
    let ty = ValueType::symbolic(DType::F32, vec![batch, Dim::Known(units)]);
    Ok((0..states)
        .map(|k| b.graph.add_value(format!("{}/state_{k}", b.layer), ty.clone()))
        .collect())
}

fn states_of(cell: &Cell) -> usize {
    if cell.has_cell_state() { 2 } else { 1 }
}

/// The state operands `h0, c0`: none given, or all.
fn initial_operands(initial: &[ValueId], states: usize) -> Result<[Option<ValueId>; 2]> {
    match (initial, states) {
        ([], _) => Ok([None, None]),
        (&[h], 1) => Ok([Some(h), None]),
        (&[h, c], 2) => Ok([Some(h), Some(c)]),
        (given, states) => Err(Error::malformed(format!(
            "expected {states} initial state(s) for this direction, found {}",
            given.len()
        ))),
    }
}

fn one(values: Vec<ValueId>) -> Result<ValueId> {
    values.first().copied().ok_or_else(|| Error::internal("an op without a result"))
}

fn read_layer(
    b: &mut Builder,
    class: &str,
    config: Config<'_>,
    scope: &str,
    x: ValueId,
) -> Result<Layer> {
    if let "CuDNNLSTM" | "CuDNNGRU" = class {
        return Err(Error::unsupported(format!(
            "{class}: save the model with the plain LSTM or GRU layer instead"
        )));
    }
    let options = read_options(config)?;
    let (kind, cell_config) = if class == "RNN" {
        let cell = config.object("cell")?;
        let name = cell.string("class_name")?;
        let kind = match name {
            "LSTMCell" => "LSTM",
            "GRUCell" => "GRU",
            "SimpleRNNCell" => "SimpleRNN",
            other => return Err(Error::unsupported(format!("RNN around the cell {other}"))),
        };
        (kind, cell.object("config")?)
    } else {
        (class, config)
    };
    let width = b.width(x)?;
    let (cell, weights) = read_cell(b, kind, cell_config, &format!("{scope}/cell"), width)?;
    Ok(Layer { cell, weights, options })
}

fn read_options(config: Config<'_>) -> Result<Options> {
    Ok(Options {
        return_sequences: config.flag("return_sequences", false)?,
        return_state: config.flag("return_state", false)?,
        go_backwards: config.flag("go_backwards", false)?,
        stateful: config.flag("stateful", false)?,
        layout: if config.flag("time_major", false)? {
            Layout::TimeMajor
        } else {
            Layout::BatchMajor
        },
        masking: if config.flag("zero_output_for_mask", false)? {
            Masking::Zero
        } else {
            Masking::Hold
        },
    })
}

fn read_cell(
    b: &mut Builder,
    kind: &str,
    config: Config<'_>,
    scope: &str,
    width: usize,
) -> Result<(Cell, CellWeights)> {
    let units = config.size("units")?;
    let use_bias = config.flag("use_bias", true)?;
    let keras3 = b.keras3;
    // Keras 2 before 2.3 wrote neither reset_after nor, for some layers, the gate activation, whose
    // default was the hard sigmoid.
    let gate = |c: Config<'_>| {
        cell_activation(
            c,
            "recurrent_activation",
            if keras3 { "sigmoid" } else { "hard_sigmoid" },
            keras3,
        )
    };
    let candidate = cell_activation(config, "activation", "tanh", keras3)?;
    let cell = match kind {
        "LSTM" => Cell::Lstm(Lstm {
            gate: gate(config)?,
            candidate,
            output: candidate,
            coupled_input_forget: false,
            cell_clip: None,
            projection_clip: None,
        }),
        "GRU" => Cell::Gru(Gru {
            gate: gate(config)?,
            candidate,
            reset_after: config.flag("reset_after", keras3)?,
        }),
        "SimpleRNN" => Cell::Rnn(Rnn { activation: candidate }),
        other => return Err(Error::internal(format!("no recurrent layer {other}"))),
    };
    let rows =
        units.checked_mul(cell.gate_blocks()).ok_or_else(|| Error::limit("units overflow"))?;
    let input = transposed(&b.weights.take(scope, 0, &[width, rows], "kernel")?)?;
    let recurrent = transposed(&b.weights.take(scope, 1, &[units, rows], "recurrent kernel")?)?;
    let (bias, recurrent_bias) = match &cell {
        _ if !use_bias => (None, None),
        Cell::Gru(gru) if gru.reset_after => {
            let (bias, recurrent) =
                split_gru_bias(&b.weights.take(scope, 2, &[2, rows], "bias")?, units)?;
            (Some(bias), Some(recurrent))
        }
        _ => (Some(b.weights.take(scope, 2, &[rows], "bias")?), None),
    };
    let weights = CellWeights {
        input: Matrix::float(input),
        recurrent: Matrix::float(recurrent),
        auxiliary: None,
        bias,
        recurrent_bias,
        peephole: None,
        layer_norm: None,
        projection: None,
    };
    Ok((cell, weights))
}

/// `[2, 3·H]` (input bias, recurrent bias) → one bias `[3·H]` with both summed for the gates, and
/// the candidate's recurrent bias `[H]`, which the reset gate acts on and which therefore stays
/// apart.
fn split_gru_bias(both: &Tensor, units: usize) -> Result<(Tensor, Tensor)> {
    let (input, recurrent) = both.as_slice::<f32>()?.split_at(3 * units);
    let mut bias = input.to_vec();
    bias.iter_mut().zip(recurrent).take(2 * units).for_each(|(b, r)| *b += r);
    Ok((
        Tensor::from_vec(&[3 * units], bias)?,
        Tensor::from_slice(&[units], recurrent.get(2 * units..).unwrap_or(&[]))?,
    ))
}
