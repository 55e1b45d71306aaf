//! The GPU backend: every op as a compute shader through wgpu, the whole run in one submission.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::ceilings::Ceilings;
use super::{AdapterSelector, Backend, BackendOptions, Choice, Product, Program, Strategy, Tuning};
use crate::error::Result;
use crate::plan::Plan;
use crate::tensor::Tensor;
use program::GpuProgram;

mod buffers;
mod ceilings;
mod command;
mod cooperative;
mod dense;
mod device;
mod ops;
mod pipeline;
mod program;
mod record;
mod recurrent;
mod stored;
mod timing;
mod tune;
mod tuned;
mod weights;

pub use device::{AdapterReport, adapters};

/// A GPU with the weights and pipelines of one session.
pub struct Gpu {
    shared: Arc<Shared>,
    /// What was found to be fastest on this adapter.
    tuned: Mutex<tuned::Tuned>,
    /// Whether the persistent strategy was tried for a choice that names it.
    probed: AtomicBool,
}

/// What all programs of a session use.
struct Shared {
    device: Arc<device::Device>,
    pipelines: Arc<pipeline::Pipelines>,
    constants: Arc<buffers::Constants>,
    persistent: Arc<recurrent::Trust>,
    options: BackendOptions,
    /// Four bytes for bindings that a specialized kernel does not read.
    nothing: buffers::View,
}

impl Gpu {
    /// Opens an adapter, one of [`adapters`].
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for bfloat16 weights; [`Device`](crate::ErrorKind::Device) when there is
    /// none such, or it lacks something that is needed; the message says what this machine has;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for the cooperative product where the adapter
    /// does not list the matrices that it needs.
    pub fn open(selector: &AdapterSelector, options: &BackendOptions) -> Result<Gpu> {
        weights::Storing::of(options.precision)?;
        let is_cooperative = options.product == Some(Product::Cooperative);
        let cooperative = is_cooperative.then_some(options.precision);
        let device = Arc::new(device::Device::open(selector, cooperative)?);
        let nothing = buffers::create_with(&device, &device::Meter::default(), &[0])?;
        let stored = if options.uncached { None } else { stored::Stored::open(&device) };
        let pipelines = Arc::new(pipeline::Pipelines::new(options.checked_shaders, stored));
        let (options, constants, persistent) = (options.clone(), Arc::default(), Arc::default());
        let tuned = Mutex::new(tuned::Tuned::load(&device.report));
        let shared =
            Arc::new(Shared { device, pipelines, constants, persistent, options, nothing });
        if shared.options.strategy == Some(Strategy::Persistent) {
            recurrent::probe(&shared);
        }
        Ok(Gpu { shared, tuned, probed: AtomicBool::new(false) })
    }

    /// The adapter that was opened.
    pub fn adapter(&self) -> &AdapterReport {
        &self.shared.device.report
    }

    /// The same device with a choice forced.
    fn with(&self, strategy: Option<Strategy>, product: Option<Product>) -> Arc<Shared> {
        let persistent = strategy == Some(Strategy::Persistent);
        let Shared { device, pipelines, constants, persistent: trust, options, nothing } =
            &*self.shared;
        let shared = Arc::new(Shared {
            device: Arc::clone(device),
            pipelines: Arc::clone(pipelines),
            constants: Arc::clone(constants),
            persistent: Arc::clone(trust),
            options: BackendOptions { strategy, product, ..options.clone() },
            nothing: nothing.clone(),
        });
        if persistent && !self.probed.swap(true, Ordering::AcqRel) {
            recurrent::probe(&shared);
        }
        shared
    }

    /// Stores a choice for plans like this one; returns the file.
    fn remember(&self, plan: &Plan, choice: Choice) -> Result<PathBuf> {
        let mut tuned = self.tuned.lock().unwrap_or_else(PoisonError::into_inner);
        tuned.remember(&self.shared.device.report, plan, self.shared.options.precision, choice)
    }

    /// The program with what was tuned for the plan, or why that no longer applies; `None` when
    /// nothing was tuned.
    fn compile_tuned(&self, plan: &Arc<Plan>) -> Option<std::result::Result<GpuProgram, String>> {
        let tuned = self.tuned.lock().unwrap_or_else(PoisonError::into_inner);
        let choice = tuned.choice(plan, &self.shared.options).cloned();
        drop(tuned);
        let choice =
            choice.filter(|choice| choice.strategy.is_some() || choice.product.is_some())?;
        let shared = self.with(choice.strategy, choice.product);
        Some(match GpuProgram::compile(&shared, plan) {
            Ok(mut program) => {
                program.note(format!("tuned: {choice}"));
                Ok(program)
            }
            Err(error) => {
                let reason = format!("what was tuned ({choice}) does not apply: {error}");
                log::warn!("gpu: {reason}");
                Err(reason)
            }
        })
    }
}

impl Backend for Gpu {
    fn name(&self) -> &'static str {
        "gpu"
    }

    fn description(&self) -> String {
        self.shared.device.report.to_string()
    }

    fn driver(&self) -> Option<String> {
        Some(self.shared.device.report.driver.clone())
    }

    fn ceilings(&self, _: &[usize]) -> Result<Vec<Ceilings>> {
        Ok(vec![ceilings::measure(&self.shared)?])
    }

    fn tune(&self, plan: &Arc<Plan>, inputs: &[Tensor], states: &[Tensor]) -> Result<Tuning> {
        tune::tune(self, &tune::Work { plan, inputs, states })
    }

    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Program>> {
        let tuned = self.compile_tuned(plan);
        if let Some(Ok(program)) = tuned {
            return Ok(Box::new(program));
        }
        let mut program = GpuProgram::compile(&self.shared, plan)?;
        if let Some(Err(reason)) = tuned {
            program.note(reason);
        }
        Ok(Box::new(program))
    }
}

#[cfg(test)]
impl Gpu {
    /// Loses the device, as when its driver is reset.
    pub(crate) fn lose(&self) {
        self.shared.device.device.destroy();
    }

    /// As on an adapter that allows no larger bindings.
    pub(crate) fn with_largest_binding(mut self, bytes: u64) -> Gpu {
        let shared = Arc::get_mut(&mut self.shared);
        if let Some(device) = shared.and_then(|shared| Arc::get_mut(&mut shared.device)) {
            device.limits.max_storage_buffer_binding_size = bytes;
        }
        self
    }
}

#[cfg(test)]
mod failures;
#[cfg(test)]
pub(crate) mod testing;
