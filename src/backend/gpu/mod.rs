//! The `gpu` backend.
