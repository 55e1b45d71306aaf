//! What an op sees while it records itself: its operands and results on the device, and the list of
//! commands.

use std::sync::Arc;

use super::Shared;
use super::buffers::{self, Blocks, View, Word};
pub(super) use super::command::{Command, Dispatch, Phase, Planned, Repeat, Segment};
use super::device::Meter;
use super::pipeline::Kernel;
use super::recurrent::Look;
use super::weights::Storing;
use crate::error::{Error, Place, Result};
use crate::graph::{Node, ValueId};
use crate::plan::Plan;
use crate::tensor::{DType, Tensor, element_count};

/// A value on the device.
#[derive(Clone, Debug)]
pub(super) struct Operand {
    pub(super) view: View,
    pub(super) shape: Vec<usize>,
    pub(super) dtype: DType,
    pub(super) word: Word,
}

impl Operand {
    /// Number of elements, as kernels count them.
    pub(super) fn count(&self) -> Result<u32> {
        count(element_count(&self.shape)?)
    }

    /// Size of an axis; 1 when there is none.
    pub(super) fn dim(&self, axis: usize) -> usize {
        self.shape.get(axis).copied().unwrap_or(1)
    }
}

/// A size as kernels take it.
pub(super) fn count(n: usize) -> Result<u32> {
    u32::try_from(n)
        .map_err(|_| Error::limit(format!("{n} elements; the gpu backend counts to 2^32")))
}

/// The context of recording: memory, operands, commands.
pub(super) struct Recorder<'a> {
    pub(super) shared: &'a Shared,
    pub(super) plan: &'a Plan,
    pub(super) meter: &'a Meter,
    pub(super) notes: Vec<String>,
    /// The program tries out the persistent strategy, looking in this way.
    pub(super) trial: Option<Look>,
    blocks: Blocks,
    views: Vec<Option<View>>,
    segment: Segment<Planned>,
    /// Views of the results of the node that is being recorded.
    fresh: Vec<ValueId>,
    scratch: Vec<View>,
    /// Operands of nodes that are recorded later than the plan computes them.
    held: Vec<ValueId>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(shared: &'a Shared, plan: &'a Plan, meter: &'a Meter) -> Self {
        Recorder {
            shared,
            plan,
            meter,
            notes: Vec::new(),
            trial: None,
            blocks: Blocks::default(),
            views: vec![None; plan.graph.values.len()],
            segment: Segment::default(),
            fresh: Vec::new(),
            scratch: Vec::new(),
            held: Vec::new(),
        }
    }

    // ---- operands ----

    /// The operand in an input slot; an error when it is absent.
    pub(super) fn input(&mut self, node: &Node, slot: usize) -> Result<Operand> {
        let operand = self.optional_input(node, slot)?;
        operand.ok_or_else(|| Error::graph(format!("operand {slot} is missing")))
    }

    /// The operand in an input slot, on the device: uploaded or made resident when it is not there
    /// yet.
    pub(super) fn optional_input(&mut self, node: &Node, slot: usize) -> Result<Option<Operand>> {
        let Some(id) = node.input(slot) else { return Ok(None) };
        let (shape, dtype, word) = self.describe(id)?;
        if let Some(view) = self.view(id) {
            return Ok(Some(Operand { view, shape, dtype, word }));
        }
        let view = match self.plan.known(id).or_else(|| self.plan.graph.constant(id)) {
            Some(tensor) => {
                self.shared.constants.tensor(&self.shared.device, self.meter, tensor)?
            }
            None => {
                // The copy is made before the segment's commands, so nothing in the segment may
                // have used the memory.
                let size = buffers::bytes(element_count(&shape)?);
                let view = self.blocks.take(&self.shared.device, self.meter, size, true)?;
                self.segment.uploads.push((id, view.clone()));
                view
            }
        };
        self.set(id, view.clone());
        Ok(Some(Operand { view, shape, dtype, word }))
    }

    /// Has every number of an integer operand checked to be in `0..limit` before the commands run:
    /// kernels use it as a position.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for numbers that the device computes, which
    /// nobody could refuse in time.
    pub(super) fn check_range(&mut self, node: &Node, slot: usize, limit: usize) -> Result<()> {
        let Some(id) = node.input(slot) else { return Ok(()) };
        let graph = &self.plan.graph;
        if let Some(tensor) = self.plan.known(id).or_else(|| graph.constant(id)) {
            return in_range(tensor, limit);
        }
        let given = graph.inputs.iter().any(|port| port.value == id)
            || graph.states.iter().any(|s| s.value == id);
        if !given {
            return Err(Error::unsupported(
                "positions that are computed from data are the host's to check",
            ));
        }
        self.segment.checks.push((id, limit));
        Ok(())
    }

    /// The result in an output slot, with memory of its own; an error when nobody wants it.
    pub(super) fn output(&mut self, node: &Node, slot: usize) -> Result<Operand> {
        let operand = self.optional_output(node, slot)?;
        operand.ok_or_else(|| Error::graph(format!("result {slot} is missing")))
    }

    /// The result in an output slot, with memory of its own; `None` when nobody wants it.
    pub(super) fn optional_output(&mut self, node: &Node, slot: usize) -> Result<Option<Operand>> {
        let Some(id) = node.output(slot) else { return Ok(None) };
        let (shape, dtype, word) = self.describe(id)?;
        let size = buffers::bytes(element_count(&shape)?);
        let view = self.blocks.take(&self.shared.device, self.meter, size, false)?;
        self.set(id, view.clone());
        self.fresh.push(id);
        Ok(Some(Operand { view, shape, dtype, word }))
    }

    /// Makes `view` the result in an output slot: a part of memory that another result of the node,
    /// or an operand, lives in.
    pub(super) fn place_output(&mut self, node: &Node, slot: usize, view: &View) -> Result<()> {
        let Some(id) = node.output(slot) else { return Ok(()) };
        let (shape, ..) = self.describe(id)?;
        let view = view.part(0, buffers::bytes(element_count(&shape)?))?;
        self.blocks.share(&view);
        self.set(id, view);
        self.fresh.push(id);
        Ok(())
    }

    /// The result in slot 0 is the operand in slot 0 under another shape: no command.
    pub(super) fn alias(&mut self, node: &Node) -> Result<()> {
        let x = self.input(node, 0)?;
        self.place_output(node, 0, &x.view)
    }

    /// Memory that is needed only by the commands of this node.
    pub(super) fn scratch(&mut self, bytes: u64) -> Result<View> {
        let view = self.blocks.take(&self.shared.device, self.meter, bytes.max(4), false)?;
        self.scratch.push(view.clone());
        Ok(view)
    }

    /// Memory that no other value uses, until the end of the run.
    pub(super) fn lasting(&mut self, bytes: u64) -> Result<View> {
        self.blocks.take(&self.shared.device, self.meter, bytes.max(4), true)
    }

    /// Has a word read back with the results. When it is not 0, these commands could not do their
    /// work: the run is done again by a program without the persistent strategy.
    pub(super) fn guard(&mut self, word: &View) {
        self.segment.guards.push(word.clone());
    }

    /// A view for a binding that the specialized kernel does not read.
    pub(super) fn unused(&self) -> &View {
        &self.shared.nothing
    }

    /// Weights of a node in a layout of their own, made by `words` once a session.
    pub(super) fn weights<T: std::any::Any + Send + Sync>(
        &self,
        owner: &Arc<T>,
        layout: String,
        words: impl FnOnce() -> Result<Vec<u32>>,
    ) -> Result<View> {
        self.shared.constants.get(&self.shared.device, self.meter, owner, layout, words)
    }

    /// Weights of several owners in one buffer, made by `words` once a session.
    pub(super) fn weights_of<T: std::any::Any + Send + Sync>(
        &self,
        owners: &[Arc<T>],
        layout: &str,
        words: impl FnOnce() -> Result<Vec<u32>>,
    ) -> Result<View> {
        match owners {
            [] => Err(Error::internal("weights without an owner")),
            [owner] => self.weights(owner, layout.to_owned(), words),
            owners => self.shared.constants.get_joined(
                &self.shared.device,
                self.meter,
                owners,
                layout,
                words,
            ),
        }
    }

    /// A matrix of weights as [`Storing`](super::weights::Storing) makes it, in the form that the
    /// device loads fastest.
    pub(super) fn matrix<T: std::any::Any + Send + Sync>(
        &self,
        owners: &[Arc<T>],
        layout: &str,
        words: impl FnOnce() -> Result<Vec<u32>>,
    ) -> Result<View> {
        let Shared { constants, device, .. } = self.shared;
        if device.broadcasts && self.shared.storing() == Storing::F32 {
            return constants.get_texels(device, self.meter, owners, layout, words);
        }
        constants.get_joined(device, self.meter, owners, layout, words)
    }

    /// Small data that only this program has.
    pub(super) fn table(&self, words: &[u32]) -> Result<View> {
        buffers::create_with(&self.shared.device, self.meter, words)
    }

    // ---- commands ----

    /// Groups of `size` invocations that cover `n`, folded over two axes where one does not reach.
    /// The kernel computes its index as `id.x + id.y * groups.x * size`.
    pub(super) fn linear(&self, n: u32, size: u32) -> [u32; 3] {
        let groups = n.div_ceil(size);
        let most = self.shared.device.limits.max_compute_workgroups_per_dimension;
        [groups.min(most), groups.div_ceil(most), 1]
    }

    /// Records a dispatch; nothing when there are no groups. `bindings` in the order of the
    /// shader's binding numbers from 0.
    pub(super) fn dispatch(
        &mut self,
        kernel: &Kernel,
        bindings: &[&View],
        params: &[u32],
        groups: [u32; 3],
    ) -> Result<()> {
        self.dispatch_repeated(kernel, bindings, params, groups, Repeat::ONCE, Phase::Other)
    }

    /// Records a run of dispatches.
    pub(super) fn dispatch_repeated(
        &mut self,
        kernel: &Kernel,
        bindings: &[&View],
        params: &[u32],
        groups: [u32; 3],
        repeat: Repeat,
        phase: Phase,
    ) -> Result<()> {
        if groups.contains(&0) || repeat.count == 0 {
            return Ok(());
        }
        let dispatch = self.planned(kernel, bindings, params, groups, repeat, phase)?;
        self.segment.commands.push(Command::Dispatch(dispatch));
        Ok(())
    }

    /// Records a run of rounds, each of one dispatch of every kernel.
    pub(super) fn dispatch_rounds(
        &mut self,
        kernels: &[(Kernel, [u32; 3])],
        bindings: &[&View],
        params: &[u32],
        repeat: Repeat,
        phase: Phase,
    ) -> Result<()> {
        if kernels.iter().any(|(_, groups)| groups.contains(&0)) || repeat.count == 0 {
            return Ok(());
        }
        let each = kernels
            .iter()
            .map(|(kernel, groups)| self.planned(kernel, bindings, params, *groups, repeat, phase));
        let dispatches = each.collect::<Result<Vec<_>>>()?;
        self.segment.commands.push(Command::Rounds(dispatches));
        Ok(())
    }

    fn planned(
        &self,
        kernel: &Kernel,
        bindings: &[&View],
        params: &[u32],
        groups: [u32; 3],
        repeat: Repeat,
        phase: Phase,
    ) -> Result<Planned> {
        let device = &self.shared.device;
        let most = device.limits.max_compute_workgroups_per_dimension;
        if let Some(&groups) = groups.iter().find(|&&g| g > most) {
            return Err(Error::limit(format!(
                "{groups} workgroups on an axis, the adapter allows {most}"
            )));
        }
        let most = device.limits.max_storage_buffer_binding_size;
        if let Some(view) = bindings.iter().find(|v| v.size > most && !v.is_texels()) {
            let size = view.size;
            return Err(Error::limit(format!(
                "a binding of {size} bytes is needed, the adapter allows {most}"
            )));
        }
        let bindings = bindings.iter().map(|&view| view.clone()).collect();
        Ok(Planned {
            kernel: kernel.clone(),
            bindings,
            params: params.to_vec(),
            groups,
            repeat,
            phase,
        })
    }

    /// Records a copy of `from` over the beginning of `to`, which lies in another block.
    pub(super) fn copy(&mut self, from: &View, to: &View) -> Result<()> {
        let to = to.part(0, from.size)?;
        self.segment.commands.push(Command::Copy(from.clone(), to));
        Ok(())
    }

    /// Records a copy of rows of `bytes` between two layouts, each a view and the bytes from row to
    /// row.
    pub(super) fn copy_rows(
        &mut self,
        from: (&View, u64),
        to: (&View, u64),
        rows: usize,
        bytes: u64,
    ) {
        let (from, to) = ((from.0.clone(), from.1), (to.0.clone(), to.1));
        self.segment.commands.push(Command::CopyRows(from, to, rows, bytes));
    }

    /// Records that a view is filled with zeros.
    pub(super) fn clear(&mut self, view: &View) {
        self.segment.commands.push(Command::Clear(view.clone()));
    }

    // ---- the program around the ops ----

    /// Records one step of the plan with `record`; a node that the device cannot run goes to the
    /// host.
    pub(super) fn step(
        &mut self,
        position: usize,
        node_index: usize,
        record: impl FnOnce(&mut Self, &Node) -> Result<()>,
        segments: &mut Vec<Segment<Planned>>,
    ) -> Result<()> {
        let graph = Arc::clone(&self.plan.graph);
        let Some(node) = graph.nodes.get(node_index) else {
            return Err(Error::internal("a step without a node"));
        };
        let (commands, guards) = (self.segment.commands.len(), self.segment.guards.len());
        let recorded = record(self, node);
        for view in std::mem::take(&mut self.scratch) {
            self.blocks.release(&view);
        }
        match recorded {
            Ok(()) => {}
            Err(error) if error.kind() == crate::ErrorKind::Unsupported => {
                self.segment.commands.truncate(commands);
                self.segment.guards.truncate(guards);
                for id in std::mem::take(&mut self.fresh) {
                    self.forget(id);
                }
                self.notes
                    .push(format!("{} runs on the host: {error}", node_name(node, node_index)));
                self.host_step(node, node_index, segments);
            }
            Err(error) => return Err(error).within(|| node_name(node, node_index)),
        }
        self.fresh.clear();
        self.release_after(position, node);
        Ok(())
    }

    /// Keeps the operands of a node that is to be recorded later, until [`Recorder::let_go`].
    pub(super) fn hold(&mut self, node: usize) {
        let operands = self.plan.graph.nodes.get(node).map(|n| n.inputs.iter().flatten().copied());
        self.held.extend(operands.into_iter().flatten());
    }

    /// Frees what only nodes that were held needed.
    pub(super) fn let_go(&mut self, position: usize, nodes: &[usize]) {
        let plan = self.plan;
        let nodes: Vec<_> = nodes.iter().filter_map(|&n| plan.graph.nodes.get(n)).collect();
        for id in nodes.iter().flat_map(|n| n.inputs.iter().flatten()) {
            if let Some(at) = self.held.iter().position(|held| held == id) {
                self.held.swap_remove(at);
            }
        }
        nodes.iter().for_each(|node| self.release_after(position, node));
    }

    /// Records several nodes that were held, in one go; `record` says whether it did.
    pub(super) fn together(
        &mut self,
        nodes: &[usize],
        record: impl FnOnce(&mut Self, &[&Node]) -> Result<bool>,
    ) -> Result<bool> {
        let graph = Arc::clone(&self.plan.graph);
        let nodes: Vec<_> = nodes.iter().filter_map(|&n| graph.nodes.get(n)).collect();
        let recorded = record(self, &nodes);
        for view in std::mem::take(&mut self.scratch) {
            self.blocks.release(&view);
        }
        self.fresh.clear();
        recorded.within(|| nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", "))
    }

    fn host_step(&mut self, node: &Node, node_index: usize, segments: &mut Vec<Segment<Planned>>) {
        for &id in node.inputs.iter().flatten() {
            self.download(id);
        }
        self.segment.host = Some(node_index);
        segments.push(std::mem::take(&mut self.segment));
    }

    /// Has the value read back at the end of this segment, when the device computes it.
    fn download(&mut self, id: ValueId) {
        let computed = self.plan.known(id).is_none() && self.plan.graph.constant(id).is_none();
        let there = self.segment.downloads.iter().any(|(known, _)| *known == id);
        if let Some(view) = self.view(id).filter(|_| computed && !there) {
            self.segment.downloads.push((id, view));
        }
    }

    /// Frees what no later step reads.
    fn release_after(&mut self, position: usize, node: &Node) {
        for id in node.inputs.iter().chain(&node.outputs).flatten() {
            let Some(value) = self.plan.values.get(id.index()) else { continue };
            if !value.kept
                && !self.held.contains(id)
                && value.last_use.is_none_or(|last| last <= position)
            {
                self.forget(*id);
            }
        }
    }

    /// Ends the program: reads back what the caller wants, and returns the last segment and the
    /// bytes of device memory.
    pub(super) fn finish(
        mut self,
        wanted: impl Iterator<Item = ValueId>,
    ) -> (Segment<Planned>, u64, Vec<String>) {
        for id in wanted {
            self.download(id);
        }
        (self.segment, self.blocks.total(), self.notes)
    }

    fn describe(&self, id: ValueId) -> Result<(Vec<usize>, DType, Word)> {
        let value = self
            .plan
            .graph
            .get(id)
            .ok_or_else(|| Error::internal("a value that does not exist"))?;
        let shape =
            self.plan.shape(id).ok_or_else(|| Error::unsupported("a shape depends on data"))?;
        let dtype = value.ty.dtype;
        let word = Word::of(dtype)
            .ok_or_else(|| Error::unsupported(format!("{dtype} has no type on the device")))?;
        Ok((shape.to_vec(), dtype, word))
    }

    fn view(&self, id: ValueId) -> Option<View> {
        self.views.get(id.index()).cloned().flatten()
    }

    fn set(&mut self, id: ValueId, view: View) {
        if let Some(slot) = self.views.get_mut(id.index()) {
            *slot = Some(view);
        }
    }

    fn forget(&mut self, id: ValueId) {
        if let Some(view) = self.views.get_mut(id.index()).and_then(Option::take) {
            self.blocks.release(&view);
        }
    }
}

/// Makes what the dispatches of a program need: all pipelines that are missing at the same time,
/// then the bind groups.
pub(super) fn prepare(
    shared: &Shared,
    meter: &Meter,
    segments: Vec<Segment<Planned>>,
) -> Result<Vec<Segment>> {
    let commands = segments.iter().flat_map(|segment| &segment.commands);
    let planned = commands.flat_map(|command| match command {
        Command::Dispatch(planned) => std::slice::from_ref(planned),
        Command::Rounds(stages) => stages,
        Command::Copy(..) | Command::CopyRows(..) | Command::Clear(_) => &[],
    });
    let kernels = planned.map(|planned| &planned.kernel);
    shared.pipelines.make_all(&shared.device, kernels, meter)?;
    let command = |command| {
        Ok(match command {
            Command::Dispatch(planned) => Command::Dispatch(bind(shared, meter, planned)?),
            Command::Rounds(stages) => {
                let stages = stages.into_iter().map(|planned| bind(shared, meter, planned));
                Command::Rounds(stages.collect::<Result<_>>()?)
            }
            Command::Copy(from, to) => Command::Copy(from, to),
            Command::CopyRows(from, to, rows, bytes) => Command::CopyRows(from, to, rows, bytes),
            Command::Clear(view) => Command::Clear(view),
        })
    };
    let segment = |segment: Segment<Planned>| {
        let Segment { uploads, commands, downloads, guards, checks, host } = segment;
        let commands = commands.into_iter().map(command).collect::<Result<_>>()?;
        Ok(Segment { uploads, commands, downloads, guards, checks, host })
    };
    segments.into_iter().map(segment).collect()
}

/// A dispatch with its pipeline and its bind group.
fn bind(shared: &Shared, meter: &Meter, planned: Planned) -> Result<Dispatch> {
    let Planned { kernel, bindings, params, groups, repeat, phase } = planned;
    let device = &shared.device;
    let pipeline = shared.pipelines.get(device, &kernel, meter)?;
    let entries: Vec<_> = (0u32..)
        .zip(&bindings)
        .map(|(binding, view)| wgpu::BindGroupEntry { binding, resource: view.binding() })
        .collect();
    meter.buffer();
    let bindings = device.guarded(|| {
        device.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &entries,
        })
    });
    Ok(Dispatch {
        pipeline,
        bindings: bindings.within(|| kernel.to_string())?,
        params,
        groups,
        repeat,
        phase,
    })
}

/// Every number is in `0..limit`.
pub(super) fn in_range(tensor: &Tensor, limit: usize) -> Result<()> {
    let numbers = tensor.to_i64()?;
    match numbers.iter().find(|&&n| usize::try_from(n).map_or(true, |n| n >= limit)) {
        Some(wrong) => Err(Error::input(format!("position {wrong} is not in 0..{limit}"))),
        None => Ok(()),
    }
}

fn node_name(node: &Node, index: usize) -> String {
    if node.name.is_empty() {
        format!("node {index}")
    } else {
        format!("node {index} ({})", node.name)
    }
}
