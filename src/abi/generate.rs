//! The text of `shaders/shared/abi.wgsl`, from the parameter structs. `tests/abi.rs` holds the committed
//! file to it; write it anew with `cargo test --release abi_wgsl -- --ignored`.

use super::params::*;
use std::fmt::Write as _;
use std::mem::offset_of;

/// Fields of [`Item`]: name, scalar, count, byte offset. WGSL aligns vectors to their size, so an array of
/// scalars stands for each; the test compares the offsets with the Rust struct's.
pub const ITEM_FIELDS: [(&str, &str, usize, usize); 8] = [
    ("origin", "i32", 2, offset_of!(Item, origin)),
    ("valid_rect", "i32", 4, offset_of!(Item, valid_rect)),
    ("stats_rect", "i32", 4, offset_of!(Item, stats_rect)),
    ("step_row", "u32", 1, offset_of!(Item, step_row)),
    ("ctx_row", "u32", 1, offset_of!(Item, ctx_row)),
    ("branch", "u32", 1, offset_of!(Item, branch)),
    ("out_slot", "u32", 1, offset_of!(Item, out_slot)),
    ("pad", "u32", 2, offset_of!(Item, pad)),
];

/// A parameter struct: name, fields (name and scalar), bytes.
pub type ParamsStruct = (&'static str, &'static [(&'static str, &'static str)], usize);

/// Every parameter struct.
pub const STRUCTS: [ParamsStruct; 9] = [
    ("Conv2dParams", Conv2dParams::FIELDS, size_of::<Conv2dParams>()),
    ("GemmParams", GemmParams::FIELDS, size_of::<GemmParams>()),
    ("AttentionParams", AttentionParams::FIELDS, size_of::<AttentionParams>()),
    ("GroupNormStatsParams", GroupNormStatsParams::FIELDS, size_of::<GroupNormStatsParams>()),
    ("NormFinalizeParams", NormFinalizeParams::FIELDS, size_of::<NormFinalizeParams>()),
    ("NormApplyParams", NormApplyParams::FIELDS, size_of::<NormApplyParams>()),
    ("LayerNormParams", LayerNormParams::FIELDS, size_of::<LayerNormParams>()),
    ("TimeEmbeddingParams", TimeEmbeddingParams::FIELDS, size_of::<TimeEmbeddingParams>()),
    ("PointwiseParams", PointwiseParams::FIELDS, size_of::<PointwiseParams>()),
];

/// The file's content.
pub fn abi_wgsl() -> String {
    let mut out = String::from(
        "// Generated from src/abi/params.rs by src/abi/generate.rs; do not edit.\n\
         // Structs of scalars only: their layout is the same in a uniform, in storage and in Rust.\n\n",
    );
    for (name, value) in [
        ("NORM_BLOCK", NORM_BLOCK),
        ("STATUS_NARROW", STATUS_NARROW),
        ("ACT_NONE", ACT_NONE),
        ("ACT_SILU", ACT_SILU),
        ("ACT_GELU", ACT_GELU),
        ("ACT_QUICK_GELU", ACT_QUICK_GELU),
        ("ACT_RELU", ACT_RELU),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "const {name}: u32 = {value}u;");
    }
    out.push_str("\nstruct Item {\n");
    for (name, scalar, count, _) in ITEM_FIELDS {
        let ty = if count == 1 { scalar.to_owned() } else { format!("array<{scalar}, {count}>") };
        let _ = writeln!(out, "    {name}: {ty},");
    }
    let _ = writeln!(
        out,
        "}}\n\nstruct Control {{\n    status: atomic<u32>,\n    reserved: array<u32, {}>,\n    items: array<Item>,\n}}",
        CONTROL_HEADER_WORDS - 1
    );
    for (name, fields, _) in STRUCTS {
        let _ = writeln!(out, "\nstruct {name} {{");
        for (field, ty) in fields {
            let _ = writeln!(out, "    {field}: {ty},");
        }
        out.push_str("}\n");
    }
    out
}
