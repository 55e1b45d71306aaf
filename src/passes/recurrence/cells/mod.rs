//! One step of a cell, found from its equations.
//!
//! A match starts at the value that may be the new output state and works backwards through
//! [`Algebra`]'s normal form. Which operand is the input and which the old state is not decided
//! here: what repeats the step knows.
mod gates;
mod gru;
mod lstm;

use gates::{gate, gate_of};
pub use lstm::cell_update;

use super::algebra::Algebra;
use super::polynomial::{Polynomial, Role};
use super::step::{Form, Step};
use crate::graph::ValueId;
use crate::graph::op::Activation;

/// The step whose new output state is `root`; `None` when it is none.
pub fn match_step(algebra: &Algebra<'_>, root: ValueId) -> Option<Step> {
    let whole = algebra.whole(root)?;
    let sum = algebra.define(whole);
    lstm::match_lstm(algebra, root, &sum)
        .or_else(|| gru::match_gru(algebra, root, &sum))
        .or_else(|| match_rnn(algebra, root, &sum))
}

/// `h' = activation(W x + R h + b)`
fn match_rnn(algebra: &Algebra<'_>, root: ValueId, sum: &Polynomial) -> Option<Step> {
    let whole = algebra.whole(root)?;
    let gate = match sum.as_atom() {
        Some(atom) if atom.role == Role::Activated => gate(algebra, atom, None)?,
        Some(atom) if atom.role == Role::Clipped => gate(algebra, atom, None)?,
        _ => gate_of(algebra, sum, Activation::Linear, whole.len, None)?,
    };
    // Without weights: a first step from the zero state, whose product with the input was computed
    // elsewhere. Plain sums are no steps.
    let plausible = !gate.products.is_empty() && gate.activation != Activation::Linear;
    if !(gate.has_weights() || plausible) || gate.peephole.is_some() || gate.width != whole.len {
        return None;
    }
    Some(Step {
        form: Form::Rnn,
        gates: vec![gate],
        h_new: root,
        h_old: None,
        c_new: None,
        c_old: None,
        cell_clip: None,
        projection: None,
        projection_clip: None,
    })
}
