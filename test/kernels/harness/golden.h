// Tensors of a safetensors file: published expected values that are not made by this program.
#pragma once

#include <string>
#include <vector>

#include "harness/matrix.h"

namespace flux::testing {

class Golden {
 public:
  // Throws std::runtime_error when the file cannot be read.
  explicit Golden(const std::string& path);
  // All but the last axis are rows. BF16 and F32 are decoded, U8 gives its bytes' values.
  Matrix matrix(const std::string& name) const;
  std::vector<uint8_t> bytes(const std::string& name) const;

 private:
  struct Entry {
    std::string dtype;
    std::vector<int64_t> shape;
    size_t begin, end;  // of its data in file_
  };
  Entry find(const std::string& name) const;

  std::string path_;
  std::vector<uint8_t> file_;
};

}  // namespace flux::testing
