// The addon's entry: classes, and what this machine can do.
#include <thread>

#include "cpu/ops.h"
#include "napi/environment.h"
#include "napi/objects.h"
#include "runtime/cuda_info.h"

namespace flux::js {
namespace {

// setErrorClass(FluxError): called once by lib/runtime before anything else, so that native errors are instances of that class.
Napi::Value set_error_class(const Napi::CallbackInfo& info) {
  environment(info.Env()).flux_error = Napi::Persistent(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

// () → { simd, cores }
Napi::Value cpu_info(const Napi::CallbackInfo& info) {
  auto result = Napi::Object::New(info.Env());
  result.Set("simd", std::string(cpu::simd_name()));
  result.Set("cores", static_cast<double>(std::thread::hardware_concurrency()));
  return result;
}

// () → { built, reason?, driver?, devices: [{ index, name, computeCapability, multiprocessors, memoryBytes, l2Bytes }] }
Napi::Value cuda_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const CudaInfo found = query_cuda();
  auto result = Napi::Object::New(env);
  result.Set("built", found.built);
  if (!found.reason.empty()) result.Set("reason", found.reason);
  if (found.driver_version > 0) result.Set("driver", found.driver_version);
  auto devices = Napi::Array::New(env, found.devices.size());
  for (uint32_t i = 0; i < found.devices.size(); ++i) {
    const CudaDeviceInfo& device = found.devices[i];
    auto object = Napi::Object::New(env);
    object.Set("index", device.index);
    object.Set("name", device.name);
    object.Set("computeCapability", std::to_string(device.major) + "." + std::to_string(device.minor));
    object.Set("multiprocessors", device.multiprocessors);
    object.Set("memoryBytes", static_cast<double>(device.memory_bytes));
    object.Set("l2Bytes", static_cast<double>(device.l2_bytes));
    devices.Set(i, object);
  }
  result.Set("devices", devices);
  return result;
}

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  auto* classes = new Environment();
  env.SetInstanceData(classes);
  classes->device = Napi::Persistent(DeviceObject::define(env));
  classes->memory = Napi::Persistent(MemoryObject::define(env));
  classes->host_memory = Napi::Persistent(HostMemoryObject::define(env));
  classes->plan = Napi::Persistent(PlanObject::define(env));
  classes->mapping = Napi::Persistent(MappingObject::define(env));
  classes->generator = Napi::Persistent(GeneratorObject::define(env));
  exports.Set("Device", classes->device.Value());
  exports.Set("Mapping", classes->mapping.Value());
  exports.Set("Generator", classes->generator.Value());
  exports.Set("setErrorClass", Napi::Function::New(env, set_error_class));
  exports.Set("cpuInfo", Napi::Function::New(env, cpu_info));
  exports.Set("cudaInfo", Napi::Function::New(env, cuda_info));
  return exports;
}

NODE_API_MODULE(NODE_GYP_MODULE_NAME, initialise)

}  // namespace
}  // namespace flux::js
