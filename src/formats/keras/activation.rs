//! Activations of both generations: by name, as a function object, or as a layer object with
//! options.

use serde_json::Value as Json;

use super::builder::Builder;
use super::config::{Config, shown};
use super::version::Major;
use crate::error::{Error, Place, Result};
use crate::graph::ValueId;
use crate::graph::op::{Activation, BinaryFunction, Op, ReduceFunction, Softmax, Unary};
use crate::tensor::Tensor;

/// The slope that both generations give a leaky ReLU that is asked for by name.
const LEAKY_SLOPE: f32 = 0.2;

/// What an activation computes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Function {
    /// One op, which a recurrent cell can hold too.
    Simple(Activation),
    /// e^x / Σ e^x over the axes, or its logarithm.
    Softmax { axes: Vec<i64>, log: bool },
    /// min(x, max) where x > threshold, 0 elsewhere, less slope·max(threshold − x, 0).
    Relu { slope: f32, max: Option<f32>, threshold: f32 },
    /// x·tanh(ln(1 + e^x)).
    Mish,
    /// −ln(1 + e^−x).
    LogSigmoid,
    /// max(x, 0) + alpha·(e^(min(x, 0)/alpha) − 1).
    Celu { alpha: f32 },
    /// x − tanh(x).
    TanhShrink,
    /// x where |x| > threshold, 0 elsewhere.
    HardShrink { threshold: f32 },
    /// x − threshold above it, x + threshold below its negative, 0 between.
    SoftShrink { threshold: f32 },
    /// x where x > threshold, a value elsewhere.
    Threshold { threshold: f32, value: f32 },
    /// 0 to −1, (x + 1)²/4 to 1, x above.
    SparsePlus,
    /// min(max((x + 1)/2, 0), 1).
    SparseSigmoid,
    /// (x + √(x² + b))/2.
    SquarePlus { b: f32 },
    /// The first half of the axis times the sigmoid of the second.
    Glu { axis: i64 },
}

/// The activation behind a configuration field; absent means linear.
pub(super) fn read(config: &Config<'_>, field: &str, major: Major) -> Result<Function> {
    let named = |name: &str| {
        named(name, major).ok_or_else(|| {
            Error::unsupported(format!("{field}: the activation {name:?} is not supported"))
        })
    };
    match config.get(field) {
        None => Ok(Function::Simple(Activation::Linear)),
        Some(Json::String(name)) => named(name),
        Some(object) => {
            let object_config = config.object(field)?;
            object_config.pass_over(&["module", "registered_name", "build_config"]);
            object_config.pass_over(&["shared_object_id"]);
            let class = object_config.string("class_name")?;
            // A function: its name stands in `config`.
            if let Some(Json::String(name)) = object_config.get("config") {
                return named(name);
            }
            let options = object_config.object("config").within(|| field.to_owned())?;
            options.pass_over(&["name", "trainable", "dtype", "batch_input_shape"]);
            if class == "Activation" {
                return read(&options, "activation", major);
            }
            from_options(class, &options, major)?.ok_or_else(|| {
                Error::unsupported(format!(
                    "{field}: the activation object {} is not supported",
                    shown(object)
                ))
            })
        }
    }
}

/// As [`read`]; `default` is what an absent field means.
pub(super) fn read_or(
    config: &Config<'_>,
    field: &str,
    default: &str,
    major: Major,
) -> Result<Function> {
    if config.has(field) {
        return read(config, field, major);
    }
    Ok(named(default, major).unwrap_or(Function::Simple(Activation::Linear)))
}

/// As [`read_or`], for places that need a single op.
pub(super) fn read_simple(
    config: &Config<'_>,
    field: &str,
    default: &str,
    major: Major,
) -> Result<Activation> {
    let function = read_or(config, field, default, major)?;
    match function.simple() {
        Some(activation) => Ok(activation),
        None => Err(Error::unsupported(format!("{field}: {function:?} inside a recurrent cell"))),
    }
}

/// The function of an activation layer's class and options; `None` for another class.
pub(super) fn from_options(
    class: &str,
    config: &Config<'_>,
    major: Major,
) -> Result<Option<Function>> {
    let slope = |old: &str, default: f32| -> Result<f32> {
        match config.number_if("negative_slope")? {
            Some(slope) => Ok(slope),
            None => config.number(old, default),
        }
    };
    Ok(Some(match class {
        "LeakyReLU" => Function::Simple(Activation::LeakyRelu { alpha: slope("alpha", 0.3)? }),
        "ELU" => Function::Simple(Activation::Elu { alpha: config.number("alpha", 1.0)? }),
        "ReLU" => Function::Relu {
            slope: config.number("negative_slope", 0.0)?,
            max: config.number_if("max_value")?,
            threshold: config.number("threshold", 0.0)?,
        },
        "ThresholdedReLU" if major == Major::Keras2 => {
            Function::Threshold { threshold: config.number("theta", 1.0)?, value: 0.0 }
        }
        "Softmax" => {
            let axes = match config.get("axis") {
                Some(Json::Array(_)) => config.integers("axis")?,
                _ => vec![config.integer("axis", -1)?],
            };
            Function::Softmax { axes, log: false }
        }
        _ => return Ok(None),
    }))
}

/// The function of a Keras name. The hard sigmoid changed its slope between Keras 2 (0.2) and
/// Keras 3 (1/6).
pub(super) fn named(name: &str, major: Major) -> Option<Function> {
    let keras3 = major == Major::Keras3;
    let hard_sigmoid = if keras3 { (1.0 / 6.0, 0.5) } else { (0.2, 0.5) };
    Some(Function::Simple(match name {
        "linear" => Activation::Linear,
        "tanh" => Activation::Tanh,
        "sigmoid" => Activation::Sigmoid,
        "hard_sigmoid" => Activation::HardSigmoid { alpha: hard_sigmoid.0, beta: hard_sigmoid.1 },
        "relu" => Activation::Relu,
        "relu6" => Activation::Relu6,
        "elu" => Activation::Elu { alpha: 1.0 },
        "selu" => Activation::Selu,
        "softplus" => Activation::Softplus,
        "softsign" => Activation::Softsign,
        "exponential" => Activation::Exponential,
        "swish" | "silu" => Activation::Swish,
        "gelu" => Activation::Gelu { approximate: false },
        "hard_swish" | "hard_silu" if keras3 => Activation::HardSwish,
        "leaky_relu" => Activation::LeakyRelu { alpha: LEAKY_SLOPE },
        "hard_tanh" if keras3 => Activation::ReluN1To1,
        "mish" => return Some(Function::Mish),
        "softmax" => return Some(Function::Softmax { axes: vec![-1], log: false }),
        "log_softmax" => return Some(Function::Softmax { axes: vec![-1], log: true }),
        "log_sigmoid" if keras3 => return Some(Function::LogSigmoid),
        "celu" if keras3 => return Some(Function::Celu { alpha: 1.0 }),
        "tanh_shrink" if keras3 => return Some(Function::TanhShrink),
        "hard_shrink" if keras3 => return Some(Function::HardShrink { threshold: 0.5 }),
        "soft_shrink" if keras3 => return Some(Function::SoftShrink { threshold: 0.5 }),
        "sparse_plus" if keras3 => return Some(Function::SparsePlus),
        "sparse_sigmoid" if keras3 => return Some(Function::SparseSigmoid),
        "squareplus" if keras3 => return Some(Function::SquarePlus { b: 4.0 }),
        "glu" if keras3 => return Some(Function::Glu { axis: -1 }),
        _ => return None,
    }))
}

impl Function {
    /// The function as one activation op, if it is one.
    pub fn simple(&self) -> Option<Activation> {
        match *self {
            Function::Simple(activation) => Some(activation),
            Function::Relu { slope, max: None, threshold: 0.0 } => Some(match slope {
                0.0 => Activation::Relu,
                alpha => Activation::LeakyRelu { alpha },
            }),
            Function::Relu { slope: 0.0, max: Some(6.0), threshold: 0.0 } => {
                Some(Activation::Relu6)
            }
            _ => None,
        }
    }

    /// Applies the function; linear adds nothing.
    pub fn apply(&self, b: &mut Builder, x: ValueId) -> Result<ValueId> {
        use BinaryFunction::{Add, Minimum, Mul, Sub};
        if let Some(activation) = self.simple() {
            return b.activation(activation, x);
        }
        match *self {
            Function::Simple(activation) => b.activation(activation, x),
            Function::Softmax { ref axes, log } => softmax(b, x, axes, log),
            Function::Relu { slope, max, threshold } => relu(b, x, slope, max, threshold),
            Function::Mish => {
                let soft = b.activation(Activation::Softplus, x)?;
                let tanh = b.activation(Activation::Tanh, soft)?;
                b.binary(Mul, x, tanh)
            }
            Function::LogSigmoid => {
                let minus = b.with_number(Mul, x, -1.0)?;
                let soft = b.activation(Activation::Softplus, minus)?;
                b.with_number(Mul, soft, -1.0)
            }
            Function::Celu { alpha } => {
                let scaled = b.with_number(Mul, x, 1.0 / f64::from(alpha))?;
                let elu = b.activation(Activation::Elu { alpha: 1.0 }, scaled)?;
                b.with_number(Mul, elu, f64::from(alpha))
            }
            Function::TanhShrink => {
                let tanh = b.activation(Activation::Tanh, x)?;
                b.binary(Sub, x, tanh)
            }
            Function::HardShrink { threshold } => {
                let size = b.unary(Unary::Abs, x)?;
                let outside = b.with_number(BinaryFunction::Greater, size, threshold.into())?;
                let zero = b.scalar_like(x, 0.0)?;
                b.select(outside, x, zero)
            }
            Function::SoftShrink { threshold } => {
                let above = b.with_number(Sub, x, threshold.into())?;
                let above = b.activation(Activation::Relu, above)?;
                let below = b.with_number(Add, x, threshold.into())?;
                let below = b.with_number(Minimum, below, 0.0)?;
                b.binary(Add, above, below)
            }
            Function::Threshold { threshold, value } => {
                let above = b.with_number(BinaryFunction::Greater, x, threshold.into())?;
                let value = b.scalar_like(x, value.into())?;
                b.select(above, x, value)
            }
            Function::SparsePlus => {
                let more = b.with_number(Add, x, 1.0)?;
                let square = b.unary(Unary::Square, more)?;
                let middle = b.with_number(Mul, square, 0.25)?;
                let below = b.with_number(BinaryFunction::Less, x, 1.0)?;
                let y = b.select(below, middle, x)?;
                let outside = b.with_number(BinaryFunction::LessEqual, x, -1.0)?;
                let zero = b.scalar_like(x, 0.0)?;
                b.select(outside, zero, y)
            }
            Function::SparseSigmoid => {
                let half = Activation::HardSigmoid { alpha: 0.5, beta: 0.5 };
                b.activation(half, x)
            }
            Function::SquarePlus { b: offset } => {
                let square = b.unary(Unary::Square, x)?;
                let sum = b.with_number(Add, square, offset.into())?;
                let root = b.unary(Unary::Sqrt, sum)?;
                let sum = b.binary(Add, x, root)?;
                b.with_number(Mul, sum, 0.5)
            }
            Function::Glu { axis } => glu(b, x, axis),
        }
    }
}

fn relu(
    b: &mut Builder,
    x: ValueId,
    slope: f32,
    max: Option<f32>,
    threshold: f32,
) -> Result<ValueId> {
    let mut y = if threshold == 0.0 {
        b.activation(Activation::Relu, x)?
    } else {
        let above = b.with_number(BinaryFunction::Greater, x, threshold.into())?;
        let zero = b.scalar_like(x, 0.0)?;
        b.select(above, x, zero)?
    };
    if let Some(max) = max {
        // Keras clips from 0 on, which a negative threshold lets x fall below.
        let low = b.with_number(BinaryFunction::Maximum, y, 0.0)?;
        y = b.with_number(BinaryFunction::Minimum, low, max.into())?;
    }
    if slope == 0.0 {
        return Ok(y);
    }
    let threshold = b.scalar_like(x, threshold.into())?;
    let below = b.binary(BinaryFunction::Sub, threshold, x)?;
    let below = b.activation(Activation::Relu, below)?;
    let below = b.with_number(BinaryFunction::Mul, below, slope.into())?;
    b.binary(BinaryFunction::Sub, y, below)
}

/// The op works on the last axis: another one is moved there and back, several are written out as
/// `e^(x − max) / Σ`.
pub(super) fn softmax(b: &mut Builder, x: ValueId, axes: &[i64], log: bool) -> Result<ValueId> {
    let rank = b.rank(x)?;
    let axes: Vec<i32> = axes.iter().map(|&axis| super::axis(axis, rank)).collect::<Result<_>>()?;
    let last = rank.saturating_sub(1) as i32;
    let op = Op::Softmax(Softmax { beta: 1.0, log });
    match axes.as_slice() {
        [axis] if *axis == last => b.op(op, &[x]),
        &[axis] => {
            let mut swap: Vec<i32> = (0..rank as i32).collect();
            swap.swap(axis as usize, last as usize);
            let moved = b.transpose(x, &swap)?;
            let y = b.op(op, &[moved])?;
            b.transpose(y, &swap)
        }
        several => {
            let max = b.reduce(ReduceFunction::Maximum, x, several, true)?;
            let shifted = b.binary(BinaryFunction::Sub, x, max)?;
            let power = b.activation(Activation::Exponential, shifted)?;
            let sum = b.reduce(ReduceFunction::Sum, power, several, true)?;
            if log {
                let sum = b.unary(Unary::Log, sum)?;
                return b.binary(BinaryFunction::Sub, shifted, sum);
            }
            b.binary(BinaryFunction::Div, power, sum)
        }
    }
}

fn glu(b: &mut Builder, x: ValueId, axis: i64) -> Result<ValueId> {
    let axis = super::axis(axis, b.rank(x)?)?;
    let axis = b.constant(Tensor::scalar(axis));
    let halves = b.node(Op::Split, &[Some(x), Some(axis), None], &[true, true])?;
    let [Some(first), Some(second)] = halves[..] else {
        return Err(Error::internal("a split without results"));
    };
    let gate = b.activation(Activation::Sigmoid, second)?;
    b.binary(BinaryFunction::Mul, first, gate)
}
