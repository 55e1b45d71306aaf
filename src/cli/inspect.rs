//! `fuselstm inspect`: what a model is made of, before and after the passes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::svg;
use super::table::table;
use crate::graph::{Graph, Op};
use crate::measure::inputs::{Sizes, shapes};
use crate::plan::Plan;
use crate::session::{Axis, TensorSpec};
use crate::text::bytes;
use crate::{Device, Error, Model};
use serde_json::{Value, json};

use crate::cli::common::{self, Failure, Output};

/// Arguments of `inspect`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: common::Source,
    /// Say what every pass made, and what it left and why.
    #[arg(long)]
    passes: bool,
    /// Draw the graph after the passes.
    #[arg(long, value_name = "OUT.svg")]
    svg: Option<PathBuf>,
    /// Say how these devices run it, and why so: kernels, strategies, what runs on the host.
    #[arg(long, value_name = "D,…", value_delimiter = ',')]
    device: Vec<Device>,
    /// Batch rows that the plan is for, where the model leaves them open.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Time steps that the plan is for, where the model leaves them open.
    #[arg(long, value_name = "N")]
    time: Option<usize>,
    #[command(flatten)]
    options: common::Options,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<bool, Failure> {
    if let Some(path) = &args.svg {
        common::check_kind(path, "svg")?;
    }
    let model = args.model.open()?;
    let format = model.format().map_or_else(|| "none".to_owned(), |format| format.to_string());
    output.line(format!("{} ({format})\n", args.model.path.display()));
    output.line(model.graph().to_string());
    output.line(counts_table(&model));
    let sizes = Sizes { batch: args.batch, time: args.time };
    let plan = plan(&model, sizes);
    output.line(match &plan {
        Ok(plan) => format!(
            "\nplan for inputs of {}: {} of {} nodes run, at most {} of values at a time; {} of weights in recurrent ops",
            plan_shapes(plan).join(", "),
            plan.steps.len(),
            model.graph().nodes.len(),
            bytes(plan.peak_bytes),
            bytes(recurrent_bytes(model.graph()))
        ),
        Err(error) => format!("\nno plan: {error}"),
    });
    if args.passes {
        print_passes(&model, output);
    }
    let devices = args
        .device
        .iter()
        .map(|device| choices(args, &model, sizes, device))
        .collect::<Result<Vec<_>, _>>()?;
    for (device, notes) in &devices {
        output.line(format!("\non {device}:"));
        notes.iter().for_each(|note| output.line(format!("  {note}")));
    }
    if let Some(path) = &args.svg {
        let picture = svg::graph(model.graph(), |op| op.name().to_owned());
        crate::files::write_whole(path, picture.as_bytes())?;
        output.line(format!("the graph is drawn in {}", path.display()));
    }
    let mut document = to_json(&model, &format, plan.as_ref().ok());
    document["devices"] = devices
        .iter()
        .map(|(device, notes)| json!({ "device": device, "notes": notes }))
        .collect::<Vec<_>>()
        .into();
    output.json(document);
    Ok(true)
}

/// The device in words, and what it chose for inputs of these sizes.
fn choices(
    args: &Args,
    model: &Model,
    sizes: Sizes,
    device: &Device,
) -> Result<(String, Vec<String>), Failure> {
    let session = args.options.session_among(model, &args.device, device)?;
    let specs = model.inputs();
    let shapes = shapes(model, sizes)?;
    let named: Vec<(&str, &[usize])> = specs
        .iter()
        .zip(&shapes)
        .map(|(spec, shape)| (spec.name.as_str(), shape.as_slice()))
        .collect();
    session.prepare(&named)?;
    Ok((format!("{}: {}", session.device(), session.description()), session.notes()))
}

/// How many ops of each kind there are before and after the passes.
fn counts_table(model: &Model) -> String {
    let (before, after) = (counts(model.source_graph()), counts(model.graph()));
    let names: std::collections::BTreeSet<&str> =
        before.keys().chain(after.keys()).copied().collect();
    let count = |counts: &BTreeMap<&str, usize>, name: &str| {
        counts.get(name).map_or("-".to_owned(), ToString::to_string)
    };
    table(
        &["op", "in the file", "after the passes"],
        1,
        names
            .iter()
            .map(|name| vec![(*name).to_owned(), count(&before, name), count(&after, name)]),
    )
}

fn counts(graph: &Graph) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for node in &graph.nodes {
        *counts.entry(node.op.name()).or_default() += 1;
    }
    counts
}

fn print_passes(model: &Model, output: &mut Output) {
    for report in model.reports() {
        if report.made.is_empty() && report.declined.is_empty() {
            output.line(format!("{}: nothing to do", report.pass));
            continue;
        }
        output.line(format!("{}:", report.pass));
        report.made.iter().for_each(|made| output.line(format!("  made      {made}")));
        report
            .declined
            .iter()
            .for_each(|left| output.line(format!("  declined  {}: {}", left.what, left.reason)));
    }
}

/// The plan for inputs of the declared sizes, open ones as asked for or as the random inputs of
/// `run` have them.
fn plan(model: &Model, sizes: Sizes) -> Result<Plan, Error> {
    Plan::new(model.graph(), &shapes(model, sizes)?)
}

fn input_shapes(plan: &Plan) -> Vec<Option<&[usize]>> {
    plan.graph.inputs.iter().map(|port| plan.shape(port.value)).collect()
}

fn plan_shapes(plan: &Plan) -> Vec<String> {
    input_shapes(plan).into_iter().map(|shape| format!("{:?}", shape.unwrap_or_default())).collect()
}

/// Bytes of the weights of recurrent ops.
fn recurrent_bytes(graph: &Graph) -> u64 {
    let recurrent = graph.nodes.iter().filter_map(|node| match &node.op {
        Op::Recurrent(recurrent) => Some(recurrent),
        _ => None,
    });
    let parts = recurrent
        .flat_map(|recurrent| &recurrent.directions)
        .flat_map(|direction| direction.weights.parts());
    parts.map(|(_, tensor)| tensor.byte_len() as u64).sum()
}

fn to_json(model: &Model, format: &str, plan: Option<&Plan>) -> Value {
    let graph = model.graph();
    let of_name =
        |wanted: fn(&Op) -> bool| graph.nodes.iter().filter(|node| wanted(&node.op)).count();
    let declined = model.reports().iter().flat_map(|report| &report.declined);
    json!({
        "format": format,
        "recurrent_ops": of_name(|op| matches!(op, Op::Recurrent(_) | Op::Svdf(_))),
        "loops": of_name(|op| matches!(op, Op::While(_))),
        "nodes": graph.nodes.len(),
        "states": graph.states.iter().map(|state| &state.name).collect::<Vec<_>>(),
        "inputs": model.inputs().iter().map(spec_json).collect::<Vec<_>>(),
        "outputs": model.outputs().iter().map(spec_json).collect::<Vec<_>>(),
        "declined": declined.map(|left| json!({ "what": left.what, "reason": left.reason })).collect::<Vec<_>>(),
        "passes": model.reports().iter().map(|report| json!({ "pass": report.pass, "made": report.made })).collect::<Vec<_>>(),
        "ops": { "before": counts(model.source_graph()), "after": counts(graph) },
        "plan": plan.map(|plan| json!({ "inputs": input_shapes(plan), "steps": plan.steps.len(), "peak_bytes": plan.peak_bytes })),
        "recurrent_weight_bytes": recurrent_bytes(graph),
        "warnings": model.warnings(),
    })
}

/// Open sizes are given by name, or as null.
fn spec_json(spec: &TensorSpec) -> Value {
    let axis = |axis: &Axis| match axis {
        Axis::Known(size) => json!(size),
        Axis::Named(name) => json!(name),
        Axis::Open => Value::Null,
    };
    json!({
        "name": spec.name,
        "shape": spec.axes.as_ref().map(|axes| axes.iter().map(axis).collect::<Vec<_>>()),
        "dtype": spec.dtype.name(),
        "quantization": spec.quantization.as_ref().map(|q| json!({ "scales": q.scales, "zero_points": q.zero_points })),
    })
}
