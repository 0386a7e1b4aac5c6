// Graphs: what a capture recorded, run again in the order of recording.
#include <thread>

#include "state.hpp"

using namespace mock;

namespace {

bool is_graph(void* g) { return driver().graphs.count(static_cast<Graph*>(g)) != 0; }
bool is_executable(void* g) { return driver().executables.count(static_cast<Graph*>(g)) != 0; }

}  // namespace

API cuStreamBeginCapture_v2(void* stream, unsigned mode) {
    return call("cuStreamBeginCapture_v2", Needs::context, [&] {
        Stream* s = nullptr;
        if (!find_stream(stream, s)) return CUDA_ERROR_INVALID_HANDLE;
        if (mode > 2) return CUDA_ERROR_INVALID_VALUE;
        if (s == &driver().default_stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        if (s->capture != nullptr) return CUDA_ERROR_ILLEGAL_STATE;
        s->capture = std::make_shared<Capture>();
        s->capture->graph = new Graph;
        s->capture->relaxed = mode == 2;
        s->capture->thread = std::this_thread::get_id();
        s->capture->origin = s;
        return CUDA_SUCCESS;
    });
}

API cuStreamEndCapture(void* stream, void** graph) {
    return call("cuStreamEndCapture", Needs::context, [&] {
        Stream* s = nullptr;
        *graph = nullptr;
        if (!find_stream(stream, s)) return CUDA_ERROR_INVALID_HANDLE;
        auto capture = s->capture;
        if (capture == nullptr) return CUDA_ERROR_ILLEGAL_STATE;
        if (capture->origin != s) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
        for (Stream* other : driver().streams)
            if (other->capture == capture) other->capture = nullptr;
        for (Event* e : driver().events)
            if (e->captured == capture) e->captured = nullptr;
        if (capture->invalid) {
            delete capture->graph;
            return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        }
        driver().graphs.insert(capture->graph);
        *graph = capture->graph;
        return CUDA_SUCCESS;
    });
}

API cuStreamIsCapturing(void* stream, unsigned* status) {
    return call("cuStreamIsCapturing", Needs::context, [&] {
        Stream* s = nullptr;
        if (!find_stream(stream, s)) return CUDA_ERROR_INVALID_HANDLE;
        *status = s->capture == nullptr ? 0 : s->capture->invalid ? 2 : 1;
        return CUDA_SUCCESS;
    });
}

API cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    return call("cuGraphInstantiateWithFlags", Needs::context, [&] {
        if (!is_graph(graph)) return CUDA_ERROR_INVALID_VALUE;
        auto* made = new Graph(*static_cast<Graph*>(graph));
        driver().executables.insert(made);
        *executable = made;
        return CUDA_SUCCESS;
    });
}

API cuGraphGetNodes(void* graph, void** nodes, size_t* count) {
    return call("cuGraphGetNodes", Needs::context, [&] {
        if (!is_graph(graph)) return CUDA_ERROR_INVALID_VALUE;
        auto& all = static_cast<Graph*>(graph)->nodes;
        if (nodes != nullptr)
            for (size_t i = 0; i < *count; i++) nodes[i] = i < all.size() ? &all[i] : nullptr;
        *count = all.size();
        return CUDA_SUCCESS;
    });
}

API cuGraphUpload(void* executable, void*) {
    return call("cuGraphUpload", Needs::context,
                [&] { return is_executable(executable) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; });
}

API cuGraphLaunch(void* executable, void* stream) {
    return call("cuGraphLaunch", Needs::context, [&] {
        Stream* s = nullptr;
        if (!is_executable(executable) || !find_stream(stream, s)) return CUDA_ERROR_INVALID_HANDLE;
        // One piece of work per node, so that a kernel that hangs holds up what is behind it. The nodes stay valid when the
        // executable is destroyed before they ran.
        for (const Work& node : static_cast<Graph*>(executable)->nodes)
            if (CUresult r = submit(*s, node); r != CUDA_SUCCESS) return r;
        return CUDA_SUCCESS;
    });
}

API cuGraphDestroy(void* graph) {
    return call("cuGraphDestroy", Needs::init, [&] {
        if (!is_graph(graph)) return CUDA_ERROR_INVALID_VALUE;
        driver().graphs.erase(static_cast<Graph*>(graph));
        delete static_cast<Graph*>(graph);
        return CUDA_SUCCESS;
    });
}

API cuGraphExecDestroy(void* executable) {
    return call("cuGraphExecDestroy", Needs::init, [&] {
        if (!is_executable(executable)) return CUDA_ERROR_INVALID_VALUE;
        driver().executables.erase(static_cast<Graph*>(executable));
        delete static_cast<Graph*>(executable);
        return CUDA_SUCCESS;
    });
}
