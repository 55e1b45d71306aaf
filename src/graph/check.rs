//! The checker, run after every reader and every pass.

use super::infer::{Operand, arity, has_output, infer};
use super::types::{Dim, ValueType};
use super::{Graph, Node, Op, Reset, State, Value, ValueId};
use crate::error::{Error, Place, Result};

/// Loops in loops: deeper ones are refused, so that no walk over nested graphs runs out of stack.
pub const MOST_NESTED_LOOPS: usize = 16;

/// Checks a whole graph: indices in range, every value computed once and before it is used, operand
/// counts, types and shapes of every node ([`infer`]), weights of recurrent ops against each other,
/// ports and states.
///
/// # Errors
/// [`InvalidGraph`](crate::ErrorKind::InvalidGraph) with the node's name and index.
pub fn check(graph: &Graph) -> Result<()> {
    check_nested(graph, 0).map(drop)
}

/// Checks a whole graph as [`check`] does, and declares what inference found: ranks and sizes that
/// a file left open.
///
/// States keep their declaration, whose batch size is one of many.
///
/// # Errors
/// As [`check`]; the graph is then as it was.
pub fn refine(graph: &mut Graph) -> Result<()> {
    let types = check_nested(graph, 0)?;
    declare(graph, types)
}

fn declare(graph: &mut Graph, types: Vec<Option<ValueType>>) -> Result<()> {
    let mut is_state = vec![false; graph.values.len()];
    for state in &graph.states {
        if let Some(slot) = is_state.get_mut(state.value.index()) {
            *slot = true;
        }
    }
    for ((value, ty), is_state) in graph.values.iter_mut().zip(types).zip(is_state) {
        if let (Some(ty), false) = (ty, is_state) {
            value.ty.shape = ty.shape;
        }
    }
    for node in &mut graph.nodes {
        if let Op::While(body) = &mut node.op {
            for inner in [&mut body.condition, &mut body.body] {
                let types = check_nested(inner, 1)?;
                declare(inner, types)?;
            }
        }
    }
    Ok(())
}

/// The types of all values, as exactly as declarations and inference tell.
fn check_nested(graph: &Graph, depth: usize) -> Result<Vec<Option<ValueType>>> {
    if depth > MOST_NESTED_LOOPS {
        return Err(Error::limit(format!("loops are nested more than {MOST_NESTED_LOOPS} deep")));
    }
    if depth > 0 && !graph.states.is_empty() {
        return Err(Error::graph(format!(
            "expected no states in a loop, found {}",
            graph.states.len()
        )));
    }
    let mut check = Check::new(graph)?;
    for (index, node) in graph.nodes.iter().enumerate() {
        check.node(node).within(|| place(index, node))?;
        if let Op::While(body) = &node.op {
            check_nested(&body.condition, depth + 1)
                .within(|| format!("{} / condition", place(index, node)))?;
            check_nested(&body.body, depth + 1)
                .within(|| format!("{} / body", place(index, node)))?;
        }
    }
    check.results()?;
    Ok(check.types)
}

/// How a node is named in messages: `node 3 (lstm, Recurrent)`.
pub(crate) fn place(index: usize, node: &Node) -> String {
    if node.name.is_empty() {
        format!("node {index} ({})", node.op.name())
    } else {
        format!("node {index} ({}, {})", node.name, node.op.name())
    }
}

/// The type of a state's value before the run: its batch size is open, because it follows what is
/// written to it.
pub(crate) fn state_type(declared: &ValueType) -> ValueType {
    let mut ty = declared.clone();
    if let Some([batch, _, ..]) = ty.shape.as_deref_mut() {
        *batch = Dim::Unknown;
    }
    ty
}

struct Check<'a> {
    graph: &'a Graph,
    /// What is known of each value so far: declared, refined by inference. `None` before the value
    /// is computed.
    types: Vec<Option<ValueType>>,
}

impl<'a> Check<'a> {
    fn new(graph: &'a Graph) -> Result<Self> {
        let mut check = Check { graph, types: vec![None; graph.values.len()] };
        for (index, value) in graph.values.iter().enumerate() {
            declared(graph, value).within(|| format!("value {index} ({})", value.name))?;
            if value.constant.is_some() {
                check.types[index] = Some(value.ty.clone());
            }
        }
        for (index, port) in graph.inputs.iter().enumerate() {
            let place = || format!("input {index} ({})", port.name);
            let ty = check.value(port.value).within(place)?.ty.clone();
            check.define(port.value, ty).within(place)?;
        }
        for (index, state) in graph.states.iter().enumerate() {
            let place = || format!("state {index} ({})", state.name);
            let ty = state_type(&check.value(state.value).within(place)?.ty);
            check.define(state.value, ty).within(place)?;
        }
        Ok(check)
    }

    fn value(&self, id: ValueId) -> Result<&'a Value> {
        let count = self.graph.values.len();
        self.graph.get(id).ok_or_else(|| {
            Error::graph(format!("expected the index of one of {count} values, found {}", id.0))
        })
    }

    /// Notes that a value is given or computed here; a second time is an error.
    fn define(&mut self, id: ValueId, ty: ValueType) -> Result<()> {
        let value = self.value(id)?;
        match self.types.get_mut(id.index()) {
            Some(slot @ None) => {
                *slot = Some(ty);
                Ok(())
            }
            _ => Err(Error::graph(format!(
                "value {} ({}) has a source already: it is a constant, an input, a state or another node's result",
                id.0, value.name
            ))),
        }
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        let (_, most) = arity(&node.op);
        if node.inputs.len() > most {
            return Err(Error::graph(format!(
                "expected at most {most} operand slots, found {}",
                node.inputs.len()
            )));
        }
        let mut operands = Vec::with_capacity(node.inputs.len());
        for (slot, input) in node.inputs.iter().enumerate() {
            operands.push(
                input
                    .map(|id| self.operand(id))
                    .transpose()
                    .within(|| format!("operand {slot}"))?,
            );
        }
        let results = infer(&node.op, &operands, node.outputs.len())?;
        for (slot, output) in node.outputs.iter().enumerate() {
            let Some(id) = *output else { continue };
            let place = || format!("result {slot}");
            let ty = self.result(node, id, slot, &results).within(place)?;
            self.define(id, ty).within(place)?;
        }
        Ok(())
    }

    fn operand(&self, id: ValueId) -> Result<Operand<'_>> {
        let value = self.value(id)?;
        let ty = self.types.get(id.index()).and_then(Option::as_ref).ok_or_else(|| {
            Error::graph(format!("value {} ({}) is used before it is computed", id.0, value.name))
        })?;
        Ok(Operand { ty, known: value.constant.as_ref() })
    }

    /// The type of a result: inferred, refined by the declared sizes, which must agree.
    fn result(
        &self,
        node: &Node,
        id: ValueId,
        slot: usize,
        results: &[ValueType],
    ) -> Result<ValueType> {
        let declared = &self.value(id)?.ty;
        if matches!(node.op, Op::Custom(_)) {
            return Ok(declared.clone());
        }
        if let Op::Recurrent(layer) = &node.op
            && !has_output(layer, slot)
        {
            return Err(Error::graph(format!("the layer has no result in slot {slot}")));
        }
        let Some(inferred) = results.get(slot) else {
            return Err(Error::graph(format!("expected at most {} results", results.len())));
        };
        // What Quantize makes is for the declared type to say.
        let quantize = matches!(node.op, Op::Quantize) && !declared.dtype.is_float();
        let dtype_agrees = quantize || declared.dtype == inferred.dtype;
        let shape = merge(declared.shape.as_deref(), inferred.shape.as_deref());
        let (true, Ok(shape)) = (dtype_agrees, shape) else {
            return Err(Error::graph(format!(
                "expected {}, found the declaration {}",
                show(inferred),
                show(declared)
            )));
        };
        Ok(ValueType { dtype: declared.dtype, shape, quantization: None })
    }

    fn results(&self) -> Result<()> {
        for (index, port) in self.graph.outputs.iter().enumerate() {
            self.operand(port.value).within(|| format!("output {index} ({})", port.name))?;
        }
        for (index, state) in self.graph.states.iter().enumerate() {
            self.state(state).within(|| format!("state {index} ({})", state.name))?;
        }
        Ok(())
    }

    /// What is written to a state must be of its type: the same elements and sizes, but for the
    /// batch.
    fn state(&self, state: &State) -> Result<()> {
        let before = self.operand(state.value)?.ty;
        let after = self.operand(state.next)?.ty;
        if before.dtype != after.dtype
            || merge(before.shape.as_deref(), after.shape.as_deref()).is_err()
        {
            return Err(Error::graph(format!(
                "expected {}, found {} written to it",
                show(before),
                show(after)
            )));
        }
        if let Reset::Tensor(stored) = &state.reset {
            let own = ValueType::fixed(stored.dtype(), stored.shape());
            if own.dtype != before.dtype
                || merge(before.shape.as_deref(), own.shape.as_deref()).is_err()
            {
                return Err(Error::graph(format!(
                    "expected {}, found a reset to {}",
                    show(before),
                    show(&own)
                )));
            }
        }
        Ok(())
    }
}

/// A value's own declaration: a constant is of the declared type, symbols exist, scales are usable.
fn declared(graph: &Graph, value: &Value) -> Result<()> {
    let ty = &value.ty;
    if let Some(tensor) = &value.constant {
        let own = ValueType::fixed(tensor.dtype(), tensor.shape());
        if own.dtype != ty.dtype || (ty.shape.is_some() && ty.shape != own.shape) {
            return Err(Error::graph(format!(
                "expected a constant of {}, found {}",
                show(ty),
                show(&own)
            )));
        }
    }
    for dim in ty.shape.iter().flatten() {
        if let Dim::Symbol(symbol) = dim
            && symbol.index() >= graph.symbols.len()
        {
            return Err(Error::graph(format!(
                "expected one of {} symbols, found {dim}",
                graph.symbols.len()
            )));
        }
    }
    let Some(quantization) = &ty.quantization else {
        return Ok(());
    };
    let count = quantization.scales.len();
    if count == 0 || quantization.zero_points.len() != count {
        return Err(Error::graph(format!(
            "quantization: expected as many zero points as scales, found {} and {count}",
            quantization.zero_points.len()
        )));
    }
    if let Some(scale) =
        quantization.scales.iter().find(|scale| !(scale.is_finite() && **scale >= 0.0))
    {
        return Err(Error::graph(format!(
            "quantization: expected scales of 0 or more, found {scale}"
        )));
    }
    let axis = ty.shape.as_ref().map(|shape| shape.get(quantization.axis).copied());
    match axis {
        Some(size)
            if count > 1 && !size.is_some_and(|size| size.agrees_with(Dim::Known(count))) =>
        {
            Err(Error::graph(format!(
                "quantization: expected {count} entries on axis {}, found {}",
                quantization.axis,
                show(ty)
            )))
        }
        _ => Ok(()),
    }
}

/// Both shapes in one, as exactly as either knows it; `Err` when they contradict each other.
fn merge(a: Option<&[Dim]>, b: Option<&[Dim]>) -> Result<Option<Vec<Dim>>, ()> {
    match (a, b) {
        (Some(a), Some(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .map(|(&a, &b)| if a.agrees_with(b) { Ok(a.refined_by(b)) } else { Err(()) })
            .collect::<Result<_, ()>>()
            .map(Some),
        (Some(_), Some(_)) => Err(()),
        (one, other) => Ok(one.or(other).map(<[Dim]>::to_vec)),
    }
}

fn show(ty: &ValueType) -> String {
    format!("{} {}", ty.dtype, super::infer::show(ty.shape.as_deref()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::super::op::{Activation, Custom, Unary, While};
    use super::super::types::Symbol;
    use super::super::{Port, State};
    use super::*;
    use crate::tensor::{DType, Tensor};

    fn float(shape: &[usize]) -> ValueType {
        ValueType::fixed(DType::F32, shape)
    }

    /// x [2, 3] → tanh → y.
    fn small() -> (Graph, ValueId, ValueId) {
        let mut graph = Graph::default();
        let x = graph.add_value("x", float(&[2, 3]));
        let y = graph.add_value("y", float(&[2, 3]));
        graph.inputs.push(Port { name: "x".into(), value: x });
        graph.outputs.push(Port { name: "y".into(), value: y });
        graph.add_node("squash", Op::Activation(Activation::Tanh), vec![Some(x)], vec![Some(y)]);
        (graph, x, y)
    }

    fn complaint(graph: &Graph) -> String {
        check(graph).unwrap_err().to_string()
    }

    #[test]
    fn a_sound_graph_passes() {
        check(&small().0).unwrap();
        check(&Graph::default()).unwrap();
    }

    #[test]
    fn an_operand_index_out_of_range_is_named() {
        let (mut graph, ..) = small();
        graph.nodes[0].inputs[0] = Some(ValueId(u32::MAX));
        assert_eq!(
            complaint(&graph),
            "node 0 (squash, Tanh): operand 0: expected the index of one of 2 values, found 4294967295"
        );
    }

    #[test]
    fn a_value_used_before_it_is_computed_is_refused() {
        let (mut graph, x, y) = small();
        let z = graph.add_value("z", float(&[2, 3]));
        graph.nodes[0].inputs[0] = Some(z);
        graph.add_node("late", Op::Unary(Unary::Neg), vec![Some(x)], vec![Some(z)]);
        assert!(complaint(&graph).contains("value 2 (z) is used before it is computed"));
        graph.nodes[0].inputs[0] = Some(y);
        assert!(complaint(&graph).contains("value 1 (y) is used before"), "its own result");
    }

    #[test]
    fn a_value_with_two_sources_is_refused() {
        let (mut graph, x, y) = small();
        graph.add_node("again", Op::Unary(Unary::Neg), vec![Some(x)], vec![Some(y)]);
        assert!(
            complaint(&graph)
                .starts_with("node 1 (again, Neg): result 0: value 1 (y) has a source already")
        );
        let (mut graph, x, _) = small();
        graph.nodes[0].outputs[0] = Some(x);
        assert!(
            complaint(&graph).contains("value 0 (x) has a source"),
            "the same tensor in and out (CVE-2020-15210)"
        );
        let (mut graph, x, _) = small();
        graph.inputs.push(Port { name: "twice".into(), value: x });
        assert!(complaint(&graph).starts_with("input 1 (twice)"));
        let (mut graph, x, y) = small();
        graph.states.push(State { name: "s".into(), value: x, next: y, reset: Reset::Fill(0) });
        assert!(complaint(&graph).starts_with("state 0 (s)"));
        let (mut graph, _, y) = small();
        graph.values[y.index()].constant = Some(Tensor::zeros(DType::F32, &[2, 3]).unwrap());
        assert!(complaint(&graph).contains("has a source already"));
    }

    #[test]
    fn a_state_shared_by_two_is_refused() {
        let (mut graph, x, _) = small();
        let s = graph.add_value("s", float(&[2, 3]));
        for name in ["one", "two"] {
            graph.states.push(State {
                name: name.into(),
                value: s,
                next: x,
                reset: Reset::Fill(0),
            });
        }
        assert!(complaint(&graph).starts_with("state 1 (two)"));
    }

    #[test]
    fn a_state_may_change_its_batch_and_nothing_else() {
        let (mut graph, _, y) = small();
        let s = graph.add_value("s", float(&[1, 3]));
        graph.states.push(State { name: "s".into(), value: s, next: y, reset: Reset::Fill(0) });
        check(&graph).unwrap();
        graph.values[s.index()].ty = float(&[2, 4]);
        assert!(
            complaint(&graph)
                .contains("expected float32 [?, 4], found float32 [2, 3] written to it")
        );
        graph.values[s.index()].ty = ValueType::fixed(DType::I8, &[2, 3]);
        assert!(complaint(&graph).contains("expected int8"));
    }

    #[test]
    fn declarations_that_contradict_the_node_are_refused() {
        for (ty, says) in [
            (float(&[2, 4]), "expected float32 [2, 3], found the declaration float32 [2, 4]"),
            (float(&[6]), "found the declaration float32 [6]"),
            (ValueType::fixed(DType::I32, &[2, 3]), "found the declaration int32 [2, 3]"),
            (
                ValueType::symbolic(DType::F32, vec![Dim::Symbol(Symbol(0)), Dim::Unknown]),
                "one of 0 symbols",
            ),
        ] {
            let (mut graph, _, y) = small();
            graph.values[y.index()].ty = ty;
            assert!(complaint(&graph).contains(says), "{}", complaint(&graph));
        }
        let (mut graph, _, y) = small();
        graph.values[y.index()].ty = ValueType::unranked(DType::F32);
        check(&graph).unwrap();
    }

    #[test]
    fn a_constant_of_another_type_is_refused() {
        let (mut graph, ..) = small();
        let c = graph.add_constant("c", Tensor::zeros(DType::F32, &[2]).unwrap());
        graph.values[c.index()].ty = float(&[3]);
        assert!(complaint(&graph).starts_with("value 2 (c): expected a constant of float32 [3]"));
    }

    #[test]
    fn refining_declares_what_was_left_open() {
        let (mut graph, _, y) = small();
        graph.values[y.index()].ty = ValueType::unranked(DType::F32);
        let s = graph.add_value("s", float(&[1, 3]));
        graph.states.push(State { name: "s".into(), value: s, next: y, reset: Reset::Fill(0) });
        refine(&mut graph).unwrap();
        assert_eq!(graph.get(y).unwrap().ty, float(&[2, 3]));
        assert_eq!(graph.get(s).unwrap().ty, float(&[1, 3]));
    }

    #[test]
    fn operand_counts_are_checked() {
        let (mut graph, x, _) = small();
        graph.nodes[0].inputs = vec![Some(x), None];
        assert!(complaint(&graph).contains("at most 1 operand slots, found 2"));
        graph.nodes[0].inputs = vec![None];
        assert!(complaint(&graph).contains("expected 1 operands, found 0"));
        let (mut graph, ..) = small();
        let z = graph.add_value("z", float(&[2, 3]));
        graph.nodes[0].outputs.push(Some(z));
        assert!(complaint(&graph).contains("result 1: expected at most 1 results"));
    }

    #[test]
    fn custom_ops_take_their_declared_types() {
        let (mut graph, ..) = small();
        graph.nodes[0].op = Op::Custom(Custom { name: "mystery".into(), options: vec![] });
        graph.values[1].ty = ValueType::fixed(DType::I64, &[7]);
        check(&graph).unwrap();
    }

    /// A loop over one variable `[2, 3]` around `inner`, or around nothing.
    fn around(inner: Option<Graph>) -> Graph {
        let (mut body, x, y) = small();
        if let Some(inner) = inner {
            let condition = endless();
            body.nodes[0].op = Op::While(Box::new(While { condition, body: inner }));
            body.nodes[0].inputs = vec![Some(x)];
            body.nodes[0].outputs = vec![Some(y)];
        }
        body
    }

    fn endless() -> Graph {
        let mut condition = Graph::default();
        let x = condition.add_value("x", float(&[2, 3]));
        let t = condition.add_constant("true", Tensor::scalar(true));
        condition.inputs.push(Port { name: "x".into(), value: x });
        condition.outputs.push(Port { name: "t".into(), value: t });
        condition
    }

    #[test]
    fn loops_nest_up_to_a_limit() {
        let mut graph = around(None);
        for _ in 0..MOST_NESTED_LOOPS {
            graph = around(Some(graph));
        }
        check(&graph).unwrap();
        assert_eq!(check(&around(Some(graph))).unwrap_err().kind(), crate::ErrorKind::Limit);
    }

    #[test]
    fn a_loop_must_fit_its_variables() {
        let mut graph = around(Some(around(None)));
        let Op::While(body) = &mut graph.nodes[0].op else { panic!() };
        body.condition.outputs.clear();
        assert!(complaint(&graph).contains("condition: expected one output, found 0"));
        body_of(&mut graph).condition = endless();
        body_of(&mut graph).body.outputs.clear();
        assert!(complaint(&graph).contains("as many condition inputs and body outputs"));
        body_of(&mut graph).body = around(None);
        body_of(&mut graph).body.values[0].ty.dtype = DType::I32;
        assert!(
            complaint(&graph)
                .contains("loop variable 0: expected float32 [2, 3], body input is int32")
        );
    }

    fn body_of(graph: &mut Graph) -> &mut While {
        match &mut graph.nodes[0].op {
            Op::While(body) => body,
            _ => panic!("expected a loop"),
        }
    }

    #[test]
    fn a_hundred_thousand_nodes_take_linear_time() {
        let mut graph = Graph::default();
        let mut last = graph.add_value("x", float(&[2, 3]));
        graph.inputs.push(Port { name: "x".into(), value: last });
        for _ in 0..100_000 {
            let next = graph.add_value("v", float(&[2, 3]));
            graph.add_node("n", Op::Unary(Unary::Neg), vec![Some(last)], vec![Some(next)]);
            last = next;
        }
        let start = std::time::Instant::now();
        check(&graph).unwrap();
        // About 0.05 s; a quadratic walk would take minutes.
        assert!(start.elapsed().as_secs() < 10);
    }
}
