//! The fused operators: weights taken apart into the operands of each gate, states in variable
//! tensors.

use super::super::opcode;
use super::emit::Emit;
use super::file::{Field, Options};
use super::fits::fits;
use super::plain::fused;
use super::weights::{LstmSlots, lstm_weights, matrix_block, rnn_weights};
use crate::error::{Error, Result};
use crate::graph::op::{Svdf, SvdfArithmetic};
use crate::graph::recurrent::{
    Arithmetic, Cell, CellWeights, Direction, Layout, Lstm, Merge, Recurrent, Rnn, Source,
};
use crate::graph::{Node, ValueId, ValueType};
use crate::tensor::{DType, Quantization};

use Field::{Bool, Float, Int};

/// Writes a recurrent op that [`fits`].
pub(super) fn recurrent(emit: &mut Emit<'_>, node: &Node, op: &Recurrent) -> Result<()> {
    if let Err(reason) = fits(op, node) {
        return Err(Error::internal(format!("no fused operator: {reason}")));
    }
    let sizes = Sizes::new(emit, node, op)?;
    match (&op.cell, op.directions.as_slice()) {
        (_, [only]) if matches!(op.arithmetic, Arithmetic::IntegerBasic { .. }) => {
            super::basic::basic(emit, node, op, &only.weights, sizes.batch)
        }
        (Cell::Lstm(lstm), [only]) => single_lstm(emit, node, op, lstm, &only.weights, &sizes),
        (Cell::Rnn(rnn), [only]) => single_rnn(emit, node, op, rnn, &only.weights, &sizes),
        (Cell::Lstm(lstm), [forward, backward]) => {
            both_lstm(emit, node, op, lstm, [forward, backward], &sizes)
        }
        (Cell::Rnn(rnn), [forward, backward]) => {
            both_rnn(emit, node, op, rnn, [forward, backward], &sizes)
        }
        _ => Err(Error::internal("no fused operator")),
    }
}

/// The batch size, which a variable tensor fixes.
struct Sizes {
    batch: usize,
}

impl Sizes {
    fn new(emit: &Emit<'_>, node: &Node, op: &Recurrent) -> Result<Self> {
        let x = input(node, Recurrent::X).ok_or_else(|| Error::graph("input 0 is absent"))?;
        let axis = if op.layout == Layout::TimeMajor { 1 } else { 0 };
        let batch = emit.sizes.shape(x).and_then(|shape| shape.get(axis).copied().flatten());
        let batch = batch.ok_or_else(|| {
            Error::unsupported("a fused operator keeps its state in tensors of a fixed batch size: give the batch size")
        })?;
        Ok(Sizes { batch })
    }
}

fn input(node: &Node, slot: usize) -> Option<ValueId> {
    node.input(slot)
}

fn result(node: &Node, slot: usize) -> Option<ValueId> {
    node.output(slot)
}

pub(super) fn is_hybrid(op: &Recurrent) -> bool {
    matches!(op.arithmetic, Arithmetic::Hybrid { .. })
}

fn asymmetric(op: &Recurrent) -> Field {
    Bool(matches!(op.arithmetic, Arithmetic::Hybrid { asymmetric: true }))
}

/// Version 1 is float, 2 hybrid, 3 hybrid with free zero points.
fn version(op: &Recurrent) -> i32 {
    match op.arithmetic {
        Arithmetic::Hybrid { asymmetric: false } => 2,
        Arithmetic::Hybrid { asymmetric: true } => 3,
        Arithmetic::Float | Arithmetic::Integer(_) | Arithmetic::IntegerBasic { .. } => 1,
    }
}

fn single_lstm(
    emit: &mut Emit<'_>,
    node: &Node,
    op: &Recurrent,
    lstm: &Lstm,
    weights: &CellWeights,
    sizes: &Sizes,
) -> Result<()> {
    let mut inputs = vec![-1; 24];
    inputs[0] = x(emit, node)?;
    let slots = LstmSlots {
        input: 1,
        recurrent: 5,
        peephole: 9,
        bias: 12,
        projection: 16,
        auxiliary: None,
        layer_norm: Some(20),
    };
    lstm_weights(emit, &mut inputs, &slots, lstm, weights, op)?;
    let states = lstm_states(emit, node, op, 0, weights, sizes)?;
    (inputs[18], inputs[19]) = (states[0], states[1]);
    let y = y(emit, node, op, 0, weights, sizes)?;
    let options = Options::new(
        71,
        vec![
            (0, fused(lstm.candidate)?),
            (1, Float(lstm.cell_clip.unwrap_or(0.0))),
            (2, Float(lstm.projection_clip.unwrap_or(0.0))),
            (3, Bool(op.layout == Layout::TimeMajor)),
            (4, asymmetric(op)),
            (5, Bool(weights.is_diagonal())),
        ],
    );
    let version = if weights.is_diagonal() { 4 } else { version(op) };
    emit.operator(opcode::UNIDIRECTIONAL_SEQUENCE_LSTM, version, &inputs, &[y], options);
    if let Arithmetic::Integer(scales) = &op.arithmetic {
        let intermediates = integer_intermediates(emit, scales);
        if let Some(operator) = emit.last_operator() {
            operator.intermediates = intermediates;
        }
    }
    hold_states(emit, node, op, 0, &states, y);
    Ok(())
}

fn integer_intermediates(
    emit: &mut Emit<'_>,
    scales: &crate::graph::recurrent::IntegerScales,
) -> Vec<i32> {
    let mut tensors = Vec::new();
    for scale in scales.gates {
        tensors.push(emit.temporary(
            "gate",
            DType::I16,
            &[],
            Some(Quantization::per_tensor(scale, 0)),
        ));
    }
    let (scale, zero) = scales.hidden;
    tensors.push(emit.temporary(
        "hidden",
        DType::I8,
        &[],
        Some(Quantization::per_tensor(scale, i64::from(zero))),
    ));
    tensors
}

fn single_rnn(
    emit: &mut Emit<'_>,
    node: &Node,
    op: &Recurrent,
    rnn: &Rnn,
    weights: &CellWeights,
    sizes: &Sizes,
) -> Result<()> {
    let mut inputs = vec![x(emit, node)?];
    inputs.extend(rnn_weights(emit, op, weights)?);
    let state = h_state(emit, node, op, 0, weights, sizes)?;
    inputs.push(state);
    let y = y(emit, node, op, 0, weights, sizes)?;
    let options = Options::new(
        31,
        vec![
            (0, Bool(op.layout == Layout::TimeMajor)),
            (1, fused(rnn.activation)?),
            (2, asymmetric(op)),
        ],
    );
    emit.operator(opcode::UNIDIRECTIONAL_SEQUENCE_RNN, version(op), &inputs, &[y], options);
    hold_states(emit, node, op, 0, &[state], y);
    Ok(())
}

fn both_lstm(
    emit: &mut Emit<'_>,
    node: &Node,
    op: &Recurrent,
    lstm: &Lstm,
    directions: [&Direction; 2],
    sizes: &Sizes,
) -> Result<()> {
    let mut inputs = vec![-1; 48];
    inputs[0] = x(emit, node)?;
    let slots = [
        LstmSlots {
            input: 1,
            recurrent: 5,
            peephole: 9,
            bias: 12,
            projection: 16,
            auxiliary: Some(40),
            layer_norm: None,
        },
        LstmSlots {
            input: 18,
            recurrent: 22,
            peephole: 26,
            bias: 29,
            projection: 33,
            auxiliary: Some(44),
            layer_norm: None,
        },
    ];
    let mut states = Vec::new();
    for (d, (direction, slots)) in directions.iter().zip(&slots).enumerate() {
        lstm_weights(emit, &mut inputs, slots, lstm, &direction.weights, op)?;
        let pair = lstm_states(emit, node, op, d, &direction.weights, sizes)?;
        (inputs[35 + 2 * d], inputs[36 + 2 * d]) = (pair[0], pair[1]);
        states.push(pair);
    }
    inputs[39] = auxiliary(emit, node, op)?;
    // In batch-major order with more than one row the kernel addresses the state of a merged output
    // wrongly.
    let merged = op.merge == Merge::Concat && (op.layout == Layout::TimeMajor || sizes.batch == 1);
    let (outputs, parts) = outputs(emit, node, op, directions, sizes, merged)?;
    let options = Options::new(
        69,
        vec![
            (0, fused(lstm.candidate)?),
            (1, Float(lstm.cell_clip.unwrap_or(0.0))),
            (2, Float(lstm.projection_clip.unwrap_or(0.0))),
            (3, Bool(merged)),
            (4, Bool(op.layout == Layout::TimeMajor)),
            (5, asymmetric(op)),
        ],
    );
    emit.operator(opcode::BIDIRECTIONAL_SEQUENCE_LSTM, version(op), &inputs, &outputs, options);
    join(emit, node, &parts)?;
    for (d, states) in states.iter().enumerate() {
        hold_states(emit, node, op, d, states, outputs[0]);
    }
    Ok(())
}

fn both_rnn(
    emit: &mut Emit<'_>,
    node: &Node,
    op: &Recurrent,
    rnn: &Rnn,
    directions: [&Direction; 2],
    sizes: &Sizes,
) -> Result<()> {
    let mut inputs = vec![x(emit, node)?];
    let mut states = Vec::new();
    for (d, direction) in directions.iter().enumerate() {
        inputs.extend(rnn_weights(emit, op, &direction.weights)?);
        let state = h_state(emit, node, op, d, &direction.weights, sizes)?;
        inputs.push(state);
        states.push(state);
    }
    inputs.push(auxiliary(emit, node, op)?);
    for direction in directions {
        let weights = match &direction.weights.auxiliary {
            Some(matrix) => matrix_block(emit, "auxiliary weights", matrix, 1, 0)?,
            None => -1,
        };
        inputs.push(weights);
    }
    let merged = op.merge == Merge::Concat;
    let (outputs, parts) = outputs(emit, node, op, directions, sizes, merged)?;
    let options = Options::new(
        70,
        vec![
            (0, Bool(op.layout == Layout::TimeMajor)),
            (1, fused(rnn.activation)?),
            (2, Bool(merged)),
            (3, asymmetric(op)),
        ],
    );
    emit.operator(opcode::BIDIRECTIONAL_SEQUENCE_RNN, version(op), &inputs, &outputs, options);
    join(emit, node, &parts)?;
    for (d, state) in states.iter().enumerate() {
        hold_states(emit, node, op, d, &[*state], outputs[0]);
    }
    Ok(())
}

/// The outputs of an operator of two directions, and those that still have to be joined.
fn outputs(
    emit: &mut Emit<'_>,
    node: &Node,
    op: &Recurrent,
    directions: [&Direction; 2],
    sizes: &Sizes,
    merged: bool,
) -> Result<(Vec<i32>, Vec<i32>)> {
    if merged {
        return Ok((
            vec![y_tensor(
                emit,
                node,
                op,
                0,
                &[&directions[0].weights, &directions[1].weights],
                sizes,
            )?],
            Vec::new(),
        ));
    }
    if op.merge == Merge::Concat {
        let parts: Vec<i32> = directions
            .iter()
            .map(|direction| unread_y(emit, node, op, &[&direction.weights], sizes))
            .collect::<Result<_>>()?;
        return Ok((parts.clone(), parts));
    }
    let first = y(emit, node, op, 0, &directions[0].weights, sizes)?;
    let second = y(emit, node, op, 1, &directions[1].weights, sizes)?;
    Ok((vec![first, second], Vec::new()))
}

/// Joins separate outputs to the node's one.
fn join(emit: &mut Emit<'_>, node: &Node, parts: &[i32]) -> Result<()> {
    let (false, Some(y)) = (parts.is_empty(), result(node, Recurrent::y(0))) else { return Ok(()) };
    let joined = emit.result(y)?;
    let options = Options::new(10, vec![(0, Int(2)), (1, Field::Byte(0))]);
    emit.operator(opcode::CONCATENATION, 1, parts, &[joined], options);
    Ok(())
}

fn x(emit: &mut Emit<'_>, node: &Node) -> Result<i32> {
    let x = input(node, Recurrent::X).ok_or_else(|| Error::graph("input 0 is absent"))?;
    emit.tensor(x)
}

/// The auxiliary input, where a direction uses it.
fn auxiliary(emit: &mut Emit<'_>, node: &Node, op: &Recurrent) -> Result<i32> {
    let used = op
        .directions
        .iter()
        .any(|d| d.source == Source::Auxiliary || d.weights.auxiliary.is_some());
    match input(node, Recurrent::AUXILIARY).filter(|_| used) {
        Some(value) => emit.tensor(value),
        None => Ok(-1),
    }
}

/// The output of one direction; a tensor that nobody reads when only the final state is wanted.
fn y(
    emit: &mut Emit<'_>,
    node: &Node,
    op: &Recurrent,
    d: usize,
    weights: &CellWeights,
    sizes: &Sizes,
) -> Result<i32> {
    y_tensor(emit, node, op, d, &[weights], sizes)
}

fn y_tensor(
    emit: &mut Emit<'_>,
    node: &Node,
    op: &Recurrent,
    d: usize,
    weights: &[&CellWeights],
    sizes: &Sizes,
) -> Result<i32> {
    match result(node, Recurrent::y(d)) {
        Some(value) => emit.result(value),
        None => unread_y(emit, node, op, weights, sizes),
    }
}

fn unread_y(
    emit: &mut Emit<'_>,
    node: &Node,
    op: &Recurrent,
    weights: &[&CellWeights],
    sizes: &Sizes,
) -> Result<i32> {
    let gates = op.cell.gate_blocks();
    let width = weights.iter().map(|weights| weights.output_width(gates)).sum();
    let axis = if op.layout == Layout::TimeMajor { 0 } else { 1 };
    let time = input(node, Recurrent::X)
        .and_then(|x| emit.sizes.shape(x))
        .and_then(|shape| shape.get(axis).copied().flatten());
    let shape = match op.layout {
        Layout::TimeMajor => [time.unwrap_or(1), sizes.batch, width],
        Layout::BatchMajor => [sizes.batch, time.unwrap_or(1), width],
    };
    let (dtype, quantization) = match &op.arithmetic {
        Arithmetic::Integer(scales) => (
            DType::I8,
            Some(Quantization::per_tensor(scales.output_state.0, i64::from(scales.output_state.1))),
        ),
        Arithmetic::Float | Arithmetic::Hybrid { .. } | Arithmetic::IntegerBasic { .. } => {
            (DType::F32, None)
        }
    };
    Ok(emit.temporary("outputs", dtype, &shape, quantization))
}

/// The variable tensor of a direction's output state.
fn h_state(
    emit: &mut Emit<'_>,
    node: &Node,
    op: &Recurrent,
    d: usize,
    weights: &CellWeights,
    sizes: &Sizes,
) -> Result<i32> {
    let shape = [sizes.batch, weights.output_width(op.cell.gate_blocks())];
    let mut ty = ValueType::fixed(DType::F32, &shape);
    if let Arithmetic::Integer(scales) = &op.arithmetic {
        ty.dtype = DType::I8;
        ty.quantization =
            Some(Quantization::per_tensor(scales.output_state.0, i64::from(scales.output_state.1)));
    }
    emit.state_operand(input(node, Recurrent::h0(d)), "output state", &ty, &shape)
}

/// The variable tensors of a direction's output and cell state.
fn lstm_states(
    emit: &mut Emit<'_>,
    node: &Node,
    op: &Recurrent,
    d: usize,
    weights: &CellWeights,
    sizes: &Sizes,
) -> Result<[i32; 2]> {
    let h = h_state(emit, node, op, d, weights, sizes)?;
    let shape = [sizes.batch, weights.units(op.cell.gate_blocks())];
    let mut ty = ValueType::fixed(DType::F32, &shape);
    if let Arithmetic::Integer(scales) = &op.arithmetic {
        ty.dtype = DType::I16;
        ty.quantization =
            Some(Quantization::per_tensor(f32::exp2(scales.cell_scale_log2 as f32), 0));
    }
    let c = emit.state_operand(input(node, Recurrent::c0(d)), "cell state", &ty, &shape)?;
    Ok([h, c])
}

/// After the operator, one of whose outputs is `y`, its state tensors hold the final states.
fn hold_states(emit: &mut Emit<'_>, node: &Node, op: &Recurrent, d: usize, states: &[i32], y: i32) {
    let batch_axis = usize::from(op.layout == Layout::TimeMajor);
    for (slot, tensor) in [Recurrent::h_n(d), Recurrent::c_n(d)].into_iter().zip(states) {
        if let Some(value) = result(node, slot) {
            emit.hold(value, *tensor, (y, batch_axis));
        }
    }
}

/// The memory layer.
pub(super) fn svdf(emit: &mut Emit<'_>, node: &Node, op: &Svdf) -> Result<()> {
    let x = input(node, 0).ok_or_else(|| Error::graph("input 0 is absent"))?;
    let x_tensor = emit.tensor(x)?;
    let feature = matrix_block(emit, "feature weights", &op.feature, 1, 0)?;
    let time = matrix_block(emit, "time weights", &op.time, 1, 0)?;
    let bias = op.bias.as_ref().map_or(-1, |bias| emit.constant("bias", bias, None));
    let batch = emit.sizes.shape(x).and_then(|shape| shape.first().copied().flatten());
    let batch = batch.ok_or_else(|| {
        Error::unsupported(
            "the operator keeps its state in a tensor of a fixed batch size: give the batch size",
        )
    })?;
    let shape = [batch, op.feature.rows().saturating_mul(op.time.columns())];
    let mut ty = ValueType::fixed(DType::F32, &shape);
    let version = match &op.arithmetic {
        SvdfArithmetic::Float => 1,
        SvdfArithmetic::Hybrid { asymmetric: false } => 2,
        SvdfArithmetic::Hybrid { asymmetric: true } => 4,
        SvdfArithmetic::Integer { state, .. } => {
            ty.dtype = DType::I16;
            ty.quantization = Some(Quantization::per_tensor(*state, 0));
            let scale = op.time.scales.first().map(|time| time * state);
            if let Some(scale) = scale {
                emit.set_scale(bias, scale);
            }
            3
        }
    };
    let state = emit.state_operand(input(node, 1), "memory", &ty, &shape)?;
    let y = match result(node, 0) {
        Some(value) => emit.result(value)?,
        None => emit.temporary(
            "outputs",
            DType::F32,
            &[batch, op.feature.rows() / op.rank.max(1)],
            None,
        ),
    };
    let is_asymmetric = matches!(op.arithmetic, SvdfArithmetic::Hybrid { asymmetric: true });
    let options = Options::new(
        6,
        vec![(0, Int(op.rank as i32)), (1, fused(op.activation)?), (2, Bool(is_asymmetric))],
    );
    emit.operator(opcode::SVDF, version, &[x_tensor, feature, time, bias, state], &[y], options);
    if let Some(value) = result(node, 1) {
        emit.hold(value, state, (y, 0));
    }
    Ok(())
}
