//! What a matched step consists of.

use super::polynomial::{Coefficient, Columns};
use crate::graph::ValueId;
use crate::graph::op::Activation;

/// Why something that looks like a cell is none, in one line.
pub type Reason = String;

/// Rows and columns of constant weights, acting on one operand; or columns of an operand as they
/// are, where a product with the input was computed for all steps at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    /// The operand.
    pub argument: ValueId,
    /// The constant; `None` for columns as they are, `columns` of the argument.
    pub weights: Option<ValueId>,
    pub transposed: bool,
    pub asymmetric: bool,
    /// First output row and number of rows.
    pub rows: (usize, usize),
    /// First input column and number of columns.
    pub columns: (usize, usize),
    /// Number of columns of the whole product: other than `columns.1` when operands were joined.
    pub joined: usize,
    /// Constant factor of each row.
    pub factor: Coefficient,
}

impl Product {
    /// Columns of a value as they are.
    pub fn identity(part: Columns) -> Product {
        Product {
            argument: part.value,
            weights: None,
            transposed: false,
            asymmetric: false,
            rows: (0, part.len),
            columns: (part.start, part.len),
            joined: part.len,
            factor: Coefficient::Scalar(1.0),
        }
    }

    /// The same weights, whatever they act on.
    pub fn same_weights(&self, other: &Product) -> bool {
        self.weights == other.weights
            && self.transposed == other.transposed
            && self.rows == other.rows
            && self.columns == other.columns
            && self.factor == other.factor
    }
}

/// One gate:
/// `activation(bias + Σ products + peephole ∘ state (+ reset ∘ (reset bias + Σ reset products)))`.
#[derive(Clone, Debug)]
pub struct Gate {
    pub activation: Activation,
    pub width: usize,
    pub bias: Coefficient,
    pub products: Vec<Product>,
    /// The state and its factors.
    pub peephole: Option<(ValueId, Coefficient)>,
    /// Products and bias that are multiplied by the reset gate.
    pub after_reset: Vec<Product>,
    pub reset_bias: Coefficient,
}

/// Which cell a step is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// Gates: input, forget, candidate, output; without the input gate when coupled.
    Lstm { coupled: bool, output: Activation },
    /// Gates: update, reset, candidate.
    Gru { reset_after: bool },
    /// One gate.
    Rnn,
}

/// A step of a cell.
#[derive(Clone, Debug)]
pub struct Step {
    pub form: Form,
    pub gates: Vec<Gate>,
    /// The new output state.
    pub h_new: ValueId,
    /// GRU: the old state, as far as the blend tells.
    pub h_old: Option<ValueId>,
    pub c_new: Option<ValueId>,
    pub c_old: Option<ValueId>,
    pub cell_clip: Option<f64>,
    /// Projection and its bias.
    pub projection: Option<(Product, Coefficient)>,
    pub projection_clip: Option<f64>,
}

impl Step {
    /// Every product that acts on the input or the old state.
    pub fn products(&self) -> impl Iterator<Item = &Product> {
        self.gates.iter().flat_map(|gate| gate.products.iter().chain(&gate.after_reset))
    }

    /// Whether both are the same cell with the same weights.
    pub fn same_cell(&self, other: &Step) -> bool {
        let gates = self.gates.len() == other.gates.len()
            && self.gates.iter().zip(&other.gates).all(|(a, b)| a.same_gate(b));
        let projection = match (&self.projection, &other.projection) {
            (None, None) => true,
            (Some((a, p)), Some((b, q))) => a.same_weights(b) && p.close_to(q, a.rows.1),
            _ => false,
        };
        gates
            && projection
            && self.form == other.form
            && self.cell_clip == other.cell_clip
            && self.projection_clip == other.projection_clip
    }
}

impl Gate {
    fn same_gate(&self, other: &Gate) -> bool {
        let all = |a: &[Product], b: &[Product]| {
            a.len() == b.len() && a.iter().all(|p| b.iter().any(|q| p.same_weights(q)))
        };
        let peephole = match (&self.peephole, &other.peephole) {
            (None, None) => true,
            (Some((_, p)), Some((_, q))) => p.close_to(q, self.width),
            _ => false,
        };
        self.activation == other.activation
            && self.width == other.width
            && self.bias.close_to(&other.bias, self.width)
            && self.reset_bias.close_to(&other.reset_bias, self.width)
            && peephole
            && all(&self.products, &other.products)
            && all(&self.after_reset, &other.after_reset)
    }

    /// The gate `1 − self`: for the logistic function, and the hard one around ½, the same function
    /// of the negated sum.
    pub fn complement(mut self) -> Option<Gate> {
        match self.activation {
            Activation::Sigmoid => {}
            Activation::HardSigmoid { beta: 0.5, .. } => {}
            _ => return None,
        }
        let minus = Coefficient::Scalar(-1.0);
        self.bias = self.bias.mul(&minus);
        self.reset_bias = self.reset_bias.mul(&minus);
        self.peephole = self.peephole.map(|(state, factor)| (state, factor.mul(&minus)));
        for product in self.products.iter_mut().chain(&mut self.after_reset) {
            product.factor = product.factor.mul(&minus);
        }
        Some(self)
    }
}
