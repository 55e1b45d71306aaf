//! Loops and unrolled layers written by hand, in forms that no file of the corpus has: each must compute
//! what it computed before, and become recurrent ops or stay with a reason.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Instant;

use fuselstm::graph::op::{Activation, Binary, BinaryFunction, FullyConnected, Pack, Unpack};
use fuselstm::graph::{Graph, Op, ValueId, ValueType};
use fuselstm::internal::passes::run_all;
use fuselstm::{DType, Tensor};

#[path = "common/net.rs"]
mod net;

use net::{BATCH, INPUT, Net, StepFn, TIME, UNITS, count, fused, fuses, looped};

#[test]
fn a_gru_that_moves_towards_its_candidate() {
    // h + z∘(n − h): the update gate is the complement of ours.
    fuses(
        |net, x, s, _, _| {
            let h = s[0];
            let (z, r) = (net.gate(x, h, UNITS), net.gate(x, h, UNITS));
            let (z, r) = (net.act(Activation::Sigmoid, z), net.act(Activation::Sigmoid, r));
            let reset = net.mul(h, r);
            let n = net.gate(reset, x, UNITS);
            let n = net.act(Activation::Tanh, n);
            let step = net.sub(n, h);
            let step = net.mul(step, z);
            let h = net.add(step, h);
            (vec![h], h)
        },
        &[UNITS],
        1,
    );
}

#[test]
fn coupled_gates_by_the_input_gate() {
    // c − i∘c + i∘g
    fuses(
        |net, x, s, _, _| {
            let (h, c) = (s[0], s[1]);
            let (i, g, o) = (net.gate(x, h, UNITS), net.gate(x, h, UNITS), net.gate(x, h, UNITS));
            let (i, o) = (net.act(Activation::Sigmoid, i), net.act(Activation::Sigmoid, o));
            let g = net.act(Activation::Tanh, g);
            let (kept, new) = (net.mul(i, c), net.mul(g, i));
            let kept = net.sub(c, kept);
            let c = net.add(new, kept);
            let m = net.act(Activation::Tanh, c);
            let h = net.mul(m, o);
            (vec![h, c], h)
        },
        &[UNITS, UNITS],
        1,
    );
}

/// Peepholes, both clips, a projection, hard gates.
fn full_lstm(net: &mut Net, x: ValueId, s: &[ValueId]) -> (ValueId, ValueId) {
    let (h, c) = (s[0], s[1]);
    let hard = |net: &mut Net, sum: ValueId| {
        let (slope, offset) = (net.scalar(0.2), net.scalar(0.5));
        let sum = net.mul(sum, slope);
        let sum = net.add(offset, sum);
        net.clip(sum, 0.0, 1.0)
    };
    let peep = |net: &mut Net, sum: ValueId, c: ValueId| {
        let w = net.weights(&[UNITS]);
        let term = net.mul(w, c);
        net.add(term, sum)
    };
    let (i, f, g, o) = (
        net.gate(x, h, UNITS),
        net.gate(x, h, UNITS),
        net.gate(x, h, UNITS),
        net.gate(x, h, UNITS),
    );
    let (i, f) = (peep(net, i, c), peep(net, f, c));
    let (i, f, g) = (hard(net, i), hard(net, f), net.act(Activation::Softsign, g));
    let (kept, new) = (net.mul(c, f), net.mul(g, i));
    let c = net.add(new, kept);
    let c = net.clip(c, -0.3, 0.3);
    let o = peep(net, o, c);
    let o = hard(net, o);
    let m = net.act(Activation::Tanh, c);
    let m = net.mul(o, m);
    let h = net.dense(m, INPUT);
    (net.clip(h, -0.2, 0.2), c)
}

#[test]
fn an_lstm_with_everything() {
    let graph = fuses(
        |net, x, s, _, _| {
            let (h, c) = full_lstm(net, x, s);
            (vec![h, c], h)
        },
        &[INPUT, UNITS],
        1,
    );
    let text = graph.to_string();
    for part in ["peephole", "clip 0.3"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn lengths_stop_the_rows_one_by_one() {
    let graph = fuses(
        |net, x, s, t, lengths| {
            let (h, c) = full_lstm(net, x, s);
            let past =
                Binary { function: BinaryFunction::GreaterEqual, activation: Activation::Linear };
            let past = net.op(Op::Binary(past), &[t, lengths], DType::Bool, &[BATCH]);
            let axis = net.graph.add_constant("axis", Tensor::scalar(-1i32));
            let past = net.op(Op::ExpandDims, &[past, axis], DType::Bool, &[BATCH, 1]);
            let zero =
                net.graph.add_constant("zero", Tensor::zeros(DType::F32, &[BATCH, INPUT]).unwrap());
            let item = net.op(Op::Select, &[past, zero, h], DType::F32, &[BATCH, INPUT]);
            let h = net.op(Op::Select, &[past, s[0], h], DType::F32, &[BATCH, INPUT]);
            let c = net.op(Op::Select, &[past, s[1], c], DType::F32, &[BATCH, UNITS]);
            (vec![h, c], item)
        },
        &[INPUT, UNITS],
        1,
    );
    assert!(graph.to_string().contains("lengths (Zero)"));
}

#[test]
fn what_stands_between_two_cells_of_a_loop_is_computed_for_all_steps_at_once() {
    fuses(
        |net, x, s, _, _| {
            let first = net.gate(x, s[0], UNITS);
            let first = net.act(Activation::Tanh, first);
            let between = net.dense(first, INPUT);
            let between = net.act(Activation::Relu, between);
            let skip = net.add(between, x);
            let second = net.gate(skip, s[1], UNITS);
            let second = net.act(Activation::Relu, second);
            let item = net.dense(second, 2);
            (vec![first, second], item)
        },
        &[UNITS, UNITS],
        2,
    );
}

#[test]
fn what_is_no_cell_stays_a_loop_with_a_reason() {
    let (graph, reasons) = fused(looped(
        |net, x, s, _, _| {
            let sum = net.gate(x, s[0], UNITS);
            let sum = net.act(Activation::Tanh, sum);
            let h = net.mul(sum, s[0]);
            (vec![h], h)
        },
        &[UNITS],
        TIME,
    ));
    assert_eq!(count(&graph), (0, 1));
    assert!(reasons.contains("is not the state of an LSTM, GRU or RNN cell"), "{reasons}");
}

#[test]
fn a_decoder_that_reads_its_own_output_stays_a_loop() {
    let (graph, reasons) = fused(looped(
        |net, x, s, _, _| {
            let fed = net.dense(s[0], INPUT);
            let fed = net.add(x, fed);
            let sum = net.gate(fed, s[0], UNITS);
            let h = net.act(Activation::Tanh, sum);
            (vec![h], h)
        },
        &[UNITS],
        TIME,
    ));
    assert_eq!(count(&graph), (0, 1));
    assert!(reasons.contains("depends on the iteration before"), "{reasons}");
}

#[test]
fn a_loop_that_ends_early_stays_a_loop() {
    let rnn: StepFn = |net, x, s, _, _| {
        let sum = net.gate(x, s[0], UNITS);
        let h = net.act(Activation::Tanh, sum);
        (vec![h], h)
    };
    let (graph, reasons) = fused(looped(rnn, &[UNITS], TIME - 1));
    assert_eq!(count(&graph), (0, 1));
    assert!(reasons.contains("trip count"), "{reasons}");
}

/// `steps` steps of a plain cell with shared weights; with `feedback`, the input of a step is the
/// output of the one before.
fn unrolled(steps: usize, reverse: bool, feedback: bool) -> Graph {
    let mut net = Net::new(3);
    let x = net.input("x", DType::F32, &[BATCH, steps, INPUT]);
    let mut h = net.input("h0", DType::F32, &[BATCH, UNITS]);
    let (w, r) = (net.weights(&[UNITS, INPUT]), net.weights(&[UNITS, UNITS]));
    let bias = net.weights(&[UNITS]);
    let out = net.weights(&[INPUT, UNITS]);
    let pieces: Vec<ValueId> = (0..steps)
        .map(|_| net.graph.add_value("x_t", ValueType::fixed(DType::F32, &[BATCH, INPUT])))
        .collect();
    let results = pieces.iter().copied().map(Some).collect();
    net.graph.add_node("unpack", Op::Unpack(Unpack { axis: 1 }), vec![Some(x)], results);
    let fc = || {
        let activation = Activation::Linear;
        Op::FullyConnected(FullyConnected {
            activation,
            keep_leading_axes: false,
            asymmetric_inputs: false,
        })
    };
    let mut outputs = Vec::new();
    for t in 0..steps {
        let mut x_t = pieces[if reverse { steps - 1 - t } else { t }];
        if feedback {
            let fed = net.op(fc(), &[h, out], DType::F32, &[BATCH, INPUT]);
            x_t = net.add(fed, x_t);
        }
        let input = net.op(fc(), &[x_t, w, bias], DType::F32, &[BATCH, UNITS]);
        let state = net.op(fc(), &[h, r], DType::F32, &[BATCH, UNITS]);
        let sum = net.add(state, input);
        h = net.act(Activation::Tanh, sum);
        outputs.push(h);
    }
    if reverse {
        outputs.reverse();
    }
    let y = net.op(Op::Pack(Pack { axis: 1 }), &outputs, DType::F32, &[BATCH, steps, UNITS]);
    net.output("y", y);
    net.output("h", h);
    net.graph
}

#[test]
fn steps_wired_backwards_are_a_reverse_layer() {
    let (graph, reasons) = fused(unrolled(TIME, true, false));
    assert_eq!((count(&graph), graph.nodes.len()), ((1, 0), 1), "{reasons}\n{graph}");
    assert!(graph.to_string().contains("reverse"), "{graph}");
}

#[test]
fn steps_that_read_their_own_output_stay() {
    let (graph, reasons) = fused(unrolled(TIME, false, true));
    assert_eq!(count(&graph).0, 0, "{reasons}");
    assert!(reasons.contains("depends on an output of the same layer"), "{reasons}");
}

#[test]
fn a_hundred_thousand_nodes_take_seconds() {
    let graph = unrolled(25_000, false, false);
    assert!(graph.nodes.len() >= 100_000);
    let start = Instant::now();
    let (graph, _) = run_all(graph).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("100,000 nodes: {seconds:.1} s");
    assert_eq!(count(&graph), (1, 0));
    // Twice the nodes of this graph took twice the time; without optimization it is a few seconds.
    assert!(seconds < 60.0, "{seconds:.1} s");
}
