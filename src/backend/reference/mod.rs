//! The `reference` backend: the equations as written (`eval`), slow and obvious; the judge
//! of every other backend.

use std::sync::Arc;

use super::{Backend, Counters, Io, Program};
use crate::error::{Error, Place, Result};
use crate::eval::interpret::run_node;
use crate::graph::ValueId;
use crate::graph::check::place;
use crate::limits;
use crate::plan::Plan;
use crate::tensor::Tensor;

/// The plain host, one node at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl Backend for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn description(&self) -> String {
        "the equations as written, on the host".to_owned()
    }

    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Program>> {
        Ok(Box::new(ReferenceProgram { plan: Arc::clone(plan), values: Vec::new(), live: 0 }))
    }
}

struct ReferenceProgram {
    plan: Arc<Plan>,
    /// What is computed and not freed yet, by value; empty between runs.
    values: Vec<Option<Tensor>>,
    /// Bytes of these, elements that several share counted for each.
    live: u64,
}

impl Program for ReferenceProgram {
    fn run(&mut self, io: Io<'_>) -> Result<()> {
        self.live = 0;
        self.values.clear();
        self.values.resize(self.plan.graph.values.len(), None);
        let result = self.compute(io);
        self.values.clear();
        result
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

impl ReferenceProgram {
    fn compute(&mut self, io: Io<'_>) -> Result<()> {
        let plan = Arc::clone(&self.plan);
        let graph = &plan.graph;
        let counts = [
            ("inputs", graph.inputs.len(), io.inputs.len()),
            ("states", graph.states.len(), io.states.len()),
            ("outputs", graph.outputs.len(), io.outputs.len()),
        ];
        if let Some((what, expected, found)) =
            counts.iter().find(|(_, expected, found)| expected != found)
        {
            return Err(Error::input(format!("expected {expected} {what}, found {found}")));
        }
        for (port, tensor) in graph.inputs.iter().zip(io.inputs) {
            self.set(port.value, Some(tensor.clone()));
        }
        for (state, tensor) in graph.states.iter().zip(&*io.states) {
            self.set(state.value, Some(tensor.clone()));
        }
        for (position, step) in plan.steps.iter().enumerate() {
            limits::check()?;
            self.step(position, step.index())?;
        }

        // Everything is found before anything is written: a failed run leaves the states as they
        // were.
        let mut next = Vec::with_capacity(graph.states.len());
        for (state, shape) in graph.states.iter().zip(&plan.state_shapes) {
            let tensor = self.get(state.next).within(|| format!("state {:?}", state.name))?;
            if tensor.shape() != shape {
                return Err(Error::input(format!(
                    "state {:?}: expected shape {shape:?}, found {:?}",
                    state.name,
                    tensor.shape()
                )));
            }
            next.push(tensor.clone());
        }
        let results: Vec<Tensor> = graph
            .outputs
            .iter()
            .map(|port| self.get(port.value).cloned())
            .collect::<Result<_>>()?;
        for (slot, tensor) in io.states.iter_mut().zip(next) {
            *slot = tensor;
        }
        for (slot, tensor) in io.outputs.iter_mut().zip(results) {
            if slot.shape() == tensor.shape() && slot.dtype() == tensor.dtype() {
                slot.assign(&tensor);
            } else {
                *slot = tensor;
            }
        }
        Ok(())
    }

    /// Computes one node and frees what no later step reads.
    fn step(&mut self, position: usize, index: usize) -> Result<()> {
        let plan = Arc::clone(&self.plan);
        let results = run_node(&plan.graph, index, |id| self.find(&plan, id))?;
        let node = &plan.graph.nodes[index];
        for (id, result) in node.outputs.iter().zip(results) {
            if let Some(id) = *id {
                self.set(id, result);
            }
        }
        limits::check_live(self.live).within(|| place(index, node))?;
        for id in node.inputs.iter().chain(&node.outputs).flatten() {
            let done = plan.values.get(id.index()).is_some_and(|value| {
                !value.kept && value.last_use.is_none_or(|last| last <= position)
            });
            if done {
                self.set(*id, None);
            }
        }
        Ok(())
    }

    fn find<'a>(&'a self, plan: &'a Plan, id: ValueId) -> Option<&'a Tensor> {
        self.values.get(id.index())?.as_ref().or_else(|| plan.known(id))
    }

    fn get(&self, id: ValueId) -> Result<&Tensor> {
        self.find(&self.plan, id)
            .ok_or_else(|| Error::internal(format!("value {} is not there", id.0)))
    }

    fn set(&mut self, id: ValueId, tensor: Option<Tensor>) {
        let bytes = |tensor: &Option<Tensor>| tensor.as_ref().map_or(0, Tensor::byte_len) as u64;
        if let Some(slot) = self.values.get_mut(id.index()) {
            self.live = self.live.saturating_add(bytes(&tensor)).saturating_sub(bytes(slot));
            *slot = tensor;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::graph::op::{Activation, Binary, BinaryFunction, Op};
    use crate::graph::{Graph, Port, Reset, State, ValueType};
    use crate::tensor::DType;

    fn binary(function: BinaryFunction) -> Op {
        Op::Binary(Binary { function, activation: Activation::Linear })
    }

    /// memory' = memory + x; y = memory' · memory'.
    fn accumulator() -> Arc<Graph> {
        let mut graph = Graph::default();
        let ty = ValueType::fixed(DType::F32, &[1, 2]);
        let [x, memory, next, y] =
            ["x", "memory", "next", "y"].map(|name| graph.add_value(name, ty.clone()));
        graph.inputs.push(Port { name: "x".into(), value: x });
        graph.states.push(State {
            name: "memory".into(),
            value: memory,
            next,
            reset: Reset::Fill(0),
        });
        graph.outputs.push(Port { name: "y".into(), value: y });
        graph.add_node(
            "sum",
            binary(BinaryFunction::Add),
            vec![Some(memory), Some(x)],
            vec![Some(next)],
        );
        graph.add_node(
            "square",
            binary(BinaryFunction::Mul),
            vec![Some(next), Some(next)],
            vec![Some(y)],
        );
        crate::graph::check::check(&graph).unwrap();
        Arc::new(graph)
    }

    #[test]
    fn states_go_from_run_to_run_and_outputs_are_written_in_place() {
        let plan = Arc::new(Plan::new(&accumulator(), &[vec![2, 2]]).unwrap());
        let mut program = Reference.compile(&plan).unwrap();
        let x = [Tensor::from_slice(&[2, 2], &[1.0f32, 2.0, 3.0, 4.0]).unwrap()];
        let mut states = [Tensor::zeros(DType::F32, &plan.state_shapes[0]).unwrap()];
        let mut outputs = [Tensor::zeros(DType::F32, &[2, 2]).unwrap()];
        let place = outputs[0].as_slice::<f32>().unwrap().as_ptr();
        for round in 1..=3 {
            program.run(Io { inputs: &x, states: &mut states, outputs: &mut outputs }).unwrap();
            let n = round as f32;
            assert_eq!(states[0].as_slice::<f32>().unwrap(), [n, 2.0 * n, 3.0 * n, 4.0 * n]);
            assert_eq!(
                outputs[0].as_slice::<f32>().unwrap(),
                [1.0, 4.0, 9.0, 16.0].map(|v| v * n * n)
            );
            assert_eq!(outputs[0].as_slice::<f32>().unwrap().as_ptr(), place);
        }
    }

    #[test]
    fn a_failed_run_leaves_the_states_and_names_the_node() {
        let graph = accumulator();
        let plan = Arc::new(Plan::new(&graph, &[vec![2, 2]]).unwrap());
        let mut program = Reference.compile(&plan).unwrap();
        let x = [Tensor::zeros(DType::F32, &[3, 2]).unwrap()];
        let mut states = [Tensor::filled(DType::F32, &[2, 2], 7).unwrap()];
        let mut outputs = [Tensor::scalar(0.0f32)];
        let error =
            program.run(Io { inputs: &x, states: &mut states, outputs: &mut outputs }).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("node 0 (sum, Add) of float32 [2, 2], float32 [3, 2]: "),
            "{text}"
        );
        assert_eq!(states[0].as_slice::<f32>().unwrap(), [7.0; 4]);
        let error = program
            .run(Io { inputs: &[], states: &mut states, outputs: &mut outputs })
            .unwrap_err();
        assert_eq!(error.to_string(), "expected 1 inputs, found 0");
    }

    #[test]
    fn an_output_that_is_a_constant_or_an_input_is_passed_through() {
        let mut graph = Graph::default();
        let x = graph.add_value("x", ValueType::fixed(DType::F32, &[1]));
        let c = graph.add_constant("c", Tensor::scalar(5i32));
        graph.inputs.push(Port { name: "x".into(), value: x });
        for value in [x, c, c] {
            graph.outputs.push(Port { name: String::new(), value });
        }
        let plan = Arc::new(Plan::new(&Arc::new(graph), &[vec![1]]).unwrap());
        let mut outputs = vec![Tensor::scalar(0.0f32); 3];
        let x = [Tensor::from_slice(&[1], &[2.5f32]).unwrap()];
        let mut program = Reference.compile(&plan).unwrap();
        for _ in 0..2 {
            program.run(Io { inputs: &x, states: &mut [], outputs: &mut outputs }).unwrap();
            assert_eq!(outputs[0], x[0]);
            assert_eq!(outputs[1], Tensor::scalar(5i32));
        }
    }
}
