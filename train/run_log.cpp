#include "train/run_log.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "core/io/json.h"
#include "models/spec/cost.h"
#include "train/peak.h"

namespace ashlar {
namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

double measured_or(const std::optional<double>& peak, const TrainConfig& config) {
  if (peak) return *peak;
  const MatmulPeak measured =
      measure_matmul_peak(config.precision == Precision::kBf16, config.device == DeviceKind::kCuda);
  spdlog::info("MFU refers to {}", measured.description);
  return measured.flops_per_second;
}

// Of this process, as the system counts it.
double resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  double whole = 0, resident = 0;
  statm >> whole >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

// The lines with an event behind the first `bytes` of metrics.jsonl.
std::vector<Node> events_behind(const std::filesystem::path& path, int64_t bytes) {
  std::ifstream in(path, std::ios::binary);
  in.seekg(bytes);
  std::vector<Node> events;
  for (std::string text; std::getline(in, text);) {
    Node line = parse_json(text, path.string());
    if (line.find("event") != nullptr) events.push_back(std::move(line));
  }
  return events;
}

}  // namespace

RunLog::RunLog(const TrainConfig& config, int64_t metrics_bytes, const RunPosition& begin,
               int64_t ranks)
    : config_(config),
      metrics_(std::make_unique<MetricsFile>(config.output / "metrics.jsonl", metrics_bytes)),
      events_(config.output / "events", begin.step),
      served_(
          config.log.prometheus.empty()
              ? nullptr
              : std::make_unique<RunMetrics>(config.log.prometheus, config.output, config.steps)),
      bar_(isatty(STDERR_FILENO) != 0),
      progress_("train", config.steps),
      flops_per_step_(3 * training_flops(config.model, config.context).total() *
                      static_cast<double>(config.batch_size * config.context)),
      peak_(measured_or(config.log.peak_flops, config) * static_cast<double>(ranks)),
      start_(Clock::now()),
      logged_at_(start_),
      begin_(begin),
      logged_(begin) {}

ProgressValues RunLog::values(const StepResult& result, const RunPosition& after,
                              const RunPosition& before, Clock::duration span) const {
  const double whole = std::max(seconds(span), 1e-9);
  const double steps = static_cast<double>(after.step - before.step) / whole;
  ProgressValues v;
  v.step = result.step;
  v.steps = config_.steps;
  v.loss = result.loss;
  v.lr = result.lr;
  v.grad_norm = result.grad_norm;
  v.tokens_per_second = static_cast<double>(after.tokens - before.tokens) / whole;
  v.mfu = model_flops_utilization(flops_per_step_, steps, peak_);
  v.seconds_left = seconds_left(result.step, config_.steps, steps);
  return v;
}

void RunLog::step(const StepResult& result, const RunPosition& after) {
  data_seconds_ += result.data_seconds;
  comm_seconds_ += result.comm_seconds;
  const auto now = Clock::now();
  if (bar_) {
    progress_.update(result.step, progress_note(values(result, after, begin_, now - start_)));
  }
  if (result.step != config_.steps && result.step % config_.log.every != 0) return;
  const double span = std::max(seconds(now - logged_at_), 1e-9);
  ProgressValues v = values(result, after, logged_, now - logged_at_);
  v.data_wait = data_seconds_ / span;
  v.communication_wait = comm_seconds_ / span;
  v.memory_bytes = resident_bytes();
  logged_at_ = now;
  logged_ = after;
  data_seconds_ = comm_seconds_ = 0;
  Node line = Node::Map{{"step", result.step},
                        {"tokens", after.tokens},
                        {"loss", result.loss},
                        {"lr", result.lr},
                        {"grad_norm", result.grad_norm},
                        {"tokens_per_second", v.tokens_per_second},
                        {"data_wait", *v.data_wait},
                        {"communication_wait", *v.communication_wait},
                        {"memory_bytes", *v.memory_bytes}};
  if (v.mfu) line.set("mfu", *v.mfu);
  std::vector<std::pair<std::string, double>> scalars;
  for (const auto& [key, value] : line.as_map()) {
    if (key != "step" && key != "tokens") scalars.emplace_back("train/" + key, value.as_double());
  }
  metrics_->append(line);
  events_.scalars(result.step, scalars);
  if (served_) served_->step(result, after.tokens, v.tokens_per_second);
  if (!bar_) spdlog::info("{}", progress_line(v));
}

void RunLog::validation(const ValidationResult& v, const RunPosition& at) {
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
  if (v.averaged_loss) {
    line.set("validation_loss_ema", *v.averaged_loss);
    scalars.emplace_back("validation/loss_ema", *v.averaged_loss);
  }
  metrics_->append(line);
  events_.scalars(at.step, scalars);
  if (served_) served_->validation(v);
  spdlog::info(
      "step {}: validation loss {:.4f}{}{} over {} tokens", at.step, v.loss,
      v.bits_per_byte ? fmt::format(", {:.4f} bits per byte", *v.bits_per_byte) : "",
      v.averaged_loss ? fmt::format(", {:.4f} with averaged weights", *v.averaged_loss) : "",
      v.tokens);
}

void RunLog::norms(const ParameterNorms& norms, int64_t step) {
  Node line = Node::Map{{"step", step}}, all = Node::map();
  std::vector<std::pair<std::string, double>> scalars;
  for (const auto& [name, weight, gradient] : norms) {
    all.set(name, Node::List{weight, gradient});
    scalars.emplace_back("norm/" + name, weight);
    scalars.emplace_back("grad_norm/" + name, gradient);
  }
  line.set("norms", std::move(all));
  metrics_->append(line);
  events_.scalars(step, scalars);
}

void RunLog::checkpoint(const CheckpointSaver::Outcome& o) {
  if (served_) served_->checkpoint(o);
  if (!o.ok) return;
  spdlog::info("step {}: checkpoint of {:.1f} MiB written in {:.2f} s", o.step,
               static_cast<double>(o.bytes) / (1 << 20), o.seconds);
}

void RunLog::intervention(int64_t step, const std::string& action, const std::string& reason) {
  metrics_->append(Node::Map{{"step", step}, {"event", action}, {"reason", reason}});
  spdlog::warn("step {}: {}: {}", step, action, reason);
}

void RunLog::not_training(Clock::time_point begin) { logged_at_ += Clock::now() - begin; }

// What guards did stays in the file: several rewinds may lead to one checkpoint.
void RunLog::rewind(int64_t bytes, const RunPosition& position) {
  metrics_.reset();
  const std::filesystem::path path = config_.output / "metrics.jsonl";
  const std::vector<Node> events = events_behind(path, bytes);
  metrics_ = std::make_unique<MetricsFile>(path, bytes);
  for (const Node& event : events) metrics_->append(event);
  logged_ = begin_ = position;
  logged_at_ = start_ = Clock::now();
}

}  // namespace ashlar
