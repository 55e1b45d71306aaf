//! Hybrid and integer models as float models, for the backends that compute in f32.
//!
//! Every quantized value becomes the f32 value it stands for. Int8 weights of recurrent ops stay
//! int8 with their scales (a backend may keep them so); all other quantized constants become f32.
//! Conversions between quantized values vanish, those at the graph's ports stay: a caller gives and
//! gets the same types as before.
//!
//! What is lost is the rounding of the activations, nothing else; the difference to `reference` is
//! that quantization error.

use std::sync::Arc;

use super::Report;
use crate::error::{Error, Place, Result};
use crate::graph::op::Activation;
use crate::graph::op::{Binary, BinaryFunction, SvdfArithmetic, While};
use crate::graph::recurrent::{Arithmetic, CellWeights, Direction, IntegerScales, Matrix};
use crate::graph::{Graph, Node, Op, Recurrent, Reset, ValueId, ValueType};
use crate::tensor::{DType, Quantization, Tensor};

/// The same model in float arithmetic; a float model comes back as it is.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) for an op that reads the stored integers of a
/// quantized value as numbers, [`InvalidGraph`](crate::ErrorKind::InvalidGraph) when scales do not
/// fit their tensors.
pub fn dequantize(graph: &Graph) -> Result<Graph> {
    Ok(dequantize_reported(graph)?.0)
}

/// As [`dequantize`], with what was changed.
///
/// # Errors
/// As [`dequantize`].
pub fn dequantize_reported(graph: &Graph) -> Result<(Graph, Report)> {
    let mut report = Report::new("dequantize");
    let graph = rewrite(graph, true, &mut report)?;
    Ok((graph, report))
}

/// Whether the stored numbers of a value stand for real ones.
fn is_quantized(ty: &ValueType) -> bool {
    ty.quantization.is_some() && matches!(ty.dtype, DType::I8 | DType::U8 | DType::I16)
}

/// `ports`: inputs and outputs keep their quantized types (the graph is a whole model, not the body
/// of a loop).
fn rewrite(graph: &Graph, ports: bool, report: &mut Report) -> Result<Graph> {
    let mut out = Graph {
        name: graph.name.clone(),
        values: graph.values.clone(),
        nodes: Vec::with_capacity(graph.nodes.len()),
        inputs: graph.inputs.clone(),
        outputs: graph.outputs.clone(),
        states: graph.states.clone(),
        symbols: graph.symbols.clone(),
    };
    // What each value is read as from now on.
    let mut read_as: Vec<ValueId> = (0..graph.values.len() as u32).map(ValueId).collect();
    for (index, value) in graph.values.iter().enumerate() {
        let Some(quantization) = value.ty.quantization.as_ref().filter(|_| is_quantized(&value.ty))
        else {
            continue;
        };
        let id = ValueId(index as u32);
        if ports && graph.inputs.iter().any(|port| port.value == id) {
            let real = out.add_value(value.name.clone(), float_type(&value.ty));
            out.add_node(
                format!("{}/dequantize", value.name),
                Op::Dequantize,
                vec![Some(id)],
                vec![Some(real)],
            );
            set(&mut read_as, id, real);
            continue;
        }
        let constant =
            value.constant.as_ref().map(|tensor| dequantize_tensor(tensor, quantization));
        if let Some(slot) = out.values.get_mut(index) {
            slot.constant = constant.transpose().within(|| format!("constant `{}`", value.name))?;
            slot.ty = float_type(&value.ty);
        }
    }
    for node in &graph.nodes {
        let place = || format!("node `{}`", node.name);
        rewrite_node(graph, node, &mut out, &mut read_as, report).within(place)?;
    }
    for port in &mut out.outputs {
        let Some(value) = graph.get(port.value) else { continue };
        let is_input = graph.inputs.iter().any(|input| input.value == port.value);
        if ports && is_quantized(&value.ty) && !is_input {
            let real = get(&read_as, port.value);
            let id = ValueId(out.values.len() as u32);
            out.values.push(crate::graph::Value {
                name: value.name.clone(),
                ty: value.ty.clone(),
                constant: None,
            });
            let name = format!("{}/quantize", value.name);
            out.nodes.push(Node {
                name,
                op: Op::Quantize,
                inputs: vec![Some(real)],
                outputs: vec![Some(id)],
            });
            port.value = id;
        } else if !is_input {
            port.value = get(&read_as, port.value);
        }
    }
    for state in &mut out.states {
        let quantized = graph.get(state.value).is_some_and(|value| is_quantized(&value.ty));
        if quantized {
            report.made.push(format!("state `{}`: f32", state.name));
            let ty = graph.ty(state.value);
            state.reset =
                float_reset(&state.reset, ty).within(|| format!("state `{}`", state.name))?;
        }
        state.next = get(&read_as, state.next);
    }
    Ok(out)
}

/// The real numbers that a quantized state begins with.
fn float_reset(reset: &Reset, ty: Option<&ValueType>) -> Result<Reset> {
    let scale = ty.and_then(|ty| ty.quantization.as_ref()).and_then(Quantization::as_per_tensor);
    let (scale, zero) = scale.ok_or_else(|| Error::unsupported("more than one scale"))?;
    match reset {
        Reset::Fill(stored) if *stored == zero => Ok(Reset::ZERO),
        Reset::Fill(stored) => Err(Error::unsupported(format!(
            "it begins with {stored} in every element, which is not its zero point {zero}"
        ))),
        Reset::Tensor(stored) => {
            let real = stored.to_f32().iter().map(|x| scale * (x - zero as f32)).collect();
            Ok(Reset::stored(Tensor::from_vec(stored.shape(), real)?))
        }
    }
}

/// Adds the float form of one node.
fn rewrite_node(
    graph: &Graph,
    node: &Node,
    out: &mut Graph,
    read_as: &mut [ValueId],
    report: &mut Report,
) -> Result<()> {
    let ty = |slot: &Option<ValueId>| slot.and_then(|id| graph.get(id)).map(|value| &value.ty);
    let first_in = node.inputs.first().and_then(ty);
    let first_out = node.outputs.first().and_then(ty);
    let quantized = |ty: Option<&ValueType>| ty.is_some_and(is_quantized);
    let mut inputs: Vec<Option<ValueId>> =
        node.inputs.iter().map(|id| id.map(|id| get(read_as, id))).collect();

    let op = match &node.op {
        Op::Quantize | Op::Dequantize if quantized(first_in) || quantized(first_out) => {
            // Both sides stand for the same real numbers.
            if let (Some(Some(from)), Some(Some(to))) = (inputs.first(), node.outputs.first()) {
                set(read_as, *to, *from);
                report.made.push(format!("{} `{}`: removed", op_word(&node.op), node.name));
            }
            return Ok(());
        }
        Op::Cast(_) if quantized(first_in) || quantized(first_out) => {
            let raw_input = node.input(0);
            if quantized(first_out)
                || !graph.inputs.iter().any(|port| Some(port.value) == raw_input)
            {
                return Err(Error::unsupported(
                    "a cast of the stored integers of a quantized value has no float form",
                ));
            }
            inputs = node.inputs.clone();
            node.op.clone()
        }
        Op::Recurrent(recurrent) => Op::Recurrent(float_recurrent(recurrent, &node.name, report)?),
        Op::Svdf(svdf) => {
            let mut svdf = svdf.clone();
            match svdf.arithmetic {
                SvdfArithmetic::Float => {}
                SvdfArithmetic::Hybrid { .. } => {
                    report.made.push(format!("SVDF `{}`: hybrid → float", node.name));
                }
                SvdfArithmetic::Integer { state, .. } => {
                    report.made.push(format!("SVDF `{}`: integer → float", node.name));
                    // bias scale = state scale · time scale; the integer kernel applies no
                    // activation.
                    let bias = svdf.bias.as_ref();
                    svdf.bias = bias
                        .map(|bias| scaled(bias, |_| state * row_scale(&svdf.time, 0)))
                        .transpose()?;
                    svdf.activation = Activation::Linear;
                }
            }
            svdf.time = float_matrix(&svdf.time)?;
            svdf.arithmetic = SvdfArithmetic::Float;
            Op::Svdf(svdf)
        }
        Op::FullyConnected(options) => {
            float_bias(graph, node, out, &mut inputs)?;
            let mut options = *options;
            options.asymmetric_inputs = false;
            Op::FullyConnected(options)
        }
        Op::MatMul(options) => {
            let mut options = *options;
            options.asymmetric_inputs = false;
            Op::MatMul(options)
        }
        Op::Conv2d(options) => {
            float_bias(graph, node, out, &mut inputs)?;
            Op::Conv2d(*options)
        }
        Op::While(inner) => Op::While(Box::new(While {
            condition: rewrite(&inner.condition, false, report).within(|| "condition")?,
            body: rewrite(&inner.body, false, report).within(|| "body")?,
        })),
        Op::Unary(_)
        | Op::Pool2d(_)
        | Op::Activation(_)
        | Op::Binary(_)
        | Op::Select
        | Op::Softmax(_)
        | Op::Reduce(_)
        | Op::ArgMax(_)
        | Op::Cast(_)
        | Op::Quantize
        | Op::Dequantize
        | Op::Transpose
        | Op::Reshape
        | Op::Squeeze(_)
        | Op::ExpandDims
        | Op::Shape(_)
        | Op::Fill
        | Op::Range
        | Op::Tile
        | Op::BroadcastTo
        | Op::Pad
        | Op::Slice
        | Op::StridedSlice(_)
        | Op::Gather(_)
        | Op::Pack(_)
        | Op::Unpack(_)
        | Op::Split
        | Op::Concat(_)
        | Op::Reverse
        | Op::ReverseSequence(_)
        | Op::SetItem
        | Op::Custom(_) => node.op.clone(),
    };
    out.nodes.push(Node { name: node.name.clone(), op, inputs, outputs: node.outputs.clone() });
    if let Op::Recurrent(Recurrent { arithmetic: Arithmetic::Integer(scales), .. }) = &node.op {
        raw_copy(graph, node, scales, out)?;
    }
    Ok(())
}

/// The integer LSTM copies its raw int8 state to the output, whatever scale the output declares:
/// what the next op reads is `y = s_y·(h/s_h + z_h − z_y)`. Where the two differ, the float op is
/// followed by this line.
fn raw_copy(graph: &Graph, node: &Node, scales: &IntegerScales, out: &mut Graph) -> Result<()> {
    let (state_scale, state_zero) = scales.output_state;
    for slot in 0..2 {
        let Some(Some(id)) = node.outputs.get(Recurrent::y(slot)).copied() else { continue };
        let Some(ty) = graph.get(id).map(|value| &value.ty) else { continue };
        let Some((scale, zero)) = ty.quantization.as_ref().and_then(Quantization::as_per_tensor)
        else {
            continue;
        };
        let factor = scale / state_scale;
        let offset = scale * (f64::from(state_zero) - zero as f64) as f32;
        if factor == 1.0 && offset == 0.0 {
            continue;
        }
        let exact = out.add_value(format!("{}/exact", node.name), float_type(ty));
        if let Some(slot) =
            out.nodes.last_mut().and_then(|last| last.outputs.get_mut(Recurrent::y(slot)))
        {
            *slot = Some(exact);
        }
        let scaled = out.add_value(format!("{}/rescaled", node.name), float_type(ty));
        let factor = out.add_constant(format!("{}/scale", node.name), Tensor::scalar(factor));
        let offset = out.add_constant(format!("{}/offset", node.name), Tensor::scalar(offset));
        let binary = |function| Op::Binary(Binary { function, activation: Activation::Linear });
        // Kept in order: the recurrent node, then these two.
        out.add_node(
            format!("{}/rescale", node.name),
            binary(BinaryFunction::Mul),
            vec![Some(exact), Some(factor)],
            vec![Some(scaled)],
        );
        out.add_node(
            format!("{}/shift", node.name),
            binary(BinaryFunction::Add),
            vec![Some(scaled), Some(offset)],
            vec![Some(id)],
        );
        // Integer recurrent ops have one direction.
        return Ok(());
    }
    Ok(())
}

fn float_recurrent(recurrent: &Recurrent, name: &str, report: &mut Report) -> Result<Recurrent> {
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
fn float_weights(weights: &CellWeights, arithmetic: &Arithmetic) -> Result<CellWeights> {
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
fn float_bias(
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
pub(super) fn dequantize_tensor(tensor: &Tensor, quantization: &Quantization) -> Result<Tensor> {
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
fn row_scale(matrix: &Matrix, row: usize) -> f32 {
    let run = matrix.rows().div_ceil(matrix.scales.len().max(1)).max(1);
    matrix.scales.get(row / run).copied().unwrap_or(1.0)
}

fn float_matrix(matrix: &Matrix) -> Result<Matrix> {
    if matrix.data.dtype().is_float() {
        return Ok(matrix.clone());
    }
    Ok(Matrix::float(Tensor::from_vec(matrix.data.shape(), matrix.to_f32())?))
}

/// Each stored number times the scale of its row; float tensors stay.
fn scaled(tensor: &Tensor, scale: impl Fn(usize) -> f32) -> Result<Tensor> {
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

fn float_type(ty: &ValueType) -> ValueType {
    ValueType { dtype: DType::F32, shape: ty.shape.clone(), quantization: None }
}

fn op_word(op: &Op) -> &'static str {
    if matches!(op, Op::Quantize) { "quantize" } else { "dequantize" }
}

fn get(read_as: &[ValueId], id: ValueId) -> ValueId {
    read_as.get(id.index()).copied().unwrap_or(id)
}

fn set(read_as: &mut [ValueId], id: ValueId, to: ValueId) {
    if let Some(slot) = read_as.get_mut(id.index()) {
        *slot = to;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::graph::Port;
    use crate::graph::op::FullyConnected;
    use crate::graph::recurrent::{Cell, Layout, Lstm, Masking, Merge, Source};

    fn quantized(dtype: DType, shape: &[usize], scale: f32, zero: i64) -> ValueType {
        ValueType {
            quantization: Some(Quantization::per_tensor(scale, zero)),
            ..ValueType::fixed(dtype, shape)
        }
    }

    #[test]
    fn per_channel_on_an_inner_axis() {
        let tensor = Tensor::from_vec(&[2, 3], vec![1i8, 2, 3, 4, 5, 6]).unwrap();
        let quantization =
            Quantization { scales: vec![1.0, 0.5, 2.0], zero_points: vec![0, 2, 1], axis: 1 };
        let real = dequantize_tensor(&tensor, &quantization).unwrap();
        assert_eq!(real.as_slice::<f32>().unwrap(), [1.0, 0.0, 4.0, 4.0, 1.5, 10.0]);
        let wrong = Quantization { axis: 0, ..quantization };
        assert!(dequantize_tensor(&tensor, &wrong).is_err());
    }

    #[test]
    fn an_integer_layer_keeps_its_ports() {
        let mut graph = Graph::default();
        let x = graph.add_value("x", quantized(DType::I8, &[1, 2], 0.5, 3));
        let w = graph.add_constant("w", Tensor::from_vec(&[2, 2], vec![1i8, 2, 3, 4]).unwrap());
        graph.values[w.index()].ty.quantization =
            Some(Quantization { scales: vec![0.25, 2.0], zero_points: vec![0, 0], axis: 0 });
        let b = graph.add_constant("b", Tensor::from_vec(&[2], vec![8i32, 16]).unwrap());
        let y = graph.add_value("y", quantized(DType::I8, &[1, 2], 0.1, -4));
        let op = FullyConnected {
            activation: Activation::Relu,
            keep_leading_axes: false,
            asymmetric_inputs: false,
        };
        graph.add_node(
            "fc",
            Op::FullyConnected(op),
            vec![Some(x), Some(w), Some(b)],
            vec![Some(y)],
        );
        graph.inputs.push(Port { name: "x".into(), value: x });
        graph.outputs.push(Port { name: "y".into(), value: y });

        let float = dequantize(&graph).unwrap();
        let ops: Vec<_> = float.nodes.iter().map(|node| std::mem::discriminant(&node.op)).collect();
        assert_eq!(ops.len(), 3, "dequantize, layer, quantize");
        assert_eq!(float.nodes[0].op, Op::Dequantize);
        assert_eq!(float.nodes[2].op, Op::Quantize);
        assert_eq!(float.get(float.inputs[0].value).unwrap().ty.dtype, DType::I8);
        let port = float.get(float.outputs[0].value).unwrap();
        assert_eq!(port.ty, quantized(DType::I8, &[1, 2], 0.1, -4));
        let weights = float.constant(float.nodes[1].inputs[1].unwrap()).unwrap();
        assert_eq!(weights.as_slice::<f32>().unwrap(), [0.25, 0.5, 6.0, 8.0]);
        let bias = float.constant(float.nodes[1].inputs[2].unwrap()).unwrap();
        assert_eq!(bias.as_slice::<f32>().unwrap(), [1.0, 16.0]);
    }

    #[test]
    fn integer_lstm_vectors_become_float() {
        let matrix = |rows: usize, columns: usize, scales: Vec<f32>| Matrix {
            data: Tensor::from_vec(&[rows, columns], vec![1i8; rows * columns]).unwrap(),
            scales,
        };
        let weights = CellWeights {
            input: matrix(4, 2, vec![0.5, 1.0, 2.0, 4.0]),
            recurrent: matrix(4, 1, vec![1.0; 4]),
            auxiliary: None,
            bias: Some(Tensor::from_vec(&[4], vec![10i32, 10, 10, 10]).unwrap()),
            recurrent_bias: None,
            peephole: Some(Matrix {
                data: Tensor::from_vec(&[3], vec![4i16, 4, 4]).unwrap(),
                scales: vec![0.5, 0.25, 1.0],
            }),
            layer_norm: None,
            projection: None,
        };
        let scales = IntegerScales {
            input: (0.1, 0),
            output_state: (0.01, 2),
            cell_scale_log2: -11,
            gates: [2f32.powi(-12); 4],
            hidden: (0.01, 2),
        };
        let float = float_weights(&weights, &Arithmetic::Integer(scales.clone())).unwrap();
        assert_eq!(float.input, weights.input, "int8 matrices stay");
        assert_eq!(float.bias.unwrap().as_slice::<f32>().unwrap(), [0.5, 1.0, 2.0, 4.0]);
        assert_eq!(float.peephole.unwrap().to_f32(), [2.0, 1.0, 4.0]);

        let normed = CellWeights {
            layer_norm: Some(Matrix {
                data: Tensor::from_vec(&[4], vec![2i16; 4]).unwrap(),
                scales: vec![1024.0, 1024.0, 1024.0, 2048.0],
            }),
            ..weights
        };
        let float = float_weights(&normed, &Arithmetic::Integer(scales)).unwrap();
        assert_eq!(float.bias.unwrap().as_slice::<f32>().unwrap(), [10.0, 10.0, 10.0, 20.0]);
    }

    #[test]
    fn an_output_with_another_scale_is_rescaled() {
        let mut graph = Graph::default();
        let x = graph.add_value("x", quantized(DType::I8, &[1, 1, 1], 0.1, 0));
        let h0 = graph.add_value("h", quantized(DType::I8, &[1, 1], 0.01, 2));
        let c0 = graph.add_value("c", quantized(DType::I16, &[1, 1], 2f32.powi(-11), 0));
        let y = graph.add_value("y", quantized(DType::I8, &[1, 1, 1], 0.02, -1));
        let h_n = graph.add_value("h_n", quantized(DType::I8, &[1, 1], 0.01, 2));
        let matrix =
            Matrix { data: Tensor::from_vec(&[4, 1], vec![1i8; 4]).unwrap(), scales: vec![0.5] };
        let weights = CellWeights {
            input: matrix.clone(),
            recurrent: matrix,
            auxiliary: None,
            bias: None,
            recurrent_bias: None,
            peephole: None,
            layer_norm: None,
            projection: None,
        };
        let lstm = Recurrent {
            cell: Cell::Lstm(Lstm {
                gate: Activation::Sigmoid,
                candidate: Activation::Tanh,
                output: Activation::Tanh,
                coupled_input_forget: false,
                cell_clip: None,
                projection_clip: None,
            }),
            directions: vec![Direction {
                reverse: false,
                source: Source::X,
                weights: Arc::new(weights),
            }],
            layout: Layout::TimeMajor,
            masking: Masking::Zero,
            merge: Merge::Separate,
            arithmetic: Arithmetic::Integer(IntegerScales {
                input: (0.1, 0),
                output_state: (0.01, 2),
                cell_scale_log2: -11,
                gates: [2f32.powi(-12); 4],
                hidden: (0.01, 2),
            }),
        };
        graph.add_node(
            "lstm",
            Op::Recurrent(lstm),
            vec![Some(x), None, None, Some(h0), Some(c0)],
            vec![Some(y), None, Some(h_n), None],
        );
        graph.inputs.push(Port { name: "x".into(), value: x });
        graph.outputs.push(Port { name: "y".into(), value: y });
        graph.states.push(crate::graph::State {
            name: "h".into(),
            value: h0,
            next: h_n,
            reset: Reset::Fill(2),
        });

        let (float, report) = dequantize_reported(&graph).unwrap();
        assert_eq!(float.states[0].reset, Reset::ZERO);
        assert_eq!(float.get(float.states[0].value).unwrap().ty.dtype, DType::F32);
        assert_eq!(float.nodes.len(), 5, "dequantize, lstm, scale, offset, quantize");
        let factor =
            float.constant(float.nodes[2].inputs[1].unwrap()).unwrap().as_slice::<f32>().unwrap()
                [0];
        let offset =
            float.constant(float.nodes[3].inputs[1].unwrap()).unwrap().as_slice::<f32>().unwrap()
                [0];
        assert!((factor - 2.0).abs() < 1e-6 && (offset - 0.06).abs() < 1e-6, "{factor} {offset}");
        assert!(report.made.iter().any(|line| line.contains("integer → float")), "{report:?}");
    }
}
