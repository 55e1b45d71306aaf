//! Element-wise ops, reductions and choices.

use super::step::{Random, Step, Val};
use crate::error::{Error, Result};
use crate::graph::op::{
    Activation, ArgMax, Binary, BinaryFunction, Reduce, ReduceFunction, Softmax, Unary,
};
use crate::graph::{Op, ValueId};
use crate::tensor::{DType, Tensor};

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    if let Some(outputs) = random(step)? {
        return Ok(Some(outputs));
    }
    if let Some(op) = unary(step)? {
        step.expect_inputs(1)?;
        let x = step.tensor(0)?;
        return step.one(op, &[x]);
    }
    if let Some(function) = binary(&step.node.op) {
        step.expect_inputs(2)?;
        let (a, b) = (step.tensor(0)?, step.tensor(1)?);
        return step.one(function_op(function), &[a, b]);
    }
    if let Some(function) = reduction(&step.node.op) {
        step.expect_inputs(2)?;
        let reduce = Reduce { function, keep_dims: step.node.is("keep_dims")? };
        let (x, axes) = (step.tensor(0)?, step.tensor(1)?);
        return step.one(Op::Reduce(reduce), &[x, axes]);
    }
    composed(step)
}

/// An op of two operands without activation.
pub fn function_op(function: BinaryFunction) -> Op {
    Op::Binary(Binary { function, activation: Activation::Linear })
}

fn unary(step: &Step<'_, '_>) -> Result<Option<Op>> {
    let activation = |activation| Some(Op::Activation(activation));
    let unary = |unary| Some(Op::Unary(unary));
    Ok(match step.node.op.as_str() {
        "Sigmoid" => activation(Activation::Sigmoid),
        "Tanh" => activation(Activation::Tanh),
        "Relu" => activation(Activation::Relu),
        "Relu6" => activation(Activation::Relu6),
        "Elu" => activation(Activation::Elu { alpha: 1.0 }),
        "Selu" => activation(Activation::Selu),
        "Softplus" => activation(Activation::Softplus),
        "Softsign" => activation(Activation::Softsign),
        "LeakyRelu" => {
            // TensorFlow's default slope.
            let alpha = step.node.float("alpha")?.copied().unwrap_or(0.2);
            activation(Activation::LeakyRelu { alpha })
        }
        "Softmax" => Some(Op::Softmax(Softmax { beta: 1.0, log: false })),
        "LogSoftmax" => Some(Op::Softmax(Softmax { beta: 1.0, log: true })),
        "Neg" => unary(Unary::Neg),
        "Abs" => unary(Unary::Abs),
        "Exp" => unary(Unary::Exp),
        "Log" => unary(Unary::Log),
        "Sqrt" => unary(Unary::Sqrt),
        "Rsqrt" => unary(Unary::Rsqrt),
        "Square" => unary(Unary::Square),
        "Sin" => unary(Unary::Sin),
        "Cos" => unary(Unary::Cos),
        "Floor" => unary(Unary::Floor),
        "Ceil" => unary(Unary::Ceil),
        "Round" | "Rint" => unary(Unary::Round),
        "Sign" => unary(Unary::Sign),
        "LogicalNot" => unary(Unary::Not),
        _ => None,
    })
}

fn binary(op: &str) -> Option<BinaryFunction> {
    Some(match op {
        "Add" | "AddV2" => BinaryFunction::Add,
        "Sub" => BinaryFunction::Sub,
        "Mul" => BinaryFunction::Mul,
        "Div" | "RealDiv" | "TruncateDiv" => BinaryFunction::Div,
        "FloorDiv" => BinaryFunction::FloorDiv,
        "FloorMod" => BinaryFunction::FloorMod,
        "Pow" => BinaryFunction::Pow,
        "Minimum" => BinaryFunction::Minimum,
        "Maximum" => BinaryFunction::Maximum,
        "SquaredDifference" => BinaryFunction::SquaredDifference,
        "Equal" => BinaryFunction::Equal,
        "NotEqual" => BinaryFunction::NotEqual,
        "Less" => BinaryFunction::Less,
        "LessEqual" => BinaryFunction::LessEqual,
        "Greater" => BinaryFunction::Greater,
        "GreaterEqual" => BinaryFunction::GreaterEqual,
        "LogicalAnd" => BinaryFunction::And,
        "LogicalOr" => BinaryFunction::Or,
        _ => return None,
    })
}

fn reduction(op: &str) -> Option<ReduceFunction> {
    Some(match op {
        "Sum" => ReduceFunction::Sum,
        "Mean" => ReduceFunction::Mean,
        "Prod" => ReduceFunction::Product,
        "Max" => ReduceFunction::Maximum,
        "Min" => ReduceFunction::Minimum,
        "Any" => ReduceFunction::Any,
        "All" => ReduceFunction::All,
        _ => return None,
    })
}

/// Ops that are written with others, or whose operands need a look.
fn composed(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    match step.node.op.as_str() {
        "AddN" => {
            let operands = step.tensors()?;
            let (&first, rest) =
                operands.split_first().ok_or_else(|| Error::malformed("the node has no input"))?;
            let mut sum = first;
            for &operand in rest {
                sum = step.add(function_op(BinaryFunction::Add), &[sum, operand])?;
            }
            Ok(Some(vec![Val::Tensor(sum)]))
        }
        "BiasAdd" => {
            step.expect_inputs(2)?;
            let (x, bias) = (step.tensor(0)?, step.tensor(1)?);
            let format = step.node.text("data_format")?.unwrap_or("NHWC");
            if format != "NHWC" && step.rank(x)? != 2 {
                return Err(Error::unsupported(format!(
                    "the data format {format}: channels must stand last"
                )));
            }
            step.one(function_op(BinaryFunction::Add), &[x, bias])
        }
        "Reciprocal" | "Inv" => {
            let x = step.tensor(0)?;
            let one = constant_like(step, x, 1.0)?;
            step.one(function_op(BinaryFunction::Div), &[one, x])
        }
        "Log1p" => {
            let x = step.tensor(0)?;
            let one = constant_like(step, x, 1.0)?;
            let sum = step.add(function_op(BinaryFunction::Add), &[x, one])?;
            step.one(Op::Unary(Unary::Log), &[sum])
        }
        "ClipByValue" => {
            step.expect_inputs(3)?;
            let (x, low, high) = (step.tensor(0)?, step.tensor(1)?, step.tensor(2)?);
            let clipped = step.add(function_op(BinaryFunction::Minimum), &[x, high])?;
            step.one(function_op(BinaryFunction::Maximum), &[clipped, low])
        }
        "Cast" => {
            let x = step.tensor(0)?;
            let to = step.node.dtype("DstT")?;
            if step.node.is("Truncate")? {
                return Err(Error::unsupported("a cast that cuts bits off instead of rounding"));
            }
            if step.builder.ty(x)?.dtype == to {
                return Ok(Some(vec![Val::Tensor(x)]));
            }
            step.one(Op::Cast(to), &[x])
        }
        "SelectV2" => {
            step.expect_inputs(3)?;
            let operands = step.tensors()?;
            step.one(Op::Select, &operands)
        }
        "Select" => select(step),
        "ArgMax" | "ArgMin" => {
            step.expect_inputs(2)?;
            let dtype = match step.node.type_number("output_type")? {
                Some(&number) => super::tensor::dtype(number)?,
                None => DType::I64,
            };
            let (x, axis) = (step.tensor(0)?, step.tensor(1)?);
            step.one(Op::ArgMax(ArgMax { minimum: step.node.op == "ArgMin", dtype }), &[x, axis])
        }
        _ => Ok(None),
    }
}

/// The old choice: a vector of conditions chooses whole rows of operands of higher rank.
fn select(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    step.expect_inputs(3)?;
    let (mut condition, yes, no) = (step.tensor(0)?, step.tensor(1)?, step.tensor(2)?);
    if step.rank(condition)? == 1 {
        let axis = step.scalar(-1);
        for _ in 1..step.rank(yes)? {
            condition = step.add(Op::ExpandDims, &[condition, axis])?;
        }
    }
    let chosen = step.add(Op::Select, &[condition, yes, no])?;
    // Other than its successor, which broadcasts, this op takes two operands of one shape.
    step.builder.same_shape(chosen, [yes, no]);
    Ok(Some(vec![Val::Tensor(chosen)]))
}

/// A scalar of an operand's type.
pub fn constant_like(step: &mut Step<'_, '_>, like: ValueId, value: f64) -> Result<ValueId> {
    let dtype = step.builder.ty(like)?.dtype;
    let tensor = scalar(dtype, value);
    Ok(step.builder.constant_value(&step.node.name, tensor))
}

/// A scalar of some type.
pub fn scalar(dtype: DType, value: f64) -> Tensor {
    match dtype {
        DType::F32 => Tensor::scalar(value as f32),
        DType::F64 => Tensor::scalar(value),
        DType::F16 => Tensor::scalar(half::f16::from_f64(value)),
        DType::I8 => Tensor::scalar(value as i8),
        DType::U8 => Tensor::scalar(value as u8),
        DType::I16 => Tensor::scalar(value as i16),
        DType::I32 => Tensor::scalar(value as i32),
        DType::I64 => Tensor::scalar(value as i64),
        DType::Bool => Tensor::scalar(value != 0.0),
    }
}

/// Random numbers and what dropout does with them.
fn random(step: &mut Step<'_, '_>) -> Result<Option<Vec<Val>>> {
    if step.node.op == "RandomUniform" {
        let random = Random {
            shape: step.tensor(0)?,
            dtype: step.node.dtype("dtype")?,
            low: 0.0,
            high: 1.0,
            shift: None,
        };
        return Ok(Some(vec![Val::Random(random)]));
    }
    let (random, other, first) = match step.inputs.as_slice() {
        [Val::Random(random)] => (random.clone(), None, true),
        [Val::Random(random), Val::Tensor(other)] => (random.clone(), Some(*other), true),
        [Val::Tensor(other), Val::Random(random)] => (random.clone(), Some(*other), false),
        _ => return Ok(None),
    };
    let number = other.and_then(|other| {
        let tensor = step.builder.constant(other)?;
        (tensor.len() == 1).then(|| tensor.to_f32().first().map(|&x| f64::from(x))).flatten()
    });
    let Random { low, high, .. } = random;
    if let Some(outputs) = fed(step, &random, other)? {
        return Ok(Some(outputs));
    }
    let moved = match (step.node.op.as_str(), number, first) {
        ("Add" | "AddV2", Some(n), _) => Random { low: low + n, high: high + n, ..random },
        ("Sub", Some(n), true) => Random { low: low - n, high: high - n, ..random },
        ("Mul", Some(n), _) if n > 0.0 => Random { low: low * n, high: high * n, ..random },
        // The numbers are less than `high`, so that they round down to one number when `high` is at
        // most the next one.
        ("Floor", None, true) if low.floor() + 1.0 >= high => {
            return Ok(Some(vec![filled(step, &random, low.floor())?]));
        }
        ("GreaterEqual", Some(n), true) if low >= n => {
            return Ok(Some(vec![filled(step, &Random { dtype: DType::Bool, ..random }, 1.0)?]));
        }
        _ => {
            return Err(Error::unsupported(
                "random numbers decide the result: dropout is on; fix its keep probability to 1 or freeze the graph for inference",
            ));
        }
    };
    Ok(Some(vec![Val::Random(moved)]))
}

/// Dropout with a keep probability that is fed: 1 keeps everything, whatever the numbers are. With
/// less, the result would be random; it is made NaN, which nobody takes for an answer.
fn fed(
    step: &mut Step<'_, '_>,
    random: &Random,
    other: Option<ValueId>,
) -> Result<Option<Vec<Val>>> {
    let unit = random.low == 0.0 && random.high == 1.0;
    match (step.node.op.as_str(), other, random.shift) {
        ("Add" | "AddV2", Some(keep), None)
            if unit && step.builder.ty(keep)?.rank().unwrap_or(0) == 0 =>
        {
            if step.builder.constant(keep).is_some() {
                return Ok(None);
            }
            // Old graphs leave the shape of a scalar input open; dropout takes no other keep
            // probability.
            step.builder.refine(keep, &[])?;
            Ok(Some(vec![Val::Random(Random { shift: Some(keep), ..random.clone() })]))
        }
        ("Floor", None, Some(keep)) => {
            let whole = step.add(Op::Unary(Unary::Floor), &[keep])?;
            let factor = step.add(function_op(BinaryFunction::Div), &[whole, whole])?;
            let warning = "dropout is computed for a keep probability of 1 only: with less, the results are NaN";
            step.context.warn(warning);
            Ok(Some(vec![Val::Tensor(factor)]))
        }
        (_, _, Some(_)) => {
            Err(Error::unsupported("random numbers decide the result in a way that is no dropout"))
        }
        _ => Ok(None),
    }
}

fn filled(step: &mut Step<'_, '_>, random: &Random, value: f64) -> Result<Val> {
    let value = step.builder.constant_value(&step.node.name, scalar(random.dtype, value));
    Ok(Val::Tensor(step.add(Op::Fill, &[random.shape, value])?))
}
