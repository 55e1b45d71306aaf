//! One result that several workers write at once, each its own rows and columns.

use std::marker::PhantomData;
use std::ops::Range;

use super::defect;
use crate::error::Result;

/// Rows and columns of every step that one worker writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Index of the worker.
    pub part: usize,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

/// `[steps, rows, columns]`, the first two axes with strides of their own, seen through windows
/// that do not overlap.
pub(crate) struct Grid<'a> {
    base: *mut f32,
    steps: usize,
    step_stride: usize,
    row_stride: usize,
    windows: &'a [Window],
    data: PhantomData<&'a mut [f32]>,
}

// SAFETY: a grid only hands out views of disjoint elements, as `split_at_mut` does.
unsafe impl Sync for Grid<'_> {}
// SAFETY: as above.
unsafe impl Send for Grid<'_> {}

impl<'a> Grid<'a> {
    /// A grid over `data`, `[steps, rows, columns]` when `time_major`, else
    /// `[rows, steps, columns]`.
    ///
    /// # Errors
    /// [`Internal`](crate::ErrorKind::Internal) when windows overlap or pass the data.
    pub fn new(
        data: &'a mut [f32],
        [steps, rows, columns]: [usize; 3],
        time_major: bool,
        windows: &'a [Window],
    ) -> Result<Grid<'a>> {
        let (step_stride, row_stride) =
            if time_major { (rows * columns, columns) } else { (columns, steps * columns) };
        let inside = windows.iter().all(|w| w.rows.end <= rows && w.columns.end <= columns);
        let apart = |a: &Range<usize>, b: &Range<usize>| a.end <= b.start || b.end <= a.start;
        let disjoint = windows.iter().enumerate().all(|(i, a)| {
            windows.iter().take(i).all(|b| {
                a.part != b.part && (apart(&a.rows, &b.rows) || apart(&a.columns, &b.columns))
            })
        });
        if data.len() != steps * rows * columns || !inside || !disjoint {
            return Err(defect("the parts of a result overlap or pass its end"));
        }
        Ok(Grid {
            base: data.as_mut_ptr(),
            steps,
            step_stride,
            row_stride,
            windows,
            data: PhantomData,
        })
    }

    /// The one view that is wanted of this grid.
    pub fn into_view(self, part: usize) -> Option<View<'a>> {
        // SAFETY: the grid is gone, so there is no other view.
        unsafe { self.view(part) }
    }

    /// The view of worker `part`.
    ///
    /// # Safety
    /// At most one view of each part may be alive.
    pub(super) unsafe fn view(&self, part: usize) -> Option<View<'a>> {
        let window = self.windows.iter().find(|window| window.part == part)?;
        let offset = window.rows.start * self.row_stride + window.columns.start;
        Some(View {
            // Wrapping, because an empty grid has no element to point at; no row of it is ever
            // taken.
            base: self.base.wrapping_add(offset),
            steps: self.steps,
            rows: window.rows.len(),
            width: window.columns.len(),
            step_stride: self.step_stride,
            row_stride: self.row_stride,
            data: PhantomData,
        })
    }
}

/// What one worker writes: `[steps, rows, width]`.
pub(crate) struct View<'a> {
    base: *mut f32,
    steps: usize,
    rows: usize,
    width: usize,
    step_stride: usize,
    row_stride: usize,
    data: PhantomData<&'a mut [f32]>,
}

// SAFETY: the only view of its elements.
unsafe impl Send for View<'_> {}

impl View<'_> {
    /// One row of a step.
    ///
    /// # Errors
    /// [`Internal`](crate::ErrorKind::Internal) for a row or step that the view does not have.
    pub fn row(&mut self, step: usize, row: usize) -> Result<&mut [f32]> {
        if step >= self.steps || row >= self.rows {
            return Err(defect("a row past the end of the result"));
        }
        // SAFETY: within the window by the check above, and no other view has it.
        unsafe {
            let at = self.base.add(step * self.step_stride + row * self.row_stride);
            Ok(std::slice::from_raw_parts_mut(at, self.width))
        }
    }

    /// Where `rows` rows of at least `width` elements of a step begin, and their stride.
    pub(super) fn rows(
        &mut self,
        step: usize,
        first: usize,
        rows: usize,
        width: usize,
    ) -> Result<(*mut f32, usize)> {
        if step >= self.steps || first + rows > self.rows || width > self.width {
            return Err(defect("rows past the end of the result"));
        }
        Ok((
            self.base.wrapping_add(step * self.step_stride + first * self.row_stride),
            self.row_stride,
        ))
    }
}
