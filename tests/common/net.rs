//! Graphs written by hand, and what the passes make of them.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::cmp::Ordering;

use fuselstm::graph::op::{Activation, Binary, BinaryFunction, Gather, MatMul, While};
use fuselstm::graph::{Graph, Op, Port, ValueId, ValueType};
use fuselstm::internal::passes::run_all;
use fuselstm::measure::compare::{Tolerance, compare};
use fuselstm::{DType, Device, Model, Session, Tensor};

pub const TIME: usize = 5;
pub const BATCH: usize = 3;
pub const INPUT: usize = 4;
pub const UNITS: usize = 6;

/// A graph under construction, with a seeded source of numbers.
pub struct Net {
    pub graph: Graph,
    seed: u64,
}

impl Net {
    pub fn new(seed: u64) -> Self {
        Net { graph: Graph::default(), seed }
    }

    pub fn number(&mut self) -> f32 {
        self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 1.2
    }

    pub fn random(&mut self, shape: &[usize]) -> Tensor {
        let data: Vec<f32> = (0..shape.iter().product()).map(|_| self.number()).collect();
        Tensor::from_vec(shape, data).unwrap()
    }

    pub fn weights(&mut self, shape: &[usize]) -> ValueId {
        let tensor = self.random(shape);
        self.graph.add_constant("w", tensor)
    }

    pub fn scalar(&mut self, x: f32) -> ValueId {
        self.graph.add_constant("s", Tensor::scalar(x))
    }

    pub fn input(&mut self, name: &str, dtype: DType, shape: &[usize]) -> ValueId {
        let value = self.graph.add_value(name, ValueType::fixed(dtype, shape));
        self.graph.inputs.push(Port { name: name.into(), value });
        value
    }

    pub fn output(&mut self, name: &str, value: ValueId) {
        self.graph.outputs.push(Port { name: name.into(), value });
    }

    pub fn op(&mut self, op: Op, inputs: &[ValueId], dtype: DType, shape: &[usize]) -> ValueId {
        let result = self.graph.add_value("v", ValueType::fixed(dtype, shape));
        self.graph.add_node(
            "n",
            op,
            inputs.iter().copied().map(Some).collect(),
            vec![Some(result)],
        );
        result
    }

    pub fn shape(&self, value: ValueId) -> Vec<usize> {
        self.graph.get(value).unwrap().ty.known_shape().unwrap()
    }

    pub fn binary(&mut self, function: BinaryFunction, a: ValueId, b: ValueId) -> ValueId {
        let (x, y) = (self.shape(a), self.shape(b));
        let shape = match x.len().cmp(&y.len()) {
            Ordering::Greater => x,
            Ordering::Less => y,
            Ordering::Equal => x.iter().zip(&y).map(|(a, b)| *a.max(b)).collect(),
        };
        self.op(
            Op::Binary(Binary { function, activation: Activation::Linear }),
            &[a, b],
            DType::F32,
            &shape,
        )
    }

    pub fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(BinaryFunction::Add, a, b)
    }

    pub fn sub(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(BinaryFunction::Sub, a, b)
    }

    pub fn mul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(BinaryFunction::Mul, a, b)
    }

    pub fn act(&mut self, activation: Activation, x: ValueId) -> ValueId {
        let shape = self.shape(x);
        self.op(Op::Activation(activation), &[x], DType::F32, &shape)
    }

    /// x · new weights, stored `[inputs, outputs]`.
    pub fn dense(&mut self, x: ValueId, width: usize) -> ValueId {
        let shape = self.shape(x);
        let w = self.weights(&[shape[1], width]);
        let op =
            Op::MatMul(MatMul { transpose_a: false, transpose_b: false, asymmetric_inputs: false });
        self.op(op, &[x, w], DType::F32, &[shape[0], width])
    }

    /// R h + b + W x, in an order that no framework writes.
    pub fn gate(&mut self, x: ValueId, h: ValueId, width: usize) -> ValueId {
        let (recurrent, input, bias) =
            (self.dense(h, width), self.dense(x, width), self.weights(&[width]));
        let sum = self.add(recurrent, bias);
        self.add(sum, input)
    }

    /// The entry of `x` at index `t` of an axis.
    pub fn entry(&mut self, x: ValueId, t: ValueId, axis: i64) -> ValueId {
        let mut shape = self.shape(x);
        shape.remove(usize::try_from(axis).unwrap());
        self.op(Op::Gather(Gather { axis, batch_dims: 0 }), &[x, t], DType::F32, &shape)
    }

    /// `TIME − 1 − t`
    pub fn index_backwards(&mut self, t: ValueId) -> ValueId {
        let last = self.graph.add_constant("last", Tensor::scalar(TIME as i32 - 1));
        let minus = Binary { function: BinaryFunction::Sub, activation: Activation::Linear };
        self.op(Op::Binary(minus), &[last, t], DType::I32, &[])
    }

    /// `activation(R h + W x + b)`
    pub fn gate_as(&mut self, activation: Activation, x: ValueId, h: ValueId) -> ValueId {
        let sum = self.gate(x, h, UNITS);
        self.act(activation, sum)
    }

    /// A step of an LSTM.
    pub fn lstm(&mut self, x: ValueId, h: ValueId, c: ValueId) -> (ValueId, ValueId) {
        let [i, f, o] = [Activation::Sigmoid; 3].map(|gate| self.gate_as(gate, x, h));
        let g = self.gate_as(Activation::Tanh, x, h);
        let (kept, new) = (self.mul(f, c), self.mul(i, g));
        let c = self.add(kept, new);
        let m = self.act(Activation::Tanh, c);
        (self.mul(o, m), c)
    }

    pub fn clip(&mut self, x: ValueId, low: f32, high: f32) -> ValueId {
        let (low, high) = (self.scalar(low), self.scalar(high));
        let bounded = self.binary(BinaryFunction::Minimum, high, x);
        self.binary(BinaryFunction::Maximum, bounded, low)
    }
}

/// What a step gets and gives: input, old states, the counter, the lengths; new states and the
/// entry of the output list.
pub type StepFn = fn(&mut Net, ValueId, &[ValueId], ValueId, ValueId) -> (Vec<ValueId>, ValueId);

/// How a loop goes through its list.
#[derive(Clone, Copy)]
pub struct Form {
    pub x: [usize; 3],
    /// The entry of the list at the counter.
    pub read: fn(&mut Net, ValueId, ValueId) -> ValueId,
    /// The index of the entry that is written.
    pub written: fn(&mut Net, ValueId) -> ValueId,
}

/// `[T, B, I]`, from the first entry to the last.
pub const PLAIN: Form =
    Form { x: [TIME, BATCH, INPUT], read: |net, x, t| net.entry(x, t, 0), written: |_, t| t };

/// A loop of `trips` iterations of `step` with states of these widths.
pub fn looped(step: StepFn, widths: &[usize], trips: usize) -> Graph {
    looped_as(PLAIN, step, widths, trips)
}

/// As [`looped`], in another form.
pub fn looped_as(form: Form, step: StepFn, widths: &[usize], trips: usize) -> Graph {
    let mut outer = Net::new(7);
    let x = outer.input("x", DType::F32, &form.x);
    let lengths = outer.input("lengths", DType::I32, &[BATCH]);
    let states: Vec<ValueId> = widths
        .iter()
        .enumerate()
        .map(|(k, &n)| outer.input(&format!("s{k}"), DType::F32, &[BATCH, n]))
        .collect();

    let mut body = Net::new(11);
    let (t, xs) = (body.input("t", DType::I32, &[]), body.input("x", DType::F32, &form.x));
    let rows = body.input("lengths", DType::I32, &[BATCH]);
    let old: Vec<ValueId> =
        widths.iter().map(|&n| body.input("s", DType::F32, &[BATCH, n])).collect();
    let x_t = (form.read)(&mut body, xs, t);
    let (new, item) = step(&mut body, x_t, &old, t, rows);
    let item_shape = body.shape(item);
    let list_shape = [&[TIME][..], &item_shape].concat();
    let list = body.input("list", DType::F32, &list_shape);
    let at = (form.written)(&mut body, t);
    let written = body.op(Op::SetItem, &[list, at, item], DType::F32, &list_shape);
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
    let bound = condition.graph.add_constant("bound", Tensor::scalar(trips as i32));
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

pub fn count(graph: &Graph) -> (usize, usize) {
    let is = |f: fn(&Op) -> bool| graph.nodes.iter().filter(|node| f(&node.op)).count();
    (is(|op| matches!(op, Op::Recurrent(_))), is(|op| matches!(op, Op::While(_))))
}

/// Runs the passes, and checks that the graph computes what it did; returns it with the reasons of
/// what was declined.
pub fn fused(graph: Graph) -> (Graph, String) {
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

pub fn fuses(step: StepFn, widths: &[usize], layers: usize) -> Graph {
    let (graph, reasons) = fused(looped(step, widths, TIME));
    assert_eq!(count(&graph), (layers, 0), "{reasons}");
    graph
}
