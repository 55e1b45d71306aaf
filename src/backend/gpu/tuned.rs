//! What `bench --tune` found to be fastest, kept for later sessions: a file for each adapter and
//! driver version in the user's cache folder. It maps the recurrent layers of a run to the strategy
//! and the form of products that won.
//!
//! A file that is not there, cannot be read or holds something else means that nothing was tuned;
//! options that force a strategy or a product come first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;
use serde::{Deserialize, Serialize};

use super::device::AdapterReport;
use crate::backend::{BackendOptions, Choice, Precision};
use crate::error::{Error, ErrorKind, Result};
use crate::graph::recurrent::Layout;
use crate::graph::{Op, Recurrent};
use crate::plan::Plan;

/// A file of another form is not read.
const FORM: u32 = 1;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct File {
    form: u32,
    adapter: String,
    driver: String,
    choices: BTreeMap<String, Choice>,
}

/// The choices for one adapter.
#[derive(Debug)]
pub(super) struct Tuned {
    /// `None`: there is no cache folder.
    path: Option<PathBuf>,
    file: File,
}

impl Tuned {
    /// What is stored for the adapter.
    pub(super) fn load(report: &AdapterReport) -> Tuned {
        let path =
            etcetera::choose_base_strategy().ok().map(|base| path(&base.cache_dir(), report));
        Tuned::load_from(path, report)
    }

    fn load_from(path: Option<PathBuf>, report: &AdapterReport) -> Tuned {
        let empty = File {
            form: FORM,
            adapter: report.name.clone(),
            driver: report.driver.clone(),
            choices: BTreeMap::new(),
        };
        let read = path.as_deref().and_then(|path| match read(path, &empty) {
            Ok(file) => file,
            Err(reason) => {
                log::warn!("{} is ignored: {reason}", path.display());
                None
            }
        });
        Tuned { path, file: read.unwrap_or(empty) }
    }

    /// What was chosen for a plan like this one.
    pub(super) fn choice(&self, plan: &Plan, options: &BackendOptions) -> Option<&Choice> {
        let is_forced = options.strategy.is_some() || options.product.is_some();
        if options.untuned || is_forced || self.file.choices.is_empty() {
            return None;
        }
        self.file.choices.get(&key(plan, options.precision)?)
    }

    /// Stores a choice, beside those that are in the file by now.
    pub(super) fn remember(
        &mut self,
        report: &AdapterReport,
        plan: &Plan,
        precision: Precision,
        choice: Choice,
    ) -> Result<PathBuf> {
        let path = self
            .path
            .clone()
            .ok_or_else(|| Error::input("there is no cache folder to store the choice in"))?;
        let key = key(plan, precision)
            .ok_or_else(|| Error::input("there is no recurrent layer to choose for"))?;
        *self = Tuned::load_from(Some(path.clone()), report);
        self.file.choices.insert(key, choice);
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Io, path.display().to_string()).with_source(error)
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let text = serde_json::to_string_pretty(&self.file)
            .map_err(|error| Error::internal("the choices are no JSON").with_source(error))?;
        // Written aside and moved into place: another process reads the old file or the new one.
        let aside = path.with_extension(format!("{}.new", std::process::id()));
        std::fs::write(&aside, text).map_err(failed)?;
        std::fs::rename(&aside, &path).map_err(failed)?;
        Ok(path)
    }
}

/// The file of an adapter and its driver version.
fn path(cache: &Path, report: &AdapterReport) -> PathBuf {
    let plain = |text: &str| -> String {
        let keep = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
        text.chars().map(keep).take(80).collect()
    };
    cache.join("fuselstm").join("tuned").join(format!(
        "{}_{}.json",
        plain(&report.name),
        plain(&report.driver)
    ))
}

/// The file, when it is there; why it cannot be used, when it cannot.
fn read(path: &Path, like: &File) -> std::result::Result<Option<File>, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let file: File = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if file.form != FORM {
        return Err(format!("it has form {}, this version reads {FORM}", file.form));
    }
    if (&file.adapter, &file.driver) != (&like.adapter, &like.driver) {
        return Err(format!("it is of {} with {}", file.adapter, file.driver));
    }
    Ok(Some(file))
}

/// The recurrent layers of a plan in words: equal words run equally fast. Lengths are rounded up to
/// a power of two, because what is fastest does not change from one length to the next.
fn key(plan: &Plan, precision: Precision) -> Option<String> {
    let mut layers = Vec::new();
    for &id in &plan.steps {
        let Some(node) = plan.graph.node(id) else { continue };
        let Op::Recurrent(op) = &node.op else { continue };
        let x = plan.shape(node.input(Recurrent::X)?)?;
        let &[first, second, input] = x else { return None };
        let (time, batch) = match op.layout {
            Layout::TimeMajor => (first, second),
            Layout::BatchMajor => (second, first),
        };
        let blocks = op.cell.gate_blocks();
        let weights = &op.directions.first()?.weights;
        layers.push(format!(
            "{} T{} B{batch} I{input} H{} P{} D{}",
            op.cell.name(),
            time.next_power_of_two(),
            weights.units(blocks),
            weights.output_width(blocks),
            op.directions.len()
        ));
    }
    (!layers.is_empty()).then(|| format!("{precision:?}: {}", layers.join("; ")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::Strategy;
    use crate::graph::synthetic::{CellKind, Shape};

    fn report(driver: &str) -> AdapterReport {
        AdapterReport {
            index: 0,
            name: "A/B (c)".into(),
            driver: driver.into(),
            kind: "discrete",
            api: "vulkan",
            refused: None,
            features: Vec::new(),
            max_binding_bytes: 0,
            workgroup_bytes: 0,
            workgroup_invocations: 0,
            subgroup_lanes: (8, 8),
        }
    }

    fn plan(time: usize, batch: usize) -> Plan {
        let shape =
            Shape { cell: CellKind::Gru, input: 3, hidden: 4, layers: 2, bidirectional: true };
        Plan::new(&Arc::new(shape.graph(1).unwrap()), &[vec![time, batch, 3]]).unwrap()
    }

    fn choice(strategy: Strategy) -> Choice {
        Choice { strategy: Some(strategy), product: None, median_us: 1.5, default_us: 3.0 }
    }

    /// A file of its own for a test.
    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir()
            .join(format!("fuselstm-tuned-{}-{name}", std::process::id()))
            .join("a.json")
    }

    #[test]
    fn a_choice_is_found_again_for_like_plans_only() {
        let file = scratch("again");
        let mut tuned = Tuned::load_from(Some(file.clone()), &report("1"));
        assert_eq!(tuned.choice(&plan(100, 2), &BackendOptions::default()), None);
        tuned
            .remember(&report("1"), &plan(100, 2), Precision::Full, choice(Strategy::Step))
            .unwrap();
        let later = Tuned::load_from(Some(file.clone()), &report("1"));
        let options = BackendOptions::default();
        assert_eq!(later.choice(&plan(120, 2), &options), Some(&choice(Strategy::Step)));
        assert_eq!(later.choice(&plan(200, 2), &options), None);
        assert_eq!(later.choice(&plan(100, 3), &options), None);
        for other in [
            BackendOptions { precision: Precision::F16, ..options.clone() },
            BackendOptions { untuned: true, ..options.clone() },
            BackendOptions { strategy: Some(Strategy::Loop), ..options.clone() },
        ] {
            assert_eq!(later.choice(&plan(100, 2), &other), None);
        }
        std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
    }

    #[test]
    fn files_of_another_driver_or_form_or_none_at_all_are_ignored() {
        let file = scratch("ignored");
        Tuned::load_from(Some(file.clone()), &report("1"))
            .remember(&report("1"), &plan(8, 1), Precision::Full, choice(Strategy::Loop))
            .unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let count =
            |driver: &str| Tuned::load_from(Some(file.clone()), &report(driver)).file.choices.len();
        assert_eq!((count("1"), count("2")), (1, 0));
        for broken in
            [&text[..text.len() / 2], "", "[]", &text.replace("\"form\": 1", "\"form\": 2")]
        {
            std::fs::write(&file, broken).unwrap();
            assert_eq!(count("1"), 0, "{broken}");
        }
        std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
        assert_eq!(count("1"), 0);
    }

    #[test]
    fn the_file_is_named_after_adapter_and_driver() {
        let path = path(Path::new("/c"), &report("Mesa 1.2/x"));
        assert_eq!(path, Path::new("/c/fuselstm/tuned/A-B--c-_Mesa-1.2-x.json"));
    }
}
