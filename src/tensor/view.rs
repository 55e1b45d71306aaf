//! Tensors that are somebody else's memory.

use super::dtype::Slice;
use super::{DType, Element, Tensor, element_count};
use crate::error::{Error, Result};

/// A tensor to read: one that is borrowed, or a shape over a slice of numbers that the caller has
/// elsewhere.
///
/// ```
/// use fuselstm::TensorView;
///
/// let samples = [0.0f32; 6];
/// let view = TensorView::new(&[2, 3], &samples)?;
/// assert_eq!(view.as_slice::<f32>()?.len(), 6);
/// # Ok::<(), fuselstm::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    of: Of<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Of<'a> {
    Tensor(&'a Tensor),
    Slice { shape: &'a [usize], data: Slice<'a> },
}

impl<'a> TensorView<'a> {
    /// A view of `shape` over `data` (row-major).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when `data` does not have as many elements
    /// as `shape`.
    pub fn new<E: Element>(shape: &'a [usize], data: &'a [E]) -> Result<Self> {
        let count = element_count(shape)?;
        if count != data.len() {
            return Err(Error::input(format!(
                "shape {shape:?} has {count} elements, the data {}",
                data.len()
            )));
        }
        Ok(TensorView { of: Of::Slice { shape, data: E::view(data) } })
    }

    /// The sizes of the axes, outermost first; empty for a scalar.
    pub fn shape(&self) -> &'a [usize] {
        match self.of {
            Of::Tensor(tensor) => tensor.shape(),
            Of::Slice { shape, .. } => shape,
        }
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        match self.of {
            Of::Tensor(tensor) => tensor.dtype(),
            Of::Slice { data, .. } => data.dtype(),
        }
    }

    /// The elements, row-major, without a copy.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the view is of another type.
    pub fn as_slice<E: Element>(&self) -> Result<&'a [E]> {
        match self.of {
            Of::Tensor(tensor) => tensor.as_slice(),
            Of::Slice { data, .. } => E::viewed(data).ok_or_else(|| {
                Error::input(format!("view holds {}, {} was asked for", self.dtype(), E::DTYPE))
            }),
        }
    }

    /// A tensor of these elements: shared with the tensor that is viewed, copied from a slice.
    pub fn to_tensor(&self) -> Tensor {
        let mut tensor = Tensor::scalar(0u8);
        self.store_in(&mut tensor);
        tensor
    }

    /// Makes `tensor` share the elements of the viewed tensor, or hold a copy of the slice: in its
    /// own memory where that fits.
    pub(crate) fn store_in(&self, tensor: &mut Tensor) {
        match self.of {
            Of::Tensor(of) => tensor.share(of),
            Of::Slice { shape, data } => {
                tensor.shape.clear();
                tensor.shape.extend_from_slice(shape);
                tensor.storage.copy_in(data);
            }
        }
    }

    /// Whether a run takes the elements without a copy.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.of, Of::Tensor(_))
    }
}

impl<'a> From<&'a Tensor> for TensorView<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        TensorView { of: Of::Tensor(tensor) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_view_reads_what_it_is_of() {
        let numbers = [1i16, 2, 3, 4];
        let view = TensorView::new(&[2, 2], &numbers).unwrap();
        assert_eq!((view.dtype(), view.shape()), (DType::I16, &[2, 2][..]));
        assert_eq!(view.as_slice::<i16>().unwrap().as_ptr(), numbers.as_ptr());
        assert!(view.as_slice::<f32>().is_err());
        assert_eq!(view.to_tensor(), Tensor::from_slice(&[2, 2], &numbers).unwrap());
        assert!(TensorView::new(&[3], &numbers).is_err());
    }

    #[test]
    fn a_slice_goes_into_the_memory_there_is() {
        let mut tensor = Tensor::from_vec(&[4], vec![0.0f32; 4]).unwrap();
        let place = tensor.as_slice::<f32>().unwrap().as_ptr();
        TensorView::new(&[2, 2], &[1.0f32, 2.0, 3.0, 4.0]).unwrap().store_in(&mut tensor);
        assert_eq!(tensor.as_slice::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(
            (tensor.shape(), tensor.as_slice::<f32>().unwrap().as_ptr()),
            (&[2, 2][..], place)
        );
    }
}
