//! The functions of a recurrent layer's gates.

use super::step::Step;
use super::weights::Kind;
use crate::error::{Error, Result};
use crate::graph::op::Activation;

/// The functions of one direction: f, g and h of the operator's equations. A GRU has no h, an RNN
/// only f.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Functions {
    pub gate: Function,
    pub candidate: Function,
    pub output: Function,
}

/// A function of ONNX's recurrent operators.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// One that the graph has.
    Plain(Activation),
    /// alpha·x + beta.
    Affine { alpha: f32, beta: f32 },
    /// alpha·tanh(beta·x).
    ScaledTanh { alpha: f32, beta: f32 },
    /// x for x > alpha, else 0.
    ThresholdedRelu { alpha: f32 },
}

impl Function {
    /// The activation of the graph, where it has one.
    pub fn plain(self) -> Option<Activation> {
        match self {
            Function::Plain(activation) => Some(activation),
            Function::Affine { .. }
            | Function::ScaledTanh { .. }
            | Function::ThresholdedRelu { .. } => None,
        }
    }
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
    let functions: Vec<Function> =
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
        let at = |k: usize| chunk.get(k).copied().unwrap_or(Function::Plain(Activation::Linear));
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

fn function(name: &str, alpha: &mut Parameters, beta: &mut Parameters) -> Result<Function> {
    Ok(Function::Plain(match name.to_ascii_lowercase().as_str() {
        "relu" => Activation::Relu,
        "tanh" => Activation::Tanh,
        "sigmoid" => Activation::Sigmoid,
        "softsign" => Activation::Softsign,
        "softplus" => Activation::Softplus,
        "hardsigmoid" => Activation::HardSigmoid { alpha: alpha.next(0.2), beta: beta.next(0.5) },
        "leakyrelu" => Activation::LeakyRelu { alpha: alpha.next(0.01) },
        "elu" => Activation::Elu { alpha: alpha.next(1.0) },
        // Their parameters have no default in the operator; these are ONNX Runtime's.
        "affine" => {
            return Ok(Function::Affine { alpha: alpha.next(1.0), beta: beta.next(0.0) });
        }
        "scaledtanh" => {
            return Ok(Function::ScaledTanh { alpha: alpha.next(1.0), beta: beta.next(1.0) });
        }
        "thresholdedrelu" => return Ok(Function::ThresholdedRelu { alpha: alpha.next(1.0) }),
        _ => {
            return Err(Error::malformed(format!(
                "activations: '{name}' is none of ONNX's functions of recurrent layers"
            )));
        }
    }))
}

/// Whether `1 − f(x) = f(−x)`, so that a gate coupled to another is one of negated weights.
pub fn mirrored(function: Function) -> bool {
    match function {
        Function::Plain(Activation::Sigmoid) => true,
        Function::Plain(Activation::HardSigmoid { beta, .. }) => beta == 0.5,
        _ => false,
    }
}
