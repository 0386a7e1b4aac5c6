// Faults that are asked for, and those that kernels make.
#include <thread>

#include "api.hpp"

namespace drivertest {

namespace {

CUresult launch_one(const char* name, CUdeviceptr p) {
    void* parameters[] = {&p};
    unsigned threads = strcmp(name, "writes_to_null") == 0 ? 32 : 64;
    return api("cuLaunchKernel", load(name), 1u, 1u, 1u, threads, 1u, 1u, 0u, static_cast<void*>(nullptr),
               static_cast<void**>(parameters), static_cast<void**>(nullptr));
}

// A new primary context, with nothing left of a fault.
void start_anew() {
    void* context = nullptr;
    while (api("cuDevicePrimaryCtxRelease_v2", 0) == CUDA_SUCCESS) {}
    CHECK(api("cuMemGetInfo_v2", &context, &context) == CUDA_ERROR_INVALID_CONTEXT);
    CHECK(api("cuDevicePrimaryCtxRetain", &context, 0) == CUDA_SUCCESS);
    CHECK(api("cuCtxSetCurrent", context) == CUDA_SUCCESS);
}

void asked_for() {
    CUdeviceptr p = 0;
    {
        Setting fail("TESSERA_MOCK_FAIL", "cuMemAlloc_v2:2:2,cuEventCreate:1:999");
        CHECK(api("cuMemAlloc_v2", &p, size_t(16)) == CUDA_SUCCESS && api("cuMemFree_v2", p) == CUDA_SUCCESS);
        CHECK(api("cuMemAlloc_v2", &p, size_t(16)) == CUDA_ERROR_OUT_OF_MEMORY);
        CHECK(api("cuMemAlloc_v2", &p, size_t(16)) == CUDA_SUCCESS && api("cuMemFree_v2", p) == CUDA_SUCCESS);
        void* event = nullptr;
        CHECK(api("cuEventCreate", &event, 0u) == CUDA_ERROR_UNKNOWN);
    }
    {
        Setting fail("TESSERA_MOCK_FAIL", "cuMemAlloc_v2:2+:2");
        for (CUresult want : {CUDA_SUCCESS, CUDA_ERROR_OUT_OF_MEMORY, CUDA_ERROR_OUT_OF_MEMORY}) {
            CUresult r = api("cuMemAlloc_v2", &p, size_t(16));
            CHECK(r == want);
            if (r == CUDA_SUCCESS) CHECK(api("cuMemFree_v2", p) == CUDA_SUCCESS);
        }
    }
    {
        Setting fail("TESSERA_MOCK_FAIL", "cuCtxSynchronize:1:719:sticky");
        CHECK(api("cuCtxSynchronize") == CUDA_ERROR_LAUNCH_FAILED);
    }
    CHECK(api("cuMemAlloc_v2", &p, size_t(16)) == CUDA_ERROR_LAUNCH_FAILED);
    start_anew();
    CHECK(api("cuMemAlloc_v2", &p, size_t(16)) == CUDA_SUCCESS && api("cuMemFree_v2", p) == CUDA_SUCCESS);
}

void of_kernels() {
    CUdeviceptr p = allocate(256);
    CHECK(launch_one("no_barrier_before_reading", p) == CUDA_ERROR_LAUNCH_FAILED);
    std::string text = error_text(CUDA_ERROR_LAUNCH_FAILED);
    CHECK(text.find("no_barrier_before_reading, block (0, 0, 0), thread") != std::string::npos);
    CHECK(api("cuMemFree_v2", p) == CUDA_ERROR_LAUNCH_FAILED);  // sticky
    start_anew();
    CHECK(api("cuMemFree_v2", p) == CUDA_ERROR_INVALID_VALUE);  // went with its context
    CHECK(launch_one("writes_to_null", 0) == CUDA_ERROR_ILLEGAL_ADDRESS);
    start_anew();
    p = allocate(16);
    CHECK(launch_one("writes_to_null", p + 2) == CUDA_ERROR_MISALIGNED_ADDRESS);
    start_anew();
    {
        // With work that waits, the fault comes with the wait.
        Setting defer("TESSERA_MOCK_DEFER", "1");
        CHECK(launch_one("writes_to_null", 0) == CUDA_SUCCESS);
        CHECK(api("cuCtxSynchronize") == CUDA_ERROR_ILLEGAL_ADDRESS);
        start_anew();
    }
    {
        Setting twice("TESSERA_MOCK_TWICE", "1");
        CUdeviceptr word = allocate(4), out = allocate(16);
        void* parameters[] = {&word, &out};
        CHECK(api("cuMemsetD32_v2", word, 0u, size_t(1)) == CUDA_SUCCESS);
        CHECK(api("cuLaunchKernel", load("depends_on_order"), 4u, 1u, 1u, 32u, 1u, 1u, 0u, static_cast<void*>(nullptr),
                  static_cast<void**>(parameters), static_cast<void**>(nullptr)) == CUDA_ERROR_LAUNCH_FAILED);
        start_anew();
    }
    // A kernel that never ends: its stream stays busy, another one doesn't.
    void *stuck = nullptr, *free_stream = nullptr, *event = nullptr, *other_event = nullptr;
    for (void** s : {&stuck, &free_stream}) CHECK(api("cuStreamCreate", s, 1u) == CUDA_SUCCESS);
    for (void** e : {&event, &other_event}) CHECK(api("cuEventCreate", e, 2u) == CUDA_SUCCESS);
    {
        Setting hang("TESSERA_MOCK_HANG", "no_barrier_before_reading");
        void* parameters[] = {&p};
        CHECK(api("cuLaunchKernel", load("no_barrier_before_reading"), 1u, 1u, 1u, 64u, 1u, 1u, 0u, stuck,
                  static_cast<void**>(parameters), static_cast<void**>(nullptr)) == CUDA_SUCCESS);
    }
    CHECK(api("cuEventRecord", event, stuck) == CUDA_SUCCESS);
    CHECK(api("cuEventRecord", other_event, free_stream) == CUDA_SUCCESS);
    CHECK(api("cuEventQuery", event) == CUDA_ERROR_NOT_READY && api("cuStreamQuery", stuck) == CUDA_ERROR_NOT_READY);
    CHECK(api("cuEventQuery", other_event) == CUDA_SUCCESS && api("cuStreamQuery", free_stream) == CUDA_SUCCESS);
}

void from_another_thread() {
    void* context = nullptr;
    CHECK(api("cuCtxGetCurrent", &context) == CUDA_SUCCESS);
    std::thread([&] {
        size_t bytes = 0;
        CHECK(api("cuMemGetInfo_v2", &bytes, &bytes) == CUDA_ERROR_INVALID_CONTEXT);
        CHECK(api("cuCtxSetCurrent", context) == CUDA_SUCCESS);
        // Faults of the memory kind are caught in whatever thread launches.
        CHECK(launch_one("writes_to_null", 0) == CUDA_ERROR_ILLEGAL_ADDRESS);
    }).join();
    start_anew();
}

}  // namespace

void faults() {
    asked_for();
    from_another_thread();
    of_kernels();
}

}  // namespace drivertest
