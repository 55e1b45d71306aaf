//! The fully connected layer.

use crate::backend::gpu::buffers::{View, Word};
use crate::backend::gpu::dense::{self, Dense, Rows};
use crate::backend::gpu::record::{Phase, Recorder, count};
use crate::error::{Error, Result};
use crate::graph::Node;
use crate::graph::op::FullyConnected;
use crate::tensor::{Tensor, with_storage};

/// `y[m, n] = activation(Σ_k x[m, k] w[n, k] + b[n])`; leading axes of x are rows.
pub(super) fn record(ctx: &mut Recorder<'_>, node: &Node, options: &FullyConnected) -> Result<()> {
    let known = |slot: usize| -> Option<Tensor> {
        let id = node.input(slot)?;
        ctx.plan.known(id).or_else(|| ctx.plan.graph.constant(id)).cloned()
    };
    let weights = known(1).ok_or_else(|| Error::unsupported("the weights are computed"))?;
    let bias = known(2);
    if node.input(2).is_some() != bias.is_some() {
        return Err(Error::unsupported("the bias is computed"));
    }
    let &[columns, depth] = weights.shape() else {
        return Err(Error::graph("weights of rank 2 were expected"));
    };
    let x = ctx.input(node, 0)?;
    if x.word != Word::F32 || !weights.dtype().is_float() {
        return Err(Error::unsupported(format!(
            "a product of {} and {}",
            x.dtype,
            weights.dtype()
        )));
    }
    let storing = ctx.shared.storing();
    let width = columns.next_multiple_of(4);
    let stored = || storing.store(&dense::pack(&weights.to_f32(), columns, depth), width);
    let packed = packed(ctx, &weights, format!("dense {columns}"), || Ok(stored().words))?;
    let scales = if storing.scaled() == 1 { stored().scales } else { Vec::new() };
    let bias = ctx.table(&dense::pack_bias(
        bias.as_ref().map(|b| b.to_f32()).as_deref(),
        columns,
        &scales,
    ))?;
    let y = ctx.output(node, 0)?;
    let rows = y.count()? as usize / columns.max(1);
    let product = Dense {
        weights: &packed,
        bias: &bias,
        x: &x.view,
        x_rows: Rows::dense(count(depth)?),
        y: &y.view,
        y_offset: 0,
        accumulate: false,
        rows,
        depth,
        columns,
        activation: options.activation,
        phase: Phase::Other,
    };
    dense::record(ctx, &product)
}

/// A constant in a layout of its own, once a session.
fn packed(
    ctx: &Recorder<'_>,
    tensor: &Tensor,
    layout: String,
    words: impl FnOnce() -> Result<Vec<u32>>,
) -> Result<View> {
    with_storage!(tensor.storage(), owner => ctx.matrix(std::slice::from_ref(owner), &layout, words))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::backend::gpu::testing::{gpu, max_abs, noise, plan, run};
    use crate::backend::{Backend, Counters};
    use crate::graph::op::{Activation, FullyConnected};
    use crate::graph::{Graph, Op, Port, ValueType};
    use crate::tensor::{DType, Tensor};

    #[test]
    fn against_the_scalar_sum() {
        let Some(gpu) = gpu() else { return };
        for (m, k, n) in [(1, 5, 3), (2, 4, 4), (3, 1, 9), (21, 17, 6), (0, 3, 2)] {
            let mut graph = Graph::default();
            let x = graph.add_value("x", ValueType::fixed(DType::F32, &[m, k]));
            let w = noise(1, n * k);
            let b = noise(2, n);
            let weights = graph.add_constant("w", Tensor::from_slice(&[n, k], &w).unwrap());
            let bias = graph.add_constant("b", Tensor::from_slice(&[n], &b).unwrap());
            let h = graph.add_value("h", ValueType::fixed(DType::F32, &[m, n]));
            let y = graph.add_value("y", ValueType::fixed(DType::F32, &[m, n]));
            let options = FullyConnected {
                activation: Activation::Relu,
                keep_leading_axes: false,
                asymmetric_inputs: false,
            };
            graph.add_node(
                "fc",
                Op::FullyConnected(options),
                vec![Some(x), Some(weights), Some(bias)],
                vec![Some(h)],
            );
            graph.add_node("act", Op::Activation(Activation::Tanh), vec![Some(h)], vec![Some(y)]);
            graph.inputs.push(Port { name: "x".into(), value: x });
            graph.outputs.push(Port { name: "y".into(), value: y });
            let plan = plan(graph);
            let mut program = gpu.compile(&plan).unwrap();
            for round in 0..2 {
                let input = noise(3 + round, m * k);
                let want: Vec<f32> = (0..m * n)
                    .map(|i| {
                        let (row, column) = (i / n, i % n);
                        let sum: f64 = (0..k)
                            .map(|j| f64::from(input[row * k + j]) * f64::from(w[column * k + j]))
                            .sum();
                        (sum + f64::from(b[column])).max(0.0).tanh() as f32
                    })
                    .collect();
                let got =
                    run(program.as_mut(), &plan, &[Tensor::from_slice(&[m, k], &input).unwrap()]);
                assert_eq!(got[0].shape(), [m, n]);
                assert!(max_abs(got[0].as_slice().unwrap(), &want) < 1e-6, "{m} {k} {n}");
            }
            let dispatches = if m == 0 { 0 } else { 2 };
            let want = Counters {
                pipelines_created: 0,
                buffers_created: 0,
                submissions: 1,
                dispatches,
                phases: None,
            };
            assert_eq!(program.counters(), want, "the second run creates nothing");
        }
    }
}
