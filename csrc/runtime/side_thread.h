// SideThread: work beside the device's own, such as reading and converting files while images are made. One thread, started by
// its first job, runs jobs in order; each may use the helpers.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "runtime/thread_pool.h"

namespace flux {

class SideThread {
 public:
  using Job = std::function<void(ThreadPool& helpers)>;

  ~SideThread() { stop(); }

  // False once it was closed or stopped. The job must not throw.
  bool submit(Job job);
  // Takes no new jobs; what is queued still runs. Does not wait.
  void close();
  // Drops queued jobs and joins the thread. Safe to call twice.
  void stop();

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  bool closed_ = false, stopping_ = false;
  std::thread thread_;
};

}  // namespace flux
