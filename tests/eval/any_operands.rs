//! No operand of any op ends the process: a result or an error, whatever shapes, types, values and
//! scales. `PROPTEST_CASES` in the environment (256 without it) makes the search longer.

use std::sync::Arc;

use fuselstm::graph::op::*;
use fuselstm::graph::recurrent::*;
use fuselstm::graph::{Op, ValueType};
use fuselstm::types::Quantization;
use fuselstm::{DType, Tensor};
use proptest::prelude::*;

use super::support::{Typed, tensor};

fn dtype() -> impl Strategy<Value = DType> {
    prop::sample::select(vec![
        DType::F32,
        DType::F64,
        DType::F16,
        DType::I8,
        DType::U8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::Bool,
    ])
}

/// Numbers that indices, sizes and values go wrong with.
fn number() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => -3i64..6,
        1 => prop::sample::select(vec![i64::MIN, i64::MAX, i64::from(i32::MIN), i64::from(i32::MAX), 127, -128, 1 << 40]),
    ]
}

fn convert(dtype: DType, shape: &[usize], values: &[i64]) -> Tensor {
    match dtype {
        DType::F32 => tensor(shape, &values.iter().map(|&v| v as f32).collect::<Vec<_>>()),
        DType::F64 => tensor(shape, &values.iter().map(|&v| v as f64).collect::<Vec<_>>()),
        DType::F16 => tensor(
            shape,
            &values.iter().map(|&v| half::f16::from_f64(v as f64)).collect::<Vec<_>>(),
        ),
        DType::I8 => tensor(shape, &values.iter().map(|&v| v as i8).collect::<Vec<_>>()),
        DType::U8 => tensor(shape, &values.iter().map(|&v| v as u8).collect::<Vec<_>>()),
        DType::I16 => tensor(shape, &values.iter().map(|&v| v as i16).collect::<Vec<_>>()),
        DType::I32 => tensor(shape, &values.iter().map(|&v| v as i32).collect::<Vec<_>>()),
        DType::I64 => tensor(shape, values),
        DType::Bool => tensor(shape, &values.iter().map(|&v| v > 0).collect::<Vec<_>>()),
        other => unreachable!("a type that this test does not know: {other}"),
    }
}

fn shape() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![8 => prop::collection::vec(0usize..4, 0..5), 1 => Just(vec![0, 1 << 30, 3])]
}

fn any_tensor(dtype: impl Strategy<Value = DType>) -> impl Strategy<Value = Tensor> {
    (dtype, shape()).prop_flat_map(|(dtype, shape)| {
        let count = shape.iter().product::<usize>();
        prop::collection::vec(number(), count)
            .prop_map(move |values| convert(dtype, &shape, &values))
    })
}

fn quantization() -> impl Strategy<Value = Option<Quantization>> {
    let scale = prop_oneof![
        4 => 1e-4f32..2.0,
        1 => prop::sample::select(vec![0.0, -1.0, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE, 1e-44, f32::MAX]),
    ];
    let zero = prop_oneof![4 => -128i64..128, 1 => number()];
    prop_oneof![
        2 => Just(None),
        4 => (scale.clone(), zero.clone()).prop_map(|(scale, zero)| Some(Quantization::per_tensor(scale, zero))),
        1 => (prop::collection::vec(scale, 0..4), prop::collection::vec(zero, 0..4), 0usize..4)
            .prop_map(|(scales, zero_points, axis)| Some(Quantization { scales, zero_points, axis })),
    ]
}

/// Often one dtype for all, so that ops get past the comparison of types.
fn operands() -> impl Strategy<Value = Vec<Option<Typed>>> {
    let mixed = prop_oneof![any_tensor(dtype()), any_tensor(Just(DType::I32))].boxed();
    let same = dtype().prop_flat_map(|dtype| {
        prop::collection::vec(
            (
                prop_oneof![3 => any_tensor(Just(dtype)), 2 => any_tensor(Just(DType::I32))],
                quantization(),
            ),
            0..5,
        )
    });
    let mixed = prop::collection::vec((mixed, quantization()), 0..5);
    (prop_oneof![same, mixed], 0usize..12).prop_map(|(tensors, absent)| {
        let typed = |(k, (tensor, quantization)): (usize, (Tensor, Option<Quantization>))| {
            let ty = ValueType { quantization, ..ValueType::fixed(tensor.dtype(), tensor.shape()) };
            (k != absent).then_some((tensor, ty))
        };
        tensors.into_iter().enumerate().map(typed).collect()
    })
}

fn activation() -> impl Strategy<Value = Activation> {
    prop::sample::select(vec![
        Activation::Linear,
        Activation::Relu,
        Activation::ReluN1To1,
        Activation::Relu6,
        Activation::Tanh,
        Activation::Sigmoid,
        Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
        Activation::SignBit,
        Activation::Elu { alpha: 1.0 },
        Activation::LeakyRelu { alpha: 0.3 },
        Activation::Selu,
        Activation::Softplus,
        Activation::Softsign,
        Activation::Swish,
        Activation::Gelu { approximate: true },
        Activation::Gelu { approximate: false },
        Activation::HardSwish,
        Activation::Exponential,
    ])
}

/// Sizes and options of a small op, from plain numbers.
fn simple_op() -> impl Strategy<Value = Op> {
    let unary = prop::sample::select(vec![
        Unary::Neg,
        Unary::Abs,
        Unary::Sqrt,
        Unary::Square,
        Unary::Round,
        Unary::Sign,
        Unary::Erf,
        Unary::Not,
    ]);
    let binary = prop::sample::select(vec![
        BinaryFunction::Add,
        BinaryFunction::Sub,
        BinaryFunction::Mul,
        BinaryFunction::Div,
        BinaryFunction::FloorDiv,
        BinaryFunction::FloorMod,
        BinaryFunction::Pow,
        BinaryFunction::Minimum,
        BinaryFunction::SquaredDifference,
        BinaryFunction::Less,
        BinaryFunction::And,
    ]);
    let reduce = prop::sample::select(vec![
        ReduceFunction::Sum,
        ReduceFunction::Mean,
        ReduceFunction::Product,
        ReduceFunction::Maximum,
        ReduceFunction::Minimum,
        ReduceFunction::Any,
    ]);
    let moves = prop::sample::select(vec![
        Op::Select,
        Op::Quantize,
        Op::Dequantize,
        Op::Transpose,
        Op::Reshape,
        Op::ExpandDims,
        Op::Shape(DType::I32),
        Op::Fill,
        Op::Range,
        Op::Tile,
        Op::BroadcastTo,
        Op::Pad,
        Op::Slice,
        Op::Split,
        Op::Reverse,
        Op::SetItem,
    ]);
    let axis = || number();
    prop_oneof![
        12 => moves,
        2 => unary.prop_map(Op::Unary),
        2 => activation().prop_map(Op::Activation),
        4 => (binary, activation()).prop_map(|(function, activation)| Op::Binary(Binary { function, activation })),
        2 => (-1f32..2.0, any::<bool>()).prop_map(|(beta, log)| Op::Softmax(Softmax { beta, log })),
        2 => (reduce, any::<bool>()).prop_map(|(function, keep_dims)| Op::Reduce(Reduce { function, keep_dims })),
        1 => (any::<bool>(), dtype()).prop_map(|(minimum, dtype)| Op::ArgMax(ArgMax { minimum, dtype })),
        2 => dtype().prop_map(Op::Cast),
        1 => prop::collection::vec(axis(), 0..3).prop_map(|axes| Op::Squeeze(Squeeze { axes })),
        2 => (axis(), axis()).prop_map(|(axis, batch_dims)| Op::Gather(Gather { axis, batch_dims })),
        1 => axis().prop_map(|axis| Op::Pack(Pack { axis })),
        1 => axis().prop_map(|axis| Op::Unpack(Unpack { axis })),
        2 => (axis(), activation()).prop_map(|(axis, activation)| Op::Concat(Concat { axis, activation })),
        1 => (axis(), axis()).prop_map(|(time_axis, batch_axis)| Op::ReverseSequence(ReverseSequence { time_axis, batch_axis })),
        3 => (any::<[u8; 5]>(), any::<bool>()).prop_map(|(masks, offset)| {
            let [begin_mask, end_mask, ellipsis_mask, new_axis_mask, shrink_axis_mask] = masks.map(|mask| u32::from(mask & 5));
            Op::StridedSlice(StridedSlice { begin_mask, end_mask, ellipsis_mask, new_axis_mask, shrink_axis_mask, offset })
        }),
        3 => (activation(), any::<[bool; 2]>()).prop_map(|(activation, [keep_leading_axes, asymmetric_inputs])| {
            Op::FullyConnected(FullyConnected { activation, keep_leading_axes, asymmetric_inputs })
        }),
        3 => any::<[bool; 3]>().prop_map(|[transpose_a, transpose_b, asymmetric_inputs]| {
            Op::MatMul(MatMul { transpose_a, transpose_b, asymmetric_inputs })
        }),
        2 => (padding(), [0usize..3, 0usize..3], [0usize..3, 1usize..4], 0usize..4).prop_map(|(padding, strides, dilations, groups)| {
            Op::Conv2d(Conv2d { padding, strides, dilations, groups, activation: Activation::Linear })
        }),
        2 => (padding(), [0usize..3, 0usize..3], [0usize..4, 1usize..4], any::<[bool; 2]>()).prop_map(|(padding, strides, window, [maximum, count_padding])| {
            let function = if maximum { PoolFunction::Maximum } else { PoolFunction::Average { count_padding } };
            Op::Pool2d(Pool2d { function, window, strides, dilations: [1, 1], padding, activation: Activation::Linear })
        }),
    ]
}

fn padding() -> impl Strategy<Value = Padding> {
    let sides = || [0usize..3, 0usize..3];
    prop_oneof![
        Just(Padding::Valid),
        Just(Padding::Same),
        Just(Padding::SameLower),
        (sides(), sides()).prop_map(|(before, after)| Padding::Explicit { before, after }),
        Just(Padding::Explicit { before: [usize::MAX; 2], after: [1, 1] }),
    ]
}

/// A matrix of nearly the right shape.
fn matrix(rows: usize, columns: usize) -> impl Strategy<Value = Matrix> {
    let shape = prop_oneof![8 => Just(vec![rows, columns]), 1 => Just(vec![rows]), 1 => shape()];
    let dtype = prop_oneof![4 => Just(DType::F32), 3 => Just(DType::I8), 1 => Just(DType::U8), 1 => dtype()];
    let scales = prop_oneof![
        Just(Vec::new()),
        Just(vec![0.01]),
        Just(vec![0.01; 4]),
        Just(vec![f32::NAN; 3])
    ];
    (shape, dtype, scales).prop_flat_map(|(shape, dtype, scales)| {
        let count = shape.iter().product::<usize>();
        prop::collection::vec(number(), count).prop_map(move |values| Matrix {
            data: convert(dtype, &shape, &values),
            scales: scales.clone(),
        })
    })
}

fn arithmetic() -> impl Strategy<Value = Arithmetic> {
    prop_oneof![
        Just(Arithmetic::Float),
        any::<bool>().prop_map(|asymmetric| Arithmetic::Hybrid { asymmetric }),
        (-17i32..-7, -200i32..200, 1e-4f32..1.0).prop_map(|(cell_scale_log2, zero, scale)| {
            Arithmetic::Integer(IntegerScales {
                input: (scale, zero),
                output_state: (0.01, -5),
                cell_scale_log2,
                gates: [scale; 4],
                hidden: (0.01, -5),
            })
        }),
        (-3i32..300).prop_map(|weight_zero_point| Arithmetic::IntegerBasic { weight_zero_point }),
    ]
}

fn recurrent_op() -> impl Strategy<Value = Op> {
    let cell =
        (0u8..4, activation(), any::<bool>()).prop_map(|(which, activation, flag)| match which {
            0 | 1 => Cell::Lstm(Lstm {
                gate: if which == 0 { Activation::Sigmoid } else { activation },
                candidate: if which == 0 { Activation::Tanh } else { activation },
                output: Activation::Tanh,
                coupled_input_forget: flag,
                cell_clip: Some(1.0),
                projection_clip: Some(f32::NAN),
            }),
            2 => Cell::Gru(Gru { gate: activation, candidate: activation, reset_after: flag }),
            _ => Cell::Rnn(Rnn { activation }),
        });
    (cell, 0usize..3, 0usize..3, arithmetic(), any::<[bool; 5]>(), 0usize..3).prop_flat_map(
        |(cell, units, input, arithmetic, [reverse, batch, hold, concat, parallel], directions)| {
            let rows = cell.gate_blocks() * units;
            let optional = |rows, columns| prop::option::weighted(0.2, matrix(rows, columns));
            let bias = prop_oneof![
                Just(None),
                Just(Some(convert(DType::F32, &[rows], &vec![1; rows]))),
                Just(Some(convert(DType::I32, &[rows], &vec![1; rows]))),
                any_tensor(dtype()).prop_map(Some),
            ];
            let parts = (
                matrix(rows, input),
                matrix(rows, units),
                optional(rows, input),
                bias,
                optional(rows, 1),
                optional(units, units),
            );
            parts.prop_map(move |(input, recurrent, auxiliary, bias, layer_norm, projection)| {
                let weights = Arc::new(CellWeights {
                    input,
                    recurrent,
                    auxiliary,
                    bias,
                    recurrent_bias: None,
                    peephole: layer_norm.clone(),
                    layer_norm,
                    projection: projection.map(|weight| Projection { weight, bias: None }),
                });
                let source = if parallel { Source::Auxiliary } else { Source::X };
                Op::Recurrent(Recurrent {
                    cell: cell.clone(),
                    directions: vec![Direction { reverse, source, weights }; directions],
                    layout: if batch { Layout::BatchMajor } else { Layout::TimeMajor },
                    masking: if hold { Masking::Hold } else { Masking::Zero },
                    merge: if concat { Merge::Concat } else { Merge::Separate },
                    gate_clip: None,
                    arithmetic: arithmetic.clone(),
                })
            })
        },
    )
}

fn svdf_op() -> impl Strategy<Value = Op> {
    (0usize..3, matrix(4, 2), matrix(4, 3), 0u8..3, prop::option::of(any_tensor(dtype()))).prop_map(
        |(rank, feature, time, which, bias)| {
            let arithmetic = match which {
                0 => SvdfArithmetic::Float,
                1 => SvdfArithmetic::Hybrid { asymmetric: true },
                _ => SvdfArithmetic::Integer { input: (0.1, 3), state: 0.01, output: (0.2, -3) },
            };
            Op::Svdf(Svdf { rank, activation: Activation::Relu, feature, time, bias, arithmetic })
        },
    )
}

fn evaluate(op: &Op, operands: &[Option<Typed>], outputs: &[Option<ValueType>]) {
    let inputs: Vec<_> =
        operands.iter().map(|x| x.as_ref().map(|(tensor, ty)| (tensor, ty))).collect();
    let outputs: Vec<_> = outputs.iter().map(Option::as_ref).collect();
    if let Ok(results) = fuselstm::internal::eval::evaluate(op, &inputs, &outputs) {
        assert_eq!(results.len(), outputs.len());
        for (result, ty) in results.iter().zip(&outputs) {
            assert_eq!(result.as_ref().map(Tensor::dtype), ty.map(|ty| ty.dtype));
        }
    }
}

fn output_types() -> impl Strategy<Value = Vec<Option<ValueType>>> {
    let one =
        (prop_oneof![2 => Just(DType::F32), 2 => Just(DType::I8), 3 => dtype()], quantization())
            .prop_map(|(dtype, quantization)| ValueType {
                quantization,
                ..ValueType::unranked(dtype)
            });
    prop::collection::vec(prop::option::weighted(0.9, one), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20 * ProptestConfig::default().cases))]

    #[test]
    fn plain_ops(op in simple_op(), operands in operands(), outputs in output_types()) {
        evaluate(&op, &operands, &outputs);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8 * ProptestConfig::default().cases))]

    #[test]
    fn recurrent_layers(op in recurrent_op(), rest in operands(), x in (0usize..3, 0usize..3, 0usize..3, dtype())) {
        let (a, b, width, random) = x;
        for dtype in [DType::F32, DType::I8, DType::U8, random] {
            let x = convert(dtype, &[a, b, width], &vec![3; a * b * width]);
            let ty = ValueType::fixed(dtype, x.shape());
            let mut operands = vec![Some((x, ty))];
            operands.extend(rest.iter().cloned());
            evaluate(&op, &operands, &vec![Some(ValueType::unranked(dtype)); 1]);
        }
    }

    #[test]
    fn memory_layers(op in svdf_op(), state in any_tensor(dtype()), rows in 0usize..3) {
        for dtype in [DType::F32, DType::I8] {
            let x = convert(dtype, &[rows, 2], &vec![3; rows * 2]);
            let typed = |tensor: &Tensor| Some((tensor.clone(), ValueType::fixed(tensor.dtype(), tensor.shape())));
            evaluate(&op, &[typed(&x), typed(&state)], &[Some(ValueType::unranked(dtype)), None]);
            evaluate(&op, &[typed(&x)], &[Some(ValueType::unranked(dtype)), None]);
        }
    }
}
