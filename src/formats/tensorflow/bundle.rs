//! Tensor bundles: how TensorFlow stores variables. `variables.index` is a sorted string table from
//! keys to places, `variables.data-00000-of-0000N` hold the bytes.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use prost::Message;

use super::folder;
use super::limits::varint;
use super::messages::{BundleEntry, BundleHeader};
use super::tensor;
use crate::error::{Error, Place, Result};
use crate::tensor::{Tensor, element_count};

/// Largest index that is read; it has some 60 bytes a variable.
const MOST_INDEX_BYTES: u64 = 64 << 20;

/// Ends the last 48 bytes of a table.
const MAGIC: [u8; 8] = [0x57, 0xfb, 0x80, 0x8b, 0x24, 0x75, 0x47, 0xdb];

/// Length of the footer: two block handles of up to 20 bytes and the magic number.
const FOOTER: usize = 48;

/// A bundle: where each tensor lies.
#[derive(Debug)]
pub struct Bundle {
    folder: PathBuf,
    /// Path inside the folder, without `.index`.
    prefix: String,
    shards: i32,
    entries: BTreeMap<String, BundleEntry>,
}

impl Bundle {
    /// Reads the index of the bundle at `prefix` inside `folder` (the path without `.index`);
    /// `None` when the folder has none.
    pub fn open(folder: &Path, prefix: &str) -> Result<Option<Bundle>> {
        let index = format!("{prefix}.index");
        if !folder::has(folder, &index) {
            return Ok(None);
        }
        let bytes = folder::read(folder, &index, MOST_INDEX_BYTES)?;
        let place = || folder.join(&index).display().to_string();
        let (header, entries) = read_index(&bytes).within(place)?;
        let (folder, prefix) = (folder.to_owned(), prefix.to_owned());
        Ok(Some(Bundle { folder, prefix, shards: header.num_shards, entries }))
    }

    /// Whether there is a tensor of this key.
    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The bytes of an entry.
    pub fn bytes(&self, key: &str) -> Result<Vec<u8>> {
        let entry = self.entry(key)?;
        let part = format!("{}.data-{:05}-of-{:05}", self.prefix, entry.shard_id, self.shards);
        let (mut file, length) = folder::open(&self.folder, &part)?;
        let mut read = || -> Result<Vec<u8>> {
            let range = u64::try_from(entry.offset).ok().zip(u64::try_from(entry.size).ok());
            let (offset, size) = range
                .filter(|(offset, size)| offset.checked_add(*size).is_some_and(|end| end <= length))
                .ok_or_else(|| {
                    Error::malformed(format!("'{key}' lies outside of the file's {length} bytes"))
                })?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::with_capacity(size as usize);
            (&mut file).take(size).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().within(|| self.folder.join(&part).display().to_string())
    }

    /// A tensor.
    pub fn read(&self, key: &str) -> Result<Tensor> {
        let entry = self.entry(key)?;
        if !entry.slices.is_empty() {
            return Err(Error::unsupported(format!("'{key}' is stored in slices")));
        }
        let kind = tensor::stored(entry.dtype)?;
        let dims = match &entry.shape {
            Some(shape) => tensor::dims(shape)?,
            None => Some(Vec::new()),
        };
        let shape: Vec<usize> = dims
            .and_then(|dims| dims.into_iter().collect())
            .ok_or_else(|| Error::malformed(format!("the shape of '{key}' is open")))?;
        let bytes = element_count(&shape)?.checked_mul(kind.size());
        if bytes.and_then(|bytes| i64::try_from(bytes).ok()) != Some(entry.size) {
            return Err(Error::malformed(format!(
                "'{key}' has {} bytes for {kind:?} {shape:?}",
                entry.size
            )));
        }
        tensor::from_bytes(kind, &shape, &self.bytes(key)?)
    }

    fn entry(&self, key: &str) -> Result<&BundleEntry> {
        self.entries
            .get(key)
            .ok_or_else(|| Error::malformed(format!("the variables have no '{key}'")))
    }
}

/// The header and the entries of an index.
fn read_index(bytes: &[u8]) -> Result<(BundleHeader, BTreeMap<String, BundleEntry>)> {
    let broken = || Error::malformed("the index of the variables is no table, or cut off");
    let footer =
        bytes.len().checked_sub(FOOTER).and_then(|start| bytes.get(start..)).ok_or_else(broken)?;
    if !footer.ends_with(&MAGIC) {
        return Err(broken());
    }
    let mut rest = footer;
    let handles: Option<Vec<u64>> = (0..4).map(|_| varint(&mut rest)).collect();
    // The first handle is that of the table's metadata, which bundles do not use.
    let [_, _, offset, size] = handles.unwrap_or_default()[..] else { return Err(broken()) };
    let mut header = None;
    let mut entries = BTreeMap::new();
    for (_, handle) in block(bytes, offset, size)? {
        let mut handle = handle;
        let (offset, size) = varint(&mut handle).zip(varint(&mut handle)).ok_or_else(broken)?;
        for (key, value) in block(bytes, offset, size)? {
            let decode = |error| {
                Error::malformed("an entry of the index cannot be decoded").with_source(error)
            };
            if key.is_empty() {
                header = Some(BundleHeader::decode(value).map_err(decode)?);
                continue;
            }
            let key = String::from_utf8(key)
                .map_err(|_| Error::malformed("a key of the index is no UTF-8 text"))?;
            entries.insert(key, BundleEntry::decode(value).map_err(decode)?);
        }
    }
    let header = header.ok_or_else(|| Error::malformed("the index has no header"))?;
    if header.endianness != 0 {
        return Err(Error::unsupported("the variables are stored big endian"));
    }
    Ok((header, entries))
}

/// Keys and values of a block. A key shares its beginning with the key before it.
fn block(bytes: &[u8], offset: u64, size: u64) -> Result<Vec<(Vec<u8>, &[u8])>> {
    let broken = || Error::malformed("a block of the index is broken");
    let start = usize::try_from(offset).map_err(|_| broken())?;
    let end =
        usize::try_from(size).ok().and_then(|size| start.checked_add(size)).ok_or_else(broken)?;
    let content = bytes.get(start..end).ok_or_else(broken)?;
    // One byte behind the block says how it is compressed.
    match bytes.get(end) {
        Some(0) => {}
        Some(_) => return Err(Error::unsupported("the index of the variables is compressed")),
        None => return Err(broken()),
    }
    // Restart points end the block: their places, and their number.
    let count = content.len().checked_sub(4).and_then(|at| content.get(at..)).ok_or_else(broken)?;
    let count = u32::from_le_bytes(count.try_into().map_err(|_| broken())?) as usize;
    let restarts = count.checked_add(1).and_then(|n| n.checked_mul(4)).ok_or_else(broken)?;
    let mut rest = content
        .len()
        .checked_sub(restarts)
        .and_then(|end| content.get(..end))
        .ok_or_else(broken)?;
    let mut key: Vec<u8> = Vec::new();
    let mut entries = Vec::new();
    let mut key_bytes = 0usize;
    while !rest.is_empty() {
        let mut number =
            || varint(&mut rest).and_then(|n| usize::try_from(n).ok()).ok_or_else(broken);
        let (shared, fresh, length) = (number()?, number()?, number()?);
        let (delta, after) = rest.split_at_checked(fresh).ok_or_else(broken)?;
        let (value, after) = after.split_at_checked(length).ok_or_else(broken)?;
        rest = after;
        if shared > key.len() {
            return Err(broken());
        }
        key.truncate(shared);
        key.extend_from_slice(delta);
        // Shared beginnings could blow a small file up; real keys have some 60 bytes.
        key_bytes = key_bytes.saturating_add(key.len());
        if key_bytes as u64 > MOST_INDEX_BYTES {
            return Err(Error::limit("the keys of the index take too much memory"));
        }
        entries.push((key.clone(), value));
    }
    Ok(entries)
}
