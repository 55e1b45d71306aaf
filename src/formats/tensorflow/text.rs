//! GraphDefs in protobuf's text form (`.pbtxt`), turned into the binary form by a table of the
//! fields that are read.

use crate::error::{Error, Result};

/// Nesting of messages; a graph needs 8.
const DEEPEST: usize = 64;

/// Messages whose fields are known here.
#[derive(Clone, Copy, Debug)]
enum Message {
    Graph,
    Version,
    Node,
    AttrEntry,
    Attr,
    List,
    Func,
    Tensor,
    Shape,
    Dim,
    Library,
    Function,
    RetEntry,
    Op,
    Arg,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Text or bytes in quotes.
    Bytes,
    Int,
    Bool,
    Float,
    Double,
    /// `DT_FLOAT` or its number.
    Type,
    Message(Message),
}

/// Number and kind of a field; `None`: it is not read.
fn field(message: Message, name: &str) -> Option<(u32, Kind)> {
    use Kind::{Bool, Bytes, Double, Float, Int, Type};
    let sub = Kind::Message;
    Some(match (message, name) {
        (Message::Graph, "node") => (1, sub(Message::Node)),
        (Message::Graph, "library") => (2, sub(Message::Library)),
        (Message::Graph, "versions") => (4, sub(Message::Version)),
        (Message::Version, "producer") => (1, Int),
        (Message::Node, "name") => (1, Bytes),
        (Message::Node, "op") => (2, Bytes),
        (Message::Node, "input") => (3, Bytes),
        (Message::Node, "attr") => (5, sub(Message::AttrEntry)),
        (Message::AttrEntry, "key") => (1, Bytes),
        (Message::AttrEntry, "value") => (2, sub(Message::Attr)),
        (Message::Attr, "list") => (1, sub(Message::List)),
        (Message::Attr, "placeholder") => (9, Bytes),
        (Message::Attr, "func") => (10, sub(Message::Func)),
        (Message::Attr, "tensor") => (8, sub(Message::Tensor)),
        (Message::Attr | Message::List, "s") => (2, Bytes),
        (Message::Attr | Message::List, "i") => (3, Int),
        (Message::Attr | Message::List, "f") => (4, Float),
        (Message::Attr | Message::List, "b") => (5, Bool),
        (Message::Attr | Message::List, "type") => (6, Type),
        (Message::Attr | Message::List, "shape") => (7, sub(Message::Shape)),
        (Message::Func, "name") => (1, Bytes),
        (Message::Tensor, "dtype") => (1, Type),
        (Message::Tensor, "tensor_shape") => (2, sub(Message::Shape)),
        (Message::Tensor, "tensor_content") => (4, Bytes),
        (Message::Tensor, "float_val") => (5, Float),
        (Message::Tensor, "double_val") => (6, Double),
        (Message::Tensor, "int_val") => (7, Int),
        (Message::Tensor, "string_val") => (8, Bytes),
        (Message::Tensor, "int64_val") => (10, Int),
        (Message::Tensor, "bool_val") => (11, Bool),
        (Message::Tensor, "half_val") => (13, Int),
        (Message::Shape, "dim") => (2, sub(Message::Dim)),
        (Message::Shape, "unknown_rank") => (3, Bool),
        (Message::Dim, "size") => (1, Int),
        (Message::Library, "function") => (1, sub(Message::Function)),
        (Message::Function, "signature") => (1, sub(Message::Op)),
        (Message::Function, "node_def") => (3, sub(Message::Node)),
        (Message::Function, "ret") => (4, sub(Message::RetEntry)),
        (Message::RetEntry, "key") => (1, Bytes),
        (Message::RetEntry, "value") => (2, Bytes),
        (Message::Op, "name") => (1, Bytes),
        (Message::Op, "input_arg") => (2, sub(Message::Arg)),
        (Message::Op, "output_arg") => (3, sub(Message::Arg)),
        (Message::Arg, "name") => (1, Bytes),
        (Message::Arg, "type") => (3, Type),
        (Message::Arg, "number_attr") => (5, Bytes),
        (Message::Arg, "type_list_attr") => (6, Bytes),
        _ => return None,
    })
}

/// TensorFlow's element types by name.
fn type_number(name: &str) -> Option<i64> {
    const NAMES: [&str; 24] = [
        "INVALID",
        "FLOAT",
        "DOUBLE",
        "INT32",
        "UINT8",
        "INT16",
        "INT8",
        "STRING",
        "COMPLEX64",
        "INT64",
        "BOOL",
        "QINT8",
        "QUINT8",
        "QINT32",
        "BFLOAT16",
        "QINT16",
        "QUINT16",
        "UINT16",
        "COMPLEX128",
        "HALF",
        "RESOURCE",
        "VARIANT",
        "UINT32",
        "UINT64",
    ];
    let name = name.strip_prefix("DT_")?;
    let (name, base) = name.strip_suffix("_REF").map_or((name, 0), |name| (name, 100));
    NAMES.iter().position(|known| *known == name).map(|position| position as i64 + base)
}

/// The text behind the byte-order mark that some editors put in front of UTF-8.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Whether the bytes begin as a GraphDef in text form does.
pub fn recognizes(bytes: &[u8]) -> bool {
    let bytes = without_mark(bytes);
    let mut parser = Parser { bytes, at: 0 };
    parser.space();
    let word = parser.word();
    parser.space();
    matches!(word, "node" | "library" | "versions")
        && matches!(parser.peek(), Some(b'{' | b'<' | b':'))
}

/// The binary form of a GraphDef in text form.
pub fn to_binary(bytes: &[u8]) -> Result<Vec<u8>> {
    let bytes = without_mark(bytes);
    let mut parser = Parser { bytes, at: 0 };
    let message = parser.message(Some(Message::Graph), None, DEEPEST).map_err(|error| {
        let line = bytes.iter().take(parser.at).filter(|&&byte| byte == b'\n').count() + 1;
        error.within(format!("line {line}"))
    })?;
    Ok(message)
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Moves past white space and comments.
    fn space(&mut self) {
        while let Some(byte) = self.peek() {
            if byte == b'#' {
                while self.peek().is_some_and(|byte| byte != b'\n') {
                    self.at += 1;
                }
            } else if !byte.is_ascii_whitespace() {
                return;
            }
            self.at += usize::from(self.at < self.bytes.len());
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// A name or a number: everything up to a delimiter.
    fn word(&mut self) -> &'a str {
        let start = self.at;
        while self.peek().is_some_and(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'+')
        }) {
            self.at += 1;
        }
        self.bytes
            .get(start..self.at)
            .and_then(|word| std::str::from_utf8(word).ok())
            .unwrap_or_default()
    }

    /// The fields of a message up to `end`, encoded. Of an unknown message (`None`) nothing is
    /// kept.
    fn message(
        &mut self,
        message: Option<Message>,
        end: Option<u8>,
        depth: usize,
    ) -> Result<Vec<u8>> {
        let depth =
            depth.checked_sub(1).ok_or_else(|| Error::limit("messages are nested too deeply"))?;
        let mut out = Vec::new();
        loop {
            self.space();
            match (self.peek(), end) {
                (None, None) => return Ok(out),
                (None, Some(_)) => return Err(Error::malformed("a message is not closed")),
                (Some(byte), Some(end)) if byte == end => {
                    self.at += 1;
                    return Ok(out);
                }
                (Some(b',' | b';'), _) => self.at += 1,
                _ => self.field(message, depth, &mut out)?,
            }
        }
    }

    fn field(&mut self, message: Option<Message>, depth: usize, out: &mut Vec<u8>) -> Result<()> {
        let name = self.word();
        if name.is_empty() {
            return Err(Error::malformed("a field name was expected"));
        }
        let known = message.and_then(|message| field(message, name));
        let colon = self.take(b':');
        if colon && self.take(b'[') {
            while !self.take(b']') {
                if self.peek().is_none() {
                    return Err(Error::malformed("a list is not closed"));
                }
                self.value(known, depth, out)?;
                self.take(b',');
            }
            return Ok(());
        }
        self.value(known, depth, out)
    }

    /// One value, added to `out` with the number of its field.
    fn value(&mut self, known: Option<(u32, Kind)>, depth: usize, out: &mut Vec<u8>) -> Result<()> {
        self.space();
        let end = match self.peek() {
            Some(b'{') => Some(b'}'),
            Some(b'<') => Some(b'>'),
            _ => None,
        };
        if end.is_some() {
            self.at += 1;
            let inner = match known {
                None => None,
                Some((_, Kind::Message(message))) => Some(message),
                Some(_) => {
                    return Err(Error::malformed(
                        "a message stands where a plain value was expected",
                    ));
                }
            };
            let encoded = self.message(inner, end, depth)?;
            if let Some((number, _)) = known {
                length_delimited(out, number, &encoded);
            }
            return Ok(());
        }
        if matches!(self.peek(), Some(b'"' | b'\'')) {
            let text = self.strings()?;
            return match known {
                None => Ok(()),
                Some((number, Kind::Bytes)) => {
                    length_delimited(out, number, &text);
                    Ok(())
                }
                Some(_) => {
                    Err(Error::malformed("a string stands where another value was expected"))
                }
            };
        }
        let word = self.word();
        if word.is_empty() {
            return Err(Error::malformed("a value was expected"));
        }
        let Some((number, kind)) = known else { return Ok(()) };
        scalar(out, number, kind, word)
            .ok_or_else(|| Error::malformed(format!("'{word}' is no value of this field")))
    }

    /// Adjacent strings are one.
    fn strings(&mut self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        loop {
            self.space();
            let Some(quote @ (b'"' | b'\'')) = self.peek() else { return Ok(text) };
            self.at += 1;
            loop {
                let byte = self.peek().ok_or_else(|| Error::malformed("a string is not closed"))?;
                self.at += 1;
                match byte {
                    b'\\' => self.escape(&mut text)?,
                    byte if byte == quote => break,
                    byte => text.push(byte),
                }
            }
        }
    }

    fn escape(&mut self, text: &mut Vec<u8>) -> Result<()> {
        let byte = self.peek().ok_or_else(|| Error::malformed("a string is not closed"))?;
        self.at += 1;
        text.push(match byte {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'v' => 11,
            b'\\' | b'\'' | b'"' | b'?' => byte,
            b'x' | b'X' => self.digits(16, 2, 0)?,
            b'0'..=b'7' => self.digits(8, 2, u32::from(byte - b'0'))?,
            _ => return Err(Error::malformed(format!("'\\{}' is no escape", char::from(byte)))),
        });
        Ok(())
    }

    fn digits(&mut self, base: u32, most: usize, mut value: u32) -> Result<u8> {
        for _ in 0..most {
            let Some(digit) = self.peek().and_then(|byte| char::from(byte).to_digit(base)) else {
                break;
            };
            value = value * base + digit;
            self.at += 1;
        }
        u8::try_from(value).map_err(|_| Error::malformed("an escape is over 255"))
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn length_delimited(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn scalar(out: &mut Vec<u8>, number: u32, kind: Kind, word: &str) -> Option<()> {
    let key = u64::from(number) << 3;
    match kind {
        Kind::Int => {
            varint(out, key);
            varint(out, integer(word)? as u64);
        }
        Kind::Type => {
            varint(out, key);
            varint(out, type_number(word).or_else(|| integer(word))? as u64);
        }
        Kind::Bool => {
            varint(out, key);
            out.push(match word {
                "true" | "True" | "t" | "1" => 1,
                "false" | "False" | "f" | "0" => 0,
                _ => return None,
            });
        }
        Kind::Float => {
            varint(out, key | 5);
            out.extend_from_slice(&(float(word)? as f32).to_le_bytes());
        }
        Kind::Double => {
            varint(out, key | 1);
            out.extend_from_slice(&float(word)?.to_le_bytes());
        }
        Kind::Bytes | Kind::Message(_) => return None,
    }
    Some(())
}

fn integer(word: &str) -> Option<i64> {
    let (sign, digits) = word.strip_prefix('-').map_or((1, word), |digits| (-1, digits));
    let value = if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        i128::from_str_radix(hex, 16).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') {
        i128::from_str_radix(digits, 8).ok()?
    } else {
        digits.parse::<i128>().ok()?
    };
    i64::try_from(sign * value).ok()
}

/// `f64` first: it holds every `f32` exactly, and shortest decimal forms of `f32` round to the same
/// one through it.
fn float(word: &str) -> Option<f64> {
    let digits =
        word.strip_suffix(['f', 'F']).filter(|digits| !digits.ends_with("in")).unwrap_or(word);
    match digits {
        "inf" | "infinity" => Some(f64::INFINITY),
        "-inf" | "-infinity" => Some(f64::NEG_INFINITY),
        "nan" | "-nan" => Some(f64::NAN),
        _ => digits.parse().ok(),
    }
}
