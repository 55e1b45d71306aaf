//! The recurrent layer under inference: every way that its weights, options and operands can
//! disagree, each a named test or a row.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use super::super::op::{Activation, Svdf, SvdfArithmetic};
use super::super::recurrent::*;
use super::super::types::Symbol;
use super::*;

const T: usize = 5;
const B: usize = 2;
const I: usize = 3;
const H: usize = 4;

fn zeros(dtype: DType, shape: &[usize]) -> Tensor {
    Tensor::zeros(dtype, shape).unwrap()
}

fn matrix(shape: &[usize]) -> Matrix {
    Matrix::float(zeros(DType::F32, shape))
}

fn vector(count: usize) -> Option<Tensor> {
    Some(zeros(DType::F32, &[count]))
}

/// Weights for `blocks` gates, `I` inputs, `H` cells and no extras.
fn weights(blocks: usize) -> CellWeights {
    CellWeights {
        input: matrix(&[blocks * H, I]),
        recurrent: matrix(&[blocks * H, H]),
        auxiliary: None,
        bias: vector(blocks * H),
        recurrent_bias: None,
        peephole: None,
        layer_norm: None,
        projection: None,
    }
}

fn lstm_cell() -> Lstm {
    Lstm {
        gate: Activation::Sigmoid,
        candidate: Activation::Tanh,
        output: Activation::Tanh,
        coupled_input_forget: false,
        cell_clip: None,
        projection_clip: None,
    }
}

fn direction(weights: CellWeights) -> Direction {
    Direction { reverse: false, source: Source::X, weights: Arc::new(weights) }
}

fn layer(cell: Cell) -> Recurrent {
    let weights = weights(cell.gate_blocks());
    Recurrent {
        cell,
        directions: vec![direction(weights)],
        layout: Layout::TimeMajor,
        masking: Masking::Zero,
        merge: Merge::Separate,
        gate_clip: None,
        arithmetic: Arithmetic::Float,
    }
}

fn lstm() -> Recurrent {
    layer(Cell::Lstm(lstm_cell()))
}

fn gru(reset_after: bool) -> Recurrent {
    layer(Cell::Gru(Gru { gate: Activation::Sigmoid, candidate: Activation::Tanh, reset_after }))
}

fn rnn() -> Recurrent {
    layer(Cell::Rnn(Rnn { activation: Activation::Tanh }))
}

fn both(mut layer: Recurrent) -> Recurrent {
    let mut second = layer.directions[0].clone();
    second.reverse = true;
    layer.directions.push(second);
    layer
}

/// The layer after a change to the weights of its first direction.
fn with(mut layer: Recurrent, change: impl FnOnce(&mut CellWeights)) -> Recurrent {
    change(Arc::make_mut(&mut layer.directions[0].weights));
    layer
}

fn float(shape: &[usize]) -> Option<ValueType> {
    Some(ValueType::fixed(DType::F32, shape))
}

fn x() -> Option<ValueType> {
    float(&[T, B, I])
}

/// Operands in slot order: the input alone, or with what the row puts in other slots.
fn operands(others: &[(usize, Option<ValueType>)]) -> Vec<Option<ValueType>> {
    let mut list = vec![None; 7];
    list[0] = x();
    for (slot, ty) in others {
        list[*slot] = ty.clone();
    }
    list
}

fn run(layer: &Recurrent, given: &[Option<ValueType>]) -> Result<Vec<ValueType>> {
    let inputs: Vec<_> =
        given.iter().map(|ty| ty.as_ref().map(|ty| Operand { ty, known: None })).collect();
    infer(&Op::Recurrent(layer.clone()), &inputs, layer.output_slots())
}

fn shapes(layer: &Recurrent, given: &[Option<ValueType>]) -> Vec<String> {
    run(layer, given).unwrap().iter().map(|ty| dims::show(ty.shape.as_deref())).collect()
}

fn complaint(layer: &Recurrent, given: &[Option<ValueType>]) -> String {
    match run(layer, given) {
        Ok(types) => format!("accepted: {types:?}"),
        Err(error) => error.to_string(),
    }
}

/// Every row must be refused with a message that has the expected part; all failing rows are
/// listed.
fn refused(rows: Vec<(Recurrent, &str)>) {
    let failed: Vec<String> = rows
        .iter()
        .map(|(layer, expected)| (complaint(layer, &operands(&[])), expected))
        .filter(|(found, expected)| !found.contains(**expected))
        .map(|(found, expected)| format!("expected {expected:?} in {found:?}"))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn results_of_every_cell() {
    assert_eq!(shapes(&lstm(), &operands(&[]))[..1], ["[5, 2, 4]"]);
    assert_eq!(shapes(&lstm(), &operands(&[]))[2..], ["[2, 4]", "[2, 4]"]);
    assert_eq!(shapes(&gru(true), &operands(&[]))[2], "[2, 4]");
    assert_eq!(shapes(&rnn(), &operands(&[]))[0], "[5, 2, 4]");
    let projected = with(lstm(), |w| {
        w.projection = Some(Projection { weight: matrix(&[7, H]), bias: vector(7) });
        w.recurrent = matrix(&[4 * H, 7]);
    });
    let found = shapes(&projected, &operands(&[]));
    assert_eq!([&found[0], &found[2], &found[3]], ["[5, 2, 7]", "[2, 7]", "[2, 4]"]);
    let merged = Recurrent { merge: Merge::Concat, ..both(projected) };
    assert_eq!(shapes(&merged, &operands(&[]))[0], "[5, 2, 14]");
}

#[test]
fn batch_major_swaps_the_leading_axes_only() {
    let layer = Recurrent { layout: Layout::BatchMajor, ..lstm() };
    let s = Dim::Symbol(Symbol(0));
    let x = Some(ValueType::symbolic(DType::F32, vec![s, Dim::Known(T), Dim::Known(I)]));
    let found = shapes(&layer, &operands(&[(0, x)]));
    assert_eq!([&found[0], &found[2]], ["[s0, 5, 4]", "[s0, 4]"]);
}

#[test]
fn no_steps_and_no_rows_are_fine() {
    for shape in [[0, B, I], [T, 0, I], [0, 0, I]] {
        let found = run(&lstm(), &operands(&[(0, float(&shape))])).unwrap();
        assert_eq!(found[0].known_shape().unwrap(), [shape[0], shape[1], H]);
        assert_eq!(found[3].known_shape().unwrap(), [shape[1], H]);
    }
    let none = with(lstm(), |w| w.input = matrix(&[4 * H, 0]));
    assert!(run(&none, &operands(&[(0, float(&[T, B, 0]))])).is_ok(), "no input width either");
}

#[test]
fn input_of_wrong_rank_is_refused_before_a_size_is_read() {
    // TFLite checks for rank above 1 and then reads the third size; CVE-2022-29200 in TensorFlow.
    for shape in [&[][..], &[I], &[B, I], &[1, T, B, I], &[1; 9]] {
        let found = complaint(&lstm(), &operands(&[(0, float(shape))]));
        assert!(found.contains("input: expected rank 3"), "{found}");
    }
}

#[test]
fn input_width_must_be_that_of_the_weights() {
    let found = complaint(&lstm(), &operands(&[(0, float(&[T, B, I + 1]))]));
    assert!(
        found.contains("direction 0: input: expected columns of the input weights = 3 on axis 2"),
        "{found}"
    );
    let swapped = complaint(
        &Recurrent { layout: Layout::BatchMajor, ..lstm() },
        &operands(&[(3, float(&[B, H]))]),
    );
    assert!(
        swapped.contains("expected batch size 5, found 2"),
        "time_major with swapped sizes: {swapped}"
    );
}

#[test]
fn weights_that_do_not_match_the_cell_count_are_refused() {
    // microsoft/onnxruntime pull 29595: weights that do not match hidden_size were read out of
    // bounds.
    let f32s = |shape: &[usize]| matrix(shape);
    refused(vec![
        (
            with(lstm(), |w| w.input = f32s(&[4 * H + 1, I])),
            "multiple of 4 rows for 4 gate blocks, found 17",
        ),
        (with(lstm(), |w| w.input = f32s(&[0, I])), "multiple of 4 rows"),
        (
            with(lstm(), |w| w.input = f32s(&[4 * H])),
            "input weights: expected shape [16, 1], found [16]",
        ),
        (with(lstm(), |w| w.input = f32s(&[])), "multiple of 4 rows"),
        (
            with(lstm(), |w| w.recurrent = f32s(&[4 * H, H + 1])),
            "recurrent weights: expected shape [16, 4]",
        ),
        (
            with(lstm(), |w| w.recurrent = f32s(&[4 * H - 1, H])),
            "recurrent weights: expected shape [16, 4]",
        ),
        (
            with(lstm(), |w| w.recurrent = f32s(&[H, 4 * H])),
            "recurrent weights: expected shape [16, 4]",
        ),
        (with(lstm(), |w| w.recurrent = f32s(&[3 * H])), "recurrent weights: expected shape [16]"),
        (
            with(gru(true), |w| w.recurrent = f32s(&[3 * H])),
            "diagonal recurrent weights: expected an LSTM",
        ),
        (
            with(lstm(), |w| w.bias = vector(3 * H)),
            "bias: expected float32 [16], found float32 [12]",
        ),
        (
            with(lstm(), |w| w.bias = Some(zeros(DType::I32, &[4 * H]))),
            "bias: expected float32 [16], found int32",
        ),
        (with(lstm(), |w| w.bias = Some(zeros(DType::F32, &[1, 4 * H]))), "found float32 [1, 16]"),
        (
            with(rnn(), |w| w.input = f32s(&[4 * H, I])),
            "recurrent weights: expected shape [16, 16]",
        ),
    ]);
}

#[test]
fn peephole_layer_norm_and_projection_have_one_size_each() {
    refused(vec![
        // One or two of three peepholes.
        (
            with(lstm(), |w| w.peephole = Some(matrix(&[2 * H]))),
            "peephole: expected shape [12], found [8]",
        ),
        (with(lstm(), |w| w.peephole = Some(matrix(&[3, H]))), "peephole: expected shape [12]"),
        (
            with(lstm(), |w| w.layer_norm = Some(matrix(&[3 * H]))),
            "layer norm: expected shape [16]",
        ),
        (
            with(gru(true), |w| w.peephole = Some(matrix(&[3 * H]))),
            "peephole: expected only in an LSTM, found in GRU",
        ),
        (
            with(rnn(), |w| w.layer_norm = Some(matrix(&[H]))),
            "layer norm: expected only in an LSTM",
        ),
        (
            with(lstm(), |w| {
                w.projection = Some(Projection { weight: matrix(&[2, H]), bias: None })
            }),
            "recurrent weights: expected shape [16, 2], found [16, 4]",
        ),
        (
            with(lstm(), |w| {
                w.projection = Some(Projection { weight: matrix(&[H, H + 1]), bias: None })
            }),
            "projection weights: expected shape [4, 4]",
        ),
        (
            with(lstm(), |w| {
                w.projection = Some(Projection { weight: matrix(&[H, H]), bias: vector(3) })
            }),
            "projection bias: expected float32 [4]",
        ),
        (
            with(lstm(), |w| {
                w.projection = Some(Projection { weight: matrix(&[0, H]), bias: None })
            }),
            "projection weights: expected 1 row or more",
        ),
        (
            with(rnn(), |w| {
                w.projection = Some(Projection { weight: matrix(&[H, H]), bias: None })
            }),
            "projection: expected only in an LSTM",
        ),
    ]);
    let mut coupled = lstm();
    coupled.cell = Cell::Lstm(Lstm { coupled_input_forget: true, ..lstm_cell() });
    coupled.directions[0] = direction(weights(3));
    assert!(
        run(&with(coupled.clone(), |w| w.peephole = Some(matrix(&[2 * H]))), &operands(&[]))
            .is_ok()
    );
    refused(vec![
        (
            with(coupled.clone(), |w| w.peephole = Some(matrix(&[3 * H]))),
            "peephole: expected shape [8], found [12]",
        ),
        // The half of a coupled cell that still has its input gate.
        (
            with(coupled, |w| w.recurrent = matrix(&[4 * H, H])),
            "recurrent weights: expected shape [12, 4]",
        ),
    ]);
}

#[test]
fn the_recurrent_bias_is_for_gru_that_resets_after() {
    assert!(run(&with(gru(true), |w| w.recurrent_bias = vector(H)), &operands(&[])).is_ok());
    refused(vec![
        (
            with(gru(true), |w| w.recurrent_bias = vector(3 * H)),
            "recurrent bias: expected float32 [4]",
        ),
        (
            with(gru(false), |w| w.recurrent_bias = vector(H)),
            "recurrent bias: expected only in a GRU",
        ),
        (with(lstm(), |w| w.recurrent_bias = vector(H)), "recurrent bias: expected only in a GRU"),
    ]);
}

#[test]
fn clips_are_positive_numbers() {
    for clip in [-1.0, 0.0, f32::NAN, f32::INFINITY] {
        let mut layer = lstm();
        layer.cell = Cell::Lstm(Lstm { cell_clip: Some(clip), ..lstm_cell() });
        assert!(
            complaint(&layer, &operands(&[])).contains("cell clip: expected a positive number"),
            "{clip}"
        );
        layer.cell = Cell::Lstm(Lstm { projection_clip: Some(clip), ..lstm_cell() });
        assert!(complaint(&layer, &operands(&[])).contains("projection clip"), "{clip}");
    }
}

#[test]
fn quantized_weights_need_scales_that_fit() {
    let int8 =
        |scales: &[f32]| Matrix { data: zeros(DType::I8, &[4 * H, I]), scales: scales.to_vec() };
    let hybrid = Recurrent { arithmetic: Arithmetic::Hybrid { asymmetric: false }, ..lstm() };
    for fits in [&[0.5][..], &[0.5; 4], &[0.5; 16], &[0.0]] {
        assert!(
            run(&with(hybrid.clone(), |w| w.input = int8(fits)), &operands(&[])).is_ok(),
            "{fits:?}"
        );
    }
    // CVE-2021-37682: no parameters, or fewer scales than channels.
    refused(vec![
        (with(hybrid.clone(), |w| w.input = int8(&[])), "expected scales for int8 weights"),
        (with(hybrid.clone(), |w| w.input = int8(&[0.5; 3])), "divide 16 rows evenly, found 3"),
        (with(hybrid.clone(), |w| w.input = int8(&[0.5; 32])), "divide 16 rows evenly, found 32"),
        (with(hybrid.clone(), |w| w.input = int8(&[f32::NAN])), "scales of 0 or more, found NaN"),
        (with(hybrid.clone(), |w| w.input = int8(&[-0.5])), "scales of 0 or more, found -0.5"),
        (with(hybrid.clone(), |w| w.input.scales = vec![1.0]), "no scales for float weights"),
        (with(hybrid, |w| w.input.data = zeros(DType::I16, &[4 * H, I])), "found int16"),
    ]);
}

#[test]
fn operands_of_another_size_or_type_are_refused() {
    let bools = |shape: &[usize]| Some(ValueType::fixed(DType::Bool, shape));
    let ints = |shape: &[usize]| Some(ValueType::fixed(DType::I32, shape));
    let (mask, aux, h0, c0) =
        (Recurrent::MASK, Recurrent::AUXILIARY, Recurrent::h0(0), Recurrent::c0(0));
    assert!(
        run(&lstm(), &operands(&[(mask, ints(&[B])), (h0, float(&[B, H])), (c0, float(&[B, H]))]))
            .is_ok()
    );
    assert!(run(&lstm(), &operands(&[(mask, bools(&[T, B]))])).is_ok());
    let rows = [
        (lstm(), mask, ints(&[B + 1]), "lengths: expected batch size 2, found 3"),
        (lstm(), mask, ints(&[B, 1]), "lengths: expected rank 1"),
        (lstm(), mask, bools(&[B, T]), "mask: expected leading axes [5, 2]"),
        (lstm(), mask, bools(&[T]), "mask: expected rank 2"),
        (lstm(), mask, float(&[T, B]), "lengths or mask: expected"),
        (lstm(), h0, float(&[B, H + 1]), "output state of direction 0: expected width = 4"),
        // The right number of elements in a wrong shape.
        (lstm(), h0, float(&[H, B]), "output state of direction 0: expected width = 4"),
        (lstm(), h0, float(&[B * H]), "output state of direction 0: expected rank 2"),
        (lstm(), h0, float(&[B + 1, H]), "expected batch size 2, found 3"),
        (lstm(), c0, float(&[B, H - 1]), "cell state of direction 0: expected width = 4"),
        (lstm(), c0, ints(&[B, H]), "cell state of direction 0: expected float32"),
        (
            gru(true),
            c0,
            float(&[B, H]),
            "cell state of direction 0: expected only in an LSTM, found in GRU",
        ),
        (lstm(), aux, float(&[T, B, I]), "auxiliary input: no direction has weights for it"),
        (
            lstm(),
            0,
            Some(ValueType::fixed(DType::F64, &[T, B, I])),
            "input: expected float32, found float64",
        ),
        (lstm(), Recurrent::h0(1), float(&[B, H]), "expected 1 to 5 operands, found 6"),
    ];
    for (layer, slot, ty, expected) in rows {
        let found = complaint(&layer, &operands(&[(slot, ty)]));
        assert!(found.contains(expected), "expected {expected:?} in {found:?}");
    }
}

#[test]
fn auxiliary_weights_and_input_go_together() {
    let aux = |width: usize| operands(&[(Recurrent::AUXILIARY, float(&[T, B, width]))]);
    let cross = with(lstm(), |w| w.auxiliary = Some(matrix(&[4 * H, 6])));
    assert!(run(&cross, &aux(6)).is_ok());
    assert!(
        complaint(&cross, &aux(5)).contains("auxiliary input: expected columns of its weights = 6")
    );
    assert!(
        complaint(&cross, &operands(&[]))
            .contains("auxiliary input: expected by the weights, found none")
    );
    let wrong = operands(&[(Recurrent::AUXILIARY, float(&[T, B + 1, 6]))]);
    assert!(complaint(&cross, &wrong).contains("auxiliary input: expected leading axes [5, 2]"));

    let mut parallel = both(lstm());
    parallel.directions[1].source = Source::Auxiliary;
    assert!(run(&parallel, &aux(I)).is_ok());
    assert!(complaint(&parallel, &aux(I + 1)).contains("direction 1: auxiliary input"));
    assert!(
        complaint(&parallel, &operands(&[]))
            .contains("direction 1: auxiliary input: expected by the weights")
    );
    Arc::make_mut(&mut parallel.directions[1].weights).auxiliary = Some(matrix(&[4 * H, I]));
    assert!(complaint(&parallel, &aux(I)).contains("act on the auxiliary input already"));
}

#[test]
fn directions_and_merge_must_fit() {
    let mut none = lstm();
    none.directions.clear();
    let mut three = both(lstm());
    three.directions.push(three.directions[0].clone());
    refused(vec![
        (none, "one or two directions, found 0"),
        (three, "one or two directions, found 3"),
        (Recurrent { merge: Merge::Concat, ..lstm() }, "merged outputs: expected two directions"),
    ]);
    // Directions may differ in size: each has an output of its own, and merged ones are joined.
    let mut uneven = both(rnn());
    let mut small = weights(1);
    small.input = matrix(&[2, I]);
    small.recurrent = matrix(&[2, 2]);
    small.bias = vector(2);
    uneven.directions[1].weights = Arc::new(small);
    assert_eq!(shapes(&uneven, &operands(&[]))[..2], ["[5, 2, 4]", "[5, 2, 2]"]);
    uneven.merge = Merge::Concat;
    assert_eq!(shapes(&uneven, &operands(&[]))[0], "[5, 2, 6]");
}

#[test]
fn which_results_there_are() {
    let has =
        |layer: &Recurrent| (0..8).filter(|&slot| has_output(layer, slot)).collect::<Vec<_>>();
    assert_eq!(has(&lstm()), [0, 2, 3]);
    assert_eq!(has(&gru(true)), [0, 2]);
    assert_eq!(has(&both(lstm())), [0, 1, 2, 3, 4, 5]);
    assert_eq!(has(&Recurrent { merge: Merge::Concat, ..both(rnn()) }), [0, 2, 4]);
}

#[test]
fn integer_arithmetic_has_types_of_its_own() {
    let int8 = |shape: &[usize]| Matrix { data: zeros(DType::I8, shape), scales: vec![0.1] };
    let scales = IntegerScales {
        input: (0.1, 0),
        output_state: (0.1, 0),
        cell_scale_log2: -11,
        gates: [0.1; 4],
        hidden: (0.1, 0),
    };
    let integer =
        with(Recurrent { arithmetic: Arithmetic::Integer(scales.clone()), ..lstm() }, |w| {
            w.input = int8(&[4 * H, I]);
            w.recurrent = int8(&[4 * H, H]);
            w.bias = Some(zeros(DType::I32, &[4 * H]));
        });
    let of = |dtype, shape: &[usize]| Some(ValueType::fixed(dtype, shape));
    let given =
        operands(&[(0, of(DType::I8, &[T, B, I])), (Recurrent::c0(0), of(DType::I16, &[B, H]))]);
    let types: Vec<DType> = run(&integer, &given).unwrap().iter().map(|ty| ty.dtype).collect();
    assert_eq!([types[0], types[2], types[3]], [DType::I8, DType::I8, DType::I16]);
    assert!(complaint(&integer, &operands(&[])).contains("input: expected int8, found float32"));
    let float_bias = with(integer.clone(), |w| w.bias = vector(4 * H));
    assert!(complaint(&float_bias, &given).contains("bias: expected int32 [16]"));
    let broken = IntegerScales { hidden: (0.0, 0), ..scales };
    let broken = Recurrent { arithmetic: Arithmetic::Integer(broken), ..integer };
    assert!(complaint(&broken, &given).contains("scale: expected a positive number, found 0"));
}

#[test]
fn svdf_sizes_follow_from_its_weights() {
    let svdf = |rank, filters, slots| {
        Op::Svdf(Svdf {
            rank,
            activation: Activation::Linear,
            feature: matrix(&[filters, I]),
            time: matrix(&[filters, slots]),
            bias: None,
            arithmetic: SvdfArithmetic::Float,
        })
    };
    let run = |op: &Op, x: &[usize], state: &[usize]| {
        let types = [float(x).unwrap(), float(state).unwrap()];
        let operands: Vec<_> = types.iter().map(|ty| Some(Operand { ty, known: None })).collect();
        match infer(op, &operands, 2) {
            Ok(types) => {
                types.iter().map(|ty| dims::show(ty.shape.as_deref())).collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.to_string(),
        }
    };
    assert_eq!(run(&svdf(2, 8, 10), &[B, I], &[B, 80]), "[2, 4] [2, 80]");
    assert!(
        run(&svdf(2, 8, 10), &[B, I], &[B, 79])
            .contains("state: expected filters · memory slots = 80")
    );
    assert!(run(&svdf(2, 8, 10), &[B, I + 1], &[B, 80]).contains("x: expected input width = 3"));
    assert!(run(&svdf(0, 8, 10), &[B, I], &[B, 80]).contains("multiple of rank 0"));
    assert!(run(&svdf(3, 8, 10), &[B, I], &[B, 80]).contains("multiple of rank 3"));
    assert!(run(&svdf(2, 8, 0), &[B, I], &[B, 0]).contains("expected 1 column or more"));
    assert!(run(&svdf(2, 8, 10), &[B, I], &[B + 1, 80]).contains("expected batch size 2, found 3"));
}
