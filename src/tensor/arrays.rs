//! Tensors from and to arrays of the crate `ndarray`.

use ndarray::{ArrayBase, ArrayView, ArrayViewD, Data, Dimension, IxDyn};

use super::{Element, Tensor, TensorView};
use crate::error::{Error, Result};

impl<E: Element, S: Data<Elem = E>, D: Dimension> From<&ArrayBase<S, D>> for Tensor {
    /// A copy of the array, row-major.
    fn from(array: &ArrayBase<S, D>) -> Self {
        let data: Vec<E> = array.iter().copied().collect();
        Tensor { shape: array.shape().to_vec(), storage: E::store(data) }
    }
}

impl<'a, E: Element, S: Data<Elem = E>, D: Dimension> TryFrom<&'a ArrayBase<S, D>>
    for TensorView<'a>
{
    type Error = Error;

    /// The array's own elements; an error for one that is not row-major and contiguous.
    fn try_from(array: &'a ArrayBase<S, D>) -> Result<Self> {
        let data = array.as_slice().ok_or_else(|| {
            Error::input("the array is not in row-major order: a tensor is made of it by a copy")
        })?;
        TensorView::new(array.shape(), data)
    }
}

impl Tensor {
    /// The elements as an array, without a copy.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the tensor holds another type.
    pub fn as_array<E: Element>(&self) -> Result<ArrayViewD<'_, E>> {
        ArrayView::from_shape(IxDyn(self.shape()), self.as_slice::<E>()?)
            .map_err(|error| Error::internal("a shape of another size").with_source(error))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;

    #[test]
    fn arrays_and_tensors_have_the_same_elements() {
        let array: Array2<f32> = array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]];
        let view = TensorView::try_from(&array).unwrap();
        assert_eq!(view.as_slice::<f32>().unwrap().as_ptr(), array.as_ptr());
        let tensor = Tensor::from(&array);
        assert_eq!(tensor, view.to_tensor());
        assert_eq!(tensor.as_array::<f32>().unwrap(), array.clone().into_dyn());
        assert!(tensor.as_array::<i8>().is_err());
        // A transposed array is copied row by row, and is no view.
        let turned = array.t();
        assert!(TensorView::try_from(&turned).is_err());
        let tensor = Tensor::from(&turned);
        assert_eq!(tensor.as_slice::<f32>().unwrap(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
