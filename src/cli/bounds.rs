//! `--limit-time` and `--limit-memory`: bounds of a whole command.

use std::io::Write as _;
use std::time::Duration;

use super::common::Failure;
use crate::limits::{Guard, RunOptions};

/// How long a command may take, and how much memory.
#[derive(clap::Args)]
pub(crate) struct Bounds {
    /// Ends the command with status 1 when it takes longer than this many seconds.
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    limit_time: Option<Duration>,
    /// Most memory for the inputs, states and intermediate values of a run, and for any tensor:
    /// bytes, or with a unit as in 512MiB [default: 8GiB].
    #[arg(long, global = true, value_name = "SIZE", value_parser = size)]
    limit_memory: Option<u64>,
}

/// Time that is left to steps that ask for the limit before the process is ended from outside them.
const GRACE: Duration = Duration::from_secs(1);

impl Bounds {
    /// The bounds hold for this thread as long as the guard is kept.
    pub(crate) fn enter(&self, is_json: bool) -> Guard {
        let mut options = RunOptions::new();
        if let Some(limit) = self.limit_time {
            options = options.time_limit(limit);
            end_after(limit, is_json);
        }
        if let Some(bytes) = self.limit_memory {
            options = options.memory_limit(bytes);
        }
        options.begin().enter()
    }
}

/// Ends the process when the command goes on after the limit and a grace: not everything it does
/// asks for the limit.
fn end_after(limit: Duration, is_json: bool) {
    let Some(wait) = limit.checked_add(GRACE) else { return };
    let watch = move || {
        std::thread::sleep(wait);
        let failure = Failure::over_time(limit);
        let _ = writeln!(std::io::stderr(), "error: {}", failure.message());
        if is_json {
            let _ = writeln!(std::io::stdout(), "{:#}", failure.document());
        }
        std::process::exit(1);
    };
    if std::thread::Builder::new().name("limit".to_owned()).spawn(watch).is_err() {
        log::warn!("no thread for --limit-time: only steps that ask for it end at the limit");
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(limit) if !limit.is_zero() => Ok(limit),
        _ => Err(format!("`{text}`: a number of seconds over 0 was expected")),
    }
}

fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 8] = [
        ("", 1),
        ("B", 1),
        ("kB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
    ];
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()));
    let bytes = number.parse::<u64>().ok().zip(factor).and_then(|(n, (_, f))| n.checked_mul(*f));
    bytes.ok_or_else(|| format!("`{text}` is no size: bytes, or a number with kB, MiB, GiB, …"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_seconds_are_read_or_refused() {
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size("2 GB"), Ok(2_000_000_000));
        assert_eq!(size("7"), Ok(7));
        for text in ["", "MiB", "-1", "1.5GiB", "99999999999GiB", "3 cups"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "nan", "inf", "soon"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
