// The thin classes that lib/runtime wraps: Device, Memory, HostMemory, Plan, Mapping, Generator. They check types; meaning is checked in TypeScript.
#pragma once

#include <napi.h>

#include <memory>

#include "napi/async.h"
#include "napi/environment.h"
#include "runtime/device.h"
#include "runtime/error.h"
#include "runtime/host_memory.h"
#include "runtime/mapping.h"
#include "runtime/torch_generator.h"

namespace flux::js {

class DeviceObject : public Napi::ObjectWrap<DeviceObject> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit DeviceObject(const Napi::CallbackInfo& info);  // ({ backend: "cpu" | "cuda", threads, index })

  const std::shared_ptr<AsyncDevice>& async() const { return async_; }

 private:
  Napi::Value allocate(const Napi::CallbackInfo& info);  // (bytes) → Memory
  Napi::Value compile(const Napi::CallbackInfo& info);   // ({ ops, memories, arenaBytes }) → Plan
  Napi::Value load(const Napi::CallbackInfo& info);      // (request) → Promise<number of non-finite values>
  Napi::Value normal(const Napi::CallbackInfo& info);    // (generator, count) → Promise<Float32Array>
  Napi::Value host_memory(const Napi::CallbackInfo& info);  // (bytes) → HostMemory
  Napi::Value values_of(const Napi::CallbackInfo& info);    // (matrices) → Promise<Float32Array>; as gather
  // (requests) → Promise<Float64Array>: of each the number of non-finite values. Beside the device's thread.
  Napi::Value gather(const Napi::CallbackInfo& info);
  // (request) → Promise<Uint8Array>: for each band a byte for each column. Beside the device's thread.
  Napi::Value columns_in_use(const Napi::CallbackInfo& info);
  Napi::Value transfer(const Napi::CallbackInfo& info);  // (transfers) → Promise<void>: all in one job
  Napi::Value drain(
      const Napi::CallbackInfo& info);  // () → Promise<void>: all that was queued before is done
  Napi::Value memory_usage(const Napi::CallbackInfo& info);  // () → { allocated, peak } in bytes
  // () → bytes that an arena could have, what it has now included; 0 where only the operating system knows
  Napi::Value available_memory(const Napi::CallbackInfo& info);
  Napi::Value trim(const Napi::CallbackInfo& info);      // (): memory that was freed goes back to the machine
  Napi::Value bindings(const Napi::CallbackInfo& info);  // () → how often a plan was bound
  Napi::Value dispose(
      const Napi::CallbackInfo& info);  // (): takes no new work; what is queued still finishes

  std::shared_ptr<AsyncDevice> async_;
};

class MemoryObject : public Napi::ObjectWrap<MemoryObject> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit MemoryObject(const Napi::CallbackInfo& info);  // internal: made by Device.allocate
  ~MemoryObject() override;

  const std::shared_ptr<Memory>& memory() const { return memory_; }
  void adopt(std::shared_ptr<AsyncDevice> async, std::shared_ptr<Memory> memory);

 private:
  Napi::Value write(
      const Napi::CallbackInfo& info);  // (bytes: Uint8Array, offset) → Promise<void>; copies at the call
  Napi::Value read(const Napi::CallbackInfo& info);       // (offset, length) → Promise<ArrayBuffer>
  Napi::Value copy_from(const Napi::CallbackInfo& info);  // (source: Memory, offset) → Promise<void>
  // (descriptor, position) → Promise<void>: all bytes into a file, from its `position` on. Beside the device's thread, so for memory of
  // the host that no job writes meanwhile.
  Napi::Value save(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  void retire();

  std::shared_ptr<AsyncDevice> async_;
  std::shared_ptr<Memory> memory_;
};

class HostMemoryObject : public Napi::ObjectWrap<HostMemoryObject> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit HostMemoryObject(const Napi::CallbackInfo& info);  // internal: made by Device.hostMemory

  const std::shared_ptr<HostMemory>& memory() const { return memory_; }  // null after dispose()
  void adopt(std::shared_ptr<HostMemory> memory) { memory_ = std::move(memory); }

 private:
  Napi::Value write(const Napi::CallbackInfo& info);    // (bytes: Uint8Array, offset): copies at once
  Napi::Value dispose(const Napi::CallbackInfo& info);  // jobs that are queued hold their own reference

  std::shared_ptr<HostMemory> memory_;
};

class PlanObject : public Napi::ObjectWrap<PlanObject> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit PlanObject(const Napi::CallbackInfo& info);  // internal: made by Device.compile
  ~PlanObject() override;

  void adopt(std::shared_ptr<AsyncDevice> async, std::shared_ptr<PlanState> state);

 private:
  Napi::Value run(const Napi::CallbackInfo& info);  // () → Promise<void>
  // () → Promise<void>: begins when the device has done all before it, unless revoke() was called until then
  Napi::Value run_revocably(const Napi::CallbackInfo& info);
  Napi::Value revoke(const Napi::CallbackInfo& info);   // (): of runs that were asked for before
  Napi::Value profile(const Napi::CallbackInfo& info);  // () → Promise<Float64Array>: ms of each top-level op
  Napi::Value dispose(const Napi::CallbackInfo& info);
  void retire();
  void check_alive(Napi::Env env) const;

  std::shared_ptr<AsyncDevice> async_;
  std::shared_ptr<PlanState> state_;
};

class MappingObject : public Napi::ObjectWrap<MappingObject> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit MappingObject(const Napi::CallbackInfo& info);  // (path)

  const std::shared_ptr<Mapping>& mapping() const { return mapping_; }  // null after close()

 private:
  Napi::Value close(const Napi::CallbackInfo& info);
  Napi::Value size(const Napi::CallbackInfo& info);

  std::shared_ptr<Mapping> mapping_;
};

class GeneratorObject : public Napi::ObjectWrap<GeneratorObject> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit GeneratorObject(const Napi::CallbackInfo& info);  // (seed: bigint)

  const std::shared_ptr<TorchGenerator>& generator() const { return generator_; }

 private:
  std::shared_ptr<TorchGenerator> generator_;
};

// Program from the object that lib/runtime/plan.ts builds. Throws FluxError.
Program program_from_js(const Napi::Object& description);

// True when `value` was made by `constructor`; guards every unwrap of an argument.
template <typename T>
T* unwrap_checked(const Napi::Value& value, const Napi::FunctionReference& constructor, const char* what) {
  if (!value.IsObject() || !value.As<Napi::Object>().InstanceOf(constructor.Value())) {
    throw FluxError(code::kBadArgument, std::string("expected a native ") + what);
  }
  return T::Unwrap(value.As<Napi::Object>());
}

// Runs `body`, turning any C++ exception into the JS FluxError.
template <typename Body>
auto guarded(Napi::Env env, Body&& body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::exception&) {
    throw_js(env);
  }
}

}  // namespace flux::js
