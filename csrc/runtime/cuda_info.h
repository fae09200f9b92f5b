// What CUDA can do on this machine, found out at run time: one binary loads with and without a driver.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace flux {

struct CudaDeviceInfo {
  int index = 0;
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  uint64_t memory_bytes = 0, l2_bytes = 0;
};

struct CudaInfo {
  bool built = false;      // this binary holds CUDA kernels
  std::string reason;      // why no device can be used; empty when one can
  int driver_version = 0;  // such as 13000; 0 when there is no driver
  std::vector<CudaDeviceInfo> devices;
};

CudaInfo query_cuda();

}  // namespace flux
