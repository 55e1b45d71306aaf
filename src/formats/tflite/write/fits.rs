//! Whether one fused operator computes a recurrent op.

use super::recurrent::is_hybrid;
use crate::graph::Node;
use crate::graph::op::Activation;
use crate::graph::recurrent::{Arithmetic, Cell, Direction, Layout, Lstm, Recurrent, Rnn, Source};

/// Whether one fused operator computes this op; the reason when none does.
pub(super) fn fits(op: &Recurrent, node: &Node) -> Result<(), String> {
    if node.input(Recurrent::MASK).is_some() {
        return Err("lengths or a mask".to_owned());
    }
    if op.gate_clip.is_some() {
        return Err("bounds of what goes into the gates".to_owned());
    }
    match &op.cell {
        Cell::Lstm(lstm) => lstm_fits(lstm)?,
        Cell::Rnn(rnn) => rnn_fits(rnn)?,
        Cell::Gru(_) => return Err("a GRU".to_owned()),
    }
    if is_hybrid(op) {
        one_scale_a_gate(op)?;
    }
    match op.directions.as_slice() {
        [only] => single_fits(op, only),
        [forward, backward] => both_fit(op, forward, backward),
        _ => Err("neither one nor two directions".to_owned()),
    }
}

fn one_scale_a_gate(op: &Recurrent) -> Result<(), String> {
    let gates = op.cell.gate_blocks();
    for direction in &op.directions {
        let weights = &direction.weights;
        let blocks = [Some((&weights.input, gates)), Some((&weights.recurrent, gates))];
        let more = [
            weights.auxiliary.as_ref().map(|m| (m, gates)),
            weights.projection.as_ref().map(|p| (&p.weight, 1)),
        ];
        for (matrix, blocks) in blocks.into_iter().chain(more).flatten() {
            if matrix.scales.len() != blocks && matrix.scales.len() != 1 {
                return Err(format!(
                    "weights with {} scales for {blocks} gates",
                    matrix.scales.len()
                ));
            }
        }
    }
    Ok(())
}

fn lstm_fits(lstm: &Lstm) -> Result<(), String> {
    if lstm.gate != Activation::Sigmoid {
        return Err(format!("gates with {:?}", lstm.gate));
    }
    if lstm.candidate != lstm.output {
        return Err(format!(
            "{:?} for the candidate and {:?} for the output",
            lstm.candidate, lstm.output
        ));
    }
    match lstm.candidate {
        Activation::Tanh | Activation::Relu | Activation::Relu6 => Ok(()),
        other => Err(format!("the activation {other:?}")),
    }
}

fn rnn_fits(rnn: &Rnn) -> Result<(), String> {
    match rnn.activation {
        Activation::Tanh | Activation::Relu | Activation::Relu6 | Activation::Linear => Ok(()),
        other => Err(format!("the activation {other:?}")),
    }
}

fn single_fits(op: &Recurrent, direction: &Direction) -> Result<(), String> {
    if direction.reverse {
        return Err("a direction that runs backwards alone".to_owned());
    }
    if direction.source != Source::X {
        return Err("an auxiliary input instead of the input".to_owned());
    }
    if direction.weights.auxiliary.is_some() {
        return Err("auxiliary weights in a single direction".to_owned());
    }
    if matches!(op.arithmetic, Arithmetic::IntegerBasic { .. }) && op.layout != Layout::TimeMajor {
        return Err("the basic kernel in batch-major order".to_owned());
    }
    Ok(())
}

fn both_fit(op: &Recurrent, forward: &Direction, backward: &Direction) -> Result<(), String> {
    if forward.reverse || !backward.reverse || forward.source != Source::X {
        return Err("directions other than forward and backward".to_owned());
    }
    if !matches!(op.arithmetic, Arithmetic::Float | Arithmetic::Hybrid { .. }) {
        return Err("integer arithmetic in both directions".to_owned());
    }
    let gates = op.cell.gate_blocks();
    if matches!(op.cell, Cell::Lstm(_)) {
        let (a, b) = (forward.weights.units(gates), backward.weights.units(gates));
        if a != b {
            return Err(format!("{a} and {b} units"));
        }
        if [forward, backward].iter().any(|direction| direction.weights.layer_norm.is_some()) {
            return Err("layer norm in both directions".to_owned());
        }
    } else if matches!(op.arithmetic, Arithmetic::Hybrid { .. }) && op.layout == Layout::TimeMajor {
        // The kernel then runs the whole sequence once for each of its steps.
        return Err("hybrid arithmetic in time-major order, which the kernel gets wrong".to_owned());
    }
    if forward.weights.is_diagonal() || backward.weights.is_diagonal() {
        return Err("diagonal recurrent weights in both directions".to_owned());
    }
    let width = forward.weights.input.columns();
    let auxiliary = match (&forward.weights.auxiliary, &backward.weights.auxiliary, backward.source)
    {
        (None, None, Source::X) => width,
        (Some(a), Some(b), Source::X) if a.columns() == b.columns() => a.columns(),
        (None, None, Source::Auxiliary) => backward.weights.input.columns(),
        _ => return Err("auxiliary weights in one direction".to_owned()),
    };
    // The kernels step through the auxiliary input with the input's stride.
    if auxiliary != width {
        Err(format!("an auxiliary input of width {auxiliary} beside an input of {width}"))
    } else {
        Ok(())
    }
}
