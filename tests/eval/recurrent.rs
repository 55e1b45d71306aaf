//! The recurrent layer: every cell against a plain loop written here, and laws that hold whatever
//! the numbers are.

use std::sync::Arc;

use fuselstm::graph::op::{Activation, Svdf, SvdfArithmetic};
use fuselstm::graph::recurrent::*;
use fuselstm::graph::{Op, ValueType};
use fuselstm::{DType, Tensor};

use super::support::{assert_close, f, i, tensor};

/// Numbers in (−1, 1) that look random; the same for the same seed.
fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let count = shape.iter().product();
    let next = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    f(shape, &(0..count).map(next).collect::<Vec<_>>())
}

const T: usize = 5;
const B: usize = 3;
const I: usize = 4;
const H: usize = 3;

fn lstm() -> Lstm {
    Lstm {
        gate: Activation::Sigmoid,
        candidate: Activation::Tanh,
        output: Activation::Tanh,
        coupled_input_forget: false,
        cell_clip: None,
        projection_clip: None,
    }
}

fn gru(reset_after: bool) -> Cell {
    Cell::Gru(Gru { gate: Activation::Sigmoid, candidate: Activation::Tanh, reset_after })
}

fn rnn(activation: Activation) -> Cell {
    Cell::Rnn(Rnn { activation })
}

/// Weights of a plain layer of this cell.
fn weights(cell: &Cell, seed: u64) -> CellWeights {
    let rows = cell.gate_blocks() * H;
    let recurrent_bias = matches!(cell, Cell::Gru(Gru { reset_after: true, .. }));
    CellWeights {
        input: Matrix::float(noise(&[rows, I], seed)),
        recurrent: Matrix::float(noise(&[rows, H], seed + 1)),
        auxiliary: None,
        bias: Some(noise(&[rows], seed + 2)),
        recurrent_bias: recurrent_bias.then(|| noise(&[H], seed + 3)),
        peephole: None,
        layer_norm: None,
        projection: None,
    }
}

fn layer(cell: Cell, weights: CellWeights) -> Recurrent {
    Recurrent {
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
        arithmetic: Arithmetic::Float,
    }
}

fn plain_layer(cell: Cell) -> Recurrent {
    let weights = weights(&cell, 7);
    layer(cell, weights)
}

/// One layer of each kind with many options on.
fn layers() -> Vec<Recurrent> {
    let mut full = weights(&Cell::Lstm(lstm()), 40);
    full.peephole = Some(Matrix::float(noise(&[3 * H], 50)));
    full.layer_norm = Some(Matrix::float(noise(&[4 * H], 51)));
    full.recurrent = Matrix::float(noise(&[4 * H, 2], 52));
    full.projection =
        Some(Projection { weight: Matrix::float(noise(&[2, H], 53)), bias: Some(noise(&[2], 54)) });
    let clipped = Lstm { cell_clip: Some(0.4), projection_clip: Some(0.3), ..lstm() };
    let coupled = Cell::Lstm(Lstm { coupled_input_forget: true, ..lstm() });
    let mut diagonal = weights(&Cell::Lstm(lstm()), 60);
    diagonal.recurrent = Matrix::float(noise(&[4 * H], 61));
    let hybrid = {
        let mut weights = weights(&Cell::Lstm(lstm()), 70);
        for matrix in [&mut weights.input, &mut weights.recurrent] {
            let bytes: Vec<i8> = matrix.data.to_f32().iter().map(|w| (w * 127.0) as i8).collect();
            *matrix =
                Matrix { data: tensor(matrix.data.shape(), &bytes), scales: vec![1.0 / 127.0] };
        }
        Recurrent {
            arithmetic: Arithmetic::Hybrid { asymmetric: true },
            ..layer(Cell::Lstm(lstm()), weights)
        }
    };
    vec![
        plain_layer(Cell::Lstm(lstm())),
        plain_layer(coupled),
        layer(Cell::Lstm(clipped), full),
        layer(Cell::Lstm(lstm()), diagonal),
        plain_layer(gru(false)),
        plain_layer(gru(true)),
        plain_layer(rnn(Activation::Relu6)),
        hybrid,
    ]
}

/// Operands by slot: x, mask, auxiliary, h0, c0 (and the second direction's).
#[derive(Clone, Default)]
struct Operands {
    x: Option<Tensor>,
    mask: Option<Tensor>,
    auxiliary: Option<Tensor>,
    states: Vec<Option<Tensor>>,
}

fn of(x: &Tensor) -> Operands {
    Operands { x: Some(x.clone()), ..Operands::default() }
}

fn run_checked(layer: &Recurrent, operands: &Operands) -> fuselstm::Result<Vec<Option<Tensor>>> {
    let mut slots = vec![operands.x.clone(), operands.mask.clone(), operands.auxiliary.clone()];
    slots.extend(operands.states.iter().cloned());
    let typed: Vec<_> = slots
        .into_iter()
        .map(|x| x.map(|x| (x.clone(), ValueType::fixed(x.dtype(), x.shape()))))
        .collect();
    let inputs: Vec<_> =
        typed.iter().map(|x| x.as_ref().map(|(tensor, ty)| (tensor, ty))).collect();
    // Everything that the layer can yield is wanted.
    let merged = layer.merge == Merge::Concat && layer.directions.len() == 2;
    let ty = ValueType::unranked(DType::F32);
    let wanted = |slot: usize| match slot {
        0 => true,
        1 => layer.directions.len() == 2 && !merged,
        slot => slot % 2 == 0 || layer.cell.has_cell_state(),
    };
    let outputs: Vec<_> =
        (0..layer.output_slots()).map(|slot| wanted(slot).then_some(&ty)).collect();
    fuselstm::internal::eval::evaluate(&Op::Recurrent(layer.clone()), &inputs, &outputs)
}

fn run(layer: &Recurrent, operands: &Operands) -> Vec<Option<Tensor>> {
    run_checked(layer, operands).unwrap()
}

/// Output, final output state, final cell state (the RNN's and GRU's stay empty).
fn results(layer: &Recurrent, operands: &Operands) -> [Option<Tensor>; 3] {
    let mut results = run(layer, operands);
    [results[0].take(), results[2].take(), results[3].take()]
}

/// Entries `range` of axis `axis`.
fn cut(x: &Tensor, axis: usize, range: std::ops::Range<usize>) -> Tensor {
    let size = x.shape()[axis];
    let inner: usize = x.shape()[axis + 1..].iter().product();
    let values = x.to_f32();
    let kept = (0..x.len())
        .filter(|index| range.contains(&(index / inner % size)))
        .map(|index| values[index]);
    let mut shape = x.shape().to_vec();
    shape[axis] = range.len();
    f(&shape, &kept.collect::<Vec<_>>())
}

/// x with an axis reversed.
fn flipped(x: &Tensor, axis: usize) -> Tensor {
    let size = x.shape()[axis];
    let inner: usize = x.shape()[axis + 1..].iter().product();
    let values = x.to_f32();
    let source = |index: usize| {
        let at = index / inner % size;
        index - at * inner + (size - 1 - at) * inner
    };
    f(x.shape(), &(0..x.len()).map(|index| values[source(index)]).collect::<Vec<_>>())
}

/// `[T, B, ·]` as `[B, T, ·]` and back.
fn swapped(x: &Tensor) -> Tensor {
    let (a, b, c) = (x.shape()[0], x.shape()[1], x.shape()[2]);
    let values = x.to_f32();
    let value = |index: usize| values[(index / c % a * b + index / c / a) * c + index % c];
    f(&[b, a, c], &(0..x.len()).map(value).collect::<Vec<_>>())
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `W v` of one row.
fn row(matrix: &Matrix, row: usize, v: &[f32]) -> f64 {
    let weights = matrix.to_f32();
    v.iter()
        .enumerate()
        .map(|(k, &v)| f64::from(weights[row * v_len(matrix) + k]) * f64::from(v))
        .sum()
}

fn v_len(matrix: &Matrix) -> usize {
    matrix.columns()
}

#[test]
fn lstm_is_its_equations() {
    let layer = plain_layer(Cell::Lstm(lstm()));
    let x = noise(&[T, 1, I], 1);
    let [y, h_n, c_n] = results(&layer, &of(&x));
    let w = &layer.directions[0].weights;
    let bias = w.bias.as_ref().unwrap().to_f32();
    let (mut h, mut c, mut expected) = (vec![0.0f32; H], vec![0.0f32; H], Vec::new());
    for x in x.to_f32().chunks(I) {
        let s = |block: usize, j: usize| {
            let r = block * H + j;
            f64::from(bias[r]) + row(&w.input, r, x) + row(&w.recurrent, r, &h)
        };
        let next: Vec<(f64, f64)> = (0..H)
            .map(|j| {
                let new = sigmoid(s(1, j)) * f64::from(c[j]) + sigmoid(s(0, j)) * s(2, j).tanh();
                (new, sigmoid(s(3, j)) * new.tanh())
            })
            .collect();
        (c, h) = next.iter().map(|&(c, h)| (c as f32, h as f32)).unzip();
        expected.extend_from_slice(&h);
    }
    assert_close(&y.unwrap(), &f(&[T, 1, H], &expected), 1e-7);
    assert_close(&h_n.unwrap(), &f(&[1, H], &h), 1e-7);
    assert_close(&c_n.unwrap(), &f(&[1, H], &c), 1e-7);
}

#[test]
fn gru_is_its_equations_in_both_forms() {
    for reset_after in [false, true] {
        let layer = plain_layer(gru(reset_after));
        let x = noise(&[T, 1, I], 2);
        let w = &layer.directions[0].weights;
        let bias = w.bias.as_ref().unwrap().to_f32();
        let extra = w.recurrent_bias.as_ref().map_or(vec![0.0; H], |bias| bias.to_f32().to_vec());
        let (mut h, mut expected) = (vec![0.0f32; H], Vec::new());
        for x in x.to_f32().chunks(I) {
            let wx = |r: usize| f64::from(bias[r]) + row(&w.input, r, x);
            let gate = |block: usize, j: usize| {
                sigmoid(wx(block * H + j) + row(&w.recurrent, block * H + j, &h))
            };
            let reset: Vec<f64> = (0..H).map(|j| gate(1, j)).collect();
            let weights = w.recurrent.to_f32();
            let next = (0..H).map(|j| {
                let r = 2 * H + j;
                let product = if reset_after {
                    reset[j] * (row(&w.recurrent, r, &h) + f64::from(extra[j]))
                } else {
                    (0..H).map(|k| f64::from(weights[r * H + k]) * reset[k] * f64::from(h[k])).sum()
                };
                let (z, n) = (gate(0, j), (wx(r) + product).tanh());
                (z * f64::from(h[j]) + (1.0 - z) * n) as f32
            });
            h = next.collect();
            expected.extend_from_slice(&h);
        }
        assert_close(
            &results(&layer, &of(&x))[0].clone().unwrap(),
            &f(&[T, 1, H], &expected),
            1e-7,
        );
    }
}

#[test]
fn one_unit_by_hand() {
    // h' = relu6(2 x + 3 h + 1): 1·2 + 1 = 3, then 2·(−1) + 9 + 1 = 8 → 6, then 2·(−20) + 18 + 1 →
    // 0.
    let weights = CellWeights {
        input: Matrix::float(f(&[1, 1], &[2.0])),
        recurrent: Matrix::float(f(&[1, 1], &[3.0])),
        bias: Some(f(&[1], &[1.0])),
        ..weights(&rnn(Activation::Relu6), 0)
    };
    let layer = layer(rnn(Activation::Relu6), weights);
    let [y, h_n, _] = results(&layer, &of(&f(&[3, 1, 1], &[1.0, -1.0, -20.0])));
    assert_eq!(y.unwrap(), f(&[3, 1, 1], &[3.0, 6.0, 0.0]));
    assert_eq!(h_n.unwrap(), f(&[1, 1], &[0.0]));
}

#[test]
fn peephole_layer_norm_projection_and_clips_by_hand() {
    // Two cells, no input, no recurrence; layer norm turns the peephole terms p·c = (−1, 1)·k into
    // (−1, 1) up to its epsilon.
    let zeros = |shape: &[usize]| Matrix::float(Tensor::zeros(DType::F32, shape).unwrap());
    let weights = CellWeights {
        input: zeros(&[8, 0]),
        recurrent: zeros(&[8, 1]),
        auxiliary: None,
        bias: Some(f(&[8], &[9.0, 9.0, 9.0, 9.0, 0.0, 0.0, 0.5, 0.5])),
        recurrent_bias: None,
        peephole: Some(Matrix::float(f(&[6], &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]))),
        layer_norm: Some(Matrix::float(f(&[8], &[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]))),
        projection: Some(Projection {
            weight: Matrix::float(f(&[1, 2], &[10.0, 20.0])),
            bias: Some(f(&[1], &[0.25])),
        }),
    };
    let cell = Lstm { cell_clip: Some(1.5), projection_clip: Some(6.0), ..lstm() };
    let operands = Operands {
        states: vec![None, Some(f(&[1, 2], &[-0.5, 2.0]))],
        ..of(&Tensor::zeros(DType::F32, &[1, 1, 0]).unwrap())
    };
    let make = |projection_clip| {
        layer(Cell::Lstm(Lstm { projection_clip, ..cell.clone() }), weights.clone())
    };
    let [y, _, c_n] = results(&make(None), &operands);
    // i = f = σ(9); g = 0 because the candidate has no peephole and its normalized sum is 0.
    let forget = sigmoid(9.0);
    let c = [-0.5 * forget, 1.5];
    assert_close(&c_n.unwrap(), &f(&[1, 2], &c.map(|c| c as f32)), 1e-7);
    // o sees the new, clipped cell: the normalized pair is (−1, 1), then the bias.
    let m = [sigmoid(-1.0 + 0.5) * c[0].tanh(), sigmoid(1.0 + 0.5) * c[1].tanh()];
    let projected = 10.0 * m[0] + 20.0 * m[1] + 0.25;
    assert_close(&y.unwrap(), &f(&[1, 1, 1], &[projected as f32]), 1e-6);
    let [y, ..] = results(&make(Some(6.0)), &operands);
    assert!(projected > 6.0);
    assert_eq!(y.unwrap(), f(&[1, 1, 1], &[6.0]));
}

#[test]
fn a_sequence_in_two_parts_is_the_whole() {
    let x = noise(&[T, B, I], 3);
    for layer in layers() {
        let whole = results(&layer, &of(&x));
        let first = results(&layer, &of(&cut(&x, 0, 0..2)));
        let states = vec![first[1].clone(), first[2].clone()];
        let second = results(&layer, &Operands { states, ..of(&cut(&x, 0, 2..T)) });
        let y = whole[0].as_ref().unwrap();
        assert_eq!(first[0].as_ref().unwrap(), &cut(y, 0, 0..2));
        assert_eq!(second[0].as_ref().unwrap(), &cut(y, 0, 2..T));
        assert_eq!(second[1..], whole[1..]);
    }
}

#[test]
fn backwards_is_forwards_on_the_reversed_input() {
    let x = noise(&[T, B, I], 4);
    for layer in layers() {
        let forward = results(&layer, &of(&flipped(&x, 0)));
        let mut layer = layer;
        layer.directions[0].reverse = true;
        let backward = results(&layer, &of(&x));
        assert_eq!(backward[0].as_ref().unwrap(), &flipped(forward[0].as_ref().unwrap(), 0));
        assert_eq!(backward[1..], forward[1..]);
    }
}

#[test]
fn rows_do_not_see_each_other() {
    let x = noise(&[T, B, I], 5);
    for layer in layers() {
        let all = results(&layer, &of(&x));
        for b in 0..B {
            let alone = results(&layer, &of(&cut(&x, 1, b..b + 1)));
            assert_eq!(alone[0].as_ref().unwrap(), &cut(all[0].as_ref().unwrap(), 1, b..b + 1));
            assert_eq!(alone[1].as_ref().unwrap(), &cut(all[1].as_ref().unwrap(), 0, b..b + 1));
        }
    }
}

#[test]
fn layouts_differ_in_nothing_but_the_order() {
    let x = noise(&[T, B, I], 6);
    for layer in layers() {
        let time_major = results(&layer, &of(&x));
        let batch_major =
            results(&Recurrent { layout: Layout::BatchMajor, ..layer }, &of(&swapped(&x)));
        assert_eq!(swapped(batch_major[0].as_ref().unwrap()), time_major[0].clone().unwrap());
        assert_eq!(batch_major[1..], time_major[1..]);
    }
}

#[test]
fn permuted_units_permute_the_output() {
    let order = [2usize, 0, 1];
    let x = noise(&[T, B, I], 8);
    for cell in [Cell::Lstm(lstm()), gru(false), gru(true), rnn(Activation::Tanh)] {
        let blocks = cell.gate_blocks();
        let own = weights(&cell, 9);
        let rows = |tensor: &Tensor| {
            let (values, width) = (tensor.to_f32(), tensor.shape()[1..].iter().product::<usize>());
            let rows = (0..tensor.shape()[0] / H).flat_map(|block| order.map(|j| block * H + j));
            let values: Vec<f32> =
                rows.flat_map(|r| values[r * width..(r + 1) * width].to_vec()).collect();
            f(tensor.shape(), &values)
        };
        let columns = |tensor: &Tensor| {
            let values = tensor.to_f32();
            f(
                tensor.shape(),
                &(0..blocks * H * H).map(|k| values[k / H * H + order[k % H]]).collect::<Vec<_>>(),
            )
        };
        let permuted = CellWeights {
            input: Matrix::float(rows(&own.input.data)),
            recurrent: Matrix::float(columns(&rows(&own.recurrent.data))),
            bias: own.bias.as_ref().map(rows),
            recurrent_bias: own.recurrent_bias.as_ref().map(rows),
            ..own.clone()
        };
        let [y, ..] = results(&layer(cell.clone(), own), &of(&x));
        let [z, ..] = results(&layer(cell, permuted), &of(&x));
        let (y, z) = (y.unwrap(), z.unwrap());
        let expected: Vec<f32> =
            (0..y.len()).map(|k| y.to_f32()[k / H * H + order[k % H]]).collect();
        // The sums run in another order.
        assert_close(&z, &f(y.shape(), &expected), 1e-6);
    }
}

#[test]
fn more_padding_changes_nothing() {
    let (x, padding) = (noise(&[T, B, I], 10), noise(&[2, B, I], 11));
    let longer = f(&[T + 2, B, I], &[x.to_f32(), padding.to_f32()].concat());
    let lengths = i(&[5, 0, 3]);
    for reverse in [false, true] {
        for mut layer in layers() {
            layer.directions[0].reverse = reverse;
            let masked =
                |x: &Tensor| results(&layer, &Operands { mask: Some(lengths.clone()), ..of(x) });
            let (short, long) = (masked(&x), masked(&longer));
            assert_eq!(long[1..], short[1..]);
            let y = long[0].as_ref().unwrap();
            assert_eq!(&cut(y, 0, 0..T), short[0].as_ref().unwrap());
            assert!(cut(y, 0, T..T + 2).to_f32().iter().all(|&v| v == 0.0));
        }
    }
}

#[test]
fn a_length_is_the_sequence_cut_short() {
    let x = noise(&[T, B, I], 12);
    let lengths = [5usize, 0, 3];
    for reverse in [false, true] {
        for mut layer in layers() {
            layer.directions[0].reverse = reverse;
            let all =
                results(&layer, &Operands { mask: Some(i(&lengths.map(|n| n as i32))), ..of(&x) });
            for (b, length) in lengths.into_iter().enumerate() {
                let alone = results(&layer, &of(&cut(&cut(&x, 1, b..b + 1), 0, 0..length)));
                let y = cut(all[0].as_ref().unwrap(), 1, b..b + 1);
                assert_eq!(&cut(&y, 0, 0..length), alone[0].as_ref().unwrap());
                assert_eq!(&cut(all[1].as_ref().unwrap(), 0, b..b + 1), alone[1].as_ref().unwrap());
            }
        }
    }
}

#[test]
fn length_zero_keeps_the_state() {
    for layer in layers() {
        let width = layer.directions[0].weights.output_width(layer.cell.gate_blocks());
        let (h0, c0) = (noise(&[B, width], 13), noise(&[B, H], 14));
        let c0 = layer.cell.has_cell_state().then_some(c0);
        let states = vec![Some(h0.clone()), c0.clone()];
        let zero = Operands {
            mask: Some(i(&[0; B])),
            states: states.clone(),
            ..of(&noise(&[T, B, I], 15))
        };
        let [y, h_n, c_n] = results(&layer, &zero);
        assert_eq!((h_n, c_n), (Some(h0.clone()), c0.clone()));
        assert!(y.unwrap().to_f32().iter().all(|&v| v == 0.0));
        // No step at all does the same.
        let [y, h_n, c_n] = results(&layer, &Operands { states, ..of(&noise(&[0, B, I], 16)) });
        assert_eq!((h_n, c_n), (Some(h0), c0));
        assert_eq!(y.unwrap().shape(), [0, B, width]);
    }
}

#[test]
fn masks_zero_or_hold() {
    // h' = x + h: the state is the sum of the steps that count.
    let one = Matrix::float(f(&[1, 1], &[1.0]));
    let weights = CellWeights {
        input: one.clone(),
        recurrent: one,
        bias: None,
        ..weights(&rnn(Activation::Linear), 0)
    };
    let base = layer(rnn(Activation::Linear), weights);
    let x = f(&[5, 1, 1], &[1.0, 10.0, 100.0, 1000.0, 10_000.0]);
    let mask = tensor(&[5, 1], &[false, true, false, true, false]);
    for (masking, reverse, expected) in [
        (Masking::Zero, false, [0.0, 10.0, 0.0, 1010.0, 0.0]),
        (Masking::Hold, false, [0.0, 10.0, 10.0, 1010.0, 1010.0]),
        (Masking::Zero, true, [0.0, 1010.0, 0.0, 1000.0, 0.0]),
        (Masking::Hold, true, [1010.0, 1010.0, 1000.0, 1000.0, 0.0]),
    ] {
        let mut layer = Recurrent { masking, ..base.clone() };
        layer.directions[0].reverse = reverse;
        let [y, h_n, _] = results(&layer, &Operands { mask: Some(mask.clone()), ..of(&x) });
        assert_eq!(y.unwrap(), f(&[5, 1, 1], &expected), "{masking:?}, reverse {reverse}");
        assert_eq!(h_n.unwrap(), f(&[1, 1], &[1010.0]));
        // The same in the other layout, where the mask is [B, T].
        layer.layout = Layout::BatchMajor;
        let flat = mask.reshaped(&[1, 5]).unwrap();
        let [y, ..] =
            results(&layer, &Operands { mask: Some(flat), ..of(&x.reshaped(&[1, 5, 1]).unwrap()) });
        assert_eq!(y.unwrap(), f(&[1, 5, 1], &expected));
    }
}

#[test]
fn two_directions_are_two_layers() {
    let x = noise(&[T, B, I], 17);
    for single in layers() {
        let mut both = single.clone();
        both.directions.push(Direction { reverse: true, ..single.directions[0].clone() });
        let separate = run(&both, &of(&x));
        let mut backward = single.clone();
        backward.directions[0].reverse = true;
        let (forward, backward) = (results(&single, &of(&x)), results(&backward, &of(&x)));
        assert_eq!((&separate[0], &separate[1]), (&forward[0], &backward[0]));
        assert_eq!((&separate[2], &separate[4]), (&forward[1], &backward[1]));
        let merged = run(&Recurrent { merge: Merge::Concat, ..both }, &of(&x));
        let (y, z) = (forward[0].clone().unwrap(), backward[0].clone().unwrap());
        let width = y.shape()[2];
        let joined = merged[0].as_ref().unwrap();
        assert_eq!(cut(joined, 2, 0..width), y);
        assert_eq!(cut(joined, 2, width..2 * width), z);
        assert_eq!(merged[1], None);
    }
}

#[test]
fn auxiliary_input_is_added_or_read_instead() {
    let (x, auxiliary) = (noise(&[T, B, I], 18), noise(&[T, B, I], 19));
    let operands = Operands { auxiliary: Some(auxiliary.clone()), ..of(&x) };
    for cell in [Cell::Lstm(lstm()), rnn(Activation::Tanh)] {
        let own = weights(&cell, 20);
        let mut instead = layer(cell.clone(), own.clone());
        instead.directions[0].source = Source::Auxiliary;
        assert_eq!(
            results(&instead, &operands),
            results(&layer(cell.clone(), own.clone()), &of(&auxiliary))
        );
        // [W A] over [x; a] is the same as both products.
        let added = noise(&[own.input.rows(), I], 21);
        let both = CellWeights { auxiliary: Some(Matrix::float(added.clone())), ..own.clone() };
        let [y, ..] = results(&layer(cell.clone(), both), &operands);
        let join = |a: &Tensor, b: &Tensor, shape: &[usize]| {
            let (a, b) = (a.to_f32(), b.to_f32());
            let rows = a.chunks(I).zip(b.chunks(I)).flat_map(|(a, b)| [a, b].concat());
            f(shape, &rows.collect::<Vec<_>>())
        };
        let wide = Matrix::float(join(&own.input.data, &added, &[own.input.rows(), 2 * I]));
        let wide = layer(cell, CellWeights { input: wide, ..own });
        let [z, ..] = results(&wide, &of(&join(&x, &auxiliary, &[T, B, 2 * I])));
        assert_close(&y.unwrap(), &z.unwrap(), 1e-7);
    }
}

#[test]
fn sizes_of_zero() {
    for layer in layers() {
        let width = layer.directions[0].weights.output_width(layer.cell.gate_blocks());
        let [y, h_n, _] = results(&layer, &of(&noise(&[T, 0, I], 0)));
        assert_eq!(
            (y.unwrap().shape(), h_n.unwrap().shape()),
            (&[T, 0, width][..], &[0, width][..])
        );
        let mut narrow = layer.clone();
        let mut weights = (*layer.directions[0].weights).clone();
        let rows = weights.input.rows();
        weights.input.data = match weights.input.data.dtype() {
            DType::I8 => tensor::<i8>(&[rows, 0], &[]),
            _ => f(&[rows, 0], &[]),
        };
        narrow.directions[0].weights = Arc::new(weights);
        let [y, ..] = results(&narrow, &of(&noise(&[T, B, 0], 0)));
        assert_eq!(y.unwrap().shape(), [T, B, width]);
    }
}

#[test]
fn int8_weights_of_a_float_layer_are_dequantized() {
    let hybrid = layers().pop().unwrap();
    let float = Recurrent { arithmetic: Arithmetic::Float, ..hybrid.clone() };
    let x = noise(&[T, B, I], 22);
    let (a, b) = (
        results(&float, &of(&x))[0].clone().unwrap(),
        results(&hybrid, &of(&x))[0].clone().unwrap(),
    );
    // 8 bits of activations, over a few products of weights below 1.
    assert_close(&a, &b, 0.03);
    assert_ne!(a, b, "the activations are quantized in one of them");
}

#[test]
fn what_does_not_fit_is_an_error_that_names_it() {
    let layer = plain_layer(Cell::Lstm(lstm()));
    let x = noise(&[T, B, I], 23);
    let words = |operands: &Operands, words: &str| {
        let error = run_checked(&layer, operands).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    words(&Operands { mask: Some(i(&[5, 6, 0])), ..of(&x) }, "length 6 of batch row 1");
    words(&Operands { mask: Some(i(&[5, 5, -1])), ..of(&x) }, "length -1 of batch row 2");
    words(&Operands { mask: Some(i(&[5, 5])), ..of(&x) }, "lengths of shape [2]");
    words(&Operands { mask: Some(tensor(&[1, 1], &[true])), ..of(&x) }, "a mask of shape");
    words(&Operands { states: vec![Some(noise(&[B, H + 1], 0))], ..of(&x) }, "h0");
    words(&of(&noise(&[T, B, I + 1], 0)), "input weights");
    words(&of(&noise(&[T, I], 0)), "rank 3");
    words(&Operands { auxiliary: Some(noise(&[T, B + 1, I], 0)), ..of(&x) }, "auxiliary");
    words(&of(&tensor(&[T, B, I], &[0i32; T * B * I])), "int32");
}

#[test]
fn the_memory_layer_by_hand() {
    // One unit of rank 2, two slots: filters 1·x and −x, time weights (10, 1) and (2, 3), bias 0.5.
    let svdf = |activation| {
        Op::Svdf(Svdf {
            rank: 2,
            activation,
            feature: Matrix::float(f(&[2, 1], &[1.0, -1.0])),
            time: Matrix::float(f(&[2, 2], &[10.0, 1.0, 2.0, 3.0])),
            bias: Some(f(&[1], &[0.5])),
            arithmetic: SvdfArithmetic::Float,
        })
    };
    let (x, state) = (f(&[1, 1], &[3.0]), f(&[1, 4], &[9.0, 1.0, 9.0, -1.0]));
    let ty = ValueType::unranked(DType::F32);
    for (activation, expected) in
        [(Activation::Linear, 2.5), (Activation::Relu, 2.5), (Activation::ReluN1To1, 1.0)]
    {
        let inputs = [Some((&x, &ty)), Some((&state, &ty))];
        let results =
            fuselstm::internal::eval::evaluate(&svdf(activation), &inputs, &[Some(&ty), Some(&ty)])
                .unwrap();
        // 10·1 + 1·3 + 2·(−1) + 3·(−3) + 0.5
        assert_eq!(results[0], Some(f(&[1, 1], &[expected])));
        assert_eq!(results[1], Some(f(&[1, 4], &[1.0, 3.0, -1.0, -3.0])));
    }
}
