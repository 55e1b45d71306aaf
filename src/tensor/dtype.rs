//! Element types and the storage of a tensor's elements.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use half::f16;

macro_rules! dtypes {
    ($($variant:ident $ty:ty, $name:literal, $zero:expr;)*) => {
        /// Type of a tensor's elements.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum DType {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        impl DType {
            /// Size of one element in bytes.
            pub const fn size(self) -> usize {
                match self { $(DType::$variant => std::mem::size_of::<$ty>(),)* }
            }

            /// The name that is printed: `float32`, `int8`, …
            pub const fn name(self) -> &'static str {
                match self { $(DType::$variant => $name,)* }
            }
        }

        /// The elements of a tensor; a clone shares them. Public in a private module: no caller can
        /// name it.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Storage {
            $($variant(Arc<Vec<$ty>>),)*
        }

        /// Elements of a slice. Public in a private module, as [`Storage`].
        #[derive(Clone, Copy, Debug)]
        pub enum Slice<'a> {
            $($variant(&'a [$ty]),)*
        }

        impl Slice<'_> {
            pub(crate) fn dtype(&self) -> DType {
                match self { $(Slice::$variant(_) => DType::$variant,)* }
            }
        }

        impl Storage {
            /// Copies a slice: in place when there are as many elements of the same type and they
            /// are not shared.
            pub(crate) fn copy_in(&mut self, from: Slice<'_>) {
                match (&mut *self, from) {
                    $((Storage::$variant(to), Slice::$variant(from)) if to.len() == from.len() => {
                        match Arc::get_mut(to) {
                            Some(to) => to.copy_from_slice(from),
                            None => *to = Arc::new(from.to_vec()),
                        }
                    })*
                    $((_, Slice::$variant(from)) => *self = Storage::$variant(Arc::new(from.to_vec())),)*
                }
            }

            pub(crate) fn dtype(&self) -> DType {
                match self { $(Storage::$variant(_) => DType::$variant,)* }
            }

            pub(crate) fn len(&self) -> usize {
                match self { $(Storage::$variant(v) => v.len(),)* }
            }

            /// Where the elements lie: the same for tensors that share them.
            pub(crate) fn address(&self) -> usize {
                match self { $(Storage::$variant(v) => Arc::as_ptr(v).addr(),)* }
            }

            /// Copies the elements of `other`: in place when there are as many of the same type and
            /// they are not shared.
            pub(crate) fn assign(&mut self, other: &Storage) {
                match (&mut *self, other) {
                    $((Storage::$variant(to), Storage::$variant(from)) if to.len() == from.len() => {
                        match Arc::get_mut(to) {
                            Some(to) => to.copy_from_slice(from),
                            None => *to = Arc::new(from.to_vec()),
                        }
                    })*
                    $((_, Storage::$variant(from)) => *self = Storage::$variant(Arc::new(from.to_vec())),)*
                }
            }

            pub(crate) fn zeros(dtype: DType, count: usize) -> Storage {
                match dtype { $(DType::$variant => Storage::$variant(Arc::new(vec![$zero; count])),)* }
            }
        }

        $(impl Element for $ty {
            const DTYPE: DType = DType::$variant;
        }

        impl sealed::Sealed for $ty {
            fn store(data: Vec<Self>) -> Storage {
                Storage::$variant(Arc::new(data))
            }
            fn slice(storage: &Storage) -> Option<&[Self]> {
                match storage { Storage::$variant(v) => Some(v), _ => None }
            }
            fn view(data: &[Self]) -> Slice<'_> {
                Slice::$variant(data)
            }
            fn viewed(slice: Slice<'_>) -> Option<&[Self]> {
                match slice { Slice::$variant(v) => Some(v), _ => None }
            }
            fn slice_mut(storage: &mut Storage) -> Option<&mut [Self]> {
                match storage { Storage::$variant(v) => Some(Arc::make_mut(v).as_mut_slice()), _ => None }
            }
            fn into_vec(storage: Storage) -> Option<Vec<Self>> {
                match storage {
                    Storage::$variant(v) => Some(Arc::try_unwrap(v).unwrap_or_else(|shared| shared.to_vec())),
                    _ => None,
                }
            }
        })*

        /// Runs `$body` with `$v` bound to the typed `Arc<Vec<_>>` of a [`Storage`], whatever its
        /// type.
        macro_rules! with_storage {
            ($storage:expr, $v:ident => $body:expr) => {
                match $storage { $($crate::tensor::Storage::$variant($v) => $body,)* }
            };
        }
        pub(crate) use with_storage;
    };
}

mod sealed {
    use super::{Slice, Storage};
    /// Access to the typed elements of a storage; only the types of [`super::DType`] have it.
    pub trait Sealed: Sized {
        fn store(data: Vec<Self>) -> Storage;
        fn slice(storage: &Storage) -> Option<&[Self]>;
        fn view(data: &[Self]) -> Slice<'_>;
        fn viewed(slice: Slice<'_>) -> Option<&[Self]>;
        fn slice_mut(storage: &mut Storage) -> Option<&mut [Self]>;
        fn into_vec(storage: Storage) -> Option<Vec<Self>>;
    }
}

/// A type that tensors can hold: the types of [`DType`].
pub trait Element:
    sealed::Sealed + Copy + Default + PartialEq + fmt::Debug + Send + Sync + 'static
{
    /// The [`DType`] of this Rust type.
    const DTYPE: DType;
}

dtypes! {
    F32 f32, "float32", 0.0;
    F64 f64, "float64", 0.0;
    F16 f16, "float16", f16::ZERO;
    I8 i8, "int8", 0;
    U8 u8, "uint8", 0;
    I16 i16, "int16", 0;
    I32 i32, "int32", 0;
    I64 i64, "int64", 0;
    Bool bool, "bool", false;
}

impl DType {
    /// Whether the type is f16, f32 or f64.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::F32 | DType::F64)
    }
}

impl Storage {
    pub(crate) fn to_f32(&self) -> Cow<'_, [f32]> {
        match self {
            Storage::F32(v) => Cow::Borrowed(v.as_slice()),
            Storage::F64(v) => v.iter().map(|&x| x as f32).collect(),
            Storage::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Storage::I8(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Storage::U8(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Storage::I16(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Storage::I32(v) => v.iter().map(|&x| x as f32).collect(),
            Storage::I64(v) => v.iter().map(|&x| x as f32).collect(),
            Storage::Bool(v) => v.iter().map(|&x| f32::from(u8::from(x))).collect(),
        }
    }

    pub(crate) fn to_i64(&self) -> Option<Vec<i64>> {
        match self {
            Storage::I8(v) => Some(v.iter().map(|&x| i64::from(x)).collect()),
            Storage::U8(v) => Some(v.iter().map(|&x| i64::from(x)).collect()),
            Storage::I16(v) => Some(v.iter().map(|&x| i64::from(x)).collect()),
            Storage::I32(v) => Some(v.iter().map(|&x| i64::from(x)).collect()),
            Storage::I64(v) => Some(v.to_vec()),
            Storage::F32(_) | Storage::F64(_) | Storage::F16(_) | Storage::Bool(_) => None,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
