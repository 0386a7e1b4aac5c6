// Device memory, pinned host memory, copies and fills. Every range on the device must lie in one allocation.
#include <cstdlib>
#include <cstring>

#include "state.hpp"

namespace mock {

namespace {

void* address(CUdeviceptr p) { return reinterpret_cast<void*>(p); }

bool is_range(CUdeviceptr p, size_t bytes) { return bytes == 0 || emu::inside_allocation(address(p), bytes); }

CUresult take(CUdeviceptr* at, size_t bytes) {
    if (at == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (bytes > device_memory() || driver().memory_used > device_memory() - bytes) return CUDA_ERROR_OUT_OF_MEMORY;
    void* p = emu::allocate(bytes);
    if (p == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
    driver().memory_used += bytes;
    *at = reinterpret_cast<CUdeviceptr>(p);
    return CUDA_SUCCESS;
}

CUresult give(CUdeviceptr at) {
    if (at == 0) return CUDA_SUCCESS;
    void* start = nullptr;
    size_t bytes = 0;
    if (!emu::inside_allocation(address(at), 1, &start, &bytes) || start != address(at)) return CUDA_ERROR_INVALID_VALUE;
    std::string damage = emu::damaged_guards();
    emu::release(start);
    driver().memory_used -= bytes;
    return damage.empty() ? CUDA_SUCCESS : poison(CUDA_ERROR_ILLEGAL_ADDRESS, damage);
}

// A call that waits for all work before it, and may not happen while this thread captures.
CUresult after_everything(const Work& work) {
    if (auto r = refuse_in_capture(); r != CUDA_SUCCESS) return r;
    if (auto r = drain_all(); r != CUDA_SUCCESS) return r;
    return work();
}

CUresult in_stream(void* handle, Work work) {
    Stream* stream = nullptr;
    if (!find_stream(handle, stream)) return CUDA_ERROR_INVALID_HANDLE;
    return submit(*stream, std::move(work));
}

bool is_capturing(void* handle) {
    Stream* stream = nullptr;
    return find_stream(handle, stream) && stream->capture != nullptr;
}

Work copy(void* to, const void* from, size_t bytes) {
    return [=] {
        memmove(to, from, bytes);
        return CUDA_SUCCESS;
    };
}

template <class T> Work fill(CUdeviceptr to, T value, size_t count) {
    return [=] {
        auto* p = static_cast<T*>(address(to));
        for (size_t i = 0; i < count; i++) p[i] = value;
        return CUDA_SUCCESS;
    };
}

}  // namespace

bool is_pinned(const void* p, size_t bytes) {
    auto a = reinterpret_cast<uintptr_t>(p);
    for (const auto& [start, size] : driver().pinned)
        if (a >= start && a + bytes <= start + size) return true;
    return false;
}

}  // namespace mock

using namespace mock;

API cuMemAlloc_v2(CUdeviceptr* at, size_t bytes) {
    return call("cuMemAlloc_v2", Needs::context, [&] {
        if (auto r = refuse_in_capture(); r != CUDA_SUCCESS) return r;
        return take(at, bytes);
    });
}

API cuMemFree_v2(CUdeviceptr at) {
    return call("cuMemFree_v2", Needs::context, [&] { return after_everything([&] { return give(at); }); });
}

API cuMemAllocAsync(CUdeviceptr* at, size_t bytes, void* stream) {
    return call("cuMemAllocAsync", Needs::context, [&] {
        // A captured graph that allocates can't run twice before it has freed; nothing here has use for that.
        if (is_capturing(stream)) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        return take(at, bytes);
    });
}

API cuMemFreeAsync(CUdeviceptr at, void* stream) {
    return call("cuMemFreeAsync", Needs::context, [&] {
        if (is_capturing(stream)) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        return in_stream(stream, [=] { return give(at); });
    });
}

API cuMemGetInfo_v2(size_t* free, size_t* total) {
    return call("cuMemGetInfo_v2", Needs::context, [&] {
        *total = device_memory();
        *free = *total > driver().memory_used ? *total - driver().memory_used : 0;
        return CUDA_SUCCESS;
    });
}

API cuMemHostAlloc(void** p, size_t bytes, unsigned) {
    return call("cuMemHostAlloc", Needs::context, [&] {
        if (auto r = refuse_in_capture(); r != CUDA_SUCCESS) return r;
        void* made = bytes == 0 ? nullptr : aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
        if (made == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
        memset(made, 0xff, bytes);
        driver().pinned.insert({reinterpret_cast<uintptr_t>(made), bytes});
        *p = made;
        return CUDA_SUCCESS;
    });
}

API cuMemFreeHost(void* p) {
    return call("cuMemFreeHost", Needs::context, [&] {
        return after_everything([&] {
            auto& all = driver().pinned;
            auto it = all.lower_bound({reinterpret_cast<uintptr_t>(p), 0});
            if (it == all.end() || it->first != reinterpret_cast<uintptr_t>(p)) return CUDA_ERROR_INVALID_VALUE;
            all.erase(it);
            free(p);
            return CUDA_SUCCESS;
        });
    });
}

API cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    return call("cuMemcpyHtoD_v2", Needs::context, [&] {
        if (!is_range(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
        return after_everything(copy(address(to), from, bytes));
    });
}

API cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
    return call("cuMemcpyDtoH_v2", Needs::context, [&] {
        if (!is_range(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
        return after_everything(copy(to, address(from), bytes));
    });
}

API cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return call("cuMemcpyDtoD_v2", Needs::context, [&] {
        if (!is_range(to, bytes) || !is_range(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
        return after_everything(copy(address(to), address(from), bytes));
    });
}

// From memory that is not pinned the driver has taken the bytes when it returns; from pinned memory it reads later.
API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, void* stream) {
    return call("cuMemcpyHtoDAsync_v2", Needs::context, [&] {
        if (!is_range(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
        if (is_pinned(from, bytes) || is_capturing(stream)) return in_stream(stream, copy(address(to), from, bytes));
        auto* first = static_cast<const unsigned char*>(from);
        return in_stream(stream, [to, taken = std::vector<unsigned char>(first, first + bytes)] {
            memcpy(address(to), taken.data(), taken.size());
            return CUDA_SUCCESS;
        });
    });
}

// To memory that is not pinned the copy has been made when the call returns.
API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, void* stream) {
    return call("cuMemcpyDtoHAsync_v2", Needs::context, [&] {
        if (!is_range(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
        auto r = in_stream(stream, copy(to, address(from), bytes));
        Stream* s = nullptr;
        if (r != CUDA_SUCCESS || is_pinned(to, bytes) || is_capturing(stream) || !find_stream(stream, s)) return r;
        return drain(*s);
    });
}

API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, void* stream) {
    return call("cuMemcpyDtoDAsync_v2", Needs::context, [&] {
        if (!is_range(to, bytes) || !is_range(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
        return in_stream(stream, copy(address(to), address(from), bytes));
    });
}

API cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
    return call("cuMemsetD8_v2", Needs::context, [&] {
        if (!is_range(to, count)) return CUDA_ERROR_INVALID_VALUE;
        return after_everything(fill(to, value, count));
    });
}

API cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, void* stream) {
    return call("cuMemsetD8Async", Needs::context, [&] {
        if (!is_range(to, count)) return CUDA_ERROR_INVALID_VALUE;
        return in_stream(stream, fill(to, value, count));
    });
}

API cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) {
    return call("cuMemsetD32_v2", Needs::context, [&] {
        if (to % 4 != 0 || count > SIZE_MAX / 4 || !is_range(to, count * 4)) return CUDA_ERROR_INVALID_VALUE;
        return after_everything(fill(to, value, count));
    });
}

API cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, void* stream) {
    return call("cuMemsetD32Async", Needs::context, [&] {
        if (to % 4 != 0 || count > SIZE_MAX / 4 || !is_range(to, count * 4)) return CUDA_ERROR_INVALID_VALUE;
        return in_stream(stream, fill(to, value, count));
    });
}
