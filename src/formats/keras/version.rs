//! The two generations of Keras. They share their class names and disagree in what they compute;
//! every place that depends on the generation matches on [`Major`].
//!
//! Masks, as their sources have it:
//!
//! * Keras 3 (`layers/layer.py`, `Layer.__call__`, steps 6 and 7): a layer that takes a `mask` is
//!   given the mask of its input by itself only when the call has one argument with tensors, so
//!   not when `initial_state` is given. What the output carries is the mask of the first argument,
//!   whether the layer used it or not, if the layer supports masking.
//! * Keras 2 (`engine/base_layer.py`, `_get_input_masks`): the mask of the first argument is passed
//!   whenever it has one; initial states belong to the first argument.
//!
//! Merging, Keras 3 (`layers/merging/base_merge.py`, `multiply.py`, `concatenate.py`): the output
//! has a mask when all inputs have one, true where *any* is; masked elements of `Multiply` count as
//! 1, of `Maximum` and `Minimum` as the other input's. `Concatenate` takes an input without a mask
//! as true everywhere, joins the masks over the features like the values, and asks whether any
//! feature is true.
//!
//! Merging, Keras 2 (`layers/merging/base_merge.py`, `concatenate.py`): true where *all* masks are;
//! inputs without one do not count. `Concatenate` joins the masks and asks for all features.

/// A generation of Keras.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Major {
    /// Keras 1 and 2, and `tf_keras`.
    Keras2,
    /// Keras 3.
    Keras3,
}

impl Major {
    /// The generation that wrote `version`: `tf_keras` numbers itself like TensorFlow (2.21).
    pub fn of(version: &str) -> Self {
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        match major {
            Some(major) if major >= 3 => Major::Keras3,
            _ => Major::Keras2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Major;

    #[test]
    fn versions_name_their_generation() {
        for (version, major) in [
            ("2.2.4-tf", Major::Keras2),
            ("2.21.0", Major::Keras2),
            ("3.15.1", Major::Keras3),
            ("", Major::Keras2),
        ] {
            assert_eq!(Major::of(version), major, "{version}");
        }
    }
}
