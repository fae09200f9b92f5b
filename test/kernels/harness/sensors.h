// Clock and power of the GPU through NVML, loaded at run time: there is nothing to link and it may be absent.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>

namespace flux::testing {

struct Reading {
  double sm_clock_mhz = 0;  // 0: not known
  double power_watts = 0;
};

class Sensors {
 public:
  // For the CUDA device with this PCI bus id ("0000:17:00.0").
  explicit Sensors(const std::string& pci_bus_id);
  ~Sensors();
  Sensors(const Sensors&) = delete;
  Sensors& operator=(const Sensors&) = delete;

  bool available() const { return device_ != nullptr; }
  const std::string& driver() const { return driver_; }

  // Means of readings every 20 ms between the two calls.
  void start();
  Reading stop();

 private:
  Reading read() const;

  void* library_ = nullptr;
  void* device_ = nullptr;
  std::string driver_;
  std::thread sampler_;
  std::atomic<bool> running_{false};
  Reading sum_;
  int count_ = 0;
};

}  // namespace flux::testing
