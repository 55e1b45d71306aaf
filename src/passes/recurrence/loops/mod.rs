//! Structured loops to recurrent ops.
//!
//! A loop is taken apart when every variable of it is one of: a counter from 0, something the body
//! leaves alone, a state of a recognized cell, or a list that gets one entry in each iteration. Its
//! trip count must be the number of entries of the lists it reads. Anything else, and the loop
//! stays.
//!
//! The parts use each other in this order only: [`counter`] and [`body`] (values of the loop),
//! [`variables`],
//! [`joined`] (states that hold two), [`trip_count`], [`layers`], [`sequence`], [`build`].

mod body;
mod build;
mod counter;
mod joined;
mod layers;
mod sequence;
mod trip_count;
mod variables;

use std::collections::BTreeSet;

use body::{Loop, Read};
use build::Build;
use layers::{layers, mark_outputs};
use sequence::Sequences;
use variables::{Variable, common_mask};

use crate::graph::op::While;
use crate::graph::{Dim, Graph, Node, Op, ValueId, ValueMap};
use crate::passes::recurrence::shape_tracer::{ShapeTracer, Size};
use crate::passes::recurrence::step::Reason;
use crate::passes::values::{Aliases, results, used};
use crate::passes::{Declined, Report};

/// Makes recurrent ops of the loops of a graph, inner loops first.
pub fn fuse(mut graph: Graph, report: &mut Report) -> Graph {
    let uses = Uses::new(&graph);
    let nodes = std::mem::take(&mut graph.nodes);
    let mut aliases = Aliases::default();
    let mut tracer = ShapeTracer::new(graph);
    for mut node in nodes {
        aliases.read_operands(&mut node);
        if let Op::While(inner) = &mut node.op {
            inner.condition = fuse(std::mem::take(&mut inner.condition), report);
            inner.body = fuse(std::mem::take(&mut inner.body), report);
        }
        let Op::While(inner) = &node.op else {
            tracer.push(node);
            continue;
        };
        let refined = While { condition: inner.condition.clone(), body: refined(&inner.body) };
        let (nodes, values) = (tracer.graph.nodes.len(), tracer.graph.values.len());
        let what = format!("loop `{}`", node.name);
        match fuse_one(&node, &refined, &mut tracer, &uses) {
            Ok(fused) => {
                report.made.push(format!("{what} → {}", fused.made.join(", ")));
                fused.results.into_iter().for_each(|(result, value)| aliases.set(result, value));
            }
            Err(reason) => {
                tracer.truncate(nodes, values);
                report.declined.push(Declined { what, reason });
                tracer.push(node);
            }
        }
    }
    let mut graph = tracer.graph;
    aliases.read_results(&mut graph);
    graph
}

/// The body with states as wide as what the body makes of them. Where the file leaves a width open,
/// a first state of another width could only work by being repeated; the recurrent op refuses such
/// a one when it is run.
fn refined(body: &Graph) -> Graph {
    let mut body = body.clone();
    let mut changed = false;
    let pairs: Vec<(ValueId, ValueId)> =
        body.inputs.iter().zip(&body.outputs).map(|(a, b)| (a.value, b.value)).collect();
    for (input, next) in pairs {
        let Some(next) = body.shape(next).map(<[Dim]>::to_vec) else { continue };
        let shape = body.get_mut(input).and_then(|value| value.ty.shape.as_mut());
        let Some(shape) = shape.filter(|shape| shape.len() == 2 && next.len() == 2) else {
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

/// Readers of a loop's results in the graph around it.
#[derive(Clone)]
struct Uses {
    used: ValueMap<bool>,
    /// The entries of a list that are read.
    entries: ValueMap<Entries>,
}

/// The entries of a list that are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Entries {
    /// Nothing but the first one.
    First,
    /// Nothing but the last one.
    Last,
    #[default]
    All,
}

impl Uses {
    fn new(graph: &Graph) -> Uses {
        let index = graph.index();
        let mut entries = ValueMap::new(graph);
        for &value in graph.nodes.iter().flat_map(|node| node.outputs.iter().flatten()) {
            let mut readers = index.consumers[value]
                .iter()
                .map(|&reader| graph.node(reader).map_or(Entries::All, |n| entry(graph, n)));
            let first = readers.next().unwrap_or_default();
            entries
                .set(value, if readers.all(|other| other == first) { first } else { Entries::All });
        }
        results(graph).for_each(|value| entries.set(value, Entries::All));
        Uses { used: used(graph), entries }
    }
}

/// Whether a node is `list[0]` or `list[-1]`.
fn entry(graph: &Graph, node: &Node) -> Entries {
    let Op::StridedSlice(options) = &node.op else { return Entries::All };
    let first = |slot: usize| {
        let vector = graph.constant(node.input(slot)?)?.to_i64().ok()?;
        vector.first().copied()
    };
    let plain = options.new_axis_mask == 0 && options.ellipsis_mask == 0 && !options.offset;
    let shrinks = options.shrink_axis_mask & 1 == 1 && options.begin_mask & 1 == 0;
    match first(1).filter(|_| plain && shrinks && first(3) == Some(1)) {
        Some(0) => Entries::First,
        Some(-1) => Entries::Last,
        _ => Entries::All,
    }
}

/// A loop that was fused.
struct Fused {
    made: Vec<String>,
    /// Results of the loop, and what to read instead.
    results: Vec<(ValueId, ValueId)>,
}

/// Fuses a loop, its joined states taken apart; every node that it adds is checked.
fn fuse_one(
    node: &Node,
    inner: &While,
    tracer: &mut ShapeTracer,
    uses: &Uses,
) -> Result<Fused, Reason> {
    let first = tracer.graph.nodes.len();
    let fused = match joined::take_apart(node, inner, tracer) {
        None => fuse_loop(Loop::new(node, inner, tracer)?, tracer, uses)?,
        Some(apart) => {
            let mut uses = uses.clone();
            apart.parts_of_results().for_each(|part| uses.used.set(part, true));
            let this = Loop::new(&apart.node, &apart.inner, tracer)?;
            let fused = fuse_loop(this, tracer, &uses)?;
            Fused { results: apart.join(tracer, fused.results), ..fused }
        }
    };
    super::check_nodes(&mut tracer.graph, first)?;
    Ok(fused)
}

fn fuse_loop(mut this: Loop<'_>, tracer: &mut ShapeTracer, uses: &Uses) -> Result<Fused, Reason> {
    let mut variables = Vec::new();
    for k in 0..this.inputs.len() {
        variables.push(this.classify(tracer, k)?);
    }
    mark_outputs(&this, tracer, &mut variables);
    let nexts = variables.iter().filter_map(|variable| match variable {
        Variable::State { next, .. } => Some(*next),
        _ => None,
    });
    let cuts: Vec<ValueId> = this.inputs.iter().copied().chain(nexts).collect();
    this.algebra.cut(cuts);
    let layers = layers(&this, &variables)?;
    let mask = common_mask(&variables)?;
    let (list, time) = time_of(&this, tracer)?;
    let limits = this.limits()?;
    if limits.is_empty() {
        return Err("the loop has no bound".into());
    }
    let mut shortened = false;
    for limit in &limits {
        shortened |= this.check_limit(tracer, limit, time, mask)?;
    }
    let stops =
        layers.values().flat_map(|layer| [Some(layer.h_new), layer.c_new]).flatten().collect();
    let sequences = Sequences::new(this.body(), this.invariants(), stops);
    let mut build = Build::new(&this, &variables, &layers, mask, (list, time), sequences);
    build.note_reads(tracer)?;
    build.find_masking(tracer)?;
    for k in layers.keys().copied().collect::<BTreeSet<_>>() {
        build.layer(tracer, k)?;
    }
    if layers.is_empty() {
        build.made.push("the same for all iterations at once: it has no state".into());
    }
    let mut results = Vec::new();
    for (k, variable) in variables.iter().enumerate() {
        let Some(result) = this.node.output(k).filter(|&result| uses.used[result]) else {
            continue;
        };
        let value = match variable {
            Variable::Invariant => this.operands[k],
            Variable::Counter => build.final_count(tracer, k, &limits)?,
            Variable::State { .. } => build.final_state(k)?,
            Variable::List { item, reverse } => {
                if !tracer.has_entries(this.operands[k], time) {
                    return Err(format!("list {k} may have more or fewer entries than iterations"));
                }
                if shortened && !tracer.is_zero(this.operands[k]) {
                    return Err(format!("entries of list {k} that are never written are not 0"));
                }
                let entries = &uses.entries[result];
                let last = *entries == if *reverse { Entries::First } else { Entries::Last };
                match last.then(|| build.last_state(tracer, *item)).flatten() {
                    Some(last) => last,
                    None => build.output_sequence(tracer, *item, *reverse)?,
                }
            }
            Variable::Last { item } => build.last_output(tracer, *item, k)?,
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

/// A list that the loop reads, and the number of its entries: every list that is read decides about
/// the trip count, and each must say the same. The list of a cell's input comes before masks.
fn time_of(this: &Loop<'_>, tracer: &ShapeTracer) -> Result<(Read, Size), Reason> {
    let rank = |read: &&Read| tracer.graph.ty(this.operands[read.list]).and_then(|ty| ty.rank());
    let is_float = |read: &&Read| {
        let ty = tracer.graph.ty(this.operands[read.list]);
        ty.is_some_and(|ty| ty.dtype.is_float()) && rank(read) == Some(3)
    };
    let first = this.reads.iter().find(is_float).or_else(|| this.reads.first());
    let Some(&first) = first else { return Err("the loop reads no list".into()) };
    let size = |read: &Read| tracer.axis(this.operands[read.list], read.axis);
    let time = size(&first);
    if this.reads.iter().any(|read| size(read) != time) {
        return Err("the lists that the loop reads have different numbers of entries".into());
    }
    Ok((first, time))
}
