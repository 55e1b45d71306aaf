//! Operations in the place of layers: `keras.ops` and operators of Keras 3, and the functions that
//! Keras 2 wraps into `TFOpLambda` and `SlicingOpLambda`. Both are bound to one table by name.

mod einsum;
mod elementwise;
mod movement;
mod reduction;
mod shape;
mod tensorflow;

use serde_json::Value as Json;

pub(super) use einsum::einsum;
pub(super) use tensorflow::{lambda, slicing};

use super::arguments::{Arg, Bound, Call, plain};
use super::builder::{Builder, Flow};
use super::config::Config;
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::tensor::{DType, Tensor};

/// A kind of operation.
struct Operation {
    /// Its class in Keras 3.
    name: &'static str,
    /// Its options and arguments, tensors first, as its call has them.
    arguments: &'static [&'static str],
    /// Makes its ops. Operations carry no masks.
    apply: fn(&mut Builder, &Bound<'_>) -> Result<Vec<ValueId>>,
}

/// All operations, by kind.
const KINDS: &[&[Operation]] = &[
    elementwise::BINARY,
    elementwise::UNARY,
    elementwise::ACTIVATIONS,
    elementwise::OTHERS,
    reduction::OPERATIONS,
    shape::OPERATIONS,
    movement::OPERATIONS,
    einsum::OPERATIONS,
];

fn find(name: &str) -> Option<&'static Operation> {
    KINDS.iter().copied().flatten().find(|operation| operation.name == name)
}

/// Whether `class` is an operation.
pub(super) fn is_known(class: &str) -> bool {
    find(class).is_some()
}

/// An operation of Keras 3: options that its maker took stand in the configuration, the rest in the
/// call.
pub(super) fn keras3<'a>(
    b: &mut Builder,
    class: &'a str,
    config: &Config<'a>,
    call: Call<'a, Flow>,
) -> Result<Vec<Flow>> {
    let operation = find(class)
        .ok_or_else(|| Error::unsupported(format!("the operation {class} is not supported")))?;
    let mut bound = Bound::new(call, operation.arguments)?;
    config.pass_over(&["name"]);
    for name in config.names().filter(|name| *name != "name") {
        if !operation.arguments.contains(&name) {
            // Left to the configuration's own complaint.
            continue;
        }
        if let Some(json) = config.get(name) {
            bound.add(name, plain(json)?)?;
        }
    }
    run(b, operation, &bound)
}

fn run(b: &mut Builder, operation: &Operation, bound: &Bound<'_>) -> Result<Vec<Flow>> {
    let out = (operation.apply)(b, bound)?;
    bound.finish()?;
    Ok(out.into_iter().map(Flow::plain).collect())
}

/// An operand: a tensor of the model, numbers with a type, or numbers that take the other's type.
enum Operand {
    Value(ValueId),
    Array(Tensor),
    Weak { numbers: Tensor, is_float: bool },
}

fn operand(arg: &Arg<'_, Flow>) -> Result<Operand> {
    Ok(match arg {
        Arg::Tensor(flow) => Operand::Value(flow.value),
        Arg::Array(array) => Operand::Array(array.clone()),
        Arg::Plain(Json::Bool(flag)) => Operand::Array(Tensor::scalar(*flag)),
        Arg::Plain(Json::Number(_)) | Arg::List(_) => {
            let (mut numbers, mut shape, mut is_float) = (Vec::new(), Vec::new(), false);
            nested(arg, 0, &mut shape, &mut numbers, &mut is_float)?;
            Operand::Weak { numbers: Tensor::from_vec(&shape, numbers)?, is_float }
        }
        other => return Err(Error::unsupported(format!("the operand {}", other.shown()))),
    })
}

/// Numbers in nested lists. Shapes are checked by their product alone.
fn nested(
    arg: &Arg<'_, Flow>,
    depth: usize,
    shape: &mut Vec<usize>,
    out: &mut Vec<f32>,
    is_float: &mut bool,
) -> Result<()> {
    match arg {
        Arg::List(list) => {
            match shape.get(depth) {
                None => shape.push(list.len()),
                Some(&size) if size == list.len() => {}
                Some(_) => return Err(Error::malformed("the rows of an array differ in length")),
            }
            list.iter().try_for_each(|entry| nested(entry, depth + 1, shape, out, is_float))
        }
        Arg::Plain(Json::Number(number)) if depth == shape.len() => {
            *is_float |= !(number.is_i64() || number.is_u64());
            out.push(number.as_f64().unwrap_or(f64::NAN) as f32);
            Ok(())
        }
        other => Err(Error::unsupported(format!("{} among numbers", other.shown()))),
    }
}

/// The type of two operands together.
fn promoted(a: DType, z: DType) -> Result<DType> {
    let rank = |dtype: DType| match dtype {
        DType::Bool => Ok(0),
        DType::I32 => Ok(1),
        DType::I64 => Ok(2),
        DType::F32 => Ok(3),
        other => Err(Error::unsupported(format!("an operand of type {other}"))),
    };
    Ok(if rank(a)? >= rank(z)? { a } else { z })
}

impl Operand {
    /// Its type; none for numbers that take the other's.
    fn dtype(&self, b: &Builder) -> Result<Option<DType>> {
        Ok(match self {
            Operand::Value(value) => Some(b.ty(*value)?.dtype),
            Operand::Array(array) => Some(array.dtype()),
            Operand::Weak { .. } => None,
        })
    }

    /// The operand as a value of `dtype`.
    fn value(self, b: &mut Builder, dtype: DType) -> Result<ValueId> {
        match self {
            Operand::Value(value) => b.cast(value, dtype),
            Operand::Array(array) => {
                let value = b.constant(array);
                b.cast(value, dtype)
            }
            Operand::Weak { numbers, .. } => {
                let shape = numbers.shape().to_vec();
                let numbers = numbers.into_vec::<f32>()?;
                let tensor = match dtype {
                    DType::F32 => Tensor::from_vec(&shape, numbers)?,
                    DType::I32 => {
                        Tensor::from_vec(&shape, numbers.iter().map(|&n| n as i32).collect())?
                    }
                    DType::I64 => {
                        Tensor::from_vec(&shape, numbers.iter().map(|&n| n as i64).collect())?
                    }
                    DType::Bool => {
                        Tensor::from_vec(&shape, numbers.iter().map(|&n| n != 0.0).collect())?
                    }
                    other => return Err(Error::unsupported(format!("numbers as {other}"))),
                };
                Ok(b.constant(tensor))
            }
        }
    }
}

/// Two operands brought to one type.
fn pair(b: &mut Builder, bound: &Bound<'_>, names: [&str; 2]) -> Result<[ValueId; 2]> {
    let [first, second] = names;
    let (a, z) = (operand(bound.required(first)?)?, operand(bound.required(second)?)?);
    let weak_float =
        [&a, &z].iter().any(|side| matches!(side, Operand::Weak { is_float: true, .. }));
    let dtype = match (a.dtype(b)?, z.dtype(b)?) {
        (Some(a), Some(z)) => promoted(a, z)?,
        (Some(one), None) | (None, Some(one)) if weak_float => promoted(one, DType::F32)?,
        (Some(one), None) | (None, Some(one)) => promoted(one, DType::I32)?,
        (None, None) => return Err(Error::malformed("an operation on numbers alone")),
    };
    Ok([a.value(b, dtype)?, z.value(b, dtype)?])
}

/// The tensor of an operation that takes one.
fn one(b: &mut Builder, bound: &Bound<'_>, name: &str) -> Result<ValueId> {
    let side = operand(bound.required(name)?)?;
    let dtype = side.dtype(b)?.unwrap_or(DType::F32);
    side.value(b, dtype)
}

/// An integer option.
fn integer(bound: &Bound<'_>, name: &str) -> Result<Option<i64>> {
    match bound.get(name) {
        None => Ok(None),
        Some(Arg::Plain(json)) if json.as_i64().is_some() => Ok(json.as_i64()),
        Some(other) => Err(Error::unsupported(format!("{name} = {}", other.shown()))),
    }
}

/// A number option.
fn number(bound: &Bound<'_>, name: &str) -> Result<Option<f32>> {
    match bound.get(name) {
        None => Ok(None),
        Some(Arg::Plain(json)) if json.as_f64().is_some() => {
            Ok(json.as_f64().map(|number| number as f32))
        }
        Some(other) => Err(Error::unsupported(format!("{name} = {}", other.shown()))),
    }
}

/// A flag option.
fn flag(bound: &Bound<'_>, name: &str, default: bool) -> Result<bool> {
    match bound.get(name) {
        None => Ok(default),
        Some(Arg::Plain(Json::Bool(flag))) => Ok(*flag),
        Some(other) => Err(Error::unsupported(format!("{name} = {}", other.shown()))),
    }
}

/// Integers: one, a list, or an array.
fn integers(bound: &Bound<'_>, name: &str) -> Result<Option<Vec<i64>>> {
    let refuse = |arg: &Arg<'_, Flow>| Error::unsupported(format!("{name} = {}", arg.shown()));
    match bound.get(name) {
        None => Ok(None),
        Some(arg @ Arg::List(list)) => {
            let each = |entry: &Arg<'_, Flow>| match entry {
                Arg::Plain(json) => json.as_i64(),
                _ => None,
            };
            list.iter().map(each).collect::<Option<_>>().map(Some).ok_or_else(|| refuse(arg))
        }
        Some(Arg::Plain(json)) if json.as_i64().is_some() => Ok(json.as_i64().map(|n| vec![n])),
        Some(Arg::Array(array)) => array.to_i64().map(Some),
        Some(other) => Err(refuse(other)),
    }
}

/// A type by its name.
fn dtype(bound: &Bound<'_>, name: &str) -> Result<Option<DType>> {
    let text = match bound.get(name) {
        None => return Ok(None),
        Some(Arg::Plain(Json::String(text))) => text.as_str(),
        Some(other) => return Err(Error::unsupported(format!("{name} = {}", other.shown()))),
    };
    match text {
        "float32" | "float64" | "float16" | "bfloat16" => Ok(Some(DType::F32)),
        "int32" | "int" => Ok(Some(DType::I32)),
        "int64" => Ok(Some(DType::I64)),
        "bool" => Ok(Some(DType::Bool)),
        other => Err(Error::unsupported(format!("{name} = {other:?}"))),
    }
}

fn to_i32(n: i64) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::malformed(format!("{n} is no size or axis")))
}
