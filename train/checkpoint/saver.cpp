#include "train/checkpoint/saver.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "core/base/error.h"
#include "train/checkpoint/save_attempt.h"

namespace ashlar {

CheckpointSaver::CheckpointSaver(SaverOptions options, KeyValueStore& store)
    : options_(std::move(options)), store_(store) {
  ASHLAR_CHECK(options_.world >= 1 && options_.rank >= 0 && options_.rank < options_.world);
  ASHLAR_CHECK_GE(options_.keep, 1);
  ASHLAR_CHECK_GE(options_.keep_every, 0);
  thread_ = std::thread([this] { work(); });
}

CheckpointSaver::~CheckpointSaver() {
  abandoned_ = true;
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void CheckpointSaver::save(CheckpointManifest manifest, Snapshot snapshot) {
  const auto start = std::chrono::steady_clock::now();
  const int64_t step = manifest.position.step;
  std::unique_lock lock(mutex_);
  if (busy_) {
    const int64_t earlier = *busy_;
    changed_.wait(lock, [&] { return !busy_; });
    const double waited =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    spdlog::warn(
        "the checkpoint of step {} waited {:.1f} s for the one of step {} to be written: "
        "checkpoint.every is too small for this disk",
        step, waited, earlier);
  }
  busy_ = step;
  job_ =
      Job{std::move(manifest), std::move(snapshot), attempts_++, std::chrono::steady_clock::now()};
  changed_.notify_all();
  if (!options_.asynchronous) changed_.wait(lock, [&] { return !busy_; });
}

void CheckpointSaver::work() {
  while (true) {
    std::optional<Job> job;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return job_ || closing_; });
      if (!job_) return;
      job = std::exchange(job_, std::nullopt);
    }
    const int64_t step = job->manifest.position.step;
    Outcome outcome;
    try {
      SaveAttempt attempt(options_, store_, abandoned_, job->attempt, step, job->start);
      outcome = attempt.carry_out(job->manifest, job->snapshot);
    } catch (const std::exception& error) {  // memory: what is left of a thread's exceptions
      spdlog::error("the checkpoint of step {}: {}", step, error.what());
      outcome = {step, false, error.what(), 0, 0};
    }
    end(std::move(outcome));
  }
}

void CheckpointSaver::end(Outcome outcome) {
  const std::lock_guard lock(mutex_);
  ended_.push_back(std::move(outcome));
  busy_.reset();
  changed_.notify_all();
}

std::vector<CheckpointSaver::Outcome> CheckpointSaver::poll() {
  const std::lock_guard lock(mutex_);
  return std::exchange(ended_, {});
}

std::vector<CheckpointSaver::Outcome> CheckpointSaver::finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !busy_; });
  return std::exchange(ended_, {});
}

}  // namespace ashlar
