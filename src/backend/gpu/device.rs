//! Adapters and the device: what the machine has, which one was asked for, and what was granted.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::cooperative::{self, Cooperative};
use crate::backend::{AdapterSelector, Precision};
use crate::error::{Error, Result};

/// Bytes of immediates that a kernel may take: 32 words. Every Vulkan driver grants at least this.
pub(super) const IMMEDIATE_BYTES: u32 = 128;

/// Storage buffers that a kernel may bind: the number that WebGPU promises everywhere.
pub(super) const STORAGE_BUFFERS: u32 = 8;

/// What one adapter of this machine is and offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterReport {
    /// `N` of `gpu:N`.
    pub index: usize,
    /// Its name, as the driver gives it.
    pub name: String,
    /// Driver name and version.
    pub driver: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// `vulkan`, `metal` or `dx12`.
    pub api: &'static str,
    /// Why it cannot be used here, when it cannot.
    pub refused: Option<String>,
    /// The features among those this library uses.
    pub features: Vec<&'static str>,
    /// Most bytes that one binding may have.
    pub max_binding_bytes: u64,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Most invocations of one workgroup.
    pub workgroup_invocations: u32,
    /// Least and most lanes of a subgroup.
    pub subgroup_lanes: (u32, u32),
}

impl fmt::Display for AdapterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {}, {})", self.name, self.kind, self.api, self.driver)
    }
}

/// The optional features that some kernel uses, with the names they are reported under.
const OPTIONAL: [(wgpu::Features, &str); 5] = [
    (wgpu::Features::SUBGROUP, "subgroups"),
    (wgpu::Features::SHADER_F16, "shader-f16"),
    (wgpu::Features::TIMESTAMP_QUERY, "timestamps"),
    (wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS, "timestamps-in-encoders"),
    (wgpu::Features::PIPELINE_CACHE, "pipeline-cache"),
];

/// The device with what all programs on it share.
pub(super) struct Device {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) report: AdapterReport,
    /// The adapter runs on the processor: other kernels are fast there, and loops are cut off.
    pub(super) software: bool,
    /// A load costs as much for each lane, and subgroups are eight consecutive invocations: what
    /// `products_broadcast.wgsl` is for.
    pub(super) broadcasts: bool,
    pub(super) limits: wgpu::Limits,
    /// The cooperative matrices that were asked for.
    pub(super) cooperative: Option<Cooperative>,
    faults: Arc<Mutex<Option<String>>>,
}

/// What was created on the device, for one program.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub(super) pipelines: AtomicU64,
    pub(super) buffers: AtomicU64,
}

impl Meter {
    pub(super) fn pipeline(&self) {
        self.pipelines.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn buffer(&self) {
        self.buffers.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts since the last call.
    pub(super) fn take(&self) -> (u64, u64) {
        (self.pipelines.swap(0, Ordering::Relaxed), self.buffers.swap(0, Ordering::Relaxed))
    }
}

/// One instance for the process: the driver's libraries are opened once.
fn instance() -> &'static wgpu::Instance {
    static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        // No validation layers in debug builds: they print to stderr and need packages that users
        // do not have.
        descriptor.flags = wgpu::InstanceFlags::empty();
        wgpu::Instance::new(descriptor)
    })
}

fn found() -> Vec<wgpu::Adapter> {
    pollster::block_on(instance().enumerate_adapters(wgpu::Backends::PRIMARY))
}

/// Every adapter of this machine, in the order of `gpu:N`.
pub fn adapters() -> Vec<AdapterReport> {
    found().iter().enumerate().map(|(index, adapter)| report(index, adapter)).collect()
}

fn report(index: usize, adapter: &wgpu::Adapter) -> AdapterReport {
    let info = adapter.get_info();
    let limits = adapter.limits();
    let features = adapter.features();
    AdapterReport {
        index,
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        kind: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        },
        api: info.backend.to_str(),
        refused: refusal(&limits, features),
        features: OPTIONAL
            .iter()
            .filter(|(bit, _)| features.contains(*bit))
            .map(|&(_, name)| name)
            .collect(),
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        workgroup_invocations: limits.max_compute_invocations_per_workgroup,
        subgroup_lanes: (info.subgroup_min_size, info.subgroup_max_size),
        name: info.name,
    }
}

/// Why an adapter cannot be used: the one thing it lacks.
fn refusal(limits: &wgpu::Limits, features: wgpu::Features) -> Option<String> {
    if !features.contains(wgpu::Features::IMMEDIATES) || limits.max_immediate_size < IMMEDIATE_BYTES
    {
        return Some(format!(
            "{} bytes of immediates are needed, it has {}",
            IMMEDIATE_BYTES, limits.max_immediate_size
        ));
    }
    for (what, needed, has) in [
        (
            "storage buffers in a kernel",
            STORAGE_BUFFERS,
            limits.max_storage_buffers_per_shader_stage,
        ),
        ("invocations in a workgroup", 256, limits.max_compute_invocations_per_workgroup),
        ("bytes of workgroup memory", 16_352, limits.max_compute_workgroup_storage_size),
    ] {
        if has < needed {
            return Some(format!("{needed} {what} are needed, it has {has}"));
        }
    }
    None
}

/// Real devices before software, discrete before integrated.
fn preference(report: &AdapterReport) -> usize {
    ["discrete", "integrated", "virtual", "other", "software"]
        .iter()
        .position(|&k| k == report.kind)
        .unwrap_or(5)
}

/// Index of the adapter that `selector` names.
fn choose(selector: &AdapterSelector, reports: &[AdapterReport]) -> Result<usize> {
    if reports.is_empty() {
        return Err(Error::device(
            "no GPU adapter: a Vulkan, Metal or DirectX 12 driver was looked for, a software one included",
        ));
    }
    let listed =
        || reports.iter().map(|r| format!("{}: {r}", r.index)).collect::<Vec<_>>().join("; ");
    let chosen = match selector {
        AdapterSelector::Any => {
            let usable = reports.iter().filter(|r| r.refused.is_none());
            usable.min_by_key(|r| preference(r)).or(reports.first())
        }
        AdapterSelector::Index(index) => reports.iter().find(|r| r.index == *index),
        AdapterSelector::Name(name) => {
            let name = name.to_lowercase();
            reports.iter().find(|r| r.name.to_lowercase().contains(&name))
        }
    };
    let report = chosen.ok_or_else(|| {
        Error::device(format!("no adapter `{selector}`; this machine has {}", listed()))
    })?;
    match &report.refused {
        Some(reason) => Err(Error::device(format!("adapter {report} cannot be used: {reason}"))),
        None => Ok(report.index),
    }
}

impl Device {
    /// Opens the adapter that `selector` names, see [`choose`]; with cooperative matrices for
    /// weights of a precision where that is given.
    pub(super) fn open(
        selector: &AdapterSelector,
        cooperative: Option<Precision>,
    ) -> Result<Device> {
        let adapters = found();
        let reports: Vec<_> =
            adapters.iter().enumerate().map(|(index, adapter)| report(index, adapter)).collect();
        let index = choose(selector, &reports)?;
        let (Some(adapter), Some(report)) = (adapters.get(index), reports.get(index)) else {
            return Err(Error::internal("the chosen adapter is not in the list"));
        };
        let limits = granted(&adapter.limits());
        let optional = OPTIONAL.iter().fold(wgpu::Features::empty(), |all, &(bit, _)| all | bit);
        let mut descriptor = wgpu::DeviceDescriptor {
            label: Some("fuselstm"),
            required_features: wgpu::Features::IMMEDIATES | (adapter.features() & optional),
            required_limits: limits.clone(),
            ..Default::default()
        };
        let listed = adapter.cooperative_matrix_properties();
        let cooperative = cooperative
            .map(|precision| Cooperative::choose(report, adapter.features(), &listed, precision))
            .transpose()?;
        if cooperative.is_some() {
            descriptor.required_features |= cooperative::FEATURES;
            // SAFETY: wgpu wants it acknowledged that experimental features may have unsound
            // defects. Only who asks for the cooperative product by name gets here. The feature is
            // used by one shader of this crate's own, which loads and stores matrices in workgroup
            // memory within arrays of fixed size, at aligned places, in uniform control flow.
            descriptor.experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        }
        let (device, queue) =
            pollster::block_on(adapter.request_device(&descriptor)).map_err(|error| {
                Error::device(format!("adapter {report} refused a device")).with_source(error)
            })?;
        let faults = Arc::new(Mutex::new(None));
        // Without a handler wgpu ends the process. The first fault is the cause; the rest follow
        // from it.
        let sink = Arc::clone(&faults);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            note(&sink, error.to_string())
        }));
        let sink = Arc::clone(&faults);
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                note(&sink, format!("the device was lost: {message}"));
            }
        });
        let software = report.kind == "software";
        let broadcasts =
            software && report.features.contains(&"subgroups") && report.subgroup_lanes == (8, 8);
        Ok(Device {
            device,
            queue,
            report: report.clone(),
            software,
            broadcasts,
            limits,
            cooperative,
            faults,
        })
    }

    /// The first fault that the device reported since the last call, as an error.
    pub(super) fn check(&self) -> Result<()> {
        let fault = self.faults.lock().unwrap_or_else(PoisonError::into_inner).take();
        match fault {
            Some(message) => Err(Error::device(message).within(self.report.name.clone())),
            None => Ok(()),
        }
    }

    /// How long a wait may take before the device is given up: a minute, and ten on a software
    /// adapter, where a large model rightly takes minutes.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(if self.software { 600 } else { 60 })
    }

    /// Waits for a submission and runs the callbacks that it completes.
    pub(super) fn wait(&self, submission: wgpu::SubmissionIndex) -> Result<()> {
        let wait = wgpu::PollType::Wait {
            submission_index: Some(submission),
            timeout: Some(self.patience()),
        };
        let polled = self.device.poll(wait);
        self.check()?;
        polled.map(drop).map_err(|error| {
            Error::device(format!(
                "the device did not finish within {} s",
                self.patience().as_secs()
            ))
            .with_source(error)
        })
    }

    /// Runs `make` and turns a validation error or a lack of memory in it into an error of this
    /// call.
    pub(super) fn guarded<T>(&self, make: impl FnOnce() -> T) -> Result<T> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = make();
        let refused = pollster::block_on(validation.pop());
        let exhausted = pollster::block_on(memory.pop());
        match (exhausted, refused) {
            (Some(error), _) => {
                Err(Error::limit("the device has not enough memory").with_source(error))
            }
            (None, Some(error)) => {
                Err(Error::device("the device refused a request").with_source(error))
            }
            (None, None) => Ok(made),
        }
    }
}

fn note(faults: &Mutex<Option<String>>, message: String) {
    log::error!("gpu: {message}");
    faults.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
}

/// The limits to ask for: those that kernels use as the adapter has them, the rest at the minimum.
fn granted(has: &wgpu::Limits) -> wgpu::Limits {
    wgpu::Limits {
        max_storage_buffers_per_shader_stage: has
            .max_storage_buffers_per_shader_stage
            .min(STORAGE_BUFFERS),
        max_storage_buffer_binding_size: has.max_storage_buffer_binding_size,
        max_buffer_size: has.max_buffer_size,
        max_compute_workgroup_storage_size: has.max_compute_workgroup_storage_size,
        max_compute_invocations_per_workgroup: has.max_compute_invocations_per_workgroup,
        max_compute_workgroup_size_x: has.max_compute_workgroup_size_x,
        max_compute_workgroup_size_y: has.max_compute_workgroup_size_y,
        max_compute_workgroup_size_z: has.max_compute_workgroup_size_z,
        max_compute_workgroups_per_dimension: has.max_compute_workgroups_per_dimension,
        max_immediate_size: IMMEDIATE_BYTES,
        max_texture_dimension_2d: has.max_texture_dimension_2d,
        ..wgpu::Limits::downlevel_defaults()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(index: usize, name: &str, kind: &'static str) -> AdapterReport {
        AdapterReport {
            index,
            name: name.into(),
            driver: String::new(),
            kind,
            api: "vulkan",
            refused: None,
            features: Vec::new(),
            max_binding_bytes: 0,
            workgroup_bytes: 0,
            workgroup_invocations: 0,
            subgroup_lanes: (8, 8),
        }
    }

    #[test]
    fn the_selector_names_one_adapter() {
        let reports = [
            report(0, "llvmpipe", "software"),
            report(1, "Iris", "integrated"),
            report(2, "H200", "discrete"),
        ];
        let named = |name: &str| AdapterSelector::Name(name.to_owned());
        assert_eq!(choose(&AdapterSelector::Any, &reports).ok(), Some(2));
        assert_eq!(choose(&AdapterSelector::Index(1), &reports).ok(), Some(1));
        assert_eq!(choose(&named("LLVM"), &reports).ok(), Some(0));
        // A name of digits is a name: no adapter has the number 200.
        assert_eq!(choose(&named("200"), &reports).ok(), Some(2));
        let missing = choose(&AdapterSelector::Index(7), &reports).map_err(|e| e.to_string());
        assert!(missing.as_ref().is_err_and(|m| m.contains("Iris")), "{missing:?}");
        assert!(
            choose(&AdapterSelector::Any, &[]).is_err_and(|e| e.kind() == crate::ErrorKind::Device)
        );
    }
}
