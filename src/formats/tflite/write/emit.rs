//! One graph to one subgraph: tensors of values, the order of the operators, states in variable tensors.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::opcode;
use super::file::{Code, File, OperatorRecord, Options, SubGraph, TensorRecord, bytes};
use super::sizes::Sizes;
use super::{plain, recurrent};
use crate::error::{Error, Place, Result};
use crate::graph::{Graph, Node, Op, ValueId, ValueType};
use crate::tensor::{DType, Quantization, Tensor};

/// Writes the main graph as subgraph 0, and the subgraphs of its loops behind it.
pub(super) fn main(file: &mut File, graph: &Graph, sizes: &Sizes, warnings: &mut Vec<String>) -> Result<()> {
    file.subgraphs.push(SubGraph::default());
    let subgraph = Emit::new(file, graph, sizes, warnings, false).graph()?;
    if let Some(first) = file.subgraphs.first_mut() {
        *first = subgraph;
    }
    Ok(())
}

/// Writes a loop's graph and returns the index of its subgraph.
fn nested(file: &mut File, graph: &Graph, inputs: &[super::Shape], warnings: &mut Vec<String>) -> Result<i32> {
    let graph = Arc::new(graph.clone());
    let sizes = Sizes::new(&graph, inputs)?;
    let subgraph = Emit::new(file, &graph, &sizes, warnings, true).graph()?;
    file.subgraphs.push(subgraph);
    Ok(file.subgraphs.len() as i32 - 1)
}

/// A graph on its way into a subgraph.
pub(super) struct Emit<'e> {
    pub(super) file: &'e mut File,
    pub(super) graph: &'e Graph,
    pub(super) sizes: &'e Sizes,
    pub(super) warnings: &'e mut Vec<String>,
    subgraph: SubGraph,
    /// The tensor that holds a value at this point of the order.
    tensors: HashMap<ValueId, i32>,
    /// The position of the last node that reads a value; `usize::MAX` when it is an output.
    last_read: HashMap<ValueId, usize>,
    /// The graph of a loop's condition or body.
    nested: bool,
    /// The node that is being written.
    position: usize,
}

impl<'e> Emit<'e> {
    fn new(
        file: &'e mut File,
        graph: &'e Graph,
        sizes: &'e Sizes,
        warnings: &'e mut Vec<String>,
        nested: bool,
    ) -> Self {
        let mut last_read = HashMap::new();
        for (position, node) in graph.nodes.iter().enumerate().filter(|(position, _)| sizes.is_needed(*position)) {
            last_read.extend(node.inputs.iter().flatten().map(|value| (*value, position)));
        }
        last_read.extend(graph.outputs.iter().map(|port| (port.value, usize::MAX)));
        Emit {
            file,
            graph,
            sizes,
            warnings,
            subgraph: SubGraph { name: graph.name.clone(), ..SubGraph::default() },
            tensors: HashMap::new(),
            last_read,
            nested,
            position: 0,
        }
    }

    fn graph(mut self) -> Result<SubGraph> {
        for port in &self.graph.inputs {
            let tensor = self.value_tensor(port.value, &port.name)?;
            self.tensors.insert(port.value, tensor);
            self.subgraph.inputs.push(tensor);
        }
        let states: Vec<i32> = self.graph.states.iter().map(|state| self.state(state)).collect::<Result<_>>()?;
        for (position, node) in self.graph.nodes.iter().enumerate() {
            if self.sizes.is_needed(position) {
                self.position = position;
                self.node(node).within(|| format!("node {position} ({}, {})", node.name, node.op.name()))?;
            }
        }
        // Outputs are read before the states move on.
        let mut taken = self.subgraph.inputs.clone();
        taken.extend(&states);
        for (slot, port) in self.graph.outputs.iter().enumerate() {
            let passed = self.graph.inputs.get(slot).is_some_and(|input| input.value == port.value);
            // What a loop only passes on is not copied at every round.
            let tensor = if self.nested && passed {
                self.tensor(port.value)?
            } else {
                self.output(port.value, &port.name, &taken)?
            };
            taken.push(tensor);
            self.subgraph.outputs.push(tensor);
        }
        self.write_states(&states)?;
        Ok(self.subgraph)
    }

    /// The variable tensor of a state.
    fn state(&mut self, state: &crate::graph::State) -> Result<i32> {
        let ty = self.ty(state.value)?.clone();
        let zero = ty.quantization.as_ref().and_then(Quantization::as_per_tensor).map_or(0, |(_, zero)| zero);
        if state.reset != zero {
            let (name, reset) = (&state.name, state.reset);
            return Err(Error::unsupported(format!(
                "state {name:?} is reset to {reset}: a variable tensor is reset to {zero}"
            )));
        }
        let shape = self.sizes.fixed(state.value, "a state")?;
        let tensor = self.variable(&state.name, &ty, &shape);
        self.tensors.insert(state.value, tensor);
        Ok(tensor)
    }

    /// Copies what the states become into their tensors, for those that no operator has updated in place.
    fn write_states(&mut self, states: &[i32]) -> Result<()> {
        let mut copies = Vec::new();
        for (state, tensor) in self.graph.states.iter().zip(states) {
            let mut source = self.tensor(state.next)?;
            if source == *tensor {
                continue;
            }
            if states.contains(&source) {
                // States that change places go through tensors of their own.
                source = self.copy(source, None)?;
            }
            copies.push((source, *tensor));
        }
        for (source, tensor) in copies {
            self.copy(source, Some(tensor))?;
        }
        Ok(())
    }

    /// A tensor for an output of the graph: the value's own, or a copy when that has another role already.
    fn output(&mut self, value: ValueId, name: &str, taken: &[i32]) -> Result<i32> {
        let own = self.tensor(value)?;
        let record = self.subgraph.tensors.get_mut(own.unsigned_abs() as usize);
        let record = record.ok_or_else(|| Error::internal("a tensor is missing"))?;
        if !taken.contains(&own) && !record.variable && record.buffer == 0 {
            name.clone_into(&mut record.name);
            return Ok(own);
        }
        let mut record = record.clone();
        (record.name, record.variable, record.buffer) = (name.to_owned(), false, 0);
        let copy = self.add_tensor(record);
        if self.sizes.shape(value).is_some_and(|shape| !shape.is_empty()) {
            return self.copy(own, Some(copy));
        }
        let shape = self.integers("shape", &[0], &[]);
        self.operator(opcode::RESHAPE, 1, &[own, shape], &[copy], Options::default());
        Ok(copy)
    }

    /// Copies a tensor of at least one axis, into `to` or a new tensor. Gathering every index of the first axis is the
    /// operator for it that exists for every type and that no delegate takes away from the variable tensors it may write to.
    fn copy(&mut self, from: i32, to: Option<i32>) -> Result<i32> {
        let record = self.subgraph.tensors.get(from.unsigned_abs() as usize).cloned();
        let mut record = record.ok_or_else(|| Error::internal("a tensor is missing"))?;
        let open = record.signature.first() == Some(&-1);
        let count = record.shape.first().copied().unwrap_or(1);
        (record.variable, record.buffer) = (false, 0);
        let to = to.unwrap_or_else(|| self.add_tensor(record));
        if open {
            // As many copies of each axis as one.
            let rank = self.subgraph.tensors.get(from.unsigned_abs() as usize).map_or(1, |record| record.shape.len());
            let ones = self.integers("once", &[rank], &vec![1; rank]);
            self.operator(opcode::TILE, 1, &[from, ones], &[to], Options::default());
            return Ok(to);
        }
        let all: Vec<i32> = (0..count).collect();
        let all = self.integers("all", &[all.len()], &all);
        self.operator(opcode::GATHER, 1, &[from, all], &[to], plain::gather_options(0, 0));
        Ok(to)
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        match &node.op {
            Op::Recurrent(op) => recurrent::recurrent(self, node, op),
            Op::Svdf(op) => recurrent::svdf(self, node, op),
            Op::While(op) => {
                let shapes = self.sizes.loop_variables(&node.inputs, &node.outputs)?;
                let condition = nested(self.file, &op.condition, &shapes, self.warnings).within(|| "condition")?;
                let body = nested(self.file, &op.body, &shapes, self.warnings).within(|| "body")?;
                let inputs = self.operands(node)?;
                let outputs = self.results(node)?;
                self.operator(opcode::WHILE, 1, &inputs, &outputs, plain::while_options(condition, body));
                Ok(())
            }
            _ => plain::plain(self, node),
        }
    }

    /// What is known of a value.
    pub(super) fn ty(&self, value: ValueId) -> Result<&'e ValueType> {
        self.graph.get(value).map(|value| &value.ty).ok_or_else(|| Error::internal("a value is missing"))
    }

    /// The tensor that holds a value now; constants get theirs when they are first read.
    pub(super) fn tensor(&mut self, value: ValueId) -> Result<i32> {
        if let Some(tensor) = self.tensors.get(&value) {
            return Ok(*tensor);
        }
        let constant = self.graph.constant(value).or_else(|| self.sizes.known(value)).cloned();
        let constant = constant.ok_or_else(|| Error::internal("a value is read before it is computed"))?;
        let (name, quantization) = match self.graph.get(value) {
            Some(entry) => (entry.name.clone(), entry.ty.quantization.clone()),
            None => (String::new(), None),
        };
        let tensor = self.constant(&name, &constant, quantization);
        self.tensors.insert(value, tensor);
        Ok(tensor)
    }

    /// The tensors of every operand; −1 for an absent one.
    pub(super) fn operands(&mut self, node: &Node) -> Result<Vec<i32>> {
        node.inputs.iter().map(|input| input.map_or(Ok(-1), |value| self.tensor(value))).collect()
    }

    /// New tensors for every result; one that nobody reads still has one.
    pub(super) fn results(&mut self, node: &Node) -> Result<Vec<i32>> {
        let mut tensors = Vec::with_capacity(node.outputs.len());
        for (slot, output) in node.outputs.iter().enumerate() {
            tensors.push(match output {
                Some(value) => self.result(*value)?,
                None => {
                    // The parts of a tensor are of its type, the variables of a loop each of its own.
                    let source = if matches!(node.op, Op::While(_)) { slot } else { 0 };
                    let source = node.inputs.get(source).copied().flatten();
                    let ty = source.map(|value| self.ty(value)).transpose()?;
                    let (dtype, quantization) = ty.map_or((DType::F32, None), |ty| (ty.dtype, ty.quantization.clone()));
                    let tensor = self.temporary("unread", dtype, &[], quantization);
                    self.forget_rank(tensor);
                    tensor
                }
            });
        }
        Ok(tensors)
    }

    /// Marks a tensor as one of unknown rank.
    fn forget_rank(&mut self, tensor: i32) {
        if let Some(record) = self.subgraph.tensors.get_mut(tensor.unsigned_abs() as usize) {
            record.has_rank = false;
        }
    }

    /// A new tensor for a value that the next operator computes.
    pub(super) fn result(&mut self, value: ValueId) -> Result<i32> {
        let name = self.graph.get(value).map(|value| value.name.clone()).unwrap_or_default();
        let tensor = self.value_tensor(value, &name)?;
        self.tensors.insert(value, tensor);
        Ok(tensor)
    }

    /// Puts a value into a tensor that exists already.
    pub(super) fn place(&mut self, value: ValueId, tensor: i32) {
        self.tensors.insert(value, tensor);
    }

    fn value_tensor(&mut self, value: ValueId, name: &str) -> Result<i32> {
        let ty = self.ty(value)?;
        let has_rank = self.sizes.shape(value).is_some();
        let shape = self.sizes.shape(value).cloned().unwrap_or_default();
        let sizes: Vec<i32> = shape.iter().map(|size| size.map_or(1, |size| size as i32)).collect();
        let open = shape.iter().any(Option::is_none);
        let signature =
            if open { shape.iter().map(|size| size.map_or(-1, |size| size as i32)).collect() } else { Vec::new() };
        Ok(self.add_tensor(TensorRecord {
            name: name.to_owned(),
            dtype: ty.dtype,
            shape: sizes,
            signature,
            buffer: 0,
            quantization: ty.quantization.clone(),
            variable: false,
            has_rank,
        }))
    }

    /// A tensor of fixed shape that is no value of the graph.
    pub(super) fn temporary(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[usize],
        quantization: Option<Quantization>,
    ) -> i32 {
        let shape = shape.iter().map(|size| *size as i32).collect();
        self.add_tensor(TensorRecord {
            name: name.to_owned(),
            dtype,
            shape,
            signature: Vec::new(),
            buffer: 0,
            quantization,
            variable: false,
            has_rank: true,
        })
    }

    /// A variable tensor.
    pub(super) fn variable(&mut self, name: &str, ty: &ValueType, shape: &[usize]) -> i32 {
        let tensor = self.temporary(name, ty.dtype, shape, ty.quantization.clone());
        if let Some(record) = self.subgraph.tensors.get_mut(tensor.unsigned_abs() as usize) {
            record.variable = true;
        }
        tensor
    }

    /// A constant tensor.
    pub(super) fn constant(&mut self, name: &str, tensor: &Tensor, quantization: Option<Quantization>) -> i32 {
        let buffer = self.file.buffer(bytes(tensor));
        let shape = tensor.shape().iter().map(|size| *size as i32).collect();
        self.add_tensor(TensorRecord {
            name: name.to_owned(),
            dtype: tensor.dtype(),
            shape,
            signature: Vec::new(),
            buffer,
            quantization,
            variable: false,
            has_rank: true,
        })
    }

    /// A constant tensor of integers.
    pub(super) fn integers(&mut self, name: &str, shape: &[usize], values: &[i32]) -> i32 {
        match Tensor::from_slice(shape, values) {
            Ok(tensor) => self.constant(name, &tensor, None),
            // The callers' shapes fit their values.
            Err(_) => -1,
        }
    }

    fn add_tensor(&mut self, record: TensorRecord) -> i32 {
        self.subgraph.tensors.push(record);
        self.subgraph.tensors.len() as i32 - 1
    }

    /// Gives a constant the scale that follows from its neighbours.
    pub(super) fn set_scale(&mut self, tensor: i32, scale: f32) {
        if let Some(record) = usize::try_from(tensor).ok().and_then(|tensor| self.subgraph.tensors.get_mut(tensor)) {
            record.quantization = Some(Quantization::per_tensor(scale, 0));
        }
    }

    /// Adds an operator.
    pub(super) fn operator(&mut self, number: i32, version: i32, inputs: &[i32], outputs: &[i32], options: Options) {
        let code = self.file.code(Code { number, custom: String::new(), version });
        self.add_operator(code, inputs, outputs, options);
    }

    pub(super) fn add_operator(&mut self, code: u32, inputs: &[i32], outputs: &[i32], options: Options) {
        self.subgraph.operators.push(OperatorRecord {
            code,
            inputs: inputs.to_vec(),
            outputs: outputs.to_vec(),
            options,
            custom_options: Vec::new(),
            intermediates: Vec::new(),
        });
    }

    /// The operator that was added last.
    pub(super) fn last_operator(&mut self) -> Option<&mut OperatorRecord> {
        self.subgraph.operators.last_mut()
    }

    /// A variable tensor that holds an initial state when the next operator runs, and that the operator may overwrite:
    /// the tensor of the value itself when it is a variable one that nobody reads afterwards, else one of its own that is
    /// filled at every run. `ty`, `shape`: of the state.
    pub(super) fn state_operand(
        &mut self,
        initial: Option<ValueId>,
        name: &str,
        ty: &ValueType,
        shape: &[usize],
    ) -> Result<i32> {
        let Some(value) = initial else {
            let tensor = self.variable(name, ty, shape);
            let dims: Vec<i32> = shape.iter().map(|size| *size as i32).collect();
            let dims = self.integers("state shape", &[dims.len()], &dims);
            let zero = ty.quantization.as_ref().and_then(Quantization::as_per_tensor).map_or(0, |(_, zero)| zero);
            let zero = match ty.dtype {
                DType::I8 => Tensor::scalar(zero as i8),
                DType::I16 => Tensor::scalar(zero as i16),
                dtype => Tensor::zeros(dtype, &[])?,
            };
            let zero = self.constant("initial state", &zero, ty.quantization.clone());
            let version = if matches!(ty.dtype, DType::I8 | DType::I16) { 3 } else { 1 };
            self.operator(opcode::FILL, version, &[dims, zero], &[tensor], Options::default());
            return Ok(tensor);
        };
        let held = self.tensor(value)?;
        let is_variable = self.subgraph.tensors.get(held.unsigned_abs() as usize).is_some_and(|record| record.variable);
        let read_later = self.last_read.get(&value).is_some_and(|last| *last > self.position)
            || self.graph.states.iter().any(|state| state.next == value);
        if is_variable && !read_later {
            return Ok(held);
        }
        let tensor = self.variable(name, ty, shape);
        self.copy(held, Some(tensor))
    }
}
