//! Exponential, hyperbolic tangent and logistic function on registers, and registers of which a
//! part exists.

// Coefficients are written with the digits that the fit gave; one lies near ln 2 because e^x =
// 2^(x/ln 2).
#![allow(clippy::excessive_precision, clippy::approx_constant)]

use super::super::vector::Vector;

const LOG2E: f32 = std::f32::consts::LOG2_E;
/// ln 2 to nine bits, and the rest of it.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// 1.5·2²³: adding it rounds to an integer, which is then in the low bits.
pub(super) const ROUND: f32 = 12_582_912.0;

/// `e^x` for |x| ≤ 87, relative error below 2e-7: `2^n · 2^f` with a minimax polynomial of 2^f on
/// |f| ≤ ½ (2e-9). `n·LN2_HIGH` is exact, with or without fused multiply-adds.
#[inline(always)]
pub(crate) unsafe fn exp<V: Vector>(x: V) -> V {
    unsafe {
        let shifted = x.fma(V::splat(LOG2E), V::splat(ROUND));
        let n = shifted.sub(V::splat(ROUND));
        let rest = n.fma(V::splat(-LN2_LOW), n.fma(V::splat(-LN2_HIGH), x));
        let f = rest.mul(V::splat(LOG2E));
        let mut p = V::splat(1.535_336_2e-4);
        for c in [1.339_887_5e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0] {
            p = p.fma(f, V::splat(c));
        }
        // e^x > x, so the larger one is e^x, or NaN where x is: scaling a NaN's exponent as if it were
        // a number would carry its payload into the exponent.
        p.scale_exponent(shifted).max(x)
    }
}

/// As [`exp`] over its whole range: 0 and infinity where f32 ends.
#[inline(always)]
pub(crate) unsafe fn exp_any<V: Vector>(x: V) -> V {
    unsafe {
        let inside = V::splat(-87.0).max(V::splat(88.0).min(x));
        // What was cut off, as a second factor: e^(x − inside), itself cut off where the product
        // has long saturated.
        let rest = V::splat(-30.0).max(V::splat(30.0).min(x.sub(inside)));
        exp(inside).mul(exp(rest))
    }
}

/// `e^−x` for the gates: |x| is cut at 40, where the sigmoid is within 5e-18 of its limit and no
/// product below overflows; relative error 3e-7 (polynomial 1e-7, the rest from rounding log₂e).
#[inline(always)]
pub(super) unsafe fn exp_of_gate<V: Vector>(x: V) -> V {
    unsafe {
        let x = V::splat(-40.0).max(V::splat(40.0).min(V::splat(0.0).sub(x)));
        let shifted = x.fma(V::splat(LOG2E), V::splat(ROUND));
        let f = x.fma(V::splat(LOG2E), V::splat(ROUND).sub(shifted));
        let mut p = V::splat(1.326_472_7e-3);
        for c in [9.671_513e-3, 5.550_733_7e-2, 2.402_224_2e-1, 6.931_47e-1, 1.0] {
            p = p.fma(f, V::splat(c));
        }
        // NaN stays NaN: see `exp`.
        p.scale_exponent(shifted).max(x)
    }
}

/// Numerator and denominator of `tanh x = x·P(x²) / Q(x²)`: minimax on |x| ≤ 7.9 (1.7e-8 relative;
/// with f32 rounding 2.8e-7), the value there being the largest f32 below 1.
#[inline(always)]
pub(super) unsafe fn tanh_parts<V: Vector>(x: V) -> (V, V) {
    unsafe {
        let x = V::splat(-7.9).max(V::splat(7.9).min(x));
        let u = x.mul(x);
        let mut p = V::splat(2.410_568_9e-11);
        for c in [-1.490_646_3e-8, 9.939_268e-6, 2.992_106_5e-3, 1.298_491_9e-1, 1.0] {
            p = p.fma(u, V::splat(c));
        }
        let mut q = V::splat(2.380_881e-4);
        for c in [2.405_313_3e-2, 4.631_823_6e-1, 1.0] {
            q = q.fma(u, V::splat(c));
        }
        (x.mul(p), q)
    }
}

/// Hyperbolic tangent, absolute and relative error below 3e-7.
#[inline(always)]
pub(crate) unsafe fn tanh<V: Vector>(x: V) -> V {
    unsafe {
        let (p, q) = tanh_parts(x);
        p.div(q)
    }
}

/// Logistic function, absolute error below 1.2e-7.
#[inline(always)]
pub(crate) unsafe fn sigmoid<V: Vector>(x: V) -> V {
    unsafe { V::splat(1.0).div(V::splat(1.0).add(exp_of_gate(x))) }
}

/// As [`sigmoid`], with the relative error of [`exp_any`] for any x: for products with a large x.
#[inline(always)]
pub(super) unsafe fn sigmoid_any<V: Vector>(x: V) -> V {
    unsafe { V::splat(1.0).div(V::splat(1.0).add(exp_any(V::splat(0.0).sub(x)))) }
}

/// Stores the elements of a register that exist.
#[inline(always)]
pub(super) unsafe fn store_part<V: Vector>(x: V, to: *mut f32, existing: usize) {
    unsafe {
        if existing >= V::LANES {
            x.store(to);
        } else {
            let mut all = [0.0f32; 16];
            x.store(all.as_mut_ptr());
            to.copy_from_nonoverlapping(all.as_ptr(), existing);
        }
    }
}

/// Loads the elements of a register that exist.
#[inline(always)]
pub(super) unsafe fn load_part<V: Vector>(from: *const f32, existing: usize) -> V {
    unsafe {
        if existing >= V::LANES {
            return V::load(from);
        }
        let mut all = [0.0f32; 16];
        all.as_mut_ptr().copy_from_nonoverlapping(from, existing);
        V::load(all.as_ptr())
    }
}
