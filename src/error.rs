//! The one error type of the library.

use std::fmt;

/// What sort of thing went wrong; stable, for programs that react to an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file could not be read or written.
    Io,
    /// The bytes are of no format that is known here.
    UnknownFormat,
    /// The file breaks the rules of its own format.
    Malformed,
    /// A stated limit was passed: file size, nesting, number of nodes, memory, a GPU's binding
    /// size.
    Limit,
    /// The model is well formed, and asks for something that is not implemented.
    Unsupported,
    /// The graph contradicts itself: ranks, shapes, types or wiring.
    InvalidGraph,
    /// A tensor or an option that the caller gave does not fit.
    InvalidInput,
    /// No device of the asked kind, or the device failed.
    Device,
    /// The caller called it off.
    Cancelled,
    /// An invariant of this library was broken: a defect here, please report it.
    Internal,
}

/// An error: its kind, the place it was found at (file part, node or tensor), and a sentence.
///
/// The place reads outermost first, for example
/// `subgraph 0 / operator 3 (FULLY_CONNECTED) / input 1`.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    path: Vec<String>,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A new error without a place.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error {
            inner: Box::new(Inner {
                kind,
                path: Vec::new(),
                message: message.into(),
                source: None,
            }),
        }
    }

    /// Shorthand for [`ErrorKind::Malformed`].
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Malformed, message)
    }

    /// Shorthand for [`ErrorKind::Unsupported`].
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Shorthand for [`ErrorKind::InvalidGraph`].
    pub(crate) fn graph(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidGraph, message)
    }

    /// Shorthand for [`ErrorKind::InvalidInput`].
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// Shorthand for [`ErrorKind::Limit`].
    pub(crate) fn limit(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Limit, message)
    }

    /// Shorthand for [`ErrorKind::Device`].
    pub(crate) fn device(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Device, message)
    }

    /// Shorthand for [`ErrorKind::Internal`].
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The same error, found inside `place`: puts `place` in front of the path.
    #[must_use]
    pub(crate) fn within(mut self, place: impl Into<String>) -> Self {
        self.inner.path.insert(0, place.into());
        self
    }

    /// The same error with the error that caused it.
    #[must_use]
    pub(crate) fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// What sort of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Where it was found, outermost place first; empty when the place is the whole file or call.
    pub fn path(&self) -> &[String] {
        &self.inner.path
    }

    /// The sentence alone, without the place.
    pub fn message(&self) -> &str {
        &self.inner.message
    }
}

/// Adds the place to an error on its way up.
pub(crate) trait Place<T> {
    /// Puts the place that `place` names in front of the error's path.
    fn within<S: Into<String>>(self, place: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Place<T> for Result<T> {
    fn within<S: Into<String>>(self, place: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| error.within(place()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in &self.inner.path {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.inner.message)?;
        if let Some(source) = &self.inner.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.inner.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_deref().map(|s| s as &(dyn std::error::Error + 'static))
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::new(ErrorKind::Io, "input or output failed").with_source(error)
    }
}
