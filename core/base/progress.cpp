#include "core/base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace ashlar {
namespace {

bool bars_wanted() {
  if (const char* forced = std::getenv("ASHLAR_PROGRESS"); forced != nullptr) {
    return std::string(forced) == "1";
  }
  return isatty(STDERR_FILENO) == 1;
}

std::string duration(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

}  // namespace

Progress::Progress(std::string label, int64_t total)
    : label_(std::move(label)),
      total_(total),
      enabled_(bars_wanted()),
      start_(std::chrono::steady_clock::now()),
      drawn_(start_ - std::chrono::seconds(1)) {}

Progress::~Progress() {
  if (!enabled_) return;
  draw();
  std::fputc('\n', stderr);
}

void Progress::update(int64_t done, const std::string& note) {
  done_ = done;
  if (!enabled_) return;
  note_ = note;
  const auto now = std::chrono::steady_clock::now();
  if (now - drawn_ < std::chrono::milliseconds(100)) return;
  drawn_ = now;
  draw();
}

void Progress::draw() {
  const double elapsed =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  std::string line;
  if (total_ > 0) {
    constexpr int kWidth = 24;
    const double share =
        std::clamp(static_cast<double>(done_) / static_cast<double>(total_), 0., 1.);
    const int filled = static_cast<int>(share * kWidth);
    std::string bar;
    for (int i = 0; i < kWidth; ++i) bar += i < filled ? "█" : "░";
    const double left = share > 0 ? elapsed * (1 - share) / share : 0;
    line = fmt::format("{} {} {:3.0f}% {}{} {}", label_, bar, 100 * share, duration(elapsed),
                       share < 1 ? fmt::format(" (-{})", duration(left)) : "", note_);
  } else {
    line = fmt::format("{} {} {} {}", label_, done_, duration(elapsed), note_);
  }
  fmt::print(stderr, "\r\033[K{}", line);
  std::fflush(stderr);
}

}  // namespace ashlar
