#include "core/config/config.h"

#include <yaml-cpp/yaml.h>

#include <charconv>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>

#include "core/base/error.h"

namespace ashlar {
namespace {

using File = std::shared_ptr<const std::string>;
constexpr int kMaxDepth = 64;

[[noreturn]] void refuse(const File& file, int line, const std::string& reason) {
  fail(ErrorCode::kRequest, "{}:{}: {}", *file, line, reason);
}

bool parse_int(const std::string& text, int64_t& value) {
  const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(begin, end, value);
  return error == std::errc{} && stop == end && begin != end;
}

bool parse_double(const std::string& text, double& value) {
  if (text.find_first_of("0123456789") == std::string::npos) return false;
  const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(begin, end, value);
  return error == std::errc{} && stop == end;
}

Node plain_scalar(const std::string& text) {
  if (text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL") return {};
  if (text == "true" || text == "True" || text == "TRUE") return true;
  if (text == "false" || text == "False" || text == "FALSE") return false;
  if (text == ".inf" || text == "+.inf") return HUGE_VAL;
  if (text == "-.inf") return -HUGE_VAL;
  int64_t integer = 0;
  if (parse_int(text, integer)) return integer;
  double number = 0;
  if (parse_double(text, number)) return number;
  return text;
}

Node convert(const YAML::Node& yaml, const File& file, int depth) {
  const int line = yaml.Mark().line + 1;
  if (depth > kMaxDepth) refuse(file, line, "nested deeper than 64 levels");
  Node node;
  switch (yaml.Type()) {
    case YAML::NodeType::Undefined:
    case YAML::NodeType::Null:
      break;
    case YAML::NodeType::Scalar:
      node = yaml.Tag() == "!" ? Node(yaml.Scalar()) : plain_scalar(yaml.Scalar());
      break;
    case YAML::NodeType::Sequence:
      node = Node::list();
      for (const YAML::Node& entry : yaml) node.push(convert(entry, file, depth + 1));
      break;
    case YAML::NodeType::Map: {
      node = Node::map();
      std::set<std::string> seen;
      for (const auto& entry : yaml) {
        const int key_line = entry.first.Mark().line + 1;
        if (!entry.first.IsScalar()) refuse(file, key_line, "keys must be plain words");
        const std::string& key = entry.first.Scalar();
        if (!seen.insert(key).second) refuse(file, key_line, fmt::format("{}: duplicate key", key));
        Node value = convert(entry.second, file, depth + 1);
        // A value's line is its key's: that is the line a reader looks for.
        value.set_origin({file, key_line});
        node.as_map().emplace_back(key, std::move(value));
      }
      break;
    }
  }
  node.set_origin({file, line});
  return node;
}

void merge_over(Node& base, const Node& over) {
  for (const auto& [key, value] : over.as_map()) {
    Node* present = base.find(key);
    if (present != nullptr && present->is_map() && value.is_map()) {
      merge_over(*present, value);
    } else {
      base.set(key, value);
    }
  }
}

Node load_with_base(const std::filesystem::path& path, int depth) {
  require(depth < 16, ErrorCode::kRequest, "{}: `base:` files are nested too deeply or in a circle",
          path.string());
  std::ifstream in(path, std::ios::binary);
  require(in.good() && !std::filesystem::is_directory(path), ErrorCode::kRequest,
          "{}: cannot open the configuration", path.string());
  std::ostringstream text;
  text << in.rdbuf();
  Node node = parse_yaml(text.str(), path.string());
  if (!node.is_map()) fail_at(node, "", "the configuration is not a map");
  const Node* base = node.find("base");
  if (base == nullptr) return node;
  Node merged = load_with_base(path.parent_path() / base->as_string(), depth + 1);
  std::erase_if(node.as_map(), [](const auto& entry) { return entry.first == "base"; });
  merge_over(merged, node);
  return merged;
}

}  // namespace

Node parse_yaml(const std::string& text, const std::string& file) {
  const auto name = std::make_shared<const std::string>(file);
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1) refuse(name, documents[1].Mark().line + 1, "more than one document");
    if (documents.empty()) return Node::map();
    return convert(documents[0], name, 0);
  } catch (const YAML::Exception& error) {
    refuse(name, error.mark.line + 1, error.msg);
  }
}

Node load_yaml(const std::filesystem::path& path) { return load_with_base(path, 0); }

void apply_overrides(Node& root, const std::vector<std::string>& overrides) {
  for (const std::string& text : overrides) {
    const size_t equals = text.find('=');
    require(equals != std::string::npos && equals > 0, ErrorCode::kRequest,
            "--set {}: expected KEY.KEY=VALUE", text);
    Node value = parse_yaml(text.substr(equals + 1), "--set " + text.substr(0, equals));
    if (text.size() == equals + 1) value = Node();
    Node* at = &root;
    size_t begin = 0;
    for (;;) {
      const size_t dot = std::min(text.find('.', begin), equals);
      const std::string key = text.substr(begin, dot - begin);
      require(!key.empty() && (at->is_map() || at->is_null()), ErrorCode::kRequest,
              "--set {}: '{}' is not inside a map", text, key);
      if (dot == equals) {
        at->set(key, std::move(value));
        break;
      }
      Node* next = at->find(key);
      at = next != nullptr ? next : &at->set(key, Node::map());
      begin = dot + 1;
    }
  }
}

}  // namespace ashlar
