//! Pictures as SVG text: the graph of a model, from inputs at the top to outputs at the bottom.

use std::fmt::Write as _;

use crate::graph::recurrent::{Cell, Layout, Recurrent};
use crate::graph::{Graph, Node, Op, ValueId};
use crate::text::{Lines, clean};

const WIDTH: f64 = 210.0;
const HEIGHT: f64 = 44.0;
const GAP_X: f64 = 28.0;
const GAP_Y: f64 = 40.0;
const LINE: f64 = 15.0;
const MARGIN: f64 = 24.0;
/// Boxes drawn at most; a picture of more is no help to anyone.
const MOST_BOXES: usize = 5_000;

/// Look of a box.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Port,
    State,
    Op,
    Recurrent,
}

struct Card {
    kind: Kind,
    lines: Vec<String>,
    layer: usize,
    x: f64,
    y: f64,
    height: f64,
}

/// Draws a graph: recurrent ops large and in color with their sizes, states dashed, constants left
/// out. `op_name` names an op.
pub fn graph(graph: &Graph, op_name: impl Fn(&Op) -> String) -> String {
    let mut cards: Vec<Card> = Vec::new();
    let mut edges: Vec<(usize, usize, String)> = Vec::new();
    // The box that each value comes out of.
    let mut origin: Vec<Option<usize>> = vec![None; graph.values.len()];
    let set = |origin: &mut Vec<Option<usize>>, id: ValueId, card: usize| {
        if let Some(slot) = origin.get_mut(id.index()) {
            *slot = Some(card);
        }
    };
    let card = |kind: Kind, lines: Vec<String>, layer: usize| {
        let height = HEIGHT + LINE * lines.len().saturating_sub(2) as f64;
        Card { kind, lines, layer, x: 0.0, y: 0.0, height }
    };
    for port in &graph.inputs {
        set(&mut origin, port.value, cards.len());
        cards.push(card(Kind::Port, vec!["input".to_owned(), port.name.clone()], 0));
    }
    for state in &graph.states {
        set(&mut origin, state.value, cards.len());
        cards.push(card(Kind::State, vec!["state".to_owned(), state.name.clone()], 0));
    }
    let left_out = graph.nodes.len().saturating_sub(MOST_BOXES);
    for node in graph.nodes.iter().take(MOST_BOXES) {
        let index = cards.len();
        let mut layer = 0;
        for id in node.inputs.iter().flatten() {
            if let Some(from) = origin.get(id.index()).copied().flatten() {
                layer = layer.max(cards.get(from).map_or(0, |card: &Card| card.layer + 1));
                edges.push((from, index, shape_text(graph, *id)));
            }
        }
        let (kind, lines) = match &node.op {
            Op::Recurrent(recurrent) => (Kind::Recurrent, recurrent_lines(recurrent, node)),
            op => (Kind::Op, vec![op_name(op), node.name.clone()]),
        };
        cards.push(card(kind, lines, layer));
        node.outputs.iter().flatten().for_each(|id| set(&mut origin, *id, index));
    }
    for port in &graph.outputs {
        let from = origin.get(port.value.index()).copied().flatten();
        let layer = from.and_then(|from| cards.get(from)).map_or(0, |card| card.layer + 1);
        edges.extend(from.map(|from| (from, cards.len(), shape_text(graph, port.value))));
        cards.push(card(Kind::Port, vec!["output".to_owned(), port.name.clone()], layer));
    }
    let (width, height) = arrange(&mut cards);
    let mut svg = head(width, height + if left_out > 0 { LINE * 2.0 } else { 0.0 });
    edges.iter().for_each(|(from, to, label)| draw_edge(&mut svg, &cards, *from, *to, label));
    cards.iter().for_each(|card| draw_card(&mut svg, card));
    if left_out > 0 {
        let _ = writeln!(
            svg,
            r#"<text x="{MARGIN}" y="{}">and {left_out} more nodes</text>"#,
            height + LINE
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn recurrent_lines(recurrent: &Recurrent, node: &Node) -> Vec<String> {
    let directions = match recurrent.directions.as_slice() {
        [one] if one.reverse => "reverse",
        [_] => "forward",
        _ => "both directions",
    };
    let mut lines = vec![format!("{} · {directions}", recurrent.cell.name()), node.name.clone()];
    let gates = recurrent.cell.gate_blocks();
    for direction in &recurrent.directions {
        let weights = &direction.weights;
        let width = weights.output_width(gates);
        let projected =
            if weights.projection.is_some() { format!(" → {width}") } else { String::new() };
        lines.push(format!(
            "{} → {} units{projected}",
            weights.input.columns(),
            weights.units(gates)
        ));
    }
    let mut traits = vec![match recurrent.layout {
        Layout::TimeMajor => "time-major",
        Layout::BatchMajor => "batch-major",
    }];
    if let Some(direction) = recurrent.directions.first() {
        traits.extend(direction.weights.peephole.as_ref().map(|_| "peephole"));
        traits.extend(direction.weights.layer_norm.as_ref().map(|_| "layer norm"));
    }
    match &recurrent.cell {
        Cell::Lstm(lstm) if lstm.coupled_input_forget => traits.push("coupled gates"),
        Cell::Gru(gru) if gru.reset_after => traits.push("reset after"),
        Cell::Lstm(_) | Cell::Gru(_) | Cell::Rnn(_) => {}
    }
    lines.push(traits.join(", "));
    lines
}

fn shape_text(graph: &Graph, id: ValueId) -> String {
    let Some(shape) = graph.get(id).and_then(|value| value.ty.shape.as_ref()) else {
        return String::new();
    };
    let sizes: Vec<String> = shape
        .iter()
        .map(|dim| match *dim {
            crate::graph::Dim::Symbol(symbol) => {
                graph.symbols.get(symbol.index()).cloned().unwrap_or_default()
            }
            dim => dim.to_string(),
        })
        .collect();
    format!("[{}]", sizes.join(", "))
}

/// Places the boxes layer by layer, each layer centerd; returns the size of the picture.
fn arrange(cards: &mut [Card]) -> (f64, f64) {
    let layers = cards.iter().map(|card| card.layer + 1).max().unwrap_or(0);
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); layers];
    for (index, card) in cards.iter().enumerate() {
        if let Some(layer) = members.get_mut(card.layer) {
            layer.push(index);
        }
    }
    let row = |count: usize| count as f64 * (WIDTH + GAP_X) - GAP_X;
    let widest = members.iter().map(|layer| row(layer.len())).fold(WIDTH, f64::max);
    let mut y = MARGIN;
    for layer in &members {
        let mut x = MARGIN + (widest - row(layer.len())) / 2.0;
        let mut tallest: f64 = 0.0;
        for &index in layer {
            if let Some(card) = cards.get_mut(index) {
                (card.x, card.y) = (x, y);
                tallest = tallest.max(card.height);
            }
            x += WIDTH + GAP_X;
        }
        y += tallest + GAP_Y;
    }
    (widest + 2.0 * MARGIN, y - GAP_Y + MARGIN)
}

fn head(width: f64, height: f64) -> String {
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="11">
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#667"/></marker></defs>
<rect width="100%" height="100%" fill="#fff"/>
"##
    )
}

fn draw_edge(svg: &mut String, cards: &[Card], from: usize, to: usize, label: &str) {
    let (Some(a), Some(b)) = (cards.get(from), cards.get(to)) else { return };
    let (x1, y1, x2, y2) = (a.x + WIDTH / 2.0, a.y + a.height, b.x + WIDTH / 2.0, b.y - 2.0);
    let bend = ((y2 - y1) / 2.0).max(10.0);
    let _ = writeln!(
        svg,
        r##"<path d="M{x1:.1} {y1:.1}C{x1:.1} {:.1} {x2:.1} {:.1} {x2:.1} {y2:.1}" fill="none" stroke="#667" marker-end="url(#tip)"/>"##,
        y1 + bend,
        y2 - bend
    );
    if !label.is_empty() {
        let (x, y) = (x1 * 0.4 + x2 * 0.6 + 4.0, y1 * 0.4 + y2 * 0.6);
        let _ = writeln!(
            svg,
            r##"<text x="{x:.1}" y="{y:.1}" fill="#667" font-size="9">{}</text>"##,
            escape(label)
        );
    }
}

fn draw_card(svg: &mut String, card: &Card) {
    let (fill, stroke, dash) = match card.kind {
        Kind::Port => ("#eef3f8", "#5b7a99", ""),
        Kind::State => ("#fff", "#b07030", r#" stroke-dasharray="4 3""#),
        Kind::Op => ("#f7f7f4", "#888", ""),
        Kind::Recurrent => ("#fde9c8", "#c2701c", r#" stroke-width="2""#),
    };
    let Card { x, y, height, .. } = card;
    let _ = writeln!(
        svg,
        r#"<rect x="{x:.1}" y="{y:.1}" width="{WIDTH}" height="{height:.1}" rx="6" fill="{fill}" stroke="{stroke}"{dash}/>"#
    );
    let middle = x + WIDTH / 2.0;
    for (index, line) in card.lines.iter().enumerate() {
        let weight = if index == 0 { r#" font-weight="600""# } else { "" };
        let _ = writeln!(
            svg,
            r#"<text x="{middle:.1}" y="{:.1}" text-anchor="middle"{weight}>{}</text>"#,
            y + 18.0 + LINE * index as f64,
            escape(&shortened(line))
        );
    }
}

/// The last part of a long name: file formats put the telling part there.
fn shortened(text: &str) -> String {
    const MOST: usize = 34;
    let count = text.chars().count();
    if count <= MOST {
        return text.to_owned();
    }
    let end: String = text.chars().skip(count - (MOST - 1)).collect();
    format!("…{end}")
}

pub(super) fn escape(text: &str) -> String {
    // Control characters are not allowed in XML at all.
    clean(text, Lines::Escape)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::op::Activation;
    use crate::graph::{Port, ValueType};
    use crate::tensor::DType;

    #[test]
    fn ports_and_ops_are_drawn_with_escaped_names() {
        let mut g = Graph::default();
        let batch = g.add_symbol("batch");
        let ty = ValueType::symbolic(DType::F32, vec![batch, crate::graph::Dim::Known(3)]);
        let (x, y) = (g.add_value("x", ty.clone()), g.add_value("y", ty));
        g.inputs.push(Port { name: "a<b>&\"c\"\u{1}".to_owned(), value: x });
        g.add_node("act", Op::Activation(Activation::Tanh), vec![Some(x)], vec![Some(y)]);
        g.outputs.push(Port { name: "y".to_owned(), value: y });
        let svg = graph(&g, |_| "tanh".to_owned());
        assert!(svg.contains("a&lt;b&gt;&amp;&quot;c&quot;\\u{1}"));
        assert!(svg.contains("[batch, 3]") && svg.contains(">tanh<"));
        assert_eq!(svg.matches("<rect x=").count(), 3);
        assert_eq!(svg.matches("<path d=\"M").count(), 2 + 1);
    }
}
