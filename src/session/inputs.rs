//! What a run is given: tensors by name, by position, or one alone.

use crate::error::Result;
use crate::tensor::{Tensor, TensorView};

/// An input, output or state of a model: its name, or its position in the model's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// By name.
    Name(&'a str),
    /// By position, counted from 0.
    Position(usize),
}

impl<'a> From<&'a str> for Key<'a> {
    fn from(name: &'a str) -> Self {
        Key::Name(name)
    }
}

impl<'a> From<&'a String> for Key<'a> {
    fn from(name: &'a String) -> Self {
        Key::Name(name)
    }
}

impl From<usize> for Key<'_> {
    fn from(position: usize) -> Self {
        Key::Position(position)
    }
}

impl std::fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Key::Name(name) => write!(f, "`{name}`"),
            Key::Position(position) => write!(f, "{position}"),
        }
    }
}

/// What names an input: a string, or a number.
pub trait AsKey {
    /// The key.
    fn key(&self) -> Key<'_>;
}

impl AsKey for str {
    fn key(&self) -> Key<'_> {
        Key::Name(self)
    }
}

impl AsKey for String {
    fn key(&self) -> Key<'_> {
        Key::Name(self)
    }
}

impl AsKey for usize {
    fn key(&self) -> Key<'_> {
        Key::Position(*self)
    }
}

impl<K: AsKey + ?Sized> AsKey for &K {
    fn key(&self) -> Key<'_> {
        (**self).key()
    }
}

/// What an input is: a tensor, or a view of numbers that are elsewhere.
pub trait AsView {
    /// The view.
    fn view(&self) -> TensorView<'_>;
}

impl AsView for Tensor {
    fn view(&self) -> TensorView<'_> {
        self.into()
    }
}

impl AsView for TensorView<'_> {
    fn view(&self) -> TensorView<'_> {
        *self
    }
}

impl<V: AsView + ?Sized> AsView for &V {
    fn view(&self) -> TensorView<'_> {
        (**self).view()
    }
}

/// The inputs of a run: a list of pairs of a name or a position and a tensor; a list of tensors in
/// the model's order; one tensor alone; or nothing, `()`.
///
/// ```
/// # use fuselstm::{Device, Model, Session, Tensor, TensorView};
/// # let session = Session::new(&Model::open("examples/data/digits.tflite")?, Device::cpu())?;
/// let pixels = [0.0f32; 28 * 28];
/// let image = Tensor::from_slice(&[1, 28, 28], &pixels)?;
/// session.run(&[("INPUT", &image)])?;
/// session.run(&[(0, &image)])?;
/// session.run(&image)?;
/// session.run(&TensorView::new(&[1, 28, 28], &pixels)?)?;
/// # Ok::<(), fuselstm::Error>(())
/// ```
pub trait Inputs {
    /// Gives every input to `take`.
    ///
    /// # Errors
    /// Those of `take`.
    fn give(&self, take: &mut dyn FnMut(Key<'_>, TensorView<'_>) -> Result<()>) -> Result<()>;
}

impl<K: AsKey, V: AsView> Inputs for [(K, V)] {
    fn give(&self, take: &mut dyn FnMut(Key<'_>, TensorView<'_>) -> Result<()>) -> Result<()> {
        self.iter().try_for_each(|(key, view)| take(key.key(), view.view()))
    }
}

impl<V: AsView> Inputs for [V] {
    fn give(&self, take: &mut dyn FnMut(Key<'_>, TensorView<'_>) -> Result<()>) -> Result<()> {
        self.iter()
            .enumerate()
            .try_for_each(|(position, view)| take(Key::Position(position), view.view()))
    }
}

impl<T, const N: usize> Inputs for [T; N]
where
    [T]: Inputs,
{
    fn give(&self, take: &mut dyn FnMut(Key<'_>, TensorView<'_>) -> Result<()>) -> Result<()> {
        self.as_slice().give(take)
    }
}

impl<T> Inputs for Vec<T>
where
    [T]: Inputs,
{
    fn give(&self, take: &mut dyn FnMut(Key<'_>, TensorView<'_>) -> Result<()>) -> Result<()> {
        self.as_slice().give(take)
    }
}

impl Inputs for Tensor {
    fn give(&self, take: &mut dyn FnMut(Key<'_>, TensorView<'_>) -> Result<()>) -> Result<()> {
        take(Key::Position(0), self.view())
    }
}

impl Inputs for TensorView<'_> {
    fn give(&self, take: &mut dyn FnMut(Key<'_>, TensorView<'_>) -> Result<()>) -> Result<()> {
        take(Key::Position(0), *self)
    }
}

impl Inputs for () {
    fn give(&self, _: &mut dyn FnMut(Key<'_>, TensorView<'_>) -> Result<()>) -> Result<()> {
        Ok(())
    }
}
