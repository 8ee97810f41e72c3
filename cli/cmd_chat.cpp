#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>

#include "cli/app.h"
#include "cli/chat_session.h"
#include "cli/commands.h"
#include "cli/line_reader.h"
#include "core/base/error.h"
#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "package/import/open_model.h"

namespace ashlar::cli {
namespace {

struct Options {
  std::string model, chat_template, session;
  EngineArguments engine;
  ChatSettings settings;
  bool json = false;
};

volatile sig_atomic_t interrupted = 0;

/// Ctrl-C sets a flag and interrupts the wait for a line, for as long as this object lives.
class InterruptGuard {
 public:
  InterruptGuard() {
    interrupted = 0;
    struct sigaction action = {};
    action.sa_handler = [](int) { interrupted = 1; };
    sigemptyset(&action.sa_mask);  // and no SA_RESTART
    sigaction(SIGINT, &action, &before_);
  }
  ~InterruptGuard() { sigaction(SIGINT, &before_, nullptr); }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct sigaction before_ = {};
};

constexpr const char* kHelp =
    "/help                   this list\n"
    "/reset                  forget the conversation (and the --session file)\n"
    "/settings               show the settings\n"
    "/settings KEY VALUE     change one: temperature, top-k, top-p, seed, max-tokens, system\n"
    "/save FILE              write the conversation as JSON lines\n"
    "/exit                   leave (also Ctrl-D)\n"
    "Ctrl-C ends an answer. A message that begins with / is written with //.\n";

template <typename T>
T number(const std::string& key, const std::string& text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  require(result.ec == std::errc() && result.ptr == end, ErrorCode::kRequest,
          "/settings {}: '{}' is no number", key, text);
  return value;
}

void show(const ChatSettings& s) {
  fmt::print(stderr, "temperature {}, top-k {}, top-p {}, seed {}, max-tokens {}, system {}\n",
             s.sampling.temperature, s.sampling.top_k, s.sampling.top_p, s.sampling.seed,
             s.max_tokens, s.system ? "\"" + *s.system + "\"" : "(the model's own)");
}

void change(ChatSettings& settings, const std::string& key, const std::string& value) {
  ChatSettings next = settings;
  if (key == "temperature") {
    next.sampling.temperature = number<double>(key, value);
  } else if (key == "top-k") {
    next.sampling.top_k = number<int64_t>(key, value);
  } else if (key == "top-p") {
    next.sampling.top_p = number<double>(key, value);
  } else if (key == "seed") {
    next.sampling.seed = number<uint64_t>(key, value);
  } else if (key == "max-tokens") {
    next.max_tokens = number<int64_t>(key, value);
    require(next.max_tokens > 0, ErrorCode::kRequest, "/settings max-tokens: {} is not positive",
            next.max_tokens);
  } else if (key == "system") {
    next.system = value;
  } else {
    fail(ErrorCode::kRequest,
         "/settings: '{}' is not one of temperature, top-k, top-p, seed, max-tokens, system", key);
  }
  (void)Sampler(next.sampling);  // refuses what is out of range
  settings = next;
}

void save(const ChatSession& session, const std::string& file) {
  require(!file.empty(), ErrorCode::kRequest, "/save: needs a file");
  std::string text;
  for (const ChatMessage& message : session.messages()) {
    text += write_json(Node::Map{{"role", message.role}, {"content", message.content}}) + "\n";
  }
  write_file_atomically(file, text);
  fmt::print(stderr, "[{} messages in {}]\n", session.messages().size(), file);
}

/// The word at the front of `text`; the rest, without the space between, stays.
std::string take_word(std::string& text) {
  const size_t end = std::min(text.find(' '), text.size());
  std::string word = text.substr(0, end);
  text.erase(0, std::min(text.find_first_not_of(' ', end), text.size()));
  return word;
}

/// False: the user leaves.
bool run_command(ChatSession& session, std::string line) {
  const std::string command = take_word(line);
  if (command == "/exit" || command == "/quit") return false;
  if (command == "/help") {
    fmt::print(stderr, "{}", kHelp);
  } else if (command == "/reset") {
    session.reset();
    fmt::print(stderr, "[new conversation]\n");
  } else if (command == "/save") {
    save(session, line);
  } else if (command == "/settings") {
    const std::string key = take_word(line);
    if (!key.empty()) change(session.settings(), key, line);
    show(session.settings());
    if (key == "system" && !session.messages().empty()) {
      fmt::print(stderr, "[the system prompt changes with /reset]\n");
    }
  } else {
    fail(ErrorCode::kRequest, "{}: unknown command, see /help", command);
  }
  return true;
}

double tokens_per_second(const GenerateResult& result) {
  const auto count = static_cast<int64_t>(result.tokens.size());
  return count > 1 ? static_cast<double>(count - 1) / std::max(result.decode_seconds, 1e-9) : 0.0;
}

void report(const ChatSession& session, const ChatAnswer& answer, bool json) {
  const GenerateResult& result = answer.result;
  const auto tokens = static_cast<int64_t>(result.tokens.size());
  if (json) {
    print_json(Node::Map{{"text", answer.text},
                         {"tokens", tokens},
                         {"prompt_tokens", answer.prompt_tokens},
                         {"prompt_seconds", result.prompt_seconds},
                         {"tokens_per_second", tokens_per_second(result)},
                         {"context_tokens", answer.context_tokens},
                         {"kv_bytes", answer.kv_bytes},
                         {"finish", result.finish}});
    return;
  }
  std::fputc('\n', stdout);
  std::fflush(stdout);
  fmt::print(stderr,
             "[{} tokens at {:.1f} tokens/s, {} fed in {:.3f} s, context {} of {}, KV {} bytes, "
             "{}]\n",
             tokens, tokens_per_second(result), answer.prompt_tokens, result.prompt_seconds,
             answer.context_tokens, session.context_length(), answer.kv_bytes, result.finish);
}

void answer(ChatSession& session, const std::string& user, bool json) {
  interrupted = 0;
  const ChatAnswer answer = session.answer(user, [&](const std::string& piece) {
    if (!json && !piece.empty()) {
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    }
    return interrupted == 0;
  });
  interrupted = 0;
  // Who reads the answer may rely on the file, and nobody loses an answer to a full disk.
  try {
    session.save();
  } catch (const Error&) {
    report(session, answer, json);
    throw;
  }
  report(session, answer, json);
}

/// False: the user leaves.
bool handle(ChatSession& session, const std::string& line, bool json) {
  if (line.empty()) return true;
  if (line.starts_with("/") && !line.starts_with("//")) return run_command(session, line);
  answer(session, line.starts_with("//") ? line.substr(1) : line, json);
  return true;
}

void run(const Options& o) {
  (void)Sampler(o.settings.sampling);
  const ModelData model = open_model(o.model);
  ChatSession session(model, o.model, o.engine, o.chat_template);
  session.settings() = o.settings;
  if (!o.session.empty()) session.keep_in(o.session, weights_sha256(model));
  const bool terminal = isatty(STDIN_FILENO) == 1;
  if (terminal) {
    fmt::print(stderr, "{} ({} format). /help shows the commands.\n",
               model.name.empty() ? o.model : model.name, session.format().name());
  }
  if (!session.messages().empty()) {
    fmt::print(stderr, "[goes on with {} messages, context {} of {}]\n", session.messages().size(),
               session.context_tokens(), session.context_length());
  }
  const InterruptGuard guard;
  LineReader reader(STDIN_FILENO);
  for (std::string line;;) {
    if (terminal) fmt::print(stderr, "> ");
    const LineReader::Status status = reader.next(line);
    if (status == LineReader::Status::kInterrupted) {
      // Nothing runs that could be interrupted: a pipe ends here, a terminal asks again.
      if (!terminal) break;
      fmt::print(stderr, "\n");
      continue;
    }
    if (status == LineReader::Status::kEnd) {
      if (terminal) fmt::print(stderr, "\n");
      break;
    }
    try {
      if (!handle(session, line, o.json)) break;
    } catch (const Error& error) {
      if (!terminal) throw;  // nobody is there to choose another way
      fmt::print(stderr, "{}\n", error.what());
    }
  }
}

}  // namespace

void add_chat_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("chat", "Talk with a model");
  c->add_option("model", options->model, "Package or importable model")->required();
  c->add_option("--system", options->settings.system, "System prompt (default: the model's own)");
  c->add_option("--chat-template", options->chat_template,
                "Chat format by name, instead of the model's template: chatml, llama2, llama3, "
                "mistral-v1, mistral-v3, mistral-tekken, phi3 or zephyr");
  c->add_option("--max-tokens", options->settings.max_tokens, "Tokens of an answer at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  add_sampling_options(c, options->settings.sampling);
  add_engine_options(c, options->engine);
  c->add_option("--session", options->session,
                "File that keeps the conversation: written after every answer, cache and all, and "
                "gone on with when there is one");
  c->add_flag("--json", options->json,
              "For pipes: a line of standard input is a message, a JSON line is its answer");
  c->footer(
      "Example:\n  ashlar chat SmolLM2-135M-Instruct.gguf --temperature 0.7 --top-p 0.9\n"
      "  echo 'Name three colours.' | ashlar chat packages/smollm2 --json --kv-policy h2o "
      "--kv-budget 512\n"
      "  ashlar chat packages/smollm2 --session talk.session --kv-codec q8");
  c->callback([options] { run(*options); });
}

}  // namespace ashlar::cli
