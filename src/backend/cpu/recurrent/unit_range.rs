//! Units of a layer that one thread computes.

use std::ops::Range;

use super::super::simd::{Packed, UNITS};
use super::weights::Weights;

/// Some of the units of a layer, by the panels of its weights: what one thread computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnitRange {
    /// Panels of the input weights.
    pub input: Range<usize>,
    /// Panels of the recurrent weights.
    pub recurrent: Range<usize>,
    /// Blocks of [`UNITS`] units.
    pub blocks: Range<usize>,
}

impl UnitRange {
    /// All of them.
    pub fn whole(weights: &Weights) -> UnitRange {
        UnitRange {
            input: 0..weights.input.panels(),
            recurrent: 0..weights.recurrent.first().map_or(0, Packed::panels),
            blocks: 0..weights.units.div_ceil(UNITS),
        }
    }

    /// Even shares for `threads` threads, cut where units and panels of both weights end together;
    /// fewer where there are too few.
    pub fn shares(weights: &Weights, threads: usize) -> Vec<UnitRange> {
        let whole = UnitRange::whole(weights);
        let Some(recurrent) = weights.recurrent.first() else { return vec![whole] };
        let block = weights.gates * UNITS;
        let (input_width, recurrent_width) = (weights.input.width(), recurrent.width());
        let mut step = 1;
        while !(step * block).is_multiple_of(input_width)
            || !(step * block).is_multiple_of(recurrent_width)
        {
            step += 1;
        }
        let steps = whole.blocks.end / step;
        let count = threads.min(steps).max(1);
        let at = |share: usize| {
            if share == count { whole.blocks.end } else { share * steps / count * step }
        };
        let cut = |share: usize, width: usize, panels: usize| {
            let panel =
                |share: usize| if share == count { panels } else { at(share) * block / width };
            panel(share)..panel(share + 1)
        };
        (0..count)
            .map(|share| UnitRange {
                input: cut(share, input_width, whole.input.end),
                recurrent: cut(share, recurrent_width, whole.recurrent.end),
                blocks: at(share)..at(share + 1),
            })
            .collect()
    }

    /// The units, those that fill up the last block among them.
    pub fn units(&self) -> Range<usize> {
        self.blocks.start * UNITS..self.blocks.end * UNITS
    }
}
