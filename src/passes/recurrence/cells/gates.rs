//! One gate of a cell: an activation of a sum of products with weights.

use crate::graph::ValueId;
use crate::graph::op::Activation;
use crate::passes::recurrence::algebra::{Algebra, is_zero};
use crate::passes::recurrence::polynomial::{Atom, Coefficient, Columns, Polynomial, Role};
use crate::passes::recurrence::step::{Gate, Product};

/// An activated sum that has matrix products in it, or something of that kind.
pub fn is_gate(algebra: &Algebra<'_>, atom: Atom) -> bool {
    algebra_gate(algebra, atom).is_some_and(|(sum, _)| {
        sum.terms.keys().any(|atoms| atoms.iter().any(|atom| atom.role == Role::Product))
    })
}

/// The operand of a gate's activation, with the activation.
pub fn algebra_gate(algebra: &Algebra<'_>, atom: Atom) -> Option<(Polynomial, Activation)> {
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

impl Gate {
    pub fn empty(activation: Activation, width: usize) -> Gate {
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

pub fn gate(algebra: &Algebra<'_>, atom: Atom, state: Option<ValueId>) -> Option<Gate> {
    let (sum, activation) = algebra_gate(algebra, atom)?;
    gate_of(algebra, &sum, activation, atom.part.len, state)
}

/// A sum of products with weights, a constant, and `state` times a constant.
pub fn gate_of(
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

/// A product over joined operands as one product for each.
pub fn parts_of(algebra: &Algebra<'_>, atom: Atom, factor: &Coefficient) -> Option<Vec<Product>> {
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
