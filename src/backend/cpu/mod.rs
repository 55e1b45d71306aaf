//! The `cpu` backend: packed weights, vector kernels chosen at run time, threads.

mod program;
mod recurrent;
mod simd;

use std::sync::Arc;

use super::{Backend, BackendOptions, Program};
use crate::error::Result;
use crate::plan::Plan;

/// The processor.
pub struct CpuBackend {
    table: &'static simd::Table,
    options: BackendOptions,
}

impl CpuBackend {
    /// A backend with these options.
    ///
    /// # Errors
    /// [`Device`](crate::ErrorKind::Device) when the processor lacks the instruction set that the options force.
    pub fn new(options: BackendOptions) -> Result<Self> {
        Ok(CpuBackend { table: simd::select(options.instruction_set.as_deref())?, options })
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn description(&self) -> String {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        format!("{} kernels, {threads} hardware threads", self.table.name)
    }

    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Program>> {
        Ok(Box::new(program::CpuProgram::new(plan, self.table, &self.options)?))
    }
}
