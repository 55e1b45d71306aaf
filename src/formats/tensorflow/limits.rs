//! What a model file may ask for. A small file must not be able to ask for much memory or time.

use crate::error::{Error, Result};

/// Nodes in a file, functions included. The largest recurrent graphs seen have 2,000; unrolled ones
/// reach 100,000.
pub const MOST_NODES: usize = 2_000_000;

/// Nodes that are read, each time its function is called or its loop gone through, for a file of
/// `nodes` nodes. A library of `n` functions that each call the next twice would have `2^n`; real
/// models call a function once, and go through loops two or three times until the shapes of their
/// variables settle.
pub fn most_expanded(nodes: usize) -> usize {
    nodes.saturating_mul(32).saturating_add(100_000)
}

/// Nesting of function calls and loops. Keras models have about 6 levels.
pub const DEEPEST_CALLS: usize = 32;

/// Bytes that values may take which the file does not hold in full: splatted constants and folded
/// results.
pub const MOST_DERIVED_BYTES: usize = 256 << 20;

/// Counts down one of the limits.
#[derive(Debug)]
pub struct Budget {
    what: &'static str,
    most: usize,
    left: usize,
}

impl Budget {
    pub fn new(what: &'static str, most: usize) -> Self {
        Budget { what, most, left: most }
    }

    /// Takes `amount` away.
    pub fn take(&mut self, amount: usize) -> Result<()> {
        match self.left.checked_sub(amount) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(Error::limit(format!("{} pass the limit of {}", self.what, self.most))),
        }
    }

    /// What is left.
    pub fn left(&self) -> usize {
        self.left
    }
}

/// Counts the nodes of an encoded GraphDef before anything is allocated for them: an empty node
/// takes 2 bytes in the file and more than a hundred in memory. Malformed input is left to the
/// decoder.
pub fn check_node_count(graph: &[u8]) -> Result<()> {
    let mut count = 0usize;
    for_each_field(graph, |field, bytes| match field {
        1 => count += 1,
        2 => for_each_field(bytes, |field, function| {
            if field == 1 {
                count += 1;
                for_each_field(function, |field, _| count += usize::from(field == 3));
            }
        }),
        _ => {}
    });
    if count > MOST_NODES {
        return Err(Error::limit(format!("the graph has {count} nodes, more than {MOST_NODES}")));
    }
    Ok(())
}

/// Calls `each` with the number and the bytes of every length-delimited field of a message, as far
/// as it is well formed.
pub fn for_each_field<'a>(mut bytes: &'a [u8], mut each: impl FnMut(u64, &'a [u8])) {
    while !bytes.is_empty() {
        let Some(key) = varint(&mut bytes) else { return };
        let skip = match key & 7 {
            0 => match varint(&mut bytes) {
                Some(_) => 0,
                None => return,
            },
            1 => 8,
            2 => match varint(&mut bytes).map(usize::try_from) {
                Some(Ok(length)) => {
                    let Some((value, rest)) = bytes.split_at_checked(length) else { return };
                    each(key >> 3, value);
                    bytes = rest;
                    0
                }
                _ => return,
            },
            5 => 4,
            _ => return,
        };
        let Some(rest) = bytes.get(skip..) else { return };
        bytes = rest;
    }
}

/// Reads a base-128 number and moves past it.
pub fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
