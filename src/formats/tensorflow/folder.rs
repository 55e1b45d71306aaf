//! The files of a SavedModel folder: plain files inside of it, nothing else.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::error::{Error, ErrorKind, Place, Result};

/// Whether the folder has an entry of this name, of whatever kind.
pub fn has(folder: &Path, part: &str) -> bool {
    fs::symlink_metadata(folder.join(part)).is_ok()
}

/// Opens a file of a folder, and says how long it is.
///
/// # Errors
/// [`Io`](ErrorKind::Io) when there is none, or when it is no plain file (a pipe would be waited
/// for without end, a device read without end); [`Unsupported`](ErrorKind::Unsupported) for a link
/// that leaves the folder.
pub fn open(folder: &Path, part: &str) -> Result<(File, u64)> {
    let path = folder.join(part);
    let checked = || -> Result<(File, u64)> {
        let real = path.canonicalize()?;
        if !real.starts_with(folder.canonicalize()?) {
            return Err(Error::unsupported(format!(
                "is a link out of the model's folder, to {}",
                real.display()
            )));
        }
        // Asked before it is opened: opening a pipe waits for a writer.
        if !fs::metadata(&real)?.is_file() {
            return Err(Error::new(ErrorKind::Io, "is not a file"));
        }
        let file = File::open(&real)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    };
    checked().within(|| path.display().to_string())
}

/// Reads a whole file of a folder.
///
/// # Errors
/// As [`open`], and [`Limit`](ErrorKind::Limit) for more than `most` bytes.
pub fn read(folder: &Path, part: &str, most: u64) -> Result<Vec<u8>> {
    let (file, length) = open(folder, part)?;
    let limit = || Error::limit(format!("the file has {length} bytes, over the limit of {most}"));
    let place = || folder.join(part).display().to_string();
    if length > most {
        return Err(limit().within(place()));
    }
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes).map_err(Error::from).within(place)?;
    Ok(bytes)
}
