//! Smaller weights, float activations: `--quantize dynamic` and `--quantize float16`.

use std::collections::HashMap;
use std::sync::Arc;

use half::f16;

use crate::error::{Error, Result};
use crate::graph::op::{Gather, While};
use crate::graph::recurrent::{Arithmetic, CellWeights, Matrix, Recurrent};
use crate::graph::{Graph, Node, Op, ValueId, ValueType};
use crate::tensor::{DType, Quantization, Tensor};

/// Tensors of fewer elements stay float, as TensorFlow's converter has it: little to save, and
/// accuracy to lose.
const FEWEST_ELEMENTS: usize = 1024;

/// Halves stay worth it down to here: below, the operator that widens them again takes more of the
/// file than they save.
const FEWEST_HALVES: usize = 256;

/// Weights as int8 with one scale for each matrix of the file, activations quantized when the model
/// runs.
///
/// A fused recurrent operator has int8 for all of its matrices or for none: it takes part when any
/// of them is large enough.
pub(super) fn dynamic(graph: &Graph) -> Result<Graph> {
    rewrite(graph, &mut |graph, node, seen| match &node.op {
        Op::Recurrent(op) => Ok(Change::Op(hybrid(op)?.map(Op::Recurrent))),
        Op::FullyConnected(op) => {
            let op = Op::FullyConnected(crate::graph::op::FullyConnected {
                asymmetric_inputs: true,
                ..*op
            });
            Ok(Change::Weights(int8_constant(graph, node, 1, seen)?.map(|weights| (op, weights))))
        }
        Op::MatMul(op) if !op.transpose_a => {
            let op = Op::MatMul(crate::graph::op::MatMul { asymmetric_inputs: true, ..*op });
            Ok(Change::Weights(int8_constant(graph, node, 1, seen)?.map(|weights| (op, weights))))
        }
        Op::Gather(op) if op.axis == 0 && op.batch_dims == 0 => {
            Ok(Change::Table(int8_constant(graph, node, 0, seen)?))
        }
        _ => Ok(Change::Op(None)),
    })
}

/// Weights as halves, which are widened again before they are used.
pub(super) fn float16(graph: &Graph) -> Result<Graph> {
    rewrite(graph, &mut |graph, node, seen| {
        if let Op::Recurrent(op) = &node.op
            && op.arithmetic == Arithmetic::Float
        {
            let mut op = op.clone();
            for direction in &mut op.directions {
                let weights = (*direction.weights).clone();
                direction.weights =
                    Arc::new(map_matrices(weights, |matrix, _| half_matrix(matrix))?);
            }
            return Ok(Change::Op(Some(Op::Recurrent(op))));
        }
        if matches!(node.op, Op::FullyConnected(_) | Op::MatMul(_) | Op::Conv2d(_)) {
            return Ok(Change::Widened(half_constant(graph, node, 1, seen)?));
        }
        Ok(Change::Op(None))
    })
}

/// What becomes of a node.
enum Change {
    /// Another op on the same operands, or no change.
    Op(Option<Op>),
    /// Another op whose operand 1 is this value.
    Weights(Option<(Op, ValueId)>),
    /// Operand 0 is this int8 table: what is taken from it is dequantized afterwards.
    Table(Option<ValueId>),
    /// Operand 1 is this value of halves, widened before.
    Widened(Option<ValueId>),
}

type Rule<'r> = dyn FnMut(&mut Graph, &Node, &mut HashMap<ValueId, ValueId>) -> Result<Change> + 'r;

/// Applies a rule to every node, also in loops.
fn rewrite(graph: &Graph, rule: &mut Rule<'_>) -> Result<Graph> {
    let mut out = graph.clone();
    let nodes = std::mem::take(&mut out.nodes);
    // Constants that were replaced already.
    let mut seen = HashMap::new();
    for mut node in nodes {
        if let Op::While(lo) = &node.op {
            let While { condition, body } = lo.as_ref();
            node.op = Op::While(Box::new(While {
                condition: condition.clone(),
                body: rewrite(body, rule)?,
            }));
        }
        match rule(&mut out, &node, &mut seen)? {
            Change::Op(Some(op)) => node.op = op,
            Change::Weights(Some((op, weights))) => {
                node.op = op;
                node.inputs[1] = Some(weights);
            }
            Change::Table(Some(table)) => {
                take_from_table(&mut out, node, table)?;
                continue;
            }
            Change::Widened(Some(half)) => {
                let name = node.name.clone();
                let shape =
                    out.constant(half).map(|tensor| tensor.shape().to_vec()).unwrap_or_default();
                let wide =
                    out.add_value(format!("{name}/weights"), ValueType::fixed(DType::F32, &shape));
                out.add_node(name, Op::Dequantize, vec![Some(half)], vec![Some(wide)]);
                node.inputs[1] = Some(wide);
            }
            Change::Op(None)
            | Change::Weights(None)
            | Change::Table(None)
            | Change::Widened(None) => {}
        }
        out.nodes.push(node);
    }
    Ok(out)
}

/// Rows of an int8 table, dequantized.
fn take_from_table(graph: &mut Graph, mut node: Node, table: ValueId) -> Result<()> {
    let missing = || Error::internal("a value is missing");
    let result = node.output(0).ok_or_else(missing)?;
    let shape = graph.get(result).ok_or_else(missing)?.ty.shape.clone();
    let quantization = graph.get(table).ok_or_else(missing)?.ty.quantization.clone();
    let rows = graph.add_value(
        format!("{}/rows", node.name),
        ValueType { dtype: DType::I8, shape, quantization },
    );
    node.op = Op::Gather(Gather { axis: 0, batch_dims: 0 });
    node.inputs[0] = Some(table);
    node.outputs[0] = Some(rows);
    let name = node.name.clone();
    graph.nodes.push(node);
    graph.add_node(name, Op::Dequantize, vec![Some(rows)], vec![Some(result)]);
    Ok(())
}

/// A large constant operand as int8 with one scale; `None` when it is none.
fn int8_constant(
    graph: &mut Graph,
    node: &Node,
    slot: usize,
    seen: &mut HashMap<ValueId, ValueId>,
) -> Result<Option<ValueId>> {
    let Some(value) = node.input(slot) else { return Ok(None) };
    if let Some(known) = seen.get(&value) {
        return Ok(Some(*known));
    }
    let Some(entry) = graph.get(value) else { return Ok(None) };
    let Some(tensor) = entry.constant.as_ref().filter(|tensor| tensor.dtype() == DType::F32) else {
        return Ok(None);
    };
    if tensor.len() < FEWEST_ELEMENTS || tensor.shape().len() != 2 || !all_finite(tensor) {
        return Ok(None);
    }
    let (data, scale) = symmetric(&tensor.to_f32());
    let (name, tensor) = (entry.name.clone(), Tensor::from_vec(tensor.shape(), data)?);
    let quantized = graph.add_constant(name, tensor);
    if let Some(entry) = graph.values.last_mut() {
        entry.ty.quantization = Some(Quantization::per_tensor(scale, 0));
    }
    seen.insert(value, quantized);
    Ok(Some(quantized))
}

/// A constant operand as halves; `None` when it is none or does not fit.
fn half_constant(
    graph: &mut Graph,
    node: &Node,
    slot: usize,
    seen: &mut HashMap<ValueId, ValueId>,
) -> Result<Option<ValueId>> {
    let Some(value) = node.input(slot) else { return Ok(None) };
    if let Some(known) = seen.get(&value) {
        return Ok(Some(*known));
    }
    let Some(entry) = graph.get(value) else { return Ok(None) };
    let Some(tensor) = entry.constant.as_ref().filter(|tensor| tensor.dtype() == DType::F32) else {
        return Ok(None);
    };
    let Some(halves) = halves(tensor)? else { return Ok(None) };
    let name = entry.name.clone();
    let half = graph.add_constant(name, halves);
    seen.insert(value, half);
    Ok(Some(half))
}

fn all_finite(tensor: &Tensor) -> bool {
    tensor.to_f32().iter().all(|w| w.is_finite())
}

/// Rounded to halves; `None` for a small tensor, and where a number does not fit a half.
fn halves(tensor: &Tensor) -> Result<Option<Tensor>> {
    let floats = tensor.to_f32();
    if floats.len() < FEWEST_HALVES
        || floats.iter().any(|w| w.is_nan() || w.abs() > f16::MAX.to_f32())
    {
        return Ok(None);
    }
    Tensor::from_vec(tensor.shape(), floats.iter().map(|w| f16::from_f32(*w)).collect()).map(Some)
}

fn half_matrix(matrix: Matrix) -> Result<Matrix> {
    if !matrix.scales.is_empty() || matrix.data.dtype() != DType::F32 {
        return Ok(matrix);
    }
    Ok(match halves(&matrix.data)? {
        Some(data) => Matrix::float(data),
        None => matrix,
    })
}

/// `q = round(w / scale)`, `scale = max |w| / 127`.
pub(super) fn symmetric(weights: &[f32]) -> (Vec<i8>, f32) {
    let largest = weights.iter().fold(0.0f32, |most, w| most.max(w.abs()));
    let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
    // A largest weight under some 1e-36 has a quotient that is no number a kernel divides by.
    let scale = if scale.is_normal() { scale } else { 1.0 };
    (weights.iter().map(|w| (w / scale).round().clamp(-127.0, 127.0) as i8).collect(), scale)
}

/// The matrices of a cell's products, each with its number of blocks.
fn map_matrices(
    weights: CellWeights,
    mut map: impl FnMut(Matrix, bool) -> Result<Matrix>,
) -> Result<CellWeights> {
    let mut weights = weights;
    weights.input = map(weights.input, true)?;
    weights.recurrent = map(weights.recurrent, true)?;
    weights.auxiliary = weights.auxiliary.map(|matrix| map(matrix, true)).transpose()?;
    if let Some(projection) = &mut weights.projection {
        projection.weight = map(projection.weight.clone(), false)?;
    }
    Ok(weights)
}

/// A float layer with int8 weights, one scale for each gate; `None` when it has none large enough
/// or cannot.
fn hybrid(op: &Recurrent) -> Result<Option<Recurrent>> {
    let gates = op.cell.gate_blocks();
    let is_large = |matrix: &Matrix, blocks: usize| matrix.data.len() / blocks >= FEWEST_ELEMENTS;
    let large = op.directions.iter().any(|direction| {
        let weights = &direction.weights;
        is_large(&weights.input, gates) || is_large(&weights.recurrent, gates)
    });
    let fits = op.arithmetic == Arithmetic::Float
        && op.directions.iter().all(|d| {
            !d.weights.is_diagonal() && d.weights.parts().iter().all(|(_, t)| all_finite(t))
        });
    if !large || !fits {
        return Ok(None);
    }
    let mut op = op.clone();
    op.arithmetic = Arithmetic::Hybrid { asymmetric: true };
    for direction in &mut op.directions {
        let mut weights = map_matrices((*direction.weights).clone(), |matrix, per_gate| {
            int8_matrix(&matrix, if per_gate { gates } else { 1 })
        })?;
        // The kernel reads int8 peepholes too.
        weights.peephole =
            weights.peephole.map(|peephole| rounded(&peephole, gates - 1)).transpose()?;
        direction.weights = Arc::new(weights);
    }
    Ok(Some(op))
}

/// Int8 with one scale for each of `blocks` equal runs of rows.
pub(super) fn int8_matrix(matrix: &Matrix, blocks: usize) -> Result<Matrix> {
    let floats = matrix.to_f32();
    let (mut data, mut scales) = (Vec::with_capacity(floats.len()), Vec::new());
    for block in floats.chunks((floats.len() / blocks.max(1)).max(1)) {
        let (quantized, scale) = symmetric(block);
        data.extend(quantized);
        scales.push(scale);
    }
    Ok(Matrix { data: Tensor::from_vec(matrix.data.shape(), data)?, scales })
}

/// Floats that are multiples of a scale for each block.
fn rounded(matrix: &Matrix, blocks: usize) -> Result<Matrix> {
    let quantized = int8_matrix(matrix, blocks)?;
    Ok(Matrix::float(Tensor::from_vec(matrix.data.shape(), quantized.to_f32())?))
}
