//! Golden files: inputs and stored outputs of a series of runs, in one `.npz`.
//!
//! The keys are `<run>.in.<tensor>` and `<run>.out.<tensor>`, in the order in which the runs are
//! made. A run starts from the reset state, unless its tag ends in `+`: then it goes on from the
//! state that the run before it left. A tensor is named as in the model, or by its position.
//! Outputs that the file does not name are not checked.

#[cfg(feature = "npz")]
use std::path::Path;

#[cfg(feature = "npz")]
use crate::error::Place as _;
use crate::error::{Error, Result};
use crate::session::Model;
use crate::tensor::Tensor;
#[cfg(feature = "npz")]
use crate::tensor::npz;

/// One run of a golden file.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its tag, with the `+`.
    pub tag: String,
    /// Inputs by name.
    pub inputs: Vec<(String, Tensor)>,
    /// Stored outputs by name.
    pub outputs: Vec<(String, Tensor)>,
}

impl Run {
    /// Whether it goes on from the state that the run before it left.
    pub fn continues(&self) -> bool {
        self.tag.ends_with('+')
    }

    /// The run with its inputs in the types that the model declares, where that changes no number:
    /// tokens are stored as int64, int32 or whole floats, whatever the framework that made the file
    /// took. Other inputs stay as they are, and the session refuses them.
    pub fn typed_for(&self, model: &Model) -> Run {
        let mut run = self.clone();
        for (name, tensor) in &mut run.inputs {
            let spec = model.input_index(name.as_str()).ok().and_then(|i| model.inputs().get(i));
            let fitted = spec.and_then(|spec| tensor.without_loss(spec.dtype));
            if let Some(fitted) = fitted {
                *tensor = fitted;
            }
        }
        run
    }

    /// The inputs, as [`Session::run`](crate::Session::run) takes them.
    pub fn named_inputs(&self) -> Vec<(&str, &Tensor)> {
        self.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
    }
}

/// Reads a golden file.
///
/// # Errors
/// Those of [`npz::load`]; [`Malformed`](crate::ErrorKind::Malformed) for a key that is not of this
/// form and for a file without runs.
#[cfg(feature = "npz")]
pub fn load(path: impl AsRef<Path>) -> Result<Vec<Run>> {
    let path = path.as_ref();
    runs(npz::load(path)?).within(|| path.display().to_string())
}

/// Sorts the entries of a file into runs.
///
/// # Errors
/// As [`load`].
pub fn runs(entries: Vec<(String, Tensor)>) -> Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for (key, tensor) in entries {
        let Some((tag, is_input, name)) = split(&key) else {
            return Err(Error::malformed(
                "a key of the form `<run>.in.<tensor>` or `<run>.out.<tensor>` was expected",
            )
            .within(key));
        };
        let run = match runs.iter_mut().find(|run| run.tag == tag) {
            Some(run) => run,
            None => {
                runs.push(Run { tag: tag.to_owned(), inputs: Vec::new(), outputs: Vec::new() });
                match runs.last_mut() {
                    Some(run) => run,
                    None => return Err(Error::internal("a run that was just pushed is not there")),
                }
            }
        };
        let list = if is_input { &mut run.inputs } else { &mut run.outputs };
        list.push((name.to_owned(), tensor));
    }
    if runs.is_empty() {
        return Err(Error::malformed("there is no run in this file"));
    }
    Ok(runs)
}

/// Tag, whether it is an input, and the tensor's name; the tag ends at the first `.in.` or `.out.`.
fn split(key: &str) -> Option<(&str, bool, &str)> {
    let input = key.split_once(".in.").map(|(tag, name)| (tag, true, name));
    let output = key.split_once(".out.").map(|(tag, name)| (tag, false, name));
    match (input, output) {
        (Some(input), Some(output)) => {
            Some(if input.0.len() < output.0.len() { input } else { output })
        }
        (input, output) => input.or(output),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn keys_make_runs_in_order() {
        let entry = |key: &str| (key.to_owned(), Tensor::scalar(0.0f32));
        let keys = ["b.in.x:0", "b.out.y", "a+.in.x:0", "b.out.z.in.w", "a+.out.0"];
        let runs = runs(keys.map(entry).to_vec()).unwrap();
        let tags: Vec<(&str, bool)> =
            runs.iter().map(|run| (run.tag.as_str(), run.continues())).collect();
        assert_eq!(tags, [("b", false), ("a+", true)]);
        let names: Vec<&str> = runs[0].outputs.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["y", "z.in.w"]);
        assert_eq!(runs[1].named_inputs()[0].0, "x:0");
    }

    #[test]
    fn other_keys_and_empty_files_are_refused() {
        assert!(runs(Vec::new()).is_err());
        assert!(runs(vec![("images".to_owned(), Tensor::scalar(0u8))]).is_err());
    }

    #[test]
    fn whole_numbers_change_their_type_and_others_do_not() {
        let tokens = Tensor::from_slice(&[2], &[3i64, -1]).unwrap();
        let floats = tokens.without_loss(DType::F32).unwrap();
        assert_eq!(floats.as_slice::<f32>().unwrap(), [3.0, -1.0]);
        assert_eq!(floats.without_loss(DType::I64).unwrap(), tokens);
        let large = Tensor::from_slice(&[1], &[(1i64 << 24) + 1]).unwrap();
        assert!(large.without_loss(DType::F32).is_none());
        assert!(Tensor::from_slice(&[1], &[i64::MAX]).unwrap().without_loss(DType::I32).is_none());
        for x in [0.5f32, f32::NAN, f32::INFINITY, -0.0] {
            assert!(Tensor::scalar(x).without_loss(DType::I32).is_none(), "{x}");
        }
    }
}
