// Generated from src/abi/params.rs by src/abi/generate.rs; do not edit.
// Structs of 4-byte scalars only: their layout is the same on the device, in C++ and in Rust.
#pragma once

constexpr unsigned NORM_BLOCK = 256u;
constexpr unsigned PRODUCT_BLOCK = 128u;
constexpr unsigned STATUS_NARROW = 1u;
constexpr unsigned ACT_NONE = 0u;
constexpr unsigned ACT_SILU = 1u;
constexpr unsigned ACT_GELU = 2u;
constexpr unsigned ACT_QUICK_GELU = 3u;
constexpr unsigned ACT_RELU = 4u;
constexpr unsigned ACT_LEAKY_RELU = 5u;
constexpr unsigned MOVE_DEPTH_TO_SPACE = 0u;
constexpr unsigned MOVE_SPACE_TO_DEPTH = 1u;
constexpr unsigned MOVE_WINDOWS = 2u;
constexpr unsigned MOVE_UNWINDOWS = 3u;
constexpr unsigned MOVE_PIXELS = 4u;
constexpr unsigned MOVE_SPLIT_CHANNELS = 5u;
constexpr unsigned CONTROL_HEADER_WORDS = 16u;

struct Item {
    int origin[2];
    int valid_rect[4];
    int stats_rect[4];
    unsigned step_row;
    unsigned ctx_row;
    unsigned branch;
    unsigned out_slot;
    unsigned keys;
    unsigned pad;
};
static_assert(sizeof(Item) == 64, "layout");

// The control buffer: the status word, reserved words, then one Item per batch element.
struct Control {
    unsigned status[CONTROL_HEADER_WORDS];
};

struct Conv2dParams {
    unsigned n;
    unsigned h;
    unsigned w;
    unsigned pitch_x;
    unsigned pitch_x2;
    unsigned oh;
    unsigned ow;
    unsigned oc;
    unsigned pitch_y;
    unsigned kernel;
    unsigned stride;
    unsigned pad_top;
    unsigned pad_left;
    unsigned upsample;
    unsigned act;
    unsigned parts;
    unsigned pitch_row_bias;
    unsigned pad0;
    unsigned pad1;
    unsigned pad2;
};
static_assert(sizeof(Conv2dParams) == 80, "layout");

struct GemmParams {
    unsigned m;
    unsigned n;
    unsigned k;
    unsigned pitch_y;
    unsigned act;
    unsigned parts;
    unsigned items;
    unsigned pad0;
};
static_assert(sizeof(GemmParams) == 32, "layout");

struct AttentionParams {
    unsigned n;
    unsigned queries;
    unsigned keys;
    unsigned heads;
    unsigned head_dim;
    unsigned pitch_q;
    unsigned pitch_k;
    unsigned pitch_v;
    unsigned pitch_y;
    unsigned offset_q;
    unsigned offset_k;
    unsigned offset_v;
    float scale;
    unsigned parts;
    unsigned rel_h;
    unsigned rel_w;
};
static_assert(sizeof(AttentionParams) == 64, "layout");

struct GroupNormStatsParams {
    unsigned n;
    unsigned h;
    unsigned w;
    unsigned pitch_x;
    unsigned pitch_x2;
    unsigned blocks;
    unsigned parts;
    unsigned pad0;
};
static_assert(sizeof(GroupNormStatsParams) == 32, "layout");

struct NormFinalizeParams {
    unsigned n;
    unsigned blocks;
    unsigned c;
    unsigned c2;
    unsigned pitch_x;
    unsigned pitch_x2;
    unsigned groups;
    float eps;
};
static_assert(sizeof(NormFinalizeParams) == 32, "layout");

struct NormApplyParams {
    unsigned n;
    unsigned pixels;
    unsigned c;
    unsigned c2;
    unsigned pitch_x;
    unsigned pitch_x2;
    unsigned pitch_y;
    unsigned act;
};
static_assert(sizeof(NormApplyParams) == 32, "layout");

struct LayerNormParams {
    unsigned rows;
    unsigned c;
    unsigned pitch;
    float eps;
};
static_assert(sizeof(LayerNormParams) == 16, "layout");

struct TimeEmbeddingParams {
    unsigned rows;
    unsigned dim;
    unsigned pitch;
    unsigned flip;
    float shift;
    float max_period;
    unsigned pad0;
    unsigned pad1;
};
static_assert(sizeof(TimeEmbeddingParams) == 32, "layout");

struct PointwiseParams {
    unsigned n;
    unsigned pixels;
    unsigned c;
    unsigned pitch_a;
    unsigned pitch_b;
    unsigned pitch_y;
    unsigned offset;
    unsigned act;
    float alpha;
    float beta;
    float gamma;
    float lo;
    float hi;
    unsigned parts;
    unsigned pad0;
    unsigned pad1;
};
static_assert(sizeof(PointwiseParams) == 64, "layout");

struct ResampleParams {
    unsigned n;
    unsigned h;
    unsigned w;
    unsigned pitch;
    unsigned out;
    unsigned axis;
    unsigned taps;
    unsigned pitch_table;
    unsigned parts;
    unsigned pad0;
    unsigned pad1;
    unsigned pad2;
};
static_assert(sizeof(ResampleParams) == 48, "layout");

struct RearrangeParams {
    unsigned n;
    unsigned h;
    unsigned w;
    unsigned c_x;
    unsigned pitch_x;
    unsigned oh;
    unsigned ow;
    unsigned c;
    unsigned pitch_y;
    unsigned kind;
    unsigned size;
    unsigned across;
};
static_assert(sizeof(RearrangeParams) == 48, "layout");

struct ModulateParams {
    unsigned pixels;
    unsigned c;
    unsigned pitch;
    unsigned pitch_gb;
    unsigned act;
    unsigned pad0;
    unsigned pad1;
    unsigned pad2;
};
static_assert(sizeof(ModulateParams) == 32, "layout");
