// flux_cpu_tests [--variant NAME] [FILTER]: the ops of the CPU backend against slow references in f64.
// With --variant the run counts as skipped (exit code 77) unless the dispatcher chose that instruction set.
#include <cstdio>
#include <string>

#include "check.h"
#include "cpu/ops.h"

int main(int argc, char** argv) {
  std::string filter;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--variant" && i + 1 < argc) {
      const std::string wanted = argv[++i];
      if (wanted == flux::cpu::simd_name()) continue;
      std::printf("skipped: this processor runs %s, not %s\n", std::string(flux::cpu::simd_name()).c_str(),
                  wanted.c_str());
      return 77;
    }
    filter = argument;
  }
  std::printf("variant: %s\n", std::string(flux::cpu::simd_name()).c_str());
  return flux::test::run_tests(filter) == 0 ? 0 : 1;
}
