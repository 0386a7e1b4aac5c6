// wgmma.cuh on the host: the same wrappers as declarations, which tests/cuda/emulator implements.
#pragma once

namespace ts_host {

// Bytes from the start of the block's shared memory.
unsigned shared_offset(const void* p, Site where);
void wgmma_wait_group(unsigned pending, Site where);
void wgmma(float* d, unsigned columns, unsigned long long a, unsigned long long b, bool bf16, Site where);

}  // namespace ts_host

// The dynamic shared memory, aligned to 1024 bytes.
template <class T> inline T* swizzled_shared() { return static_cast<T*>(ts_host::dynamic_shared_memory()); }

// Where an operand lies, see wgmma.cuh; `leading` counts for b alone. Addresses and offsets in units of 16 bytes.
inline unsigned long long wgmma_descriptor(const void* at, unsigned leading, unsigned stride, TS_WHERE) {
    return static_cast<unsigned long long>(ts_host::shared_offset(at, where) >> 4) |
           static_cast<unsigned long long>(leading >> 4) << 16 | static_cast<unsigned long long>(stride >> 4) << 32 |
           1ull << 62;
}

// Makes what this thread wrote to shared memory visible to products that begin behind the next barrier.
void fence_async_shared(TS_WHERE);
// Orders the group's registers before the products that follow; puts the products since the last commit into a group; holds until
// at most `pending` of the newest groups are unfinished.
void wgmma_fence(TS_WHERE);
void wgmma_commit(TS_WHERE);
template <int pending> inline void wgmma_wait(TS_WHERE) { ts_host::wgmma_wait_group(pending, where); }

// d += a b over the warpgroup, begun and not waited for: a 64 x 16, b 16 x 64 or 16 x 128, d in f32. Warp w of the group has rows
// 16 w and on; in it, with g = lane / 4 and t = lane % 4: d[4 j], d[4 j + 1] row g, columns 8 j + 2 t and the next; d[4 j + 2],
// d[4 j + 3] row g + 8 of those.
template <class T> inline void wgmma_m64n64k16(float (&d)[32], unsigned long long a, unsigned long long b, TS_WHERE) {
    static_assert(std::is_same_v<T, half_t> || std::is_same_v<T, bf16_t>, "f16 or bf16");
    ts_host::wgmma(d, 64, a, b, std::is_same_v<T, bf16_t>, where);
}
template <class T> inline void wgmma_m64n128k16(float (&d)[64], unsigned long long a, unsigned long long b, TS_WHERE) {
    static_assert(std::is_same_v<T, half_t> || std::is_same_v<T, bf16_t>, "f16 or bf16");
    ts_host::wgmma(d, 128, a, b, std::is_same_v<T, bf16_t>, where);
}
