//! Adds nodes to a graph one result at a time, for the rewrites of this folder.

use crate::error::Result;
use crate::graph::op::{
    Activation, Binary, BinaryFunction, FullyConnected, Gather, Reduce, ReduceFunction,
    StridedSlice, Unary,
};
use crate::graph::recurrent::Matrix;
use crate::graph::{Graph, Op, ValueId, ValueType};
use crate::tensor::{DType, Quantization, Tensor};

/// A graph, and the names of what is added to it.
pub(super) struct Build<'g> {
    pub(super) graph: &'g mut Graph,
    pub(super) name: String,
}

impl Build<'_> {
    /// A node of one result.
    pub(super) fn op(&mut self, op: Op, inputs: &[ValueId], dtype: DType) -> ValueId {
        let name = format!("{}/{}", self.name, op.name().to_lowercase());
        let result = self.graph.add_value(name.clone(), ValueType::unranked(dtype));
        self.graph.add_node(
            name,
            op,
            inputs.iter().copied().map(Some).collect(),
            vec![Some(result)],
        );
        result
    }

    /// A constant.
    pub(super) fn constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        self.graph.add_constant(format!("{}/{name}", self.name), tensor)
    }

    /// A scalar of type f32.
    pub(super) fn number(&mut self, number: f32) -> ValueId {
        self.constant("number", Tensor::scalar(number))
    }

    /// A scalar of type i32.
    pub(super) fn integer(&mut self, number: i32) -> ValueId {
        self.constant("integer", Tensor::scalar(number))
    }

    /// A list of i32.
    pub(super) fn integers(&mut self, numbers: &[i32]) -> Result<ValueId> {
        Ok(self.constant("integers", Tensor::from_slice(&[numbers.len()], numbers)?))
    }

    pub(super) fn activation(&mut self, x: ValueId, activation: Activation) -> ValueId {
        match activation {
            Activation::Linear => x,
            _ => self.op(Op::Activation(activation), &[x], DType::F32),
        }
    }

    pub(super) fn unary(&mut self, x: ValueId, function: Unary) -> ValueId {
        self.op(Op::Unary(function), &[x], DType::F32)
    }

    fn binary(
        &mut self,
        a: ValueId,
        b: ValueId,
        function: BinaryFunction,
        dtype: DType,
    ) -> ValueId {
        self.op(Op::Binary(Binary { function, activation: Activation::Linear }), &[a, b], dtype)
    }

    pub(super) fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(a, b, BinaryFunction::Add, DType::F32)
    }

    pub(super) fn sub(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(a, b, BinaryFunction::Sub, DType::F32)
    }

    pub(super) fn mul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(a, b, BinaryFunction::Mul, DType::F32)
    }

    /// A sum of i32.
    pub(super) fn add_index(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(a, b, BinaryFunction::Add, DType::I32)
    }

    /// A difference of i32.
    pub(super) fn sub_index(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(a, b, BinaryFunction::Sub, DType::I32)
    }

    pub(super) fn less(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(a, b, BinaryFunction::Less, DType::Bool)
    }

    /// x, at least `low`.
    pub(super) fn at_least(&mut self, x: ValueId, low: f32) -> ValueId {
        let low = self.number(low);
        self.binary(x, low, BinaryFunction::Maximum, DType::F32)
    }

    /// x, at most `high`.
    pub(super) fn at_most(&mut self, x: ValueId, high: f32) -> ValueId {
        let high = self.number(high);
        self.binary(x, high, BinaryFunction::Minimum, DType::F32)
    }

    /// x within ±bound.
    pub(super) fn clip(&mut self, x: ValueId, bound: Option<f32>) -> ValueId {
        match bound {
            Some(bound) => {
                let x = self.at_most(x, bound);
                self.at_least(x, -bound)
            }
            None => x,
        }
    }

    /// Mean over the last axis, which stays with size 1.
    pub(super) fn mean(&mut self, x: ValueId) -> Result<ValueId> {
        let axis = self.integers(&[-1])?;
        Ok(self.op(
            Op::Reduce(Reduce { function: ReduceFunction::Mean, keep_dims: true }),
            &[x, axis],
            DType::F32,
        ))
    }

    /// `W x + b` on the last axis; int8 weights of one scale stay int8.
    pub(super) fn dense(
        &mut self,
        x: ValueId,
        weights: &Matrix,
        bias: Option<Tensor>,
        asymmetric: bool,
    ) -> Result<ValueId> {
        let weights = match (weights.data.dtype(), weights.scales.as_slice()) {
            (DType::F32, _) => self.constant("weights", weights.data.clone()),
            (DType::I8, scales) if !scales.is_empty() => {
                let value = self.constant("weights", weights.data.clone());
                if let Some(entry) = self.graph.values.last_mut() {
                    entry.ty.quantization = Some(row_scales(weights.rows(), scales));
                }
                value
            }
            (DType::F16, _) => {
                let half = self.constant("weights", weights.data.clone());
                self.op(Op::Dequantize, &[half], DType::F32)
            }
            _ => {
                self.constant("weights", Tensor::from_vec(weights.data.shape(), weights.to_f32())?)
            }
        };
        let op = Op::FullyConnected(FullyConnected {
            activation: Activation::Linear,
            keep_leading_axes: true,
            asymmetric_inputs: asymmetric,
        });
        let bias = bias.map(|bias| self.constant("bias", bias));
        let name = format!("{}/dense", self.name);
        let result = self.graph.add_value(name.clone(), ValueType::unranked(DType::F32));
        self.graph.add_node(name, op, vec![Some(x), Some(weights), bias], vec![Some(result)]);
        Ok(result)
    }

    /// Equal parts of the last axis.
    pub(super) fn split(&mut self, x: ValueId, parts: usize) -> Vec<ValueId> {
        if parts == 1 {
            return vec![x];
        }
        let axis = self.integer(-1);
        let name = format!("{}/split", self.name);
        let results: Vec<ValueId> = (0..parts)
            .map(|_| self.graph.add_value(name.clone(), ValueType::unranked(DType::F32)))
            .collect();
        let outputs = results.iter().copied().map(Some).collect();
        self.graph.add_node(name, Op::Split, vec![Some(x), Some(axis), None], outputs);
        results
    }

    /// Size of an axis, as a scalar of type i32.
    pub(super) fn size(&mut self, x: ValueId, axis: i32) -> Result<ValueId> {
        let shape = self.op(Op::Shape(DType::I32), &[x], DType::I32);
        let (begin, end, step) =
            (self.integers(&[axis])?, self.integers(&[axis + 1])?, self.integers(&[1])?);
        let op = Op::StridedSlice(StridedSlice { shrink_axis_mask: 1, ..StridedSlice::default() });
        Ok(self.op(op, &[shape, begin, end, step], DType::I32))
    }

    /// The entry at an index (a scalar) of the first axis.
    pub(super) fn item(&mut self, x: ValueId, index: ValueId, dtype: DType) -> ValueId {
        self.op(Op::Gather(Gather { axis: 0, batch_dims: 0 }), &[x, index], dtype)
    }
}

/// One scale where all are the same, else one a row; `scales` divide the rows into equal runs.
fn row_scales(rows: usize, scales: &[f32]) -> Quantization {
    match scales {
        [scale, rest @ ..] if rest.iter().all(|other| other == scale) => {
            Quantization::per_tensor(*scale, 0)
        }
        _ => {
            let run = rows.div_ceil(scales.len().max(1)).max(1);
            let scales: Vec<f32> = scales
                .iter()
                .flat_map(|scale| std::iter::repeat_n(*scale, run))
                .take(rows)
                .collect();
            Quantization { zero_points: vec![0; scales.len()], scales, axis: 0 }
        }
    }
}
