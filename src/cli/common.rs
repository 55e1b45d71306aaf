//! What the commands share: failures and their exit status, output, the log, devices, inputs.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::backend::{BackendOptions, Precision, Product, Strategy};
use crate::formats::Options as ReadOptions;
use crate::measure::inputs::{Sizes, seeded};
use crate::tensor::npz;
use crate::text::{Lines, clean};
use crate::{Device, Error, ErrorKind, Model, Outputs, Session, Tensor};
use serde_json::{Value, json};

/// Why a command ends, and with which status.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: u8,
    kind: String,
    message: String,
}

impl Failure {
    /// Bad usage or an unreadable input.
    pub(crate) fn usage(error: impl Into<Failure>) -> Failure {
        Failure { status: 2, ..error.into() }
    }

    /// The command went on after its limit.
    pub(crate) fn over_time(limit: Duration) -> Failure {
        let message = format!("it has taken more than {:.1} s, the limit", limit.as_secs_f64());
        Failure { status: 1, kind: "Limit".to_owned(), message }
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The failure as a JSON document.
    pub(crate) fn document(&self) -> Value {
        json!({ "error": self.message, "kind": self.kind })
    }

    /// A panic was caught.
    pub(crate) fn defect() -> Failure {
        let message = "the program came to a state that it should not: this is a defect of fuselstm, please report it";
        Failure { status: 1, kind: "Internal".to_owned(), message: message.to_owned() }
    }
}

impl From<Error> for Failure {
    /// What the caller gave is wrong (2), or the run failed (1).
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::Io
            | ErrorKind::UnknownFormat
            | ErrorKind::Malformed
            | ErrorKind::InvalidInput => 2,
            _ => 1,
        };
        Failure { status, kind: format!("{:?}", error.kind()), message: error.to_string() }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Failure { status: 2, kind: "InvalidInput".to_owned(), message }
    }
}

/// Prints a line on stderr, made safe for a terminal.
pub(crate) fn tell(line: &str) {
    // There is nowhere left to report that this failed.
    let _ = writeln!(std::io::stderr(), "{}", clean(line, Lines::Keep));
}

/// What a command prints: text, or one JSON document. Written at the end, in one piece; a closed
/// pipe is no failure.
pub(crate) struct Output {
    is_json: bool,
    text: String,
    document: Option<Value>,
}

impl Output {
    pub(crate) fn new(is_json: bool) -> Output {
        Output { is_json, text: String::new(), document: None }
    }

    /// Adds lines of text, made safe for a terminal; left out of JSON output.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(&clean(line.as_ref(), Lines::Keep));
        self.text.push('\n');
    }

    /// Prints the document instead of the text, as `--json` does.
    pub(crate) fn ask_json(&mut self) {
        self.is_json = true;
    }

    /// Sets the JSON document.
    pub(crate) fn json(&mut self, document: Value) {
        self.document = Some(document);
    }

    /// Reports a failure: on stderr, and as the document.
    pub(crate) fn fail(&mut self, failure: &Failure) {
        tell(&format!("error: {}", failure.message));
        self.document = Some(failure.document());
    }

    /// Writes it all.
    pub(crate) fn finish(self) -> std::io::Result<()> {
        let mut stdout = std::io::stdout().lock();
        let text = match (self.is_json, self.document) {
            (true, document) => format!("{:#}\n", document.unwrap_or(Value::Null)),
            (false, _) => self.text,
        };
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            done => done,
        }
    }
}

/// Messages of the library go to stderr: warnings, and with `--verbose` what it tells besides.
pub(crate) fn start_log(verbose: bool) {
    struct Stderr;
    impl log::Log for Stderr {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.target().starts_with("fuselstm") && metadata.level() <= log::max_level()
        }
        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                let level = record.level().as_str().to_lowercase();
                tell(&format!("{level}: {}", record.args()));
            }
        }
        fn flush(&self) {}
    }
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(if verbose { log::LevelFilter::Debug } else { log::LevelFilter::Warn });
    }
}

/// The model of a command.
#[derive(clap::Args)]
pub(crate) struct Source {
    /// The model: a file of any format that is read, or a SavedModel folder.
    #[arg(value_name = "MODEL")]
    pub(crate) path: PathBuf,
    /// Signature of a SavedModel.
    #[arg(long, value_name = "NAME")]
    pub(crate) signature: Option<String>,
}

impl Source {
    /// Reads the model.
    pub(crate) fn open(&self) -> Result<Model, Failure> {
        self.open_with(ReadOptions::default())
    }

    /// As [`Source::open`], with options of the reader.
    pub(crate) fn open_with(&self, options: ReadOptions) -> Result<Model, Failure> {
        open_with(&self.path, &ReadOptions { signature: self.signature.clone(), ..options })
    }
}

/// Refuses an output file of another kind than `extension`; a name without one is of any kind.
pub(crate) fn check_kind(path: &Path, extension: &str) -> Result<(), Failure> {
    match path.extension() {
        Some(given) if !given.eq_ignore_ascii_case(extension) => {
            Err(format!("{}: a .{extension} file is written here, no other kind", path.display())
                .into())
        }
        _ => Ok(()),
    }
}

/// Writes outputs as an archive: each under its name, made unlike the others' and safe to unpack.
pub(crate) fn save(path: &Path, outputs: &Outputs) -> Result<(), Failure> {
    let mut taken = HashSet::new();
    let names: Vec<String> = outputs.iter().map(|(name, _)| entry_name(name, &mut taken)).collect();
    npz::save(path, names.iter().map(String::as_str).zip(outputs.tensors()))?;
    Ok(())
}

/// The name of an archive's entry: no control characters, no way out of the folder that it is
/// unpacked in, none of those that are taken; it is taken from then on.
fn entry_name(name: &str, taken: &mut HashSet<String>) -> String {
    let parts = name.split('/').filter(|part| !matches!(*part, "" | "." | ".."));
    let joined = parts.collect::<Vec<_>>().join("/");
    let mut plain: String = joined.chars().map(|c| if c.is_control() { '_' } else { c }).collect();
    if plain.is_empty() {
        plain = "output".to_owned();
    }
    let mut unlike = plain.clone();
    let mut count = 1;
    while !taken.insert(unlike.clone()) {
        count += 1;
        unlike = format!("{plain}~{count}");
    }
    unlike
}

/// Reads a model; its warnings go to stderr. Whatever is wrong with the file is an unreadable
/// input.
pub(crate) fn open_with(path: &Path, options: &ReadOptions) -> Result<Model, Failure> {
    let model =
        Model::open_with(path, options).map_err(|error| Failure::usage(Failure::from(error)))?;
    for warning in model.warnings() {
        log::warn!("{warning}");
    }
    Ok(model)
}

/// How a device computes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Threads of the cpu device.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// How the weights of float models are stored and multiplied: full, f16, bf16 (cpu) or int8.
    #[arg(long, value_name = "P", default_value = "full")]
    precision: Precision,
    /// Force a recurrent strategy of the gpu device.
    #[arg(long, value_name = "NAME")]
    strategy: Option<Strategy>,
    /// Force the form of matrix products on the gpu device: direct, tiled-64, tiled-128 or
    /// cooperative.
    #[arg(long, value_name = "NAME")]
    product: Option<Product>,
}

impl Options {
    /// The options as the library takes them.
    pub(crate) fn backend(&self) -> BackendOptions {
        BackendOptions {
            threads: self.threads,
            precision: self.precision,
            strategy: self.strategy,
            product: self.product,
            ..BackendOptions::default()
        }
    }

    /// The options for one of the devices of a command: those that it lacks and another one has are
    /// for that other one.
    pub(crate) fn among(&self, devices: &[Device], device: &Device) -> BackendOptions {
        let mut options = self.backend();
        let is_auto = |device: &Device| *device == Device::auto();
        let is_cpu =
            |device: &Device| !device.is_gpu() && !device.is_reference() && !is_auto(device);
        let elsewhere = |has: fn(&Device) -> bool| !has(device) && devices.iter().any(has);
        if !is_cpu(device) && !is_auto(device) && devices.iter().any(is_cpu) {
            options.threads = None;
        }
        if elsewhere(Device::is_gpu) && !is_auto(device) {
            (options.strategy, options.product) = (None, None);
        }
        if device.is_reference() && devices.iter().any(|other| !other.is_reference()) {
            options.precision = Precision::Full;
        }
        options
    }

    /// Opens a device; why it was chosen goes to stderr.
    pub(crate) fn session(&self, model: &Model, device: &Device) -> Result<Session, Error> {
        self.session_among(model, std::slice::from_ref(device), device)
    }

    /// As [`Options::session`], for one of several devices.
    pub(crate) fn session_among(
        &self,
        model: &Model,
        devices: &[Device],
        device: &Device,
    ) -> Result<Session, Error> {
        let session = Session::builder(model)
            .device(device.clone())
            .options(self.among(devices, device))
            .build()?;
        session.notes().iter().for_each(|note| log::info!("{note}"));
        if *device == Device::auto() {
            session.notes().iter().for_each(|note| log::warn!("{note}"));
        }
        Ok(session)
    }
}

/// Where inputs come from.
#[derive(clap::Args)]
pub(crate) struct Inputs {
    /// Inputs from an archive of arrays by tensor name, or one input from an array; may be
    /// repeated.
    #[arg(short, long = "input", value_name = "FILE.npz|NAME=FILE.npy")]
    input: Vec<String>,
    /// Seed of random inputs.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Batch rows of random inputs.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Time steps of random inputs.
    #[arg(long, value_name = "N")]
    time: Option<usize>,
}

impl Inputs {
    /// Inputs of a command that names its options itself.
    pub(crate) fn of(
        input: Vec<String>,
        seed: u64,
        batch: Option<usize>,
        time: Option<usize>,
    ) -> Inputs {
        Inputs { input, seed, batch, time }
    }

    /// The inputs by name: from the files, or random ones where there is no file.
    pub(crate) fn read(&self, model: &Model) -> Result<Vec<(String, Tensor)>, Failure> {
        if self.input.is_empty() {
            return seeded_inputs(model, self.batch, self.time, self.seed);
        }
        if self.batch.is_some() || self.time.is_some() {
            return Err(
                "--batch and --time are the sizes of random inputs; these inputs come from files"
                    .to_owned()
                    .into(),
            );
        }
        let mut inputs = Vec::new();
        for argument in &self.input {
            let whole = PathBuf::from(argument);
            match argument.split_once('=') {
                Some((name, file)) if !whole.exists() => {
                    let mut entries = npz::load(file)?;
                    match (entries.pop(), entries.pop()) {
                        (Some((_, tensor)), None) => inputs.push((name.to_owned(), tensor)),
                        _ => return Err(format!("{file}: one array was expected").into()),
                    }
                }
                _ => {
                    let entries = npz::load(&whole)?;
                    // A lone array without a name is the lone input.
                    let lone = entries.len() == 1
                        && model.inputs().len() == 1
                        && argument.ends_with(".npy");
                    inputs.extend(
                        entries.into_iter().map(|(name, tensor)| {
                            (if lone { "0".to_owned() } else { name }, tensor)
                        }),
                    );
                }
            }
        }
        Ok(inputs)
    }
}

/// Seeded random inputs by name.
pub(crate) fn seeded_inputs(
    model: &Model,
    batch: Option<usize>,
    time: Option<usize>,
    seed: u64,
) -> Result<Vec<(String, Tensor)>, Failure> {
    Ok(seeded(model, Sizes { batch, time }, seed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_an_archive_are_distinct_and_stay_in_their_folder() {
        let mut taken = HashSet::new();
        let given = ["y", "y", "../y", "/etc/x", "a/b:0", "n\0ul", "", "y~2"];
        let names = given.map(|name| entry_name(name, &mut taken));
        assert_eq!(names, ["y", "y~2", "y~3", "etc/x", "a/b:0", "n_ul", "output", "y~2~2"]);
    }

    #[test]
    fn a_file_of_another_kind_is_refused() {
        assert!(check_kind(Path::new("x.txt"), "npz").is_err());
        assert!(check_kind(Path::new("x.NPZ"), "npz").is_ok());
        assert!(check_kind(Path::new("/dev/stdout"), "npz").is_ok());
    }
}
