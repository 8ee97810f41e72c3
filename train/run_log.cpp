#include "train/run_log.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>

namespace ashlar {
namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

}  // namespace

RunLog::RunLog(const TrainConfig& config, int64_t metrics_bytes, const RunPosition& begin)
    : config_(config),
      metrics_(std::make_unique<MetricsFile>(config.output / "metrics.jsonl", metrics_bytes)),
      events_(config.output / "events", begin.step),
      bar_(isatty(STDERR_FILENO) != 0),
      progress_("train", config.steps),
      start_(Clock::now()),
      logged_at_(start_),
      begin_(begin),
      logged_(begin) {}

std::string RunLog::left(int64_t step, double steps_per_second) const {
  const auto steps = static_cast<double>(config_.steps - step);
  const auto s = static_cast<int64_t>(steps_per_second > 0 ? steps / steps_per_second : 0);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

void RunLog::step(const StepResult& result, const RunPosition& after) {
  data_seconds_ += result.data_seconds;
  comm_seconds_ += result.comm_seconds;
  const auto now = Clock::now();
  if (bar_) {
    const double whole = std::max(seconds(now - start_), 1e-9);
    const double rate = static_cast<double>(after.tokens - begin_.tokens) / whole;
    progress_.update(
        result.step,
        fmt::format("loss {:.3f} {:.0f} tok/s {} left", result.loss, rate,
                    left(result.step, static_cast<double>(result.step - begin_.step) / whole)));
  }
  if (result.step != config_.steps && result.step % config_.log_every != 0) return;
  const double span = std::max(seconds(now - logged_at_), 1e-9);
  const double rate = static_cast<double>(after.tokens - logged_.tokens) / span;
  const double steps = static_cast<double>(result.step - logged_.step) / span;
  const double data = data_seconds_ / span, comm = comm_seconds_ / span;
  logged_at_ = now;
  logged_ = after;
  data_seconds_ = comm_seconds_ = 0;
  metrics_->append(Node::Map{{"step", result.step},
                             {"tokens", after.tokens},
                             {"loss", result.loss},
                             {"lr", result.lr},
                             {"grad_norm", result.grad_norm},
                             {"tokens_per_second", rate},
                             {"data_wait", data},
                             {"communication_wait", comm}});
  events_.scalars(result.step, {{"train/loss", result.loss},
                                {"train/lr", result.lr},
                                {"train/grad_norm", result.grad_norm},
                                {"train/tokens_per_second", rate},
                                {"train/data_wait", data},
                                {"train/communication_wait", comm}});
  if (bar_) return;
  spdlog::info("step {}/{} loss {:.4f} lr {:.3g} norm {:.3f} {:.0f} tokens/s, {} left", result.step,
               config_.steps, result.loss, result.lr, result.grad_norm, rate,
               left(result.step, steps));
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
  metrics_->append(line);
  events_.scalars(at.step, scalars);
  spdlog::info("step {}: validation loss {:.4f}{} over {} tokens", at.step, v.loss,
               v.bits_per_byte ? fmt::format(", {:.4f} bits per byte", *v.bits_per_byte) : "",
               v.tokens);
}

void RunLog::intervention(int64_t step, const std::string& action, const std::string& reason) {
  metrics_->append(Node::Map{{"step", step}, {"event", action}, {"reason", reason}});
  spdlog::warn("step {}: {}: {}", step, action, reason);
}

void RunLog::not_training(Clock::time_point begin) { logged_at_ += Clock::now() - begin; }

void RunLog::rewind(int64_t bytes, const RunPosition& position) {
  metrics_.reset();
  metrics_ = std::make_unique<MetricsFile>(config_.output / "metrics.jsonl", bytes);
  logged_ = begin_ = position;
  logged_at_ = start_ = Clock::now();
}

}  // namespace ashlar
