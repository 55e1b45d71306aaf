//! The functions of a recurrent layer's gates.

use super::step::Step;
use super::weights::Kind;
use crate::error::{Error, Result};
use crate::graph::op::Activation;

/// The functions of one direction: f, g and h of the operator's equations. A GRU has no h, an RNN
/// only f.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Functions {
    pub gate: Activation,
    pub candidate: Activation,
    pub output: Activation,
}

/// The functions of each direction.
pub fn read(step: &mut Step<'_, '_>, kind: Kind, directions: usize) -> Result<Vec<Functions>> {
    let defaults: &[&str] = match kind {
        Kind::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        Kind::Gru => &["Sigmoid", "Tanh"],
        Kind::Rnn => &["Tanh"],
    };
    let count = defaults.len() * directions;
    let mut names = match step.attrs.strings("activations")? {
        Some(names) => names,
        None => defaults.iter().cycle().take(count).copied().collect(),
    };
    // The operator's own default has a name for each of two directions.
    if kind == Kind::Rnn && directions == 1 && names.len() == 2 && names.first() == names.last() {
        names.truncate(1);
    }
    if names.len() != count {
        return Err(Error::malformed(format!(
            "activations: expected {count}, found {}: {names:?}",
            names.len()
        )));
    }
    let mut alpha = Parameters::new(step.attrs.floats("activation_alpha")?);
    let mut beta = Parameters::new(step.attrs.floats("activation_beta")?);
    let functions: Vec<Activation> =
        names.iter().map(|name| function(name, &mut alpha, &mut beta)).collect::<Result<_>>()?;
    for (name, parameters) in [("activation_alpha", alpha), ("activation_beta", beta)] {
        if let Some(left) = parameters.left() {
            step.cx.warn(format!(
                "{name} has {left} entries more than its functions take: they are used up in \
                 order, by the functions that have such a parameter"
            ));
        }
    }
    let mut all = Vec::with_capacity(directions);
    for chunk in functions.chunks(defaults.len()) {
        let at = |k: usize| chunk.get(k).copied().unwrap_or(Activation::Linear);
        all.push(Functions { gate: at(0), candidate: at(1), output: at(2) });
    }
    Ok(all)
}

/// Parameters that are used up in order.
struct Parameters {
    values: Vec<f32>,
    used: usize,
}

impl Parameters {
    fn new(values: Option<Vec<f32>>) -> Self {
        Parameters { values: values.unwrap_or_default(), used: 0 }
    }

    /// The next parameter, or the operator's default.
    fn next(&mut self, default: f32) -> f32 {
        let value = self.values.get(self.used).copied();
        self.used += usize::from(value.is_some());
        value.unwrap_or(default)
    }

    fn left(&self) -> Option<usize> {
        self.values.len().checked_sub(self.used).filter(|&left| left > 0)
    }
}

fn function(name: &str, alpha: &mut Parameters, beta: &mut Parameters) -> Result<Activation> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "relu" => Activation::Relu,
        "tanh" => Activation::Tanh,
        "sigmoid" => Activation::Sigmoid,
        "softsign" => Activation::Softsign,
        "softplus" => Activation::Softplus,
        "hardsigmoid" => Activation::HardSigmoid { alpha: alpha.next(0.2), beta: beta.next(0.5) },
        "leakyrelu" => Activation::LeakyRelu { alpha: alpha.next(0.01) },
        "elu" => Activation::Elu { alpha: alpha.next(1.0) },
        "affine" | "scaledtanh" | "thresholdedrelu" => {
            return Err(Error::unsupported(format!("activations: the function {name}")));
        }
        _ => {
            return Err(Error::malformed(format!(
                "activations: '{name}' is none of ONNX's functions of recurrent layers"
            )));
        }
    })
}

/// Whether `1 − f(x) = f(−x)`, so that a gate coupled to another is one of negated weights.
pub fn mirrored(function: Activation) -> bool {
    match function {
        Activation::Sigmoid => true,
        Activation::HardSigmoid { beta, .. } => beta == 0.5,
        _ => false,
    }
}
