//! Activations over slices, and softmax.

use super::super::vector::Vector;
use super::functions::{exp, exp_any, sigmoid, sigmoid_any, tanh};
use crate::graph::op::Activation;

/// Applies `f` to every element; the last few by way of a whole register.
#[inline(always)]
unsafe fn map<V: Vector>(x: *mut f32, count: usize, f: impl Fn(V) -> V) {
    unsafe {
        let mut i = 0;
        while i + V::LANES <= count {
            f(V::load(x.add(i))).store(x.add(i));
            i += V::LANES;
        }
        if i < count {
            let mut rest = [0.0f32; 16];
            rest.as_mut_ptr().copy_from_nonoverlapping(x.add(i), count - i);
            f(V::load(rest.as_ptr())).store(rest.as_mut_ptr());
            x.add(i).copy_from_nonoverlapping(rest.as_ptr(), count - i);
        }
    }
}

/// An activation over `count` elements in place.
#[inline(always)]
pub(crate) unsafe fn activate<V: Vector>(activation: Activation, x: *mut f32, count: usize) {
    unsafe {
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        // α·(e^x − 1) for negative x, on |x| ≤ 80.
        let expm1 = |v: V| exp(V::splat(-80.0).max(zero.min(v))).sub(one);
        match activation {
            Activation::Linear => {}
            Activation::Relu => map::<V>(x, count, |v| zero.max(v)),
            Activation::ReluN1To1 => map::<V>(x, count, |v| V::splat(-1.0).max(one.min(v))),
            Activation::Relu6 => map::<V>(x, count, |v| zero.max(V::splat(6.0).min(v))),
            Activation::Tanh => map::<V>(x, count, |v| tanh(v)),
            Activation::Sigmoid => map::<V>(x, count, |v| sigmoid(v)),
            Activation::HardSigmoid { alpha, beta } => {
                map::<V>(x, count, |v| zero.max(one.min(v.fma(V::splat(alpha), V::splat(beta)))))
            }
            Activation::LeakyRelu { alpha } => {
                map::<V>(x, count, |v| zero.max(v).add(V::splat(alpha).mul(zero.min(v))))
            }
            Activation::Elu { alpha } => {
                map::<V>(x, count, |v| zero.max(v).add(V::splat(alpha).mul(expm1(v))))
            }
            Activation::Selu => map::<V>(x, count, |v| {
                let negative = V::splat(SELU_SCALE * SELU_ALPHA).mul(expm1(v));
                V::splat(SELU_SCALE).mul(zero.max(v)).add(negative)
            }),
            Activation::Softsign => map::<V>(x, count, |v| v.div(one.add(v.max(zero.sub(v))))),
            Activation::Swish => map::<V>(x, count, |v| v.mul(sigmoid_any(v))),
            Activation::Gelu { approximate: true } => map::<V>(x, count, |v| {
                let cubic = v.mul(v).fma(V::splat(0.044_715).mul(v), v);
                // ½·(1 + tanh z) = σ(2z), which keeps the small tail exact.
                v.mul(sigmoid_any(V::splat(2.0 * SQRT_2_OVER_PI).mul(cubic)))
            }),
            Activation::HardSwish => map::<V>(x, count, |v| {
                // The factor first: x·6 would overflow before the division.
                v.mul(zero.max(V::splat(6.0).min(v.add(V::splat(3.0)))).mul(V::splat(1.0 / 6.0)))
            }),
            Activation::Exponential => map::<V>(x, count, |v| exp_any(v)),
            Activation::SignBit => scalar(x, count, |v| if v < 0.0 { 1.0 } else { 0.0 }),
            Activation::Softplus => scalar(x, count, |v| v.max(0.0) + (-v.abs()).exp().ln_1p()),
            Activation::Gelu { approximate: false } => scalar(x, count, |v| {
                let v = f64::from(v);
                (0.5 * v * (1.0 + erf(v * std::f64::consts::FRAC_1_SQRT_2))) as f32
            }),
        }
    }
}

/// √(2/π).
const SQRT_2_OVER_PI: f32 = 0.797_884_6;
/// Klambauer et al., 2017.
const SELU_SCALE: f32 = 1.050_701;
/// Klambauer et al., 2017.
const SELU_ALPHA: f32 = 1.673_263_2;

unsafe fn scalar(x: *mut f32, count: usize, f: impl Fn(f32) -> f32) {
    // SAFETY: the caller vouches for `count` elements that nobody else uses.
    for v in unsafe { std::slice::from_raw_parts_mut(x, count) } {
        *v = f(*v);
    }
}

/// The error function: its Taylor series, which converges well up to 3, and the continued fraction
/// of its complement beyond.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 3.0 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-17 * sum.abs() {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let mut fraction = a;
    for k in (1..=40).rev() {
        fraction = a + 0.5 * f64::from(k) / fraction;
    }
    (1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())).copysign(x)
}

/// Softmax over rows in place: `e^(beta·(x − max)) / Σ`, or its logarithm.
#[inline(always)]
pub(crate) unsafe fn softmax_row<V: Vector>(beta: f32, log: bool, x: *mut f32, count: usize) {
    unsafe {
        let row = std::slice::from_raw_parts_mut(x, count);
        let mut most = f32::NEG_INFINITY;
        for v in row.iter_mut() {
            *v *= beta;
            most = most.max(*v);
        }
        row.iter_mut().for_each(|v| *v -= most);
        if log {
            let sum: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
            let shift = sum.ln() as f32;
            row.iter_mut().for_each(|v| *v -= shift);
        } else {
            map::<V>(row.as_mut_ptr(), count, |v| exp_any(v));
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|v| *v /= sum);
        }
    }
}
