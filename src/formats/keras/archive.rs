//! The zip archive around a Keras 3 model. Three entries are read into memory; nothing is ever
//! unpacked to disk.

use std::io::{Cursor, Read};

use zip::ZipArchive;

use crate::error::{Error, Place, Result};

/// Largest entry that is read, unpacked: far over any recurrent model, far under what a zip bomb
/// would like.
const MAX_ENTRY_BYTES: u64 = 1 << 30;

/// Unpacked bytes allowed for each packed one: deflate cannot exceed about 1,032, real weights stay
/// under 10.
const MAX_RATIO: u64 = 200;

/// The entries of the archive.
pub(super) struct Parts {
    pub config: Vec<u8>,
    pub metadata: Vec<u8>,
    pub weights: Vec<u8>,
}

/// Reads the three entries of a `.keras` archive.
pub(super) fn open(bytes: &[u8]) -> Result<Parts> {
    let mut zip = ZipArchive::new(Cursor::new(bytes))
        .map_err(|error| Error::malformed("not a readable zip archive").with_source(error))?;
    if zip.has_duplicate_names() {
        return Err(Error::malformed("two entries of the archive have the same name"));
    }
    for name in zip.file_names() {
        let name = name.map_err(|error| {
            Error::malformed("an entry's name is unreadable").with_source(error)
        })?;
        if name.split(['/', '\\']).any(|part| part == "..") || name.starts_with(['/', '\\']) {
            return Err(Error::malformed(format!("entry name {name:?} leaves the archive")));
        }
    }
    Ok(Parts {
        config: entry(&mut zip, "config.json", bytes.len())?,
        metadata: entry(&mut zip, "metadata.json", bytes.len())?,
        weights: entry(&mut zip, "model.weights.h5", bytes.len())?,
    })
}

fn entry(zip: &mut ZipArchive<Cursor<&[u8]>>, name: &str, archive_bytes: usize) -> Result<Vec<u8>> {
    let mut read = || -> Result<Vec<u8>> {
        let file = zip
            .by_name(name)
            .map_err(|error| Error::malformed("no such entry").with_source(error))?;
        let limit = MAX_ENTRY_BYTES.min((archive_bytes as u64).saturating_mul(MAX_RATIO));
        if file.size() > limit {
            return Err(Error::limit(format!(
                "unpacks to {} bytes, the limit for this archive is {limit}",
                file.size()
            )));
        }
        let mut out = Vec::new();
        // The declared size may lie, so the reading itself is bounded too.
        file.take(limit + 1)
            .read_to_end(&mut out)
            .map_err(|e| Error::malformed("damaged entry").with_source(e))?;
        if out.len() as u64 > limit {
            return Err(Error::limit(format!("unpacks to more than {limit} bytes")));
        }
        Ok(out)
    };
    read().within(|| name)
}
