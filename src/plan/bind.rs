//! The given input shapes against the declared ones.

use std::collections::HashMap;

use crate::error::{Error, ErrorKind, Result};
use crate::graph::{Dim, Graph, Symbol, ValueType};
use crate::tensor::element_count;

/// The inputs' types with the given shapes.
pub(super) struct Bound {
    pub(super) types: Vec<ValueType>,
    /// A line for each input whose shape the caller chose: sizes left open by the model, or fixed
    /// ones given another value.
    chosen: Vec<String>,
}

/// Holds the given shapes against the declared ones.
///
/// A symbol has one size wherever it stands. A fixed size may be given another value: whether the
/// nodes can follow, inference tells.
pub(super) fn bind(graph: &Graph, shapes: &[Vec<usize>]) -> Result<Bound> {
    if shapes.len() != graph.inputs.len() {
        return Err(Error::input(format!(
            "expected {} inputs, found {}",
            graph.inputs.len(),
            shapes.len()
        )));
    }
    let mut symbols: HashMap<Symbol, (usize, &str)> = HashMap::new();
    let mut bound = Bound { types: Vec::new(), chosen: Vec::new() };
    for (port, given) in graph.inputs.iter().zip(shapes) {
        let declared =
            &graph.get(port.value).ok_or_else(|| Error::graph("an input has no value"))?.ty;
        element_count(given).map_err(|error| error.within(format!("input {:?}", port.name)))?;
        let Some(dims) = &declared.shape else {
            bound
                .chosen
                .push(format!("input {:?}: declared of any shape, given {given:?}", port.name));
            bound.types.push(with_shape(declared, given));
            continue;
        };
        if dims.len() != given.len() {
            return Err(Error::input(format!(
                "input {:?}: expected shape {}, found {given:?}",
                port.name,
                show(graph, dims)
            )));
        }
        for (axis, (&dim, &size)) in dims.iter().zip(given).enumerate() {
            let Dim::Symbol(symbol) = dim else { continue };
            let (first, owner) = *symbols.entry(symbol).or_insert((size, &port.name));
            if first != size {
                return Err(Error::input(format!(
                    "input {:?}: expected {} = {first} on axis {axis}, as input {owner:?} has it, found {given:?}",
                    port.name,
                    show(graph, &[dim]),
                )));
            }
        }
        if dims.iter().zip(given).any(|(&dim, &size)| dim != Dim::Known(size)) {
            bound.chosen.push(format!(
                "input {:?}: declared {}, given {given:?}",
                port.name,
                show(graph, dims)
            ));
        }
        bound.types.push(with_shape(declared, given));
    }
    Ok(bound)
}

impl Bound {
    /// An error of inference in the caller's terms: a graph that contradicts itself only under the
    /// chosen shapes is no bad graph.
    pub(super) fn explain(&self, error: Error) -> Error {
        if self.chosen.is_empty() || error.kind() != ErrorKind::InvalidGraph {
            return error;
        }
        Error::input(format!(
            "the model cannot take these shapes ({}): {error}",
            self.chosen.join("; ")
        ))
    }
}

fn with_shape(declared: &ValueType, shape: &[usize]) -> ValueType {
    ValueType {
        quantization: declared.quantization.clone(),
        ..ValueType::fixed(declared.dtype, shape)
    }
}

/// `[batch, 28, ?]`: symbols by name.
fn show(graph: &Graph, dims: &[Dim]) -> String {
    let name = |dim: &Dim| match dim {
        Dim::Symbol(symbol) => {
            graph.symbols.get(symbol.index()).cloned().unwrap_or_else(|| dim.to_string())
        }
        Dim::Known(_) | Dim::Unknown => dim.to_string(),
    };
    format!("[{}]", dims.iter().map(name).collect::<Vec<_>>().join(", "))
}
