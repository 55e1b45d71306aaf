//! Weights and constants as the real numbers that they stand for.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::graph::recurrent::{Arithmetic, CellWeights, Direction, Matrix};
use crate::graph::{Graph, Node, Recurrent, ValueId};
use crate::passes::Report;
use crate::tensor::{DType, Quantization, Tensor};

pub(super) fn float_recurrent(
    recurrent: &Recurrent,
    name: &str,
    report: &mut Report,
) -> Result<Recurrent> {
    let from = match &recurrent.arithmetic {
        Arithmetic::Float => return Ok(recurrent.clone()),
        Arithmetic::Hybrid { .. } => "hybrid",
        Arithmetic::Integer(_) => "integer",
        Arithmetic::IntegerBasic { .. } => "integer (basic)",
    };
    let mut float = recurrent.clone();
    float.arithmetic = Arithmetic::Float;
    float.directions = recurrent
        .directions
        .iter()
        .map(|direction| {
            let weights = float_weights(&direction.weights, &recurrent.arithmetic)?;
            Ok(Direction { weights: Arc::new(weights), ..direction.clone() })
        })
        .collect::<Result<_>>()?;
    report.made.push(format!("{} `{name}`: {from} → float", recurrent.cell.name()));
    Ok(float)
}

/// Int8 matrices stay; vectors become f32.
pub(super) fn float_weights(weights: &CellWeights, arithmetic: &Arithmetic) -> Result<CellWeights> {
    let mut float = weights.clone();
    match arithmetic {
        Arithmetic::Float | Arithmetic::Hybrid { .. } => {}
        Arithmetic::Integer(scales) => {
            let norm = weights.layer_norm.as_ref();
            // bias scale = s_x·s_W, or coefficient scale·2⁻¹⁰ under layer norm
            let scale = |row| match norm {
                Some(norm) => row_scale(norm, row) / 1024.0,
                None => scales.input.0 * row_scale(&weights.input, row),
            };
            float.bias = weights.bias.as_ref().map(|bias| scaled(bias, scale)).transpose()?;
            if let Some(projection) = &mut float.projection {
                let scale = |row| scales.hidden.0 * row_scale(&projection.weight, row);
                projection.bias =
                    projection.bias.as_ref().map(|bias| scaled(bias, scale)).transpose()?;
            }
        }
        Arithmetic::IntegerBasic { weight_zero_point } => {
            let unsigned = |matrix: &Matrix| -> Result<Matrix> {
                let zero = *weight_zero_point as f32;
                let data: Vec<f32> = (0..matrix.rows())
                    .flat_map(|row| vec![row_scale(matrix, row); matrix.columns()])
                    .zip(matrix.data.to_f32().iter())
                    .map(|(scale, stored)| scale * (stored - zero))
                    .collect();
                Ok(Matrix::float(Tensor::from_vec(matrix.data.shape(), data)?))
            };
            float.input = unsigned(&weights.input)?;
            float.recurrent = unsigned(&weights.recurrent)?;
            let scale = |row| row_scale(&weights.input, row) / 128.0;
            float.bias = weights.bias.as_ref().map(|bias| scaled(bias, scale)).transpose()?;
        }
    }
    float.peephole = weights.peephole.as_ref().map(float_matrix).transpose()?;
    float.layer_norm = weights.layer_norm.as_ref().map(float_matrix).transpose()?;
    Ok(float)
}

/// The int32 bias of an integer layer has the scale `s_x·s_W` (one for each output channel where
/// the weights have).
pub(super) fn float_bias(
    graph: &Graph,
    node: &Node,
    out: &mut Graph,
    inputs: &mut [Option<ValueId>],
) -> Result<()> {
    let Some(id) = node.input(2) else { return Ok(()) };
    let Some(bias) = graph.constant(id).filter(|bias| bias.dtype() == DType::I32) else {
        return Ok(());
    };
    let quantization = |slot: usize| -> Result<&Quantization> {
        let value = node.input(slot).and_then(|id| graph.get(id));
        value.and_then(|value| value.ty.quantization.as_ref()).ok_or_else(|| {
            Error::graph(format!("operand {slot} of a layer with an int32 bias has no scale"))
        })
    };
    let (x_scale, _) = quantization(0)?
        .as_per_tensor()
        .ok_or_else(|| Error::graph("the input of a layer has more than one scale"))?;
    let weight_scales = &quantization(1)?.scales;
    if weight_scales.is_empty() || (weight_scales.len() != 1 && weight_scales.len() != bias.len()) {
        return Err(Error::graph(format!(
            "{} weight scales for {} biases",
            weight_scales.len(),
            bias.len()
        )));
    }
    let last = weight_scales.len() - 1;
    let real =
        scaled(bias, |row| x_scale * weight_scales.get(row.min(last)).copied().unwrap_or(0.0))?;
    let name = graph.get(id).map(|value| value.name.clone()).unwrap_or_default();
    let real = out.add_constant(name, real);
    if let Some(slot) = inputs.get_mut(2) {
        *slot = Some(real);
    }
    Ok(())
}

/// `scale · (stored − zero point)`, per tensor or per index of the quantization's axis.
pub(in crate::passes) fn dequantize_tensor(
    tensor: &Tensor,
    quantization: &Quantization,
) -> Result<Tensor> {
    let Quantization { scales, zero_points, axis } = quantization;
    let shape = tensor.shape();
    // Elements that share one scale lie together: `inner` of them, for each index of the axis in
    // turn.
    let (count, inner) = if scales.len() == 1 {
        (1, tensor.len().max(1))
    } else {
        let count = shape.get(*axis).copied().unwrap_or(0);
        (count, shape.get(axis + 1..).unwrap_or_default().iter().product::<usize>().max(1))
    };
    if count != scales.len() || zero_points.len() != scales.len() {
        let (scales, zeros) = (scales.len(), zero_points.len());
        return Err(Error::graph(format!(
            "{scales} scales and {zeros} zero points for shape {shape:?}, axis {axis}"
        )));
    }
    let pairs: Vec<(f32, f32)> =
        scales.iter().zip(zero_points).map(|(&s, &z)| (s, z as f32)).collect();
    let stored = tensor.to_f32();
    let mut real = Vec::with_capacity(stored.len());
    for (run, (scale, zero)) in stored.chunks(inner).zip(pairs.iter().cycle()) {
        real.extend(run.iter().map(|x| scale * (x - zero)));
    }
    Tensor::from_vec(shape, real)
}

/// Scale of one row; 1 for float data.
pub(super) fn row_scale(matrix: &Matrix, row: usize) -> f32 {
    let run = matrix.rows().div_ceil(matrix.scales.len().max(1)).max(1);
    matrix.scales.get(row / run).copied().unwrap_or(1.0)
}

pub(super) fn float_matrix(matrix: &Matrix) -> Result<Matrix> {
    if matrix.data.dtype().is_float() {
        return Ok(matrix.clone());
    }
    Ok(Matrix::float(Tensor::from_vec(matrix.data.shape(), matrix.to_f32())?))
}

/// Each stored number times the scale of its row; float tensors stay.
pub(super) fn scaled(tensor: &Tensor, scale: impl Fn(usize) -> f32) -> Result<Tensor> {
    if tensor.dtype().is_float() {
        return Ok(tensor.clone());
    }
    // Products in f64: an int32 bias has more digits than f32.
    let real = tensor
        .to_i64()?
        .iter()
        .enumerate()
        .map(|(row, &x)| (x as f64 * f64::from(scale(row))) as f32)
        .collect();
    Tensor::from_vec(tensor.shape(), real)
}
