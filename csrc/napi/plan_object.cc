#include <cstring>
#include <vector>

#include "napi/objects.h"

namespace flux::js {

Napi::Function PlanObject::define(Napi::Env env) {
  return DefineClass(
      env, "NativePlan",
      {InstanceMethod<&PlanObject::run>("run"), InstanceMethod<&PlanObject::profile>("profile"),
       InstanceMethod<&PlanObject::run_revocably>("runRevocably"),
       InstanceMethod<&PlanObject::revoke>("revoke"), InstanceMethod<&PlanObject::dispose>("dispose")});
}

PlanObject::PlanObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<PlanObject>(info) {}

PlanObject::~PlanObject() { retire(); }

void PlanObject::adopt(std::shared_ptr<AsyncDevice> async, std::shared_ptr<PlanState> state) {
  async_ = std::move(async);
  state_ = std::move(state);
}

void PlanObject::retire() {
  if (state_ == nullptr || !state_->retire()) return;
  async_->post([state = state_] { state->release(); });
}

void PlanObject::check_alive(Napi::Env env) const {
  guarded(env, [&] {
    if (state_->retired()) throw FluxError(code::kDisposed, "this Plan is disposed");
    if (state_->program().any_memory_retired())
      throw FluxError(code::kDisposed, "a Buffer that this Plan uses is disposed");
  });
}

Napi::Value PlanObject::run(const Napi::CallbackInfo& info) {
  check_alive(info.Env());
  return async_->enqueue(info.Env(), [state = state_]() -> Finish {
    state->run(nullptr);
    return nullptr;
  });
}

Napi::Value PlanObject::run_revocably(const Napi::CallbackInfo& info) {
  check_alive(info.Env());
  Backend* backend = &async_->device()->backend();
  return async_->enqueue(info.Env(),
                         [backend, state = state_, number = state_->next_revocable()]() -> Finish {
                           // What was given to a GPU cannot be taken back, so it is given late.
                           if (!state->is_revoked(number)) backend->finish();
                           if (!state->is_revoked(number)) state->run(nullptr);
                           return nullptr;
                         });
}

Napi::Value PlanObject::revoke(const Napi::CallbackInfo& info) {
  state_->revoke();
  return info.Env().Undefined();
}

Napi::Value PlanObject::profile(const Napi::CallbackInfo& info) {
  check_alive(info.Env());
  return async_->enqueue(info.Env(), [state = state_]() -> Finish {
    auto times = std::make_shared<std::vector<double>>();
    state->run(times.get());
    return [times](Napi::Env env) -> Napi::Value {
      auto array = Napi::Float64Array::New(env, times->size());
      std::memcpy(array.Data(), times->data(), times->size() * sizeof(double));
      return array;
    };
  });
}

Napi::Value PlanObject::dispose(const Napi::CallbackInfo& info) {
  retire();
  return info.Env().Undefined();
}

}  // namespace flux::js
