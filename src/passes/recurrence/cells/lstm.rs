//! LSTM: `h' = o ∘ output(c')`, `c' = f∘c + i∘g`, perhaps with a projection of `h'`.

use super::gates::{gate, is_gate};
use crate::graph::ValueId;
use crate::graph::op::Activation;
use crate::passes::recurrence::algebra::Algebra;
use crate::passes::recurrence::polynomial::{Atom, Coefficient, Columns, Polynomial, Role};
use crate::passes::recurrence::step::{Form, Gate, Product, Step};

/// `m = o ∘ output(c')`: the output gate's atom, the new cell state and the activation in between.
fn gated_output(algebra: &Algebra<'_>, sum: &Polynomial) -> Option<(Atom, ValueId, Activation)> {
    let mut terms = sum.terms.iter();
    let (Some((atoms, factor)), None) = (terms.next(), terms.next()) else { return None };
    let (&[a, b], true) = (atoms.as_slice(), factor.is(1.0)) else { return None };
    for (gate, other) in [(a, b), (b, a)] {
        if !is_gate(algebra, gate) {
            continue;
        }
        // The activated side: its operand is no sum of products with weights.
        if other.role == Role::Activated {
            let Some(inner) = algebra.activation_operand(other.part.value) else { continue };
            let inner = algebra.through(inner);
            let Some((_, activation)) = algebra.before_activation(other.part) else { continue };
            let whole = algebra.whole(inner).is_some_and(|part| part.len == other.part.len);
            if whole && other.part.start == 0 && cell_update(algebra, inner).is_some() {
                return Some((gate, inner, activation));
            }
        } else if other.role == Role::Leaf
            && algebra.is_cut(other.part.value)
            && algebra.whole(other.part.value) == Some(other.part)
            && cell_update(algebra, other.part.value).is_some()
        {
            return Some((gate, other.part.value, Activation::Linear));
        }
    }
    None
}

/// The new cell state behind its clip: the terms of `f∘c + i∘g`, and the clip.
pub fn cell_update(algebra: &Algebra<'_>, c_new: ValueId) -> Option<(Polynomial, Option<f64>)> {
    let whole = algebra.whole(c_new)?;
    let (inner, clip) = unclipped(algebra, c_new)?;
    let sum = algebra.define(Columns { value: inner, ..whole });
    // Every term is a product of two, or a lone factor of the coupled form.
    let plausible = !sum.terms.is_empty()
        && sum.terms.len() <= 3
        && sum.terms.keys().all(|atoms| (1..=2).contains(&atoms.len()))
        && sum.terms.keys().any(|atoms| atoms.len() == 2)
        && sum.terms.keys().flatten().all(|atom| atom.role != Role::Product)
        && sum.terms.values().all(|factor| factor.is(1.0) || factor.is(-1.0));
    plausible.then_some((sum, clip))
}

/// The value behind a symmetric clip.
fn unclipped(algebra: &Algebra<'_>, value: ValueId) -> Option<(ValueId, Option<f64>)> {
    let Some(clip) = algebra.clip(value) else { return Some((value, None)) };
    (clip.low == -clip.high && clip.high > 0.0).then_some((clip.inner, Some(clip.high)))
}

pub fn match_lstm(algebra: &Algebra<'_>, root: ValueId, sum: &Polynomial) -> Option<Step> {
    if let Some((output_gate, c_new, output)) = gated_output(algebra, sum) {
        return lstm(algebra, root, output_gate, c_new, output);
    }
    // h' = Q m + q, clipped or not.
    let (inner, projection_clip) = unclipped(algebra, root)?;
    let inner_part = algebra.whole(root).map(|part| Columns { value: inner, ..part })?;
    let sum = algebra.define(inner_part);
    let products: Vec<_> = sum.terms.iter().filter(|(atoms, _)| !atoms.is_empty()).collect();
    let [(atoms, factor)] = products.as_slice() else { return None };
    let (&[product], true) = (atoms.as_slice(), factor.is(1.0)) else { return None };
    if product.role != Role::Product {
        return None;
    }
    let bias = sum.terms.get(&Vec::new()).cloned().unwrap_or(Coefficient::Scalar(0.0));
    let node = algebra.product(product.part.value)?;
    let hidden = algebra.through(node.argument);
    let hidden_sum = algebra.define(Columns { value: hidden, start: 0, len: node.shape.1 });
    let (output_gate, c_new, output) = gated_output(algebra, &hidden_sum)?;
    let mut step = lstm(algebra, root, output_gate, c_new, output)?;
    let projection = Product {
        argument: hidden,
        weights: Some(node.weights),
        transposed: node.transposed,
        asymmetric: node.asymmetric,
        rows: (product.part.start, product.part.len),
        columns: (0, node.shape.1),
        joined: node.shape.1,
        factor: Coefficient::Scalar(1.0),
    };
    step.projection = Some((projection, bias));
    step.projection_clip = projection_clip;
    Some(step)
}

/// The terms of a new cell state.
#[derive(Default)]
struct Terms {
    products: Vec<(Atom, Atom)>,
    negative: Option<(Atom, Atom)>,
    lone: Option<Atom>,
}

impl Terms {
    fn of(sum: &Polynomial) -> Option<Terms> {
        let mut terms = Terms::default();
        for (atoms, factor) in &sum.terms {
            match (atoms.as_slice(), factor.is(1.0)) {
                (&[a, b], true) => terms.products.push((a, b)),
                (&[a, b], false) if terms.negative.is_none() => terms.negative = Some((a, b)),
                (&[a], true) if terms.lone.is_none() => terms.lone = Some(a),
                _ => return None,
            }
        }
        Some(terms)
    }
}

/// The gates behind the terms of a new cell state.
struct Blend {
    coupled: bool,
    forget: Option<Gate>,
    c_old: Option<ValueId>,
    /// The input gate, or the forget gate when coupled, and the candidate, in either order.
    input: (Atom, Atom),
}

/// The old cell state, when an atom is one.
fn old_state(algebra: &Algebra<'_>, atom: Atom) -> Option<ValueId> {
    let state = atom.role == Role::Leaf && algebra.whole(atom.part.value) == Some(atom.part);
    state.then_some(atom.part.value)
}

/// A pair of a gate and the old cell state.
fn forget(algebra: &Algebra<'_>, a: Atom, b: Atom) -> Option<(Atom, ValueId)> {
    match (is_gate(algebra, a), is_gate(algebra, b)) {
        (true, false) => Some((a, old_state(algebra, b)?)),
        (false, true) => Some((b, old_state(algebra, a)?)),
        _ => None,
    }
}

fn blend(algebra: &Algebra<'_>, terms: &Terms) -> Option<Blend> {
    let gate_of = |atom: Atom, state: Option<ValueId>| gate(algebra, atom, state);
    match (terms.products.as_slice(), terms.negative, terms.lone) {
        // f∘c + i∘g
        (&[(a, b), (c, d)], None, None) => {
            let ((f, state), input) = forget(algebra, a, b)
                .map(|found| (found, (c, d)))
                .or_else(|| forget(algebra, c, d).map(|found| (found, (a, b))))?;
            let forget = Some(gate_of(f, Some(state))?);
            Some(Blend { coupled: false, forget, c_old: Some(state), input })
        }
        // i∘g: the old state is zero
        (&[input], None, None) => Some(Blend { coupled: false, forget: None, c_old: None, input }),
        // f∘c + g − f∘g
        (&[(a, b)], Some((n, m)), Some(g)) if is_gate(algebra, g) => {
            let (f, state) = forget(algebra, a, b)?;
            [(n, m), (m, n)].contains(&(f, g)).then_some(())?;
            let forget = Some(gate_of(f, Some(state))?);
            Some(Blend { coupled: true, forget, c_old: Some(state), input: (f, g) })
        }
        // g − f∘g: coupled, and the old state is zero
        (&[], Some((n, m)), Some(g)) if is_gate(algebra, g) && (n == g || m == g) => {
            let f = if n == g { m } else { n };
            let forget = Some(gate_of(f, None)?);
            Some(Blend { coupled: true, forget, c_old: None, input: (f, g) })
        }
        // c − i∘c + i∘g: the forget gate is 1 − i
        (&[(a, b)], Some((n, m)), Some(c)) => {
            let (i, state) = forget(algebra, n, m)?;
            let g = if a == i { b } else { a };
            (old_state(algebra, c) == Some(state) && (a == i || b == i)).then_some(())?;
            let forget = Some(gate_of(i, Some(state))?.complement()?);
            Some(Blend { coupled: true, forget, c_old: Some(state), input: (i, g) })
        }
        _ => None,
    }
}

fn lstm(
    algebra: &Algebra<'_>,
    root: ValueId,
    output_gate: Atom,
    c_new: ValueId,
    output: Activation,
) -> Option<Step> {
    let (sum, cell_clip) = cell_update(algebra, c_new)?;
    let width = output_gate.part.len;
    let output_gate = gate(algebra, output_gate, Some(c_new))?;
    let Blend { coupled, forget, c_old, input: (i, g) } = blend(algebra, &Terms::of(&sum)?)?;
    let mut gates = Vec::new();
    let candidate = if coupled {
        gate(algebra, g, None)?
    } else {
        let pick = |i: Atom, g: Atom| -> Option<(Gate, Gate)> {
            let (input, candidate) = (gate(algebra, i, c_old)?, gate(algebra, g, None)?);
            let same = input.activation == output_gate.activation;
            (same && candidate.peephole.is_none()).then_some((input, candidate))
        };
        let (input, candidate) = pick(i, g).or_else(|| pick(g, i))?;
        gates.push(input);
        candidate
    };
    gates.extend(forget);
    gates.push(candidate);
    gates.push(output_gate);
    // The cell state in the candidate, or without a factor of its own in a gate, is no LSTM.
    let reads_state = |gate: &Gate| {
        let mut as_it_is = gate.products.iter().filter(|product| product.weights.is_none());
        as_it_is.any(|product| [c_old, Some(c_new)].contains(&Some(product.argument)))
    };
    let fits = |gate: &Gate| gate.width == width && gate.after_reset.is_empty();
    if gates.iter().any(|gate| !fits(gate) || reads_state(gate)) {
        return None;
    }
    Some(Step {
        form: Form::Lstm { coupled, output },
        gates,
        h_new: root,
        h_old: None,
        c_new: Some(c_new),
        c_old,
        cell_clip,
        projection: None,
        projection_clip: None,
    })
}
