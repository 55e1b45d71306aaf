//! Loops and chains written by hand, in forms that no file of the corpus has: each must compute
//! what it computed before, and become recurrent ops or stay with a reason.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Instant;

use fuselstm::graph::op::{
    Activation, Binary, BinaryFunction, FullyConnected, Gather, MatMul, Pack, Unpack, While,
};
use fuselstm::graph::{Graph, Op, Port, ValueId, ValueType};
use fuselstm::internal::passes::run_all;
use fuselstm::measure::compare::{Tolerance, compare};
use fuselstm::{DType, Device, Model, Session, Tensor};

const TIME: usize = 5;
const BATCH: usize = 3;
const INPUT: usize = 4;
const UNITS: usize = 6;

/// A graph under construction, with a seeded source of numbers.
struct Net {
    graph: Graph,
    seed: u64,
}

impl Net {
    fn new(seed: u64) -> Self {
        Net { graph: Graph::default(), seed }
    }

    fn number(&mut self) -> f32 {
        self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 1.2
    }

    fn random(&mut self, shape: &[usize]) -> Tensor {
        let data: Vec<f32> = (0..shape.iter().product()).map(|_| self.number()).collect();
        Tensor::from_vec(shape, data).unwrap()
    }

    fn weights(&mut self, shape: &[usize]) -> ValueId {
        let tensor = self.random(shape);
        self.graph.add_constant("w", tensor)
    }

    fn scalar(&mut self, x: f32) -> ValueId {
        self.graph.add_constant("s", Tensor::scalar(x))
    }

    fn input(&mut self, name: &str, dtype: DType, shape: &[usize]) -> ValueId {
        let value = self.graph.add_value(name, ValueType::fixed(dtype, shape));
        self.graph.inputs.push(Port { name: name.into(), value });
        value
    }

    fn output(&mut self, name: &str, value: ValueId) {
        self.graph.outputs.push(Port { name: name.into(), value });
    }

    fn op(&mut self, op: Op, inputs: &[ValueId], dtype: DType, shape: &[usize]) -> ValueId {
        let result = self.graph.add_value("v", ValueType::fixed(dtype, shape));
        self.graph.add_node(
            "n",
            op,
            inputs.iter().copied().map(Some).collect(),
            vec![Some(result)],
        );
        result
    }

    fn shape(&self, value: ValueId) -> Vec<usize> {
        self.graph.get(value).unwrap().ty.known_shape().unwrap()
    }

    fn binary(&mut self, function: BinaryFunction, a: ValueId, b: ValueId) -> ValueId {
        let (x, y) = (self.shape(a), self.shape(b));
        let shape = if x.len() >= y.len() { x } else { y };
        self.op(
            Op::Binary(Binary { function, activation: Activation::Linear }),
            &[a, b],
            DType::F32,
            &shape,
        )
    }

    fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(BinaryFunction::Add, a, b)
    }

    fn sub(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(BinaryFunction::Sub, a, b)
    }

    fn mul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(BinaryFunction::Mul, a, b)
    }

    fn act(&mut self, activation: Activation, x: ValueId) -> ValueId {
        let shape = self.shape(x);
        self.op(Op::Activation(activation), &[x], DType::F32, &shape)
    }

    /// x · new weights, stored `[inputs, outputs]`.
    fn dense(&mut self, x: ValueId, width: usize) -> ValueId {
        let shape = self.shape(x);
        let w = self.weights(&[shape[1], width]);
        let op =
            Op::MatMul(MatMul { transpose_a: false, transpose_b: false, asymmetric_inputs: false });
        self.op(op, &[x, w], DType::F32, &[shape[0], width])
    }

    /// R h + b + W x, in an order that no framework writes.
    fn gate(&mut self, x: ValueId, h: ValueId, width: usize) -> ValueId {
        let (recurrent, input, bias) =
            (self.dense(h, width), self.dense(x, width), self.weights(&[width]));
        let sum = self.add(recurrent, bias);
        self.add(sum, input)
    }

    fn clip(&mut self, x: ValueId, low: f32, high: f32) -> ValueId {
        let (low, high) = (self.scalar(low), self.scalar(high));
        let bounded = self.binary(BinaryFunction::Minimum, high, x);
        self.binary(BinaryFunction::Maximum, bounded, low)
    }
}

/// What a step gets and gives: input, old states, the counter, the lengths; new states and the
/// entry of the output list.
type StepFn = fn(&mut Net, ValueId, &[ValueId], ValueId, ValueId) -> (Vec<ValueId>, ValueId);

/// A loop over `turns` steps of `step` with states of these widths.
fn looped(step: StepFn, widths: &[usize], turns: usize) -> Graph {
    let mut outer = Net::new(7);
    let x = outer.input("x", DType::F32, &[TIME, BATCH, INPUT]);
    let lengths = outer.input("lengths", DType::I32, &[BATCH]);
    let states: Vec<ValueId> = widths
        .iter()
        .enumerate()
        .map(|(k, &n)| outer.input(&format!("s{k}"), DType::F32, &[BATCH, n]))
        .collect();

    let mut body = Net::new(11);
    let (t, xs) =
        (body.input("t", DType::I32, &[]), body.input("x", DType::F32, &[TIME, BATCH, INPUT]));
    let rows = body.input("lengths", DType::I32, &[BATCH]);
    let old: Vec<ValueId> =
        widths.iter().map(|&n| body.input("s", DType::F32, &[BATCH, n])).collect();
    let x_t = body.op(
        Op::Gather(Gather { axis: 0, batch_dims: 0 }),
        &[xs, t],
        DType::F32,
        &[BATCH, INPUT],
    );
    let (new, item) = step(&mut body, x_t, &old, t, rows);
    let item_shape = body.shape(item);
    let list_shape = [&[TIME][..], &item_shape].concat();
    let list = body.input("list", DType::F32, &list_shape);
    let written = body.op(Op::SetItem, &[list, t, item], DType::F32, &list_shape);
    let one = body.graph.add_constant("one", Tensor::scalar(1i32));
    let next = body.graph.add_value("next", ValueType::fixed(DType::I32, &[]));
    let plus = Op::Binary(Binary { function: BinaryFunction::Add, activation: Activation::Linear });
    body.graph.add_node("count", plus, vec![Some(t), Some(one)], vec![Some(next)]);
    let results = [vec![next, xs, rows], new, vec![written]].concat();
    results.into_iter().for_each(|value| body.output("r", value));

    let mut condition = Net::new(13);
    for port in &body.graph.inputs {
        let ty = body.graph.get(port.value).unwrap().ty.clone();
        condition.input(&port.name, ty.dtype, &ty.known_shape().unwrap());
    }
    let bound = condition.graph.add_constant("bound", Tensor::scalar(turns as i32));
    let holds = condition.graph.add_value("holds", ValueType::fixed(DType::Bool, &[]));
    let less =
        Op::Binary(Binary { function: BinaryFunction::Less, activation: Activation::Linear });
    let counter = condition.graph.inputs[0].value;
    condition.graph.add_node("less", less, vec![Some(counter), Some(bound)], vec![Some(holds)]);
    condition.output("holds", holds);

    let zero = outer.graph.add_constant("zero", Tensor::scalar(0i32));
    let empty = outer.graph.add_constant("empty", Tensor::zeros(DType::F32, &list_shape).unwrap());
    let operands = [vec![zero, x, lengths], states, vec![empty]].concat();
    let mut outputs = Vec::new();
    for (k, port) in body.graph.inputs.iter().enumerate() {
        let ty = body.graph.get(port.value).unwrap().ty.clone();
        outputs.push((k >= 3).then(|| outer.graph.add_value(format!("out{k}"), ty)));
    }
    outputs.iter().flatten().for_each(|&value| outer.output(&format!("o{}", value.0), value));
    let op = Op::While(Box::new(While { condition: condition.graph, body: body.graph }));
    outer.graph.add_node("loop", op, operands.into_iter().map(Some).collect(), outputs);
    outer.graph
}

fn count(graph: &Graph) -> (usize, usize) {
    let is = |f: fn(&Op) -> bool| graph.nodes.iter().filter(|node| f(&node.op)).count();
    (is(|op| matches!(op, Op::Recurrent(_))), is(|op| matches!(op, Op::While(_))))
}

/// Runs the passes, and checks that the graph computes what it did; returns it with the reasons of
/// what was declined.
fn fused(graph: Graph) -> (Graph, String) {
    let (after, reports) = run_all(graph.clone()).unwrap();
    let models = [graph, after.clone()].map(|graph| Model::from_graph(graph).unwrap());
    let mut net = Net::new(99);
    let inputs: Vec<(String, Tensor)> = models[0]
        .graph()
        .inputs
        .iter()
        .map(|port| {
            let ty = &models[0].graph().get(port.value).unwrap().ty;
            let shape = ty.known_shape().unwrap();
            let tensor = match ty.dtype {
                DType::I32 => {
                    Tensor::from_vec(&shape, (0..shape[0]).map(|k| (2 * k) as i32).collect())
                        .unwrap()
                }
                _ => net.random(&shape),
            };
            (port.name.clone(), tensor)
        })
        .collect();
    let inputs: Vec<(&str, &Tensor)> =
        inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let sessions = models.each_ref().map(|model| Session::new(model, Device::reference()).unwrap());
    let [before, now] = sessions.each_ref().map(|session| session.stream().run(&inputs).unwrap());
    for port in &models[0].graph().outputs {
        let (a, b) = (before.get(&port.name).unwrap(), now.get(&port.name).unwrap());
        let result = compare(a, b, Tolerance { atol: 2e-6, rtol: 0.0 }, &[]).unwrap();
        assert!(result.holds(), "output {}: max |difference| {:.3e}", port.name, result.max_abs);
    }
    let reasons: Vec<_> =
        reports.iter().flat_map(|report| &report.declined).map(|d| d.reason.clone()).collect();
    (after, reasons.join("; "))
}

fn fuses(step: StepFn, widths: &[usize], layers: usize) -> Graph {
    let (graph, reasons) = fused(looped(step, widths, TIME));
    assert_eq!(count(&graph), (layers, 0), "{reasons}");
    graph
}

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
fn a_chain_wired_backwards_is_a_reverse_layer() {
    let (graph, reasons) = fused(unrolled(TIME, true, false));
    assert_eq!((count(&graph), graph.nodes.len()), ((1, 0), 1), "{reasons}\n{graph}");
    assert!(graph.to_string().contains("reverse"), "{graph}");
}

#[test]
fn a_chain_that_reads_its_own_output_stays_a_chain() {
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
