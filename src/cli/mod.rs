//! The command line of fuselstm: one file a command, each through the public library only.

mod bench;
mod bounds;
mod common;
mod convert;
mod crosscheck;
mod devices;
mod inspect;
mod run;
mod svg;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use common::{Failure, Output};

/// Reads LSTM, GRU and RNN models, fuses their loops into single recurrent ops, and runs them on
/// the GPU and the CPU.
///
/// Exit status: 0 done and within tolerance, 1 a difference or a failed run, 2 bad usage or an
/// unreadable input.
#[derive(Parser)]
#[command(name = "fuselstm", version, max_term_width = 110)]
struct Cli {
    /// One JSON document on stdout instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// Say more on stderr.
    #[arg(short, long, global = true)]
    verbose: bool,
    #[command(flatten)]
    bounds: bounds::Bounds,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a model on inputs from files, or on seeded random ones.
    Run(run::Args),
    /// Hold every device against the reference, or all of them against a golden file.
    Crosscheck(crosscheck::Args),
    /// Time a model, or synthetic networks over a grid of sizes.
    Bench(bench::Args),
    /// Write a model as a TensorFlow Lite file, its recurrence fused.
    Convert(convert::Args),
    /// Say what a model is made of, before and after the fusion.
    Inspect(inspect::Args),
    /// List the devices of this machine.
    Devices(devices::Args),
}

/// Runs the command that the arguments of this process name.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors: clap gives them status 0, and wrong usage 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    common::start_log(cli.verbose);
    let mut output = Output::new(cli.json);
    let _bounds = cli.bounds.enter(cli.json);
    // A panic is a defect of this program. It ends in an error message and a status like any other
    // failure.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        dispatch(cli.command, &mut output)
    }));
    let status = match result {
        Ok(Ok(holds)) => u8::from(!holds),
        Ok(Err(failure)) => {
            output.fail(&failure);
            failure.status
        }
        Err(_) => {
            output.fail(&Failure::defect());
            1
        }
    };
    // What was found out is worth nothing when nobody could be told.
    let status = match output.finish() {
        Ok(()) => status,
        Err(error) => {
            common::tell(&format!("error: the output could not be written: {error}"));
            status.max(1)
        }
    };
    ExitCode::from(status)
}

/// Runs a command; `false` when something was found to differ.
fn dispatch(command: Command, output: &mut Output) -> Result<bool, Failure> {
    match command {
        Command::Run(args) => run::run(&args, output),
        Command::Crosscheck(args) => crosscheck::run(&args, output),
        Command::Bench(args) => bench::run(&args, output),
        Command::Convert(args) => convert::run(&args, output),
        Command::Inspect(args) => inspect::run(&args, output),
        Command::Devices(args) => devices::run(&args, output),
    }
}
