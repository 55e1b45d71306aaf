//! Element-wise activations, and how every kernel takes one.

use crate::backend::gpu::buffers::Word;
use crate::backend::gpu::pipeline::{Kernel, Shader};
use crate::backend::gpu::record::Recorder;
use crate::error::{Error, Result};
use crate::graph::Node;
use crate::graph::op::Activation;

/// The code of an activation in `functions.wgsl`, with its two parameters.
pub(in crate::backend::gpu) fn code(activation: Activation) -> (u32, f32, f32) {
    match activation {
        Activation::Linear => (0, 0.0, 0.0),
        Activation::Relu => (1, 0.0, 0.0),
        Activation::ReluN1To1 => (2, 0.0, 0.0),
        Activation::Relu6 => (3, 0.0, 0.0),
        Activation::Tanh => (4, 0.0, 0.0),
        Activation::Sigmoid => (5, 0.0, 0.0),
        Activation::HardSigmoid { alpha, beta } => (6, alpha, beta),
        Activation::SignBit => (7, 0.0, 0.0),
        Activation::Elu { alpha } => (8, alpha, 0.0),
        Activation::LeakyRelu { alpha } => (9, alpha, 0.0),
        Activation::Selu => (10, 0.0, 0.0),
        Activation::Softplus => (11, 0.0, 0.0),
        Activation::Softsign => (12, 0.0, 0.0),
        Activation::Swish => (13, 0.0, 0.0),
        Activation::Gelu { approximate: false } => (14, 0.0, 0.0),
        Activation::Gelu { approximate: true } => (15, 0.0, 0.0),
        Activation::HardSwish => (16, 0.0, 0.0),
        Activation::Exponential => (17, 0.0, 0.0),
    }
}

/// Sets the overrides `ACTIVATION`, `ALPHA` and `BETA` of a kernel.
pub(in crate::backend::gpu) fn fused(kernel: Kernel, activation: Activation) -> Kernel {
    let (code, alpha, beta) = code(activation);
    kernel.with("ACTIVATION", code).with("ALPHA", alpha).with("BETA", beta)
}

/// y = activation(x).
pub(super) fn record(ctx: &mut Recorder<'_>, node: &Node, activation: Activation) -> Result<()> {
    if activation == Activation::Linear {
        return ctx.alias(node);
    }
    let x = ctx.input(node, 0)?;
    if x.word != Word::F32 {
        return Err(Error::unsupported(format!(
            "activations of {} are computed on the host",
            x.dtype
        )));
    }
    let y = ctx.output(node, 0)?;
    let count = x.count()?;
    let kernel = fused(Kernel::new(Shader::Activation), activation);
    ctx.dispatch(&kernel, &[&x.view, &y.view], &[count], ctx.linear(count, 64))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::backend::gpu::testing::{gpu, run_once};
    use crate::graph::{Graph, Op, Port, ValueType};
    use crate::tensor::{DType, Tensor};

    /// Not infinite, not NaN, saturated at the ends, and accurate near 0.
    #[test]
    fn the_ends_and_the_middle() {
        let Some(gpu) = gpu() else { return };
        let x = [
            -1e30f32,
            -200.0,
            -88.7,
            -20.0,
            -1.0,
            -0.24,
            -1e-4,
            0.0,
            1e-6,
            0.24,
            0.26,
            1.0,
            9.0,
            89.0,
            200.0,
            1e30,
            f32::NAN,
        ];
        type Case = (Activation, fn(f64) -> f64);
        let cases: [Case; 2] =
            [(Activation::Tanh, f64::tanh), (Activation::Sigmoid, |x| 1.0 / (1.0 + (-x).exp()))];
        for (activation, function) in cases {
            let mut graph = Graph::default();
            let from = graph.add_value("x", ValueType::fixed(DType::F32, &[x.len()]));
            let to = graph.add_value("y", ValueType::fixed(DType::F32, &[x.len()]));
            graph.add_node("", Op::Activation(activation), vec![Some(from)], vec![Some(to)]);
            graph.inputs.push(Port { name: "x".into(), value: from });
            graph.outputs.push(Port { name: "y".into(), value: to });
            let y = run_once(gpu, graph, &[Tensor::from_slice(&[x.len()], &x).unwrap()]).remove(0);
            for (x, y) in x.iter().zip(y.as_slice::<f32>().unwrap()) {
                let want = function(f64::from(*x)) as f32;
                assert!(y.is_nan() == want.is_nan(), "{activation:?}({x}) = {y}");
                assert!(
                    x.is_nan() || (y - want).abs() <= 2e-7 * (1.0 + want.abs()),
                    "{activation:?}({x}) = {y}, not {want}"
                );
            }
        }
    }
}
