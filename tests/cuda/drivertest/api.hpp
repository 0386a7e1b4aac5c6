// The driver's functions as a program finds them: opened at run time, by name.
#pragma once

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "driver/types.hpp"

namespace drivertest {

inline void* library = nullptr;
inline int checks = 0, failures = 0;

// Calls the function `name`; a missing one is a failure, not a crash.
template <class... A> CUresult api(const char* name, A... arguments) {
    auto* f = reinterpret_cast<CUresult (*)(A...)>(dlsym(library, name));
    if (f != nullptr) return f(arguments...);
    printf("the library has no %s\n", name);
    failures++;
    return CUDA_ERROR_UNKNOWN;
}

inline void report(bool held, const char* what, const char* file, int line) {
    checks++;
    if (held) return;
    failures++;
    printf("%s:%d: %s\n", file, line, what);
}
#define CHECK(condition) drivertest::report((condition), #condition, __FILE__, __LINE__)

// A variable of the mock for the length of a scope.
class Setting {
  public:
    Setting(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
    ~Setting() { unsetenv(name_); }
    Setting(const Setting&) = delete;

  private:
    const char* name_;
};

// PTX as nvcc writes its heads, for kernels of the self tests.
extern const char* const image;

void* load(const char* function);
CUdeviceptr allocate(size_t bytes);
std::string error_text(CUresult r);

void modules();
void memory_and_streams();
void graphs();
void faults();

}  // namespace drivertest
