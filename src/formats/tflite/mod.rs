//! TensorFlow Lite files.
//!
//! `read` turns the first subgraph of a file into a [`Graph`](crate::graph::Graph): every
//! recurrent operator becomes an [`Op::Recurrent`](crate::graph::Op::Recurrent), every variable
//! tensor a state, every `WHILE` a structured loop. The bytes are verified before anything is read
//! (`schema.rs`), read without unsafe code (`wire.rs`), and what is decoded from them is bounded: a
//! file of `n` bytes yields at most `4·n + 1 MiB` of constants, however often its parts refer to
//! each other.

mod opcode;
mod read;
mod schema;
mod wire;
mod write;

pub use read::read;
pub(crate) use write::{count_loops, write};
