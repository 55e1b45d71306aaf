//! Grows a graph op by op, inferring every type on the way.

use std::collections::HashSet;

use super::version::Major;
use super::weights::{Wanted, Weights};
use crate::error::{Error, Result};
use crate::graph::infer::{Operand, infer};
use crate::graph::op::{
    Activation, Binary, BinaryFunction, Concat, Op, Reduce, ReduceFunction, StridedSlice, Unary,
};
use crate::graph::{Dim, Graph, Port, ValueId, ValueType};
use crate::tensor::{DType, Tensor};

/// A value on its way between layers, with the mask that travels beside it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub value: ValueId,
    /// Bool, the leading axes of the value: false where a step is to be skipped.
    pub mask: Option<ValueId>,
}

impl Flow {
    pub fn plain(value: ValueId) -> Self {
        Flow { value, mask: None }
    }
}

/// The graph under construction.
pub(super) struct Builder {
    pub graph: Graph,
    pub weights: Weights,
    pub warnings: Vec<String>,
    /// The generation of Keras that wrote the file.
    pub major: Major,
    /// Name of the layer that is being read: the name of the nodes it makes.
    pub layer: String,
    /// Models around the layer that is being read, the whole one not counted.
    pub depth: usize,
    /// Values whose mask a layer took off.
    pub unmasked: HashSet<ValueId>,
    batch: Option<Dim>,
}

impl Builder {
    pub fn new(weights: Weights, major: Major) -> Self {
        Builder {
            graph: Graph::default(),
            weights,
            warnings: Vec::new(),
            major,
            layer: String::new(),
            depth: 0,
            unmasked: HashSet::new(),
            batch: None,
        }
    }

    pub fn finish(self) -> (Graph, Vec<String>) {
        (self.graph, self.warnings)
    }

    /// A new input. Its open sizes are `batch` on axis 0, which all inputs share, and `time` on
    /// axis 1, which each has for itself (an encoder and a decoder see sequences of different
    /// lengths); elsewhere they are unknown.
    pub fn input(&mut self, name: &str, dtype: DType, shape: &[Option<usize>]) -> ValueId {
        let mut dims = Vec::with_capacity(shape.len());
        for (axis, size) in shape.iter().enumerate() {
            dims.push(match (size, axis) {
                (Some(size), _) => Dim::Known(*size),
                (None, 0) => *self.batch.get_or_insert_with(|| self.graph.add_symbol("batch")),
                (None, 1) => self.graph.add_symbol(match self.graph.inputs.len() {
                    0 => "time".to_owned(),
                    n => format!("time {}", n + 1),
                }),
                (None, _) => Dim::Unknown,
            });
        }
        let value = self.graph.add_value(name, ValueType::symbolic(dtype, dims));
        self.graph.inputs.push(Port { name: name.to_owned(), value });
        value
    }

    /// Adds a node; `wanted[k]` says whether result `k` is used. Returns the values by slot.
    pub fn node(
        &mut self,
        op: Op,
        inputs: &[Option<ValueId>],
        wanted: &[bool],
    ) -> Result<Vec<Option<ValueId>>> {
        let mut operands = Vec::with_capacity(inputs.len());
        for input in inputs {
            operands.push(match input {
                None => None,
                Some(id) => {
                    let value = self
                        .graph
                        .get(*id)
                        .ok_or_else(|| Error::internal("value of another graph"))?;
                    Some(Operand { ty: &value.ty, known: value.constant.as_ref() })
                }
            });
        }
        let types = infer(&op, &operands, wanted.len())?;
        let mut outputs = Vec::with_capacity(wanted.len());
        for (ty, &wanted) in types.into_iter().zip(wanted) {
            outputs.push(wanted.then(|| self.graph.add_value(self.layer.clone(), ty)));
        }
        self.graph.add_node(self.layer.clone(), op, inputs.to_vec(), outputs.clone());
        Ok(outputs)
    }

    /// Adds a node with one result.
    pub fn op(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        let outputs = self.node(op, &inputs, &[true])?;
        outputs.first().copied().flatten().ok_or_else(|| Error::internal("an op without a result"))
    }

    /// States what is known of a value's sizes beyond what was inferred.
    pub fn declare(&mut self, id: ValueId, dims: Vec<Dim>) {
        if let Some(value) = self.graph.get_mut(id) {
            value.ty.shape = Some(dims);
        }
    }

    pub fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.graph.add_constant(self.layer.clone(), tensor)
    }

    pub fn integers(&mut self, numbers: &[i32]) -> Result<ValueId> {
        let tensor = Tensor::from_slice(&[numbers.len()], numbers)?;
        Ok(self.constant(tensor))
    }

    pub fn binary(&mut self, function: BinaryFunction, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.op(Op::Binary(Binary { function, activation: Activation::Linear }), &[a, b])
    }

    pub fn unary(&mut self, function: Unary, x: ValueId) -> Result<ValueId> {
        self.op(Op::Unary(function), &[x])
    }

    pub fn activation(&mut self, activation: Activation, x: ValueId) -> Result<ValueId> {
        match activation {
            Activation::Linear => Ok(x),
            activation => self.op(Op::Activation(activation), &[x]),
        }
    }

    /// A scalar of the type of `x`.
    pub fn scalar_like(&mut self, x: ValueId, number: f64) -> Result<ValueId> {
        let tensor = match self.ty(x)?.dtype {
            DType::F32 => Tensor::scalar(number as f32),
            DType::I32 => Tensor::scalar(number as i32),
            DType::I64 => Tensor::scalar(number as i64),
            DType::Bool => Tensor::scalar(number != 0.0),
            other => return Err(Error::unsupported(format!("a number beside values of {other}"))),
        };
        Ok(self.constant(tensor))
    }

    /// `function(x, number)`.
    pub fn with_number(
        &mut self,
        function: BinaryFunction,
        x: ValueId,
        number: f64,
    ) -> Result<ValueId> {
        let number = self.scalar_like(x, number)?;
        self.binary(function, x, number)
    }

    pub fn cast(&mut self, x: ValueId, dtype: DType) -> Result<ValueId> {
        if self.ty(x)?.dtype == dtype { Ok(x) } else { self.op(Op::Cast(dtype), &[x]) }
    }

    pub fn concat(&mut self, values: &[ValueId], axis: i64) -> Result<ValueId> {
        if let [one] = values {
            return Ok(*one);
        }
        self.op(Op::Concat(Concat { axis, activation: Activation::Linear }), values)
    }

    pub fn reduce(
        &mut self,
        function: ReduceFunction,
        x: ValueId,
        axes: &[i32],
        keep_dims: bool,
    ) -> Result<ValueId> {
        let axes = self.integers(axes)?;
        self.op(Op::Reduce(Reduce { function, keep_dims }), &[x, axes])
    }

    /// `x` with a new axis of size 1.
    pub fn expand(&mut self, x: ValueId, axis: i32) -> Result<ValueId> {
        let axis = self.constant(Tensor::scalar(axis));
        self.op(Op::ExpandDims, &[x, axis])
    }

    pub fn transpose(&mut self, x: ValueId, permutation: &[i32]) -> Result<ValueId> {
        let permutation = self.integers(permutation)?;
        self.op(Op::Transpose, &[x, permutation])
    }

    /// `a` where the condition holds, else `z`.
    pub fn select(&mut self, condition: ValueId, a: ValueId, z: ValueId) -> Result<ValueId> {
        self.op(Op::Select, &[condition, a, z])
    }

    /// `x` with an axis for each of `dims`: sizes that are known stand as they are, the others are
    /// taken from axis `k` of the value `x_k` that `open` gives in their order.
    pub fn reshape_to(
        &mut self,
        x: ValueId,
        dims: &[Dim],
        open: &[(ValueId, usize)],
    ) -> Result<ValueId> {
        let mut parts = Vec::new();
        let mut open = open.iter();
        for dim in dims {
            parts.push(match dim.known() {
                Some(size) => {
                    let size = i32::try_from(size).map_err(|_| Error::limit("a size overflows"))?;
                    self.integers(&[size])?
                }
                None => {
                    let &(of, axis) =
                        open.next().ok_or_else(|| Error::internal("a size without a source"))?;
                    self.size_of(of, axis)?
                }
            });
        }
        let target = match parts.is_empty() {
            true => self.integers(&[])?,
            false => self.concat(&parts, 0)?,
        };
        let y = self.op(Op::Reshape, &[x, target])?;
        self.declare(y, dims.to_vec());
        Ok(y)
    }

    /// The size of one axis, `[1]`.
    pub fn size_of(&mut self, x: ValueId, axis: usize) -> Result<ValueId> {
        let shape = self.op(Op::Shape(DType::I32), &[x])?;
        let axis = i32::try_from(axis).map_err(|_| Error::limit("an axis overflows"))?;
        let (begin, one) = (self.integers(&[axis])?, self.integers(&[1])?);
        self.op(Op::Slice, &[shape, begin, one])
    }

    /// Reads a trained weight of the layer's group.
    pub fn weight(
        &mut self,
        scope: &str,
        index: usize,
        shape: &[usize],
        what: &str,
    ) -> Result<Tensor> {
        self.weights.take(Wanted { scope, index, shape, what, trained: true })
    }

    /// Says once what the user should know.
    pub fn warn(&mut self, text: String) {
        if !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    /// Entry `index` of `axis` (0 or 1), without the axis; −1 is the last.
    pub fn pick(&mut self, x: ValueId, axis: usize, index: i32) -> Result<ValueId> {
        let mut begin = vec![0; axis + 1];
        if let Some(last) = begin.last_mut() {
            *last = index;
        }
        // The end is not read where the axis shrinks; the axes before it run in full.
        let begin = self.integers(&begin)?;
        let end = self.integers(&vec![0; axis + 1])?;
        let strides = self.integers(&vec![1; axis + 1])?;
        let before = (1u32 << axis) - 1;
        let options = StridedSlice {
            begin_mask: before,
            end_mask: before,
            shrink_axis_mask: 1 << axis,
            ..StridedSlice::default()
        };
        self.op(Op::StridedSlice(options), &[x, begin, end, strides])
    }

    /// `x` with one axis reversed.
    pub fn reversed(&mut self, x: ValueId, axis: i32) -> Result<ValueId> {
        let axes = self.integers(&[axis])?;
        self.op(Op::Reverse, &[x, axes])
    }

    pub fn ty(&self, id: ValueId) -> Result<&ValueType> {
        self.graph.get(id).map(|v| &v.ty).ok_or_else(|| Error::internal("value of another graph"))
    }

    pub fn rank(&self, id: ValueId) -> Result<usize> {
        self.ty(id)?
            .rank()
            .ok_or_else(|| Error::unsupported("a layer whose input has no known rank"))
    }

    /// The sizes of a value, which Keras layers need to be known at the end.
    pub fn dims(&self, id: ValueId) -> Result<&[Dim]> {
        self.ty(id)?
            .shape
            .as_deref()
            .ok_or_else(|| Error::unsupported("a layer whose input has no known rank"))
    }

    /// Size of the last axis.
    pub fn width(&self, id: ValueId) -> Result<usize> {
        let last = self.dims(id)?.last().copied();
        last.and_then(Dim::known)
            .ok_or_else(|| Error::unsupported("the input's last axis has no fixed size"))
    }
}

/// `[rows, columns]` → `[columns, rows]`.
pub(super) fn transposed(tensor: &Tensor) -> Result<Tensor> {
    let &[rows, columns] = tensor.shape() else {
        return Err(Error::malformed(format!(
            "expected a matrix, found shape {:?}",
            tensor.shape()
        )));
    };
    let data = tensor.as_slice::<f32>()?;
    let mut out: Vec<f32> = Vec::with_capacity(data.len());
    for column in 0..columns {
        out.extend(data.iter().skip(column).step_by(columns));
    }
    Tensor::from_vec(&[columns, rows], out)
}
