#include "napi/objects.h"

namespace flux::js {

Napi::Function MappingObject::define(Napi::Env env) {
  return DefineClass(
      env, "NativeMapping",
      {InstanceMethod<&MappingObject::close>("close"), InstanceAccessor<&MappingObject::size>("size")});
}

MappingObject::MappingObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<MappingObject>(info) {
  guarded(info.Env(), [&] { mapping_ = Mapping::open(info[0].ToString().Utf8Value()); });
}

Napi::Value MappingObject::close(const Napi::CallbackInfo& info) {
  mapping_.reset();  // loads that are queued hold their own reference
  return info.Env().Undefined();
}

Napi::Value MappingObject::size(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), mapping_ == nullptr ? 0.0 : static_cast<double>(mapping_->size()));
}

Napi::Function GeneratorObject::define(Napi::Env env) { return DefineClass(env, "NativeGenerator", {}); }

GeneratorObject::GeneratorObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<GeneratorObject>(info) {
  guarded(info.Env(), [&] {
    FLUX_CHECK(info[0].IsBigInt(), "a seed is a bigint here");
    bool lossless = false;
    generator_ = std::make_shared<TorchGenerator>(info[0].As<Napi::BigInt>().Uint64Value(&lossless));
  });
}

}  // namespace flux::js
