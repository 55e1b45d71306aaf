//! What every op means, as [`fuselstm::internal::eval::evaluate`] computes it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod any_operands;
mod movement;
mod plain;
mod quantized;
mod quantized_recurrent;
mod recurrent;
mod support;
