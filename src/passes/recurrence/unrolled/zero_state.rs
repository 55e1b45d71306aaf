//! First steps that a converter has simplified because their state is zero.

use crate::graph::ValueId;
use crate::graph::op::Activation;
use crate::passes::recurrence::algebra::{Algebra, is_zero};
use crate::passes::recurrence::step::{Form, Gate, Product, Step};

/// One step alone must be beyond doubt: any gated value looks like an LSTM without an output
/// activation, any layer like an RNN.
pub fn is_plain(step: &Step) -> bool {
    matches!(step.form, Form::Rnn | Form::Lstm { output: Activation::Linear, .. })
}

/// Whether gates are missing because the old state is zero.
pub fn is_cut_short(step: &Step) -> bool {
    match step.form {
        Form::Lstm { .. } => step.c_old.is_none(),
        Form::Gru { .. } => step.h_old.is_none(),
        Form::Rnn => false,
    }
}

/// The gates of a step beside those of the full cell; gates that a step from the zero state has
/// lost are left out.
pub fn gate_pairs<'s>(step: &'s Step, full: &'s Step) -> Vec<(&'s Gate, &'s Gate)> {
    let missing = full.gates.len().saturating_sub(step.gates.len());
    let lost = match full.form {
        // The forget gate.
        Form::Lstm { coupled: false, .. } => 1,
        // The reset gate.
        Form::Gru { .. } => 1,
        Form::Lstm { .. } | Form::Rnn => usize::MAX,
    };
    let kept = full
        .gates
        .iter()
        .enumerate()
        .filter(|(k, _)| missing == 0 || *k != lost)
        .map(|(_, gate)| gate);
    step.gates.iter().zip(kept).collect()
}

/// Whether `before` is the step of the cell of `step` from the zero state; the state's weights act
/// on `h_old` in `step`.
pub fn from_zero(algebra: &Algebra<'_>, before: &Step, step: &Step, h_old: ValueId) -> bool {
    let at_zero = |state: Option<ValueId>| state.is_none_or(|state| is_zero(algebra, state));
    let starts = match before.form {
        Form::Lstm { .. } => at_zero(before.c_old),
        Form::Gru { .. } => at_zero(before.h_old),
        Form::Rnn => true,
    };
    let pairs = gate_pairs(before, step);
    let missing = step.gates.len() - pairs.len().min(step.gates.len());
    let projection = match (&before.projection, &step.projection) {
        (None, None) => true,
        (Some((a, p)), Some((b, q))) => a.same_weights(b) && p.close_to(q, a.rows.1),
        _ => false,
    };
    starts
        && missing <= 1
        && projection
        && before.cell_clip == step.cell_clip
        && before.projection_clip == step.projection_clip
        && pairs.iter().all(|(a, b)| is_gate_at_zero(algebra, a, b, step, h_old))
}

/// Whether `a` is what is left of gate `b` of `step` when the state is zero.
fn is_gate_at_zero(algebra: &Algebra<'_>, a: &Gate, b: &Gate, step: &Step, h_old: ValueId) -> bool {
    let on_zero = |product: &Product| is_zero(algebra, product.argument);
    let peephole = match (&a.peephole, &b.peephole) {
        // That of the old state is gone.
        (None, None) => true,
        (None, Some((state, _))) => Some(*state) == step.c_old,
        (Some((_, p)), Some((_, q))) => p.close_to(q, b.width),
        (Some(_), None) => false,
    };
    let found = |key: &Product, of: &[Product]| of.iter().any(|product| product.same_weights(key));
    // Weights of the input must all be there; those of the state may be gone, or act on zeros.
    let inputs =
        b.products.iter().filter(|key| key.argument != h_old).all(|key| found(key, &a.products));
    let others = a.products.iter().chain(&a.after_reset).all(|product| {
        let of_input =
            b.products.iter().any(|key| key.argument != h_old && product.same_weights(key));
        of_input || on_zero(product)
    });
    a.activation == b.activation
        && a.width == b.width
        && a.bias.close_to(&b.bias, a.width)
        && a.reset_bias.close_to(&b.reset_bias, a.width)
        && peephole
        && inputs
        && others
}
