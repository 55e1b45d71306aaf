//! Adds nodes to a graph: types are inferred, what follows from constants is computed at once, and
//! integer tensors that describe shapes are followed entry by entry, so that an open batch size
//! keeps its name on the way through them.

use std::collections::HashMap;

use super::limits::Budget;
use crate::error::{Error, Place, Result};
use crate::eval;
use crate::graph::infer::{Operand, infer};
use crate::graph::op::{Binary, BinaryFunction, Concat, Gather, Pack, Squeeze, StridedSlice};
use crate::graph::{Dim, Graph, Op, ValueId, ValueType};
use crate::tensor::{DType, Tensor, with_storage};

/// One entry of an integer tensor that describes a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// This number (−1 where an op gives it a meaning).
    Known(i64),
    /// The size of this axis, as far as it is known.
    Axis(Dim),
}

/// Entries that are followed at most; shapes have few.
const MOST_ENTRIES: usize = 32;

/// A graph under construction.
#[derive(Debug, Default)]
pub struct Builder {
    pub graph: Graph,
    /// Entries of integer vectors and scalars that are no constants.
    sizes: HashMap<ValueId, Vec<Size>>,
    /// `0, 1, … limit − 1`: the limit behind each such range.
    pub counts: HashMap<ValueId, ValueId>,
    /// Small constants by type, shape and bytes: an unrolled graph repeats its axes and weights at
    /// every step.
    constants: HashMap<(DType, Vec<usize>, Vec<u8>), ValueId>,
    /// Results that were computed from constants, by op and operands.
    folded: HashMap<(String, Vec<Option<ValueId>>), Vec<ValueId>>,
    /// Variables that were read.
    pub variables: HashMap<String, ValueId>,
}

/// Constants up to this size are looked up by their bytes.
const SMALL: usize = 128;

impl Builder {
    /// An empty graph that knows the symbolic sizes of another.
    pub fn inside(outer: &Graph, name: &str) -> Self {
        let graph =
            Graph { name: name.to_owned(), symbols: outer.symbols.clone(), ..Graph::default() };
        Builder { graph, ..Builder::default() }
    }

    /// Adds a constant, or returns an equal one that is there.
    pub fn constant_value(&mut self, name: &str, tensor: Tensor) -> ValueId {
        if tensor.byte_len() > SMALL {
            return self.graph.add_constant(name, tensor);
        }
        let bytes = with_storage!(tensor.storage(), v => bytemuck::cast_slice::<_, u8>(v).to_vec());
        let key = (tensor.dtype(), tensor.shape().to_vec(), bytes);
        if let Some(&id) = self.constants.get(&key) {
            return id;
        }
        let id = self.graph.add_constant(name, tensor);
        self.constants.insert(key, id);
        id
    }

    /// Adds a node and returns its results. `derived` pays for results that are computed here.
    pub fn add(
        &mut self,
        derived: &mut Budget,
        name: &str,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        outputs: usize,
    ) -> Result<Vec<ValueId>> {
        let folding = self.folding_key(&op, &inputs);
        if let Some(ids) =
            folding.as_ref().and_then(|key| self.folded.get(key)).filter(|ids| ids.len() == outputs)
        {
            return Ok(ids.clone());
        }
        let mut types = {
            let operands = self.operands(&inputs)?;
            infer(&op, &operands, outputs)?
        };
        if types.len() < outputs {
            return Err(Error::internal(format!(
                "{} types were inferred for {outputs} results",
                types.len()
            )));
        }
        types.truncate(outputs);
        if let Some(tensors) = self.fold(derived, &op, &inputs, &types)? {
            let named = tensors.into_iter().enumerate();
            let ids: Vec<_> = named
                .map(|(index, tensor)| self.constant_value(&port(name, index), tensor))
                .collect();
            if let Some(key) = folding {
                self.folded.insert(key, ids.clone());
            }
            return Ok(ids);
        }
        self.refine_results(&op, &inputs, &mut types);
        let mut ids = Vec::with_capacity(outputs);
        for (index, ty) in types.into_iter().enumerate() {
            ids.push(self.graph.add_value(port(name, index), ty));
        }
        self.follow(&op, &inputs, &ids);
        self.graph.add_node(name, op, inputs, ids.iter().copied().map(Some).collect());
        Ok(ids)
    }

    /// Adds a node with one result.
    pub fn add_one(
        &mut self,
        derived: &mut Budget,
        name: &str,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<ValueId> {
        let inputs = inputs.iter().copied().map(Some).collect();
        let ids = self.add(derived, name, op, inputs, 1)?;
        ids.first().copied().ok_or_else(|| Error::internal("a node without a result"))
    }

    /// Adds an i32 scalar.
    pub fn scalar(&mut self, name: &str, value: i32) -> ValueId {
        self.constant_value(name, Tensor::scalar(value))
    }

    /// Adds an i32 vector.
    pub fn vector(&mut self, name: &str, values: &[i32]) -> Result<ValueId> {
        Ok(self.constant_value(name, Tensor::from_slice(&[values.len()], values)?))
    }

    /// What is known of a value.
    pub fn ty(&self, id: ValueId) -> Result<&ValueType> {
        Ok(&self
            .graph
            .get(id)
            .ok_or_else(|| Error::internal(format!("value {} does not exist", id.0)))?
            .ty)
    }

    /// The elements of a constant.
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.graph.constant(id)
    }

    /// The elements of an integer constant.
    pub fn integers(&self, id: ValueId) -> Result<Option<Vec<i64>>> {
        self.constant(id).map(Tensor::to_i64).transpose()
    }

    /// The entries of a shape-describing tensor.
    pub fn sizes(&self, id: ValueId) -> Option<Vec<Size>> {
        if let Some(tensor) = self.constant(id) {
            if tensor.shape().len() > 1 || tensor.len() > MOST_ENTRIES {
                return None;
            }
            return Some(tensor.to_i64().ok()?.into_iter().map(Size::Known).collect());
        }
        self.sizes.get(&id).cloned()
    }

    /// Whether the first axis of `items` certainly has the size that the scalar `length` holds.
    pub fn has_length(&self, items: ValueId, length: ValueId) -> bool {
        let first =
            self.graph.get(items).and_then(|value| value.ty.shape.as_ref()?.first().copied());
        match (self.sizes(length).as_deref(), first) {
            (Some([Size::Known(n)]), Some(Dim::Known(size))) => usize::try_from(*n) == Ok(size),
            (Some([Size::Axis(Dim::Symbol(a))]), Some(Dim::Symbol(b))) => *a == b,
            _ => false,
        }
    }

    /// Says more about a value's shape: `None` entries are open.
    ///
    /// # Errors
    /// Malformed when it contradicts what is known.
    pub fn refine(&mut self, id: ValueId, dims: &[Option<usize>]) -> Result<()> {
        let Some(value) = self.graph.get_mut(id) else { return Ok(()) };
        let given: Vec<Dim> = dims.iter().map(|dim| dim.map_or(Dim::Unknown, Dim::Known)).collect();
        let agrees = match &mut value.ty.shape {
            None => {
                value.ty.shape = Some(given);
                return Ok(());
            }
            Some(shape) if shape.len() != given.len() => false,
            Some(shape) => shape.iter_mut().zip(&given).all(|(dim, &given)| {
                let agrees = dim.agrees_with(given);
                *dim = dim.refined_by(given);
                agrees
            }),
        };
        if agrees {
            return Ok(());
        }
        Err(Error::malformed(format!(
            "the shape {dims:?} is stated, and {:?} was found",
            value.ty.shape
        )))
    }

    /// Puts into the type of `id` what the types of values that certainly have its shape say.
    pub fn same_shape<const N: usize>(&mut self, id: ValueId, others: [ValueId; N]) {
        let shapes =
            others.map(|other| self.graph.get(other).and_then(|value| value.ty.shape.clone()));
        let Some(shape) = self.graph.get_mut(id).and_then(|value| value.ty.shape.as_mut()) else {
            return;
        };
        let rank = shape.len();
        for other in shapes.into_iter().flatten().filter(|other| other.len() == rank) {
            for (dim, &given) in
                shape.iter_mut().zip(&other).filter(|(dim, given)| dim.agrees_with(**given))
            {
                *dim = dim.refined_by(given);
            }
        }
    }

    fn operands(&self, inputs: &[Option<ValueId>]) -> Result<Vec<Option<Operand<'_>>>> {
        inputs
            .iter()
            .map(|input| {
                let Some(id) = *input else { return Ok(None) };
                Ok(Some(Operand { ty: self.ty(id)?, known: self.constant(id) }))
            })
            .collect()
    }

    /// What identifies a result that follows from constants.
    fn folding_key(
        &self,
        op: &Op,
        inputs: &[Option<ValueId>],
    ) -> Option<(String, Vec<Option<ValueId>>)> {
        let constant = inputs.iter().flatten().all(|&id| self.constant(id).is_some());
        (foldable(op) && constant).then(|| (format!("{op:?}"), inputs.to_vec()))
    }

    /// The results, when every operand is a constant and computing them is worth it.
    fn fold(
        &self,
        derived: &mut Budget,
        op: &Op,
        inputs: &[Option<ValueId>],
        types: &[ValueType],
    ) -> Result<Option<Vec<Tensor>>> {
        if !foldable(op) {
            return Ok(None);
        }
        // The shape of a value may be known where its elements are not.
        if let (Op::Shape(dtype), [Some(input)]) = (op, inputs) {
            return Ok(self
                .ty(*input)?
                .known_shape()
                .map(|shape| vec![shape_tensor(*dtype, &shape)]));
        }
        let mut operands = Vec::with_capacity(inputs.len());
        for input in inputs {
            operands.push(match *input {
                None => None,
                Some(id) => match self.constant(id) {
                    Some(tensor) => Some((tensor, self.ty(id)?)),
                    None => return Ok(None),
                },
            });
        }
        let bytes =
            types.iter().map(|ty| checked_len(&ty.known_shape()?)?.checked_mul(ty.dtype.size()));
        let Some(bytes) = bytes.sum::<Option<usize>>() else { return Ok(None) };
        if bytes > derived.left() {
            return Ok(None);
        }
        derived.take(bytes)?;
        let wanted: Vec<_> = types.iter().map(Some).collect();
        let tensors =
            eval::evaluate(op, &operands, &wanted).within(|| "computed from constants")?;
        Ok(tensors.into_iter().collect())
    }

    /// Puts what shape-describing operands say into the types of the results.
    fn refine_results(&self, op: &Op, inputs: &[Option<ValueId>], types: &mut [ValueType]) {
        let shape = match (op, inputs) {
            (Op::Fill, [Some(shape), ..]) => *shape,
            (Op::Reshape | Op::BroadcastTo, [_, Some(shape)]) => *shape,
            _ => return,
        };
        let (Some(sizes), Some(ty)) = (self.sizes(shape), types.first_mut()) else { return };
        let dims: Vec<Dim> = sizes
            .into_iter()
            .map(|size| match size {
                Size::Known(size) => usize::try_from(size).map_or(Dim::Unknown, Dim::Known),
                Size::Axis(dim) => dim,
            })
            .collect();
        match &mut ty.shape {
            None => ty.shape = Some(dims),
            Some(known) if known.len() == dims.len() => {
                known.iter_mut().zip(dims).for_each(|(known, dim)| *known = known.refined_by(dim));
            }
            Some(_) => {}
        }
    }

    /// Follows the entries of shape-describing tensors through an op.
    fn follow(&mut self, op: &Op, inputs: &[Option<ValueId>], outputs: &[ValueId]) {
        let Some(&output) = outputs.first() else { return };
        if let (Op::Unpack(_), [Some(input)]) = (op, inputs) {
            let Some(sizes) = self.sizes(*input).filter(|sizes| sizes.len() == outputs.len())
            else {
                return;
            };
            for (&output, size) in outputs.iter().zip(sizes) {
                self.sizes.insert(output, vec![size]);
            }
            return;
        }
        let found = self.follow_one(op, inputs);
        if let Some(sizes) = found.filter(|sizes| sizes.len() <= MOST_ENTRIES) {
            self.sizes.insert(output, sizes);
        }
    }

    fn follow_one(&self, op: &Op, inputs: &[Option<ValueId>]) -> Option<Vec<Size>> {
        let input = |position: usize| inputs.get(position).copied().flatten();
        let numbers = |position: usize| self.constant(input(position)?)?.to_i64().ok();
        if let Op::Shape(_) = op {
            let shape = self.graph.get(input(0)?)?.ty.shape.as_ref()?;
            return Some(
                shape
                    .iter()
                    .map(|&dim| dim.known().map_or(Size::Axis(dim), |n| Size::Known(n as i64)))
                    .collect(),
            );
        }
        // Only vectors and scalars have entries here.
        let entries = |position: usize| self.sizes(input(position)?);
        let rank = |position: usize| self.graph.get(input(position)?)?.ty.rank();
        match op {
            Op::Cast(to) if !to.is_float() && *to != DType::Bool => entries(0),
            Op::Squeeze(Squeeze { .. }) => entries(0),
            Op::ExpandDims if rank(0)? == 0 => entries(0),
            Op::Reshape if numbers(1)?.len() <= 1 => entries(0),
            Op::Concat(Concat { axis: 0 | -1, .. }) => {
                let mut all = Vec::new();
                for position in 0..inputs.len() {
                    all.extend(entries(position)?);
                }
                Some(all)
            }
            Op::Pack(Pack { axis: 0 | -1 }) => {
                let mut all = Vec::new();
                for position in 0..inputs.len() {
                    match entries(position)?.as_slice() {
                        [size] if rank(position)? == 0 => all.push(*size),
                        _ => return None,
                    }
                }
                Some(all)
            }
            Op::Gather(Gather { axis: 0, batch_dims: 0 }) if rank(1)? <= 1 => {
                let from = entries(0)?;
                numbers(1)?
                    .into_iter()
                    .map(|index| from.get(usize::try_from(index).ok()?).copied())
                    .collect()
            }
            Op::Slice => {
                let from = entries(0)?;
                let (&[begin], &[size]) = (numbers(1)?.as_slice(), numbers(2)?.as_slice()) else {
                    return None;
                };
                let begin = usize::try_from(begin).ok()?;
                let end = if size < 0 {
                    from.len()
                } else {
                    begin.checked_add(usize::try_from(size).ok()?)?
                };
                from.get(begin..end).map(<[Size]>::to_vec)
            }
            Op::StridedSlice(slice) => {
                let from = entries(0)?;
                let (&[begin], &[end], &[1]) =
                    (numbers(1)?.as_slice(), numbers(2)?.as_slice(), numbers(3)?.as_slice())
                else {
                    return None;
                };
                sliced(slice, &from, begin, end)
            }
            Op::Binary(Binary { function, activation: crate::graph::op::Activation::Linear }) => {
                combined(*function, &entries(0)?, &entries(1)?)
            }
            _ => None,
        }
    }
}

/// One entry or a run of entries, as a strided slice with stride 1 takes it.
fn sliced(slice: &StridedSlice, from: &[Size], begin: i64, end: i64) -> Option<Vec<Size>> {
    if slice.ellipsis_mask != 0 || slice.new_axis_mask != 0 || slice.offset {
        return None;
    }
    let length = from.len() as i64;
    let wrap = |index: i64| {
        usize::try_from(if index < 0 { (index + length).max(0) } else { index.min(length) }).ok()
    };
    let begin = if slice.begin_mask & 1 != 0 { 0 } else { wrap(begin)? };
    if slice.shrink_axis_mask & 1 != 0 {
        return from.get(begin).map(|&size| vec![size]);
    }
    let end = if slice.end_mask & 1 != 0 { from.len() } else { wrap(end)? };
    from.get(begin..end.max(begin)).map(<[Size]>::to_vec)
}

/// Products and sums in which one side changes nothing; other entries are open.
fn combined(function: BinaryFunction, a: &[Size], b: &[Size]) -> Option<Vec<Size>> {
    let ([a], [b]) = (a, b) else { return None };
    let size = match (function, *a, *b) {
        (BinaryFunction::Mul, Size::Known(1), other)
        | (BinaryFunction::Mul, other, Size::Known(1)) => other,
        (BinaryFunction::Add, Size::Known(0), other)
        | (BinaryFunction::Add, other, Size::Known(0)) => other,
        (BinaryFunction::Sub | BinaryFunction::FloorDiv, other, Size::Known(n))
            if n == i64::from(function == BinaryFunction::FloorDiv) =>
        {
            other
        }
        _ => Size::Axis(Dim::Unknown),
    };
    Some(vec![size])
}

/// Whether an op is computed here when its operands are constants.
fn foldable(op: &Op) -> bool {
    !matches!(op, Op::While(_) | Op::Custom(_) | Op::Recurrent(_) | Op::Svdf(_))
}

/// The name of a node's result.
pub fn port(name: &str, output: usize) -> String {
    if output == 0 { name.to_owned() } else { format!("{name}:{output}") }
}

fn checked_len(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size))
}

fn shape_tensor(dtype: DType, shape: &[usize]) -> Tensor {
    let count = [shape.len()];
    let tensor = if dtype == DType::I64 {
        Tensor::from_vec(&count, shape.iter().map(|&n| n as i64).collect())
    } else {
        Tensor::from_vec(
            &count,
            shape.iter().map(|&n| i32::try_from(n).unwrap_or(i32::MAX)).collect(),
        )
    };
    // The shape has one entry for each element by construction.
    tensor.unwrap_or_else(|_| Tensor::scalar(0i32))
}
