//! The texts of `shaders/shared/abi.wgsl` and `kernels/shared/abi.cuh`, from the parameter structs.
//! `tests/abi.rs` holds the committed files to them; write them anew with
//! `cargo test --release write_abi -- --ignored`.

use super::params::*;
use std::fmt::Write as _;
use std::mem::offset_of;

/// Fields of [`Item`]: name, scalar, count, byte offset. WGSL aligns vectors to their size, so an array of
/// scalars stands for each; the test compares the offsets with the Rust struct's.
pub const ITEM_FIELDS: [(&str, &str, usize, usize); 9] = [
    ("origin", "i32", 2, offset_of!(Item, origin)),
    ("valid_rect", "i32", 4, offset_of!(Item, valid_rect)),
    ("stats_rect", "i32", 4, offset_of!(Item, stats_rect)),
    ("step_row", "u32", 1, offset_of!(Item, step_row)),
    ("ctx_row", "u32", 1, offset_of!(Item, ctx_row)),
    ("branch", "u32", 1, offset_of!(Item, branch)),
    ("out_slot", "u32", 1, offset_of!(Item, out_slot)),
    ("keys", "u32", 1, offset_of!(Item, keys)),
    ("pad", "u32", 1, offset_of!(Item, pad)),
];

/// A parameter struct: name, fields (name and scalar), bytes.
pub type ParamsStruct = (&'static str, &'static [(&'static str, &'static str)], usize);

/// Every parameter struct.
pub const STRUCTS: [ParamsStruct; 12] = [
    ("Conv2dParams", Conv2dParams::FIELDS, size_of::<Conv2dParams>()),
    ("GemmParams", GemmParams::FIELDS, size_of::<GemmParams>()),
    ("AttentionParams", AttentionParams::FIELDS, size_of::<AttentionParams>()),
    ("GroupNormStatsParams", GroupNormStatsParams::FIELDS, size_of::<GroupNormStatsParams>()),
    ("NormFinalizeParams", NormFinalizeParams::FIELDS, size_of::<NormFinalizeParams>()),
    ("NormApplyParams", NormApplyParams::FIELDS, size_of::<NormApplyParams>()),
    ("LayerNormParams", LayerNormParams::FIELDS, size_of::<LayerNormParams>()),
    ("TimeEmbeddingParams", TimeEmbeddingParams::FIELDS, size_of::<TimeEmbeddingParams>()),
    ("PointwiseParams", PointwiseParams::FIELDS, size_of::<PointwiseParams>()),
    ("ResampleParams", ResampleParams::FIELDS, size_of::<ResampleParams>()),
    ("RearrangeParams", RearrangeParams::FIELDS, size_of::<RearrangeParams>()),
    ("ModulateParams", ModulateParams::FIELDS, size_of::<ModulateParams>()),
];

/// Constants the kernels share with the host.
const CONSTANTS: [(&str, u32); 15] = [
    ("NORM_BLOCK", NORM_BLOCK),
    ("PRODUCT_BLOCK", PRODUCT_BLOCK),
    ("STATUS_NARROW", STATUS_NARROW),
    ("ACT_NONE", ACT_NONE),
    ("ACT_SILU", ACT_SILU),
    ("ACT_GELU", ACT_GELU),
    ("ACT_QUICK_GELU", ACT_QUICK_GELU),
    ("ACT_RELU", ACT_RELU),
    ("ACT_LEAKY_RELU", ACT_LEAKY_RELU),
    ("MOVE_DEPTH_TO_SPACE", MOVE_DEPTH_TO_SPACE),
    ("MOVE_SPACE_TO_DEPTH", MOVE_SPACE_TO_DEPTH),
    ("MOVE_WINDOWS", MOVE_WINDOWS),
    ("MOVE_UNWINDOWS", MOVE_UNWINDOWS),
    ("MOVE_PIXELS", MOVE_PIXELS),
    ("MOVE_SPLIT_CHANNELS", MOVE_SPLIT_CHANNELS),
];

/// The content of `shaders/shared/abi.wgsl`.
pub fn abi_wgsl() -> String {
    let mut out = String::from(
        "// Generated from src/abi/params.rs by src/abi/generate.rs; do not edit.\n\
         // Structs of scalars only: their layout is the same in a uniform, in storage and in Rust.\n\n",
    );
    for (name, value) in CONSTANTS {
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

/// A WGSL scalar's name in C++.
fn cuda_scalar(scalar: &str) -> &str {
    match scalar {
        "u32" => "unsigned",
        "i32" => "int",
        "f32" => "float",
        other => other,
    }
}

/// The content of `kernels/shared/abi.cuh`. The structs are passed by value; the compiler holds their sizes
/// to the Rust ones.
pub fn abi_cuh() -> String {
    let mut out = String::from(
        "// Generated from src/abi/params.rs by src/abi/generate.rs; do not edit.\n\
         // Structs of 4-byte scalars only: their layout is the same on the device, in C++ and in Rust.\n\
         #pragma once\n\n",
    );
    for (name, value) in CONSTANTS.into_iter().chain([("CONTROL_HEADER_WORDS", CONTROL_HEADER_WORDS)]) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "constexpr unsigned {name} = {value}u;");
    }
    out.push_str("\nstruct Item {\n");
    for (name, scalar, count, _) in ITEM_FIELDS {
        let extent = if count == 1 { String::new() } else { format!("[{count}]") };
        let _ = writeln!(out, "    {} {name}{extent};", cuda_scalar(scalar));
    }
    let _ = writeln!(out, "}};\nstatic_assert(sizeof(Item) == {}, \"layout\");", size_of::<Item>());
    out.push_str(
        "\n// The control buffer: the status word, reserved words, then one Item per batch element.\n\
         struct Control {\n    unsigned status[CONTROL_HEADER_WORDS];\n};\n",
    );
    for (name, fields, bytes) in STRUCTS {
        let _ = writeln!(out, "\nstruct {name} {{");
        for (field, ty) in fields {
            let _ = writeln!(out, "    {} {field};", cuda_scalar(ty));
        }
        let _ = writeln!(out, "}};\nstatic_assert(sizeof({name}) == {bytes}, \"layout\");");
    }
    out
}
