//! Recurrent layers on quantized numbers against what TFLite's interpreter (2.3, reference kernels)
//! gave for single-op models.

use std::sync::Arc;

use fuselstm::graph::op::{Activation, Svdf, SvdfArithmetic};
use fuselstm::graph::recurrent::*;
use fuselstm::graph::{Op, ValueType};
use fuselstm::{DType, Tensor};

use super::support::{assert_close, f, tensor};

fn matrix(data: Tensor, scales: &[f32]) -> Matrix {
    Matrix { data, scales: scales.to_vec() }
}

fn lstm(coupled_input_forget: bool, cell_clip: Option<f32>, projection_clip: Option<f32>) -> Cell {
    Cell::Lstm(Lstm {
        gate: Activation::Sigmoid,
        candidate: Activation::Tanh,
        output: Activation::Tanh,
        coupled_input_forget,
        cell_clip,
        projection_clip,
    })
}

fn layer(cell: Cell, weights: CellWeights, arithmetic: Arithmetic) -> Op {
    Op::Recurrent(Recurrent {
        cell,
        directions: vec![Direction {
            reverse: false,
            source: Source::X,
            weights: Arc::new(weights),
        }],
        layout: Layout::TimeMajor,
        masking: Masking::Zero,
        merge: Merge::Separate,
        gate_clip: None,
        arithmetic,
    })
}

/// Output, final output state and final cell state; `states` are those before.
fn run(op: &Op, x: &Tensor, states: &[Tensor], types: [DType; 2]) -> [Tensor; 3] {
    let typed =
        |tensor: &Tensor| (tensor.clone(), ValueType::fixed(tensor.dtype(), tensor.shape()));
    let operands: Vec<_> = std::iter::once(Some(typed(x)))
        .chain([None, None])
        .chain(states.iter().map(|state| Some(typed(state))))
        .collect();
    let inputs: Vec<_> =
        operands.iter().map(|x| x.as_ref().map(|(tensor, ty)| (tensor, ty))).collect();
    let [h, c] = types.map(ValueType::unranked);
    let mut results =
        fuselstm::internal::eval::evaluate(op, &inputs, &[Some(&h), None, Some(&h), Some(&c)])
            .unwrap();
    [0, 2, 3].map(|slot| results[slot].take().unwrap())
}

/// Layer norm, peephole, projection, both clips; `[T, B, I] = [3, 2, 3]`, two cells.
fn integer_lstm() -> Op {
    let input = [
        97i8, 21, 45, -34, 40, 15, 121, -101, -46, 91, 23, -61, -125, 64, -67, 2, 52, -37, -58,
        -23, -17, -30, 30, -21,
    ];
    let recurrent = [25i8, 124, -65, -120, 121, 44, -94, -4, -48, 49, -90, -107, -33, -78, 22, 0];
    let bias = [
        8_217_961i32,
        -1_406_318,
        -7_622_924,
        2_859_327,
        2_140_197,
        3_543_165,
        1_288_238,
        -595_039,
    ];
    let layer_norm = [7779i16, 28_039, 25_128, 16_152, 10_106, 15_514, 13_011, 7231];
    let peephole = [24_990i16, 24_812, -21_945, -7930, -12_592, -21_104];
    let weights = CellWeights {
        input: matrix(tensor(&[8, 3], &input), &[0.006, 0.007, 0.008, 0.005]),
        recurrent: matrix(tensor(&[8, 2], &recurrent), &[0.004, 0.006, 0.005, 0.007]),
        auxiliary: None,
        bias: Some(tensor(&[8], &bias)),
        recurrent_bias: None,
        peephole: Some(matrix(tensor(&[6], &peephole), &[2e-5, 3e-5, 2.5e-5])),
        layer_norm: Some(matrix(tensor(&[8], &layer_norm), &[1.2e-5, 1.1e-5, 1.5e-5, 1.3e-5])),
        projection: Some(Projection {
            weight: matrix(tensor(&[2, 2], &[-14i8, -126, -42, -10]), &[0.006]),
            bias: Some(tensor(&[2], &[1983i32, 44])),
        }),
    };
    let scales = IntegerScales {
        input: (0.02, 3),
        output_state: (0.0061, -4),
        cell_scale_log2: -11,
        gates: [0.0003, 0.00035, 0.0004, 0.00045],
        hidden: (0.004, 7),
    };
    layer(lstm(false, Some(1.5), Some(0.7)), weights, Arithmetic::Integer(scales))
}

const INTEGER_X: [i8; 18] =
    [-22, 24, 121, 3, 56, 72, -128, -107, 125, 19, 74, -21, 121, 41, 10, 21, -9, 38];

#[test]
fn integer_lstm_bit_for_bit() {
    let x = tensor(&[3, 2, 3], &INTEGER_X);
    let [y, h, c] = run(&integer_lstm(), &x, &[], [DType::I8, DType::I16]);
    assert_eq!(y, tensor(&[3, 2, 2], &[-5i8, -3, -3, -3, 5, -5, -10, -3, -2, -4, -8, -2]));
    assert_eq!(h, tensor(&[2, 2], &[-2i8, -4, -8, -2]));
    assert_eq!(c, tensor(&[2, 2], &[-85i16, 201, -232, 446]));
}

#[test]
fn integer_lstm_in_two_parts_is_the_whole() {
    let whole = run(&integer_lstm(), &tensor(&[3, 2, 3], &INTEGER_X), &[], [DType::I8, DType::I16]);
    let types = [DType::I8, DType::I16];
    let [first, h, c] = run(&integer_lstm(), &tensor(&[1, 2, 3], &INTEGER_X[..6]), &[], types);
    let [rest, h, c] = run(&integer_lstm(), &tensor(&[2, 2, 3], &INTEGER_X[6..]), &[h, c], types);
    let y = [first.as_slice::<i8>().unwrap(), rest.as_slice::<i8>().unwrap()].concat();
    assert_eq!([tensor(&[3, 2, 2], &y), h, c], whole);
}

#[test]
fn no_step_leaves_an_integer_state_at_its_zero_point() {
    let [y, h, c] =
        run(&integer_lstm(), &tensor::<i8>(&[0, 2, 3], &[]), &[], [DType::I8, DType::I16]);
    assert_eq!(
        [y, h, c],
        [tensor::<i8>(&[0, 2, 2], &[]), tensor(&[2, 2], &[-4i8; 4]), tensor(&[2, 2], &[0i16; 4])]
    );
}

#[test]
fn uint8_step_by_hand() {
    // One cell, weights all 0 but the bias: s_i = 0, s_g = 8 (saturates tanh), s_f = 0, s_o = 0.
    // Bias scale 1/128 · 1/128.
    let bias = tensor(&[4], &[0i32, 0, 8 << 14, 0]);
    let weights = CellWeights {
        input: matrix(tensor(&[4, 1], &[100u8; 4]), &[1.0 / 128.0]),
        recurrent: matrix(tensor(&[4, 1], &[100u8; 4]), &[1.0 / 128.0]),
        auxiliary: None,
        bias: Some(bias),
        recurrent_bias: None,
        peephole: None,
        layer_norm: None,
        projection: None,
    };
    let op = layer(
        lstm(false, None, None),
        weights,
        Arithmetic::IntegerBasic { weight_zero_point: 100 },
    );
    let (x, h0, c0) =
        (tensor(&[1, 1, 1], &[7u8]), tensor(&[1, 1], &[9u8]), tensor(&[1, 1], &[2048i16]));
    let [y, _, c] = run(&op, &x, &[h0, c0], [DType::U8, DType::I16]);
    // c' = σ(0)·tanh(8) + σ(0)·1 = 1.0; h = σ(0)·tanh(1) = 0.3808, times 128 is 48.7.
    assert_eq!(c, tensor(&[1, 1], &[2048i16]));
    assert_eq!(y, tensor(&[1, 1, 1], &[128u8 + 49]));
}

#[test]
fn hybrid_lstm_with_free_zero_points() {
    let input =
        [88i8, 100, 21, -65, 82, -105, 93, 108, 8, 58, 98, 44, -95, 125, -35, -67, 17, -100];
    let recurrent = [-74i8, -20, -119, -107, -119, 25, 79, -51, -108, -27, 10, -101];
    let bias =
        [-0.433_185_25, 0.763_816_9, 0.090_765_22, 0.656_044_24, -0.532_615_96, -0.594_244_7];
    let weights = CellWeights {
        input: matrix(tensor(&[6, 3], &input), &[0.01]),
        recurrent: matrix(tensor(&[6, 2], &recurrent), &[0.008]),
        auxiliary: None,
        bias: Some(f(&[6], &bias)),
        recurrent_bias: None,
        peephole: None,
        layer_norm: None,
        projection: Some(Projection {
            weight: matrix(tensor(&[2, 2], &[-14i8, -126, -42, -10]), &[0.006]),
            bias: None,
        }),
    };
    let op = layer(lstm(true, None, None), weights, Arithmetic::Hybrid { asymmetric: true });
    let x = [
        1.304_512_3,
        0.086_417_36,
        -1.429_602_6,
        -0.790_945_53,
        1.228_090_6,
        -0.722_019_85,
        -1.915_097,
        -0.070_216_78,
        -1.895_894_9,
        0.022_296_235,
        1.672_120_1,
        -1.172_135_5,
        1.702_931_2,
        -0.890_707_8,
        -1.295_751_6,
        1.961_204_8,
        0.770_602_46,
        1.008_560_1,
    ];
    let [y, _, c] = run(&op, &f(&[3, 2, 3], &x), &[], [DType::F32, DType::F32]);
    let expected = [
        -0.054_281_965,
        -0.022_469_431,
        -0.039_966_766,
        -0.062_942_5,
        -0.026_936_369,
        0.146_995_62,
        -0.066_258_67,
        -0.097_668_61,
        -0.028_392_343,
        -0.000_860_749_34,
        -0.034_599_16,
        -0.020_275_308,
    ];
    assert_close(&y, &f(&[3, 2, 2], &expected), 1e-7);
    assert_close(
        &c,
        &f(&[2, 2], &[-0.102_212_876, 0.116_804_235, 0.504_919_65, 0.704_756_44]),
        2e-7,
    );
}

#[test]
fn integer_memory_layer_bit_for_bit() {
    let op = Op::Svdf(Svdf {
        rank: 2,
        activation: Activation::Relu,
        feature: matrix(
            tensor(&[4, 3], &[62i8, -94, -75, 114, 125, 115, -125, 29, -91, -37, 105, 45]),
            &[0.01],
        ),
        time: matrix(
            tensor(&[4, 2], &[17_280i16, 523, 24_218, -21_626, -28_480, -13_132, -1749, 27_841]),
            &[2e-5],
        ),
        bias: Some(tensor(&[2], &[3565i32, -1216])),
        arithmetic: SvdfArithmetic::Integer { input: (0.02, 3), state: 0.0004, output: (0.03, -6) },
    });
    let x = tensor(&[2, 3], &[-32i8, 95, 13, 37, 30, -80]);
    let [y_ty, state_ty] = [DType::I8, DType::I16].map(ValueType::unranked);
    let step = |state: Option<&Tensor>| {
        let inputs = [Some((&x, &y_ty)), state.map(|state| (state, &state_ty))];
        let mut results =
            fuselstm::internal::eval::evaluate(&op, &inputs, &[Some(&y_ty), Some(&state_ty)])
                .unwrap();
        (results[0].take().unwrap(), results[1].take().unwrap())
    };
    let (y, state) = step(None);
    assert_eq!(y, tensor(&[2, 2], &[-32i8, 26, 1, -21]));
    let (y, state) = step(Some(&state));
    assert_eq!(y, tensor(&[2, 2], &[-30i8, 0, 7, -36]));
    let filters = [-5784i16, 4330, 3067, 5703, 2898, -1147, 2043, -1079];
    assert_eq!(state, tensor(&[2, 8], &filters.map(|v| [v, v]).concat()));
}
