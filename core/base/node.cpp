#include "core/base/node.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/base/error.h"

namespace ashlar {
namespace {

[[noreturn]] void wrong_kind(const Node& node, const char* expected) {
  const std::string where = node.where();
  fail(ErrorCode::kRequest, "{}{}expected {}, found {}", where, where.empty() ? "" : ": ", expected,
       node.kind_name());
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t up = row[j];
      row[j] = std::min({up + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = up;
    }
  }
  return row[b.size()];
}

std::string join(const std::vector<std::string_view>& names) {
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

const char* Node::kind_name() const {
  constexpr const char* kNames[] = {"nothing",  "a boolean", "an integer", "a number",
                                    "a string", "a list",    "a map"};
  return kNames[value_.index()];
}

bool Node::as_bool() const {
  if (!is_bool()) wrong_kind(*this, "true or false");
  return std::get<bool>(value_);
}

int64_t Node::as_int() const {
  if (!is_int()) wrong_kind(*this, "an integer");
  return std::get<int64_t>(value_);
}

double Node::as_double() const {
  if (is_int()) return static_cast<double>(std::get<int64_t>(value_));
  if (!is_double()) wrong_kind(*this, "a number");
  return std::get<double>(value_);
}

const std::string& Node::as_string() const {
  if (!is_string()) wrong_kind(*this, "a string");
  return std::get<std::string>(value_);
}

const Node::List& Node::as_list() const {
  if (!is_list()) wrong_kind(*this, "a list");
  return std::get<List>(value_);
}

const Node::Map& Node::as_map() const {
  if (!is_map()) wrong_kind(*this, "a map");
  return std::get<Map>(value_);
}

Node::List& Node::as_list() { return const_cast<List&>(std::as_const(*this).as_list()); }
Node::Map& Node::as_map() { return const_cast<Map&>(std::as_const(*this).as_map()); }

const Node* Node::find(std::string_view key) const {
  if (!is_map()) return nullptr;
  for (const auto& [name, value] : std::get<Map>(value_)) {
    if (name == key) return &value;
  }
  return nullptr;
}

Node* Node::find(std::string_view key) { return const_cast<Node*>(std::as_const(*this).find(key)); }

Node& Node::set(std::string key, Node value) {
  if (is_null()) value_ = Map{};
  if (Node* present = find(key)) {
    *present = std::move(value);
    return *present;
  }
  return as_map().emplace_back(std::move(key), std::move(value)).second;
}

void Node::push(Node value) {
  if (is_null()) value_ = List{};
  as_list().push_back(std::move(value));
}

std::string Node::where() const {
  if (!origin_.file) return {};
  if (origin_.line == 0) return *origin_.file;
  return fmt::format("{}:{}", *origin_.file, origin_.line);
}

void fail_at(const Node& node, std::string_view key, const std::string& reason) {
  const std::string where = node.where();
  fail(ErrorCode::kRequest, "{}{}{}{}{}", where, where.empty() ? "" : ": ", key,
       key.empty() ? "" : ": ", reason);
}

NodeReader::NodeReader(const Node& node, std::string path) : node_(node), path_(std::move(path)) {
  if (!node_.is_map()) {
    fail_at(node_, path_, fmt::format("expected a map, found {}", node_.kind_name()));
  }
}

std::string NodeReader::key_path(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

const Node* NodeReader::optional(std::string_view key) {
  if (std::find(known_.begin(), known_.end(), key) == known_.end()) known_.emplace_back(key);
  return node_.find(key);
}

bool NodeReader::has(std::string_view key) { return optional(key) != nullptr; }

const Node& NodeReader::required(std::string_view key) {
  if (const Node* value = optional(key)) return *value;
  fail_at(node_, key_path(key), "missing required key");
}

int64_t NodeReader::integer(std::string_view key, int64_t low, int64_t high) {
  const Node& value = required(key);
  if (!value.is_int()) {
    fail_at(value, key_path(key), fmt::format("expected an integer, found {}", value.kind_name()));
  }
  const int64_t i = value.as_int();
  if (i < low || i > high) {
    fail_at(value, key_path(key), fmt::format("{} is not between {} and {}", i, low, high));
  }
  return i;
}

int64_t NodeReader::integer_or(std::string_view key, int64_t value, int64_t low, int64_t high) {
  return has(key) ? integer(key, low, high) : value;
}

double NodeReader::number(std::string_view key, double low, double high) {
  const Node& value = required(key);
  if (!value.is_int() && !value.is_double()) {
    fail_at(value, key_path(key), fmt::format("expected a number, found {}", value.kind_name()));
  }
  const double x = value.as_double();
  if (!(x >= low && x <= high)) {
    fail_at(value, key_path(key), fmt::format("{} is not between {} and {}", x, low, high));
  }
  return x;
}

double NodeReader::number_or(std::string_view key, double value, double low, double high) {
  return has(key) ? number(key, low, high) : value;
}

bool NodeReader::boolean_or(std::string_view key, bool fallback) {
  const Node* value = optional(key);
  if (value == nullptr) return fallback;
  if (!value->is_bool()) {
    fail_at(*value, key_path(key),
            fmt::format("expected true or false, found {}", value->kind_name()));
  }
  return value->as_bool();
}

std::string NodeReader::text(std::string_view key) {
  const Node& value = required(key);
  if (!value.is_string()) {
    fail_at(value, key_path(key), fmt::format("expected a string, found {}", value.kind_name()));
  }
  return value.as_string();
}

std::string NodeReader::text_or(std::string_view key, std::string value) {
  return has(key) ? text(key) : std::move(value);
}

size_t NodeReader::choice(std::string_view key, const std::vector<std::string_view>& names) {
  const std::string word = text(key);
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == word) return i;
  }
  fail_at(required(key), key_path(key), fmt::format("'{}' is not one of {}", word, join(names)));
}

size_t NodeReader::choice_or(std::string_view key, size_t value,
                             const std::vector<std::string_view>& names) {
  return has(key) ? choice(key, names) : value;
}

void NodeReader::finish() {
  for (const auto& [key, value] : node_.as_map()) {
    if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
    std::string hint;
    size_t best = 3;
    for (const std::string& known : known_) {
      if (const size_t d = edit_distance(key, known); d < best) {
        best = d;
        hint = fmt::format(" (did you mean '{}'?)", known);
      }
    }
    fail_at(value, key_path(key), "unknown key" + hint);
  }
}

}  // namespace ashlar
