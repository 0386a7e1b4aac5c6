// Generated from src/abi/params.rs by src/abi/generate.rs; do not edit.
// Structs of scalars only: their layout is the same in a uniform, in storage and in Rust.

const NORM_BLOCK: u32 = 256u;
const PRODUCT_BLOCK: u32 = 128u;
const STATUS_NARROW: u32 = 1u;
const ACT_NONE: u32 = 0u;
const ACT_SILU: u32 = 1u;
const ACT_GELU: u32 = 2u;
const ACT_QUICK_GELU: u32 = 3u;
const ACT_RELU: u32 = 4u;
const ACT_LEAKY_RELU: u32 = 5u;
const MOVE_DEPTH_TO_SPACE: u32 = 0u;
const MOVE_SPACE_TO_DEPTH: u32 = 1u;
const MOVE_WINDOWS: u32 = 2u;
const MOVE_UNWINDOWS: u32 = 3u;
const MOVE_PIXELS: u32 = 4u;
const MOVE_SPLIT_CHANNELS: u32 = 5u;

struct Item {
    origin: array<i32, 2>,
    valid_rect: array<i32, 4>,
    stats_rect: array<i32, 4>,
    step_row: u32,
    ctx_row: u32,
    branch: u32,
    out_slot: u32,
    keys: u32,
    pad: u32,
}

struct Control {
    status: atomic<u32>,
    reserved: array<u32, 15>,
    items: array<Item>,
}

struct Conv2dParams {
    n: u32,
    h: u32,
    w: u32,
    pitch_x: u32,
    pitch_x2: u32,
    oh: u32,
    ow: u32,
    oc: u32,
    pitch_y: u32,
    kernel: u32,
    stride: u32,
    pad_top: u32,
    pad_left: u32,
    upsample: u32,
    act: u32,
    parts: u32,
    pitch_row_bias: u32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

struct GemmParams {
    m: u32,
    n: u32,
    k: u32,
    pitch_y: u32,
    act: u32,
    parts: u32,
    items: u32,
    pad0: u32,
}

struct AttentionParams {
    n: u32,
    queries: u32,
    keys: u32,
    heads: u32,
    head_dim: u32,
    pitch_q: u32,
    pitch_k: u32,
    pitch_v: u32,
    pitch_y: u32,
    offset_q: u32,
    offset_k: u32,
    offset_v: u32,
    scale: f32,
    parts: u32,
    rel_h: u32,
    rel_w: u32,
}

struct GroupNormStatsParams {
    n: u32,
    h: u32,
    w: u32,
    pitch_x: u32,
    pitch_x2: u32,
    blocks: u32,
    parts: u32,
    pad0: u32,
}

struct NormFinalizeParams {
    n: u32,
    blocks: u32,
    c: u32,
    c2: u32,
    pitch_x: u32,
    pitch_x2: u32,
    groups: u32,
    eps: f32,
}

struct NormApplyParams {
    n: u32,
    pixels: u32,
    c: u32,
    c2: u32,
    pitch_x: u32,
    pitch_x2: u32,
    pitch_y: u32,
    act: u32,
}

struct LayerNormParams {
    rows: u32,
    c: u32,
    pitch: u32,
    eps: f32,
}

struct TimeEmbeddingParams {
    rows: u32,
    dim: u32,
    pitch: u32,
    flip: u32,
    shift: f32,
    max_period: f32,
    pad0: u32,
    pad1: u32,
}

struct PointwiseParams {
    n: u32,
    pixels: u32,
    c: u32,
    pitch_a: u32,
    pitch_b: u32,
    pitch_y: u32,
    offset: u32,
    act: u32,
    alpha: f32,
    beta: f32,
    gamma: f32,
    lo: f32,
    hi: f32,
    parts: u32,
    pad0: u32,
    pad1: u32,
}

struct ResampleParams {
    n: u32,
    h: u32,
    w: u32,
    pitch: u32,
    out: u32,
    axis: u32,
    taps: u32,
    pitch_table: u32,
    parts: u32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

struct RearrangeParams {
    n: u32,
    h: u32,
    w: u32,
    c_x: u32,
    pitch_x: u32,
    oh: u32,
    ow: u32,
    c: u32,
    pitch_y: u32,
    kind: u32,
    size: u32,
    across: u32,
}

struct ModulateParams {
    pixels: u32,
    c: u32,
    pitch: u32,
    pitch_gb: u32,
    act: u32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
}
