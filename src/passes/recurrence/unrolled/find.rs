//! Steps of a graph, and how they follow each other.

use std::collections::{HashMap, HashSet};

use super::layer::{Mask, Unrolled};
use super::masks::{Condition, Masked, Masks, lengths};
use super::zero_state::{from_zero, gate_pairs, is_cut_short, is_plain};
use crate::graph::op::BinaryFunction;
use crate::graph::recurrent::Masking;
use crate::graph::{Dim, Graph, Op, ValueId, ValueMap};
use crate::passes::recurrence::algebra::{Algebra, is_zero};
use crate::passes::recurrence::cells::{cell_update, match_step};
use crate::passes::recurrence::step::{Form, Gate, Reason, Step};
use crate::passes::recurrence::weights::{Canonical, canonical};
use crate::passes::values::used;
use crate::passes::{Declined, Report};

/// The unrolled layers of a graph.
pub fn find(graph: &Graph, report: &mut Report) -> Vec<Unrolled> {
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
    let masks = Masks::find(&algebra);
    cuts.extend(masks.values());
    algebra.cut(cuts);
    cut_cell_states(&mut algebra);
    let mut finder =
        Finder { algebra, masks, used: used(graph), steps: Vec::new(), by_output: HashMap::new() };
    for root in graph.nodes.iter().filter_map(|node| node.output(0).filter(|_| may_end(&node.op))) {
        if let Some(step) = match_step(&finder.algebra, root) {
            finder.by_output.entry(step.h_new).or_default().push(finder.steps.len());
            finder.steps.push(step);
        }
    }
    finder.layers(report)
}

/// Cell states are leaves: what an activation reads and is a sum of gated values, not of matrix
/// products.
fn cut_cell_states(algebra: &mut Algebra<'_>) {
    for node in &algebra.graph.nodes {
        if let (Op::Activation(_), Some(input)) = (&node.op, node.input(0)) {
            let state = algebra.through(input);
            if !algebra.is_cut(state) && cell_update(algebra, state).is_some() {
                algebra.cut_quietly(state);
            }
        }
    }
    algebra.cut([]);
}

/// Whether the result of an op may be the new state of a step.
fn may_end(op: &Op) -> bool {
    match op {
        Op::Activation(_) | Op::FullyConnected(_) | Op::MatMul(_) => true,
        Op::Binary(binary) => matches!(
            binary.function,
            BinaryFunction::Add
                | BinaryFunction::Sub
                | BinaryFunction::Mul
                | BinaryFunction::Minimum
                | BinaryFunction::Maximum
        ),
        // Matched by op: no other one ends the equations of a cell.
        _ => false,
    }
}

/// Steps of a graph.
struct Finder<'g> {
    algebra: Algebra<'g>,
    masks: Masks,
    used: ValueMap<bool>,
    steps: Vec<Step>,
    by_output: HashMap<ValueId, Vec<usize>>,
}

/// The step before a step.
#[derive(Clone, Copy)]
struct Link {
    previous: usize,
    /// The value that is the new state of the previous step and the old one of this.
    h_old: ValueId,
    /// The mask in between.
    condition: Option<Condition>,
}

/// Outputs and final states of the steps of a layer.
struct Results {
    steps: Vec<Vec<ValueId>>,
    h_n: Vec<ValueId>,
    c_n: Vec<ValueId>,
    masking: Masking,
}

impl Finder<'_> {
    fn layers(&self, report: &mut Report) -> Vec<Unrolled> {
        let mut next: Vec<Option<usize>> = vec![None; self.steps.len()];
        let mut links: Vec<Option<Link>> = vec![None; self.steps.len()];
        for (s, link) in links.iter_mut().enumerate() {
            if let Some(found) = self.link(s).filter(|found| next[found.previous].is_none()) {
                next[found.previous] = Some(s);
                *link = Some(found);
            }
        }
        let mut layers = Vec::new();
        // Steps without a neighbor, few in any graph.
        let mut alone: Vec<usize> = Vec::new();
        let mut chained: HashSet<ValueId> = HashSet::new();
        let mut failed = Vec::new();
        for (head, before) in links.iter().enumerate() {
            if before.is_some() {
                continue;
            }
            let mut indices = vec![head];
            while let Some(after) = indices.last().and_then(|&last| next[last]) {
                indices.push(after);
            }
            if indices.len() > 1 {
                chained.extend(indices.iter().map(|&s| self.steps[s].h_new));
            } else if !is_plain(&self.steps[head]) {
                // The same step again, under the name of what only passes it on.
                if alone.iter().any(|&other| self.same_step(other, head)) {
                    continue;
                }
                alone.push(head);
            }
            match self.layer(&indices, &links) {
                Ok(Some(layer)) => layers.push(layer),
                Ok(None) => {}
                Err(reason) => failed.push((indices, reason)),
            }
        }
        for (indices, reason) in failed {
            let last = indices.last().copied().unwrap_or_default();
            // A product with the output of a step looks like its projection.
            let projected = self.steps.get(last).and_then(|step| step.projection.as_ref());
            if projected.is_some_and(|(product, _)| chained.contains(&product.argument)) {
                continue;
            }
            let what = format!("{} unrolled steps `{}`", indices.len(), self.name(last));
            report.declined.push(Declined { what, reason });
        }
        layers
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
    fn link(&self, s: usize) -> Option<Link> {
        let step = &self.steps[s];
        // Half of a blend, `(1 − z)∘n`, looks like a step from the zero state: it follows none.
        if is_cut_short(step) || !step.gates.iter().any(Gate::has_weights) {
            return None;
        }
        let mut arguments: Vec<ValueId> = step.products().map(|product| product.argument).collect();
        arguments.extend(step.h_old);
        arguments.sort_unstable();
        arguments.dedup();
        arguments.retain(|argument| step.h_old.is_none_or(|known| known == *argument));
        let of = |output: ValueId| self.by_output.get(&output).map_or(&[][..], Vec::as_slice);
        for h_old in arguments {
            let plain = of(h_old).iter().map(|&p| (p, None));
            let branches = self.masks.branches(h_old).into_iter().flatten();
            let masked = branches.flat_map(|branch| {
                let masked = self.masks.of(h_old, branch);
                of(branch).iter().map(move |&p| (p, masked))
            });
            for (p, masked) in plain.chain(masked) {
                if p != s && self.follows(&self.steps[p], step, h_old, masked) {
                    let condition = masked.map(|masked| masked.condition);
                    return Some(Link { previous: p, h_old, condition });
                }
            }
        }
        None
    }

    /// Whether `step` goes on from the states of `before`, which `masked` stands between.
    fn follows(&self, before: &Step, step: &Step, h_old: ValueId, masked: Option<Masked>) -> bool {
        let both_gru = matches!((before.form, step.form), (Form::Gru { .. }, Form::Gru { .. }));
        // Without the reset gate there is no telling where it stood.
        let form = before.form == step.form || (both_gru && is_cut_short(before));
        let states = match masked {
            None => before.c_new == step.c_old,
            Some(masked) => self.masked_states(before, step, h_old, masked),
        };
        form && states && (before.same_cell(step) || from_zero(&self.algebra, before, step, h_old))
    }

    /// Whether both states of `before` are under one mask with their own old values.
    fn masked_states(&self, before: &Step, step: &Step, h_old: ValueId, masked: Masked) -> bool {
        let zero = |value: ValueId| is_zero(&self.algebra, value);
        let kept = |own: Option<ValueId>, old: ValueId| match own {
            Some(own) => own == old || (zero(own) && zero(old)),
            None => zero(old),
        };
        let cell = match (step.c_old, before.c_new) {
            (None, None) => true,
            (Some(c_old), Some(c_new)) => self.masks.of(c_old, c_new).is_some_and(|cell| {
                cell.condition == masked.condition && kept(before.c_old, cell.old)
            }),
            _ => false,
        };
        cell && kept(self.state_of(before, step, h_old), masked.old)
    }

    /// `None`: nothing that has to be said about it.
    fn layer(&self, indices: &[usize], links: &[Option<Link>]) -> Result<Option<Unrolled>, Reason> {
        let (Some(&first), Some(&last)) = (indices.first(), indices.last()) else {
            return Ok(None);
        };
        let (head, template) = (&self.steps[first], &self.steps[last]);
        let single = indices.len() == 1;
        if single && (is_plain(template) || is_cut_short(template)) {
            return Ok(None);
        }
        let h_old = match links.get(last).copied().flatten() {
            Some(link) => link.h_old,
            None => self
                .single_state(template)
                .ok_or("one step alone, and its old state is not clear")?,
        };
        let canonical = canonical(&self.algebra, template, h_old)?;
        let inputs = self.inputs(indices, template, h_old, &canonical)?;
        let (h0, c0) = if !head.same_cell(template) {
            (None, None)
        } else {
            let h0 = if single { Some(h_old) } else { self.state_of(head, template, h_old) };
            let h0 = h0.ok_or("the first state of the steps is not clear")?;
            let given = |value: &ValueId| !is_zero(&self.algebra, *value);
            (Some(h0).filter(given), head.c_old.filter(given))
        };
        let conditions = self.conditions(indices, links, h_old)?;
        let results = match &conditions {
            None => self.plain_results(indices),
            Some(conditions) => self.masked_results(indices, conditions, h_old),
        };
        let mask = conditions.map(|conditions| match lengths(&self.algebra, &conditions) {
            Some(lengths) => Mask::Lengths(lengths),
            None => Mask::Steps(conditions),
        });
        let shape = self.algebra.graph.shape(template.h_new);
        // [B, n] or [1, B, n]
        let batch = shape.and_then(|shape| shape.iter().rev().nth(1));
        let batch = batch.copied().unwrap_or(Dim::Unknown);
        let Results { steps, h_n, c_n, masking } = results;
        let name = self.name(last);
        let layer =
            Unrolled { name, canonical, inputs, steps, h_n, c_n, h0, c0, batch, mask, masking };
        Ok(Some(layer))
    }

    /// The mask of each step; `None` when there is none.
    fn conditions(
        &self,
        indices: &[usize],
        links: &[Option<Link>],
        h_old: ValueId,
    ) -> Result<Option<Vec<Condition>>, Reason> {
        let between = indices.iter().skip(1);
        let between = between.map(|&s| links.get(s).copied().flatten()?.condition);
        let mut conditions: Vec<Condition> = between.clone().flatten().collect();
        if conditions.is_empty() {
            return Ok(None);
        }
        if conditions.len() + 1 != indices.len() {
            return Err("some steps are masked and others not".into());
        }
        let h_new = indices.last().map(|&last| self.steps[last].h_new);
        let own = || h_new.into_iter().flat_map(|h_new| self.masks.conditions(h_new));
        let state = own().find(|(_, old)| *old == h_old).or_else(|| own().next());
        let (condition, _) = state.ok_or("the last step is not masked, the others are")?;
        conditions.push(condition);
        let rank = |condition: &Condition| self.algebra.graph.ty(condition.base)?.rank();
        let first = conditions.first().copied();
        let alike = |other: &Condition| {
            first.is_some_and(|first| first.holds == other.holds && rank(&first) == rank(other))
        };
        if !conditions.iter().all(alike) {
            return Err("the masks of the steps are of different kinds".into());
        }
        Ok(Some(conditions))
    }

    fn plain_results(&self, indices: &[usize]) -> Results {
        let last = indices.last().map(|&last| &self.steps[last]);
        Results {
            steps: indices.iter().map(|&s| vec![self.steps[s].h_new]).collect(),
            h_n: last.map(|last| last.h_new).into_iter().collect(),
            c_n: last.and_then(|last| last.c_new).into_iter().collect(),
            masking: Masking::Zero,
        }
    }

    /// The choices between the new states and something older: zeros, the last output, or the old
    /// state.
    fn masked_results(
        &self,
        indices: &[usize],
        conditions: &[Condition],
        h_old: ValueId,
    ) -> Results {
        let zero = |value: ValueId| is_zero(&self.algebra, value);
        let (mut zeros, mut held) = (Vec::new(), Vec::new());
        let mut before: Option<Vec<ValueId>> = None;
        for (&s, &condition) in indices.iter().zip(conditions) {
            let choices: Vec<_> = self.masks.with_new(self.steps[s].h_new, condition).collect();
            let of = |keep: &dyn Fn(ValueId) -> bool| -> Vec<ValueId> {
                choices.iter().filter(|(_, old)| keep(*old)).map(|(value, _)| *value).collect()
            };
            zeros.push(of(&zero));
            let last: Vec<ValueId> = match &before {
                None => of(&zero),
                Some(before) => of(&|old| before.contains(&old)),
            };
            held.push(last.clone());
            before = Some(last);
        }
        let is_used = |(own, held): (&Vec<ValueId>, &Vec<ValueId>)| {
            own.iter().any(|&value| self.used[value] && !held.contains(&value))
        };
        let masking =
            if zeros.iter().zip(&held).any(is_used) { Masking::Zero } else { Masking::Hold };
        let last = indices.last().map(|&last| &self.steps[last]).zip(conditions.last());
        let finals = |new: Option<ValueId>, old: Option<ValueId>| -> Vec<ValueId> {
            let Some((new, (_, &condition))) = new.zip(last) else { return Vec::new() };
            let choices = self.masks.with_new(new, condition);
            choices.filter(|(_, own)| Some(*own) == old).map(|(value, _)| value).collect()
        };
        let step = last.map(|(step, _)| step);
        Results {
            h_n: finals(step.map(|step| step.h_new), Some(h_old)),
            c_n: finals(step.and_then(|step| step.c_new), step.and_then(|step| step.c_old)),
            steps: if masking == Masking::Zero { zeros } else { held },
            masking,
        }
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

    /// The value that the state's weights act on in `step`; `template` is another step, where they act on
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
                    let mut same = at.products.iter().filter(|product| product.same_weights(key));
                    let (Some(part), Some(product), None) = (part, same.next(), same.next()) else {
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
