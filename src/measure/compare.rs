//! How far a result is from the expected one, and where it is worst.

use super::layout::AxisRole;
use crate::backend::Precision;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// How far a number may be from the expected one: `|actual − expected| ≤ atol + rtol·|expected|`.
///
/// The named levels say why they are what they are; a level of one's own is a plain struct literal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Absolute part, in the unit of the values (integer steps for integer tensors).
    pub atol: f64,
    /// Part relative to the expected value's magnitude.
    pub rtol: f64,
}

impl Tolerance {
    /// Equal, bit for bit up to the sign of zero: integer arithmetic is defined exactly.
    pub const EXACT: Tolerance = Tolerance { atol: 0.0, rtol: 0.0 };
    /// `reference` against a stored float result: the other program rounds to f32 after every
    /// product and sum, in an order of its own.
    pub const STORED: Tolerance = Tolerance { atol: 1e-5, rtol: 0.0 };
    /// `cpu` and `gpu` against `reference`: sums in f32, and activations that are a few units in
    /// the last place off, carried through the time steps. The relative part is for outputs that no
    /// activation bounds.
    pub const DEVICE: Tolerance = Tolerance { atol: 1e-5, rtol: 1e-5 };

    /// `cpu` and `gpu` with weights of less precision against `reference` with those of the file:
    /// [`Precision::allowed`] for outputs of the order of 1, relative beyond.
    pub fn of(precision: Precision) -> Tolerance {
        Tolerance { atol: precision.allowed(), rtol: precision.allowed() }
    }

    /// This tolerance with `more` added to the absolute part.
    #[must_use]
    pub fn widened(self, more: f64) -> Tolerance {
        Tolerance { atol: self.atol + more, ..self }
    }
}

/// The distance of two tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Number of elements compared.
    pub elements: usize,
    /// Largest `|actual − expected|`; infinite where one is NaN or infinite and the other is not
    /// the same.
    pub max_abs: f64,
    /// Largest error relative to `|expected|`, which counts as at least [`Comparison::SMALLEST`].
    pub max_rel: f64,
    /// Mean of `|actual − expected|`.
    pub mean_abs: f64,
    /// Largest number of f32 values between the two; f32 tensors only.
    pub max_ulp: Option<u64>,
    /// Cosine of the angle between the two as vectors; `None` when one of them is zero.
    pub cosine: Option<f64>,
    /// The element with the largest absolute error; `None` when nothing differs.
    pub worst: Option<Worst>,
    /// Number of elements beyond the tolerance.
    pub outside: usize,
    /// The first time step with an element beyond the tolerance, where the layout is known.
    pub first_bad_step: Option<usize>,
    /// Number of NaN expected and found.
    pub nan: [usize; 2],
    /// Number of infinities expected and found.
    pub infinite: [usize; 2],
    /// Shapes or element types differ, so that nothing else could be compared.
    pub mismatch: Option<String>,
}

/// One element, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Worst {
    /// Its index on every axis.
    pub index: Vec<usize>,
    /// Its time step, where the layout is known.
    pub step: Option<usize>,
    /// Its batch row, where the layout is known.
    pub row: Option<usize>,
    /// Its unit, where the layout is known.
    pub unit: Option<usize>,
    /// What was expected there.
    pub expected: f64,
    /// What was found there.
    pub actual: f64,
}

impl Comparison {
    /// Expected values below this count as this in the relative error: one rounding of a sum of
    /// terms around 1 is 6e-8, which next to an exact 0 would be an infinite relative error.
    pub const SMALLEST: f64 = 1e-6;

    /// Whether every element is within the tolerance that it was compared under.
    pub fn holds(&self) -> bool {
        self.outside == 0 && self.mismatch.is_none()
    }

    /// Whether NaN and infinities are where they were expected, and shapes and types are equal:
    /// what can be asked of a result whose distance is only stated.
    pub fn is_comparable(&self) -> bool {
        self.mismatch.is_none() && self.max_abs.is_finite()
    }
}

/// Compares `actual` with `expected`; `roles` says what the axes mean, as far as it is known.
///
/// NaN equals NaN at the same place, and an infinity the same infinity. Tensors of another shape or
/// type are not compared: [`Comparison::mismatch`] says so.
///
/// # Errors
/// None for tensors of one type.
pub fn compare(
    expected: &Tensor,
    actual: &Tensor,
    tolerance: Tolerance,
    roles: &[AxisRole],
) -> Result<Comparison> {
    let mut out = Comparison {
        elements: expected.len(),
        max_abs: 0.0,
        max_rel: 0.0,
        mean_abs: 0.0,
        max_ulp: None,
        cosine: None,
        worst: None,
        outside: 0,
        first_bad_step: None,
        nan: [0; 2],
        infinite: [0; 2],
        mismatch: None,
    };
    if expected.shape() != actual.shape() || expected.dtype() != actual.dtype() {
        let text = |tensor: &Tensor| format!("{} {:?}", tensor.dtype(), tensor.shape());
        out.mismatch = Some(format!("{} was expected, {} was found", text(expected), text(actual)));
        return Ok(out);
    }
    let (wanted, found) = (as_f64(expected)?, as_f64(actual)?);
    let mut worst = None;
    let (mut sum, mut dot, mut norms) = (0.0, 0.0, [0.0; 2]);
    for (at, (&e, &a)) in wanted.iter().zip(&found).enumerate() {
        out.nan = [out.nan[0] + usize::from(e.is_nan()), out.nan[1] + usize::from(a.is_nan())];
        out.infinite = [
            out.infinite[0] + usize::from(e.is_infinite()),
            out.infinite[1] + usize::from(a.is_infinite()),
        ];
        let error = distance(e, a);
        sum += error;
        if e.is_finite() && a.is_finite() {
            dot += e * a;
            norms = [norms[0] + e * e, norms[1] + a * a];
        }
        out.max_rel = out
            .max_rel
            .max(error / if e.is_finite() { e.abs().max(Comparison::SMALLEST) } else { 1.0 });
        if error > out.max_abs {
            out.max_abs = error;
            worst = Some((at, e, a));
        }
        let allowed = tolerance.atol + if e.is_finite() { tolerance.rtol * e.abs() } else { 0.0 };
        if error > allowed {
            out.outside += 1;
            let step = place(&unravel(at, expected.shape()), roles, AxisRole::Step);
            out.first_bad_step = match (out.first_bad_step, step) {
                (Some(first), Some(step)) => Some(first.min(step)),
                (first, step) => first.or(step),
            };
        }
    }
    if !wanted.is_empty() {
        out.mean_abs = sum / wanted.len() as f64;
    }
    if norms[0] > 0.0 && norms[1] > 0.0 {
        out.cosine = Some((dot / (norms[0].sqrt() * norms[1].sqrt())).clamp(-1.0, 1.0));
    }
    if expected.dtype() == DType::F32 {
        let pairs = expected.as_slice::<f32>()?.iter().zip(actual.as_slice::<f32>()?);
        out.max_ulp = pairs.map(|(&e, &a)| ulps(e, a)).max().or(Some(0));
    }
    out.worst = worst.map(|(at, expected_value, actual_value)| {
        let index = unravel(at, expected.shape());
        let [step, row, unit] =
            [AxisRole::Step, AxisRole::Row, AxisRole::Unit].map(|role| place(&index, roles, role));
        Worst { step, row, unit, index, expected: expected_value, actual: actual_value }
    });
    Ok(out)
}

/// The elements as f64: exact for every type but large i64.
fn as_f64(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(match tensor.dtype() {
        DType::F64 => tensor.as_slice::<f64>()?.to_vec(),
        DType::I64 => tensor.as_slice::<i64>()?.iter().map(|&n| n as f64).collect(),
        DType::I32 => tensor.as_slice::<i32>()?.iter().map(|&n| f64::from(n)).collect(),
        DType::F32 | DType::F16 | DType::I8 | DType::U8 | DType::I16 | DType::Bool => {
            tensor.to_f32().iter().map(|&x| f64::from(x)).collect()
        }
    })
}

fn distance(expected: f64, actual: f64) -> f64 {
    if expected == actual || (expected.is_nan() && actual.is_nan()) {
        0.0
    } else if expected.is_finite() && actual.is_finite() {
        (actual - expected).abs()
    } else {
        f64::INFINITY
    }
}

/// Number of steps from one f32 to the next that lie between two; 0 for two NaN, the largest number
/// for one.
fn ulps(a: f32, b: f32) -> u64 {
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() && b.is_nan() { 0 } else { u64::MAX };
    }
    // The bits of a float order like its magnitude: mirrored for negative numbers they order like
    // the number.
    let ordered = |x: f32| {
        let bits = i64::from(x.to_bits() & 0x7fff_ffff);
        if x.is_sign_negative() { -bits } else { bits }
    };
    ordered(a).abs_diff(ordered(b))
}

/// The index on every axis of the element at this position of a row-major tensor.
fn unravel(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (slot, &size) in index.iter_mut().zip(shape).rev() {
        *slot = at % size.max(1);
        at /= size.max(1);
    }
    index
}

fn place(index: &[usize], roles: &[AxisRole], role: AxisRole) -> Option<usize> {
    let axis = roles.iter().position(|&other| other == role)?;
    index.get(axis).copied()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TIME_MAJOR: [AxisRole; 3] = [AxisRole::Step, AxisRole::Row, AxisRole::Unit];

    fn tensor(shape: &[usize], data: &[f32]) -> Tensor {
        Tensor::from_slice(shape, data).unwrap()
    }

    #[test]
    fn equal_tensors_are_at_distance_zero() {
        let t = tensor(&[2, 1, 2], &[1.0, f32::NAN, f32::INFINITY, -0.0]);
        let c = compare(&t, &t, Tolerance::EXACT, &TIME_MAJOR).unwrap();
        assert!(c.holds() && c.is_comparable() && c.worst.is_none());
        assert_eq!((c.max_abs, c.max_rel, c.mean_abs, c.max_ulp), (0.0, 0.0, 0.0, Some(0)));
        assert_eq!((c.nan, c.infinite), ([1, 1], [1, 1]));
    }

    #[test]
    fn the_worst_element_is_named_by_step_row_and_unit() {
        let mut data = vec![0.5f32; 24];
        let expected = tensor(&[3, 2, 4], &data);
        data[8 + 1] += 2e-5; // step 1, row 0, unit 1
        data[16 + 4 + 3] -= 0.25; // step 2, row 1, unit 3
        let c =
            compare(&expected, &tensor(&[3, 2, 4], &data), Tolerance::STORED, &TIME_MAJOR).unwrap();
        let worst = c.worst.clone().unwrap();
        assert_eq!((worst.step, worst.row, worst.unit), (Some(2), Some(1), Some(3)));
        assert_eq!((worst.expected, worst.actual), (0.5, 0.25));
        assert_eq!((c.max_abs, c.max_rel, c.outside, c.first_bad_step), (0.25, 0.5, 2, Some(1)));
        assert!(!c.holds());
        assert!((c.mean_abs - 0.25002 / 24.0).abs() < 1e-8);
    }

    #[test]
    fn nan_and_infinity_at_other_places_do_not_hold_under_any_tolerance() {
        let lax = Tolerance { atol: 1e30, rtol: 1e30 };
        for (e, a) in [
            (1.0, f32::NAN),
            (f32::NAN, 1.0),
            (f32::INFINITY, 1.0),
            (1.0, f32::INFINITY),
            (f32::INFINITY, -f32::INFINITY),
        ] {
            let c = compare(&tensor(&[1], &[e]), &tensor(&[1], &[a]), lax, &[]).unwrap();
            assert!(!c.holds() && !c.is_comparable(), "{e} and {a}");
        }
    }

    #[test]
    fn other_shapes_and_types_are_a_mismatch() {
        let t = tensor(&[2, 1], &[0.0; 2]);
        for other in [tensor(&[1, 2], &[0.0; 2]), Tensor::zeros(DType::F64, &[2, 1]).unwrap()] {
            let c = compare(&t, &other, Tolerance::DEVICE, &[]).unwrap();
            assert!(!c.holds() && c.mismatch.is_some());
        }
    }

    #[test]
    fn integers_are_compared_in_their_own_steps() {
        let tensor = |data: Vec<i8>| Tensor::from_vec(&[3], data).unwrap();
        let c = compare(
            &tensor(vec![-128, 0, 5]),
            &tensor(vec![127, 0, 6]),
            Tolerance { atol: 1.0, rtol: 0.0 },
            &[],
        )
        .unwrap();
        assert_eq!((c.max_abs, c.outside, c.max_ulp), (255.0, 1, None));
    }

    #[test]
    fn ulps_count_floats_between() {
        assert_eq!(ulps(1.0, 1.0 + f32::EPSILON), 1);
        assert_eq!(ulps(0.0, -0.0), 0);
        assert_eq!(ulps(f32::from_bits(1), -f32::from_bits(1)), 2);
        assert_eq!(ulps(f32::NAN, 0.0), u64::MAX);
    }

    #[test]
    fn empty_tensors_hold() {
        let t = tensor(&[0, 2, 4], &[]);
        assert!(compare(&t, &t, Tolerance::EXACT, &TIME_MAJOR).unwrap().holds());
    }
}
