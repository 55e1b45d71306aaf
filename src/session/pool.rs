//! Compiled programs that wait for their next run, so that a second run compiles nothing.

use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::Program;
use crate::plan::Plan;
use crate::tensor::Tensor;

/// Programs kept for later runs. Each holds the buffers of a run, so old ones go: eight are enough
/// for a few input shapes, each on a few threads.
const MOST_IDLE: usize = 8;

/// A program, and the shapes that it was compiled for.
pub(super) struct Ready {
    pub(super) shapes: Vec<Vec<usize>>,
    pub(super) plan: Arc<Plan>,
    pub(super) program: Box<dyn Program>,
    /// [`Program::replacements`] that the session has taken note of.
    pub(super) replacements: u32,
}

/// The idle programs of a session, the most recently used one last.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<Ready>>,
}

impl Pool {
    /// Takes out a program for inputs of these shapes.
    pub(super) fn take(&self, inputs: &[Tensor]) -> Option<Ready> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |ready: &Ready| {
            ready.shapes.len() == inputs.len()
                && ready.shapes.iter().zip(inputs).all(|(shape, input)| shape == input.shape())
        };
        let index = idle.iter().rposition(fits)?;
        Some(idle.remove(index))
    }

    /// Keeps a program whose run went well; one whose run failed is dropped by its owner instead.
    pub(super) fn give_back(&self, ready: Ready) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() == MOST_IDLE {
            idle.remove(0);
        }
        idle.push(ready);
    }
}
