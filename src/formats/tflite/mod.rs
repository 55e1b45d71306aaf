//! TensorFlow Lite files.

use crate::error::Result;
use crate::graph::Graph;

/// Reads a `.tflite` file.
///
/// # Errors
/// [`Malformed`](crate::ErrorKind::Malformed), [`Unsupported`](crate::ErrorKind::Unsupported) or [`Limit`](crate::ErrorKind::Limit)
/// with the path of the file part: `subgraph 0 / operator 3 (SOFTMAX) / input 0`.
pub fn read(bytes: &[u8]) -> Result<Graph> {
    let _ = bytes;
    todo!("tflite")
}
