// Wrappers of one thread: conversions, approximations, 16-byte accesses, atomics.
#include <cstring>

#include "state.hpp"

float f16_to_f32(unsigned short v) {
    unsigned sign = (v & 0x8000u) << 16, exponent = v >> 10 & 31u, fraction = v & 0x3ffu;
    if (exponent == 31) return bits_to_f32(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return bits_to_f32(sign | (exponent + 112) << 23 | fraction << 13);
    float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
}

unsigned short f32_to_f16(float v) {
    unsigned bits = f32_to_bits(v), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fff;  // what cvt gives for every NaN
    if (magnitude >= 0x477ff000u) return static_cast<unsigned short>(sign | 0x7c00u);  // 65520 and up
    if (magnitude < 0x38800000u) {
        // Subnormal: adding 0.5 puts the last place of f16 at the last place of f32, which rounds as f32 does.
        unsigned shifted = f32_to_bits(bits_to_f32(magnitude) + 0.5f) - 0x3f000000u;
        return static_cast<unsigned short>(sign | shifted);
    }
    unsigned odd = magnitude >> 13 & 1u;
    return static_cast<unsigned short>(sign | (magnitude - 0x38000000u + 0xfffu + odd) >> 13);
}

unsigned short f32_to_bf16(float v) {
    unsigned bits = f32_to_bits(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return static_cast<unsigned short>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

unsigned f32_to_tf32(float v) {
    unsigned bits = f32_to_bits(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffffffu;
    return (bits + 0x1000u) & ~0x1fffu;
}

namespace {
float without_subnormals(float v) { return fabsf(v) < 0x1p-126f ? copysignf(0.0f, v) : v; }
}  // namespace

float exp2_approx(float v) { return without_subnormals(exp2f(without_subnormals(v))); }
float rcp_approx(float v) { return without_subnormals(1.0f / without_subnormals(v)); }

uint4 load16(const void* p, ts_host::Site where) {
    emu::check_access(p, 16, false, true, 0, &where);
    uint4 v;
    memcpy(&v, p, 16);
    return v;
}

void store16(void* p, uint4 v, ts_host::Site where) {
    emu::check_access(p, 16, true, true, 0, &where);
    memcpy(p, &v, 16);
}

namespace {

uint4 load_global(const char* name, const void* p, const ts_host::Site& where) {
    if (emu::is_shared_address(p)) emu::fail(emu::Fault::address, 0, &where, "%s from %p, which is shared memory", name, p);
    return load16(p, where);
}

// Threads take turns between waits only, so a plain change is atomic. In shared memory it counts for no race: atomics are
// ordered among themselves.
unsigned exchange(unsigned* word, unsigned (*change)(unsigned, unsigned), unsigned v, const ts_host::Site& where) {
    if (!emu::is_shared_address(word)) emu::check_access(word, 4, true, true, 0, &where);
    unsigned held = *word;
    *word = change(held, v);
    return held;
}

}  // namespace

uint4 load_global_nc16(const void* p, ts_host::Site where) { return load_global("load_global_nc16", p, where); }
uint4 load_device16(const void* p, ts_host::Site where) { return load_global("load_device16", p, where); }

// Blocks run one after another, so what was written before is there.
void fence_device(ts_host::Site) {}

unsigned atomic_or(unsigned* word, unsigned bits, ts_host::Site where) {
    return exchange(word, [](unsigned held, unsigned v) { return held | v; }, bits, where);
}
unsigned atomic_add(unsigned* word, unsigned v, ts_host::Site where) {
    return exchange(word, [](unsigned held, unsigned v) { return held + v; }, v, where);
}
