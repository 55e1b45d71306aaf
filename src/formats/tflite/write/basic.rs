//! The u8 BASIC kernel: one step, one weight matrix, four outputs.

use super::super::opcode;
use super::emit::Emit;
use super::file::{Field, Options};
use crate::error::{Error, Result};
use crate::graph::recurrent::{Arithmetic, CellWeights, Recurrent};
use crate::graph::{Node, ValueId};
use crate::tensor::{DType, Quantization, Tensor};

/// Canonical blocks (input, forget, cell, output) in the kernel's order: input, cell, forget,
/// output.
const BLOCKS: [usize; 4] = [0, 2, 1, 3];

/// Writes a recurrent op of u8 arithmetic, whose sequence has one step.
pub(super) fn basic(
    emit: &mut Emit<'_>,
    node: &Node,
    op: &Recurrent,
    weights: &CellWeights,
    batch: usize,
) -> Result<()> {
    let Arithmetic::IntegerBasic { weight_zero_point } = op.arithmetic else {
        return Err(Error::internal("not the basic kernel"));
    };
    let operand = |slot: usize| node.input(slot);
    let x = operand(Recurrent::X).ok_or_else(|| Error::graph("input 0 is absent"))?;
    let (units, width) = (weights.units(4), weights.input.columns());
    if emit.sizes.shape(x).and_then(|shape| shape.first().copied().flatten()) != Some(1) {
        return Err(Error::unsupported(
            "the uint8 kernel takes one step at a time: the sequence must have one step",
        ));
    }
    let activations = Some(Quantization::per_tensor(1.0 / 128.0, 128));
    let states = Some(Quantization::per_tensor(1.0 / 2048.0, 0));
    let step = emit.temporary("step", DType::U8, &[batch, width], activations.clone());
    let sequence = emit.tensor(x)?;
    reshape(emit, sequence, step, &[batch, width]);
    let (matrix, bias) = join(emit, weights, weight_zero_point, units, width)?;
    let h = state(emit, operand(Recurrent::h0(0)))?;
    let c = state(emit, operand(Recurrent::c0(0)))?;
    let output = emit.temporary("activation", DType::U8, &[batch, units], activations.clone());
    let new_state = match node.output(Recurrent::c_n(0)) {
        Some(value) => emit.result(value)?,
        None => emit.temporary("state", DType::I16, &[batch, units], states),
    };
    let concatenation =
        emit.temporary("concatenation", DType::U8, &[batch, width + units], activations);
    let gates = emit.temporary(
        "gates",
        DType::I16,
        &[batch, 4 * units],
        Some(Quantization::per_tensor(1.0 / 4096.0, 0)),
    );
    let options = Options::new(
        14,
        vec![
            (0, Field::Byte(4)),
            (1, Field::Float(0.0)),
            (2, Field::Float(0.0)),
            (3, Field::Byte(1)),
        ],
    );
    emit.operator(
        opcode::LSTM,
        2,
        &[step, h, matrix, bias, c],
        &[output, new_state, concatenation, gates],
        options,
    );
    if let Some(value) = node.output(Recurrent::y(0)) {
        let y = emit.result(value)?;
        reshape(emit, output, y, &[1, batch, units]);
    }
    if let Some(value) = node.output(Recurrent::h_n(0)) {
        emit.place(value, output);
    }
    Ok(())
}

/// The state operands of this kernel may be ordinary tensors; it overwrites them, so that a
/// constant will not do.
fn state(emit: &mut Emit<'_>, initial: Option<ValueId>) -> Result<i32> {
    let value = initial.filter(|value| emit.graph.constant(*value).is_none());
    let value = value.ok_or_else(|| {
        Error::unsupported("the uint8 kernel needs its state from an input or a state of the model")
    })?;
    emit.tensor(value)
}

fn reshape(emit: &mut Emit<'_>, from: i32, to: i32, shape: &[usize]) {
    let sizes: Vec<i32> = shape.iter().map(|size| *size as i32).collect();
    let operand = emit.integers("new shape", &[sizes.len()], &sizes);
    emit.operator(
        opcode::RESHAPE,
        1,
        &[from, operand],
        &[to],
        Options::new(17, vec![(0, Field::Ints(sizes))]),
    );
}

/// Input and recurrent weights side by side, `[4H, I + H]`, and the bias, both with their blocks in
/// the kernel's order.
fn join(
    emit: &mut Emit<'_>,
    weights: &CellWeights,
    zero_point: i32,
    units: usize,
    width: usize,
) -> Result<(i32, i32)> {
    let (input, recurrent) =
        (weights.input.data.as_slice::<u8>()?, weights.recurrent.data.as_slice::<u8>()?);
    let bias = weights
        .bias
        .as_ref()
        .ok_or_else(|| Error::graph("the basic kernel needs a bias"))?
        .as_slice::<i32>()?;
    let scale = weights
        .input
        .scales
        .first()
        .copied()
        .ok_or_else(|| Error::graph("the weights have no scale"))?;
    if weights.input.scales.iter().chain(&weights.recurrent.scales).any(|other| *other != scale) {
        return Err(Error::unsupported("weights of several scales: the basic kernel has one"));
    }
    let (mut matrix, mut biases) = (Vec::new(), Vec::new());
    for row in BLOCKS.into_iter().flat_map(|block| block * units..(block + 1) * units) {
        let outside = || Error::internal("a row outside its matrix");
        matrix.extend_from_slice(input.get(row * width..(row + 1) * width).ok_or_else(outside)?);
        matrix
            .extend_from_slice(recurrent.get(row * units..(row + 1) * units).ok_or_else(outside)?);
        biases.push(*bias.get(row).ok_or_else(outside)?);
    }
    let matrix = Tensor::from_vec(&[4 * units, width + units], matrix)?;
    let matrix = emit.constant(
        "weights",
        &matrix,
        Some(Quantization::per_tensor(scale, i64::from(zero_point))),
    );
    let biases = Tensor::from_vec(&[4 * units], biases)?;
    let bias = emit.constant("bias", &biases, Some(Quantization::per_tensor(scale / 128.0, 0)));
    Ok((matrix, bias))
}
