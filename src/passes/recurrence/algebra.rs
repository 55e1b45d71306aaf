//! The equations of a step in one normal form, whatever ops and order they were written in.
//!
//! Columns of a value (its last axis) are expanded into a sum of products of [`Atom`]s with
//! constant factors: `h + z∘(n − h)`, `z∘n + (1 − z)∘h` and `n·z + h − z·h` all become
//! `{h: 1, z·n: 1, z·h: −1}`. Atoms are what sums and products cannot see through: matrix products
//! with constant weights, activations, clips, and leaves. Splits, slices and joins on the last axis
//! are followed by column, so it does not matter whether a gate was cut out before or after its
//! activation.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::polynomial::{Coefficient, Columns, Polynomial, Role};

use crate::graph::op::{Activation, Binary, BinaryFunction, Unary};
use crate::graph::{Graph, Node, NodeId, Op, ValueId, ValueMap};
use crate::tensor::{DType, Tensor};

/// Sums with more terms than this stay unexpanded: the largest cell equation has 5.
const MOST_TERMS: usize = 16;
/// Expansions stop at this depth: a cell has about 10 element-wise ops on a path.
const MOST_DEPTH: usize = 40;

/// Casts and changes of rank between a mask and what it multiplies; real ones have up to four.
const MOST_WRAPPERS: usize = 8;

/// A matrix product with constant weights.
#[derive(Clone, Copy, Debug)]
pub struct ProductNode {
    /// What the weights act on.
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

/// A clip to constant bounds.
#[derive(Clone, Copy, Debug)]
pub struct Clip {
    pub inner: ValueId,
    pub low: f64,
    pub high: f64,
}

/// A value times a mask of 0 and 1.
struct MaskedFactor {
    condition: ValueId,
    /// Whether the value stays where the condition holds, or where it does not.
    holds: bool,
    value: ValueId,
}

/// A choice between two values, element by element.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    pub condition: ValueId,
    /// The value where the condition holds.
    pub yes: ValueId,
    /// The value where it does not.
    pub no: ValueId,
}

/// Expands values of one graph; values in `cuts` are leaves wherever they are not asked for
/// themselves.
pub struct Algebra<'g> {
    pub graph: &'g Graph,
    producers: ValueMap<Option<NodeId>>,
    cuts: HashSet<ValueId>,
    cache: RefCell<HashMap<Columns, Rc<Polynomial>>>,
}

impl<'g> Algebra<'g> {
    pub fn new(graph: &'g Graph) -> Self {
        Algebra {
            graph,
            producers: graph.producers(),
            cuts: HashSet::new(),
            cache: RefCell::default(),
        }
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
        let node = self.graph.node(self.producers[value]?)?;
        let slot = node.outputs.iter().position(|output| *output == Some(value))?;
        Some((node, slot))
    }

    /// Number of columns: size of the last axis.
    pub fn width(&self, value: ValueId) -> Option<usize> {
        self.graph.get(value)?.ty.shape.as_ref()?.last()?.known()
    }

    fn rank(&self, value: ValueId) -> Option<usize> {
        self.graph.get(value)?.ty.rank()
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

    /// What an activated value was before its activation, with the activation.
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
        // A result with more axes than [B, n] is no step of a cell.
        if self.rank(value).is_some_and(|rank| rank != 2)
            || self.rank(argument).is_some_and(|rank| rank != 2)
        {
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

    /// The clip behind a value: minimum and maximum with constants in either order, or an
    /// activation that is one.
    pub fn clip(&self, value: ValueId) -> Option<Clip> {
        let (node, _) = self.producer(value)?;
        if let Op::Activation(Activation::ReluN1To1) = node.op {
            return Some(Clip { inner: first(node)?, low: -1.0, high: 1.0 });
        }
        let (outer, bound, inner) = self.bound(value)?;
        let (other, other_bound, innermost) = self.bound(inner)?;
        use BinaryFunction::{Maximum, Minimum};
        match (outer, other) {
            (Minimum, Maximum) => Some(Clip { inner: innermost, low: other_bound, high: bound }),
            (Maximum, Minimum) => Some(Clip { inner: innermost, low: bound, high: other_bound }),
            _ => None,
        }
    }

    /// What stands behind a value that is scaled by a constant, and that constant.
    fn scaling(&self, node: &Node) -> Option<(ValueId, f64)> {
        let Op::Binary(Binary { function, activation: Activation::Linear }) = node.op else {
            return None;
        };
        let (a, b) = (first(node)?, node.input(1)?);
        match function {
            BinaryFunction::Mul => match (self.scalar(a), self.scalar(b)) {
                (None, Some(scale)) => Some((a, scale)),
                (Some(scale), None) => Some((b, scale)),
                _ => None,
            },
            BinaryFunction::Div => {
                let scale = self.scalar(b).filter(|scale| *scale != 0.0)?;
                Some((a, 1.0 / scale))
            }
            _ => None,
        }
    }

    /// `scale · clip(sum, 0, 1 / scale)`: the sum, the upper bound and the scale.
    pub fn scaled_clip(&self, part: Columns) -> Option<(Polynomial, f64, f64)> {
        self.scaled_clip_at(part, 0)
    }

    fn scaled_clip_at(&self, part: Columns, depth: usize) -> Option<(Polynomial, f64, f64)> {
        let (node, _) = self.producer(part.value)?;
        let (inner, scale) = self.scaling(node)?;
        let atom = self.expand(Columns { value: inner, ..part }, depth).as_atom()?;
        let (sum, high) = match atom.role {
            Role::Activated => match self.before_activation(atom.part)? {
                (sum, Activation::Relu6) => (sum, 6.0),
                _ => return None,
            },
            Role::Clipped => {
                let clip = self.clip(atom.part.value).filter(|clip| clip.low == 0.0)?;
                (self.define(Columns { value: clip.inner, ..atom.part }), clip.high)
            }
            Role::Leaf | Role::Product | Role::Scaled => return None,
        };
        ((scale * high - 1.0).abs() <= 1e-6).then_some((sum, high, scale))
    }

    fn bound(&self, value: ValueId) -> Option<(BinaryFunction, f64, ValueId)> {
        let (node, _) = self.producer(value)?;
        let Op::Binary(Binary { function, activation: Activation::Linear }) = node.op else {
            return None;
        };
        if !matches!(function, BinaryFunction::Minimum | BinaryFunction::Maximum) {
            return None;
        }
        let (a, b) = (first(node)?, node.input(1)?);
        match (self.scalar(a), self.scalar(b)) {
            (None, Some(bound)) => Some((function, bound, a)),
            (Some(bound), None) => Some((function, bound, b)),
            _ => None,
        }
    }

    /// The choice that a value is: a `Select`, or `m∘yes + (1 − m)∘no` with a mask of 0 and 1, as
    /// exporters to ONNX write it.
    pub fn choice(&self, value: ValueId) -> Option<Choice> {
        let (node, _) = self.producer(value)?;
        let (a, b) = (first(node)?, node.input(1)?);
        match &node.op {
            Op::Select => Some(Choice { condition: a, yes: b, no: node.input(2)? }),
            Op::Binary(Binary {
                function: BinaryFunction::Add,
                activation: Activation::Linear,
            }) => {
                let (a, b) = (self.masked_factor(a)?, self.masked_factor(b)?);
                let (yes, no) = match (a.holds, b.holds) {
                    (true, false) => (a, b),
                    (false, true) => (b, a),
                    _ => return None,
                };
                let same = yes.condition == no.condition;
                same.then_some(Choice { condition: yes.condition, yes: yes.value, no: no.value })
            }
            _ => None,
        }
    }

    /// Whether a node is that of a choice, or one of its two products.
    pub fn is_in_choice(&self, node: &Node, choice: ValueId) -> bool {
        let own = |value: ValueId| node.outputs.contains(&Some(value));
        let products = self.producer(choice).map(|(choice, _)| choice.inputs.as_slice());
        own(choice)
            || (matches!(node.op, Op::Binary(_))
                && products.unwrap_or_default().iter().flatten().any(|&product| own(product)))
    }

    /// `m∘value` or `(1 − m)∘value` for a mask `m` of 0 and 1.
    fn masked_factor(&self, value: ValueId) -> Option<MaskedFactor> {
        let (node, _) = self.producer(value)?;
        let Op::Binary(Binary { function: BinaryFunction::Mul, activation: Activation::Linear }) =
            node.op
        else {
            return None;
        };
        let (a, b) = (first(node)?, node.input(1)?);
        let factor = |mask: ValueId, value: ValueId| {
            let (condition, holds) = self.indicator(mask)?;
            Some(MaskedFactor { condition, holds, value })
        };
        factor(a, b).or_else(|| factor(b, a))
    }

    /// The condition behind a number that is 1 where it holds and 0 elsewhere, or the other way
    /// round.
    fn indicator(&self, mut value: ValueId) -> Option<(ValueId, bool)> {
        let (mut holds, mut is_number) = (true, true);
        for _ in 0..MOST_WRAPPERS {
            if !is_number && !self.is_changed_mask(value) {
                return Some((value, holds));
            }
            let (node, _) = self.producer(value)?;
            value = match &node.op {
                Op::Reshape | Op::ExpandDims | Op::Squeeze(_) | Op::BroadcastTo | Op::Tile => {
                    first(node)?
                }
                Op::Unary(Unary::Not) if !is_number => {
                    holds = !holds;
                    first(node)?
                }
                Op::Cast(_) => {
                    let inner = first(node)?;
                    is_number &= self.graph.ty(inner)?.dtype != DType::Bool;
                    inner
                }
                // 1 − m
                Op::Binary(binary)
                    if is_number
                        && binary.function == BinaryFunction::Sub
                        && binary.activation == Activation::Linear =>
                {
                    (self.scalar(first(node)?) == Some(1.0)).then_some(())?;
                    holds = !holds;
                    node.input(1)?
                }
                _ => return None,
            };
        }
        None
    }

    /// Whether a mask is the opposite of another one.
    fn is_changed_mask(&self, value: ValueId) -> bool {
        matches!(self.producer(value), Some((Node { op: Op::Unary(Unary::Not), .. }, _)))
    }

    /// A constant that is the same number everywhere.
    pub fn scalar(&self, value: ValueId) -> Option<f64> {
        let tensor = self.graph.constant(value).filter(|tensor| tensor.dtype().is_float())?;
        match Coefficient::of(tensor.to_f32().iter().map(|&x| f64::from(x)).collect()) {
            Coefficient::Scalar(x) => Some(x),
            Coefficient::Vector(_) => None,
        }
    }

    /// The operands that are joined to make the argument of a product, with their first columns and
    /// widths; `total` columns in all.
    pub fn joined(&self, argument: ValueId, total: usize) -> Option<Vec<(ValueId, usize, usize)>> {
        let argument = self.through(argument);
        let Some((node, _)) = self.producer(argument).filter(|_| !self.is_cut_leaf(argument))
        else {
            return Some(vec![(argument, 0, total)]);
        };
        let Op::Concat(options) = &node.op else { return Some(vec![(argument, 0, total)]) };
        if !self.is_last_axis(options.axis, argument) || options.activation != Activation::Linear {
            return Some(vec![(argument, 0, total)]);
        }
        let inputs: Vec<ValueId> = node.inputs.iter().copied().collect::<Option<_>>()?;
        let widths: Vec<Option<usize>> = inputs.iter().map(|&input| self.width(input)).collect();
        let known: usize = widths.iter().flatten().sum();
        let unknown = widths.iter().filter(|width| width.is_none()).count();
        if unknown > 1 || (unknown == 0 && known != total) {
            return None;
        }
        let rest = total.checked_sub(known)?;
        let mut parts = Vec::new();
        let mut start = 0;
        for (input, width) in inputs.into_iter().zip(widths) {
            let width = width.unwrap_or(rest);
            for (value, offset, len) in self.joined(input, width)? {
                parts.push((value, start + offset, len));
            }
            start += width;
        }
        Some(parts)
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

    /// The operand and first column behind a piece that was cut along the last axis.
    pub fn columns(&self, node: &Node, slot: usize, value: ValueId) -> Option<(ValueId, usize)> {
        let input = first(node)?;
        let operand = |slot: usize| -> Option<Vec<i64>> {
            self.graph.constant(node.input(slot)?)?.to_i64().ok()
        };
        let width = self.width(input)?;
        match &node.op {
            Op::Split => {
                let axis = *operand(1)?.first()?;
                if !self.is_last_axis(axis, input) {
                    return None;
                }
                let count = node.outputs.len();
                if node.input(2).is_none() {
                    return Some((input, width / count.max(1) * slot));
                }
                let sizes = operand(2)?;
                let rest = width as i64 - sizes.iter().filter(|&&size| size >= 0).sum::<i64>();
                let start: i64 =
                    sizes.iter().take(slot).map(|&size| if size < 0 { rest } else { size }).sum();
                Some((input, usize::try_from(start).ok()?))
            }
            Op::Slice => {
                let (begin, size) = (operand(1)?, operand(2)?);
                let rank = self.rank(input)?;
                if begin.len() != rank || size.len() != rank {
                    return None;
                }
                let shape = self.graph.get(input)?.ty.shape.as_ref()?;
                let whole = (0..rank.checked_sub(1)?).all(|axis| {
                    begin[axis] == 0
                        && (size[axis] < 0
                            || shape[axis].known().is_some_and(|n| n as i64 == size[axis]))
                });
                whole.then_some((input, usize::try_from(*begin.last()?).ok()?))
            }
            Op::StridedSlice(options) => {
                let (begin, end, strides) = (operand(1)?, operand(2)?, operand(3)?);
                let rank = self.rank(input)?;
                let plain =
                    options.new_axis_mask == 0 && options.shrink_axis_mask == 0 && !options.offset;
                if !plain
                    || self.rank(value)? != rank
                    || strides.iter().any(|&stride| stride != 1)
                    || rank == 0
                {
                    return None;
                }
                let shape = self.graph.get(input)?.ty.shape.as_ref()?;
                let last = begin.len().checked_sub(1)?;
                if options.ellipsis_mask != 0 {
                    // [..., a:b]: an ellipsis, then the last axis.
                    if begin.len() != 2 || options.ellipsis_mask != 1 {
                        return None;
                    }
                } else {
                    if begin.len() != rank {
                        return None;
                    }
                    let whole = (0..last).all(|axis| {
                        let from = options.begin_mask >> axis & 1 == 1 || begin[axis] == 0;
                        let size = shape[axis].known();
                        let to = options.end_mask >> axis & 1 == 1
                            || size.is_some_and(|n| end[axis] >= n as i64);
                        from && to
                    });
                    if !whole {
                        return None;
                    }
                }
                let from =
                    if options.begin_mask >> last & 1 == 1 { 0 } else { *begin.get(last)? };
                let from = if from < 0 { from + width as i64 } else { from };
                Some((input, usize::try_from(from).ok()?))
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
