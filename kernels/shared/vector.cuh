// Eight channels at a time, as f32: loads and stores of every element type, activations by their code.
// A channel pitch is a multiple of 8 and every range starts on 16 bytes, so eight elements of a half type are one
// 16-byte access and eight of f32 are two.
#pragma once

#include "abi.cuh"
#include "device.cuh"

// Element types by the names that entry points carry.
using f32 = float;
using f16 = half_t;
using bf16 = bf16_t;

template <class T> constexpr bool is_f32 = false;
template <> constexpr bool is_f32<f32> = true;
template <class T> constexpr bool is_f16 = false;
template <> constexpr bool is_f16<f16> = true;

// Types of stems without a weight, `M(x, w, y)`: whatever a layer between stored values and f32 can meet.
#define TS_TYPES_XY(M) \
    M(f32, f32, f32) M(f16, f16, f16) M(bf16, bf16, bf16) \
    M(f16, f16, f32) M(bf16, bf16, f32) M(f32, f32, f16) M(f32, f32, bf16)

// Types of stems with a weight: the weight is stored like the network's values, x and y like them or as f32.
#define TS_TYPES_XWY(M) \
    M(f32, f32, f32) M(f16, f16, f16) M(bf16, bf16, bf16) \
    M(f16, f16, f32) M(bf16, bf16, f32) M(f32, f16, f16) M(f32, bf16, bf16) M(f32, f16, f32) M(f32, bf16, f32)

// Types that tensor cores multiply with f32 sums.
#define TS_TYPES_MMA(M) M(f16, f16, f16) M(bf16, bf16, bf16) M(f16, f16, f32) M(bf16, bf16, f32)

// Grids are folded into two dimensions; surplus blocks find nothing to do.
TS_D unsigned block_index() {
    return blockIdx.y * gridDim.x + blockIdx.x;
}

TS_D unsigned ceil_div(unsigned a, unsigned b) {
    return (a + b - 1) / b;
}

TS_D const Item& item_of(const Control* control, unsigned item) {
    return reinterpret_cast<const Item*>(control + 1)[item];
}

template <class T> TS_D void unpack8(uint4 u, float (&v)[8]) {
    const unsigned words[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 pair = unpack2<T>(words[i]);
        v[2 * i] = pair.x;
        v[2 * i + 1] = pair.y;
    }
}

template <class T> TS_D void load8(const T* at, float (&v)[8]) {
    if constexpr (is_f32<T>) {
        const uint4 low = load16(at);
        const uint4 high = load16(at + 4);
        v[0] = bits_to_f32(low.x), v[1] = bits_to_f32(low.y), v[2] = bits_to_f32(low.z), v[3] = bits_to_f32(low.w);
        v[4] = bits_to_f32(high.x), v[5] = bits_to_f32(high.y), v[6] = bits_to_f32(high.z), v[7] = bits_to_f32(high.w);
    } else {
        const uint4 u = load16(at);
        unpack8<T>(u, v);
    }
}

// Sets STATUS_NARROW where a value does not fit f16. Bits are compared, so that NaN counts; 0x477fe000 is 65504.
template <class Y> TS_D void check_range(const float (&v)[8], Control* control) {
    if constexpr (is_f16<Y>) {
        unsigned worst = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const unsigned magnitude = f32_to_bits(v[i]) & 0x7fffffffu;
            worst = magnitude > worst ? magnitude : worst;
        }
        if (worst > 0x477fe000u) {
            atomic_or(&control->status[0], STATUS_NARROW);
        }
    }
}

template <class Y> TS_D void store8(Y* at, const float (&v)[8], Control* control) {
    check_range<Y>(v, control);
    if constexpr (is_f32<Y>) {
        store16(at, make_uint4(f32_to_bits(v[0]), f32_to_bits(v[1]), f32_to_bits(v[2]), f32_to_bits(v[3])));
        store16(at + 4, make_uint4(f32_to_bits(v[4]), f32_to_bits(v[5]), f32_to_bits(v[6]), f32_to_bits(v[7])));
    } else {
        store16(at, make_uint4(pack2<Y>(v[0], v[1]), pack2<Y>(v[2], v[3]), pack2<Y>(v[4], v[5]), pack2<Y>(v[6], v[7])));
    }
}

TS_D void activate8(unsigned code, float (&v)[8]) {
    if (code == ACT_SILU || code == ACT_QUICK_GELU) {
        const float factor = code == ACT_SILU ? 1.0f : 1.702f;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v[i] *= sigmoid(factor * v[i]);
        }
    } else if (code == ACT_GELU) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v[i] = gelu(v[i]);
        }
    } else if (code == ACT_RELU || code == ACT_LEAKY_RELU) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            // A comparison, not a maximum: a NaN must stay one.
            v[i] = v[i] < 0.0f ? (code == ACT_RELU ? 0.0f : 0.1f * v[i]) : v[i];
        }
    }
}

// Channels from `channels` on are pads and become zero; `c` is the first of the eight.
TS_D void clear_pads(float (&v)[8], unsigned c, unsigned channels) {
    if (c + 8 > channels) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v[i] = c + i < channels ? v[i] : 0.0f;
        }
    }
}
