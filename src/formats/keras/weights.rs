//! Where a layer's weights come from: numbered variables in the groups of a Keras 3 weight file, or
//! each layer's ordered list in an older `.h5` file. External links and external storage are never
//! followed: no resolver is given to the HDF5 reader.
//!
//! An `.h5` file has one flat list for each layer of the model, a nested model included, in the
//! order of Keras' `trainable_weights` and then `non_trainable_weights`. So the model is read
//! twice: the first pass notes which weights every layer wants, [`order`](super::order) puts them
//! in Keras' order, and the second pass finds each by its place in the list.

use std::collections::HashMap;

use half::f16;
use hdf5_reader::{ByteOrder, Datatype, H5Type, Hdf5File, OpenOptions};

use super::order::Tree;
use super::version::Major;
use crate::error::{Error, Place, Result};
use crate::tensor::{DType, Tensor};

/// Bytes of one weight allowed for each byte of the file: a compressed dataset, or one that is all
/// fill value, cannot ask for more memory than this. Real weights compress by less than 2.
const MAX_RATIO: usize = 200;

/// A weight that a layer asks for.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The layer's group in a Keras 3 weight file.
    pub scope: &'a str,
    /// Its number there.
    pub index: usize,
    /// The shape that the configuration gives it.
    pub shape: &'a [usize],
    /// Its name in messages.
    pub what: &'a str,
    /// Training changes it (moving averages are not trained).
    pub trained: bool,
}

/// The weights of a model.
pub(super) struct Weights {
    file: Hdf5File,
    place: Source,
}

enum Source {
    /// `layers/<class>[_n]/…/vars/<k>`.
    Archive,
    /// First pass over an `.h5` file.
    Noting {
        tree: Tree,
        /// Shapes of the current layer's weights in the file, by name.
        listed: Vec<(String, Vec<usize>)>,
        /// Each layer's names and tree, once it was left.
        paths: HashMap<String, String>,
        layer: String,
        major: Major,
    },
    /// Second pass: the path of each weight by scope and number.
    Listed(HashMap<String, String>),
}

impl Weights {
    /// The weight file of a `.keras` archive.
    pub fn archive(bytes: Vec<u8>) -> Result<Self> {
        let limit = options(bytes.len());
        let file = Hdf5File::from_vec_with_options(bytes, limit)
            .map_err(|e| hdf5(e).within("model.weights.h5"))?;
        Ok(Weights { file, place: Source::Archive })
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
        let place = Source::Noting {
            tree: Tree::default(),
            listed: Vec::new(),
            paths: HashMap::new(),
            layer: String::new(),
            major: Major::of(&version),
        };
        Ok((Weights { file, place }, config, version))
    }

    /// Whether the model must be read once more with [`listed`](Self::listed).
    pub fn is_noting(&self) -> bool {
        matches!(self.place, Source::Noting { .. })
    }

    /// The weights for the second pass.
    pub fn listed(self) -> Self {
        let place = match self.place {
            Source::Noting { paths, .. } => Source::Listed(paths),
            other => other,
        };
        Weights { file: self.file, place }
    }

    /// Turns to a layer of the whole model.
    pub fn enter_layer(&mut self, name: &str) -> Result<()> {
        let Source::Noting { tree, listed, layer, .. } = &mut self.place else { return Ok(()) };
        name.clone_into(layer);
        *tree = Tree::default();
        listed.clear();
        let names = self
            .file
            .group("model_weights")
            .and_then(|all| all.attribute("layer_names")?.read_strings());
        // Keras 3 lists no layer for an operation such as NotEqual: it has no weights and no group.
        if names.is_ok_and(|names| !names.iter().any(|listed| listed == name)) {
            return Ok(());
        }
        let group = self
            .file
            .group(&format!("model_weights/{name}"))
            .map_err(|e| hdf5(e).within(format!("layer {name}")))?;
        // A layer without weights has an empty attribute, of any type.
        let Ok(names) = group.attribute("weight_names") else { return Ok(()) };
        if names.num_elements().unwrap_or(0) == 0 {
            return Ok(());
        }
        for weight in names.read_strings().map_err(|e| hdf5(e).within("attribute weight_names"))? {
            let path = format!("model_weights/{name}/{weight}");
            let shape = shape_of(&self.file, &path).within(|| format!("weight {weight}"))?;
            listed.push((path, shape));
        }
        Ok(())
    }

    /// Puts the weights that the layer asked for beside those that the file lists.
    pub fn leave_layer(&mut self) -> Result<()> {
        let Source::Noting { tree, listed, paths, major, .. } = &mut self.place else {
            return Ok(());
        };
        let order = tree.order(*major);
        if let Some(missing) = order.get(listed.len()) {
            return Err(Error::malformed(format!("the file has no {}", missing.what)));
        }
        if let Some(more) = listed.get(order.len()..).filter(|more| !more.is_empty()) {
            let names: Vec<&str> = more.iter().take(4).map(|(path, _)| path.as_str()).collect();
            return Err(Error::malformed(format!(
                "the file has {} more weight(s) for this layer than its configuration needs: {}",
                more.len(),
                names.join(", ")
            )));
        }
        for (weight, (path, shape)) in order.into_iter().zip(listed) {
            if weight.shape != *shape {
                return Err(Error::malformed(format!(
                    "{} ({path}): expected shape {:?}, found {shape:?}",
                    weight.what, weight.shape
                )));
            }
            paths.insert(weight.key, path.clone());
        }
        Ok(())
    }

    /// Turns to a layer inside the current one: its group, its position among its siblings,
    /// whether it is trained, and whether it is a model.
    pub fn enter(&mut self, scope: &str, position: usize, trained: bool, is_model: bool) {
        if let Source::Noting { tree, .. } = &mut self.place {
            tree.enter(scope, position, trained, is_model);
        }
    }

    /// Turns back to the layer around the current one.
    pub fn leave(&mut self) {
        if let Source::Noting { tree, .. } = &mut self.place {
            tree.leave();
        }
    }

    /// Passes over a weight that does not matter; its place in an `.h5` file's list does.
    pub fn skip(&mut self, wanted: Wanted<'_>) {
        if let Source::Noting { tree, .. } = &mut self.place {
            tree.note(wanted);
        }
    }

    /// Reads a weight; zeros in the first pass over an `.h5` file.
    pub fn take(&mut self, wanted: Wanted<'_>) -> Result<Tensor> {
        let Wanted { scope, index, shape, what, .. } = wanted;
        let path = match &mut self.place {
            Source::Archive => format!("{scope}/vars/{index}"),
            Source::Noting { tree, listed, .. } => {
                // A weight of this shape is in the file, so these zeros are no larger than it.
                if !listed.iter().any(|(_, found)| found == shape) {
                    let found: Vec<_> = listed.iter().map(|(_, shape)| shape).take(8).collect();
                    return Err(Error::malformed(format!(
                        "{what}: expected shape {shape:?}, found {found:?}"
                    )));
                }
                tree.note(wanted);
                return Tensor::zeros(DType::F32, shape);
            }
            Source::Listed(paths) => paths
                .get(&format!("{scope}/{index}"))
                .ok_or_else(|| Error::malformed(format!("the file has no {what}")))?
                .clone(),
        };
        read(&self.file, &path, shape).within(|| format!("{what} ({path})"))
    }
}

fn shape_of(file: &Hdf5File, path: &str) -> Result<Vec<usize>> {
    let dataset = file.dataset(path).map_err(hdf5)?;
    Ok(dataset.shape().iter().map(|&n| usize::try_from(n).unwrap_or(usize::MAX)).collect())
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
        // Keras can store weights in float64 and float16.
        Err(first) => match (dataset.read_array::<f64>(), dataset.read_array::<Half>()) {
            (Ok(array), _) => array.iter().map(|&x| x as f32).collect(),
            (_, Ok(array)) => array.iter().map(|x| x.0.to_f32()).collect(),
            _ => return Err(hdf5(first)),
        },
    };
    Tensor::from_vec(&shape, array)
}

/// A float of two bytes.
#[derive(Clone)]
struct Half(f16);

impl H5Type for Half {
    fn hdf5_type() -> Datatype {
        Datatype::FloatingPoint { size: 2, byte_order: ByteOrder::LittleEndian }
    }

    fn from_bytes(bytes: &[u8], dtype: &Datatype) -> hdf5_reader::error::Result<Self> {
        match (dtype, bytes) {
            (Datatype::FloatingPoint { size: 2, byte_order }, &[a, z, ..]) => {
                Ok(Half(match byte_order {
                    ByteOrder::LittleEndian => f16::from_le_bytes([a, z]),
                    ByteOrder::BigEndian => f16::from_be_bytes([a, z]),
                }))
            }
            _ => Err(hdf5_reader::error::Error::TypeMismatch {
                expected: "f16".into(),
                actual: format!("{dtype:?}"),
            }),
        }
    }

    fn element_size(_: &Datatype) -> usize {
        2
    }
}

fn options(file_bytes: usize) -> OpenOptions {
    let limit = file_bytes.saturating_mul(MAX_RATIO).min(1 << 30);
    OpenOptions::default().with_max_read_bytes(limit).with_max_chunk_bytes(limit)
}

fn hdf5(error: hdf5_reader::error::Error) -> Error {
    Error::malformed("the HDF5 part cannot be read").with_source(error)
}
