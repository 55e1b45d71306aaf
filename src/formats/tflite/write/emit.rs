//! One graph to one subgraph: tensors of values, the order of the operators, states in variable
//! tensors.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::opcode;
use super::file::{Code, Field, File, OperatorRecord, Options, SubGraph, TensorRecord, bytes};
use super::sizes::Sizes;
use super::{plain, recurrent};
use crate::error::{Error, Place, Result};
use crate::graph::{Graph, Node, Op, Reset, ValueId, ValueType};
use crate::tensor::{DType, Quantization, Tensor};

/// Writes the main graph as subgraph 0, and the subgraphs of its loops behind it.
pub(super) fn main(
    file: &mut File,
    graph: &Graph,
    sizes: &Sizes,
    warnings: &mut Vec<String>,
) -> Result<()> {
    file.subgraphs.push(SubGraph::default());
    let subgraph = Emit::new(file, graph, sizes, warnings, false).graph()?;
    if let Some(first) = file.subgraphs.first_mut() {
        *first = subgraph;
    }
    Ok(())
}

/// Writes a loop's graph and returns the index of its subgraph.
fn nested(
    file: &mut File,
    graph: &Graph,
    inputs: &[super::Shape],
    warnings: &mut Vec<String>,
) -> Result<i32> {
    let graph = Arc::new(graph.clone());
    let sizes = Sizes::new(&graph, inputs)?;
    let subgraph = Emit::new(file, &graph, &sizes, warnings, true).graph()?;
    file.subgraphs.push(subgraph);
    Ok(file.subgraphs.len() as i32 - 1)
}

/// A value in a variable tensor.
///
/// Operators that overwrite a variable tensor are not its producers, as far as the interpreter
/// knows: where a delegate takes operators out of the order, the others are ordered anew by what
/// they read of each other. So what reads the tensor after an operator has left its state there
/// must read a result of that operator too.
#[derive(Clone, Copy)]
struct Held {
    tensor: i32,
    /// A result of the operator that left the value there, and the result's batch axis; `None`:
    /// nobody has this run.
    after: Option<(i32, usize)>,
}

/// A graph on its way into a subgraph.
pub(super) struct Emit<'e> {
    pub(super) file: &'e mut File,
    pub(super) graph: &'e Graph,
    pub(super) sizes: &'e Sizes,
    pub(super) warnings: &'e mut Vec<String>,
    subgraph: SubGraph,
    /// The ordinary tensor that holds a value.
    tensors: HashMap<ValueId, i32>,
    /// The variable tensor that holds a value at this point of the order.
    held: HashMap<ValueId, Held>,
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
        for (position, node) in
            graph.nodes.iter().enumerate().filter(|(position, _)| sizes.is_needed(*position))
        {
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
            held: HashMap::new(),
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
        let states: Vec<i32> =
            self.graph.states.iter().map(|state| self.state(state)).collect::<Result<_>>()?;
        for (position, node) in self.graph.nodes.iter().enumerate() {
            if self.sizes.is_needed(position) {
                self.position = position;
                self.node(node)
                    .within(|| format!("node {position} ({}, {})", node.name, node.op.name()))?;
            }
        }
        // Outputs are read before the states move on.
        let mut taken = self.subgraph.inputs.clone();
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
        let zero = ty
            .quantization
            .as_ref()
            .and_then(Quantization::as_per_tensor)
            .map_or(0, |(_, zero)| zero);
        let name = &state.name;
        let refused = match &state.reset {
            Reset::Fill(value) if *value == zero => None,
            Reset::Fill(value) => Some(value.to_string()),
            Reset::Tensor(_) => Some("a stored value".to_owned()),
        };
        if let Some(reset) = refused {
            return Err(Error::unsupported(format!(
                "state {name:?} is reset to {reset}: a variable tensor is reset to {zero}"
            )));
        }
        let shape = self.sizes.fixed(state.value, "a state")?;
        let tensor = self.variable(&state.name, &ty, &shape);
        self.held.insert(state.value, Held { tensor, after: None });
        Ok(tensor)
    }

    /// Copies what the states become into their tensors, for those that no operator has updated in
    /// place.
    fn write_states(&mut self, states: &[i32]) -> Result<()> {
        let mut copies = Vec::new();
        for (state, tensor) in self.graph.states.iter().zip(states) {
            if self.held.get(&state.next).is_none_or(|held| held.tensor != *tensor) {
                copies.push((self.tensor(state.next)?, *tensor));
            }
        }
        for (source, tensor) in copies {
            self.copy(source, tensor)?;
        }
        Ok(())
    }

    /// A tensor for an output of the graph: the value's own, or a copy when that has another role
    /// already.
    fn output(&mut self, value: ValueId, name: &str, taken: &[i32]) -> Result<i32> {
        let own = self.tensor(value)?;
        let record = self.subgraph.tensors.get_mut(own.unsigned_abs() as usize);
        let record = record.ok_or_else(|| Error::internal("a tensor is missing"))?;
        if !taken.contains(&own) && record.buffer == 0 {
            name.clone_into(&mut record.name);
            return Ok(own);
        }
        let mut record = record.clone();
        (record.name, record.buffer) = (name.to_owned(), 0);
        let copy = self.add_tensor(record);
        if self.sizes.shape(value).is_some_and(|shape| !shape.is_empty()) {
            self.copy(own, copy)?;
            return Ok(copy);
        }
        let shape = self.integers("shape", &[0], &[]);
        self.operator(opcode::RESHAPE, 1, &[own, shape], &[copy], Options::default());
        Ok(copy)
    }

    /// Copies a tensor of at least one axis. Gathering every index of the first axis is the
    /// operator for it that exists for every type and that no delegate takes away from the variable
    /// tensors it may write to.
    fn copy(&mut self, from: i32, to: i32) -> Result<()> {
        let record = self.subgraph.tensors.get(from.unsigned_abs() as usize);
        let record = record.ok_or_else(|| Error::internal("a tensor is missing"))?;
        let (rank, count) = (record.shape.len(), record.shape.first().copied().unwrap_or(1));
        if record.buffer != 0 {
            // From constants the interpreter gathers once and for all, before it resets its
            // variable tensors. It turns rows around at every run, so that turned rows end in their
            // order.
            let mut turned = record.clone();
            turned.buffer = self.file.turned(record.buffer, count.unsigned_abs() as usize);
            let turned = self.add_tensor(turned);
            let axis = self.integers("rows", &[1], &[0]);
            self.operator(opcode::REVERSE_V2, 1, &[turned, axis], &[to], Options::default());
            return Ok(());
        }
        if record.signature.first() == Some(&-1) {
            // As many copies along each axis as one.
            let ones = self.integers("once", &[rank], &vec![1; rank]);
            self.operator(opcode::TILE, 1, &[from, ones], &[to], Options::default());
            return Ok(());
        }
        let all: Vec<i32> = (0..count).collect();
        let all = self.integers("all", &[all.len()], &all);
        self.gather(from, all, to);
        Ok(())
    }

    fn gather(&mut self, from: i32, indices: i32, to: i32) {
        self.operator(opcode::GATHER, 1, &[from, indices], &[to], plain::gather_options(0, 0));
    }

    /// Reads a variable tensor into an ordinary one, at this point of the order.
    fn read(&mut self, held: Held) -> Result<i32> {
        let record = self.subgraph.tensors.get(held.tensor.unsigned_abs() as usize).cloned();
        let mut record = record.ok_or_else(|| Error::internal("a tensor is missing"))?;
        record.variable = false;
        let to = self.add_tensor(record);
        let Some((result, axis)) = held.after else {
            self.copy(held.tensor, to)?;
            return Ok(to);
        };
        // The rows to gather are counted on the operator's result, and so read after it.
        let rank = self
            .subgraph
            .tensors
            .get(result.unsigned_abs() as usize)
            .map_or(0, |record| record.shape.len());
        let shape = self.temporary("shape", DType::I32, &[rank], None);
        self.operator(
            opcode::SHAPE,
            1,
            &[result],
            &[shape],
            Options::new(55, vec![(0, Field::Byte(2))]),
        );
        let rows = self.temporary("rows", DType::I32, &[], None);
        let axis = axis as i32;
        let (begin, end, one) = (
            self.integers("begin", &[1], &[axis]),
            self.integers("end", &[1], &[axis + 1]),
            self.integers("step", &[1], &[1]),
        );
        let masks = vec![
            (0, Field::Int(0)),
            (1, Field::Int(0)),
            (2, Field::Int(0)),
            (3, Field::Int(0)),
            (4, Field::Int(1)),
        ];
        self.operator(
            opcode::STRIDED_SLICE,
            1,
            &[shape, begin, end, one],
            &[rows],
            Options::new(32, masks),
        );
        let count = self
            .subgraph
            .tensors
            .get(held.tensor.unsigned_abs() as usize)
            .and_then(|record| record.shape.first().copied());
        let all =
            self.temporary("all", DType::I32, &[count.unwrap_or(1).unsigned_abs() as usize], None);
        let (zero, one) = (self.integers("zero", &[], &[0]), self.integers("one", &[], &[1]));
        self.operator(opcode::RANGE, 1, &[zero, rows, one], &[all], Options::default());
        self.gather(held.tensor, all, to);
        Ok(to)
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        if let Op::Recurrent(op) = &node.op {
            return recurrent::recurrent(self, node, op);
        }
        if let Op::Svdf(op) = &node.op {
            return recurrent::svdf(self, node, op);
        }
        let Op::While(op) = &node.op else { return plain::plain(self, node) };
        let shapes = self.sizes.loop_variables(&node.inputs, &node.outputs)?;
        let condition =
            nested(self.file, &op.condition, &shapes, self.warnings).within(|| "condition")?;
        let body = nested(self.file, &op.body, &shapes, self.warnings).within(|| "body")?;
        let inputs = self.operands(node)?;
        let outputs = self.results(node)?;
        self.operator(opcode::WHILE, 1, &inputs, &outputs, plain::while_options(condition, body));
        Ok(())
    }

    /// What is known of a value.
    pub(super) fn ty(&self, value: ValueId) -> Result<&'e ValueType> {
        self.graph
            .get(value)
            .map(|value| &value.ty)
            .ok_or_else(|| Error::internal("a value is missing"))
    }

    /// An ordinary tensor that holds a value; constants, and what variable tensors hold, get theirs
    /// when they are first read.
    pub(super) fn tensor(&mut self, value: ValueId) -> Result<i32> {
        if let Some(tensor) = self.tensors.get(&value) {
            return Ok(*tensor);
        }
        if let Some(held) = self.held.get(&value).copied() {
            let tensor = self.read(held)?;
            self.tensors.insert(value, tensor);
            return Ok(tensor);
        }
        let constant = self.graph.constant(value).or_else(|| self.sizes.known(value)).cloned();
        let constant =
            constant.ok_or_else(|| Error::internal("a value is read before it is computed"))?;
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
                    // The parts of a tensor are of its type, the variables of a loop each of its
                    // own.
                    let source = if matches!(node.op, Op::While(_)) { slot } else { 0 };
                    let source = node.input(source);
                    let ty = source.map(|value| self.ty(value)).transpose()?;
                    let (dtype, quantization) =
                        ty.map_or((DType::F32, None), |ty| (ty.dtype, ty.quantization.clone()));
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

    /// Says that an ordinary tensor holds a value.
    pub(super) fn place(&mut self, value: ValueId, tensor: i32) {
        self.tensors.insert(value, tensor);
    }

    /// Says that the last operator left a value in a variable tensor; `result`: a result of it,
    /// with its batch axis.
    pub(super) fn hold(&mut self, value: ValueId, tensor: i32, result: (i32, usize)) {
        self.held.insert(value, Held { tensor, after: Some(result) });
    }

    fn value_tensor(&mut self, value: ValueId, name: &str) -> Result<i32> {
        let ty = self.ty(value)?;
        let has_rank = self.sizes.shape(value).is_some();
        let shape = self.sizes.shape(value).cloned().unwrap_or_default();
        let sizes: Vec<i32> = shape.iter().map(|size| size.map_or(1, |size| size as i32)).collect();
        let open = shape.iter().any(Option::is_none);
        let signature = if open {
            shape.iter().map(|size| size.map_or(-1, |size| size as i32)).collect()
        } else {
            Vec::new()
        };
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
    pub(super) fn constant(
        &mut self,
        name: &str,
        tensor: &Tensor,
        quantization: Option<Quantization>,
    ) -> i32 {
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

    /// Gives a constant the scale that follows from its neighbors.
    pub(super) fn set_scale(&mut self, tensor: i32, scale: f32) {
        if let Some(record) =
            usize::try_from(tensor).ok().and_then(|tensor| self.subgraph.tensors.get_mut(tensor))
        {
            record.quantization = Some(Quantization::per_tensor(scale, 0));
        }
    }

    /// Adds an operator.
    pub(super) fn operator(
        &mut self,
        number: i32,
        version: i32,
        inputs: &[i32],
        outputs: &[i32],
        options: Options,
    ) {
        let code = self.file.code(Code { number, custom: String::new(), version });
        self.add_operator(code, inputs, outputs, options);
    }

    pub(super) fn add_operator(
        &mut self,
        code: u32,
        inputs: &[i32],
        outputs: &[i32],
        options: Options,
    ) {
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

    /// A variable tensor that holds an initial state when the next operator runs, and that the
    /// operator may overwrite: the tensor of the value itself when it is a variable one that nobody
    /// reads afterwards, else one of its own that is filled at every run. `ty`, `shape`: of the
    /// state.
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
            let zero = ty
                .quantization
                .as_ref()
                .and_then(Quantization::as_per_tensor)
                .map_or(0, |(_, zero)| zero);
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
        let read_later = self.last_read.get(&value).is_some_and(|last| *last > self.position)
            || self.graph.states.iter().any(|state| state.next == value);
        if let Some(Held { tensor, after: None }) = self.held.get(&value)
            && !read_later
        {
            return Ok(*tensor);
        }
        let source = self.tensor(value)?;
        let tensor = self.variable(name, ty, shape);
        self.copy(source, tensor)?;
        Ok(tensor)
    }
}
