//! Structured loops to recurrent ops.
//!
//! A loop is taken apart when every variable of it is one of: a counter from 0, something the body
//! leaves alone, a state of a recognized cell, or a list that gets one entry a turn. Its number of
//! turns must be the number of entries of the lists it reads. Anything else, and the loop stays.

use std::collections::HashMap;

use super::algebra::{Algebra, first};
use super::build::Build;
use super::cells::match_step;
use super::sequence::Sequences;
use super::step::{Form, Reason, Step};
use super::trace::Trace;
use super::variables::{Variable, common_mask};
use super::weights::{Canonical, canonical};
use crate::error::Result;
use crate::graph::op::{Binary, BinaryFunction, While};
use crate::graph::{Dim, Graph, Node, Op, ValueId};
use crate::passes::{Declined, Report};

/// Makes recurrent ops of the loops of a graph, inner loops first.
pub fn fuse(graph: Graph, report: &mut Report) -> Result<Graph> {
    let mut used = vec![false; graph.values.len()];
    let ports = graph
        .outputs
        .iter()
        .map(|port| port.value)
        .chain(graph.states.iter().map(|state| state.next));
    for id in graph.nodes.iter().flat_map(|node| node.inputs.iter().flatten().copied()).chain(ports)
    {
        if let Some(slot) = used.get_mut(id.index()) {
            *slot = true;
        }
    }
    let mut alias: HashMap<ValueId, ValueId> = HashMap::new();
    let Graph { name, values, nodes, inputs, mut outputs, mut states, symbols } = graph;
    let empty = Graph {
        name,
        values,
        nodes: Vec::new(),
        inputs,
        outputs: Vec::new(),
        states: Vec::new(),
        symbols,
    };
    let mut trace = Trace::new(empty);
    for mut node in nodes {
        for input in node.inputs.iter_mut().flatten() {
            *input = alias.get(input).copied().unwrap_or(*input);
        }
        if let Op::While(inner) = &mut node.op {
            inner.condition = fuse(std::mem::take(&mut inner.condition), report)?;
            inner.body = fuse(std::mem::take(&mut inner.body), report)?;
        }
        let Op::While(inner) = &node.op else {
            trace.push(node);
            continue;
        };
        let refined = While { condition: inner.condition.clone(), body: refined(&inner.body) };
        let (nodes, values) = (trace.graph.nodes.len(), trace.graph.values.len());
        let what = format!("loop `{}`", node.name);
        match Loop::new(&node, &refined).and_then(|this| this.fuse(&mut trace, &used)) {
            Ok(fused) => {
                report.made.push(format!("{what} → {}", fused.made.join(", ")));
                alias.extend(fused.results);
            }
            Err(reason) => {
                trace.truncate(nodes, values);
                report.declined.push(Declined { what, reason });
                trace.push(node);
            }
        }
    }
    let mut graph = trace.graph;
    let read = |id: ValueId| alias.get(&id).copied().unwrap_or(id);
    outputs.iter_mut().for_each(|port| port.value = read(port.value));
    states.iter_mut().for_each(|state| state.next = read(state.next));
    (graph.outputs, graph.states) = (outputs, states);
    Ok(graph)
}

/// The body with states as wide as what the body makes of them. Where the file leaves a width open,
/// a first state of another width could only work by being repeated; the recurrent op refuses such
/// a one when it is run.
fn refined(body: &Graph) -> Graph {
    let mut body = body.clone();
    let mut changed = false;
    for k in 0..body.inputs.len().min(body.outputs.len()) {
        let (input, next) = (body.inputs[k].value, body.outputs[k].value);
        let Some(next) = body.get(next).and_then(|value| value.ty.shape.clone()) else { continue };
        let Some(value) = body.get_mut(input) else { continue };
        let Some(shape) =
            value.ty.shape.as_mut().filter(|shape| shape.len() == 2 && next.len() == 2)
        else {
            continue;
        };
        if let (Some(width), Some(next @ Dim::Known(_))) = (shape.last_mut(), next.last())
            && *width == Dim::Unknown
        {
            (*width, changed) = (*next, true);
        }
    }
    if changed {
        for node in std::mem::take(&mut body.nodes) {
            crate::passes::fold::refine(&mut body, &node);
            body.nodes.push(node);
        }
    }
    body
}

/// What became of a loop.
struct Fused {
    made: Vec<String>,
    /// Results of the loop, and what to read instead.
    results: Vec<(ValueId, ValueId)>,
}

/// A loop and what its body computes.
pub struct Loop<'a> {
    pub node: &'a Node,
    pub inner: &'a While,
    pub algebra: Algebra<'a>,
    pub inputs: Vec<ValueId>,
    pub nexts: Vec<ValueId>,
    pub operands: Vec<ValueId>,
}

impl<'a> Loop<'a> {
    fn new(node: &'a Node, inner: &'a While) -> Result<Self, Reason> {
        let algebra = Algebra::new(&inner.body);
        let inputs: Vec<ValueId> = inner.body.inputs.iter().map(|port| port.value).collect();
        let nexts: Vec<ValueId> =
            inner.body.outputs.iter().map(|port| algebra.through(port.value)).collect();
        let operands: Option<Vec<ValueId>> = node.inputs.iter().copied().collect();
        let operands = operands.ok_or("an operand is missing")?;
        if inputs.len() != nexts.len() || inputs.len() != operands.len() {
            return Err("the loop variables do not match".into());
        }
        Ok(Loop { node, inner, algebra, inputs, nexts, operands })
    }

    /// Position of a loop variable that a value of the body is.
    pub fn variable(&self, value: ValueId) -> Option<usize> {
        let value = self.algebra.through(value);
        self.inputs.iter().position(|input| *input == value)
    }

    pub fn is_counter(&self, trace: &Trace, k: usize) -> bool {
        let starts = trace.integers(self.operands[k]).is_some_and(|start| start == [0]);
        starts && self.is_next_of(self.nexts[k], k)
    }

    /// Whether `value` is `variable k + 1`.
    pub fn is_next_of(&self, value: ValueId, k: usize) -> bool {
        let Some((node, _)) = self.algebra.producer(self.algebra.through(value)) else {
            return false;
        };
        let Op::Binary(Binary { function: BinaryFunction::Add, .. }) = node.op else {
            return false;
        };
        let operand = |slot: usize| node.input(slot);
        let one = |value: ValueId| self.integers(value).is_some_and(|step| step == [1]);
        match (operand(0), operand(1)) {
            (Some(a), Some(b)) => {
                (self.variable(a) == Some(k) && one(b)) || (self.variable(b) == Some(k) && one(a))
            }
            _ => false,
        }
    }

    pub fn integers(&self, value: ValueId) -> Option<Vec<i64>> {
        self.inner.body.constant(self.algebra.through(value))?.to_i64().ok()
    }

    /// Whether a value of the body is a counter, as a scalar or a vector of one.
    pub fn counts(&self, trace: &Trace, value: ValueId) -> bool {
        let mut value = self.algebra.through(value);
        for _ in 0..4 {
            if let Some(k) = self.variable(value) {
                return self.is_counter(trace, k);
            }
            match self.algebra.producer(value) {
                Some((node, _))
                    if matches!(
                        node.op,
                        Op::Reshape | Op::ExpandDims | Op::Cast(_) | Op::Squeeze(_)
                    ) =>
                {
                    match first(node) {
                        Some(input) => value = self.algebra.through(input),
                        None => return false,
                    }
                }
                _ => return false,
            }
        }
        false
    }

    pub fn is_zero(&self, trace: &Trace, value: ValueId) -> bool {
        if super::cells::is_zero(&self.algebra, value) {
            return true;
        }
        let invariant = |k: &usize| self.nexts.get(*k) == self.inputs.get(*k);
        match self.variable(value).filter(invariant) {
            Some(k) => trace.is_zero(self.operands[k]),
            None => false,
        }
    }

    fn fuse(mut self, trace: &mut Trace, used: &[bool]) -> Result<Fused, Reason> {
        let mut variables = Vec::new();
        for k in 0..self.inputs.len() {
            variables.push(self.classify(trace, k)?);
        }
        self.outputs_kept(trace, &mut variables);
        let mut cuts = self.inputs.clone();
        for variable in &variables {
            if let Variable::State { next, .. } = variable {
                cuts.push(*next);
            }
        }
        self.algebra.cut(cuts);
        let layers = self.layers(&variables)?;
        let mask = common_mask(&variables)?;
        let limits = self.limits(trace)?;

        // Every list that is read decides about the number of turns; each must say the same.
        let lists: Vec<usize> =
            (0..self.inputs.len()).filter(|&k| self.is_read(trace, k)).collect();
        let Some(&list) = lists.first() else { return Err("the loop reads no list".into()) };
        let time = trace.axis(self.operands[list], 0);
        if lists.iter().any(|&k| trace.axis(self.operands[k], 0) != time) {
            return Err("the lists that the loop reads have different numbers of entries".into());
        }
        let mut shortened = false;
        for limit in &limits {
            shortened |= self.check_limit(trace, limit, time, mask)?;
        }
        if limits.is_empty() {
            return Err("the loop has no bound".into());
        }
        let stops = layers
            .values()
            .flat_map(|layer| [Some(layer.step.h_new), layer.step.c_new])
            .flatten()
            .collect();
        let mut build = Build {
            sequences: Sequences::new(&self.inner.body, self.invariants(), stops),
            this: &self,
            variables: &variables,
            layers: &layers,
            mask,
            masking: None,
            time,
            list: self.operands[list],
            built: HashMap::new(),
            open: Vec::new(),
            made: Vec::new(),
        };
        for k in 0..self.inputs.len() {
            build.note_reads(trace, k);
        }
        build.masking = build.find_masking(trace)?;
        for k in layers.keys().copied().collect::<std::collections::BTreeSet<_>>() {
            build.layer(trace, k)?;
        }
        if layers.is_empty() {
            build.made.push("the same for all turns at once: it has no state".into());
        }
        let mut results = Vec::new();
        for (k, variable) in variables.iter().enumerate() {
            let Some(result) = self.node.output(k) else { continue };
            if !used.get(result.index()).copied().unwrap_or(true) {
                continue;
            }
            let value = match variable {
                Variable::Invariant => self.operands[k],
                Variable::Counter => build.final_count(trace, k, &limits)?,
                Variable::State { .. } => build.final_state(k)?,
                Variable::List { item } => {
                    if !trace.has_entries(self.operands[k], time) {
                        return Err(format!(
                            "list {k} may have another number of entries than there are turns"
                        ));
                    }
                    if shortened && !trace.is_zero(self.operands[k]) {
                        return Err(format!("entries of list {k} that no turn writes are not 0"));
                    }
                    build.output_sequence(trace, *item)?
                }
                Variable::Last { item } => build.last_output(trace, *item, k)?,
                Variable::Output | Variable::Other => {
                    return Err(format!(
                        "the masked output (loop variable {k}) is used after the loop"
                    ));
                }
            };
            results.push((result, value));
        }
        Ok(Fused { made: build.made, results })
    }

    /// States that hold the output of the turn before are no states of a cell: the same choice is
    /// written to a list.
    fn outputs_kept(&self, trace: &Trace, variables: &mut [Variable]) {
        let items: Vec<ValueId> = variables
            .iter()
            .filter_map(|variable| match variable {
                Variable::List { item } | Variable::Last { item } => Some(*item),
                _ => None,
            })
            .collect();
        for k in 0..variables.len() {
            if matches!(variables[k], Variable::Other)
                && items.contains(&self.nexts[k])
                && !self.is_used(k)
            {
                variables[k] = Variable::Output;
                continue;
            }
            let is_choice = matches!(variables[k], Variable::State { mask: Some(_), .. });
            let shared = variables.iter().enumerate().any(|(j, other)| {
                let same = match (&variables[k], other) {
                    (Variable::State { next: a, .. }, Variable::State { next: b, .. }) => a == b,
                    _ => false,
                };
                j != k && same
            });
            // The state itself comes under the same choice, with its own old value.
            if is_choice
                && shared
                && items.contains(&self.nexts[k])
                && trace.is_zero(self.operands[k])
            {
                variables[k] = Variable::Output;
            }
        }
    }

    /// Whether the body reads what a loop variable was before.
    fn is_used(&self, k: usize) -> bool {
        let value = Some(self.inputs[k]);
        self.inner.body.nodes.iter().any(|node| node.inputs.contains(&value))
            || self.nexts.contains(&self.inputs[k])
    }

    /// The cells, by the position of their output state.
    fn layers(&self, variables: &[Variable]) -> Result<HashMap<usize, Layer>, Reason> {
        let mut layers = HashMap::new();
        let mut taken = vec![false; variables.len()];
        for (k, variable) in variables.iter().enumerate() {
            let Variable::State { next, mask } = variable else { continue };
            let Some(step) = match_step(&self.algebra, *next) else { continue };
            let mut cell_state = None;
            if let Form::Lstm { .. } = step.form {
                let position = variables.iter().enumerate().position(|(j, other)| match other {
                    Variable::State { next, mask: other } => {
                        Some(*next) == step.c_new
                            && Some(self.inputs[j]) == step.c_old
                            && other == mask
                    }
                    _ => false,
                });
                let Some(j) = position.filter(|&j| j != k) else { continue };
                cell_state = Some(j);
            }
            if step.h_old.is_some_and(|h_old| h_old != self.inputs[k]) {
                continue;
            }
            let canonical = match canonical(&self.algebra, &step, self.inputs[k]) {
                Ok(canonical) => canonical,
                Err(reason) => return Err(format!("state {k}: {reason}")),
            };
            taken[k] = true;
            if let Some(j) = cell_state {
                taken[j] = true;
            }
            layers.insert(k, Layer { step, canonical, cell_state });
        }
        for (k, variable) in variables.iter().enumerate() {
            if matches!(variable, Variable::Other) {
                return Err(format!(
                    "loop variable {k} is chosen between two values, neither of which it had before"
                ));
            }
            if matches!(variable, Variable::State { .. }) && !taken[k] {
                return Err(format!(
                    "loop variable {k} is not the state of an LSTM, GRU or RNN cell"
                ));
            }
        }
        Ok(layers)
    }

    /// The loop variables that the body leaves alone, as values around the loop.
    fn invariants(&self) -> HashMap<ValueId, ValueId> {
        let invariant = |k: &usize| self.nexts[*k] == self.inputs[*k];
        (0..self.inputs.len())
            .filter(invariant)
            .map(|k| (self.inputs[k], self.operands[k]))
            .collect()
    }

    fn is_read(&self, trace: &Trace, k: usize) -> bool {
        self.reads(trace, k).next().is_some()
    }

    /// The values of the body that are the entry of list `k` at the counter.
    pub fn reads<'s>(&'s self, trace: &'s Trace, k: usize) -> impl Iterator<Item = ValueId> + 's {
        self.inner.body.nodes.iter().filter_map(move |node| {
            (self.list_read(trace, node) == Some(k)).then(|| node.output(0)).flatten()
        })
    }
}

pub struct Layer {
    pub step: Step,
    pub canonical: Canonical,
    /// Position of the cell state.
    pub cell_state: Option<usize>,
}
