//! What a program is made of: segments of commands, each submitted at once.

use std::sync::Arc;

use super::buffers::View;
use super::pipeline::{Kernel, Pipeline};
use crate::graph::ValueId;

/// Which part of a run a command belongs to, for timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Phase {
    /// From the host.
    Upload,
    /// Input products of recurrent layers.
    Projection,
    /// The steps of recurrent layers.
    Recurrence,
    /// Every other op.
    Other,
    /// To the host.
    Readback,
}

/// One entry of a segment's list; `D` is a dispatch that is ready, or one that still has to be
/// [`prepared`](prepare).
pub(super) enum Command<D = Dispatch> {
    Dispatch(D),
    /// Dispatches that take turns: round after round, each once.
    Rounds(Vec<D>),
    /// Copies the first view over the second, of the same size and in another buffer.
    Copy(View, View),
    /// Copies rows: from, its bytes from row to row; to, its bytes from row to row; rows; bytes of
    /// a row.
    CopyRows((View, u64), (View, u64), usize, u64),
    /// Fills with zeros.
    Clear(View),
}

/// A dispatch, or a run of them that differ in one word of their parameters.
pub(super) struct Dispatch {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) bindings: wgpu::BindGroup,
    pub(super) params: Vec<u32>,
    pub(super) groups: [u32; 3],
    pub(super) repeat: Repeat,
    pub(super) phase: Phase,
}

/// A dispatch as it was recorded: its pipeline may not exist yet.
pub(super) struct Planned {
    pub(super) kernel: Kernel,
    pub(super) bindings: Vec<View>,
    pub(super) params: Vec<u32>,
    pub(super) groups: [u32; 3],
    pub(super) repeat: Repeat,
    pub(super) phase: Phase,
}

/// `count` dispatches; each adds `step` to parameter `word`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repeat {
    pub(super) count: u32,
    pub(super) word: usize,
    pub(super) step: u32,
}

impl Repeat {
    pub(super) const ONCE: Repeat = Repeat { count: 1, word: 0, step: 0 };
}

/// Uploads, commands, downloads: what is submitted at once. Then perhaps one node on the host.
pub(super) struct Segment<D = Dispatch> {
    pub(super) uploads: Vec<(ValueId, View)>,
    pub(super) commands: Vec<Command<D>>,
    pub(super) downloads: Vec<(ValueId, View)>,
    /// Words that are 0 when the commands went well; see [`Recorder::guard`].
    pub(super) guards: Vec<View>,
    /// Values of the host that kernels of this segment use as positions: each is in `0..limit`, or
    /// the run is refused.
    pub(super) checks: Vec<(ValueId, usize)>,
    /// Index of the node that the host computes after the commands.
    pub(super) host: Option<usize>,
}

impl<D> Default for Segment<D> {
    fn default() -> Self {
        Segment {
            uploads: Vec::new(),
            commands: Vec::new(),
            downloads: Vec::new(),
            guards: Vec::new(),
            checks: Vec::new(),
            host: None,
        }
    }
}

impl Segment {
    /// Whether anything of it is read back.
    pub(super) fn reads_back(&self) -> bool {
        !self.downloads.is_empty() || !self.guards.is_empty()
    }
}
