#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace ashlar {

/// A value tree that knows the file and line each value came from. YAML and JSON both become Nodes;
/// readers of configuration see nothing else.
class Node {
 public:
  using List = std::vector<Node>;
  using Map = std::vector<std::pair<std::string, Node>>;  // in file order
  struct Origin {
    std::shared_ptr<const std::string> file;  ///< null for values made in memory
    int line = 0;                             ///< 1-based; 0 when unknown
  };

  Node() = default;
  Node(std::nullptr_t) {}                                       // NOLINT
  Node(bool value) : value_(value) {}                           // NOLINT
  Node(int64_t value) : value_(value) {}                        // NOLINT
  Node(int value) : value_(static_cast<int64_t>(value)) {}      // NOLINT
  Node(double value) : value_(value) {}                         // NOLINT
  Node(std::string value) : value_(std::move(value)) {}         // NOLINT
  Node(std::string_view value) : value_(std::string(value)) {}  // NOLINT
  Node(const char* value) : value_(std::string(value)) {}       // NOLINT
  Node(List value) : value_(std::move(value)) {}                // NOLINT
  Node(Map value) : value_(std::move(value)) {}                 // NOLINT
  static Node map() { return Node(Map{}); }
  static Node list() { return Node(List{}); }

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_int() const { return std::holds_alternative<int64_t>(value_); }
  bool is_double() const { return std::holds_alternative<double>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_list() const { return std::holds_alternative<List>(value_); }
  bool is_map() const { return std::holds_alternative<Map>(value_); }
  /// "a map", "an integer", ... for messages.
  const char* kind_name() const;

  // Typed access: throws Error(kRequest) "file:line: expected an integer, found a string".
  bool as_bool() const;
  int64_t as_int() const;
  double as_double() const;  ///< integers convert
  const std::string& as_string() const;
  const List& as_list() const;
  const Map& as_map() const;
  List& as_list();
  Map& as_map();

  /// Value under `key` of a map, or nullptr.
  const Node* find(std::string_view key) const;
  Node* find(std::string_view key);
  /// Sets or replaces `key`; this node must be a map (or null, which becomes one).
  Node& set(std::string key, Node value);
  /// Appends to a list (or null, which becomes one).
  void push(Node value);

  const Origin& origin() const { return origin_; }
  void set_origin(Origin origin) { origin_ = std::move(origin); }
  /// "file:line" or "file" or "" when unknown.
  std::string where() const;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, List, Map> value_;
  Origin origin_;
};

/// Throws Error(kRequest, "file:line: key: reason").
[[noreturn]] void fail_at(const Node& node, std::string_view key, const std::string& reason);

/// Strict reading of one map: every key must be asked for, and `finish()` refuses the rest, so that
/// a misspelt key is an error with its line and the nearest known name.
class NodeReader {
 public:
  /// `path` prefixes keys in messages, such as "model.global". Throws if `node` is not a map. Keeps
  /// a reference to `node`.
  explicit NodeReader(const Node& node, std::string path = {});

  bool has(std::string_view key);
  /// Marks `key` as known and returns its node; throws if missing.
  const Node& required(std::string_view key);
  /// Marks `key` as known; nullptr if missing.
  const Node* optional(std::string_view key);

  // Scalars. The forms with a default are for optional keys. Bounds are inclusive.
  int64_t integer(std::string_view key, int64_t low, int64_t high);
  int64_t integer_or(std::string_view key, int64_t value, int64_t low, int64_t high);
  double number(std::string_view key, double low, double high);
  double number_or(std::string_view key, double value, double low, double high);
  bool boolean_or(std::string_view key, bool value);
  std::string text(std::string_view key);
  std::string text_or(std::string_view key, std::string value);
  /// One of `names`; returns its index.
  size_t choice(std::string_view key, const std::vector<std::string_view>& names);
  size_t choice_or(std::string_view key, size_t value, const std::vector<std::string_view>& names);

  /// Path of `key` for messages: "model.global.layers".
  std::string key_path(std::string_view key) const;
  /// Throws for the first key nobody asked for.
  void finish();

 private:
  const Node& node_;
  std::string path_;
  std::vector<std::string> known_;
};

}  // namespace ashlar
