//! Which devices are measured, each with which options.

use crate::Device;
use crate::backend::{BackendOptions, Strategy};

use super::Args;
use crate::cli::common::Failure;

/// One device with one choice of options.
pub(super) struct Setup<'a> {
    pub(super) device: &'a Device,
    pub(super) options: BackendOptions,
}

/// Every device with every precision, number of threads and strategy that it has.
pub(super) fn setups(args: &Args) -> Result<Vec<Setup<'_>>, Failure> {
    let has_threads = |device: &Device| *device == Device::cpu();
    let needs = |option: &str, device: &str| -> Failure {
        format!("{option} is an option of the {device} device, and --device names none").into()
    };
    if args.threads.is_some() && !args.device.iter().any(has_threads) {
        return Err(needs("--threads", "cpu"));
    }
    if !args.strategy.is_empty() && !args.device.iter().any(Device::is_gpu) {
        return Err(needs("--strategy", "gpu"));
    }
    if args.phases && !args.device.iter().any(Device::is_gpu) {
        return Err(needs("--phases", "gpu"));
    }
    for (given, option) in [(args.tune, "--tune"), (args.untuned, "--untuned")] {
        if given && !args.device.iter().any(Device::is_gpu) {
            return Err(needs(option, "gpu"));
        }
    }
    let mut setups = Vec::new();
    for device in &args.device {
        let threads: Vec<Option<usize>> = match &args.threads {
            Some(sizes) if has_threads(device) => sizes.0.iter().copied().map(Some).collect(),
            _ => vec![None],
        };
        let strategies: Vec<Option<Strategy>> = match args.strategy.as_slice() {
            strategies if device.is_gpu() && !strategies.is_empty() => {
                strategies.iter().copied().map(Some).collect()
            }
            _ => vec![None],
        };
        for &precision in &args.precision {
            for &threads in &threads {
                for &strategy in &strategies {
                    let untuned = args.untuned && device.is_gpu();
                    let options = BackendOptions {
                        threads,
                        precision,
                        strategy,
                        untuned,
                        ..BackendOptions::default()
                    };
                    setups.push(Setup { device, options });
                }
            }
        }
    }
    Ok(setups)
}
