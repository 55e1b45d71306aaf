//! `fuselstm bench`: times a model, or synthetic networks over a grid of sizes.

mod chart;
mod measure;
mod print;
mod row;
mod setups;
mod sweep;

use std::path::PathBuf;

use crate::Device;
use crate::backend::{Precision, Strategy};
use crate::graph::synthetic::CellKind;
use clap::ValueEnum;
use row::Effort;
use serde_json::json;
use sweep::Sizes;

use crate::cli::common::{self, Failure, Output};

/// Arguments of `bench`.
///
/// Sizes are lists: 8, or 1,8,64, or 64-1024*2 (64, 128, … 1024), or 16-64+16 (16, 32, 48, 64).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model file; without one, synthetic networks of the sizes below.
    model: Option<PathBuf>,
    /// Signature of a SavedModel.
    #[arg(long, value_name = "NAME", requires = "model")]
    signature: Option<String>,
    #[command(flatten)]
    inputs: ModelInputs,
    /// Where the outputs of the last run of a model go, by name.
    #[arg(short, long, value_name = "OUT.npz", requires = "model")]
    output: Option<PathBuf>,
    /// Cells of synthetic networks: lstm, gru, rnn; without a list, all of them.
    #[arg(
        long,
        value_name = "CELL,…",
        value_delimiter = ',',
        default_value = "lstm",
        num_args = 0..=1,
        default_missing_value = "lstm,gru,rnn",
        conflicts_with = "model"
    )]
    cell: Vec<CellKind>,
    /// Time steps (of a model: one size).
    #[arg(long, value_name = "SIZES")]
    time: Option<Sizes>,
    /// Batch rows (of a model: one size).
    #[arg(long, value_name = "SIZES")]
    batch: Option<Sizes>,
    /// Units of each layer and direction.
    #[arg(long, value_name = "SIZES", conflicts_with = "model")]
    hidden: Option<Sizes>,
    /// Layers, one on top of the other; without a list, 1,2,4.
    #[arg(long, value_name = "SIZES", num_args = 0..=1, default_missing_value = "1,2,4", conflicts_with = "model")]
    layers: Option<Sizes>,
    /// Every layer runs in both directions.
    #[arg(long, conflicts_with = "model")]
    bidirectional: bool,
    /// Devices: reference, cpu, gpu, gpu:N, gpu:NAME.
    #[arg(long, value_name = "D,…", value_delimiter = ',', default_value = "cpu")]
    device: Vec<Device>,
    /// Precisions of the weights: full, f16, bf16, int8; without a list, all of them. A device that
    /// lacks one is passed over with a message.
    #[arg(
        long,
        value_name = "P,…",
        value_delimiter = ',',
        default_value = "full",
        num_args = 0..=1,
        default_missing_value = "full,f16,bf16,int8",
        value_parser = precision
    )]
    precision: Vec<Precision>,
    /// Threads of the cpu device.
    #[arg(long, value_name = "SIZES")]
    threads: Option<Sizes>,
    /// First search for the fastest strategy and form of products of each shape on the gpu, and
    /// store them for later sessions.
    #[arg(long, conflicts_with_all = ["strategy", "untuned"])]
    tune: bool,
    /// Ignore what --tune stored.
    #[arg(long)]
    untuned: bool,
    /// Hold every row against the reference; exits with 1 when one is more than 1e-5 away (f16
    /// 5e-3, bf16 4e-2, int8 5e-2).
    #[arg(long, conflicts_with = "model")]
    check: bool,
    /// Draw the time of a step over H, a line for each device, strategy and shape.
    #[arg(long, value_name = "OUT.svg", conflicts_with = "model")]
    svg: Option<PathBuf>,
    /// Recurrent strategies of the gpu device, each forced.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    strategy: Vec<Strategy>,
    /// Where the time of a gpu run goes, by the device's own clock: upload, projection, recurrence,
    /// other ops, readback, idle. Measured in runs of their own.
    #[arg(long)]
    phases: bool,
    /// What the devices can do at best, measured first (multiply-adds, bandwidth; of a gpu the
    /// latencies too), and the rows' rates as shares of it.
    #[arg(long, conflicts_with = "model")]
    ceilings: bool,
    /// Runs before the counted ones.
    #[arg(long, value_name = "N", default_value_t = 3)]
    warmup: usize,
    /// Counted runs, at the least.
    #[arg(long, value_name = "N", default_value_t = 20)]
    runs: usize,
    /// Counted runs go on for this long.
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    seconds: f64,
    /// What one time step lasts in the world, for the real-time factor: seconds of signal in a
    /// second of work.
    #[arg(long, value_name = "MS", default_value_t = 10.0, conflicts_with = "model", value_parser = positive)]
    step_ms: f64,
    /// Form of the rows on stdout. `csv`, `json` and `jsonl` have every field.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// An earlier `--json` document: exits with 1 when a row is slower beyond the noise of both.
    #[arg(long, value_name = "OLD.json")]
    against: Option<PathBuf>,
}

/// Inputs of a model; seeded random ones without a file.
#[derive(clap::Args)]
struct ModelInputs {
    /// Inputs of a model (an archive of arrays by name, or NAME=FILE.npy), or the widths of
    /// synthetic inputs (the number of units when not given).
    #[arg(short, long = "input", value_name = "FILE.npz|NAME=FILE.npy|SIZES")]
    input: Vec<String>,
    /// Seed of random inputs and weights.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    /// A Markdown table.
    Md,
    Csv,
    /// One document, as with `--json`.
    Json,
    /// One JSON object a line.
    Jsonl,
}

/// A precision; `f32` is another name of `full`.
fn precision(name: &str) -> crate::Result<Precision> {
    if name == "f32" { Ok(Precision::Full) } else { name.parse() }
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if number > 0.0 && number.is_finite() {
        Ok(number)
    } else {
        Err(format!("`{text}` is not over 0"))
    }
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<bool, Failure> {
    if let Some(path) = &args.svg {
        common::check_kind(path, "svg")?;
    }
    let effort = Effort { warmup_runs: args.warmup, runs: args.runs, seconds: args.seconds };
    let setups = setups::setups(args)?;
    let ceilings = if args.ceilings { measure::ceilings(args)? } else { Vec::new() };
    let rows = match &args.model {
        Some(path) => measure::model_rows(args, path, &setups, effort)?,
        None => measure::synthetic_rows(args, &setups, &ceilings, effort)?,
    };
    if rows.is_empty() {
        return Err("nothing was measured: no device could run any of this".to_owned().into());
    }
    if matches!(args.format, Format::Table | Format::Md) {
        print::ceilings(&ceilings, output);
    }
    print::rows(&rows, args.format, output)?;
    // Lines of text would spoil what a program reads.
    let mut says = |line: String| {
        if matches!(args.format, Format::Table | Format::Md) {
            output.line(line);
        } else {
            log::warn!("{line}");
        }
    };
    for (like, hidden) in row::crossovers(&rows) {
        let shape = format!("T = {}, B = {}", like.time.unwrap_or(0), like.batch.unwrap_or(0));
        says(match hidden {
            Some(hidden) => format!("{shape}: the gpu is faster than the cpu from H = {hidden} on"),
            None => format!("{shape}: the cpu is faster than the gpu at every measured H"),
        });
    }
    let mut holds = true;
    for row in rows.iter().filter(|row| row.max_abs.is_some()) {
        let (far, most) = (row.max_abs.unwrap_or(0.0), row.allowed()?);
        if far > most || far.is_nan() {
            holds = false;
            says(format!(
                "WRONG: {} is {far:.1e} away from the reference, {most:.0e} are allowed",
                row.title()
            ));
        }
    }
    if let Some(path) = &args.svg {
        crate::files::write_whole(path, chart::steps(&rows).as_bytes())?;
    }
    if let Some(path) = &args.against {
        holds &= print::compare(&rows, path, says)?;
    }
    if args.format == Format::Json {
        output.ask_json();
    }
    output.json(json!({ "rows": rows, "ceilings": ceilings, "holds": holds }));
    Ok(holds)
}
