//! Unrolled chains of steps that share their weights to recurrent ops.
//!
//! Every value that may be the new state of a step is matched on its own; steps whose old state is
//! another step's new one are linked. A first step that a converter has simplified because its
//! state is zero is recognized by what is left of it. The inputs of a chain are packed, its outputs
//! unpacked: the `merge` pass cancels that against how they came about.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::algebra::Algebra;
use super::cells::{cell_update, is_zero, match_step};
use super::order::sorted;
use super::step::{Form, Gate, Product, Reason, Step};
use super::weights::{Canonical, canonical};
use crate::graph::op::{Activation, BinaryFunction, Concat, Pack, Unpack};
use crate::graph::recurrent::{Direction, Layout, Masking, Merge, Source};
use crate::graph::{Dim, Graph, Op, Recurrent, ValueId, ValueType};
use crate::passes::{Declined, Report};
use crate::tensor::DType;

/// Makes recurrent ops of the chains of a graph and of the loops in it.
pub fn fuse(mut graph: Graph, report: &mut Report) -> Graph {
    for node in &mut graph.nodes {
        if let Op::While(inner) = &mut node.op {
            inner.body = fuse(std::mem::take(&mut inner.body), report);
        }
    }
    let chains = find(&graph, report);
    if chains.is_empty() {
        return graph;
    }
    // All at once; only when inputs of one chain iteration out to depend on its own outputs, one by one.
    let mut all = graph.clone();
    let pieces: Vec<_> = chains.iter().filter_map(|chain| chain.emit(&mut all)).collect();
    read_pieces(&mut all, &pieces);
    if let Some(nodes) = sorted(&all) {
        all.nodes = nodes;
        report.made.extend(chains.iter().map(|chain| chain.line()));
        return all;
    }
    for chain in &chains {
        let mut next = graph.clone();
        let pieces: Vec<_> = chain.emit(&mut next).into_iter().collect();
        read_pieces(&mut next, &pieces);
        match sorted(&next) {
            Some(nodes) => {
                next.nodes = nodes;
                graph = next;
                report.made.push(chain.line());
            }
            None => report.declined.push(Declined {
                what: format!("chain of {} steps `{}`", chain.steps.len(), chain.name),
                reason: "the input of a step depends on an output of the same chain".into(),
            }),
        }
    }
    graph
}

/// Packs and joins read the last output from the sequence, as the other outputs, rather than the
/// final state.
fn read_pieces(graph: &mut Graph, pieces: &[(ValueId, ValueId)]) {
    let pieces: HashMap<ValueId, ValueId> = pieces.iter().copied().collect();
    for node in graph.nodes.iter_mut().filter(|node| matches!(node.op, Op::Pack(_) | Op::Concat(_)))
    {
        for input in node.inputs.iter_mut().flatten() {
            *input = pieces.get(input).copied().unwrap_or(*input);
        }
    }
}

/// A chain that can be emitted.
struct Chain {
    name: String,
    canonical: Canonical,
    /// For each input part, the value at each step.
    inputs: Vec<(Vec<ValueId>, usize)>,
    steps: Vec<(ValueId, Option<ValueId>)>,
    h0: Option<ValueId>,
    c0: Option<ValueId>,
    batch: Dim,
}

/// Steps of a graph and how they follow each other.
struct Finder<'g> {
    algebra: Algebra<'g>,
    steps: Vec<Step>,
    by_output: HashMap<ValueId, Vec<usize>>,
}

fn find(graph: &Graph, report: &mut Report) -> Vec<Chain> {
    let mut algebra = Algebra::new(graph);
    let mut cuts: HashSet<ValueId> = HashSet::new();
    for node in &graph.nodes {
        let Some(output) = node.output(0) else { continue };
        let Some(product) = algebra.product(output) else { continue };
        for (value, ..) in algebra.joined(product.argument, product.shape.1).unwrap_or_default() {
            if graph.constant(value).is_none() {
                cuts.insert(value);
            }
        }
    }
    if cuts.is_empty() {
        return Vec::new();
    }
    algebra.cut(cuts);
    // Cell states: what an activation reads and is a sum of gated values, not of matrix products.
    for node in &graph.nodes {
        if let (Op::Activation(_), Some(Some(input))) = (&node.op, node.inputs.first()) {
            let state = algebra.through(*input);
            if !algebra.is_cut(state) && cell_update(&algebra, state).is_some() {
                algebra.cut_quietly(state);
            }
        }
    }
    algebra.cut([]);

    let mut finder = Finder { algebra, steps: Vec::new(), by_output: HashMap::new() };
    for node in &graph.nodes {
        let candidate = match &node.op {
            Op::Activation(_) | Op::FullyConnected(_) | Op::MatMul(_) => true,
            Op::Binary(binary) => matches!(
                binary.function,
                BinaryFunction::Add
                    | BinaryFunction::Sub
                    | BinaryFunction::Mul
                    | BinaryFunction::Minimum
                    | BinaryFunction::Maximum
            ),
            _ => false,
        };
        let Some(root) = node.output(0).filter(|_| candidate) else { continue };
        if let Some(step) = match_step(&finder.algebra, root) {
            finder.by_output.entry(step.h_new).or_default().push(finder.steps.len());
            finder.steps.push(step);
        }
    }
    finder.chains(report)
}

impl Finder<'_> {
    fn chains(&self, report: &mut Report) -> Vec<Chain> {
        let mut next: Vec<Option<usize>> = vec![None; self.steps.len()];
        let mut previous: Vec<Option<usize>> = vec![None; self.steps.len()];
        for (s, before) in previous.iter_mut().enumerate() {
            if let Some(p) = self.previous(s).filter(|&p| next[p].is_none()) {
                next[p] = Some(s);
                *before = Some(p);
            }
        }
        let mut chains = Vec::new();
        // Steps without a neighbor, few in any graph.
        let mut alone: Vec<usize> = Vec::new();
        for (head, before) in previous.iter().enumerate() {
            if before.is_some() {
                continue;
            }
            let mut indices = vec![head];
            while let Some(after) = indices.last().and_then(|&last| next[last]) {
                indices.push(after);
            }
            if indices.len() == 1 && !is_plain(&self.steps[head]) {
                // The same step again, under the name of what only passes it on.
                if alone.iter().any(|&other| self.same_step(other, head)) {
                    continue;
                }
                alone.push(head);
            }
            match self.chain(&indices) {
                Ok(Some(chain)) => chains.push(chain),
                Ok(None) => {}
                Err(reason) => {
                    let name = self.name(indices.last().copied().unwrap_or(head));
                    report.declined.push(Declined {
                        what: format!("chain of {} steps `{name}`", indices.len()),
                        reason,
                    });
                }
            }
        }
        chains
    }

    fn same_step(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.steps[a], &self.steps[b]);
        let arguments = a
            .products()
            .map(|product| product.argument)
            .eq(b.products().map(|product| product.argument));
        arguments && a.c_old == b.c_old && a.h_old == b.h_old && a.same_cell(b)
    }

    fn name(&self, step: usize) -> String {
        let value = self.steps.get(step).and_then(|step| self.algebra.graph.get(step.h_new));
        value.map(|value| value.name.clone()).unwrap_or_default()
    }

    /// The step whose new states are the old ones of step `s`.
    fn previous(&self, s: usize) -> Option<usize> {
        let step = &self.steps[s];
        // Half of a blend, `(1 − z)∘n`, looks like a step from the zero state: it follows none.
        if is_cut_short(step) {
            return None;
        }
        let mut arguments: Vec<ValueId> = step.products().map(|product| product.argument).collect();
        arguments.extend(step.h_old);
        arguments.sort_unstable();
        arguments.dedup();
        for h_old in arguments {
            if step.h_old.is_some_and(|known| known != h_old) {
                continue;
            }
            for &p in self.by_output.get(&h_old).map_or(&[][..], Vec::as_slice) {
                let before = &self.steps[p];
                let states = p != s && before.c_new == step.c_old && before.form == step.form;
                if states
                    && (before.same_cell(step) || from_zero(&self.algebra, before, step, h_old))
                {
                    return Some(p);
                }
            }
        }
        None
    }

    /// `None`: nothing that has to be said about it.
    fn chain(&self, indices: &[usize]) -> Result<Option<Chain>, Reason> {
        let (Some(&first), Some(&last)) = (indices.first(), indices.last()) else {
            return Ok(None);
        };
        let (head, template) = (&self.steps[first], &self.steps[last]);
        let single = indices.len() == 1;
        if single && (is_plain(template) || is_cut_short(template)) {
            return Ok(None);
        }
        let h_old = match indices.len().checked_sub(2).and_then(|k| indices.get(k)) {
            Some(&before) => self.steps[before].h_new,
            None => match self.single_state(template) {
                Some(h_old) => h_old,
                None => return Err("one step alone, and its old state is not clear".into()),
            },
        };
        let canonical = canonical(&self.algebra, template, h_old)?;
        let inputs = self.inputs(indices, template, h_old, &canonical)?;
        let (h0, c0) = if from_zero_state(head, template) {
            (None, None)
        } else {
            let h0 = if single { Some(h_old) } else { self.state_of(head, template, h_old) };
            let h0 = h0.ok_or("the first state of the chain is not clear")?;
            let given = |value: &ValueId| !is_zero(&self.algebra, *value);
            (Some(h0).filter(given), head.c_old.filter(given))
        };
        let shape =
            self.algebra.graph.get(template.h_new).and_then(|value| value.ty.shape.as_ref());
        let batch = shape.and_then(|shape| shape.first()).copied().unwrap_or(Dim::Unknown);
        let steps = indices.iter().map(|&s| (self.steps[s].h_new, self.steps[s].c_new)).collect();
        Ok(Some(Chain { name: self.name(last), canonical, inputs, steps, h0, c0, batch }))
    }

    /// The old state of a step that stands alone: known from the blend, zero, or last of the joined
    /// operands.
    fn single_state(&self, step: &Step) -> Option<ValueId> {
        if step.h_old.is_some() {
            return step.h_old;
        }
        let width = step
            .projection
            .as_ref()
            .map_or(step.gates.first()?.width, |(product, _)| product.rows.1);
        let mut fitting: Vec<(ValueId, usize)> = Vec::new();
        for product in step.products().filter(|product| product.columns.1 == width) {
            if !fitting.iter().any(|(value, _)| *value == product.argument) {
                fitting.push((product.argument, product.columns.0));
            }
        }
        let zero: Vec<_> =
            fitting.iter().filter(|(value, _)| is_zero(&self.algebra, *value)).collect();
        match (zero.as_slice(), fitting.as_slice()) {
            ([(value, _)], _) | ([], [(value, _)]) => Some(*value),
            // [x, h] as every framework joins them.
            ([], [(a, from_a), (b, from_b)]) if from_a != from_b => {
                Some(if from_a > from_b { *a } else { *b })
            }
            _ => None,
        }
    }

    /// What the state's weights act on in `step`; `template` is another step, where they act on
    /// `h_old`.
    fn state_of(&self, step: &Step, template: &Step, h_old: ValueId) -> Option<ValueId> {
        if step.h_old.is_some() {
            return step.h_old;
        }
        let key = template.products().find(|product| product.argument == h_old)?;
        step.products().find(|product| product.same_weights(key)).map(|product| product.argument)
    }

    /// For each input part of the template, what its weights act on in every step.
    fn inputs(
        &self,
        indices: &[usize],
        template: &Step,
        h_old: ValueId,
        canonical: &Canonical,
    ) -> Result<Vec<(Vec<ValueId>, usize)>, Reason> {
        let mut inputs: Vec<(Vec<ValueId>, usize)> = canonical
            .inputs
            .iter()
            .map(|&(_, width)| (Vec::with_capacity(indices.len()), width))
            .collect();
        for &s in indices {
            let step = &self.steps[s];
            let mut parts: Vec<Option<ValueId>> = vec![None; inputs.len()];
            for (at, gate) in gate_pairs(step, template) {
                for key in gate.products.iter().filter(|product| product.argument != h_old) {
                    let part =
                        canonical.inputs.iter().position(|(value, _)| *value == key.argument);
                    let product = at.products.iter().find(|product| product.same_weights(key));
                    let (Some(part), Some(product)) = (part, product) else {
                        return Err("the inputs of the steps do not correspond".into());
                    };
                    if parts[part].is_some_and(|known| known != product.argument) {
                        return Err("the gates of a step read different inputs".into());
                    }
                    parts[part] = Some(product.argument);
                }
            }
            for (list, part) in inputs.iter_mut().zip(parts) {
                list.0.push(part.ok_or("an input of a step is missing")?);
            }
        }
        Ok(inputs)
    }
}

/// One step alone must be beyond doubt: any gated value looks like an LSTM without an output
/// activation, any layer like an RNN.
fn is_plain(step: &Step) -> bool {
    matches!(step.form, Form::Rnn | Form::Lstm { output: Activation::Linear, .. })
}

/// Whether gates are missing because the old state is zero.
fn is_cut_short(step: &Step) -> bool {
    match step.form {
        Form::Lstm { .. } => step.c_old.is_none(),
        Form::Gru { .. } => step.h_old.is_none(),
        Form::Rnn => false,
    }
}

fn from_zero_state(head: &Step, template: &Step) -> bool {
    is_cut_short(head) || (head.form == Form::Rnn && !head.same_cell(template))
}

/// The gates of a step beside those of the full cell; gates that a step from the zero state has
/// lost are left out.
fn gate_pairs<'s>(step: &'s Step, full: &'s Step) -> Vec<(&'s Gate, &'s Gate)> {
    let missing = full.gates.len().saturating_sub(step.gates.len());
    let lost = match full.form {
        // The forget gate.
        Form::Lstm { coupled: false, .. } => 1,
        // The reset gate.
        Form::Gru { .. } => 1,
        Form::Lstm { .. } | Form::Rnn => usize::MAX,
    };
    let kept = full
        .gates
        .iter()
        .enumerate()
        .filter(|(k, _)| missing == 0 || *k != lost)
        .map(|(_, gate)| gate);
    step.gates.iter().zip(kept).collect()
}

/// Whether `before` is the step of the cell of `step` from the zero state; the state's weights act
/// on `h_old` in `step`.
fn from_zero(algebra: &Algebra<'_>, before: &Step, step: &Step, h_old: ValueId) -> bool {
    let cut_short = match before.form {
        Form::Lstm { .. } => before.c_old.is_none(),
        Form::Gru { .. } => before.h_old.is_none(),
        Form::Rnn => true,
    };
    let pairs = gate_pairs(before, step);
    let missing = step.gates.len() - pairs.len().min(step.gates.len());
    let projection = match (&before.projection, &step.projection) {
        (None, None) => true,
        (Some((a, p)), Some((b, q))) => a.same_weights(b) && p.close_to(q, a.rows.1),
        _ => false,
    };
    let on_zero = |product: &Product| is_zero(algebra, product.argument);
    let same_gate = |(a, b): &(&Gate, &Gate)| -> bool {
        let peephole = match (&a.peephole, &b.peephole) {
            // That of the old state is gone.
            (None, None) => true,
            (None, Some((state, _))) => Some(*state) == step.c_old,
            (Some((_, p)), Some((_, q))) => p.close_to(q, b.width),
            (Some(_), None) => false,
        };
        let found =
            |key: &Product, of: &[Product]| of.iter().any(|product| product.same_weights(key));
        // Weights of the input must all be there; those of the state may be gone, or act on zeros.
        let inputs = b
            .products
            .iter()
            .filter(|key| key.argument != h_old)
            .all(|key| found(key, &a.products));
        let others = a.products.iter().chain(&a.after_reset).all(|product| {
            let of_input =
                b.products.iter().any(|key| key.argument != h_old && product.same_weights(key));
            of_input || on_zero(product)
        });
        a.activation == b.activation
            && a.width == b.width
            && a.bias.close_to(&b.bias, a.width)
            && a.reset_bias.close_to(&b.reset_bias, a.width)
            && peephole
            && inputs
            && others
    };
    cut_short
        && missing <= 1
        && projection
        && before.cell_clip == step.cell_clip
        && before.projection_clip == step.projection_clip
        && pairs.iter().all(same_gate)
}

impl Chain {
    fn line(&self) -> String {
        let op = self.op();
        format!("{} steps → {}", self.steps.len(), super::describe(&op, &self.name))
    }

    fn op(&self) -> Recurrent {
        Recurrent {
            cell: self.canonical.cell.clone(),
            directions: vec![Direction {
                reverse: false,
                source: Source::X,
                weights: Arc::new(self.canonical.weights.clone()),
            }],
            layout: Layout::TimeMajor,
            masking: Masking::Zero,
            merge: Merge::Separate,
            arithmetic: self.canonical.arithmetic.clone(),
        }
    }

    /// Adds the op and takes its results from the nodes that computed them; the order of the nodes
    /// is not kept. Returns the final state, which keeps the name of the last output, and the last
    /// output as a piece of the sequence.
    fn emit(&self, graph: &mut Graph) -> Option<(ValueId, ValueId)> {
        let blocks = self.canonical.cell.gate_blocks();
        let width = self.canonical.weights.output_width(blocks);
        let time = Dim::Known(self.steps.len());
        let sequence = |width: usize| {
            ValueType::symbolic(DType::F32, vec![time, self.batch, Dim::Known(width)])
        };
        let name = &self.name;
        let mut packed = Vec::new();
        for (values, width) in &self.inputs {
            let x = graph.add_value(format!("{name}/x"), sequence(*width));
            let inputs = values.iter().copied().map(Some).collect();
            graph.add_node(
                format!("{name}/pack"),
                Op::Pack(Pack { axis: 0 }),
                inputs,
                vec![Some(x)],
            );
            packed.push(Some(x));
        }
        let x = match packed.as_slice() {
            [one] => *one,
            _ => {
                let total = self.inputs.iter().map(|(_, width)| width).sum();
                let x = graph.add_value(format!("{name}/x"), sequence(total));
                let op = Op::Concat(Concat { axis: -1, activation: Activation::Linear });
                graph.add_node(format!("{name}/join"), op, packed, vec![Some(x)]);
                Some(x)
            }
        };
        self.release(graph);
        let op = self.op();
        let y = graph.add_value(format!("{name}/y"), sequence(width));
        let mut inputs = vec![None; op.input_slots()];
        let mut outputs = vec![None; op.output_slots()];
        for (slot, value) in
            [(Recurrent::X, x), (Recurrent::h0(0), self.h0), (Recurrent::c0(0), self.c0)]
        {
            if let Some(slot) = inputs.get_mut(slot) {
                *slot = value;
            }
        }
        let last = self.steps.last().copied();
        let c_n = last.and_then(|(_, c_new)| c_new);
        let h_n = last.map(|(h_new, _)| h_new);
        for (slot, value) in
            [(Recurrent::y(0), Some(y)), (Recurrent::h_n(0), h_n), (Recurrent::c_n(0), c_n)]
        {
            if let Some(slot) = outputs.get_mut(slot) {
                *slot = value;
            }
        }
        graph.add_node(name.clone(), Op::Recurrent(op), inputs, outputs);
        let mut pieces: Vec<Option<ValueId>> =
            self.steps.iter().map(|(h_new, _)| Some(*h_new)).collect();
        if let (Some(piece), Some(h_n)) = (pieces.last_mut(), h_n) {
            let ty = graph.get(h_n).map(|value| value.ty.clone());
            let ty = ty.unwrap_or_else(|| {
                ValueType::symbolic(DType::F32, vec![self.batch, Dim::Known(width)])
            });
            let fresh = graph.add_value(format!("{name}/last"), ty);
            *piece = Some(fresh);
        }
        let pieces_last = pieces.last().copied().flatten();
        graph.add_node(
            format!("{name}/unpack"),
            Op::Unpack(Unpack { axis: 0 }),
            vec![Some(y)],
            pieces,
        );
        h_n.zip(pieces_last)
    }

    /// Takes the results from the nodes of the steps.
    fn release(&self, graph: &mut Graph) {
        let mut taken: HashSet<ValueId> = self.steps.iter().map(|(h_new, _)| *h_new).collect();
        taken.extend(self.steps.last().and_then(|(_, c_new)| *c_new));
        for output in graph.nodes.iter_mut().flat_map(|node| &mut node.outputs) {
            if output.is_some_and(|id| taken.contains(&id)) {
                *output = None;
            }
        }
    }
}
