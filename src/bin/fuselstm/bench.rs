//! `fuselstm bench`: times a model, or synthetic networks over a grid of sizes.

use std::path::PathBuf;

use clap::ValueEnum;
use fuselstm::backend::BackendOptions;
use fuselstm::measure::bench::{self, Effort, Row};
use fuselstm::measure::report::table;
use fuselstm::measure::sweep::Sizes;
use fuselstm::measure::synthetic::{CellKind, Random, Shape};
use fuselstm::tensor::npz;
use fuselstm::{Device, Error, ErrorKind, Model, Session};
use serde_json::{Value, json};

use crate::common::{self, Failure, Output};

/// Arguments of `bench`.
///
/// Sizes are lists: 8, or 1,8,64, or 64-1024*2 (64, 128, … 1024), or 16-64+16 (16, 32, 48, 64).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model file; without one, synthetic networks of the sizes below.
    model: Option<PathBuf>,
    #[command(flatten)]
    inputs: ModelInputs,
    /// Where the outputs of the last run of a model go, by name.
    #[arg(short, long, value_name = "OUT.npz", requires = "model")]
    output: Option<PathBuf>,
    /// Cells of synthetic networks: lstm, gru, rnn.
    #[arg(long, value_name = "CELL,…", value_delimiter = ',', default_value = "lstm", conflicts_with = "model")]
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
    /// Width of the input; the number of units when not given.
    #[arg(long = "input-size", visible_alias = "width", value_name = "SIZES", conflicts_with = "model")]
    input_size: Option<Sizes>,
    /// Layers, one on top of the other.
    #[arg(long, value_name = "SIZES", conflicts_with = "model")]
    layers: Option<Sizes>,
    /// Every layer runs in both directions.
    #[arg(long, conflicts_with = "model")]
    bidirectional: bool,
    /// Devices: reference, cpu, gpu, gpu:N, gpu:NAME.
    #[arg(long, value_name = "D,…", value_delimiter = ',', default_value = "cpu")]
    device: Vec<Device>,
    /// Precisions of the weights: full, f16, bf16, int8. A device that lacks one is passed over with a message.
    #[arg(long, value_name = "P,…", value_delimiter = ',', default_value = "full")]
    precision: Vec<String>,
    /// Threads of the cpu device.
    #[arg(long, value_name = "SIZES")]
    threads: Option<Sizes>,
    /// Recurrent strategies of the gpu device, each forced.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    strategy: Vec<String>,
    /// Runs before the counted ones.
    #[arg(long, value_name = "N", default_value_t = 3)]
    warmup: usize,
    /// Counted runs, at the least.
    #[arg(long, value_name = "N", default_value_t = 20)]
    runs: usize,
    /// Counted runs go on for this long.
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    seconds: f64,
    /// Form of the rows on stdout.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// An earlier `--json` document: exits with 1 when a row is slower beyond the noise of both.
    #[arg(long, value_name = "OLD.json")]
    against: Option<PathBuf>,
}

/// Inputs of a model; seeded random ones without a file.
#[derive(clap::Args)]
struct ModelInputs {
    /// Inputs of a model (an archive of arrays by name, or NAME=FILE.npy), or the width of synthetic inputs.
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
    /// One JSON object a line.
    Jsonl,
}

/// One device with one choice of options.
struct Setup<'a> {
    device: &'a Device,
    options: BackendOptions,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<bool, Failure> {
    let effort = Effort { warmup_runs: args.warmup, runs: args.runs, seconds: args.seconds };
    let setups = setups(args)?;
    let rows = match &args.model {
        Some(path) => model_rows(args, path, &setups, effort)?,
        None => synthetic_rows(args, &setups, effort)?,
    };
    if rows.is_empty() {
        return Err("nothing was measured: no device could run any of this".to_owned().into());
    }
    print_rows(&rows, args.format, output);
    for (like, hidden) in bench::crossovers(&rows) {
        let shape = format!("T = {}, B = {}", like.time.unwrap_or(0), like.batch.unwrap_or(0));
        output.line(match hidden {
            Some(hidden) => format!("{shape}: the gpu is faster than the cpu from H = {hidden} on"),
            None => format!("{shape}: the cpu is faster than the gpu at every measured H"),
        });
    }
    let holds = match &args.against {
        Some(path) => compare(&rows, path, output)?,
        None => true,
    };
    output.json(json!({ "rows": rows, "holds": holds }));
    Ok(holds)
}

/// Every device with every precision, number of threads and strategy that it has.
fn setups(args: &Args) -> Result<Vec<Setup<'_>>, Failure> {
    let mut setups = Vec::new();
    for device in &args.device {
        let threads: Vec<Option<usize>> = match &args.threads {
            Some(sizes) if !device.is_gpu() => sizes.0.iter().copied().map(Some).collect(),
            _ => vec![None],
        };
        let strategies: Vec<Option<String>> = match args.strategy.as_slice() {
            [] => vec![None],
            _ if !device.is_gpu() => vec![None],
            names => names.iter().cloned().map(Some).collect(),
        };
        for precision in &args.precision {
            let precision = bench::precision_of(precision)?;
            for &threads in &threads {
                for strategy in &strategies {
                    let options =
                        BackendOptions { threads, precision, strategy: strategy.clone(), ..BackendOptions::default() };
                    setups.push(Setup { device, options });
                }
            }
        }
    }
    Ok(setups)
}

fn sizes(list: &Option<Sizes>, default: usize) -> Vec<usize> {
    list.as_ref().map_or_else(|| vec![default], |list| list.0.clone())
}

fn synthetic_rows(args: &Args, setups: &[Setup<'_>], effort: Effort) -> Result<Vec<Row>, Failure> {
    let widths = match (&args.input_size, args.inputs.input.as_slice()) {
        (Some(sizes), []) => Some(sizes.clone()),
        (None, [text]) => Some(text.parse::<Sizes>()?),
        (None, []) => None,
        _ => return Err("the width of the input was given twice".to_owned().into()),
    };
    let mut rows = Vec::new();
    for &cell in &args.cell {
        for hidden in sizes(&args.hidden, 128) {
            for layers in sizes(&args.layers, 1) {
                for input in sizes(&widths, hidden) {
                    let shape = Shape { cell, input, hidden, layers, bidirectional: args.bidirectional };
                    let model = Model::from_graph(shape.graph(args.inputs.seed)?)?;
                    for setup in setups {
                        shape_rows(args, &shape, &model, setup, effort, &mut rows)?;
                    }
                }
            }
        }
    }
    Ok(rows)
}

/// One network on one device, for every length and batch.
fn shape_rows(
    args: &Args,
    shape: &Shape,
    model: &Model,
    setup: &Setup<'_>,
    effort: Effort,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    let Some(session) = open(model, setup)? else { return Ok(()) };
    for time in sizes(&args.time, 128) {
        for batch in sizes(&args.batch, 1) {
            let x = Random::new(args.inputs.seed).tensor(&[time, batch, shape.input], 1.0)?;
            let Some(measured) = attempt(bench::measure(&session, &[("x", &x)], effort), setup)? else { continue };
            let row = Row::of(&session, &measured).with_shape(shape, time, batch);
            rows.push(described(row, &session, setup));
        }
    }
    Ok(())
}

fn model_rows(args: &Args, path: &std::path::Path, setups: &[Setup<'_>], effort: Effort) -> Result<Vec<Row>, Failure> {
    let model = common::open(path)?;
    let one = |sizes: &Option<Sizes>| -> Result<Option<usize>, Failure> {
        match sizes.as_ref().map(|list| list.0.as_slice()) {
            None => Ok(None),
            Some(&[size]) => Ok(Some(size)),
            Some(_) => Err("a model is measured at one length and batch a call".to_owned().into()),
        }
    };
    let (time, batch) = (one(&args.time)?, one(&args.batch)?);
    let inputs = common::Inputs::of(args.inputs.input.clone(), args.inputs.seed, batch, time).read(&model)?;
    let inputs = common::by_name(&inputs);
    let mut rows = Vec::new();
    for setup in setups {
        let Some(session) = open(&model, setup)? else { continue };
        let Some(measured) = attempt(bench::measure(&session, &inputs, effort), setup)? else { continue };
        if let Some(path) = &args.output {
            npz::save(path, measured.outputs.iter())?;
        }
        let row = Row { model: Some(path.display().to_string()), time, batch, ..Row::of(&session, &measured) };
        rows.push(described(row, &session, setup));
    }
    Ok(rows)
}

/// The row with what the setup asked for, and the strategies that the device's notes name.
fn described(mut row: Row, session: &Session, setup: &Setup<'_>) -> Row {
    row.precision = bench::precision_name(setup.options.precision).to_owned();
    row.threads = setup.options.threads;
    let mut named: Vec<String> = Vec::new();
    for note in session.notes() {
        let words: Vec<&str> = note.split_whitespace().collect();
        let before = words.iter().position(|word| *word == "strategy").and_then(|at| words.get(at.checked_sub(1)?));
        if let Some(name) = before.filter(|name| !named.iter().any(|known| known == *name)) {
            named.push((*name).to_owned());
        }
    }
    row.strategy = if named.is_empty() { row.device.clone() } else { named.join("+") };
    row
}

/// A session; `None`, with a message, when the device lacks what the setup asks for while others may have it.
fn open(model: &Model, setup: &Setup<'_>) -> Result<Option<Session>, Failure> {
    attempt(Session::builder(model).device(setup.device.clone()).options(setup.options.clone()).build(), setup)
}

fn attempt<T>(result: Result<T, Error>, setup: &Setup<'_>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::Limit) => {
            log::warn!("{} is passed over: {error}", setup.device);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

const HEADINGS: &[&str] = &[
    "device",
    "strategy",
    "cell",
    "precision",
    "T",
    "B",
    "I",
    "H",
    "layers",
    "threads",
    "median ms",
    "min",
    "p95",
    "sd",
    "µs/step",
    "GFLOP/s",
    "dispatches",
    "submissions",
];

fn cells(row: &Row) -> Vec<String> {
    let size = |n: Option<usize>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let layers = match (row.layers, row.bidirectional) {
        (Some(layers), Some(true)) => format!("{layers} bi"),
        (layers, _) => size(layers),
    };
    let ms = |value: f64| format!("{value:.4}");
    vec![
        row.device.clone(),
        row.strategy.clone(),
        row.cell.clone().or_else(|| row.model.clone()).unwrap_or_default(),
        row.precision.clone(),
        size(row.time),
        size(row.batch),
        size(row.input),
        size(row.hidden),
        layers,
        size(row.threads),
        ms(row.median_ms),
        ms(row.min_ms),
        ms(row.p95_ms),
        ms(row.sd_ms),
        row.time
            .filter(|&t| t > 0)
            .map_or_else(|| "-".to_owned(), |t| format!("{:.3}", row.median_ms * 1e3 / t as f64)),
        row.gflops.map_or_else(|| "-".to_owned(), |g| format!("{g:.2}")),
        row.dispatches.to_string(),
        row.submissions.to_string(),
    ]
}

fn print_rows(rows: &[Row], format: Format, output: &mut Output) {
    let joined = |cells: &[String], between: &str| cells.join(between);
    match format {
        Format::Table => output.line(table(HEADINGS, 4, rows.iter().map(cells))),
        Format::Md => {
            let headings: Vec<String> = HEADINGS.iter().map(ToString::to_string).collect();
            output.line(format!("| {} |", joined(&headings, " | ")));
            output.line(format!("|{}", " --- |".repeat(HEADINGS.len())));
            rows.iter().for_each(|row| output.line(format!("| {} |", joined(&cells(row), " | "))));
        }
        Format::Csv => {
            output.line(HEADINGS.join(","));
            rows.iter().for_each(|row| output.line(joined(&cells(row), ",")));
        }
        Format::Jsonl => rows.iter().for_each(|row| output.line(json!(row).to_string())),
    }
}

/// Holds the rows against those of an earlier document; `false` when one became slower.
fn compare(rows: &[Row], path: &std::path::Path, output: &mut Output) -> Result<bool, Failure> {
    let unreadable = |error: String| Failure::from(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    let document: Value = serde_json::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
    let old = document.get("rows").cloned().unwrap_or(document);
    let old: Vec<Row> = serde_json::from_value(old).map_err(|error| unreadable(error.to_string()))?;
    let changes = bench::against(rows, &old);
    if changes.is_empty() {
        return Err(unreadable("none of these rows is in it".to_owned()));
    }
    for change in &changes {
        let Some(row) = rows.get(change.row) else { continue };
        let verdict = if change.is_regression() { "SLOWER" } else { "ok" };
        output.line(format!(
            "{verdict}: {} {} T = {:?} B = {:?} H = {:?}: {:.3} of the earlier time, noise up to {:.3}",
            row.device, row.strategy, row.time, row.batch, row.hidden, change.ratio, change.noise
        ));
    }
    Ok(!changes.iter().any(bench::Change::is_regression))
}
