//! NumPy's `.npy` arrays and `.npz` archives.
//!
//! Reading takes any bytes: what is not a well-formed array of a type that tensors can hold is an
//! error, and no size in a header is believed before the bytes are there. Written files are plain
//! version 1.0, as `numpy.load` reads them.
//!
//! The header is read here rather than by a crate: the well-known one evaluates it as a Python
//! expression and multiplies the sizes unchecked, so that a crafted file ends the process.

use std::collections::HashSet;
use std::io::{Cursor, Read, Write};
use std::path::Path;

use half::f16;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::{DType, Tensor, element_count, with_storage};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{Error, Place as _, Result};

/// Most bytes of a file, and of what an archive unpacks to: more than any test data, less than a
/// machine's memory.
const MOST_BYTES: u64 = 1 << 32;
/// Most bytes of a `.npy` header; NumPy writes 118 for a plain array.
const MOST_HEADER: usize = 1 << 16;
/// Most entries of an archive.
const MOST_ENTRIES: usize = 1 << 16;

/// Reads a `.npz` archive or a single `.npy` array (which then has the file's stem as its name),
/// entries in the file's order.
///
/// # Errors
/// [`Io`](ErrorKind::Io), and those of [`from_bytes`].
pub fn load(path: impl AsRef<Path>) -> Result<Vec<(String, Tensor)>> {
    let path = path.as_ref();
    let place = || path.display().to_string();
    let size = std::fs::metadata(path).map_err(Error::from).within(place)?.len();
    if size > MOST_BYTES {
        return Err(Error::limit(format!(
            "{size} bytes; files of more than {MOST_BYTES} are not read"
        ))
        .within(place()));
    }
    let bytes = std::fs::read(path).map_err(Error::from).within(place)?;
    if bytes.starts_with(MAGIC) {
        let stem =
            path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        return Ok(vec![(stem, read_npy(&bytes).within(place)?)]);
    }
    from_bytes(&bytes).within(place)
}

/// Reads the entries of a `.npz` archive in the archive's order, names without `.npy`.
///
/// # Errors
/// [`Malformed`](ErrorKind::Malformed), [`Unsupported`](ErrorKind::Unsupported) for element types
/// that tensors do not have, and [`Limit`](ErrorKind::Limit), each with the entry's name.
pub fn from_bytes(bytes: &[u8]) -> Result<Vec<(String, Tensor)>> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| {
        Error::malformed("neither a .npz archive nor a .npy array").with_source(error)
    })?;
    if archive.len() > MOST_ENTRIES {
        return Err(Error::limit(format!(
            "{} entries; at most {MOST_ENTRIES} are read",
            archive.len()
        )));
    }
    // The archive is indexed by name: of entries with one name, only the last is left there.
    if directory_entries(bytes).is_some_and(|listed| listed != archive.len() as u64) {
        return Err(Error::malformed("two entries of the archive have one name"));
    }
    let mut names = HashSet::with_capacity(archive.len());
    let mut entries: Vec<(String, Tensor)> = Vec::with_capacity(archive.len());
    let mut left = MOST_BYTES;
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|error| {
            Error::malformed(format!("entry {index} cannot be read")).with_source(error)
        })?;
        let name = entry
            .name()
            .map_err(|error| {
                Error::malformed(format!("entry {index} has no readable name")).with_source(error)
            })?
            .into_owned();
        let name = name.strip_suffix(".npy").unwrap_or(&name).to_owned();
        if !names.insert(name.clone()) {
            return Err(Error::malformed("there are two entries of this name").within(name));
        }
        let mut data = Vec::new();
        entry.take(left + 1).read_to_end(&mut data).map_err(|error| {
            Error::malformed("cannot be unpacked").with_source(error).within(&*name)
        })?;
        left = left.checked_sub(data.len() as u64).ok_or_else(|| {
            Error::limit(format!("the archive unpacks to more than {MOST_BYTES} bytes"))
        })?;
        let tensor = read_npy(&data).within(|| &*name)?;
        entries.push((name, tensor));
    }
    Ok(entries)
}

/// Number of entries that the directory at the end of a zip archive says; `None` where it has none.
fn directory_entries(bytes: &[u8]) -> Option<u64> {
    /// The record at the very end, and its size without a comment.
    const END: (&[u8], usize) = (b"PK\x05\x06", 22);
    /// The record for more entries than two bytes count, and the pointer to it, 20 bytes that stand
    /// before the end.
    const END_64: &[u8] = b"PK\x06\x06";
    const POINTER_64: (&[u8], usize) = (b"PK\x06\x07", 20);
    /// A comment has two bytes for its length.
    const MOST_COMMENT: usize = u16::MAX as usize;
    let number = |at: usize, size: usize| {
        let field = bytes.get(at..at.checked_add(size)?)?;
        Some(field.iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte)))
    };
    let latest = bytes.len().checked_sub(END.1)?;
    let end = (latest.saturating_sub(MOST_COMMENT)..=latest)
        .rev()
        .find(|&at| bytes.get(at..).is_some_and(|rest| rest.starts_with(END.0)))?;
    let pointer = end.checked_sub(POINTER_64.1);
    let pointer =
        pointer.filter(|&at| bytes.get(at..).is_some_and(|rest| rest.starts_with(POINTER_64.0)));
    match pointer {
        Some(pointer) => {
            let record = usize::try_from(number(pointer + 8, 8)?).ok()?;
            let is_there = bytes.get(record..).is_some_and(|rest| rest.starts_with(END_64));
            is_there.then(|| number(record.checked_add(32)?, 8)).flatten()
        }
        None => number(end + 10, 2),
    }
}

/// Writes a `.npz` archive, entries in this order, stored without compression.
///
/// # Errors
/// [`Io`](ErrorKind::Io).
pub fn save<'a>(
    path: impl AsRef<Path>,
    entries: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<()> {
    let path = path.as_ref();
    let bytes = to_bytes(entries)?;
    crate::files::write_whole(path, &bytes)
}

/// The bytes of a `.npz` archive, entries in this order, stored without compression.
///
/// # Errors
/// [`InvalidInput`](ErrorKind::InvalidInput) when two entries have the same name.
pub fn to_bytes<'a>(entries: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<Vec<u8>> {
    let failed = |error: zip::result::ZipError| {
        Error::input("the archive cannot be written").with_source(error)
    };
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, tensor) in entries {
        let data = write_npy(tensor);
        let options = options.large_file(data.len() as u64 >= u64::from(u32::MAX));
        archive.start_file(format!("{name}.npy"), options).map_err(failed).within(|| name)?;
        archive.write_all(&data).map_err(Error::from).within(|| name)?;
    }
    Ok(archive.finish().map_err(failed)?.into_inner())
}

const MAGIC: &[u8] = b"\x93NUMPY";

/// What the header of an array says.
#[derive(Debug, PartialEq)]
struct Header {
    dtype: DType,
    big_endian: bool,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// Reads a `.npy` array.
///
/// # Errors
/// [`Malformed`](ErrorKind::Malformed), [`Unsupported`](ErrorKind::Unsupported) or
/// [`Limit`](ErrorKind::Limit).
pub fn read_npy(bytes: &[u8]) -> Result<Tensor> {
    let cut = || Error::malformed("the array ends inside its header");
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| Error::malformed("no .npy array: its magic bytes are missing"))?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
    let (length, rest) = match version {
        [1, _] => rest
            .split_first_chunk::<2>()
            .map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest)),
        [2 | 3, _] => {
            rest.split_first_chunk::<4>().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest))
        }
        [major, minor] => {
            return Err(Error::unsupported(format!("version {major}.{minor} of the .npy format")));
        }
    }
    .ok_or_else(cut)?;
    if length > MOST_HEADER {
        return Err(Error::limit(format!(
            "a header of {length} bytes; at most {MOST_HEADER} are read"
        )));
    }
    let (text, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    let text = std::str::from_utf8(text).map_err(|_| Error::malformed("the header is not text"))?;
    let header = parse_header(text)?;
    read_elements(&header, data)
}

/// Parses `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`: these three keys in any
/// order, nothing else.
fn parse_header(text: &str) -> Result<Header> {
    let wrong = |what: &str| Error::malformed(format!("{what} in the header `{}`", text.trim()));
    let body = text
        .trim()
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .ok_or_else(|| wrong("no braces"))?;
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    let mut rest = body.trim();
    while !rest.is_empty() {
        let (key, after) = quoted(rest).ok_or_else(|| wrong("no quoted key"))?;
        let after =
            after.trim_start().strip_prefix(':').ok_or_else(|| wrong("no colon"))?.trim_start();
        let after = match key {
            "descr" if descr.is_none() => {
                let Some((value, after)) = quoted(after) else {
                    return Err(Error::unsupported(format!(
                        "an array of records: `{}`",
                        text.trim()
                    )));
                };
                descr = Some(value);
                after
            }
            "fortran_order" if fortran_order.is_none() => {
                let (value, after) = match (after.strip_prefix("True"), after.strip_prefix("False"))
                {
                    (Some(after), _) => (true, after),
                    (_, Some(after)) => (false, after),
                    (None, None) => return Err(wrong("no truth value")),
                };
                fortran_order = Some(value);
                after
            }
            "shape" if shape.is_none() => {
                let (inner, after) = after
                    .strip_prefix('(')
                    .and_then(|inner| inner.split_once(')'))
                    .ok_or_else(|| wrong("no tuple as the shape"))?;
                shape = Some(parse_shape(inner).ok_or_else(|| wrong("no tuple of sizes"))?);
                after
            }
            _ => return Err(wrong("an unknown or repeated key")),
        };
        rest = after.trim_start();
        rest = match rest.strip_prefix(',') {
            Some(after) => after.trim_start(),
            None if rest.is_empty() => rest,
            None => return Err(wrong("no comma")),
        };
    }
    let (Some(descr), Some(fortran_order), Some(shape)) = (descr, fortran_order, shape) else {
        return Err(wrong("a missing key"));
    };
    let (big_endian, kind) = match descr.split_at_checked(1) {
        Some(("<" | "=" | "|", kind)) => (false, kind),
        Some((">", kind)) => (true, kind),
        _ => return Err(Error::unsupported(format!("elements of type `{descr}`"))),
    };
    let dtype = match kind {
        "f4" => DType::F32,
        "f8" => DType::F64,
        "f2" => DType::F16,
        "i1" => DType::I8,
        "u1" => DType::U8,
        "i2" => DType::I16,
        "i4" => DType::I32,
        "i8" => DType::I64,
        "b1" => DType::Bool,
        _ => return Err(Error::unsupported(format!("elements of type `{descr}`"))),
    };
    Ok(Header { dtype, big_endian, fortran_order, shape })
}

/// A leading quoted word and what stands after it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text.get(1..)?.split_once(quote)
}

/// `2, 3`, `5,` or nothing.
fn parse_shape(inner: &str) -> Option<Vec<usize>> {
    let inner = inner.trim();
    let inner = inner.strip_suffix(',').unwrap_or(inner);
    if inner.is_empty() {
        return Some(Vec::new());
    }
    // Python 2 wrote long integers as `3L`.
    inner.split(',').map(|size| size.trim().trim_end_matches('L').parse().ok()).collect()
}

fn read_elements(header: &Header, data: &[u8]) -> Result<Tensor> {
    let count = element_count(&header.shape)?;
    let size = header.dtype.size();
    let needed = count
        .checked_mul(size)
        .ok_or_else(|| Error::limit("the array is larger than any memory"))?;
    if data.len() != needed {
        let (shape, dtype) = (&header.shape, header.dtype);
        return Err(Error::malformed(format!(
            "{dtype} {shape:?} takes {needed} bytes, {} are there",
            data.len()
        )));
    }
    macro_rules! numbers {
        ($ty:ty) => {{
            const SIZE: usize = size_of::<$ty>();
            let (chunks, _) = data.as_chunks::<SIZE>();
            let read = if header.big_endian { <$ty>::from_be_bytes } else { <$ty>::from_le_bytes };
            chunks.iter().map(|bytes| read(*bytes)).collect::<Vec<$ty>>()
        }};
    }
    macro_rules! tensor {
        ($values:expr) => {{
            let values = $values;
            let values =
                if header.fortran_order { row_major(&values, &header.shape) } else { values };
            Tensor::from_vec(&header.shape, values)
        }};
    }
    match header.dtype {
        DType::F32 => tensor!(numbers!(f32)),
        DType::F64 => tensor!(numbers!(f64)),
        DType::F16 => tensor!(numbers!(f16)),
        DType::I8 => tensor!(numbers!(i8)),
        DType::U8 => tensor!(data.to_vec()),
        DType::I16 => tensor!(numbers!(i16)),
        DType::I32 => tensor!(numbers!(i32)),
        DType::I64 => tensor!(numbers!(i64)),
        DType::Bool => tensor!(data.iter().map(|&byte| byte != 0).collect::<Vec<_>>()),
    }
}

/// The elements of an array whose first axis runs fastest, in the order of one whose last axis
/// does.
fn row_major<E: Copy>(values: &[E], shape: &[usize]) -> Vec<E> {
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = 1;
    for &size in shape {
        strides.push(stride);
        stride *= size;
    }
    let mut index = vec![0; shape.len()];
    let mut out = Vec::with_capacity(values.len());
    while out.len() < values.len() {
        let at: usize = index.iter().zip(&strides).map(|(i, stride)| i * stride).sum();
        out.extend(values.get(at).copied());
        for (i, &size) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < size {
                break;
            }
            *i = 0;
        }
    }
    out
}

/// The bytes of a `.npy` array, version 1.0, little-endian.
pub fn write_npy(tensor: &Tensor) -> Vec<u8> {
    let descr = match tensor.dtype() {
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::F16 => "<f2",
        DType::I8 => "|i1",
        DType::U8 => "|u1",
        DType::I16 => "<i2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::Bool => "|b1",
    };
    let sizes: String = tensor.shape().iter().map(|size| format!("{size}, ")).collect();
    let sizes =
        if tensor.shape().len() == 1 { sizes.trim_end() } else { sizes.trim_end_matches(", ") };
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}), }}");
    // NumPy pads so that the data begin at a multiple of 64 bytes; 10 bytes stand before the
    // header.
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = Vec::with_capacity(10 + header.len() + tensor.byte_len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[1, 0]);
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    with_storage!(tensor.storage(), values => values.iter().for_each(|&value| value.push(&mut bytes)));
    bytes
}

/// A number or truth value as a little-endian file has it.
trait LittleEndian: Copy {
    fn push(self, bytes: &mut Vec<u8>);
}

macro_rules! little_endian {
    ($($ty:ty)*) => { $(impl LittleEndian for $ty {
        fn push(self, bytes: &mut Vec<u8>) {
            bytes.extend_from_slice(&self.to_le_bytes());
        }
    })* };
}
little_endian!(f32 f64 f16 i8 u8 i16 i32 i64);

impl LittleEndian for bool {
    fn push(self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(self));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn samples() -> Vec<(&'static str, Tensor)> {
        vec![
            (
                "f32",
                Tensor::from_vec(&[2, 3], vec![1.5f32, -2.0, f32::NAN, f32::INFINITY, 1e-40, 0.0])
                    .unwrap(),
            ),
            ("f64", Tensor::scalar(std::f64::consts::PI)),
            ("f16", Tensor::from_vec(&[2], vec![f16::from_f32(0.5), f16::MAX]).unwrap()),
            ("i8", Tensor::from_vec(&[3], vec![-128i8, 0, 127]).unwrap()),
            ("u8", Tensor::from_vec(&[1, 2], vec![0u8, 255]).unwrap()),
            ("i16", Tensor::from_vec(&[2], vec![i16::MIN, i16::MAX]).unwrap()),
            ("i32", Tensor::from_vec(&[2, 0], Vec::<i32>::new()).unwrap()),
            ("run+.out.a.b:0", Tensor::from_vec(&[1], vec![i64::MIN]).unwrap()),
            ("bool", Tensor::from_vec(&[2], vec![true, false]).unwrap()),
        ]
    }

    fn array(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes =
            [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes()].concat();
        bytes.extend_from_slice(data);
        bytes
    }

    #[test]
    fn an_archive_comes_back_as_it_was_written() {
        let samples = samples();
        let bytes = to_bytes(samples.iter().map(|(name, tensor)| (*name, tensor))).unwrap();
        let back = from_bytes(&bytes).unwrap();
        assert_eq!(back.len(), samples.len());
        for ((name, tensor), (read_name, read)) in samples.iter().zip(&back) {
            assert_eq!(name, read_name);
            // NaN is not equal to itself: compare what would be written.
            assert_eq!(write_npy(tensor), write_npy(read), "{name}");
        }
    }

    #[test]
    fn data_begin_at_a_multiple_of_64_bytes() {
        for (name, tensor) in samples() {
            assert_eq!((write_npy(&tensor).len() - tensor.byte_len()) % 64, 0, "{name}");
        }
    }

    #[test]
    fn big_endian_and_fortran_order_are_converted() {
        let header = "{'shape': (2, 3), 'fortran_order': True, 'descr': '>i2'}";
        let data: Vec<u8> = [1i16, 4, 2, 5, 3, 6].iter().flat_map(|n| n.to_be_bytes()).collect();
        let tensor = read_npy(&array(header, &data)).unwrap();
        assert_eq!(tensor.shape(), [2, 3]);
        assert_eq!(tensor.as_slice::<i16>().unwrap(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn every_prefix_and_every_changed_byte_is_read_or_refused() {
        let samples = samples();
        let bytes = to_bytes(samples.iter().map(|(name, tensor)| (*name, tensor))).unwrap();
        for length in 0..bytes.len() {
            assert!(from_bytes(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
        }
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                let _ = from_bytes(&changed);
            }
        }
    }

    #[test]
    fn broken_headers_are_named() {
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }";
        assert!(read_npy(&array(good, &[0; 4])).is_ok());
        for (header, data, kind) in [
            ("", 4, ErrorKind::Malformed),
            ("{}", 4, ErrorKind::Malformed),
            ("{'descr': '<f4', 'fortran_order': False}", 4, ErrorKind::Malformed),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", 4, ErrorKind::Malformed),
            ("{'descr': '<f4', 'fortran_order': 1, 'shape': (1,)}", 4, ErrorKind::Malformed),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'shape': (1,)}",
                4,
                ErrorKind::Malformed,
            ),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", 4, ErrorKind::Malformed),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", 5, ErrorKind::Malformed),
            ("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", 8, ErrorKind::Unsupported),
            ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", 8, ErrorKind::Unsupported),
            ("{'descr': '', 'fortran_order': False, 'shape': (1,)}", 8, ErrorKind::Unsupported),
            (
                "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
                4,
                ErrorKind::Unsupported,
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 16)}",
                4,
                ErrorKind::Limit,
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999,)}",
                4,
                ErrorKind::Malformed,
            ),
        ] {
            let error = read_npy(&array(header, &vec![0; data])).expect_err(header);
            assert_eq!(error.kind(), kind, "{header}: {error}");
        }
        assert_eq!(read_npy(b"\x93NUMPY\x07\x00\x00").unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(
            read_npy(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").unwrap_err().kind(),
            ErrorKind::Limit
        );
    }

    #[test]
    fn two_entries_of_one_name_are_refused() {
        let tensor = Tensor::scalar(1.0f32);
        assert!(to_bytes([("a", &tensor), ("a", &tensor)]).is_err());
    }

    #[test]
    fn two_entries_of_one_name_in_a_file_are_refused() {
        let x = Tensor::scalar(1.0f32);
        let mut bytes = to_bytes([("aa", &x), ("ab", &x)]).unwrap();
        assert_eq!(directory_entries(&bytes), Some(2));
        // The names in the local headers and in the directory.
        for at in 0..bytes.len() - 6 {
            if &bytes[at..at + 6] == b"ab.npy" {
                bytes[at + 1] = b'a';
            }
        }
        let error = from_bytes(&bytes).unwrap_err();
        assert!(error.to_string().contains("one name"), "{error}");
    }

    #[test]
    fn reading_many_entries_is_linear() {
        let x = Tensor::scalar(0u8);
        let names: Vec<String> = (0..20_000).map(|n| format!("entry {n}")).collect();
        let bytes = to_bytes(names.iter().map(|name| (name.as_str(), &x))).unwrap();
        assert_eq!(from_bytes(&bytes).unwrap().len(), names.len());
    }
}
