// Captures: recorded and not run, run again with what memory holds by then, refused where the driver refuses.
#include "api.hpp"

namespace drivertest {

CUresult launch_sums(void* stream, CUdeviceptr in, CUdeviceptr out, CUdeviceptr control, unsigned n, unsigned grid,
                     unsigned dynamic);

namespace {

void replays() {
    void *stream = nullptr, *graph = nullptr, *executable = nullptr;
    CHECK(api("cuStreamCreate", &stream, 1u) == CUDA_SUCCESS);
    CUdeviceptr in = allocate(96 * 4), out = allocate(4), control = allocate(4);
    CHECK(api("cuMemsetD32_v2", in, 1u, size_t(96)) == CUDA_SUCCESS);
    CHECK(api("cuMemsetD32_v2", out, 5u, size_t(1)) == CUDA_SUCCESS);
    auto result = [&] {
        unsigned v = 0;
        CHECK(api("cuStreamSynchronize", stream) == CUDA_SUCCESS);
        CHECK(api("cuMemcpyDtoH_v2", static_cast<void*>(&v), out, size_t(4)) == CUDA_SUCCESS);
        return v;
    };
    unsigned status = 9;
    CHECK(api("cuStreamBeginCapture_v2", stream, 1u) == CUDA_SUCCESS);
    CHECK(api("cuStreamIsCapturing", stream, &status) == CUDA_SUCCESS && status == 1);
    CHECK(api("cuMemsetD8Async", control, static_cast<unsigned char>(0), size_t(4), stream) == CUDA_SUCCESS);
    CHECK(launch_sums(stream, in, out, control, 96, 1, 384) == CUDA_SUCCESS);
    CHECK(api("cuStreamEndCapture", stream, &graph) == CUDA_SUCCESS && graph != nullptr);
    size_t nodes = 0;
    CHECK(api("cuGraphGetNodes", graph, static_cast<void**>(nullptr), &nodes) == CUDA_SUCCESS && nodes == 2);
    CHECK(result() == 5);
    CHECK(api("cuGraphInstantiateWithFlags", &executable, graph, 0ull) == CUDA_SUCCESS);
    CHECK(api("cuGraphDestroy", graph) == CUDA_SUCCESS && api("cuGraphDestroy", graph) == CUDA_ERROR_INVALID_VALUE);
    CHECK(api("cuGraphUpload", executable, stream) == CUDA_SUCCESS);
    for (unsigned each : {1u, 3u}) {
        CHECK(api("cuMemsetD32_v2", in, each, size_t(96)) == CUDA_SUCCESS);
        CHECK(api("cuGraphLaunch", executable, stream) == CUDA_SUCCESS);
        CHECK(result() == 96 * each);
    }
    CHECK(api("cuGraphExecDestroy", executable) == CUDA_SUCCESS);
    CHECK(api("cuGraphLaunch", executable, stream) == CUDA_ERROR_INVALID_HANDLE);

    // Calls that a capture in the same thread forbids end it.
    CUdeviceptr p = 0;
    CHECK(api("cuStreamBeginCapture_v2", stream, 1u) == CUDA_SUCCESS);
    CHECK(api("cuMemAlloc_v2", &p, size_t(16)) == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK(launch_sums(stream, in, out, control, 96, 1, 384) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK(api("cuStreamEndCapture", stream, &graph) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED && graph == nullptr);
    CHECK(api("cuStreamBeginCapture_v2", stream, 1u) == CUDA_SUCCESS);
    CHECK(api("cuStreamSynchronize", stream) == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK(api("cuStreamEndCapture", stream, &graph) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK(api("cuStreamEndCapture", stream, &graph) == CUDA_ERROR_ILLEGAL_STATE);
    CHECK(api("cuStreamBeginCapture_v2", static_cast<void*>(nullptr), 1u) == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    // After all that the stream serves again.
    CHECK(launch_sums(stream, in, out, control, 96, 1, 384) == CUDA_SUCCESS && result() == 288);
    CHECK(api("cuStreamDestroy_v2", stream) == CUDA_SUCCESS);
    for (auto q : {in, out, control}) CHECK(api("cuMemFree_v2", q) == CUDA_SUCCESS);
}

}  // namespace

void graphs() {
    replays();
    Setting defer("TESSERA_MOCK_DEFER", "1");
    replays();
}

}  // namespace drivertest
