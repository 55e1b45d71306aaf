//! The weights of a recurrent op as the constants of the fused operators: one for each gate.

use super::super::opcode;
use super::emit::Emit;
use super::file::Options;
use super::recurrent::is_hybrid;
use crate::error::{Error, Result};
use crate::graph::recurrent::{Arithmetic, CellWeights, Lstm, Matrix, Recurrent};
use crate::tensor::{DType, Quantization, Tensor};

/// Where the operands of one direction begin.
pub(super) struct LstmSlots {
    pub(super) input: usize,
    pub(super) recurrent: usize,
    pub(super) peephole: usize,
    pub(super) bias: usize,
    pub(super) projection: usize,
    pub(super) auxiliary: Option<usize>,
    pub(super) layer_norm: Option<usize>,
}

pub(super) fn lstm_weights(
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
            inputs[at + first + block] = matrix_block(
                emit,
                &format!("{what} {}", GATES[first + block]),
                matrix,
                blocks,
                block,
            )?;
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
        let peephole = if is_hybrid(op) {
            quantized_peephole(emit, peephole, blocks - 1)?
        } else {
            peephole.clone()
        };
        for block in 0..blocks - 1 {
            inputs[slots.peephole + first + block] =
                matrix_block(emit, "peephole", &peephole, blocks - 1, block)?;
        }
    }
    if let Some(projection) = &weights.projection {
        inputs[slots.projection] =
            matrix_block(emit, "projection weights", &projection.weight, 1, 0)?;
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

pub(super) fn rnn_weights(
    emit: &mut Emit<'_>,
    op: &Recurrent,
    weights: &CellWeights,
) -> Result<[i32; 3]> {
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
pub(super) fn matrix_block(
    emit: &mut Emit<'_>,
    name: &str,
    matrix: &Matrix,
    blocks: usize,
    block: usize,
) -> Result<i32> {
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
            Tensor::from_slice(
                &shape,
                matrix.data.as_slice::<$ty>()?.get(range).ok_or_else(outside)?,
            )?
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
            let scale =
                matrix.scales.get(if count == 1 { 0 } else { block }).copied().unwrap_or(1.0);
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

/// Peepholes of a hybrid operator are int8 in the file, and were dequantized when they were read:
/// finds the scale again, or quantizes anew.
fn quantized_peephole(emit: &mut Emit<'_>, peephole: &Matrix, blocks: usize) -> Result<Matrix> {
    let floats = peephole.to_f32();
    let units = floats.len() / blocks.max(1);
    let (mut data, mut scales) = (Vec::with_capacity(floats.len()), Vec::new());
    for block in floats.chunks(units.max(1)) {
        let largest = block.iter().fold(0.0f32, |most, w| most.max(w.abs()));
        let scale = exact_scale(block, largest).unwrap_or_else(|| {
            emit.warnings.push(
                "peephole weights of a hybrid layer were rounded to int8, which its kernel reads"
                    .to_owned(),
            );
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
        // The division may round to a neighbor of the scale that the weights were made with.
        [near, near.next_up(), near.next_down()].into_iter().find(|scale| {
            block.iter().all(|w| (w / scale).round() * scale == *w && (w / scale).abs() < 127.5)
        })
    })
}
