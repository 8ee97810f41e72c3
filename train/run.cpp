#include "train/run.h"

#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <limits>

#include "core/base/error.h"
#include "core/base/progress.h"
#include "core/config/config.h"
#include "core/io/atomic_file.h"
#include "core/io/folder_lock.h"
#include "train/data.h"
#include "train/events.h"
#include "train/metrics.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

std::atomic<int> received_signal{0};

// While alive, SIGINT and SIGTERM only leave a mark; the second SIGINT has its usual effect.
class SignalScope {
 public:
  SignalScope() {
    received_signal = 0;
    struct sigaction action {};
    action.sa_handler = [](int signal) { received_signal = signal; };
    action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
    sigaction(SIGINT, &action, &interrupt_);
    sigaction(SIGTERM, &action, &terminate_);
  }
  ~SignalScope() {
    sigaction(SIGINT, &interrupt_, nullptr);
    sigaction(SIGTERM, &terminate_, nullptr);
  }
  SignalScope(const SignalScope&) = delete;
  SignalScope& operator=(const SignalScope&) = delete;

 private:
  struct sigaction interrupt_ {};
  struct sigaction terminate_ {};
};

class Run {
 public:
  Run(const Node& root, const RunOptions& options);
  RunResult execute();

 private:
  void check_data() const;
  void open_folder(const std::optional<CheckpointReader>& from);
  std::optional<CheckpointReader> find_checkpoint() const;
  void log_step(const StepResult& result, bool print);
  void validate();
  void save();
  bool due(int64_t every, int64_t step) const { return every > 0 && step % every == 0; }
  std::string eta(int64_t step, double steps_per_second) const;

  RunOptions options_;
  TrainConfig config_;
  Node resolved_;
  std::unique_ptr<TrainingData> train_, validation_;
  std::unique_ptr<FolderLock> lock_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<MetricsFile> metrics_;
  std::unique_ptr<EventWriter> events_;
  RunResult result_;
  int64_t saved_step_ = -1;
  std::chrono::steady_clock::time_point logged_at_;
  int64_t logged_tokens_ = 0, logged_step_ = 0;
};

TrainConfig read_config(const Node& root) {
  TrainConfig config = train_config_from(root);
  resolve_machine_choices(config);
  return config;
}

Run::Run(const Node& root, const RunOptions& options)
    : options_(options),
      config_(read_config(root)),
      resolved_(resolved_config(root, config_)),
      train_(TrainingData::train(config_)),
      validation_(TrainingData::validation(config_)) {
  require(!config_.ema && !config_.lora, ErrorCode::kRequest,
          "{}: this build's trainer does not apply it yet", config_.ema ? "ema" : "lora");
  check_data();
}

void Run::check_data() const {
  const auto vocabulary = train_->vocab_size();
  require(!vocabulary || *vocabulary <= config_.model.vocab_size, ErrorCode::kRequest,
          "{}: its vocabulary has {} tokens, more than model.vocab_size = {}", train_->name(),
          vocabulary.value_or(0), config_.model.vocab_size);
  if (validation_ == nullptr) return;
  require(validation_->vocabulary() == train_->vocabulary() &&
              validation_->eos_id() == train_->eos_id(),
          ErrorCode::kRequest, "{}: made with another vocabulary than {}", validation_->name(),
          train_->name());
}

std::optional<CheckpointReader> Run::find_checkpoint() const {
  if (options_.resume == RunOptions::Resume::kFrom) return CheckpointReader(options_.checkpoint);
  if (options_.resume == RunOptions::Resume::kNone) {
    require(!fs::exists(config_.output), ErrorCode::kRequest,
            "{}: exists already; continue it with --resume auto or choose another --output",
            config_.output.string());
    return std::nullopt;
  }
  const auto newest = newest_checkpoint(config_.output);
  if (!newest) return std::nullopt;
  return CheckpointReader(*newest);
}

// What a continued run changes besides the length of logs is said aloud.
void warn_about_changes(const Node& then, const Node& now, const std::string& path) {
  if (!then.is_map() || !now.is_map()) {
    if (write_yaml(Node::Map{{"v", then}}) != write_yaml(Node::Map{{"v", now}})) {
      spdlog::warn("{} differs from the run's beginning", path);
    }
    return;
  }
  for (const auto& [key, value] : now.as_map()) {
    const Node* before = then.find(key);
    if (before != nullptr) {
      warn_about_changes(*before, value, path.empty() ? key : path + "." + key);
    }
  }
}

void Run::open_folder(const std::optional<CheckpointReader>& from) {
  std::error_code error;
  fs::create_directories(config_.output, error);
  require(!error, ErrorCode::kIo, "{}: {}", config_.output.string(), error.message());
  lock_ = std::make_unique<FolderLock>(config_.output, "training");
  int64_t metrics_bytes = 0;
  if (from) {
    const Node* then = from->manifest().config.find("train");
    const Node* context = then != nullptr ? then->find("context") : nullptr;
    require(context != nullptr && context->as_int() == config_.context, ErrorCode::kRequest,
            "{}: train.context differs from the run's beginning, so its samples would too",
            from->path().string());
    trainer_->load(*from);
    warn_about_changes(from->manifest().config, resolved_, "");
    saved_step_ = trainer_->position().step;
    result_.resumed_from = from->path().string();
    const bool same = fs::weakly_canonical(from->path()).parent_path().parent_path() ==
                      fs::weakly_canonical(config_.output);
    if (same) metrics_bytes = from->manifest().position.metrics_bytes;
    spdlog::info("resuming from {}", from->path().string());
  }
  write_file_atomically(config_.output / "config.yaml", write_yaml(resolved_));
  const std::pair<const char*, std::string> texts[] = {
      {"tokenizer.json", train_->tokenizer_json()},
      {"chat_template.jinja", train_->chat_template()}};
  for (const auto& [name, text] : texts) {
    if (!text.empty()) write_file_atomically(config_.output / name, text);
  }
  metrics_ = std::make_unique<MetricsFile>(config_.output / "metrics.jsonl", metrics_bytes);
  events_ = std::make_unique<EventWriter>(config_.output / "events", trainer_->position().step);
}

std::string Run::eta(int64_t step, double steps_per_second) const {
  const auto left = static_cast<double>(config_.steps - step);
  const auto seconds = static_cast<int64_t>(steps_per_second > 0 ? left / steps_per_second : 0);
  return fmt::format("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

void Run::log_step(const StepResult& result, bool print) {
  const auto now = std::chrono::steady_clock::now();
  const int64_t tokens = trainer_->position().tokens;
  const double seconds = std::chrono::duration<double>(now - logged_at_).count();
  const double rate = static_cast<double>(tokens - logged_tokens_) / std::max(seconds, 1e-9);
  const double steps = static_cast<double>(result.step - logged_step_) / std::max(seconds, 1e-9);
  logged_at_ = now;
  logged_tokens_ = tokens;
  logged_step_ = result.step;
  metrics_->append(Node::Map{{"step", result.step},
                             {"tokens", tokens},
                             {"loss", result.loss},
                             {"lr", result.lr},
                             {"grad_norm", result.grad_norm},
                             {"tokens_per_second", rate}});
  events_->scalars(result.step, {{"train/loss", result.loss},
                                 {"train/lr", result.lr},
                                 {"train/grad_norm", result.grad_norm},
                                 {"train/tokens_per_second", rate}});
  if (!print) return;
  spdlog::info("step {}/{} loss {:.4f} lr {:.3g} norm {:.3f} {:.0f} tokens/s, {} left", result.step,
               config_.steps, result.loss, result.lr, result.grad_norm, rate,
               eta(result.step, steps));
}

void Run::validate() {
  const auto start = std::chrono::steady_clock::now();
  const int64_t rows = config_.validation_batches * config_.micro_batch;
  const ValidationResult v =
      trainer_->validate(validation_->samples(), rows, validation_->bytes_per_token());
  const RunPosition at = trainer_->position();
  Node line = Node::Map{{"step", at.step},
                        {"tokens", at.tokens},
                        {"validation_loss", v.loss},
                        {"validation_tokens", v.tokens}};
  std::vector<std::pair<std::string, double>> scalars = {{"validation/loss", v.loss}};
  if (v.bits_per_byte) {
    line.set("validation_bits_per_byte", *v.bits_per_byte);
    scalars.emplace_back("validation/bits_per_byte", *v.bits_per_byte);
  }
  if (!v.loss_by_position.empty()) {
    Node by_position = Node::list();
    for (size_t p = 0; p < v.loss_by_position.size(); ++p) {
      by_position.push(v.loss_by_position[p]);
      scalars.emplace_back(fmt::format("validation/loss_position_{}", p), v.loss_by_position[p]);
    }
    line.set("validation_loss_by_position", std::move(by_position));
  }
  metrics_->append(line);
  events_->scalars(at.step, scalars);
  spdlog::info("step {}: validation loss {:.4f}{} over {} tokens", at.step, v.loss,
               v.bits_per_byte ? fmt::format(", {:.4f} bits per byte", *v.bits_per_byte) : "",
               v.tokens);
  result_.validation = v;
  logged_at_ += std::chrono::steady_clock::now() - start;  // tokens/s are of training alone
}

void Run::save() {
  const auto start = std::chrono::steady_clock::now();
  RunPosition position = trainer_->position();
  if (position.step == saved_step_) return;
  position.metrics_bytes = metrics_->position();
  CheckpointWriter writer(config_.output, position.step);
  trainer_->save(writer);
  CheckpointManifest manifest;
  manifest.position = position;
  manifest.spec = config_.model;
  manifest.eos_id = train_->eos_id();
  manifest.config = resolved_;
  writer.commit(std::move(manifest));
  saved_step_ = position.step;
  retain_checkpoints(config_.output, config_.checkpoint_keep);
  logged_at_ += std::chrono::steady_clock::now() - start;
}

RunResult Run::execute() {
  trainer_ = std::make_unique<Trainer>(config_, train_->eos_id());
  const auto checkpoint = find_checkpoint();
  if (!checkpoint && options_.initial) trainer_->set_parameters(options_.initial);
  open_folder(checkpoint);
  result_.output = config_.output;
  result_.parameters = trainer_->parameter_count();
  const RunPosition begin = trainer_->position();
  result_.last.step = begin.step;
  result_.last.loss = std::numeric_limits<double>::quiet_NaN();
  spdlog::info("{} parameters, training on {}: {}, steps {}…{}, {} samples of {} tokens each",
               result_.parameters, train_->name(), train_->size(), begin.step + 1, config_.steps,
               config_.batch_size, config_.context);
  for (const std::string& line : train_->plan(config_.steps * config_.batch_size)) {
    spdlog::info("{}", line);
  }
  const SignalScope signals;
  const bool bar = isatty(STDERR_FILENO) != 0;
  const auto start = std::chrono::steady_clock::now();
  logged_at_ = start;
  logged_tokens_ = begin.tokens;
  logged_step_ = begin.step;
  {
    Progress progress("train", config_.steps);
    while (trainer_->position().step < config_.steps && !result_.stopped) {
      const StepResult step = trainer_->step(train_->samples());
      result_.last = step;
      const bool last = step.step == config_.steps;
      if (last || due(config_.log_every, step.step)) log_step(step, !bar);
      if (bar) {
        const double seconds =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        const double rate =
            static_cast<double>(trainer_->position().tokens - begin.tokens) / seconds;
        const double steps = static_cast<double>(step.step - begin.step) / seconds;
        progress.update(step.step, fmt::format("loss {:.3f} {:.0f} tok/s {} left", step.loss, rate,
                                               eta(step.step, steps)));
      }
      result_.stopped = !last && (received_signal != 0 || step.step == options_.stop_after);
      if (validation_ != nullptr && (last || due(config_.validation_every, step.step))) validate();
      if (last || result_.stopped || due(config_.checkpoint_every, step.step)) save();
    }
  }
  const RunPosition end = trainer_->position();
  result_.tokens = end.tokens;
  result_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result_.tokens_per_second =
      static_cast<double>(end.tokens - begin.tokens) / std::max(result_.seconds, 1e-9);
  if (result_.stopped) {
    spdlog::info("stopped after step {} of {} with a checkpoint; continue with --resume auto",
                 end.step, config_.steps);
  }
  return result_;
}

}  // namespace

RunResult run_training(const Node& root, const RunOptions& options) {
  return Run(root, options).execute();
}

}  // namespace ashlar
