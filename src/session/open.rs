//! From the name of a device to a backend, and the graph that the backend is given.

use std::sync::Arc;

use super::device::{Adapter, Device, Kind};
use crate::backend::{Backend, BackendOptions, Precision};
use crate::error::{Error, Result};
use crate::graph::Graph;

/// An open device.
pub(super) struct Opened {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) graph: Arc<Graph>,
    pub(super) notes: Vec<String>,
}

pub(super) fn open(device: &Device, options: &BackendOptions, graph: &Arc<Graph>) -> Result<Opened> {
    let (kind, notes) = match &device.kind {
        Kind::Auto => (Kind::Cpu, vec!["auto: cpu".to_owned()]),
        kind @ (Kind::Reference | Kind::Cpu | Kind::Gpu(_)) => (kind.clone(), Vec::new()),
    };
    match kind {
        Kind::Reference => {
            refuse_options(options, "reference", false, false)?;
            Ok(Opened { backend: reference()?, graph: graph.clone(), notes })
        }
        Kind::Cpu | Kind::Auto => {
            refuse_options(options, "cpu", true, false)?;
            Ok(Opened { backend: cpu(options)?, graph: float(graph)?, notes })
        }
        Kind::Gpu(adapter) => {
            refuse_options(options, "gpu", false, true)?;
            Ok(Opened { backend: gpu(&adapter, options)?, graph: float(graph)?, notes })
        }
    }
}

/// An option that the device would have to ignore is refused.
fn refuse_options(options: &BackendOptions, device: &str, is_cpu: bool, is_gpu: bool) -> Result<()> {
    let foreign = [
        ("threads", options.threads.is_some() && !is_cpu),
        ("instruction set", options.instruction_set.is_some() && !is_cpu),
        ("strategy", options.strategy.is_some() && !is_gpu),
        ("checked shaders", options.checked_shaders && !is_gpu),
        ("precision", options.precision != Precision::Full && !is_cpu && !is_gpu),
    ];
    match foreign.iter().find(|(_, refused)| *refused) {
        Some((option, _)) => Err(Error::input(format!("the device {device} has no option `{option}`"))),
        None => Ok(()),
    }
}

fn float(graph: &Arc<Graph>) -> Result<Arc<Graph>> {
    Ok(graph.clone())
}

fn reference() -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(crate::backend::reference::Reference))
}

fn cpu(options: &BackendOptions) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(crate::backend::cpu::CpuBackend::new(options.clone())?))
}

#[cfg(feature = "gpu")]
fn gpu(adapter: &Adapter, options: &BackendOptions) -> Result<Arc<dyn Backend>> {
    let selector = match adapter {
        Adapter::Any => "gpu".to_owned(),
        Adapter::Index(index) => format!("gpu:{index}"),
        Adapter::Name(name) => format!("gpu:{name}"),
    };
    Ok(Arc::new(crate::backend::gpu::Gpu::open(&selector, options)?))
}

#[cfg(not(feature = "gpu"))]
fn gpu(adapter: &Adapter, options: &BackendOptions) -> Result<Arc<dyn Backend>> {
    let _ = (adapter, options);
    Err(Error::device("this build has no gpu backend (cargo feature `gpu`)"))
}
