//! Element-wise ops, reductions and products of plain numbers.
#![allow(clippy::excessive_precision, clippy::approx_constant)] // tables are written with the digits they were made with

use fuselstm::graph::Op;
use fuselstm::graph::op::*;
use fuselstm::{DType, Tensor};

use super::support::{assert_close, eval, eval_as, f, i, iota, tensor};

#[test]
fn activations_at_points_known_from_elsewhere() {
    // Values of SciPy in double precision, rounded to seven digits.
    let x = f(&[5], &[-3.0, -0.5, 0.0, 0.25, 2.5]);
    for (function, expected) in [
        (Activation::Linear, [-3.0, -0.5, 0.0, 0.25, 2.5]),
        (Activation::Relu, [0.0, 0.0, 0.0, 0.25, 2.5]),
        (Activation::ReluN1To1, [-1.0, -0.5, 0.0, 0.25, 1.0]),
        (Activation::Relu6, [0.0, 0.0, 0.0, 0.25, 2.5]),
        (Activation::Tanh, [-0.995_054_75, -0.462_117_16, 0.0, 0.244_918_66, 0.986_614_3]),
        (Activation::Sigmoid, [0.047_425_87, 0.377_540_67, 0.5, 0.562_176_5, 0.924_141_8]),
        (Activation::HardSigmoid { alpha: 0.2, beta: 0.5 }, [0.0, 0.4, 0.5, 0.55, 1.0]),
        (Activation::SignBit, [1.0, 1.0, 0.0, 0.0, 0.0]),
        (Activation::Elu { alpha: 1.0 }, [-0.950_212_9, -0.393_469_34, 0.0, 0.25, 2.5]),
        (Activation::LeakyRelu { alpha: 0.5 }, [-1.5, -0.25, 0.0, 0.25, 2.5]),
        (Activation::Selu, [-1.670_568_7, -0.691_758_2, 0.0, 0.262_675_25, 2.626_752_5]),
        (Activation::Softplus, [0.048_587_35, 0.474_076_98, 0.693_147_2, 0.825_939_4, 2.578_889_7]),
        (Activation::Softsign, [-0.75, -0.333_333_34, 0.0, 0.2, 0.714_285_7]),
        (Activation::Swish, [-0.142_277_62, -0.188_770_33, 0.0, 0.140_544_12, 2.310_354_5]),
        (
            Activation::Gelu { approximate: false },
            [-0.004_049_694, -0.154_268_77, 0.0, 0.149_676_57, 2.484_475_9],
        ),
        (
            Activation::Gelu { approximate: true },
            [-0.003_637_392_1, -0.154_285_99, 0.0, 0.149_675_41, 2.484_915_7],
        ),
        (Activation::HardSwish, [0.0, -0.208_333_33, 0.0, 0.135_416_67, 2.291_666_7]),
        (Activation::Exponential, [0.049_787_07, 0.606_530_66, 1.0, 1.284_025_4, 12.182_494]),
    ] {
        let y = eval(&Op::Activation(function), &[&x]).unwrap();
        // Two units in the last place of the largest value.
        assert_close(&y, &f(&[5], &expected), 2.4e-7);
    }
    assert!(eval(&Op::Activation(Activation::Tanh), &[&i(&[1])]).is_err());
}

#[test]
fn activations_do_not_overflow() {
    let x = f(&[3], &[-1e30, 1e30, f32::INFINITY]);
    let y = eval(&Op::Activation(Activation::Softplus), &[&x]).unwrap();
    assert_eq!(y, f(&[3], &[0.0, 1e30, f32::INFINITY]));
    let y = eval(&Op::Activation(Activation::Sigmoid), &[&x]).unwrap();
    assert_eq!(y, f(&[3], &[0.0, 1.0, 1.0]));
    let y = eval(&Op::Activation(Activation::Relu), &[&f(&[1], &[f32::NAN])]).unwrap();
    assert!(y.as_slice::<f32>().unwrap()[0].is_nan());
}

#[test]
fn unary() {
    let op = |function, x: &Tensor| eval(&Op::Unary(function), &[x]).unwrap();
    let x = f(&[4], &[-2.5, -0.5, 0.5, 2.5]);
    assert_eq!(op(Unary::Round, &x), f(&[4], &[-2.0, 0.0, 0.0, 2.0]));
    assert_eq!(op(Unary::Floor, &x), f(&[4], &[-3.0, -1.0, 0.0, 2.0]));
    assert_eq!(op(Unary::Ceil, &x), f(&[4], &[-2.0, 0.0, 1.0, 3.0]));
    assert_eq!(op(Unary::Square, &x), f(&[4], &[6.25, 0.25, 0.25, 6.25]));
    assert_eq!(op(Unary::Sign, &f(&[3], &[-4.0, 0.0, 9.0])), f(&[3], &[-1.0, 0.0, 1.0]));
    assert_eq!(op(Unary::Rsqrt, &f(&[2], &[4.0, 0.25])), f(&[2], &[0.5, 2.0]));
    assert_eq!(op(Unary::Neg, &i(&[i32::MIN, 3])), i(&[i32::MIN, -3]));
    assert_eq!(op(Unary::Abs, &i(&[-7, 7])), i(&[7, 7]));
    assert_eq!(op(Unary::Not, &tensor(&[2], &[true, false])), tensor(&[2], &[false, true]));
    assert!(eval(&Op::Unary(Unary::Exp), &[&i(&[1])]).is_err());
    assert!(eval(&Op::Unary(Unary::Not), &[&x]).is_err());
}

fn binary(function: BinaryFunction) -> Op {
    Op::Binary(Binary { function, activation: Activation::Linear })
}

#[test]
fn integers_divide_as_tensorflow_does() {
    let (a, b) = (i(&[7, -7, 7, -7, 6]), i(&[2, 2, -2, -2, 3]));
    for (function, expected) in [
        (BinaryFunction::Div, [3, -3, -3, 3, 2]),
        (BinaryFunction::FloorDiv, [3, -4, -4, 3, 2]),
        (BinaryFunction::FloorMod, [1, 1, -1, -1, 0]),
    ] {
        assert_eq!(eval(&binary(function), &[&a, &b]).unwrap(), i(&expected));
        let error = eval(&binary(function), &[&a, &i(&[0])]).unwrap_err();
        assert!(error.to_string().contains("divided by 0"), "{error}");
    }
    let overflow = eval(&binary(BinaryFunction::Div), &[&i(&[i32::MIN]), &i(&[-1])]).unwrap();
    assert_eq!(overflow, i(&[i32::MIN]));
    assert_eq!(
        eval(&binary(BinaryFunction::Add), &[&i(&[i32::MAX]), &i(&[1])]).unwrap(),
        i(&[i32::MIN])
    );
    assert_eq!(
        eval(&binary(BinaryFunction::Pow), &[&i(&[3, -2]), &i(&[4, 3])]).unwrap(),
        i(&[81, -8])
    );
    assert!(eval(&binary(BinaryFunction::Pow), &[&i(&[3]), &i(&[-1])]).is_err());
}

#[test]
fn floats_broadcast() {
    let (a, b) = (f(&[2, 1], &[1.0, -7.5]), f(&[2], &[2.0, -2.0]));
    for (function, expected) in [
        (BinaryFunction::Add, [3.0, -1.0, -5.5, -9.5]),
        (BinaryFunction::Sub, [-1.0, 3.0, -9.5, -5.5]),
        (BinaryFunction::Mul, [2.0, -2.0, -15.0, 15.0]),
        (BinaryFunction::Div, [0.5, -0.5, -3.75, 3.75]),
        (BinaryFunction::FloorDiv, [0.0, -1.0, -4.0, 3.0]),
        (BinaryFunction::FloorMod, [1.0, -1.0, 0.5, -1.5]),
        (BinaryFunction::Minimum, [1.0, -2.0, -7.5, -7.5]),
        (BinaryFunction::Maximum, [2.0, 1.0, 2.0, -2.0]),
        (BinaryFunction::SquaredDifference, [1.0, 9.0, 90.25, 30.25]),
    ] {
        assert_eq!(
            eval(&binary(function), &[&a, &b]).unwrap(),
            f(&[2, 2], &expected),
            "{function:?}"
        );
    }
    let relu = Op::Binary(Binary { function: BinaryFunction::Add, activation: Activation::Relu });
    assert_eq!(eval(&relu, &[&a, &b]).unwrap(), f(&[2, 2], &[3.0, 0.0, 0.0, 0.0]));
    assert!(eval(&binary(BinaryFunction::Add), &[&iota(&[2, 2]), &f(&[3], &[0.0; 3])]).is_err());
    assert!(eval(&binary(BinaryFunction::Add), &[&a, &i(&[1])]).is_err());
    assert_eq!(eval(&binary(BinaryFunction::Add), &[&iota(&[0, 1]), &b]).unwrap(), iota(&[0, 2]));
}

#[test]
fn comparisons_and_logic() {
    let (a, b) = (f(&[4], &[1.0, 2.0, 3.0, f32::NAN]), f(&[1], &[2.0]));
    for (function, expected) in [
        (BinaryFunction::Equal, [false, true, false, false]),
        (BinaryFunction::NotEqual, [true, false, true, true]),
        (BinaryFunction::Less, [true, false, false, false]),
        (BinaryFunction::LessEqual, [true, true, false, false]),
        (BinaryFunction::Greater, [false, false, true, false]),
        (BinaryFunction::GreaterEqual, [false, true, true, false]),
    ] {
        let y = eval_as(&binary(function), &[&a, &b], DType::Bool).unwrap();
        assert_eq!(y, tensor(&[4], &expected), "{function:?}");
    }
    let (a, b) = (tensor(&[2], &[true, false]), tensor(&[2], &[true, true]));
    assert_eq!(eval(&binary(BinaryFunction::And), &[&a, &b]).unwrap(), a);
    assert_eq!(eval(&binary(BinaryFunction::Or), &[&a, &b]).unwrap(), b);
    assert!(eval_as(&binary(BinaryFunction::And), &[&i(&[1]), &i(&[1])], DType::Bool).is_err());
    // 2^53 and 2^53 + 1 differ as integers.
    let big = [tensor(&[1], &[1i64 << 53]), tensor(&[1], &[(1i64 << 53) + 1])];
    let less = eval_as(&binary(BinaryFunction::Less), &[&big[0], &big[1]], DType::Bool).unwrap();
    assert_eq!(less, tensor(&[1], &[true]));
}

#[test]
fn reductions() {
    let x = iota(&[2, 3]);
    let reduce = |function, keep_dims| Op::Reduce(Reduce { function, keep_dims });
    for (function, rows) in [
        (ReduceFunction::Sum, [3.0, 12.0]),
        (ReduceFunction::Mean, [1.0, 4.0]),
        (ReduceFunction::Product, [0.0, 60.0]),
        (ReduceFunction::Maximum, [2.0, 5.0]),
        (ReduceFunction::Minimum, [0.0, 3.0]),
    ] {
        assert_eq!(eval(&reduce(function, false), &[&x, &i(&[1])]).unwrap(), f(&[2], &rows));
        assert_eq!(eval(&reduce(function, true), &[&x, &i(&[-1])]).unwrap(), f(&[2, 1], &rows));
    }
    assert_eq!(
        eval(&reduce(ReduceFunction::Sum, false), &[&x, &i(&[0, 1])]).unwrap(),
        Tensor::scalar(15.0f32)
    );
    assert_eq!(eval(&reduce(ReduceFunction::Sum, false), &[&x, &i(&[])]).unwrap(), x);
    assert_eq!(
        eval(&reduce(ReduceFunction::Sum, false), &[&iota(&[2, 0]), &i(&[1])]).unwrap(),
        f(&[2], &[0.0; 2])
    );
    let any = eval(&reduce(ReduceFunction::Any, false), &[&tensor(&[2], &[false, true]), &i(&[0])])
        .unwrap();
    assert_eq!(any, Tensor::scalar(true));
    assert_eq!(
        eval(&reduce(ReduceFunction::Mean, false), &[&i(&[-7, 2]), &i(&[0])]).unwrap(),
        Tensor::scalar(-2i32)
    );
    assert!(eval(&reduce(ReduceFunction::Any, false), &[&x, &i(&[0])]).is_err());
}

#[test]
fn index_of_the_extreme_is_the_first_one() {
    let x = f(&[2, 3], &[1.0, 5.0, 5.0, -1.0, -1.0, 0.0]);
    let arg = |minimum, axis| {
        let op = Op::ArgMax(ArgMax { minimum, dtype: DType::I64 });
        eval_as(&op, &[&x, &Tensor::scalar::<i32>(axis)], DType::I64)
    };
    assert_eq!(arg(false, 1).unwrap(), tensor(&[2], &[1i64, 2]));
    assert_eq!(arg(true, -1).unwrap(), tensor(&[2], &[0i64, 0]));
    assert_eq!(arg(false, 0).unwrap(), tensor(&[3], &[0i64, 0, 0]));
    assert!(arg(false, 2).is_err());
}

#[test]
fn softmax() {
    let x = f(&[2, 2], &[0.0, 3.0f32.ln(), 1000.0, 1000.0]);
    let op = |beta, log| Op::Softmax(Softmax { beta, log });
    assert_close(
        &eval(&op(1.0, false), &[&x]).unwrap(),
        &f(&[2, 2], &[0.25, 0.75, 0.5, 0.5]),
        1e-7,
    );
    assert_close(&eval(&op(2.0, false), &[&x]).unwrap(), &f(&[2, 2], &[0.1, 0.9, 0.5, 0.5]), 1e-7);
    let half = 0.5f32.ln();
    assert_close(
        &eval(&op(1.0, true), &[&x]).unwrap(),
        &f(&[2, 2], &[0.25f32.ln(), 0.75f32.ln(), half, half]),
        2e-7,
    );
    assert_eq!(eval(&op(1.0, false), &[&iota(&[2, 0])]).unwrap(), iota(&[2, 0]));
}

#[test]
fn fully_connected() {
    let (w, bias) = (f(&[2, 3], &[1.0, 0.0, -1.0, 2.0, 2.0, 2.0]), f(&[2], &[0.5, -40.0]));
    let op = |activation, keep_leading_axes| {
        Op::FullyConnected(FullyConnected {
            activation,
            keep_leading_axes,
            asymmetric_inputs: false,
        })
    };
    let x = iota(&[1, 2, 3]);
    let y = eval(&op(Activation::Linear, true), &[&x, &w, &bias]).unwrap();
    assert_eq!(y, f(&[1, 2, 2], &[-1.5, -34.0, -1.5, -16.0]));
    let y = eval(&op(Activation::Linear, false), &[&x, &w]).unwrap();
    assert_eq!(y, f(&[2, 2], &[-2.0, 6.0, -2.0, 24.0]));
    let y = eval(&op(Activation::Relu, true), &[&x, &w, &bias]).unwrap();
    assert_eq!(y, f(&[1, 2, 2], &[0.0; 4]));
    assert!(eval(&op(Activation::Linear, true), &[&iota(&[2, 4]), &w]).is_err());
    assert!(eval(&op(Activation::Linear, true), &[&x, &w, &f(&[3], &[0.0; 3])]).is_err());
}

#[test]
fn float_sums_are_rounded_once() {
    // In f32 the 1 would vanish beside 2^25.
    let big = (1u32 << 25) as f32;
    let (x, w) = (f(&[1, 3], &[big, 1.0, -big]), f(&[1, 3], &[1.0; 3]));
    let op = FullyConnected {
        activation: Activation::Linear,
        keep_leading_axes: true,
        asymmetric_inputs: false,
    };
    assert_eq!(eval(&Op::FullyConnected(op), &[&x, &w]).unwrap(), f(&[1, 1], &[1.0]));
}

#[test]
fn matrix_product() {
    let (a, b) = (iota(&[2, 3]), iota(&[3, 2]));
    let op = |transpose_a, transpose_b| {
        Op::MatMul(MatMul { transpose_a, transpose_b, asymmetric_inputs: false })
    };
    let expected = f(&[2, 2], &[10.0, 13.0, 28.0, 40.0]);
    assert_eq!(eval(&op(false, false), &[&a, &b]).unwrap(), expected);
    let flip = |x: &Tensor| eval(&Op::Transpose, &[x, &i(&[1, 0])]).unwrap();
    assert_eq!(eval(&op(true, true), &[&flip(&a), &flip(&b)]).unwrap(), expected);
    // The batch axis of a meets the single matrix b.
    let stack = iota(&[2, 1, 3]);
    assert_eq!(
        eval(&op(false, false), &[&stack, &b]).unwrap(),
        f(&[2, 1, 2], &[10.0, 13.0, 28.0, 40.0])
    );
    assert_eq!(
        eval(&op(false, false), &[&iota(&[2, 0]), &iota(&[0, 2])]).unwrap(),
        f(&[2, 2], &[0.0; 4])
    );
    assert!(eval(&op(false, false), &[&a, &a]).is_err());
    assert!(eval(&op(false, false), &[&a, &iota(&[3])]).is_err());
    let integers = tensor(&[1, 2], &[2i32, 3]);
    let product = eval(&op(false, true), &[&integers, &integers]).unwrap();
    assert_eq!(product, tensor(&[1, 1], &[13i32]));
}

#[test]
fn convolution() {
    let x = iota(&[1, 3, 3, 1]);
    let w = f(&[1, 2, 2, 1], &[1.0, 2.0, 3.0, 4.0]);
    let op = |same, strides, dilations| {
        let padding = if same { Padding::Same } else { Padding::Valid };
        Op::Conv2d(Conv2d { padding, strides, dilations, ..Conv2d::default() })
    };
    let valid = eval(&op(false, [1, 1], [1, 1]), &[&x, &w]).unwrap();
    assert_eq!(valid, f(&[1, 2, 2, 1], &[27.0, 37.0, 57.0, 67.0]));
    // The odd zero is behind: the last window of a row sees zeros on its right.
    let same = eval(&op(true, [1, 1], [1, 1]), &[&x, &w]).unwrap();
    assert_eq!(same, f(&[1, 3, 3, 1], &[27.0, 37.0, 17.0, 57.0, 67.0, 29.0, 20.0, 23.0, 8.0]));
    let strided = eval(&op(true, [2, 2], [1, 1]), &[&x, &w]).unwrap();
    assert_eq!(strided, f(&[1, 2, 2, 1], &[27.0, 17.0, 20.0, 8.0]));
    let dilated = eval(&op(false, [1, 1], [2, 2]), &[&x, &w, &f(&[1], &[0.5])]).unwrap();
    assert_eq!(dilated, f(&[1, 1, 1, 1], &[0.5 + 4.0 + 18.0 + 32.0]));
    assert_eq!(eval(&op(false, [1, 1], [3, 3]), &[&x, &w]).unwrap(), f(&[1, 0, 0, 1], &[]));
    assert!(eval(&op(false, [0, 1], [1, 1]), &[&x, &w]).is_err());
    // Two channels in, two out.
    let x = iota(&[1, 1, 2, 2]);
    let w = f(&[2, 1, 1, 2], &[1.0, 0.0, 1.0, 1.0]);
    assert_eq!(
        eval(&op(false, [1, 1], [1, 1]), &[&x, &w]).unwrap(),
        f(&[1, 1, 2, 2], &[0.0, 1.0, 2.0, 5.0])
    );
}

#[test]
fn convolution_in_groups_and_with_explicit_padding() {
    // Two channels, each with two filters of its own: outputs 2i and 2i + 1 come from channel i.
    let x = f(&[1, 1, 3, 2], &[1.0, 10.0, 2.0, 20.0, 3.0, 30.0]);
    let w = f(&[4, 1, 2, 1], &[1.0, 1.0, 1.0, -1.0, 2.0, 0.0, 0.0, 2.0]);
    let options = Conv2d { groups: 2, ..Conv2d::default() };
    let y = eval(&Op::Conv2d(options), &[&x, &w]).unwrap();
    assert_eq!(y, f(&[1, 1, 2, 4], &[3.0, -1.0, 20.0, 40.0, 5.0, -1.0, 40.0, 60.0]));
    let padding = Padding::Explicit { before: [0, 2], after: [0, 0] };
    let y = eval(&Op::Conv2d(Conv2d { padding, ..options }), &[&x, &w]).unwrap();
    assert_eq!(y.shape(), [1, 1, 4, 4]);
    assert_eq!(&y.as_slice::<f32>().unwrap()[..8], [0.0, 0.0, 0.0, 0.0, 1.0, -1.0, 0.0, 20.0]);
    // Three groups do not divide two channels.
    assert!(eval(&Op::Conv2d(Conv2d { groups: 3, ..options }), &[&x, &w]).is_err());
}

#[test]
fn pools_of_every_padding() {
    let x = f(&[1, 1, 4, 1], &[-1.0, -2.0, 4.0, -8.0]);
    let pool = |function, padding| {
        let (window, strides, dilations) = ([1, 3], [1, 2], [1, 1]);
        let activation = Activation::Linear;
        let pool = Pool2d { function, window, strides, dilations, padding, activation };
        eval(&Op::Pool2d(pool), &[&x]).unwrap().as_slice::<f32>().unwrap().to_vec()
    };
    let both = Padding::Explicit { before: [0, 1], after: [0, 1] };
    assert_eq!(pool(PoolFunction::Maximum, Padding::Valid), [4.0]);
    // The odd entry of padding lies behind, or before; a maximum does not take it.
    assert_eq!(pool(PoolFunction::Maximum, Padding::Same), [4.0, 4.0]);
    assert_eq!(pool(PoolFunction::Maximum, Padding::SameLower), [-1.0, 4.0]);
    assert_eq!(pool(PoolFunction::Maximum, both), [-1.0, 4.0]);
    let average = |count_padding| PoolFunction::Average { count_padding };
    assert_eq!(pool(average(false), both), [-1.5, -2.0]);
    assert_eq!(pool(average(true), both), [-1.0, -2.0]);
    let nan = f(&[1, 1, 4, 1], &[f32::NAN, -2.0, 4.0, -8.0]);
    let options = Pool2d {
        function: PoolFunction::Maximum,
        window: [1, 2],
        strides: [1, 2],
        dilations: [1, 1],
        padding: Padding::Valid,
        activation: Activation::Linear,
    };
    let y = eval(&Op::Pool2d(options), &[&nan]).unwrap();
    assert!(y.as_slice::<f32>().unwrap()[0].is_nan() && y.as_slice::<f32>().unwrap()[1] == 4.0);
}
