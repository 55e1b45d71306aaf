//! Dense tensors in host memory: a shape and a shared vector of one element type.

#[cfg(feature = "ndarray")]
mod arrays;
#[cfg(any(feature = "tensorflow", feature = "onnx"))]
mod bytes;
mod dtype;
#[cfg(feature = "npz")]
pub mod npz;
mod quantization;
mod shape;
mod view;

pub use dtype::{DType, Element};
pub(crate) use dtype::{Storage, with_storage};
pub use quantization::Quantization;
pub use shape::element_count;
pub use view::TensorView;

use crate::error::{Error, Result};
use crate::limits::room_for;

/// A dense, row-major tensor in host memory.
///
/// Cloning shares the elements; they are copied only when a shared tensor is written to.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    storage: Storage,
}

impl Tensor {
    /// A tensor of `shape` over `data`, which is taken as it is (row-major, no copy).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when `data` does not have as many elements
    /// as `shape`.
    ///
    /// ```
    /// let t = fuselstm::Tensor::from_vec(&[2, 3], vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
    /// assert_eq!(t.as_slice::<f32>()?[4], 5.0);
    /// # Ok::<(), fuselstm::Error>(())
    /// ```
    pub fn from_vec<E: Element>(shape: &[usize], data: Vec<E>) -> Result<Self> {
        let count = element_count(shape)?;
        if count != data.len() {
            return Err(Error::input(format!(
                "shape {shape:?} has {count} elements, the data {}",
                data.len()
            )));
        }
        Ok(Tensor { shape: shape.to_vec(), storage: E::store(data) })
    }

    /// A tensor of `shape` with a copy of `data`.
    ///
    /// # Errors
    /// As [`Tensor::from_vec`].
    pub fn from_slice<E: Element>(shape: &[usize], data: &[E]) -> Result<Self> {
        Self::from_vec(shape, data.to_vec())
    }

    /// A tensor of shape `[]` that holds one value.
    pub fn scalar<E: Element>(value: E) -> Self {
        Tensor { shape: Vec::new(), storage: E::store(vec![value]) }
    }

    /// A tensor of zeros (`false` for booleans).
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) when there is no memory for so many elements.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Self> {
        let count = element_count(shape)?;
        room_for(count, dtype.size())?;
        Ok(Tensor { shape: shape.to_vec(), storage: Storage::zeros(dtype, count) })
    }

    /// The sizes of the axes, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.storage.dtype()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.storage.len()
    }

    /// Whether there is no element: some axis has size 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements, row-major, without a copy.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the tensor holds another type.
    pub fn as_slice<E: Element>(&self) -> Result<&[E]> {
        E::slice(&self.storage).ok_or_else(|| self.wrong_type(E::DTYPE))
    }

    /// The elements to write to, row-major; copies them first when they are shared.
    ///
    /// # Errors
    /// As [`Tensor::as_slice`].
    pub fn as_mut_slice<E: Element>(&mut self) -> Result<&mut [E]> {
        let dtype = self.dtype();
        E::slice_mut(&mut self.storage).ok_or_else(|| {
            Error::input(format!("tensor holds {dtype}, {} was asked for", E::DTYPE))
        })
    }

    /// The elements as a vector; copies only when they are shared.
    ///
    /// # Errors
    /// As [`Tensor::as_slice`].
    pub fn into_vec<E: Element>(self) -> Result<Vec<E>> {
        let error = self.wrong_type(E::DTYPE);
        E::into_vec(self.storage).ok_or(error)
    }

    /// The same elements under another shape, without a copy.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the number of elements differs.
    pub fn reshaped(&self, shape: &[usize]) -> Result<Self> {
        let count = element_count(shape)?;
        if count != self.len() {
            return Err(Error::input(format!(
                "cannot view {:?} as {shape:?}: {} and {count} elements",
                self.shape,
                self.len()
            )));
        }
        Ok(Tensor { shape: shape.to_vec(), storage: self.storage.clone() })
    }

    /// The elements converted to f32 where they are not f32 already (integers exactly up to 2²⁴,
    /// booleans to 0 and 1).
    pub fn to_f32(&self) -> std::borrow::Cow<'_, [f32]> {
        self.storage.to_f32()
    }

    /// The elements as i64, for index and shape tensors.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the tensor is not of an integer type.
    pub fn to_i64(&self) -> Result<Vec<i64>> {
        self.storage.to_i64().ok_or_else(|| {
            Error::input(format!("an integer tensor was expected, this one holds {}", self.dtype()))
        })
    }

    /// The same numbers in another type; `None` where one of them has no equal in it. Between
    /// whole numbers of f32, i32 and i64 only.
    pub(crate) fn without_loss(&self, dtype: DType) -> Option<Tensor> {
        // Whole numbers up to here are exact in f32.
        const MOST_EXACT: i64 = 1 << 24;
        let numbers: Vec<i64> = match self.dtype() {
            DType::I32 | DType::I64 => self.to_i64().ok()?,
            DType::F32 => {
                let numbers = self.to_f32();
                let whole = |x: &f32| x.fract() == 0.0 && x.abs() <= MOST_EXACT as f32;
                let kept = |x: &f32| whole(x) && !(*x == 0.0 && x.is_sign_negative());
                if !numbers.iter().all(kept) {
                    return None;
                }
                numbers.iter().map(|&x| x as i64).collect()
            }
            _ => return None,
        };
        match dtype {
            DType::I64 => Tensor::from_vec(&self.shape, numbers).ok(),
            DType::I32 => {
                let numbers = numbers.into_iter().map(|n| i32::try_from(n).ok());
                Tensor::from_vec(&self.shape, numbers.collect::<Option<Vec<_>>>()?).ok()
            }
            DType::F32 if numbers.iter().all(|n| n.abs() <= MOST_EXACT) => {
                let numbers = numbers.into_iter().map(|n| n as f32).collect();
                Tensor::from_vec(&self.shape, numbers).ok()
            }
            _ => None,
        }
    }

    /// Size of the elements in bytes.
    pub fn byte_len(&self) -> usize {
        self.len() * self.dtype().size()
    }

    /// A tensor whose every element is `value`, which wraps where the type cannot hold it.
    pub(crate) fn filled(dtype: DType, shape: &[usize], value: i64) -> Result<Self> {
        let n = element_count(shape)?;
        room_for(n, dtype.size())?;
        match dtype {
            DType::F32 => Tensor::from_vec(shape, vec![value as f32; n]),
            DType::F64 => Tensor::from_vec(shape, vec![value as f64; n]),
            DType::F16 => Tensor::from_vec(shape, vec![half::f16::from_f32(value as f32); n]),
            DType::I8 => Tensor::from_vec(shape, vec![value as i8; n]),
            DType::U8 => Tensor::from_vec(shape, vec![value as u8; n]),
            DType::I16 => Tensor::from_vec(shape, vec![value as i16; n]),
            DType::I32 => Tensor::from_vec(shape, vec![value as i32; n]),
            DType::I64 => Tensor::from_vec(shape, vec![value; n]),
            DType::Bool => Tensor::from_vec(shape, vec![value != 0; n]),
        }
    }

    /// Makes this tensor share the elements of `other`, without an allocation where the ranks are
    /// alike.
    pub(crate) fn share(&mut self, other: &Tensor) {
        self.shape.clone_from(&other.shape);
        self.storage = other.storage.clone();
    }

    /// Copies the elements of `other` into this tensor's own memory where they fit there, and makes
    /// a copy of them otherwise.
    pub(crate) fn assign(&mut self, other: &Tensor) {
        self.shape.clone_from(&other.shape);
        self.storage.assign(&other.storage);
    }

    /// Whether another tensor has the same elements in memory.
    pub(crate) fn is_shared(&self) -> bool {
        with_storage!(&self.storage, elements => std::sync::Arc::strong_count(elements) > 1)
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    fn wrong_type(&self, asked: DType) -> Error {
        Error::input(format!("tensor holds {}, {asked} was asked for", self.dtype()))
    }
}
