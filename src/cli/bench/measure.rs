//! The rows: every network on every device.

use std::path::Path;

use super::row::{self, Effort, Row};
use super::sweep::Sizes;
use crate::backend::ceilings::Ceilings;
use crate::backend::{BackendOptions, Product, Strategy};
use crate::formats::Options as ReadOptions;
use crate::graph::synthetic::{CellKind, Random, Shape};
use crate::session::Inputs;
use crate::{Device, Error, ErrorKind, Model, Outputs, Session};

use super::Args;
use super::setups::Setup;
use crate::cli::common::{self, Failure};

fn sizes(list: &Option<Sizes>, default: usize) -> Vec<usize> {
    list.as_ref().map_or_else(|| vec![default], |list| list.0.clone())
}

/// Every synthetic network that the arguments ask for.
pub(super) fn shapes(args: &Args) -> Result<Vec<Shape>, Failure> {
    let widths = match args.inputs.input.as_slice() {
        [] => None,
        [text] => Some(text.parse::<Sizes>()?),
        _ => return Err("the widths of synthetic inputs were given twice".to_owned().into()),
    };
    let mut shapes = Vec::new();
    for &cell in &args.cell {
        for hidden in sizes(&args.hidden, 128) {
            for layers in sizes(&args.layers, 1) {
                for input in sizes(&widths, hidden) {
                    shapes.push(Shape {
                        cell,
                        input,
                        hidden,
                        layers,
                        bidirectional: args.bidirectional,
                    });
                }
            }
        }
    }
    Ok(shapes)
}

/// What each device can do at best, once.
pub(super) fn ceilings(args: &Args) -> Result<Vec<Ceilings>, Failure> {
    // Any network will do: a session opens the device.
    let smallest =
        Shape { cell: CellKind::Lstm, input: 1, hidden: 1, layers: 1, bidirectional: false };
    let model = Model::from_graph(smallest.graph(1)?)?;
    let mut threads = args.threads.as_ref().map(|sizes| sizes.0.clone()).unwrap_or_default();
    threads.extend([1, 2, hardware_threads()]);
    threads.retain(|&threads| (1..=hardware_threads()).contains(&threads));
    threads.sort_unstable();
    threads.dedup();
    let mut found = Vec::new();
    for device in &args.device {
        match Session::builder(&model).device(device.clone()).build()?.ceilings(&threads) {
            Ok(ceilings) => found.extend(ceilings),
            Err(error) if error.kind() == ErrorKind::Unsupported => log::warn!("{error}"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

fn hardware_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The ceilings of a row's device; where the number of threads was left to the library, those of
/// all of them.
fn ceilings_of<'a>(ceilings: &'a [Ceilings], row: &Row) -> Option<&'a Ceilings> {
    let threads = row.threads.unwrap_or_else(hardware_threads);
    let same = |c: &&Ceilings| c.device == row.device && c.adapter == row.adapter;
    ceilings.iter().filter(same).find(|c| c.threads.is_none_or(|measured| measured == threads))
}

/// Rows of synthetic networks.
pub(super) fn synthetic_rows(
    args: &Args,
    setups: &[Setup<'_>],
    ceilings: &[Ceilings],
    effort: Effort,
) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for shape in shapes(args)? {
        let model = Model::from_graph(shape.graph(args.inputs.seed)?)?;
        for setup in setups {
            shape_rows(args, &shape, &model, setup, effort, &mut rows)?;
        }
        for row in rows.iter_mut().filter(|row| row.hidden.is_some() && row.fma_share.is_none()) {
            if let Some(ceilings) = ceilings_of(ceilings, row) {
                *row = row.clone().with_ceilings(&shape, ceilings);
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
    let Some(mut sessions) = Sessions::open(args, model, setup)? else { return Ok(()) };
    for time in sizes(&args.time, 128) {
        for batch in sizes(&args.batch, 1) {
            let x = Random::new(args.inputs.seed).tensor(&[time, batch, shape.input], 1.0)?;
            let inputs = [("x", &x)];
            if args.tune && setup.device.is_gpu() {
                sessions.tune(setup, &inputs)?;
            }
            let Some((mut row, outputs)) = sessions.row(setup, &inputs, effort)? else { continue };
            if args.check {
                row.max_abs = Some(error(model, &inputs, &outputs)?);
            }
            rows.push(row.with_shape(shape, time, batch, args.step_ms));
        }
    }
    Ok(())
}

/// Rows of a model from a file.
pub(super) fn model_rows(
    args: &Args,
    path: &Path,
    setups: &[Setup<'_>],
    effort: Effort,
) -> Result<Vec<Row>, Failure> {
    if let Some(path) = &args.output {
        common::check_kind(path, "npz")?;
    }
    let reading = ReadOptions { signature: args.signature.clone(), ..ReadOptions::default() };
    let model = common::open_with(path, &reading)?;
    let one = |sizes: &Option<Sizes>| -> Result<Option<usize>, Failure> {
        match sizes.as_ref().map(|list| list.0.as_slice()) {
            None => Ok(None),
            Some(&[size]) => Ok(Some(size)),
            Some(_) => Err("a model is measured at one length and batch a call".to_owned().into()),
        }
    };
    let (time, batch) = (one(&args.time)?, one(&args.batch)?);
    let inputs = common::Inputs::of(args.inputs.input.clone(), args.inputs.seed, batch, time)
        .read(&model)?;
    let mut rows = Vec::new();
    for setup in setups {
        let Some(mut sessions) = Sessions::open(args, &model, setup)? else { continue };
        if args.tune && setup.device.is_gpu() {
            sessions.tune(setup, &inputs)?;
        }
        let Some((row, outputs)) = sessions.row(setup, &inputs, effort)? else { continue };
        if let Some(path) = &args.output {
            common::save(path, &outputs)?;
        }
        rows.push(Row { model: Some(path.display().to_string()), time, batch, ..row });
    }
    Ok(rows)
}

/// A model on a device.
struct Sessions {
    /// What is measured.
    plain: Session,
    /// The same with the device's clock running, when phases are asked for and it has one.
    clocked: Option<Session>,
}

/// Runs of the clocked session: its numbers are medians, and say where to look rather than how long
/// to wait.
const CLOCKED_RUNS: usize = 5;

impl Sessions {
    /// `None`, with a message, when the device lacks what the setup asks for while others may have
    /// it.
    fn open(args: &Args, model: &Model, setup: &Setup<'_>) -> Result<Option<Sessions>, Failure> {
        let open =
            |options| Session::builder(model).device(setup.device.clone()).options(options).build();
        let Some(plain) = attempt(open(setup.options.clone()), setup)? else { return Ok(None) };
        let clocked = match args.phases && setup.device.is_gpu() {
            true => Some(open(BackendOptions { timestamps: true, ..setup.options.clone() })?),
            false => None,
        };
        Ok(Some(Sessions { plain, clocked }))
    }

    /// Searches for the fastest way, and says what it found. The next program of the session uses
    /// it.
    fn tune(&mut self, setup: &Setup<'_>, inputs: &(impl Inputs + ?Sized)) -> Result<(), Failure> {
        let tuning = self.plain.tune(inputs)?;
        for trial in &tuning.trials {
            let name = |forced: Option<&'static str>| forced.unwrap_or("planner's");
            let result = match (&trial.median_us, &trial.refused) {
                (Some(us), _) => format!("{us:.1} µs"),
                (None, reason) => format!("passed over: {}", reason.clone().unwrap_or_default()),
            };
            log::info!(
                "strategy {}, product {}: {result}",
                name(trial.strategy.map(Strategy::name)),
                name(trial.product.map(Product::name))
            );
        }
        log::warn!(
            "{}: tuned: {}; stored in {}",
            setup.device,
            tuning.choice,
            tuning.stored.display()
        );
        Ok(())
    }

    /// One row, and the outputs of its last run; `None` where the device cannot run it.
    fn row(
        &self,
        setup: &Setup<'_>,
        inputs: &(impl Inputs + ?Sized),
        effort: Effort,
    ) -> Result<Option<(Row, Outputs)>, Failure> {
        let Some(measured) = attempt(row::measure(&self.plain, inputs, effort), setup)? else {
            return Ok(None);
        };
        let mut row = Row::of(&self.plain, &measured);
        row.precision = setup.options.precision.to_string();
        row.threads = setup.options.threads;
        let notes = self.plain.notes_for(inputs)?;
        row.tuned = notes.iter().any(|note| note.starts_with(TUNED));
        let named = strategies(&notes);
        row.strategy = if named.is_empty() { row.device.clone() } else { named };
        if let Some(clocked) = &self.clocked {
            match row::phases(clocked, inputs, CLOCKED_RUNS) {
                Ok(phases) => row.phases_ms = phases,
                Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Limit) => {
                    log::warn!("{}: phases are left out: {error}", setup.device);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some((row, measured.outputs)))
    }
}

/// Largest distance from the reference, NaN where one of two is NaN.
fn error(
    model: &Model,
    inputs: &(impl Inputs + ?Sized),
    outputs: &Outputs,
) -> Result<f64, Failure> {
    let expected = Session::new(model, Device::reference())?.run(inputs)?;
    let mut far = 0.0f64;
    for (expected, got) in expected.tensors().iter().zip(outputs.tensors()) {
        for (a, b) in expected.to_f32().iter().zip(got.to_f32().iter()) {
            let distance = f64::from((a - b).abs());
            far = if distance.is_nan() { return Ok(f64::NAN) } else { far.max(distance) };
        }
    }
    Ok(far)
}

/// How the note begins that says what was tuned.
const TUNED: &str = "tuned: ";

/// The strategies that a program's notes name (`…: loop strategy (…)`), each once.
fn strategies(notes: &[String]) -> String {
    let mut named: Vec<&str> = Vec::new();
    for note in notes.iter().filter(|note| !note.starts_with(TUNED)) {
        let words: Vec<&str> = note.split_whitespace().collect();
        let before = words
            .iter()
            .position(|word| *word == "strategy")
            .and_then(|at| words.get(at.checked_sub(1)?));
        if let Some(name) = before.filter(|name| !named.contains(name)) {
            named.push(name);
        }
    }
    named.join("+")
}

/// `None`, with a message, for what this device lacks while others may have it.
fn attempt<T>(result: Result<T, Error>, setup: &Setup<'_>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::Limit
            ) =>
        {
            log::warn!("{} is passed over: {error}", setup.device);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_are_read_off_the_notes() {
        let notes = [
            "lstm: loop strategy (at most 64 units)",
            "5 bytes",
            "b: step strategy (x)",
            "c: loop strategy (y)",
        ];
        assert_eq!(strategies(&notes.map(str::to_owned)), "loop+step");
        assert_eq!(
            strategies(&["strategy".to_owned(), "tuned: strategy step, 1 µs".to_owned()]),
            ""
        );
    }
}
