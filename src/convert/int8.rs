//! Weights and activations as int8, cell states as int16: `--quantize int8`.
//!
//! LSTM layers (each direction by itself) and fully connected layers compute in integers; what lies
//! between them stays float, behind `QUANTIZE` and `DEQUANTIZE`, and so do the model's inputs and
//! outputs. Ranges are those that the samples reach. Three things that converters get wrong are
//! taken care of: the cell state's scale is at least 2⁻¹⁵, where the kernel still knows a
//! hyperbolic tangent; the output tensor has the scale of the output state, whose raw bytes the
//! kernel copies; and both directions of a layer keep the scales of their own until they are floats
//! again.

use std::collections::HashMap;
use std::sync::Arc;

use super::calibrate::{LstmRanges, Range, lstm_ranges, observe};
use super::weights::{int8_matrix, symmetric};
use crate::error::{Error, Result};
use crate::graph::op::{Activation, Concat, FullyConnected};
use crate::graph::recurrent::{
    Arithmetic, Cell, CellWeights, IntegerScales, Lstm, Matrix, Merge, Projection, Recurrent,
    Source,
};
use crate::graph::{Graph, Node, Op, Reset, ValueId, ValueType};
use crate::tensor::{DType, Quantization, Tensor};

/// The widest cell state whose scale the kernel takes: 2⁻⁹ · 32768.
const WIDEST_CELL: f32 = 64.0;

/// Rewrites a graph with the ranges that `samples` reach; what has no integer kernel is named in
/// `warnings` and stays as it is.
pub(super) fn int8(
    graph: &Graph,
    samples: &[Vec<Tensor>],
    warnings: &mut Vec<String>,
) -> Result<Graph> {
    if samples.is_empty() {
        return Err(Error::input("int8 quantization needs calibration samples"));
    }
    let graph = one_direction_a_node(graph)?;
    let wanted = wanted_values(&graph);
    let runs = observe(&graph, &wanted, samples)?;
    let mut out = graph.clone();
    out.nodes.clear();
    let mut pass = Pass { runs: &runs, quantized: HashMap::new(), warnings };
    for node in &graph.nodes {
        if let Op::Recurrent(op) = &node.op {
            pass.recurrent(&graph, &mut out, node, op)?;
        } else if let Op::FullyConnected(op) = &node.op {
            pass.dense(&graph, &mut out, node, op)?;
        } else {
            out.nodes.push(node.clone());
        }
    }
    Ok(out)
}

/// By run, by value.
type Runs = [HashMap<ValueId, Tensor>];

struct Pass<'p> {
    runs: &'p Runs,
    /// Float values that are dequantized int8 ones.
    quantized: HashMap<ValueId, (ValueId, (f32, i64))>,
    warnings: &'p mut Vec<String>,
}

/// Values whose ranges decide about scales.
fn wanted_values(graph: &Graph) -> Vec<ValueId> {
    let mut wanted = Vec::new();
    for node in &graph.nodes {
        if let Op::Recurrent(op) = &node.op
            && is_eligible(op, node)
        {
            let slots = [Recurrent::X, Recurrent::h0(0), Recurrent::c0(0)];
            wanted.extend(slots.iter().filter_map(|slot| node.input(*slot)));
        }
        if let Op::FullyConnected(_) = &node.op {
            wanted.extend(node.input(0));
            wanted.extend(node.output(0));
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    wanted.retain(|value| graph.constant(*value).is_none());
    wanted
}

/// Whether there is an integer kernel for the layer.
fn is_eligible(op: &Recurrent, node: &Node) -> bool {
    let Cell::Lstm(Lstm {
        gate: Activation::Sigmoid,
        candidate: Activation::Tanh,
        output: Activation::Tanh,
        ..
    }) = op.cell
    else {
        return false;
    };
    let [direction] = op.directions.as_slice() else { return false };
    let weights = &direction.weights;
    // With a peephole and a narrower output the kernel multiplies the wrong cells.
    let peephole_fits = weights.peephole.is_none() || weights.projection.is_none();
    op.arithmetic == Arithmetic::Float
        && node.input(Recurrent::MASK).is_none()
        && direction.source == Source::X
        && weights.auxiliary.is_none()
        && !weights.is_diagonal()
        && peephole_fits
}

/// Layers of two directions as two layers, whose outputs are joined.
fn one_direction_a_node(graph: &Graph) -> Result<Graph> {
    let mut out = graph.clone();
    out.nodes.clear();
    for node in &graph.nodes {
        let both = if let Op::Recurrent(op) = &node.op { Some(op) } else { None };
        let Some(op) =
            both.filter(|op| op.directions.len() == 2 && matches!(op.cell, Cell::Lstm(_)))
        else {
            out.nodes.push(node.clone());
            continue;
        };
        let get = |list: &[Option<ValueId>], slot: usize| list.get(slot).copied().flatten();
        let mut parts = Vec::new();
        for (d, direction) in op.directions.iter().enumerate() {
            let name = format!("{}/direction{d}", node.name);
            let mut y = get(&node.outputs, Recurrent::y(d));
            if op.merge == Merge::Concat {
                let part = out.add_value(name.clone(), ValueType::unranked(DType::F32));
                parts.push(Some(part));
                y = Some(part);
            }
            let x = if direction.source == Source::Auxiliary {
                Recurrent::AUXILIARY
            } else {
                Recurrent::X
            };
            let auxiliary = get(&node.inputs, Recurrent::AUXILIARY)
                .filter(|_| direction.weights.auxiliary.is_some());
            let mut direction = direction.clone();
            direction.source = Source::X;
            let single =
                Recurrent { directions: vec![direction], merge: Merge::Separate, ..op.clone() };
            let inputs = vec![
                get(&node.inputs, x),
                get(&node.inputs, Recurrent::MASK),
                auxiliary,
                get(&node.inputs, Recurrent::h0(d)),
                get(&node.inputs, Recurrent::c0(d)),
            ];
            let outputs = vec![
                y,
                None,
                get(&node.outputs, Recurrent::h_n(d)),
                get(&node.outputs, Recurrent::c_n(d)),
            ];
            out.add_node(name, Op::Recurrent(single), inputs, outputs);
        }
        if let (false, Some(y)) = (parts.is_empty(), get(&node.outputs, Recurrent::y(0))) {
            let join = Op::Concat(Concat { axis: 2, activation: Activation::Linear });
            out.add_node(node.name.clone(), join, parts, vec![Some(y)]);
        }
    }
    Ok(out)
}

impl Pass<'_> {
    fn range(&self, value: ValueId) -> Range {
        let mut range = Range::default();
        for tensor in self.runs.iter().filter_map(|run| run.get(&value)) {
            range.take_in(&tensor.to_f32());
        }
        range
    }

    /// The int8 form of a float value: that of the operator which computed it, or a new `QUANTIZE`.
    fn quantize(&mut self, out: &mut Graph, value: ValueId) -> (ValueId, (f32, i64)) {
        if let Some(known) = self.quantized.get(&value) {
            return *known;
        }
        let scale = self.range(value).asymmetric();
        let quantized = quantize_node(out, value, DType::I8, scale);
        self.quantized.insert(value, (quantized, scale));
        (quantized, scale)
    }

    /// A value of int8, and the node that makes `float` of it.
    fn dequantize(
        &mut self,
        out: &mut Graph,
        quantized: ValueId,
        scale: (f32, i64),
        float: ValueId,
    ) {
        let name = out.get(float).map(|value| value.name.clone()).unwrap_or_default();
        out.add_node(name, Op::Dequantize, vec![Some(quantized)], vec![Some(float)]);
        self.quantized.insert(float, (quantized, scale));
    }

    fn dense(
        &mut self,
        graph: &Graph,
        out: &mut Graph,
        node: &Node,
        op: &FullyConnected,
    ) -> Result<()> {
        let get = |slot: usize| node.input(slot);
        let (Some(x), Some(weights), Some(y)) = (get(0), get(1), node.output(0)) else {
            out.nodes.push(node.clone());
            return Ok(());
        };
        let constant = graph.constant(weights).filter(|tensor| tensor.dtype() == DType::F32);
        let bias =
            get(2).map(|bias| graph.constant(bias).filter(|tensor| tensor.dtype() == DType::F32));
        let fits = matches!(
            op.activation,
            Activation::Linear | Activation::Relu | Activation::Relu6 | Activation::ReluN1To1
        ) && graph
            .get(x)
            .is_some_and(|value| value.ty.dtype == DType::F32 && value.constant.is_none());
        let (Some(constant), true, true) = (constant, fits, bias != Some(None)) else {
            out.nodes.push(node.clone());
            return Ok(());
        };
        let (data, scale) = symmetric(&constant.to_f32());
        let data = Tensor::from_vec(constant.shape(), data)?;
        let units = constant.shape().first().copied().unwrap_or(0);
        let (x, input) = self.quantize(out, x);
        let name = out.get(weights).map(|value| value.name.clone()).unwrap_or_default();
        let weights = typed_constant(out, &name, data, scale);
        let zeros = vec![0.0; units];
        let bias = bias.flatten().map_or(zeros, |bias| bias.to_f32().into_owned());
        let bias = int32(&[units], &bias, &[input.0 * scale])?;
        let bias = typed_constant(out, "bias", bias, input.0 * scale);
        let output = self.range(y).asymmetric();
        let ty = graph
            .get(y)
            .map(|value| value.ty.clone())
            .unwrap_or_else(|| ValueType::unranked(DType::F32));
        let ty = ValueType {
            dtype: DType::I8,
            quantization: Some(Quantization::per_tensor(output.0, output.1)),
            ..ty
        };
        let quantized = out.add_value(format!("{}/int8", node.name), ty);
        let op = FullyConnected { asymmetric_inputs: false, ..*op };
        let inputs = vec![Some(x), Some(weights), Some(bias)];
        out.add_node(node.name.clone(), Op::FullyConnected(op), inputs, vec![Some(quantized)]);
        self.dequantize(out, quantized, output, y);
        Ok(())
    }

    fn recurrent(
        &mut self,
        graph: &Graph,
        out: &mut Graph,
        node: &Node,
        op: &Recurrent,
    ) -> Result<()> {
        let plain = |out: &mut Graph, pass: &mut Self, reason: &str| {
            pass.warnings
                .push(format!("{}: {reason}: the layer is not quantized to int8", node.name));
            out.nodes.push(node.clone());
        };
        if !is_eligible(op, node) {
            plain(out, self, "no integer kernel computes it");
            return Ok(());
        }
        let Some(direction) = op.directions.first() else { return Ok(()) };
        let ranges = lstm_ranges(op, node, self.runs)?;
        if ranges.cell.is_nan() || ranges.cell > WIDEST_CELL {
            plain(
                out,
                self,
                &format!(
                    "its cell state reaches {}, an int16 one holds {WIDEST_CELL}",
                    ranges.cell
                ),
            );
            return Ok(());
        }
        let get = |list: &[Option<ValueId>], slot: usize| list.get(slot).copied().flatten();
        let Some(x) = get(&node.inputs, Recurrent::X) else { return Ok(()) };
        let (x, input) = self.quantize(out, x);
        let scales = scales(&ranges, input, direction.weights.projection.is_some());
        let weights = integer_weights(&direction.weights, op, &scales)?;
        let mut direction = direction.clone();
        direction.weights = Arc::new(weights);
        let (h_scale, h_zero) = scales.output_state;
        let h_scale = (h_scale, i64::from(h_zero));
        let c_scale = (f32::exp2(scales.cell_scale_log2 as f32), 0);
        let h = self.state(
            graph,
            out,
            node,
            (Recurrent::h0(0), Recurrent::h_n(0)),
            DType::I8,
            h_scale,
        )?;
        let c = self.state(
            graph,
            out,
            node,
            (Recurrent::c0(0), Recurrent::c_n(0)),
            DType::I16,
            c_scale,
        )?;
        let y = get(&node.outputs, Recurrent::y(0));
        let quantized_y = y.map(|y| {
            let shape = graph.get(y).and_then(|value| value.ty.shape.clone());
            let quantization = Some(Quantization::per_tensor(h_scale.0, h_scale.1));
            out.add_value(
                format!("{}/int8", node.name),
                ValueType { dtype: DType::I8, shape, quantization },
            )
        });
        let op = Recurrent {
            directions: vec![direction],
            arithmetic: Arithmetic::Integer(scales),
            ..op.clone()
        };
        let outputs = vec![quantized_y, None, h.after, c.after];
        out.add_node(
            node.name.clone(),
            Op::Recurrent(op),
            vec![Some(x), None, None, h.before, c.before],
            outputs,
        );
        if let (Some(quantized), Some(y)) = (quantized_y, y) {
            self.dequantize(out, quantized, h_scale, y);
        }
        for state in [h, c] {
            if let (Some(after), Some(float)) = (state.after, state.float) {
                let name = out.get(float).map(|value| value.name.clone()).unwrap_or_default();
                out.add_node(name, Op::Dequantize, vec![Some(after)], vec![Some(float)]);
            }
        }
        Ok(())
    }

    /// The quantized form of a state: a state of the graph becomes a quantized one, any other value
    /// is quantized before and dequantized after the layer.
    fn state(
        &mut self,
        graph: &Graph,
        out: &mut Graph,
        node: &Node,
        (before, after): (usize, usize),
        dtype: DType,
        scale: (f32, i64),
    ) -> Result<State> {
        let initial = node.input(before);
        let last = node.output(after);
        let quantization = Some(Quantization::per_tensor(scale.0, scale.1));
        let name = format!("{}/state", node.name);
        let own = graph.states.iter().position(|state| {
            Some(state.value) == initial
                && Some(state.next) == last
                && readers(graph, state.value) == 1
                && state.reset == Reset::ZERO
        });
        let shape = initial
            .or(last)
            .and_then(|value| graph.get(value))
            .and_then(|value| value.ty.shape.clone());
        let ty = ValueType { dtype, shape, quantization };
        if let (Some(own), Some(value), Some(next)) = (own, initial, last) {
            let quantized_next = out.add_value(name, ty.clone());
            if let Some(entry) = out.get_mut(value) {
                entry.ty = ty;
            }
            if let Some(state) = out.states.get_mut(own) {
                (state.next, state.reset) = (quantized_next, Reset::Fill(scale.1));
            }
            // Somebody else reads the final state: as a float, under its own name.
            let float = (readers(graph, next) > 1).then_some(next);
            return Ok(State { before: Some(value), after: Some(quantized_next), float });
        }
        let before = initial.map(|value| quantize_node(out, value, dtype, scale));
        let after = last.map(|_| out.add_value(name, ty));
        Ok(State { before, after, float: last })
    }
}

struct State {
    before: Option<ValueId>,
    after: Option<ValueId>,
    /// The float value that is to be made of the final state.
    float: Option<ValueId>,
}

/// How often a value is read: by nodes, as an output, as a state's next value.
fn readers(graph: &Graph, value: ValueId) -> usize {
    let by_nodes = graph
        .nodes
        .iter()
        .flat_map(|node| node.inputs.iter().flatten())
        .filter(|input| **input == value)
        .count();
    let by_outputs = graph.outputs.iter().filter(|port| port.value == value).count();
    let by_states = graph.states.iter().filter(|state| state.next == value).count();
    by_nodes + by_outputs + by_states
}

fn quantize_node(out: &mut Graph, value: ValueId, dtype: DType, scale: (f32, i64)) -> ValueId {
    let (name, shape) = match out.get(value) {
        Some(entry) => (entry.name.clone(), entry.ty.shape.clone()),
        None => (String::new(), None),
    };
    let quantization = Some(Quantization::per_tensor(scale.0, scale.1));
    let quantized =
        out.add_value(format!("{name}/{dtype}"), ValueType { dtype, shape, quantization });
    out.add_node(name, Op::Quantize, vec![Some(value)], vec![Some(quantized)]);
    quantized
}

fn typed_constant(out: &mut Graph, name: &str, tensor: Tensor, scale: f32) -> ValueId {
    let value = out.add_constant(name, tensor);
    if let Some(entry) = out.values.last_mut() {
        entry.ty.quantization = Some(Quantization::per_tensor(scale, 0));
    }
    value
}

/// Biases as int32, one scale for each equal run.
fn int32(shape: &[usize], bias: &[f32], scales: &[f32]) -> Result<Tensor> {
    let run = (bias.len() / scales.len().max(1)).max(1);
    let rounded = bias.chunks(run).zip(scales).flat_map(|(block, scale)| {
        let scale = f64::from(*scale);
        block.iter().map(move |b| {
            (f64::from(*b) / scale).round().clamp(i32::MIN.into(), i32::MAX.into()) as i32
        })
    });
    Tensor::from_vec(shape, rounded.collect())
}

/// Int16 with one scale for each equal run.
fn int16_vector(vector: &Matrix, blocks: usize) -> Result<Matrix> {
    let floats = vector.to_f32();
    let (mut data, mut scales) = (Vec::with_capacity(floats.len()), Vec::new());
    for block in floats.chunks((floats.len() / blocks.max(1)).max(1)) {
        let largest = block.iter().fold(0.0f32, |most, w| most.max(w.abs()));
        let scale = if largest > 0.0 { largest / 32767.0 } else { 1.0 };
        data.extend(block.iter().map(|w| (w / scale).round().clamp(-32767.0, 32767.0) as i16));
        scales.push(scale);
    }
    Ok(Matrix { data: Tensor::from_vec(vector.data.shape(), data)?, scales })
}

/// The scales of a layer from the ranges that its samples reached.
fn scales(ranges: &LstmRanges, input: (f32, i64), projected: bool) -> IntegerScales {
    let narrow = |(scale, zero): (f32, i64)| (scale, zero as i32);
    let output_state = narrow(ranges.output.asymmetric());
    // The smallest power of two whose 32767 steps hold the range; from 2^-15 on the kernel has a
    // hyperbolic tangent.
    let log2 = (ranges.cell / 32767.0).max(f32::MIN_POSITIVE).log2().ceil() as i32;
    let gate = |gate: usize| {
        let largest = ranges.gates.map_or(0.0, |gates| gates[gate]);
        if ranges.gates.is_some() && largest > 0.0 { largest / 32767.0 } else { f32::exp2(-12.0) }
    };
    IntegerScales {
        input: narrow(input),
        output_state,
        cell_scale_log2: log2.clamp(-15, -9),
        gates: [gate(0), gate(1), gate(2), gate(3)],
        hidden: if projected { narrow(ranges.hidden.asymmetric()) } else { output_state },
    }
}

fn integer_weights(
    weights: &CellWeights,
    op: &Recurrent,
    scales: &IntegerScales,
) -> Result<CellWeights> {
    let gates = op.cell.gate_blocks();
    let input = int8_matrix(&weights.input, gates)?;
    let layer_norm =
        weights.layer_norm.as_ref().map(|matrix| int16_vector(matrix, gates)).transpose()?;
    let bias_scales: Vec<f32> = match &layer_norm {
        Some(coefficients) => {
            coefficients.scales.iter().map(|scale| scale * f32::exp2(-10.0)).collect()
        }
        None => input.scales.iter().map(|scale| scale * scales.input.0).collect(),
    };
    let rows = weights.input.rows();
    let bias =
        weights.bias.as_ref().map_or_else(|| vec![0.0; rows], |bias| bias.to_f32().into_owned());
    let projection = match &weights.projection {
        Some(projection) => {
            let weight = int8_matrix(&projection.weight, 1)?;
            let scale = weight.scales.first().copied().unwrap_or(1.0) * scales.hidden.0;
            let bias = projection
                .bias
                .as_ref()
                .map(|bias| int32(bias.shape(), &bias.to_f32(), &[scale]))
                .transpose()?;
            Some(Projection { weight, bias })
        }
        None => None,
    };
    Ok(CellWeights {
        recurrent: int8_matrix(&weights.recurrent, gates)?,
        auxiliary: None,
        bias: Some(int32(&[rows], &bias, &bias_scales)?),
        recurrent_bias: None,
        peephole: weights
            .peephole
            .as_ref()
            .map(|matrix| int16_vector(matrix, gates - 1))
            .transpose()?,
        layer_norm,
        projection,
        input,
    })
}
