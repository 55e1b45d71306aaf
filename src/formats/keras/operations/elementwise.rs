//! Element by element: arithmetic, comparisons, activations.

use super::{Operation, dtype, flag, integer, integers, number, one, operand, pair};
use crate::error::{Error, Result};
use crate::formats::keras::activation::{Function, named};
use crate::formats::keras::arguments::Bound;
use crate::formats::keras::builder::Builder;
use crate::formats::keras::version::Major;
use crate::graph::ValueId;
use crate::graph::op::{Activation, BinaryFunction, Unary};
use crate::tensor::DType;

type Made = Result<Vec<ValueId>>;

/// Two operands and a function of both.
macro_rules! binary {
    ($($name:literal => $function:ident),* $(,)?) => {
        [$(Operation {
            name: $name,
            arguments: &["x1", "x2"],
            apply: |b, bound| two(b, bound, BinaryFunction::$function),
        }),*]
    };
}

/// One operand and a plain function of it.
macro_rules! unary {
    ($($name:literal => $function:ident),* $(,)?) => {
        [$(Operation {
            name: $name,
            arguments: &["x"],
            apply: |b, bound| {
                let x = one(b, bound, "x")?;
                Ok(vec![b.unary(Unary::$function, x)?])
            },
        }),*]
    };
}

/// One operand and the activation of that name.
macro_rules! activations {
    ($($name:literal => $activation:literal),* $(,)?) => {
        [$(Operation {
            name: $name,
            arguments: &["x"],
            apply: |b, bound| by_name(b, bound, $activation),
        }),*]
    };
}

pub(super) const BINARY: &[Operation] = &binary![
    "Add" => Add,
    "Subtract" => Sub,
    "Multiply" => Mul,
    "FloorDivide" => FloorDiv,
    "Mod" => FloorMod,
    "Maximum" => Maximum,
    "Minimum" => Minimum,
    "SquaredDifference" => SquaredDifference,
    "Equal" => Equal,
    "NotEqual" => NotEqual,
    "Less" => Less,
    "LessEqual" => LessEqual,
    "Greater" => Greater,
    "GreaterEqual" => GreaterEqual,
    "LogicalAnd" => And,
    "LogicalOr" => Or,
    "BitwiseAnd" => And,
    "BitwiseOr" => Or,
];

pub(super) const UNARY: &[Operation] = &unary![
    "Negative" => Neg,
    "Abs" => Abs,
    "Absolute" => Abs,
    "Exp" => Exp,
    "Log" => Log,
    "Sqrt" => Sqrt,
    "Rsqrt" => Rsqrt,
    "Square" => Square,
    "Sin" => Sin,
    "Cos" => Cos,
    "Floor" => Floor,
    "Ceil" => Ceil,
    "Sign" => Sign,
    "LogicalNot" => Not,
    "Invert" => Not,
];

pub(super) const ACTIVATIONS: &[Operation] = &activations![
    "Tanh" => "tanh",
    "Sigmoid" => "sigmoid",
    "Relu" => "relu",
    "Relu6" => "relu6",
    "Silu" => "silu",
    "Swish" => "silu",
    "Selu" => "selu",
    "Softplus" => "softplus",
    "Softsign" => "softsign",
    "HardSigmoid" => "hard_sigmoid",
    "HardSilu" => "hard_silu",
    "HardTanh" => "hard_tanh",
    "LogSigmoid" => "log_sigmoid",
    "Mish" => "mish",
    "TanhShrink" => "tanh_shrink",
    "SparsePlus" => "sparse_plus",
    "SparseSigmoid" => "sparse_sigmoid",
    "Exponential" => "exponential",
    "Linear" => "linear",
];

pub(super) const OTHERS: &[Operation] = &[
    Operation { name: "Divide", arguments: &["x1", "x2"], apply: divide },
    Operation { name: "TrueDivide", arguments: &["x1", "x2"], apply: divide },
    Operation { name: "DivideNoNan", arguments: &["x1", "x2"], apply: divide_no_nan },
    Operation { name: "Power", arguments: &["x1", "x2"], apply: power },
    Operation {
        name: "LogicalXor",
        arguments: &["x1", "x2"],
        apply: |b, bound| two(b, bound, BinaryFunction::NotEqual),
    },
    Operation {
        name: "Reciprocal",
        arguments: &["x"],
        apply: |b, bound| {
            let x = one(b, bound, "x")?;
            let one = b.scalar_like(x, 1.0)?;
            Ok(vec![b.binary(BinaryFunction::Div, one, x)?])
        },
    },
    Operation {
        name: "Log1p",
        arguments: &["x"],
        apply: |b, bound| {
            let x = one(b, bound, "x")?;
            let more = b.with_number(BinaryFunction::Add, x, 1.0)?;
            Ok(vec![b.unary(Unary::Log, more)?])
        },
    },
    Operation { name: "Expm1", arguments: &["x"], apply: expm1 },
    Operation {
        name: "Round",
        arguments: &["x", "decimals"],
        apply: |b, bound| {
            if integer(bound, "decimals")?.is_some_and(|decimals| decimals != 0) {
                return Err(Error::unsupported("rounding to decimals"));
            }
            let x = one(b, bound, "x")?;
            Ok(vec![b.unary(Unary::Round, x)?])
        },
    },
    Operation { name: "Clip", arguments: &["x", "x_min", "x_max"], apply: clip },
    Operation { name: "Where", arguments: &["condition", "x1", "x2"], apply: choose },
    Operation {
        name: "Cast",
        arguments: &["x", "dtype"],
        apply: |b, bound| {
            let x = one(b, bound, "x")?;
            let to = dtype(bound, "dtype")?;
            let to = to.ok_or_else(|| Error::malformed("a cast without a type"))?;
            Ok(vec![b.cast(x, to)?])
        },
    },
    Operation {
        name: "Elu",
        arguments: &["x", "alpha"],
        apply: |b, bound| {
            let alpha = number(bound, "alpha")?.unwrap_or(1.0);
            apply(b, bound, &Function::Simple(Activation::Elu { alpha }))
        },
    },
    Operation {
        name: "Celu",
        arguments: &["x", "alpha"],
        apply: |b, bound| {
            let alpha = number(bound, "alpha")?.unwrap_or(1.0);
            apply(b, bound, &Function::Celu { alpha })
        },
    },
    Operation {
        name: "LeakyRelu",
        arguments: &["x", "negative_slope"],
        apply: |b, bound| {
            let alpha = number(bound, "negative_slope")?.unwrap_or(0.2);
            apply(b, bound, &Function::Simple(Activation::LeakyRelu { alpha }))
        },
    },
    Operation {
        name: "ReLU",
        arguments: &["x", "negative_slope", "max_value", "threshold"],
        apply: |b, bound| {
            let slope = number(bound, "negative_slope")?.unwrap_or(0.0);
            let max = number(bound, "max_value")?;
            let threshold = number(bound, "threshold")?.unwrap_or(0.0);
            apply(b, bound, &Function::Relu { slope, max, threshold })
        },
    },
    Operation {
        name: "Gelu",
        arguments: &["x", "approximate"],
        apply: |b, bound| {
            let approximate = flag(bound, "approximate", true)?;
            apply(b, bound, &Function::Simple(Activation::Gelu { approximate }))
        },
    },
    Operation {
        name: "Softmax",
        arguments: &["x", "axis"],
        apply: |b, bound| {
            let axes = integers(bound, "axis")?.unwrap_or_else(|| vec![-1]);
            apply(b, bound, &Function::Softmax { axes, log: false })
        },
    },
    Operation {
        name: "LogSoftmax",
        arguments: &["x", "axis"],
        apply: |b, bound| {
            let axes = integers(bound, "axis")?.unwrap_or_else(|| vec![-1]);
            apply(b, bound, &Function::Softmax { axes, log: true })
        },
    },
    Operation {
        name: "HardShrink",
        arguments: &["x", "threshold"],
        apply: |b, bound| {
            let threshold = number(bound, "threshold")?.unwrap_or(0.5);
            apply(b, bound, &Function::HardShrink { threshold })
        },
    },
    Operation {
        name: "SoftShrink",
        arguments: &["x", "threshold"],
        apply: |b, bound| {
            let threshold = number(bound, "threshold")?.unwrap_or(0.5);
            apply(b, bound, &Function::SoftShrink { threshold })
        },
    },
    Operation {
        name: "Threshold",
        arguments: &["x", "threshold", "default_value"],
        apply: |b, bound| {
            let threshold = number(bound, "threshold")?;
            let threshold = threshold.ok_or_else(|| Error::malformed("no threshold"))?;
            let value = number(bound, "default_value")?;
            let value = value.ok_or_else(|| Error::malformed("no default_value"))?;
            apply(b, bound, &Function::Threshold { threshold, value })
        },
    },
    Operation {
        name: "Squareplus",
        arguments: &["x", "b"],
        apply: |builder, bound| {
            let b = number(bound, "b")?.unwrap_or(4.0);
            apply(builder, bound, &Function::SquarePlus { b })
        },
    },
    Operation {
        name: "Glu",
        arguments: &["x", "axis"],
        apply: |b, bound| {
            let axis = integer(bound, "axis")?.unwrap_or(-1);
            apply(b, bound, &Function::Glu { axis })
        },
    },
];

fn two(b: &mut Builder, bound: &Bound<'_>, function: BinaryFunction) -> Made {
    let [x, y] = pair(b, bound, ["x1", "x2"])?;
    Ok(vec![b.binary(function, x, y)?])
}

fn apply(b: &mut Builder, bound: &Bound<'_>, function: &Function) -> Made {
    let x = one(b, bound, "x")?;
    Ok(vec![function.apply(b, x)?])
}

fn by_name(b: &mut Builder, bound: &Bound<'_>, name: &str) -> Made {
    // The functions of Keras 3, whoever calls them.
    let function = named(name, Major::Keras3)
        .ok_or_else(|| Error::internal(format!("no activation {name}")))?;
    apply(b, bound, &function)
}

/// Integers divide to floats.
fn divide(b: &mut Builder, bound: &Bound<'_>) -> Made {
    let [x, y] = pair(b, bound, ["x1", "x2"])?;
    let (x, y) = (b.cast(x, DType::F32)?, b.cast(y, DType::F32)?);
    Ok(vec![b.binary(BinaryFunction::Div, x, y)?])
}

/// 0 where the divisor is 0.
fn divide_no_nan(b: &mut Builder, bound: &Bound<'_>) -> Made {
    let [x, y] = pair(b, bound, ["x1", "x2"])?;
    let (x, y) = (b.cast(x, DType::F32)?, b.cast(y, DType::F32)?);
    let quotient = b.binary(BinaryFunction::Div, x, y)?;
    let is_zero = b.with_number(BinaryFunction::Equal, y, 0.0)?;
    let zero = b.scalar_like(x, 0.0)?;
    Ok(vec![b.select(is_zero, zero, quotient)?])
}

/// Powers of 2 are squares, exact for bases of either sign on every device.
fn power(b: &mut Builder, bound: &Bound<'_>) -> Made {
    if let Ok(Some(exponent)) = number(bound, "x2")
        && exponent == 2.0
    {
        let x = one(b, bound, "x1")?;
        return Ok(vec![b.unary(Unary::Square, x)?]);
    }
    two(b, bound, BinaryFunction::Pow)
}

/// e^x − 1, exact for small negative x by the exponential unit.
fn expm1(b: &mut Builder, bound: &Bound<'_>) -> Made {
    let x = one(b, bound, "x")?;
    let below = b.activation(Activation::Elu { alpha: 1.0 }, x)?;
    let power = b.unary(Unary::Exp, x)?;
    let above = b.with_number(BinaryFunction::Sub, power, 1.0)?;
    let negative = b.with_number(BinaryFunction::Less, x, 0.0)?;
    Ok(vec![b.select(negative, below, above)?])
}

fn clip(b: &mut Builder, bound: &Bound<'_>) -> Made {
    let mut x = one(b, bound, "x")?;
    let like = b.ty(x)?.dtype;
    for (name, function) in [("x_min", BinaryFunction::Maximum), ("x_max", BinaryFunction::Minimum)]
    {
        if let Some(arg) = bound.get(name) {
            let limit = operand(arg)?.value(b, like)?;
            x = b.binary(function, x, limit)?;
        }
    }
    Ok(vec![x])
}

fn choose(b: &mut Builder, bound: &Bound<'_>) -> Made {
    let condition = one(b, bound, "condition")?;
    let condition = b.cast(condition, DType::Bool)?;
    if bound.get("x1").is_none() || bound.get("x2").is_none() {
        return Err(Error::unsupported("where of a condition alone"));
    }
    let [x, y] = match pair(b, bound, ["x1", "x2"]) {
        Ok(both) => both,
        // Two numbers are floats.
        Err(_) => {
            let (x, y) = (operand(bound.required("x1")?)?, operand(bound.required("x2")?)?);
            [x.value(b, DType::F32)?, y.value(b, DType::F32)?]
        }
    };
    Ok(vec![b.select(condition, x, y)?])
}
