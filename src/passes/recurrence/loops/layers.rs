//! The cells whose states the variables of a loop are.

use std::collections::{HashMap, HashSet};

use super::body::Loop;
use super::variables::Variable;
use crate::graph::recurrent::Layout;
use crate::graph::{Op, Recurrent, ValueId};
use crate::passes::recurrence::cells::match_step;
use crate::passes::recurrence::shape_tracer::ShapeTracer;
use crate::passes::recurrence::step::{Form, Reason};
use crate::passes::recurrence::weights::{Canonical, canonical};

/// A cell of the loop, by the position of its output state.
pub struct Layer {
    /// The new output state.
    pub h_new: ValueId,
    /// The new cell state.
    pub c_new: Option<ValueId>,
    pub canonical: Canonical,
    /// Position of the cell state.
    pub cell_state: Option<usize>,
}

/// The cells, by the position of their output state; every state is that of one.
pub fn layers(this: &Loop<'_>, variables: &[Variable]) -> Result<HashMap<usize, Layer>, Reason> {
    let mut layers = HashMap::new();
    let mut taken = vec![false; variables.len()];
    for (k, variable) in variables.iter().enumerate() {
        let Variable::State { next, .. } = variable else { continue };
        if let Some(layer) = one_step_op(this, variables, *next, k) {
            taken[k] = true;
            if let Some(j) = layer.cell_state {
                taken[j] = true;
            }
            layers.insert(k, layer);
            continue;
        }
        let Some(step) = match_step(&this.algebra, *next) else { continue };
        let mut cell_state = None;
        if let Form::Lstm { .. } = step.form {
            match cell_state_of(this, variables, (step.c_new, step.c_old), k) {
                Some(j) => cell_state = Some(j),
                None => continue,
            }
        }
        if step.h_old.is_some_and(|h_old| h_old != this.inputs[k]) {
            continue;
        }
        let canonical = canonical(&this.algebra, &step, this.inputs[k])
            .map_err(|reason| format!("state {k}: {reason}"))?;
        taken[k] = true;
        if let Some(j) = cell_state {
            taken[j] = true;
        }
        let (h_new, c_new) = (step.h_new, step.c_new);
        layers.insert(k, Layer { h_new, c_new, canonical, cell_state });
    }
    for (k, variable) in variables.iter().enumerate() {
        if matches!(variable, Variable::Other) {
            return Err(format!(
                "loop variable {k} is chosen between two values, neither of which it had before"
            ));
        }
        if matches!(variable, Variable::State { .. }) && !taken[k] {
            return Err(format!("loop variable {k} is not the state of an LSTM, GRU or RNN cell"));
        }
    }
    Ok(layers)
}

/// A recurrent op of one step, as exporters of single cells write them.
fn one_step_op(this: &Loop<'_>, variables: &[Variable], next: ValueId, k: usize) -> Option<Layer> {
    let (node, slot) = this.algebra.producer(next)?;
    let Op::Recurrent(op) = &node.op else { return None };
    let [direction] = op.directions.as_slice() else { return None };
    let others = [Recurrent::MASK, Recurrent::AUXILIARY].map(|slot| node.input(slot));
    let h_old = node.input(Recurrent::h0(0))?;
    // [1, B, I]: an axis that was only added.
    let (lifted, _) = this.algebra.producer(node.input(Recurrent::X)?)?;
    let axis = lifted.input(1).and_then(|axis| this.integers(axis));
    let time = i64::from(op.layout == Layout::BatchMajor);
    let adds = matches!(lifted.op, Op::ExpandDims) && axis == Some(vec![time]);
    let fits = slot == Recurrent::h_n(0) && others == [None; 2] && this.variable(h_old) == Some(k);
    (fits && adds).then_some(())?;
    let c_new = node.output(Recurrent::c_n(0)).filter(|_| op.cell.has_cell_state());
    let cell_state = match op.cell.has_cell_state() {
        false => None,
        true => {
            let c_old = node.input(Recurrent::c0(0))?;
            Some(cell_state_of(this, variables, (Some(c_new?), Some(c_old)), k)?)
        }
    };
    let x = this.algebra.resolve(lifted.input(0)?);
    let canonical = Canonical {
        cell: op.cell.clone(),
        weights: (*direction.weights).clone(),
        arithmetic: op.arithmetic.clone(),
        inputs: vec![(x, direction.weights.input.columns())],
    };
    Some(Layer { h_new: next, c_new, canonical, cell_state })
}

/// Position of the variable that is the cell state, new and old, beside output state `k`.
fn cell_state_of(
    this: &Loop<'_>,
    variables: &[Variable],
    (c_new, c_old): (Option<ValueId>, Option<ValueId>),
    k: usize,
) -> Option<usize> {
    let Variable::State { mask, .. } = variables.get(k)? else { return None };
    let is_cell_state = |(j, other): (usize, &Variable)| match other {
        Variable::State { next, mask: other } => {
            Some(*next) == c_new && Some(this.inputs[j]) == c_old && other == mask
        }
        _ => false,
    };
    variables.iter().enumerate().position(is_cell_state).filter(|&j| j != k)
}

/// States that hold the output of the iteration before are no states of a cell: the same choice is
/// written to a list.
pub fn mark_outputs(this: &Loop<'_>, tracer: &ShapeTracer, variables: &mut [Variable]) {
    let items: HashSet<ValueId> = variables
        .iter()
        .filter_map(|variable| match variable {
            Variable::List { item, .. } | Variable::Last { item } => Some(*item),
            _ => None,
        })
        .collect();
    let mut sharing: HashMap<ValueId, usize> = HashMap::new();
    for variable in variables.iter() {
        if let Variable::State { next, .. } = variable {
            *sharing.entry(*next).or_default() += 1;
        }
    }
    for (k, variable) in variables.iter_mut().enumerate() {
        let written = items.contains(&this.nexts[k]);
        let is_output = match variable {
            Variable::Other => written && !this.is_used(k),
            // The state itself comes under the same choice, with its own old value.
            Variable::State { mask: Some(_), next } => {
                let shared = sharing.get(next).is_some_and(|&count| count > 1);
                shared && written && tracer.is_zero(this.operands[k])
            }
            _ => false,
        };
        if is_output {
            if let Variable::State { next, .. } = variable {
                // The last one that shares a value stays its state.
                *sharing.entry(*next).or_default() -= 1;
            }
            *variable = Variable::Output;
        }
    }
}
