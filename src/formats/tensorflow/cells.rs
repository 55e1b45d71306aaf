//! Cells and layers that TensorFlow 1 has as single ops: `LSTMBlockCell`, `BlockLSTM`,
//! `BlockLSTMV2`, `GRUBlockCell`.

use std::sync::Arc;

use super::build::Builder;
use super::elementwise::{function_op, scalar};
use super::limits::Budget;
use super::step::{Step, Val};
use crate::error::{Error, Place, Result};
use crate::graph::op::{Activation, BinaryFunction, Concat, MatMul, StridedSlice, While};
use crate::graph::recurrent::{
    Arithmetic, Cell, CellWeights, Direction, Layout, Lstm, Masking, Matrix, Merge, Recurrent,
    Source,
};
use crate::graph::{Op, Port, ValueId};
use crate::tensor::{DType, Tensor};

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    match step.node.op.as_str() {
        "LSTMBlockCell" => lstm_cell(step).map(Some),
        "BlockLSTM" | "BlockLSTMV2" => block_lstm(step).map(Some),
        "GRUBlockCell" => gru_cell(step).map(Some),
        _ => Ok(None),
    }
}

/// What an LSTM op is told beside its operands.
#[derive(Clone, Copy)]
struct Options {
    forget_bias: f32,
    clip: Option<f32>,
    peephole: bool,
    /// Place of the forget gate and of the candidate among the four blocks of columns: version 1
    /// has input, candidate, forget, output, version 2 input, forget, candidate, output.
    forget: usize,
    candidate: usize,
}

impl Options {
    fn read(step: &Step<'_, '_>) -> Result<Self> {
        let second = step.node.op == "BlockLSTMV2";
        // What TensorFlow takes where an attribute is absent; version 2 has no forget bias.
        let (bias, clip) = if second { (0.0, 0.0) } else { (1.0, 3.0) };
        let forget_bias =
            if second { bias } else { step.node.float("forget_bias")?.copied().unwrap_or(bias) };
        let clip = step.node.float("cell_clip")?.copied().unwrap_or(clip);
        let (forget, candidate) = if second { (1, 2) } else { (2, 1) };
        Ok(Options {
            forget_bias,
            clip: (clip > 0.0).then_some(clip),
            peephole: step.node.is("use_peephole")?,
            forget,
            candidate,
        })
    }
}

/// Weights of an LSTM op: kernel `[I + H, 4·H]`, peepholes `[H]` of input, forget and output gate,
/// bias `[4·H]`.
#[derive(Clone, Copy)]
struct Weights {
    kernel: ValueId,
    peepholes: [ValueId; 3],
    bias: ValueId,
}

impl Weights {
    /// From the operand `first` on.
    fn read(step: &Step<'_, '_>, first: usize) -> Result<Self> {
        let operand = |index: usize| step.tensor(first + index);
        Ok(Weights {
            kernel: operand(0)?,
            peepholes: [operand(1)?, operand(2)?, operand(3)?],
            bias: operand(4)?,
        })
    }

    fn all(&self) -> [ValueId; 5] {
        let [input, forget, output] = self.peepholes;
        [self.kernel, input, forget, output, self.bias]
    }
}

/// Where the nodes of a cell go.
struct Nodes<'a> {
    builder: &'a mut Builder,
    derived: &'a mut Budget,
    name: &'a str,
}

impl Nodes<'_> {
    fn add(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        self.builder.add_one(self.derived, self.name, op, inputs)
    }

    fn binary(&mut self, function: BinaryFunction, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.add(function_op(function), &[a, b])
    }

    fn number(&mut self, like: ValueId, value: f32) -> Result<ValueId> {
        let dtype = self.builder.ty(like)?.dtype;
        Ok(self.builder.constant_value(self.name, scalar(dtype, f64::from(value))))
    }

    /// `[a, b] · kernel + bias`.
    fn dense(&mut self, a: ValueId, b: ValueId, kernel: ValueId, bias: ValueId) -> Result<ValueId> {
        let both = Concat { axis: 1, activation: Activation::Linear };
        let both = self.add(Op::Concat(both), &[a, b])?;
        let product = MatMul { transpose_a: false, transpose_b: false, asymmetric_inputs: false };
        let product = self.add(Op::MatMul(product), &[both, kernel])?;
        self.binary(BinaryFunction::Add, product, bias)
    }

    /// Equal parts of the columns.
    fn parts(&mut self, x: ValueId, count: usize) -> Result<Vec<ValueId>> {
        let axis = self.builder.scalar(self.name, 1);
        self.builder.add(self.derived, self.name, Op::Split, vec![Some(x), Some(axis)], count)
    }

    fn activated(&mut self, activation: Activation, x: ValueId) -> Result<ValueId> {
        self.add(Op::Activation(activation), &[x])
    }

    /// A gate before its activation, with its peephole.
    fn gate(&mut self, sum: ValueId, peephole: Option<(ValueId, ValueId)>) -> Result<ValueId> {
        let Some((weight, cell)) = peephole else {
            return self.activated(Activation::Sigmoid, sum);
        };
        let looked = self.binary(BinaryFunction::Mul, cell, weight)?;
        let sum = self.binary(BinaryFunction::Add, sum, looked)?;
        self.activated(Activation::Sigmoid, sum)
    }

    /// One step; the outputs in TensorFlow's order: input gate, cell state, forget gate, output
    /// gate, candidate, activated cell state, output.
    fn lstm(
        &mut self,
        options: Options,
        weights: Weights,
        x: ValueId,
        c: ValueId,
        h: ValueId,
    ) -> Result<[ValueId; 7]> {
        let sums = self.dense(x, h, weights.kernel, weights.bias)?;
        let sums = self.parts(sums, 4)?;
        let sum = |index: usize| {
            sums.get(index).copied().ok_or_else(|| Error::internal("a split in four without parts"))
        };
        let peephole = |gate: ValueId, cell| options.peephole.then_some((gate, cell));
        let [of_input, of_forget, of_output] = weights.peepholes;
        let i = self.gate(sum(0)?, peephole(of_input, c))?;
        let candidate = self.activated(Activation::Tanh, sum(options.candidate)?)?;
        let mut forget = sum(options.forget)?;
        if options.forget_bias != 0.0 {
            let bias = self.number(forget, options.forget_bias)?;
            forget = self.binary(BinaryFunction::Add, forget, bias)?;
        }
        let f = self.gate(forget, peephole(of_forget, c))?;
        let kept = self.binary(BinaryFunction::Mul, f, c)?;
        let added = self.binary(BinaryFunction::Mul, i, candidate)?;
        let mut cell = self.binary(BinaryFunction::Add, kept, added)?;
        if let Some(clip) = options.clip {
            let (most, least) = (self.number(cell, clip)?, self.number(cell, -clip)?);
            cell = self.binary(BinaryFunction::Minimum, cell, most)?;
            cell = self.binary(BinaryFunction::Maximum, cell, least)?;
        }
        let o = self.gate(sum(3)?, peephole(of_output, cell))?;
        let activated = self.activated(Activation::Tanh, cell)?;
        let output = self.binary(BinaryFunction::Mul, o, activated)?;
        Ok([i, cell, f, o, candidate, activated, output])
    }
}

fn nodes<'a>(step: &'a mut Step<'_, '_>) -> Nodes<'a> {
    Nodes { builder: step.builder, derived: &mut step.context.derived, name: &step.node.name }
}

/// x, c, h, kernel, three peepholes, bias.
fn lstm_cell(step: &mut Step<'_, '_>) -> Result<Vec<Val>> {
    step.expect_inputs(8)?;
    let options = Options::read(step)?;
    let (x, c, h) = (step.tensor(0)?, step.tensor(1)?, step.tensor(2)?);
    let weights = Weights::read(step, 3)?;
    let outputs = nodes(step).lstm(options, weights, x, c, h)?;
    Ok(outputs.map(Val::Tensor).to_vec())
}

/// x, h, kernel of reset and update gate `[I + H, 2·H]`, of the candidate `[I + H, H]`, their
/// biases:
///
/// ```text
/// r, u = sigmoid([x, h] · W + b)      c = tanh([x, r ∘ h] · W_c + b_c)      h' = u ∘ h + (1 − u) ∘ c
/// ```
fn gru_cell(step: &mut Step<'_, '_>) -> Result<Vec<Val>> {
    step.expect_inputs(6)?;
    let operands = step.tensors()?;
    let &[x, h, kernel, of_candidate, bias, candidate_bias] = operands.as_slice() else {
        return Err(Error::internal("a cell without six operands"));
    };
    let mut nodes = nodes(step);
    let sums = nodes.dense(x, h, kernel, bias)?;
    let gates = nodes.activated(Activation::Sigmoid, sums)?;
    let gates = nodes.parts(gates, 2)?;
    let &[reset, update] = gates.as_slice() else {
        return Err(Error::internal("a split in two without parts"));
    };
    let seen = nodes.binary(BinaryFunction::Mul, reset, h)?;
    let sum = nodes.dense(x, seen, of_candidate, candidate_bias)?;
    let candidate = nodes.activated(Activation::Tanh, sum)?;
    let kept = nodes.binary(BinaryFunction::Mul, update, h)?;
    let one = nodes.number(update, 1.0)?;
    let rest = nodes.binary(BinaryFunction::Sub, one, update)?;
    let added = nodes.binary(BinaryFunction::Mul, rest, candidate)?;
    let next = nodes.binary(BinaryFunction::Add, kept, added)?;
    Ok([reset, update, candidate, next].map(Val::Tensor).to_vec())
}

/// Number of steps (a scalar; later outputs are zeros), x `[T, B, I]`, c, h, kernel, three
/// peepholes, bias. The outputs are one canonical layer's, the cell states those of a loop that is
/// dropped where nobody wants them.
fn block_lstm(step: &mut Step<'_, '_>) -> Result<Vec<Val>> {
    step.expect_inputs(9)?;
    let options = Options::read(step)?;
    let (length, x) = (step.tensor(0)?, step.tensor(1)?);
    let (c, h) = (step.tensor(2)?, step.tensor(3)?);
    let weights = Weights::read(step, 4)?;
    let output = layer(step, options, weights, (length, x, c, h)).within(|| "outputs")?;
    let cells = cell_states(step, options, weights, (length, x, c, h)).within(|| "cell states")?;
    let other = |what: &str| Val::Opaque(format!("the {what} of every step are used"));
    Ok(vec![
        other("input gates"),
        Val::Tensor(cells),
        other("forget gates"),
        other("output gates"),
        other("candidates"),
        other("activated cell states"),
        Val::Tensor(output),
    ])
}

/// Number of steps, x, c, h of a layer.
type Operands = (ValueId, ValueId, ValueId, ValueId);

fn layer(
    step: &mut Step<'_, '_>,
    options: Options,
    weights: Weights,
    (length, x, c, h): Operands,
) -> Result<ValueId> {
    let cell = Cell::Lstm(Lstm {
        gate: Activation::Sigmoid,
        candidate: Activation::Tanh,
        output: Activation::Tanh,
        coupled_input_forget: false,
        cell_clip: options.clip,
        projection_clip: None,
    });
    let weights = cell_weights(step, options, weights)?;
    let layer = Recurrent {
        cell,
        directions: vec![Direction {
            reverse: false,
            source: Source::X,
            weights: Arc::new(weights),
        }],
        layout: Layout::TimeMajor,
        masking: Masking::Zero,
        merge: Merge::Separate,
        gate_clip: None,
        arithmetic: Arithmetic::Float,
    };
    let lengths = match step.builder.has_length(x, length) {
        true => None,
        false => Some(lengths(step, length, x)?),
    };
    let mut inputs = vec![None; layer.input_slots()];
    let slots = [
        (Recurrent::X, Some(x)),
        (Recurrent::MASK, lengths),
        (Recurrent::h0(0), Some(h)),
        (Recurrent::c0(0), Some(c)),
    ];
    for (slot, value) in slots {
        if let Some(input) = inputs.get_mut(slot) {
            *input = value;
        }
    }
    let name = step.node.name.clone();
    let outputs = layer.output_slots();
    let derived = &mut step.context.derived;
    let ids = step.builder.add(derived, &name, Op::Recurrent(layer), inputs, outputs)?;
    // The second direction that is not there has an output slot too.
    if let Some(node) = step.builder.graph.nodes.last_mut()
        && let Some(output) = node.outputs.get_mut(Recurrent::y(1))
    {
        *output = None;
    }
    let output = ids.get(Recurrent::y(0)).copied();
    output.ok_or_else(|| Error::internal("a layer without results"))
}

/// The one number of steps for every row of the batch.
fn lengths(step: &mut Step<'_, '_>, length: ValueId, x: ValueId) -> Result<ValueId> {
    let shape = step.add(Op::Shape(DType::I32), &[x])?;
    let (begin, end, stride) = (step.vector(&[1])?, step.vector(&[2])?, step.vector(&[1])?);
    let rows = step.add(Op::StridedSlice(StridedSlice::default()), &[shape, begin, end, stride])?;
    let length = within_time(step, length, x)?;
    step.add(Op::Fill, &[rows, length])
}

/// The number of steps as an i32 scalar, at most those that there are.
fn within_time(step: &mut Step<'_, '_>, length: ValueId, x: ValueId) -> Result<ValueId> {
    let shape = step.add(Op::Shape(DType::I32), &[x])?;
    let (begin, end, stride) = (step.vector(&[0])?, step.vector(&[1])?, step.vector(&[1])?);
    let slice = StridedSlice { shrink_axis_mask: 1, ..StridedSlice::default() };
    let steps = step.add(Op::StridedSlice(slice), &[shape, begin, end, stride])?;
    let length = step.as_i32(length)?;
    step.add(function_op(BinaryFunction::Minimum), &[length, steps])
}

/// The kernel `[I + H, 4·H]` as input and recurrent weights with the gates in the canonical order.
fn cell_weights(step: &Step<'_, '_>, options: Options, weights: Weights) -> Result<CellWeights> {
    let constant = |id: ValueId, what: &str| -> Result<&Tensor> {
        let tensor = step.builder.constant(id);
        tensor
            .filter(|tensor| tensor.dtype() == DType::F32)
            .ok_or_else(|| Error::unsupported(format!("the {what} is no constant of float32")))
    };
    let kernel = constant(weights.kernel, "kernel")?;
    let bias = constant(weights.bias, "bias")?.to_f32().into_owned();
    let units = bias.len() / 4;
    let (&[rows, columns], true) = (kernel.shape(), units > 0 && bias.len() == 4 * units) else {
        return Err(Error::malformed("the kernel is no matrix, or the bias of no four gates"));
    };
    let inputs = rows.checked_sub(units).filter(|_| columns == 4 * units);
    let inputs = inputs.ok_or_else(|| {
        Error::malformed(format!("a kernel {:?} for {units} units", kernel.shape()))
    })?;
    let data = kernel.to_f32();
    let blocks = [0, options.forget, options.candidate, 3];
    let columns_of = || blocks.into_iter().flat_map(|block| block * units..(block + 1) * units);
    let part = |rows: std::ops::Range<usize>| -> Vec<f32> {
        let at = |row: usize, column: usize| data.get(row * columns + column).copied();
        columns_of()
            .flat_map(|column| rows.clone().filter_map(move |row| at(row, column)))
            .collect()
    };
    let mut bias: Vec<f32> = columns_of().filter_map(|column| bias.get(column).copied()).collect();
    bias.iter_mut().skip(units).take(units).for_each(|bias| *bias += options.forget_bias);
    let mut peephole = None;
    if options.peephole {
        let mut all = Vec::with_capacity(3 * units);
        for id in weights.peepholes {
            all.extend_from_slice(&constant(id, "peephole")?.to_f32());
        }
        peephole = Some(Matrix::float(Tensor::from_vec(&[all.len()], all)?));
    }
    let matrix = |width: usize, data: Vec<f32>| {
        Tensor::from_vec(&[4 * units, width], data).map(Matrix::float)
    };
    Ok(CellWeights {
        input: matrix(inputs, part(0..inputs))?,
        recurrent: matrix(units, part(inputs..rows))?,
        auxiliary: None,
        bias: Some(Tensor::from_vec(&[bias.len()], bias)?),
        recurrent_bias: None,
        peephole,
        layer_norm: None,
        projection: None,
    })
}

/// The cell state after every step `[T, B, H]`, zeros behind the last, by a loop over the steps.
fn cell_states(
    step: &mut Step<'_, '_>,
    options: Options,
    weights: Weights,
    (length, x, c, h): Operands,
) -> Result<ValueId> {
    let first = step.scalar(0);
    let end = within_time(step, length, x)?;
    let empty = empty_states(step, x, c)?;
    let variables = [first, end, x, c, h, empty];
    let mut graphs = Vec::with_capacity(2);
    for is_body in [false, true] {
        let mut inner = Builder::inside(&step.builder.graph, &step.node.name);
        let mut args = [first; 6];
        for (arg, &variable) in args.iter_mut().zip(&variables) {
            let ty = step.builder.ty(variable)?.clone();
            *arg = inner.graph.add_value("", ty);
            inner.graph.inputs.push(Port { name: String::new(), value: *arg });
        }
        let mut own = weights.all();
        for id in &mut own {
            let tensor = step.builder.constant(*id);
            let tensor =
                tensor.ok_or_else(|| Error::unsupported("weights that are no constants"))?;
            *id = inner.constant_value(&step.node.name, tensor.clone());
        }
        let [kernel, a, b, c, bias] = own;
        let weights = Weights { kernel, peepholes: [a, b, c], bias };
        let derived = &mut step.context.derived;
        let mut nodes = Nodes { builder: &mut inner, derived, name: &step.node.name };
        let results = match is_body {
            true => nodes.turn(options, weights, args)?,
            false => vec![nodes.binary(BinaryFunction::Less, args[0], args[1])?],
        };
        let port = |value| Port { name: String::new(), value };
        inner.graph.outputs.extend(results.into_iter().map(port));
        graphs.push(super::prune::prune(inner.graph));
    }
    let (Some(body), Some(condition)) = (graphs.pop(), graphs.pop()) else {
        return Err(Error::internal("a loop without a body"));
    };
    let op = Op::While(Box::new(While { condition, body }));
    let name = step.node.name.clone();
    let inputs = variables.map(Some).to_vec();
    let ids = step.builder.add(&mut step.context.derived, &name, op, inputs, variables.len())?;
    ids.last().copied().ok_or_else(|| Error::internal("a loop without results"))
}

impl Nodes<'_> {
    /// One turn of the loop over the steps: its variables are the step, the number of steps, x, c,
    /// h and the cell states so far.
    fn turn(
        &mut self,
        options: Options,
        weights: Weights,
        [at, end, x, c, h, cells]: [ValueId; 6],
    ) -> Result<Vec<ValueId>> {
        let gather = crate::graph::op::Gather { axis: 0, batch_dims: 0 };
        let now = self.add(Op::Gather(gather), &[x, at])?;
        let [_, c, .., h] = self.lstm(options, weights, now, c, h)?;
        let cells = self.add(Op::SetItem, &[cells, at, c])?;
        let one = self.builder.scalar(self.name, 1);
        let next = self.binary(BinaryFunction::Add, at, one)?;
        Ok(vec![next, end, x, c, h, cells])
    }
}

/// Zeros `[T, B, H]`.
fn empty_states(step: &mut Step<'_, '_>, x: ValueId, c: ValueId) -> Result<ValueId> {
    let shape = step.add(Op::Shape(DType::I32), &[x])?;
    let (begin, end, stride) = (step.vector(&[0])?, step.vector(&[1])?, step.vector(&[1])?);
    let steps =
        step.add(Op::StridedSlice(StridedSlice::default()), &[shape, begin, end, stride])?;
    let state = step.add(Op::Shape(DType::I32), &[c])?;
    let concat = Concat { axis: 0, activation: Activation::Linear };
    let shape = step.add(Op::Concat(concat), &[steps, state])?;
    let zero = step.builder.constant_value(&step.node.name, Tensor::zeros(DType::F32, &[])?);
    step.add(Op::Fill, &[shape, zero])
}
