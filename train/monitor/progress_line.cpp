#include "train/monitor/progress_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace ashlar {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
constexpr double kHour = 3600;
constexpr double kDaysFrom = 100 * kHour;

}  // namespace

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e12) return "?";
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (static_cast<double>(s) < kDaysFrom) {
    return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  }
  return fmt::format("{}d {:02}:{:02}:{:02}", s / 86400, s / 3600 % 24, s / 60 % 60, s % 60);
}

std::string format_count(double value) {
  if (!std::isfinite(value)) return fmt::format("{}", value);
  static constexpr const char* kUnits[] = {"", "k", "M", "G", "T", "P"};
  size_t unit = 0;
  // 999.5 would print as 1000.
  while (std::abs(value) >= 999.5 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  const double size = std::abs(value);
  const int digits = unit == 0 || size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f}{}", value, digits, kUnits[unit]);
}

std::string progress_line(const ProgressValues& v) {
  std::string line = fmt::format("step {}/{} loss {:.4f}", v.step, v.steps, v.loss);
  if (v.lr) line += fmt::format(" lr {:.3g}", *v.lr);
  if (v.grad_norm) line += fmt::format(" norm {:.3f}", *v.grad_norm);
  line += fmt::format(" | {} tokens/s", format_count(v.tokens_per_second));
  if (v.mfu) line += fmt::format(", MFU {:.1f}%", 100 * *v.mfu);
  if (v.data_wait || v.communication_wait) {
    line += " | waits:";
    if (v.data_wait) line += fmt::format(" data {:.1f}%", 100 * *v.data_wait);
    if (v.data_wait && v.communication_wait) line += ',';
    if (v.communication_wait) {
      line += fmt::format(" communication {:.1f}%", 100 * *v.communication_wait);
    }
  }
  if (v.memory_bytes) line += fmt::format(" | {:.1f} GiB", *v.memory_bytes / kGiB);
  if (v.seconds_left) line += fmt::format(" | {} left", format_duration(*v.seconds_left));
  return line;
}

std::string progress_note(const ProgressValues& v) {
  std::string note = fmt::format("loss {:.3f} {} tok/s", v.loss, format_count(v.tokens_per_second));
  if (v.mfu) note += fmt::format(" {:.0f}% MFU", 100 * *v.mfu);
  if (v.seconds_left) note += fmt::format(" {} left", format_duration(*v.seconds_left));
  return note;
}

std::optional<double> model_flops_utilization(double flops_per_token, double tokens_per_second,
                                              double peak) {
  if (!(flops_per_token > 0 && tokens_per_second > 0 && peak > 0)) return std::nullopt;
  return flops_per_token * tokens_per_second / peak;
}

std::optional<double> seconds_left(int64_t step, int64_t steps, double steps_per_second) {
  if (!(steps_per_second > 0)) return std::nullopt;
  return static_cast<double>(std::max<int64_t>(steps - step, 0)) / steps_per_second;
}

}  // namespace ashlar
