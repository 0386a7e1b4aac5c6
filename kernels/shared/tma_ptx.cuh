// tma.cuh on the GPU: inline PTX for sm_90a, PTX 8.0. Semantics stand with the host's declarations in tma_host.cuh and in the PTX
// manual's sections on mbarrier, cp.async.bulk.tensor and setmaxnreg.
#pragma once

// As the driver makes it.
struct alignas(64) TensorMap {
    unsigned long long words[16];
};
#define TS_MAP(name) const __grid_constant__ TensorMap name

// PTX: mbarrier.init, fence.mbarrier_init, fence.proxy.async, mbarrier.arrive, mbarrier.arrive.expect_tx, mbarrier.try_wait.
TS_D void mbarrier_init(Barrier* b, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
TS_D void mbarrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;" ::: "memory");
}
TS_D void mbarrier_arrive(Barrier* b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
TS_D void mbarrier_arrive_expect(Barrier* b, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
TS_D void mbarrier_wait(Barrier* b, unsigned parity) {
    unsigned ended;
    do {
        asm volatile(
            "{.reg .pred ended; mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2; selp.u32 %0, 1, 0, ended;}"
            : "=r"(ended)
            : "r"(shared_address(b)), "r"(parity)
            : "memory");
    } while (ended == 0);
}

// PTX: cp.async.bulk.tensor.
TS_D void tma_load_2d(void* to, const TensorMap& map, Barrier* b, unsigned x, unsigned y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            shared_address(to)),
        "l"(&map), "r"(shared_address(b)), "r"(x), "r"(y)
        : "memory");
}
TS_D void tma_load_3d(void* to, const TensorMap& map, Barrier* b, unsigned x, unsigned y, unsigned z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(
            shared_address(to)),
        "l"(&map), "r"(shared_address(b)), "r"(x), "r"(y), "r"(z)
        : "memory");
}
TS_D void tma_load_im2col(void* to, const TensorMap& map, Barrier* b, unsigned c, int w, int h, unsigned n, unsigned dx,
                          unsigned dy) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2], "
        "{%7, %8};" ::"r"(shared_address(to)),
        "l"(&map), "r"(shared_address(b)), "r"(c), "r"(w), "r"(h), "r"(n), "h"(static_cast<unsigned short>(dx)),
        "h"(static_cast<unsigned short>(dy))
        : "memory");
}

// PTX: setmaxnreg.
template <unsigned registers> TS_D void registers_give() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}
template <unsigned registers> TS_D void registers_take() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}
