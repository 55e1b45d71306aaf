//! The shaders and the cache of pipelines made from them.
//!
//! A shader is one file of `shaders/`, after the files of shared functions that it uses and one
//! file for each of its slots (the storage of weights is a matter of types, which no constant can
//! change). It is specialized by its `override` constants and by nothing else. The comment behind
//! an override lists the values that it may take:
//!
//! ```wgsl
//! override ACTIVATION: u32 = 0u; // 0..=14
//! override CLIP: bool = false;
//! ```
//!
//! A value that is not listed is refused here, so the test that specializes every shader for the
//! listed values, without a GPU, has seen every pipeline that can be asked for. Overrides of type
//! `f32` are free.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::device::{Device, Meter};
use super::stored::Stored;
use crate::error::{Error, Place, Result};

macro_rules! shader_file {
    ($file:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $file))
    };
}

macro_rules! shaders {
    ($($variant:ident = [$($file:literal),+] $(with [$($slot:ident),+])?;)*) => {
        /// A shader: the last file is its own, the others hold functions that it uses. Behind
        /// `with`: the slots that a [`Part`] has to fill.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(super) enum Shader { $($variant,)* }

        impl Shader {
            /// Every shader, for the test that validates them.
            #[cfg(test)]
            pub(super) const ALL: &[Shader] = &[$(Shader::$variant,)*];

            /// The files that it is made of, without the parts in its slots.
            pub(super) const fn files(self) -> &'static [&'static str] {
                match self { $(Shader::$variant => &[$($file),+],)* }
            }

            /// Their text.
            const fn text(self) -> &'static str {
                match self { $(Shader::$variant => concat!($(shader_file!($file)),+),)* }
            }

            /// The slots, each with the parts that fit.
            const fn slots(self) -> &'static [&'static [Part]] {
                match self { $(Shader::$variant => &[$($($slot),+)?],)* }
            }
        }
    };
}

macro_rules! parts {
    ($($variant:ident = [$($file:literal),+];)*) => {
        /// What fills a slot of a shader: the last file is its own, the others hold what it shares
        /// with other parts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(super) enum Part { $($variant,)* }

        impl Part {
            #[cfg(test)]
            const ALL: &[(Part, &[&str])] = &[$((Part::$variant, &[$($file),+]),)*];

            const fn text(self) -> &'static str {
                match self { $(Part::$variant => concat!($(shader_file!($file)),+),)* }
            }
        }
    };
}

parts! {
    WeightsF32 = ["weights_f32.wgsl"];
    WeightsF16 = ["weights_f16.wgsl"];
    WeightsInt8 = ["weights_int8.wgsl"];
    WeightsTexels = ["weights_texels.wgsl"];
    ReduceWorkgroup = ["reduce_workgroup.wgsl"];
    ReduceSubgroup = ["reduce_subgroup.wgsl"];
    XWords = ["x_words.wgsl"];
    XQuads = ["x_quads.wgsl"];
    CooperativeHalves = ["cooperative_f16.wgsl"];
    CooperativeFloats = ["cooperative_f32.wgsl"];
    ProductsPlain = ["sums.wgsl", "products_plain.wgsl"];
    ProductsBroadcast = ["sums.wgsl", "products_broadcast.wgsl"];
    ProductsRegisters = ["sums.wgsl", "registers.wgsl", "products_registers_plain.wgsl"];
    ProductsRegistersBroadcast = ["sums.wgsl", "registers.wgsl", "products_registers_broadcast.wgsl"];
}

/// How weights are stored.
const WEIGHTS: &[Part] =
    &[Part::WeightsF32, Part::WeightsF16, Part::WeightsInt8, Part::WeightsTexels];
/// How sums over several invocations are folded.
const REDUCE: &[Part] = &[Part::ReduceWorkgroup, Part::ReduceSubgroup];
/// How rows of x are read.
const X: &[Part] = &[Part::XWords, Part::XQuads];
/// What matrices a subgroup multiplies together.
const COOPERATIVE: &[Part] = &[Part::CooperativeHalves, Part::CooperativeFloats];
/// How terms of a product are loaded.
const PRODUCTS: &[Part] = &[Part::ProductsPlain, Part::ProductsBroadcast];
/// The same with the weights of one unit in registers.
const LOOP_PRODUCTS: &[Part] = &[
    Part::ProductsPlain,
    Part::ProductsBroadcast,
    Part::ProductsRegisters,
    Part::ProductsRegistersBroadcast,
];

/// The same where invocations share out the terms of a unit, so that there is none to share with
/// its neighbors.
const SPLIT_PRODUCTS: &[Part] = &[Part::ProductsPlain, Part::ProductsRegisters];

shaders! {
    Activation = ["functions.wgsl", "activation.wgsl"];
    Binary = ["functions.wgsl", "binary.wgsl"];
    CeilingChain = ["ceiling_chain.wgsl"];
    CeilingCopy = ["ceiling_copy.wgsl"];
    CeilingFma = ["ceiling_fma.wgsl"];
    Conv2d = ["functions.wgsl", "conv2d.wgsl"];
    Copy = ["copy.wgsl"];
    Fill = ["fill.wgsl"];
    Gather = ["gather.wgsl"];
    Matmul = ["matmul.wgsl"];
    Pool2d = ["functions.wgsl", "pool2d.wgsl"];
    Quantize = ["quantize.wgsl"];
    Reduce = ["reduce.wgsl"];
    ReverseSequence = ["reverse_sequence.wgsl"];
    Select = ["select.wgsl"];
    Softmax = ["softmax.wgsl"];
    SvdfMemory = ["svdf_memory.wgsl"];
    SvdfOutput = ["functions.wgsl", "svdf_output.wgsl"];
    Unary = ["unary.wgsl"];
    DenseDirect = ["functions.wgsl", "dense.wgsl", "dense_direct.wgsl"] with [WEIGHTS, PRODUCTS, X];
    DenseCooperative = ["cooperative.wgsl", "functions.wgsl", "dense.wgsl", "dense_cooperative.wgsl"] with [WEIGHTS, X, COOPERATIVE];
    DenseTiled = ["functions.wgsl", "dense.wgsl", "dense_tiled.wgsl"] with [WEIGHTS, X];
    RecurrentLoop = ["functions.wgsl", "recurrent.wgsl", "recurrent_norm.wgsl", "recurrent_loop.wgsl"] with [WEIGHTS, LOOP_PRODUCTS];
    RecurrentLoopSplit = ["functions.wgsl", "recurrent.wgsl", "recurrent_loop_split.wgsl"] with [WEIGHTS, SPLIT_PRODUCTS];
    RecurrentPersistent = ["functions.wgsl", "recurrent.wgsl", "recurrent_persistent.wgsl"] with [WEIGHTS];
    RecurrentStep = ["functions.wgsl", "recurrent.wgsl", "recurrent_step.wgsl"] with [WEIGHTS, PRODUCTS, REDUCE];
    RecurrentStages = ["functions.wgsl", "recurrent.wgsl", "recurrent_norm.wgsl", "recurrent_stages.wgsl"] with [WEIGHTS, PRODUCTS];
}

/// A specialized entry point: what a pipeline is made of, and the key of the cache.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    shader: Shader,
    parts: Vec<Part>,
    constants: Vec<(&'static str, f64)>,
}

impl Kernel {
    /// The entry point `main` of a shader with every override at its default.
    pub(super) fn new(shader: Shader) -> Self {
        Self::with_parts(shader, &[])
    }

    /// As [`Kernel::new`], for a shader with slots: one part for each.
    pub(super) fn with_parts(shader: Shader, parts: &[Part]) -> Self {
        Kernel { shader, parts: parts.to_vec(), constants: Vec::new() }
    }

    /// The same kernel with one override set (booleans as 0 and 1).
    #[must_use]
    pub(super) fn with(mut self, name: &'static str, value: impl Into<f64>) -> Self {
        self.constants.push((name, value.into()));
        self
    }

    fn key(&self) -> Key {
        let constants =
            self.constants.iter().map(|&(name, value)| (name, value.to_bits())).collect();
        Key { shader: self.shader, parts: self.parts.clone(), constants }
    }

    fn name(&self) -> &'static str {
        self.shader.files().last().copied().unwrap_or("")
    }
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "shader {}", self.name())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    shader: Shader,
    parts: Vec<Part>,
    constants: Vec<(&'static str, u64)>,
}

/// A pipeline and the layout of its one bind group.
pub(super) struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

/// Every module and pipeline made so far on one device.
pub(super) struct Pipelines {
    /// Keep naga's bounds checks and loop counters.
    checked: bool,
    modules: Mutex<HashMap<(Shader, Vec<Part>), wgpu::ShaderModule>>,
    pipelines: Mutex<HashMap<Key, Arc<Pipeline>>>,
    /// What the driver keeps of them for the next process.
    stored: Option<Stored>,
}

impl Drop for Pipelines {
    /// Late, because some drivers compile no kernel before its first dispatch.
    fn drop(&mut self) {
        let some_made = !self.pipelines.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if let Some(stored) = self.stored.as_ref().filter(|_| some_made) {
            stored.save();
        }
    }
}

impl Pipelines {
    pub(super) fn new(checked: bool, stored: Option<Stored>) -> Self {
        Pipelines { checked, modules: Mutex::default(), pipelines: Mutex::default(), stored }
    }

    /// Makes the pipelines that are missing, as many at a time as there are processors: a driver
    /// compiles each for 50 to 500 ms.
    pub(super) fn make_all<'a>(
        &self,
        device: &Device,
        kernels: impl Iterator<Item = &'a Kernel>,
        meter: &Meter,
    ) -> Result<()> {
        let mut missing = HashMap::new();
        {
            let made = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
            for kernel in kernels {
                let key = kernel.key();
                if !made.contains_key(&key) {
                    missing.insert(key, kernel);
                }
            }
        }
        let missing: Vec<_> = missing.into_values().collect();
        let threads =
            std::thread::available_parallelism().map_or(1, usize::from).min(missing.len());
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            while let Some(kernel) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.get(device, kernel, meter)?;
            }
            Ok(())
        };
        // The caller is one of the threads. Where the system grants no other, it does the work
        // alone.
        std::thread::scope(|scope| {
            let start = |_| {
                std::thread::Builder::new()
                    .name("fuselstm-pipelines".into())
                    .spawn_scoped(scope, work)
                    .ok()
            };
            let others: Vec<_> = (1..threads).filter_map(start).collect();
            let mine = work();
            let died = |_| Err(Error::internal("a thread that compiled pipelines ended early"));
            others
                .into_iter()
                .map(|other| other.join().unwrap_or_else(died))
                .fold(mine, Result::and)
        })
    }

    /// The pipeline of a kernel, made when it is asked for the first time.
    pub(super) fn get(
        &self,
        device: &Device,
        kernel: &Kernel,
        meter: &Meter,
    ) -> Result<Arc<Pipeline>> {
        let key = kernel.key();
        if let Some(pipeline) =
            self.pipelines.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
        {
            return Ok(Arc::clone(pipeline));
        }
        // Not under the lock: two threads may make the same pipeline at worst, none waits for
        // another's compilation.
        let pipeline = Arc::new(self.make(device, kernel).within(|| kernel.to_string())?);
        meter.pipeline();
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(pipelines.entry(key).or_insert(pipeline)))
    }

    fn make(&self, device: &Device, kernel: &Kernel) -> Result<Pipeline> {
        let slots = kernel.shader.slots();
        if slots.len() != kernel.parts.len()
            || slots.iter().zip(&kernel.parts).any(|(slot, part)| !slot.contains(part))
        {
            return Err(Error::internal(format!(
                "its slots cannot be filled with {:?}",
                kernel.parts
            )));
        }
        let overrides: Vec<_> = texts(kernel.shader, &kernel.parts).flat_map(overrides).collect();
        for &(name, value) in &kernel.constants {
            let declared = overrides.iter().find(|o| o.name == name);
            if !declared.is_some_and(|o| o.allows(value)) {
                return Err(Error::internal(format!("override {name} cannot be {value}")));
            }
        }
        let module = self.module(device, kernel)?;
        device.guarded(|| {
            let pipeline =
                device.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                    label: Some(kernel.name()),
                    layout: None,
                    module: &module,
                    entry_point: Some("main"),
                    compilation_options: wgpu::PipelineCompilationOptions {
                        constants: &kernel.constants,
                        // No kernel reads workgroup memory that it did not write (0.5 us a workgroup on
                        // the software driver).
                        zero_initialize_workgroup_memory: self.checked,
                    },
                    cache: self.stored.as_ref().map(|stored| &stored.cache),
                });
            let layout = pipeline.get_bind_group_layout(0);
            Pipeline { pipeline, layout }
        })
    }

    fn module(&self, device: &Device, kernel: &Kernel) -> Result<wgpu::ShaderModule> {
        let key = (kernel.shader, kernel.parts.clone());
        if let Some(module) = self.modules.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
        {
            return Ok(module.clone());
        }
        // Not under the lock, as in `get`.
        let source: String = texts(kernel.shader, &kernel.parts).collect();
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(kernel.name()),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        };
        let module = device.guarded(|| {
            if self.checked {
                device.device.create_shader_module(descriptor)
            } else {
                // SAFETY: the source is this crate's own and fixed; every index in it is bounded by
                // the sizes that the host passes, every loop ends, and the tests run each kernel
                // both with and without the checks.
                unsafe {
                    device.device.create_shader_module_trusted(
                        descriptor,
                        wgpu::ShaderRuntimeChecks::unchecked(),
                    )
                }
            }
        })?;
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(modules.entry(key).or_insert(module).clone())
    }
}

/// The texts that a shader is made of.
fn texts(shader: Shader, parts: &[Part]) -> impl Iterator<Item = &'static str> {
    std::iter::once(shader.text()).chain(parts.iter().map(|part| part.text()))
}

/// An `override` line of a shader.
struct Override {
    name: &'static str,
    /// The values that it may take; empty: any.
    values: Vec<f64>,
}

impl Override {
    fn allows(&self, value: f64) -> bool {
        self.values.is_empty() || self.values.contains(&value)
    }
}

/// The overrides that a source declares, one a line, with the values listed in the comment behind.
fn overrides(source: &'static str) -> Vec<Override> {
    let parse = |line: &'static str| {
        let (declaration, comment) = line.split_once("//").unwrap_or((line, ""));
        let (name, rest) = declaration.strip_prefix("override ")?.split_once(':')?;
        let values = match rest.trim_start().split([' ', '=', ';']).next()? {
            "bool" => vec![0.0, 1.0],
            "f32" => Vec::new(),
            _ => listed(comment),
        };
        Some(Override { name: name.trim(), values })
    };
    source.lines().filter_map(parse).collect()
}

/// The numbers and ranges (`a..=b`) at the start of a comment.
fn listed(comment: &str) -> Vec<f64> {
    let mut values = Vec::new();
    for word in comment.split_whitespace() {
        let word = word.trim_end_matches([',', ';', ':']);
        if let Some((first, last)) = word.split_once("..=")
            && let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>())
        {
            values.extend((first..=last).map(f64::from));
            continue;
        }
        match word.parse::<f64>() {
            Ok(value) => values.push(value),
            Err(_) => break,
        }
    }
    values
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
