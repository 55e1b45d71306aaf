//! GRU: `h' = z∘h + (1 − z)∘n`, the reset gate before or after the product with the state.

use super::gates::{algebra_gate, gate, is_gate, parts_of};
use crate::graph::ValueId;
use crate::passes::recurrence::algebra::Algebra;
use crate::passes::recurrence::polynomial::{Atom, Coefficient, Polynomial, Role};
use crate::passes::recurrence::step::{Form, Gate, Product, Step};

/// A GRU's blend of its candidate and its old state.
struct Blend {
    update: Gate,
    candidate: Atom,
    /// `None`: the old state is zero.
    h_old: Option<ValueId>,
}

fn is_state(algebra: &Algebra<'_>, atom: Atom) -> bool {
    atom.role == Role::Leaf && algebra.whole(atom.part.value) == Some(atom.part)
}

fn blend(algebra: &Algebra<'_>, sum: &Polynomial) -> Option<Blend> {
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
    if is_gate(algebra, lone) && far.is_none_or(|far| is_state(algebra, far)) {
        // z∘h + n − z∘n; without the first term the old state is zero
        let h_old = far.map(|state| state.part.value);
        Some(Blend { update: gate(algebra, z, None)?, candidate: lone, h_old })
    } else if is_state(algebra, lone) && far.is_some_and(|far| is_gate(algebra, far)) {
        // h − z∘h + z∘n: the update gate is 1 − z
        let update = gate(algebra, z, None)?.complement()?;
        Some(Blend { update, candidate: far?, h_old: Some(lone.part.value) })
    } else {
        None
    }
}

/// The reset gate, and where it stands.
#[derive(Default)]
struct Reset {
    gate: Option<Atom>,
    /// Whether it stands after the product with the state.
    after: Option<bool>,
}

impl Reset {
    /// Notes where the gate was seen; `None` when another one, or another place, was seen before.
    fn note(&mut self, gate: Atom, after: bool) -> Option<()> {
        self.gate.is_none_or(|known| known == gate).then_some(())?;
        self.after.is_none_or(|known| known == after).then_some(())?;
        (self.gate, self.after) = (Some(gate), Some(after));
        Some(())
    }
}

/// The candidate's gate with the reset gate in it.
fn candidate_gate(
    algebra: &Algebra<'_>,
    candidate: Atom,
    h_old: Option<ValueId>,
    reset: &mut Reset,
) -> Option<Gate> {
    let (sum, activation) = algebra_gate(algebra, candidate)?;
    let mut own = Gate::empty(activation, candidate.part.len);
    for (atoms, factor) in &sum.terms {
        match atoms.as_slice() {
            [] => own.bias = factor.clone(),
            &[a] if a.role == Role::Product => {
                weighted(algebra, a, factor, h_old, reset, &mut own)?;
            }
            &[a] if a.role == Role::Leaf && factor.is(1.0) => {
                own.products.push(Product::identity(a.part));
            }
            // r ∘ (R h), r ∘ b
            &[a] if is_gate(algebra, a) => {
                reset.note(a, true)?;
                own.reset_bias = factor.clone();
            }
            &[a, b] => {
                let (product, r) = match (a.role, b.role) {
                    (Role::Product, _) if is_gate(algebra, b) => (a, b),
                    (_, Role::Product) if is_gate(algebra, a) => (b, a),
                    _ => return None,
                };
                reset.note(r, true)?;
                own.after_reset.extend(parts_of(algebra, product, factor)?);
            }
            _ => return None,
        }
    }
    Some(own)
}

/// Products of the candidate: with the input, or with `r∘h`.
fn weighted(
    algebra: &Algebra<'_>,
    atom: Atom,
    factor: &Coefficient,
    h_old: Option<ValueId>,
    reset: &mut Reset,
    own: &mut Gate,
) -> Option<()> {
    for product in parts_of(algebra, atom, factor)? {
        // R (r ∘ h)
        let argument = algebra.whole(product.argument).map(|part| algebra.define(part));
        let gated = argument.as_ref().and_then(single_product).and_then(|(x, y)| {
            if is_gate(algebra, x) && is_state(algebra, y) {
                Some((x, y))
            } else {
                (is_gate(algebra, y) && is_state(algebra, x)).then_some((y, x))
            }
        });
        match gated {
            Some((r, state)) => {
                (Some(state.part.value) == h_old).then_some(())?;
                reset.note(r, false)?;
                own.after_reset.push(product);
            }
            None => own.products.push(product),
        }
    }
    Some(())
}

pub fn match_gru(algebra: &Algebra<'_>, root: ValueId, sum: &Polynomial) -> Option<Step> {
    let Blend { update, candidate, h_old } = blend(algebra, sum)?;
    let mut reset = Reset::default();
    let own = candidate_gate(algebra, candidate, h_old, &mut reset)?;
    let width = own.width;
    let mut gates = vec![update];
    match reset.gate {
        Some(reset) => gates.push(gate(algebra, reset, None)?),
        // Only a step from the zero state has no reset gate left.
        None if h_old.is_none() => {}
        None => return None,
    }
    gates.push(own);
    if gates.iter().any(|gate| gate.width != width || gate.peephole.is_some()) {
        return None;
    }
    Some(Step {
        form: Form::Gru { reset_after: reset.after == Some(true) },
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
