//! `fuselstm crosscheck`: every device against the reference, or all of them against a golden file.

use std::path::PathBuf;

use super::table::table;
use crate::backend::{BackendOptions, Precision};
use crate::formats::{Format, Options};
use crate::measure::Tolerance;
use crate::measure::compare::Comparison;
use crate::measure::crosscheck::{
    Check, Intermediate, Rule, check, intermediates, is_quantized, rule, seeded_runs,
};
use crate::measure::golden::{self, Run};
use crate::measure::inputs::Sizes;
use crate::text::error;
use crate::{Device, Model, Session, Tensor};
use serde_json::{Value, json};

use crate::cli::common::{self, Failure, Output};

/// Arguments of `crosscheck`.
///
/// Without --golden, every device is held against `reference` on seeded random inputs. With it,
/// every device, the reference too, is held against the stored outputs: `reference` within --atol,
/// `cpu` and `gpu` within --atol + 1e-5.
///
/// Hybrid and integer models run on `cpu` and `gpu` on dequantized weights: how far they are from
/// the bit-exact result is stated, and judged only when --device-atol says how far they may be.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: common::Source,
    /// Stored inputs and outputs: keys `<run>.in.<tensor>` and `<run>.out.<tensor>`.
    #[arg(long, value_name = "FILE.npz")]
    golden: Option<PathBuf>,
    /// Devices to check; when not given: all there are.
    #[arg(long, value_name = "D,D…", value_delimiter = ',')]
    device: Vec<Device>,
    /// Largest absolute error; for integer outputs in integer steps [default: 1e-5; on devices with
    /// --precision f16 5e-3, bf16 4e-2, int8 5e-2, and as much relative].
    #[arg(long, value_name = "X", value_parser = tolerance)]
    atol: Option<f64>,
    /// Error relative to the expected value's magnitude, on top of --atol [default: 0 with
    /// --golden, 1e-5 without].
    #[arg(long, value_name = "X", value_parser = tolerance)]
    rtol: Option<f64>,
    /// Largest absolute error of `cpu` and `gpu` [default: --atol, plus 1e-5 with --golden; none
    /// for hybrid and integer models].
    #[arg(long, value_name = "X", value_parser = tolerance)]
    device_atol: Option<f64>,
    /// Seed of the random inputs.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Batch rows of the random inputs.
    #[arg(long, value_name = "N", conflicts_with = "golden")]
    batch: Option<usize>,
    /// Time steps of the random inputs.
    #[arg(long, value_name = "N", conflicts_with = "golden")]
    time: Option<usize>,
    /// Compare every intermediate value too, and name the first node that diverges.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    options: common::Options,
}

fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value >= 0.0 && value.is_finite() => Ok(value),
        _ => Err("a finite number that is not negative was expected".to_owned()),
    }
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<bool, Failure> {
    let mut model = args.model.open()?;
    let runs = match &args.golden {
        Some(path) => {
            let runs = golden::load(path)?;
            if let Some(options) = ports_of(&runs, &model) {
                model = args.model.open_with(options)?;
            }
            named(runs, &model)?
        }
        None => seeded_runs(&model, Sizes { batch: args.batch, time: args.time }, args.seed)?,
    };
    let mut report = Report::default();
    let devices = args.devices();
    for device in devices.clone() {
        let options = args.options.among(&devices, &device);
        let rule = args.rule(&model, &device, options.precision);
        let name = device.to_string();
        match args.options.session_among(&model, &devices, &device) {
            Ok(session) => {
                report.devices.push((name.clone(), session.description()));
                report.checks.extend(check(&session, &name, &runs, rule));
            }
            // A device that was asked for and is not there fails the check, not the command: the
            // others are still of interest.
            Err(error) => report.checks.push(Check::failed(&name, "", rule, error)),
        }
        if args.all && !device.is_reference() {
            report.add_intermediates(&options, &model, &device, &runs);
        }
    }
    report.holds = report.checks.iter().all(Check::holds) && !report.checks.is_empty();
    report.print(&model, output);
    output.json(report.to_json());
    Ok(report.holds)
}

/// What to read a TensorFlow graph for, when the file names tensors that are not among those that
/// look like inputs and results.
fn ports_of(runs: &[Run], model: &Model) -> Option<Options> {
    let names = |of: fn(&Run) -> &Vec<(String, Tensor)>| {
        let mut names: Vec<String> = Vec::new();
        for (name, _) in runs.iter().flat_map(of) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    };
    let (inputs, outputs) = (names(|run| &run.inputs), names(|run| &run.outputs));
    let has_inputs = inputs.iter().all(|name| model.input_index(name).is_ok());
    let has_outputs = outputs.iter().all(|name| model.output_index(name).is_ok());
    if model.format() != Some(Format::GraphDef) || has_inputs && has_outputs {
        return None;
    }
    let inputs = if has_inputs { Vec::new() } else { inputs };
    let outputs = if has_outputs { Vec::new() } else { outputs };
    Some(Options { inputs, outputs, ..Options::default() })
}

/// Refuses runs whose tensors the model does not have, before anything is run.
fn named(runs: Vec<Run>, model: &Model) -> Result<Vec<Run>, Failure> {
    for run in &runs {
        for (name, _) in &run.inputs {
            model.input_index(name)?;
        }
        for (name, _) in &run.outputs {
            model.output_index(name)?;
        }
    }
    if runs.iter().flat_map(|run| &run.outputs).all(|(_, tensor)| tensor.is_empty()) {
        return Err("the golden file has no number of any output, so there is nothing to check"
            .to_owned()
            .into());
    }
    Ok(runs)
}

impl Args {
    /// The devices that were asked for; when none was: all there are, `reference` only where it is
    /// not the judge itself.
    fn devices(&self) -> Vec<Device> {
        if !self.device.is_empty() {
            return self.device.clone();
        }
        let mut devices = vec![Device::cpu()];
        if self.golden.is_some() {
            devices.insert(0, Device::reference());
        }
        if Device::list().iter().any(|device| device.is_gpu && device.is_usable) {
            devices.push(Device::gpu());
        } else {
            log::warn!("no GPU adapter was found: the gpu is not checked");
        }
        devices
    }

    fn rule(&self, model: &Model, device: &Device, precision: Precision) -> Rule {
        let against_file = self.golden.is_some();
        let full = if against_file { Tolerance::STORED } else { Tolerance::DEVICE };
        let usual = match precision {
            Precision::Full => full,
            Precision::F16 | Precision::Bf16 | Precision::Int8 => Tolerance::of(precision),
        };
        let Tolerance { atol, rtol } = self.atol.map_or(usual, |atol| Tolerance { atol, ..full });
        let asked = Tolerance { atol, rtol: self.rtol.unwrap_or(rtol) };
        let allowance = if against_file { Tolerance::DEVICE.atol } else { 0.0 };
        let mut rule = rule(model, device, asked, allowance);
        if let Some(atol) = self.device_atol.filter(|_| !device.is_reference()) {
            rule = Rule { tolerance: Tolerance { atol, ..asked }, judged: true };
        }
        rule
    }
}

/// Everything that was found.
#[derive(Default)]
struct Report {
    devices: Vec<(String, String)>,
    checks: Vec<Check>,
    intermediates: Vec<(String, Result<Vec<Intermediate>, crate::Error>)>,
    holds: bool,
}

impl Report {
    fn add_intermediates(
        &mut self,
        options: &BackendOptions,
        model: &Model,
        device: &Device,
        runs: &[Run],
    ) {
        let Some(run) = runs.first() else { return };
        let builder = Session::builder(model).device(device.clone()).options(options.clone());
        let result = intermediates(&builder, run, Tolerance::of(options.precision));
        self.intermediates.push((device.to_string(), result));
    }

    fn print(&self, model: &Model, output: &mut Output) {
        for (device, description) in &self.devices {
            output.line(format!("{device}: {description}"));
        }
        let headings = [
            "run",
            "output",
            "device",
            "max abs",
            "max rel",
            "mean abs",
            "ULP",
            "cosine",
            "worst at",
            "first bad",
            "NaN/Inf",
            "allowed",
            "",
        ];
        output.line(table(&headings, 3, self.checks.iter().map(row)));
        for check in &self.checks {
            if let Err(error) = &check.result {
                output.line(format!("{} {}: {error}", check.device, check.run));
            } else if let Ok(Comparison { mismatch: Some(mismatch), .. }) = &check.result {
                output.line(format!("{} {} {}: {mismatch}", check.device, check.run, check.output));
            }
        }
        for (device, result) in &self.intermediates {
            print_intermediates(device, result, output);
        }
        if is_quantized(model.graph()) && self.checks.iter().any(|check| !check.rule.judged) {
            output.line(
                "This model computes in hybrid or integer arithmetic. The devices marked `stated` run it on dequantized weights: their \
                 distance is the quantization error, and --device-atol would judge it.",
            );
        }
        let failed = self.checks.iter().filter(|check| !check.holds()).count();
        output.line(if self.holds {
            format!("holds: all {} checks", self.checks.len())
        } else {
            format!("DOES NOT HOLD: {failed} of {} checks", self.checks.len())
        });
    }

    fn to_json(&self) -> Value {
        let devices = self
            .devices
            .iter()
            .map(|(name, description)| json!({ "device": name, "description": description }));
        json!({
            "holds": self.holds,
            "checks": self.checks.iter().map(check_json).collect::<Vec<_>>(),
            "devices": devices.collect::<Vec<_>>(),
            "intermediates": self.intermediates.iter().map(intermediates_json).collect::<Vec<_>>(),
        })
    }
}

fn row(check: &Check) -> Vec<String> {
    let verdict = match (check.holds(), check.rule.judged) {
        (true, true) => "holds",
        (true, false) => "stated",
        (false, _) => "FAILS",
    };
    let mut row = vec![check.run.clone(), check.output.clone(), check.device.clone()];
    let allowed = if check.rule.judged { allowed(check.rule.tolerance) } else { "-".to_owned() };
    match &check.result {
        Ok(c) => {
            let dash = || "-".to_owned();
            row.extend([
                error(c.max_abs),
                error(c.max_rel),
                error(c.mean_abs),
                c.max_ulp.map_or_else(dash, |ulp| {
                    if ulp > 999_999 { error(ulp as f64) } else { ulp.to_string() }
                }),
                c.cosine.map_or_else(dash, |cosine| format!("{cosine:.7}")),
                place(c),
                c.first_bad_step.map_or_else(dash, |step| format!("step {step}")),
                format!("{}/{}", c.nan[1], c.infinite[1]),
            ]);
        }
        Err(_) => row.extend(std::iter::repeat_n("-".to_owned(), 8)),
    }
    row.extend([allowed, verdict.to_owned()]);
    row
}

fn allowed(tolerance: Tolerance) -> String {
    let relative = if tolerance.rtol > 0.0 {
        format!(" + {}·|x|", error(tolerance.rtol))
    } else {
        String::new()
    };
    format!("{}{relative}", error(tolerance.atol))
}

/// Step, row and unit of the worst element, as far as they are known, or its index.
fn place(comparison: &Comparison) -> String {
    let Some(worst) = &comparison.worst else { return "-".to_owned() };
    let named = [("step", worst.step), ("row", worst.row), ("unit", worst.unit)];
    let named: Vec<String> =
        named.iter().filter_map(|(what, at)| at.map(|at| format!("{what} {at}"))).collect();
    if named.is_empty() { format!("{:?}", worst.index) } else { named.join(" ") }
}

/// Numbers that are not finite become null: JSON has none.
fn check_json(check: &Check) -> Value {
    let mut json = json!({
        "run": check.run,
        "output": check.output,
        "device": check.device,
        "atol": check.rule.tolerance.atol,
        "rtol": check.rule.tolerance.rtol,
        "judged": check.rule.judged,
        "holds": check.holds(),
    });
    let more = match &check.result {
        Ok(comparison) => comparison_json(comparison),
        Err(error) => {
            json!({ "max_abs": null, "max_rel": null, "worst": null, "error": error.to_string() })
        }
    };
    if let (Some(json), Value::Object(more)) = (json.as_object_mut(), more) {
        json.extend(more);
    }
    json
}

fn comparison_json(c: &Comparison) -> Value {
    json!({
        "elements": c.elements,
        "max_abs": c.max_abs,
        "max_rel": c.max_rel,
        "mean_abs": c.mean_abs,
        "max_ulp": c.max_ulp,
        "cosine": c.cosine,
        "worst": c.worst.as_ref().map(|worst| json!({
            "step": worst.step,
            "row": worst.row,
            "unit": worst.unit,
            "index": worst.index,
            "expected": worst.expected,
            "actual": worst.actual,
        })),
        "outside": c.outside,
        "first_bad_step": c.first_bad_step,
        "nan": c.nan,
        "infinite": c.infinite,
        "mismatch": c.mismatch,
    })
}

fn print_intermediates(
    device: &str,
    result: &Result<Vec<Intermediate>, crate::Error>,
    output: &mut Output,
) {
    let values = match result {
        Ok(values) => values,
        Err(error) => {
            return output
                .line(format!("{device}: the intermediate values cannot be compared: {error}"));
        }
    };
    let rows = values.iter().map(|value| {
        let c = &value.comparison;
        let verdict = if c.holds() { "" } else { "diverges" };
        vec![
            value.node.0.to_string(),
            value.op.to_owned(),
            value.value.clone(),
            error(c.max_abs),
            place(c),
            verdict.to_owned(),
        ]
    });
    output.line(format!("{device} against reference, every value:"));
    output.line(table(&["node", "op", "value", "max abs", "worst at", ""], 3, rows));
    output.line(match values.iter().find(|value| !value.comparison.holds()) {
        Some(first) => {
            format!(
                "{device}: node {} ({}, `{}`) is the first that diverges",
                first.node.0, first.op, first.name
            )
        }
        None => format!("{device}: no node diverges by more than {}", allowed(Tolerance::DEVICE)),
    });
}

fn intermediates_json(
    (device, result): &(String, Result<Vec<Intermediate>, crate::Error>),
) -> Value {
    let value_json = |value: &Intermediate| {
        let mut json = comparison_json(&value.comparison);
        if let Some(json) = json.as_object_mut() {
            json.extend([
                ("node".to_owned(), json!(value.node.0)),
                ("op".to_owned(), json!(value.op)),
                ("name".to_owned(), json!(value.name)),
                ("value".to_owned(), json!(value.value)),
                ("holds".to_owned(), json!(value.comparison.holds())),
            ]);
        }
        json
    };
    match result {
        Ok(values) => json!({
            "device": device,
            "values": values.iter().map(value_json).collect::<Vec<_>>(),
            "first_divergence": values.iter().find(|value| !value.comparison.holds()).map(value_json),
        }),
        Err(error) => json!({ "device": device, "error": error.to_string() }),
    }
}
