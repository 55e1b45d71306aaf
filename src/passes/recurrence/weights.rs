//! From a matched step to the canonical cell: gate blocks in canonical order, rows = output units.

use super::algebra::Algebra;
use super::polynomial::Coefficient;
use super::step::{Form, Gate, Product, Reason, Step};
use crate::graph::ValueId;
use crate::graph::op::Activation;
use crate::graph::recurrent::{Arithmetic, Cell, CellWeights, Gru, Lstm, Matrix, Projection, Rnn};
use crate::tensor::{DType, Tensor};

/// A canonical cell, and the operands that its input weights act on, joined in this order.
pub struct Canonical {
    pub cell: Cell,
    pub weights: CellWeights,
    pub arithmetic: Arithmetic,
    /// Values and widths.
    pub inputs: Vec<(ValueId, usize)>,
}

/// Gathers the weights of a step whose old output state is `h_old`.
pub fn canonical(algebra: &Algebra<'_>, step: &Step, h_old: ValueId) -> Result<Canonical, Reason> {
    let gates = &step.gates;
    let units = gates.first().map(|gate| gate.width).ok_or("the cell has no gates")?;
    let output = step.projection.as_ref().map_or(units, |(projection, _)| projection.rows.1);
    let cell = cell(step)?;

    // Which product acts on what. Under `reset before`, R acts on r∘h, which the match has checked.
    let reset_before = step.form == Form::Gru { reset_after: false };
    let mut inputs: Vec<(ValueId, usize, usize)> = Vec::new();
    for product in gates.iter().flat_map(|gate| &gate.products) {
        if product.argument != h_old && !inputs.iter().any(|(value, ..)| *value == product.argument)
        {
            // Joined operands in the order of the columns of their weights.
            let (start, width) = match product.weights {
                Some(_) => product.columns,
                None => (0, algebra.width(product.argument).ok_or("an input of unknown width")?),
            };
            inputs.push((product.argument, start, width));
        }
    }
    inputs.sort_by_key(|&(_, start, _)| start);
    let inputs: Vec<(ValueId, usize)> =
        inputs.into_iter().map(|(value, _, width)| (value, width)).collect();
    if inputs.is_empty() {
        return Err("no weights act on an input".into());
    }
    if !reset_before
        && gates.iter().flat_map(|gate| &gate.after_reset).any(|product| product.argument != h_old)
    {
        return Err("the reset gate acts on something other than the old state".into());
    }
    let recurrent = |gate: &Gate| -> Vec<Product> {
        let on_state = gate.products.iter().filter(|product| product.argument == h_old);
        on_state.chain(&gate.after_reset).cloned().collect()
    };
    let has_weights = |gate: &Gate| recurrent(gate).iter().any(|product| product.weights.is_some());
    if !gates.iter().any(has_weights) {
        return Err("no weights act on the old state".into());
    }

    let arithmetic = arithmetic(algebra, step)?;
    let hybrid = arithmetic != Arithmetic::Float;
    let mut input = Blocks::new(algebra, hybrid);
    let mut state = Blocks::new(algebra, hybrid);
    for gate in gates {
        let mut blocks = Vec::new();
        let mut start = 0;
        for (value, width) in &inputs {
            for product in gate.products.iter().filter(|product| product.argument == *value) {
                let first = if product.weights.is_none() { product.columns.0 } else { 0 };
                let fits = match product.weights {
                    Some(_) => product.columns.1 == *width,
                    None => first.checked_add(product.columns.1).is_some_and(|end| end <= *width),
                };
                if !fits {
                    return Err("an input is used with two widths".into());
                }
                blocks.push((product.clone(), start + first));
            }
            start += width;
        }
        input.gate(units, start, &blocks)?;
        let blocks: Vec<_> = recurrent(gate).into_iter().map(|product| (product, 0)).collect();
        if blocks.iter().any(|(product, _)| product.columns.1 != output) {
            return Err("the recurrent weights have another width than the state".into());
        }
        state.gate(units, output, &blocks)?;
    }
    let projection = match &step.projection {
        None => None,
        Some((product, bias)) => {
            let mut blocks = Blocks::new(algebra, hybrid);
            blocks.gate(product.rows.1, product.columns.1, &[(product.clone(), 0)])?;
            Some(Projection { weight: blocks.finish()?, bias: vector([(bias, product.rows.1)])? })
        }
    };
    let reset_bias = match (&step.form, gates.last()) {
        (Form::Gru { reset_after: true }, Some(candidate)) => {
            vector([(&candidate.reset_bias, units)])?
        }
        _ => None,
    };
    let weights = CellWeights {
        input: input.finish()?,
        recurrent: state.finish()?,
        auxiliary: None,
        bias: vector(gates.iter().map(|gate| (&gate.bias, units)))?,
        recurrent_bias: reset_bias,
        peephole: peephole(step, units)?,
        layer_norm: None,
        projection,
    };
    Ok(Canonical { cell, weights, arithmetic, inputs })
}

fn cell(step: &Step) -> Result<Cell, Reason> {
    let activation =
        |k: usize| step.gates.get(k).map(|gate| gate.activation).ok_or("a gate is missing");
    let same = |a: Activation, b: Activation| {
        (a == b).then_some(a).ok_or_else(|| {
            format!("gates with different activations ({} and {})", a.name(), b.name())
        })
    };
    Ok(match step.form {
        Form::Lstm { coupled, output } => {
            let first = usize::from(!coupled);
            let mut gate = same(activation(first)?, activation(first + 2)?)?;
            if !coupled {
                gate = same(gate, activation(0)?)?;
            }
            Cell::Lstm(Lstm {
                gate,
                candidate: activation(first + 1)?,
                output,
                coupled_input_forget: coupled,
                cell_clip: step.cell_clip.map(|clip| clip as f32),
                projection_clip: step.projection_clip.map(|clip| clip as f32),
            })
        }
        Form::Gru { reset_after } => {
            let gate = same(activation(0)?, activation(1)?)?;
            Cell::Gru(Gru { gate, candidate: activation(2)?, reset_after })
        }
        Form::Rnn => Cell::Rnn(Rnn { activation: activation(0)? }),
    })
}

/// Input, forget, output; or forget, output when coupled.
fn peephole(step: &Step, units: usize) -> Result<Option<Matrix>, Reason> {
    if step.gates.iter().all(|gate| gate.peephole.is_none()) {
        return Ok(None);
    }
    let zero = Coefficient::Scalar(0.0);
    let candidate = step.gates.len().saturating_sub(2);
    let gates = step.gates.iter().enumerate().filter(|(k, _)| *k != candidate);
    let rows: Vec<(&Coefficient, usize)> = gates
        .map(|(_, gate)| (gate.peephole.as_ref().map_or(&zero, |(_, factor)| factor), units))
        .collect();
    Ok(Some(Matrix::float(dense(rows)?)))
}

/// Float, or hybrid when every matrix is int8.
fn arithmetic(algebra: &Algebra<'_>, step: &Step) -> Result<Arithmetic, Reason> {
    let products: Vec<&Product> =
        step.products().chain(step.projection.as_ref().map(|(product, _)| product)).collect();
    let is_int8 = |product: &Product| {
        let weights = product.weights.and_then(|id| algebra.graph.constant(id));
        weights.is_some_and(|tensor| tensor.dtype() == DType::I8)
    };
    let Some(first) = products.iter().find(|product| is_int8(product)) else {
        return Ok(Arithmetic::Float);
    };
    if !products.iter().all(|product| is_int8(product)) {
        return Err("some weights of the cell are int8, others float".into());
    }
    if products.iter().any(|product| product.asymmetric != first.asymmetric) {
        return Err("the products of the cell quantize their inputs in different ways".into());
    }
    if products.iter().any(|product| product.joined != product.columns.1) {
        return Err("input and state are quantized together: no hybrid layer does that".into());
    }
    Ok(Arithmetic::Hybrid { asymmetric: first.asymmetric })
}

/// Rows of gate blocks, one block after the other.
struct Blocks<'a> {
    algebra: &'a Algebra<'a>,
    hybrid: bool,
    rows: usize,
    columns: usize,
    float: Vec<f32>,
    int8: Vec<i8>,
    scales: Vec<f32>,
}

impl<'a> Blocks<'a> {
    fn new(algebra: &'a Algebra<'a>, hybrid: bool) -> Self {
        Blocks {
            algebra,
            hybrid,
            rows: 0,
            columns: 0,
            float: Vec::new(),
            int8: Vec::new(),
            scales: Vec::new(),
        }
    }

    /// Adds the rows of one gate: the sum of `blocks`, each from its first column on.
    fn gate(
        &mut self,
        rows: usize,
        columns: usize,
        blocks: &[(Product, usize)],
    ) -> Result<(), Reason> {
        (self.rows, self.columns) = (self.rows + rows, columns);
        if self.hybrid {
            return self.hybrid_gate(rows, columns, blocks);
        }
        let mut sum = vec![0f64; rows.checked_mul(columns).ok_or("the weights are too large")?];
        for (product, offset) in blocks {
            if product.weights.is_none() {
                for row in 0..rows {
                    let slot = sum.get_mut(row * columns + offset + row);
                    *slot.ok_or("weights out of range")? += product.factor.at(row);
                }
                continue;
            }
            let tensor = self.weights(product)?;
            let data = tensor.to_f32();
            for row in 0..rows {
                let factor = product.factor.at(row);
                for column in 0..product.columns.1 {
                    let from = index(product, tensor, row, column).ok_or("weights out of range")?;
                    let (Some(slot), Some(&weight)) =
                        (sum.get_mut(row * columns + offset + column), data.get(from))
                    else {
                        return Err("weights out of range".into());
                    };
                    *slot += factor * f64::from(weight);
                }
            }
        }
        self.float.extend(sum.into_iter().map(|x| x as f32));
        Ok(())
    }

    fn hybrid_gate(
        &mut self,
        rows: usize,
        columns: usize,
        blocks: &[(Product, usize)],
    ) -> Result<(), Reason> {
        let [(product, 0)] = blocks else {
            return Err("a gate without, or with several, int8 products".into());
        };
        if product.columns != (0, columns) || !product.factor.is(1.0) {
            return Err("int8 weights with a factor".into());
        }
        let tensor = self.weights(product)?;
        let data = tensor.as_slice::<i8>().map_err(|error| error.to_string())?;
        let ty = product.weights.and_then(|id| self.algebra.graph.ty(id));
        let quantization =
            ty.and_then(|ty| ty.quantization.as_ref()).ok_or("int8 weights without a scale")?;
        if quantization.zero_points.iter().any(|&zero| zero != 0) {
            return Err("int8 weights with a zero point".into());
        }
        let outputs_axis = usize::from(product.transposed);
        for row in 0..rows {
            let scale = match quantization.scales.as_slice() {
                [scale] => Some(*scale),
                scales if quantization.axis == outputs_axis => {
                    scales.get(product.rows.0 + row).copied()
                }
                _ => return Err("int8 weights with a scale for each input".into()),
            };
            self.scales.push(scale.ok_or("a scale of the int8 weights is missing")?);
            for column in 0..columns {
                let from = index(product, tensor, row, column).ok_or("weights out of range")?;
                self.int8.push(data.get(from).copied().ok_or("weights out of range")?);
            }
        }
        Ok(())
    }

    fn weights(&self, product: &Product) -> Result<&'a Tensor, Reason> {
        self.algebra
            .graph
            .constant(product.weights.ok_or("a product without weights")?)
            .ok_or_else(|| "the weights are no constant".into())
    }

    fn finish(self) -> Result<Matrix, Reason> {
        let shape = [self.rows, self.columns];
        if !self.hybrid {
            return Ok(Matrix::float(
                Tensor::from_vec(&shape, self.float).map_err(|error| error.to_string())?,
            ));
        }
        // One scale for all rows where they agree.
        let scales = match self.scales.split_first() {
            Some((first, rest)) if rest.iter().all(|scale| scale == first) => vec![*first],
            _ => self.scales,
        };
        Ok(Matrix {
            data: Tensor::from_vec(&shape, self.int8).map_err(|error| error.to_string())?,
            scales,
        })
    }
}

/// Where row `row`, column `column` of a product stands in its stored weights.
fn index(product: &Product, tensor: &Tensor, row: usize, column: usize) -> Option<usize> {
    let stride = *tensor.shape().get(1)?;
    let (row, column) = (product.rows.0.checked_add(row)?, product.columns.0.checked_add(column)?);
    let (major, minor) = if product.transposed { (column, row) } else { (row, column) };
    (minor < stride).then_some(())?;
    major.checked_mul(stride)?.checked_add(minor)
}

/// The factors of consecutive blocks as f32; `None` when all are 0.
fn vector<'a>(
    blocks: impl IntoIterator<Item = (&'a Coefficient, usize)>,
) -> Result<Option<Tensor>, Reason> {
    let blocks: Vec<_> = blocks.into_iter().collect();
    if blocks.iter().all(|(factor, _)| factor.is(0.0)) {
        return Ok(None);
    }
    dense(blocks).map(Some)
}

fn dense<'a>(blocks: impl IntoIterator<Item = (&'a Coefficient, usize)>) -> Result<Tensor, Reason> {
    let data: Vec<f32> = blocks
        .into_iter()
        .flat_map(|(factor, rows)| (0..rows).map(move |k| factor.at(k) as f32))
        .collect();
    Tensor::from_vec(&[data.len()], data).map_err(|error| error.to_string())
}
