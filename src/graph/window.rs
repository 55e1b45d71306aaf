//! Geometry of windows that move over an image: convolutions and pools.

use crate::error::{Error, Result};

/// What lies around the image when a window reaches over its edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// Nothing: whole windows only.
    #[default]
    Valid,
    /// As many positions as `ceil(size / stride)`; the odd entry of padding lies behind.
    Same,
    /// As [`Padding::Same`], the odd entry before.
    SameLower,
    /// This many entries before and behind: vertical, horizontal.
    Explicit {
        /// Above and to the left.
        before: [usize; 2],
        /// Below and to the right.
        after: [usize; 2],
    },
}

/// One axis of a moving window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowAxis {
    /// Entries of the image.
    pub size: usize,
    /// Taps of the window.
    pub kernel: usize,
    /// Entries from one position to the next.
    pub stride: usize,
    /// Entries from one tap to the next.
    pub dilation: usize,
    /// Entries of padding before the image.
    pub before: usize,
    /// Entries of padding behind the image.
    pub after: usize,
    /// Positions of the window.
    pub count: usize,
}

impl WindowAxis {
    /// The geometry of `axis` (0 vertical, 1 horizontal).
    ///
    /// # Errors
    /// [`InvalidGraph`](crate::ErrorKind::InvalidGraph) for a kernel, stride or dilation of 0, or
    /// sizes over 2^31 (TensorFlow Lite keeps them in 32 bits; the bound keeps this exact).
    pub fn new(
        padding: Padding,
        axis: usize,
        size: usize,
        kernel: usize,
        stride: usize,
        dilation: usize,
    ) -> Result<WindowAxis> {
        let most = i32::MAX as usize;
        let fits = |n: usize| (1..=most).contains(&n);
        let reach = (kernel.max(1) - 1).checked_mul(dilation).and_then(|n| n.checked_add(1));
        let reach = reach.filter(|&reach| {
            fits(kernel) && fits(stride) && fits(dilation) && fits(reach) && size <= most
        });
        let Some(reach) = reach else {
            return Err(Error::graph(format!(
                "a kernel of {kernel} with stride {stride} and dilation {dilation} over {size}"
            )));
        };
        let count = size.div_ceil(stride);
        let missing = || (count.saturating_sub(1) * stride + reach).saturating_sub(size);
        let (before, after) = match padding {
            Padding::Valid => (0, 0),
            Padding::Same => (missing() / 2, missing().div_ceil(2)),
            Padding::SameLower => (missing().div_ceil(2), missing() / 2),
            Padding::Explicit { before, after } => {
                let at = |sides: [usize; 2]| sides.get(axis).copied().unwrap_or(0);
                (at(before), at(after))
            }
        };
        let padded = size.checked_add(before).and_then(|n| n.checked_add(after));
        let Some(padded) = padded.filter(|&padded| padded <= most) else {
            return Err(Error::graph(format!("padding of {before} and {after} around {size}")));
        };
        let count = match padding {
            Padding::Same | Padding::SameLower => count,
            Padding::Valid | Padding::Explicit { .. } => {
                padded.checked_sub(reach).map_or(0, |room| room / stride + 1)
            }
        };
        Ok(WindowAxis { size, kernel, stride, dilation, before, after, count })
    }

    /// The taps of position `index` that meet the image, each with the entry that it meets.
    pub fn taps(&self, index: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.kernel).filter_map(move |tap| {
            let at = (index * self.stride + tap * self.dilation).checked_sub(self.before)?;
            (at < self.size).then_some((tap, at))
        })
    }

    /// The number of taps of position `index` that lie on the image or its padding.
    pub fn taps_with_padding(&self, index: usize) -> usize {
        let end = self.size + self.before + self.after;
        let from = index * self.stride;
        (0..self.kernel).filter(|tap| from + tap * self.dilation < end).count()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn paddings_place_the_odd_entry_and_explicit_ones_are_taken_as_they_are() {
        let axis = |padding, size| WindowAxis::new(padding, 1, size, 2, 1, 1).unwrap();
        let at = |axis: WindowAxis| (axis.before, axis.after, axis.count);
        assert_eq!(at(axis(Padding::Valid, 5)), (0, 0, 4));
        assert_eq!(at(axis(Padding::Same, 5)), (0, 1, 5));
        assert_eq!(at(axis(Padding::SameLower, 5)), (1, 0, 5));
        let explicit = Padding::Explicit { before: [9, 2], after: [9, 1] };
        assert_eq!(at(axis(explicit, 5)), (2, 1, 7));
        assert_eq!(at(axis(Padding::Valid, 1)), (0, 0, 0));
        let taps: Vec<_> = axis(explicit, 5).taps(1).collect();
        assert_eq!(taps, [(1, 0)]);
        assert_eq!(axis(explicit, 5).taps_with_padding(6), 2);
        assert!(WindowAxis::new(Padding::Same, 0, 5, 2, 0, 1).is_err());
        assert!(WindowAxis::new(explicit, 1, i32::MAX as usize, 2, 1, 1).is_err());
    }
}
