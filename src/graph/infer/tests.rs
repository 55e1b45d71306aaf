//! Every op's rules as rows of tables: operands, then the expected sizes or the expected complaint.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::super::op::*;
use super::super::types::{Dim, Symbol, ValueType};
use super::*;

const U: Dim = Dim::Unknown;
const S: Dim = Dim::Symbol(Symbol(0));

fn k(size: usize) -> Dim {
    Dim::Known(size)
}

/// An operand: float of symbolic shape, or known integers.
#[derive(Clone)]
struct Given(ValueType, Option<Tensor>);

fn x(shape: &[Dim]) -> Given {
    of(DType::F32, shape)
}

fn of(dtype: DType, shape: &[Dim]) -> Given {
    Given(ValueType::symbolic(dtype, shape.to_vec()), None)
}

fn ints(values: &[i32]) -> Given {
    tensor(Tensor::from_slice(&[values.len()], values).unwrap())
}

fn int(value: i32) -> Given {
    tensor(Tensor::scalar(value))
}

fn tensor(tensor: Tensor) -> Given {
    Given(ValueType::fixed(tensor.dtype(), tensor.shape()), Some(tensor))
}

/// A list of integers of this length that is not known.
fn open(len: usize) -> Given {
    of(DType::I32, &[k(len)])
}

fn run(op: &Op, given: &[Given], outputs: usize) -> Result<Vec<ValueType>> {
    let operands: Vec<_> =
        given.iter().map(|g| Some(Operand { ty: &g.0, known: g.1.as_ref() })).collect();
    infer(op, &operands, outputs)
}

fn shape(op: &Op, given: &[Given]) -> Result<String> {
    let types = run(op, given, 1)?;
    Ok(format!("{} {}", types[0].dtype, dims::show(types[0].shape.as_deref())))
}

/// Runs every row and lists all that fail: the expected text is the type, or a part of the error.
fn rows(rows: Vec<(Op, Vec<Given>, &str)>) {
    let mut failed = Vec::new();
    for (i, (op, given, expected)) in rows.into_iter().enumerate() {
        match shape(&op, &given) {
            Ok(found) if found == expected => {}
            Err(error)
                if expected.starts_with('!') && error.to_string().contains(&expected[1..]) => {}
            found => failed
                .push(format!("row {i} ({}): expected {expected:?}, found {found:?}", op.name())),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn bin(function: BinaryFunction) -> Op {
    Op::Binary(Binary { function, activation: Activation::Linear })
}

#[test]
fn elementwise() {
    let add = || bin(BinaryFunction::Add);
    rows(vec![
        (add(), vec![x(&[k(2), k(3)]), x(&[k(3)])], "float32 [2, 3]"),
        (add(), vec![x(&[S, k(1)]), x(&[k(1), k(4)])], "float32 [s0, 4]"),
        (add(), vec![x(&[S, U]), x(&[S, k(4)])], "float32 [s0, 4]"),
        (add(), vec![x(&[k(0), k(3)]), x(&[k(1), k(3)])], "float32 [0, 3]"),
        (add(), vec![x(&[k(2)]), x(&[k(3)])], "!do not broadcast"),
        (add(), vec![x(&[k(2)]), open(2)], "!expected float32, found int32"),
        (add(), vec![x(&[k(2)])], "!expected 2 operands, found 1"),
        (bin(BinaryFunction::Less), vec![x(&[k(2)]), x(&[])], "bool [2]"),
        (bin(BinaryFunction::And), vec![x(&[k(2)]), x(&[])], "!expected bool, found float32"),
        (Op::Unary(Unary::Not), vec![x(&[k(2)])], "!expected bool"),
        (
            Op::Select,
            vec![of(DType::Bool, &[S, k(1)]), x(&[k(1), k(5)]), x(&[])],
            "float32 [s0, 5]",
        ),
        (Op::Select, vec![x(&[k(1)]), x(&[k(1)]), x(&[k(1)])], "!condition: expected bool"),
        (Op::Softmax(Softmax { beta: 1.0, log: false }), vec![x(&[])], "!found a scalar"),
        (Op::Cast(DType::I64), vec![x(&[S])], "int64 [s0]"),
        (Op::Dequantize, vec![of(DType::I8, &[S])], "float32 [s0]"),
        (Op::Dequantize, vec![x(&[S])], "!found float32"),
    ]);
}

#[test]
fn reductions() {
    let sum = |keep_dims| Op::Reduce(Reduce { function: ReduceFunction::Sum, keep_dims });
    let arg = |dtype| Op::ArgMax(ArgMax { minimum: false, dtype });
    rows(vec![
        (sum(false), vec![x(&[S, k(2), k(3)]), ints(&[-1, 1])], "float32 [s0]"),
        (sum(true), vec![x(&[S, k(2), k(3)]), int(1)], "float32 [s0, 1, 3]"),
        (sum(false), vec![x(&[k(2)]), ints(&[])], "float32 [2]"),
        (sum(false), vec![x(&[k(2)]), open(1)], "float32 [..]"),
        (sum(true), vec![x(&[k(2)]), open(1)], "float32 [?]"),
        // CVE-2020-15207: an axis that stays negative after wrapping.
        (sum(false), vec![x(&[k(2)]), ints(&[i32::MIN])], "!axis -2147483648"),
        (sum(false), vec![x(&[k(2)]), ints(&[1])], "!axis 1"),
        (arg(DType::I64), vec![x(&[S, k(10)]), int(-1)], "int64 [s0]"),
        (arg(DType::I64), vec![x(&[S, k(0)]), int(-1)], "!no element"),
        (arg(DType::F32), vec![x(&[S]), int(0)], "!int32 or int64"),
    ]);
}

#[test]
fn shape_ops() {
    let big = i32::MAX;
    rows(vec![
        (Op::Transpose, vec![x(&[S, k(2), k(3)]), ints(&[1, 0, -1])], "float32 [2, s0, 3]"),
        (Op::Transpose, vec![x(&[S, k(2)]), open(2)], "float32 [?, ?]"),
        (Op::Transpose, vec![x(&[S, k(2)]), ints(&[0, 0])], "!every axis"),
        (Op::Transpose, vec![x(&[S, k(2)]), ints(&[0])], "!expected 2 entries"),
        (Op::Reshape, vec![x(&[S, k(28), k(28)]), ints(&[-1, 784])], "float32 [s0, 784]"),
        (Op::Reshape, vec![x(&[k(3), k(28)]), ints(&[-1, 7])], "float32 [12, 7]"),
        (Op::Reshape, vec![x(&[k(0), k(28)]), ints(&[-1, 28])], "float32 [0, 28]"),
        (Op::Reshape, vec![x(&[k(0), k(28)]), ints(&[-1, 0])], "!cannot reshape"),
        (Op::Reshape, vec![x(&[k(3), k(28)]), ints(&[-1, -1])], "!at most one"),
        (Op::Reshape, vec![x(&[k(3), k(28)]), ints(&[5, -2])], "!at most one"),
        (Op::Reshape, vec![x(&[k(3), k(28)]), ints(&[-1, 5])], "!cannot reshape [3, 28]"),
        (Op::Reshape, vec![x(&[k(3), k(28)]), ints(&[28])], "!cannot reshape"),
        (Op::Reshape, vec![x(&[k(3), k(28)]), ints(&[big, big, big])], "!overflows"),
        (Op::Reshape, vec![x(&[S, U]), open(3)], "float32 [?, ?, ?]"),
        (Op::Reshape, vec![x(&[k(1), k(1)]), ints(&[])], "float32 []"),
        (Op::Squeeze(Squeeze { axes: vec![-1] }), vec![x(&[S, k(1)])], "float32 [s0]"),
        (Op::Squeeze(Squeeze { axes: vec![0] }), vec![x(&[k(2), k(1)])], "!expected size 1"),
        (Op::Squeeze(Squeeze { axes: vec![] }), vec![x(&[k(1), k(2), k(1)])], "float32 [2]"),
        (Op::Squeeze(Squeeze { axes: vec![] }), vec![x(&[S, k(2)])], "float32 [..]"),
        (Op::ExpandDims, vec![x(&[S]), int(-1)], "float32 [s0, 1]"),
        (Op::ExpandDims, vec![x(&[S]), int(2)], "!axis 2"),
        (Op::Shape(DType::I32), vec![x(&[S, k(2)])], "int32 [2]"),
        (Op::Fill, vec![ints(&[2, 3]), x(&[])], "float32 [2, 3]"),
        (Op::Fill, vec![ints(&[2, -3]), x(&[])], "!sizes of 0 or more"),
        (Op::Fill, vec![ints(&[big, big]), x(&[])], "!2^40"),
        (Op::Fill, vec![open(2), x(&[])], "float32 [?, ?]"),
        (Op::Range, vec![int(0), int(10), int(3)], "int32 [4]"),
        (Op::Range, vec![int(10), int(0), int(-5)], "int32 [2]"),
        (Op::Range, vec![int(0), int(-1), int(1)], "int32 [0]"),
        (Op::Range, vec![int(0), int(1), int(0)], "!not 0"),
        (Op::Tile, vec![x(&[S, k(2)]), ints(&[1, 3])], "float32 [s0, 6]"),
        (Op::Tile, vec![x(&[S, k(2)]), ints(&[3])], "!expected 2 entries"),
        (Op::BroadcastTo, vec![x(&[k(1), k(2)]), ints(&[4, 3, 2])], "float32 [4, 3, 2]"),
        (Op::BroadcastTo, vec![x(&[k(2), k(2)]), ints(&[3, 2])], "!cannot broadcast"),
        (Op::BroadcastTo, vec![x(&[k(2), k(2)]), ints(&[2])], "!cannot broadcast"),
        (
            Op::Pad,
            vec![x(&[S, k(2)]), tensor(Tensor::from_slice(&[2, 2], &[0, 0, 1, 2]).unwrap())],
            "float32 [s0, 5]",
        ),
        (
            Op::Pad,
            vec![x(&[S, k(2)]), tensor(Tensor::from_slice(&[2, 2], &[0, 0, -1, 2]).unwrap())],
            "!0 or more",
        ),
        (
            Op::Pad,
            vec![x(&[S, k(2)]), tensor(Tensor::from_slice(&[1, 2], &[0, 0]).unwrap())],
            "!rank of x",
        ),
    ]);
}

#[test]
fn slices() {
    let strided = |options: StridedSlice| Op::StridedSlice(options);
    let plain = StridedSlice::default();
    let from =
        |b: &[i32], e: &[i32], s: &[i32]| vec![x(&[k(5), S, k(7)]), ints(b), ints(e), ints(s)];
    rows(vec![
        (Op::Slice, vec![x(&[S, k(9)]), ints(&[0, 2]), ints(&[-1, 3])], "float32 [s0, 3]"),
        (Op::Slice, vec![x(&[k(4), k(9)]), ints(&[1, 2]), ints(&[-1, -1])], "float32 [3, 7]"),
        (
            Op::Slice,
            vec![x(&[k(4), k(9)]), ints(&[1, 2]), ints(&[4, 1])],
            "!axis 0: begin 1 and size 4",
        ),
        (Op::Slice, vec![x(&[k(4), k(9)]), ints(&[5, 2]), ints(&[-1, 1])], "!axis 0"),
        (Op::Slice, vec![x(&[k(4)]), ints(&[0]), ints(&[-2])], "!axis 0"),
        (Op::Slice, vec![x(&[k(4)]), open(1), ints(&[2])], "float32 [2]"),
        (strided(plain), from(&[0], &[2], &[1]), "float32 [2, s0, 7]"),
        (
            strided(plain),
            from(&[-1, 0, 6], &[-6, i32::MAX, -8], &[-1, 1, -2]),
            "float32 [5, s0, 4]",
        ),
        (strided(plain), from(&[0], &[2], &[0]), "!not 0"),
        (strided(plain), from(&[0, 0], &[2], &[1]), "!as many entries"),
        (strided(plain), from(&[0; 4], &[1; 4], &[1; 4]), "!at most 3 entries"),
        (
            strided(StridedSlice { shrink_axis_mask: 1, ..plain }),
            from(&[-1], &[0], &[1]),
            "float32 [s0, 7]",
        ),
        (
            strided(StridedSlice { shrink_axis_mask: 1, ..plain }),
            from(&[5], &[6], &[1]),
            "!out of an axis of 5",
        ),
        (
            strided(StridedSlice { ellipsis_mask: 1, end_mask: 2, ..plain }),
            from(&[0, 3], &[0, 0], &[1, 1]),
            "float32 [5, s0, 4]",
        ),
        (
            strided(StridedSlice { ellipsis_mask: 3, ..plain }),
            from(&[0, 3], &[0, 0], &[1, 1]),
            "!one ellipsis",
        ),
        (
            strided(StridedSlice { new_axis_mask: 1, ..plain }),
            from(&[0, 0], &[0, 2], &[1, 1]),
            "float32 [1, 2, s0, 7]",
        ),
        (
            strided(StridedSlice { offset: true, ..plain }),
            from(&[2], &[2], &[1]),
            "float32 [2, s0, 7]",
        ),
        (
            strided(StridedSlice { begin_mask: 1, end_mask: 1, ..plain }),
            from(&[9], &[9], &[-1]),
            "float32 [5, s0, 7]",
        ),
        (strided(plain), vec![x(&[k(5)]), open(1), open(1), ints(&[1])], "float32 [?]"),
        // A stride of the smallest integer must not overflow.
        (strided(plain), from(&[4], &[-9], &[i32::MIN]), "float32 [1, s0, 7]"),
    ]);
}

#[test]
fn joins_and_parts() {
    let gather = |axis, batch_dims| Op::Gather(Gather { axis, batch_dims });
    let pack = |axis| Op::Pack(Pack { axis });
    let concat = |axis| Op::Concat(Concat { axis, activation: Activation::Linear });
    let reverse =
        |time_axis, batch_axis| Op::ReverseSequence(ReverseSequence { time_axis, batch_axis });
    rows(vec![
        (gather(1, 0), vec![x(&[S, k(5), k(2)]), open(3)], "float32 [s0, 3, 2]"),
        (gather(0, 0), vec![x(&[k(5)]), int(0)], "float32 []"),
        (gather(1, 1), vec![x(&[k(4), k(5)]), of(DType::I32, &[k(4), k(3)])], "float32 [4, 3]"),
        (gather(1, 1), vec![x(&[k(4), k(5)]), of(DType::I32, &[k(3), k(3)])], "!differ"),
        (gather(0, 1), vec![x(&[k(4), k(5)]), of(DType::I32, &[k(4)])], "!batch_dims 1"),
        (gather(0, 0), vec![x(&[k(4)]), x(&[k(4)])], "!integer type"),
        (pack(-1), vec![x(&[S]), x(&[k(4)])], "float32 [4, 2]"),
        (pack(0), vec![x(&[k(3)]), x(&[k(4)])], "!input 1"),
        (concat(-1), vec![x(&[S, k(2)]), x(&[k(4), k(3)])], "float32 [4, 5]"),
        (concat(0), vec![x(&[S, k(2)]), x(&[k(4), k(2)])], "float32 [?, 2]"),
        (concat(1), vec![x(&[k(3), k(2)]), x(&[k(4), k(3)])], "!expected 3 on axis 0"),
        (concat(0), vec![x(&[k(3)]), x(&[k(4), k(3)])], "!expected rank 1"),
        (Op::Reverse, vec![x(&[S, k(2)]), ints(&[-1])], "float32 [s0, 2]"),
        (Op::Reverse, vec![x(&[S, k(2)]), ints(&[-1, 1])], "!each axis once"),
        (reverse(0, 1), vec![x(&[k(7), S]), open(3)], "float32 [7, 3]"),
        (reverse(0, 0), vec![x(&[k(7), S]), open(3)], "!two axes"),
        // CVE-2022-21728: a batch axis too negative.
        (reverse(0, -9), vec![x(&[k(7), S]), open(3)], "!axis -9"),
        (Op::SetItem, vec![x(&[k(7), U]), int(0), x(&[k(4)])], "float32 [7, 4]"),
        (Op::SetItem, vec![x(&[k(7), k(3)]), int(0), x(&[k(4)])], "!item"),
        (Op::SetItem, vec![x(&[]), int(0), x(&[])], "!found a scalar"),
    ]);
}

#[test]
fn several_results() {
    let shapes = |op: &Op, given: &[Given], outputs| -> String {
        match run(op, given, outputs) {
            Ok(types) => {
                types.iter().map(|ty| dims::show(ty.shape.as_deref())).collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.to_string(),
        }
    };
    let unpack = Op::Unpack(Unpack { axis: 1 });
    assert_eq!(shapes(&unpack, &[x(&[S, k(2)])], 2), "[s0] [s0]");
    assert!(shapes(&unpack, &[x(&[S, k(3)])], 2).contains("number of outputs = 2"));
    assert_eq!(shapes(&Op::Split, &[x(&[S, k(8)]), int(1)], 4), ["[s0, 2]"; 4].join(" "));
    assert!(shapes(&Op::Split, &[x(&[S, k(7)]), int(1)], 4).contains("multiple of 4"));
    assert!(shapes(&Op::Split, &[x(&[S, k(7)]), int(1)], 0).contains("one output"));
    assert_eq!(shapes(&Op::Split, &[x(&[k(7)]), int(0), ints(&[2, -1])], 2), "[2] [5]");
    assert!(shapes(&Op::Split, &[x(&[k(7)]), int(0), ints(&[2, 4])], 2).contains("do not make"));
    assert!(shapes(&Op::Split, &[x(&[k(7)]), int(0), ints(&[9, -1])], 2).contains("do not make"));
    assert!(
        shapes(&Op::Split, &[x(&[k(7)]), int(0), ints(&[2, 4, 1])], 2)
            .contains("expected 2 entries")
    );
}

#[test]
fn products() {
    let dense = |keep_leading_axes| {
        Op::FullyConnected(FullyConnected {
            activation: Activation::Linear,
            keep_leading_axes,
            asymmetric_inputs: false,
        })
    };
    let mat_mul = |transpose_a, transpose_b| {
        Op::MatMul(MatMul { transpose_a, transpose_b, asymmetric_inputs: false })
    };
    let conv = |same, strides| {
        let padding = if same { Padding::Same } else { Padding::Valid };
        Op::Conv2d(Conv2d { padding, strides, ..Conv2d::default() })
    };
    rows(vec![
        (dense(false), vec![x(&[S, k(3)]), x(&[k(5), k(3)]), x(&[k(5)])], "float32 [s0, 5]"),
        (dense(false), vec![x(&[S, k(2), k(3)]), x(&[k(5), k(6)])], "float32 [s0, 5]"),
        (dense(false), vec![x(&[k(4), k(2), k(3)]), x(&[k(5), k(3)])], "float32 [8, 5]"),
        (dense(true), vec![x(&[S, k(2), k(3)]), x(&[k(5), k(3)])], "float32 [s0, 2, 5]"),
        (dense(true), vec![x(&[S, k(2), k(4)]), x(&[k(5), k(3)])], "!expected width 3"),
        (dense(false), vec![x(&[k(2), k(4)]), x(&[k(5), k(3)])], "!multiple of 3"),
        (dense(false), vec![x(&[S, k(3)]), x(&[k(5), k(3)]), x(&[k(4)])], "!bias: expected [5]"),
        // CVE-2021-37680: weights with a zero size.
        (dense(false), vec![x(&[S, k(3)]), x(&[k(5), k(0)])], "!sizes of 1 or more"),
        (dense(false), vec![x(&[S, k(3)]), of(DType::I8, &[k(5), k(3)])], "float32 [s0, 5]"),
        (dense(false), vec![of(DType::I8, &[S, k(3)]), x(&[k(5), k(3)])], "!no product of int8"),
        (mat_mul(false, false), vec![x(&[S, k(2), k(3)]), x(&[k(3), k(4)])], "float32 [s0, 2, 4]"),
        (mat_mul(true, true), vec![x(&[k(3), k(2)]), x(&[k(4), k(3)])], "float32 [2, 4]"),
        (mat_mul(false, false), vec![x(&[k(2), k(3)]), x(&[k(4), k(3)])], "!inner sizes 3 and 4"),
        (mat_mul(false, false), vec![x(&[k(3)]), x(&[k(4), k(3)])], "!two matrices"),
        (
            conv(true, [2, 2]),
            vec![x(&[S, k(5), k(6), k(3)]), x(&[k(8), k(3), k(3), k(3)])],
            "float32 [s0, 3, 3, 8]",
        ),
        (
            conv(false, [1, 2]),
            vec![x(&[S, k(5), k(6), k(3)]), x(&[k(8), k(3), k(3), k(3)])],
            "float32 [s0, 3, 2, 8]",
        ),
        (
            conv(false, [0, 2]),
            vec![x(&[S, k(5), k(6), k(3)]), x(&[k(8), k(3), k(3), k(3)])],
            "!stride 0",
        ),
        (
            conv(false, [1, 1]),
            vec![x(&[S, k(5), k(6), k(3)]), x(&[k(8), k(3), k(3), k(2)])],
            "!channels",
        ),
    ]);
}
