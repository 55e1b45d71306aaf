//! What every op means: the equations as written, on host tensors, slow and obvious. Used to fold
//! constants, to plan shapes, and by the `reference` backend, which judges every other one.
//!
//! Float ops compute in f64 and round once at the result. Quantized ops (int8, uint8 and int16
//! values with a scale) compute as the reference kernels of TFLite do; float activations on int8
//! weights are the hybrid arithmetic of `hybrid`.

mod dense;
mod elementwise;
pub(crate) mod fixed_point;
mod hybrid;
pub(crate) mod interpret;
pub(crate) mod movement;
pub(crate) mod operands;
mod pool;
mod quantized;
mod recurrent;
mod reduce;
mod svdf;

use crate::error::{Error, Result};
use crate::graph::{Op, ValueType};
use crate::tensor::Tensor;
use operands::Operands;

/// Computes one op.
///
/// `inputs` by operand slot, each with its type (for the quantization); `outputs`: the declared
/// types of the results by slot, `None` for a result that nobody wants (the returned entry is then
/// `None` too).
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) or
/// [`InvalidGraph`](crate::ErrorKind::InvalidGraph) with what was expected and found; never panics,
/// whatever the operands.
pub fn evaluate(
    op: &Op,
    inputs: &[Option<(&Tensor, &ValueType)>],
    outputs: &[Option<&ValueType>],
) -> Result<Vec<Option<Tensor>>> {
    let mut results = dispatch(op, &Operands::new(inputs, outputs))?;
    if results.len() < outputs.len() {
        return Err(Error::graph(format!(
            "the op has {} results, the node {}",
            results.len(),
            outputs.len()
        )));
    }
    results.truncate(outputs.len());
    for (slot, (result, declared)) in results.iter_mut().zip(outputs).enumerate() {
        match (&result, declared) {
            (Some(tensor), Some(ty)) if tensor.dtype() != ty.dtype => {
                return Err(Error::graph(format!(
                    "result {slot} is {}, not {}",
                    tensor.dtype(),
                    ty.dtype
                )));
            }
            (None, Some(_)) => return Err(Error::graph(format!("the op has no result {slot}"))),
            (_, None) => *result = None,
            (Some(_), Some(_)) => {}
        }
    }
    Ok(results)
}

fn dispatch(op: &Op, x: &Operands<'_>) -> Result<Vec<Option<Tensor>>> {
    let result = match op {
        Op::Recurrent(layer) => return recurrent::recurrent(layer, x),
        Op::Svdf(layer) => return svdf::svdf(layer, x),
        Op::FullyConnected(options) => dense::fully_connected(options, x),
        Op::MatMul(options) => dense::matmul(options, x),
        Op::Conv2d(options) => dense::conv2d(options, x),
        Op::Pool2d(options) => pool::pool2d(options, x),
        Op::Unary(function) => elementwise::unary(*function, x),
        Op::Activation(function) => elementwise::activation(*function, x),
        Op::Binary(options) => elementwise::binary(options, x),
        Op::Select => {
            movement::select(x.tensor(0, "condition")?, x.tensor(1, "a")?, x.tensor(2, "b")?)
        }
        Op::Softmax(options) => reduce::softmax(options, x),
        Op::Reduce(options) => reduce::reduce(options, x),
        Op::ArgMax(options) => reduce::arg_max(options, x),
        Op::Cast(dtype) => movement::cast(x.tensor(0, "x")?, *dtype),
        Op::Quantize => quantized::quantize(x),
        Op::Dequantize => quantized::dequantize(x),
        Op::Transpose => movement::transpose(x.tensor(0, "x")?, x.tensor(1, "permutation")?),
        Op::Reshape => movement::reshape(x.tensor(0, "x")?, x.tensor(1, "shape")?),
        Op::Squeeze(options) => movement::squeeze(x.tensor(0, "x")?, options),
        Op::ExpandDims => movement::expand_dims(x.tensor(0, "x")?, x.tensor(1, "axis")?),
        Op::Shape(dtype) => movement::shape_of(x.tensor(0, "x")?, *dtype),
        Op::Fill => movement::fill(x.tensor(0, "shape")?, x.tensor(1, "value")?),
        Op::Range => {
            movement::range(x.tensor(0, "start")?, x.tensor(1, "limit")?, x.tensor(2, "delta")?)
        }
        Op::Tile => movement::tile(x.tensor(0, "x")?, x.tensor(1, "multiples")?),
        Op::BroadcastTo => movement::broadcast_to(x.tensor(0, "x")?, x.tensor(1, "shape")?),
        Op::Pad => {
            // Room around quantized numbers stands for 0, which is stored as the zero point.
            let zero = if x.is_quantized(0) { i64::from(x.scale(0, "x")?.zero) } else { 0 };
            movement::pad(x.tensor(0, "x")?, x.tensor(1, "paddings")?, x.optional(2), zero)
        }
        Op::Slice => {
            movement::slice(x.tensor(0, "x")?, x.tensor(1, "begin")?, x.tensor(2, "size")?)
        }
        Op::StridedSlice(options) => movement::strided_slice(
            x.tensor(0, "x")?,
            x.tensor(1, "begin")?,
            x.tensor(2, "end")?,
            x.tensor(3, "strides")?,
            options,
        ),
        Op::Gather(options) => {
            movement::gather(x.tensor(0, "x")?, x.tensor(1, "indices")?, options)
        }
        Op::Pack(options) => movement::pack(&x.all()?, options.axis),
        Op::Unpack(options) => {
            return some(movement::unpack(x.tensor(0, "x")?, options.axis, x.outputs())?);
        }
        Op::Split => {
            return some(movement::split(
                x.tensor(0, "x")?,
                x.tensor(1, "axis")?,
                x.optional(2),
                x.outputs(),
            )?);
        }
        Op::Concat(options) => elementwise::concat(options, x),
        Op::Reverse => movement::reverse(x.tensor(0, "x")?, x.tensor(1, "axes")?),
        Op::ReverseSequence(options) => {
            movement::reverse_sequence(x.tensor(0, "x")?, x.tensor(1, "lengths")?, options)
        }
        Op::SetItem => {
            movement::set_item(x.tensor(0, "x")?, x.tensor(1, "index")?, x.tensor(2, "item")?)
        }
        Op::While(body) => {
            let variables = x.all()?.into_iter().cloned().collect();
            return some(interpret::while_loop(body, variables)?);
        }
        Op::Custom(custom) => {
            Err(Error::unsupported(format!("the op {} is known by name only", custom.name)))
        }
    };
    Ok(vec![Some(result?)])
}

fn some(results: Vec<Tensor>) -> Result<Vec<Option<Tensor>>> {
    Ok(results.into_iter().map(Some).collect())
}
