//! Every shader, for every key, without a GPU.

use wgpu::naga;

use super::*;

fn validator() -> naga::valid::Validator {
    naga::valid::Validator::new(
        naga::valid::ValidationFlags::all(),
        naga::valid::Capabilities::all(),
    )
}

/// Assignments of values to overrides: all of them when there are few; else each value of each
/// override, and every pair of values of every two overrides that are no long list
/// (activations, which meet nothing but their own switch).
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

/// Every way to fill the slots of a shader.
fn fillings(shader: Shader) -> Vec<Vec<Part>> {
    shader.slots().iter().fold(vec![Vec::new()], |found, slot| {
        found
            .iter()
            .flat_map(|f| slot.iter().map(move |&part| [f.as_slice(), &[part]].concat()))
            .collect()
    })
}

#[test]
fn every_shader_is_valid_for_every_key() {
    for &shader in Shader::ALL {
        for (index, parts) in fillings(shader).into_iter().enumerate() {
            let name = format!("{} with {parts:?}", shader.files().last().unwrap());
            let source: String = texts(shader, &parts).collect();
            let module = naga::front::wgsl::parse_str(&source)
                .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&source)));
            let info = validator()
                .validate(&module)
                .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&source)));
            let storage = |space| matches!(space, naga::AddressSpace::Storage { .. });
            let bound = module.global_variables.iter().filter(|(_, v)| storage(v.space)).count();
            assert!(
                bound <= super::super::device::STORAGE_BUFFERS as usize,
                "{name}: too many bindings"
            );
            let declared: Vec<_> = texts(shader, &parts).flat_map(overrides).collect();
            assert_eq!(
                declared.len(),
                module.overrides.len(),
                "{name}: an override is not on a line of its own"
            );
            assert_eq!(module.entry_points.len(), 1, "{name} has one entry point");
            let mut keys = Vec::new();
            // Parts have no overrides, so the values need to be tried with one filling only.
            for constants in
                assignments(&declared).into_iter().take(if index == 0 { usize::MAX } else { 1 })
            {
                let chosen = constants.iter().map(|&(n, v)| (n.to_owned(), v)).collect();
                let entry = Some((naga::ShaderStage::Compute, "main"));
                let (special, _) = naga::back::pipeline_constants::process_overrides(
                    &module, &info, entry, &chosen,
                )
                .unwrap_or_else(|e| panic!("{name} {constants:?}: {e}"));
                let info = validator()
                    .validate(&special)
                    .unwrap_or_else(|e| panic!("{name} {constants:?}: {e:?}"));
                let shared = component_stores(&special, &info);
                assert_eq!(shared, 0, "{name} {constants:?} stores into parts of vectors");
                keys.push(constants);
            }
            dump(shader, &parts, &source, &keys);
        }
    }
}

/// Stores into one component of a vector in storage or workgroup memory. Metal and DirectX 12
/// may write the whole vector, which races with the invocations that own the other components.
fn component_stores(module: &naga::Module, info: &naga::valid::ModuleInfo) -> usize {
    let functions = module.functions.iter().map(|(handle, f)| stores(&f.body, &info[handle]));
    let entries = module.entry_points.iter().enumerate();
    let entries = entries.map(|(i, e)| stores(&e.function.body, info.get_entry_point(i)));
    functions.chain(entries).sum()
}

/// Those of a block and the blocks in it.
fn stores(block: &naga::Block, info: &naga::valid::FunctionInfo) -> usize {
    let is_shared = |space: naga::AddressSpace| {
        matches!(space, naga::AddressSpace::Storage { .. } | naga::AddressSpace::WorkGroup)
    };
    let one = |statement: &naga::Statement| match statement {
        naga::Statement::Store { pointer, .. } => {
            let naga::proc::TypeResolution::Value(naga::TypeInner::ValuePointer {
                size: None,
                space,
                ..
            }) = &info[*pointer].ty
            else {
                return 0;
            };
            usize::from(is_shared(*space))
        }
        naga::Statement::Block(inner) => stores(inner, info),
        naga::Statement::If { accept, reject, .. } => stores(accept, info) + stores(reject, info),
        naga::Statement::Switch { cases, .. } => {
            cases.iter().map(|case| stores(&case.body, info)).sum()
        }
        naga::Statement::Loop { body, continuing, .. } => {
            stores(body, info) + stores(continuing, info)
        }
        // No other statement stores through a pointer but atomics, which are no vectors.
        _ => 0,
    };
    block.iter().map(one).sum()
}

#[test]
fn stores_into_parts_of_shared_vectors_are_found() {
    let count = |statement: &str| {
        let source = format!(
            "@group(0) @binding(0) var<storage, read_write> words: array<f32>;
            @group(0) @binding(1) var<storage, read_write> vectors: array<vec4<f32>>;
            var<workgroup> tile: array<vec4<f32>, 64>;
            fn store(i: u32) {{ {statement} }}
            @compute @workgroup_size(64)
            fn main(@builtin(local_invocation_index) i: u32) {{ store(i); }}"
        );
        let module = naga::front::wgsl::parse_str(&source).unwrap();
        component_stores(&module, &validator().validate(&module).unwrap())
    };
    for racy in [
        "vectors[i / 4u][i % 4u] = 1.0;",
        "vectors[i].y = 1.0;",
        "if i > 3u { tile[i / 4u][i % 4u] = 1.0; }",
        "for (var n = 0u; n < i; n++) { tile[n].x += 1.0; }",
        "switch i { case 0u: { tile[0].z = 1.0; } default: {} }",
    ] {
        assert_eq!(count(racy), 1, "{racy}");
    }
    for fine in [
        "words[i] = 1.0;",
        "vectors[i] = vec4<f32>(1.0);",
        "tile[i] += vec4<f32>(1.0);",
        "var v = tile[i]; v.x = 1.0; tile[i] = v;",
    ] {
        assert_eq!(count(fine), 0, "{fine}");
    }
}

/// Writes a shader with the keys that were tried to the folder that `FUSELSTM_DUMP_SHADERS`
/// names, so that any other compiler can be tried on them.
fn dump(shader: Shader, parts: &[Part], source: &str, keys: &[Vec<(&'static str, f64)>]) {
    let Some(folder) = std::env::var_os("FUSELSTM_DUMP_SHADERS") else { return };
    let folder = std::path::PathBuf::from(folder);
    std::fs::create_dir_all(&folder).unwrap();
    let parts: Vec<String> = parts.iter().map(|part| format!("-{part:?}")).collect();
    let name = format!("{shader:?}{}", parts.concat());
    let keys: Vec<std::collections::BTreeMap<_, _>> =
        keys.iter().map(|key| key.iter().copied().collect()).collect();
    std::fs::write(folder.join(format!("{name}.wgsl")), source).unwrap();
    let text = serde_json::to_string_pretty(&keys).unwrap();
    std::fs::write(folder.join(format!("{name}.json")), text).unwrap();
}

/// The one shader that the drivers at hand do not take, so far as naga can see to it: written
/// as SPIR-V with the capabilities that wgpu grants for its features.
#[cfg(any(target_os = "linux", target_os = "windows"))]
#[test]
fn cooperative_matrices_compile() {
    use naga::back::spv;

    for parts in fillings(Shader::DenseCooperative) {
        let source: String = texts(Shader::DenseCooperative, &parts).collect();
        let module = naga::front::wgsl::parse_str(&source).unwrap();
        let info = validator().validate(&module).unwrap();
        let entry = Some((naga::ShaderStage::Compute, "main"));
        let (special, info) = naga::back::pipeline_constants::process_overrides(
            &module,
            &info,
            entry,
            &Default::default(),
        )
        .unwrap();
        let granted = [
            spv::Capability::Shader,
            spv::Capability::Matrix,
            spv::Capability::Float16,
            spv::Capability::GroupNonUniform,
            spv::Capability::CooperativeMatrixKHR,
            spv::Capability::VulkanMemoryModel,
        ];
        let options = spv::Options {
            lang_version: (1, 4),
            capabilities: Some(granted.into_iter().collect()),
            ..spv::Options::default()
        };
        let words = spv::write_vec(&special, &info, &options, None)
            .unwrap_or_else(|e| panic!("{parts:?}: {e}"));
        assert!(words.len() > 1000, "{parts:?}");
    }
}

#[test]
fn missing_pipelines_are_made_together_and_once() {
    let Some(gpu) = super::super::testing::gpu() else { return };
    let (pipelines, meter) = (Pipelines::new(true, None), Meter::default());
    let mut kernels: Vec<_> =
        [Shader::Fill, Shader::Copy, Shader::Select, Shader::Fill].map(Kernel::new).into();
    let device = &gpu.shared.device;
    pipelines.make_all(device, kernels.iter(), &meter).unwrap();
    assert_eq!(meter.take().0, 3);
    pipelines.make_all(device, kernels.iter(), &meter).unwrap();
    assert_eq!(meter.take().0, 0);
    kernels.push(Kernel::new(Shader::Softmax).with("MISSPELT", 1u32));
    let error = pipelines.make_all(device, kernels.iter(), &meter).unwrap_err().to_string();
    assert!(error.contains("softmax.wgsl") && error.contains("MISSPELT"), "{error}");
}

#[test]
fn every_file_belongs_to_a_shader() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/shaders");
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let known = Shader::ALL.iter().any(|s| s.files().contains(&file.as_str()))
            || Part::ALL.iter().any(|(_, files)| files.contains(&file.as_str()));
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
