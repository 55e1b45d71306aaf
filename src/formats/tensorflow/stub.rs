//! Calls that TensorFlow's own stub pass has made single nodes: the fused recurrent ops of hinted
//! graphs, and custom ops.

use std::sync::Arc;

use super::hints::CUSTOM;
use super::step::{Step, Val};
use crate::error::{Error, Place, Result};
use crate::graph::op::{Activation, Custom};
use crate::graph::recurrent::{
    Arithmetic, Cell, CellWeights, Direction, Layout, Lstm, Masking, Matrix, Merge, Projection,
    Recurrent, Rnn, Source,
};
use crate::graph::{Op, ValueId, ValueType};
use crate::tensor::{DType, Tensor};

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    match step.node.op.as_str() {
        "UnidirectionalSequenceLstm" => lstm(step).map(Some),
        "UnidirectionalSequenceRnn" => rnn(step).map(Some),
        op => match op.strip_prefix(CUSTOM) {
            Some(name) => custom(step, name.to_owned()).map(Some),
            None if step.node.attrs.contains_key("_tflite_input_indices") => {
                let name = op.to_owned();
                custom(step, name).map(Some)
            }
            None => Ok(None),
        },
    }
}

/// An op that only its name is known of. The number of its results is an attribute where we made
/// it, else it is one.
fn custom(step: &mut Step<'_, '_>, name: String) -> Result<Vec<Val>> {
    let operands = step.tensors()?;
    let count = usize::try_from(step.node.int_or("num", 1)?).unwrap_or(1).max(1);
    let inputs = operands.into_iter().map(Some).collect();
    let mut outputs = Vec::with_capacity(count);
    for index in 0..count {
        let name = super::build::port(&step.node.name, index);
        outputs.push(step.builder.graph.add_value(name, ValueType::unranked(DType::F32)));
    }
    let op = Op::Custom(Custom { name, options: Vec::new() });
    step.builder.graph.add_node(
        step.node.name.clone(),
        op,
        inputs,
        outputs.iter().copied().map(Some).collect(),
    );
    Ok(outputs.into_iter().map(Val::Tensor).collect())
}

/// Operands by index; those that the stub pass filled up with a shared constant are absent.
struct Operands<'a, 's, 'c> {
    step: &'a Step<'s, 'c>,
    genuine: Option<Vec<i64>>,
}

impl<'a, 's, 'c> Operands<'a, 's, 'c> {
    fn new(step: &'a Step<'s, 'c>) -> Result<Self> {
        let genuine = step.node.list("_tflite_input_indices")?.map(|list| list.i.clone());
        Ok(Operands { step, genuine })
    }

    fn get(&self, index: usize) -> Result<Option<ValueId>> {
        let is_genuine =
            self.genuine.as_ref().is_none_or(|genuine| genuine.contains(&(index as i64)));
        if index >= self.step.inputs.len() || !is_genuine {
            return Ok(None);
        }
        self.step.tensor(index).map(Some)
    }

    fn needed(&self, index: usize) -> Result<ValueId> {
        self.get(index)?.ok_or_else(|| Error::malformed(format!("operand {index} is missing")))
    }

    /// The elements of weights.
    fn weight(&self, index: usize) -> Result<Option<&'a Tensor>> {
        let Some(id) = self.get(index)? else { return Ok(None) };
        let tensor = self.step.builder.constant(id);
        let tensor = tensor.ok_or_else(|| {
            Error::unsupported(format!("the weights of operand {index} are no constant"))
        })?;
        if tensor.dtype() != DType::F32 {
            return Err(Error::unsupported(format!(
                "the weights of operand {index} are {}",
                tensor.dtype()
            )));
        }
        Ok(Some(tensor))
    }

    /// Weights of the four gates, one below the other; `None` when none of them is there.
    fn stacked<const N: usize>(&self, indices: [usize; N]) -> Result<Option<Tensor>> {
        let mut parts = Vec::with_capacity(N);
        for index in indices {
            parts.extend(self.weight(index)?);
        }
        let Some(first) = parts.first() else { return Ok(None) };
        if parts.len() != N
            || parts.iter().any(|part| part.shape().get(1..) != first.shape().get(1..))
        {
            return Err(Error::malformed(format!(
                "operands {indices:?} are no gates of one layer"
            )));
        }
        let rows = parts.iter().map(|part| part.shape().first().copied().unwrap_or(0)).sum();
        let mut shape = first.shape().to_vec();
        match shape.first_mut() {
            Some(first) => *first = rows,
            None => return Err(Error::malformed(format!("operands {indices:?} are scalars"))),
        }
        let data: Vec<f32> = parts.iter().flat_map(|part| part.to_f32().into_owned()).collect();
        Tensor::from_vec(&shape, data).map(Some)
    }
}

fn lstm(step: &mut Step<'_, '_>) -> Result<Vec<Val>> {
    let operands = Operands::new(step)?;
    let missing = |what: &str| Error::malformed(format!("the {what} are missing"));
    let projection = operands.weight(16)?.map(|weight| {
        Ok::<_, Error>(Projection {
            weight: Matrix::float(weight.clone()),
            bias: operands.weight(17)?.cloned(),
        })
    });
    let weights = CellWeights {
        input: Matrix::float(
            operands.stacked([1, 2, 3, 4])?.ok_or_else(|| missing("input weights"))?,
        ),
        recurrent: Matrix::float(
            operands.stacked([5, 6, 7, 8])?.ok_or_else(|| missing("recurrent weights"))?,
        ),
        auxiliary: None,
        bias: operands.stacked([12, 13, 14, 15])?,
        recurrent_bias: None,
        peephole: operands.stacked([9, 10, 11])?.map(Matrix::float),
        layer_norm: operands.stacked([20, 21, 22, 23])?.map(Matrix::float),
        projection: projection.transpose()?,
    };
    // The stub carries neither clips nor activations: these are the fused op's own.
    let cell = Cell::Lstm(Lstm {
        gate: Activation::Sigmoid,
        candidate: Activation::Tanh,
        output: Activation::Tanh,
        coupled_input_forget: false,
        cell_clip: None,
        projection_clip: None,
    });
    let inputs = vec![Some(operands.needed(0)?), None, None, operands.get(18)?, operands.get(19)?];
    let outputs = layer(step, cell, weights, inputs)?;
    // Result 0 of the stub was never marked, 1 is the final cell state, 2 the sequence.
    let (sequence, _, cell_state) = outputs;
    Ok(vec![
        Val::Opaque("result 0 of the fused op was never marked".into()),
        Val::Tensor(cell_state),
        Val::Tensor(sequence),
    ])
}

fn rnn(step: &mut Step<'_, '_>) -> Result<Vec<Val>> {
    let operands = Operands::new(step)?;
    let needed = |index: usize| {
        operands
            .weight(index)?
            .cloned()
            .ok_or_else(|| Error::malformed(format!("operand {index} is missing")))
    };
    let weights = CellWeights {
        input: Matrix::float(needed(1)?),
        recurrent: Matrix::float(needed(2)?),
        auxiliary: None,
        bias: operands.weight(3)?.cloned(),
        recurrent_bias: None,
        peephole: None,
        layer_norm: None,
        projection: None,
    };
    let inputs = vec![Some(operands.needed(0)?), None, None, operands.get(4)?, None];
    let (sequence, ..) =
        layer(step, Cell::Rnn(Rnn { activation: Activation::Tanh }), weights, inputs)?;
    Ok(vec![Val::Opaque("result 0 of the fused op was never marked".into()), Val::Tensor(sequence)])
}

/// Adds the layer; its sequence, final output state and final cell state.
fn layer(
    step: &mut Step<'_, '_>,
    cell: Cell,
    weights: CellWeights,
    inputs: Vec<Option<ValueId>>,
) -> Result<(ValueId, ValueId, ValueId)> {
    let has_cell_state = cell.has_cell_state();
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
    let slots = if has_cell_state { layer.output_slots() } else { Recurrent::h_n(0) + 1 };
    let name = step.node.name.clone();
    let derived = &mut step.context.derived;
    let ids = step
        .builder
        .add(derived, &name, Op::Recurrent(layer), inputs, slots)
        .within(|| "fused layer")?;
    // Slot 1 is the second direction's sequence.
    if let Some(node) = step.builder.graph.nodes.last_mut()
        && let Some(output) = node.outputs.get_mut(Recurrent::y(1))
    {
        *output = None;
    }
    let get = |slot: usize| {
        ids.get(slot).copied().ok_or_else(|| Error::internal("a fused layer without results"))
    };
    let cell_state = if has_cell_state { get(Recurrent::c_n(0))? } else { get(Recurrent::h_n(0))? };
    Ok((get(Recurrent::y(0))?, get(Recurrent::h_n(0))?, cell_state))
}
