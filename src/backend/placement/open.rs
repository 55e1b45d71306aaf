//! From the name of a device to a backend, and the graph that the backend is given.

use std::sync::Arc;

use super::cost::Cost;
use super::device::{Device, Kind};
use super::fallback::Fallback;
use crate::backend::cpu::CpuBackend;
use crate::backend::reference::Reference;
use crate::backend::{AdapterSelector, Backend, BackendOptions, Precision};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::passes::dequantize::dequantize;
#[cfg(feature = "gpu")]
use crate::text::bytes;

/// An open device.
pub(crate) struct Opened {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) graph: Arc<Graph>,
    pub(crate) notes: Vec<String>,
}

pub(crate) fn open(
    device: &Device,
    options: &BackendOptions,
    graph: &Arc<Graph>,
) -> Result<Opened> {
    match &device.kind {
        Kind::Auto => auto(options, graph),
        Kind::Reference => {
            refuse_options(options, "reference", false, false)?;
            Ok(Opened { backend: Arc::new(Reference), graph: graph.clone(), notes: Vec::new() })
        }
        Kind::Cpu => {
            refuse_options(options, "cpu", true, false)?;
            Ok(Opened { backend: cpu(options)?, graph: float(graph)?, notes: Vec::new() })
        }
        Kind::Gpu(adapter) => {
            refuse_options(options, "gpu", false, true)?;
            Ok(Opened { backend: gpu(adapter, options)?, graph: float(graph)?, notes: Vec::new() })
        }
    }
}

/// The GPU where it is real, large enough a gain is expected, and it takes the model; the processor
/// otherwise.
fn auto(options: &BackendOptions, graph: &Arc<Graph>) -> Result<Opened> {
    let on_cpu = |why: String| {
        let mut opened = open(&Device::cpu(), options, graph)?;
        opened.notes.insert(0, format!("auto chose the cpu: {why}"));
        Ok(opened)
    };
    let adapters: Vec<DeviceReport> =
        devices().into_iter().filter(|device| device.is_gpu).collect();
    let is_real = |device: &&DeviceReport| device.is_usable && !device.is_software;
    let Some(adapter) = adapters.iter().find(is_real) else {
        let why = match adapters.as_slice() {
            [] if cfg!(not(feature = "gpu")) => "this build has no gpu backend",
            [] => "there is no GPU adapter",
            all if all.iter().all(|device| device.is_software) => {
                "there is no GPU but software drivers, which are slower"
            }
            _ => "no GPU of this machine can be used (`fuselstm devices` says why)",
        };
        return on_cpu(why.to_owned());
    };
    let cost = Cost::of(graph);
    if !cost.gpu_pays() {
        return on_cpu(cost.text());
    }
    let device: Device = adapter.name.parse()?;
    match open(&device, options, graph) {
        Ok(mut opened) => {
            opened.notes.insert(0, format!("auto chose {}: {}", adapter.description, cost.text()));
            opened.backend = with_fallback(opened.backend, options);
            Ok(opened)
        }
        Err(error) => on_cpu(format!("{} failed: {error}", adapter.description)),
    }
}

/// A GPU whose work the processor takes over when it fails; as it is where the processor would have
/// to ignore an option.
pub(super) fn with_fallback(gpu: Arc<dyn Backend>, options: &BackendOptions) -> Arc<dyn Backend> {
    if refuse_options(options, "cpu", true, false).is_err() {
        return gpu;
    }
    let options = options.clone();
    Arc::new(Fallback::new(gpu, Box::new(move || cpu(&options))))
}

/// An option that the device would have to ignore is refused.
fn refuse_options(
    options: &BackendOptions,
    device: &str,
    is_cpu: bool,
    is_gpu: bool,
) -> Result<()> {
    let foreign = [
        ("threads", options.threads.is_some() && !is_cpu),
        ("instruction set", options.instruction_set.is_some() && !is_cpu),
        ("strategy", options.strategy.is_some() && !is_gpu),
        ("product", options.product.is_some() && !is_gpu),
        ("uncached", options.uncached && !is_gpu),
        ("untuned", options.untuned && !is_gpu),
        ("checked shaders", options.checked_shaders && !is_gpu),
        ("timestamps", options.timestamps && !is_gpu),
        ("precision", options.precision != Precision::Full && !is_cpu && !is_gpu),
    ];
    match foreign.iter().find(|(_, refused)| *refused) {
        Some((option, _)) => {
            Err(Error::input(format!("the device {device} has no option `{option}`")))
        }
        None => Ok(()),
    }
}

/// The graph that `cpu` and `gpu` compute: hybrid and integer models in float.
fn float(graph: &Arc<Graph>) -> Result<Arc<Graph>> {
    let float = dequantize(graph)?;
    Ok(if float == **graph { graph.clone() } else { Arc::new(float) })
}

fn cpu(options: &BackendOptions) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(CpuBackend::new(options.clone())?))
}

#[cfg(feature = "gpu")]
fn gpu(adapter: &AdapterSelector, options: &BackendOptions) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(crate::backend::gpu::Gpu::open(adapter, options)?))
}

#[cfg(not(feature = "gpu"))]
fn gpu(_: &AdapterSelector, _: &BackendOptions) -> Result<Arc<dyn Backend>> {
    Err(Error::device("this build has no gpu backend (cargo feature `gpu`)"))
}

/// A device of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceReport {
    /// What [`Device`] is parsed from: `reference`, `cpu`, `gpu:0`, …
    pub name: String,
    /// In words.
    pub description: String,
    /// It is a GPU adapter.
    pub is_gpu: bool,
    /// It is a GPU driver that runs on the processor; [`Device::auto`] never chooses one.
    pub is_software: bool,
    /// It grants what is needed.
    pub is_usable: bool,
    /// What it offers, by name.
    pub properties: Vec<(&'static str, String)>,
}

impl Device {
    /// Every device of this machine: `reference`, `cpu`, then the GPU adapters in the order of
    /// `gpu:N`.
    pub fn list() -> Vec<DeviceReport> {
        devices()
    }
}

fn devices() -> Vec<DeviceReport> {
    let on_processor = |name: &str, description: String| DeviceReport {
        name: name.to_owned(),
        description,
        is_gpu: false,
        is_software: false,
        is_usable: true,
        properties: Vec::new(),
    };
    let mut devices = vec![on_processor("reference", Reference.description())];
    devices.extend(
        cpu(&BackendOptions::default()).ok().map(|cpu| on_processor("cpu", cpu.description())),
    );
    devices.extend(adapters());
    devices
}

#[cfg(feature = "gpu")]
fn adapters() -> Vec<DeviceReport> {
    let report = |adapter: crate::backend::gpu::AdapterReport| {
        let mut properties = vec![
            ("features", adapter.features.join(", ")),
            ("largest binding", bytes(adapter.max_binding_bytes)),
            ("workgroup memory", bytes(u64::from(adapter.workgroup_bytes))),
            ("workgroup invocations", adapter.workgroup_invocations.to_string()),
            (
                "subgroup lanes",
                format!("{} to {}", adapter.subgroup_lanes.0, adapter.subgroup_lanes.1),
            ),
        ];
        properties.extend(adapter.refused.clone().map(|reason| ("refused", reason)));
        DeviceReport {
            name: format!("gpu:{}", adapter.index),
            description: adapter.to_string(),
            is_gpu: true,
            is_software: adapter.kind == "software",
            is_usable: adapter.refused.is_none(),
            properties,
        }
    };
    crate::backend::gpu::adapters().into_iter().map(report).collect()
}

#[cfg(not(feature = "gpu"))]
fn adapters() -> Vec<DeviceReport> {
    Vec::new()
}
