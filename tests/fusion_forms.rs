//! The same layers in the forms that people and exporters write them in: each is one recurrent op,
//! and computes what it computed before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use fuselstm::graph::op::{
    Activation, Binary, BinaryFunction, Concat, MatMul, Pack, StridedSlice, Unary,
};
use fuselstm::graph::{Graph, Op, ValueId, ValueType};
use fuselstm::{DType, Tensor};

#[path = "common/net.rs"]
mod net;

use net::{BATCH, Form, INPUT, Net, PLAIN, StepFn, TIME, UNITS, count, fused, fuses, looped_as};

const RNN: StepFn = |net, x, s, _, _| {
    let h = net.gate_as(Activation::Tanh, x, s[0]);
    (vec![h], h)
};

fn is_one_op(form: Form, step: StepFn, widths: &[usize]) -> Graph {
    let (graph, reasons) = fused(looped_as(form, step, widths, TIME));
    assert_eq!(count(&graph), (1, 0), "{reasons}");
    graph
}

#[test]
fn a_list_with_time_at_its_second_axis() {
    let x = [BATCH, TIME, INPUT];
    let gathered = Form { x, read: |net, x, t| net.entry(x, t, 1), ..PLAIN };
    is_one_op(gathered, RNN, &[UNITS]);

    // x[:, t]
    let sliced = Form {
        x,
        read: |net, x, t| {
            let zero = net.graph.add_constant("0", Tensor::scalar(0i32));
            let begin = net.op(Op::Pack(Pack { axis: 0 }), &[zero, t], DType::I32, &[2]);
            let one = net.graph.add_constant("1", Tensor::scalar(1i32));
            let plus = Binary { function: BinaryFunction::Add, activation: Activation::Linear };
            let next = net.op(Op::Binary(plus), &[t, one], DType::I32, &[]);
            let end = net.op(Op::Pack(Pack { axis: 0 }), &[zero, next], DType::I32, &[2]);
            let ones = Tensor::from_vec(&[2], vec![1i32, 1]).unwrap();
            let strides = net.graph.add_constant("strides", ones);
            let options = StridedSlice {
                begin_mask: 1,
                end_mask: 1,
                shrink_axis_mask: 2,
                ..Default::default()
            };
            let inputs = [x, begin, end, strides];
            net.op(Op::StridedSlice(options), &inputs, DType::F32, &[BATCH, INPUT])
        },
        ..PLAIN
    };
    is_one_op(sliced, RNN, &[UNITS]);
}

#[test]
fn a_loop_from_the_last_entry_to_the_first_is_a_reverse_layer() {
    let form = Form {
        read: |net, x, t| {
            let at = net.index_backwards(t);
            net.entry(x, at, 0)
        },
        written: |net, t| net.index_backwards(t),
        ..PLAIN
    };
    let graph = is_one_op(form, RNN, &[UNITS]);
    assert!(graph.to_string().contains("reverse"), "{graph}");
    // Another entry than the last is no layer of all steps.
    let short = Form {
        read: |net, x, t| {
            let one = net.graph.add_constant("1", Tensor::scalar(1i32));
            let minus = Binary { function: BinaryFunction::Sub, activation: Activation::Linear };
            let at = net.op(Op::Binary(minus), &[one, t], DType::I32, &[]);
            net.entry(x, at, 0)
        },
        ..PLAIN
    };
    let graph = looped_as(short, RNN, &[UNITS], 2);
    let (graph, _) = fuselstm::internal::passes::run_all(graph).unwrap();
    assert_eq!(count(&graph), (0, 1));
}

#[test]
fn states_side_by_side_in_one_variable() {
    is_one_op(
        PLAIN,
        |net, x, s, _, _| {
            let axis = net.graph.add_constant("axis", Tensor::scalar(1i32));
            let [c, h] = ["c", "h"].map(|name| {
                net.graph.add_value(name, ValueType::fixed(DType::F32, &[BATCH, UNITS]))
            });
            let inputs = vec![Some(axis), Some(s[0])].into_iter().rev().collect();
            net.graph.add_node("split", Op::Split, inputs, vec![Some(c), Some(h)]);
            let (h, c) = net.lstm(x, h, c);
            let join = Op::Concat(Concat { axis: 1, activation: Activation::Linear });
            (vec![net.op(join, &[c, h], DType::F32, &[BATCH, 2 * UNITS])], h)
        },
        &[2 * UNITS],
    );
}

/// `t < lengths` as `[B, 1]`.
fn counts(net: &mut Net, t: ValueId, lengths: ValueId) -> ValueId {
    let less = Binary { function: BinaryFunction::Less, activation: Activation::Linear };
    let mask = net.op(Op::Binary(less), &[t, lengths], DType::Bool, &[BATCH]);
    let axis = net.graph.add_constant("axis", Tensor::scalar(-1i32));
    net.op(Op::ExpandDims, &[mask, axis], DType::Bool, &[BATCH, 1])
}

/// `m·new + (1 − m)·old`, the mask as a number.
fn blended(net: &mut Net, mask: ValueId, new: ValueId, old: ValueId) -> ValueId {
    let not = net.op(Op::Unary(Unary::Not), &[mask], DType::Bool, &[BATCH, 1]);
    let [yes, no] =
        [mask, not].map(|mask| net.op(Op::Cast(DType::F32), &[mask], DType::F32, &[BATCH, 1]));
    let (new, old) = (net.mul(new, yes), net.mul(no, old));
    net.add(new, old)
}

#[test]
fn a_mask_written_as_products() {
    let graph = fuses(
        |net, x, s, t, lengths| {
            let (h, c) = net.lstm(x, s[0], s[1]);
            let mask = counts(net, t, lengths);
            let zeros = Tensor::zeros(DType::F32, &[BATCH, UNITS]).unwrap();
            let zeros = net.graph.add_constant("zeros", zeros);
            let item = net.op(Op::Select, &[mask, h, zeros], DType::F32, &[BATCH, UNITS]);
            (vec![blended(net, mask, h, s[0]), blended(net, mask, c, s[1])], item)
        },
        &[UNITS, UNITS],
        1,
    );
    assert!(graph.to_string().contains("lengths (Zero)"), "{graph}");
}

#[test]
fn a_mask_that_is_repeated_along_the_rows_is_none() {
    // [B] beside [B, B] chooses columns, not rows.
    let (graph, reasons) = fused(looped_as(
        PLAIN,
        |net, x, s, t, lengths| {
            let (r, w) = (net.dense(s[0], BATCH), net.dense(x, BATCH));
            let sum = net.add(r, w);
            let new = net.act(Activation::Tanh, sum);
            let less = Binary { function: BinaryFunction::Less, activation: Activation::Linear };
            let mask = net.op(Op::Binary(less), &[t, lengths], DType::Bool, &[BATCH]);
            let h = net.op(Op::Select, &[mask, new, s[0]], DType::F32, &[BATCH, BATCH]);
            (vec![h], h)
        },
        &[BATCH],
        TIME,
    ));
    assert_eq!(count(&graph), (0, 1), "{reasons}");
}

#[test]
fn a_product_with_the_input_that_was_computed_before_the_loop() {
    let form = Form { x: [TIME, BATCH, UNITS], ..PLAIN };
    is_one_op(
        form,
        |net, x, s, _, _| {
            let product = net.dense(s[0], UNITS);
            let sum = net.add(x, product);
            let h = net.act(Activation::Tanh, sum);
            (vec![h], h)
        },
        &[UNITS],
    );
}

/// A matrix product with these weights, stored `[inputs, outputs]`.
fn product(net: &mut Net, x: ValueId, w: ValueId) -> ValueId {
    let op = MatMul { transpose_a: false, transpose_b: false, asymmetric_inputs: false };
    let shape = [net.shape(x)[0], net.shape(w)[1]];
    net.op(Op::MatMul(op), &[x, w], DType::F32, &shape)
}

/// The shared weights of a GRU: update, reset, candidate.
struct Gru {
    w: [ValueId; 3],
    r: [ValueId; 3],
    b: [ValueId; 3],
}

impl Gru {
    fn new(net: &mut Net) -> Gru {
        Gru {
            w: [(); 3].map(|()| net.weights(&[INPUT, UNITS])),
            r: [(); 3].map(|()| net.weights(&[UNITS, UNITS])),
            b: [(); 3].map(|()| net.weights(&[UNITS])),
        }
    }

    fn gate(&self, net: &mut Net, k: usize, x: ValueId, h: Option<ValueId>) -> ValueId {
        let mut sum = product(net, x, self.w[k]);
        if let Some(h) = h {
            let state = product(net, h, self.r[k]);
            sum = net.add(sum, state);
        }
        let sum = net.add(sum, self.b[k]);
        net.act(if k == 2 { Activation::Tanh } else { Activation::Sigmoid }, sum)
    }

    /// `(1 − z)∘n + z∘h`, without what is 0 in a first step.
    fn step(&self, net: &mut Net, x: ValueId, h: Option<ValueId>) -> ValueId {
        let z = self.gate(net, 0, x, h);
        let reset = h.map(|h| {
            let r = self.gate(net, 1, x, Some(h));
            net.mul(r, h)
        });
        let n = self.gate(net, 2, x, reset);
        let one = net.scalar(1.0);
        let rest = net.binary(BinaryFunction::Sub, one, z);
        let new = net.mul(rest, n);
        match h {
            None => new,
            Some(h) => {
                let kept = net.mul(z, h);
                net.add(kept, new)
            }
        }
    }
}

/// `TIME` steps of one GRU; `mask` makes a state of the new and the old one.
fn unrolled_gru(mask: fn(&mut Net, usize, ValueId, ValueId) -> (ValueId, ValueId)) -> Graph {
    let mut net = Net::new(5);
    let x = net.input("x", DType::F32, &[TIME, BATCH, INPUT]);
    let gru = Gru::new(&mut net);
    let zeros = Tensor::zeros(DType::F32, &[BATCH, UNITS]).unwrap();
    let mut h = net.graph.add_constant("zeros", zeros);
    let mut outputs = Vec::new();
    for t in 0..TIME {
        let at = net.graph.add_constant("t", Tensor::scalar(t as i32));
        let x_t = net.entry(x, at, 0);
        let new = gru.step(&mut net, x_t, (t > 0).then_some(h));
        let (state, output) = mask(&mut net, t, new, h);
        h = state;
        outputs.push(output);
    }
    let y = net.op(Op::Pack(Pack { axis: 0 }), &outputs, DType::F32, &[TIME, BATCH, UNITS]);
    net.output("y", y);
    net.output("h", h);
    net.graph
}

#[test]
fn an_unrolled_gru_from_the_zero_state_is_one_layer() {
    let (graph, reasons) = fused(unrolled_gru(|_, _, new, _| (new, new)));
    assert_eq!((count(&graph), graph.nodes.len()), ((1, 0), 1), "{reasons}\n{graph}");
}

/// The lengths of an unrolled layer: an input that the first step makes.
fn lengths(net: &mut Net) -> ValueId {
    let known = net.graph.inputs.iter().find(|port| port.name == "lengths").map(|port| port.value);
    known.unwrap_or_else(|| net.input("lengths", DType::I32, &[BATCH]))
}

fn masked_by_length(net: &mut Net, t: usize) -> ValueId {
    let lengths = lengths(net);
    let t = net.graph.add_constant("t", Tensor::scalar(t as i32));
    counts(net, t, lengths)
}

#[test]
fn an_unrolled_gru_whose_rows_end_holds_its_output() {
    let (graph, reasons) = fused(unrolled_gru(|net, t, new, old| {
        let mask = masked_by_length(net, t);
        let h = net.op(Op::Select, &[mask, new, old], DType::F32, &[BATCH, UNITS]);
        (h, h)
    }));
    assert_eq!((count(&graph), graph.nodes.len()), ((1, 0), 1), "{reasons}\n{graph}");
    assert!(graph.to_string().contains("lengths (Hold)"), "{graph}");
}

#[test]
fn an_unrolled_gru_whose_rows_end_puts_out_zeros() {
    let (graph, reasons) = fused(unrolled_gru(|net, t, new, old| {
        let mask = masked_by_length(net, t);
        let zeros = Tensor::zeros(DType::F32, &[BATCH, UNITS]).unwrap();
        let zeros = net.graph.add_constant("zeros", zeros);
        let y = net.op(Op::Select, &[mask, new, zeros], DType::F32, &[BATCH, UNITS]);
        (blended(net, mask, new, old), y)
    }));
    assert_eq!((count(&graph), graph.nodes.len()), ((1, 0), 1), "{reasons}\n{graph}");
    assert!(graph.to_string().contains("lengths (Zero)"), "{graph}");
}

#[test]
fn lengths_that_start_later_are_a_mask_of_steps() {
    // Step t counts where t + 1 < length: a mask for each step, not lengths.
    let (graph, reasons) = fused(unrolled_gru(|net, t, new, old| {
        let mask = masked_by_length(net, t + 1);
        let h = net.op(Op::Select, &[mask, new, old], DType::F32, &[BATCH, UNITS]);
        (h, h)
    }));
    assert_eq!(count(&graph), (1, 0), "{reasons}");
    assert!(!graph.to_string().contains("lengths (Hold)"), "{graph}");
}

#[test]
fn a_loop_in_float16_is_computed_in_float32() {
    let mut graph = looped_as(PLAIN, RNN, &[UNITS], TIME);
    halve(&mut graph);
    let (graph, reports) = fuselstm::internal::passes::run_all(graph).unwrap();
    assert_eq!(count(&graph), (1, 0), "{reports:?}");
    let mut made = reports.iter().flat_map(|report| &report.made);
    assert!(made.any(|line| line.contains("float32 instead of float16")), "{reports:?}");
}

/// The graph with float16 in the place of float32.
fn halve(graph: &mut Graph) {
    for value in &mut graph.values {
        if value.ty.dtype == DType::F32 {
            value.ty.dtype = DType::F16;
        }
        if let Some(tensor) = value.constant.as_ref().filter(|t| t.dtype() == DType::F32) {
            let data = tensor.to_f32().iter().map(|&x| half::f16::from_f32(x)).collect();
            value.constant = Some(Tensor::from_vec(tensor.shape(), data).unwrap());
        }
    }
    for node in &mut graph.nodes {
        if let Op::While(inner) = &mut node.op {
            halve(&mut inner.condition);
            halve(&mut inner.body);
        }
    }
}

#[test]
fn constants_that_double_again_and_again_are_left_as_ops() {
    let mut net = Net::new(1);
    let mut value = net.weights(&[1 << 12]);
    for k in 13..=34 {
        let join = Op::Concat(Concat { axis: 0, activation: Activation::Linear });
        value = net.op(join, &[value, value], DType::F32, &[1 << k]);
    }
    net.output("y", value);
    let (graph, reports) = fuselstm::internal::passes::run_all(net.graph).unwrap();
    let bytes: usize =
        graph.values.iter().filter_map(|value| value.constant.as_ref()).map(Tensor::byte_len).sum();
    assert!(bytes <= 64 << 20, "{bytes}");
    assert!(reports.iter().any(|report| !report.declined.is_empty()), "{reports:?}");
}
