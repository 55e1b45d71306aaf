//! The cells whose states the variables of a loop are.

use std::collections::{HashMap, HashSet};

use super::body::Loop;
use super::variables::Variable;
use crate::graph::ValueId;
use crate::passes::recurrence::cells::match_step;
use crate::passes::recurrence::shape_tracer::ShapeTracer;
use crate::passes::recurrence::step::{Form, Reason, Step};
use crate::passes::recurrence::weights::{Canonical, canonical};

/// A cell of the loop, by the position of its output state.
pub struct Layer {
    pub step: Step,
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
        let Some(step) = match_step(&this.algebra, *next) else { continue };
        let mut cell_state = None;
        if let Form::Lstm { .. } = step.form {
            match cell_state_of(this, variables, &step, k) {
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
        layers.insert(k, Layer { step, canonical, cell_state });
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

/// Position of the variable that is the cell state of a step with output state `k`.
fn cell_state_of(this: &Loop<'_>, variables: &[Variable], step: &Step, k: usize) -> Option<usize> {
    let Variable::State { mask, .. } = variables.get(k)? else { return None };
    let is_cell_state = |(j, other): (usize, &Variable)| match other {
        Variable::State { next, mask: other } => {
            Some(*next) == step.c_new && Some(this.inputs[j]) == step.c_old && other == mask
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
