//! The equations of a step in one normal form, whatever ops and order they were written in.
//!
//! Columns of a value (its last axis) are expanded into a sum of products of [`Atom`]s with
//! constant factors: `h + z∘(n − h)`, `z∘n + (1 − z)∘h` and `n·z + h − z·h` all become
//! `{h: 1, z·n: 1, z·h: −1}`. Atoms are what sums and products cannot see through: matrix products
//! with constant weights, activations, clips, and leaves. Splits, slices and joins on the last axis
//! are followed by column, so it does not matter whether a gate was cut out before or after its
//! activation.

mod choice;
mod clip;
mod columns;
mod zero;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

pub use zero::is_zero;

use super::polynomial::{Coefficient, Columns, Polynomial, Role};

use crate::graph::op::{Activation, Binary, BinaryFunction, Unary};
use crate::graph::{Graph, Node, Op, ValueId};
use crate::passes::values::{Sources, sources};
use crate::tensor::{DType, Tensor};

/// Sums with more terms than this stay unexpanded: the largest cell equation has 5.
const MOST_TERMS: usize = 16;
/// Expansions stop at this depth: a cell has about 10 element-wise ops on a path.
const MOST_DEPTH: usize = 40;

/// A matrix product with constant weights.
#[derive(Clone, Copy, Debug)]
pub struct ProductNode {
    /// The operand of the weights.
    pub argument: ValueId,
    /// The constant `[outputs, inputs]`, or `[inputs, outputs]` when transposed.
    pub weights: ValueId,
    pub transposed: bool,
    pub asymmetric: bool,
    /// Outputs, inputs.
    pub shape: (usize, usize),
    bias: Option<ValueId>,
    activation: Activation,
}

/// Expands values of one graph; values in `cuts` are leaves wherever they are not asked for
/// themselves.
pub struct Algebra<'g> {
    pub graph: &'g Graph,
    sources: Sources,
    cuts: HashSet<ValueId>,
    cache: RefCell<HashMap<Columns, Rc<Polynomial>>>,
}

impl<'g> Algebra<'g> {
    pub fn new(graph: &'g Graph) -> Self {
        Algebra { graph, sources: sources(graph), cuts: HashSet::new(), cache: RefCell::default() }
    }

    /// Makes values leaves.
    pub fn cut(&mut self, values: impl IntoIterator<Item = ValueId>) {
        self.cuts.extend(values);
        self.cache.get_mut().clear();
    }

    /// Makes a value a leaf in what is expanded from now on.
    pub fn cut_quietly(&mut self, value: ValueId) {
        self.cuts.insert(value);
    }

    pub fn is_cut(&self, value: ValueId) -> bool {
        self.cuts.contains(&value)
    }

    /// The node that computes a value, and which of its results it is.
    pub fn producer(&self, value: ValueId) -> Option<(&'g Node, usize)> {
        let (node, slot) = self.sources[value]?;
        Some((self.graph.node(node)?, slot))
    }

    /// Number of columns: size of the last axis.
    pub fn width(&self, value: ValueId) -> Option<usize> {
        self.graph.get(value)?.ty.shape.as_ref()?.last()?.known()
    }

    fn rank(&self, value: ValueId) -> Option<usize> {
        self.graph.get(value)?.ty.rank()
    }

    /// Whether a value may be `[B, n]`, or `[1, B, n]` as PyTorch has it.
    fn is_step(&self, value: ValueId) -> bool {
        match self.graph.shape(value) {
            None | Some([_, _]) => true,
            Some([one, _, _]) => one.known() == Some(1),
            Some(_) => false,
        }
    }

    /// The whole of a value.
    pub fn whole(&self, value: ValueId) -> Option<Columns> {
        Some(Columns { value, start: 0, len: self.width(value)? })
    }

    /// The definition of a value, seen through even when it is cut.
    pub fn define(&self, part: Columns) -> Polynomial {
        self.compute(part, 0)
    }

    /// The leaf that a value is, when it is one times 1: behind a dropout that is off, for example.
    /// Otherwise the value itself.
    pub fn resolve(&self, value: ValueId) -> ValueId {
        let value = self.through(value);
        let leaf = |value: ValueId| {
            let atom = self.expand(self.whole(value)?, 0).as_atom()?;
            (atom.role == Role::Leaf && self.whole(atom.part.value) == Some(atom.part))
                .then_some(atom.part.value)
        };
        leaf(value).unwrap_or(value)
    }

    /// The operand of an activated value's activation, with the activation.
    pub fn before_activation(&self, part: Columns) -> Option<(Polynomial, Activation)> {
        let (node, _) = self.producer(part.value)?;
        match &node.op {
            Op::Activation(activation) => {
                let input = first(node)?;
                Some(((*self.expand(Columns { value: input, ..part }, 0)).clone(), *activation))
            }
            Op::Binary(binary) => {
                Some((self.binary(node, binary.function, part, 0)?, binary.activation))
            }
            Op::FullyConnected(_) => {
                let product = self.product(part.value)?;
                Some((self.product_sum(&product, part), product.activation))
            }
            _ => None,
        }
    }

    /// The operand of a stand-alone activation.
    pub fn activation_operand(&self, value: ValueId) -> Option<ValueId> {
        match self.producer(value)? {
            (node, _) if matches!(node.op, Op::Activation(_)) => first(node),
            _ => None,
        }
    }

    /// The matrix product behind a value.
    pub fn product(&self, value: ValueId) -> Option<ProductNode> {
        let (node, _) = self.producer(value)?;
        let (argument, weights) = (first(node)?, node.input(1)?);
        let tensor = self.graph.constant(weights)?;
        let &[rows, columns] = tensor.shape() else { return None };
        if !tensor.dtype().is_float() && tensor.dtype() != DType::I8 {
            return None;
        }
        // A result with more axes than [B, n] or [1, B, n] is no step of a cell.
        if !self.is_step(value) || !self.is_step(argument) {
            return None;
        }
        match &node.op {
            Op::FullyConnected(options) => Some(ProductNode {
                argument,
                weights,
                transposed: false,
                asymmetric: options.asymmetric_inputs,
                shape: (rows, columns),
                bias: node.input(2),
                activation: options.activation,
            }),
            Op::MatMul(options) if !options.transpose_a => Some(ProductNode {
                argument,
                weights,
                transposed: !options.transpose_b,
                asymmetric: options.asymmetric_inputs,
                shape: if options.transpose_b { (rows, columns) } else { (columns, rows) },
                bias: None,
                activation: Activation::Linear,
            }),
            _ => None,
        }
    }

    /// A constant that is the same number everywhere.
    pub fn scalar(&self, value: ValueId) -> Option<f64> {
        let tensor = self.graph.constant(value).filter(|tensor| tensor.dtype().is_float())?;
        match Coefficient::of(tensor.to_f32().iter().map(|&x| f64::from(x)).collect()) {
            Coefficient::Scalar(x) => Some(x),
            Coefficient::Vector(_) => None,
        }
    }

    fn is_cut_leaf(&self, value: ValueId) -> bool {
        // A join is never a state; cuts of chains name every argument of a product, joins too.
        self.is_cut(value)
            && !matches!(self.producer(value), Some((Node { op: Op::Concat(_), .. }, _)))
    }

    /// The value itself behind ops that only pass it on.
    pub fn through(&self, mut value: ValueId) -> ValueId {
        for _ in 0..MOST_DEPTH {
            if self.is_cut_leaf(value) {
                break;
            }
            match self.producer(value).and_then(|(node, _)| self.passed_on(node, value)) {
                Some(inner) => value = inner,
                None => break,
            }
        }
        value
    }

    /// The operand of an op that changes nothing.
    fn passed_on(&self, node: &Node, value: ValueId) -> Option<ValueId> {
        let input = first(node)?;
        let shape = |id: ValueId| self.graph.get(id).and_then(|value| value.ty.shape.as_ref());
        match &node.op {
            Op::Activation(Activation::Linear) => Some(input),
            Op::Cast(dtype) if self.graph.get(input)?.ty.dtype == *dtype => Some(input),
            Op::Reshape | Op::BroadcastTo | Op::Tile | Op::Squeeze(_) => {
                let (a, b) = (shape(input)?, shape(value)?);
                // With one open size at most, equal products and equal other sizes leave no choice.
                let differing =
                    a.iter().zip(b).filter(|(a, b)| a != b || a.known().is_none()).count();
                let same = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.agrees_with(*b));
                let reshape = matches!(node.op, Op::Reshape | Op::Squeeze(_));
                (same && (differing == 0 || (reshape && differing == 1))).then_some(input)
            }
            _ => None,
        }
    }

    /// The operand of an op that only adds or drops leading axes of size 1, as converters do for
    /// one batch row.
    fn same_columns(&self, node: &Node, value: ValueId) -> Option<ValueId> {
        if !matches!(node.op, Op::Reshape | Op::Squeeze(_) | Op::ExpandDims) {
            return None;
        }
        let input = first(node)?;
        (self.rows(input)? == self.rows(value)?).then_some(input)
    }

    /// The shape without leading axes of size 1, when all of it is known.
    fn rows(&self, value: ValueId) -> Option<Vec<usize>> {
        let shape = self.graph.get(value)?.ty.known_shape()?;
        Some(shape.into_iter().skip_while(|&size| size == 1).collect())
    }

    fn is_last_axis(&self, axis: i64, value: ValueId) -> bool {
        axis == -1 || self.rank(value).is_some_and(|rank| axis == rank as i64 - 1)
    }

    fn expand(&self, part: Columns, depth: usize) -> Rc<Polynomial> {
        if self.cuts.contains(&part.value) || depth > MOST_DEPTH {
            return Rc::new(Polynomial::atom(Role::Leaf, part));
        }
        if let Some(known) = self.cache.borrow().get(&part) {
            return known.clone();
        }
        let sum = Rc::new(self.compute(part, depth));
        self.cache.borrow_mut().insert(part, sum.clone());
        sum
    }

    fn compute(&self, part: Columns, depth: usize) -> Polynomial {
        match self.try_compute(part, depth + 1) {
            Some(sum) if sum.terms.len() <= MOST_TERMS => sum,
            _ => Polynomial::atom(Role::Leaf, part),
        }
    }

    /// `None`: not understood.
    fn try_compute(&self, part: Columns, depth: usize) -> Option<Polynomial> {
        let value = self.graph.get(part.value)?;
        if let Some(tensor) = &value.constant {
            return constant_columns(tensor, part).map(Polynomial::constant);
        }
        let (node, slot) = self.producer(part.value)?;
        if let Some(inner) =
            self.passed_on(node, part.value).or_else(|| self.same_columns(node, part.value))
        {
            return Some((*self.expand(Columns { value: inner, ..part }, depth)).clone());
        }
        match &node.op {
            Op::Binary(Binary { function, activation }) => {
                if self.clip(part.value).is_some() && *activation == Activation::Linear {
                    return Some(Polynomial::atom(Role::Clipped, part));
                }
                if *activation != Activation::Linear {
                    return Some(Polynomial::atom(Role::Activated, part));
                }
                if self.scaled_clip_at(part, depth).is_some() {
                    return Some(Polynomial::atom(Role::Scaled, part));
                }
                self.binary(node, *function, part, depth)
            }
            // Ones for a dropout that is off; zeros are a state.
            Op::Fill => {
                let number = self.scalar(node.input(1)?).filter(|&number| number != 0.0)?;
                Some(Polynomial::constant(Coefficient::Scalar(number)))
            }
            Op::Unary(Unary::Neg) => Some(
                self.expand(Columns { value: first(node)?, ..part }, depth)
                    .scaled(&Coefficient::Scalar(-1.0)),
            ),
            Op::Activation(_) => Some(Polynomial::atom(Role::Activated, part)),
            Op::FullyConnected(_) | Op::MatMul(_) => {
                let product = self.product(part.value)?;
                if product.activation != Activation::Linear {
                    return Some(Polynomial::atom(Role::Activated, part));
                }
                Some(self.product_sum(&product, part))
            }
            Op::Split | Op::Slice | Op::StridedSlice(_) => {
                let (input, offset) = self.columns(node, slot, part.value)?;
                let start = part.start.checked_add(offset)?;
                Some((*self.expand(Columns { value: input, start, len: part.len }, depth)).clone())
            }
            Op::Concat(options) if options.activation == Activation::Linear => {
                if !self.is_last_axis(options.axis, part.value) {
                    return None;
                }
                let mut start = 0;
                for input in node.inputs.iter().flatten() {
                    let width = self.width(*input)?;
                    if part.start >= start && part.start + part.len <= start + width {
                        let part =
                            Columns { value: *input, start: part.start - start, len: part.len };
                        return Some((*self.expand(part, depth)).clone());
                    }
                    start += width;
                }
                None
            }
            _ => None,
        }
    }

    fn product_sum(&self, product: &ProductNode, part: Columns) -> Polynomial {
        let sum = Polynomial::atom(Role::Product, part);
        match product
            .bias
            .map(|bias| self.graph.constant(bias).and_then(|tensor| constant_columns(tensor, part)))
        {
            None => sum,
            Some(Some(bias)) => sum.plus(&Polynomial::constant(bias)),
            // A bias that is no constant: not a cell.
            Some(None) => Polynomial::atom(Role::Leaf, part),
        }
    }

    fn binary(
        &self,
        node: &Node,
        function: BinaryFunction,
        part: Columns,
        depth: usize,
    ) -> Option<Polynomial> {
        let (a, b) = (first(node)?, node.input(1)?);
        let operand = |value: ValueId| -> Option<Rc<Polynomial>> {
            if self.graph.constant(value).is_none() {
                // Operands that are repeated along the columns or the rows are not followed.
                let ranks = self.rank(value)? == self.rank(part.value)?
                    || self.rows(value)? == self.rows(part.value)?;
                let same = ranks && self.width(value)? == self.width(part.value)?;
                return same.then(|| self.expand(Columns { value, ..part }, depth));
            }
            Some(self.expand(Columns { value, ..part }, depth))
        };
        match function {
            BinaryFunction::Add => Some((*operand(a)?).clone().plus(&*operand(b)?)),
            BinaryFunction::Sub => {
                Some((*operand(a)?).clone().plus(&operand(b)?.scaled(&Coefficient::Scalar(-1.0))))
            }
            BinaryFunction::Mul => {
                let (a, b) = (operand(a)?, operand(b)?);
                (a.terms.len() * b.terms.len() <= MOST_TERMS).then(|| a.times(&b))
            }
            BinaryFunction::Div => {
                let divisor = self.scalar(b).filter(|divisor| *divisor != 0.0)?;
                Some(operand(a)?.scaled(&Coefficient::Scalar(1.0 / divisor)))
            }
            _ => None,
        }
    }
}

/// The first operand of a node.
pub fn first(node: &Node) -> Option<ValueId> {
    node.input(0)
}

/// Columns of a constant that is the same for every row; `None` when rows differ or there are
/// several.
fn constant_columns(tensor: &Tensor, part: Columns) -> Option<Coefficient> {
    if !tensor.dtype().is_float() {
        return None;
    }
    let data = tensor.to_f32();
    if data.len() == 1 {
        return Some(Coefficient::Scalar(f64::from(*data.first()?)));
    }
    let (&width, leading) = tensor.shape().split_last()?;
    if width == 1 {
        return None;
    }
    let mut rows = data.chunks(width);
    let first = rows.next()?;
    let repeated = leading.iter().any(|&size| size != 1);
    // Rows of zeros are a state before the first step, not a factor.
    if repeated && (rows.any(|row| row != first) || first.iter().all(|&x| x == 0.0)) {
        return None;
    }
    let columns = data.get(part.start..part.start.checked_add(part.len)?)?;
    Some(Coefficient::of(columns.iter().map(|&x| f64::from(x)).collect()))
}
