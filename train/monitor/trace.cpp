#include "train/monitor/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "core/base/error.h"
#include "core/io/atomic_file.h"
#include "core/io/json.h"

namespace ashlar {
namespace {

using Clock = Tracer::Clock;

// Texts that names and lanes become in JSON, by number.
std::vector<std::string> quoted(const std::map<std::string, int64_t, std::less<>>& names) {
  std::vector<std::string> out(names.size());
  for (const auto& [name, number] : names) {
    out[static_cast<size_t>(number)] = write_json(Node(name));
  }
  return out;
}

// Nanoseconds as µs with three digits, without a detour over doubles, which have too few for the
// time since boot.
void append_microseconds(std::string& out, int64_t nanoseconds) {
  fmt::format_to(std::back_inserter(out), "{}.{:03}", nanoseconds / 1000, nanoseconds % 1000);
}

int64_t nanoseconds(Clock::duration d) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(d).count();
}

}  // namespace

ScopedSpan::ScopedSpan(Tracer* tracer, std::string_view lane, std::string_view name)
    : tracer_(tracer) {
  if (tracer_ == nullptr) return;
  lane_ = lane;
  name_ = name;
  begin_ = Clock::now();
}

ScopedSpan::~ScopedSpan() {
  if (tracer_ != nullptr) tracer_->span(lane_, name_, begin_, Clock::now());
}

int64_t Tracer::number_of(Names& names, std::string_view name) {
  const auto found = names.find(name);
  if (found != names.end()) return found->second;
  const auto next = static_cast<int64_t>(names.size());
  names.emplace(name, next);
  return next;
}

void Tracer::span(std::string_view lane, std::string_view name, Clock::time_point begin,
                  Clock::time_point end) {
  ASHLAR_CHECK(begin <= end);
  const std::lock_guard lock(mutex_);
  spans_.push_back({number_of(lanes_, lane), number_of(names_, name), begin, end});
}

int64_t Tracer::size() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(spans_.size());
}

void Tracer::write(const std::filesystem::path& path) const {
  std::vector<Span> spans;
  std::vector<std::string> lanes, names;
  {
    const std::lock_guard lock(mutex_);
    spans = spans_;
    lanes = quoted(lanes_);
    names = quoted(names_);
  }
  std::stable_sort(spans.begin(), spans.end(),
                   [](const Span& a, const Span& b) { return a.begin < b.begin; });
  std::string out = fmt::format(
      "{{\"traceEvents\":[\n{{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":{0},"
      "\"args\":{{\"name\":\"rank {0}\"}}}}",
      rank_);
  for (size_t lane = 0; lane < lanes.size(); ++lane) {
    fmt::format_to(std::back_inserter(out),
                   ",\n{{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":{},\"tid\":{},"
                   "\"args\":{{\"name\":{}}}}}",
                   rank_, lane, lanes[lane]);
  }
  for (const Span& s : spans) {
    fmt::format_to(std::back_inserter(out),
                   ",\n{{\"ph\":\"X\",\"name\":{},\"pid\":{},\"tid\":{},\"ts\":",
                   names[static_cast<size_t>(s.name)], rank_, s.lane);
    append_microseconds(out, nanoseconds(s.begin.time_since_epoch()));
    out += ",\"dur\":";
    append_microseconds(out, nanoseconds(s.end - s.begin));
    out += '}';
  }
  out += "\n],\"displayTimeUnit\":\"ms\"}\n";
  write_file_atomically(path, out);
}

}  // namespace ashlar
