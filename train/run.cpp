#include "train/run.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "core/base/error.h"
#include "core/config/config.h"
#include "core/io/atomic_file.h"
#include "core/io/folder_lock.h"
#include "core/io/sha256.h"
#include "data/shards/prefetched_source.h"
#include "train/checkpoint/saver.h"
#include "train/checkpoint/together.h"
#include "train/data.h"
#include "train/dist/cluster.h"
#include "train/guards.h"
#include "train/memory_use.h"
#include "train/run_log.h"
#include "train/run_plan.h"
#include "train/stop_signals.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr int64_t kStepsToPeak = 3;

class Run {
 public:
  Run(const Node& root, const RunOptions& options);
  RunResult execute();
  Cluster& cluster() { return *cluster_; }
  /// `error` again, explained if memory ran out.
  [[noreturn]] void explain(const std::exception& error) const;

 private:
  bool leads() const { return cluster_->launch().rank == 0; }
  void check_data() const;
  void open(const std::optional<fs::path>& checkpoint);
  void open_folder(const std::optional<CheckpointReader>& from);
  std::optional<fs::path> find_checkpoint();
  void report_start();
  void report_memory();
  void loop();
  void take_step();
  void trace(int64_t next);
  void check_replay(const StepResult& result);
  void rewind(const StepResult& bad, const std::string& reason);
  void validate();
  void save();
  void log_saves(const std::vector<CheckpointSaver::Outcome>& outcomes);
  bool due(int64_t every, int64_t step) const { return every > 0 && step % every == 0; }

  RunOptions options_;
  Launch launch_;
  TrainConfig config_;
  Node resolved_;
  std::unique_ptr<Cluster> cluster_;
  std::unique_ptr<TrainingData> train_, validation_;
  std::optional<PrefetchedSource> samples_;
  std::unique_ptr<FolderLock> lock_;
  std::unique_ptr<Communicator> tensors_;  // on GPUs
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<SharedVerifier> verifier_;
  std::unique_ptr<CheckpointSaver> saver_;
  std::unique_ptr<RunLog> log_;  // rank 0
  std::unique_ptr<Tracer> tracer_;
  Guard guard_;
  RunResult result_;
  int64_t saved_step_ = -1;
  TrainingMemory memory_;  // planned
  int64_t steps_taken_ = 0;
  std::string save_failure_;  // of the newest save that ended
};

TrainConfig read_config(const Node& root, const Launch& launch) {
  TrainConfig config = train_config_from(root);
  resolve_machine_choices(config, std::max<int64_t>(launch.local_world, 1));
  return config;
}

// What must be the same on all ranks.
std::string fingerprint(const Node& resolved) {
  Node same = resolved;
  std::erase_if(same.find("train")->as_map(), [](const auto& e) { return e.first == "threads"; });
  const std::string text = write_yaml(same);
  return sha256_hex(std::as_bytes(std::span(text)));
}

std::chrono::milliseconds timeout_of(const TrainConfig& config) {
  return std::chrono::milliseconds(static_cast<int64_t>(config.distributed.timeout_seconds * 1000));
}

Run::Run(const Node& root, const RunOptions& options)
    : options_(options),
      launch_(read_launch(environment_variable)),
      config_(read_config(root, launch_)),
      resolved_(resolved_config(root, config_)),
      guard_(config_.guards) {
  ClusterOptions cluster;
  cluster.timeout = timeout_of(config_);
  // A rank is lost after six: half a minute at the default timeout, so that a stall of the network
  // or of a machine does not end a run.
  cluster.heartbeat = std::clamp<std::chrono::milliseconds>(cluster.timeout / 60, 1s, 5s);
  cluster.fingerprint = fingerprint(resolved_);
  cluster_ = Cluster::join(launch_, cluster);
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

// The same on every rank: they verify together.
std::optional<fs::path> Run::find_checkpoint() {
  verifier_ = std::make_unique<SharedVerifier>(launch_.rank, launch_.world, cluster_->store(),
                                               timeout_of(config_));
  if (options_.resume == RunOptions::Resume::kFrom) {
    if (!fs::is_directory(options_.checkpoint / "checkpoints")) {
      if (fs::is_directory(options_.checkpoint)) verifier_->verify(options_.checkpoint);
      return options_.checkpoint;
    }
    const auto newest = verifier_->newest(options_.checkpoint);
    require(newest.has_value(), ErrorCode::kRequest, "{}: no checkpoint that verifies",
            options_.checkpoint.string());
    return newest;
  }
  if (options_.resume == RunOptions::Resume::kAuto) return verifier_->newest(config_.output);
  // Others may be slower to look than rank 0 is to make the folder.
  require(!leads() || !fs::exists(config_.output), ErrorCode::kRequest,
          "{}: exists already; continue it with --resume auto or choose another --output",
          config_.output.string());
  return std::nullopt;
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

void Run::open(const std::optional<fs::path>& checkpoint) {
  std::optional<CheckpointReader> from;
  if (checkpoint) {
    from.emplace(*checkpoint, Verify::kSizes);
    const Node* then = from->manifest().config.find("train");
    const Node* context = then != nullptr ? then->find("context") : nullptr;
    require(context != nullptr && context->as_int() == config_.context, ErrorCode::kRequest,
            "{}: train.context differs from the run's beginning, so its samples would too",
            from->path().string());
    trainer_->load(*from);
    if (const Node* state = from->manifest().state.find("guard")) guard_.restore(*state);
    saved_step_ = trainer_->position().step;
    result_.resumed_from = from->path().string();
  } else if (options_.initial) {
    trainer_->set_parameters(options_.initial);
  }
  if (leads()) open_folder(from);
  // Nobody writes into the folder before rank 0 has it.
  cluster_->world().barrier();
  SaverOptions options;
  options.run = config_.output;
  options.rank = launch_.rank;
  options.world = launch_.world;
  options.keep = config_.checkpoint.keep;
  options.keep_every = config_.checkpoint.keep_every;
  options.asynchronous = config_.checkpoint.asynchronous;
  saver_ = std::make_unique<CheckpointSaver>(options, cluster_->store());
}

void Run::open_folder(const std::optional<CheckpointReader>& from) {
  std::error_code error;
  fs::create_directories(config_.output, error);
  require(!error, ErrorCode::kIo, "{}: {}", config_.output.string(), error.message());
  lock_ = std::make_unique<FolderLock>(config_.output, "training");
  int64_t metrics_bytes = 0;
  if (from) {
    warn_about_changes(from->manifest().config, resolved_, "");
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
  log_ = std::make_unique<RunLog>(config_, metrics_bytes, trainer_->position(), launch_.world);
}

void Run::report_start() {
  if (!leads()) return;
  if (launch_.world > 1) {
    spdlog::info("{} ranks on {} hosts, by {}", launch_.world,
                 1 + *std::max_element(cluster_->hosts().begin(), cluster_->hosts().end()),
                 launch_.launcher);
  }
  const RunPosition begin = trainer_->position();
  spdlog::info("{} parameters, training on {}: {}, steps {}…{}, {} samples of {} tokens each",
               result_.parameters, train_->name(), train_->size(), begin.step + 1, config_.steps,
               config_.batch_size, config_.context);
  spdlog::info("memory of tensors on each rank: {} planned ({}), {} more for a checkpoint's copy",
               memory_text(memory_.tensors()), memory_parts_text(memory_),
               memory_text(memory_.checkpoint));
  for (const std::string& line : train_->plan(config_.steps * config_.batch_size)) {
    spdlog::info("{}", line);
  }
}

// Planned and used memory, when a few steps have shown the peak.
void Run::report_memory() {
  if (!leads() || ++steps_taken_ != kStepsToPeak) return;
  spdlog::info("memory of tensors on rank 0: planned {}, used {} at most",
               memory_text(memory_.tensors()), memory_text(static_cast<double>(memory_use().peak)));
}

void Run::explain(const std::exception& error) const {
  if (!out_of_memory(error)) throw;
  throw Error(ErrorCode::kResource,
              explain_out_of_memory(config_, launch_.world, memory_use().peak, error.what()));
}

void Run::validate() {
  const auto begin = Clock::now();
  cluster_->phase(fmt::format("step {}: validation", trainer_->position().step));
  const int64_t rows = config_.validation_batches * config_.micro_batch;
  result_.validation =
      trainer_->validate(validation_->samples(), rows, validation_->bytes_per_token());
  if (!log_) return;
  log_->validation(*result_.validation, trainer_->position());
  log_->not_training(begin);
}

void Run::save() {
  const auto begin = Clock::now();
  RunPosition position = trainer_->position();
  if (position.step == saved_step_) return;
  cluster_->phase(fmt::format("step {}: checkpoint", position.step));
  if (log_) position.metrics_bytes = log_->position();
  Snapshot snapshot;
  trainer_->save(snapshot);
  CheckpointManifest manifest;
  manifest.position = position;
  manifest.spec = config_.model;
  manifest.eos_id = train_->eos_id();
  manifest.config = resolved_;
  manifest.state.set("guard", guard_.state());
  saver_->save(std::move(manifest), std::move(snapshot));
  saved_step_ = position.step;
  if (log_) log_->not_training(begin);
}

void Run::log_saves(const std::vector<CheckpointSaver::Outcome>& outcomes) {
  for (const CheckpointSaver::Outcome& o : outcomes) {
    save_failure_ = o.reason;
    if (log_) log_->checkpoint(o);
  }
}

// Back to the newest checkpoint; the samples behind the bad step's come next, so that the same ones
// are not met again.
void Run::rewind(const StepResult& bad, const std::string& reason) {
  log_saves(saver_->finish());
  const int64_t behind = trainer_->position().next_sample + config_.batch_size;
  const auto checkpoint = verifier_->newest(config_.output);
  require(checkpoint.has_value(), ErrorCode::kData,
          "step {}: {}; there is no checkpoint to go back to, set checkpoint.every", bad.step,
          reason);
  const CheckpointReader reader(*checkpoint, Verify::kSizes);
  trainer_->load(reader);
  const RunPosition position = trainer_->position();
  trainer_->set_next_sample(behind);
  samples_->forget();
  saved_step_ = position.step;
  if (!log_) return;
  log_->rewind(position.metrics_bytes, position);
  log_->intervention(
      bad.step, "rewind",
      fmt::format("{}; on from step {} with the samples behind", reason, position.step));
}

// The gradient computed again must have the same bits: all of it is deterministic.
void Run::check_replay(const StepResult& result) {
  if (!due(config_.guards.replay_every, result.step)) return;
  const std::vector<int64_t> ranks = trainer_->replay(*samples_);
  if (ranks.empty()) return;
  fail(ErrorCode::kData,
       "step {}: rank{} {} computed another gradient from the same weights and samples: a fault of "
       "its memory or processor, or of a program that shares them; take it out and resume from the "
       "last checkpoint",
       result.step, ranks.size() > 1 ? "s" : "", fmt::join(ranks, ", "));
}

// A trace of the steps that log.trace names, one file for each rank.
void Run::trace(int64_t next) {
  const LogConfig& log = config_.log;
  if (log.trace_steps == 0) return;
  if (next == log.trace_from) {
    tracer_ = std::make_unique<Tracer>(launch_.rank);
    trainer_->trace(tracer_.get());
    cluster_->observe([tracer = tracer_.get()](const CollectiveInfo& what, Clock::time_point begin,
                                               Clock::time_point end) {
      tracer->span("communication", what.name, begin, end);
    });
  } else if (tracer_ != nullptr && next >= log.trace_from + log.trace_steps) {
    trainer_->trace(nullptr);
    cluster_->observe({});
    const fs::path path = config_.output / fmt::format("trace_{}.json", launch_.rank);
    tracer_->write(path);
    tracer_.reset();
    if (leads()) spdlog::info("trace of {} steps: {}", log.trace_steps, path.string());
  }
}

void Run::take_step() {
  const int64_t next = trainer_->position().step + 1;
  trace(next);
  cluster_->phase(fmt::format("step {}", next));
  trainer_->record_fingerprints(due(config_.guards.replay_every, next));
  const StepResult step = trainer_->compute(*samples_, StopSignals::received());
  check_replay(step);
  if (due(config_.log.norms_every, step.step)) {
    const ParameterNorms norms = trainer_->norms();
    if (log_) log_->norms(norms, step.step);
  }
  const Guard::Verdict verdict = guard_.judge(step.step, step.loss, step.grad_norm);
  result_.signalled = step.vote != 0;
  switch (verdict.action) {
    case GuardAction::kApply:
      trainer_->apply();
      report_memory();
      result_.last = step;
      if (log_) log_->step(step, trainer_->position());
      return;
    case GuardAction::kSkip:
      trainer_->skip();
      if (log_) log_->intervention(step.step, "skip", verdict.reason);
      return;
    case GuardAction::kRewind:
      return rewind(step, verdict.reason);
    case GuardAction::kStop:
      fail(ErrorCode::kData,
           "step {}: {}; lower optimizer.lr, raise schedule.warmup_steps, use precision fp32, or "
           "set guards to skip or rewind",
           step.step, verdict.reason);
  }
}

void Run::loop() {
  while (trainer_->position().step < config_.steps && !result_.stopped) {
    const int64_t before = trainer_->position().step;
    take_step();
    const int64_t step = trainer_->position().step;
    const bool last = step == config_.steps, forward = step > before;
    result_.signalled = result_.signalled && !last;
    result_.stopped = !last && (result_.signalled || (forward && step == options_.stop_after));
    if (forward && validation_ != nullptr && (last || due(config_.validation_every, step))) {
      validate();
    }
    if (last || result_.stopped || (forward && due(config_.checkpoint.every, step))) save();
    log_saves(saver_->poll());
  }
}

RunResult Run::execute() {
  // From here on, so that a signal while a checkpoint is loaded, or the last one written, does not
  // kill: the run is as good as over then, or ends after its first step.
  const StopSignals signals;
  limit_memory(config_.memory_limit);
  memory_ = training_memory(
      config_.model, run_shape(config_, config_.precision == Precision::kBf16), launch_.world);
  train_ = TrainingData::train(config_);
  validation_ = TrainingData::validation(config_);
  check_data();
  samples_.emplace(train_->samples());
  if (config_.device == DeviceKind::kCuda) {
    config_.device_index = device_of_rank(launch_.local_rank);
    use_cuda_device(config_.device_index);
    tensors_ = make_cuda_communicator(*cluster_, config_.device_index,
                                      config_.distributed.timeout_seconds);
  }
  trainer_ = std::make_unique<Trainer>(config_, train_->eos_id(), cluster_->world(),
                                       tensors_ ? *tensors_ : cluster_->world());
  open(find_checkpoint());
  result_.output = config_.output;
  result_.rank = launch_.rank;
  result_.parameters = trainer_->parameter_count();
  const RunPosition begin = trainer_->position();
  result_.last.step = begin.step;
  result_.last.loss = std::numeric_limits<double>::quiet_NaN();
  report_start();
  const auto start = Clock::now();
  loop();
  if (tracer_) trace(config_.log.trace_from + config_.log.trace_steps);
  cluster_->phase("the last checkpoint");
  log_saves(saver_->finish());
  require(
      save_failure_.empty(), ErrorCode::kIo,
      "the last checkpoint could not be written: {}; --resume auto continues from the one before",
      save_failure_);
  const RunPosition end = trainer_->position();
  result_.tokens = end.tokens;
  result_.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  result_.tokens_per_second =
      static_cast<double>(end.tokens - begin.tokens) / std::max(result_.seconds, 1e-9);
  log_.reset();
  if (result_.stopped && leads()) {
    spdlog::info("stopped after step {} of {} with a checkpoint; continue with --resume auto",
                 end.step, config_.steps);
  }
  saver_.reset();
  trainer_.reset();
  tensors_.reset();
  cluster_->leave();
  return result_;
}

}  // namespace

RunResult run_training(const Node& root, const RunOptions& options) {
  Run run(root, options);
  try {
    try {
      return run.execute();
    } catch (const std::exception& error) {
      run.explain(error);
    }
  } catch (const std::exception& error) {
    if (run.cluster().launch().world > 1) {
      run.cluster().abort(error.what());
      if (options.fatal) options.fatal(error);
    }
    throw;
  }
}

}  // namespace ashlar
