//! Files that are written whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Place as _, Result};

/// Writes a file: the bytes go to a new file beside it, onto the disk, and take its name when they
/// are all there. After a failure at any point, the end of the process included, an earlier file of
/// that name is as it was. What is no regular file (`/dev/null`, a pipe) is written to directly.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) with the path.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes).map_err(Error::from).within(|| path.display().to_string())
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // The file that a link leads to is replaced, not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let present = fs::metadata(&target).ok();
    if present.as_ref().is_some_and(|about| !about.is_file()) {
        let mut file = OpenOptions::new().write(true).open(&target)?;
        return file.write_all(bytes).and_then(|()| file.flush());
    }
    let (beside, file) = create_beside(&target)?;
    let written = fill(file, bytes, present.as_ref()).and_then(|()| fs::rename(&beside, &target));
    if written.is_err() {
        // What failed is reported; that the rest of it stays behind as well would not help.
        let _ = fs::remove_file(&beside);
        return written;
    }
    sync_folder(&target);
    Ok(())
}

fn fill(mut file: File, bytes: &[u8], present: Option<&fs::Metadata>) -> std::io::Result<()> {
    file.write_all(bytes)?;
    if let Some(about) = present {
        file.set_permissions(about.permissions())?;
    }
    file.sync_all()
}

/// A new, empty file in the folder of `target`, under a name of its own.
fn create_beside(target: &Path) -> std::io::Result<(PathBuf, File)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    /// Names that are tried: each is taken only where a process of this number was killed.
    const MOST_TRIES: u32 = 100;
    let name = target
        .file_name()
        .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidInput, "no file name"))?;
    let mut last = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
    for _ in 0..MOST_TRIES {
        let mut temporary = OsString::from(".");
        temporary.push(name);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        temporary.push(format!(".{}-{number}.tmp", std::process::id()));
        let beside = target.with_file_name(temporary);
        match OpenOptions::new().write(true).create_new(true).open(&beside) {
            Ok(file) => return Ok((beside, file)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// The new name onto the disk as well, where the system can do that for a folder.
fn sync_folder(target: &Path) {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("fuselstm-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_file_is_replaced_and_nothing_stays_beside_it() {
        let folder = folder("replaced");
        let path = folder.join("x.bin");
        write_whole(&path, b"old").unwrap();
        write_whole(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_failure_names_the_path_and_leaves_what_was_there() {
        let folder = folder("failed");
        let path = folder.join("sub");
        fs::create_dir(&path).unwrap();
        let error = write_whole(&path, b"x").unwrap_err();
        assert!(error.to_string().contains("sub"), "{error}");
        assert!(write_whole(&folder.join("none/x"), b"x").is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link_and_a_device_is_written_to() {
        let folder = folder("link");
        fs::write(folder.join("real"), "old").unwrap();
        std::os::unix::fs::symlink("real", folder.join("link")).unwrap();
        write_whole(&folder.join("link"), b"new").unwrap();
        assert_eq!(fs::read(folder.join("real")).unwrap(), b"new");
        assert!(fs::symlink_metadata(folder.join("link")).unwrap().is_symlink());
        write_whole(Path::new("/dev/null"), b"x").unwrap();
        fs::remove_dir_all(folder).unwrap();
    }
}
