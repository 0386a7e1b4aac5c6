// wgmma.cuh on the host: the same wrappers as declarations, which tests/cuda/emulator implements.
#pragma once

namespace ts_host {

// Bytes from the start of the block's shared memory.
unsigned shared_offset(const void* p, Site where);
void wgmma_wait_group(unsigned pending, Site where);
// One product: where its operands are, `by_columns`: b's rows are columns of the product.
struct Wgmma {
    unsigned columns;
    unsigned long long a, b;
    bool by_columns, bf16;
};
// `a` is the lane's registers, or null.
void wgmma(const char* name, float* d, const unsigned* a, const Wgmma& what, Site where);
template <class T> inline constexpr bool is_bf16 = std::is_same_v<T, bf16_t>;

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

// Keeps the compiler from moving uses of these registers past a fence or a wait.
template <class T, size_t N> inline void wgmma_hold(T (&)[N]) {}

// d += a b over the warpgroup, begun and not waited for: a 64 x 16, b 16 x 64 or 16 x 128, d in f32. Warp w of the group has rows
// 16 w and on; in it, with g = lane / 4 and t = lane % 4: d[4 j], d[4 j + 1] row g, columns 8 j + 2 t and the next; d[4 j + 2],
// d[4 j + 3] row g + 8 of those. `nk`: b's rows are the product's columns. `rs`: a is in registers, which hold what those of
// mma_m16n8k16 do, and are not changed before the wait either.
template <class T> inline void wgmma_m64n64k16(float (&d)[32], unsigned long long a, unsigned long long b, TS_WHERE) {
    ts_host::wgmma("wgmma_m64n64k16", d, nullptr, {64, a, b, false, ts_host::is_bf16<T>}, where);
}
template <class T> inline void wgmma_m64n128k16(float (&d)[64], unsigned long long a, unsigned long long b, TS_WHERE) {
    ts_host::wgmma("wgmma_m64n128k16", d, nullptr, {128, a, b, false, ts_host::is_bf16<T>}, where);
}
template <class T> inline void wgmma_m64n64k16_nk(float (&d)[32], unsigned long long a, unsigned long long b, TS_WHERE) {
    ts_host::wgmma("wgmma_m64n64k16_nk", d, nullptr, {64, a, b, true, ts_host::is_bf16<T>}, where);
}
template <class T> inline void wgmma_m64n64k16_rs(float (&d)[32], const unsigned (&a)[4], unsigned long long b, TS_WHERE) {
    ts_host::wgmma("wgmma_m64n64k16_rs", d, a, {64, 0, b, false, ts_host::is_bf16<T>}, where);
}
