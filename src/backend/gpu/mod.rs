//! The GPU backend: every op as a compute shader through wgpu, the whole run in one submission.

use std::sync::Arc;

use super::ceilings::Ceilings;
use super::{Backend, BackendOptions, Program};
use crate::error::Result;
use crate::plan::Plan;

mod buffers;
mod ceilings;
mod dense;
mod device;
mod ops;
mod pipeline;
mod program;
mod record;
mod recurrent;
mod stored;
mod timing;
mod weights;

pub use device::{AdapterReport, adapters};

/// A GPU with the weights and pipelines of one session.
pub struct Gpu {
    shared: Arc<Shared>,
}

/// What all programs of a session use.
struct Shared {
    device: device::Device,
    pipelines: pipeline::Pipelines,
    constants: buffers::Constants,
    persistent: recurrent::Trust,
    options: BackendOptions,
    /// Four bytes for bindings that a specialised kernel does not read.
    nothing: buffers::View,
}

impl Gpu {
    /// Opens an adapter: `gpu` for the best one, `gpu:N` or `gpu:NAME` (part of its name) for one of [`adapters`].
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for bfloat16 weights and for an unknown form of the matrix product;
    /// [`Device`](crate::ErrorKind::Device) when there is none such, or it lacks something that is needed; the message says what
    /// this machine has.
    pub fn open(selector: &str, options: &BackendOptions) -> Result<Gpu> {
        weights::Storing::of(options.precision)?;
        options.product.as_deref().map(dense::Form::named).transpose()?;
        let device = device::Device::open(selector)?;
        let nothing = buffers::create_with(&device, &device::Meter::default(), &[0])?;
        let stored = if options.uncached { None } else { stored::Stored::open(&device) };
        let pipelines = pipeline::Pipelines::new(options.checked_shaders, stored);
        let constants = buffers::Constants::default();
        let (options, persistent) = (options.clone(), recurrent::Trust::default());
        let shared = Arc::new(Shared { device, pipelines, constants, persistent, options, nothing });
        if shared.options.strategy.as_deref() == Some("persistent") {
            recurrent::probe(&shared);
        }
        Ok(Gpu { shared })
    }

    /// The adapter that was opened.
    pub fn adapter(&self) -> &AdapterReport {
        &self.shared.device.report
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

    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Program>> {
        Ok(Box::new(program::GpuProgram::compile(&self.shared, plan)?))
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
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.device.limits.max_storage_buffer_binding_size = bytes;
        }
        self
    }
}

#[cfg(test)]
mod failures;
#[cfg(test)]
pub(crate) mod testing;
