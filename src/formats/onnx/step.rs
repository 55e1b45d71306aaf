//! One node on its way into the graph: its operands by slot, and the ops that it becomes.

use super::attributes::Attributes;
use super::lower::{Context, Scope, Val, domain};
use super::messages::NodeProto;
use super::names::shown;
use super::{Builder, Size};
use crate::error::{Error, Result};
use crate::graph::op::{Activation, Binary, BinaryFunction, Concat, Squeeze, StridedSlice};
use crate::graph::{Dim, Op, ValueId};
use crate::tensor::{DType, Tensor};

/// The results of a node by slot; `None` for one that is never computed.
pub type Outputs = Vec<Option<Val>>;

/// One node on its way into the graph.
pub struct Step<'s, 'a> {
    pub cx: &'s mut Context<'a>,
    pub builder: &'s mut Builder,
    pub scope: &'s mut Scope<'a>,
    pub node: &'a NodeProto,
    pub attrs: Attributes<'a>,
    pub inputs: Vec<Option<Val>>,
    /// Version of the node's domain; 0 when the model does not say one.
    pub opset: i64,
}

impl<'s, 'a> Step<'s, 'a> {
    pub fn new(
        cx: &'s mut Context<'a>,
        builder: &'s mut Builder,
        scope: &'s mut Scope<'a>,
        node: &'a NodeProto,
        attrs: Attributes<'a>,
        inputs: Vec<Option<Val>>,
    ) -> Result<Self> {
        let opset = scope.opsets.get(domain(node)).copied().unwrap_or(0);
        Ok(Step { cx, builder, scope, node, attrs, inputs, opset })
    }

    /// Name of the values that the node makes.
    pub fn name(&self) -> &'a str {
        match self.node.output.first() {
            Some(name) if !name.is_empty() => name,
            _ => shown(self.node),
        }
    }

    /// Whether somebody may read a result.
    pub fn wants(&self, slot: usize) -> bool {
        self.node.output.get(slot).is_some_and(|name| !name.is_empty())
    }

    /// Refuses a number of operands that the op does not have at this opset.
    pub fn expect_inputs(&self, least: usize, most: usize) -> Result<()> {
        let given = self.inputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        if (least..=most).contains(&given) {
            return Ok(());
        }
        Err(Error::malformed(format!("expected {least} to {most} inputs, found {given}")))
    }

    /// An operand that must be a tensor.
    pub fn tensor(&self, slot: usize) -> Result<ValueId> {
        self.optional(slot)?.ok_or_else(|| Error::malformed(format!("input {slot} is absent")))
    }

    /// An operand that may be absent.
    pub fn optional(&self, slot: usize) -> Result<Option<ValueId>> {
        match self.inputs.get(slot) {
            Some(Some(Val::Tensor(id))) => Ok(Some(*id)),
            Some(Some(Val::List(_))) => {
                Err(Error::malformed(format!("input {slot} is a sequence, not a tensor")))
            }
            Some(None) | None => Ok(None),
        }
    }

    /// All operands as tensors.
    pub fn tensors(&self) -> Result<Vec<ValueId>> {
        (0..self.inputs.len()).map(|slot| self.tensor(slot)).collect()
    }

    /// Adds an op with one result.
    pub fn add(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        let inputs = inputs.iter().copied().map(Some).collect();
        let ids = self.add_all(op, inputs, 1)?;
        ids.first().copied().ok_or_else(|| Error::internal("an op without a result"))
    }

    /// Adds an op; results that describe a shape and are known entry by entry become constants.
    pub fn add_all(
        &mut self,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        outputs: usize,
    ) -> Result<Vec<ValueId>> {
        let name = self.name();
        let mut ids = self.builder.add(&mut self.cx.derived, name, op, inputs, outputs)?;
        for id in &mut ids {
            if let Some(known) = self.known_sizes(*id)? {
                *id = self.constant(known);
            }
        }
        Ok(ids)
    }

    /// The elements of a value that is no constant, when each of them is a known size.
    fn known_sizes(&self, id: ValueId) -> Result<Option<Tensor>> {
        if self.builder.constant(id).is_some() {
            return Ok(None);
        }
        let ty = self.builder.ty(id)?;
        let (Some(shape), Some(sizes)) = (ty.known_shape(), self.builder.sizes(id)) else {
            return Ok(None);
        };
        let known: Option<Vec<i64>> = sizes
            .iter()
            .map(|size| match *size {
                Size::Known(size) => Some(size),
                Size::Axis(dim) => dim.known().and_then(|size| i64::try_from(size).ok()),
            })
            .collect();
        let Some(known) = known.filter(|known| known.len() == shape.iter().product::<usize>())
        else {
            return Ok(None);
        };
        match ty.dtype {
            DType::I64 => Tensor::from_vec(&shape, known).map(Some),
            DType::I32 => {
                let known: Option<Vec<i32>> =
                    known.into_iter().map(|size| i32::try_from(size).ok()).collect();
                known.map(|known| Tensor::from_vec(&shape, known)).transpose()
            }
            _ => Ok(None),
        }
    }

    /// One result of an op as the node's.
    pub fn one(&mut self, op: Op, inputs: &[ValueId]) -> Result<Outputs> {
        Ok(vec![Some(Val::Tensor(self.add(op, inputs)?))])
    }

    /// Adds a constant.
    pub fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.builder.constant_value(self.name(), tensor)
    }

    /// An i64 vector.
    pub fn vector(&mut self, values: &[i64]) -> Result<ValueId> {
        Ok(self.constant(Tensor::from_slice(&[values.len()], values)?))
    }

    /// An i64 scalar.
    pub fn scalar(&mut self, value: i64) -> ValueId {
        self.constant(Tensor::scalar(value))
    }

    /// A scalar of a type that holds it.
    pub fn number(&mut self, dtype: DType, value: f64) -> Result<ValueId> {
        let tensor = match dtype {
            DType::F32 => Tensor::scalar(value as f32),
            DType::F64 => Tensor::scalar(value),
            DType::F16 => Tensor::scalar(half::f16::from_f64(value)),
            other => Tensor::filled(other, &[], value as i64)?,
        };
        Ok(self.constant(tensor))
    }

    /// An element-wise op of two values.
    pub fn binary(&mut self, function: BinaryFunction, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.add(Op::Binary(Binary { function, activation: Activation::Linear }), &[a, b])
    }

    pub fn dtype(&self, id: ValueId) -> Result<DType> {
        Ok(self.builder.ty(id)?.dtype)
    }

    /// The value in another type.
    pub fn cast(&mut self, id: ValueId, dtype: DType) -> Result<ValueId> {
        if self.dtype(id)? == dtype { Ok(id) } else { self.add(Op::Cast(dtype), &[id]) }
    }

    /// The rank of a tensor, which must be known.
    pub fn rank(&self, id: ValueId) -> Result<usize> {
        self.builder
            .ty(id)?
            .rank()
            .ok_or_else(|| Error::unsupported("the rank of an operand is not known"))
    }

    /// The sizes of a tensor of known rank.
    pub fn dims(&self, id: ValueId) -> Result<Vec<Dim>> {
        self.builder
            .ty(id)?
            .shape
            .clone()
            .ok_or_else(|| Error::unsupported("the rank of an operand is not known"))
    }

    /// The elements of an integer operand that must be constant.
    pub fn integers(&self, slot: usize, name: &str) -> Result<Vec<i64>> {
        let id = self.tensor(slot)?;
        self.builder
            .integers(id)?
            .ok_or_else(|| Error::unsupported(format!("input {slot} ({name}) is no constant")))
    }

    /// The elements of an integer operand that may be absent, else constant.
    pub fn optional_integers(&self, slot: usize, name: &str) -> Result<Option<Vec<i64>>> {
        match self.optional(slot)? {
            None => Ok(None),
            Some(_) => self.integers(slot, name).map(Some),
        }
    }

    /// A list that is an attribute before `since` and an operand from then on.
    pub fn list(&self, name: &str, since: i64, slot: usize) -> Result<Option<Vec<i64>>> {
        if self.opset < since { self.attrs.ints(name) } else { self.optional_integers(slot, name) }
    }

    /// An axis, counted from the start.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize> {
        let wrapped = if axis < 0 { axis.saturating_add_unsigned(rank as u64) } else { axis };
        usize::try_from(wrapped).ok().filter(|&axis| axis < rank).ok_or_else(|| {
            Error::malformed(format!("axis: expected −{rank} to {rank} − 1, found {axis}"))
        })
    }

    /// An axis or the place behind the last one, counted from the start.
    pub fn border(&self, axis: i64, rank: usize) -> Result<usize> {
        if usize::try_from(axis) == Ok(rank) { Ok(rank) } else { self.axis(axis, rank) }
    }

    /// Values joined on an axis.
    pub fn concat(&mut self, axis: i64, parts: &[ValueId]) -> Result<ValueId> {
        match parts {
            [one] => Ok(*one),
            _ => self.add(Op::Concat(Concat { axis, activation: Activation::Linear }), parts),
        }
    }

    /// A value without an axis of size 1; where the axis was only just inserted, what it was
    /// inserted into.
    pub fn without_axis(&mut self, id: ValueId, axis: i64) -> Result<ValueId> {
        /// Nodes back that an insertion is looked for; exporters write it close by.
        const NEAR: usize = 64;
        let graph = &self.builder.graph;
        let near = graph.nodes.iter().rev().take(NEAR);
        let maker = near.into_iter().find(|node| node.outputs.first() == Some(&Some(id)));
        if let Some(node) = maker.filter(|node| node.op == Op::ExpandDims)
            && let (Some(before), Some(inserted)) = (node.input(0), node.input(1))
            && let Some(&[inserted]) = self.builder.integers(inserted)?.as_deref()
        {
            let rank = self.rank(id)?;
            if self.axis(inserted, rank)? == self.axis(axis, rank)? {
                return Ok(before);
            }
        }
        self.add(Op::Squeeze(Squeeze { axes: vec![axis] }), &[id])
    }

    /// The permutation of the axes.
    pub fn transpose(&mut self, id: ValueId, permutation: &[usize]) -> Result<ValueId> {
        if permutation.iter().copied().eq(0..permutation.len()) {
            return Ok(id);
        }
        let permutation: Vec<i64> = permutation.iter().map(|&axis| axis as i64).collect();
        let permutation = self.vector(&permutation)?;
        self.add(Op::Transpose, &[id, permutation])
    }

    /// The shape as i64 vector.
    pub fn shape_of(&mut self, id: ValueId) -> Result<ValueId> {
        self.add(Op::Shape(DType::I64), &[id])
    }

    /// `begin..end` of one axis, counted as slices are in ONNX.
    pub fn slice(&mut self, id: ValueId, axis: usize, begin: i64, end: i64) -> Result<ValueId> {
        let rank = self.rank(id)?;
        let mut begins = vec![0; rank];
        let mut ends = vec![0; rank];
        let all = u32::MAX;
        let (Some(first), Some(last)) = (begins.get_mut(axis), ends.get_mut(axis)) else {
            return Err(Error::internal("a slice of an axis that does not exist"));
        };
        (*first, *last) = (begin, end);
        let mask = all & !(1u32.checked_shl(axis as u32).unwrap_or(0));
        let (begins, ends) = (self.vector(&begins)?, self.vector(&ends)?);
        let strides = self.vector(&vec![1; rank])?;
        let options = StridedSlice { begin_mask: mask, end_mask: mask, ..StridedSlice::default() };
        self.add(Op::StridedSlice(options), &[id, begins, ends, strides])
    }
}
