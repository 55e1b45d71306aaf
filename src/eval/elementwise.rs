//! Functions of single elements. Floats in f64, rounded once; integers wrap; quantized numbers as
//! `quantized` says.

use super::movement::{self, broadcast};
use super::operands::{Operands, broadcast_shape, checked_count};
use super::quantized;
use crate::error::{Error, Result};
use crate::graph::op::{Activation, Binary, BinaryFunction, Concat, Unary};
use crate::tensor::{DType, Tensor};

/// An activation at one number; the equations are those of [`Activation`].
pub(crate) fn activate(function: Activation, x: f64) -> f64 {
    // The constants of the SELU paper, to f64.
    const SELU_SCALE: f64 = 1.050_700_987_355_480_5;
    const SELU_ALPHA: f64 = 1.673_263_242_354_377_2;
    match function {
        Activation::Linear => x,
        Activation::Relu => relu(x),
        Activation::ReluN1To1 => x.clamp(-1.0, 1.0),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => sigmoid(x),
        Activation::HardSigmoid { alpha, beta } => {
            (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0)
        }
        Activation::SignBit => f64::from(u8::from(x.is_sign_negative())),
        Activation::Elu { alpha } => {
            if x > 0.0 {
                x
            } else {
                f64::from(alpha) * x.exp_m1()
            }
        }
        Activation::LeakyRelu { alpha } => {
            if x > 0.0 {
                x
            } else {
                f64::from(alpha) * x
            }
        }
        Activation::Selu => SELU_SCALE * if x > 0.0 { x } else { SELU_ALPHA * x.exp_m1() },
        // ln(1 + e^x) without an overflow for large x.
        Activation::Softplus => relu(x) + (-x.abs()).exp().ln_1p(),
        Activation::Softsign => x / (1.0 + x.abs()),
        Activation::Swish => x * sigmoid(x),
        Activation::Gelu { approximate: false } => {
            0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
        }
        Activation::Gelu { approximate: true } => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Activation::Exponential => x.exp(),
    }
}

/// max(x, 0) that keeps a NaN.
fn relu(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The error function: its Taylor series near 0, the continued fraction of erfc (by Lentz, from the
/// tail) further out; both to about 1e-15.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if x.is_nan() {
        return x;
    }
    if a > 6.0 {
        return x.signum();
    }
    let scale = 2.0 / std::f64::consts::PI.sqrt();
    if a < 2.5 {
        // erf x = 2/√π Σ (−1)^n x^(2n+1) / (n! (2n+1)), written with the all-positive series
        // e^(−x²) Σ 2^n x^(2n+1) / (2n+1)!!
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term > sum * 1e-17 {
            n += 1.0;
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            sum += term;
        }
        return x.signum() * scale * (-a * a).exp() * sum;
    }
    // erfc x = e^(−x²)/√π · 1/(x + (1/2)/(x + (2/2)/(x + (3/2)/(x + …))))
    let tail = (1..=60).rev().fold(a, |inner, k| a + f64::from(k) * 0.5 / inner);
    x.signum() * (1.0 - (-a * a).exp() / (std::f64::consts::PI.sqrt() * tail))
}

/// Op [`Op::Activation`](crate::graph::Op::Activation).
pub(super) fn activation(function: Activation, operands: &Operands<'_>) -> Result<Tensor> {
    let x = operands.tensor(0, "x")?;
    if operands.is_quantized(0) {
        return quantized::activation(function, operands);
    }
    activate_all(function, x)
}

/// An activation of every element; integers know only the clamping ones.
pub(super) fn activate_all(function: Activation, x: &Tensor) -> Result<Tensor> {
    if function == Activation::Linear {
        return Ok(x.clone());
    }
    if x.dtype().is_float() {
        let values = movement::floats(x).into_iter().map(|v| activate(function, v)).collect();
        return movement::from_floats(x.dtype(), x.shape(), values);
    }
    let (low, high) = match function {
        Activation::Relu => (0, i64::MAX),
        Activation::ReluN1To1 => (-1, 1),
        Activation::Relu6 => (0, 6),
        Activation::Linear
        | Activation::Tanh
        | Activation::Sigmoid
        | Activation::HardSigmoid { .. }
        | Activation::SignBit
        | Activation::Elu { .. }
        | Activation::LeakyRelu { .. }
        | Activation::Selu
        | Activation::Softplus
        | Activation::Softsign
        | Activation::Swish
        | Activation::Gelu { .. }
        | Activation::HardSwish
        | Activation::Exponential => {
            return Err(Error::unsupported(format!("{function:?} of {} numbers", x.dtype())));
        }
    };
    let values = x.to_i64()?.into_iter().map(|v| v.clamp(low, high)).collect();
    movement::from_integers(x.dtype(), x.shape(), values)
}

/// Op [`Op::Unary`](crate::graph::Op::Unary).
pub(super) fn unary(function: Unary, operands: &Operands<'_>) -> Result<Tensor> {
    let x = operands.tensor(0, "x")?;
    if operands.is_quantized(0) {
        return quantized::by_table(operands, |v| {
            unary_float(function, f64::from(v)).map(|y| y as f32)
        });
    }
    if function == Unary::Not {
        return Tensor::from_vec(x.shape(), x.as_slice::<bool>()?.iter().map(|&v| !v).collect());
    }
    if x.dtype().is_float() {
        let values = movement::floats(x)
            .into_iter()
            .map(|v| unary_float(function, v))
            .collect::<Result<_>>()?;
        return movement::from_floats(x.dtype(), x.shape(), values);
    }
    let values =
        x.to_i64()?.into_iter().map(|v| unary_integer(function, v)).collect::<Result<_>>()?;
    movement::from_integers(x.dtype(), x.shape(), values)
}

fn unary_float(function: Unary, x: f64) -> Result<f64> {
    Ok(match function {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Square => x * x,
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        // 0 stays 0, unlike in Rust.
        Unary::Sign if x == 0.0 => x,
        Unary::Sign => x.signum(),
        Unary::Erf => erf(x),
        Unary::Not => return Err(Error::input("logical not needs booleans")),
    })
}

fn unary_integer(function: Unary, x: i64) -> Result<i64> {
    Ok(match function {
        Unary::Neg => x.wrapping_neg(),
        Unary::Abs => x.wrapping_abs(),
        Unary::Square => x.wrapping_mul(x),
        Unary::Sign => x.signum(),
        Unary::Exp
        | Unary::Log
        | Unary::Sqrt
        | Unary::Rsqrt
        | Unary::Sin
        | Unary::Cos
        | Unary::Floor
        | Unary::Ceil
        | Unary::Round
        | Unary::Erf
        | Unary::Not => return Err(Error::input(format!("{function:?} of an integer tensor"))),
    })
}

/// Op [`Op::Binary`](crate::graph::Op::Binary).
pub(super) fn binary(options: &Binary, operands: &Operands<'_>) -> Result<Tensor> {
    let (a, b) = (operands.tensor(0, "a")?, operands.tensor(1, "b")?);
    if a.dtype() != b.dtype() {
        return Err(Error::graph(format!(
            "{:?} of {} and {}",
            options.function,
            a.dtype(),
            b.dtype()
        )));
    }
    let shape = broadcast_shape(a.shape(), b.shape())?;
    checked_count(a.dtype(), &shape)?;
    let (a, b) = (broadcast(a, &shape)?, broadcast(b, &shape)?);
    if operands.is_quantized(0) && operands.is_quantized(1) {
        return quantized::binary(options, &a, &b, operands);
    }
    let result = if a.dtype().is_float() {
        binary_float(
            options.function,
            a.dtype(),
            &shape,
            &movement::floats(&a),
            &movement::floats(&b),
        )?
    } else {
        binary_integer(
            options.function,
            a.dtype(),
            &shape,
            &movement::integers(&a)?,
            &movement::integers(&b)?,
        )?
    };
    if result.dtype() == DType::Bool {
        return if options.activation == Activation::Linear {
            Ok(result)
        } else {
            Err(Error::graph(format!("{:?} after {:?}", options.activation, options.function)))
        };
    }
    // The result was rounded to its type; the activations that ops carry (clamps) do not round
    // again.
    activate_all(options.activation, &result)
}

/// What a comparison or a logical function says, `None` for the functions that compute numbers.
pub(super) fn compare<T: PartialOrd + Default>(
    function: BinaryFunction,
    a: &T,
    b: &T,
) -> Option<bool> {
    match function {
        BinaryFunction::Equal => Some(a == b),
        BinaryFunction::NotEqual => Some(a != b),
        BinaryFunction::Less => Some(a < b),
        BinaryFunction::LessEqual => Some(a <= b),
        BinaryFunction::Greater => Some(a > b),
        BinaryFunction::GreaterEqual => Some(a >= b),
        BinaryFunction::And => Some(*a != T::default() && *b != T::default()),
        BinaryFunction::Or => Some(*a != T::default() || *b != T::default()),
        BinaryFunction::Add
        | BinaryFunction::Sub
        | BinaryFunction::Mul
        | BinaryFunction::Div
        | BinaryFunction::FloorDiv
        | BinaryFunction::FloorMod
        | BinaryFunction::Pow
        | BinaryFunction::Minimum
        | BinaryFunction::Maximum
        | BinaryFunction::SquaredDifference => None,
    }
}

fn is_logical(function: BinaryFunction) -> bool {
    matches!(function, BinaryFunction::And | BinaryFunction::Or)
}

fn binary_float(
    function: BinaryFunction,
    dtype: DType,
    shape: &[usize],
    a: &[f64],
    b: &[f64],
) -> Result<Tensor> {
    if is_logical(function) {
        return Err(Error::graph(format!("{function:?} of {dtype} numbers")));
    }
    if compare(function, &0.0, &0.0).is_some() {
        let truths = a.iter().zip(b).filter_map(|(a, b)| compare(function, a, b)).collect();
        return Tensor::from_vec::<bool>(shape, truths);
    }
    let values = a.iter().zip(b).map(|(&a, &b)| arithmetic(function, a, b)).collect();
    movement::from_floats(dtype, shape, values)
}

fn arithmetic(function: BinaryFunction, a: f64, b: f64) -> f64 {
    match function {
        BinaryFunction::Add => a + b,
        BinaryFunction::Sub => a - b,
        BinaryFunction::Mul => a * b,
        BinaryFunction::Div => a / b,
        BinaryFunction::FloorDiv => (a / b).floor(),
        BinaryFunction::FloorMod => {
            let rest = a % b;
            if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
        }
        BinaryFunction::Pow => a.powf(b),
        // A NaN on either side stays.
        BinaryFunction::Minimum => {
            if a < b || a.is_nan() {
                a
            } else {
                b
            }
        }
        BinaryFunction::Maximum => {
            if a > b || a.is_nan() {
                a
            } else {
                b
            }
        }
        BinaryFunction::SquaredDifference => (a - b) * (a - b),
        BinaryFunction::Equal
        | BinaryFunction::NotEqual
        | BinaryFunction::Less
        | BinaryFunction::LessEqual
        | BinaryFunction::Greater
        | BinaryFunction::GreaterEqual
        | BinaryFunction::And
        | BinaryFunction::Or => f64::from(u8::from(compare(function, &a, &b) == Some(true))),
    }
}

fn binary_integer(
    function: BinaryFunction,
    dtype: DType,
    shape: &[usize],
    a: &[i64],
    b: &[i64],
) -> Result<Tensor> {
    if is_logical(function) && dtype != DType::Bool {
        return Err(Error::graph(format!("{function:?} of {dtype} numbers")));
    }
    if compare(function, &0, &0).is_some() {
        let truths = a.iter().zip(b).filter_map(|(a, b)| compare(function, a, b)).collect();
        return Tensor::from_vec::<bool>(shape, truths);
    }
    if dtype == DType::Bool {
        return Err(Error::graph(format!("{function:?} of booleans")));
    }
    let values = a
        .iter()
        .zip(b)
        .map(|(&a, &b)| arithmetic_integer(function, a, b))
        .collect::<Result<_>>()?;
    movement::from_integers(dtype, shape, values)
}

fn arithmetic_integer(function: BinaryFunction, a: i64, b: i64) -> Result<i64> {
    let by_zero = || Error::input(format!("{a} is divided by 0"));
    Ok(match function {
        BinaryFunction::Add => a.wrapping_add(b),
        BinaryFunction::Sub => a.wrapping_sub(b),
        BinaryFunction::Mul => a.wrapping_mul(b),
        BinaryFunction::Div if b == 0 => return Err(by_zero()),
        BinaryFunction::Div => a.wrapping_div(b),
        BinaryFunction::FloorDiv | BinaryFunction::FloorMod if b == 0 => return Err(by_zero()),
        BinaryFunction::FloorDiv => {
            let quotient = a.wrapping_div(b);
            quotient - i64::from(a.wrapping_rem(b) != 0 && (a < 0) != (b < 0))
        }
        BinaryFunction::FloorMod => {
            let rest = a.wrapping_rem(b);
            if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
        }
        BinaryFunction::Pow => power(a, b)?,
        BinaryFunction::Minimum => a.min(b),
        BinaryFunction::Maximum => a.max(b),
        BinaryFunction::SquaredDifference => {
            let difference = a.wrapping_sub(b);
            difference.wrapping_mul(difference)
        }
        BinaryFunction::Equal
        | BinaryFunction::NotEqual
        | BinaryFunction::Less
        | BinaryFunction::LessEqual
        | BinaryFunction::Greater
        | BinaryFunction::GreaterEqual
        | BinaryFunction::And
        | BinaryFunction::Or => i64::from(compare(function, &a, &b) == Some(true)),
    })
}

/// `a^b` with wrapping products.
fn power(a: i64, b: i64) -> Result<i64> {
    let mut exponent = u64::try_from(b)
        .map_err(|_| Error::input(format!("the integer {a} has the negative exponent {b}")))?;
    let (mut result, mut square) = (1i64, a);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result.wrapping_mul(square);
        }
        square = square.wrapping_mul(square);
        exponent >>= 1;
    }
    Ok(result)
}

/// Op [`Op::Concat`](crate::graph::Op::Concat): joins, and rescales quantized parts to the result's
/// scale.
pub(super) fn concat(options: &Concat, operands: &Operands<'_>) -> Result<Tensor> {
    if operands.len() > 0 && operands.is_quantized(0) {
        return quantized::concat(options, operands);
    }
    activate_all(options.activation, &movement::concat(&operands.all()?, options.axis)?)
}
