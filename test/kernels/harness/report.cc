#include "harness/report.h"

#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace flux::testing {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += ' ';
    } else {
      out += c;
    }
  }
  return out + "\"";
}

// JSON has no infinities.
std::string number(double value, int digits = 6) {
  if (!std::isfinite(value)) return "null";
  char text[40];
  std::snprintf(text, sizeof text, "%.*g", digits, value);
  return text;
}

std::string json_of(const Figure& figure) {
  const Difference& d = figure.difference;
  return "{\"label\": " + quoted(figure.label) + ", \"relativeL2\": " + number(d.relative_l2) +
         ", \"maxAbs\": " + number(d.max_abs) + ", \"worstTile\": " + number(d.worst_tile) + "}";
}

std::string json_of_test(const Result& result) {
  std::ostringstream out;
  out << "    {\"name\": " << quoted(result.name)
      << ", \"passed\": " << (result.failures.empty() ? "true" : "false")
      << ", \"seconds\": " << number(result.seconds, 3) << ", \"figures\": [";
  for (size_t i = 0; i < result.figures.size(); ++i) out << (i ? ", " : "") << json_of(result.figures[i]);
  out << "], \"failures\": [";
  for (size_t i = 0; i < result.failures.size(); ++i) out << (i ? ", " : "") << quoted(result.failures[i]);
  out << "]}";
  return out.str();
}

std::string json_of_row(const Result& result, const Measurement& m) {
  std::ostringstream out;
  out << "    {\"case\": " << quoted(result.name) << ", \"ms\": " << number(m.ms)
      << ", \"value\": " << number(m.value, 5) << ", \"unit\": " << quoted(m.unit)
      << ", \"peer\": null, \"peerValue\": null, \"ratio\": null, \"floorPercent\": "
      << number(m.floor_percent, 4) << ", \"smClockMHz\": " << number(m.reading.sm_clock_mhz, 5)
      << ", \"powerWatts\": " << number(m.reading.power_watts, 4) << "}";
  return out.str();
}

void write_list(std::ostream& out, const std::vector<std::string>& items) {
  for (size_t i = 0; i < items.size(); ++i) out << items[i] << (i + 1 < items.size() ? ",\n" : "\n");
}

}  // namespace

void print_result(const Result& result) {
  std::printf("%s %-64s %6.2f s", result.failures.empty() ? "ok  " : "FAIL", result.name.c_str(),
              result.seconds);
  for (const Figure& figure : result.figures) {
    std::printf("  %s %.2e tile %.2e max %.2e", figure.label.c_str(), figure.difference.relative_l2,
                figure.difference.worst_tile, figure.difference.max_abs);
  }
  std::printf("\n");
  for (const std::string& failure : result.failures) std::printf("     %s\n", failure.c_str());
  std::fflush(stdout);
}

void print_summary(const Machine& machine, const Session& session, const std::vector<Result>& results) {
  int tests = 0, failed = 0;
  bool any_row = false;
  for (const Result& result : results) {
    tests += result.kind == Kind::kTest;
    failed += !result.failures.empty();
    any_row |= !result.measurements.empty();
  }
  std::printf("\n%s, driver %s; device copy %.0f GB/s\n", machine.gpu.c_str(), machine.driver.c_str(),
              session.copy_bytes_per_second / 1e9);
  if (any_row) {
    std::printf("%-56s %10s %10s %-8s %8s %8s %7s\n", "case", "ms", "rate", "", "% floor", "SM MHz", "W");
  }
  for (const Result& result : results) {
    for (const Measurement& m : result.measurements) {
      std::printf("%-56s %10.5f %10.1f %-8s %8.1f %8.0f %7.0f\n", result.name.c_str(), m.ms, m.value, m.unit,
                  m.floor_percent, m.reading.sm_clock_mhz, m.reading.power_watts);
    }
  }
  for (const Result& result : results) {
    if (!result.failures.empty())
      std::printf("FAIL %s: %s\n", result.name.c_str(), result.failures[0].c_str());
  }
  std::printf("%d tests, %zu benchmarks, %d failed\n", tests, results.size() - size_t(tests), failed);
}

void write_json(const std::string& path, const Machine& machine, const Session& session,
                const std::vector<Result>& results) {
  std::vector<std::string> tests, rows;
  for (const Result& result : results) {
    tests.push_back(json_of_test(result));
    for (const Measurement& m : result.measurements) rows.push_back(json_of_row(result, m));
  }
  std::ofstream out(path);
  out << "{\n  \"bench\": \"kernels\",\n  \"gpu\": " << quoted(machine.gpu)
      << ",\n  \"driver\": " << quoted(machine.driver) << ",\n  \"date\": " << quoted(machine.date)
      << ",\n  \"sources\": " << quoted(machine.sources)
      << ",\n  \"copyGBPerSecond\": " << number(session.copy_bytes_per_second / 1e9, 5)
      << ",\n  \"tests\": [\n";
  write_list(out, tests);
  out << "  ],\n  \"rows\": [\n";
  write_list(out, rows);
  out << "  ]\n}\n";
  if (!out.flush()) throw std::runtime_error("cannot write " + path);
}

}  // namespace flux::testing
