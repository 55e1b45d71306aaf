//! `fuselstm convert`: any format that is read, fused, as a TensorFlow Lite file.

use std::path::{Path, PathBuf};

use fuselstm::convert::{self, Quantize, to_tflite};
use fuselstm::measure::golden;
use fuselstm::measure::report::bytes;
use fuselstm::tensor::npz;
use fuselstm::{Error, Model, Tensor, formats};
use serde_json::json;

use crate::common::{Failure, Output};

/// Arguments of `convert`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model: a file of any format that is read, or the folder of a SavedModel.
    model: PathBuf,
    /// The file to write.
    #[arg(short = 'o', long = "out", value_name = "OUT.tflite")]
    file: PathBuf,
    /// An input, by name, with its sizes where the model leaves them open: `x=1,28,28`, a `?` for one that stays open. When
    /// given, these are the inputs.
    #[arg(long = "input", value_name = "NAME[=DIMS]")]
    inputs: Vec<String>,
    /// An output, by name. When given, these are the outputs.
    #[arg(long = "output", value_name = "NAME")]
    outputs: Vec<String>,
    /// Batch size, where the model leaves it open.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// How weights and activations are stored.
    #[arg(long, value_enum, value_name = "HOW")]
    quantize: Option<How>,
    /// Samples for --quantize int8: inputs by name (with one more axis in front: one sample an index), or a golden file's runs.
    #[arg(long, value_name = "FILE.npz")]
    calibrate: Option<PathBuf>,
    /// Signature of a SavedModel [default: serving_default].
    #[arg(long, value_name = "NAME")]
    signature: Option<String>,
    /// Write marked calls of a TensorFlow graph that are no recurrent layer as one custom op each.
    #[arg(long)]
    custom_ops: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum How {
    /// Int8 weights, float activations.
    Dynamic,
    /// Weights as halves.
    Float16,
    /// Int8 weights and activations.
    Int8,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<bool, Failure> {
    let (names, shapes) = inputs(&args.inputs)?;
    let reading = formats::Options {
        inputs: names,
        outputs: args.outputs.clone(),
        signature: args.signature.clone(),
        custom_ops: args.custom_ops,
    };
    let model = Model::open_with(&args.model, &reading).map_err(Failure::usage)?;
    let writing = convert::Options {
        batch: args.batch,
        shapes,
        quantize: match args.quantize {
            None => Quantize::None,
            Some(How::Dynamic) => Quantize::Dynamic,
            Some(How::Float16) => Quantize::Float16,
            Some(How::Int8) => Quantize::Int8,
        },
        calibration: match (&args.calibrate, args.quantize) {
            (Some(path), Some(How::Int8)) => samples(path, &model)?,
            (None, Some(How::Int8)) => {
                return Err("--quantize int8 needs samples: --calibrate FILE.npz".to_owned().into());
            }
            (Some(_), _) => return Err("--calibrate is of use with --quantize int8 only".to_owned().into()),
            (None, _) => Vec::new(),
        },
    };
    let written = to_tflite(model.graph(), &writing)?;
    std::fs::write(&args.file, &written.bytes)
        .map_err(|error| Failure::usage(Error::from(error).within(args.file.display().to_string())))?;
    let warnings: Vec<&String> = model.warnings().iter().chain(&written.warnings).collect();
    warnings.iter().for_each(|warning| log::warn!("{warning}"));
    output.line(format!(
        "{}: {} ({} without quantisation), {} fused recurrent operators, {} loops",
        args.file.display(),
        bytes(written.bytes.len() as u64),
        bytes(written.float_bytes as u64),
        written.recurrent_ops,
        written.loops
    ));
    for left in model.reports().iter().flat_map(|report| &report.declined) {
        output.line(format!("left as it was: {}: {}", left.what, left.reason));
    }
    output.json(json!({
        "recurrent_ops": written.recurrent_ops,
        "loops": written.loops,
        "bytes": written.bytes.len(),
        "float_bytes": written.float_bytes,
        "warnings": warnings,
    }));
    Ok(true)
}

/// A shape by the name of its input; `None` for an axis that stays open.
type NamedShape = (String, Vec<Option<usize>>);

/// Names of the inputs, and the shapes of those that have one.
fn inputs(arguments: &[String]) -> Result<(Vec<String>, Vec<NamedShape>), Failure> {
    let (mut names, mut shapes) = (Vec::new(), Vec::new());
    for argument in arguments {
        match argument.rsplit_once('=') {
            Some((name, dims)) => {
                let size = |text: &str| match text.trim() {
                    "?" | "-1" => Ok(None),
                    number => number.parse().map(Some),
                };
                let shape: Result<Vec<Option<usize>>, _> = dims.split(',').map(size).collect();
                let shape =
                    shape.map_err(|_| format!("`{argument}`: sizes such as 1,28,28 or ?,28,28 were expected"))?;
                names.push(name.to_owned());
                shapes.push((name.to_owned(), shape));
            }
            None => names.push(argument.clone()),
        }
    }
    Ok((names, shapes))
}

/// Inputs of each calibration run, in the model's order.
fn samples(path: &Path, model: &Model) -> Result<Vec<Vec<Tensor>>, Failure> {
    let entries = npz::load(path)?;
    let runs: Vec<Vec<(String, Tensor)>> = match golden::runs(entries.clone()) {
        Ok(runs) => runs.into_iter().map(|run| run.inputs).collect(),
        Err(_) => by_sample(entries, model)?,
    };
    let in_order = |run: Vec<(String, Tensor)>| {
        let mut sorted = vec![None; model.inputs().len()];
        for (name, tensor) in run {
            if let Some(slot) = sorted.get_mut(model.input_index(&name)?) {
                *slot = Some(tensor);
            }
        }
        let all: Option<Vec<Tensor>> = sorted.into_iter().collect();
        all.ok_or_else(|| Failure::from(format!("{}: a sample lacks an input", path.display())))
    };
    runs.into_iter().map(in_order).collect()
}

/// One run for each index of the axis that the arrays have in front of the model's own axes; a single run without such an axis.
fn by_sample(entries: Vec<(String, Tensor)>, model: &Model) -> Result<Vec<Vec<(String, Tensor)>>, Failure> {
    let mut runs: Vec<Vec<(String, Tensor)>> = Vec::new();
    for (name, tensor) in entries {
        let spec = model.inputs().get(model.input_index(&name)?);
        let rank = spec.and_then(|spec| spec.axes.as_ref()).map_or(0, Vec::len);
        let pieces = match tensor.shape().split_first() {
            Some((&count, shape)) if shape.len() == rank => split(&tensor, count, shape)?,
            _ => vec![tensor],
        };
        if runs.is_empty() {
            runs = vec![Vec::new(); pieces.len()];
        }
        if runs.len() != pieces.len() {
            return Err(format!("{} samples of `{name}`, {} of the inputs before it", pieces.len(), runs.len()).into());
        }
        runs.iter_mut().zip(pieces).for_each(|(run, piece)| run.push((name.clone(), piece)));
    }
    Ok(runs)
}

/// The entries of the first axis, as tensors of their own.
fn split(tensor: &Tensor, count: usize, shape: &[usize]) -> Result<Vec<Tensor>, Error> {
    use fuselstm::{DType, Element};
    fn pieces<E: Element>(tensor: &Tensor, count: usize, shape: &[usize]) -> Result<Vec<Tensor>, Error> {
        let data = tensor.as_slice::<E>()?;
        let size = data.len() / count.max(1);
        (0..count).map(|n| Tensor::from_slice(shape, data.get(n * size..(n + 1) * size).unwrap_or_default())).collect()
    }
    match tensor.dtype() {
        DType::F32 => pieces::<f32>(tensor, count, shape),
        DType::I32 => pieces::<i32>(tensor, count, shape),
        DType::I64 => pieces::<i64>(tensor, count, shape),
        DType::Bool => pieces::<bool>(tensor, count, shape),
        DType::F64 | DType::F16 | DType::I8 | DType::U8 | DType::I16 => {
            Err(Error::unsupported(format!("calibration samples of {}", tensor.dtype())))
        }
    }
}
