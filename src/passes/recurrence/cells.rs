//! One step of a cell, found from its equations.
//!
//! A match starts at the value that may be the new output state and works backwards through
//! [`Algebra`]'s normal form. Which operand is the input and which the old state is not decided
//! here: what repeats the step knows ([`Roles`]).

use super::algebra::Algebra;
use super::polynomial::{Atom, Coefficient, Columns, Polynomial, Role};
use super::step::{Form, Gate, Product, Step};
use crate::graph::ValueId;
use crate::graph::op::Activation;

/// The step whose new output state is `root`; `None` when it is none.
pub fn match_step(algebra: &Algebra<'_>, root: ValueId) -> Option<Step> {
    let whole = algebra.whole(root)?;
    let sum = algebra.define(whole);
    match_lstm(algebra, root, &sum)
        .or_else(|| match_gru(algebra, root, &sum))
        .or_else(|| match_rnn(algebra, root, &sum))
}

// ---- LSTM: h' = o ∘ output(c'), c' = f∘c + i∘g
// -------------------------------------------------------------------------

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

/// An activated sum that has matrix products in it, or something of that kind.
fn is_gate(algebra: &Algebra<'_>, atom: Atom) -> bool {
    algebra_gate(algebra, atom).is_some_and(|(sum, _)| {
        sum.terms.keys().any(|atoms| atoms.iter().any(|atom| atom.role == Role::Product))
    })
}

/// What a gate atom was before its activation.
fn algebra_gate(algebra: &Algebra<'_>, atom: Atom) -> Option<(Polynomial, Activation)> {
    match atom.role {
        Role::Activated => algebra.before_activation(atom.part),
        Role::Clipped => {
            // min(max(x, 0), 1): the hard sigmoid, its slope and offset still in the sum.
            let clip = algebra.clip(atom.part.value)?;
            let inner = algebra.define(Columns { value: clip.inner, ..atom.part });
            hard_sigmoid(&inner, clip.low, clip.high, 1.0)
        }
        // relu6(x + 3) / 6
        Role::Scaled => {
            let (inner, high, scale) = algebra.scaled_clip(atom.part)?;
            hard_sigmoid(&inner, 0.0, high, scale)
        }
        Role::Leaf | Role::Product => None,
    }
}

/// `scale · clip(sum, low, high)` as `clip(alpha·x + beta, 0, 1)`.
fn hard_sigmoid(
    sum: &Polynomial,
    low: f64,
    high: f64,
    scale: f64,
) -> Option<(Polynomial, Activation)> {
    if scale * low != 0.0 || (scale * high - 1.0).abs() > 1e-6 {
        return None;
    }
    // The slope stands at every matrix product.
    let slope =
        sum.terms.iter().find(|(atoms, _)| atoms.iter().any(|atom| atom.role == Role::Product));
    let Some((_, Coefficient::Scalar(slope))) = slope else { return None };
    let (alpha, beta) = (slope * scale, 0.5);
    if alpha <= 0.0 {
        return None;
    }
    let mut argument = Polynomial::default();
    for (atoms, factor) in &sum.terms {
        let mut factor = factor.mul(&Coefficient::Scalar(scale / alpha));
        if atoms.is_empty() {
            factor = factor.add(&Coefficient::Scalar(-beta / alpha));
        }
        argument.terms.insert(atoms.clone(), factor);
    }
    if !sum.terms.contains_key(&Vec::new()) {
        argument.terms.insert(Vec::new(), Coefficient::Scalar(-beta / alpha));
    }
    // Slopes that stand for 1/6 and 0.2, exactly.
    Some((argument, Activation::HardSigmoid { alpha: alpha as f32, beta: beta as f32 }))
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

fn match_lstm(algebra: &Algebra<'_>, root: ValueId, sum: &Polynomial) -> Option<Step> {
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

fn lstm(
    algebra: &Algebra<'_>,
    root: ValueId,
    output_gate: Atom,
    c_new: ValueId,
    output: Activation,
) -> Option<Step> {
    let (sum, cell_clip) = cell_update(algebra, c_new)?;
    let mut products: Vec<(Atom, Atom)> = Vec::new();
    let mut negative: Option<(Atom, Atom)> = None;
    let mut lone: Option<Atom> = None;
    for (atoms, factor) in &sum.terms {
        match (atoms.as_slice(), factor.is(1.0)) {
            (&[a, b], true) => products.push((a, b)),
            (&[a, b], false) if negative.is_none() => negative = Some((a, b)),
            (&[a], true) if lone.is_none() => lone = Some(a),
            _ => return None,
        }
    }
    let width = output_gate.part.len;
    let old_state = |atom: Atom| -> Option<ValueId> {
        let state = atom.role == Role::Leaf && algebra.whole(atom.part.value) == Some(atom.part);
        state.then_some(atom.part.value)
    };
    // Pairs of a gate and the old cell state.
    let forget = |a: Atom, b: Atom| -> Option<(Atom, ValueId)> {
        match (is_gate(algebra, a), is_gate(algebra, b)) {
            (true, false) => Some((a, old_state(b)?)),
            (false, true) => Some((b, old_state(a)?)),
            _ => None,
        }
    };
    let output_gate = gate(algebra, output_gate, Some(c_new))?;
    let (coupled, forget_gate, c_old, input_and_candidate) =
        match (products.as_slice(), negative, lone) {
            // f∘c + i∘g
            (&[(a, b), (c, d)], None, None) => {
                let ((f, state), pair) = forget(a, b)
                    .map(|found| (found, (c, d)))
                    .or_else(|| forget(c, d).map(|found| (found, (a, b))))?;
                (false, Some(gate(algebra, f, Some(state))?), Some(state), pair)
            }
            // i∘g: the old state is zero
            (&[pair], None, None) => (false, None, None, pair),
            // f∘c + g − f∘g
            (&[(a, b)], Some((n, m)), Some(g)) if is_gate(algebra, g) => {
                let (f, state) = forget(a, b)?;
                if ![(n, m), (m, n)].contains(&(f, g)) {
                    return None;
                }
                (true, Some(gate(algebra, f, Some(state))?), Some(state), (f, g))
            }
            // g − f∘g: coupled, and the old state is zero
            (&[], Some((n, m)), Some(g)) if is_gate(algebra, g) && (n == g || m == g) => {
                let f = if n == g { m } else { n };
                (true, Some(gate(algebra, f, None)?), None, (f, g))
            }
            // c − i∘c + i∘g: the forget gate is 1 − i
            (&[(a, b)], Some((n, m)), Some(c)) => {
                let (i, state) = forget(n, m)?;
                let g = if a == i { b } else { a };
                if old_state(c) != Some(state) || (a != i && b != i) {
                    return None;
                }
                (true, Some(gate(algebra, i, Some(state))?.complement()?), Some(state), (i, g))
            }
            _ => return None,
        };
    let (i, g) = input_and_candidate;
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
    // The cell state in the candidate, or without a factor of its own in a gate, is no LSTM.
    let reads_state = |gate: &Gate| {
        let as_it_is = gate.products.iter().filter(|product| product.weights.is_none());
        as_it_is.into_iter().any(|product| [c_old, Some(c_new)].contains(&Some(product.argument)))
    };
    if gates.iter().chain(&forget_gate).chain([&candidate, &output_gate]).any(reads_state) {
        return None;
    }
    gates.extend(forget_gate);
    gates.push(candidate);
    gates.push(output_gate);
    if gates.iter().any(|gate| gate.width != width || !gate.after_reset.is_empty()) {
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

// ---- GRU: h' = z∘h + (1 − z)∘n
// -------------------------------------------------------------------------------------------

fn match_gru(algebra: &Algebra<'_>, root: ValueId, sum: &Polynomial) -> Option<Step> {
    let mut plus: Option<(Atom, Atom)> = None;
    let mut minus: Option<(Atom, Atom)> = None;
    let mut lone: Option<Atom> = None;
    for (atoms, factor) in &sum.terms {
        match *atoms.as_slice() {
            [a, b] if factor.is(1.0) && plus.is_none() => plus = Some((a, b)),
            [a, b] if factor.is(-1.0) && minus.is_none() => minus = Some((a, b)),
            [a] if factor.is(1.0) && lone.is_none() => lone = Some(a),
            _ => return None,
        }
    }
    let (minus, lone) = (minus?, lone?);
    let other = |pair: (Atom, Atom), one: Atom| match pair {
        (a, b) if a == one => Some(b),
        (a, b) if b == one => Some(a),
        _ => None,
    };
    // z is what the lone term is multiplied with.
    let z = other(minus, lone)?;
    let far = match plus {
        Some(plus) => Some(other(plus, z)?),
        None => None,
    };
    let is_state =
        |atom: Atom| atom.role == Role::Leaf && algebra.whole(atom.part.value) == Some(atom.part);
    let (update, candidate, h_old) = if is_gate(algebra, lone) && far.is_none_or(is_state) {
        // z∘h + n − z∘n; without the first term the old state is zero
        (gate(algebra, z, None)?, lone, far.map(|state| state.part.value))
    } else if is_state(lone) && far.is_some_and(|far| is_gate(algebra, far)) {
        // h − z∘h + z∘n: the update gate is 1 − z
        (gate(algebra, z, None)?.complement()?, far?, Some(lone.part.value))
    } else {
        return None;
    };
    let (candidate_sum, activation) = algebra_gate(algebra, candidate)?;
    let mut reset: Option<Atom> = None;
    let mut reset_after = false;
    let width = candidate.part.len;
    let mut gate_n = Gate::empty(activation, width);
    for (atoms, factor) in &candidate_sum.terms {
        match atoms.as_slice() {
            [] => gate_n.bias = factor.clone(),
            &[a] if a.role == Role::Product => {
                for product in parts_of(algebra, a, factor)? {
                    // R (r ∘ h)
                    let argument = algebra.whole(product.argument).map(|part| algebra.define(part));
                    let gated = argument.as_ref().and_then(single_product);
                    match gated {
                        Some((x, y))
                            if is_gate(algebra, x) && is_state(y)
                                || is_gate(algebra, y) && is_state(x) =>
                        {
                            let (r, state) =
                                if is_gate(algebra, x) && is_state(y) { (x, y) } else { (y, x) };
                            if Some(state.part.value) != h_old
                                || reset.is_some_and(|reset| reset != r)
                            {
                                return None;
                            }
                            reset = Some(r);
                            gate_n.after_reset.push(product);
                        }
                        _ => gate_n.products.push(product),
                    }
                }
            }
            &[a] if a.role == Role::Leaf && factor.is(1.0) => {
                gate_n.products.push(Product::identity(a.part));
            }
            // r ∘ (R h), r ∘ b
            &[a] if is_gate(algebra, a) => {
                if reset.is_some_and(|reset| reset != a) {
                    return None;
                }
                (reset, reset_after) = (Some(a), true);
                gate_n.reset_bias = factor.clone();
            }
            &[a, b] => {
                let (product, r) = match (a.role, b.role) {
                    (Role::Product, _) if is_gate(algebra, b) => (a, b),
                    (_, Role::Product) if is_gate(algebra, a) => (b, a),
                    _ => return None,
                };
                if reset.is_some_and(|reset| reset != r) {
                    return None;
                }
                (reset, reset_after) = (Some(r), true);
                gate_n.after_reset.extend(parts_of(algebra, product, factor)?);
            }
            _ => return None,
        }
    }
    let mut gates = vec![update];
    match reset {
        Some(reset) => gates.push(gate(algebra, reset, None)?),
        // Only a step from the zero state has no reset gate left.
        None if h_old.is_none() => {}
        None => return None,
    }
    gates.push(gate_n);
    if gates.iter().any(|gate| gate.width != width || gate.peephole.is_some()) {
        return None;
    }
    Some(Step {
        form: Form::Gru { reset_after },
        gates,
        h_new: root,
        h_old,
        c_new: None,
        c_old: None,
        cell_clip: None,
        projection: None,
        projection_clip: None,
    })
}

/// The two factors of a sum that is one product of two atoms.
fn single_product(sum: &Polynomial) -> Option<(Atom, Atom)> {
    let mut terms = sum.terms.iter();
    match (terms.next(), terms.next()) {
        (Some((atoms, factor)), None) if factor.is(1.0) => match atoms.as_slice() {
            &[a, b] => Some((a, b)),
            _ => None,
        },
        _ => None,
    }
}

// ---- RNN: h' = activation(W x + R h + b)
// ---------------------------------------------------------------------------------

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

// ---- gates
// -----------------------------------------------------------------------------------------------------------------

impl Gate {
    fn empty(activation: Activation, width: usize) -> Gate {
        let zero = Coefficient::Scalar(0.0);
        Gate {
            activation,
            width,
            bias: zero.clone(),
            products: Vec::new(),
            peephole: None,
            after_reset: Vec::new(),
            reset_bias: zero,
        }
    }

    /// Whether constant weights act on anything.
    pub fn has_weights(&self) -> bool {
        self.products.iter().any(|product| product.weights.is_some())
    }
}

fn gate(algebra: &Algebra<'_>, atom: Atom, state: Option<ValueId>) -> Option<Gate> {
    let (sum, activation) = algebra_gate(algebra, atom)?;
    gate_of(algebra, &sum, activation, atom.part.len, state)
}

/// A sum of products with weights, a constant, and `state` times a constant.
fn gate_of(
    algebra: &Algebra<'_>,
    sum: &Polynomial,
    activation: Activation,
    width: usize,
    state: Option<ValueId>,
) -> Option<Gate> {
    let mut gate = Gate::empty(activation, width);
    for (atoms, factor) in &sum.terms {
        match atoms.as_slice() {
            [] => gate.bias = factor.clone(),
            &[a] if a.role == Role::Product => gate.products.extend(parts_of(algebra, a, factor)?),
            &[a] if a.role == Role::Leaf
                && Some(a.part.value) == state
                && algebra.whole(a.part.value) == Some(a.part) =>
            {
                gate.peephole = Some((a.part.value, factor.clone()));
            }
            // What is left of products with a state of zeros.
            &[a] if a.role == Role::Leaf && is_zero(algebra, a.part.value) => {}
            &[a] if a.role == Role::Leaf && factor.is(1.0) => {
                gate.products.push(Product::identity(a.part));
            }
            _ => return None,
        }
    }
    Some(gate)
}

/// A constant of zeros.
pub fn is_zero(algebra: &Algebra<'_>, value: ValueId) -> bool {
    let value = algebra.through(value);
    match algebra.graph.constant(value) {
        Some(tensor) => tensor.to_f32().iter().all(|&x| x == 0.0),
        // A fill whose shape is known only at run time.
        None => match algebra.producer(value) {
            Some((node, _)) => {
                matches!(node.op, crate::graph::Op::Fill)
                    && node
                        .input(1)
                        .and_then(|fill| algebra.graph.constant(fill))
                        .is_some_and(|tensor| tensor.to_f32().iter().all(|&x| x == 0.0))
            }
            None => false,
        },
    }
}

/// A product over joined operands as one product for each.
fn parts_of(algebra: &Algebra<'_>, atom: Atom, factor: &Coefficient) -> Option<Vec<Product>> {
    let node = algebra.product(atom.part.value)?;
    let parts = algebra.joined(node.argument, node.shape.1)?;
    Some(
        parts
            .into_iter()
            .map(|(argument, start, len)| Product {
                argument: algebra.resolve(argument),
                weights: Some(node.weights),
                transposed: node.transposed,
                asymmetric: node.asymmetric,
                rows: (atom.part.start, atom.part.len),
                columns: (start, len),
                joined: node.shape.1,
                factor: factor.clone(),
            })
            .collect(),
    )
}
