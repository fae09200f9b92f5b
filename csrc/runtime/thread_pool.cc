#include "runtime/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <system_error>

#include "runtime/error.h"

namespace flux {

// Lives on the stack of parallel_for. Chunks are handed out by `next`; a worker that wakes too late finds
// none left.
struct ThreadPool::Job {
  int64_t count;
  int64_t grain;
  const std::function<void(int64_t, int64_t)>& body;
  std::atomic<int64_t> next{0};
  std::mutex failure_mutex{};
  int64_t failed_at = -1;  // begin of the failing chunk kept in `failure`
  std::exception_ptr failure{};
};

ThreadPool::ThreadPool(int threads) {
  FLUX_CHECK(threads >= 1, "ThreadPool: threads must be at least 1, not " + std::to_string(threads));
  workers_.reserve(static_cast<size_t>(threads - 1));
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { loop(); });
  } catch (const std::system_error&) {
    // The system refused a thread: go on with those that it gave. Results do not depend on their number.
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::work(Job& job) {
  while (true) {
    const int64_t begin = job.next.fetch_add(job.grain, std::memory_order_relaxed);
    if (begin >= job.count) return;
    try {
      job.body(begin, std::min(begin + job.grain, job.count));
    } catch (...) {
      // The failure of the earliest chunk wins, so that the error, too, does not depend on the threads.
      std::lock_guard lock(job.failure_mutex);
      if (job.failed_at < 0 || begin < job.failed_at) {
        job.failed_at = begin;
        job.failure = std::current_exception();
      }
    }
  }
}

void ThreadPool::loop() {
  uint64_t seen = 0;
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return stopping_ || (job_ != nullptr && generation_ != seen); });
    if (stopping_) return;
    seen = generation_;
    Job& job = *job_;
    ++active_;
    lock.unlock();
    work(job);
    lock.lock();
    if (--active_ == 0) done_.notify_one();
  }
}

void ThreadPool::parallel_for(int64_t count, int64_t grain,
                              const std::function<void(int64_t, int64_t)>& body) {
  if (count <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  Job job{count, grain, body};
  if (workers_.empty() || count <= grain) {
    work(job);
  } else {
    {
      std::lock_guard lock(mutex_);
      job_ = &job;
      ++generation_;
    }
    const int64_t chunks = (count + grain - 1) / grain;
    if (chunks - 1 >= static_cast<int64_t>(workers_.size())) {
      wake_.notify_all();
    } else {
      for (int64_t i = 1; i < chunks; ++i) wake_.notify_one();
    }
    work(job);
    // No chunk is left: workers that have not joined by now are not let in, the others are waited for.
    std::unique_lock lock(mutex_);
    job_ = nullptr;
    done_.wait(lock, [&] { return active_ == 0; });
  }
  if (job.failure) std::rethrow_exception(job.failure);
}

}  // namespace flux
