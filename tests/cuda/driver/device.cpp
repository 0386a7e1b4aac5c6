// Start, devices, primary contexts and errors.
#include <cstdio>
#include <cstring>
#include <map>

#include "state.hpp"

namespace mock {

Driver& driver() {
    static Driver* one = new Driver;  // lives until the process ends: other threads may still call
    return *one;
}

Context*& current() {
    static thread_local Context* context = nullptr;
    return context;
}

int capability() { return static_cast<int>(number_setting("TESSERA_MOCK_SM", 80)); }

// Largest shared memory of a block, by compute capability.
unsigned shared_limit() {
    switch (capability()) {
        case 80: case 87: return 163 << 10;
        case 90: case 100: case 103: return 227 << 10;
        case 75: return 64 << 10;
        default: return 99 << 10;
    }
}

size_t device_memory() { return static_cast<size_t>(number_setting("TESSERA_MOCK_MEMORY", 8ll << 30)); }

CUresult poison(CUresult error, const std::string& text) {
    fprintf(stderr, "mock CUDA: %s\n", text.c_str());
    if (current() != nullptr) {
        current()->sticky = error;
        current()->sticky_text = text;
    }
    return error;
}

CUresult call(const char* name, Needs needs, const std::function<CUresult()>& body) {
    Driver& d = driver();
    std::lock_guard<std::recursive_mutex> guard(d.lock);
    if (needs != Needs::nothing && !d.initialised) return CUDA_ERROR_NOT_INITIALIZED;
    bool sticky = false;
    CUresult asked = asked_fault(name, sticky);
    if (asked != CUDA_SUCCESS && !sticky) return asked;
    if (asked != CUDA_SUCCESS) return poison(asked, std::string("the fault asked for in ") + name);
    if (needs == Needs::context) {
        if (current() == nullptr || current()->held == 0) return CUDA_ERROR_INVALID_CONTEXT;
        if (current()->sticky != CUDA_SUCCESS) return current()->sticky;
    }
    return body();
}

namespace {

int device_count() { return static_cast<int>(number_setting("TESSERA_MOCK_DEVICES", 1)); }

int attribute(int which) {
    int limit = static_cast<int>(shared_limit());
    switch (which) {
        case 1: return 1024;                 // threads of a block
        case 2: case 3: return 1024;         // its first two sides
        case 4: return 64;                   // its third
        case 5: return 0x7fffffff;           // grid
        case 6: case 7: return 65535;
        case 8: return 48 << 10;             // shared memory of a block unless more is asked for
        case 9: return 64 << 10;             // constant memory
        case 10: return 32;                  // warp
        case 12: case 82: return 65536;      // registers of a block, of a processor
        case 13: case 36: return 1000000;    // clocks, kHz
        case 16: return static_cast<int>(number_setting("TESSERA_MOCK_PROCESSORS", 2));
        case 31: case 41: case 95: return 1; // concurrent kernels, unified addresses, cooperative launch
        case 37: return 256;                 // bus width
        case 38: return 4 << 20;             // L2
        case 39: return 1536;                // threads of a processor
        case 40: return 1;                   // copy engines
        case 75: return capability() / 10;
        case 76: return capability() % 10;
        case 81: return limit + 1024;        // shared memory of a processor
        case 97: return limit;               // of a block at most
        case 106: return 16;                 // blocks of a processor
        case 111: return 1024;               // shared memory kept back per block
        default: return 0;
    }
}

const std::map<unsigned, std::pair<const char*, const char*>>& names() {
    static const std::map<unsigned, std::pair<const char*, const char*>> all = {
        {CUDA_SUCCESS, {"CUDA_SUCCESS", "no error"}},
        {CUDA_ERROR_INVALID_VALUE, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
        {CUDA_ERROR_OUT_OF_MEMORY, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
        {CUDA_ERROR_NOT_INITIALIZED, {"CUDA_ERROR_NOT_INITIALIZED", "initialization error"}},
        {CUDA_ERROR_NO_DEVICE, {"CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}},
        {CUDA_ERROR_INVALID_DEVICE, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
        {CUDA_ERROR_INVALID_IMAGE, {"CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"}},
        {CUDA_ERROR_INVALID_CONTEXT, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
        {CUDA_ERROR_NO_BINARY_FOR_GPU, {"CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for the device"}},
        {CUDA_ERROR_INVALID_PTX, {"CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"}},
        {CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
         {"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the PTX was compiled with a newer toolchain than the driver's"}},
        {CUDA_ERROR_INVALID_HANDLE, {"CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}},
        {CUDA_ERROR_ILLEGAL_STATE, {"CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in this state"}},
        {CUDA_ERROR_NOT_FOUND, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
        {CUDA_ERROR_NOT_READY, {"CUDA_ERROR_NOT_READY", "device not ready"}},
        {CUDA_ERROR_ILLEGAL_ADDRESS, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
        {CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, {"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested"}},
        {CUDA_ERROR_LAUNCH_TIMEOUT, {"CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"}},
        {CUDA_ERROR_MISALIGNED_ADDRESS, {"CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"}},
        {CUDA_ERROR_LAUNCH_FAILED, {"CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"}},
        {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
         {"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"}},
        {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
         {"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"}},
        {CUDA_ERROR_STREAM_CAPTURE_UNMATCHED,
         {"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "the capture was not begun in this stream"}},
        {46, {"CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"}},
        {214, {"CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"}},
        {304, {"CUDA_ERROR_OPERATING_SYSTEM", "OS call failed or operation not supported on this OS"}},
        {801, {"CUDA_ERROR_NOT_SUPPORTED", "operation not supported"}},
        {803, {"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"}},
        {CUDA_ERROR_UNKNOWN, {"CUDA_ERROR_UNKNOWN", "unknown error"}},
    };
    return all;
}

template <class T> void drop(std::set<T*>& all) {
    for (T* one : all) delete one;
    all.clear();
}

void forget_all() {
    Driver& d = driver();
    emu::release_all();
    d.memory_used = 0;
    d.functions.clear();
    drop(d.modules);
    drop(d.events);
    drop(d.streams);
    drop(d.graphs);
    drop(d.executables);
}

bool is_device(CUdevice d) { return d >= 0 && d < static_cast<int>(driver().primary.size()); }

}  // namespace

}  // namespace mock

using namespace mock;

API cuInit(unsigned flags) {
    return call("cuInit", Needs::nothing, [&] {
        if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
        int count = device_count();
        if (count <= 0) return CUDA_ERROR_NO_DEVICE;
        if (!driver().initialised) driver().primary.resize(static_cast<size_t>(count));
        driver().initialised = true;
        return CUDA_SUCCESS;
    });
}

API cuDriverGetVersion(int* version) {
    return call("cuDriverGetVersion", Needs::nothing, [&] {
        if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
        *version = static_cast<int>(number_setting("TESSERA_MOCK_DRIVER", 12080));
        return CUDA_SUCCESS;
    });
}

API cuDeviceGetCount(int* count) {
    return call("cuDeviceGetCount", Needs::init, [&] {
        *count = static_cast<int>(driver().primary.size());
        return CUDA_SUCCESS;
    });
}

API cuDeviceGet(CUdevice* device, int ordinal) {
    return call("cuDeviceGet", Needs::init, [&] {
        if (!is_device(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
        *device = ordinal;
        return CUDA_SUCCESS;
    });
}

API cuDeviceGetName(char* name, int length, CUdevice device) {
    return call("cuDeviceGetName", Needs::init, [&] {
        if (!is_device(device) || length < 1) return CUDA_ERROR_INVALID_DEVICE;
        snprintf(name, static_cast<size_t>(length), "mock of sm_%d", capability());
        return CUDA_SUCCESS;
    });
}

API cuDeviceGetAttribute(int* value, unsigned which, CUdevice device) {
    return call("cuDeviceGetAttribute", Needs::init, [&] {
        if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
        *value = attribute(static_cast<int>(which));
        return CUDA_SUCCESS;
    });
}

API cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
    return call("cuDeviceTotalMem_v2", Needs::init, [&] {
        if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
        *bytes = device_memory();
        return CUDA_SUCCESS;
    });
}

API cuDeviceGetUuid_v2(char* uuid, CUdevice device) {
    return call("cuDeviceGetUuid_v2", Needs::init, [&] {
        if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
        memset(uuid, 0x40 + device, 16);
        return CUDA_SUCCESS;
    });
}

API cuDevicePrimaryCtxRetain(void** context, CUdevice device) {
    return call("cuDevicePrimaryCtxRetain", Needs::init, [&] {
        if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
        Context& c = driver().primary[static_cast<size_t>(device)];
        if (c.sticky != CUDA_SUCCESS) return c.sticky;
        c.device = device;
        c.held++;
        *context = &c;
        return CUDA_SUCCESS;
    });
}

API cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    return call("cuDevicePrimaryCtxRelease_v2", Needs::init, [&] {
        if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
        Context& c = driver().primary[static_cast<size_t>(device)];
        if (c.held == 0) return CUDA_ERROR_INVALID_CONTEXT;
        // The last release destroys the context, and with it what a fault left and what was not given back.
        if (--c.held != 0) return CUDA_SUCCESS;
        c.sticky = CUDA_SUCCESS;
        c.sticky_text.clear();
        bool any_held = false;
        for (const auto& other : driver().primary) any_held = any_held || other.held != 0;
        if (!any_held) forget_all();
        return CUDA_SUCCESS;
    });
}

API cuCtxSetCurrent(void* context) {
    return call("cuCtxSetCurrent", Needs::init, [&] {
        bool known = context == nullptr;
        for (auto& c : driver().primary) known = known || (context == &c && c.held != 0);
        if (!known) return CUDA_ERROR_INVALID_CONTEXT;
        current() = static_cast<Context*>(context);
        return CUDA_SUCCESS;
    });
}

API cuCtxGetCurrent(void** context) {
    return call("cuCtxGetCurrent", Needs::init, [&] {
        *context = current();
        return CUDA_SUCCESS;
    });
}

API cuCtxSynchronize() {
    return call("cuCtxSynchronize", Needs::context, [&] {
        if (auto r = refuse_in_capture(); r != CUDA_SUCCESS) return r;
        return drain_all();
    });
}

// Unknown numbers have no name, as with the driver; faults of kernels are told in full.
API cuGetErrorName(unsigned error, const char** text) {
    auto it = names().find(error);
    *text = it == names().end() ? nullptr : it->second.first;
    return it == names().end() ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

API cuGetErrorString(unsigned error, const char** text) {
    std::lock_guard<std::recursive_mutex> guard(driver().lock);
    auto it = names().find(error);
    *text = it == names().end() ? nullptr : it->second.second;
    if (it == names().end()) return CUDA_ERROR_INVALID_VALUE;
    if (current() != nullptr && current()->sticky == static_cast<CUresult>(error) && !current()->sticky_text.empty()) {
        // Kept for good: the caller may hold on to it.
        static std::set<std::string> told;
        *text = told.insert(std::string(it->second.second) + ": " + current()->sticky_text).first->c_str();
    }
    return CUDA_SUCCESS;
}
