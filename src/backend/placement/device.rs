//! The name of a device, as a user writes it.

use std::fmt;
use std::str::FromStr;

use crate::backend::AdapterSelector;
use crate::error::Error;

/// Where a session runs.
///
/// As text: `auto`, `reference`, `cpu`, `gpu`, `gpu:N` (the N-th adapter of `fuselstm devices`) or
/// `gpu:NAME` (the first adapter whose name contains NAME, whatever the case; `gpu:name=4090` where
/// NAME looks like a number).
///
/// ```
/// let device: fuselstm::Device = "gpu:llvmpipe".parse()?;
/// assert_eq!(device, fuselstm::Device::gpu_named("llvmpipe"));
/// # Ok::<(), fuselstm::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Auto,
    Reference,
    Cpu,
    Gpu(AdapterSelector),
}

impl Device {
    /// The GPU when there is a real one (no software driver) and the work is big enough to gain
    /// from it, else the processor. [`Session::notes`](crate::Session::notes) says which and why.
    pub const fn auto() -> Self {
        Device { kind: Kind::Auto }
    }

    /// The processor's fast path.
    pub const fn cpu() -> Self {
        Device { kind: Kind::Cpu }
    }

    /// The plain equations: slow, exact, the judge of the others.
    pub const fn reference() -> Self {
        Device { kind: Kind::Reference }
    }

    /// The best GPU adapter; a software driver when there is nothing else.
    pub const fn gpu() -> Self {
        Device { kind: Kind::Gpu(AdapterSelector::Any) }
    }

    /// The GPU adapter of this number, as `fuselstm devices` counts them.
    pub const fn gpu_index(index: usize) -> Self {
        Device { kind: Kind::Gpu(AdapterSelector::Index(index)) }
    }

    /// The first GPU adapter whose name contains `name`, whatever the case.
    pub fn gpu_named(name: impl Into<String>) -> Self {
        Device { kind: Kind::Gpu(AdapterSelector::Name(name.into())) }
    }

    /// Whether this asks for a GPU.
    pub const fn is_gpu(&self) -> bool {
        matches!(self.kind, Kind::Gpu(_))
    }

    /// Whether this is the reference.
    pub const fn is_reference(&self) -> bool {
        matches!(self.kind, Kind::Reference)
    }
}

impl Default for Device {
    fn default() -> Self {
        Device::auto()
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(Device::auto()),
            "reference" => Ok(Device::reference()),
            "cpu" => Ok(Device::cpu()),
            "gpu" => Ok(Device::gpu()),
            _ => match text.strip_prefix("gpu:") {
                None | Some("") => Err(Error::input(format!(
                    "no device is called `{text}`: auto, reference, cpu, gpu, gpu:N or gpu:NAME was expected"
                ))),
                Some(adapter) => Ok(Device { kind: Kind::Gpu(adapter.parse()?) }),
            },
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Auto => f.pad("auto"),
            Kind::Reference => f.pad("reference"),
            Kind::Cpu => f.pad("cpu"),
            Kind::Gpu(AdapterSelector::Any) => f.pad("gpu"),
            Kind::Gpu(selector) => f.pad(&format!("gpu:{selector}")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn text_and_device_are_each_others_inverse() {
        for text in [
            "auto",
            "reference",
            "cpu",
            "gpu",
            "gpu:0",
            "gpu:17",
            "gpu:Radeon RX",
            "gpu:nvidia",
            "gpu:name=4090",
        ] {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
        }
        let named = Device::gpu_named("4090");
        assert_ne!(named, Device::gpu_index(4090));
        assert_eq!(named.to_string().parse::<Device>().unwrap(), named);
        for text in ["", "GPU", "gpu:", "tpu", "cpu:0", "auto ", "gpu0"] {
            assert!(text.parse::<Device>().is_err(), "{text}");
        }
    }
}
