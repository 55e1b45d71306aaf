//! LSTM, GRU, SimpleRNN, `RNN` around their cells, and Bidirectional around any of them.

use std::sync::Arc;

use super::cells::{ReadCell, cells, read_cell, states_of};
use super::written;
use super::{Layer as Kind, Masks, PassedOver, Use, inner_layer, inside, is_keras3};
use crate::error::{Error, Place, Result};
use crate::formats::keras::arguments::Arg;
use crate::formats::keras::builder::{Builder, Flow};
use crate::formats::keras::config::Config;
use crate::graph::op::BinaryFunction;
use crate::graph::op::Op;
use crate::graph::recurrent::{Arithmetic, Direction, Layout, Masking, Merge, Recurrent, Source};
use crate::graph::{Reset, State, ValueId, ValueType};
use crate::tensor::DType;

/// What a recurrent layer and a cell have beside what they compute.
pub(super) const RECURRENT: PassedOver = PassedOver {
    fields: &[
        "kernel_initializer",
        "recurrent_initializer",
        "bias_initializer",
        "unit_forget_bias",
        "kernel_regularizer",
        "recurrent_regularizer",
        "bias_regularizer",
        "kernel_constraint",
        "recurrent_constraint",
        "bias_constraint",
        "dropout",
        "recurrent_dropout",
        "seed",
        "implementation",
        "use_cudnn",
    ],
    reason: "says how weights begin and are trained, what training drops, or which of two ways to the same values is taken",
};

/// The arguments of a call: Keras 3 has them in this order, Keras 2 names all but the first.
const ARGUMENTS: &[&str] = &["sequences", "initial_state", "mask", "training", "constants"];

pub(super) const LAYERS: &[Kind] = &[
    Kind {
        classes: &["LSTM", "GRU", "SimpleRNN", "RNN"],
        arguments: ARGUMENTS,
        passed_over: &[&RECURRENT],
        masks: Masks::Own,
        apply: layer,
    },
    Kind {
        classes: &["Bidirectional"],
        arguments: ARGUMENTS,
        passed_over: &[],
        masks: Masks::Own,
        apply: bidirectional,
    },
    Kind {
        classes: &["CuDNNLSTM", "CuDNNGRU"],
        arguments: ARGUMENTS,
        passed_over: &[],
        masks: Masks::Own,
        apply: |_, used| {
            Err(Error::unsupported(format!(
                "{}: save the model with the plain LSTM or GRU layer instead",
                used.class
            )))
        },
    },
];

/// The options that all recurrent layers share.
#[derive(Clone, Copy)]
struct Options {
    return_sequences: bool,
    return_state: bool,
    go_backwards: bool,
    stateful: bool,
    unroll: bool,
    layout: Layout,
    masking: Masking,
}

/// One layer with its weights read: its cells, each of which runs over what the one before yields.
struct Layer {
    cells: Vec<ReadCell>,
    options: Options,
}

impl Layer {
    fn states(&self) -> usize {
        self.cells.iter().map(|read| states_of(&read.cell)).sum()
    }
}

/// What one direction of a layer yields.
struct Yield {
    /// All steps, each at its input's, or the last one.
    output: ValueId,
    states: Vec<ValueId>,
}

/// The operands of a recurrent layer's call.
struct Operands {
    x: Flow,
    initial: Vec<ValueId>,
    /// What the output carries, which may be more than what the layer heeds.
    mask: Option<ValueId>,
}

/// Keras 2 puts initial states into the first argument. Keras 3 has them apart, and passes a mask
/// by itself only where there are none.
fn operands(b: &Builder, used: &Use<'_, '_>) -> Result<Operands> {
    let sequences = used.arguments.flows("sequences")?;
    let (&first, states) = sequences
        .split_first()
        .ok_or_else(|| Error::malformed("the layer is called without a tensor"))?;
    if is_keras3(b) && !states.is_empty() {
        return Err(Error::unsupported("a call with a list in the place of the sequence"));
    }
    let mut initial: Vec<ValueId> = states.iter().map(|flow| flow.value).collect();
    if let Some(given) = used.arguments.get("initial_state") {
        initial.extend(tensors(given)?);
    }
    let mut x = first;
    match used.arguments.get("mask") {
        // Keras 2 may give one for each part of the first argument.
        Some(Arg::List(list)) => {
            x.mask = match list.first() {
                Some(Arg::Tensor(mask)) => Some(mask.value),
                None | Some(Arg::Null) => None,
                Some(other) => {
                    return Err(Error::unsupported(format!("the mask {}", other.shown())));
                }
            };
        }
        Some(_) => x.mask = Some(used.arguments.flow("mask")?.value),
        None if is_keras3(b) && used.arguments.with_tensors() > 1 => {
            return Ok(Operands { x: Flow::plain(first.value), initial, mask: first.mask });
        }
        None => {}
    }
    Ok(Operands { x, initial, mask: x.mask })
}

/// The tensors of an argument that has nothing else, in order.
fn tensors(arg: &Arg<'_, Flow>) -> Result<Vec<ValueId>> {
    fn collect(arg: &Arg<'_, Flow>, out: &mut Vec<ValueId>) -> bool {
        match arg {
            Arg::Tensor(flow) => {
                out.push(flow.value);
                true
            }
            Arg::List(list) => list.iter().all(|arg| collect(arg, out)),
            _ => false,
        }
    }
    let mut out = Vec::new();
    if collect(arg, &mut out) {
        return Ok(out);
    }
    Err(Error::unsupported(format!("the initial state {}", arg.shown())))
}

/// A recurrent layer: its output, and its final states when they are returned.
fn layer(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let Operands { x, initial, mask } = operands(b, used)?;
    let layer = read_layer(b, used.class, used.config, used.scope, x.value)?;
    let options = layer.options;
    let mut yielded = direction(b, layer, x, &initial)?;
    // A lone backward layer returns its steps in the order in which it computed them.
    if options.return_sequences && options.go_backwards {
        yielded.output = b.reversed(yielded.output, time_axis(options.layout))?;
    }
    let mask = mask.filter(|_| options.return_sequences);
    let mut out = vec![Flow { value: yielded.output, mask }];
    if options.return_state {
        out.extend(yielded.states.into_iter().map(Flow::plain));
    }
    Ok(out)
}

fn time_axis(layout: Layout) -> i32 {
    match layout {
        Layout::TimeMajor => 0,
        Layout::BatchMajor => 1,
    }
}

/// One of the two layers inside; without a configuration of its own the backward layer is the
/// forward one turned round.
fn read_direction(
    b: &mut Builder,
    used: &Use<'_, '_>,
    backward: bool,
    x: ValueId,
) -> Result<Layer> {
    let (field, name) = match backward {
        true if used.config.get("backward_layer").is_some() => ("backward_layer", "backward_layer"),
        true => ("layer", "backward_layer"),
        false => ("layer", "forward_layer"),
    };
    let (class, config) = inner_layer(used.config, field)?;
    config.pass_over(super::COMMON.fields);
    config.pass_over(RECURRENT.fields);
    super::policy(b, &config)?;
    let scope = format!("{}/{name}", used.scope);
    let position = usize::from(backward);
    let mut layer =
        inside(b, &scope, position, &config, class, |b| read_layer(b, class, &config, &scope, x))?;
    if backward && field == "layer" {
        layer.options.go_backwards = !layer.options.go_backwards;
    }
    // Keras sets this by itself, whatever the configuration says: zeros where steps are masked, so
    // that merging is well defined.
    layer.options.masking = match layer.options.return_sequences {
        true => Masking::Zero,
        false => Masking::Hold,
    };
    Ok(layer)
}

/// A layer run forward and a twin run backward. Where both are alike but for their weights they
/// become one op.
fn bidirectional(b: &mut Builder, used: &Use<'_, '_>) -> Result<Vec<Flow>> {
    let Operands { x, initial, mask } = operands(b, used)?;
    used.config.pass_over(super::COMMON.fields);
    let forward = read_direction(b, used, false, x.value).within(|| "forward layer")?;
    let backward = read_direction(b, used, true, x.value).within(|| "backward layer")?;
    let options = forward.options;
    let Options { return_sequences: sequences, return_state, layout, .. } = options;
    if backward.options.return_sequences != sequences
        || backward.options.return_state != return_state
    {
        return Err(Error::malformed(
            "the two directions differ in return_sequences or return_state",
        ));
    }
    if backward.options.go_backwards == options.go_backwards {
        return Err(Error::malformed("the two directions have the same go_backwards"));
    }
    // null is a mode of its own: both outputs, unmerged.
    let merge = match used.config.get("merge_mode") {
        None if used.config.has("merge_mode") => None,
        _ => Some(used.config.string_or("merge_mode", "concat")?),
    };
    let mask = mask.filter(|_| sequences);
    let (first, second) = initial.split_at(initial.len() / 2);
    if merge == Some("concat") && sequences && can_share(&forward, &backward, x.mask) {
        let [joined, states_a, states_z] = both(b, forward, backward, x, first, second)?;
        let mut out = vec![Flow { value: one(joined)?, mask }];
        if return_state {
            out.extend(states_a.into_iter().chain(states_z).map(Flow::plain));
        }
        return Ok(out);
    }
    let turned = backward.options.go_backwards;
    let mut a = direction(b, forward, x, first)?;
    let mut z = direction(b, backward, x, second)?;
    // Keras reverses what the backward layer computed and leaves the forward layer's order, also
    // where it is the forward layer that runs backward.
    if sequences && !turned {
        a.output = b.reversed(a.output, time_axis(layout))?;
        z.output = b.reversed(z.output, time_axis(layout))?;
    }
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
    match mode {
        "concat" => b.concat(&[forward, backward], -1),
        "sum" => b.binary(BinaryFunction::Add, forward, backward),
        "mul" => b.binary(BinaryFunction::Mul, forward, backward),
        "ave" => {
            let sum = b.binary(BinaryFunction::Add, forward, backward)?;
            b.with_number(BinaryFunction::Mul, sum, 0.5)
        }
        other => Err(Error::unsupported(format!("merge_mode {other:?}"))),
    }
}

/// Two directions fit into one op when the op says the same of both.
fn can_share(a: &Layer, b: &Layer, mask: Option<ValueId>) -> bool {
    let ([one], [other]) = (a.cells.as_slice(), b.cells.as_slice()) else {
        return false;
    };
    one.cell == other.cell
        && one.written.is_none()
        && other.written.is_none()
        && a.options.layout == b.options.layout
        && !a.options.go_backwards
        && !a.options.stateful
        && !b.options.stateful
        && (mask.is_none() || !b.options.unroll)
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
    let options = forward.options;
    let mut cells = forward.cells.into_iter().chain(backward.cells);
    let (Some(ahead), Some(back)) = (cells.next(), cells.next()) else {
        return Err(Error::internal("two directions without two cells"));
    };
    let cell = ahead.cell;
    let per_direction = states_of(&cell);
    let direction =
        |weights, reverse| Direction { reverse, source: Source::X, weights: Arc::new(weights) };
    let op = Recurrent {
        cell,
        directions: vec![direction(ahead.weights, false), direction(back.weights, true)],
        layout: options.layout,
        masking: options.masking,
        merge: Merge::Concat,
        gate_clip: None,
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

/// One direction as one op for each of its cells.
fn direction(b: &mut Builder, layer: Layer, x: Flow, initial: &[ValueId]) -> Result<Yield> {
    let options = layer.options;
    let states = layer.states();
    if !initial.is_empty() && initial.len() != states {
        return Err(Error::malformed(format!(
            "expected {states} initial state(s) for this direction, found {}",
            initial.len()
        )));
    }
    if options.stateful && !initial.is_empty() {
        return Err(Error::unsupported("a stateful layer with an initial state of its own"));
    }
    // Unrolled, Keras zeroes the steps of a backward layer by the mask that it did not reverse.
    let late_zero = options.unroll
        && options.go_backwards
        && options.return_sequences
        && options.masking == Masking::Zero
        && x.mask.is_some();
    let mut at = x;
    let mut rest = initial;
    let mut after = Vec::new();
    let mut last = None;
    let count = layer.cells.len();
    for (k, read) in layer.cells.into_iter().enumerate() {
        let masking = match k + 1 == count && !late_zero {
            true => options.masking,
            // A step that is masked here is masked in the next cell too.
            false => Masking::Hold,
        };
        let (own, others) = rest.split_at(rest.len().min(states_of(&read.cell)));
        rest = others;
        let one = run(b, read, Options { masking, ..options }, at, own)?;
        at.value = one.output;
        last = one.states.first().copied();
        after.extend(one.states);
    }
    let axis = time_axis(options.layout);
    let output = if options.return_sequences {
        match x.mask.filter(|_| late_zero) {
            None => at.value,
            Some(mask) => {
                let mask = b.reversed(mask, axis)?;
                let mask = b.expand(mask, -1)?;
                let zero = b.scalar_like(at.value, 0.0)?;
                b.select(mask, at.value, zero)?
            }
        }
    } else if x.mask.is_none() {
        last.ok_or_else(|| Error::internal("a recurrent op without a state"))?
    } else {
        // Under a mask the last output is not the last state: it may be zero or, before any valid
        // step, not there.
        b.pick(at.value, axis as usize, if options.go_backwards { 0 } else { -1 })?
    };
    Ok(Yield { output, states: after })
}

/// One cell over the sequence: its output at each input step, and its final states.
fn run(
    b: &mut Builder,
    read: ReadCell,
    options: Options,
    x: Flow,
    initial: &[ValueId],
) -> Result<Yield> {
    let ReadCell { cell, weights, written } = read;
    if let Some(functions) = written {
        if options.stateful || options.layout == Layout::TimeMajor {
            return Err(Error::unsupported(format!(
                "{functions:?} inside a stateful or time-major recurrent layer"
            )));
        }
        let order = (options.masking, options.go_backwards);
        let made = written::run(b, (&cell, &weights, &functions), order, x, initial)?;
        return Ok(Yield { output: made.output, states: made.states });
    }
    let states = states_of(&cell);
    let units = weights.units(cell.gate_blocks());
    let reverse = options.go_backwards;
    let op = Recurrent {
        cell,
        directions: vec![Direction { reverse, source: Source::X, weights: Arc::new(weights) }],
        layout: options.layout,
        masking: options.masking,
        merge: Merge::Separate,
        gate_clip: None,
        arithmetic: Arithmetic::Float,
    };
    let kept = match options.stateful {
        true => Some(add_states(b, x.value, options.layout, states, units)?),
        false => None,
    };
    let mut inputs = vec![Some(x.value), x.mask, None];
    inputs.extend(initial_operands(kept.as_deref().unwrap_or(initial), states)?);
    let outputs = b.node(Op::Recurrent(op), &inputs, &[true, false, true, states == 2])?;
    let slot = |k: usize| outputs.get(k).copied().flatten();
    let after: Vec<ValueId> = [slot(2), slot(3)].into_iter().flatten().collect();
    for (value, next) in kept.into_iter().flatten().zip(&after) {
        let name = format!("{}/state", b.layer);
        b.graph.states.push(State { name, value, next: *next, reset: Reset::ZERO });
    }
    let output = slot(0).ok_or_else(|| Error::internal("a recurrent op without an output"))?;
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
    config: &Config<'_>,
    scope: &str,
    x: ValueId,
) -> Result<Layer> {
    let options = read_options(config)?;
    let width = b.width(x)?;
    let scope = format!("{scope}/cell");
    let cells = match class {
        "LSTM" | "GRU" | "SimpleRNN" => vec![read_cell(b, class, config, &scope, width)?],
        "RNN" => cells(b, config, &scope, width)?,
        other => return Err(Error::unsupported(format!("Bidirectional around {other}"))),
    };
    Ok(Layer { cells, options })
}

fn read_options(config: &Config<'_>) -> Result<Options> {
    Ok(Options {
        return_sequences: config.flag("return_sequences", false)?,
        return_state: config.flag("return_state", false)?,
        go_backwards: config.flag("go_backwards", false)?,
        stateful: config.flag("stateful", false)?,
        unroll: config.flag("unroll", false)?,
        layout: match config.flag("time_major", false)? {
            true => Layout::TimeMajor,
            false => Layout::BatchMajor,
        },
        masking: match config.flag("zero_output_for_mask", false)? {
            true => Masking::Zero,
            false => Masking::Hold,
        },
    })
}
