#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use super::*;
use crate::ErrorKind;
use crate::graph::op::{
    Activation, Binary, BinaryFunction, Concat, Custom, FullyConnected, Op, Pack, StridedSlice,
    Unary, While,
};
use crate::graph::{Dim, Port, Reset, State, ValueType};
use crate::tensor::DType;

const NEG: Op = Op::Unary(Unary::Neg);
const ADD: Op =
    Op::Binary(Binary { function: BinaryFunction::Add, activation: Activation::Linear });

/// A graph that is written one line a value.
struct Build(Graph);

impl Build {
    fn new() -> Self {
        Build(Graph::default())
    }

    fn input(&mut self, name: &str, dims: &[Dim]) -> ValueId {
        let value = self.0.add_value(name, ValueType::symbolic(DType::F32, dims.to_vec()));
        self.0.inputs.push(Port { name: name.into(), value });
        value
    }

    fn node(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> ValueId {
        let of_x =
            inputs.first().and_then(|&x| self.0.get(x)).map_or(DType::F32, |value| value.ty.dtype);
        let dtype = match op {
            Op::Shape(_) => DType::I32,
            Op::Fill => DType::F32,
            _ => of_x,
        };
        let value = self.0.add_value(name, ValueType::unranked(dtype));
        self.0.add_node(name, op, inputs.iter().map(|&id| Some(id)).collect(), vec![Some(value)]);
        value
    }

    fn output(&mut self, value: ValueId) {
        self.0.outputs.push(Port { name: "y".into(), value });
    }

    fn plan(self, shapes: &[&[usize]]) -> Result<Plan> {
        crate::graph::check::check(&self.0).unwrap();
        Plan::new(&Arc::new(self.0), &shapes.iter().map(|shape| shape.to_vec()).collect::<Vec<_>>())
    }
}

fn k(size: usize) -> Dim {
    Dim::Known(size)
}

#[test]
fn shapes_follow_from_the_inputs() {
    let mut b = Build::new();
    let batch = b.0.add_symbol("batch");
    let x = b.input("x", &[batch, k(4)]);
    let w = b.0.add_constant("w", Tensor::zeros(DType::F32, &[5, 4]).unwrap());
    let dense = FullyConnected {
        activation: Activation::Linear,
        keep_leading_axes: false,
        asymmetric_inputs: false,
    };
    let y = b.node("dense", Op::FullyConnected(dense), &[x, w]);
    b.output(y);
    let plan = b.plan(&[&[7, 4]]).unwrap();
    assert_eq!(plan.shape(y), Some(&[7, 5][..]));
    assert_eq!(plan.steps, [NodeId(0)]);
    assert!(plan.values[1].known.is_some(), "constants are known");
    assert!(plan.values[2].kept);
    assert_eq!(plan.peak_bytes, 4 * (7 * 4 + 7 * 5));
}

#[test]
fn one_symbol_has_one_size() {
    let mut b = Build::new();
    let batch = b.0.add_symbol("batch");
    let x = b.input("x", &[batch, k(4)]);
    let z = b.input("z", &[k(4), batch]);
    b.output(x);
    b.output(z);
    let error = b.plan(&[&[7, 4], &[4, 3]]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(
        error.to_string(),
        "input \"z\": expected [batch] = 7 on axis 1, as input \"x\" has it, found [4, 3]"
    );
}

#[test]
fn ranks_and_counts_of_inputs_are_checked() {
    let make = || {
        let mut b = Build::new();
        let batch = b.0.add_symbol("batch");
        let x = b.input("x", &[batch, k(4)]);
        b.output(x);
        b
    };
    let error = make().plan(&[&[4]]).unwrap_err();
    assert_eq!(error.to_string(), "input \"x\": expected shape [batch, 4], found [4]");
    assert_eq!(make().plan(&[]).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(make().plan(&[&[1 << 30, 1 << 30]]).unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!(make().plan(&[&[0, 4]]).unwrap().peak_bytes, 0);
}

#[test]
fn a_fixed_size_may_change_where_the_nodes_can_follow() {
    let make = || {
        let mut b = Build::new();
        let x = b.input("x", &[k(1), k(4)]);
        let c = b.0.add_constant("c", Tensor::zeros(DType::F32, &[4]).unwrap());
        let y = b.node("sum", ADD, &[x, c]);
        b.output(y);
        (b, y)
    };
    let (b, y) = make();
    assert_eq!(b.plan(&[&[3, 4]]).unwrap().shape(y), Some(&[3, 4][..]));
    let (b, _) = make();
    let error = b.plan(&[&[3, 5]]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let text = error.to_string();
    assert!(text.contains("input \"x\": declared [1, 4], given [3, 5]"), "{text}");
    assert!(text.contains("node 0 (sum, Add)"), "{text}");
}

#[test]
fn a_shape_is_known_without_its_tensor() {
    let mut b = Build::new();
    let x = b.input("x", &[Dim::Unknown, k(4)]);
    let z = b.input("z", &[Dim::Unknown, k(2)]);
    let big = b.node("negated", NEG, &[x]);
    let shape = b.node("shape", Op::Shape(DType::I32), &[big]);
    let y = b.node("y", Op::Reshape, &[z, shape]);
    b.output(y);
    let plan = b.plan(&[&[3, 4], &[6, 2]]).unwrap();
    assert_eq!(plan.known(shape).unwrap().to_i64().unwrap(), [3, 4]);
    assert_eq!(plan.shape(y), Some(&[3, 4][..]));
    assert_eq!(
        plan.steps,
        [NodeId(2)],
        "neither the shape nor what it is the shape of is computed"
    );
}

#[test]
fn arithmetic_on_shapes_is_done_while_planning() {
    // y = reshape(x, [batch, 8]) with the batch taken from x's own shape, as Keras writes it.
    let mut b = Build::new();
    let x = b.input("x", &[Dim::Unknown, k(2), k(4)]);
    let [zero, one, eight] =
        [0i32, 1, 8].map(|n| b.0.add_constant("", Tensor::from_slice(&[1], &[n]).unwrap()));
    let none = b.0.add_constant("", Tensor::from_slice::<i32>(&[0], &[]).unwrap());
    let eight = b.node("scalar", Op::Reshape, &[eight, none]);
    let shape = b.node("shape", Op::Shape(DType::I32), &[x]);
    let first = StridedSlice { shrink_axis_mask: 1, ..StridedSlice::default() };
    let batch = b.node("batch", Op::StridedSlice(first), &[shape, zero, one, one]);
    let target = b.node("target", Op::Pack(Pack { axis: 0 }), &[batch, eight]);
    let y = b.node("y", Op::Reshape, &[x, target]);
    b.output(y);
    let plan = b.plan(&[&[5, 2, 4]]).unwrap();
    assert_eq!(plan.shape(y), Some(&[5, 8][..]));
    assert_eq!(plan.known(target).unwrap().to_i64().unwrap(), [5, 8]);
    assert_eq!(plan.steps.len(), 1, "only the reshape runs");
}

#[test]
fn known_values_stay_small_however_many_nodes_ask() {
    let mut b = Build::new();
    let shape = b.0.add_constant("shape", Tensor::from_slice(&[1], &[65_536i32]).unwrap());
    let larger = b.0.add_constant("larger", Tensor::from_slice(&[1], &[65_537i32]).unwrap());
    let value = b.0.add_constant("value", Tensor::scalar(1.0f32));
    for _ in 0..1000 {
        let y = b.node("ones", Op::Fill, &[shape, value]);
        b.output(y);
    }
    let y = b.node("many", Op::Fill, &[larger, value]);
    b.output(y);
    let plan = b.plan(&[]).unwrap();
    let known = plan.values.iter().filter_map(|value| value.known.as_ref());
    let elements: usize = known.map(Tensor::len).sum();
    assert!((1..=1 << 24).contains(&elements), "{elements}");
    assert!(plan.known(y).is_none());
    assert!(plan.steps.len() > 700, "the rest is left to the run");
}

#[test]
fn dead_nodes_are_left_out_and_uses_counted() {
    let mut b = Build::new();
    let x = b.input("x", &[k(2)]);
    let a = b.node("a", NEG, &[x]);
    b.node("dead", NEG, &[a]);
    let c = b.node("c", ADD, &[x, a]);
    let d = b.node("d", ADD, &[a, c]);
    b.output(d);
    let plan = b.plan(&[&[2]]).unwrap();
    assert_eq!(plan.steps, [NodeId(0), NodeId(2), NodeId(3)]);
    let last = |id: ValueId| plan.values[id.index()].last_use;
    assert_eq!([last(x), last(a), last(c), last(d)], [Some(1), Some(2), Some(2), None]);
    // x, a, c and d of 8 bytes live at once; the dead node's result never does.
    assert_eq!(plan.peak_bytes, 32);
}

#[test]
fn values_are_freed_after_their_last_use() {
    let mut b = Build::new();
    let mut last = b.input("x", &[k(1000)]);
    for _ in 0..50 {
        last = b.node("n", NEG, &[last]);
    }
    b.output(last);
    assert_eq!(
        b.plan(&[&[1000]]).unwrap().peak_bytes,
        3 * 4000,
        "the input, one operand and one result"
    );
}

#[test]
fn a_run_over_the_memory_limit_is_refused_with_the_number() {
    let mut b = Build::new();
    let x = b.input("x", &[Dim::Unknown]);
    let y = b.node("y", NEG, &[x]);
    b.output(y);
    let graph = Arc::new(b.0);
    let options = PlanOptions { memory_limit: 1000 };
    Plan::with_options(&graph, &[vec![125]], options).unwrap();
    let error = Plan::with_options(&graph, &[vec![126]], options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert_eq!(
        error.to_string(),
        "node 0 (y, Neg): a run needs 1008 bytes at this node, the limit is 1000"
    );
}

#[test]
fn a_state_takes_its_batch_from_what_is_written() {
    let mut b = Build::new();
    let x = b.input("x", &[k(1), k(4)]);
    let state = b.0.add_value("state", ValueType::fixed(DType::F32, &[1, 4]));
    let next = b.node("next", ADD, &[x, state]);
    let y = b.node("y", NEG, &[state]);
    b.0.states.push(State { name: "memory".into(), value: state, next, reset: Reset::Fill(0) });
    b.output(y);
    let plan = b.plan(&[&[3, 4]]).unwrap();
    assert_eq!(plan.state_shapes, [vec![3, 4]]);
    assert_eq!(
        plan.shape(y),
        Some(&[3, 4][..]),
        "what follows from the state alone has its shape too"
    );
    assert!(plan.values[next.index()].kept);
}

#[test]
fn a_state_that_no_node_writes_keeps_its_shape() {
    let mut b = Build::new();
    let state = b.0.add_value("state", ValueType::fixed(DType::F32, &[2, 4]));
    b.0.states.push(State {
        name: "memory".into(),
        value: state,
        next: state,
        reset: Reset::Fill(0),
    });
    let y = b.node("y", NEG, &[state]);
    b.output(y);
    assert_eq!(b.plan(&[]).unwrap().state_shapes, [vec![2, 4]]);
}

#[test]
fn a_state_that_grows_is_refused() {
    let mut b = Build::new();
    let state = b.0.add_value("state", ValueType::fixed(DType::F32, &[1, 4]));
    let x = b.input("x", &[k(1), k(4)]);
    let concat = Op::Concat(Concat { axis: 0, activation: Activation::Linear });
    let next = b.node("next", concat, &[state, x]);
    b.0.states.push(State { name: "memory".into(), value: state, next, reset: Reset::Fill(0) });
    let error = b.plan(&[&[1, 4]]).unwrap_err();
    assert!(error.to_string().contains("found [1, 4] and [2, 4]"), "{error}");
}

#[test]
fn an_op_known_by_name_only_cannot_run_unless_it_is_dead() {
    let make = |alive: bool| {
        let mut b = Build::new();
        let x = b.input("x", &[k(1)]);
        let y = b.node("y", Op::Custom(Custom { name: "Mystery".into(), options: vec![] }), &[x]);
        b.output(if alive { y } else { x });
        b.plan(&[&[1]])
    };
    assert_eq!(make(true).unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(make(false).unwrap().steps.is_empty());
}

/// A loop over `x` and `list`: `x` stays as it is, `list` grows by `x` each round.
fn growing() -> While {
    let mut body = Build::new();
    let x = body.input("x", &[Dim::Unknown, k(4)]);
    let list = body.input("list", &[Dim::Unknown, k(4)]);
    let grown = body.node(
        "grown",
        Op::Concat(Concat { axis: 0, activation: Activation::Linear }),
        &[list, x],
    );
    body.output(x);
    body.output(grown);
    let mut condition = Build::new();
    condition.input("x", &[Dim::Unknown, k(4)]);
    condition.input("list", &[Dim::Unknown, k(4)]);
    let always = condition.0.add_constant("true", Tensor::scalar(true));
    condition.output(always);
    While { condition: condition.0, body: body.0 }
}

#[test]
fn sizes_that_a_loop_keeps_are_known_after_it() {
    let mut b = Build::new();
    let x = b.input("x", &[k(1), k(4)]);
    let list = b.input("list", &[k(1), k(4)]);
    let outputs: Vec<_> = ["x'", "list'"]
        .map(|name| b.0.add_value(name, ValueType::unranked(DType::F32)))
        .into_iter()
        .collect();
    b.0.add_node(
        "loop",
        Op::While(Box::new(growing())),
        vec![Some(x), Some(list)],
        outputs.iter().map(|&id| Some(id)).collect(),
    );
    b.output(outputs[0]);
    b.output(outputs[1]);
    let plan = b.plan(&[&[3, 4], &[3, 4]]).unwrap();
    assert_eq!(plan.shape(outputs[0]), Some(&[3, 4][..]));
    assert_eq!(plan.shape(outputs[1]), None);
}

#[test]
fn a_hundred_thousand_nodes_take_linear_time() {
    let mut b = Build::new();
    let mut last = b.input("x", &[Dim::Unknown, k(3)]);
    for _ in 0..100_000 {
        last = b.node("n", NEG, &[last]);
    }
    b.output(last);
    let start = std::time::Instant::now();
    assert_eq!(b.plan(&[&[2, 3]]).unwrap().steps.len(), 100_000);
    assert!(start.elapsed().as_secs() < 10, "about 0.1 s; a quadratic walk would take minutes");
}
