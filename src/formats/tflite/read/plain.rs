//! Every operator that is neither recurrent nor control flow. Most keep their operands in the
//! file's order; those that do not, or that become several nodes, have a function of their own
//! below.

use super::super::{opcode, schema};
use super::function::{Call, Function};
use super::options::{activation, natural};
use super::{tensor, window};
use crate::error::{Error, Place, Result};
use crate::graph::op::{
    Activation, ArgMax, Binary, BinaryFunction, Concat, Custom, FullyConnected, Gather, MatMul,
    Pack, PoolFunction, Reduce, ReduceFunction, ReverseSequence, Softmax, Squeeze, StridedSlice,
    Unary, Unpack,
};
use crate::graph::{Dim, Node, Op, ValueId, ValueType};
use crate::tensor::{DType, Tensor};

/// Reads one operator.
pub(super) fn read<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    if let Some(op) = unary(call)? {
        return simple(function, call, op, 1..=1);
    }
    if let Some(op) = binary(call)? {
        return simple(function, call, op, 2..=2);
    }
    if let Some(function_of_reduce) = reduction(call.number) {
        let options: schema::ReducerOptions = call.options()?;
        let reduce = Reduce { function: function_of_reduce, keep_dims: options.keep_dims() };
        return simple(function, call, Op::Reduce(reduce), 2..=2);
    }
    match call.number {
        opcode::FULLY_CONNECTED => fully_connected(function, call),
        opcode::BATCH_MATMUL => {
            let options: schema::BatchMatMulOptions = call.options()?;
            let matmul = MatMul {
                transpose_a: options.adjoint_x(),
                transpose_b: options.adjoint_y(),
                asymmetric_inputs: options.asymmetric(),
            };
            simple(function, call, Op::MatMul(matmul), 2..=2)
        }
        opcode::CONV_2D => window::conv_2d(function, call),
        opcode::DEPTHWISE_CONV_2D => window::depthwise_conv_2d(function, call),
        opcode::MAX_POOL_2D => window::pool_2d(function, call, PoolFunction::Maximum),
        opcode::AVERAGE_POOL_2D => {
            window::pool_2d(function, call, PoolFunction::Average { count_padding: false })
        }
        opcode::SOFTMAX => {
            let options: schema::SoftmaxOptions = call.options()?;
            if !options.beta().is_finite() {
                return Err(Error::malformed(format!(
                    "beta is {}, a number was expected",
                    options.beta()
                )));
            }
            simple(function, call, Op::Softmax(Softmax { beta: options.beta(), log: false }), 1..=1)
        }
        opcode::LOG_SOFTMAX => {
            simple(function, call, Op::Softmax(Softmax { beta: 1.0, log: true }), 1..=1)
        }
        opcode::ARG_MAX | opcode::ARG_MIN => {
            let options: schema::ArgMaxOptions = call.options()?;
            let dtype = tensor::dtype(options.output_type())?;
            let arg = ArgMax { minimum: call.number == opcode::ARG_MIN, dtype };
            simple(function, call, Op::ArgMax(arg), 2..=2)
        }
        opcode::ADD_N => add_n(function, call),
        opcode::SELECT | opcode::SELECT_V2 => select(function, call),
        opcode::CAST => {
            let dtype = output_type(function, call)?.dtype;
            simple(function, call, Op::Cast(dtype), 1..=1)
        }
        opcode::QUANTIZE => {
            if output_type(function, call)?.quantization.is_none() {
                return Err(
                    Error::malformed("the result has no quantization scale").within("output 0")
                );
            }
            simple(function, call, Op::Quantize, 1..=1)
        }
        opcode::DEQUANTIZE => dequantize(function, call),
        opcode::RESHAPE => reshape(function, call),
        opcode::SQUEEZE => {
            let options: Option<schema::SqueezeOptions> = call.maybe_options()?;
            let axes = options.map(schema::SqueezeOptions::axes).unwrap_or_default();
            simple(
                function,
                call,
                Op::Squeeze(Squeeze { axes: axes.into_iter().map(i64::from).collect() }),
                1..=1,
            )
        }
        opcode::SHAPE => {
            let options: Option<schema::ShapeOptions> = call.maybe_options()?;
            let dtype = match options {
                Some(options) => tensor::dtype(options.output_type())?,
                None => output_type(function, call)?.dtype,
            };
            simple(function, call, Op::Shape(dtype), 1..=1)
        }
        opcode::TRANSPOSE => simple(function, call, Op::Transpose, 2..=2),
        opcode::EXPAND_DIMS => simple(function, call, Op::ExpandDims, 2..=2),
        opcode::FILL => simple(function, call, Op::Fill, 2..=2),
        opcode::RANGE => simple(function, call, Op::Range, 3..=3),
        opcode::TILE => simple(function, call, Op::Tile, 2..=2),
        opcode::BROADCAST_TO => simple(function, call, Op::BroadcastTo, 2..=2),
        opcode::PAD => simple(function, call, Op::Pad, 2..=2),
        opcode::PADV2 => simple(function, call, Op::Pad, 3..=3),
        opcode::SLICE => simple(function, call, Op::Slice, 3..=3),
        opcode::STRIDED_SLICE => strided_slice(function, call),
        opcode::GATHER => {
            let options: schema::GatherOptions = call.options()?;
            let gather = Gather {
                axis: i64::from(options.axis()),
                batch_dims: i64::from(options.batch_dims()),
            };
            simple(function, call, Op::Gather(gather), 2..=2)
        }
        opcode::EMBEDDING_LOOKUP => embedding_lookup(function, call),
        opcode::PACK => pack(function, call),
        opcode::UNPACK => unpack(function, call),
        opcode::SPLIT => split(function, call),
        opcode::SPLIT_V => split_v(function, call),
        opcode::CONCATENATION => concatenation(function, call),
        opcode::REVERSE_V2 => simple(function, call, Op::Reverse, 2..=2),
        opcode::REVERSE_SEQUENCE => {
            let options: schema::ReverseSequenceOptions = call.options()?;
            let (time_axis, batch_axis) =
                (i64::from(options.sequence_axis()), i64::from(options.batch_axis()));
            simple(
                function,
                call,
                Op::ReverseSequence(ReverseSequence { time_axis, batch_axis }),
                2..=2,
            )
        }
        opcode::DYNAMIC_UPDATE_SLICE => set_item(function, call),
        opcode::ZEROS_LIKE => zeros_like(function, call),
        opcode::RANK => rank(function, call),
        opcode::CUSTOM => custom(function, call),
        _ => Err(Error::unsupported(format!(
            "the operator is not supported; {}",
            needed(call.number)
        ))),
    }
}

/// What would be needed to run an operator that is not supported.
fn needed(number: i32) -> &'static str {
    match number {
        opcode::IF | opcode::CALL => {
            "a graph with branches or calls would be needed: fold the branch before exporting"
        }
        opcode::VAR_HANDLE | opcode::READ_VARIABLE | opcode::ASSIGN_VARIABLE => {
            "resource variables would be needed: freeze the model's variables, or keep state in variable tensors"
        }
        opcode::HASHTABLE
        | opcode::HASHTABLE_FIND
        | opcode::HASHTABLE_IMPORT
        | opcode::HASHTABLE_SIZE => "hash tables would be needed: look words up before the model",
        162..=202 | 204 | 206..=209 => {
            "a StableHLO graph would be needed: convert to builtin operators"
        }
        _ => "a variant of graph::Op with its equations would be needed",
    }
}

/// An op whose operands stand in the file's order, with one result.
fn simple<'m>(
    function: &mut Function<'m>,
    call: &Call<'m>,
    op: Op,
    inputs: std::ops::RangeInclusive<usize>,
) -> Result<()> {
    call.expect_arity(inputs, 1)?;
    let operands = operands(function, call)?;
    let output = function.output(call, 0)?;
    function.node(op, operands, vec![Some(output)]);
    Ok(())
}

/// Every operand, all of which must be there.
fn operands<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<Vec<Option<ValueId>>> {
    (0..call.inputs.len()).map(|slot| function.input(call, slot).map(Some)).collect()
}

/// Declared type of the first result.
fn output_type<'m>(function: &Function<'m>, call: &Call<'m>) -> Result<ValueType> {
    function.intermediate(call.outputs.first().copied().unwrap_or(-1)).within(|| "output 0")
}

fn unary(call: &Call<'_>) -> Result<Option<Op>> {
    let activation = match call.number {
        opcode::RELU => Activation::Relu,
        opcode::RELU_N1_TO_1 => Activation::ReluN1To1,
        opcode::RELU6 => Activation::Relu6,
        opcode::RELU_0_TO_1 => Activation::HardSigmoid { alpha: 1.0, beta: 0.0 },
        opcode::TANH => Activation::Tanh,
        opcode::LOGISTIC => Activation::Sigmoid,
        opcode::ELU => Activation::Elu { alpha: 1.0 },
        opcode::HARD_SWISH => Activation::HardSwish,
        opcode::LEAKY_RELU => {
            Activation::LeakyRelu { alpha: call.options::<schema::LeakyReluOptions>()?.alpha() }
        }
        opcode::GELU => {
            Activation::Gelu { approximate: call.options::<schema::GeluOptions>()?.approximate() }
        }
        _ => {
            let unary = match call.number {
                opcode::NEG => Unary::Neg,
                opcode::ABS => Unary::Abs,
                opcode::EXP => Unary::Exp,
                opcode::LOG => Unary::Log,
                opcode::SQRT => Unary::Sqrt,
                opcode::RSQRT => Unary::Rsqrt,
                opcode::SQUARE => Unary::Square,
                opcode::SIN => Unary::Sin,
                opcode::COS => Unary::Cos,
                opcode::FLOOR => Unary::Floor,
                opcode::CEIL => Unary::Ceil,
                opcode::ROUND => Unary::Round,
                opcode::SIGN => Unary::Sign,
                opcode::LOGICAL_NOT => Unary::Not,
                _ => return Ok(None),
            };
            return Ok(Some(Op::Unary(unary)));
        }
    };
    Ok(Some(Op::Activation(activation)))
}

fn binary(call: &Call<'_>) -> Result<Option<Op>> {
    let (function, fused) = match call.number {
        opcode::ADD => (BinaryFunction::Add, true),
        opcode::SUB => (BinaryFunction::Sub, true),
        opcode::MUL => (BinaryFunction::Mul, true),
        opcode::DIV => (BinaryFunction::Div, true),
        opcode::FLOOR_DIV => (BinaryFunction::FloorDiv, false),
        opcode::FLOOR_MOD => (BinaryFunction::FloorMod, false),
        opcode::POW => (BinaryFunction::Pow, false),
        opcode::MINIMUM => (BinaryFunction::Minimum, false),
        opcode::MAXIMUM => (BinaryFunction::Maximum, false),
        opcode::SQUARED_DIFFERENCE => (BinaryFunction::SquaredDifference, false),
        opcode::EQUAL => (BinaryFunction::Equal, false),
        opcode::NOT_EQUAL => (BinaryFunction::NotEqual, false),
        opcode::LESS => (BinaryFunction::Less, false),
        opcode::LESS_EQUAL => (BinaryFunction::LessEqual, false),
        opcode::GREATER => (BinaryFunction::Greater, false),
        opcode::GREATER_EQUAL => (BinaryFunction::GreaterEqual, false),
        opcode::LOGICAL_AND => (BinaryFunction::And, false),
        opcode::LOGICAL_OR => (BinaryFunction::Or, false),
        _ => return Ok(None),
    };
    let number = if fused { call.options::<schema::ArithmeticOptions>()?.activation() } else { 0 };
    Ok(Some(Op::Binary(Binary { function, activation: activation(number)? })))
}

fn reduction(number: i32) -> Option<ReduceFunction> {
    match number {
        opcode::SUM => Some(ReduceFunction::Sum),
        opcode::MEAN => Some(ReduceFunction::Mean),
        opcode::REDUCE_PROD => Some(ReduceFunction::Product),
        opcode::REDUCE_MAX => Some(ReduceFunction::Maximum),
        opcode::REDUCE_MIN => Some(ReduceFunction::Minimum),
        opcode::REDUCE_ANY => Some(ReduceFunction::Any),
        opcode::REDUCE_ALL => Some(ReduceFunction::All),
        _ => None,
    }
}

fn fully_connected<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    call.expect_arity(2..=3, 1)?;
    let options: schema::FullyConnectedOptions = call.options()?;
    if options.weights_format() != 0 {
        return Err(Error::unsupported(format!(
            "weights in shuffled format {}: the plain format (0) is needed",
            options.weights_format()
        )));
    }
    let x = function.input(call, 0)?;
    let weights = function.input(call, 1)?;
    let weights = if function.ty(x)?.dtype == DType::F32 {
        signed_weights(function, weights)?
    } else {
        weights
    };
    let bias = function.optional(call, 2)?;
    let output = function.output(call, 0)?;
    let op = FullyConnected {
        activation: activation(options.activation())?,
        keep_leading_axes: options.keep_num_dims(),
        asymmetric_inputs: options.asymmetric(),
    };
    function.node(Op::FullyConnected(op), vec![Some(x), Some(weights), bias], vec![Some(output)]);
    Ok(())
}

/// Weights beside a float input: the legacy u8 form holds the bytes of symmetric i8.
pub(super) fn signed_weights(function: &mut Function<'_>, weights: ValueId) -> Result<ValueId> {
    let Some(bytes) = function.graph.constant(weights).filter(|tensor| tensor.dtype() == DType::U8)
    else {
        return Ok(weights);
    };
    let signed = bytes.as_slice::<u8>()?.iter().map(|byte| byte.cast_signed()).collect();
    let signed = Tensor::from_vec(bytes.shape(), signed)?;
    function.model.spend_bytes(signed.byte_len())?;
    let mut quantization = function.ty(weights)?.quantization.clone();
    if let Some(quantization) = &mut quantization {
        quantization.zero_points.fill(0);
    }
    let name = function.graph.get(weights).map(|value| value.name.clone()).unwrap_or_default();
    let value = function.graph.add_constant(name, signed);
    if let Some(entry) = function.graph.values.last_mut() {
        entry.ty.quantization = quantization;
    }
    Ok(value)
}

/// x₀ + x₁ + …, as one addition after the other.
fn add_n<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    call.expect_arity(1..=usize::MAX, 1)?;
    let operands = operands(function, call)?;
    let output = function.output(call, 0)?;
    let add = Op::Binary(Binary { function: BinaryFunction::Add, activation: Activation::Linear });
    let (Some(first), Some(last)) = (operands.first().copied(), operands.len().checked_sub(1))
    else {
        return Ok(());
    };
    if last == 0 {
        function.node(Op::Activation(Activation::Linear), vec![first], vec![Some(output)]);
        return Ok(());
    }
    let ty = function.ty(output)?.clone();
    let mut sum = first;
    for (number, operand) in operands.into_iter().enumerate().skip(1) {
        let result = if number == last {
            output
        } else {
            function.graph.add_value("partial sum", ty.clone())
        };
        function.node(add.clone(), vec![sum, operand], vec![Some(result)]);
        sum = Some(result);
    }
    Ok(())
}

fn select<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    if call.number == opcode::SELECT {
        let condition = function.input(call, 0)?;
        let x = function.input(call, 1)?;
        let ranks = (function.ty(condition)?.rank(), function.ty(x)?.rank());
        // The old operator does not broadcast; a vector chooses whole rows.
        if ranks.0 == Some(1) && ranks.1 != Some(1) {
            return Err(Error::unsupported(
                "SELECT of whole rows by a vector: SELECT_V2 with a broadcast condition is needed",
            ));
        }
    }
    simple(function, call, Op::Select, 3..=3)
}

fn dequantize<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    call.expect_arity(1..=1, 1)?;
    let x = function.input(call, 0)?;
    let ty = function.ty(x)?;
    if ty.dtype != DType::F16 && ty.quantization.is_none() {
        return Err(Error::malformed(format!("{} without a quantization scale", ty.dtype))
            .within("input 0"));
    }
    if function.writes_variable(call) {
        return initial_state(function, call, x);
    }
    let output = function.output(call, 0)?;
    if function.graph.constant(x).is_some() {
        function.stored.insert(output, x);
    }
    function.node(Op::Dequantize, vec![Some(x)], vec![Some(output)]);
    Ok(())
}

/// A constant dequantized into a variable tensor: converters that store everything in halves write
/// the zeros of a state so. The kernel does it at the first run only, and a reset then leaves
/// zeros, so that only zeros have one meaning.
fn initial_state<'m>(function: &mut Function<'m>, call: &Call<'m>, x: ValueId) -> Result<()> {
    let zeros = function
        .graph
        .constant(x)
        .is_some_and(|tensor| tensor.to_f32().iter().all(|value| *value == 0.0));
    if !zeros {
        return Err(Error::unsupported("a state that does not begin with zeros").within("output 0"));
    }
    let index = call.outputs.first().copied().unwrap_or(-1);
    function.value(index).within(|| "output 0").map(|_| ())
}

/// The shape is an operand, or an option in old files (which may have an operand beside it that is
/// no vector).
fn reshape<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    call.expect_arity(1..=2, 1)?;
    let x = function.input(call, 0)?;
    let options: Option<schema::ReshapeOptions> = call.maybe_options()?;
    let operand = function.optional(call, 1)?;
    let is_vector = match operand {
        Some(shape) => matches!(function.ty(shape)?.rank(), None | Some(1)),
        None => false,
    };
    let shape = match (operand, options) {
        (Some(shape), _) if is_vector => shape,
        (_, Some(options)) => {
            let shape = options.new_shape();
            function.integers("new shape", &[shape.len()], shape)?
        }
        (Some(_), None) => return Err(Error::malformed("expected a list").within("input 1")),
        (None, None) => {
            return Err(Error::malformed("neither an operand nor an option says the new shape"));
        }
    };
    let output = function.output(call, 0)?;
    function.node(Op::Reshape, vec![Some(x), Some(shape)], vec![Some(output)]);
    Ok(())
}

fn strided_slice<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    let options: schema::StridedSliceOptions = call.options()?;
    let mask = |name: &str, value: i32| {
        u32::try_from(value).map_err(|_| {
            Error::malformed(format!("{name} is {value}, a number from 0 on was expected"))
        })
    };
    let op = StridedSlice {
        begin_mask: mask("begin_mask", options.begin_mask())?,
        end_mask: mask("end_mask", options.end_mask())?,
        ellipsis_mask: mask("ellipsis_mask", options.ellipsis_mask())?,
        new_axis_mask: mask("new_axis_mask", options.new_axis_mask())?,
        shrink_axis_mask: mask("shrink_axis_mask", options.shrink_axis_mask())?,
        offset: options.offset(),
    };
    simple(function, call, Op::StridedSlice(op), 4..=4)
}

/// Rows of a table by index; int8 rows come out as floats.
fn embedding_lookup<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    call.expect_arity(2..=2, 1)?;
    let ids = function.input(call, 0)?;
    let table = function.input(call, 1)?;
    let output = function.output(call, 0)?;
    let gather = Op::Gather(Gather { axis: 0, batch_dims: 0 });
    let (stored, wanted) = (function.ty(table)?.clone(), function.ty(output)?.clone());
    if stored.dtype == wanted.dtype {
        function.node(gather, vec![Some(table), Some(ids)], vec![Some(output)]);
        return Ok(());
    }
    let one_scale = stored
        .quantization
        .as_ref()
        .is_some_and(|quantization| quantization.as_per_tensor().is_some());
    if wanted.dtype != DType::F32 || !matches!(stored.dtype, DType::I8 | DType::U8) || !one_scale {
        return Err(Error::unsupported(format!(
            "a table of {} for results of {}: the same type, or int8 with one scale for float32, is supported",
            stored.dtype, wanted.dtype
        )));
    }
    let table = signed_weights(function, table)?;
    let stored = function.ty(table)?.clone();
    let rows = function.graph.add_value("rows", ValueType { shape: wanted.shape, ..stored });
    function.node(gather, vec![Some(table), Some(ids)], vec![Some(rows)]);
    function.node(Op::Dequantize, vec![Some(rows)], vec![Some(output)]);
    Ok(())
}

fn pack<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    let options: schema::PackOptions = call.options()?;
    if natural("values_count", options.count())? != call.inputs.len() {
        return Err(Error::malformed(format!(
            "values_count is {}, with {} inputs",
            options.count(),
            call.inputs.len()
        )));
    }
    simple(function, call, Op::Pack(Pack { axis: i64::from(options.axis()) }), 1..=usize::MAX)
}

fn unpack<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    let options: schema::UnpackOptions = call.options()?;
    call.expect_arity(1..=1, natural("num", options.count())?)?;
    let x = function.input(call, 0)?;
    let outputs = outputs(function, call)?;
    function.node(Op::Unpack(Unpack { axis: i64::from(options.axis()) }), vec![Some(x)], outputs);
    Ok(())
}

fn outputs<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<Vec<Option<ValueId>>> {
    (0..call.outputs.len()).map(|slot| function.output(call, slot).map(Some)).collect()
}

/// The file has the axis first.
fn split<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    let options: schema::SplitOptions = call.options()?;
    call.expect_arity(2..=2, natural("num_splits", options.count())?)?;
    let axis = function.input(call, 0)?;
    let x = function.input(call, 1)?;
    let outputs = outputs(function, call)?;
    function.node(Op::Split, vec![Some(x), Some(axis), None], outputs);
    Ok(())
}

/// The file has x, sizes, axis.
fn split_v<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    let options: schema::SplitOptions = call.options()?;
    call.expect_arity(3..=3, natural("num_splits", options.count())?)?;
    let x = function.input(call, 0)?;
    let sizes = function.input(call, 1)?;
    let axis = function.input(call, 2)?;
    let outputs = outputs(function, call)?;
    function.node(Op::Split, vec![Some(x), Some(axis), Some(sizes)], outputs);
    Ok(())
}

fn concatenation<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    let options: schema::ConcatenationOptions = call.options()?;
    let op =
        Concat { axis: i64::from(options.axis()), activation: activation(options.activation())? };
    simple(function, call, Op::Concat(op), 1..=usize::MAX)
}

/// x, update, start indices: one entry `[1, ..]` of the first axis is replaced, as loops write
/// lists of tensors.
fn set_item<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    call.expect_arity(3..=3, 1)?;
    let (x, update, start) =
        (function.input(call, 0)?, function.input(call, 1)?, function.input(call, 2)?);
    // With every other axis whole, the kernel's clamped start there is 0 whatever the operand says.
    let whole = match (&function.ty(x)?.shape, &function.ty(update)?.shape) {
        (Some(x), Some(update)) if let [first, rest @ ..] = update.as_slice() => {
            *first == Dim::Known(1)
                && x.len() == rest.len() + 1
                && x.iter().skip(1).zip(rest).all(|(a, b)| a.agrees_with(*b))
        }
        _ => false,
    };
    if !whole {
        return Err(Error::unsupported(
            "only the replacement of one whole entry of the first axis is supported",
        ));
    }
    let item = match function.producer(update) {
        Some(Node { op: Op::ExpandDims, inputs, .. }) => inputs.first().copied().flatten(),
        _ => None,
    };
    let item = match item {
        Some(item) => item,
        None => {
            let ty = function.ty(update)?.clone();
            let ty = ValueType {
                shape: ty.shape.map(|shape| shape.into_iter().skip(1).collect()),
                ..ty
            };
            let item = function.graph.add_value("item", ty);
            function.node(
                Op::Squeeze(Squeeze { axes: vec![0] }),
                vec![Some(update)],
                vec![Some(item)],
            );
            item
        }
    };
    let index = match single_index(function, start) {
        Some(index) => index,
        None => {
            let index = function.graph.add_value("index", ValueType::fixed(DType::I32, &[]));
            let (begin, end) = (
                function.integers("first", &[1], vec![0])?,
                function.integers("second", &[1], vec![1])?,
            );
            let op = StridedSlice { shrink_axis_mask: 1, ..StridedSlice::default() };
            let inputs = vec![Some(start), Some(begin), Some(end), Some(end)];
            function.node(Op::StridedSlice(op), inputs, vec![Some(index)]);
            index
        }
    };
    let output = function.output(call, 0)?;
    function.node(Op::SetItem, vec![Some(x), Some(index), Some(item)], vec![Some(output)]);
    Ok(())
}

/// The scalar that a list of start indices begins with, when it was made from one.
fn single_index(function: &Function<'_>, start: ValueId) -> Option<ValueId> {
    let mut value = start;
    if let Some(Node { op: Op::Concat(_), inputs, .. }) = function.producer(value) {
        value = inputs.first().copied().flatten()?;
    }
    let node = function.producer(value)?;
    let inner = node.input(0)?;
    let is_scalar = function.ty(inner).ok()?.rank() == Some(0);
    (matches!(node.op, Op::Reshape | Op::ExpandDims) && is_scalar).then_some(inner)
}

/// Zeros of the shape of x.
fn zeros_like<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    call.expect_arity(1..=1, 1)?;
    let x = function.input(call, 0)?;
    let output = function.output(call, 0)?;
    let dtype = function.ty(output)?.dtype;
    let shape = function.graph.add_value("shape", ValueType::unranked(DType::I32));
    function.node(Op::Shape(DType::I32), vec![Some(x)], vec![Some(shape)]);
    let zero = function.graph.add_constant("zero", Tensor::zeros(dtype, &[])?);
    function.node(Op::Fill, vec![Some(shape), Some(zero)], vec![Some(output)]);
    Ok(())
}

/// The rank of a tensor never depends on data.
fn rank<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    call.expect_arity(1..=1, 1)?;
    let x = function.input(call, 0)?;
    let rank = function.ty(x)?.rank().and_then(|rank| i32::try_from(rank).ok());
    let rank = rank.ok_or_else(|| Error::unsupported("the rank of a tensor of unknown rank"))?;
    let output = function.output(call, 0)?;
    if let Some(value) = function.graph.get_mut(output) {
        value.ty = ValueType::fixed(DType::I32, &[]);
        value.constant = Some(Tensor::scalar(rank));
    }
    Ok(())
}

/// An operator of another program: carried along, and refused when it is to run.
fn custom<'m>(function: &mut Function<'m>, call: &Call<'m>) -> Result<()> {
    if call.table.has_large_custom_options() {
        return Err(Error::unsupported(
            "options of a custom operator that lie behind the flatbuffer",
        ));
    }
    let inputs = (0..call.inputs.len())
        .map(|slot| function.optional(call, slot))
        .collect::<Result<Vec<_>>>()?;
    let outputs = outputs(function, call)?;
    let op = Custom { name: call.custom.to_owned(), options: call.table.custom_options().to_vec() };
    function.node(Op::Custom(op), inputs, outputs);
    Ok(())
}
