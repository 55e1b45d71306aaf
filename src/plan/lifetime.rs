//! Which nodes run, how long each value lives, and what that takes of memory.

use std::sync::Arc;

use super::propagate::Facts;
use super::{Plan, PlanOptions, PlannedValue};
use crate::error::{Error, Result};
use crate::graph::check::place;
use crate::graph::{Graph, Node, NodeId, Op, Recurrent, ValueId, ValueType};
use crate::limits::MOST_TENSOR_BYTES;
use crate::tensor::DType;

/// The nodes that an output or a state needs; values for which `given` holds need no node.
pub(super) fn live_nodes(graph: &Graph, given: impl Fn(ValueId) -> bool) -> Vec<bool> {
    let mut needed = vec![false; graph.values.len()];
    let mut need = |id: ValueId| {
        if let Some(slot) = needed.get_mut(id.index())
            && !given(id)
        {
            *slot = true;
        }
    };
    graph.outputs.iter().for_each(|port| need(port.value));
    graph.states.iter().for_each(|state| need(state.next));
    let mut live = vec![false; graph.nodes.len()];
    // Nodes stand after the nodes that compute their inputs, so one pass from the end sees every
    // use before its source.
    for (node, live) in graph.nodes.iter().zip(&mut live).rev() {
        *live = node.outputs.iter().flatten().any(|id| needed.get(id.index()) == Some(&true));
        if *live {
            for id in node.inputs.iter().flatten() {
                if let Some(slot) = needed.get_mut(id.index())
                    && !given(*id)
                {
                    *slot = true;
                }
            }
        }
    }
    live
}

/// Puts the plan together.
pub(super) fn plan(graph: &Arc<Graph>, facts: Facts, options: PlanOptions) -> Result<Plan> {
    let live = live_nodes(graph, |id| facts.known.get(id.index()).is_some_and(Option::is_some));
    let steps: Vec<NodeId> =
        (0u32..).zip(&live).filter(|(_, live)| **live).map(|(index, _)| NodeId(index)).collect();
    let mut values: Vec<PlannedValue> = facts
        .known
        .into_iter()
        .zip(&facts.types)
        .map(|(known, ty)| PlannedValue {
            shape: ty.as_ref().and_then(ValueType::known_shape),
            known,
            last_use: None,
            kept: false,
        })
        .collect();
    for (position, step) in steps.iter().enumerate() {
        for id in graph.nodes[step.index()].inputs.iter().flatten() {
            values[id.index()].last_use = Some(position);
        }
    }
    let kept = graph
        .outputs
        .iter()
        .map(|port| port.value)
        .chain(graph.states.iter().map(|state| state.next));
    for id in kept {
        if let Some(value) = values.get_mut(id.index()) {
            value.kept = true;
        }
    }
    let peak_bytes = peak(graph, &values, &steps, options)?;
    Ok(Plan {
        graph: Arc::clone(graph),
        values,
        steps,
        state_shapes: facts.state_shapes,
        peak_bytes,
    })
}

/// The most bytes that live at once. Inputs and states count from the start to the end, as do kept
/// values.
fn peak(
    graph: &Graph,
    values: &[PlannedValue],
    steps: &[NodeId],
    options: PlanOptions,
) -> Result<u64> {
    let bytes = |id: &ValueId| -> u64 {
        let index = id.index();
        match (values.get(index).and_then(|value| value.shape.as_deref()), graph.values.get(index))
        {
            (Some(shape), Some(value)) => size(shape, value.ty.dtype),
            _ => 0,
        }
    };
    let given = graph
        .inputs
        .iter()
        .map(|port| port.value)
        .chain(graph.states.iter().map(|state| state.value));
    let mut now = given.map(|id| bytes(&id)).fold(0u64, u64::saturating_add);
    let mut peak = now;
    let mut computed = vec![false; values.len()];
    for (position, step) in steps.iter().enumerate() {
        let node = &graph.nodes[step.index()];
        for id in node.outputs.iter().flatten() {
            if bytes(id) > MOST_TENSOR_BYTES {
                return Err(Error::limit(format!(
                    "a result takes {} bytes, the limit is {MOST_TENSOR_BYTES}",
                    bytes(id)
                ))
                .within(place(step.index(), node)));
            }
            now = now.saturating_add(bytes(id));
            computed[id.index()] = true;
        }
        let here = now.saturating_add(scratch(node, values));
        peak = peak.max(here);
        if peak > options.memory_limit {
            return Err(Error::limit(format!(
                "a run needs {peak} bytes at this node, the limit is {}",
                options.memory_limit
            ))
            .within(place(step.index(), node)));
        }
        // A value is freed once: after the step that reads it last, or at once when none does.
        for id in node.inputs.iter().chain(&node.outputs).flatten() {
            let index = id.index();
            let done =
                values[index].last_use.is_none_or(|last| last <= position) && !values[index].kept;
            if done && computed[index] {
                computed[index] = false;
                now = now.saturating_sub(bytes(id));
            }
        }
    }
    Ok(peak)
}

fn size(shape: &[usize], dtype: DType) -> u64 {
    if shape.contains(&0) {
        return 0;
    }
    shape.iter().fold(dtype.size() as u64, |product, &n| product.saturating_mul(n as u64))
}

/// What a layer needs beside its results, wanted or not: the gates' sums of every step and the
/// outputs, for each direction.
fn scratch(node: &Node, values: &[PlannedValue]) -> u64 {
    let Op::Recurrent(layer) = &node.op else {
        return 0;
    };
    let x = node.input(Recurrent::X).and_then(|id| values.get(id.index())?.shape.as_deref());
    let Some([a, b, _]) = x else {
        return 0;
    };
    let blocks = layer.cell.gate_blocks();
    let widths = layer
        .directions
        .iter()
        .map(|d| d.weights.input.rows().saturating_add(d.weights.output_width(blocks)));
    size(&[*a, *b, widths.fold(0, usize::saturating_add)], DType::F32)
}
