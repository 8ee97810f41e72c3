#include "eval/tasks.h"

#include <charconv>
#include <filesystem>

#include "core/base/error.h"
#include "data/tasks/generator.h"
#include "eval/blimp.h"
#include "eval/choice.h"
#include "eval/generated.h"
#include "eval/lambada.h"

namespace ashlar {
namespace {

struct FileKind {
  const char* name;
  const char* help;
  std::unique_ptr<EvalTask> (*make)(const std::string& name, const std::string& file,
                                    const Node& options, int64_t limit, const TaskModel& model);
};

constexpr FileKind kFileKinds[] = {
    {"lambada", "last words of passages: JSON lines with context and continuation", make_lambada},
    {"blimp", "minimal pairs: BLiMP's ZIP archive, or one of its .jsonl files", make_blimp},
    {"choice",
     "multiple choice in llm-foundry's form: query and choices, or context_options and "
     "continuation; options prefix, delimiter",
     make_choice},
    {"hellaswag", "endings of HellaSwag's own file or of llm-foundry's", make_hellaswag},
};

/// `needle` is another name of `needles`.
std::string kind_of(const std::string& text) {
  const std::string kind = text.substr(0, text.find(':'));
  return kind == "needle" ? "needles" : kind;
}

Node value_of(const std::string& text) {
  if (text == "true" || text == "false") return text == "true";
  const char *begin = text.data(), *end = begin + text.size();
  int64_t integer = 0;
  if (const auto [at, error] = std::from_chars(begin, end, integer);
      error == std::errc() && at == end) {
    return integer;
  }
  double number = 0;
  if (const auto [at, error] = std::from_chars(begin, end, number);
      error == std::errc() && at == end) {
    return number;
  }
  return text;
}

// Where the file's name ends and options begin.
size_t end_of_file_name(const std::string& argument) {
  if (std::filesystem::exists(argument)) return argument.size();
  return std::min(argument.find(','), argument.size());
}

std::unique_ptr<EvalTask> make(const std::string& text, int64_t limit, const TaskModel& model) {
  const std::string kind = kind_of(text);
  const size_t colon = text.find(':');
  const std::string argument = colon == std::string::npos ? "" : text.substr(colon + 1);
  for (const FileKind& entry : kFileKinds) {
    if (kind != entry.name) continue;
    require(!argument.empty(), ErrorCode::kRequest, "needs a file, {}:FILE", kind);
    const size_t end = end_of_file_name(argument);
    const std::string file = argument.substr(0, end);
    require(std::filesystem::is_regular_file(file), ErrorCode::kRequest, "{}: no such file", file);
    const std::string_view rest =
        std::string_view(argument).substr(std::min(end + 1, argument.size()));
    return entry.make(text, file, parse_task_options(text, rest), limit, model);
  }
  return make_generated(text, kind, parse_task_options(text, argument), limit, model);
}

}  // namespace

const std::vector<TaskKind>& task_kinds() {
  static const std::vector<TaskKind> kinds = [] {
    std::vector<TaskKind> out;
    for (const FileKind& kind : kFileKinds) {
      out.push_back({kind.name, std::string(kind.name) + ":FILE", kind.help});
    }
    for (const GeneratorInfo& info : generators()) {
      out.push_back({info.name, info.name + "[:key=value,...]", info.help});
    }
    return out;
  }();
  return kinds;
}

bool is_eval_task(const std::string& text) {
  const std::string kind = kind_of(text);
  for (const TaskKind& known : task_kinds()) {
    if (known.name == kind) return true;
  }
  return false;
}

Node parse_task_options(const std::string& task, std::string_view text) {
  Node options = Node::map();
  while (!text.empty()) {
    std::string part;
    size_t at = 0;
    for (; at < text.size() && text[at] != ','; ++at) {
      if (text[at] == '\\' && at + 1 < text.size()) {
        const char next = text[++at];
        require(next == 'n' || next == ',' || next == '\\', ErrorCode::kRequest,
                "'\\{}' stands for nothing; known are \\n, \\, and \\\\", next);
        part += next == 'n' ? '\n' : next;
      } else {
        part += text[at];
      }
    }
    text.remove_prefix(std::min(at + 1, text.size()));
    const size_t equals = part.find('=');
    require(equals != std::string::npos && equals > 0, ErrorCode::kRequest, "'{}' is not key=value",
            part);
    const std::string key = part.substr(0, equals);
    require(options.find(key) == nullptr, ErrorCode::kRequest, "{}: given twice", key);
    options.set(key, value_of(part.substr(equals + 1)));
  }
  // Options that are wrong are named with the task they came with.
  const auto origin = std::make_shared<const std::string>("--task " + task);
  for (auto& [key, value] : options.as_map()) value.set_origin({origin, 0});
  options.set_origin({origin, 0});
  return options;
}

std::unique_ptr<EvalTask> make_eval_task(const std::string& text, int64_t limit,
                                         const TaskModel& model) {
  std::string known;
  for (const TaskKind& kind : task_kinds()) known += (known.empty() ? "" : ", ") + kind.name;
  require(is_eval_task(text), ErrorCode::kRequest, "--task {}: '{}' is not one of {}", text,
          kind_of(text), known);
  require(limit >= 0, ErrorCode::kRequest, "--task {}: limit {} is negative", text, limit);
  const std::string where = "--task " + text + ": ";
  try {
    return make(text, limit, model);
  } catch (const Error& error) {
    const std::string message = error.what();
    throw Error(error.code(), message.starts_with(where) ? message : where + message);
  }
}

}  // namespace ashlar
