//! A compiled plan: its segments, the staging buffers, and the run.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::buffers::{self, View};
use super::device::Meter;
use super::record::{self, Command, Dispatch, Phase, Planned, Recorder, Segment};
use super::recurrent::Look;
use super::timing::Clock;
use super::{Shared, ops, recurrent};
use crate::backend::{Counters, Io, Program};
use crate::error::{Error, Place, Result};
use crate::graph::{Graph, ValueId};
use crate::plan::Plan;
use crate::tensor::{Tensor, element_count};

/// A plan made ready on the device.
pub(super) struct GpuProgram {
    shared: Arc<Shared>,
    plan: Arc<Plan>,
    segments: Vec<Segment>,
    staging: Staging,
    /// Values on the host during a run: results of host nodes, and what they read from the device.
    host: HashMap<ValueId, Tensor>,
    /// It tries out the persistent strategy.
    trial: Option<Look>,
    /// A guard of the last run was set.
    stalled: bool,
    /// Times that a guard made the program compile itself again.
    replacements: u32,
    notes: Vec<String>,
    meter: Meter,
    counters: Counters,
    /// Times the phases of each run, when that was asked for.
    clock: Option<Clock>,
}

/// Buffers that the host writes and reads, each large enough for the largest segment.
struct Staging {
    upload: Option<wgpu::Buffer>,
    readback: Option<wgpu::Buffer>,
    /// The upload buffer is mapped.
    writable: Arc<AtomicBool>,
    /// The readback buffer is mapped.
    readable: Arc<AtomicBool>,
}

/// How a run waits for the device.
#[derive(Clone, Copy)]
enum Waiting {
    Blocking,
    Async,
}

impl GpuProgram {
    pub(super) fn compile(shared: &Arc<Shared>, plan: &Arc<Plan>) -> Result<GpuProgram> {
        GpuProgram::compile_as(shared, plan, None)
    }

    /// As [`GpuProgram::compile`]; a `trial` uses the persistent strategy with this way to look,
    /// and fails where another program would fall back.
    pub(super) fn compile_as(
        shared: &Arc<Shared>,
        plan: &Arc<Plan>,
        trial: Option<Look>,
    ) -> Result<GpuProgram> {
        let meter = Meter::default();
        let mut segments = Vec::new();
        let mut recorder = Recorder::new(shared, plan, &meter);
        recorder.trial = trial;
        let stacks = recurrent::stacks(plan);
        for (position, node) in plan.steps.iter().enumerate() {
            let node = node.index();
            match stacks.iter().find(|stack| stack.nodes.contains(&node)) {
                None => recorder.step(position, node, ops::record, &mut segments)?,
                Some(stack) => {
                    recorder.hold(node);
                    if stack.nodes.last() == Some(&node) {
                        record_stack(&mut recorder, position, stack, &mut segments)?;
                    }
                }
            }
        }
        let graph = &plan.graph;
        let wanted = graph
            .outputs
            .iter()
            .map(|port| port.value)
            .chain(graph.states.iter().map(|state| state.next));
        let (last, memory, mut notes) = recorder.finish(wanted);
        segments.push(last);
        let segments = record::prepare(shared, &meter, segments)?;
        notes.push(format!("{memory} bytes of device memory for values"));
        notes.push(dispatches(&segments));
        let staging = Staging::new(shared, &meter, &segments)?;
        let clock = match shared.options.timestamps {
            true => Some(Clock::new(&shared.device, &meter, &segments)?),
            false => None,
        };
        shared.device.check()?;
        let (plan, shared, host) = (Arc::clone(plan), Arc::clone(shared), HashMap::new());
        let counters = Counters::default();
        Ok(GpuProgram {
            shared,
            plan,
            segments,
            staging,
            host,
            trial,
            stalled: false,
            replacements: 0,
            notes,
            meter,
            counters,
            clock,
        })
    }

    /// Adds a note for the user.
    pub(super) fn note(&mut self, note: String) {
        self.notes.insert(0, note);
    }

    /// What the program has to say.
    pub(super) fn says(&self, words: &str) -> bool {
        self.notes.iter().any(|note| note.contains(words))
    }

    /// Runs; when workgroups waited for one another in vain, once more by steps.
    async fn drive(&mut self, io: Io<'_>, waiting: Waiting) -> Result<()> {
        let Io { inputs, states, outputs } = io;
        self.stalled = false;
        let done = self
            .attempt(Io { inputs, states: &mut *states, outputs: &mut *outputs }, waiting)
            .await;
        if !self.stalled || self.trial.is_some() {
            return done;
        }
        // Nothing was delivered: the inputs and the states are as they were.
        let reason = "the workgroups of the strategy persistent did not all run at the same time";
        log::warn!(
            "gpu: {reason}: the run is done again by steps, as are the later ones of this session"
        );
        self.shared.persistent.refuse(reason);
        let replacements = self.replacements + 1;
        *self = GpuProgram { replacements, ..GpuProgram::compile(&self.shared, &self.plan)? };
        self.attempt(Io { inputs, states, outputs }, waiting).await
    }

    async fn attempt(&mut self, io: Io<'_>, waiting: Waiting) -> Result<()> {
        self.counters = Counters::default();
        if let Some(clock) = &mut self.clock {
            clock.start();
        }
        self.host.clear();
        let from_host = self.host_results(&io);
        let Io { inputs, states, outputs } = io;
        let segments = std::mem::take(&mut self.segments);
        let mut done = Ok(());
        for segment in &segments {
            done = self.segment(segment, inputs, states, outputs, waiting).await;
            if done.is_err() {
                break;
            }
        }
        self.segments = segments;
        (self.counters.pipelines_created, self.counters.buffers_created) = self.meter.take();
        done?;
        for (target, value) in from_host {
            let tensor = match value {
                HostValue::Ready(tensor) => Some(tensor),
                HostValue::Computed(id) => self.host.get(&id).cloned(),
            };
            let tensor =
                tensor.ok_or_else(|| Error::internal("an output that nothing computes"))?;
            match target {
                Target::Output(index) => outputs[index] = tensor,
                Target::State(index) => states[index] = tensor,
            }
        }
        self.host.clear();
        self.counters.phases = self.clock.as_ref().map(Clock::stop);
        Ok(())
    }

    /// Outputs and states that do not come from the device, before any of them is overwritten.
    fn host_results(&self, io: &Io<'_>) -> Vec<(Target, HostValue)> {
        let graph = &self.plan.graph;
        let outputs =
            graph.outputs.iter().enumerate().map(|(i, port)| (Target::Output(i), port.value));
        let written =
            graph.states.iter().enumerate().filter(|(_, state)| state.next != state.value);
        let states = written.map(|(i, state)| (Target::State(i), state.next));
        let downloaded = |id: ValueId| {
            self.segments.last().is_some_and(|s| s.downloads.iter().any(|(d, _)| *d == id))
        };
        let mut found = Vec::new();
        for (target, id) in outputs.chain(states).filter(|&(_, id)| !downloaded(id)) {
            let value = match given(&self.plan, id, io.inputs, io.states) {
                Some(tensor) => HostValue::Ready(tensor.clone()),
                None => HostValue::Computed(id),
            };
            found.push((target, value));
        }
        found
    }

    async fn segment(
        &mut self,
        segment: &Segment,
        inputs: &[Tensor],
        states: &mut [Tensor],
        outputs: &mut [Tensor],
        waiting: Waiting,
    ) -> Result<()> {
        crate::limits::check()?;
        if !segment.uploads.is_empty() || !segment.commands.is_empty() || segment.reads_back() {
            for &(id, limit) in &segment.checks {
                let tensor = given(&self.plan, id, inputs, states);
                let tensor =
                    tensor.ok_or_else(|| Error::internal("positions that are not on the host"))?;
                super::record::in_range(tensor, limit).within(|| name(&self.plan.graph, id))?;
            }
            self.upload(segment, inputs, states)?;
            let submission = self.submit(segment)?;
            match waiting {
                Waiting::Blocking => self.shared.device.wait(submission)?,
                Waiting::Async => Finished::new(&self.shared, submission)?.await?,
            }
            self.download(segment, states, outputs)?;
            if let Some(clock) = &mut self.clock {
                clock.collect()?;
            }
        }
        match segment.host {
            Some(node) => self.host_node(node, inputs, states),
            None => Ok(()),
        }
    }

    /// Writes what the segment needs from the host into the mapped staging buffer.
    fn upload(&mut self, segment: &Segment, inputs: &[Tensor], states: &[Tensor]) -> Result<()> {
        let Some(buffer) = self.staging.upload.as_ref().filter(|_| !segment.uploads.is_empty())
        else {
            return Ok(());
        };
        if !self.staging.writable.swap(false, Ordering::AcqRel) {
            return Err(Error::device(
                "the upload buffer was not mapped again; an earlier run failed",
            ));
        }
        let mut scratch = Vec::new();
        let written = place(&segment.uploads).try_for_each(|(id, view, offset)| {
            let tensor = given(&self.plan, id, inputs, states).or_else(|| self.host.get(&id));
            let tensor = tensor.ok_or_else(|| {
                Error::internal("a value that is neither on the host nor on the device")
            })?;
            let bytes =
                buffers::to_bytes(tensor, &mut scratch).within(|| name(&self.plan.graph, id))?;
            if bytes.is_empty() {
                return Ok(());
            }
            if bytes.len() as u64 != view.size {
                return Err(Error::input(format!(
                    "{} has another shape than planned: {:?}",
                    name(&self.plan.graph, id),
                    tensor.shape()
                )));
            }
            let range = offset..offset + view.size;
            let mut mapped = buffer.get_mapped_range_mut(range).map_err(mapping)?;
            mapped.copy_from_slice(bytes);
            Ok(())
        });
        if written.is_err() {
            // Still mapped: the next run may try again.
            self.staging.writable.store(true, Ordering::Release);
            return written;
        }
        buffer.unmap();
        Ok(())
    }

    /// Records the segment into one command buffer and submits it.
    fn submit(&mut self, segment: &Segment) -> Result<wgpu::SubmissionIndex> {
        let device = &self.shared.device;
        let mut encoder =
            device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        if let Some(buffer) = &self.staging.upload {
            self.clock.iter_mut().for_each(|clock| clock.mark(&mut encoder, Phase::Upload));
            for (_, view, offset) in place(&segment.uploads) {
                encoder.copy_buffer_to_buffer(buffer, offset, &view.buffer, view.offset, view.size);
            }
        }
        self.counters.dispatches += encode(&mut encoder, &segment.commands, self.clock.as_mut());
        if let Some(buffer) = &self.staging.readback {
            self.clock.iter_mut().for_each(|clock| clock.mark(&mut encoder, Phase::Readback));
            let downloads = place(&segment.downloads).map(|(_, view, offset)| (view, offset));
            for (view, offset) in downloads.chain(place_guards(segment)) {
                encoder.copy_buffer_to_buffer(&view.buffer, view.offset, buffer, offset, view.size);
            }
        }
        self.clock.iter().for_each(|clock| clock.close(&mut encoder));
        let submission = device.queue.submit([encoder.finish()]);
        self.counters.submissions += 1;
        self.clock.iter().for_each(Clock::fetch);
        if let Some(buffer) = self.staging.upload.as_ref().filter(|_| !segment.uploads.is_empty()) {
            map(buffer, wgpu::MapMode::Write, &self.staging.writable);
        }
        if let Some(buffer) = self.staging.readback.as_ref().filter(|_| segment.reads_back()) {
            map(buffer, wgpu::MapMode::Read, &self.staging.readable);
        }
        Ok(submission)
    }

    /// Takes the results out of the mapped staging buffer to wherever they are wanted.
    fn download(
        &mut self,
        segment: &Segment,
        states: &mut [Tensor],
        outputs: &mut [Tensor],
    ) -> Result<()> {
        let Some(buffer) = self.staging.readback.as_ref().filter(|_| segment.reads_back()) else {
            return Ok(());
        };
        self.shared.device.check()?;
        if !self.staging.readable.swap(false, Ordering::AcqRel) {
            return Err(Error::device("the results could not be mapped"));
        }
        let plan = Arc::clone(&self.plan);
        let mut deliver = || -> Result<()> {
            for (_, offset) in place_guards(segment) {
                let word = buffer.get_mapped_range(offset..offset + 4).map_err(mapping)?;
                if word.iter().any(|&byte| byte != 0) {
                    self.stalled = true;
                    return Err(Error::device(
                        "workgroups that wait for one another did not all run",
                    ));
                }
            }
            for (id, view, offset) in place(&segment.downloads) {
                let (Some(value), Some(shape)) = (plan.graph.get(id), plan.shape(id)) else {
                    continue;
                };
                let mapped =
                    buffer.get_mapped_range(offset..offset + view.size).map_err(mapping)?;
                let bytes = if element_count(shape)? == 0 { &[][..] } else { &mapped[..] };
                if segment.host.is_some() {
                    let mut tensor = Tensor::scalar(0.0f32);
                    buffers::read_into(&mut tensor, value.ty.dtype, shape, bytes)?;
                    self.host.insert(id, tensor);
                    continue;
                }
                let ports = plan
                    .graph
                    .outputs
                    .iter()
                    .zip(outputs.iter_mut())
                    .filter(|(port, _)| port.value == id);
                let slots = plan.graph.states.iter().zip(states.iter_mut());
                let slots =
                    slots.filter(|(state, _)| state.next == id && state.next != state.value);
                for tensor in ports.map(|(_, tensor)| tensor).chain(slots.map(|(_, tensor)| tensor))
                {
                    buffers::read_into(tensor, value.ty.dtype, shape, bytes)?;
                }
            }
            Ok(())
        };
        let delivered = deliver();
        buffer.unmap();
        delivered
    }

    /// Computes one node on the host.
    fn host_node(&mut self, index: usize, inputs: &[Tensor], states: &[Tensor]) -> Result<()> {
        let graph = Arc::clone(&self.plan.graph);
        let Some(node) = graph.nodes.get(index) else {
            return Err(Error::internal("a step without a node"));
        };
        let mut operands = Vec::with_capacity(node.inputs.len());
        for &id in &node.inputs {
            operands.push(match id {
                None => None,
                Some(id) => {
                    let value = graph
                        .get(id)
                        .ok_or_else(|| Error::internal("a value that does not exist"))?;
                    let tensor =
                        given(&self.plan, id, inputs, states).or_else(|| self.host.get(&id));
                    let tensor = tensor
                        .ok_or_else(|| Error::internal("an operand that is not on the host"))?;
                    Some((tensor, &value.ty))
                }
            });
        }
        let types: Vec<_> = node.outputs.iter().map(|&id| Some(&graph.get(id?)?.ty)).collect();
        let results =
            crate::eval::evaluate(&node.op, &operands, &types).within(|| node.name.clone())?;
        for (id, tensor) in node.outputs.iter().zip(results) {
            if let (Some(id), Some(tensor)) = (id, tensor) {
                self.host.insert(*id, tensor);
                let bytes = self.host.values().map(|value| value.byte_len() as u64);
                crate::limits::check_live(bytes.sum()).within(|| node.name.clone())?;
            }
        }
        Ok(())
    }
}

/// Records the layers of a stack where the plan computes the last of them: as a wave, or each on
/// its own.
fn record_stack(
    recorder: &mut Recorder<'_>,
    position: usize,
    stack: &recurrent::Stack,
    segments: &mut Vec<Segment<Planned>>,
) -> Result<()> {
    if !recorder.together(&stack.nodes, recurrent::record_wave)? {
        for &node in &stack.nodes {
            recorder.step(position, node, ops::record, segments)?;
        }
    }
    recorder.let_go(position, &stack.nodes);
    Ok(())
}

/// How many dispatches a run has, by what they are for.
fn dispatches(segments: &[Segment]) -> String {
    let count = |phase: Phase| -> u64 {
        let commands = segments.iter().flat_map(|segment| &segment.commands);
        let of = |command: &Command| match command {
            Command::Dispatch(dispatch) if dispatch.phase == phase => {
                u64::from(dispatch.repeat.count)
            }
            Command::Rounds(dispatches) => dispatches
                .iter()
                .filter(|d| d.phase == phase)
                .map(|d| u64::from(d.repeat.count))
                .sum(),
            Command::Dispatch(_)
            | Command::Copy(..)
            | Command::CopyRows(..)
            | Command::Clear(_) => 0,
        };
        commands.map(of).sum()
    };
    let [projection, recurrence, other] =
        [Phase::Projection, Phase::Recurrence, Phase::Other].map(count);
    format!(
        "dispatches: {projection} for input products, {recurrence} for recurrences, {other} for other ops"
    )
}

/// Where a result goes.
enum Target {
    Output(usize),
    State(usize),
}

/// A result that does not come from the device.
enum HostValue {
    Ready(Tensor),
    Computed(ValueId),
}

/// A value that is there before the run: known, an input or a state.
fn given<'a>(
    plan: &'a Plan,
    id: ValueId,
    inputs: &'a [Tensor],
    states: &'a [Tensor],
) -> Option<&'a Tensor> {
    let graph = &plan.graph;
    let input = || {
        graph.inputs.iter().position(|port| port.value == id).and_then(|index| inputs.get(index))
    };
    let state = || {
        graph.states.iter().position(|state| state.value == id).and_then(|index| states.get(index))
    };
    plan.known(id).or_else(|| graph.constant(id)).or_else(input).or_else(state)
}

fn name(graph: &Graph, id: ValueId) -> String {
    graph.get(id).map(|value| value.name.clone()).unwrap_or_default()
}

fn mapping(error: wgpu::MapRangeError) -> Error {
    Error::device("a staging buffer could not be mapped").with_source(error)
}

/// The transfers of a segment with their offsets in the staging buffer.
fn place(transfers: &[(ValueId, View)]) -> impl Iterator<Item = (ValueId, &View, u64)> {
    transfers.iter().scan(0u64, |end, (id, view)| {
        let offset = *end;
        *end += buffers::aligned(view.size);
        Some((*id, view, offset))
    })
}

/// The guards of a segment with their offsets in the staging buffer, behind the downloads.
fn place_guards(segment: &Segment) -> impl Iterator<Item = (&View, u64)> {
    let first: u64 = segment.downloads.iter().map(|(_, view)| buffers::aligned(view.size)).sum();
    segment.guards.iter().zip((0..).map(move |index| first + index * buffers::ALIGNMENT))
}

fn map(buffer: &wgpu::Buffer, mode: wgpu::MapMode, mapped: &Arc<AtomicBool>) {
    let mapped = Arc::clone(mapped);
    buffer.map_async(mode, .., move |result| mapped.store(result.is_ok(), Ordering::Release));
}

/// Encodes the commands, with the clock's marks between phases, and returns the number of
/// dispatches.
fn encode(
    encoder: &mut wgpu::CommandEncoder,
    commands: &[Command],
    mut clock: Option<&mut Clock>,
) -> u64 {
    let mut dispatches = 0;
    let mut pass: Option<wgpu::ComputePass<'static>> = None;
    for command in commands {
        if let Some(clock) = clock.as_deref_mut().filter(|clock| clock.changes(command.phase())) {
            drop(pass.take());
            clock.mark(encoder, command.phase());
        }
        match command {
            Command::Copy(from, to) => {
                drop(pass.take());
                encoder.copy_buffer_to_buffer(
                    &from.buffer,
                    from.offset,
                    &to.buffer,
                    to.offset,
                    to.size,
                );
            }
            Command::CopyRows((from, from_row), (to, to_row), rows, bytes) => {
                drop(pass.take());
                for row in 0..*rows as u64 {
                    let (at, there) = (from.offset + row * from_row, to.offset + row * to_row);
                    encoder.copy_buffer_to_buffer(&from.buffer, at, &to.buffer, there, *bytes);
                }
            }
            Command::Clear(view) => {
                drop(pass.take());
                encoder.clear_buffer(&view.buffer, view.offset, Some(view.size));
            }
            Command::Dispatch(dispatch) => {
                let pass = pass.get_or_insert_with(|| {
                    encoder.begin_compute_pass(&Default::default()).forget_lifetime()
                });
                pass.set_pipeline(&dispatch.pipeline.pipeline);
                pass.set_bind_group(0, &dispatch.bindings, &[]);
                pass.set_immediates(0, bytemuck::cast_slice(&dispatch.params));
                let [x, y, z] = dispatch.groups;
                let mut word = dispatch.params.get(dispatch.repeat.word).copied().unwrap_or(0);
                for round in 0..dispatch.repeat.count {
                    if round > 0 {
                        word = word.wrapping_add(dispatch.repeat.step);
                        pass.set_immediates(4 * dispatch.repeat.word as u32, &word.to_ne_bytes());
                    }
                    pass.dispatch_workgroups(x, y, z);
                    dispatches += 1;
                }
            }
            Command::Rounds(stages) => {
                let pass = pass.get_or_insert_with(|| {
                    encoder.begin_compute_pass(&Default::default()).forget_lifetime()
                });
                for round in 0..stages.first().map_or(0, |stage| stage.repeat.count) {
                    for Dispatch {
                        pipeline, bindings, params, groups: [x, y, z], repeat, ..
                    } in stages
                    {
                        pass.set_pipeline(&pipeline.pipeline);
                        pass.set_bind_group(0, bindings, &[]);
                        pass.set_immediates(0, bytemuck::cast_slice(params));
                        let word = params
                            .get(repeat.word)
                            .copied()
                            .unwrap_or(0)
                            .wrapping_add(round * repeat.step);
                        pass.set_immediates(4 * repeat.word as u32, &word.to_ne_bytes());
                        pass.dispatch_workgroups(*x, *y, *z);
                        dispatches += 1;
                    }
                }
            }
        }
    }
    dispatches
}

impl Staging {
    fn new(shared: &Shared, meter: &Meter, segments: &[Segment]) -> Result<Staging> {
        let total = |transfers: &[(ValueId, View)]| {
            transfers.iter().map(|(_, v)| buffers::aligned(v.size)).sum::<u64>()
        };
        let upload = segments.iter().map(|s| total(&s.uploads)).max().unwrap_or(0);
        let guards = |s: &Segment| s.guards.len() as u64 * buffers::ALIGNMENT;
        let readback = segments.iter().map(|s| total(&s.downloads) + guards(s)).max().unwrap_or(0);
        let make = |size, usage| match size {
            0 => Ok(None),
            _ => buffers::create(&shared.device, meter, "staging", size, usage).map(Some),
        };
        let upload = make(upload, wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC)?;
        let readback = make(readback, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)?;
        let staging =
            Staging { upload, readback, writable: Arc::default(), readable: Arc::default() };
        if let Some(buffer) = &staging.upload {
            map(buffer, wgpu::MapMode::Write, &staging.writable);
            // Nothing uses the buffer yet, so the next poll maps it.
            let polled = shared.device.device.poll(wgpu::PollType::Wait {
                submission_index: None,
                timeout: Some(shared.device.patience()),
            });
            polled
                .map_err(|error| Error::device("the device does not answer").with_source(error))?;
        }
        Ok(staging)
    }
}

/// Completes when a submission has finished: a thread waits for it, so that the caller's does not.
struct Finished {
    state: Arc<Mutex<Waited>>,
}

/// What the waiting thread and the future share: the result when it is there, and whom to wake for
/// it.
type Waited = (Option<Result<()>>, Option<Waker>);

impl Finished {
    fn new(shared: &Arc<Shared>, submission: wgpu::SubmissionIndex) -> Result<Finished> {
        let state = Arc::new(Mutex::new((None, None::<Waker>)));
        let (shared, theirs) = (Arc::clone(shared), Arc::clone(&state));
        std::thread::Builder::new()
            .name("fuselstm-gpu-wait".into())
            .spawn(move || {
                let result = shared.device.wait(submission);
                let mut state = theirs.lock().unwrap_or_else(PoisonError::into_inner);
                state.0 = Some(result);
                if let Some(waker) = state.1.take() {
                    waker.wake();
                }
            })
            .map_err(|error| {
                Error::device("no thread to wait for the device").with_source(error)
            })?;
        Ok(Finished { state })
    }
}

impl Future for Finished {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.0.take() {
            Some(result) => Poll::Ready(result),
            None => {
                state.1 = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Program for GpuProgram {
    fn run(&mut self, io: Io<'_>) -> Result<()> {
        pollster::block_on(self.drive(io, Waiting::Blocking))
    }

    fn run_async<'a>(
        &'a mut self,
        io: Io<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>> {
        Box::pin(self.drive(io, Waiting::Async))
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn replacements(&self) -> u32 {
        self.replacements
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
