//! The fused operators: weights taken apart into the operands of each gate, states in variable tensors.

use super::super::opcode;
use super::emit::Emit;
use super::file::{Field, Options};
use super::plain::fused;
use crate::error::{Error, Result};
use crate::graph::op::{Activation, Svdf, SvdfArithmetic};
use crate::graph::recurrent::{
    Arithmetic, Cell, CellWeights, Direction, Layout, Lstm, Matrix, Merge, Recurrent, Rnn, Source,
};
use crate::graph::{Node, ValueId, ValueType};
use crate::tensor::{DType, Quantization, Tensor};

use Field::{Bool, Float, Int};

/// Whether one fused operator computes this op; the reason when none does.
pub(super) fn fits(op: &Recurrent, node: &Node) -> Result<(), String> {
    if node.inputs.get(Recurrent::MASK).copied().flatten().is_some() {
        return Err("lengths or a mask".to_owned());
    }
    match &op.cell {
        Cell::Lstm(lstm) => lstm_fits(lstm)?,
        Cell::Rnn(rnn) => rnn_fits(rnn)?,
        Cell::Gru(_) => return Err("a GRU".to_owned()),
    }
    if is_hybrid(op) {
        one_scale_a_gate(op)?;
    }
    match op.directions.as_slice() {
        [only] => single_fits(op, only),
        [forward, backward] => both_fit(op, forward, backward),
        _ => Err("neither one nor two directions".to_owned()),
    }
}

fn one_scale_a_gate(op: &Recurrent) -> Result<(), String> {
    let gates = op.cell.gate_blocks();
    for direction in &op.directions {
        let weights = &direction.weights;
        let blocks = [Some((&weights.input, gates)), Some((&weights.recurrent, gates))];
        let more =
            [weights.auxiliary.as_ref().map(|m| (m, gates)), weights.projection.as_ref().map(|p| (&p.weight, 1))];
        for (matrix, blocks) in blocks.into_iter().chain(more).flatten() {
            if matrix.scales.len() != blocks && matrix.scales.len() != 1 {
                return Err(format!("weights with {} scales for {blocks} gates", matrix.scales.len()));
            }
        }
    }
    Ok(())
}

fn lstm_fits(lstm: &Lstm) -> Result<(), String> {
    if lstm.gate != Activation::Sigmoid {
        return Err(format!("gates with {:?}", lstm.gate));
    }
    if lstm.candidate != lstm.output {
        return Err(format!("{:?} for the candidate and {:?} for the output", lstm.candidate, lstm.output));
    }
    match lstm.candidate {
        Activation::Tanh | Activation::Relu | Activation::Relu6 => Ok(()),
        other => Err(format!("the activation {other:?}")),
    }
}

fn rnn_fits(rnn: &Rnn) -> Result<(), String> {
    match rnn.activation {
        Activation::Tanh | Activation::Relu | Activation::Relu6 | Activation::Linear => Ok(()),
        other => Err(format!("the activation {other:?}")),
    }
}

fn single_fits(op: &Recurrent, direction: &Direction) -> Result<(), String> {
    if direction.reverse {
        return Err("a direction that runs backwards alone".to_owned());
    }
    if direction.source != Source::X {
        return Err("an auxiliary input instead of the input".to_owned());
    }
    if direction.weights.auxiliary.is_some() {
        return Err("auxiliary weights in a single direction".to_owned());
    }
    if matches!(op.arithmetic, Arithmetic::IntegerBasic { .. }) && op.layout != Layout::TimeMajor {
        return Err("the basic kernel in batch-major order".to_owned());
    }
    Ok(())
}

fn both_fit(op: &Recurrent, forward: &Direction, backward: &Direction) -> Result<(), String> {
    if forward.reverse || !backward.reverse || forward.source != Source::X {
        return Err("directions other than forward and backward".to_owned());
    }
    if !matches!(op.arithmetic, Arithmetic::Float | Arithmetic::Hybrid { .. }) {
        return Err("integer arithmetic in both directions".to_owned());
    }
    let gates = op.cell.gate_blocks();
    if matches!(op.cell, Cell::Lstm(_)) {
        let (a, b) = (forward.weights.units(gates), backward.weights.units(gates));
        if a != b {
            return Err(format!("{a} and {b} units"));
        }
        if [forward, backward].iter().any(|direction| direction.weights.layer_norm.is_some()) {
            return Err("layer norm in both directions".to_owned());
        }
    } else if matches!(op.arithmetic, Arithmetic::Hybrid { .. }) && op.layout == Layout::TimeMajor {
        // The kernel then runs the whole sequence once for each of its steps.
        return Err("hybrid arithmetic in time-major order, which the kernel gets wrong".to_owned());
    }
    if forward.weights.is_diagonal() || backward.weights.is_diagonal() {
        return Err("diagonal recurrent weights in both directions".to_owned());
    }
    let width = forward.weights.input.columns();
    let auxiliary = match (&forward.weights.auxiliary, &backward.weights.auxiliary, backward.source) {
        (None, None, Source::X) => width,
        (Some(a), Some(b), Source::X) if a.columns() == b.columns() => a.columns(),
        (None, None, Source::Auxiliary) => backward.weights.input.columns(),
        _ => return Err("auxiliary weights in one direction".to_owned()),
    };
    // The kernels step through the auxiliary input with the input's stride.
    if auxiliary != width {
        Err(format!("an auxiliary input of width {auxiliary} beside an input of {width}"))
    } else {
        Ok(())
    }
}

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
        (Cell::Lstm(lstm), [forward, backward]) => both_lstm(emit, node, op, lstm, [forward, backward], &sizes),
        (Cell::Rnn(rnn), [forward, backward]) => both_rnn(emit, node, op, rnn, [forward, backward], &sizes),
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
    node.inputs.get(slot).copied().flatten()
}

fn result(node: &Node, slot: usize) -> Option<ValueId> {
    node.outputs.get(slot).copied().flatten()
}

fn is_hybrid(op: &Recurrent) -> bool {
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

fn integer_intermediates(emit: &mut Emit<'_>, scales: &crate::graph::recurrent::IntegerScales) -> Vec<i32> {
    let mut tensors = Vec::new();
    for scale in scales.gates {
        tensors.push(emit.temporary("gate", DType::I16, &[], Some(Quantization::per_tensor(scale, 0))));
    }
    let (scale, zero) = scales.hidden;
    tensors.push(emit.temporary("hidden", DType::I8, &[], Some(Quantization::per_tensor(scale, i64::from(zero)))));
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
        vec![(0, Bool(op.layout == Layout::TimeMajor)), (1, fused(rnn.activation)?), (2, asymmetric(op))],
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
    // In batch-major order with more than one row the kernel addresses the state of a merged output wrongly.
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
            vec![y_tensor(emit, node, op, 0, &[&directions[0].weights, &directions[1].weights], sizes)?],
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
    let used = op.directions.iter().any(|d| d.source == Source::Auxiliary || d.weights.auxiliary.is_some());
    match input(node, Recurrent::AUXILIARY).filter(|_| used) {
        Some(value) => emit.tensor(value),
        None => Ok(-1),
    }
}

/// The output of one direction; a tensor that nobody reads when only the final state is wanted.
fn y(emit: &mut Emit<'_>, node: &Node, op: &Recurrent, d: usize, weights: &CellWeights, sizes: &Sizes) -> Result<i32> {
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

fn unread_y(emit: &mut Emit<'_>, node: &Node, op: &Recurrent, weights: &[&CellWeights], sizes: &Sizes) -> Result<i32> {
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
        Arithmetic::Integer(scales) => {
            (DType::I8, Some(Quantization::per_tensor(scales.output_state.0, i64::from(scales.output_state.1))))
        }
        Arithmetic::Float | Arithmetic::Hybrid { .. } | Arithmetic::IntegerBasic { .. } => (DType::F32, None),
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
        ty.quantization = Some(Quantization::per_tensor(scales.output_state.0, i64::from(scales.output_state.1)));
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
        ty.quantization = Some(Quantization::per_tensor(f32::exp2(scales.cell_scale_log2 as f32), 0));
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

/// Where the operands of one direction begin.
struct LstmSlots {
    input: usize,
    recurrent: usize,
    peephole: usize,
    bias: usize,
    projection: usize,
    auxiliary: Option<usize>,
    layer_norm: Option<usize>,
}

fn lstm_weights(
    emit: &mut Emit<'_>,
    inputs: &mut [i32],
    slots: &LstmSlots,
    lstm: &Lstm,
    weights: &CellWeights,
    op: &Recurrent,
) -> Result<()> {
    // Coupled gates have no block, and no operand, for the input gate.
    let first = usize::from(lstm.coupled_input_forget);
    let blocks = 4 - first;
    let mut gates = |emit: &mut Emit<'_>, at: usize, what: &str, matrix: &Matrix| -> Result<()> {
        for block in 0..blocks {
            inputs[at + first + block] =
                matrix_block(emit, &format!("{what} {}", GATES[first + block]), matrix, blocks, block)?;
        }
        Ok(())
    };
    gates(emit, slots.input, "input weights", &weights.input)?;
    gates(emit, slots.recurrent, "recurrent weights", &weights.recurrent)?;
    if let (Some(at), Some(matrix)) = (slots.auxiliary, &weights.auxiliary) {
        gates(emit, at, "auxiliary weights", matrix)?;
    }
    if let (Some(at), Some(matrix)) = (slots.layer_norm, &weights.layer_norm) {
        gates(emit, at, "layer norm", matrix)?;
    }
    let bias = match &weights.bias {
        Some(bias) => bias.clone(),
        None => Tensor::zeros(DType::F32, &[weights.input.rows()])?,
    };
    let quantized = matches!(op.arithmetic, Arithmetic::Integer(_));
    let bias = Matrix::float(if quantized { bias } else { as_f32(bias)? });
    gates(emit, slots.bias, "bias", &bias)?;
    if let Arithmetic::Integer(scales) = &op.arithmetic {
        bias_scales(emit, inputs, slots.bias + first, blocks, weights, scales);
    }
    if let Some(peephole) = &weights.peephole {
        // Input, forget, output; the candidate has none.
        let peephole = if is_hybrid(op) { quantized_peephole(emit, peephole, blocks - 1)? } else { peephole.clone() };
        for block in 0..blocks - 1 {
            inputs[slots.peephole + first + block] = matrix_block(emit, "peephole", &peephole, blocks - 1, block)?;
        }
    }
    if let Some(projection) = &weights.projection {
        inputs[slots.projection] = matrix_block(emit, "projection weights", &projection.weight, 1, 0)?;
        if let Some(bias) = &projection.bias {
            let bias = Matrix::float(if quantized { bias.clone() } else { as_f32(bias.clone())? });
            inputs[slots.projection + 1] = matrix_block(emit, "projection bias", &bias, 1, 0)?;
        }
    }
    Ok(())
}

const GATES: [&str; 4] = ["input gate", "forget gate", "cell", "output gate"];

/// Integer biases carry the scale of the products that they are added to, as the format asks for.
fn bias_scales(
    emit: &mut Emit<'_>,
    inputs: &[i32],
    at: usize,
    blocks: usize,
    weights: &CellWeights,
    scales: &crate::graph::recurrent::IntegerScales,
) {
    for block in 0..blocks {
        let scale = match &weights.layer_norm {
            Some(layer_norm) => layer_norm.scales.get(block).map(|scale| scale * f32::exp2(-10.0)),
            None => weights.input.scales.get(block).map(|scale| scale * scales.input.0),
        };
        if let (Some(scale), Some(tensor)) = (scale, inputs.get(at + block)) {
            emit.set_scale(*tensor, scale);
        }
    }
}

fn rnn_weights(emit: &mut Emit<'_>, op: &Recurrent, weights: &CellWeights) -> Result<[i32; 3]> {
    let bias = match &weights.bias {
        Some(bias) => as_f32(bias.clone())?,
        None => Tensor::zeros(DType::F32, &[weights.units(op.cell.gate_blocks())])?,
    };
    Ok([
        matrix_block(emit, "input weights", &weights.input, 1, 0)?,
        matrix_block(emit, "recurrent weights", &weights.recurrent, 1, 0)?,
        emit.constant("bias", &bias, None),
    ])
}

fn as_f32(tensor: Tensor) -> Result<Tensor> {
    if tensor.dtype() == DType::F32 {
        Ok(tensor)
    } else {
        Tensor::from_vec(tensor.shape(), tensor.to_f32().into_owned())
    }
}

/// The constant of one of `blocks` equal runs of a matrix's rows. Halves stand behind a DEQUANTIZE.
fn matrix_block(emit: &mut Emit<'_>, name: &str, matrix: &Matrix, blocks: usize, block: usize) -> Result<i32> {
    let rows = matrix.rows() / blocks.max(1);
    let mut shape = matrix.data.shape().to_vec();
    if let Some(first) = shape.first_mut() {
        *first = rows;
    }
    let length = rows.saturating_mul(shape.iter().skip(1).product());
    let range = block * length..(block + 1) * length;
    let outside = || Error::internal("a block outside its matrix");
    macro_rules! cut {
        ($ty:ty) => {
            Tensor::from_slice(&shape, matrix.data.as_slice::<$ty>()?.get(range).ok_or_else(outside)?)?
        };
    }
    let data = match matrix.data.dtype() {
        DType::I8 => cut!(i8),
        DType::U8 => cut!(u8),
        DType::I16 => cut!(i16),
        DType::I32 => cut!(i32),
        DType::F16 => cut!(half::f16),
        _ => {
            let all = matrix.to_f32();
            Tensor::from_slice(&shape, all.get(range).ok_or_else(outside)?)?
        }
    };
    let quantization = match matrix.scales.len() {
        0 => None,
        // Runs of rows of one scale each: the operand needs one for all its rows.
        count if count == blocks || count == 1 => {
            let scale = matrix.scales.get(if count == 1 { 0 } else { block }).copied().unwrap_or(1.0);
            Some(Quantization::per_tensor(scale, 0))
        }
        _ => {
            return Err(Error::unsupported(
                "weights with a scale for each row: the fused operators have one for each gate",
            ));
        }
    };
    let tensor = emit.constant(name, &data, quantization);
    if data.dtype() != DType::F16 {
        return Ok(tensor);
    }
    let float = emit.temporary(name, DType::F32, &shape, None);
    emit.operator(opcode::DEQUANTIZE, 3, &[tensor], &[float], Options::default());
    Ok(float)
}

/// Peepholes of a hybrid operator are int8 in the file, and were dequantised when they were read: finds the scale
/// again, or quantises anew.
fn quantized_peephole(emit: &mut Emit<'_>, peephole: &Matrix, blocks: usize) -> Result<Matrix> {
    let floats = peephole.to_f32();
    let units = floats.len() / blocks.max(1);
    let (mut data, mut scales) = (Vec::with_capacity(floats.len()), Vec::new());
    for block in floats.chunks(units.max(1)) {
        let largest = block.iter().fold(0.0f32, |most, w| most.max(w.abs()));
        let scale = exact_scale(block, largest).unwrap_or_else(|| {
            emit.warnings
                .push("peephole weights of a hybrid layer were rounded to int8, which its kernel reads".to_owned());
            if largest > 0.0 { largest / 127.0 } else { 1.0 }
        });
        data.extend(block.iter().map(|w| (w / scale).round().clamp(-127.0, 127.0) as i8));
        scales.push(scale);
    }
    Ok(Matrix { data: Tensor::from_vec(peephole.data.shape(), data)?, scales })
}

/// A scale of which every weight is an exact multiple.
fn exact_scale(block: &[f32], largest: f32) -> Option<f32> {
    if largest == 0.0 {
        return Some(1.0);
    }
    (1..=127u8).rev().find_map(|most| {
        let near = largest / f32::from(most);
        // The division may round to a neighbour of the scale that the weights were made with.
        [near, near.next_up(), near.next_down()]
            .into_iter()
            .find(|scale| block.iter().all(|w| (w / scale).round() * scale == *w && (w / scale).abs() < 127.5))
    })
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
        Error::unsupported("the operator keeps its state in a tensor of a fixed batch size: give the batch size")
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
        None => emit.temporary("outputs", DType::F32, &[batch, op.feature.rows() / op.rank.max(1)], None),
    };
    let is_asymmetric = matches!(op.arithmetic, SvdfArithmetic::Hybrid { asymmetric: true });
    let options = Options::new(6, vec![(0, Int(op.rank as i32)), (1, fused(op.activation)?), (2, Bool(is_asymmetric))]);
    emit.operator(opcode::SVDF, version, &[x_tensor, feature, time, bias, state], &[y], options);
    if let Some(value) = result(node, 1) {
        emit.hold(value, state, (y, 0));
    }
    Ok(())
}
