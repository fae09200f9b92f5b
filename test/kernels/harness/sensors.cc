#include "harness/sensors.h"

#include <dlfcn.h>

#include <chrono>

namespace flux::testing {
namespace {

// NVML's C ABI as far as it is used here; 0 is success. Clock type 1 is the SM clock.
using Init = int (*)();
using DeviceByBusId = int (*)(const char*, void**);
using ClockInfo = int (*)(void*, int, unsigned*);
using PowerUsage = int (*)(void*, unsigned*);
using DriverVersion = int (*)(char*, unsigned);

template <typename Function>
Function symbol(void* library, const char* name) {
  return reinterpret_cast<Function>(dlsym(library, name));
}

}  // namespace

Sensors::Sensors(const std::string& pci_bus_id) {
  library_ = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library_) return;
  const auto init = symbol<Init>(library_, "nvmlInit_v2");
  const auto by_bus_id = symbol<DeviceByBusId>(library_, "nvmlDeviceGetHandleByPciBusId_v2");
  if (!init || !by_bus_id || init() != 0) return;
  char version[96] = "";
  const auto driver_version = symbol<DriverVersion>(library_, "nvmlSystemGetDriverVersion");
  if (driver_version && driver_version(version, sizeof version) == 0) driver_ = version;
  if (by_bus_id(pci_bus_id.c_str(), &device_) != 0) device_ = nullptr;
}

Sensors::~Sensors() {
  if (sampler_.joinable()) stop();
  if (library_) dlclose(library_);
}

Reading Sensors::read() const {
  Reading reading;
  unsigned value = 0;
  const auto clock = symbol<ClockInfo>(library_, "nvmlDeviceGetClockInfo");
  const auto power = symbol<PowerUsage>(library_, "nvmlDeviceGetPowerUsage");
  if (clock && clock(device_, 1, &value) == 0) reading.sm_clock_mhz = value;
  if (power && power(device_, &value) == 0) reading.power_watts = value / 1000.0;
  return reading;
}

void Sensors::start() {
  if (!available()) return;
  sum_ = {};
  count_ = 0;
  running_ = true;
  sampler_ = std::thread([this] {
    while (running_) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      const Reading reading = read();
      sum_.sm_clock_mhz += reading.sm_clock_mhz;
      sum_.power_watts += reading.power_watts;
      ++count_;
    }
  });
}

Reading Sensors::stop() {
  running_ = false;
  if (sampler_.joinable()) sampler_.join();
  if (count_ == 0) return {};
  return {sum_.sm_clock_mhz / count_, sum_.power_watts / count_};
}

}  // namespace flux::testing
