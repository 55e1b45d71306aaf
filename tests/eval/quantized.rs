//! Ops on quantized numbers against what TFLite's interpreter (2.3, reference kernels) gave for
//! single-op models.

use fuselstm::DType;
use fuselstm::graph::op::*;
use fuselstm::graph::{Op, ValueType};
use fuselstm::types::Quantization;

use super::support::{Typed, assert_close, eval_typed, f, i, plain, q, qtype, tensor};

const X: [i8; 10] = [-91, 107, 12, -56, 127, 9, 75, 5, -49, 64];
const Y: [i8; 10] = [13, -13, 47, 106, -7, 72, -98, -57, 3, 70];
const W: [i8; 15] = [17, 2, 77, -56, 110, 125, 7, -102, 51, -107, 127, -26, 19, 85, 12];
const BIAS: [i32; 3] = [-2748, 562, 1764];
const REAL: [f32; 10] = [
    -1.890_449_6,
    0.681_870_04,
    -0.330_780_8,
    0.234_759_32,
    -1.438_452_2,
    -1.207_594,
    1.202_978_3,
    1.873_046_3,
    -0.746_303_26,
    0.769_290_45,
];

fn x() -> Typed {
    q(&[2, 5], &X, 0.05, 3)
}

fn y() -> Typed {
    q(&[2, 5], &Y, 0.02, -7)
}

fn unsigned(values: &[i8]) -> Vec<u8> {
    values.iter().map(|&v| (i16::from(v) + 128) as u8).collect()
}

fn x_unsigned() -> Typed {
    q(&[2, 5], &unsigned(&X), 0.05, 131)
}

/// One op with one quantized int8 result.
#[track_caller]
fn check(op: &Op, inputs: &[Typed], (scale, zero): (f32, i64), shape: &[usize], expected: &[i8]) {
    let inputs: Vec<_> = inputs.iter().cloned().map(Some).collect();
    let results = eval_typed(op, &inputs, &[qtype(DType::I8, scale, zero)]).unwrap();
    assert_eq!(results[0], tensor(shape, expected));
}

fn dense(activation: Activation, asymmetric_inputs: bool) -> Op {
    Op::FullyConnected(FullyConnected { activation, keep_leading_axes: true, asymmetric_inputs })
}

/// Weights with a scale for each of three outputs.
fn per_channel(shape: &[usize], data: &[i8]) -> Typed {
    let (tensor, mut ty) = q(shape, data, 1.0, 0);
    ty.quantization =
        Some(Quantization { scales: vec![0.01, 0.02, 0.005], zero_points: vec![0; 3], axis: 0 });
    (tensor, ty)
}

#[test]
fn fully_connected() {
    let w = q(&[3, 5], &W, 0.01, 0);
    let bias = plain(&i(&BIAS));
    let plain_inputs = [x(), w.clone(), bias.clone()];
    check(
        &dense(Activation::Linear, false),
        &plain_inputs,
        (0.07, -4),
        &[2, 3],
        &[92, -128, -120, 48, -58, -25],
    );
    check(
        &dense(Activation::Relu, false),
        &plain_inputs,
        (0.07, -4),
        &[2, 3],
        &[92, -4, -4, 48, -4, -4],
    );
    let channels = [x(), per_channel(&[3, 5], &W), bias.clone()];
    check(
        &dense(Activation::Linear, false),
        &channels,
        (0.07, -4),
        &[2, 3],
        &[92, -128, -62, 48, -112, -15],
    );
    let unsigned = [Some(x_unsigned()), Some(q(&[3, 5], &unsigned(&W), 0.01, 120)), Some(bias)];
    let result =
        eval_typed(&dense(Activation::Linear, false), &unsigned, &[qtype(DType::U8, 0.07, 124)])
            .unwrap();
    assert_eq!(result[0], tensor(&[2, 3], &[225u8, 0, 13, 181, 75, 108]));
}

#[test]
fn hybrid_fully_connected_and_matrix_product() {
    let x = plain(&f(&[2, 5], &REAL));
    let bias = plain(&f(&[3], &[0.752_778_3, 0.789_213_3, -0.829_911_6]));
    let inputs = [Some(x.clone()), Some(q(&[3, 5], &W, 0.01, 0)), Some(bias)];
    let float = [ValueType::unranked(DType::F32)];
    for (asymmetric, expected) in [
        (false, [-1.528_711_6, 0.474_535_3, -3.441_858_3, 3.278_441_2, -3.752_555_4, -2.871_679_8]),
        (true, [-1.527_204_8, 0.480_635_82, -3.443_085_7, 3.283_373, -3.755_637, -2.866_396]),
    ] {
        let result = eval_typed(&dense(Activation::Linear, asymmetric), &inputs, &float).unwrap();
        assert_close(&result[0], &f(&[2, 3], &expected), 5e-7);
    }
    let b: [i8; 15] = [-115, -118, -105, -4, -47, 7, -7, 24, 74, 92, 20, 32, 12, 65, -34];
    let product =
        Op::MatMul(MatMul { transpose_a: false, transpose_b: false, asymmetric_inputs: false });
    let result = eval_typed(&product, &[Some(x), Some(q(&[5, 3], &b, 0.01, 0))], &float).unwrap();
    let expected = [2.215_398_6, 0.939_419_5, 2.357_703_4, 0.611_321_03, 1.656_245, 2.239_101_6];
    assert_close(&result[0], &f(&[2, 3], &expected), 5e-7);
    check(
        &product,
        &[self::x(), q(&[5, 3], &b, 0.01, 0)],
        (0.2, 1),
        &[2, 3],
        &[17, 34, 14, -12, -2, -8],
    );
}

#[test]
fn convolution() {
    let image = [
        21i8, -79, -71, -125, 68, -104, 113, -85, -52, -102, -76, -48, -19, -13, -87, 82, -113,
        -64, 68, -103, -17, 98, 87, 7, -102, 25, -24, -106, -119, 67, 103, -2, -105, -3, -28, 27,
        37, -71, -45, 38,
    ];
    let kernel = [
        9i8, -95, 35, -117, -104, 16, 112, -40, -102, 72, 116, -35, -53, 63, -81, 33, 89, 24, 56,
        -62, -14, -50, -124, 1, 121, 126, 78, -121, -75, 86, 71, -125, -51, 92, 22, 76, -120, -50,
        73, -52, -51, -84, -107, -97, -91, -24, -120, -82, 69, -70, 113, 125, 83, -31,
    ];
    let op = Op::Conv2d(Conv2d {
        padding: Padding::Same,
        groups: 1,
        strides: [2, 1],
        dilations: [1, 1],
        activation: Activation::Relu,
    });
    let inputs =
        [q(&[1, 4, 5, 2], &image, 0.05, 3), per_channel(&[3, 3, 3, 2], &kernel), plain(&i(&BIAS))];
    let expected = [
        -58, 0, -65, -128, -128, -99, -96, -128, -58, -59, -128, -127, -128, 59, -116, -128, -120,
        -128, -80, -61, -115, -128, -128, -116, -128, 31, -103, -104, -128, -121,
    ];
    check(&op, &inputs, (0.2, -128), &[1, 2, 5, 3], &expected);
}

#[test]
fn softmax() {
    let op = Op::Softmax(Softmax { beta: 1.0, log: false });
    check(
        &op,
        &[x()],
        (1.0 / 256.0, -128),
        &[2, 5],
        &[-128, -59, -127, -128, 59, -122, 28, -123, -128, -38],
    );
    let result =
        eval_typed(&op, &[Some(x_unsigned())], &[qtype(DType::U8, 1.0 / 256.0, 0)]).unwrap();
    assert_eq!(result[0], tensor(&[2, 5], &[0u8, 69, 1, 0, 187, 6, 156, 5, 0, 90]));
}

#[test]
fn activations() {
    let sigmoid = [-126, 127, 28, -115, 127, 19, 121, 6, -110, 116];
    check(&Op::Activation(Activation::Sigmoid), &[x()], (1.0 / 256.0, -128), &[2, 5], &sigmoid);
    let tanh = [-122, 124, 23, -106, 126, 15, 114, 5, -100, 107];
    check(
        &Op::Activation(Activation::Tanh),
        &[q(&[2, 5], &X, 0.02, 3)],
        (1.0 / 128.0, 0),
        &[2, 5],
        &tanh,
    );
    let relu = [-10, 120, 1, -10, 127, -2, 80, -7, -10, 66];
    check(&Op::Activation(Activation::Relu), &[x()], (0.04, -10), &[2, 5], &relu);
    check(&Op::Activation(Activation::Relu6), &[x()], (0.04, -10), &[2, 5], &relu);
}

#[test]
fn sums_and_products() {
    let binary = |function| Op::Binary(Binary { function, activation: Activation::Linear });
    for (function, expected) in [
        (BinaryFunction::Add, [-67, 90, 31, -7, 108, 36, 35, -10, -35, 82]),
        (BinaryFunction::Sub, [-80, 94, -6, -82, 108, -16, 95, 23, -42, 30]),
        (BinaryFunction::Mul, [-26, -5, 13, -106, 5, 13, -104, 3, -4, 83]),
    ] {
        check(&binary(function), &[x(), y()], (0.06, 5), &[2, 5], &expected);
    }
    let less = [true, false, true, true, false, true, false, false, true, false];
    let inputs = [Some(x()), Some(y())];
    let result =
        eval_typed(&binary(BinaryFunction::Less), &inputs, &[ValueType::unranked(DType::Bool)])
            .unwrap();
    assert_eq!(result[0], tensor(&[2, 5], &less));
}

#[test]
fn from_and_to_real_numbers() {
    check(
        &Op::Quantize,
        &[x()],
        (0.03, -1),
        &[2, 5],
        &[-128, 127, 14, -99, 127, 9, 119, 2, -88, 101],
    );
    check(&Op::Quantize, &[x_unsigned()], (0.05, 3), &[2, 5], &X);
    let quantized = [-128, 51, -26, 17, -112, -94, 92, 127, -58, 58];
    check(&Op::Quantize, &[plain(&f(&[2, 5], &REAL))], (0.013, -1), &[2, 5], &quantized);
    let result =
        eval_typed(&Op::Dequantize, &[Some(x())], &[ValueType::unranked(DType::F32)]).unwrap();
    let real = [-4.7, 5.2, 0.45, -2.95, 6.2, 0.3, 3.6, 0.1, -2.6, 3.05];
    assert_close(&result[0], &f(&[2, 5], &real), 1e-6);
    let halves = tensor(&[2], &[half::f16::from_f32(0.5), half::f16::from_f32(-2.0)]);
    let result =
        eval_typed(&Op::Dequantize, &[Some(plain(&halves))], &[ValueType::unranked(DType::F32)])
            .unwrap();
    assert_eq!(result[0], f(&[2], &[0.5, -2.0]));
}

#[test]
fn a_scale_for_each_channel_is_undone() {
    let (weights, mut ty) = q(&[2, 3], &[1i8, 2, 3, 4, 5, 6], 1.0, 0);
    ty.quantization =
        Some(Quantization { scales: vec![0.5, 1.0, 2.0], zero_points: vec![0, 1, 0], axis: 1 });
    let result =
        eval_typed(&Op::Dequantize, &[Some((weights, ty))], &[ValueType::unranked(DType::F32)])
            .unwrap();
    assert_eq!(result[0], f(&[2, 3], &[0.5, 1.0, 6.0, 2.0, 4.0, 12.0]));
}

#[test]
fn reductions() {
    let reduce = |function| Op::Reduce(Reduce { function, keep_dims: false });
    let mean = reduce(ReduceFunction::Mean);
    check(&mean, &[x(), plain(&i(&[1]))], (0.03, -5), &[2], &[23, 25]);
    check(&mean, &[x(), plain(&i(&[0]))], (0.05, 3), &[5], &[-41, 91, 9, -52, 96]);
    check(&reduce(ReduceFunction::Maximum), &[x(), plain(&i(&[1]))], (0.05, 3), &[2], &[127, 75]);
}

#[test]
fn joining_rescales_and_padding_is_the_zero_point() {
    let op = Op::Concat(Concat { axis: 1, activation: Activation::Linear });
    let inputs = [Some(x_unsigned()), Some(q(&[2, 5], &unsigned(&Y), 0.02, 121))];
    let result = eval_typed(&op, &inputs, &[qtype(DType::U8, 0.05, 131)]).unwrap();
    let joined = [
        37u8, 235, 140, 72, 255, 139, 129, 153, 176, 131, 137, 203, 133, 79, 192, 163, 95, 111,
        135, 162,
    ];
    assert_eq!(result[0], tensor(&[2, 10], &joined));
    let paddings = plain(&tensor(&[2, 2], &[0i32, 0, 1, 2]));
    let padded = [3, -91, 107, 12, -56, 127, 3, 3, 3, 9, 75, 5, -49, 64, 3, 3];
    check(&Op::Pad, &[x(), paddings], (0.05, 3), &[2, 8], &padded);
}

#[test]
fn what_has_no_integer_form_is_refused() {
    let div = Op::Binary(Binary { function: BinaryFunction::Div, activation: Activation::Linear });
    let error = eval_typed(&div, &[Some(x()), Some(y())], &[qtype(DType::I8, 0.1, 0)]).unwrap_err();
    assert_eq!(error.kind(), fuselstm::ErrorKind::Unsupported);
    // An int32 operand beside an int8 one has no place in a rescaled join.
    let join = Op::Concat(Concat { axis: 0, activation: Activation::Relu });
    let mixed = [Some(x()), Some(q(&[2, 5], &[i32::MIN; 10], 0.1, 1))];
    assert!(eval_typed(&join, &mixed, &[qtype(DType::I8, 0.1, 0)]).is_err());
    let error = eval_typed(&Op::Quantize, &mixed[1..], &[qtype(DType::I8, 0.1, 0)]).unwrap_err();
    assert_eq!(error.kind(), fuselstm::ErrorKind::InvalidGraph);
    let bad = [Some(q(&[2, 5], &X, f32::NAN, 0)), Some(y())];
    let add = Op::Binary(Binary { function: BinaryFunction::Add, activation: Activation::Linear });
    let error = eval_typed(&add, &bad, &[qtype(DType::I8, 0.1, 0)]).unwrap_err();
    assert_eq!(error.kind(), fuselstm::ErrorKind::InvalidGraph);
}
