//! Every plain op on the gpu against the reference: same graph, same inputs.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use fuselstm::graph::infer::{Operand, infer};
use fuselstm::graph::op::*;
use fuselstm::graph::recurrent::Matrix;
use fuselstm::graph::synthetic::Random;
use fuselstm::graph::{Graph, Op, Port, ValueType};
use fuselstm::{DType, Device, Model, Session, Tensor};

/// An operand: given at run time, or a constant.
enum Arg {
    Given(Tensor),
    Constant(Tensor),
    Absent,
}

struct Case {
    name: &'static str,
    op: Op,
    args: Vec<Arg>,
    results: usize,
}

fn floats(seed: u64, shape: &[usize]) -> Tensor {
    Random::new(seed).tensor(shape, 3.0).unwrap()
}

fn positive(seed: u64, shape: &[usize]) -> Tensor {
    let data = floats(seed, shape).into_vec::<f32>().unwrap();
    Tensor::from_vec(shape, data.iter().map(|x| x.abs() + 0.1).collect::<Vec<f32>>()).unwrap()
}

fn integers(seed: u64, shape: &[usize], below: i32) -> Tensor {
    let data = floats(seed, shape).into_vec::<f32>().unwrap();
    Tensor::from_vec(
        shape,
        data.iter().map(|x| (x.abs() * 1000.0) as i32 % below).collect::<Vec<i32>>(),
    )
    .unwrap()
}

fn bools(seed: u64, shape: &[usize]) -> Tensor {
    let data = floats(seed, shape).into_vec::<f32>().unwrap();
    Tensor::from_vec(shape, data.iter().map(|x| *x > 0.0).collect::<Vec<bool>>()).unwrap()
}

fn list(numbers: &[i32]) -> Arg {
    Arg::Constant(Tensor::from_slice(&[numbers.len()], numbers).unwrap())
}

fn scalar(number: i32) -> Arg {
    Arg::Constant(Tensor::scalar(number))
}

fn given(tensor: Tensor) -> Arg {
    Arg::Given(tensor)
}

fn case(name: &'static str, op: Op, args: Vec<Arg>) -> Case {
    Case { name, op, args, results: 1 }
}

fn binary(function: BinaryFunction) -> Op {
    Op::Binary(Binary { function, activation: Activation::Linear })
}

/// The graph of one op, and what it is given.
fn graph(case: Case) -> (Graph, Vec<(String, Tensor)>) {
    let mut graph = Graph::default();
    let mut inputs = Vec::new();
    let mut slots = Vec::new();
    for (k, arg) in case.args.into_iter().enumerate() {
        slots.push(match arg {
            Arg::Absent => None,
            Arg::Constant(tensor) => Some(graph.add_constant(format!("c{k}"), tensor)),
            Arg::Given(tensor) => {
                let value = graph
                    .add_value(format!("x{k}"), ValueType::fixed(tensor.dtype(), tensor.shape()));
                graph.inputs.push(Port { name: format!("x{k}"), value });
                inputs.push((format!("x{k}"), tensor));
                Some(value)
            }
        });
    }
    let operands: Vec<_> = slots
        .iter()
        .map(|slot| {
            slot.map(|id| graph.get(id).unwrap())
                .map(|v| Operand { ty: &v.ty, known: v.constant.as_ref() })
        })
        .collect();
    let types =
        infer(&case.op, &operands, case.results).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let outputs: Vec<_> =
        types.into_iter().enumerate().map(|(k, ty)| graph.add_value(format!("y{k}"), ty)).collect();
    for (k, &value) in outputs.iter().enumerate() {
        graph.outputs.push(Port { name: format!("y{k}"), value });
    }
    graph.add_node(case.name, case.op, slots, outputs.into_iter().map(Some).collect());
    (graph, inputs)
}

fn require_gpu() -> bool {
    let probe =
        graph(case("relu", Op::Activation(Activation::Relu), vec![given(floats(1, &[1]))])).0;
    match Session::new(&Model::from_graph(probe).unwrap(), Device::gpu()) {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED, there is no GPU to test on: {error}");
            assert!(
                std::env::var_os("FUSELSTM_REQUIRE_GPU").is_none_or(|v| v != "1"),
                "a GPU is required: {error}"
            );
            false
        }
    }
}

/// Runs the case on the gpu, or the cpu; `None` when it agrees with the reference and nothing ran on
/// the host.
fn difference(case: Case, device: &Device) -> Option<String> {
    let name = case.name;
    let (graph, inputs) = graph(case);
    let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let model = Model::from_graph(graph).unwrap_or_else(|e| panic!("{name}: {e}"));
    let reference = Session::new(&model, Device::reference())
        .unwrap()
        .run(&inputs)
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    let session = Session::new(&model, device.clone()).unwrap();
    let gpu = match session.run(&inputs) {
        Ok(outputs) => outputs,
        Err(error) => return Some(format!("{name}: {error}")),
    };
    if let Some(note) = session.notes().iter().find(|note| note.contains("host")) {
        return Some(format!("{name}: {note}"));
    }
    for ((output, want), (_, got)) in reference.iter().zip(gpu.iter()) {
        if want.shape() != got.shape() || want.dtype() != got.dtype() {
            return Some(format!(
                "{name} {output}: {} {:?}, not {} {:?}",
                got.dtype(),
                got.shape(),
                want.dtype(),
                want.shape()
            ));
        }
        let (a, b) = (want.to_f32(), got.to_f32());
        for (i, (a, b)) in a.iter().zip(b.iter()).enumerate() {
            let close =
                a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 2e-6 * (1.0 + a.abs());
            if !close {
                return Some(format!("{name} {output}[{i}]: {b}, not {a}"));
            }
        }
    }
    None
}

fn check(cases: Vec<Case>) {
    if !require_gpu() {
        return;
    }
    let failures: Vec<String> =
        cases.into_iter().filter_map(|case| difference(case, &Device::gpu())).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn movement() {
    let x = || given(floats(7, &[2, 3, 4]));
    let strided = |masks: StridedSlice, begin: &[i32], end: &[i32], strides: &[i32]| {
        case(
            "strided slice",
            Op::StridedSlice(masks),
            vec![x(), list(begin), list(end), list(strides)],
        )
    };
    let none = StridedSlice::default();
    check(vec![
        case("transpose", Op::Transpose, vec![x(), list(&[2, 0, 1])]),
        case("transpose of nothing", Op::Transpose, vec![x(), list(&[0, 1, 2])]),
        case(
            "transpose over size 1",
            Op::Transpose,
            vec![given(floats(1, &[1, 5, 3])), list(&[1, 0, 2])],
        ),
        case("reshape", Op::Reshape, vec![x(), list(&[4, -1])]),
        case("tile", Op::Tile, vec![x(), list(&[2, 1, 3])]),
        case("broadcast", Op::BroadcastTo, vec![given(floats(2, &[3, 1])), list(&[2, 3, 4])]),
        case(
            "pad",
            Op::Pad,
            vec![
                x(),
                Arg::Constant(Tensor::from_slice(&[3, 2], &[1, 0, 0, 2, 3, 1]).unwrap()),
                Arg::Absent,
            ],
        ),
        case("slice", Op::Slice, vec![x(), list(&[0, 1, 2]), list(&[2, 2, -1])]),
        case("reverse", Op::Reverse, vec![x(), list(&[0, 2])]),
        case("reverse of nothing", Op::Reverse, vec![given(floats(1, &[0, 3])), list(&[0])]),
        strided(none, &[0, 2, 3], &[2, 0, -5], &[1, -1, -2]),
        strided(
            StridedSlice { shrink_axis_mask: 2, end_mask: 1, ..none },
            &[0, -1, 1],
            &[0, 0, 3],
            &[1, 1, 1],
        ),
        strided(
            StridedSlice { new_axis_mask: 1, ellipsis_mask: 2, ..none },
            &[0, 0, 1],
            &[0, 0, 3],
            &[1, 1, 1],
        ),
        case(
            "gather",
            Op::Gather(Gather { axis: 1, batch_dims: 0 }),
            vec![x(), given(integers(3, &[2, 2], 3))],
        ),
        case(
            "gather of batches",
            Op::Gather(Gather { axis: 2, batch_dims: 1 }),
            vec![x(), given(integers(3, &[2, 5], 4))],
        ),
        case(
            "embedding",
            Op::Gather(Gather { axis: 0, batch_dims: 0 }),
            vec![Arg::Constant(floats(1, &[9, 4])), given(integers(3, &[3, 2], 9))],
        ),
        case(
            "reverse sequence",
            Op::ReverseSequence(ReverseSequence { time_axis: 1, batch_axis: 0 }),
            vec![x(), given(Tensor::from_slice(&[2], &[3i32, 0]).unwrap())],
        ),
        case(
            "pack",
            Op::Pack(Pack { axis: 1 }),
            vec![given(floats(1, &[2, 3])), given(floats(2, &[2, 3]))],
        ),
        Case { results: 3, ..case("unpack", Op::Unpack(Unpack { axis: 1 }), vec![x()]) },
        Case { results: 2, ..case("split", Op::Split, vec![x(), scalar(2), Arg::Absent]) },
        Case {
            results: 3,
            ..case("split by sizes", Op::Split, vec![x(), scalar(-1), list(&[1, -1, 2])])
        },
        case(
            "concat",
            Op::Concat(Concat { axis: -1, activation: Activation::Linear }),
            vec![given(floats(1, &[2, 3])), given(floats(2, &[2, 1])), given(floats(2, &[2, 0]))],
        ),
        case("fill", Op::Fill, vec![list(&[300, 300]), Arg::Constant(Tensor::scalar(2.5f32))]),
        case("transpose of bools", Op::Transpose, vec![given(bools(1, &[3, 2])), list(&[1, 0])]),
    ]);
}

#[test]
fn element_wise() {
    let mut cases = Vec::new();
    for function in [
        BinaryFunction::Add,
        BinaryFunction::Sub,
        BinaryFunction::Mul,
        BinaryFunction::Div,
        BinaryFunction::FloorDiv,
        BinaryFunction::FloorMod,
        BinaryFunction::Minimum,
        BinaryFunction::Maximum,
        BinaryFunction::SquaredDifference,
        BinaryFunction::Equal,
        BinaryFunction::NotEqual,
        BinaryFunction::Less,
        BinaryFunction::LessEqual,
        BinaryFunction::Greater,
        BinaryFunction::GreaterEqual,
    ] {
        cases.push(case(
            "float",
            binary(function),
            vec![given(floats(1, &[2, 3, 4])), given(floats(2, &[3, 1]))],
        ));
    }
    for function in
        [BinaryFunction::Add, BinaryFunction::Mul, BinaryFunction::Minimum, BinaryFunction::Less]
    {
        cases.push(case(
            "integer",
            binary(function),
            vec![given(integers(1, &[5], 7)), given(integers(2, &[2, 5], 7))],
        ));
    }
    for function in [BinaryFunction::And, BinaryFunction::Or, BinaryFunction::Equal] {
        cases.push(case(
            "logic",
            binary(function),
            vec![given(bools(1, &[2, 5])), given(bools(2, &[2, 5]))],
        ));
    }
    let pow = |exponent: f32| vec![given(floats(1, &[9])), Arg::Constant(Tensor::scalar(exponent))];
    cases.push(case("square", binary(BinaryFunction::Pow), pow(2.0)));
    cases.push(case("cube", binary(BinaryFunction::Pow), pow(3.0)));
    cases.push(case("power 0", binary(BinaryFunction::Pow), pow(0.0)));
    cases.push(case("root of negatives", binary(BinaryFunction::Pow), pow(0.5)));
    let relu = Op::Binary(Binary { function: BinaryFunction::Add, activation: Activation::Relu });
    cases.push(case("add and relu", relu, vec![given(floats(1, &[4])), given(floats(2, &[4]))]));
    for function in [
        Unary::Neg,
        Unary::Abs,
        Unary::Exp,
        Unary::Square,
        Unary::Floor,
        Unary::Ceil,
        Unary::Round,
        Unary::Sign,
    ] {
        cases.push(case("unary", Op::Unary(function), vec![given(floats(1, &[7]))]));
    }
    for function in [Unary::Log, Unary::Sqrt, Unary::Rsqrt] {
        cases.push(case("unary of positives", Op::Unary(function), vec![given(positive(1, &[7]))]));
    }
    cases.push(case("not", Op::Unary(Unary::Not), vec![given(bools(1, &[7]))]));
    let choose = vec![given(bools(1, &[2, 1])), given(floats(1, &[2, 3])), given(floats(2, &[3]))];
    cases.push(case("select", Op::Select, choose));
    cases.push(case("to integers", Op::Cast(DType::I32), vec![given(floats(1, &[7]))]));
    cases.push(case("to floats", Op::Cast(DType::F32), vec![given(integers(1, &[7], 9))]));
    cases.push(case("bools to floats", Op::Cast(DType::F32), vec![given(bools(1, &[7]))]));
    check(cases);
}

#[test]
fn reductions() {
    let mut cases = Vec::new();
    for function in [
        ReduceFunction::Sum,
        ReduceFunction::Mean,
        ReduceFunction::Product,
        ReduceFunction::Maximum,
        ReduceFunction::Minimum,
    ] {
        for axes in [&[1][..], &[0, 2], &[-1], &[0, 1, 2]] {
            let op = Op::Reduce(Reduce { function, keep_dims: axes.len() == 1 });
            cases.push(case("reduce", op, vec![given(floats(1, &[2, 3, 4])), list(axes)]));
        }
    }
    for function in [ReduceFunction::Any, ReduceFunction::All] {
        cases.push(case(
            "logic",
            Op::Reduce(Reduce { function, keep_dims: false }),
            vec![given(bools(1, &[3, 4])), list(&[1])],
        ));
    }
    for minimum in [false, true] {
        cases.push(case(
            "index",
            Op::ArgMax(ArgMax { minimum, dtype: DType::I32 }),
            vec![given(floats(1, &[3, 4])), scalar(-1)],
        ));
    }
    for log in [false, true] {
        cases.push(case(
            "softmax",
            Op::Softmax(Softmax { beta: 1.5, log }),
            vec![given(floats(1, &[3, 10]))],
        ));
    }
    cases.push(case(
        "softmax of nothing",
        Op::Softmax(Softmax { beta: 1.0, log: false }),
        vec![given(floats(1, &[0, 10]))],
    ));
    check(cases);
}

#[test]
fn products() {
    let matmul = |transpose_a, transpose_b| {
        Op::MatMul(MatMul { transpose_a, transpose_b, asymmetric_inputs: false })
    };
    let conv = |same, strides, dilations| {
        let padding = if same { Padding::Same } else { Padding::Valid };
        let activation = Activation::Relu;
        Op::Conv2d(Conv2d { padding, strides, dilations, groups: 1, activation })
    };
    let filters = || {
        vec![
            given(floats(1, &[2, 5, 6, 3])),
            Arg::Constant(floats(2, &[4, 3, 2, 3])),
            Arg::Constant(floats(3, &[4])),
        ]
    };
    let svdf = Svdf {
        rank: 2,
        activation: Activation::Relu,
        feature: Matrix::float(floats(4, &[6, 5])),
        time: Matrix::float(floats(5, &[6, 4])),
        bias: Some(floats(6, &[3])),
        arithmetic: SvdfArithmetic::Float,
    };
    check(vec![
        case(
            "product",
            matmul(false, false),
            vec![given(floats(1, &[2, 3])), given(floats(2, &[3, 4]))],
        ),
        case(
            "product, swapped",
            matmul(true, true),
            vec![given(floats(1, &[3, 2])), given(floats(2, &[4, 3]))],
        ),
        case(
            "product of batches",
            matmul(false, true),
            vec![given(floats(1, &[2, 1, 3, 2])), given(floats(2, &[5, 4, 2]))],
        ),
        case("convolution", conv(false, [1, 1], [1, 1]), filters()),
        case("convolution, same", conv(true, [2, 1], [1, 1]), filters()),
        case("convolution, dilated", conv(true, [1, 1], [2, 1]), filters()),
        Case {
            results: 2,
            ..case(
                "memory layer",
                Op::Svdf(svdf.clone()),
                vec![given(floats(1, &[2, 5])), given(floats(2, &[2, 24]))],
            )
        },
        Case {
            results: 2,
            ..case(
                "memory layer from nothing",
                Op::Svdf(svdf),
                vec![given(floats(1, &[2, 5])), Arg::Absent],
            )
        },
    ]);
}

/// Convolutions in groups and pools have kernels on both devices.
#[test]
fn windows() {
    let cpu = Device::cpu();
    let wrong: Vec<String> =
        window_cases().into_iter().filter_map(|case| difference(case, &cpu)).collect();
    assert!(wrong.is_empty(), "cpu:\n{}", wrong.join("\n"));
    check(window_cases());
}

fn window_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let explicit = Padding::Explicit { before: [1, 0], after: [2, 1] };
    for padding in [Padding::Valid, Padding::Same, Padding::SameLower, explicit] {
        for (groups, filters) in [(3, 6), (3, 3), (2, 4), (1, 5)] {
            let channels = 6 / groups * groups;
            let weights = floats(2, &[filters, 3, 2, channels / groups]);
            let (strides, dilations) = ([2, 1], [1, 2]);
            let activation = Activation::Relu;
            cases.push(case(
                "convolution in groups",
                Op::Conv2d(Conv2d { padding, strides, dilations, groups, activation }),
                vec![
                    given(floats(1, &[2, 5, 6, channels])),
                    Arg::Constant(weights),
                    Arg::Constant(floats(3, &[filters])),
                ],
            ));
        }
        let averages = [true, false].map(|count_padding| PoolFunction::Average { count_padding });
        for function in [PoolFunction::Maximum, averages[0], averages[1]] {
            let (window, strides, dilations) = ([3, 2], [2, 1], [1, 2]);
            let activation = Activation::Linear;
            cases.push(case(
                "pool",
                Op::Pool2d(Pool2d { function, window, strides, dilations, padding, activation }),
                vec![given(floats(1, &[2, 5, 6, 3]))],
            ));
        }
    }
    cases
}

#[test]
fn positions_out_of_range_are_refused() {
    if !require_gpu() {
        return;
    }
    let indices = Tensor::from_slice(&[2], &[1i32, 9]).unwrap();
    let (graph, inputs) = graph(case(
        "gather",
        Op::Gather(Gather { axis: 0, batch_dims: 0 }),
        vec![Arg::Constant(floats(1, &[9, 2])), given(indices)],
    ));
    let model = Model::from_graph(graph).unwrap();
    let error =
        Session::new(&model, Device::gpu()).unwrap().run(&[("x1", &inputs[0].1)]).unwrap_err();
    assert!(error.to_string().contains("9 is not in 0..9"), "{error}");
}
