//! Where a run's time goes: timestamps of the device between the phases of a run, for programs that
//! were asked to measure.
//!
//! A mark is written where the phase changes; the time up to the next mark is that phase's. What is
//! left of the run's wall time, the device spent waiting: for encoding, for the submission to
//! arrive, for the host to fetch the results.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::buffers;
use super::device::{Device, Meter};
use super::record::{Command, Phase, Segment};
use crate::backend::PhaseTimes;
use crate::error::{Error, Result};

/// The device features that marks need.
pub(super) const NEEDED: [&str; 2] = ["timestamps", "timestamps-in-encoders"];

/// The timestamps of one program.
pub(super) struct Clock {
    queries: wgpu::QuerySet,
    /// Ticks as the device writes them, and where the host reads them.
    resolved: wgpu::Buffer,
    readback: wgpu::Buffer,
    mapped: Arc<AtomicBool>,
    /// Nanoseconds of a tick.
    period: f64,
    begin: Instant,
    /// The phase that begins at each mark of the segment that is being encoded.
    marks: Vec<Phase>,
    times: PhaseTimes,
}

impl Clock {
    /// A clock with room for the marks of every segment.
    pub(super) fn new(device: &Device, meter: &Meter, segments: &[Segment]) -> Result<Clock> {
        if let Some(lacks) = NEEDED.iter().find(|name| !device.report.features.contains(name)) {
            return Err(Error::unsupported(format!(
                "the adapter does not grant {lacks}, so phases cannot be timed"
            )));
        }
        let count = segments.iter().map(marks).max().unwrap_or(0).max(2);
        if count > wgpu::QUERY_SET_MAX_QUERIES {
            let most = wgpu::QUERY_SET_MAX_QUERIES;
            return Err(Error::limit(format!(
                "a run of {count} phases cannot be timed, {most} timestamps are the most"
            )));
        }
        let queries = device.guarded(|| {
            device.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("phases"),
                ty: wgpu::QueryType::Timestamp,
                count,
            })
        })?;
        let bytes = u64::from(count) * u64::from(wgpu::QUERY_SIZE);
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = buffers::create(device, meter, "timestamps", bytes, usage)?;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let readback = buffers::create(device, meter, "timestamps", bytes, usage)?;
        let period = f64::from(device.queue.get_timestamp_period());
        let (mapped, times) = (Arc::default(), PhaseTimes::default());
        Ok(Clock {
            queries,
            resolved,
            readback,
            mapped,
            period,
            begin: Instant::now(),
            marks: Vec::new(),
            times,
        })
    }

    /// A run begins.
    pub(super) fn start(&mut self) {
        self.begin = Instant::now();
        self.times = PhaseTimes::default();
        self.marks.clear();
    }

    /// The times of the run that ends now.
    pub(super) fn stop(&self) -> PhaseTimes {
        PhaseTimes { idle: self.begin.elapsed().saturating_sub(self.times.total()), ..self.times }
    }

    /// Whether a command of this phase needs a mark before it.
    pub(super) fn changes(&self, phase: Phase) -> bool {
        self.marks.last() != Some(&phase)
    }

    /// Marks that a phase begins, unless it is under way; outside of passes.
    pub(super) fn mark(&mut self, encoder: &mut wgpu::CommandEncoder, phase: Phase) {
        if self.changes(phase) {
            encoder.write_timestamp(&self.queries, self.marks.len() as u32);
            self.marks.push(phase);
        }
    }

    /// The last mark of a segment, and the way of all its marks to the host.
    pub(super) fn close(&self, encoder: &mut wgpu::CommandEncoder) {
        let count = self.marks.len() as u32;
        encoder.write_timestamp(&self.queries, count);
        encoder.resolve_query_set(&self.queries, 0..count + 1, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.readback, 0, self.bytes());
    }

    /// Asks for the marks; to be called after the submission.
    pub(super) fn fetch(&self) {
        let mapped = Arc::clone(&self.mapped);
        self.readback.map_async(wgpu::MapMode::Read, ..self.bytes(), move |result| {
            mapped.store(result.is_ok(), Ordering::Release);
        });
    }

    /// Adds up the phases of a segment that has finished.
    pub(super) fn collect(&mut self) -> Result<()> {
        if !self.mapped.swap(false, Ordering::AcqRel) {
            return Err(Error::device("the timestamps could not be mapped"));
        }
        {
            let bytes = self.readback.get_mapped_range(..self.bytes());
            let bytes = bytes.map_err(|error| {
                Error::device("the timestamps could not be read").with_source(error)
            })?;
            let ticks = bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b));
            let spans = ticks.clone().zip(ticks.skip(1));
            for (&phase, (from, to)) in self.marks.iter().zip(spans) {
                let nanoseconds = to.saturating_sub(from) as f64 * self.period;
                *time(&mut self.times, phase) += Duration::from_nanos(nanoseconds as u64);
            }
        }
        self.readback.unmap();
        self.marks.clear();
        Ok(())
    }

    fn bytes(&self) -> u64 {
        (self.marks.len() as u64 + 1) * u64::from(wgpu::QUERY_SIZE)
    }
}

fn time(times: &mut PhaseTimes, phase: Phase) -> &mut Duration {
    match phase {
        Phase::Upload => &mut times.upload,
        Phase::Projection => &mut times.projection,
        Phase::Recurrence => &mut times.recurrence,
        Phase::Other => &mut times.other,
        Phase::Readback => &mut times.readback,
    }
}

/// Marks that a segment needs: one where a phase begins, one at the end.
fn marks(segment: &Segment) -> u32 {
    let mut count = 3;
    let mut before = None;
    for command in &segment.commands {
        count += u32::from(before != Some(command.phase()));
        before = Some(command.phase());
    }
    count
}

impl Command {
    /// The phase that the command's time belongs to. Copies between values are counted with the
    /// other ops.
    pub(super) fn phase(&self) -> Phase {
        match self {
            Command::Dispatch(dispatch) => dispatch.phase,
            Command::Rounds(dispatches) => {
                dispatches.first().map_or(Phase::Other, |dispatch| dispatch.phase)
            }
            Command::Copy(..) | Command::CopyRows(..) | Command::Clear(_) => Phase::Other,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use crate::backend::gpu::testing::open;
    use crate::backend::{Backend, BackendOptions, Counters, Io, PhaseTimes};
    use crate::graph::synthetic::{CellKind, Random, Shape};
    use crate::plan::Plan;
    use crate::tensor::Tensor;

    /// Two runs of a layer with or without timestamps; the counters of the second.
    fn second_run(timestamps: bool) -> Option<(Counters, Tensor)> {
        let gpu = open(&BackendOptions { timestamps, ..BackendOptions::default() })?;
        let shape =
            Shape { cell: CellKind::Lstm, input: 24, hidden: 24, layers: 2, bidirectional: false };
        let graph = Arc::new(shape.graph(1).unwrap());
        let plan = Arc::new(Plan::new(&graph, &[vec![40, 3, 24]]).unwrap());
        let mut program = gpu.compile(&plan).unwrap();
        let inputs = [Random::new(3).tensor(&[40, 3, 24], 1.0).unwrap()];
        let mut outputs = [Tensor::scalar(0.0f32)];
        for _ in 0..2 {
            program.run(Io { inputs: &inputs, states: &mut [], outputs: &mut outputs }).unwrap();
        }
        let [y] = outputs;
        Some((program.counters(), y))
    }

    #[test]
    fn phases_are_timed_when_asked_for_and_change_nothing() {
        let (Some((plain, y)), Some((timed, same))) = (second_run(false), second_run(true)) else {
            return;
        };
        assert_eq!(plain.phases, None);
        let phases = timed.phases.unwrap();
        assert!(!phases.recurrence.is_zero() && !phases.projection.is_zero(), "{phases:?}");
        assert!(!phases.upload.is_zero() && !phases.readback.is_zero(), "{phases:?}");
        assert!(phases.total().as_secs() < 60, "{phases:?}");
        // The recurrence is most of what the device does; a machine that is busy with something
        // else may hold up one readback, not five in a row.
        let is_most = |phases: PhaseTimes| phases.recurrence > phases.readback;
        let mut again = (0..5).filter_map(|_| second_run(true)?.0.phases);
        assert!(is_most(phases) || again.any(is_most), "{phases:?}");
        assert_eq!(y, same);
        assert_eq!(Counters { phases: None, ..timed }, plain);
        assert_eq!((timed.pipelines_created, timed.buffers_created), (0, 0));
    }
}
