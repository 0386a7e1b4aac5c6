// Memory, copies, launches, events: with work that runs at once and with work that waits.
#include "api.hpp"

namespace drivertest {

CUresult launch_sums(void* stream, CUdeviceptr in, CUdeviceptr out, CUdeviceptr control, unsigned n, unsigned grid,
                     unsigned dynamic) {
    void* parameters[] = {&in, &out, &control, &n};
    return api("cuLaunchKernel", load("block_sums"), grid, 1u, 1u, 96u, 1u, 1u, dynamic, stream,
               static_cast<void**>(parameters), static_cast<void**>(nullptr));
}

namespace {

void ranges() {
    size_t free_before = 0, free_after = 0, total = 0;
    CHECK(api("cuMemGetInfo_v2", &free_before, &total) == CUDA_SUCCESS);
    CUdeviceptr a = allocate(1000), b = allocate(1000);
    CHECK(a % 256 == 0 && b % 256 == 0);
    CHECK(api("cuMemGetInfo_v2", &free_after, &total) == CUDA_SUCCESS && free_before - free_after == 2000);
    std::vector<unsigned char> bytes(1000, 7), back(1000, 0);
    CHECK(api("cuMemcpyHtoD_v2", a, static_cast<const void*>(bytes.data()), size_t(1000)) == CUDA_SUCCESS);
    CHECK(api("cuMemcpyHtoD_v2", a + 1, static_cast<const void*>(bytes.data()), size_t(1000)) == CUDA_ERROR_INVALID_VALUE);
    CHECK(api("cuMemcpyDtoD_v2", b, a, size_t(1000)) == CUDA_SUCCESS);
    CHECK(api("cuMemsetD8_v2", b + 500, static_cast<unsigned char>(9), size_t(500)) == CUDA_SUCCESS);
    CHECK(api("cuMemsetD32_v2", b + 4, 0x01020304u, size_t(1)) == CUDA_SUCCESS);
    CHECK(api("cuMemcpyDtoH_v2", static_cast<void*>(back.data()), b, size_t(1000)) == CUDA_SUCCESS);
    CHECK(back[0] == 7 && back[4] == 4 && back[7] == 1 && back[8] == 7);
    CHECK(back[499] == 7 && back[500] == 9 && back[999] == 9);
    {
        Setting memory("TESSERA_MOCK_MEMORY", "2500");
        CUdeviceptr c = 0;
        CHECK(api("cuMemAlloc_v2", &c, size_t(501)) == CUDA_ERROR_OUT_OF_MEMORY && c == 0);
    }
    CHECK(api("cuMemFree_v2", a + 256) == CUDA_ERROR_INVALID_VALUE);
    CHECK(api("cuMemFree_v2", a) == CUDA_SUCCESS && api("cuMemFree_v2", a) == CUDA_ERROR_INVALID_VALUE);
    CHECK(api("cuMemFree_v2", b) == CUDA_SUCCESS);
    CHECK(api("cuMemGetInfo_v2", &free_after, &total) == CUDA_SUCCESS && free_before == free_after);
}

// Sums of 200 ones in blocks of 96 through pinned memory; the order of calls is that of a host that waits properly.
void through_a_stream() {
    void *stream = nullptr, *begin = nullptr, *end = nullptr, *silent = nullptr;
    CHECK(api("cuStreamCreate", &stream, 1u) == CUDA_SUCCESS);
    CHECK(api("cuEventCreate", &begin, 0u) == CUDA_SUCCESS && api("cuEventCreate", &end, 0u) == CUDA_SUCCESS);
    CHECK(api("cuEventCreate", &silent, 2u) == CUDA_SUCCESS);
    CUdeviceptr in = allocate(800), out = allocate(12), control = allocate(4);
    void* pinned = nullptr;
    CHECK(api("cuMemHostAlloc", &pinned, size_t(1024), 0u) == CUDA_SUCCESS);
    auto* host = static_cast<unsigned*>(pinned);
    for (int i = 0; i < 200; i++) host[i] = 1;
    CHECK(api("cuEventRecord", begin, stream) == CUDA_SUCCESS);
    CHECK(api("cuMemsetD8Async", control, static_cast<unsigned char>(0), size_t(4), stream) == CUDA_SUCCESS);
    CHECK(api("cuMemcpyHtoDAsync_v2", in, static_cast<const void*>(host), size_t(800), stream) == CUDA_SUCCESS);
    CHECK(launch_sums(stream, in, out, control, 200, 3, 384) == CUDA_SUCCESS);
    unsigned* result = host + 201;
    result[0] = 77;
    CHECK(api("cuMemcpyDtoHAsync_v2", static_cast<void*>(result), out, size_t(12), stream) == CUDA_SUCCESS);
    bool deferred = getenv("TESSERA_MOCK_DEFER") != nullptr;
    CHECK(result[0] == (deferred ? 77u : 96u));
    CHECK(api("cuEventRecord", end, stream) == CUDA_SUCCESS && api("cuEventRecord", silent, stream) == CUDA_SUCCESS);
    CHECK(api("cuEventSynchronize", end) == CUDA_SUCCESS && api("cuEventQuery", begin) == CUDA_SUCCESS);
    CHECK(result[0] == 96 && result[1] == 96 && result[2] == 8);
    float ms = -1;
    CHECK(api("cuEventElapsedTime_v2", &ms, begin, end) == CUDA_SUCCESS && ms >= 0);
    CHECK(api("cuStreamSynchronize", stream) == CUDA_SUCCESS && api("cuStreamQuery", stream) == CUDA_SUCCESS);
    CHECK(api("cuEventElapsedTime_v2", &ms, begin, silent) == CUDA_ERROR_INVALID_HANDLE);

    // A second stream that waits for an event of the first.
    void* other = nullptr;
    CHECK(api("cuStreamCreate", &other, 1u) == CUDA_SUCCESS);
    CHECK(api("cuMemsetD8Async", out, static_cast<unsigned char>(1), size_t(12), stream) == CUDA_SUCCESS);
    CHECK(api("cuEventRecord", silent, stream) == CUDA_SUCCESS);
    CHECK(api("cuStreamWaitEvent", other, silent, 0u) == CUDA_SUCCESS);
    CHECK(api("cuMemcpyDtoHAsync_v2", static_cast<void*>(result), out, size_t(12), other) == CUDA_SUCCESS);
    CHECK(api("cuStreamSynchronize", other) == CUDA_SUCCESS && result[0] == 0x01010101u);

    // What a launch may not have.
    CHECK(launch_sums(stream, in, out, control, 200, 0, 384) == CUDA_ERROR_INVALID_VALUE);
    CHECK(launch_sums(stream, in, out, control, 200, 3, (48 << 10) + 4) == CUDA_ERROR_INVALID_VALUE);
    CHECK(launch_sums(&ms, in, out, control, 200, 3, 384) == CUDA_ERROR_INVALID_HANDLE);
    for (void* e : {begin, end, silent}) CHECK(api("cuEventDestroy_v2", e) == CUDA_SUCCESS);
    CHECK(api("cuEventRecord", end, stream) == CUDA_ERROR_INVALID_HANDLE);
    for (void* s : {stream, other}) CHECK(api("cuStreamDestroy_v2", s) == CUDA_SUCCESS);
    for (auto p : {in, out, control}) CHECK(api("cuMemFree_v2", p) == CUDA_SUCCESS);
    CHECK(api("cuMemFreeHost", pinned) == CUDA_SUCCESS && api("cuMemFreeHost", pinned) == CUDA_ERROR_INVALID_VALUE);
}

}  // namespace

void memory_and_streams() {
    ranges();
    through_a_stream();
    Setting defer("TESSERA_MOCK_DEFER", "1");
    through_a_stream();
}

}  // namespace drivertest
