#include "harness/timing.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace flux::testing {
namespace {

// A pair of events around what `enqueue` puts into the stream; gives milliseconds.
double elapsed_ms(cudaStream_t stream, const std::function<void()>& enqueue) {
  cudaEvent_t begin, end;
  must(cudaEventCreate(&begin), "cudaEventCreate");
  must(cudaEventCreate(&end), "cudaEventCreate");
  must(cudaEventRecord(begin, stream), "cudaEventRecord");
  enqueue();
  must(cudaEventRecord(end, stream), "cudaEventRecord");
  must(cudaEventSynchronize(end), "the timed run");
  float ms = 0;
  must(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return ms;
}

class Graph {
 public:
  Graph(cudaStream_t stream, const std::function<void()>& enqueue) {
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    enqueue();
    cudaGraph_t graph;
    must(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    must(cudaGraphInstantiate(&executable_, graph, 0), "cudaGraphInstantiate");
    cudaGraphDestroy(graph);
  }
  ~Graph() { cudaGraphExecDestroy(executable_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void replay(cudaStream_t stream, int times) const {
    for (int i = 0; i < times; ++i) must(cudaGraphLaunch(executable_, stream), "cudaGraphLaunch");
  }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

// `run(times)` enqueues `times` rounds of `launches` launches.
Timing timed(const Session& session, int launches, const std::function<void(int times)>& run) {
  run(1);
  const double once = elapsed_ms(session.stream, [&] { run(3); }) / 3;
  const double target = session.quick ? 100.0 : 1050.0;
  const int times = int(std::clamp(std::ceil(target / once), 3.0, 20000.0));
  Timing timing;
  if (session.sensors) session.sensors->start();
  const double total = elapsed_ms(session.stream, [&] { run(times); });
  if (session.sensors) timing.reading = session.sensors->stop();
  timing.ms = total / times / launches;
  return timing;
}

}  // namespace

Timing sustained(const Session& session, int sets, const std::function<Status(int set)>& launch) {
  const auto one = [&](int index) {
    const Status status = launch(index % sets);
    if (!status.ok()) throw std::runtime_error("launch: " + status.message);
  };
  one(0);  // module load and attributes, outside the capture
  must(cudaStreamSynchronize(session.stream), "the first run");
  const double first = elapsed_ms(session.stream, [&] { one(1 % sets); });
  // A replay of at least a millisecond hides its own launch; every set equally often.
  const int rounds = int(std::clamp(std::ceil(1.0 / (first * sets)), 1.0, 200.0 / sets + 1));
  const Graph graph(session.stream, [&] {
    for (int i = 0; i < rounds * sets; ++i) one(i);
  });
  return timed(session, rounds * sets, [&](int times) { graph.replay(session.stream, times); });
}

double copy_bytes_per_second(const Session& session) {
  constexpr int64_t kBytes = int64_t(1) << 30;
  const DeviceBytes from(kBytes), to(kBytes);
  fill_normal(from.data(), kBytes / 4, Element::kF32, 1);
  // Not through a graph: a graph's copy nodes take the copy engine, at two thirds of this rate.
  const Timing timing = timed(session, 1, [&](int times) {
    for (int i = 0; i < times; ++i) {
      must(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, session.stream), "copy");
    }
  });
  return 2.0 * kBytes / timing.ms * 1e3;
}

}  // namespace flux::testing
