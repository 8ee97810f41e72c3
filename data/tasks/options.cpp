#include "data/tasks/options.h"

#include <limits>

namespace ashlar {

TaskOptions::TaskOptions(std::string_view task, const Node& options)
    : options_(options), reader_(options) {
  note("task", task);
}

int64_t TaskOptions::integer(std::string_view key, int64_t value, int64_t low, int64_t high) {
  const int64_t read = reader_.integer_or(key, value, low, high);
  note(key, read);
  return read;
}

double TaskOptions::number(std::string_view key, double value, double low, double high) {
  const double read = reader_.number_or(key, value, low, high);
  note(key, read);
  return read;
}

size_t TaskOptions::choice(std::string_view key, size_t value,
                           const std::vector<std::string_view>& names) {
  const size_t read = reader_.choice_or(key, value, names);
  note(key, names[read]);
  return read;
}

uint64_t TaskOptions::seed() {
  return static_cast<uint64_t>(integer("seed", 0, 0, std::numeric_limits<int64_t>::max()));
}

void TaskOptions::refuse(std::string_view key, const std::string& reason) const {
  const Node* node = options_.find(key);
  fail_at(node != nullptr ? *node : options_, key, reason);
}

Node TaskOptions::finish() {
  reader_.finish();
  return std::move(settings_);
}

}  // namespace ashlar
