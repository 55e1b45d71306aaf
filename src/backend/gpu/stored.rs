//! Compiled pipelines kept from one process to the next: a file for each adapter and driver version
//! in the user's cache folder, where the driver grants wgpu's pipeline cache. A driver takes 50 to
//! 500 ms to compile a kernel; many keep a cache of their own, then this one changes little.
//!
//! `BackendOptions::uncached` turns it off. A file that is cut off, changed or of another adapter
//! or driver is ignored and written anew.
//!
//! wgpu calls the function that takes the file's bytes unsafe, because drivers trust them. They are
//! handed over only when they are what this module wrote (a checksum over all of them) for the same
//! adapter and the same driver version; wgpu and the driver check once more. Against someone who
//! may write to the user's cache folder none of this helps, nor would the driver's own cache there.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;

use super::device::{AdapterReport, Device};

/// The first bytes of a file; the number changes with its form.
const MAGIC: &[u8] = b"fuselstm pipelines 1\n";
/// Larger files are begun anew: nothing ever leaves a driver's cache.
const MOST_BYTES: u64 = 64 << 20;

/// The pipeline cache of a device, and the file that it comes from and goes to.
pub(super) struct Stored {
    pub(super) cache: wgpu::PipelineCache,
    path: PathBuf,
    key: String,
    /// Checksum of what was read.
    read: Option<u64>,
}

impl Stored {
    /// The cache of this adapter and driver; `None` where there is none to be had.
    pub(super) fn open(device: &Device) -> Option<Stored> {
        let folder =
            etcetera::choose_base_strategy().ok()?.cache_dir().join("fuselstm").join("pipelines");
        Stored::open_in(&folder, device)
    }

    fn open_in(folder: &Path, device: &Device) -> Option<Stored> {
        if !device.device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let key = key(&device.report);
        let path = folder.join(format!("{:016x}.bin", checksum(key.as_bytes())));
        let data = match read(&path, &key) {
            Ok(data) => data,
            Err(reason) => {
                log::warn!("{} is ignored: {reason}", path.display());
                None
            }
        };
        let descriptor = wgpu::PipelineCacheDescriptor {
            label: Some("fuselstm"),
            data: data.as_deref(),
            fallback: true,
        };
        let cache = device.guarded(|| {
            // SAFETY: the data is what `get_data` returned for an adapter and a driver of these
            // names and versions: `read` saw to it.
            unsafe { device.device.create_pipeline_cache(&descriptor) }
        });
        match cache {
            Ok(cache) => Some(Stored { cache, path, key, read: data.as_deref().map(checksum) }),
            Err(error) => {
                log::warn!("pipelines are not kept: {error}");
                None
            }
        }
    }

    /// Writes what the cache holds by now, when that is something new.
    pub(super) fn save(&self) {
        let Some(data) = self.cache.get_data() else { return };
        if self.read == Some(checksum(&data)) {
            return;
        }
        if let Err(error) = write(&self.path, &encode(&self.key, &data)) {
            log::warn!("{} could not be written: {error}", self.path.display());
        }
    }
}

/// What a cache belongs to.
fn key(report: &AdapterReport) -> String {
    let mut key = String::new();
    for part in [&report.name, &report.driver] {
        let _ = writeln!(key, "{part}");
    }
    key + report.api
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Magic, checksum of the rest, length of the key, key, data; numbers with the low byte first.
fn encode(key: &str, data: &[u8]) -> Vec<u8> {
    let mut rest = (key.len() as u64).to_le_bytes().to_vec();
    rest.extend_from_slice(key.as_bytes());
    rest.extend_from_slice(data);
    [MAGIC, &checksum(&rest).to_le_bytes(), &rest].concat()
}

/// The data of a file, or why it is not used.
fn decode<'a>(bytes: &'a [u8], key: &str) -> Result<&'a [u8], &'static str> {
    let rest =
        bytes.strip_prefix(MAGIC).ok_or("it is no file of pipelines in this version's form")?;
    let (sum, rest) = rest.split_first_chunk().ok_or("it is cut off")?;
    if u64::from_le_bytes(*sum) != checksum(rest) {
        return Err("its checksum is wrong");
    }
    let (length, rest) = rest.split_first_chunk().ok_or("it is cut off")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| "it is cut off")?;
    match rest.split_at_checked(length) {
        Some((found, data)) if found == key.as_bytes() => Ok(data),
        Some(_) => Err("it is of another adapter or driver"),
        None => Err("it is cut off"),
    }
}

/// The data of the file, when there is one.
fn read(path: &Path, key: &str) -> Result<Option<Vec<u8>>, String> {
    match std::fs::metadata(path) {
        Ok(file) if file.len() > MOST_BYTES => {
            return Err(format!("it has over {MOST_BYTES} bytes"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    decode(&bytes, key).map(|data| Some(data.to_vec())).map_err(str::to_owned)
}

/// Written aside and moved into place: another process reads the old file or the new one.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let aside = path.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&aside, bytes)?;
    std::fs::rename(&aside, path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::device::Meter;
    use super::super::pipeline::{Kernel, Pipelines, Shader};
    use super::super::testing::gpu;
    use super::*;

    #[test]
    fn only_what_was_written_for_the_adapter_is_read() {
        let file = encode("adapter and driver", &[1, 2, 3, 4]);
        assert_eq!(decode(&file, "adapter and driver"), Ok(&[1u8, 2, 3, 4][..]));
        assert_eq!(
            decode(&file, "adapter and another driver"),
            Err("it is of another adapter or driver")
        );
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 0x10;
            assert!(decode(&changed, "adapter and driver").is_err(), "byte {at}");
            assert!(decode(&file[..at], "adapter and driver").is_err(), "{at} bytes");
        }
    }

    #[test]
    fn a_file_is_written_used_and_replaced_when_it_is_broken() {
        let Some(gpu) = gpu() else { return };
        let device = &gpu.shared.device;
        let folder =
            std::env::temp_dir().join(format!("fuselstm-pipelines-{}", std::process::id()));
        let Some(stored) = Stored::open_in(&folder, device) else { return };
        let path = stored.path.clone();
        assert!(stored.read.is_none() && !path.exists());
        let build = |stored: Stored| {
            let pipelines = Pipelines::new(true, Some(stored));
            pipelines.get(device, &Kernel::new(Shader::Fill), &Meter::default()).unwrap();
        };
        build(stored);
        let first = std::fs::read(&path).unwrap();
        let again = Stored::open_in(&folder, device).unwrap();
        assert!(again.read.is_some());
        build(again);
        std::fs::write(&path, &first[..first.len() / 2]).unwrap();
        let broken = Stored::open_in(&folder, device).unwrap();
        assert!(broken.read.is_none());
        build(broken);
        assert!(read(&path, &key(&device.report)).unwrap().is_some(), "it was written anew");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
