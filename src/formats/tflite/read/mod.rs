//! From the bytes of a file to a graph. This file has the parts that every operator shares; the
//! operators themselves are read in `plain`, `lstm`, `rnn` and `control`.

mod basic;
mod control;
mod function;
mod lstm;
mod lstm_weights;
mod options;
mod plain;
mod rnn;
mod tensor;
mod variables;
mod weights;
mod window;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use super::{opcode, schema};
use crate::error::{Error, Place, Result};
use crate::graph::Graph;
use crate::graph::check::check;

/// Constants that a file may be decoded to: this many times its size (a stored half becomes a
/// float, a shared buffer may stand behind several tensors), and a mebibyte more.
const MOST_DECODED: usize = 4;

/// Operators that are read, those of a loop's subgraphs once for each loop that has them: as many
/// as the file has bytes, and these. An operator takes some forty bytes, so that loops may share
/// their subgraphs; loops that name each other twice at every level end here.
const LEAST_OPERATORS: usize = 20_000;

/// Loops inside loops. Real models have one level; the stack of a thread bears hundreds.
const MOST_NESTED_LOOPS: usize = 16;

/// Reads a `.tflite` file: its first subgraph, and the subgraphs that loops in it refer to. Returns
/// the graph and what the user should know.
///
/// # Errors
/// [`Malformed`](crate::ErrorKind::Malformed), [`Unsupported`](crate::ErrorKind::Unsupported),
/// [`InvalidGraph`](crate::ErrorKind::InvalidGraph) or [`Limit`](crate::ErrorKind::Limit)
/// with the path of the file part: `subgraph 0 / operator 3 (SOFTMAX) / input 0`.
pub fn read(bytes: &[u8]) -> Result<(Graph, Vec<String>)> {
    let model = Model::new(bytes)?;
    let graph = function::read(&model, 0, &[])?;
    check(&graph)?;
    let mut warnings = model.warnings.into_inner();
    let used = model.used.into_inner();
    for index in (0..model.subgraphs.len()).filter(|index| !used.contains(index)) {
        warnings.push(format!("subgraph {index} is not used by the first one, and was left out"));
    }
    Ok((graph, warnings))
}

/// A verified file, and what is counted while it is read.
struct Model<'a> {
    bytes: &'a [u8],
    codes: Vec<Code<'a>>,
    buffers: Vec<schema::Buffer<'a>>,
    subgraphs: Vec<schema::SubGraph<'a>>,
    /// Bytes that may still be decoded to constants.
    decodable: Cell<usize>,
    /// Operators that may still be read.
    readable: Cell<usize>,
    /// The subgraphs that were read.
    used: RefCell<BTreeSet<usize>>,
    warnings: RefCell<Vec<String>>,
}

/// What an opcode index stands for.
struct Code<'a> {
    number: i32,
    custom: &'a str,
    /// The operator's name, for messages.
    name: String,
}

impl<'a> Model<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self> {
        let root = schema::verify(bytes)?;
        if root.version() != schema::VERSION {
            return Err(Error::unsupported(format!(
                "schema version {}, expected {}",
                root.version(),
                schema::VERSION
            )));
        }
        let subgraphs = root.subgraphs();
        if subgraphs.is_empty() {
            return Err(Error::malformed("the file has no subgraph"));
        }
        let mut codes = Vec::new();
        for (index, code) in root.operator_codes().into_iter().enumerate() {
            codes.push(Code::new(code).within(|| format!("operator code {index}"))?);
        }
        Ok(Model {
            bytes,
            codes,
            buffers: root.buffers(),
            subgraphs,
            decodable: Cell::new(bytes.len().saturating_mul(MOST_DECODED).saturating_add(1 << 20)),
            readable: Cell::new(bytes.len().saturating_add(LEAST_OPERATORS)),
            used: RefCell::default(),
            warnings: RefCell::default(),
        })
    }

    /// The bytes behind a buffer index; empty when the buffer has none.
    fn buffer(&self, index: u32) -> Result<&'a [u8]> {
        let buffer = self.buffers.get(index as usize).ok_or_else(|| {
            Error::malformed(format!(
                "buffer {index} is asked for, the file has {}",
                self.buffers.len()
            ))
        })?;
        if buffer.offset() <= 1 {
            return Ok(buffer.data());
        }
        let range = usize::try_from(buffer.offset()).ok().zip(usize::try_from(buffer.size()).ok());
        range
            .and_then(|(start, size)| self.bytes.get(start..start.checked_add(size)?))
            .ok_or_else(|| Error::malformed(format!("buffer {index} lies outside the file")))
    }

    /// Counts bytes that are about to be decoded.
    fn spend_bytes(&self, bytes: usize) -> Result<()> {
        let left = self.decodable.get().checked_sub(bytes).ok_or_else(|| {
            Error::limit(format!(
                "the constants take more than {MOST_DECODED} times the size of the file and a mebibyte"
            ))
        })?;
        self.decodable.set(left);
        Ok(())
    }

    /// Counts an operator that is about to be read.
    fn spend_operator(&self) -> Result<()> {
        let most = self.bytes.len().saturating_add(LEAST_OPERATORS);
        let left = self.readable.get().checked_sub(1).ok_or_else(|| {
            Error::limit(format!("more than {most} operators, those of loops counted once a loop"))
        })?;
        self.readable.set(left);
        Ok(())
    }

    fn warn(&self, warning: String) {
        self.warnings.borrow_mut().push(warning);
    }
}

impl<'a> Code<'a> {
    fn new(code: schema::OperatorCode<'a>) -> Result<Self> {
        let number = code.builtin_code().max(i32::from(code.deprecated_builtin_code()));
        let custom = code.custom_code();
        let name = match opcode::name(number) {
            Some("CUSTOM") => format!("CUSTOM {custom}"),
            Some(name) => name.to_owned(),
            None if number < 0 => {
                return Err(Error::malformed(format!("the operator number is {number}")));
            }
            None => format!("operator number {number}"),
        };
        Ok(Code { number, custom, name })
    }
}
