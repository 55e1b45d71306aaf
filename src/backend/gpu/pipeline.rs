//! The shaders and the cache of pipelines made from them.
//!
//! A shader is one file of `shaders/`, after the files of shared functions that it uses. It is specialised by its `override`
//! constants and by nothing else. The comment behind an override lists the values that it may take:
//!
//! ```wgsl
//! override ACTIVATION: u32 = 0u; // 0..=14
//! override CLIP: bool = false;
//! ```
//!
//! A value that is not listed is refused here, so the test that specialises every shader for the listed values, without a GPU, has
//! seen every pipeline that can be asked for. Overrides of type `f32` are free.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::device::{Device, Meter};
use crate::error::{Error, Place, Result};

macro_rules! shaders {
    ($($variant:ident = [$($file:literal),+];)*) => {
        /// A shader: the last file is its own, the others hold functions that it uses.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(super) enum Shader { $($variant,)* }

        impl Shader {
            /// Every shader, for the test that validates them.
            #[cfg(test)]
            pub(super) const ALL: &[Shader] = &[$(Shader::$variant,)*];

            /// The files that it is made of.
            pub(super) const fn files(self) -> &'static [&'static str] {
                match self { $(Shader::$variant => &[$($file),+],)* }
            }

            /// The text given to the compiler.
            pub(super) const fn source(self) -> &'static str {
                match self {
                    $(Shader::$variant => concat!($(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $file))),+),)*
                }
            }
        }
    };
}

shaders! {
    Activation = ["functions.wgsl", "activation.wgsl"];
    Binary = ["functions.wgsl", "binary.wgsl"];
    Conv2d = ["functions.wgsl", "conv2d.wgsl"];
    Copy = ["copy.wgsl"];
    Fill = ["fill.wgsl"];
    Gather = ["gather.wgsl"];
    Matmul = ["matmul.wgsl"];
    Quantise = ["quantise.wgsl"];
    Reduce = ["reduce.wgsl"];
    ReverseSequence = ["reverse_sequence.wgsl"];
    Select = ["select.wgsl"];
    Softmax = ["softmax.wgsl"];
    SvdfMemory = ["svdf_memory.wgsl"];
    SvdfOutput = ["functions.wgsl", "svdf_output.wgsl"];
    Unary = ["unary.wgsl"];
    DenseDirect = ["functions.wgsl", "weights_f32.wgsl", "x_words.wgsl", "dense_direct.wgsl"];
    DenseDirectQuads = ["functions.wgsl", "weights_f32.wgsl", "x_quads.wgsl", "dense_direct.wgsl"];
    DenseDirectF16 = ["functions.wgsl", "weights_f16.wgsl", "x_words.wgsl", "dense_direct.wgsl"];
    DenseDirectQuadsF16 = ["functions.wgsl", "weights_f16.wgsl", "x_quads.wgsl", "dense_direct.wgsl"];
    DenseDirectInt8 = ["functions.wgsl", "weights_int8.wgsl", "x_words.wgsl", "dense_direct.wgsl"];
    DenseDirectQuadsInt8 = ["functions.wgsl", "weights_int8.wgsl", "x_quads.wgsl", "dense_direct.wgsl"];
    RecurrentLoop = ["functions.wgsl", "weights_f32.wgsl", "recurrent.wgsl", "recurrent_loop.wgsl"];
    RecurrentLoopF16 = ["functions.wgsl", "weights_f16.wgsl", "recurrent.wgsl", "recurrent_loop.wgsl"];
    RecurrentLoopInt8 = ["functions.wgsl", "weights_int8.wgsl", "recurrent.wgsl", "recurrent_loop.wgsl"];
    RecurrentStep = ["functions.wgsl", "weights_f32.wgsl", "recurrent.wgsl", "recurrent_step.wgsl"];
    RecurrentStepF16 = ["functions.wgsl", "weights_f16.wgsl", "recurrent.wgsl", "recurrent_step.wgsl"];
    RecurrentStepInt8 = ["functions.wgsl", "weights_int8.wgsl", "recurrent.wgsl", "recurrent_step.wgsl"];
}

/// A specialised entry point: what a pipeline is made of, and the key of the cache.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    shader: Shader,
    constants: Vec<(&'static str, f64)>,
}

impl Kernel {
    /// The entry point `main` of a shader with every override at its default.
    pub(super) fn new(shader: Shader) -> Self {
        Kernel { shader, constants: Vec::new() }
    }

    /// The same kernel with one override set (booleans as 0 and 1).
    #[must_use]
    pub(super) fn with(mut self, name: &'static str, value: impl Into<f64>) -> Self {
        self.constants.push((name, value.into()));
        self
    }

    fn key(&self) -> Key {
        Key {
            shader: self.shader,
            constants: self.constants.iter().map(|&(name, value)| (name, value.to_bits())).collect(),
        }
    }

    fn name(&self) -> &'static str {
        self.shader.files().last().copied().unwrap_or("")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    shader: Shader,
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
    modules: Mutex<HashMap<Shader, wgpu::ShaderModule>>,
    pipelines: Mutex<HashMap<Key, Arc<Pipeline>>>,
}

impl Pipelines {
    pub(super) fn new(checked: bool) -> Self {
        Pipelines { checked, modules: Mutex::default(), pipelines: Mutex::default() }
    }

    /// The pipeline of a kernel, made when it is asked for the first time.
    pub(super) fn get(&self, device: &Device, kernel: &Kernel, meter: &Meter) -> Result<Arc<Pipeline>> {
        let key = kernel.key();
        if let Some(pipeline) = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(pipeline));
        }
        // Not under the lock: two threads may make the same pipeline at worst, none waits for another's compilation.
        let pipeline = Arc::new(self.make(device, kernel).within(|| format!("shader {}", kernel.name()))?);
        meter.pipeline();
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(pipelines.entry(key).or_insert(pipeline)))
    }

    fn make(&self, device: &Device, kernel: &Kernel) -> Result<Pipeline> {
        let overrides = overrides(kernel.shader.source());
        for &(name, value) in &kernel.constants {
            let declared = overrides.iter().find(|o| o.name == name);
            if !declared.is_some_and(|o| o.allows(value)) {
                return Err(Error::internal(format!("override {name} cannot be {value}")));
            }
        }
        let module = self.module(device, kernel.shader)?;
        device.guarded(|| {
            let pipeline = device.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(kernel.name()),
                layout: None,
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &kernel.constants,
                    // No kernel reads workgroup memory that it did not write (0.5 us a workgroup on the software driver).
                    zero_initialize_workgroup_memory: self.checked,
                },
                cache: None,
            });
            let layout = pipeline.get_bind_group_layout(0);
            Pipeline { pipeline, layout }
        })
    }

    fn module(&self, device: &Device, shader: Shader) -> Result<wgpu::ShaderModule> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(&shader) {
            return Ok(module.clone());
        }
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: shader.files().last().copied(),
            source: wgpu::ShaderSource::Wgsl(shader.source().into()),
        };
        let module = device.guarded(|| {
            if self.checked {
                device.device.create_shader_module(descriptor)
            } else {
                // SAFETY: the source is this crate's own and fixed; every index in it is bounded by the sizes that the host passes,
                // every loop ends, and the tests run each kernel both with and without the checks.
                unsafe {
                    device.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
                }
            }
        })?;
        modules.insert(shader, module.clone());
        Ok(module)
    }
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
        if let Some((first, last)) = word.split_once("..=") {
            if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
                values.extend((first..=last).map(f64::from));
                continue;
            }
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
mod tests {
    use wgpu::naga;

    use super::*;

    fn validator() -> naga::valid::Validator {
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all())
    }

    /// Assignments of values to overrides: all of them when there are few; else each value of each override, and every pair of
    /// values of every two overrides that are no long list (activations, which meet nothing but their own switch).
    fn assignments(overrides: &[Override]) -> Vec<Vec<(&'static str, f64)>> {
        let listed: Vec<_> = overrides.iter().filter(|o| !o.values.is_empty()).collect();
        let all: usize = listed.iter().map(|o| o.values.len()).product();
        let mut found = vec![Vec::new()];
        if all <= 64 {
            for o in listed {
                found = found
                    .into_iter()
                    .flat_map(|chosen: Vec<_>| {
                        o.values.iter().map(move |&v| [chosen.clone(), vec![(o.name, v)]].concat())
                    })
                    .collect();
            }
            return found;
        }
        for o in &listed {
            found.extend(o.values.iter().map(|&v| vec![(o.name, v)]));
        }
        let short: Vec<_> = listed.into_iter().filter(|o| o.values.len() <= 4).collect();
        for (i, a) in short.iter().enumerate() {
            for b in &short[i + 1..] {
                for &x in &a.values {
                    found.extend(b.values.iter().map(|&y| vec![(a.name, x), (b.name, y)]));
                }
            }
        }
        found
    }

    #[test]
    fn every_shader_is_valid_for_every_key() {
        for &shader in Shader::ALL {
            let name = shader.files().last().unwrap();
            let module = naga::front::wgsl::parse_str(shader.source())
                .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(shader.source())));
            let info = validator()
                .validate(&module)
                .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(shader.source())));
            let declared = overrides(shader.source());
            assert_eq!(declared.len(), module.overrides.len(), "{name}: an override is not on a line of its own");
            assert_eq!(module.entry_points.len(), 1, "{name} has one entry point");
            for constants in assignments(&declared) {
                let chosen = constants.iter().map(|&(n, v)| (n.to_owned(), v)).collect();
                let entry = Some((naga::ShaderStage::Compute, "main"));
                let (special, _) = naga::back::pipeline_constants::process_overrides(&module, &info, entry, &chosen)
                    .unwrap_or_else(|e| panic!("{name} {constants:?}: {e}"));
                let info = validator().validate(&special).unwrap_or_else(|e| panic!("{name} {constants:?}: {e:?}"));
                let storage = special
                    .global_variables
                    .iter()
                    .filter(|(_, v)| matches!(v.space, naga::AddressSpace::Storage { .. }));
                assert!(storage.count() <= super::super::device::STORAGE_BUFFERS as usize, "{name}: too many bindings");
                drop(info);
            }
        }
    }

    #[test]
    fn every_file_belongs_to_a_shader() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/shaders");
        for entry in std::fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            let known = Shader::ALL.iter().any(|s| s.files().contains(&file.as_str()));
            assert!(known || !file.ends_with(".wgsl"), "{file} is in no shader of the table");
        }
    }

    #[test]
    fn listed_values_are_read() {
        let found = overrides(
            "override A: u32 = 0u; // 0..=2, 7: which one\noverride B: bool = true;\noverride C: f32 = 1.0;\n",
        );
        assert_eq!(found[0].values, [0.0, 1.0, 2.0, 7.0]);
        assert_eq!(found[1].values, [0.0, 1.0]);
        assert!(found[2].allows(0.3) && !found[0].allows(3.0));
    }
}
