#include "harness/golden.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace flux::testing {

Golden::Golden(const std::string& path) : path_(path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  file_.assign(std::istreambuf_iterator<char>(in), {});
  if (file_.size() < 8) throw std::runtime_error(path + " is no safetensors file");
}

Golden::Entry Golden::find(const std::string& name) const {
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file_.data(), 8);
  const std::string header(reinterpret_cast<const char*>(file_.data()) + 8, size_t(header_bytes));
  const size_t at = header.find("\"" + name + "\":");
  if (at == std::string::npos) throw std::runtime_error(path_ + " has no tensor " + name);
  const std::string object = header.substr(at, header.find('}', at) - at);
  const auto after = [&](const char* key) { return object.find(key) + std::strlen(key); };
  const auto numbers = [&](const char* key) {
    std::vector<int64_t> list;
    const char* text = object.c_str() + after(key);
    while (*text != ']') {
      if (*text >= '0' && *text <= '9') {
        char* end;
        list.push_back(std::strtoll(text, &end, 10));
        text = end;
      } else {
        ++text;
      }
    }
    return list;
  };
  Entry entry;
  const size_t dtype = object.find('"', after("\"dtype\":")) + 1;
  entry.dtype = object.substr(dtype, object.find('"', dtype) - dtype);
  entry.shape = numbers("\"shape\":");
  const std::vector<int64_t> offsets = numbers("\"data_offsets\":");
  entry.begin = 8 + size_t(header_bytes) + size_t(offsets.at(0));
  entry.end = 8 + size_t(header_bytes) + size_t(offsets.at(1));
  if (entry.end > file_.size()) throw std::runtime_error(path_ + " is truncated");
  return entry;
}

std::vector<uint8_t> Golden::bytes(const std::string& name) const {
  const Entry entry = find(name);
  return {file_.begin() + int64_t(entry.begin), file_.begin() + int64_t(entry.end)};
}

Matrix Golden::matrix(const std::string& name) const {
  const Entry entry = find(name);
  int64_t count = 1;
  for (const int64_t extent : entry.shape) count *= extent;
  Matrix matrix;
  matrix.cols = entry.shape.empty() ? 1 : entry.shape.back();
  matrix.rows = matrix.cols ? count / matrix.cols : 0;
  const Element type = entry.dtype == "BF16"  ? Element::kBF16
                       : entry.dtype == "F32" ? Element::kF32
                                              : Element::kU8;
  if (type == Element::kU8 && entry.dtype != "U8") throw std::runtime_error(name + " is " + entry.dtype);
  matrix.values = decode(file_.data() + entry.begin, count, type);
  return matrix;
}

}  // namespace flux::testing
