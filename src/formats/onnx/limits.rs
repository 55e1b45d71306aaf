//! What a model file may ask for. A small file must not be able to ask for much memory or time.

use super::super::tensorflow::limits::for_each_field;
use crate::error::{Error, Result};

/// Messages of a file (nodes, attributes, constants, types, names): an empty one takes 2 bytes in
/// the file and up to 400 in memory, so that they may take 800 MB. The largest recurrent graphs
/// seen have 30,000.
const MOST_MESSAGES: usize = 2_000_000;

/// Nesting of graphs in nodes, as protobuf parsers allow it: they stop at 100 messages, of which a
/// graph in a node takes three.
pub const DEEPEST_GRAPHS: usize = 33;

/// Nodes that are read, each time its function is called or its loop gone through, for a file of
/// `nodes` nodes. Functions that call the next twice would have `2^n`; bodies of loops are gone
/// through two or three times until the shapes of their variables settle.
pub fn most_expanded(nodes: usize) -> usize {
    nodes.saturating_mul(32).saturating_add(100_000)
}

/// Bytes that values may take which the file does not hold in full: folded results.
pub const MOST_DERIVED_BYTES: usize = 256 << 20;

/// A message whose parts are counted.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Function,
    Node,
    Attribute,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Leaf,
}

/// The kind of the message in a field that is decoded.
fn part(kind: Kind, field: u64) -> Option<Kind> {
    Some(match (kind, field) {
        (Kind::Model, 7) | (Kind::Attribute, 6) => Kind::Graph,
        (Kind::Model, 25) => Kind::Function,
        (Kind::Graph, 1) | (Kind::Function, 7) => Kind::Node,
        (Kind::Graph, 11 | 12) => Kind::ValueInfo,
        (Kind::Node, 5) | (Kind::Function, 11) => Kind::Attribute,
        (Kind::ValueInfo, 2) => Kind::Type,
        (Kind::Type, 1) => Kind::TensorType,
        (Kind::TensorType, 2) => Kind::Shape,
        (Kind::Model, 8)
        | (Kind::Graph, 5 | 15)
        | (Kind::Node, 1 | 2)
        | (Kind::Attribute, 5 | 9)
        | (Kind::Function, 4 | 5 | 6 | 9)
        | (Kind::Shape, 1) => Kind::Leaf,
        _ => return None,
    })
}

/// Counts the nodes of an encoded model, and refuses more messages than the limit before anything
/// is allocated for them. Malformed input is left to the decoder.
pub fn count_nodes(model: &[u8]) -> Result<usize> {
    let mut count = Count { nodes: 0, messages: 0 };
    count.walk(model, Kind::Model, 0);
    if count.messages > MOST_MESSAGES {
        return Err(Error::limit(format!(
            "the file has {} nodes, attributes, constants and names, more than {MOST_MESSAGES}",
            count.messages
        )));
    }
    Ok(count.nodes)
}

struct Count {
    nodes: usize,
    messages: usize,
}

impl Count {
    fn walk(&mut self, bytes: &[u8], kind: Kind, depth: usize) {
        // The decoder refuses what is nested deeper.
        const DEEPEST: usize = 100;
        if depth > DEEPEST {
            return;
        }
        for_each_field(bytes, |field, inner| {
            let Some(inner_kind) = part(kind, field) else { return };
            self.messages += 1;
            self.nodes += usize::from(matches!(inner_kind, Kind::Node));
            if !matches!(inner_kind, Kind::Leaf) {
                self.walk(inner, inner_kind, depth + 1);
            }
        });
    }
}
