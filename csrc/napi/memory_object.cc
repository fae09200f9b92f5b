#include <cstring>
#include <vector>

#include "napi/arguments.h"
#include "napi/objects.h"
#include "runtime/file_io.h"

namespace flux::js {
namespace {

void check_range(const Memory& memory, uint64_t offset, uint64_t length) {
  if (memory.retired()) throw FluxError(code::kDisposed, "this Buffer is disposed");
  FLUX_CHECK(offset <= memory.bytes() && length <= memory.bytes() - offset,
             "bytes " + std::to_string(offset) + " to " + std::to_string(offset + length) +
                 " lie outside a Buffer of " + std::to_string(memory.bytes()) + " bytes");
}

}  // namespace

Napi::Function MemoryObject::define(Napi::Env env) {
  return DefineClass(
      env, "NativeMemory",
      {InstanceMethod<&MemoryObject::write>("write"), InstanceMethod<&MemoryObject::read>("read"),
       InstanceMethod<&MemoryObject::copy_from>("copyFrom"), InstanceMethod<&MemoryObject::save>("save"),
       InstanceMethod<&MemoryObject::dispose>("dispose")});
}

MemoryObject::MemoryObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<MemoryObject>(info) {}

MemoryObject::~MemoryObject() { retire(); }

void MemoryObject::adopt(std::shared_ptr<AsyncDevice> async, std::shared_ptr<Memory> memory) {
  async_ = std::move(async);
  memory_ = std::move(memory);
}

void MemoryObject::retire() {
  if (memory_ == nullptr || !memory_->retire()) return;
  async_->post([memory = memory_] { memory->release(); });
}

Napi::Value MemoryObject::write(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    FLUX_CHECK(info[0].IsTypedArray(), "write() takes a Uint8Array");
    const auto bytes = info[0].As<Napi::Uint8Array>();
    const auto offset = static_cast<uint64_t>(info[1].ToNumber().Int64Value());
    check_range(*memory_, offset, bytes.ByteLength());
    auto copy = std::make_shared<std::vector<uint8_t>>(bytes.Data(), bytes.Data() + bytes.ByteLength());
    Backend* backend = &async_->device()->backend();
    return async_->enqueue(info.Env(), [backend, memory = memory_, offset, copy]() -> Finish {
      backend->upload(static_cast<std::byte*>(memory->data()) + offset, copy->data(), copy->size());
      return nullptr;
    });
  });
}

Napi::Value MemoryObject::read(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto offset = static_cast<uint64_t>(info[0].ToNumber().Int64Value());
    const auto length = static_cast<uint64_t>(info[1].ToNumber().Int64Value());
    check_range(*memory_, offset, length);
    Backend* backend = &async_->device()->backend();
    return async_->enqueue(info.Env(), [backend, memory = memory_, offset, length]() -> Finish {
      auto bytes = backend->read(static_cast<std::byte*>(memory->data()) + offset, length);
      return [bytes, length](Napi::Env env) -> Napi::Value {
        auto buffer = Napi::ArrayBuffer::New(env, length);
        std::memcpy(buffer.Data(), bytes.get(), length);
        return buffer;
      };
    });
  });
}

Napi::Value MemoryObject::copy_from(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto source =
        unwrap_checked<MemoryObject>(info[0], environment(info.Env()).memory, "Memory")->memory();
    const uint64_t offset = bytes_from(info[1], "offset");
    check_range(*source, 0, source->bytes());
    check_range(*memory_, offset, source->bytes());
    Backend* backend = &async_->device()->backend();
    return async_->enqueue(info.Env(), [backend, memory = memory_, source, offset]() -> Finish {
      backend->copy(static_cast<std::byte*>(memory->data()) + offset, source->data(), source->bytes());
      return nullptr;
    });
  });
}

Napi::Value MemoryObject::save(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    check_range(*memory_, 0, memory_->bytes());
    const int descriptor = info[0].ToNumber().Int32Value();
    const uint64_t position = bytes_from(info[1], "position");
    return async_->enqueue_aside(info.Env(), [memory = memory_, descriptor, position](ThreadPool&) -> Finish {
      write_range(descriptor, position, static_cast<const std::byte*>(memory->data()), memory->bytes());
      return nullptr;
    });
  });
}

Napi::Value MemoryObject::dispose(const Napi::CallbackInfo& info) {
  retire();
  return info.Env().Undefined();
}

Napi::Function HostMemoryObject::define(Napi::Env env) {
  return DefineClass(env, "NativeHostMemory",
                     {InstanceMethod<&HostMemoryObject::write>("write"),
                      InstanceMethod<&HostMemoryObject::dispose>("dispose")});
}

HostMemoryObject::HostMemoryObject(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<HostMemoryObject>(info) {}

Napi::Value HostMemoryObject::write(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    if (memory_ == nullptr) throw FluxError(code::kDisposed, "this host memory is disposed");
    FLUX_CHECK(info[0].IsTypedArray(), "write() takes a Uint8Array");
    const auto bytes = info[0].As<Napi::Uint8Array>();
    const auto offset = static_cast<uint64_t>(info[1].ToNumber().Int64Value());
    memory_->bytes(offset, bytes.ByteLength());
    std::memcpy(memory_->data() + offset, bytes.Data(), bytes.ByteLength());
    return info.Env().Undefined();
  });
}

Napi::Value HostMemoryObject::dispose(const Napi::CallbackInfo& info) {
  memory_.reset();
  return info.Env().Undefined();
}

}  // namespace flux::js
