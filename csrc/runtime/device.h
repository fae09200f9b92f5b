// Device: a backend, its FIFO thread and its arena. Jobs run one after another in the order in which they were submitted.
//
// The arena is one Memory that holds the values of whichever plan is running; plans run one at a time, so all share it. It
// is as large as the largest live plan needs; when it has to grow, its address changes and executables bind again.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "runtime/backend.h"
#include "runtime/side_thread.h"

namespace flux {

class Device : public std::enable_shared_from_this<Device> {
 public:
  explicit Device(std::shared_ptr<Backend> backend);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  Backend& backend() { return *backend_; }
  std::shared_ptr<Backend> shared_backend() { return backend_; }

  // Queues a job; false when the device has been closed or stopped. The job must not throw.
  bool submit(std::function<void()> job);
  // Queues something that nobody waits for, after close() too: giving memory back. Once the thread has ended it runs here.
  void post(std::function<void()> job);
  // Calls `done` when the device has reached `fence`, with what went wrong or null: at once for a null fence, else on a second
  // thread, in the order of the calls. To be called on the device's thread.
  void when_reached(std::unique_ptr<Fence> fence, std::function<void(std::exception_ptr)> done);

  // Queues a job that runs beside the others, in the order of such jobs; false as for submit.
  bool submit_aside(SideThread::Job job) { return aside_.submit(std::move(job)); }

  // Takes no new jobs; what is queued still runs, then the arena is given back and the thread ends. Does not wait.
  void close();
  // Ends the current job at its next op, drops the queued ones, and joins the thread. Safe to call twice.
  void stop();
  const std::atomic<bool>& stopping() const { return stopping_; }

  // The arena's life, on the device's thread: a plan reserves before its first run and releases once.
  void reserve_arena(uint64_t bytes);
  void release_arena(uint64_t bytes);
  void* arena();  // grows it to the largest reservation first
  uint64_t arena_generation() const { return arena_generation_; }
  // Bytes of it now; on any thread.
  uint64_t arena_bytes() const { return arena_bytes_.load(); }

  // How often a plan was bound, which on a GPU captures it as a graph; on any thread.
  uint64_t bindings() const { return bindings_.load(); }
  void count_binding() { ++bindings_; }

 private:
  struct Awaited {
    std::unique_ptr<Fence> fence;
    std::function<void(std::exception_ptr)> done;
  };
  void loop();
  void await_fences();

  std::shared_ptr<Backend> backend_;
  std::multiset<uint64_t> reservations_;
  std::unique_ptr<Memory> arena_;
  std::atomic<uint64_t> arena_bytes_{0};
  uint64_t arena_generation_ = 0;
  std::atomic<uint64_t> bindings_{0};

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  bool closed_ = false;
  bool ended_ = false;  // the thread runs no more jobs
  std::atomic<bool> stopping_{false};
  std::thread thread_;

  std::mutex fences_mutex_;
  std::condition_variable fences_wake_;
  std::deque<Awaited> fences_;
  bool no_more_fences_ = false;
  std::thread fences_thread_;  // started by the first fence

  SideThread aside_;
};

// A program and the executable that it was last bound to. Only the device's thread touches the executable.
class PlanState {
 public:
  PlanState(std::shared_ptr<Device> device, Program program);  // validates

  const Program& program() const { return program_; }
  bool retired() const { return retired_.load(std::memory_order_acquire); }
  bool retire() { return !retired_.exchange(true); }

  // A revocable run has a number, and may begin as long as revoke() was not called after it was given. On any thread.
  uint64_t next_revocable() { return ++issued_; }
  void revoke() { revoked_ = issued_.load(); }
  bool is_revoked(uint64_t number) const { return number <= revoked_; }

  // On the device's thread.
  void run(std::vector<double>* times);
  void release();

 private:
  std::shared_ptr<Device> device_;
  Program program_;
  std::unique_ptr<Executable> executable_;
  uint64_t bound_generation_ = 0;
  bool reserved_ = false;
  std::atomic<bool> retired_{false};
  std::atomic<uint64_t> issued_{0}, revoked_{0};
};

}  // namespace flux
