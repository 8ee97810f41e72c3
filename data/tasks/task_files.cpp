#include "data/tasks/task_files.h"

#include <utf8proc.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "core/base/error.h"
#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "data/tasks/zip_archive.h"
#include "data/tokenizer/text.h"

namespace ashlar {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kSpaces = " \t\n\r\f\v";
constexpr int64_t kMostChoices = 64;

std::string_view strip(std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpaces);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpaces) + 1 - begin);
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
}

std::vector<Node> read_lines(const fs::path& path) {
  return parse_json_lines(read_file(path), path.string());
}

std::string text_of(const Node& line, std::string_view key) { return NodeReader(line).text(key); }

std::vector<std::string> texts_of(const Node& line, std::string_view key) {
  const Node& list = NodeReader(line).required(key);
  if (!list.is_list()) fail_at(list, key, "expected a list of strings");
  std::vector<std::string> out;
  for (const Node& entry : list.as_list()) {
    if (!entry.is_string()) fail_at(list, key, "expected a list of strings");
    out.push_back(entry.as_string());
  }
  if (out.size() < 2 || std::ssize(out) > kMostChoices) {
    fail_at(list, key, fmt::format("{} choices: must be 2 to {}", out.size(), kMostChoices));
  }
  return out;
}

int64_t gold_of(const Node& line, std::string_view key, size_t choices) {
  const Node& value = NodeReader(line).required(key);
  int64_t gold = -1;
  if (value.is_int()) {
    gold = value.as_int();
  } else if (value.is_string() && value.as_string().size() == 1) {  // HellaSwag writes "3"
    gold = value.as_string()[0] - '0';
  } else {
    fail_at(value, key,
            "expected the index of the right choice (test sets without it cannot be "
            "scored)");
  }
  if (gold < 0 || gold >= static_cast<int64_t>(choices)) {
    fail_at(value, key, fmt::format("{} is not one of {} choices", gold, choices));
  }
  return gold;
}

std::string stripped(const Node& line, std::string_view key, const std::string& text) {
  const std::string_view out = strip(text);
  if (out.empty()) fail_at(line, key, "is empty");
  return std::string(out);
}

Choices to_choices(const Node& line, const ChoiceForm& form) {
  Choices out;
  const auto context = [&](std::string_view key, const std::string& text) {
    return form.prefix + stripped(line, key, text) + form.delimiter;
  };
  if (line.find("context_options") != nullptr) {
    const std::string end = stripped(line, "continuation", text_of(line, "continuation"));
    for (const std::string& option : texts_of(line, "context_options")) {
      out.options.push_back({context("context_options", option), end});
    }
  } else {
    const std::string query = context("query", text_of(line, "query"));
    for (const std::string& choice : texts_of(line, "choices")) {
      out.options.push_back({query, stripped(line, "choices", choice)});
    }
  }
  out.gold = gold_of(line, "gold", out.options.size());
  return out;
}

Choices to_hellaswag(const Node& line) {
  std::string query;
  if (line.find("activity_label") != nullptr) query = text_of(line, "activity_label") + ": ";
  if (line.find("ctx_a") != nullptr) {
    query += text_of(line, "ctx_a") + " " + capitalize(text_of(line, "ctx_b"));
  } else {
    query += text_of(line, "ctx");
  }
  Choices out;
  query = clean_hellaswag(query);
  if (query.empty()) fail_at(line, "ctx", "is empty");
  for (const std::string& ending : texts_of(line, "endings")) {
    out.options.push_back({query, clean_hellaswag(ending)});
    if (out.options.back().continuation.empty()) fail_at(line, "endings", "one is empty");
  }
  out.gold = gold_of(line, "label", out.options.size());
  return out;
}

}  // namespace

std::vector<Node> parse_json_lines(std::string_view text, const std::string& name) {
  std::vector<Node> out;
  int64_t number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    if (strip(line).empty()) continue;
    out.push_back(parse_json(line, fmt::format("{}:{}", name, number)));
    if (!out.back().is_map()) fail_at(out.back(), "", "expected a JSON object on every line");
  }
  require(!out.empty(), ErrorCode::kRequest, "{}: has no items", name);
  return out;
}

std::vector<Continuation> read_continuations(const fs::path& path) {
  std::vector<Continuation> out;
  for (const Node& line : read_lines(path)) {
    out.push_back({text_of(line, "context"), text_of(line, "continuation")});
    for (const char* key : {"context", "continuation"}) stripped(line, key, text_of(line, key));
  }
  return out;
}

std::vector<MinimalPair> read_blimp(const fs::path& path, int64_t per_set) {
  std::vector<MinimalPair> out;
  const auto add = [&](const std::vector<Node>& lines) {
    for (const Node& line : lines) {
      out.push_back({text_of(line, "sentence_good"), text_of(line, "sentence_bad"),
                     text_of(line, "UID"), text_of(line, "linguistics_term")});
      stripped(line, "sentence_good", out.back().good);
      stripped(line, "sentence_bad", out.back().bad);
    }
  };
  if (path.extension() == ".jsonl") {
    add(read_lines(path));
  } else {
    ZipArchive archive(path);
    for (size_t i = 0; i < archive.members().size(); ++i) {
      const std::string& name = archive.members()[i].name;
      const std::string file = name.substr(name.rfind('/') + 1);
      if (!file.ends_with(".jsonl") || file.starts_with('.')) continue;
      add(parse_json_lines(archive.read(i), path.string() + ":" + name));
    }
    require(!out.empty(), ErrorCode::kRequest, "{}: holds no .jsonl file", path.string());
  }
  std::stable_sort(out.begin(), out.end(), [](const MinimalPair& a, const MinimalPair& b) {
    return std::tie(a.phenomenon, a.set) < std::tie(b.phenomenon, b.set);
  });
  if (per_set > 0) {
    std::map<std::pair<std::string, std::string>, int64_t> seen;
    std::erase_if(out, [&](const MinimalPair& pair) {
      return ++seen[{pair.phenomenon, pair.set}] > per_set;
    });
  }
  return out;
}

std::vector<Choices> read_choices(const fs::path& path, const ChoiceForm& form) {
  std::vector<Choices> out;
  for (const Node& line : read_lines(path)) out.push_back(to_choices(line, form));
  return out;
}

std::vector<Choices> read_hellaswag(const fs::path& path) {
  std::vector<Choices> out;
  for (const Node& line : read_lines(path)) {
    out.push_back(line.find("endings") != nullptr ? to_hellaswag(line)
                                                  : to_choices(line, ChoiceForm{}));
  }
  return out;
}

std::string clean_hellaswag(std::string_view text) {
  std::string out(strip(text));
  replace_all(out, " [title]", ". ");
  // A bracket goes with what it holds, on one line.
  for (size_t open = 0; (open = out.find('[', open)) != std::string::npos;) {
    const size_t close = out.find_first_of("]\n", open);
    if (close != std::string::npos && out[close] == ']') {
      out.erase(open, close + 1 - open);
    } else {
      ++open;
    }
  }
  replace_all(out, "  ", " ");
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = utf8_at(text, at);
    if (c.code_point < 0) {
      out += text[at];
    } else {
      append_utf8(out, at == 0 ? utf8proc_totitle(c.code_point) : utf8proc_tolower(c.code_point));
    }
    at += static_cast<size_t>(c.length);
  }
  return out;
}

}  // namespace ashlar
