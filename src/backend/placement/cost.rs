//! The choice that `auto` makes: GPU or processor.

use crate::graph::recurrent::Layout;
use crate::graph::{Dim, Graph, Op, Recurrent};

/// What a run is expected to cost, from the recurrent ops of a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cost {
    cpu_us: f64,
    gpu_us: f64,
}

/// Length of a sequence that the model leaves open.
const ASSUMED_TIME: usize = 128;
/// Batch rows that the model leaves open.
const ASSUMED_BATCH: usize = 1;
/// Submission, transfers and read-back of one run: 44 to 100 µs were measured on the software
/// driver, which has no bus to cross.
const SUBMIT_US: f64 = 100.0;
/// One dependent dispatch of a time step on a real GPU, as published for wgpu: 4 to 6 µs.
const STEP_US: f64 = 5.0;
/// Units up to which one dispatch runs all the steps, at about a quarter of a microsecond each.
const LOOP_UNITS: usize = 64;
const LOOP_STEP_US: f64 = 0.25;
/// What one thread reaches in the recurrent products, in operations a microsecond: 48 to 55
/// thousand for one row (it streams the weights), 77 to 108 thousand for 16 rows.
const CPU_ROW: f64 = 50e3;
const CPU_ROWS: f64 = 100e3;

impl Cost {
    /// Adds up the recurrent ops of a graph.
    pub(super) fn of(graph: &Graph) -> Cost {
        let mut cost = Cost { cpu_us: 0.0, gpu_us: SUBMIT_US };
        for node in &graph.nodes {
            let Op::Recurrent(op) = &node.op else { continue };
            let x = node.input(Recurrent::X).and_then(|id| graph.get(id));
            let shape = x.and_then(|value| value.ty.shape.as_deref()).unwrap_or_default();
            let size = |axis: usize, assumed: usize| {
                shape.get(axis).copied().and_then(Dim::known).unwrap_or(assumed)
            };
            let (time, batch) = match op.layout {
                Layout::TimeMajor => (size(0, ASSUMED_TIME), size(1, ASSUMED_BATCH)),
                Layout::BatchMajor => (size(1, ASSUMED_TIME), size(0, ASSUMED_BATCH)),
            };
            let gates = op.cell.gate_blocks();
            for (index, direction) in op.directions.iter().enumerate() {
                let weights = &direction.weights;
                let products = (weights.input.data.len() + weights.recurrent.data.len()) as f64;
                let rate = if batch < 8 { CPU_ROW } else { CPU_ROWS };
                cost.cpu_us += 2.0 * products * (time * batch) as f64 / rate;
                // Both directions share their dispatches.
                if index == 0 {
                    cost.gpu_us += time as f64
                        * if weights.units(gates) <= LOOP_UNITS { LOOP_STEP_US } else { STEP_US };
                }
            }
        }
        cost
    }

    pub(super) fn gpu_pays(&self) -> bool {
        self.gpu_us < self.cpu_us
    }

    /// The estimate in words.
    pub(super) fn text(&self) -> String {
        format!(
            "a run is estimated at {:.0} µs on one thread and {:.0} µs on a GPU",
            self.cpu_us, self.gpu_us
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::graph::synthetic::{CellKind, Shape};

    /// A network with its time and batch set.
    fn cost(hidden: usize, time: usize, batch: usize) -> Cost {
        let shape =
            Shape { cell: CellKind::Lstm, input: hidden, hidden, layers: 1, bidirectional: false };
        let mut graph = shape.graph(1).unwrap();
        for value in &mut graph.values {
            let width = value.ty.shape.as_ref().and_then(|shape| shape[2].known()).unwrap();
            value.ty.shape = Some(vec![Dim::Known(time), Dim::Known(batch), Dim::Known(width)]);
        }
        Cost::of(&graph)
    }

    #[test]
    fn the_gpu_pays_for_wide_layers_and_many_rows_only() {
        // The crossover of the measurements: from H = 256 on at B = 1, from H = 128 on at B = 16,
        // when T is long enough.
        assert!(!cost(32, 64, 1).gpu_pays());
        assert!(!cost(128, 128, 1).gpu_pays());
        assert!(cost(512, 128, 1).gpu_pays());
        assert!(cost(256, 128, 16).gpu_pays());
        assert!(!cost(512, 1, 1).gpu_pays());
    }

    #[test]
    fn a_model_without_recurrent_ops_stays_on_the_processor() {
        assert!(!Cost::of(&Graph::default()).gpu_pays());
    }
}
