//! Short ways to write operands and to run one op.

use fuselstm::graph::{Op, ValueType};
use fuselstm::types::Element;
use fuselstm::types::Quantization;
use fuselstm::{DType, Result, Tensor};

/// A tensor and its type.
pub type Typed = (Tensor, ValueType);

pub fn tensor<E: Element>(shape: &[usize], data: &[E]) -> Tensor {
    Tensor::from_slice(shape, data).unwrap()
}

pub fn f(shape: &[usize], data: &[f32]) -> Tensor {
    tensor(shape, data)
}

pub fn i(data: &[i32]) -> Tensor {
    tensor(&[data.len()], data)
}

/// The numbers 0, 1, 2, … in a shape.
pub fn iota(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    f(shape, &(0..count).map(|n| n as f32).collect::<Vec<_>>())
}

/// Quantized with one scale for all.
pub fn q<E: Element>(shape: &[usize], data: &[E], scale: f32, zero: i64) -> Typed {
    let tensor = tensor(shape, data);
    let ty = ValueType {
        quantization: Some(Quantization::per_tensor(scale, zero)),
        ..ValueType::fixed(tensor.dtype(), shape)
    };
    (tensor, ty)
}

/// Type of a quantized result.
pub fn qtype(dtype: DType, scale: f32, zero: i64) -> ValueType {
    ValueType {
        quantization: Some(Quantization::per_tensor(scale, zero)),
        ..ValueType::unranked(dtype)
    }
}

pub fn plain(tensor: &Tensor) -> Typed {
    (tensor.clone(), ValueType::fixed(tensor.dtype(), tensor.shape()))
}

/// Evaluates with explicit types.
pub fn eval_typed(op: &Op, inputs: &[Option<Typed>], outputs: &[ValueType]) -> Result<Vec<Tensor>> {
    let inputs: Vec<_> =
        inputs.iter().map(|input| input.as_ref().map(|(tensor, ty)| (tensor, ty))).collect();
    let outputs: Vec<_> = outputs.iter().map(Some).collect();
    fuselstm::internal::eval::evaluate(op, &inputs, &outputs)
        .map(|results| results.into_iter().map(|result| result.expect("a wanted result")).collect())
}

/// Evaluates an op with one result of the given type.
pub fn eval_as(op: &Op, inputs: &[&Tensor], dtype: DType) -> Result<Tensor> {
    let inputs: Vec<_> = inputs.iter().map(|tensor| Some(plain(tensor))).collect();
    eval_typed(op, &inputs, &[ValueType::unranked(dtype)]).map(|mut results| results.remove(0))
}

/// Evaluates an op whose one result has the type of its first operand.
pub fn eval(op: &Op, inputs: &[&Tensor]) -> Result<Tensor> {
    eval_as(op, inputs, inputs[0].dtype())
}

/// Fails with both tensors when they differ by more than `atol`.
#[track_caller]
pub fn assert_close(got: &Tensor, expected: &Tensor, atol: f32) {
    assert_eq!(got.shape(), expected.shape());
    assert_eq!(got.dtype(), expected.dtype());
    let (a, b) = (got.to_f32(), expected.to_f32());
    let close = a
        .iter()
        .zip(b.iter())
        .all(|(a, b)| a == b || (a - b).abs() <= atol || (a.is_nan() && b.is_nan()));
    assert!(close, "{a:?}\nis not\n{b:?}");
}
