#include "napi/async.h"

#include <optional>

#include "napi/environment.h"
#include "runtime/error.h"

namespace flux::js {

struct AsyncDevice::Job {
  std::shared_ptr<AsyncDevice> owner;  // keeps the device until the promise is settled
  Napi::Promise::Deferred deferred;
  Finish finish;
  std::optional<Failure> failure;
};

AsyncDevice::AsyncDevice(Napi::Env env, std::shared_ptr<Device> device)
    : env_(env), device_(std::move(device)) {
  completion_ = Completion::New(env, "fluxwarp device", 0, 1, this);
  completion_.Unref(env);
  // Registered after the thread-safe function, so it runs before that one is torn down: the device's thread ends first.
  napi_add_env_cleanup_hook(env, &AsyncDevice::on_environment_exit, this);
}

AsyncDevice::~AsyncDevice() {
  if (closed_) return;
  napi_remove_env_cleanup_hook(env_, &AsyncDevice::on_environment_exit, this);
  on_environment_exit(this);
}

void AsyncDevice::on_environment_exit(void* data) {
  auto* self = static_cast<AsyncDevice*>(data);
  self->closed_ = true;
  self->device_->stop();
  self->completion_.Abort();
}

Napi::Promise AsyncDevice::enqueue(Napi::Env env, std::function<Finish()> work) {
  const SharedJob job = start(env);
  const bool accepted = device_->submit([this, job, work = std::move(work)]() mutable {
    std::unique_ptr<Fence> fence;
    try {
      job->finish = work();
      fence = device_->backend().fence();
    } catch (...) {
      job->failure = describe(std::current_exception());
    }
    work = nullptr;  // what the work held is dropped here, before the promise settles
    device_->when_reached(std::move(fence), [this, job = std::move(job)](std::exception_ptr error) mutable {
      if (error != nullptr) job->failure = describe(error);
      finish(std::move(job));
    });
  });
  return promise_of(env, job, accepted);
}

Napi::Promise AsyncDevice::enqueue_aside(Napi::Env env, std::function<Finish(ThreadPool&)> work) {
  const SharedJob job = start(env);
  const bool accepted =
      device_->submit_aside([this, job, work = std::move(work)](ThreadPool& helpers) mutable {
        try {
          job->finish = work(helpers);
        } catch (...) {
          job->failure = describe(std::current_exception());
        }
        work = nullptr;
        finish(std::move(job));
      });
  return promise_of(env, job, accepted);
}

AsyncDevice::SharedJob AsyncDevice::start(Napi::Env env) {
  return std::make_shared<Job>(
      Job{shared_from_this(), Napi::Promise::Deferred::New(env), nullptr, std::nullopt});
}

Napi::Promise AsyncDevice::promise_of(Napi::Env env, const SharedJob& job, bool accepted) {
  if (!accepted) {
    job->deferred.Reject(to_js_error(env, code::kDisposed, "this Device is disposed; create another"));
  } else if (pending_++ == 0) {
    completion_.Ref(env);
  }
  return job->deferred.Promise();
}

// On whichever thread did the work.
void AsyncDevice::finish(SharedJob job) {
  auto* handle = new SharedJob(std::move(job));
  if (completion_.NonBlockingCall(handle) != napi_ok) delete handle;
}

void AsyncDevice::complete(Napi::Env env, Napi::Function, AsyncDevice* self, SharedJob* handle) {
  const SharedJob job = std::move(*handle);
  delete handle;
  if (env == nullptr) return;
  if (--self->pending_ == 0) self->completion_.Unref(env);
  const Napi::HandleScope scope(env);
  try {
    settle(env, *job);
  } catch (const Napi::Error&) {
    // No JS can run any more: a worker that is being terminated. Nobody waits for the promise.
  }
}

void AsyncDevice::settle(Napi::Env env, const Job& job) {
  if (job.failure) {
    job.deferred.Reject(to_js_error(env, job.failure->code, job.failure->message));
    return;
  }
  try {
    job.deferred.Resolve(job.finish ? job.finish(env) : env.Undefined());
  } catch (const Napi::Error& error) {
    job.deferred.Reject(error.Value());
  }
}

}  // namespace flux::js
