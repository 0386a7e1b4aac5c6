// Calls that have no effect in the mock: limits, priorities, pools, callbacks.
#include "state.hpp"

using namespace mock;

API cuCtxSetFlags(unsigned) {
    return call("cuCtxSetFlags", Needs::context, [] { return CUDA_SUCCESS; });
}

API cuCtxGetLimit(size_t* value, unsigned) {
    return call("cuCtxGetLimit", Needs::context, [&] {
        *value = 0;
        return CUDA_SUCCESS;
    });
}

API cuCtxSetLimit(unsigned, size_t) {
    return call("cuCtxSetLimit", Needs::context, [] { return CUDA_SUCCESS; });
}

API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    return call("cuCtxGetStreamPriorityRange", Needs::context, [&] {
        if (least != nullptr) *least = 0;
        if (greatest != nullptr) *greatest = 0;
        return CUDA_SUCCESS;
    });
}

API cuLaunchHostFunc(void* stream, void (*function)(void*), void* data) {
    return call("cuLaunchHostFunc", Needs::context, [&] {
        Stream* s = nullptr;
        if (!find_stream(stream, s)) return CUDA_ERROR_INVALID_HANDLE;
        return submit(*s, [=] {
            function(data);
            return CUDA_SUCCESS;
        });
    });
}
