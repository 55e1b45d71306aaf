//! A plan made ready for the processor: where every value lives, and the steps in order.

mod dense;
mod elementwise;
mod indexed;
mod movement;
mod recurrent;
mod slots;
mod step;
mod windowed;

use std::sync::Arc;

use super::Resources;
use super::simd::Pool;
use crate::backend::{Counters, Io, Program};
use crate::error::{Error, Place as _, Result};
use crate::limits;
use crate::plan::Plan;
use crate::tensor::Tensor;

use slots::Slots;
use step::Step;

/// A compiled plan.
pub(super) struct CpuProgram {
    plan: Arc<Plan>,
    slots: Slots,
    steps: Vec<(usize, Step)>,
    notes: Vec<String>,
    pool: Option<Arc<Pool>>,
}

impl CpuProgram {
    /// Chooses a kernel for every step, packs its weights and allocates its buffers.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) with the node that cannot run here, and what
    /// the kernels refuse.
    pub fn new(plan: &Arc<Plan>, resources: &Resources<'_>) -> Result<CpuProgram> {
        let mut slots = Slots::new(plan);
        let mut steps = Vec::new();
        let mut notes = Vec::new();
        for id in &plan.steps {
            let index = id.index();
            let node = plan
                .graph
                .nodes
                .get(index)
                .ok_or_else(|| Error::internal("the plan has a step without a node"))?;
            let place = || format!("node {index} `{}`", node.name);
            if let Some(step) = Step::new(plan, node, &mut slots, resources).within(place)? {
                notes.extend(step.note().map(|note| format!("{}: {note}", place())));
                steps.push((index, step));
            }
        }
        Ok(CpuProgram { plan: plan.clone(), slots, steps, notes, pool: None })
    }

    /// Whether some step has work for more than one thread.
    pub fn is_shared_out(&self) -> bool {
        self.steps.iter().any(|(_, step)| step.is_shared_out())
    }

    /// Gives the program worker threads.
    pub fn use_pool(&mut self, pool: Arc<Pool>) {
        self.pool = Some(pool);
    }
}

impl Program for CpuProgram {
    fn run(&mut self, io: Io<'_>) -> Result<()> {
        let Io { inputs, states, outputs } = io;
        for (index, step) in &mut self.steps {
            limits::check()?;
            step.run(&mut self.slots, self.pool.as_deref(), inputs, states).within(|| {
                let name = self.plan.graph.nodes.get(*index).map_or("", |node| node.name.as_str());
                format!("node {index} `{name}`")
            })?;
        }
        // Outputs first: the value behind one may be a state before this run.
        for (port, output) in self.plan.graph.outputs.iter().zip(outputs) {
            self.slots
                .give(port.value, inputs, states, output)
                .within(|| format!("output `{}`", port.name))?;
        }
        self.slots.write_states(&self.plan, inputs, states)
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

/// Reads a value as it was planned: the tensor behind it may have the same elements under another
/// shape.
fn with_shape(tensor: &Tensor, shape: Option<&[usize]>) -> Result<Tensor> {
    match shape {
        Some(shape) if shape != tensor.shape() => tensor.reshaped(shape),
        _ => Ok(tensor.clone()),
    }
}
