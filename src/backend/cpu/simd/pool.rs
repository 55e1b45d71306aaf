//! Runs the parts of one piece of work, each with its own window of the result.

use super::grid::{Grid, View};
use crate::error::Result;

/// Calls `work` once for every part, with the view that one of the grids has for it (by the part's index), if any.
///
/// # Errors
/// The first error of a part.
pub(crate) fn for_each_part<P: Send>(
    parts: &mut [P],
    grids: &[Option<Grid<'_>>],
    work: impl Fn(&mut P, Option<View<'_>>) -> Result<()> + Sync,
) -> Result<()> {
    for (index, part) in parts.iter_mut().enumerate() {
        // SAFETY: each index is visited once.
        let view = grids.iter().flatten().find_map(|grid| unsafe { grid.view(index) });
        work(part, view)?;
    }
    Ok(())
}
