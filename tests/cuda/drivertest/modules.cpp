// Images that load, and those that must not.
#include "api.hpp"

namespace drivertest {

namespace {

CUresult load_image(std::string text, std::string* log = nullptr) {
    void* module = nullptr;
    char buffer[400] = "";
    unsigned options[2] = {5, 6};
    void* values[2] = {buffer, reinterpret_cast<void*>(sizeof buffer)};
    CUresult r = api("cuModuleLoadDataEx", &module, text.c_str(), 2u, static_cast<unsigned*>(options),
                     static_cast<void**>(values));
    if (log != nullptr) *log = buffer;
    if (r == CUDA_SUCCESS) CHECK(api("cuModuleUnload", module) == CUDA_SUCCESS);
    return r;
}

std::string replaced(const std::string& from, const std::string& to) {
    std::string text = image;
    text.replace(text.find(from), from.size(), to);
    return text;
}

}  // namespace

void modules() {
    std::string log;
    CHECK(load_image(image) == CUDA_SUCCESS);
    CHECK(load_image("not PTX at all", &log) == CUDA_ERROR_INVALID_PTX && !log.empty());
    CHECK(load_image(replaced(".version 7.0", ".version 9.1"), &log) == CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    CHECK(log.find("Unsupported .version 9.1; current version is '9.0'") != std::string::npos);
    {
        Setting old("TESSERA_MOCK_PTX", "6.5");
        CHECK(load_image(image) == CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    }
    CHECK(load_image(replaced("sm_80", "sm_90a"), &log) == CUDA_ERROR_NO_BINARY_FOR_GPU);
    {
        Setting hopper("TESSERA_MOCK_SM", "90");
        CHECK(load_image(replaced("sm_80", "sm_90a")) == CUDA_SUCCESS);
        CHECK(load_image(image) == CUDA_SUCCESS);
    }
    // A stale image: not what the source says now.
    CHECK(load_image(replaced(".maxntid 96", ".maxntid 64"), &log) == CUDA_ERROR_INVALID_PTX);
    CHECK(log == "entry block_sums: blocks of 64 threads in the PTX, 96 in the source");
    std::string wide = replaced(".param .u32 ring_param_2", ".param .align 4 .b8 ring_param_2[16]");
    CHECK(load_image(wide, &log) == CUDA_ERROR_INVALID_PTX);
    CHECK(log == "entry ring: parameter 2 has 16 bytes in the PTX, 4 in the source");
    CHECK(load_image(replaced(",\n\t.param .u32 ring_param_2", ""), &log) == CUDA_ERROR_INVALID_PTX);
    CHECK(log == "entry ring: 2 parameters in the PTX, 3 in the source");

    void *module = nullptr, *f = nullptr;
    CHECK(api("cuModuleLoadData", &module, image) == CUDA_SUCCESS);
    CHECK(api("cuModuleGetFunction", &f, module, "no_such_entry") == CUDA_ERROR_NOT_FOUND);
    CHECK(api("cuModuleGetFunction", &f, module, "not_linked_in") == CUDA_ERROR_NOT_FOUND);
    CHECK(api("cuModuleGetFunction", &f, module, "rounding") == CUDA_ERROR_NOT_FOUND);  // linked in, not in the image
    CHECK(api("cuModuleGetFunction", &f, module, "block_sums") == CUDA_SUCCESS);
    int value = 0;
    CHECK(api("cuFuncGetAttribute", &value, 0u, f) == CUDA_SUCCESS && value == 96);
    CHECK(api("cuFuncSetAttribute", f, 8u, 1 << 20) == CUDA_ERROR_INVALID_VALUE);
    CHECK(api("cuFuncSetAttribute", f, 8u, 65536) == CUDA_SUCCESS);
    CHECK(api("cuFuncGetAttribute", &value, 8u, f) == CUDA_SUCCESS && value == 65536);
    CHECK(api("cuModuleUnload", module) == CUDA_SUCCESS);
    CHECK(api("cuModuleUnload", module) == CUDA_ERROR_INVALID_HANDLE);
    CHECK(api("cuFuncGetAttribute", &value, 0u, f) == CUDA_ERROR_INVALID_HANDLE);
}

}  // namespace drivertest
