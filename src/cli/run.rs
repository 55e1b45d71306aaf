//! `fuselstm run`: a model on inputs from files, or on seeded random ones.

use std::path::PathBuf;
use std::time::Instant;

use super::table::table;
use crate::text::duration;
use crate::{Device, Outputs, Tensor};
use serde_json::json;

use crate::cli::common::{self, Failure, Output};

/// Arguments of `run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: common::Source,
    #[command(flatten)]
    inputs: common::Inputs,
    /// Where the outputs of the last run go, by name.
    #[arg(short, long, value_name = "OUT.npz")]
    output: Option<PathBuf>,
    /// auto, reference, cpu, gpu, gpu:N or gpu:NAME.
    #[arg(long, value_name = "D", default_value = "auto")]
    device: Device,
    /// Runs to make, each on the same inputs.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Carry the state from each run to the next; otherwise every run starts from the reset state.
    #[arg(long)]
    stream: bool,
    #[command(flatten)]
    options: common::Options,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<bool, Failure> {
    if let Some(path) = &args.output {
        common::check_kind(path, "npz")?;
    }
    let model = args.model.open()?;
    let inputs = args.inputs.read(&model)?;
    let session = args.options.session(&model, &args.device)?;
    let mut stream = session.stream();
    let mut results = Outputs::default();
    let mut last = 0.0;
    for _ in 0..args.steps {
        if !args.stream {
            stream.reset();
        }
        let start = Instant::now();
        stream.run_into(&inputs, &mut results)?;
        last = start.elapsed().as_secs_f64();
    }
    if let Some(path) = &args.output {
        common::save(path, &results)?;
    }
    session.notes().iter().for_each(|note| log::info!("{note}"));
    report(args, &session, &results, last, output);
    Ok(true)
}

fn report(
    args: &Args,
    session: &crate::Session,
    results: &Outputs,
    last: f64,
    output: &mut Output,
) {
    let counters = results.counters();
    output.line(format!(
        "{} on {}: {}",
        args.model.path.display(),
        session.device(),
        session.description()
    ));
    let rows = results.iter().map(|(name, tensor)| {
        vec![
            name.to_owned(),
            tensor.dtype().to_string(),
            format!("{:?}", tensor.shape()),
            preview(tensor),
        ]
    });
    output.line(table(&["output", "type", "shape", "first values"], 4, rows));
    let runs = if args.steps == 1 {
        "the run".to_owned()
    } else {
        format!("the last of {} runs", args.steps)
    };
    output.line(format!(
        "{runs} took {}: {} submissions, {} dispatches, {} pipelines and {} buffers created",
        duration(last),
        counters.submissions,
        counters.dispatches,
        counters.pipelines_created,
        counters.buffers_created
    ));
    output.json(json!({
        "device": session.device(),
        "description": session.description(),
        "outputs": results.iter().map(|(name, tensor)| json!({
            "name": name, "shape": tensor.shape(), "dtype": tensor.dtype().name(),
        })).collect::<Vec<_>>(),
        "pipelines_created": counters.pipelines_created,
        "buffers_created": counters.buffers_created,
        "submissions": counters.submissions,
        "dispatches": counters.dispatches,
        "seconds": last,
        "notes": session.notes(),
    }));
}

fn preview(tensor: &Tensor) -> String {
    const MOST: usize = 5;
    let values = tensor.to_f32();
    let shown: Vec<String> = values.iter().take(MOST).map(|value| format!("{value:.4}")).collect();
    let more = if values.len() > MOST { " …" } else { "" };
    format!("{}{more}", shown.join(" "))
}
