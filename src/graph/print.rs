//! A graph as text: inputs and states, a line for each node with its shapes and options, outputs.

use std::fmt::{self, Write as _};

use super::op::{Activation, Op, PoolFunction, SvdfArithmetic, While};
use super::recurrent::{Arithmetic, Cell, CellWeights, Layout, Merge, Recurrent, Source};
use super::types::{Dim, ValueType};
use super::window::Padding;
use super::{Graph, Node, Reset, ValueId};
use crate::tensor::{DType, Tensor};

/// Names longer than this lose their beginning, which is the path of the layer and the less telling
/// part.
const LONGEST_NAME: usize = 36;

/// Constants of at most this many elements are written out where they are used.
const MOST_SHOWN: usize = 8;

/// Shapes of nodes with many operands: as many are written.
const MOST_OPERANDS: usize = 6;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text(self))
    }
}

/// The whole graph; the loops' graphs stand indented below their node.
pub fn text(graph: &Graph) -> String {
    let mut out = String::new();
    section(&mut out, graph, "");
    out
}

fn section(out: &mut String, graph: &Graph, indent: &str) {
    let ports = graph
        .inputs
        .iter()
        .map(|port| ["input".to_owned(), clip(&port.name), value(graph, port.value)]);
    let states = graph.states.iter().map(|state| {
        let reset = match &state.reset {
            Reset::Fill(0) => String::new(),
            Reset::Fill(value) => format!("  reset to {value}"),
            Reset::Tensor(_) => "  reset to the stored value".to_owned(),
        };
        ["state".to_owned(), clip(&state.name), format!("{}{reset}", value(graph, state.value))]
    });
    let outputs = graph
        .outputs
        .iter()
        .map(|port| ["output".to_owned(), clip(&port.name), value(graph, port.value)]);
    table(out, indent, ports.chain(states).map(|row| row.to_vec()).collect(), |_, _| {});
    let nodes: Vec<Vec<String>> =
        graph.nodes.iter().enumerate().map(|(index, node)| row(graph, index, node)).collect();
    table(out, indent, nodes, |out, index| {
        if let Some(Op::While(body)) = graph.nodes.get(index).map(|node| &node.op) {
            nested(out, body, indent);
        }
    });
    table(out, indent, outputs.map(|row| row.to_vec()).collect(), |_, _| {});
}

fn nested(out: &mut String, body: &While, indent: &str) {
    let deeper = format!("{indent}    │ ");
    for (name, graph) in [("while", &body.condition), ("do", &body.body)] {
        let _ = writeln!(out, "{indent}    {name}");
        section(out, graph, &deeper);
    }
}

/// Rows with columns of equal width, the first column to the right where it is a number; `after`
/// writes below a row.
fn table(
    out: &mut String,
    indent: &str,
    rows: Vec<Vec<String>>,
    after: impl Fn(&mut String, usize),
) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    // One wide row must not push the others off the screen.
    let widths: Vec<usize> = (0..columns).map(|column| width(column).min(56)).collect();
    for (index, row) in rows.iter().enumerate() {
        let mut line = String::from(indent);
        for (cell, &width) in row.iter().zip(&widths) {
            if cell.chars().all(|c| c.is_ascii_digit()) && !cell.is_empty() {
                let _ = write!(line, "{cell:>width$}  ");
            } else {
                let _ = write!(line, "{cell:<width$}  ");
            }
        }
        let _ = writeln!(out, "{}", line.trim_end());
        after(out, index);
    }
}

/// Index, op, name, operands → results, options.
fn row(graph: &Graph, index: usize, node: &Node) -> Vec<String> {
    let list = |ids: &[Option<ValueId>]| {
        let present: Vec<ValueId> = ids.iter().flatten().copied().collect();
        let mut shapes: Vec<String> =
            present.iter().take(MOST_OPERANDS).map(|id| operand(graph, *id)).collect();
        if present.len() > MOST_OPERANDS {
            shapes.push(format!("… {} more", present.len() - MOST_OPERANDS));
        }
        shapes.join(" ")
    };
    let shapes = format!("{} → {}", list(&node.inputs), list(&node.outputs));
    let mut options = options(&node.op);
    if let Op::Recurrent(layer) = &node.op
        && let Some(Some(mask)) = node.inputs.get(Recurrent::MASK)
    {
        let lengths = graph.get(*mask).is_some_and(|value| value.ty.dtype != DType::Bool);
        let kind = if lengths { "lengths" } else { "mask" };
        let _ = write!(options, ", {kind} ({:?})", layer.masking);
    }
    vec![index.to_string(), node.op.name().to_owned(), clip(&node.name), shapes, options]
}

fn clip(name: &str) -> String {
    // A file's names go to a terminal: no control characters.
    let clean = name.chars().map(|c| if c.is_control() { ' ' } else { c });
    match name.chars().count().checked_sub(LONGEST_NAME) {
        None | Some(0) => clean.collect(),
        Some(extra) => std::iter::once('…').chain(clean.skip(extra + 1)).collect(),
    }
}

/// A small constant's elements, or the shape.
fn operand(graph: &Graph, id: ValueId) -> String {
    let small = graph.constant(id).filter(|tensor| tensor.len() <= MOST_SHOWN).and_then(elements);
    small.unwrap_or_else(|| value(graph, id))
}

fn elements(tensor: &Tensor) -> Option<String> {
    let texts: Vec<String> = if tensor.dtype().is_float() {
        tensor.to_f32().iter().map(f32::to_string).collect()
    } else {
        tensor.to_i64().ok()?.iter().map(i64::to_string).collect()
    };
    Some(match (tensor.shape(), texts.as_slice()) {
        ([], [one]) => one.clone(),
        _ => format!("({})", texts.join(", ")),
    })
}

/// `[batch, 28]`; the element type stands in front when it is not float32.
fn value(graph: &Graph, id: ValueId) -> String {
    match graph.get(id) {
        Some(value) => type_text(graph, &value.ty),
        None => format!("value {}?", id.0),
    }
}

/// The type of a value: `[batch, 28]`, `int32 [2]`, `[..]` for an unknown rank.
pub fn type_text(graph: &Graph, ty: &ValueType) -> String {
    let shape = match &ty.shape {
        None => "[..]".to_owned(),
        Some(dims) => {
            let size = |dim: &Dim| match dim {
                Dim::Symbol(symbol) => {
                    graph.symbols.get(symbol.index()).cloned().unwrap_or_else(|| dim.to_string())
                }
                Dim::Known(_) | Dim::Unknown => dim.to_string(),
            };
            format!("[{}]", dims.iter().map(size).collect::<Vec<_>>().join(", "))
        }
    };
    if ty.dtype == DType::F32 { shape } else { format!("{} {shape}", ty.dtype) }
}

/// The options of an op that are not the usual ones, separated by commas.
pub fn options(op: &Op) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut say = |condition: bool, text: &str| {
        if condition {
            parts.push(text.to_owned());
        }
    };
    match op {
        Op::Recurrent(layer) => return recurrent(layer),
        Op::Svdf(svdf) => {
            let units = svdf.feature.rows().checked_div(svdf.rank).unwrap_or(0);
            say(
                true,
                &format!(
                    "{}→{units}, rank {}, memory {}",
                    svdf.feature.columns(),
                    svdf.rank,
                    svdf.time.columns()
                ),
            );
            say(svdf.activation != Activation::Linear, &activation(svdf.activation));
            say(matches!(svdf.arithmetic, SvdfArithmetic::Hybrid { .. }), "hybrid");
            say(matches!(svdf.arithmetic, SvdfArithmetic::Integer { .. }), "integer");
        }
        Op::FullyConnected(dense) => {
            say(dense.activation != Activation::Linear, &activation(dense.activation));
            say(dense.keep_leading_axes, "keeps axes");
        }
        Op::MatMul(product) => {
            say(product.transpose_a, "a transposed");
            say(product.transpose_b, "b transposed");
        }
        Op::Conv2d(conv) => {
            say(conv.padding != Padding::Valid, &padding(conv.padding));
            say(conv.groups != 1, &format!("groups {}", conv.groups));
            say(conv.strides != [1, 1], &format!("strides {:?}", conv.strides));
            say(conv.dilations != [1, 1], &format!("dilations {:?}", conv.dilations));
            say(conv.activation != Activation::Linear, &activation(conv.activation));
        }
        Op::Pool2d(pool) => {
            say(true, &format!("window {:?}", pool.window));
            say(pool.padding != Padding::Valid, &padding(pool.padding));
            say(pool.strides != [1, 1], &format!("strides {:?}", pool.strides));
            say(pool.dilations != [1, 1], &format!("dilations {:?}", pool.dilations));
            let counts = pool.function == PoolFunction::Average { count_padding: true };
            say(counts, "padding counts");
            say(pool.activation != Activation::Linear, &activation(pool.activation));
        }
        Op::Activation(function) => {
            let text = activation(*function);
            say(text != function.name(), &text);
        }
        Op::Binary(binary) => {
            say(binary.activation != Activation::Linear, &activation(binary.activation))
        }
        Op::Softmax(softmax) => {
            say(softmax.beta != 1.0, &format!("beta {}", softmax.beta));
            say(softmax.log, "logarithm");
        }
        Op::Reduce(reduce) => say(reduce.keep_dims, "keeps axes"),
        Op::ArgMax(arg) => say(arg.minimum, "of the minimum"),
        Op::Cast(dtype) => say(true, &format!("to {dtype}")),
        Op::Squeeze(squeeze) => say(!squeeze.axes.is_empty(), &format!("axes {:?}", squeeze.axes)),
        Op::StridedSlice(slice) => {
            let masks = [
                ("begin", slice.begin_mask),
                ("end", slice.end_mask),
                ("ellipsis", slice.ellipsis_mask),
                ("new axis", slice.new_axis_mask),
                ("shrink", slice.shrink_axis_mask),
            ];
            masks.iter().for_each(|(name, mask)| say(*mask != 0, &format!("{name} {mask:#b}")));
            say(slice.offset, "end is an offset");
        }
        Op::Gather(gather) => {
            say(true, &format!("axis {}", gather.axis));
            say(gather.batch_dims != 0, &format!("batch axes {}", gather.batch_dims));
        }
        Op::Pack(pack) => say(true, &format!("axis {}", pack.axis)),
        Op::Unpack(unpack) => say(true, &format!("axis {}", unpack.axis)),
        Op::Concat(concat) => {
            say(true, &format!("axis {}", concat.axis));
            say(concat.activation != Activation::Linear, &activation(concat.activation));
        }
        Op::ReverseSequence(reverse) => {
            say(
                true,
                &format!("time axis {}, batch axis {}", reverse.time_axis, reverse.batch_axis),
            );
        }
        Op::While(body) => {
            say(
                true,
                &format!("{} variables, {} nodes", body.body.inputs.len(), body.body.nodes.len()),
            );
        }
        Op::Custom(custom) => {
            say(true, &format!("{} ({} bytes of options)", custom.name, custom.options.len()))
        }
        Op::Unary(_)
        | Op::Select
        | Op::Quantize
        | Op::Dequantize
        | Op::Transpose
        | Op::Reshape
        | Op::ExpandDims
        | Op::Shape(_)
        | Op::Fill
        | Op::Range
        | Op::Tile
        | Op::BroadcastTo
        | Op::Pad
        | Op::Slice
        | Op::Split
        | Op::Reverse
        | Op::SetItem => {}
    }
    parts.join(", ")
}

/// The name of an activation with its parameters, where it has some.
fn activation(function: Activation) -> String {
    let name = function.name();
    match function {
        Activation::HardSigmoid { alpha, beta } => format!("{name}({alpha}, {beta})"),
        Activation::Elu { alpha } | Activation::LeakyRelu { alpha } => format!("{name}({alpha})"),
        Activation::Gelu { approximate: true } => format!("{name}(by tanh)"),
        Activation::Gelu { approximate: false }
        | Activation::Linear
        | Activation::Relu
        | Activation::ReluN1To1
        | Activation::Relu6
        | Activation::Tanh
        | Activation::Sigmoid
        | Activation::SignBit
        | Activation::Selu
        | Activation::Softplus
        | Activation::Softsign
        | Activation::Swish
        | Activation::HardSwish
        | Activation::Exponential => name.to_owned(),
    }
}

/// A recurrent layer in one line:
/// `LSTM 28→64, peephole, clip 10, time-major, bidirectional concat`.
pub fn recurrent(layer: &Recurrent) -> String {
    let mut parts = vec![format!("{} {}", layer.cell.name(), sizes(layer))];
    parts.extend(cell_options(&layer.cell));
    parts.extend(layer.gate_clip.map(|clip| format!("gate clip {clip}")));
    if let Some(direction) = layer.directions.first() {
        parts.extend(weight_options(&direction.weights).map(str::to_owned));
    }
    if layer.directions.iter().any(|direction| direction.source == Source::Auxiliary) {
        parts.push("parallel input".to_owned());
    }
    parts.push(match layer.layout {
        Layout::TimeMajor => "time-major".to_owned(),
        Layout::BatchMajor => "batch-major".to_owned(),
    });
    match (layer.directions.as_slice(), layer.merge) {
        ([one], _) if one.reverse => parts.push("reverse".to_owned()),
        ([_, _], Merge::Concat) => parts.push("bidirectional concat".to_owned()),
        ([_, _], Merge::Separate) => parts.push("bidirectional".to_owned()),
        _ => {}
    }
    match &layer.arithmetic {
        Arithmetic::Float => {}
        Arithmetic::Hybrid { asymmetric: false } => parts.push("hybrid".to_owned()),
        Arithmetic::Hybrid { asymmetric: true } => parts.push("hybrid asymmetric".to_owned()),
        Arithmetic::Integer(_) => parts.push("integer".to_owned()),
        Arithmetic::IntegerBasic { .. } => parts.push("integer (basic kernel)".to_owned()),
    }
    parts.join(", ")
}

/// `28→64`, `28→64→32` with a projection; both directions when they differ.
fn sizes(layer: &Recurrent) -> String {
    let blocks = layer.cell.gate_blocks();
    let mut texts: Vec<String> = layer
        .directions
        .iter()
        .map(|direction| {
            let w = &direction.weights;
            let cells = format!("{}→{}", w.input.columns(), w.units(blocks));
            match &w.projection {
                Some(projection) => format!("{cells}→{}", projection.weight.rows()),
                None => cells,
            }
        })
        .collect();
    texts.dedup();
    texts.join(" and ")
}

fn cell_options(cell: &Cell) -> Vec<String> {
    let mut parts = Vec::new();
    let mut unusual = |name: &str, function: Activation, usual: Activation| {
        if function != usual {
            parts.push(format!("{name} {}", activation(function)));
        }
    };
    match cell {
        Cell::Lstm(lstm) => {
            unusual("gates", lstm.gate, Activation::Sigmoid);
            unusual("candidate", lstm.candidate, Activation::Tanh);
            unusual("output", lstm.output, Activation::Tanh);
            if lstm.coupled_input_forget {
                parts.push("coupled gates".to_owned());
            }
            parts.extend(lstm.cell_clip.map(|clip| format!("clip {clip}")));
            parts.extend(lstm.projection_clip.map(|clip| format!("projection clip {clip}")));
        }
        Cell::Gru(gru) => {
            unusual("gates", gru.gate, Activation::Sigmoid);
            unusual("candidate", gru.candidate, Activation::Tanh);
            parts.push(if gru.reset_after { "reset after" } else { "reset before" }.to_owned());
        }
        Cell::Rnn(rnn) => unusual("activation", rnn.activation, Activation::Tanh),
    }
    parts
}

fn weight_options(w: &CellWeights) -> impl Iterator<Item = &'static str> {
    let stored = match w.input.data.dtype() {
        DType::F16 => Some("f16 weights"),
        DType::I8 => Some("int8 weights"),
        DType::U8 => Some("uint8 weights"),
        DType::F32 | DType::F64 | DType::I16 | DType::I32 | DType::I64 | DType::Bool => None,
    };
    [
        w.peephole.is_some().then_some("peephole"),
        w.layer_norm.is_some().then_some("layer norm"),
        w.is_diagonal().then_some("diagonal"),
        w.auxiliary.is_some().then_some("auxiliary input"),
        w.bias.is_none().then_some("no bias"),
        stored,
    ]
    .into_iter()
    .flatten()
}

fn padding(padding: Padding) -> String {
    match padding {
        Padding::Valid => "valid".to_owned(),
        Padding::Same => "same".to_owned(),
        Padding::SameLower => "same, odd entry before".to_owned(),
        Padding::Explicit { before, after } => format!("padding {before:?} {after:?}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::sync::Arc;

    use super::super::op::{FullyConnected, StridedSlice};
    use super::super::recurrent::{Direction, Gru, Lstm, Masking, Matrix, Projection};
    use super::super::{Port, State};
    use super::*;

    fn matrix(shape: &[usize]) -> Matrix {
        Matrix::float(Tensor::zeros(DType::F32, shape).unwrap())
    }

    fn lstm() -> Recurrent {
        let weights = CellWeights {
            input: matrix(&[256, 28]),
            recurrent: matrix(&[256, 64]),
            auxiliary: None,
            bias: Some(Tensor::zeros(DType::F32, &[256]).unwrap()),
            recurrent_bias: None,
            peephole: Some(matrix(&[192])),
            layer_norm: None,
            projection: None,
        };
        let direction =
            |reverse| Direction { reverse, source: Source::X, weights: Arc::new(weights.clone()) };
        Recurrent {
            cell: Cell::Lstm(Lstm {
                gate: Activation::Sigmoid,
                candidate: Activation::Tanh,
                output: Activation::Tanh,
                coupled_input_forget: false,
                cell_clip: Some(10.0),
                projection_clip: None,
            }),
            directions: vec![direction(false), direction(true)],
            layout: Layout::TimeMajor,
            masking: Masking::Hold,
            merge: Merge::Concat,
            gate_clip: None,
            arithmetic: Arithmetic::Float,
        }
    }

    #[test]
    fn a_recurrent_layer_is_one_line() {
        let mut layer = lstm();
        assert_eq!(
            recurrent(&layer),
            "LSTM 28→64, clip 10, peephole, time-major, bidirectional concat"
        );
        let Cell::Lstm(cell) = &mut layer.cell else { panic!() };
        cell.candidate = Activation::Relu;
        cell.cell_clip = None;
        layer.directions.truncate(1);
        layer.directions[0].reverse = true;
        let weights = Arc::make_mut(&mut layer.directions[0].weights);
        weights.peephole = None;
        weights.projection = Some(Projection { weight: matrix(&[32, 64]), bias: None });
        layer.arithmetic = Arithmetic::Hybrid { asymmetric: true };
        assert_eq!(
            recurrent(&layer),
            "LSTM 28→64→32, candidate Relu, time-major, reverse, hybrid asymmetric"
        );
        layer.cell = Cell::Gru(Gru {
            gate: Activation::Sigmoid,
            candidate: Activation::Tanh,
            reset_after: true,
        });
        assert!(recurrent(&layer).starts_with("GRU 28→85→32, reset after"));
    }

    #[test]
    fn a_graph_reads_as_a_table() {
        let mut graph = Graph::default();
        let batch = graph.add_symbol("batch");
        let x = graph.add_value("x", ValueType::symbolic(DType::F32, vec![batch, Dim::Known(28)]));
        let h = graph.add_value("h", ValueType::fixed(DType::I8, &[1, 4]));
        let w = graph.add_constant("w", Tensor::zeros(DType::F32, &[10, 28]).unwrap());
        let order = graph.add_constant("order", Tensor::from_slice(&[2], &[1i32, 0]).unwrap());
        let y = graph.add_value("y", ValueType::symbolic(DType::F32, vec![batch, Dim::Known(10)]));
        let z = graph.add_value("z", ValueType::unranked(DType::F32));
        graph.inputs.push(Port { name: "pixels\u{1b}[2J".into(), value: x });
        graph.states.push(State {
            name: "memory".into(),
            value: h,
            next: h,
            reset: Reset::Fill(-3),
        });
        let dense = FullyConnected {
            activation: Activation::Relu,
            keep_leading_axes: false,
            asymmetric_inputs: false,
        };
        graph.add_node(
            "dense",
            Op::FullyConnected(dense),
            vec![Some(x), Some(w), None],
            vec![Some(y)],
        );
        graph.add_node("", Op::Transpose, vec![Some(y), Some(order)], vec![Some(z)]);
        graph.outputs.push(Port { name: "classes".into(), value: z });
        let expected = "\
input  pixels [2J  [batch, 28]
state  memory      int8 [1, 4]  reset to -3
0  FullyConnected  dense  [batch, 28] [10, 28] → [batch, 10]  Relu
1  Transpose              [batch, 10] (1, 0) → [..]
output  classes  [..]
";
        assert_eq!(graph.to_string(), expected);
    }

    #[test]
    fn options_say_what_is_unusual() {
        let slice = StridedSlice { begin_mask: 5, shrink_axis_mask: 2, ..StridedSlice::default() };
        assert_eq!(options(&Op::StridedSlice(slice)), "begin 0b101, shrink 0b10");
        assert_eq!(
            options(&Op::Activation(Activation::HardSigmoid { alpha: 0.2, beta: 0.5 })),
            "HardSigmoid(0.2, 0.5)"
        );
        assert_eq!(options(&Op::Activation(Activation::Tanh)), "");
    }

    #[test]
    fn long_names_keep_their_end() {
        let name = format!("{}tail", "path/".repeat(20));
        assert_eq!(clip(&name).chars().count(), LONGEST_NAME);
        assert!(clip(&name).starts_with('…') && clip(&name).ends_with("path/tail"));
    }
}
