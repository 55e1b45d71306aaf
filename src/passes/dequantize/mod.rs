//! Hybrid and integer models as float models, for the backends that compute in f32.
//!
//! Every quantized value becomes the f32 value it stands for. Int8 weights of recurrent ops stay
//! int8 with their scales (a backend may keep them so); all other quantized constants become f32.
//! Conversions between quantized values vanish, those at the graph's ports stay: a caller gives and
//! gets the same types as before.
//!
//! What is lost is the rounding of the activations, nothing else; the difference to `reference` is
//! that quantization error.

mod nodes;
mod weights;

use std::collections::HashSet;

use nodes::rewrite_node;
pub(super) use weights::dequantize_tensor;

use super::Report;
use super::values::Aliases;
use crate::error::{Error, Place, Result};
use crate::graph::{Graph, Op, Reset, ValueId, ValueType};
use crate::tensor::{DType, Quantization, Tensor};

/// The same model in float arithmetic; a float model comes back as it is.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) for an op that reads the stored integers of a
/// quantized value as numbers, [`InvalidGraph`](crate::ErrorKind::InvalidGraph) when scales do not
/// fit their tensors.
pub fn dequantize(graph: &Graph) -> Result<Graph> {
    Ok(dequantize_reported(graph)?.0)
}

/// As [`dequantize`], with what was changed.
///
/// # Errors
/// As [`dequantize`].
pub fn dequantize_reported(graph: &Graph) -> Result<(Graph, Report)> {
    let mut report = Report::new("dequantize");
    let graph = rewrite(graph, true, &mut report)?;
    Ok((graph, report))
}

/// Whether the stored numbers of a value stand for real ones.
fn is_quantized(ty: &ValueType) -> bool {
    ty.quantization.is_some() && matches!(ty.dtype, DType::I8 | DType::U8 | DType::I16)
}

/// `ports`: inputs and outputs keep their quantized types (the graph is a whole model, not the body
/// of a loop).
fn rewrite(graph: &Graph, ports: bool, report: &mut Report) -> Result<Graph> {
    let mut out = Graph {
        name: graph.name.clone(),
        values: graph.values.clone(),
        nodes: Vec::with_capacity(graph.nodes.len()),
        inputs: graph.inputs.clone(),
        outputs: graph.outputs.clone(),
        states: graph.states.clone(),
        symbols: graph.symbols.clone(),
    };
    let mut aliases = Aliases::default();
    let inputs: HashSet<ValueId> = graph.inputs.iter().map(|port| port.value).collect();
    for (index, value) in graph.values.iter().enumerate() {
        let Some(quantization) = value.ty.quantization.as_ref().filter(|_| is_quantized(&value.ty))
        else {
            continue;
        };
        let id = ValueId::at(index);
        if ports && inputs.contains(&id) {
            let real = out.add_value(value.name.clone(), float_type(&value.ty));
            out.add_node(
                format!("{}/dequantize", value.name),
                Op::Dequantize,
                vec![Some(id)],
                vec![Some(real)],
            );
            aliases.set(id, real);
            continue;
        }
        let constant =
            value.constant.as_ref().map(|tensor| dequantize_tensor(tensor, quantization));
        if let Some(slot) = out.values.get_mut(index) {
            slot.constant = constant.transpose().within(|| format!("constant `{}`", value.name))?;
            slot.ty = float_type(&value.ty);
        }
    }
    for node in &graph.nodes {
        let place = || format!("node `{}`", node.name);
        rewrite_node(graph, node, &mut out, &mut aliases, report).within(place)?;
    }
    for mut port in std::mem::take(&mut out.outputs) {
        if let Some(value) = graph.get(port.value).filter(|_| !inputs.contains(&port.value)) {
            port.value = aliases.read(port.value);
            if ports && is_quantized(&value.ty) {
                let real = port.value;
                port.value = out.add_value(value.name.clone(), value.ty.clone());
                let (inputs, outputs) = (vec![Some(real)], vec![Some(port.value)]);
                out.add_node(format!("{}/quantize", value.name), Op::Quantize, inputs, outputs);
            }
        }
        out.outputs.push(port);
    }
    for state in &mut out.states {
        let quantized = graph.get(state.value).is_some_and(|value| is_quantized(&value.ty));
        if quantized {
            report.made.push(format!("state `{}`: f32", state.name));
            let ty = graph.ty(state.value);
            state.reset =
                float_reset(&state.reset, ty).within(|| format!("state `{}`", state.name))?;
        }
        state.next = aliases.read(state.next);
    }
    Ok(out)
}

/// The real numbers that a quantized state begins with.
fn float_reset(reset: &Reset, ty: Option<&ValueType>) -> Result<Reset> {
    let scale = ty.and_then(|ty| ty.quantization.as_ref()).and_then(Quantization::as_per_tensor);
    let (scale, zero) = scale.ok_or_else(|| Error::unsupported("more than one scale"))?;
    match reset {
        Reset::Fill(stored) if *stored == zero => Ok(Reset::ZERO),
        Reset::Fill(stored) => Err(Error::unsupported(format!(
            "it begins with {stored} in every element, which is not its zero point {zero}"
        ))),
        Reset::Tensor(stored) => {
            let real = stored.to_f32().iter().map(|x| scale * (x - zero as f32)).collect();
            Ok(Reset::stored(Tensor::from_vec(stored.shape(), real)?))
        }
    }
}

fn float_type(ty: &ValueType) -> ValueType {
    ValueType { dtype: DType::F32, shape: ty.shape.clone(), quantization: None }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::Arc;

    use super::weights::float_weights;
    use super::*;
    use crate::graph::Port;
    use crate::graph::Recurrent;
    use crate::graph::op::{Activation, FullyConnected};
    use crate::graph::recurrent::{
        Arithmetic, Cell, CellWeights, Direction, IntegerScales, Layout, Lstm, Masking, Matrix,
        Merge, Source,
    };

    fn quantized(dtype: DType, shape: &[usize], scale: f32, zero: i64) -> ValueType {
        ValueType {
            quantization: Some(Quantization::per_tensor(scale, zero)),
            ..ValueType::fixed(dtype, shape)
        }
    }

    #[test]
    fn per_channel_on_an_inner_axis() {
        let tensor = Tensor::from_vec(&[2, 3], vec![1i8, 2, 3, 4, 5, 6]).unwrap();
        let quantization =
            Quantization { scales: vec![1.0, 0.5, 2.0], zero_points: vec![0, 2, 1], axis: 1 };
        let real = dequantize_tensor(&tensor, &quantization).unwrap();
        assert_eq!(real.as_slice::<f32>().unwrap(), [1.0, 0.0, 4.0, 4.0, 1.5, 10.0]);
        let wrong = Quantization { axis: 0, ..quantization };
        assert!(dequantize_tensor(&tensor, &wrong).is_err());
    }

    #[test]
    fn an_integer_layer_keeps_its_ports() {
        let mut graph = Graph::default();
        let x = graph.add_value("x", quantized(DType::I8, &[1, 2], 0.5, 3));
        let w = graph.add_constant("w", Tensor::from_vec(&[2, 2], vec![1i8, 2, 3, 4]).unwrap());
        graph.values[w.index()].ty.quantization =
            Some(Quantization { scales: vec![0.25, 2.0], zero_points: vec![0, 0], axis: 0 });
        let b = graph.add_constant("b", Tensor::from_vec(&[2], vec![8i32, 16]).unwrap());
        let y = graph.add_value("y", quantized(DType::I8, &[1, 2], 0.1, -4));
        let op = FullyConnected {
            activation: Activation::Relu,
            keep_leading_axes: false,
            asymmetric_inputs: false,
        };
        graph.add_node(
            "fc",
            Op::FullyConnected(op),
            vec![Some(x), Some(w), Some(b)],
            vec![Some(y)],
        );
        graph.inputs.push(Port { name: "x".into(), value: x });
        graph.outputs.push(Port { name: "y".into(), value: y });

        let float = dequantize(&graph).unwrap();
        let ops: Vec<_> = float.nodes.iter().map(|node| std::mem::discriminant(&node.op)).collect();
        assert_eq!(ops.len(), 3, "dequantize, layer, quantize");
        assert_eq!(float.nodes[0].op, Op::Dequantize);
        assert_eq!(float.nodes[2].op, Op::Quantize);
        assert_eq!(float.get(float.inputs[0].value).unwrap().ty.dtype, DType::I8);
        let port = float.get(float.outputs[0].value).unwrap();
        assert_eq!(port.ty, quantized(DType::I8, &[1, 2], 0.1, -4));
        let weights = float.constant(float.nodes[1].inputs[1].unwrap()).unwrap();
        assert_eq!(weights.as_slice::<f32>().unwrap(), [0.25, 0.5, 6.0, 8.0]);
        let bias = float.constant(float.nodes[1].inputs[2].unwrap()).unwrap();
        assert_eq!(bias.as_slice::<f32>().unwrap(), [1.0, 16.0]);
    }

    #[test]
    fn integer_lstm_vectors_become_float() {
        let matrix = |rows: usize, columns: usize, scales: Vec<f32>| Matrix {
            data: Tensor::from_vec(&[rows, columns], vec![1i8; rows * columns]).unwrap(),
            scales,
        };
        let weights = CellWeights {
            input: matrix(4, 2, vec![0.5, 1.0, 2.0, 4.0]),
            recurrent: matrix(4, 1, vec![1.0; 4]),
            auxiliary: None,
            bias: Some(Tensor::from_vec(&[4], vec![10i32, 10, 10, 10]).unwrap()),
            recurrent_bias: None,
            peephole: Some(Matrix {
                data: Tensor::from_vec(&[3], vec![4i16, 4, 4]).unwrap(),
                scales: vec![0.5, 0.25, 1.0],
            }),
            layer_norm: None,
            projection: None,
        };
        let scales = IntegerScales {
            input: (0.1, 0),
            output_state: (0.01, 2),
            cell_scale_log2: -11,
            gates: [2f32.powi(-12); 4],
            hidden: (0.01, 2),
        };
        let float = float_weights(&weights, &Arithmetic::Integer(scales.clone())).unwrap();
        assert_eq!(float.input, weights.input, "int8 matrices stay");
        assert_eq!(float.bias.unwrap().as_slice::<f32>().unwrap(), [0.5, 1.0, 2.0, 4.0]);
        assert_eq!(float.peephole.unwrap().to_f32(), [2.0, 1.0, 4.0]);

        let normed = CellWeights {
            layer_norm: Some(Matrix {
                data: Tensor::from_vec(&[4], vec![2i16; 4]).unwrap(),
                scales: vec![1024.0, 1024.0, 1024.0, 2048.0],
            }),
            ..weights
        };
        let float = float_weights(&normed, &Arithmetic::Integer(scales)).unwrap();
        assert_eq!(float.bias.unwrap().as_slice::<f32>().unwrap(), [10.0, 10.0, 10.0, 20.0]);
    }

    #[test]
    fn an_output_with_another_scale_is_rescaled() {
        let mut graph = Graph::default();
        let x = graph.add_value("x", quantized(DType::I8, &[1, 1, 1], 0.1, 0));
        let h0 = graph.add_value("h", quantized(DType::I8, &[1, 1], 0.01, 2));
        let c0 = graph.add_value("c", quantized(DType::I16, &[1, 1], 2f32.powi(-11), 0));
        let y = graph.add_value("y", quantized(DType::I8, &[1, 1, 1], 0.02, -1));
        let h_n = graph.add_value("h_n", quantized(DType::I8, &[1, 1], 0.01, 2));
        let matrix =
            Matrix { data: Tensor::from_vec(&[4, 1], vec![1i8; 4]).unwrap(), scales: vec![0.5] };
        let weights = CellWeights {
            input: matrix.clone(),
            recurrent: matrix,
            auxiliary: None,
            bias: None,
            recurrent_bias: None,
            peephole: None,
            layer_norm: None,
            projection: None,
        };
        let lstm = Recurrent {
            cell: Cell::Lstm(Lstm {
                gate: Activation::Sigmoid,
                candidate: Activation::Tanh,
                output: Activation::Tanh,
                coupled_input_forget: false,
                cell_clip: None,
                projection_clip: None,
            }),
            directions: vec![Direction {
                reverse: false,
                source: Source::X,
                weights: Arc::new(weights),
            }],
            layout: Layout::TimeMajor,
            masking: Masking::Zero,
            merge: Merge::Separate,
            gate_clip: None,
            arithmetic: Arithmetic::Integer(IntegerScales {
                input: (0.1, 0),
                output_state: (0.01, 2),
                cell_scale_log2: -11,
                gates: [2f32.powi(-12); 4],
                hidden: (0.01, 2),
            }),
        };
        graph.add_node(
            "lstm",
            Op::Recurrent(lstm),
            vec![Some(x), None, None, Some(h0), Some(c0)],
            vec![Some(y), None, Some(h_n), None],
        );
        graph.inputs.push(Port { name: "x".into(), value: x });
        graph.outputs.push(Port { name: "y".into(), value: y });
        graph.states.push(crate::graph::State {
            name: "h".into(),
            value: h0,
            next: h_n,
            reset: Reset::Fill(2),
        });

        let (float, report) = dequantize_reported(&graph).unwrap();
        assert_eq!(float.states[0].reset, Reset::ZERO);
        assert_eq!(float.get(float.states[0].value).unwrap().ty.dtype, DType::F32);
        assert_eq!(float.nodes.len(), 5, "dequantize, lstm, scale, offset, quantize");
        let factor =
            float.constant(float.nodes[2].inputs[1].unwrap()).unwrap().as_slice::<f32>().unwrap()
                [0];
        let offset =
            float.constant(float.nodes[3].inputs[1].unwrap()).unwrap().as_slice::<f32>().unwrap()
                [0];
        assert!((factor - 2.0).abs() < 1e-6 && (offset - 0.06).abs() < 1e-6, "{factor} {offset}");
        assert!(report.made.iter().any(|line| line.contains("integer → float")), "{report:?}");
    }
}
