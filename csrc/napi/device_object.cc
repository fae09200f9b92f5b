#include <cstring>

#include "napi/arguments.h"
#include "napi/objects.h"

namespace flux::js {
namespace {

std::shared_ptr<Mapping> mapping_from(const Napi::Value& value) {
  const Environment& classes = environment(value.Env());
  auto mapping = unwrap_checked<MappingObject>(value, classes.mapping, "Mapping")->mapping();
  FLUX_CHECK(mapping != nullptr, "the Mapping is closed");
  return mapping;
}

RandomValues random_from(const Napi::Object& object) {
  bool lossless = false;
  return {object.Get("key").As<Napi::BigInt>().Uint64Value(&lossless),
          object.Get("mean").ToNumber().FloatValue(), object.Get("deviation").ToNumber().FloatValue()};
}

WeightLayout layout_from_name(const std::string& name) {
  if (name == "stored") return WeightLayout::kAsStored;
  if (name == "channelsLast") return WeightLayout::kChannelsLast;
  FLUX_CHECK(name == "upsamplePhases", "there is no weight layout \"" + name + "\"");
  return WeightLayout::kUpsamplePhases;
}

LoadRequest load_request_from(const Napi::Object& object) {
  const Environment& classes = environment(object.Env());
  LoadRequest request;
  if (object.Has("random")) {
    request.random = random_from(object.Get("random").As<Napi::Object>());
  } else {
    request.file = mapping_from(object.Get("file"));
    request.begin = bytes_from(object.Get("begin"), "begin");
  }
  request.from = dtype_from_name(object.Get("from").ToString().Utf8Value());
  request.to = dtype_from_name(object.Get("to").ToString().Utf8Value());
  request.shape = {1, 1, 1, 1};
  const auto shape = object.Get("shape").As<Napi::Array>();
  FLUX_CHECK(shape.Length() <= request.shape.size(), "a weight has at most four axes");
  for (uint32_t i = 0; i < shape.Length(); ++i) request.shape[i] = shape.Get(i).ToNumber().Int64Value();
  request.layout = layout_from_name(object.Get("layout").ToString().Utf8Value());
  FLUX_CHECK(
      request.layout != WeightLayout::kUpsamplePhases || (request.shape[2] == 3 && request.shape[3] == 3),
      "only 3 x 3 kernels have upsampling phases");
  if (object.Has("factor")) request.factor = object.Get("factor").ToNumber().FloatValue();
  if (object.Has("factors")) {
    request.factors = mapping_from(object.Get("factors"));
    request.factors_begin = bytes_from(object.Get("factorsBegin"), "factorsBegin");
  }
  request.target = unwrap_checked<MemoryObject>(object.Get("target"), classes.memory, "Memory")->memory();
  request.target_offset = bytes_from(object.Get("targetOffset"), "targetOffset");
  if (object.Has("scale")) {
    request.scale = unwrap_checked<MemoryObject>(object.Get("scale"), classes.memory, "Memory")->memory();
    request.scale_offset = bytes_from(object.Get("scaleOffset"), "scaleOffset");
    FLUX_CHECK(request.scale_offset + static_cast<uint64_t>(request.shape[0]) * 4 <= request.scale->bytes(),
               "scale is too small");
  }
  FLUX_CHECK(request.to != DType::kF8E4M3 || request.scale != nullptr, "f8e4m3 weights need a scale Memory");
  const uint64_t bytes = static_cast<uint64_t>(request.kept_elements()) * size_of(request.to);
  FLUX_CHECK(request.target_offset + bytes <= request.target->bytes(),
             "the target Memory is too small for this weight");
  return request;
}

}  // namespace

Napi::Function DeviceObject::define(Napi::Env env) {
  return DefineClass(
      env, "NativeDevice",
      {InstanceMethod<&DeviceObject::allocate>("allocate"), InstanceMethod<&DeviceObject::compile>("compile"),
       InstanceMethod<&DeviceObject::load>("load"), InstanceMethod<&DeviceObject::normal>("normal"),
       InstanceMethod<&DeviceObject::host_memory>("hostMemory"),
       InstanceMethod<&DeviceObject::values_of>("valuesOf"), InstanceMethod<&DeviceObject::gather>("gather"),
       InstanceMethod<&DeviceObject::columns_in_use>("columnsInUse"),
       InstanceMethod<&DeviceObject::transfer>("transfer"), InstanceMethod<&DeviceObject::drain>("drain"),
       InstanceMethod<&DeviceObject::memory_usage>("memoryUsage"),
       InstanceMethod<&DeviceObject::available_memory>("availableMemory"),
       InstanceMethod<&DeviceObject::trim>("trim"), InstanceMethod<&DeviceObject::bindings>("bindings"),
       InstanceMethod<&DeviceObject::dispose>("dispose")});
}

DeviceObject::DeviceObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<DeviceObject>(info) {
  const Napi::Env env = info.Env();
  guarded(env, [&] {
    const auto options = info[0].As<Napi::Object>();
    const std::string backend = options.Get("backend").ToString().Utf8Value();
    if (backend == "cuda") {
      const int index = options.Get("index").ToNumber().Int32Value();
      async_ = std::make_shared<AsyncDevice>(env, std::make_shared<Device>(make_cuda_backend(index)));
      return;
    }
    if (backend != "cpu") throw FluxError(code::kUnsupported, "there is no backend \"" + backend + "\"");
    const int threads = options.Get("threads").ToNumber().Int32Value();
    FLUX_CHECK(threads >= 1 && threads <= 1024, "threads must be between 1 and 1024");
    async_ = std::make_shared<AsyncDevice>(env, std::make_shared<Device>(make_cpu_backend(threads)));
  });
}

Napi::Value DeviceObject::allocate(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto memory = std::make_shared<Memory>(async_->device()->shared_backend(), bytes_from(info[0], "bytes"));
    const Napi::Object object = environment(info.Env()).memory.New({});
    MemoryObject::Unwrap(object)->adopt(async_, std::move(memory));
    return object;
  });
}

Napi::Value DeviceObject::compile(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = std::make_shared<PlanState>(async_->device(), program_from_js(info[0].As<Napi::Object>()));
    const Napi::Object object = environment(info.Env()).plan.New({});
    PlanObject::Unwrap(object)->adopt(async_, std::move(state));
    return object;
  });
}

Napi::Value DeviceObject::load(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto request = load_request_from(info[0].As<Napi::Object>());
    Backend* backend = &async_->device()->backend();
    return async_->enqueue(info.Env(), [backend, request = std::move(request)]() -> Finish {
      const uint64_t bad = backend->load(request);
      return [bad](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, static_cast<double>(bad)); };
    });
  });
}

Napi::Value DeviceObject::normal(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto generator =
        unwrap_checked<GeneratorObject>(info[0], environment(info.Env()).generator, "Generator")->generator();
    const uint64_t count = bytes_from(info[1], "count");
    return async_->enqueue(info.Env(), [generator, count]() -> Finish {
      auto values = std::make_shared<std::vector<float>>(count);
      generator->normal(values->data(), static_cast<int64_t>(count));
      return [values](Napi::Env env) -> Napi::Value {
        auto array = Napi::Float32Array::New(env, values->size());
        std::memcpy(array.Data(), values->data(), values->size() * sizeof(float));
        return array;
      };
    });
  });
}

Napi::Value DeviceObject::drain(const Napi::CallbackInfo& info) {
  return async_->enqueue(info.Env(), []() -> Finish { return nullptr; });
}

Napi::Value DeviceObject::memory_usage(const Napi::CallbackInfo& info) {
  const Backend& backend = async_->device()->backend();
  auto usage = Napi::Object::New(info.Env());
  usage.Set("allocated", static_cast<double>(backend.allocated()));
  usage.Set("peak", static_cast<double>(backend.peak()));
  usage.Set("host", static_cast<double>(backend.host()));
  return usage;
}

Napi::Value DeviceObject::available_memory(const Napi::CallbackInfo& info) {
  const uint64_t available = async_->device()->backend().available();
  const uint64_t arena = async_->device()->arena_bytes();
  return Napi::Number::New(info.Env(), available == 0 ? 0.0 : static_cast<double>(available + arena));
}

Napi::Value DeviceObject::trim(const Napi::CallbackInfo& info) {
  async_->post([backend = async_->device()->shared_backend()] { backend->trim(); });
  return info.Env().Undefined();
}

Napi::Value DeviceObject::bindings(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(async_->device()->bindings()));
}

Napi::Value DeviceObject::dispose(const Napi::CallbackInfo& info) {
  async_->device()->close();
  return info.Env().Undefined();
}

}  // namespace flux::js
