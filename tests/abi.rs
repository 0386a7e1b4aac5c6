//! The committed `abi.wgsl` and `abi.cuh` are what the parameter structs say.

use tessera::abi::generate::{ITEM_FIELDS, STRUCTS, abi_cuh, abi_wgsl};
use tessera::abi::params::{CONTROL_HEADER_WORDS, Control, Item};

/// Each generated file and its content.
fn generated() -> [(std::path::PathBuf, String); 2] {
    let root = crate::source::root();
    [(root.join("shaders/shared/abi.wgsl"), abi_wgsl()), (root.join("kernels/shared/abi.cuh"), abi_cuh())]
}

#[test]
fn generated_files_are_current() {
    for (path, text) in generated() {
        let committed = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(committed == text, "{}: run `cargo test --release write_abi -- --ignored`", path.display());
    }
}

/// Writes the files; run by hand after a change of `src/abi/params.rs`.
#[test]
#[ignore = "writes source files"]
fn write_abi() {
    for (path, text) in generated() {
        std::fs::write(&path, text).expect("the tree is writable");
    }
}

#[test]
fn structs_have_no_holes() {
    for (name, fields, bytes) in STRUCTS {
        assert!(bytes % 16 == 0, "{name} is {bytes} bytes; uniforms are multiples of 16");
        assert_eq!(fields.len() * 4, bytes, "{name} has a hole");
        assert!(fields.iter().all(|(_, ty)| ["u32", "f32"].contains(ty)), "{name} has a field that is no word");
    }
    let mut at = 0;
    for (name, _, count, offset) in ITEM_FIELDS {
        assert_eq!(offset, at, "Item::{name} in WGSL lies elsewhere than in Rust");
        at += 4 * count;
    }
    assert_eq!(at, size_of::<Item>());
    assert_eq!(size_of::<Control>(), 4 * CONTROL_HEADER_WORDS as usize);
}
