//! The `cpu` backend.
