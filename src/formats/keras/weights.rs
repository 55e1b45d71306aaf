//! Where a layer's weights come from: numbered variables in the groups of a Keras 3 weight file, or
//! each layer's ordered list in an older `.h5` file. External links and external storage are never
//! followed: no resolver is given to the HDF5 reader.

use std::collections::VecDeque;

use hdf5_reader::{Hdf5File, OpenOptions};

use crate::error::{Error, Place, Result};
use crate::tensor::Tensor;

/// Bytes of one weight allowed for each byte of the file: a compressed dataset, or one that is all
/// fill value, cannot ask for more memory than this. Real weights compress by less than 2.
const MAX_RATIO: usize = 200;

/// The weights of a model.
pub(super) enum Weights {
    /// `layers/<class>[_n]/…/vars/<k>`.
    Archive { file: Hdf5File },
    /// `model_weights/<layer>/<weight>`, in the order of the attribute `weight_names`.
    Legacy { file: Hdf5File, queue: VecDeque<String>, layer: String },
}

impl Weights {
    /// The weight file of a `.keras` archive.
    pub fn archive(bytes: Vec<u8>) -> Result<Self> {
        let file = {
            let limit = options(bytes.len());
            Hdf5File::from_vec_with_options(bytes, limit)
        }
        .map_err(|e| hdf5(e).within("model.weights.h5"))?;
        Ok(Weights::Archive { file })
    }

    /// A whole-model `.h5` file, with its configuration and Keras version.
    pub fn legacy(bytes: &[u8]) -> Result<(Self, String, String)> {
        let file = Hdf5File::from_bytes_with_options(bytes, options(bytes.len())).map_err(hdf5)?;
        let root = file.root_group().map_err(hdf5)?;
        let config = root.attribute("model_config").and_then(|a| a.read_string()).map_err(|error| {
            Error::malformed("no configuration (attribute model_config): was the file written by save_weights?")
                .with_source(error)
        })?;
        let version = root
            .attribute("keras_version")
            .and_then(|a| a.read_string())
            .unwrap_or_else(|_| "2".to_owned());
        Ok((
            Weights::Legacy { file, queue: VecDeque::new(), layer: String::new() },
            config,
            version,
        ))
    }

    /// Turns to a top-level layer.
    pub fn enter_layer(&mut self, name: &str) -> Result<()> {
        if let Weights::Legacy { file, queue, layer } = self {
            *layer = name.to_owned();
            let listed = file
                .group("model_weights")
                .and_then(|all| all.attribute("layer_names")?.read_strings());
            // Keras 3 lists no layer for an operation such as NotEqual: it has no weights and no
            // group.
            if listed.is_ok_and(|names| !names.iter().any(|listed| listed == name)) {
                *queue = VecDeque::new();
                return Ok(());
            }
            let group = file
                .group(&format!("model_weights/{name}"))
                .map_err(|e| hdf5(e).within(format!("layer {name}")))?;
            // A layer without weights has an empty attribute, of any type.
            let names = group.attribute("weight_names").ok();
            *queue = match names {
                Some(names) if names.num_elements().unwrap_or(0) > 0 => names
                    .read_strings()
                    .map_err(|e| hdf5(e).within("attribute weight_names"))?
                    .into(),
                _ => VecDeque::new(),
            };
        }
        Ok(())
    }

    /// Complains when the layer that was entered has weights that nobody asked for.
    pub fn leave_layer(&mut self) -> Result<()> {
        match self {
            Weights::Legacy { queue, .. } if !queue.is_empty() => Err(Error::malformed(format!(
                "the file has {} more weight(s) for this layer than its configuration needs: {}",
                queue.len(),
                queue.iter().cloned().collect::<Vec<_>>().join(", ")
            ))),
            _ => Ok(()),
        }
    }

    /// The next weight: variable `index` of the group `scope` in an archive, the next of the
    /// layer's list otherwise. `expected` is its shape; `what` its name in messages.
    pub fn take(
        &mut self,
        scope: &str,
        index: usize,
        expected: &[usize],
        what: &str,
    ) -> Result<Tensor> {
        let (file, path) = match self {
            Weights::Archive { file } => (&*file, format!("{scope}/vars/{index}")),
            Weights::Legacy { file, queue, layer } => {
                let name = queue
                    .pop_front()
                    .ok_or_else(|| Error::malformed(format!("the file has no {what}")))?;
                (&*file, format!("model_weights/{layer}/{name}"))
            }
        };
        read(file, &path, expected).within(|| format!("{what} ({path})"))
    }
}

fn read(file: &Hdf5File, path: &str, expected: &[usize]) -> Result<Tensor> {
    let dataset = file.dataset(path).map_err(hdf5)?;
    let shape: Vec<usize> =
        dataset.shape().iter().map(|&n| usize::try_from(n).unwrap_or(usize::MAX)).collect();
    if shape != expected {
        return Err(Error::malformed(format!("expected shape {expected:?}, found {shape:?}")));
    }
    let array = match dataset.read_array::<f32>() {
        Ok(array) => array.into_raw_vec_and_offset().0,
        // Keras can store weights in float64.
        Err(first) => match dataset.read_array::<f64>() {
            Ok(array) => array.iter().map(|&x| x as f32).collect(),
            Err(_) => return Err(hdf5(first)),
        },
    };
    Tensor::from_vec(&shape, array)
}

fn options(file_bytes: usize) -> OpenOptions {
    let limit = file_bytes.saturating_mul(MAX_RATIO).min(1 << 30);
    OpenOptions::default().with_max_read_bytes(limit).with_max_chunk_bytes(limit)
}

fn hdf5(error: hdf5_reader::error::Error) -> Error {
    Error::malformed("the HDF5 part cannot be read").with_source(error)
}
