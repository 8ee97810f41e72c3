#include "core/io/json.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "core/base/error.h"
#include "core/io/atomic_file.h"

namespace ashlar {
namespace {

using Json = nlohmann::ordered_json;

// Builds Nodes from SAX events, so that duplicate keys and depth are seen before anything is kept.
class NodeBuilder : public nlohmann::json_sax<Json> {
 public:
  explicit NodeBuilder(std::string file)
      : file_(std::make_shared<const std::string>(std::move(file))) {}

  bool null() override { return put(Node()); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(static_cast<int64_t>(value)); }
  bool number_unsigned(number_unsigned_t value) override {
    require(value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()), ErrorCode::kData,
            "{}: integer {} is too large", *file_, value);
    return put(static_cast<int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Node::map()); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Node::list()); }
  bool end_array() override { return close(); }
  bool key(string_t& value) override {
    require(keys_.back().insert(value).second, ErrorCode::kData, "{}: duplicate key '{}'", *file_,
            value);
    key_.back() = std::move(value);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    fail(ErrorCode::kData, "{}: invalid JSON at byte {}: {}", *file_, position,
         one_line(error.what()));
  }

  Node take() { return std::move(root_); }

 private:
  static std::string one_line(std::string text) {
    for (char& c : text) {
      if (c == '\n' || c == '\r') c = ' ';
    }
    return text.substr(0, 200);
  }

  bool put(Node node) {
    node.set_origin({file_, 0});
    if (open_.empty()) {
      root_ = std::move(node);
    } else if (open_.back().is_list()) {
      open_.back().push(std::move(node));
    } else {
      open_.back().as_map().emplace_back(std::move(key_.back()), std::move(node));
    }
    return true;
  }
  bool open(Node node) {
    require(open_.size() < 100, ErrorCode::kData, "{}: nested deeper than 100 levels", *file_);
    node.set_origin({file_, 0});
    open_.push_back(std::move(node));
    keys_.emplace_back();
    key_.emplace_back();
    return true;
  }
  bool close() {
    Node node = std::move(open_.back());
    open_.pop_back();
    keys_.pop_back();
    key_.pop_back();
    return put(std::move(node));
  }

  std::shared_ptr<const std::string> file_;
  std::vector<Node> open_;
  std::vector<std::unordered_set<std::string>> keys_;
  std::vector<std::string> key_;
  Node root_;
};

Json to_json(const Node& node) {
  if (node.is_bool()) return node.as_bool();
  if (node.is_int()) return node.as_int();
  if (node.is_double()) {
    const double value = node.as_double();
    return std::isfinite(value) ? Json(value) : Json(nullptr);
  }
  if (node.is_string()) return node.as_string();
  if (node.is_list()) {
    Json list = Json::array();
    for (const Node& entry : node.as_list()) list.push_back(to_json(entry));
    return list;
  }
  if (node.is_map()) {
    Json map = Json::object();
    // The ordered map is a vector whose insert() searches for the key: quadratic for vocabularies.
    auto& entries = map.get_ref<Json::object_t&>();
    for (const auto& [key, value] : node.as_map()) entries.emplace_back(key, to_json(value));
    return map;
  }
  return nullptr;
}

}  // namespace

Node parse_json(std::string_view text, const std::string& file) {
  NodeBuilder builder(file);
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
    fail(ErrorCode::kData, "{}: invalid JSON", file);
  }
  return builder.take();
}

Node load_json(const std::filesystem::path& path) {
  return parse_json(read_file(path), path.string());
}

std::string write_json(const Node& node, int indent) {
  // Replace broken UTF-8 rather than throw: text that came from a model may hold it.
  return to_json(node).dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace ashlar
