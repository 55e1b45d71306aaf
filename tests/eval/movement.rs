//! Ops that move elements, with results written out by hand.

use fuselstm::graph::Op;
use fuselstm::graph::op::*;
use fuselstm::{DType, ErrorKind, Tensor};

use super::support::{eval, eval_as, eval_typed, f, i, iota, plain, tensor};

#[track_caller]
fn refused(op: &Op, inputs: &[&Tensor], words: &str) {
    let error = eval(op, inputs).unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::InvalidInput | ErrorKind::InvalidGraph | ErrorKind::Limit
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn transpose() {
    let x = iota(&[2, 3]);
    assert_eq!(
        eval(&Op::Transpose, &[&x, &i(&[1, 0])]).unwrap(),
        f(&[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0])
    );
    let y = eval(&Op::Transpose, &[&iota(&[2, 1, 3]), &i(&[2, 0, -2])]).unwrap();
    assert_eq!(y, f(&[3, 2, 1], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
    assert_eq!(eval(&Op::Transpose, &[&iota(&[0, 3]), &i(&[1, 0])]).unwrap(), f(&[3, 0], &[]));
    refused(&Op::Transpose, &[&x, &i(&[0, 0])], "no permutation");
    refused(&Op::Transpose, &[&x, &i(&[0])], "no permutation");
    refused(&Op::Transpose, &[&x, &i(&[0, 2])], "axis 2");
}

#[test]
fn every_element_type_moves() {
    let op = Op::Transpose;
    assert_eq!(
        eval(&op, &[&tensor(&[1, 2], &[true, false]), &i(&[1, 0])]).unwrap(),
        tensor(&[2, 1], &[true, false])
    );
    assert_eq!(
        eval(&op, &[&tensor(&[2, 2], &[1i8, 2, 3, 4]), &i(&[1, 0])]).unwrap(),
        tensor(&[2, 2], &[1i8, 3, 2, 4])
    );
    assert_eq!(
        eval(&op, &[&tensor(&[2, 2], &[1i64, 2, 3, 4]), &i(&[1, 0])]).unwrap(),
        tensor(&[2, 2], &[1i64, 3, 2, 4])
    );
}

#[test]
fn reshape_squeeze_expand() {
    let x = iota(&[2, 3]);
    for (target, shape) in
        [(vec![3, 2], vec![3, 2]), (vec![-1], vec![6]), (vec![1, -1, 2], vec![1, 3, 2])]
    {
        assert_eq!(eval(&Op::Reshape, &[&x, &i(&target)]).unwrap(), iota(&shape));
    }
    assert_eq!(eval(&Op::Reshape, &[&iota(&[0, 3]), &i(&[3, -1])]).unwrap(), iota(&[3, 0]));
    for target in
        [vec![4], vec![-1, -1], vec![-1, 4], vec![-2, 3], vec![i32::MAX, i32::MAX, i32::MAX]]
    {
        refused(&Op::Reshape, &[&x, &i(&target)], "");
    }
    let squeeze = |axes: &[i64]| Op::Squeeze(Squeeze { axes: axes.to_vec() });
    assert_eq!(eval(&squeeze(&[]), &[&iota(&[1, 2, 1])]).unwrap(), iota(&[2]));
    assert_eq!(eval(&squeeze(&[-1]), &[&iota(&[1, 2, 1])]).unwrap(), iota(&[1, 2]));
    refused(&squeeze(&[1]), &[&iota(&[1, 2, 1])], "cannot be squeezed");
    assert_eq!(eval(&Op::ExpandDims, &[&x, &i(&[-1])]).unwrap(), iota(&[2, 3, 1]));
    assert_eq!(eval(&Op::ExpandDims, &[&x, &i(&[0])]).unwrap(), iota(&[1, 2, 3]));
    refused(&Op::ExpandDims, &[&x, &i(&[3])], "axis 3");
}

#[test]
fn shape_fill_range() {
    assert_eq!(
        eval_as(&Op::Shape(DType::I64), &[&iota(&[2, 0])], DType::I64).unwrap(),
        tensor(&[2], &[2i64, 0])
    );
    let fill = eval_as(&Op::Fill, &[&i(&[2, 1]), &Tensor::scalar(7i8)], DType::I8).unwrap();
    assert_eq!(fill, tensor(&[2, 1], &[7i8, 7]));
    let error =
        eval_as(&Op::Fill, &[&i(&[i32::MAX, 2]), &Tensor::scalar(0.0f32)], DType::F32).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(eval_as(&Op::Fill, &[&i(&[-1]), &Tensor::scalar(0.0f32)], DType::F32).is_err());
    let range = |a, b, c| {
        eval(&Op::Range, &[&Tensor::scalar::<i32>(a), &Tensor::scalar(b), &Tensor::scalar(c)])
    };
    assert_eq!(range(0, 5, 2).unwrap(), i(&[0, 2, 4]));
    assert_eq!(range(3, 0, -1).unwrap(), i(&[3, 2, 1]));
    assert_eq!(range(3, 0, 1).unwrap(), i(&[]));
    assert!(range(0, 5, 0).is_err());
    assert_eq!(range(i32::MIN, i32::MAX, 1).unwrap_err().kind(), ErrorKind::Limit);
    let floats = [0.5f32, 2.0, 0.5].map(Tensor::scalar);
    assert_eq!(
        eval(&Op::Range, &[&floats[0], &floats[1], &floats[2]]).unwrap(),
        f(&[3], &[0.5, 1.0, 1.5])
    );
}

#[test]
fn tile_and_broadcast() {
    let x = f(&[2, 1], &[1.0, 2.0]);
    assert_eq!(
        eval(&Op::Tile, &[&x, &i(&[2, 2])]).unwrap(),
        f(&[4, 2], &[1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0])
    );
    assert_eq!(eval(&Op::Tile, &[&x, &i(&[0, 1])]).unwrap(), f(&[0, 1], &[]));
    refused(&Op::Tile, &[&x, &i(&[2])], "multiples");
    refused(&Op::Tile, &[&x, &i(&[i32::MAX, i32::MAX])], "2^40");
    let wide = eval(&Op::BroadcastTo, &[&x, &i(&[2, 2, 2])]).unwrap();
    assert_eq!(wide, f(&[2, 2, 2], &[1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]));
    refused(&Op::BroadcastTo, &[&x, &i(&[3, 1])], "broadcast");
}

#[test]
fn pad() {
    let paddings = tensor(&[1, 2], &[1i32, 2]);
    let x = f(&[2], &[5.0, 6.0]);
    assert_eq!(eval(&Op::Pad, &[&x, &paddings]).unwrap(), f(&[5], &[0.0, 5.0, 6.0, 0.0, 0.0]));
    let value = Tensor::scalar(-1.0f32);
    assert_eq!(
        eval(&Op::Pad, &[&x, &paddings, &value]).unwrap(),
        f(&[5], &[-1.0, 5.0, 6.0, -1.0, -1.0])
    );
    refused(&Op::Pad, &[&x, &tensor(&[1, 2], &[-1i32, 0])], "-1");
    refused(&Op::Pad, &[&x, &tensor(&[2, 1], &[1i32, 0])], "paddings");
    refused(&Op::Pad, &[&x, &paddings, &Tensor::scalar(1i32)], "int32");
}

#[test]
fn slices() {
    let x = iota(&[3, 4]);
    assert_eq!(
        eval(&Op::Slice, &[&x, &i(&[1, 1]), &i(&[-1, 2])]).unwrap(),
        f(&[2, 2], &[5.0, 6.0, 9.0, 10.0])
    );
    assert_eq!(eval(&Op::Slice, &[&x, &i(&[3, 0]), &i(&[0, 4])]).unwrap(), f(&[0, 4], &[]));
    refused(&Op::Slice, &[&x, &i(&[2, 0]), &i(&[2, 4])], "leaves the shape");
    let strided = |options, begin: &[i32], end: &[i32], strides: &[i32]| {
        eval(&Op::StridedSlice(options), &[&x, &i(begin), &i(end), &i(strides)])
    };
    let none = StridedSlice::default();
    // x[::-2, 1:3]
    let all_rows = StridedSlice { begin_mask: 1, end_mask: 1, ..none };
    assert_eq!(
        strided(all_rows, &[0, 1], &[0, 3], &[-2, 1]).unwrap(),
        f(&[2, 2], &[9.0, 10.0, 1.0, 2.0])
    );
    // x[-1]
    let last = StridedSlice { shrink_axis_mask: 1, ..none };
    assert_eq!(strided(last, &[-1], &[0], &[1]).unwrap(), f(&[4], &[8.0, 9.0, 10.0, 11.0]));
    assert!(strided(last, &[3], &[4], &[1]).unwrap_err().to_string().contains('3'));
    // x[..., newaxis, 0]
    let dots = StridedSlice { ellipsis_mask: 1, new_axis_mask: 2, shrink_axis_mask: 4, ..none };
    assert_eq!(
        strided(dots, &[0, 0, 0], &[0, 0, 0], &[1, 1, 1]).unwrap(),
        f(&[3, 1], &[0.0, 4.0, 8.0])
    );
    // Bounds far outside are clamped; an empty range is empty.
    assert_eq!(strided(none, &[-100, 0], &[100, 4], &[1, 1]).unwrap(), x);
    assert_eq!(strided(none, &[2, 0], &[1, 4], &[1, 1]).unwrap(), f(&[0, 4], &[]));
    assert_eq!(
        strided(none, &[0, 0], &[3, 4], &[i32::MAX, 1]).unwrap(),
        f(&[1, 4], &[0.0, 1.0, 2.0, 3.0])
    );
    // End as an offset from begin.
    let offset = StridedSlice { offset: true, ..none };
    assert_eq!(strided(offset, &[1, 1], &[1, 2], &[1, 1]).unwrap(), f(&[1, 2], &[5.0, 6.0]));
    assert!(strided(none, &[0, 0], &[3, 4], &[0, 1]).is_err());
}

#[test]
fn split_unpack_pack_concat() {
    let x = iota(&[2, 4]);
    let types = |n| vec![fuselstm::graph::ValueType::unranked(DType::F32); n];
    let split = |sizes: Option<&[i32]>, n| {
        let inputs = [
            Some(plain(&x)),
            Some(plain(&Tensor::scalar(1i32))),
            sizes.map(|sizes| plain(&i(sizes))),
        ];
        eval_typed(&Op::Split, &inputs, &types(n))
    };
    let halves = [f(&[2, 2], &[0.0, 1.0, 4.0, 5.0]), f(&[2, 2], &[2.0, 3.0, 6.0, 7.0])];
    assert_eq!(split(None, 2).unwrap(), halves);
    assert_eq!(split(Some(&[2, -1]), 2).unwrap(), halves);
    let uneven = split(Some(&[1, 0, 3]), 3).unwrap();
    assert_eq!(uneven[1], f(&[2, 0], &[]));
    assert_eq!(uneven[2], f(&[2, 3], &[1.0, 2.0, 3.0, 5.0, 6.0, 7.0]));
    assert!(
        split(None, 3).is_err()
            && split(Some(&[3, 3]), 2).is_err()
            && split(Some(&[-1, -1]), 2).is_err()
    );
    let join = Op::Concat(Concat { axis: -1, activation: Activation::Relu6 });
    assert_eq!(
        eval(&join, &[&halves[0], &halves[1]]).unwrap(),
        f(&[2, 4], &[0., 1., 2., 3., 4., 5., 6., 6.])
    );
    refused(&join, &[&x, &iota(&[3, 4])], "cannot be joined");
    let unpack = |axis, n| eval_typed(&Op::Unpack(Unpack { axis }), &[Some(plain(&x))], &types(n));
    let rows = unpack(0, 2).unwrap();
    assert_eq!(rows, [f(&[4], &[0.0, 1.0, 2.0, 3.0]), f(&[4], &[4.0, 5.0, 6.0, 7.0])]);
    assert!(unpack(1, 2).is_err());
    let columns = eval(&Op::Pack(Pack { axis: -1 }), &[&rows[0], &rows[1]]).unwrap();
    assert_eq!(columns, f(&[4, 2], &[0., 4., 1., 5., 2., 6., 3., 7.]));
    assert_eq!(eval(&Op::Pack(Pack { axis: 0 }), &[&rows[0], &rows[1]]).unwrap(), x);
}

#[test]
fn gather() {
    let x = iota(&[2, 3]);
    let gather = |axis, batch_dims| Op::Gather(Gather { axis, batch_dims });
    assert_eq!(eval(&gather(1, 0), &[&x, &i(&[2, 0])]).unwrap(), f(&[2, 2], &[2.0, 0.0, 5.0, 3.0]));
    assert_eq!(
        eval(&gather(0, 0), &[&x, &Tensor::scalar(1i32)]).unwrap(),
        f(&[3], &[3.0, 4.0, 5.0])
    );
    let own = tensor(&[2, 1], &[2i32, 0]);
    assert_eq!(eval(&gather(1, 1), &[&x, &own]).unwrap(), f(&[2, 1], &[2.0, 3.0]));
    assert_eq!(eval(&gather(0, 0), &[&x, &i(&[])]).unwrap(), f(&[0, 3], &[]));
    refused(&gather(1, 0), &[&x, &i(&[0, 3])], "index 3 is out of range");
    refused(&gather(0, 0), &[&x, &i(&[-1])], "index -1");
    refused(&gather(1, 1), &[&x, &i(&[0])], "leading axes");
}

#[test]
fn reverse_and_reverse_sequence() {
    let x = iota(&[2, 3]);
    assert_eq!(
        eval(&Op::Reverse, &[&x, &i(&[-1])]).unwrap(),
        f(&[2, 3], &[2.0, 1.0, 0.0, 5.0, 4.0, 3.0])
    );
    assert_eq!(
        eval(&Op::Reverse, &[&x, &i(&[0, 1])]).unwrap(),
        f(&[2, 3], &[5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    );
    refused(&Op::Reverse, &[&x, &i(&[1, -1])], "twice");
    let op = Op::ReverseSequence(ReverseSequence { time_axis: 1, batch_axis: 0 });
    assert_eq!(eval(&op, &[&x, &i(&[2, 0])]).unwrap(), f(&[2, 3], &[1.0, 0.0, 2.0, 3.0, 4.0, 5.0]));
    refused(&op, &[&x, &i(&[2, 4])], "length 4 of row 1");
}

#[test]
fn set_item_and_select() {
    let x = iota(&[3, 2]);
    let item = f(&[2], &[-1.0, -2.0]);
    let set = eval(&Op::SetItem, &[&x, &Tensor::scalar(1i32), &item]).unwrap();
    assert_eq!(set, f(&[3, 2], &[0.0, 1.0, -1.0, -2.0, 4.0, 5.0]));
    assert_eq!(x, iota(&[3, 2]), "the operand is left as it was");
    refused(&Op::SetItem, &[&x, &Tensor::scalar(3i32), &item], "index 3");
    refused(&Op::SetItem, &[&x, &Tensor::scalar(-1i32), &item], "index -1");
    let condition = tensor(&[2, 1], &[true, false]);
    let inputs = [&condition, &f(&[2], &[1.0, 2.0]), &Tensor::scalar(9.0f32)];
    let picked = eval_as(&Op::Select, &inputs, DType::F32).unwrap();
    assert_eq!(picked, f(&[2, 2], &[1.0, 2.0, 9.0, 9.0]));
}

#[test]
fn cast_truncates_saturates_and_wraps() {
    let cast = |x: &Tensor, dtype| eval_as(&Op::Cast(dtype), &[x], dtype).unwrap();
    let x = f(&[5], &[1.9, -1.9, 300.0, f32::NAN, f32::NEG_INFINITY]);
    assert_eq!(cast(&x, DType::I8), tensor(&[5], &[1i8, -1, 127, 0, -128]));
    assert_eq!(cast(&x, DType::I64), tensor(&[5], &[1i64, -1, 300, 0, i64::MIN]));
    assert_eq!(cast(&i(&[300, -1]), DType::U8), tensor(&[2], &[44u8, 255]));
    assert_eq!(cast(&i(&[0, -7]), DType::Bool), tensor(&[2], &[false, true]));
    assert_eq!(cast(&tensor(&[2], &[true, false]), DType::F32), f(&[2], &[1.0, 0.0]));
}
