// Modules, functions and launches. A module is what PTX text names; its kernels are those of the same names linked in here,
// and an image that disagrees with them on parameters or block size is refused as stale.
#include <chrono>
#include <cstdio>
#include <cstring>

#include "ptx.hpp"
#include "state.hpp"

namespace mock {

namespace {

constexpr unsigned error_log = 5, error_log_bytes = 6;  // CU_JIT_...

// "9.0" as 90.
unsigned version_setting() {
    std::string v = text_setting("TESSERA_MOCK_PTX", "9.0");
    size_t dot = v.find('.');
    return static_cast<unsigned>(atoi(v.c_str()) * 10 + (dot == std::string::npos ? 0 : atoi(v.c_str() + dot + 1)));
}

// Empty, or in what the image's entry differs from the kernel that is linked in.
std::string difference(const PtxEntry& image, const ts_host::Entry& host) {
    std::string name = "entry " + image.name + ": ";
    if (image.threads != 0 && image.threads != host.threads)
        return name + "blocks of " + std::to_string(image.threads) + " threads in the PTX, " +
               std::to_string(host.threads) + " in the source";
    if (image.parameter_bytes.size() != host.parameter_count)
        return name + std::to_string(image.parameter_bytes.size()) + " parameters in the PTX, " +
               std::to_string(host.parameter_count) + " in the source";
    for (unsigned i = 0; i < host.parameter_count; i++)
        if (image.parameter_bytes[i] != host.parameters[i].bytes)
            return name + "parameter " + std::to_string(i) + " has " + std::to_string(image.parameter_bytes[i]) +
                   " bytes in the PTX, " + std::to_string(host.parameters[i].bytes) + " in the source";
    return {};
}

CUresult load(void** module, const char* image, std::string& log) {
    if (module == nullptr || image == nullptr) return CUDA_ERROR_INVALID_VALUE;
    Ptx ptx = parse_ptx(image);
    if (!ptx.problem.empty()) {
        log = "ptxas fatal: " + ptx.problem;
        return CUDA_ERROR_INVALID_PTX;
    }
    if (ptx.version > version_setting()) {
        log = "ptxas fatal: Unsupported .version " + std::to_string(ptx.version / 10) + "." +
              std::to_string(ptx.version % 10) + "; current version is '" + text_setting("TESSERA_MOCK_PTX", "9.0") + "'";
        return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    }
    auto device = static_cast<unsigned>(capability());
    if (ptx.exact ? ptx.target != device : ptx.target > device) {
        log = "the PTX is for sm_" + std::to_string(ptx.target) + ", the device is sm_" + std::to_string(device);
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    }
    auto made = std::make_unique<Module>();
    for (const auto& e : ptx.entries) {
        // An entry that isn't linked in is found missing when it is asked for, as one that isn't in the image.
        const auto* host = emu::find_entry(e.name.c_str());
        if (host == nullptr) continue;
        log = difference(e, *host);
        if (!log.empty()) return CUDA_ERROR_INVALID_PTX;
        made->functions.push_back(std::make_unique<Function>(Function{host}));
    }
    for (auto& f : made->functions) driver().functions.insert(f.get());
    driver().modules.insert(made.get());
    *module = made.release();
    return CUDA_SUCCESS;
}

CUresult load_and_tell(void** module, const void* image, unsigned count, const unsigned* options, void** values) {
    std::string log;
    CUresult r = load(module, static_cast<const char*>(image), log);
    char* buffer = nullptr;
    size_t room = 0;
    for (unsigned i = 0; i < count; i++) {
        if (options[i] == error_log) buffer = static_cast<char*>(values[i]);
        if (options[i] == error_log_bytes) room = reinterpret_cast<size_t>(values[i]);
    }
    if (buffer != nullptr && room != 0) snprintf(buffer, room, "%s", log.c_str());
    else if (!log.empty())
        fprintf(stderr, "mock CUDA: %s\n", log.c_str());
    return r;
}

bool is_function(void* f) { return driver().functions.count(static_cast<Function*>(f)) != 0; }

emu::Options emulator_options() {
    emu::Options o;
    std::string order = text_setting("TESSERA_MOCK_ORDER", "mixed");
    o.order = order == "forward" ? emu::Order::forward
            : order == "reverse" ? emu::Order::reverse
            : order == "shuffled" ? emu::Order::shuffled
                                  : emu::Order::mixed;
    o.seed = static_cast<unsigned>(number_setting("TESSERA_MOCK_SEED", 1));
    o.shared_limit = shared_limit();
    return o;
}

struct Kernel {
    const ts_host::Entry* entry;
    ts_host::Dim grid, block;
    unsigned dynamic;
    std::vector<std::vector<unsigned char>> parameters;
    Stream* stream;
};

CUresult run(Kernel& k) {
    if (hangs(k.entry->name)) {
        k.stream->hung = true;
        return CUDA_SUCCESS;
    }
    std::vector<void*> addresses;
    for (auto& p : k.parameters) addresses.push_back(p.data());
    auto began = std::chrono::steady_clock::now();
    bool twice = number_setting("TESSERA_MOCK_TWICE", 0) != 0;
    emu::Result r = twice ? emu::launch_twice(*k.entry, k.grid, k.block, k.dynamic, addresses.data(), emulator_options())
                          : emu::launch(*k.entry, k.grid, k.block, k.dynamic, addresses.data(), emulator_options());
    if (number_setting("TESSERA_MOCK_LOG", 0) != 0)
        fprintf(stderr, "mock CUDA: %s, grid %u x %u x %u, %u threads, %u bytes: %.3f ms\n", k.entry->name, k.grid.x,
                k.grid.y, k.grid.z, k.block.x, k.dynamic,
                std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count());
    switch (r.fault) {
        case emu::Fault::none: return CUDA_SUCCESS;
        case emu::Fault::address: return poison(CUDA_ERROR_ILLEGAL_ADDRESS, r.text);
        case emu::Fault::alignment: return poison(CUDA_ERROR_MISALIGNED_ADDRESS, r.text);
        case emu::Fault::violation: return poison(CUDA_ERROR_LAUNCH_FAILED, r.text);
        case emu::Fault::launch: break;
    }
    fprintf(stderr, "mock CUDA: %s\n", r.text.c_str());
    return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
}

}  // namespace

}  // namespace mock

using namespace mock;

API cuModuleLoadData(void** module, const void* image) {
    return call("cuModuleLoadData", Needs::context, [&] { return load_and_tell(module, image, 0, nullptr, nullptr); });
}

API cuModuleLoadDataEx(void** module, const void* image, unsigned count, unsigned* options, void** values) {
    return call("cuModuleLoadDataEx", Needs::context, [&] { return load_and_tell(module, image, count, options, values); });
}

API cuModuleUnload(void* module) {
    return call("cuModuleUnload", Needs::context, [&] {
        auto* m = static_cast<Module*>(module);
        if (driver().modules.erase(m) == 0) return CUDA_ERROR_INVALID_HANDLE;
        for (auto& f : m->functions) driver().functions.erase(f.get());
        delete m;
        return CUDA_SUCCESS;
    });
}

API cuModuleGetFunction(void** function, void* module, const char* name) {
    return call("cuModuleGetFunction", Needs::context, [&] {
        auto* m = static_cast<Module*>(module);
        if (driver().modules.count(m) == 0) return CUDA_ERROR_INVALID_HANDLE;
        for (auto& f : m->functions)
            if (strcmp(f->entry->name, name) == 0) {
                *function = f.get();
                return CUDA_SUCCESS;
            }
        return CUDA_ERROR_NOT_FOUND;
    });
}

API cuFuncSetAttribute(void* function, unsigned which, int value) {
    return call("cuFuncSetAttribute", Needs::context, [&] {
        if (!is_function(function)) return CUDA_ERROR_INVALID_HANDLE;
        if (which == 9) return CUDA_SUCCESS;  // preferred carve-out: a hint
        if (which != 8 || value < 0 || static_cast<unsigned>(value) > shared_limit()) return CUDA_ERROR_INVALID_VALUE;
        static_cast<Function*>(function)->most_dynamic = static_cast<unsigned>(value);
        return CUDA_SUCCESS;
    });
}

API cuFuncGetAttribute(int* value, unsigned which, void* function) {
    return call("cuFuncGetAttribute", Needs::context, [&] {
        if (!is_function(function)) return CUDA_ERROR_INVALID_HANDLE;
        const auto& f = *static_cast<Function*>(function);
        switch (which) {
            case 0: *value = static_cast<int>(f.entry->threads); break;  // threads of a block
            case 4: *value = 32; break;                                 // registers: unknown here, a stand-in
            case 5: case 6: *value = capability(); break;               // PTX and binary version
            case 8: *value = static_cast<int>(f.most_dynamic); break;
            default: *value = 0;
        }
        return CUDA_SUCCESS;
    });
}

API cuFuncSetCacheConfig(void* function, unsigned) {
    return call("cuFuncSetCacheConfig", Needs::context,
                [&] { return is_function(function) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE; });
}

API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* function, int threads, size_t dynamic) {
    return call("cuOccupancyMaxActiveBlocksPerMultiprocessor", Needs::context, [&] {
        if (!is_function(function) || threads < 1) return CUDA_ERROR_INVALID_VALUE;
        size_t by_shared = (shared_limit() + 1024) / (dynamic + 1024);
        *blocks = static_cast<int>(std::min<size_t>(static_cast<size_t>(1536 / threads), by_shared));
        return CUDA_SUCCESS;
    });
}

API cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned dynamic, void* stream, void** parameters, void** extra) {
    return call("cuLaunchKernel", Needs::context, [&] {
        Stream* s = nullptr;
        if (!is_function(function) || !find_stream(stream, s)) return CUDA_ERROR_INVALID_HANDLE;
        const auto& f = *static_cast<Function*>(function);
        if (extra != nullptr || (parameters == nullptr && f.entry->parameter_count != 0)) return CUDA_ERROR_INVALID_VALUE;
        if (grid_x == 0 || grid_y == 0 || grid_z == 0 || grid_x > 0x7fffffffu || grid_y > 65535 || grid_z > 65535)
            return CUDA_ERROR_INVALID_VALUE;
        // The launch bound is the block size of every kernel here; the driver would let a smaller one pass.
        if (block_x != f.entry->threads || block_y != 1 || block_z != 1) {
            fprintf(stderr, "mock CUDA: %s takes blocks of %u threads, not %u x %u x %u\n", f.entry->name,
                    f.entry->threads, block_x, block_y, block_z);
            return CUDA_ERROR_INVALID_VALUE;
        }
        if (dynamic > f.most_dynamic) return CUDA_ERROR_INVALID_VALUE;
        Kernel k{f.entry, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, dynamic, {}, s};
        for (unsigned i = 0; i < f.entry->parameter_count; i++) {
            if (parameters[i] == nullptr) return CUDA_ERROR_INVALID_VALUE;
            auto* p = static_cast<unsigned char*>(parameters[i]);
            k.parameters.emplace_back(p, p + f.entry->parameters[i].bytes);
        }
        return submit(*s, [k]() mutable { return run(k); });
    });
}
