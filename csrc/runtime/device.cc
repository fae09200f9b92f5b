#include "runtime/device.h"

#include "runtime/error.h"

namespace flux {

Device::Device(std::shared_ptr<Backend> backend) : backend_(std::move(backend)) {
  thread_ = std::thread([this] { loop(); });
}

Device::~Device() { stop(); }

bool Device::submit(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_ || stopping_) return false;
    jobs_.push_back(std::move(job));
  }
  wake_.notify_one();
  return true;
}

void Device::post(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    if (!ended_) {
      jobs_.push_back(std::move(job));
      wake_.notify_one();
      return;
    }
  }
  job();
}

void Device::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  wake_.notify_all();
  aside_.close();
}

void Device::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
  jobs_.clear();
  aside_.stop();
  {
    const std::lock_guard lock(fences_mutex_);
    no_more_fences_ = true;
  }
  fences_wake_.notify_all();
  if (fences_thread_.joinable()) fences_thread_.join();
}

void Device::when_reached(std::unique_ptr<Fence> fence, std::function<void(std::exception_ptr)> done) {
  if (fence == nullptr) {
    done(nullptr);
    return;
  }
  if (!fences_thread_.joinable()) fences_thread_ = std::thread([this] { await_fences(); });
  {
    const std::lock_guard lock(fences_mutex_);
    fences_.push_back({std::move(fence), std::move(done)});
  }
  fences_wake_.notify_one();
}

void Device::await_fences() {
  for (;;) {
    Awaited next;
    {
      std::unique_lock lock(fences_mutex_);
      fences_wake_.wait(lock, [this] { return no_more_fences_ || !fences_.empty(); });
      if (fences_.empty()) return;
      next = std::move(fences_.front());
      fences_.pop_front();
    }
    std::exception_ptr error;
    try {
      next.fence->wait();
    } catch (...) {
      error = std::current_exception();
    }
    next.done(error);
  }
}

void Device::loop() {
  for (;;) {
    std::function<void()> job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || closed_ || !jobs_.empty(); });
      if (stopping_ || jobs_.empty()) {
        ended_ = true;
        arena_.reset();
        arena_bytes_ = 0;
        return;
      }
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }
}

void Device::reserve_arena(uint64_t bytes) { reservations_.insert(bytes); }

void Device::release_arena(uint64_t bytes) {
  const auto found = reservations_.find(bytes);
  if (found != reservations_.end()) reservations_.erase(found);
  if (!reservations_.empty()) return;
  arena_.reset();
  arena_bytes_ = 0;
}

void* Device::arena() {
  const uint64_t wanted = reservations_.empty() ? 0 : *reservations_.rbegin();
  if (arena_ == nullptr || arena_->bytes() < wanted) {
    arena_bytes_ = 0;
    arena_.reset();  // first, so that the old and the new arena are never held together
    ++arena_generation_;
    arena_ = std::make_unique<Memory>(backend_, wanted);
    arena_bytes_ = wanted;
  }
  return arena_->data();
}

PlanState::PlanState(std::shared_ptr<Device> device, Program program)
    : device_(std::move(device)), program_(std::move(program)) {
  program_.validate();
}

void PlanState::run(std::vector<double>* times) {
  if (!reserved_) {
    device_->reserve_arena(program_.arena_bytes);
    reserved_ = true;
  }
  void* arena = device_->arena();
  if (executable_ == nullptr || bound_generation_ != device_->arena_generation()) {
    executable_ = device_->backend().bind(program_, arena);
    device_->count_binding();
    bound_generation_ = device_->arena_generation();
  }
  executable_->run(device_->stopping(), times);
}

void PlanState::release() {
  executable_.reset();
  if (reserved_) device_->release_arena(program_.arena_bytes);
  reserved_ = false;
}

}  // namespace flux
