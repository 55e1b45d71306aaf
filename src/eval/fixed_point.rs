//! Fixed-point arithmetic of the integer kernels: rescaling by a real factor, 16-bit products,
//! logistic, tanh and 1/√x.
//!
//! Bit-exact with the library that TFLite computes with, roundings included.

/// A real factor as `multiplier · 2^(shift − 31)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Multiplier {
    /// In `[2^30, 2^31)`, 0 for factors that are too small, negative for negative factors.
    pub multiplier: i32,
    /// The power of two.
    pub shift: i32,
}

impl Multiplier {
    /// `d = f · 2^e` with `f ∈ [0.5, 1)`; the multiplier is `round(f · 2^31)`.
    pub(crate) fn new(factor: f64) -> Multiplier {
        let zero = Multiplier { multiplier: 0, shift: 0 };
        if factor == 0.0 || !factor.is_finite() {
            return zero;
        }
        let (fraction, mut shift) = frexp(factor);
        let mut multiplier = (fraction * (1u64 << 31) as f64).round() as i64;
        if multiplier == 1 << 31 {
            multiplier /= 2;
            shift += 1;
        }
        if shift < -31 {
            return zero;
        }
        // Larger factors saturate.
        if shift > 30 {
            return Multiplier { multiplier: i32::MAX, shift: 30 };
        }
        Multiplier { multiplier: multiplier as i32, shift }
    }

    /// `x` times the factor with two roundings: the doubling high product, then the shift.
    pub(crate) fn apply(self, x: i32) -> i32 {
        let x = x.wrapping_shl(self.shift.max(0) as u32);
        rounding_shift(doubling_high_product(x, self.multiplier), (-self.shift).max(0))
    }

    /// The factor over a whole number that is not 0. As many bits as the number has are kept before
    /// the division.
    pub(crate) fn divided_by(self, number: usize) -> Multiplier {
        let number = (number as u64).clamp(1, 1 << 62);
        let bits = (number.ilog2() as i32).min(32).min(31 + self.shift).max(0);
        let multiplier = (i64::from(self.multiplier) << bits) / number as i64;
        Multiplier { multiplier: multiplier as i32, shift: self.shift - bits }
    }
}

/// `x = fraction · 2^exponent` with `0.5 <= |fraction| < 1`; x is finite and not 0.
fn frexp(x: f64) -> (f64, i32) {
    // Subnormal numbers first become normal ones.
    let (x, bias) =
        if x.abs() < f64::MIN_POSITIVE { (x * (1u64 << 54) as f64, 54) } else { (x, 0) };
    let bits = x.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1022;
    (f64::from_bits((bits & !(0x7ff << 52)) | (1022 << 52)), exponent - bias)
}

/// The upper half of `2·a·b`, rounded to nearest.
pub(crate) fn doubling_high_product(a: i32, b: i32) -> i32 {
    if a == i32::MIN && b == i32::MIN {
        return i32::MAX;
    }
    let product = i64::from(a) * i64::from(b);
    let nudge = if product >= 0 { 1 << 30 } else { 1 - (1 << 30) };
    ((product + nudge) / (1 << 31)) as i32
}

/// `x / 2^k`, halves away from zero; `k` in 0..=31.
pub(crate) fn rounding_shift(x: i32, k: i32) -> i32 {
    rounding_shift_wide(i64::from(x), k) as i32
}

/// As [`rounding_shift`] for 64 bits; `k` in 0..=62.
pub(crate) fn rounding_shift_wide(x: i64, k: i32) -> i64 {
    let k = k.clamp(0, 62);
    let mask = (1i64 << k) - 1;
    let threshold = (mask >> 1) + i64::from(x < 0);
    (x >> k) + i64::from((x & mask) > threshold)
}

/// Clamps to int16.
pub(crate) fn saturate16(x: i32) -> i16 {
    x.clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

/// `a ⊗ b`: the rounded product of two Q0.15 numbers.
pub(crate) fn product16(a: i16, b: i16) -> i16 {
    if a == i16::MIN && b == i16::MIN {
        return i16::MAX;
    }
    let product = i32::from(a) * i32::from(b);
    let nudge = if product >= 0 { 1 << 14 } else { 1 - (1 << 14) };
    ((product + nudge) / (1 << 15)) as i16
}

/// A constant given in 32 bits, rounded to its upper 16.
const fn constant(c: i32) -> i16 {
    ((c as i64 + (1 << 15)) >> 16) as i16
}

/// `x · 2^k` for a left shift that saturates.
fn saturating_left(x: i16, k: u32) -> i16 {
    saturate16(i32::from(x) << k)
}

/// `e^a` for a in [−1/4, 0), a and the result in Q0.15: four terms of the series around −1/8.
fn exp_small(a: i16) -> i16 {
    let x = a.wrapping_add(1 << 12);
    let x2 = product16(x, x);
    let x3 = product16(x2, x);
    let x4 = product16(x2, x2);
    let quarter = rounding_shift(x4.into(), 2) as i16;
    // C(715827883) is 1/3, C(1895147668) is e^(−1/8).
    let inner = product16(quarter.wrapping_add(x3), constant(715_827_883)).wrapping_add(x2);
    let tail = rounding_shift(inner.into(), 1) as i16;
    let c = constant(1_895_147_668);
    saturate16(i32::from(c) + i32::from(product16(c, x.wrapping_add(tail))))
}

/// `e^a` in Q0.15 for a ≤ 0 with `n` integer bits.
fn exp_negative(a: i16, n: u32) -> i16 {
    // Exponent k and e^(−2^k): one factor for each bit of the part that the series leaves.
    const FACTORS: [(i32, i32); 7] = [
        (-2, 1_672_461_947),
        (-1, 1_302_514_674),
        (0, 790_015_084),
        (1, 290_630_308),
        (2, 39_332_535),
        (3, 720_401),
        (4, 242),
    ];
    if a == 0 {
        return i16::MAX;
    }
    let fraction_bits = 15 - n as i32;
    let quarter = 1i32 << (fraction_bits - 2);
    let remainder = (i32::from(a) & (quarter - 1)) - quarter;
    // In Q0.15 the remainder is a multiple of 2^n and not below −1/4.
    let mut result = exp_small((remainder << n) as i16);
    let bits = remainder - i32::from(a);
    for (exponent, factor) in FACTORS {
        if exponent < n as i32 && bits & (1 << (fraction_bits + exponent)) != 0 {
            result = product16(result, constant(factor));
        }
    }
    if n > 5 && i32::from(a) < -(1 << (fraction_bits + 5)) { 0 } else { result }
}

/// `2 / (1 + a)` for a in [0, 1) as Q0.15, the result as Q2.13: three steps of Newton's method on
/// the half sum.
fn reciprocal_of_half_sum(a: i16) -> i16 {
    let sum = i32::from(a) + i32::from(i16::MAX);
    let half = ((sum + if sum >= 0 { 1 } else { -1 }) / 2) as i16;
    // 48/17 − 32/17·d starts the iteration.
    let mut x = constant(1_515_870_810).wrapping_add(product16(half, constant(-1_010_580_540)));
    for _ in 0..3 {
        let error = (1i16 << 13).wrapping_sub(product16(half, x));
        x = x.wrapping_add(saturating_left(product16(x, error), 2));
    }
    x
}

/// Logistic function of an int16 with `n` integer bits, as Q0.15; `n` in 0..=6.
pub(crate) fn logistic16(a: i16, n: u32) -> i16 {
    if a == 0 {
        return 1 << 14;
    }
    // Half of a Q2.13 number is one bit to the left in Q0.15.
    let positive =
        saturating_left(reciprocal_of_half_sum(exp_negative(negated_magnitude(a), n)), 1);
    if a > 0 { positive } else { i16::MAX.wrapping_sub(positive) }
}

/// Tanh of an int16 with `n` integer bits, as Q0.15; `n` in 0..=6.
pub(crate) fn tanh16(a: i16, n: u32) -> i16 {
    if a == 0 {
        return 0;
    }
    // (1 − e^(−2|a|)) / (1 + e^(−2|a|)): the doubling only relabels one more integer bit.
    let x = reciprocal_of_half_sum(exp_negative(negated_magnitude(a), n + 1));
    let magnitude = saturating_left(x.wrapping_sub(1 << 13), 2);
    if a > 0 { magnitude } else { magnitude.wrapping_neg() }
}

/// −|a|, which int16 always holds.
fn negated_magnitude(a: i16) -> i16 {
    if a < 0 { a } else { -a }
}

/// `1/√x` as a multiplier: `(2^31 − 1, 0)` for inputs up to 1.
pub(crate) fn inverse_square_root(x: i32) -> Multiplier {
    if x <= 1 {
        return Multiplier { multiplier: i32::MAX, shift: 0 };
    }
    let (mut input, mut counter) = (x, 11);
    while input >= 1 << 29 {
        input /= 4;
        counter += 1;
    }
    // Pairs of bits, so that the root of the shift is exact.
    let pairs = (input.leading_zeros() - 1) / 2 - 1;
    input <<= 2 * pairs;
    counter -= pairs as i32;
    // Newton's method for x ← 1.5 x − (input / 2) x³, in Q3.28 from 1. Cubes are Q9.22 and come
    // back by six bits.
    let half_input = rounding_shift(input >> 1, 1);
    let half_three = (1 << 28) + (1 << 27);
    let mut root = 1i32 << 28;
    for _ in 0..5 {
        let square = doubling_high_product(root, root);
        let cube = saturating_left32(doubling_high_product(square, root), 6);
        let linear = doubling_high_product(half_three, root);
        let cubic = doubling_high_product(half_input, cube);
        root = saturating_left32(linear.wrapping_sub(cubic), 3);
    }
    // √½ in Q0.31.
    root = doubling_high_product(root, 1_518_500_250);
    if counter < 0 {
        root = root.wrapping_shl((-counter) as u32);
        counter = 0;
    }
    Multiplier { multiplier: root, shift: -counter }
}

fn saturating_left32(x: i32, k: u32) -> i32 {
    (i64::from(x) << k).clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multipliers_are_normalized() {
        for (factor, multiplier, shift) in
            [(0.5, 1 << 30, 0), (1.0, 1 << 30, 1), (0.75, 3 << 29, 0), (1.0 / 1024.0, 1 << 30, -9)]
        {
            assert_eq!(Multiplier::new(factor), Multiplier { multiplier, shift }, "{factor}");
        }
        // The fraction rounds up to 1: the exponent takes it.
        assert_eq!(Multiplier::new(1.0 - 1e-12), Multiplier { multiplier: 1 << 30, shift: 1 });
        for factor in [0.0, 1e-12, f64::NAN, f64::INFINITY] {
            assert_eq!(Multiplier::new(factor).multiplier, 0, "{factor}");
        }
    }

    #[test]
    fn rescaling_rounds_twice() {
        let quarter = Multiplier::new(0.25);
        // 1/4 first becomes 1/2 · 1 rounded to 1, then 1/2 rounded to 1: the two roundings of the
        // kernels.
        for (x, y) in [
            (0, 0),
            (1, 1),
            (2, 1),
            (3, 1),
            (5, 2),
            (-1, 0),
            (-2, -1),
            (-3, -1),
            (6, 2),
            (-6, -2),
            (100, 25),
        ] {
            assert_eq!(quarter.apply(x), y, "{x} / 4");
        }
        assert_eq!(Multiplier::new(3.0).apply(7), 21);
        assert_eq!(doubling_high_product(i32::MIN, i32::MIN), i32::MAX);
        assert_eq!(rounding_shift_wide(-(3 << 40), 41), -2);
    }

    #[test]
    fn a_mean_folds_the_division_into_the_factor() {
        // 111 / 2 goes up and −111 / 2 towards zero, 12 / 5 becomes 5 / 2 and then 3: what the two
        // roundings make of them.
        let half = Multiplier::new(1.0).divided_by(2);
        assert_eq!((half.apply(111), half.apply(-111)), (56, -55));
        let fifth = Multiplier::new(1.0).divided_by(5);
        assert_eq!((fifth.apply(100), fifth.apply(-13), fifth.apply(12)), (20, -3, 3));
    }

    #[test]
    fn products_of_16_bits_round_and_saturate() {
        assert_eq!(product16(i16::MIN, i16::MIN), i16::MAX);
        assert_eq!(product16(1 << 14, 1 << 14), 1 << 13);
        assert_eq!(product16(1 << 14, 1), 1);
        assert_eq!(product16(1 << 14, -1), 0);
        assert_eq!(product16(-(1 << 14), 3), -1);
    }

    #[test]
    fn logistic_is_close_to_the_real_one_on_every_input() {
        for a in i16::MIN..=i16::MAX {
            let real = 1.0 / (1.0 + (-f64::from(a) / 4096.0).exp());
            let error = (f64::from(logistic16(a, 3)) - real * 32768.0).abs();
            assert!(
                error < 8.0,
                "logistic of {a}: {} against {}",
                logistic16(a, 3),
                real * 32768.0
            );
        }
        assert_eq!(logistic16(0, 3), 16384);
    }

    #[test]
    fn tanh_is_close_to_the_real_one_for_every_number_of_integer_bits() {
        for n in 0..=6 {
            for a in i16::MIN..=i16::MAX {
                let real = (f64::from(a) / f64::from(1 << (15 - n))).tanh() * 32768.0;
                let error = (f64::from(tanh16(a, n)) - real).abs();
                assert!(
                    error < 32.0,
                    "tanh of {a} with {n} integer bits: {} against {real}",
                    tanh16(a, n)
                );
            }
        }
    }

    #[test]
    fn inverse_square_root_matches_the_real_one() {
        assert_eq!(inverse_square_root(1), Multiplier { multiplier: i32::MAX, shift: 0 });
        for x in [2, 3, 4, 5, 17, 100, 1023, 65_536, 1_000_003, 1 << 28, 1 << 29, i32::MAX] {
            let root = inverse_square_root(x);
            let value = f64::from(root.multiplier) * 2f64.powi(root.shift - 31);
            let real = 1.0 / f64::from(x).sqrt();
            // Five steps from 1 leave 1.2e-6 at the far end of the range, which 2 is.
            assert!((value / real - 1.0).abs() < 2e-6, "1/√{x}: {value} against {real}");
        }
    }
}
