//! Every permutation of every shader, re-read by compilers: naga always, tint where it is installed.

use naga::{AddressSpace, StorageAccess};
use tessera::abi::generate::STRUCTS;
use tessera::abi::table::wgpu::{LANES, PERMUTATIONS};
use tessera::abi::{Access, BackendKind, Stem, Types};
use tessera::backend::wgpu::wgsl;
use tessera::graph::DType;

/// WebGPU's default limit, bytes.
const WORKGROUP_MEMORY: u32 = 16 << 10;

fn types() -> Vec<Types> {
    let two = [DType::F32, DType::F16];
    let mut out = Vec::new();
    for x in two {
        for w in two {
            for y in two {
                out.push(Types { x, w, y });
            }
        }
    }
    out
}

/// What a stem's parameter struct is called.
fn params_name(stem: Stem) -> String {
    stem.name().split('_').map(|w| w[..1].to_uppercase() + &w[1..]).collect::<String>() + "Params"
}

fn check(stem: Stem, text: &str) -> Result<(), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|e| e.emit_to_string(text))?;
    // No capabilities beyond WebGPU's base: no f16 type, no subgroups. The one named here is unpack2x16float
    // and pack2x16float, which every device has.
    let base = naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), base);
    let info = validator.validate(&module).map_err(|e| e.emit_to_string(text))?;
    let [entry] = module.entry_points.as_slice() else {
        return Err(format!("{} entry points", module.entry_points.len()));
    };
    if entry.name != "main" || entry.workgroup_size != [LANES, 1, 1] {
        return Err(format!("entry `{}` with workgroups of {:?}", entry.name, entry.workgroup_size));
    }
    let mut found: Vec<bool> = stem.bindings().iter().map(|b| !b.on(BackendKind::Wgpu)).collect();
    let mut memory = 0;
    for (handle, global) in module.global_variables.iter() {
        let name = global.name.as_deref().unwrap_or_default();
        match (global.space, &global.binding) {
            (AddressSpace::Storage { access }, Some(at)) => {
                let declared = stem.bindings().get(at.binding as usize).filter(|b| b.on(BackendKind::Wgpu));
                let declared = declared.ok_or(format!("binding {}", at.binding))?;
                if at.group != 0 || declared.name != name {
                    return Err(format!(
                        "`{name}` is at {}.{}; the table has `{}`",
                        at.group, at.binding, declared.name
                    ));
                }
                let read_only = !access.contains(StorageAccess::STORE);
                if read_only != (declared.access == Access::Weight) {
                    return Err(format!("`{name}` is bound with the wrong access"));
                }
                found[at.binding as usize] = true;
            }
            (AddressSpace::Uniform, Some(at)) => {
                let ty = &module.types[global.ty];
                let wanted = params_name(stem);
                let bytes = STRUCTS.iter().find(|s| s.0 == wanted).map(|s| s.2 as u32);
                let size = ty.inner.size(module.to_ctx());
                if (at.group, at.binding) != (1, 0) || ty.name != Some(wanted) || Some(size) != bytes {
                    return Err(format!("uniform {:?} of {size} bytes at {}.{}", ty.name, at.group, at.binding));
                }
            }
            (AddressSpace::WorkGroup, None) => {
                if !info.get_entry_point(0)[handle].is_empty() {
                    memory += module.types[global.ty].inner.size(module.to_ctx());
                }
            }
            (AddressSpace::Private, None) => {}
            (space, binding) => return Err(format!("`{name}` in {space:?} at {binding:?}")),
        }
    }
    if memory > WORKGROUP_MEMORY {
        return Err(format!("{memory} bytes of workgroup memory"));
    }
    match found.iter().position(|f| !f) {
        None => Ok(()),
        Some(i) => Err(format!("`{}` is not declared", stem.bindings()[i].name)),
    }
}

#[test]
fn every_permutation_is_valid_and_declares_its_bindings() {
    let mut failures = Vec::new();
    for p in PERMUTATIONS {
        for t in types() {
            let result = wgsl(p.stem, p.variant, t).map_err(|e| e.to_string()).and_then(|text| check(p.stem, &text));
            if let Err(why) = result {
                failures.push(format!("{} {} {t:?}: {why}", p.stem.name(), p.variant));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// naga is lenient where WGSL is strict (uniformity of barriers, reserved words); tint is not.
#[test]
fn tint_accepts_every_permutation() {
    use std::process::Command;
    if Command::new("tint").arg("--help").output().is_err() {
        println!("SKIPPED: tint is not installed");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut failures = Vec::new();
    for p in PERMUTATIONS {
        for (i, t) in types().into_iter().enumerate() {
            let path = folder.path().join(format!("{}_{}_{i}.wgsl", p.stem.name(), p.variant));
            let text = wgsl(p.stem, p.variant, t).expect("expands");
            std::fs::write(&path, text).expect("the folder is writable");
            let out = Command::new("tint").args(["--format", "wgsl"]).arg(&path).output().expect("tint runs");
            if !out.status.success() {
                failures.push(String::from_utf8_lossy(&out.stderr).into_owned());
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn bf16_is_refused() {
    let t = Types { x: DType::Bf16, w: DType::F32, y: DType::F32 };
    assert_eq!(wgsl(Stem::Gemm, "registers", t).expect_err("no bf16").kind(), tessera::Kind::Device);
}
