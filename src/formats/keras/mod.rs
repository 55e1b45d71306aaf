//! Keras models: the `.keras` archive of Keras 3 and of late Keras 2, and the `.h5` file with its
//! configuration inside.
//!
//! A layer becomes the ops it stands for; recurrent layers become
//! [`Op::Recurrent`](crate::graph::Op) at once, since Keras says what they are. Keras' own gate
//! orders need no permutation: LSTM is i, f, c, o and GRU z, r, h, as here; kernels are `[I, G·H]`
//! and are transposed. Regularisers, constraints, initializers and dropout act in training only:
//! each layer lists the fields that it passes over, and why. Every other field of a configuration
//! and every argument of a call is honored or refused with the layer's name; what nothing asked for
//! is an error.

mod activation;
mod archive;
mod arguments;
mod builder;
mod config;
mod layers;
mod operations;
mod order;
mod version;
mod weights;
mod wiring;

use serde_json::Value as Json;

use crate::error::{Error, Result};
use crate::graph::{Graph, check};
use builder::Builder;
use version::Major;
use weights::Weights;

/// Reads a `.keras` archive. Also returns what the user should know.
///
/// # Errors
/// [`Malformed`](crate::ErrorKind::Malformed) for a damaged archive, configuration or weight file,
/// [`Unsupported`](crate::ErrorKind::Unsupported) with the name of the layer that cannot be read.
pub fn read_archive(bytes: &[u8]) -> Result<(Graph, Vec<String>)> {
    let parts = archive::open(bytes)?;
    let root: Json = parse_json(&parts.config, "config.json")?;
    let metadata: Json = parse_json(&parts.metadata, "metadata.json")?;
    let version = metadata.get("keras_version").and_then(Json::as_str).unwrap_or("3").to_owned();
    let weights = Weights::archive(parts.weights)?;
    build(&root, &version, weights)
}

/// Reads a `.h5` file that holds a whole model (`model.save`, not `save_weights`). Also returns
/// what the user should know.
///
/// # Errors
/// As [`read_archive`].
pub fn read_h5(bytes: &[u8]) -> Result<(Graph, Vec<String>)> {
    let (weights, config, version) = Weights::legacy(bytes)?;
    let root = parse_json(config.as_bytes(), "attribute model_config")?;
    build(&root, &version, weights)
}

fn build(root: &Json, version: &str, weights: Weights) -> Result<(Graph, Vec<String>)> {
    let major = Major::of(version);
    let mut builder = Builder::new(weights, major);
    wiring::model(&mut builder, root)?;
    if builder.weights.is_noting() {
        builder = Builder::new(builder.weights.listed(), major);
        wiring::model(&mut builder, root)?;
    }
    let (graph, warnings) = builder.finish();
    check::check(&graph)?;
    Ok((graph, warnings))
}

/// An axis of a value of `rank` axes, counted from the front.
fn axis(axis: i64, rank: usize) -> Result<i32> {
    let count = i64::try_from(rank).map_err(|_| Error::limit("the rank overflows"))?;
    let from_front = if axis < 0 { axis + count } else { axis };
    if !(0..count).contains(&from_front) {
        return Err(Error::malformed(format!("axis {axis} of a value of rank {rank}")));
    }
    i32::try_from(from_front).map_err(|_| Error::limit("an axis overflows"))
}

fn parse_json(bytes: &[u8], place: &str) -> Result<Json> {
    // serde_json refuses nesting over 128 levels by itself.
    serde_json::from_slice(bytes)
        .map_err(|error| Error::malformed("not valid JSON").with_source(error).within(place))
}

/// Keras' name of a layer class inside weight files: `SimpleRNN` → `simple_rnn`.
fn snake_case(class: &str) -> String {
    let letters: Vec<char> = class.chars().filter(|c| c.is_alphanumeric() || *c == '_').collect();
    let mut out = String::new();
    for (i, &letter) in letters.iter().enumerate() {
        let before = i.checked_sub(1).and_then(|j| letters.get(j));
        let after = letters.get(i + 1);
        let starts_word = letter.is_uppercase()
            && before.is_some_and(|b| b.is_lowercase() || after.is_some_and(|a| a.is_lowercase()));
        if starts_word {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::snake_case;

    #[test]
    fn class_names_become_group_names() {
        for (class, group) in [
            ("LSTM", "lstm"),
            ("SimpleRNN", "simple_rnn"),
            ("TimeDistributed", "time_distributed"),
            ("LeakyReLU", "leaky_re_lu"),
            ("Conv1D", "conv1d"),
            ("BatchNormalization", "batch_normalization"),
        ] {
            assert_eq!(snake_case(class), group);
        }
    }
}
