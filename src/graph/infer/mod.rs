//! Types and shapes of an op's results from those of its operands.

mod dims;
mod elementwise;
mod linear;
mod parts;
mod recurrent;
mod shapes;
mod strided;
mod while_loop;

use super::op::Op;
use super::types::{Dim, ValueType};
use crate::error::{Error, Place, Result};
use crate::tensor::{DType, Tensor, element_count};

pub(crate) use dims::show;
pub(crate) use recurrent::has_output;
pub(crate) use strided::{AxisRange, resolve};

/// An operand of an op under inference.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// What is known of it.
    pub ty: &'a ValueType,
    /// Its elements, when they are known: axes, permutations, target shapes.
    pub known: Option<&'a Tensor>,
}

/// The types of the results of `op`, by output slot; `outputs` is the number of slots that the node
/// has (split and unpack need it).
///
/// Checks ranks, sizes and types of the operands on the way, for every op. Sizes may be symbolic or
/// unknown, so the same function serves the readers (symbolic) and the planner (concrete).
/// Quantization of results is not inferred.
///
/// Two ops keep something for the declared type to say: the integer type of [`Op::Quantize`]'s
/// result (int8 is returned), and everything of [`Op::Custom`]'s results (none is returned).
///
/// # Errors
/// [`InvalidGraph`](crate::ErrorKind::InvalidGraph) that says what was expected and what was found.
pub fn infer(op: &Op, inputs: &[Option<Operand<'_>>], outputs: usize) -> Result<Vec<ValueType>> {
    let operands = Operands::new(op, inputs)?;
    let types = dispatch(op, &operands, outputs)?;
    for ty in &types {
        if let Some(shape) = ty.known_shape() {
            element_count(&shape).within(|| "result")?;
        }
    }
    Ok(types)
}

fn dispatch(op: &Op, operands: &Operands<'_>, outputs: usize) -> Result<Vec<ValueType>> {
    let one = match op {
        Op::Recurrent(layer) => return recurrent::recurrent(layer, operands),
        Op::Svdf(svdf) => return linear::svdf(svdf, operands),
        Op::Unpack(unpack) => return parts::unpack(*unpack, operands, outputs),
        Op::Split => return parts::split(operands, outputs),
        Op::While(body) => return while_loop::while_loop(body, operands),
        Op::Custom(_) => return Ok(Vec::new()),
        Op::FullyConnected(options) => linear::fully_connected(options, operands),
        Op::MatMul(options) => linear::mat_mul(*options, operands),
        Op::Conv2d(options) => linear::conv2d(options, operands),
        Op::Pool2d(options) => linear::pool2d(options, operands),
        Op::Unary(function) => elementwise::unary(*function, operands),
        Op::Activation(_) => elementwise::activation(operands),
        Op::Binary(binary) => elementwise::binary(*binary, operands),
        Op::Select => elementwise::select(operands),
        Op::Softmax(_) => elementwise::softmax(operands),
        Op::Reduce(reduce) => elementwise::reduce(*reduce, operands),
        Op::ArgMax(options) => elementwise::arg_max(*options, operands),
        Op::Cast(dtype) => elementwise::cast(*dtype, operands),
        Op::Quantize => elementwise::cast(DType::I8, operands),
        Op::Dequantize => elementwise::dequantize(operands),
        Op::Transpose => shapes::transpose(operands),
        Op::Reshape => shapes::reshape(operands),
        Op::Squeeze(squeeze) => shapes::squeeze(squeeze, operands),
        Op::ExpandDims => shapes::expand_dims(operands),
        Op::Shape(dtype) => shapes::shape(*dtype, operands),
        Op::Fill => shapes::fill(operands),
        Op::Range => shapes::range(operands),
        Op::Tile => shapes::tile(operands),
        Op::BroadcastTo => shapes::broadcast_to(operands),
        Op::Pad => shapes::pad(operands),
        Op::Slice => parts::slice(operands),
        Op::StridedSlice(options) => strided::strided_slice(options, operands),
        Op::Gather(gather) => parts::gather(*gather, operands),
        Op::Pack(pack) => parts::pack(*pack, operands),
        Op::Concat(concat) => parts::concat(*concat, operands),
        Op::Reverse => parts::reverse(operands),
        Op::ReverseSequence(options) => parts::reverse_sequence(*options, operands),
        Op::SetItem => parts::set_item(operands),
    };
    Ok(vec![one?])
}

/// How many operands an op must have at least, and may have at most.
pub(crate) fn arity(op: &Op) -> (usize, usize) {
    match op {
        Op::Recurrent(layer) => (1, layer.input_slots()),
        Op::Svdf(_) => (1, 2),
        Op::FullyConnected(_) | Op::Conv2d(_) | Op::Pad | Op::Split => (2, 3),
        Op::Unary(_)
        | Op::Activation(_)
        | Op::Softmax(_)
        | Op::Cast(_)
        | Op::Quantize
        | Op::Dequantize
        | Op::Squeeze(_)
        | Op::Shape(_)
        | Op::Pool2d(_)
        | Op::Unpack(_) => (1, 1),
        Op::MatMul(_)
        | Op::Binary(_)
        | Op::Reduce(_)
        | Op::ArgMax(_)
        | Op::Transpose
        | Op::Reshape
        | Op::ExpandDims
        | Op::Fill
        | Op::Tile
        | Op::BroadcastTo
        | Op::Gather(_)
        | Op::Reverse
        | Op::ReverseSequence(_) => (2, 2),
        Op::Select | Op::Range | Op::Slice | Op::SetItem => (3, 3),
        Op::StridedSlice(_) => (4, 4),
        Op::Pack(_) | Op::Concat(_) => (1, usize::MAX),
        Op::While(body) => (body.body.inputs.len(), body.body.inputs.len()),
        Op::Custom(_) => (0, usize::MAX),
    }
}

/// The operands of one node, counted.
struct Operands<'a> {
    inputs: &'a [Option<Operand<'a>>],
}

impl<'a> Operands<'a> {
    fn new(op: &Op, inputs: &'a [Option<Operand<'a>>]) -> Result<Self> {
        let (least, most) = arity(op);
        // Absent operands at the end count for nothing: files write them or leave them out.
        let given = inputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        if given < least || given > most {
            let expected = if least == most {
                format!("{least}")
            } else if most == usize::MAX {
                format!("{least} or more")
            } else {
                format!("{least} to {most}")
            };
            return Err(Error::graph(format!(
                "{}: expected {expected} operands, found {given}",
                op.name()
            )));
        }
        Ok(Operands { inputs })
    }

    /// The operand of a slot; its absence is an error.
    fn get(&self, slot: usize, name: &str) -> Result<Operand<'a>> {
        self.optional(slot)
            .ok_or_else(|| Error::graph(format!("operand {slot} ({name}) is absent")))
    }

    fn optional(&self, slot: usize) -> Option<Operand<'a>> {
        self.inputs.get(slot).copied().flatten()
    }

    /// Every operand of an op that takes any number of them.
    fn all(&self) -> Result<Vec<Operand<'a>>> {
        (0..self.inputs.len()).map(|slot| self.get(slot, "input")).collect()
    }
}

impl<'a> Operand<'a> {
    fn dtype(&self) -> DType {
        self.ty.dtype
    }

    fn dims(&self) -> Option<&'a [Dim]> {
        self.ty.shape.as_deref()
    }

    /// The sizes, after a check of the rank; `None` when the rank is unknown.
    fn ranked(&self, name: &str, rank: usize) -> Result<Option<&'a [Dim]>> {
        match self.dims() {
            Some(dims) if dims.len() != rank => Err(Error::graph(format!(
                "{name}: expected rank {rank}, found {}",
                dims::show(self.dims())
            ))),
            dims => Ok(dims),
        }
    }

    /// Checks that the type is one of `expected`.
    fn expect_dtype(&self, name: &str, expected: &[DType]) -> Result<()> {
        if expected.contains(&self.dtype()) {
            return Ok(());
        }
        let names: Vec<&str> = expected.iter().map(|dtype| dtype.name()).collect();
        Err(Error::graph(format!(
            "{name}: expected {}, found {}",
            names.join(" or "),
            self.dtype()
        )))
    }

    /// Checks that the type is that of `other`.
    fn expect_same_dtype(&self, name: &str, other: &Operand<'_>) -> Result<()> {
        self.expect_dtype(name, &[other.dtype()])
    }

    fn expect_integer(&self, name: &str) -> Result<()> {
        match self.dtype() {
            DType::I8 | DType::U8 | DType::I16 | DType::I32 | DType::I64 => Ok(()),
            DType::F16 | DType::F32 | DType::F64 | DType::Bool => Err(Error::graph(format!(
                "{name}: expected an integer type, found {}",
                self.dtype()
            ))),
        }
    }

    /// The elements of a list of integers (a scalar counts as a list of one), when they are known.
    fn integers(&self, name: &str) -> Result<Option<Vec<i64>>> {
        self.expect_integer(name)?;
        if self.dims().is_some_and(|dims| dims.len() > 1) {
            return Err(Error::graph(format!(
                "{name}: expected a list, found shape {}",
                dims::show(self.dims())
            )));
        }
        self.known.map(Tensor::to_i64).transpose()
    }

    /// The one element of an integer scalar, when it is known.
    fn integer(&self, name: &str) -> Result<Option<i64>> {
        self.expect_integer(name)?;
        self.expect_single(name)?;
        match self.known.map(Tensor::to_i64).transpose()?.as_deref() {
            None => Ok(None),
            Some([value]) => Ok(Some(*value)),
            Some(values) => {
                Err(Error::graph(format!("{name}: expected one number, found {}", values.len())))
            }
        }
    }

    /// Checks that there is one element, as far as the shape is known.
    fn expect_single(&self, name: &str) -> Result<()> {
        let fits =
            self.dims().is_none_or(|dims| dims.iter().all(|dim| dim.agrees_with(Dim::Known(1))));
        if fits {
            Ok(())
        } else {
            Err(Error::graph(format!(
                "{name}: expected a scalar, found shape {}",
                dims::show(self.dims())
            )))
        }
    }

    /// Number of entries of a list, when it is known.
    fn list_len(&self, name: &str) -> Result<Option<usize>> {
        Ok(match self.dims() {
            None => None,
            Some([]) => Some(1),
            Some([dim]) => dim.known(),
            Some(_) => {
                return Err(Error::graph(format!(
                    "{name}: expected a list, found shape {}",
                    dims::show(self.dims())
                )));
            }
        })
    }
}

/// A result type of these sizes, unranked when there are none.
fn ty(dtype: DType, shape: Option<Vec<Dim>>) -> ValueType {
    ValueType { dtype, shape, quantization: None }
}

#[cfg(test)]
mod recurrent_tests;
#[cfg(test)]
mod tests;
