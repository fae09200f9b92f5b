// Jobs on a device's thread whose results come back as promises, through one thread-safe function per device.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>

#include "runtime/device.h"

namespace flux::js {

// Runs on the JS thread after the job; makes the value that the promise resolves with.
using Finish = std::function<Napi::Value(Napi::Env)>;

class AsyncDevice : public std::enable_shared_from_this<AsyncDevice> {
 public:
  AsyncDevice(Napi::Env env, std::shared_ptr<Device> device);
  ~AsyncDevice();

  const std::shared_ptr<Device>& device() const { return device_; }

  // `work` runs on the device's thread and may throw; it returns what finishes the promise. Results come in the order of the
  // calls. While a promise is pending the process stays alive; a device with nothing pending does not hold it.
  Napi::Promise enqueue(Napi::Env env, std::function<Finish()> work);
  // The same beside the device's thread, with helpers; in the order of such calls.
  Napi::Promise enqueue_aside(Napi::Env env, std::function<Finish(ThreadPool& helpers)> work);

  // Queues something that nobody waits for: giving memory back, also after the device was closed. Must not throw.
  void post(std::function<void()> work) { device_->post(std::move(work)); }

 private:
  struct Job;
  using SharedJob = std::shared_ptr<Job>;
  SharedJob start(Napi::Env env);
  Napi::Promise promise_of(Napi::Env env, const SharedJob& job, bool accepted);
  void finish(SharedJob job);
  static void complete(Napi::Env env, Napi::Function, AsyncDevice* self, SharedJob* job);
  using Completion = Napi::TypedThreadSafeFunction<AsyncDevice, SharedJob, &AsyncDevice::complete>;
  static void settle(Napi::Env env, const Job& job);
  static void on_environment_exit(void* self);

  Napi::Env env_;
  std::shared_ptr<Device> device_;
  Completion completion_;
  int pending_ = 0;  // JS thread only
  bool closed_ = false;
};

}  // namespace flux::js
