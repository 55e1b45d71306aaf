//! Ops on single elements.

use super::lower::Val;
use super::step::{Outputs, Step};
use super::tensor;
use crate::error::{Error, Result};
use crate::graph::op::{Activation, BinaryFunction as F, Unary};
use crate::graph::{Op, ValueId};
use crate::tensor::{DType, Tensor};

/// The table of this module.
pub fn lower(step: &mut Step<'_, '_>) -> Result<Option<Outputs>> {
    let op = step.node.op_type.as_str();
    if let Some(function) = two_operands(op) {
        return binary(step, function).map(Some);
    }
    if let Some(function) = one_operand(op) {
        legacy(step)?;
        step.expect_inputs(1, 1)?;
        let x = step.tensor(0)?;
        return step.one(Op::Unary(function), &[x]).map(Some);
    }
    if let Some(activation) = activation(step)? {
        legacy(step)?;
        step.expect_inputs(1, 1)?;
        let x = step.tensor(0)?;
        return step.one(Op::Activation(activation), &[x]).map(Some);
    }
    Ok(Some(match op {
        "Max" => folded(step, F::Maximum)?,
        "Min" => folded(step, F::Minimum)?,
        "Sum" => folded(step, F::Add)?,
        "Mean" => mean(step)?,
        "Pow" => pow(step)?,
        "Mod" => modulo(step)?,
        "Xor" => binary(step, F::NotEqual)?,
        "Reciprocal" => reciprocal(step)?,
        "PRelu" => prelu(step)?,
        "Clip" => clip(step)?,
        "Where" => choose(step)?,
        "Cast" => cast(step)?,
        "CastLike" => cast_like(step)?,
        "Identity" => identity(step)?,
        "Dropout" => dropout(step)?,
        "Constant" => constant(step)?,
        _ => return Ok(None),
    }))
}

fn two_operands(op: &str) -> Option<F> {
    Some(match op {
        "Add" => F::Add,
        "Sub" => F::Sub,
        "Mul" => F::Mul,
        "Div" => F::Div,
        "And" => F::And,
        "Or" => F::Or,
        "Equal" => F::Equal,
        "Less" => F::Less,
        "LessOrEqual" => F::LessEqual,
        "Greater" => F::Greater,
        "GreaterOrEqual" => F::GreaterEqual,
        _ => return None,
    })
}

fn one_operand(op: &str) -> Option<Unary> {
    Some(match op {
        "Sqrt" => Unary::Sqrt,
        "Exp" => Unary::Exp,
        "Log" => Unary::Log,
        "Neg" => Unary::Neg,
        "Abs" => Unary::Abs,
        "Floor" => Unary::Floor,
        "Ceil" => Unary::Ceil,
        "Round" => Unary::Round,
        "Sign" => Unary::Sign,
        "Sin" => Unary::Sin,
        "Cos" => Unary::Cos,
        "Not" => Unary::Not,
        "Erf" => Unary::Erf,
        _ => return None,
    })
}

/// Functions that are activations of the graph, with their parameters.
fn activation(step: &Step<'_, '_>) -> Result<Option<Activation>> {
    let attrs = &step.attrs;
    Ok(Some(match step.node.op_type.as_str() {
        "Relu" => Activation::Relu,
        "Sigmoid" => Activation::Sigmoid,
        "Tanh" => Activation::Tanh,
        "Softplus" => Activation::Softplus,
        "Softsign" => Activation::Softsign,
        "HardSwish" => Activation::HardSwish,
        "LeakyRelu" => Activation::LeakyRelu { alpha: attrs.float_or("alpha", 0.01)? },
        "Elu" => Activation::Elu { alpha: attrs.float_or("alpha", 1.0)? },
        "HardSigmoid" => Activation::HardSigmoid {
            alpha: attrs.float_or("alpha", 0.2)?,
            beta: attrs.float_or("beta", 0.5)?,
        },
        "Gelu" => Activation::Gelu {
            approximate: match attrs.string("approximate")? {
                None | Some("none") => false,
                Some("tanh") => true,
                Some(other) => {
                    return Err(Error::malformed(format!(
                        "approximate: expected none or tanh, found '{other}'"
                    )));
                }
            },
        },
        _ => return Ok(None),
    }))
}

/// The first operator set let writers say which operands could be written over.
fn legacy(step: &Step<'_, '_>) -> Result<()> {
    const WITHOUT_HINT: i64 = 6;
    if step.opset < WITHOUT_HINT {
        step.attrs.ints("consumed_inputs")?;
    }
    Ok(())
}

fn binary(step: &mut Step<'_, '_>, function: F) -> Result<Outputs> {
    legacy(step)?;
    step.expect_inputs(2, 2)?;
    let (a, mut b) = (step.tensor(0)?, step.tensor(1)?);
    b = aligned(step, a, b)?;
    Ok(vec![Some(Val::Tensor(step.binary(function, a, b)?))])
}

/// Before opset 7 the second operand is broadcast when the node says so, from an axis that it
/// names.
fn aligned(step: &mut Step<'_, '_>, a: ValueId, mut b: ValueId) -> Result<ValueId> {
    const BROADCASTS: i64 = 7;
    if step.opset >= BROADCASTS {
        return Ok(b);
    }
    let broadcast = step.attrs.flag("broadcast", false)?;
    let Some(axis) = step.attrs.int("axis")?.filter(|_| broadcast) else { return Ok(b) };
    let (rank, inner) = (step.rank(a)?, step.rank(b)?);
    let axis = step.axis(axis, rank)?;
    let after = rank.checked_sub(axis + inner).ok_or_else(|| {
        Error::malformed(format!("axis {axis}: {inner} axes do not fit into {rank}"))
    })?;
    for _ in 0..after {
        let last = step.scalar(-1);
        b = step.add(Op::ExpandDims, &[b, last])?;
    }
    Ok(b)
}

fn folded(step: &mut Step<'_, '_>, function: F) -> Result<Outputs> {
    legacy(step)?;
    let all = step.tensors()?;
    let (&first, rest) =
        all.split_first().ok_or_else(|| Error::malformed("expected 1 input or more, found 0"))?;
    let mut result = first;
    for &next in rest {
        result = step.binary(function, result, next)?;
    }
    Ok(vec![Some(Val::Tensor(result))])
}

fn mean(step: &mut Step<'_, '_>) -> Result<Outputs> {
    let count = step.inputs.len() as f64;
    let Some(Some(Val::Tensor(sum))) = folded(step, F::Add)?.pop() else {
        return Err(Error::internal("a sum without a result"));
    };
    let dtype = step.dtype(sum)?;
    let count = step.number(dtype, count)?;
    Ok(vec![Some(Val::Tensor(step.binary(F::Div, sum, count)?))])
}

/// The result is of the base's type.
fn pow(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(2, 2)?;
    let (a, mut b) = (step.tensor(0)?, step.tensor(1)?);
    b = aligned(step, a, b)?;
    let (base, exponent) = (step.dtype(a)?, step.dtype(b)?);
    if base == exponent {
        return Ok(vec![Some(Val::Tensor(step.binary(F::Pow, a, b)?))]);
    }
    // An integer to a power that may be a fraction or negative is computed as a number.
    let common = if base.is_float() { base } else { DType::F64 };
    let (a, b) = (step.cast(a, common)?, step.cast(b, common)?);
    let result = step.binary(F::Pow, a, b)?;
    Ok(vec![Some(Val::Tensor(step.cast(result, base)?))])
}

/// Integers: the sign of the divisor; with `fmod` that of the dividend.
fn modulo(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(2, 2)?;
    let (a, b) = (step.tensor(0)?, step.tensor(1)?);
    let fmod = step.attrs.flag("fmod", false)?;
    match (step.dtype(a)?.is_float(), fmod) {
        (false, false) => Ok(vec![Some(Val::Tensor(step.binary(F::FloorMod, a, b)?))]),
        (false, true) => {
            let quotient = step.binary(F::Div, a, b)?;
            let whole = step.binary(F::Mul, quotient, b)?;
            Ok(vec![Some(Val::Tensor(step.binary(F::Sub, a, whole)?))])
        }
        (true, _) => Err(Error::unsupported("Mod of numbers that are no integers")),
    }
}

fn reciprocal(step: &mut Step<'_, '_>) -> Result<Outputs> {
    legacy(step)?;
    step.expect_inputs(1, 1)?;
    let x = step.tensor(0)?;
    let dtype = step.dtype(x)?;
    let one = step.number(dtype, 1.0)?;
    Ok(vec![Some(Val::Tensor(step.binary(F::Div, one, x)?))])
}

/// x for x ≥ 0, else slope·x.
fn prelu(step: &mut Step<'_, '_>) -> Result<Outputs> {
    legacy(step)?;
    step.expect_inputs(2, 2)?;
    let (x, mut slope) = (step.tensor(0)?, step.tensor(1)?);
    const BROADCASTS: i64 = 7;
    if step.opset < BROADCASTS && step.rank(slope)? == 1 {
        // The slope of each channel, axis 1.
        for _ in 2..step.rank(x)? {
            let last = step.scalar(-1);
            slope = step.add(Op::ExpandDims, &[slope, last])?;
        }
    }
    let dtype = step.dtype(x)?;
    let zero = step.number(dtype, 0.0)?;
    let negative = step.binary(F::Less, x, zero)?;
    let scaled = step.binary(F::Mul, slope, x)?;
    step.one(Op::Select, &[negative, scaled, x])
}

fn clip(step: &mut Step<'_, '_>) -> Result<Outputs> {
    legacy(step)?;
    const BOUNDS_AS_INPUTS: i64 = 11;
    let x = step.tensor(0)?;
    let dtype = step.dtype(x)?;
    let (low, high) = if step.opset < BOUNDS_AS_INPUTS {
        step.expect_inputs(1, 1)?;
        let mut bound = |name: &str| match step.attrs.float(name)? {
            None => Ok(None),
            Some(bound) => step.number(dtype, f64::from(bound)).map(Some),
        };
        (bound("min")?, bound("max")?)
    } else {
        step.expect_inputs(1, 3)?;
        (step.optional(1)?, step.optional(2)?)
    };
    let mut result = x;
    if let Some(low) = low {
        result = step.binary(F::Maximum, result, low)?;
    }
    if let Some(high) = high {
        result = step.binary(F::Minimum, result, high)?;
    }
    Ok(vec![Some(Val::Tensor(result))])
}

fn choose(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(3, 3)?;
    let operands = step.tensors()?;
    step.one(Op::Select, &operands)
}

/// `saturate` and `round_mode` speak of element types that are refused anyway.
fn cast_options(step: &Step<'_, '_>) -> Result<()> {
    if step.opset >= 19 {
        step.attrs.int("saturate")?;
    }
    if step.opset >= 24 {
        step.attrs.string("round_mode")?;
    }
    step.expect_inputs(1, 2)
}

fn cast(step: &mut Step<'_, '_>) -> Result<Outputs> {
    cast_options(step)?;
    let x = step.tensor(0)?;
    // The first operator sets name the type.
    const BY_NUMBER: i64 = 6;
    let to = if step.opset < BY_NUMBER {
        named_type(step.attrs.string("to")?)?
    } else {
        let number = step.attrs.int("to")?;
        let number = number.ok_or_else(|| Error::malformed("attribute 'to' is missing"))?;
        tensor::dtype(i32::try_from(number).unwrap_or(-1))?
    };
    Ok(vec![Some(Val::Tensor(step.cast(x, to)?))])
}

fn named_type(name: Option<&str>) -> Result<DType> {
    const TYPES: [(&str, DType); 9] = [
        ("FLOAT", DType::F32),
        ("FLOAT16", DType::F16),
        ("DOUBLE", DType::F64),
        ("INT8", DType::I8),
        ("UINT8", DType::U8),
        ("INT16", DType::I16),
        ("INT32", DType::I32),
        ("INT64", DType::I64),
        ("BOOL", DType::Bool),
    ];
    let name = name.ok_or_else(|| Error::malformed("attribute 'to' is missing"))?;
    let found = TYPES.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, dtype)| *dtype)
        .ok_or_else(|| Error::unsupported(format!("elements of type {name}")))
}

fn cast_like(step: &mut Step<'_, '_>) -> Result<Outputs> {
    cast_options(step)?;
    let (x, like) = (step.tensor(0)?, step.tensor(1)?);
    let to = step.dtype(like)?;
    Ok(vec![Some(Val::Tensor(step.cast(x, to)?))])
}

fn identity(step: &mut Step<'_, '_>) -> Result<Outputs> {
    legacy(step)?;
    step.expect_inputs(1, 1)?;
    Ok(std::mem::take(&mut step.inputs))
}

/// Nothing is dropped in inference; the mask, where it is wanted, is true everywhere.
fn dropout(step: &mut Step<'_, '_>) -> Result<Outputs> {
    legacy(step)?;
    const WITHOUT_TEST: i64 = 7;
    const RATIO_AS_INPUT: i64 = 12;
    const BOOL_MASK: i64 = 10;
    let training = if step.opset < WITHOUT_TEST {
        !step.attrs.flag("is_test", false)?
    } else if step.opset < RATIO_AS_INPUT {
        false
    } else {
        step.attrs.int("seed")?;
        match step.optional(2)? {
            None => false,
            Some(mode) => {
                let known = step.builder.constant(mode).map(|mode| mode.to_f32().into_owned());
                known.as_deref() != Some(&[0.0])
            }
        }
    };
    if training {
        return Err(Error::unsupported("training_mode: the node drops elements at random"));
    }
    if step.opset < RATIO_AS_INPUT {
        step.attrs.float("ratio")?;
        step.expect_inputs(1, 1)?;
    } else {
        step.expect_inputs(1, 3)?;
    }
    let x = step.tensor(0)?;
    let mut outputs = vec![Some(Val::Tensor(x))];
    if step.wants(1) {
        let dtype = if step.opset < BOOL_MASK { step.dtype(x)? } else { DType::Bool };
        let shape = step.shape_of(x)?;
        let one = step.number(dtype, 1.0)?;
        outputs.push(Some(Val::Tensor(step.add(Op::Fill, &[shape, one])?)));
    }
    Ok(outputs)
}

fn constant(step: &mut Step<'_, '_>) -> Result<Outputs> {
    step.expect_inputs(0, 0)?;
    let attrs = &step.attrs;
    let tensor = if let Some(proto) = attrs.tensor("value")? {
        tensor::tensor(proto)?
    } else if let Some(value) = attrs.float("value_float")? {
        Tensor::scalar(value)
    } else if let Some(value) = attrs.int("value_int")? {
        Tensor::scalar(value)
    } else if let Some(values) = attrs.floats("value_floats")? {
        Tensor::from_vec(&[values.len()], values)?
    } else if let Some(values) = attrs.ints("value_ints")? {
        Tensor::from_vec(&[values.len()], values)?
    } else {
        return Err(Error::unsupported(
            "a constant without value, value_float, value_floats, value_int or value_ints",
        ));
    };
    Ok(vec![Some(Val::Tensor(step.constant(tensor)))])
}
