//! Every TFLite pair of the corpus whose recurrence is not a WHILE loop, on every device, through
//! the public library.
//!
//! `reference` holds the pair's own tolerance; `cpu` and `gpu` hold 1e-5 more for float models, and
//! for hybrid and integer ones, which they run on dequantized weights, a bound of their own, stated
//! beside it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Pair, corpus, gpu_or_skip, loops_and_keras};
use fuselstm::measure::crosscheck::{Check, Rule, check, rule};
use fuselstm::measure::{Tolerance, golden};
use fuselstm::{Device, Model, Session};

/// `cpu` and `gpu` against the bit-exact result of hybrid models, which round the activations to 8
/// bits at every step: the worst measured is 2.7e-2, in a logit of the digit model.
const HYBRID: f64 = 0.04;
/// The same for integer models, in steps of the output; the worst measured is 1.
const INTEGER_STEPS: f64 = 2.0;

/// Opens a pair and checks it on one device.
fn checks(pair: &Pair, device: &Device) -> Vec<Check> {
    let name = device.to_string();
    let tolerance = Tolerance { atol: pair.atol, rtol: 0.0 };
    let failed = |error| vec![Check::failed(&name, "", Rule { tolerance, judged: true }, error)];
    let model = match Model::open(&pair.model) {
        Ok(model) => model,
        Err(error) => return failed(error),
    };
    let mut rule = rule(&model, device, tolerance, Tolerance::DEVICE.atol);
    if !device.is_reference() && pair.arithmetic != "float" {
        let integer_output = model.outputs().iter().any(|output| output.quantization.is_some());
        let atol = if integer_output { INTEGER_STEPS } else { HYBRID };
        rule = Rule { tolerance: Tolerance { atol, rtol: 0.0 }, judged: true };
    }
    let runs = golden::load(&pair.golden).expect("the golden files of the corpus can be read");
    match Session::new(&model, device.clone()) {
        Ok(session) => check(&session, &name, &runs, rule),
        Err(error) => failed(error),
    }
}

/// All pairs on one device; the message lists everything that failed.
fn whole_corpus(device: &Device) {
    all_hold(device, &corpus());
}

fn all_hold(device: &Device, pairs: &[Pair]) {
    let mut failures = Vec::new();
    let mut worst = std::collections::BTreeMap::<&str, (f64, String)>::new();
    for pair in pairs {
        for check in checks(pair, device) {
            let what = format!("{} {} {}", pair.model.display(), check.run, check.output);
            if let Ok(comparison) = &check.result {
                let entry = worst.entry(pair.arithmetic.as_str()).or_default();
                if comparison.max_abs > entry.0 {
                    *entry = (comparison.max_abs, what.clone());
                }
            }
            if !check.holds() {
                failures.push(match &check.result {
                    Ok(c) => format!(
                        "{what}: max abs {:.2e} at {:?} {}",
                        c.max_abs,
                        c.worst,
                        c.mismatch.as_deref().unwrap_or("")
                    ),
                    Err(error) => format!("{what}: {error}"),
                });
            }
        }
    }
    for (arithmetic, (distance, what)) in worst {
        eprintln!("{device}, {arithmetic}: worst {distance:.2e} in {what}");
    }
    assert!(
        failures.is_empty(),
        "{} of {} pairs' checks fail:\n{}",
        failures.len(),
        pairs.len(),
        failures.join("\n")
    );
    eprintln!("{device}: {} pairs hold", pairs.len());
}

#[test]
fn every_pair_on_reference() {
    whole_corpus(&Device::reference());
}

#[test]
fn every_pair_on_cpu() {
    whole_corpus(&Device::cpu());
}

#[test]
fn every_loop_and_keras_model_on_reference_and_cpu() {
    for device in [Device::reference(), Device::cpu()] {
        all_hold(&device, &loops_and_keras());
    }
}

#[test]
fn every_pair_on_gpu() {
    if let Some(gpu) = gpu_or_skip() {
        whole_corpus(&gpu);
    }
}
