//! Every op that is one operator of TensorFlow Lite: its number, version, options and the order of
//! its operands.

use super::super::opcode;
use super::emit::Emit;
use super::file::{Code, Field, Options};
use super::window;
use crate::error::{Error, Result};
use crate::graph::op::{Activation, Binary, BinaryFunction, ReduceFunction, Unary};
use crate::graph::{Node, Op, ValueId};
use crate::tensor::{DType, Tensor};

use Field::{Bool, Byte, Float, Int, Ints};

/// Writes a node.
pub(super) fn plain(emit: &mut Emit<'_>, node: &Node) -> Result<()> {
    match &node.op {
        Op::Recurrent(_) | Op::Svdf(_) | Op::While(_) => Err(Error::internal("not a plain op")),
        Op::FullyConnected(op) => {
            let options = Options::new(
                8,
                vec![
                    (0, fused(op.activation)?),
                    (1, Byte(0)),
                    (2, Bool(op.keep_leading_axes)),
                    (3, Bool(op.asymmetric_inputs)),
                ],
            );
            let per_row = node.input(1).map(|weights| emit.ty(weights)).transpose()?;
            let per_row =
                per_row.and_then(|ty| ty.quantization.as_ref()).is_some_and(|q| q.scales.len() > 1);
            let version = match weights_of(emit, node)? {
                (DType::F32, DType::I8) if per_row => 12,
                (DType::F32, DType::I8) if op.asymmetric_inputs => 9,
                _ if op.keep_leading_axes => 5,
                (DType::F32, DType::I8) => 3,
                (DType::I8, _) => 4,
                _ if node.input(2).is_none() => 6,
                _ => 1,
            };
            let mut inputs = emit.operands(node)?;
            inputs.resize(3, -1);
            one(emit, node, opcode::FULLY_CONNECTED, version, &inputs, options)
        }
        Op::MatMul(op) => {
            let options = Options::new(
                101,
                vec![
                    (0, Bool(op.transpose_a)),
                    (1, Bool(op.transpose_b)),
                    (2, Bool(op.asymmetric_inputs)),
                ],
            );
            let version = match weights_of(emit, node)? {
                (DType::F32, DType::I8) if op.asymmetric_inputs => 4,
                (DType::I8, _) | (_, DType::I8) => 2,
                _ => 1,
            };
            same(emit, node, opcode::BATCH_MATMUL, version, options)
        }
        Op::Conv2d(op) => window::conv_2d(emit, node, op),
        Op::Pool2d(op) => window::pool_2d(emit, node, op),
        Op::Unary(op) => same(emit, node, unary(*op)?, 1, Options::default()),
        Op::Activation(op) => activation(emit, node, *op),
        Op::Binary(op) => binary(emit, node, *op),
        Op::Select => same(emit, node, opcode::SELECT_V2, 1, Options::default()),
        Op::Softmax(op) if op.log => {
            same(emit, node, opcode::LOG_SOFTMAX, 1, Options::new(36, Vec::new()))
        }
        Op::Softmax(op) => {
            let version = by_type(emit, node)?;
            same(emit, node, opcode::SOFTMAX, version, Options::new(9, vec![(0, Float(op.beta))]))
        }
        Op::Reduce(op) => {
            let inputs = indexed(emit, node, &[1])?;
            let version = by_type(emit, node)?;
            one(
                emit,
                node,
                reduction(op.function),
                version,
                &inputs,
                Options::new(27, vec![(0, Bool(op.keep_dims))]),
            )
        }
        Op::ArgMax(op) => {
            let (number, options) =
                if op.minimum { (opcode::ARG_MIN, 57) } else { (opcode::ARG_MAX, 40) };
            let inputs = indexed(emit, node, &[1])?;
            let options =
                Options::new(options, vec![(0, Byte(super::file::dtype_number(op.dtype)))]);
            one(emit, node, number, 1, &inputs, options)
        }
        Op::Cast(to) => {
            let from = input_type(emit, node, 0)?;
            let types = vec![
                (0, Byte(super::file::dtype_number(from))),
                (1, Byte(super::file::dtype_number(*to))),
            ];
            same(emit, node, opcode::CAST, 1, Options::new(37, types))
        }
        Op::Quantize => {
            let version = if input_type(emit, node, 0)? == DType::F32 { 1 } else { 2 };
            same(emit, node, opcode::QUANTIZE, version, Options::default())
        }
        Op::Dequantize => {
            let version = match input_type(emit, node, 0)? {
                DType::F16 => 3,
                DType::I8 | DType::I16 => 2,
                _ => 1,
            };
            same(emit, node, opcode::DEQUANTIZE, version, Options::default())
        }
        Op::Transpose => {
            let version = by_type(emit, node)?;
            with_indices(emit, node, opcode::TRANSPOSE, version)
        }
        Op::Reshape => reshape(emit, node),
        Op::Squeeze(op) => {
            let axes = op.axes.iter().map(|axis| *axis as i32).collect();
            same(emit, node, opcode::SQUEEZE, 1, Options::new(30, vec![(0, Ints(axes))]))
        }
        Op::ExpandDims => with_indices(emit, node, opcode::EXPAND_DIMS, 1),
        Op::Shape(dtype) => {
            let options = Options::new(55, vec![(0, Byte(super::file::dtype_number(*dtype)))]);
            same(emit, node, opcode::SHAPE, 1, options)
        }
        Op::Fill => same(emit, node, opcode::FILL, 1, Options::default()),
        Op::Range => same(emit, node, opcode::RANGE, 1, Options::default()),
        Op::Tile => with_indices(emit, node, opcode::TILE, 1),
        Op::BroadcastTo => {
            let version = by_type(emit, node)?;
            with_indices(emit, node, opcode::BROADCAST_TO, version)
        }
        Op::Pad => {
            let version = by_type(emit, node)?;
            let mut inputs = indexed(emit, node, &[1])?;
            let has_value = inputs.get(2).is_some_and(|value| *value != -1);
            inputs.truncate(if has_value { 3 } else { 2 });
            one(
                emit,
                node,
                if has_value { opcode::PADV2 } else { opcode::PAD },
                version,
                &inputs,
                Options::default(),
            )
        }
        Op::Slice => {
            let version = by_type(emit, node)?;
            let inputs = indexed(emit, node, &[1, 2])?;
            one(emit, node, opcode::SLICE, version, &inputs, Options::default())
        }
        Op::StridedSlice(op) => {
            let version = if op.offset { 8 } else { by_type(emit, node)? };
            let masks = [
                op.begin_mask,
                op.end_mask,
                op.ellipsis_mask,
                op.new_axis_mask,
                op.shrink_axis_mask,
            ];
            let mut fields: Vec<_> =
                masks.iter().enumerate().map(|(slot, mask)| (slot, Int(*mask as i32))).collect();
            fields.push((5, Bool(op.offset)));
            let inputs = indexed(emit, node, &[1, 2, 3])?;
            one(emit, node, opcode::STRIDED_SLICE, version, &inputs, Options::new(32, fields))
        }
        Op::Gather(op) => {
            let version = if op.batch_dims != 0 { 5 } else { by_type(emit, node)? };
            same(
                emit,
                node,
                opcode::GATHER,
                version,
                gather_options(op.axis as i32, op.batch_dims as i32),
            )
        }
        Op::Pack(op) => {
            let version = by_type(emit, node)?;
            let count = Int(node.inputs.len() as i32);
            same(
                emit,
                node,
                opcode::PACK,
                version,
                Options::new(59, vec![(0, count), (1, Int(op.axis as i32))]),
            )
        }
        Op::Unpack(op) => {
            let version = by_type(emit, node)?;
            let count = Int(node.outputs.len() as i32);
            same(
                emit,
                node,
                opcode::UNPACK,
                version,
                Options::new(64, vec![(0, count), (1, Int(op.axis as i32))]),
            )
        }
        Op::Split => split(emit, node),
        Op::Concat(op) => {
            let version = by_type(emit, node)?;
            let options =
                Options::new(10, vec![(0, Int(op.axis as i32)), (1, fused(op.activation)?)]);
            same(emit, node, opcode::CONCATENATION, version, options)
        }
        Op::Reverse => with_indices(emit, node, opcode::REVERSE_V2, 1),
        Op::ReverseSequence(op) => {
            let options = Options::new(
                87,
                vec![(0, Int(op.time_axis as i32)), (1, Int(op.batch_axis as i32))],
            );
            same(emit, node, opcode::REVERSE_SEQUENCE, 1, options)
        }
        Op::SetItem => set_item(emit, node),
        Op::Custom(op) => {
            let inputs = emit.operands(node)?;
            let outputs = emit.results(node)?;
            let code = emit.file.code(Code {
                number: opcode::CUSTOM,
                custom: op.name.clone(),
                version: 1,
            });
            emit.add_operator(code, &inputs, &outputs, Options::default());
            if let Some(operator) = emit.last_operator() {
                operator.custom_options.clone_from(&op.options);
            }
            Ok(())
        }
    }
}

/// One operator with the node's results.
pub(super) fn one(
    emit: &mut Emit<'_>,
    node: &Node,
    number: i32,
    version: i32,
    inputs: &[i32],
    options: Options,
) -> Result<()> {
    let outputs = emit.results(node)?;
    emit.operator(number, version, inputs, &outputs, options);
    Ok(())
}

/// One operator with the node's operands in their order, and its results.
fn same(
    emit: &mut Emit<'_>,
    node: &Node,
    number: i32,
    version: i32,
    options: Options,
) -> Result<()> {
    let inputs = emit.operands(node)?;
    one(emit, node, number, version, &inputs, options)
}

/// As [`same`], with the second operand (axes, a shape) in 32 bits.
fn with_indices(emit: &mut Emit<'_>, node: &Node, number: i32, version: i32) -> Result<()> {
    let inputs = indexed(emit, node, &[1])?;
    one(emit, node, number, version, &inputs, Options::default())
}

/// The operands, those in `slots` (axes, shapes, positions) as 32-bit integers, which is all that
/// the kernels read.
fn indexed(emit: &mut Emit<'_>, node: &Node, slots: &[usize]) -> Result<Vec<i32>> {
    let mut inputs = emit.operands(node)?;
    for &slot in slots {
        let (Some(value), Some(tensor)) = (node.input(slot), inputs.get_mut(slot)) else {
            continue;
        };
        *tensor = narrow(emit, value, *tensor)?;
    }
    Ok(inputs)
}

fn narrow(emit: &mut Emit<'_>, value: ValueId, tensor: i32) -> Result<i32> {
    if emit.ty(value)?.dtype != DType::I64 {
        return Ok(tensor);
    }
    let known = emit.graph.constant(value).or_else(|| emit.sizes.known(value));
    if let Some(known) = known {
        let narrowed = known
            .to_i64()?
            .into_iter()
            .map(|index| index.clamp(i32::MIN.into(), i32::MAX.into()) as i32)
            .collect();
        let narrowed = Tensor::from_vec::<i32>(known.shape(), narrowed)?;
        return Ok(emit.constant("indices", &narrowed, None));
    }
    let shape = emit.sizes.fixed(value, "a list of indices")?;
    let narrowed = emit.temporary("indices", DType::I32, &shape, None);
    let types = vec![
        (0, Byte(super::file::dtype_number(DType::I64))),
        (1, Byte(super::file::dtype_number(DType::I32))),
    ];
    emit.operator(opcode::CAST, 1, &[tensor], &[narrowed], Options::new(37, types));
    Ok(narrowed)
}

fn input_type(emit: &Emit<'_>, node: &Node, slot: usize) -> Result<DType> {
    match node.input(slot) {
        Some(value) => Ok(emit.ty(value)?.dtype),
        None => Err(Error::graph(format!("input {slot} is absent"))),
    }
}

/// Types of the first two operands.
pub(super) fn weights_of(emit: &Emit<'_>, node: &Node) -> Result<(DType, DType)> {
    Ok((input_type(emit, node, 0)?, input_type(emit, node, 1)?))
}

/// Most operators read floats since version 1 and int8 since version 2.
pub(super) fn by_type(emit: &Emit<'_>, node: &Node) -> Result<i32> {
    Ok(if input_type(emit, node, 0)? == DType::I8 { 2 } else { 1 })
}

/// The number of a fused activation.
pub(super) fn fused(activation: Activation) -> Result<Field> {
    fused_number(activation).map(Byte).ok_or_else(|| {
        Error::unsupported(format!(
            "the activation {activation:?} cannot be fused: none, relu, relu6, relu −1 to 1, tanh and sign can"
        ))
    })
}

/// The number of a fused activation, `None` when there is none.
pub(super) fn fused_number(activation: Activation) -> Option<i8> {
    match activation {
        Activation::Linear => Some(0),
        Activation::Relu => Some(1),
        Activation::ReluN1To1 => Some(2),
        Activation::Relu6 => Some(3),
        Activation::Tanh => Some(4),
        Activation::SignBit => Some(5),
        Activation::Sigmoid
        | Activation::HardSigmoid { .. }
        | Activation::Elu { .. }
        | Activation::LeakyRelu { .. }
        | Activation::Selu
        | Activation::Softplus
        | Activation::Softsign
        | Activation::Swish
        | Activation::Gelu { .. }
        | Activation::HardSwish
        | Activation::Exponential => None,
    }
}

/// The activations that are an operator; the others were rewritten before.
fn activation(emit: &mut Emit<'_>, node: &Node, activation: Activation) -> Result<()> {
    let (number, options) = match activation {
        Activation::Relu => (opcode::RELU, Options::default()),
        Activation::ReluN1To1 => (opcode::RELU_N1_TO_1, Options::default()),
        Activation::Relu6 => (opcode::RELU6, Options::default()),
        Activation::Tanh => (opcode::TANH, Options::default()),
        Activation::Sigmoid => (opcode::LOGISTIC, Options::default()),
        Activation::Elu { alpha: 1.0 } => (opcode::ELU, Options::default()),
        Activation::LeakyRelu { alpha } => {
            (opcode::LEAKY_RELU, Options::new(75, vec![(0, Float(alpha))]))
        }
        Activation::Gelu { approximate } => {
            (opcode::GELU, Options::new(116, vec![(0, Bool(approximate))]))
        }
        Activation::HardSwish => (opcode::HARD_SWISH, Options::default()),
        Activation::Exponential => (opcode::EXP, Options::default()),
        Activation::HardSigmoid { alpha, beta } if alpha == 1.0 && beta == 0.0 => {
            (opcode::RELU_0_TO_1, Options::default())
        }
        Activation::Linear
        | Activation::Elu { .. }
        | Activation::HardSigmoid { .. }
        | Activation::SignBit
        | Activation::Selu
        | Activation::Softplus
        | Activation::Softsign
        | Activation::Swish => {
            return Err(Error::internal(format!("{activation:?} was not rewritten")));
        }
    };
    let version = by_type(emit, node)?;
    same(emit, node, number, version, options)
}

fn binary(emit: &mut Emit<'_>, node: &Node, op: Binary) -> Result<()> {
    let (number, options) = match op.function {
        BinaryFunction::Add => (opcode::ADD, 11),
        BinaryFunction::Sub => (opcode::SUB, 28),
        BinaryFunction::Mul => (opcode::MUL, 21),
        BinaryFunction::Div => (opcode::DIV, 29),
        BinaryFunction::FloorDiv => (opcode::FLOOR_DIV, 0),
        BinaryFunction::FloorMod => (opcode::FLOOR_MOD, 0),
        BinaryFunction::Pow => (opcode::POW, 0),
        BinaryFunction::Minimum => (opcode::MINIMUM, 0),
        BinaryFunction::Maximum => (opcode::MAXIMUM, 0),
        BinaryFunction::SquaredDifference => (opcode::SQUARED_DIFFERENCE, 0),
        BinaryFunction::Equal => (opcode::EQUAL, 0),
        BinaryFunction::NotEqual => (opcode::NOT_EQUAL, 0),
        BinaryFunction::Less => (opcode::LESS, 0),
        BinaryFunction::LessEqual => (opcode::LESS_EQUAL, 0),
        BinaryFunction::Greater => (opcode::GREATER, 0),
        BinaryFunction::GreaterEqual => (opcode::GREATER_EQUAL, 0),
        BinaryFunction::And => (opcode::LOGICAL_AND, 0),
        BinaryFunction::Or => (opcode::LOGICAL_OR, 0),
    };
    let options = if options == 0 {
        Options::default()
    } else {
        Options::new(options, vec![(0, fused(op.activation)?)])
    };
    let version = by_type(emit, node)?;
    same(emit, node, number, version, options)
}

fn unary(op: Unary) -> Result<i32> {
    Ok(match op {
        Unary::Neg => opcode::NEG,
        Unary::Abs => opcode::ABS,
        Unary::Exp => opcode::EXP,
        Unary::Log => opcode::LOG,
        Unary::Sqrt => opcode::SQRT,
        Unary::Rsqrt => opcode::RSQRT,
        Unary::Square => opcode::SQUARE,
        Unary::Sin => opcode::SIN,
        Unary::Cos => opcode::COS,
        Unary::Floor => opcode::FLOOR,
        Unary::Ceil => opcode::CEIL,
        Unary::Round => opcode::ROUND,
        Unary::Sign => opcode::SIGN,
        Unary::Not => opcode::LOGICAL_NOT,
        Unary::Erf => return Err(Error::unsupported("TensorFlow Lite has no op for Erf")),
    })
}

fn reduction(function: ReduceFunction) -> i32 {
    match function {
        ReduceFunction::Sum => opcode::SUM,
        ReduceFunction::Mean => opcode::MEAN,
        ReduceFunction::Product => opcode::REDUCE_PROD,
        ReduceFunction::Maximum => opcode::REDUCE_MAX,
        ReduceFunction::Minimum => opcode::REDUCE_MIN,
        ReduceFunction::Any => opcode::REDUCE_ANY,
        ReduceFunction::All => opcode::REDUCE_ALL,
    }
}

/// The new shape stands in the operand, and in the options too when it is the same for every run.
fn reshape(emit: &mut Emit<'_>, node: &Node) -> Result<()> {
    let mut inputs = emit.operands(node)?;
    let Some(shape) = node.input(1) else { return Err(Error::graph("input 1 is absent")) };
    let known = emit.graph.constant(shape).or_else(|| emit.sizes.known(shape)).cloned();
    let options = match known {
        Some(known) => {
            let sizes: Vec<i32> = known.to_i64()?.into_iter().map(|size| size as i32).collect();
            inputs = vec![
                inputs.first().copied().unwrap_or(-1),
                emit.integers("new shape", &[sizes.len()], &sizes),
            ];
            Options::new(17, vec![(0, Ints(sizes))])
        }
        None => {
            inputs = indexed(emit, node, &[1])?;
            Options::default()
        }
    };
    one(emit, node, opcode::RESHAPE, 1, &inputs, options)
}

/// The file has the axis first; with sizes: x, sizes, axis.
fn split(emit: &mut Emit<'_>, node: &Node) -> Result<()> {
    let version = by_type(emit, node)?;
    let inputs = indexed(emit, node, &[1, 2])?;
    let operand = |slot: usize| inputs.get(slot).copied().unwrap_or(-1);
    let count = vec![(0, Int(node.outputs.len() as i32))];
    if operand(2) == -1 {
        return one(
            emit,
            node,
            opcode::SPLIT,
            version,
            &[operand(1), operand(0)],
            Options::new(35, count),
        );
    }
    one(
        emit,
        node,
        opcode::SPLIT_V,
        version,
        &[operand(0), operand(2), operand(1)],
        Options::new(79, count),
    )
}

/// x with item at an index: `DYNAMIC_UPDATE_SLICE` of the item with a leading axis of one, at
/// `[index, 0, 0, …]`.
fn set_item(emit: &mut Emit<'_>, node: &Node) -> Result<()> {
    let inputs = indexed(emit, node, &[1])?;
    let &[x, index, item] = inputs.as_slice() else {
        return Err(Error::graph("three operands were expected"));
    };
    let (list, entry) = (node.inputs[0], node.inputs[2]);
    let (Some(list), Some(entry)) = (list, entry) else {
        return Err(Error::graph("an operand is absent"));
    };
    let rank = emit.sizes.shape(list).map(Vec::len);
    let rank =
        rank.ok_or_else(|| Error::unsupported("the rank of a list of tensors depends on data"))?;
    let shape = emit.sizes.shape(entry).cloned().unwrap_or_default();
    let mut shape: Vec<usize> = shape.iter().map(|size| size.unwrap_or(1)).collect();
    shape.insert(0, 1);
    let dtype = emit.ty(entry)?.dtype;
    let expanded = emit.temporary("item", dtype, &shape, emit.ty(entry)?.quantization.clone());
    let axis = emit.integers("axis", &[], &[0]);
    emit.operator(opcode::EXPAND_DIMS, 1, &[item, axis], &[expanded], Options::default());
    let one_more = emit.temporary("index", DType::I32, &[1], None);
    let single = emit.integers("single", &[1], &[1]);
    emit.operator(
        opcode::RESHAPE,
        1,
        &[index, single],
        &[one_more],
        Options::new(17, vec![(0, Ints(vec![1]))]),
    );
    let start = if rank == 1 {
        one_more
    } else {
        let zeros = emit.integers("from the start", &[rank - 1], &vec![0; rank - 1]);
        let start = emit.temporary("start", DType::I32, &[rank], None);
        emit.operator(
            opcode::CONCATENATION,
            1,
            &[one_more, zeros],
            &[start],
            Options::new(10, vec![(0, Int(0)), (1, Byte(0))]),
        );
        start
    };
    one(
        emit,
        node,
        opcode::DYNAMIC_UPDATE_SLICE,
        1,
        &[x, expanded, start],
        Options::new(117, Vec::new()),
    )
}

pub(super) fn gather_options(axis: i32, batch_dims: i32) -> Options {
    Options::new(23, vec![(0, Int(axis)), (1, Int(batch_dims))])
}

pub(super) fn while_options(condition: i32, body: i32) -> Options {
    Options::new(93, vec![(0, Int(condition)), (1, Int(body))])
}
