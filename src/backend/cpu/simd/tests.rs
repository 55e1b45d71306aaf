//! Every kernel of every instruction set that this processor has, against loops in f64.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::needless_range_loop)]

use super::*;

/// Numbers in [−1, 1) that look random and are the same everywhere.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn close(found: f32, expected: f64, tolerance: f64, what: &str) {
    assert!(
        (f64::from(found) - expected).abs() <= tolerance * expected.abs().max(1.0),
        "{what}: {found} instead of {expected}"
    );
}

#[test]
fn products_of_every_size_and_start() {
    for kernels in available() {
        for rows in [1, 2, 3, 5, 6, 7, 13, 100] {
            for (depth, columns) in [(0, 16), (1, 1), (3, 64), (17, 100), (300, 65), (64, 256)] {
                for width in [kernels.matrix_width, kernels.vector_width] {
                    for backwards in [false, true] {
                        product_case(kernels, rows, depth, columns, width, backwards);
                    }
                }
            }
        }
    }
}

fn product_case(
    kernels: &KernelSet,
    rows: usize,
    depth: usize,
    columns: usize,
    width: usize,
    backwards: bool,
) {
    let (a, b, bias) = (noise(1, rows * depth + 5), noise(2, depth * columns), noise(3, columns));
    let packed = Packed::new(depth, columns, width, Storage::F32, |k, c| b[k * columns + c]);
    for from in [From::Zero, From::Row(&bias), From::Result] {
        // Columns past the last must stay as they are.
        let stride = columns + 3;
        let before = noise(4, rows * stride);
        let mut c = before.clone();
        let all = 0..packed.panels();
        let a_rows = Rows { data: &a, stride: depth };
        kernels
            .product(
                rows,
                a_rows,
                &packed,
                all,
                backwards,
                from,
                &mut c,
                stride,
                columns,
                &mut Quantized::default(),
            )
            .unwrap();
        for row in 0..rows {
            for column in 0..stride {
                let at = row * stride + column;
                if column >= columns {
                    assert_eq!(c[at], before[at], "{}: column {column} was written", kernels.name);
                    continue;
                }
                let first = match from {
                    From::Zero => 0.0,
                    From::Row(bias) => bias[column],
                    From::Result => before[at],
                };
                let sum: f64 = (0..depth)
                    .map(|k| f64::from(a[row * depth + k]) * f64::from(b[k * columns + column]))
                    .sum();
                let what = format!(
                    "{} {rows}x{depth}x{columns} width {width} at {row}, {column}",
                    kernels.name
                );
                close(c[at], f64::from(first) + sum, 1e-5, &what);
            }
        }
    }
}

#[test]
fn products_refuse_short_slices() {
    let kernels = select(None).unwrap();
    let q = &mut Quantized::default();
    let packed = Packed::new(4, 8, kernels.matrix_width, Storage::F32, |_, _| 1.0);
    let a = [1.0; 7];
    let mut c = [0.0; 16];
    let rows = Rows { data: &a, stride: 4 };
    assert!(kernels.product(2, rows, &packed, 0..1, false, From::Zero, &mut c, 8, 8, q).is_err());
    let a = [1.0; 8];
    let rows = Rows { data: &a, stride: 4 };
    assert!(
        kernels.product(2, rows, &packed, 0..1, false, From::Zero, &mut c[..15], 8, 8, q).is_err()
    );
    assert!(kernels.product(2, rows, &packed, 0..2, false, From::Zero, &mut c, 8, 8, q).is_err());
    assert!(
        kernels
            .product(2, rows, &packed, 0..1, false, From::Row(&a[..3]), &mut c, 8, 8, q)
            .is_err()
    );
    kernels.product(2, rows, &packed, 0..1, false, From::Zero, &mut c, 8, 8, q).unwrap();
    assert_eq!(c, [4.0; 16]);
}

#[test]
fn weights_of_sixteen_bits() {
    for kernels in available() {
        for (storage, step) in [(Storage::F16, 2f64.powi(-11)), (Storage::Bf16, 2f64.powi(-8))] {
            let (rows, depth, columns) = (4, 33, 40);
            let (a, b) = (noise(5, rows * depth), noise(6, depth * columns));
            let packed = Packed::new(depth, columns, kernels.matrix_width, storage, |k, c| {
                b[k * columns + c]
            });
            let mut c = vec![0.0; rows * columns];
            let all = 0..packed.panels();
            let a_rows = Rows { data: &a, stride: depth };
            kernels
                .product(
                    rows,
                    a_rows,
                    &packed,
                    all,
                    false,
                    From::Zero,
                    &mut c,
                    columns,
                    columns,
                    &mut Quantized::default(),
                )
                .unwrap();
            for at in 0..c.len() {
                let (row, column) = (at / columns, at % columns);
                let terms = (0..depth)
                    .map(|k| f64::from(a[row * depth + k]) * f64::from(b[k * columns + column]));
                let sum: f64 = terms.clone().sum();
                // Half a step of every weight, at most.
                let bound: f64 = terms.map(f64::abs).sum::<f64>() * step + 1e-5;
                close(c[at], sum, bound, &format!("{} {storage:?}", kernels.name));
            }
        }
    }
}

/// Bytes: the result is that of integer sums of the rounded operands, whose error is half a step of
/// each.
#[test]
fn int8_weights() {
    for kernels in available() {
        for (rows, depth, columns) in
            [(1, 1, 1), (1, 64, 256), (1, 67, 100), (5, 33, 40), (9, 128, 65), (35, 301, 130)]
        {
            for width in [kernels.matrix_width, kernels.vector_width] {
                let (a, b, bias) =
                    (noise(5, rows * depth), noise(6, depth * columns), noise(7, columns));
                let weight = |k: usize, c: usize| b[k * columns + c];
                let packed = Packed::new(depth, columns, width, Storage::I8, weight);
                let mut c = vec![0.0; rows * columns];
                let (all, a_rows) = (0..packed.panels(), Rows { data: &a, stride: depth });
                let scratch = &mut Quantized::of_states();
                let from = From::Row(&bias);
                kernels
                    .product(
                        rows, a_rows, &packed, all, false, from, &mut c, columns, columns, scratch,
                    )
                    .unwrap();
                for at in 0..c.len() {
                    let (row, column) = (at / columns, at % columns);
                    let step =
                        (0..depth).map(|k| weight(k, column).abs()).fold(0.0, f32::max) / 127.0;
                    let sum: i32 = (0..depth)
                        .map(|k| {
                            let h = (a[row * depth + k] * 127.0).round_ties_even() as i32;
                            h * (weight(k, column) / step).round_ties_even() as i32
                        })
                        .sum();
                    let expected =
                        f64::from(bias[column]) + f64::from(sum) * f64::from(step) / 127.0;
                    close(
                        c[at],
                        expected,
                        1e-5,
                        &format!("{} {rows}x{depth}x{columns} width {width}", kernels.name),
                    );
                }
            }
        }
    }
}

/// The form with the offset, which only VNNI has, on the portable dot product: same sums.
#[test]
fn the_offset_of_unsigned_int8() {
    use super::vector::{Dot, Int8Layout, Portable, PortableDot};

    #[derive(Clone, Copy)]
    struct Unsigned([i32; 4]);
    impl Dot for Unsigned {
        type Float = Portable;
        const LAYOUT: Int8Layout = Int8Layout::Offset;
        unsafe fn zero() -> Self {
            Unsigned([0; 4])
        }
        unsafe fn dot4(mut self, h: i32, _: i32, weights: *const i8) -> Self {
            let h = h.to_le_bytes();
            for at in 0..16 {
                // SAFETY: sixteen weights.
                self.0[at / 4] += i32::from(h[at % 4]) * i32::from(unsafe { *weights.add(at) });
            }
            self
        }
        unsafe fn settle(mut self, sums: *const i32, _: i32) -> Self {
            for (lane, sum) in self.0.iter_mut().enumerate() {
                // SAFETY: four sums.
                *sum -= unsafe { *sums.add(lane) } << 7;
            }
            self
        }
        unsafe fn to_float(self) -> Portable {
            // SAFETY: four elements.
            unsafe { super::vector::Vector::load(self.0.map(|x| x as f32).as_ptr()) }
        }
    }
    let (rows, depth, columns) = (3, 30, 21);
    let (a, b) = (noise(5, rows * depth), noise(6, depth * columns));
    let packed = Packed::new(depth, columns, 8, Storage::I8, |k, c| b[k * columns + c]);
    let quantize = |at: usize| {
        if at % 32 < 30 { (a[at / 32 * 30 + at % 32] * 127.0).round() as i8 } else { 0 }
    };
    let signed: Vec<i8> = (0..rows * 32).map(quantize).collect();
    let offset: Vec<i8> = signed.iter().map(|byte| byte ^ i8::MIN).collect();
    let ones = [1.0f32; 3];
    let run = |kernel: unsafe fn(&ProductI8), bytes: &[i8]| {
        let mut c = vec![0.0f32; rows * columns];
        let product = Product {
            rows,
            depth: 8,
            panels: (0, packed.panels()),
            width: 8,
            backwards: false,
            a: std::ptr::null(),
            a_stride: 0,
            b: packed.as_ptr(),
            storage: Storage::I8,
            c: c.as_mut_ptr(),
            c_stride: columns,
            columns,
            start: Start::Zero,
        };
        let product = ProductI8 {
            product,
            a: bytes.as_ptr(),
            a_signs: std::ptr::null(),
            a_negatives: std::ptr::null(),
            a_stride: 32,
            a_scales: ones.as_ptr(),
            b_scales: packed.scales().as_ptr(),
            b_sums: packed.sums().as_ptr(),
        };
        // SAFETY: portable code on slices of the right sizes.
        unsafe { kernel(&product) };
        c
    };
    let expected = run(kernels::product_i8::<PortableDot, 2, 4>, &signed);
    assert_eq!(expected, run(kernels::product_i8::<Unsigned, 2, 4>, &offset));
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// x from −100 to 100, dense around 0.
fn arguments() -> Vec<f32> {
    let mut xs: Vec<f32> = (-4000..=4000).map(|i| i as f32 / 400.0).collect();
    xs.extend((-100..=100).map(|i| i as f32));
    xs.extend((-60..0).flat_map(|e| [2f32.powi(e), -(2f32.powi(e))]));
    xs
}

#[test]
fn activations_within_their_stated_errors() {
    let selu = |x: f64| {
        1.050_700_987_355_480_5 * if x > 0.0 { x } else { 1.673_263_242_354_377_2 * x.exp_m1() }
    };
    let hard = Activation::HardSigmoid { alpha: 0.2, beta: 0.5 };
    let gelu_tanh =
        |x: f64| 0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x.powi(3))).tanh());
    #[allow(clippy::type_complexity)]
    let cases: Vec<(Activation, Box<dyn Fn(f64) -> f64>, f64)> = vec![
        (Activation::Linear, Box::new(|x| x), 0.0),
        (Activation::Relu, Box::new(|x| x.max(0.0)), 0.0),
        (Activation::ReluN1To1, Box::new(|x| x.clamp(-1.0, 1.0)), 0.0),
        (Activation::Relu6, Box::new(|x| x.clamp(0.0, 6.0)), 0.0),
        (Activation::Tanh, Box::new(f64::tanh), 4e-7),
        (Activation::Sigmoid, Box::new(sigmoid), 1.2e-7),
        (hard, Box::new(|x| (0.2 * x + 0.5).clamp(0.0, 1.0)), 1e-7),
        (Activation::SignBit, Box::new(|x| f64::from(u8::from(x < 0.0))), 0.0),
        (
            Activation::Elu { alpha: 0.7 },
            Box::new(|x| if x > 0.0 { x } else { 0.7 * x.exp_m1() }),
            2e-7,
        ),
        (
            Activation::LeakyRelu { alpha: 0.3 },
            Box::new(|x| if x > 0.0 { x } else { 0.3 * x }),
            1e-7,
        ),
        (Activation::Selu, Box::new(selu), 3e-7),
        (Activation::Softplus, Box::new(|x| x.max(0.0) + (-x.abs()).exp().ln_1p()), 2e-7),
        (Activation::Softsign, Box::new(|x| x / (1.0 + x.abs())), 1e-7),
        (Activation::Swish, Box::new(|x| x * sigmoid(x)), 4e-7),
        (Activation::Gelu { approximate: true }, Box::new(gelu_tanh), 1e-6),
        (Activation::HardSwish, Box::new(|x| x * (x + 3.0).clamp(0.0, 6.0) / 6.0), 3e-7),
    ];
    for kernels in available() {
        for (activation, exact, tolerance) in &cases {
            let xs = arguments();
            let mut found = xs.clone();
            kernels.activate(*activation, &mut found);
            for (x, y) in xs.iter().zip(&found) {
                close(
                    *y,
                    exact(f64::from(*x)),
                    *tolerance,
                    &format!("{} {activation:?}({x})", kernels.name),
                );
            }
        }
    }
}

#[test]
fn relative_errors_and_ends() {
    for kernels in available() {
        let xs = arguments();
        let (mut tanh, mut exp) = (xs.clone(), xs.clone());
        kernels.activate(Activation::Tanh, &mut tanh);
        kernels.activate(Activation::Exponential, &mut exp);
        for ((x, t), e) in xs.iter().zip(&tanh).zip(&exp) {
            let x = f64::from(*x);
            if x != 0.0 {
                assert!(
                    (f64::from(*t) / x.tanh() - 1.0).abs() < 4e-7,
                    "{} tanh({x}) = {t}",
                    kernels.name
                );
            }
            if x.abs() <= 87.0 {
                assert!(
                    (f64::from(*e) / x.exp() - 1.0).abs() < 3e-7,
                    "{} exp({x}) = {e}",
                    kernels.name
                );
            }
        }
        let mut ends = [f32::INFINITY, f32::NEG_INFINITY, 1000.0, -1000.0, f32::NAN];
        for (activation, expected) in [
            (Activation::Exponential, [f32::INFINITY, 0.0, f32::INFINITY, 0.0]),
            (Activation::Tanh, [1.0, -1.0, 1.0, -1.0]),
            (Activation::Sigmoid, [1.0, 0.0, 1.0, 0.0]),
        ] {
            let mut x = ends;
            kernels.activate(activation, &mut x);
            for (found, expected) in x.iter().zip(expected) {
                assert!(
                    *found == expected || (found - expected).abs() < 3e-7,
                    "{activation:?}: {found} for {expected}"
                );
            }
            assert!(x[4].is_nan(), "{} {activation:?} loses NaN", kernels.name);
        }
        kernels.activate(Activation::Gelu { approximate: false }, &mut ends[..1]);
        let mut x = [-3.5f32, -1.0, 0.0, 1.0, 2.9, 3.5];
        kernels.activate(Activation::Gelu { approximate: false }, &mut x);
        let expected =
            [-8.142_021_4e-4, -0.158_655_25, 0.0, 0.841_344_75, 2.894_588_9, 3.499_185_8];
        x.iter().zip(expected).for_each(|(x, e)| close(*x, e, 1e-6, "gelu"));
    }
}

/// Quiet and signaling NaNs of both signs whose payloads would reach the exponent if their bits were
/// taken for a number.
const NANS: [u32; 6] =
    [0x7fc0_0000, 0x7fc0_0001, 0x7fc0_00ff, 0x7f80_0001, 0xffc0_0101, 0xffff_ffff];

#[test]
fn a_nan_of_any_payload_stays_nan() {
    for kernels in available() {
        for nan in NANS.map(f32::from_bits) {
            let what = format!("{} {:08x}", kernels.name, nan.to_bits());
            for activation in [
                Activation::Sigmoid,
                Activation::Tanh,
                Activation::Exponential,
                Activation::Elu { alpha: 1.0 },
                Activation::Selu,
                Activation::Swish,
                Activation::Gelu { approximate: true },
                Activation::Softplus,
            ] {
                let mut x = [0.5, nan, -0.5];
                kernels.activate(activation, &mut x);
                assert!(x[1].is_nan() && !x[0].is_nan() && !x[2].is_nan(), "{what} {activation:?}");
            }
            for log in [false, true] {
                let mut row = [0.5, nan, -0.5];
                kernels.softmax(1.0, log, &mut row);
                assert!(row.iter().all(|x| x.is_nan()), "{what}: softmax {row:?}");
            }
            for gate in 0..4 {
                let mut sums = vec![0.25; 4 * UNITS];
                sums[gate * UNITS + 3] = nan;
                let (mut c, mut h) = (vec![0.5; UNITS], vec![0.0; UNITS]);
                let rows = Rows { data: &sums, stride: 4 * UNITS };
                kernels.lstm_rows(1, UNITS, 0..1, rows, &mut c, &mut h, UNITS, None).unwrap();
                let lost: Vec<usize> = (0..UNITS).filter(|&u| h[u].is_nan() != (u == 3)).collect();
                assert!(lost.is_empty(), "{what}: gate {gate}, units {lost:?}");
            }
        }
    }
}

#[test]
fn activations_of_the_largest_numbers_have_the_limits_of_their_equations() {
    let large = 1e38;
    for kernels in available() {
        for (activation, ends) in [
            (Activation::Gelu { approximate: true }, [-0.0, large]),
            (Activation::Gelu { approximate: false }, [-0.0, large]),
            (Activation::Swish, [-0.0, large]),
            (Activation::HardSwish, [-0.0, large]),
            (Activation::Softplus, [0.0, large]),
            (Activation::Elu { alpha: 1.0 }, [-1.0, large]),
            (Activation::Softsign, [-1.0, 1.0]),
        ] {
            let mut x = [-large, large];
            kernels.activate(activation, &mut x);
            for (found, expected) in x.iter().zip(ends) {
                close(
                    *found,
                    f64::from(expected),
                    1e-6,
                    &format!("{} {activation:?}", kernels.name),
                );
            }
        }
    }
}

#[test]
fn a_panic_on_the_callers_thread_leaves_the_pool_parallel() {
    let pool = Pool::new(1).unwrap();
    let caller = std::thread::current().id();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for_each_part(Some(&pool), &mut [(), ()], &[], |(), _| {
            assert!(std::thread::current().id() != caller, "on the caller's thread");
            Ok(())
        })
    }));
    assert!(panicked.is_err());
    // Each part waits for the other one to begin, which takes two threads.
    let begun = std::sync::atomic::AtomicUsize::new(0);
    let since = std::time::Instant::now();
    for_each_part(Some(&pool), &mut [(), ()], &[], |(), _| {
        begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        while begun.load(std::sync::atomic::Ordering::Relaxed) < 2 {
            assert!(since.elapsed().as_secs() < 30, "the worker takes no part");
            std::thread::yield_now();
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn softmax_rows() {
    for kernels in available() {
        let xs = noise(7, 37);
        for beta in [1.0, 3.0] {
            let sum: f64 = xs.iter().map(|&x| (f64::from(beta) * f64::from(x)).exp()).sum();
            let (mut plain, mut log) = (xs.clone(), xs.clone());
            kernels.softmax(beta, false, &mut plain);
            kernels.softmax(beta, true, &mut log);
            for ((x, p), l) in xs.iter().zip(&plain).zip(&log) {
                let expected = (f64::from(beta) * f64::from(*x)).exp() / sum;
                close(*p, expected, 1e-7, kernels.name);
                close(*l, expected.ln(), 1e-6, kernels.name);
            }
        }
    }
}

#[test]
fn fused_cells() {
    for kernels in available() {
        for units in [1usize, 15, 16, 33] {
            let blocks = units.div_ceil(UNITS);
            let rows = 3;
            let stride = blocks * UNITS;
            let windows = [Window { part: 0, rows: 0..rows, columns: 0..units }];
            let at = |gates: usize, g: usize, u: usize| (u / UNITS * gates + g) * UNITS + u % UNITS;

            let sums: Vec<f32> = noise(8, rows * 4 * stride).iter().map(|x| 4.0 * x).collect();
            let (mut c, mut h, mut y) =
                (noise(9, rows * stride), vec![0.0; rows * stride], vec![0.0; rows * units]);
            let before = c.clone();
            let grid = Grid::new(&mut y, [1, rows, units], true, &windows).unwrap();
            // SAFETY: the only view.
            let mut view = unsafe { grid.view(0) }.unwrap();
            let sums_rows = Rows { data: &sums, stride: 4 * stride };
            kernels
                .lstm_rows(
                    rows,
                    units,
                    0..blocks,
                    sums_rows,
                    &mut c,
                    &mut h,
                    stride,
                    Some((&mut view, 0, 0)),
                )
                .unwrap();
            for (row, u) in (0..rows).flat_map(|row| (0..units).map(move |u| (row, u))) {
                let s = |g: usize| f64::from(sums[row * 4 * stride + at(4, g, u)]);
                let next = sigmoid(s(1)) * f64::from(before[row * stride + u])
                    + sigmoid(s(0)) * s(2).tanh();
                let out = sigmoid(s(3)) * next.tanh();
                close(c[row * stride + u], next, 4e-7, kernels.name);
                close(h[row * stride + u], out, 5e-7, kernels.name);
                assert_eq!(y[row * units + u], h[row * stride + u]);
            }

            let (x, r) = (noise(10, rows * 3 * stride), noise(11, rows * 3 * stride));
            let mut h = noise(12, rows * stride);
            let before = h.clone();
            let x_rows = Rows { data: &x, stride: 3 * stride };
            kernels.gru_rows(rows, units, x_rows, &r, &mut h, stride, None).unwrap();
            for (row, u) in (0..rows).flat_map(|row| (0..units).map(move |u| (row, u))) {
                let s = |v: &[f32], g: usize| f64::from(v[row * 3 * stride + at(3, g, u)]);
                let z = sigmoid(s(&x, 0) + s(&r, 0));
                let new = (s(&x, 2) + sigmoid(s(&x, 1) + s(&r, 1)) * s(&r, 2)).tanh();
                let out = z * f64::from(before[row * stride + u]) + (1.0 - z) * new;
                close(h[row * stride + u], out, 5e-7, kernels.name);
            }
        }
    }
}

#[test]
fn grids_refuse_overlaps() {
    let mut data = [0.0; 24];
    let window = |part, rows, columns| Window { part, rows, columns };
    let mut refused = |windows: &[Window]| Grid::new(&mut data, [2, 3, 4], true, windows).is_err();
    assert!(!refused(&[window(0, 0..3, 0..2), window(1, 0..3, 2..4)]));
    assert!(!refused(&[window(0, 0..1, 0..4), window(1, 1..3, 0..4)]));
    assert!(refused(&[window(0, 0..2, 0..4), window(1, 1..3, 0..4)]));
    assert!(refused(&[window(0, 0..1, 0..4), window(0, 1..3, 0..4)]));
    assert!(refused(&[window(0, 0..4, 0..4)]));
}

#[test]
fn an_instruction_set_of_another_processor_is_refused() {
    let foreign =
        if cfg!(target_arch = "x86_64") { InstructionSet::Neon } else { InstructionSet::Avx2 };
    assert!(select(Some(foreign)).is_err());
    assert_eq!(select(Some(InstructionSet::Portable)).unwrap().name, "portable");
}
