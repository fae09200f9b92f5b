// Ranges of files, where the operating system refuses.
#include "runtime/file_io.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "runtime/error.h"

namespace {
bool takes_nothing = false;
}

// In place of the C library's in this program: a file system may say that it wrote nothing, and give no reason.
extern "C" ssize_t pwrite(int descriptor, const void* data, size_t bytes, off_t at) {
  return takes_nothing ? 0 : ::syscall(SYS_pwrite64, descriptor, data, bytes, at);
}

namespace flux::test {
namespace {

template <typename Action>
std::string failure_of(Action action) {
  try {
    action();
  } catch (const FluxError& error) {
    return std::string(error.code()) + " " + error.what();
  }
  return "nothing was thrown";
}

FLUX_TEST(a_write_that_takes_nothing_ends) {
  char path[] = "/tmp/flux-file-io-XXXXXX";
  const int descriptor = ::mkstemp(path);
  ::unlink(path);
  const std::byte data[4] = {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  write_range(descriptor, 2, data, 4);
  std::byte read[8] = {};
  EXPECT(read_range(descriptor, "file", 0, read, 8) == 6, "two bytes of a hole and four that were written");
  EXPECT(read[1] == std::byte{0} && read[2] == data[0] && read[5] == data[3], "what was written");
  takes_nothing = true;
  const std::string failure = failure_of([&] { write_range(descriptor, 0, data, 4); });
  takes_nothing = false;
  EXPECT(failure == "ERR_FLUX_IO the file system takes no more", failure);
  ::close(descriptor);
}

FLUX_TEST(a_read_that_fails_names_its_file) {
  const int folder = ::open("/", O_RDONLY | O_DIRECTORY);
  std::byte read[1];
  const std::string failure = failure_of([&] { read_range(folder, "weights.safetensors", 0, read, 1); });
  ::close(folder);
  EXPECT(failure.find("ERR_FLUX_IO weights.safetensors cannot be read: ") == 0, failure);
}

}  // namespace
}  // namespace flux::test
