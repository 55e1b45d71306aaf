//! The `cpu` backend: packed weights, vector kernels chosen at run time, threads.

mod ceilings;
mod program;
mod recurrent;
mod simd;

use std::sync::{Arc, Mutex, PoisonError};

use super::ceilings::Ceilings;
use super::{Backend, BackendOptions, Program};
use crate::error::{Error, Result};
use crate::plan::Plan;

/// The processor.
pub struct CpuBackend {
    kernels: &'static simd::KernelSet,
    options: BackendOptions,
    /// Started when a program first has work for it; shared by all programs.
    pool: Mutex<Option<Arc<simd::Pool>>>,
}

/// What the programs of a backend share.
struct Resources<'a> {
    kernels: &'static simd::KernelSet,
    options: &'a BackendOptions,
    /// Threads that a step may use, the caller's own among them.
    threads: usize,
}

impl CpuBackend {
    /// A backend with these options.
    ///
    /// # Errors
    /// [`Device`](crate::ErrorKind::Device) when the processor lacks the instruction set that the
    /// options force, [`InvalidInput`](crate::ErrorKind::InvalidInput) for options that mean
    /// nothing.
    pub fn new(options: BackendOptions) -> Result<Self> {
        if options.threads == Some(0) {
            return Err(Error::input("the number of threads must be at least 1"));
        }
        let kernels = simd::select(options.instruction_set)?;
        Ok(CpuBackend { kernels, options, pool: Mutex::new(None) })
    }

    fn threads(&self) -> usize {
        self.options.threads.unwrap_or_else(hardware_threads)
    }

    /// The worker threads, started if they are not yet.
    fn pool(&self) -> Result<Arc<simd::Pool>> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        match &*pool {
            Some(pool) => Ok(pool.clone()),
            None => Ok(pool.insert(Arc::new(simd::Pool::new(self.threads() - 1)?)).clone()),
        }
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn description(&self) -> String {
        format!("{} kernels, {} hardware threads", self.kernels.name, hardware_threads())
    }

    fn ceilings(&self, threads: &[usize]) -> Result<Vec<Ceilings>> {
        Ok(ceilings::measure(self.kernels, &self.description(), threads))
    }

    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Program>> {
        let resources =
            Resources { kernels: self.kernels, options: &self.options, threads: self.threads() };
        let mut program = program::CpuProgram::new(plan, &resources)?;
        if program.is_shared_out() {
            program.use_pool(self.pool()?);
        }
        Ok(Box::new(program))
    }
}

fn hardware_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
