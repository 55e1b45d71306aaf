//! `fuselstm convert`: any format that is read → fused ops → TFLite.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::table::table;
use crate::convert::{self, Converted, Options, Quantize};
use crate::limits::RunOptions;
use crate::measure::compare::{Tolerance, compare};
use crate::measure::golden;
use crate::session::{Axis, TensorSpec};
use crate::tensor::npz;
use crate::text::bytes;
use crate::{Device, Error, Model, Session, Tensor, formats};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::cli::common::{self, Failure, Output};

/// Arguments of `convert`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: common::Source,
    /// Where the .tflite file goes.
    #[arg(short = 'o', long = "to", value_name = "OUT.tflite")]
    file: PathBuf,
    /// An input, by name or position, with its sizes where the model leaves them open: `x=1,28,28`, a `?` for
    /// one that stays open. When given, these are the inputs.
    #[arg(long, value_name = "NAME[=DIMS]")]
    input: Vec<String>,
    /// An output, by name or position. When given, these are the outputs.
    #[arg(long, value_name = "NAME")]
    output: Vec<String>,
    /// TensorFlow graphs with hints of other names than the recurrent layers': write their calls as
    /// custom ops.
    #[arg(long)]
    custom_ops: bool,
    /// Batch size, where the model leaves it open.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// How weights and activations are stored.
    #[arg(long, value_enum, default_value = "none")]
    quantize: QuantizeName,
    /// Samples for int8, and to state the change of results on: a golden file's runs, or arrays by
    /// input name whose first axis runs over the samples.
    #[arg(long, value_name = "FILE.npz")]
    calibrate: Option<PathBuf>,
    /// Seed of the random inputs on which the change of results is stated when there are no
    /// samples.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum QuantizeName {
    /// As the model has them.
    None,
    /// Int8 weights of 1,024 elements and more, float activations.
    Dynamic,
    /// Weights as halves.
    Float16,
    /// Int8 weights and activations; needs --calibrate.
    Int8,
}

/// Samples on which the change of results is stated, at the most.
const MOST_STATED: usize = 200;
/// Time for that, at the most: the file is written, and a model may have a loop without end.
const MOST_TIME: Duration = Duration::from_secs(5);

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<bool, Failure> {
    common::check_kind(&args.file, "tflite")?;
    let (model, shapes) = read(args)?;
    let samples = match &args.calibrate {
        Some(path) => samples(&model, path, args.batch)?,
        None => Vec::new(),
    };
    let quantize = match args.quantize {
        QuantizeName::None => Quantize::None,
        QuantizeName::Dynamic => Quantize::Dynamic,
        QuantizeName::Float16 => Quantize::Float16,
        QuantizeName::Int8 if samples.is_empty() => {
            return Err("--quantize int8 needs --calibrate with samples of the inputs"
                .to_owned()
                .into());
        }
        QuantizeName::Int8 => Quantize::Int8,
    };
    let options = Options { batch: args.batch, shapes, quantize, calibration: samples.clone() };
    let converted = convert::to_tflite(model.graph(), &options)?;
    crate::files::write_whole(&args.file, &converted.bytes)?;
    for left in model.reports().iter().flat_map(|report| &report.declined) {
        output.line(format!("left as it was: {}: {}", left.what, left.reason));
    }
    let change = change(args, &model, &converted, samples);
    report(args, model.warnings(), &converted, change, output);
    Ok(true)
}

/// The model with the inputs and outputs that were asked for, and the shapes of its inputs.
fn read(args: &Args) -> Result<(Model, Shapes), Failure> {
    let (mut inputs, mut shapes) = input_arguments(&args.input)?;
    let mut outputs = args.output.clone();
    if inputs.iter().chain(&outputs).any(|name| name.parse::<usize>().is_ok()) {
        // Positions count in the model as it is when nothing is asked for.
        let plain = args.model.open()?;
        let name = |specs: &[TensorSpec], name: &mut String| {
            let is_name = specs.iter().any(|spec| spec.name == *name);
            let spec = name.parse().ok().and_then(|position: usize| specs.get(position));
            if let Some(spec) = spec.filter(|_| !is_name) {
                name.clone_from(&spec.name);
            }
        };
        inputs.iter_mut().for_each(|input| name(plain.inputs(), input));
        shapes.iter_mut().for_each(|(input, _)| name(plain.inputs(), input));
        outputs.iter_mut().for_each(|output| name(plain.outputs(), output));
    }
    let custom_ops = args.custom_ops;
    let reading = formats::Options { inputs, outputs, custom_ops, ..formats::Options::default() };
    Ok((args.model.open_with(reading)?, shapes))
}

type Shapes = Vec<(String, Vec<Option<usize>>)>;

/// `NAME` and `NAME=DIMS`.
fn input_arguments(arguments: &[String]) -> Result<(Vec<String>, Shapes), Failure> {
    let (mut names, mut shapes) = (Vec::new(), Vec::new());
    for argument in arguments {
        let Some((name, dims)) = argument.split_once('=') else {
            names.push(argument.clone());
            continue;
        };
        let size = |text: &str| match text.trim() {
            "?" | "-1" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| format!("--input {argument}: {text:?} is no size")),
        };
        let separator = if dims.contains('x') { 'x' } else { ',' };
        let dims = if dims.trim().is_empty() {
            Vec::new()
        } else {
            dims.split(separator).map(size).collect::<Result<_, _>>()?
        };
        names.push(name.to_owned());
        shapes.push((name.to_owned(), dims));
    }
    Ok((names, shapes))
}

/// The samples of a file, each the inputs of one run in the model's order.
fn samples(model: &Model, path: &Path, batch: Option<usize>) -> Result<Vec<Vec<Tensor>>, Failure> {
    let entries = npz::load(path)?;
    if entries.iter().any(|(key, _)| key.contains(".in.")) {
        return from_runs(model, golden::load(path)?);
    }
    let specs = model.inputs();
    let mut arrays = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        let named = entries.iter().find(|(key, _)| *key == spec.name || *key == index.to_string());
        // A lone input takes the lone array that fits.
        let mut fitting = entries
            .iter()
            .filter(|(_, array)| specs.len() == 1 && per_sample(spec, array).is_some());
        let found = named.or_else(|| fitting.next().filter(|_| fitting.next().is_none()));
        let (key, array) = found.ok_or_else(|| {
            format!("{}: no array for the input `{}` {}", path.display(), spec.name, spec.kind())
        })?;
        let split = per_sample(spec, array).ok_or_else(|| {
            format!(
                "{}: array `{key}` of shape {:?} holds no samples of {spec}",
                path.display(),
                array.shape()
            )
        })?;
        arrays.push(cut(array, &split, batch)?);
    }
    let count = arrays.iter().map(Vec::len).min().unwrap_or(0);
    let mut runs: Vec<Vec<Tensor>> = vec![Vec::new(); count];
    for array in arrays {
        runs.iter_mut().zip(array).for_each(|(run, tensor)| run.push(tensor));
    }
    Ok(runs)
}

/// How an array of many samples is one input each.
struct PerSample {
    /// The array has the input's own axes, and its first is the batch: samples of this many rows
    /// are cut from it.
    rows: Option<usize>,
}

/// Whether the array holds samples of the input: on an axis of their own, or as its batch rows.
fn per_sample(spec: &TensorSpec, array: &Tensor) -> Option<PerSample> {
    let axes = spec.axes.as_ref()?;
    if array.dtype() != spec.dtype {
        return None;
    }
    let agree = |axes: &[Axis], shape: &[usize]| {
        axes.iter()
            .zip(shape)
            .all(|(axis, size)| !matches!(axis, Axis::Known(known) if known != size))
    };
    let shape = array.shape();
    if shape.len() == axes.len() + 1 && agree(axes, shape.get(1..)?) {
        return Some(PerSample { rows: None });
    }
    if shape.len() == axes.len() && agree(axes.get(1..)?, shape.get(1..)?) {
        let rows = match axes.first()? {
            Axis::Known(rows) => *rows,
            Axis::Named(_) | Axis::Open => 1,
        };
        return Some(PerSample { rows: Some(rows.max(1)) });
    }
    None
}

fn cut(array: &Tensor, split: &PerSample, batch: Option<usize>) -> Result<Vec<Tensor>, Error> {
    let (first, rest) =
        array.shape().split_first().ok_or_else(|| Error::input("an array without axes"))?;
    let rows = split.rows.map(|rows| if rows == 1 { batch.unwrap_or(1).max(1) } else { rows });
    let each: usize = rest.iter().product::<usize>() * rows.unwrap_or(1);
    let shape: Vec<usize> = rows.into_iter().chain(rest.iter().copied()).collect();
    let values = array.to_f32();
    let count = first / rows.unwrap_or(1);
    let mut parts = Vec::with_capacity(count);
    for part in values.chunks_exact(each.max(1)).take(count) {
        parts.push(match array.dtype() {
            crate::DType::F32 => Tensor::from_slice(&shape, part)?,
            crate::DType::I32 => {
                Tensor::from_vec(&shape, part.iter().map(|&x| x as i32).collect::<Vec<i32>>())?
            }
            other => return Err(Error::input(format!("samples of {other}"))),
        });
    }
    Ok(parts)
}

fn from_runs(model: &Model, runs: Vec<golden::Run>) -> Result<Vec<Vec<Tensor>>, Failure> {
    let mut samples = Vec::new();
    for run in runs {
        let mut inputs = vec![None; model.inputs().len()];
        for (name, tensor) in run.inputs {
            if let Some(slot) = inputs.get_mut(model.input_index(&name)?) {
                *slot = Some(tensor);
            }
        }
        let complete: Option<Vec<Tensor>> = inputs.into_iter().collect();
        samples.push(complete.ok_or_else(|| format!("run {} lacks an input", run.tag))?);
    }
    Ok(samples)
}

/// How far the written model's results are from the model's, both by their own arithmetic.
struct Change {
    samples: usize,
    /// Output, largest and mean distance, share of equal largest entries (for outputs with a last
    /// axis of 2 and more).
    outputs: Vec<(String, f64, f64, Option<f64>)>,
}

fn change(
    args: &Args,
    model: &Model,
    converted: &Converted,
    samples: Vec<Vec<Tensor>>,
) -> Result<Change, Error> {
    let written = Model::from_bytes(&converted.bytes)?;
    let samples = if samples.is_empty() {
        let inputs = common::seeded_inputs(&written, None, None, args.seed)
            .map_err(|_| Error::input("no inputs"))?;
        vec![inputs.into_iter().map(|(_, tensor)| tensor).collect()]
    } else {
        samples
    };
    let before = Session::new(model, Device::reference())?;
    let after = Session::new(&written, Device::reference())?;
    let mut outputs: Vec<(String, f64, f64, Option<f64>)> =
        model.outputs().iter().map(|spec| (spec.name.clone(), 0.0, 0.0, None)).collect();
    let stated = samples.len().min(MOST_STATED);
    let Some(end) = Instant::now().checked_add(MOST_TIME) else {
        return Err(Error::internal("a clock at its end"));
    };
    let bounds = RunOptions::new().deadline(end);
    for inputs in samples.iter().take(MOST_STATED) {
        let (a, b) = (before.run_with(inputs, &bounds)?, after.run_with(inputs, &bounds)?);
        for (slot, (a, b)) in outputs.iter_mut().zip(a.tensors().iter().zip(b.tensors())) {
            let apart = compare(a, b, Tolerance::EXACT, &[])?;
            slot.1 = slot.1.max(apart.max_abs);
            slot.2 += apart.mean_abs / stated as f64;
            if let Some(share) = same_class(a, b) {
                *slot.3.get_or_insert(0.0) += share / stated as f64;
            }
        }
    }
    Ok(Change { samples: stated, outputs })
}

/// Share of the rows whose largest entry is at the same place.
fn same_class(a: &Tensor, b: &Tensor) -> Option<f64> {
    let width = *a.shape().last().filter(|&&width| width >= 2)?;
    let largest = |row: &[f32]| {
        row.iter().enumerate().max_by(|x, y| x.1.total_cmp(y.1)).map(|(index, _)| index)
    };
    let (a, b) = (a.to_f32(), b.to_f32());
    let rows = a.chunks_exact(width).zip(b.chunks_exact(width));
    let (mut same, mut all) = (0usize, 0usize);
    for (x, y) in rows {
        all += 1;
        same += usize::from(largest(x) == largest(y));
    }
    (all > 0).then(|| same as f64 / all as f64)
}

fn report(
    args: &Args,
    model_warnings: &[String],
    converted: &Converted,
    change: Result<Change, Error>,
    output: &mut Output,
) {
    let size = converted.bytes.len();
    output.line(format!(
        "{} -> {}: {} fused recurrent ops, {} loops, {}",
        args.model.path.display(),
        args.file.display(),
        converted.recurrent_ops,
        converted.loops,
        bytes(size as u64)
    ));
    if args.quantize != QuantizeName::None {
        let ratio = size as f64 / converted.float_bytes.max(1) as f64;
        output.line(format!(
            "as float it would be {}: {ratio:.3} of that",
            bytes(converted.float_bytes as u64)
        ));
    }
    converted.warnings.iter().for_each(|warning| output.line(format!("note: {warning}")));
    let stated: Value = match &change {
        Ok(change) => {
            let source = if args.calibrate.is_some() { "samples" } else { "seeded inputs" };
            output.line(format!("change of the results on {} {source}:", change.samples));
            output.line(table(
                &["output", "max abs", "mean abs", "same largest entry"],
                1,
                change.outputs.iter().map(|(name, max, mean, same)| {
                    let same = same
                        .map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0));
                    vec![name.clone(), format!("{max:.2e}"), format!("{mean:.2e}"), same]
                }),
            ));
            json!({ "samples": change.samples, "outputs": change.outputs.iter().map(|(name, max, mean, same)| json!({
                "output": name, "max_abs": max, "mean_abs": mean, "same_largest_entry": same,
            })).collect::<Vec<_>>() })
        }
        Err(error) => {
            output.line(format!("the change of the results is not stated: {error}"));
            Value::Null
        }
    };
    output.json(json!({
        "recurrent_ops": converted.recurrent_ops,
        "loops": converted.loops,
        "bytes": size,
        "float_bytes": converted.float_bytes,
        "warnings": model_warnings.iter().chain(&converted.warnings).collect::<Vec<_>>(),
        "change": stated,
    }));
}
