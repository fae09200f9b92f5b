#include "napi/environment.h"

#include <new>

#include "runtime/error.h"

namespace flux::js {

Environment& environment(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

Napi::Value to_js_error(Napi::Env env, const std::string& code, const std::string& message) {
  return environment(env).flux_error.New({Napi::String::New(env, code), Napi::String::New(env, message)});
}

Failure describe(std::exception_ptr error) {
  try {
    std::rethrow_exception(error);
  } catch (const FluxError& e) {
    return {e.code(), e.what()};
  } catch (const std::bad_alloc&) {
    return {code::kOutOfMemory, "the host has no memory left; make a smaller image or batch"};
  } catch (const std::exception& e) {
    return {code::kBadArgument, e.what()};
  }
}

void throw_js(Napi::Env env) {
  const Failure failure = describe(std::current_exception());
  throw Napi::Error(env, to_js_error(env, failure.code, failure.message));
}

}  // namespace flux::js
