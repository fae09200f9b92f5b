// What one JS environment (the main thread or a worker) holds: the class constructors and the FluxError class of lib/errors.ts.
// There are no globals, so the addon loads in any number of worker_threads.
#pragma once

#include <napi.h>

#include <exception>
#include <string>

namespace flux::js {

struct Environment {
  Napi::FunctionReference flux_error, device, memory, host_memory, plan, mapping, generator;
};

Environment& environment(Napi::Env env);

// The code and message of any exception, for carrying it from the device's thread to JS. std::bad_alloc becomes
// ERR_FLUX_OUT_OF_MEMORY.
struct Failure {
  std::string code, message;
};
Failure describe(std::exception_ptr error);

// A JS FluxError.
Napi::Value to_js_error(Napi::Env env, const std::string& code, const std::string& message);
// In a catch block: throws the exception on as a JS FluxError.
[[noreturn]] void throw_js(Napi::Env env);

}  // namespace flux::js
