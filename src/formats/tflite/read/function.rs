//! One subgraph: its tensors as values, its operators as nodes, its variable tensors as states.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{opcode, schema};
use super::variables::{self, Variables};
use super::{MOST_NESTED_LOOPS, Model, control, lstm, plain, rnn, tensor};
use crate::error::{Error, Place, Result};
use crate::graph::{Dim, Graph, Node, Op, Port, Reset, State, ValueId, ValueType};
use crate::tensor::{DType, Tensor};

/// Reads a subgraph. `callers` are the subgraphs whose loops it is read for, outermost first.
pub(super) fn read(model: &Model<'_>, index: usize, callers: &[usize]) -> Result<Graph> {
    read_within(model, index, callers).within(|| format!("subgraph {index}"))
}

fn read_within(model: &Model<'_>, index: usize, callers: &[usize]) -> Result<Graph> {
    let subgraph = *model.subgraphs.get(index).ok_or_else(|| {
        Error::malformed(format!(
            "there is no such subgraph, the file has {}",
            model.subgraphs.len()
        ))
    })?;
    if callers.contains(&index) {
        return Err(Error::malformed(
            "a loop in this subgraph runs this subgraph again: endless recursion",
        ));
    }
    if callers.len() > MOST_NESTED_LOOPS {
        return Err(Error::limit(format!("loops nested deeper than {MOST_NESTED_LOOPS}")));
    }
    model.used.borrow_mut().insert(index);
    let mut callers = callers.to_vec();
    callers.push(index);
    let mut function = Function::new(model, subgraph, callers);
    function.read_inputs(&subgraph.inputs())?;
    for (number, operator) in subgraph.operators().into_iter().enumerate() {
        model.spend_operator()?;
        let call = Call::new(model, operator).within(|| format!("operator {number}"))?;
        function.read_operator(&call).within(|| format!("operator {number} ({})", call.name))?;
    }
    function.read_outputs(&subgraph.outputs())?;
    function.finish()
}

/// An operator as the file has it.
pub(super) struct Call<'m> {
    pub(super) table: schema::Operator<'m>,
    /// Tensor indices, −1 for an absent operand.
    pub(super) inputs: Vec<i32>,
    pub(super) outputs: Vec<i32>,
    /// The operator's number.
    pub(super) number: i32,
    /// Its name when it is a custom one.
    pub(super) custom: &'m str,
    /// The operator's name, for messages.
    pub(super) name: &'m str,
}

impl<'m> Call<'m> {
    pub(super) fn new(model: &'m Model<'m>, table: schema::Operator<'m>) -> Result<Self> {
        let index = usize::try_from(table.opcode_index()).ok();
        let code = index.and_then(|code| model.codes.get(code)).ok_or_else(|| {
            Error::malformed(format!(
                "operator code {} is asked for, the file has {}",
                table.opcode_index(),
                model.codes.len()
            ))
        })?;
        Ok(Call {
            table,
            inputs: table.inputs(),
            outputs: table.outputs(),
            number: code.number,
            custom: code.custom,
            name: &code.name,
        })
    }
}

/// A subgraph on its way to become a graph.
pub(super) struct Function<'m> {
    pub(super) model: &'m Model<'m>,
    pub(super) graph: Graph,
    /// The subgraphs that are being read, this one last.
    pub(super) callers: Vec<usize>,
    tensors: Vec<schema::Tensor<'m>>,
    /// The value that a tensor has at this point of the order; that of a variable tensor changes as
    /// operators write it.
    current: BTreeMap<usize, ValueId>,
    /// Variable tensors: their index in the graph's states.
    states: BTreeMap<usize, usize>,
    /// Tensors that an operator computed.
    computed: BTreeSet<usize>,
    /// Results of DEQUANTIZE on a constant, and that constant: so weights are seen as the file
    /// stores them.
    pub(super) stored: BTreeMap<ValueId, ValueId>,
    pub(super) variables: Variables,
    /// Axes of inputs whose size is open, by the name that was given to them.
    open_axes: BTreeMap<&'static str, usize>,
}

impl<'m> Function<'m> {
    pub(super) fn new(
        model: &'m Model<'m>,
        subgraph: schema::SubGraph<'m>,
        callers: Vec<usize>,
    ) -> Self {
        Function {
            model,
            graph: Graph { name: subgraph.name().to_owned(), ..Graph::default() },
            callers,
            tensors: subgraph.tensors(),
            current: BTreeMap::new(),
            states: BTreeMap::new(),
            computed: BTreeSet::new(),
            stored: BTreeMap::new(),
            variables: Variables::default(),
            open_axes: BTreeMap::new(),
        }
    }

    /// Whether a loop runs this subgraph.
    pub(super) fn is_inside_a_loop(&self) -> bool {
        self.callers.len() > 1
    }

    /// Lets a tensor be a value that is there already.
    pub(super) fn define(&mut self, position: usize, value: ValueId) -> Result<()> {
        if !self.computed.insert(position) || self.current.insert(position, value).is_some() {
            return Err(Error::malformed("it is computed twice, or read before it is computed"));
        }
        Ok(())
    }

    /// The tensor behind an index.
    pub(super) fn tensor(&self, index: i32) -> Result<(usize, schema::Tensor<'m>)> {
        let position = usize::try_from(index).ok();
        position.and_then(|position| Some((position, *self.tensors.get(position)?))).ok_or_else(
            || {
                Error::malformed(format!(
                    "tensor {index} is asked for, the subgraph has {}",
                    self.tensors.len()
                ))
            },
        )
    }

    /// Type of a tensor, with the tensor's name in an error's path.
    fn value_type(&self, position: usize, tensor: schema::Tensor<'m>) -> Result<ValueType> {
        tensor::value_type(tensor).within(|| describe(position, tensor))
    }

    fn read_inputs(&mut self, inputs: &[i32]) -> Result<()> {
        for (number, &index) in inputs.iter().enumerate() {
            self.read_input(number, index).within(|| format!("input {number}"))?;
        }
        Ok(())
    }

    fn read_input(&mut self, number: usize, index: i32) -> Result<()> {
        let (position, tensor) = self.tensor(index)?;
        let place = || describe(position, tensor);
        if self.current.contains_key(&position) {
            return Err(Error::malformed("listed twice").within(place()));
        }
        if tensor.is_variable() || !self.model.buffer(tensor.buffer()).within(place)?.is_empty() {
            return Err(Error::malformed("an input of the subgraph is a variable or a constant")
                .within(place()));
        }
        let mut ty = self.value_type(position, tensor)?;
        // Sizes that the caller chooses get a name. Which axis is time depends on the layers
        // behind; the usual order is batch, time.
        for (axis, dim) in
            ty.shape.iter_mut().flatten().enumerate().filter(|(_, dim)| **dim == Dim::Unknown)
        {
            let name = match axis {
                0 => "batch",
                1 => "time",
                _ => "size",
            };
            let taken = self.open_axes.entry(name).or_insert(0);
            *taken += 1;
            *dim = self.graph.add_symbol(match taken {
                1 => name.to_owned(),
                _ => format!("{name}{taken}"),
            });
        }
        // The scalars that loops count with, and tensors of unknown rank, look the same here.
        let value = self.graph.add_value(tensor.name(), ty);
        let name = if tensor.name().is_empty() {
            format!("input_{number}")
        } else {
            tensor.name().to_owned()
        };
        self.graph.inputs.push(Port { name, value });
        self.current.insert(position, value);
        Ok(())
    }

    fn read_outputs(&mut self, outputs: &[i32]) -> Result<()> {
        for (number, &index) in outputs.iter().enumerate() {
            let value = self.value(index).within(|| format!("output {number}"))?;
            let (_, tensor) = self.tensor(index)?;
            let name = if tensor.name().is_empty() {
                format!("output_{number}")
            } else {
                tensor.name().to_owned()
            };
            self.graph.outputs.push(Port { name, value });
        }
        Ok(())
    }

    /// The value that a tensor has at this point: computed before, an input, a constant, or the
    /// state of a variable tensor.
    pub(super) fn value(&mut self, index: i32) -> Result<ValueId> {
        let (position, tensor) = self.tensor(index)?;
        if let Some(value) = self.current.get(&position) {
            return Ok(*value);
        }
        let ty = self.value_type(position, tensor)?;
        let place = || describe(position, tensor);
        let value = if tensor.is_variable() {
            self.state(position, tensor, ty).within(place)?
        } else {
            let constant = self.constant(tensor, &ty).within(place)?;
            let value = self.graph.add_constant(tensor.name(), constant);
            self.set_quantization(value, &ty);
            value
        };
        self.current.insert(position, value);
        Ok(value)
    }

    fn constant(&self, tensor: schema::Tensor<'m>, ty: &ValueType) -> Result<Tensor> {
        let bytes = self.model.buffer(tensor.buffer())?;
        let shape = ty.known_shape().ok_or_else(|| {
            Error::malformed(
                "a constant or a value that is read before it is computed has an open shape",
            )
        })?;
        if bytes.is_empty() && !shape.contains(&0) {
            return Err(Error::malformed("it has no data, and no operator before computes it"));
        }
        tensor::constant(self.model, bytes, ty.dtype, &shape)
    }

    fn set_quantization(&mut self, value: ValueId, ty: &ValueType) {
        if let Some(value) = self.graph.get_mut(value) {
            value.ty.quantization.clone_from(&ty.quantization);
        }
    }

    /// Makes a state of a variable tensor.
    fn state(
        &mut self,
        position: usize,
        tensor: schema::Tensor<'m>,
        ty: ValueType,
    ) -> Result<ValueId> {
        if !self.model.buffer(tensor.buffer())?.is_empty() {
            return Err(Error::malformed("a variable tensor has constant data"));
        }
        if self.is_inside_a_loop() {
            return Err(Error::unsupported(
                "a variable tensor inside a loop: state must go round as a loop variable",
            ));
        }
        // Variable integers are reset to their zero point, everything else to 0.
        let reset = match (ty.dtype, &ty.quantization) {
            (DType::I8 | DType::U8 | DType::I16, Some(quantization)) => quantization
                .as_per_tensor()
                .map(|(_, zero)| zero)
                .ok_or_else(|| Error::unsupported("a state with more than one scale"))?,
            _ => 0,
        };
        let value = self.graph.add_value(tensor.name(), ty);
        self.states.insert(position, self.graph.states.len());
        let reset = Reset::Fill(reset);
        self.graph.states.push(State { name: tensor.name().to_owned(), value, next: value, reset });
        Ok(value)
    }

    fn read_operator(&mut self, call: &Call<'m>) -> Result<()> {
        if call.outputs.iter().any(|output| *output >= 0 && call.inputs.contains(output)) {
            return Err(Error::malformed(
                "a tensor is both an input and an output of the operator",
            ));
        }
        match call.number {
            opcode::LSTM => lstm::read_single_step(self, call),
            opcode::UNIDIRECTIONAL_SEQUENCE_LSTM => lstm::read_unidirectional(self, call),
            opcode::BIDIRECTIONAL_SEQUENCE_LSTM => lstm::read_bidirectional(self, call),
            opcode::RNN => rnn::read_single_step(self, call),
            opcode::UNIDIRECTIONAL_SEQUENCE_RNN => rnn::read_unidirectional(self, call),
            opcode::BIDIRECTIONAL_SEQUENCE_RNN => rnn::read_bidirectional(self, call),
            opcode::SVDF => rnn::read_svdf(self, call),
            opcode::WHILE => control::read_while(self, call),
            opcode::CALL_ONCE => variables::read_call_once(self, call),
            opcode::VAR_HANDLE => variables::read_handle(self, call),
            opcode::READ_VARIABLE => variables::read_variable(self, call),
            opcode::ASSIGN_VARIABLE => variables::assign_variable(self, call),
            _ => plain::read(self, call),
        }
    }

    /// The value of an operand that must be there.
    pub(super) fn input(&mut self, call: &Call<'m>, slot: usize) -> Result<ValueId> {
        self.optional(call, slot)?.ok_or_else(|| {
            Error::malformed("the operand is absent, and the operator needs it")
                .within(format!("input {slot}"))
        })
    }

    /// The value of an operand that may be absent: −1, or past the end of the list.
    pub(super) fn optional(&mut self, call: &Call<'m>, slot: usize) -> Result<Option<ValueId>> {
        match call.inputs.get(slot) {
            None | Some(-1) => Ok(None),
            Some(&index) => self.value(index).map(Some).within(|| format!("input {slot}")),
        }
    }

    /// A new value for a result that must be there.
    pub(super) fn output(&mut self, call: &Call<'m>, slot: usize) -> Result<ValueId> {
        self.new_output(call, slot).within(|| format!("output {slot}"))
    }

    fn new_output(&mut self, call: &Call<'m>, slot: usize) -> Result<ValueId> {
        let index = call
            .outputs
            .get(slot)
            .copied()
            .ok_or_else(|| Error::malformed("the operator has no such output"))?;
        let (position, tensor) = self.tensor(index)?;
        let place = || describe(position, tensor);
        if !self.model.buffer(tensor.buffer()).within(place)?.is_empty() {
            return Err(Error::malformed("a constant is the output of an operator").within(place()));
        }
        let fresh = self.computed.insert(position);
        if tensor.is_variable() {
            return self.overwrite(position, tensor).within(place);
        }
        if self.current.contains_key(&position) || !fresh {
            return Err(Error::malformed("it is computed twice, or read before it is computed")
                .within(place()));
        }
        let mut ty = self.value_type(position, tensor)?;
        if ty.rank() == Some(0) && !tensor.has_rank() {
            // Without the flag an empty shape means a scalar or a tensor whose rank is not known.
            ty.shape = None;
        }
        let value = self.graph.add_value(tensor.name(), ty);
        self.current.insert(position, value);
        Ok(value)
    }

    /// An ordinary operator writes to a variable tensor: what follows reads the new value, and so
    /// does the next run where the tensor was read before.
    fn overwrite(&mut self, position: usize, tensor: schema::Tensor<'m>) -> Result<ValueId> {
        let ty = tensor::value_type(tensor)?;
        let value = self.graph.add_value(tensor.name(), ty);
        if let Some(state) =
            self.states.get(&position).and_then(|state| self.graph.states.get_mut(*state))
        {
            state.next = value;
        }
        self.current.insert(position, value);
        Ok(value)
    }

    /// Declares that an operator leaves `value` in the variable tensor behind an operand.
    pub(super) fn write_state(
        &mut self,
        call: &Call<'m>,
        slot: usize,
        value: ValueId,
    ) -> Result<()> {
        let (position, _) = self.tensor(call.inputs.get(slot).copied().unwrap_or(-1))?;
        // A variable tensor that an operator filled before is no state: nothing of it reaches the
        // next run.
        if let Some(state) =
            self.states.get(&position).and_then(|state| self.graph.states.get_mut(*state))
        {
            state.next = value;
        }
        self.current.insert(position, value);
        Ok(())
    }

    /// The value of a state operand, whose tensor must be marked variable.
    pub(super) fn state_input(&mut self, call: &Call<'m>, slot: usize) -> Result<ValueId> {
        let value = self.input(call, slot)?;
        if !self.is_variable(call, slot) {
            return Err(Error::malformed("a state operand whose tensor is not marked variable")
                .within(format!("input {slot}")));
        }
        Ok(value)
    }

    /// Whether the tensor behind an operand is marked variable.
    pub(super) fn is_variable(&self, call: &Call<'m>, slot: usize) -> bool {
        call.inputs
            .get(slot)
            .and_then(|index| self.tensor(*index).ok())
            .is_some_and(|(_, tensor)| tensor.is_variable())
    }

    /// The node that computes a value.
    pub(super) fn producer(&self, value: ValueId) -> Option<&Node> {
        self.graph.nodes.iter().rev().find(|node| node.outputs.contains(&Some(value)))
    }

    /// Whether the first result goes to a variable tensor.
    pub(super) fn writes_variable(&self, call: &Call<'m>) -> bool {
        call.outputs
            .first()
            .and_then(|index| self.tensor(*index).ok())
            .is_some_and(|(_, tensor)| tensor.is_variable())
    }

    /// Type of the tensor behind an index that is no operand (an intermediate).
    pub(super) fn intermediate(&self, index: i32) -> Result<ValueType> {
        let (position, tensor) = self.tensor(index)?;
        self.value_type(position, tensor)
    }

    /// What is known of a value.
    pub(super) fn ty(&self, value: ValueId) -> Result<&ValueType> {
        self.graph
            .get(value)
            .map(|value| &value.ty)
            .ok_or_else(|| Error::internal("a value is missing"))
    }

    /// Adds a constant that the file has as an option.
    pub(super) fn integers(
        &mut self,
        name: &str,
        shape: &[usize],
        values: Vec<i32>,
    ) -> Result<ValueId> {
        Ok(self.graph.add_constant(name, Tensor::from_vec(shape, values)?))
    }

    /// Adds a node whose name is that of its first result.
    pub(super) fn node(
        &mut self,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        outputs: Vec<Option<ValueId>>,
    ) {
        let first = outputs.iter().flatten().next().and_then(|value| self.graph.get(*value));
        let name = first.map(|value| value.name.clone()).unwrap_or_default();
        self.graph.add_node(name, op, inputs, outputs);
    }

    /// Leaves out the dequantizations whose constants were taken as weights, and everything else is
    /// as read.
    fn finish(mut self) -> Result<Graph> {
        let mut used: BTreeSet<ValueId> = self
            .graph
            .nodes
            .iter()
            .flat_map(|node| node.inputs.iter().flatten().copied())
            .collect();
        used.extend(self.graph.outputs.iter().map(|port| port.value));
        let stored = &self.stored;
        self.graph.nodes.retain(|node| {
            let result = node.output(0);
            !result.is_some_and(|value| stored.contains_key(&value) && !used.contains(&value))
        });
        Ok(self.graph)
    }
}

/// `tensor 7 "dense/kernel"`.
fn describe(position: usize, tensor: schema::Tensor<'_>) -> String {
    format!("tensor {position} \"{}\"", tensor.name())
}
