//! The committed `abi.wgsl` is what the parameter structs say.

use tessera::abi::generate::{ITEM_FIELDS, STRUCTS, abi_wgsl};
use tessera::abi::params::{CONTROL_HEADER_WORDS, Control, Item};

fn path() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders/shared/abi.wgsl")
}

#[test]
fn abi_wgsl_is_current() {
    let committed = std::fs::read_to_string(path()).expect("shaders/shared/abi.wgsl");
    assert!(committed == abi_wgsl(), "run `cargo test --release abi_wgsl_write -- --ignored` and commit the file");
}

/// Writes the file; run by hand after a change of `src/abi/params.rs`.
#[test]
#[ignore = "writes a source file"]
fn abi_wgsl_write() {
    std::fs::write(path(), abi_wgsl()).expect("shaders/shared is writable");
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
