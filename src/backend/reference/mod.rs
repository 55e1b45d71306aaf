//! The `reference` backend.
