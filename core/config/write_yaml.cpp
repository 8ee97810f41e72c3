#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <cmath>

#include "core/config/config.h"

namespace ashlar {
namespace {

bool is_flow(const Node& node) {
  if (!node.is_list()) return false;
  for (const Node& entry : node.as_list()) {
    if (entry.is_list() || entry.is_map()) return false;
  }
  return true;
}

// Words that YAML reads back as the same string without quotes.
bool is_plain(const std::string& text) {
  constexpr const char* kSafe =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-";
  if (text.empty() || text.find_first_not_of(kSafe) != std::string::npos) return false;
  const Node parsed = parse_yaml(text, "");
  return parsed.is_string() && parsed.as_string() == text;
}

std::string double_text(double value) {
  if (std::isinf(value)) return value > 0 ? ".inf" : "-.inf";
  std::string text = fmt::format("{}", value);
  // "1" and "1e-05" must come back as doubles: keep a point.
  if (text.find_first_of(".n") == std::string::npos) {
    const size_t e = text.find('e');
    text.insert(e == std::string::npos ? text.size() : e, ".0");
  }
  return text;
}

void emit(YAML::Emitter& out, const Node& node) {
  if (node.is_null()) {
    out << YAML::Null;
  } else if (node.is_bool()) {
    out << node.as_bool();
  } else if (node.is_int()) {
    out << node.as_int();
  } else if (node.is_double()) {
    out << double_text(node.as_double());
  } else if (node.is_string()) {
    const std::string& text = node.as_string();
    if (!is_plain(text)) out << YAML::DoubleQuoted;
    out << text;
  } else if (node.is_list()) {
    if (is_flow(node)) out << YAML::Flow;
    out << YAML::BeginSeq;
    for (const Node& entry : node.as_list()) emit(out, entry);
    out << YAML::EndSeq;
  } else {
    out << YAML::BeginMap;
    for (const auto& [key, value] : node.as_map()) {
      out << YAML::Key << key << YAML::Value;
      emit(out, value);
    }
    out << YAML::EndMap;
  }
}

}  // namespace

std::string write_yaml(const Node& node) {
  YAML::Emitter out;
  emit(out, node);
  return std::string(out.c_str()) + "\n";
}

}  // namespace ashlar
