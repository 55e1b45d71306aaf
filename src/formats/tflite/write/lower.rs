//! Rewrites what TensorFlow Lite has no operator for with the ops that it has.

use std::collections::HashMap;
use std::sync::Arc;

use super::build::Build;
use super::fits::fits;
use super::sizes::Sizes;
use super::step_loop;
use super::window;
use crate::error::{Error, Place, Result};
use crate::graph::op::{
    Activation, Binary, BinaryFunction, Concat, FullyConnected, MatMul, Softmax, Unary, While,
};
use crate::graph::recurrent::{Arithmetic, Direction, Layout, Matrix, Merge, Recurrent, Source};
use crate::graph::{Graph, Node, Op, ValueId, ValueType};
use crate::tensor::{DType, Tensor};

/// Rewrites a graph; nodes whose results are known or unwanted are left out.
pub(super) fn lower(graph: &Graph, sizes: &Sizes) -> Result<Graph> {
    let mut out = graph.clone();
    out.nodes.clear();
    let mut lower = Lower { sizes, same: HashMap::new() };
    for (position, node) in graph.nodes.iter().enumerate() {
        if sizes.is_needed(position) {
            let mut node = node.clone();
            for input in node.inputs.iter_mut().flatten() {
                lower.keep_known(&mut out, *input);
                *input = lower.value(*input);
            }
            let place = format!("node {position} ({}, {})", node.name, node.op.name());
            lower.node(&mut out, node).within(|| place)?;
        }
    }
    let ends = out
        .outputs
        .iter_mut()
        .map(|port| &mut port.value)
        .chain(out.states.iter_mut().map(|state| &mut state.next));
    let mut ends: Vec<&mut ValueId> = ends.collect();
    for end in &mut ends {
        **end = lower.value(**end);
    }
    let ends: Vec<ValueId> = ends.into_iter().map(|end| *end).collect();
    for end in ends {
        lower.keep_known(&mut out, end);
    }
    Ok(out)
}

struct Lower<'s> {
    sizes: &'s Sizes,
    /// Values that are the same as another one.
    same: HashMap<ValueId, ValueId>,
}

impl Lower<'_> {
    fn value(&self, value: ValueId) -> ValueId {
        self.same.get(&value).copied().unwrap_or(value)
    }

    /// Makes a constant of a value that is known, since nothing computes it any more.
    fn keep_known(&self, graph: &mut Graph, value: ValueId) {
        let known = self.sizes.known(value).cloned();
        if let (Some(known), Some(entry)) = (known, graph.get_mut(value))
            && entry.constant.is_none()
        {
            let quantization = entry.ty.quantization.take();
            entry.ty = ValueType { quantization, ..ValueType::fixed(known.dtype(), known.shape()) };
            entry.constant = Some(known);
        }
    }

    fn node(&mut self, graph: &mut Graph, mut node: Node) -> Result<()> {
        match node.op.clone() {
            Op::Recurrent(op) => return self.recurrent(graph, node, &op),
            Op::Activation(activation) => return self.activation(graph, node, activation),
            Op::MatMul(op) => {
                if let Some(dense) = dense(graph, &node, op)? {
                    node = dense;
                }
            }
            Op::Softmax(op) if op.log && op.beta != 1.0 => {
                let mut build = Build { graph, name: node.name.clone() };
                let beta = build.number(op.beta);
                let x = operand(&node, 0)?;
                let scaled = build.mul(x, beta);
                node.inputs = vec![Some(scaled)];
                node.op = Op::Softmax(Softmax { beta: 1.0, log: true });
            }
            Op::Binary(mut op) => {
                let has_option = matches!(
                    op.function,
                    BinaryFunction::Add
                        | BinaryFunction::Sub
                        | BinaryFunction::Mul
                        | BinaryFunction::Div
                );
                if !is_fusable(op.activation, has_option) {
                    let activation = std::mem::replace(&mut op.activation, Activation::Linear);
                    node.op = Op::Binary(op);
                    return self.then(graph, node, activation);
                }
            }
            Op::FullyConnected(mut op) => {
                if !is_fusable(op.activation, true) {
                    let activation = std::mem::replace(&mut op.activation, Activation::Linear);
                    node.op = Op::FullyConnected(op);
                    return self.then(graph, node, activation);
                }
            }
            Op::Conv2d(mut op) => {
                if !is_fusable(op.activation, true) {
                    let activation = std::mem::replace(&mut op.activation, Activation::Linear);
                    window::lower_conv(graph, &mut node, op)?;
                    return self.then(graph, node, activation);
                }
                window::lower_conv(graph, &mut node, op)?;
            }
            Op::Pool2d(mut op) => {
                if !is_fusable(op.activation, true) {
                    let activation = std::mem::replace(&mut op.activation, Activation::Linear);
                    node.op = Op::Pool2d(op);
                    window::lower_pool(graph, &mut node, op)?;
                    return self.then(graph, node, activation);
                }
                window::lower_pool(graph, &mut node, op)?;
            }
            Op::Concat(mut op) => {
                if !is_fusable(op.activation, false) {
                    let activation = std::mem::replace(&mut op.activation, Activation::Linear);
                    node.op = Op::Concat(op);
                    return self.then(graph, node, activation);
                }
            }
            Op::While(op) => {
                let shapes = self.sizes.loop_variables(&node.inputs, &node.outputs);
                // The variables of a loop that was made here have no sizes yet; the second round
                // sees to it.
                if let Ok(shapes) = shapes {
                    let While { condition, body } = *op;
                    let (condition, body) = (Arc::new(condition), Arc::new(body));
                    let condition = lower(&condition, &Sizes::new(&condition, &shapes)?)
                        .within(|| "condition")?;
                    let body = lower(&body, &Sizes::new(&body, &shapes)?).within(|| "body")?;
                    node.op = Op::While(Box::new(While { condition, body }));
                }
            }
            Op::Svdf(_)
            | Op::Unary(_)
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
            | Op::Reverse
            | Op::ReverseSequence(_)
            | Op::SetItem
            | Op::Custom(_) => {}
        }
        graph.nodes.push(node);
        Ok(())
    }

    /// The node, and an activation of its result as an operator of its own.
    fn then(&mut self, graph: &mut Graph, mut node: Node, activation: Activation) -> Result<()> {
        let result = result(&node, 0)?;
        let ty = graph
            .get(result)
            .map(|value| value.ty.clone())
            .unwrap_or_else(|| ValueType::unranked(DType::F32));
        let sum = graph.add_value(format!("{}/sum", node.name), ty);
        let name = node.name.clone();
        node.outputs = vec![Some(sum)];
        graph.nodes.push(node);
        let node = Node {
            name,
            op: Op::Activation(activation),
            inputs: vec![Some(sum)],
            outputs: vec![Some(result)],
        };
        self.activation(graph, node, activation)
    }

    fn activation(&mut self, graph: &mut Graph, node: Node, activation: Activation) -> Result<()> {
        let (x, y) = (operand(&node, 0)?, result(&node, 0)?);
        let mut build = Build { graph, name: node.name.clone() };
        let (last, a, b) = match activation {
            Activation::Linear => {
                self.same.insert(y, x);
                return Ok(());
            }
            Activation::SignBit => {
                let zero = build.number(0.0);
                let negative = build.less(x, zero);
                graph.add_node(
                    node.name,
                    Op::Cast(DType::F32),
                    vec![Some(negative)],
                    vec![Some(y)],
                );
                return Ok(());
            }
            Activation::HardSigmoid { alpha, beta } if alpha != 1.0 || beta != 0.0 => {
                let (alpha, beta) = (build.number(alpha), build.number(beta));
                let scaled = build.mul(x, alpha);
                let line = build.add(scaled, beta);
                let line = build.at_least(line, 0.0);
                (BinaryFunction::Minimum, line, build.number(1.0))
            }
            Activation::Elu { alpha } if alpha != 1.0 => {
                let (positive, negative) = elu(&mut build, x, alpha);
                (BinaryFunction::Add, positive, negative)
            }
            Activation::Selu => {
                // The constants of the paper.
                let (positive, negative) = elu(&mut build, x, 1.673_263_2);
                let sum = build.add(positive, negative);
                (BinaryFunction::Mul, sum, build.number(1.050_701))
            }
            Activation::Softplus => {
                // max(x, 0) + ln(1 + e^−|x|), which no x overflows.
                let magnitude = build.unary(x, Unary::Abs);
                let negative = build.unary(magnitude, Unary::Neg);
                let small = build.unary(negative, Unary::Exp);
                let one = build.number(1.0);
                let sum = build.add(small, one);
                let log = build.unary(sum, Unary::Log);
                (BinaryFunction::Add, build.at_least(x, 0.0), log)
            }
            Activation::Softsign => {
                let magnitude = build.unary(x, Unary::Abs);
                let one = build.number(1.0);
                (BinaryFunction::Div, x, build.add(magnitude, one))
            }
            Activation::Swish => (BinaryFunction::Mul, x, build.activation(x, Activation::Sigmoid)),
            Activation::Relu
            | Activation::ReluN1To1
            | Activation::Relu6
            | Activation::Tanh
            | Activation::Sigmoid
            | Activation::HardSigmoid { .. }
            | Activation::Elu { .. }
            | Activation::LeakyRelu { .. }
            | Activation::Gelu { .. }
            | Activation::HardSwish
            | Activation::Exponential => {
                graph.nodes.push(node);
                return Ok(());
            }
        };
        let op = Op::Binary(Binary { function: last, activation: Activation::Linear });
        graph.add_node(node.name, op, vec![Some(a), Some(b)], vec![Some(y)]);
        Ok(())
    }

    fn recurrent(&mut self, graph: &mut Graph, node: Node, op: &Recurrent) -> Result<()> {
        let Err(reason) = fits(op, &node) else {
            graph.nodes.push(node);
            return Ok(());
        };
        match op.directions.as_slice() {
            [only] if only.source == Source::Auxiliary => {
                self.auxiliary_as_input(graph, node, op, only)
            }
            [only] if only.weights.auxiliary.is_some() && op.arithmetic == Arithmetic::Float => {
                self.joined_inputs(graph, node, op, only)
            }
            [only] if only.reverse && fits(&with_direction(op, &forward(only)), &node).is_ok() => {
                self.reversed(graph, node, op, only)
            }
            [_] => step_loop::rewrite(graph, self.sizes, &node, op).map_err(|error| {
                Error::new(
                    error.kind(),
                    format!("{reason}: no fused operator; {}", error.message()),
                )
            }),
            _ => self.separate(graph, node, op),
        }
    }

    /// The auxiliary input takes the place of the input.
    fn auxiliary_as_input(
        &mut self,
        graph: &mut Graph,
        mut node: Node,
        op: &Recurrent,
        only: &Direction,
    ) -> Result<()> {
        node.inputs[Recurrent::X] = Some(operand(&node, Recurrent::AUXILIARY)?);
        node.inputs[Recurrent::AUXILIARY] = None;
        let op = with_direction(op, &Direction { source: Source::X, ..only.clone() });
        node.op = Op::Recurrent(op.clone());
        self.recurrent(graph, node, &op)
    }

    /// `W x + A a` as one product of `[W A]` and x joined with a.
    fn joined_inputs(
        &mut self,
        graph: &mut Graph,
        mut node: Node,
        op: &Recurrent,
        only: &Direction,
    ) -> Result<()> {
        let Some(auxiliary) = &only.weights.auxiliary else {
            return Err(Error::internal("no auxiliary weights"));
        };
        let (x, a) = (operand(&node, Recurrent::X)?, operand(&node, Recurrent::AUXILIARY)?);
        let mut build = Build { graph, name: node.name.clone() };
        let joined = build.op(
            Op::Concat(Concat { axis: 2, activation: Activation::Linear }),
            &[x, a],
            DType::F32,
        );
        let mut weights = (*only.weights).clone();
        weights.input = beside(&weights.input, auxiliary)?;
        weights.auxiliary = None;
        node.inputs[Recurrent::X] = Some(joined);
        node.inputs[Recurrent::AUXILIARY] = None;
        let op = with_direction(op, &Direction { weights: Arc::new(weights), ..only.clone() });
        node.op = Op::Recurrent(op.clone());
        self.recurrent(graph, node, &op)
    }

    /// A backward direction as the forward one on the reversed sequence, its outputs reversed
    /// again.
    fn reversed(
        &mut self,
        graph: &mut Graph,
        mut node: Node,
        op: &Recurrent,
        only: &Direction,
    ) -> Result<()> {
        let x = operand(&node, Recurrent::X)?;
        let dtype = graph.get(x).map_or(DType::F32, |value| value.ty.dtype);
        let mut build = Build { graph, name: node.name.clone() };
        let axis = build.integers(&[if op.layout == Layout::TimeMajor { 0 } else { 1 }])?;
        let backwards = build.op(Op::Reverse, &[x, axis], dtype);
        copy_type(graph, x, backwards);
        node.inputs[Recurrent::X] = Some(backwards);
        let y = node.output(Recurrent::y(0));
        let name = node.name.clone();
        let reversed = y.map(|y| {
            let ty =
                graph.get(y).map_or_else(|| ValueType::unranked(dtype), |value| value.ty.clone());
            graph.add_value(format!("{name}/backwards"), ty)
        });
        node.outputs[Recurrent::y(0)] = reversed;
        node.op = Op::Recurrent(with_direction(op, &forward(only)));
        graph.nodes.push(node);
        if let (Some(y), Some(reversed)) = (y, reversed) {
            graph.add_node(name, Op::Reverse, vec![Some(reversed), Some(axis)], vec![Some(y)]);
        }
        Ok(())
    }

    /// Each direction as an op of its own, outputs joined afterwards.
    fn separate(&mut self, graph: &mut Graph, node: Node, op: &Recurrent) -> Result<()> {
        let mut parts = Vec::new();
        for (d, direction) in op.directions.iter().enumerate() {
            let get = |list: &[Option<ValueId>], slot: usize| list.get(slot).copied().flatten();
            let mut y = get(&node.outputs, Recurrent::y(d));
            if op.merge == Merge::Concat && get(&node.outputs, Recurrent::y(0)).is_some() {
                let dtype = get(&node.outputs, 0)
                    .and_then(|y| graph.get(y))
                    .map_or(DType::F32, |value| value.ty.dtype);
                let part = graph
                    .add_value(format!("{}/direction{d}", node.name), ValueType::unranked(dtype));
                y = Some(part);
                parts.push(Some(part));
            }
            let single = Recurrent { merge: Merge::Separate, ..with_direction(op, direction) };
            let has_auxiliary =
                direction.source == Source::Auxiliary || direction.weights.auxiliary.is_some();
            let inputs = vec![
                get(&node.inputs, Recurrent::X),
                get(&node.inputs, Recurrent::MASK),
                get(&node.inputs, Recurrent::AUXILIARY).filter(|_| has_auxiliary),
                get(&node.inputs, Recurrent::h0(d)),
                get(&node.inputs, Recurrent::c0(d)),
            ];
            let outputs = vec![
                y,
                None,
                get(&node.outputs, Recurrent::h_n(d)),
                get(&node.outputs, Recurrent::c_n(d)),
            ];
            let name = format!("{}/direction{d}", node.name);
            self.recurrent(
                graph,
                Node { name, op: Op::Recurrent(single.clone()), inputs, outputs },
                &single,
            )?;
        }
        if !parts.is_empty() {
            let join = Op::Concat(Concat { axis: 2, activation: Activation::Linear });
            graph.add_node(node.name.clone(), join, parts, vec![Some(result(&node, 0)?)]);
        }
        Ok(())
    }
}

fn operand(node: &Node, slot: usize) -> Result<ValueId> {
    node.input(slot).ok_or_else(|| Error::graph(format!("input {slot} is absent")))
}

fn result(node: &Node, slot: usize) -> Result<ValueId> {
    node.output(slot).ok_or_else(|| Error::graph(format!("output {slot} is absent")))
}

fn copy_type(graph: &mut Graph, from: ValueId, to: ValueId) {
    let ty = graph.get(from).map(|value| value.ty.clone());
    if let (Some(ty), Some(entry)) = (ty, graph.get_mut(to)) {
        entry.ty = ty;
    }
}

fn with_direction(op: &Recurrent, direction: &Direction) -> Recurrent {
    Recurrent { directions: vec![direction.clone()], ..op.clone() }
}

fn forward(direction: &Direction) -> Direction {
    Direction { reverse: false, ..direction.clone() }
}

/// Whether a kernel applies the activation to its result. TANH is a number of the enumeration, and
/// only recurrent kernels read it.
fn is_fusable(activation: Activation, has_option: bool) -> bool {
    match activation {
        Activation::Linear => true,
        Activation::Relu | Activation::ReluN1To1 | Activation::Relu6 => has_option,
        Activation::Tanh
        | Activation::Sigmoid
        | Activation::HardSigmoid { .. }
        | Activation::SignBit
        | Activation::Elu { .. }
        | Activation::LeakyRelu { .. }
        | Activation::Selu
        | Activation::Softplus
        | Activation::Softsign
        | Activation::Swish
        | Activation::Gelu { .. }
        | Activation::HardSwish
        | Activation::Exponential => false,
    }
}

/// The two parts of an ELU: max(x, 0) and alpha·(e^min(x, 0) − 1).
fn elu(build: &mut Build<'_>, x: ValueId, alpha: f32) -> (ValueId, ValueId) {
    let low = build.at_most(x, 0.0);
    let exponential = build.unary(low, Unary::Exp);
    let (one, alpha) = (build.number(1.0), build.number(alpha));
    let shifted = build.sub(exponential, one);
    let negative = build.mul(shifted, alpha);
    (build.at_least(x, 0.0), negative)
}

/// Two matrices side by side, as floats.
fn beside(left: &Matrix, right: &Matrix) -> Result<Matrix> {
    let (rows, a, b) = (left.rows(), left.columns(), right.columns());
    let (x, y) = (left.to_f32(), right.to_f32());
    let mut data = Vec::with_capacity(x.len() + y.len());
    for row in 0..rows {
        let outside = || Error::internal("a row outside its matrix");
        data.extend_from_slice(x.get(row * a..(row + 1) * a).ok_or_else(outside)?);
        data.extend_from_slice(y.get(row * b..(row + 1) * b).ok_or_else(outside)?);
    }
    Ok(Matrix::float(Tensor::from_vec(&[rows, a + b], data)?))
}

/// A product with a constant matrix as a fully connected layer, whose kernels are the fast ones.
fn dense(graph: &mut Graph, node: &Node, op: MatMul) -> Result<Option<Node>> {
    let weights = operand(node, 1)?;
    let Some(entry) = graph.get(weights) else { return Ok(None) };
    let Some(constant) = &entry.constant else { return Ok(None) };
    let &[rows, columns] = constant.shape() else { return Ok(None) };
    let (name, quantization) = (entry.name.clone(), entry.ty.quantization.clone());
    let one_scale =
        quantization.as_ref().is_none_or(|quantization| quantization.as_per_tensor().is_some());
    if op.transpose_a || rows == 0 || columns == 0 || !one_scale {
        return Ok(None);
    }
    macro_rules! turned {
        ($ty:ty) => {{
            let data = constant.as_slice::<$ty>()?;
            let turned = (0..columns)
                .flat_map(|column| data.iter().skip(column).step_by(columns).copied())
                .collect();
            Tensor::from_vec(&[columns, rows], turned)?
        }};
    }
    let transposed = match constant.dtype() {
        _ if op.transpose_b => constant.clone(),
        DType::F32 => turned!(f32),
        DType::I8 => turned!(i8),
        _ => return Ok(None),
    };
    let weights = graph.add_constant(name, transposed);
    if let Some(entry) = graph.values.last_mut() {
        entry.ty.quantization = quantization;
    }
    let op = FullyConnected {
        activation: Activation::Linear,
        keep_leading_axes: true,
        asymmetric_inputs: op.asymmetric_inputs,
    };
    Ok(Some(Node {
        op: Op::FullyConnected(op),
        inputs: vec![node.input(0), Some(weights), None],
        ..node.clone()
    }))
}
