#pragma once

#include <atomic>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "core/comm/store.h"
#include "train/checkpoint/saver.h"

namespace ashlar {

/// Private to train/checkpoint: one rank's part in one checkpoint, from its file to the outcome.
/// Keys of the store: checkpoint/<attempt>/<step>/rank/<r> is a rank's report,
/// checkpoint/<attempt>/<step>/outcome is rank 0's verdict.
class SaveAttempt {
 public:
  using Clock = std::chrono::steady_clock;
  SaveAttempt(const SaverOptions& options, KeyValueStore& store, const std::atomic<bool>& abandoned,
              int64_t attempt, int64_t step, Clock::time_point start);

  /// Does it all; nothing is thrown.
  CheckpointSaver::Outcome carry_out(CheckpointManifest& manifest, Snapshot& snapshot);

 private:
  struct Report {
    std::optional<CheckpointManifest::File> file;
    std::string error;
  };
  Report write_own(Snapshot& snapshot) const;
  void post(const Report& report);
  std::vector<Report> collect(Report own);
  void check_visible(std::vector<Report>& reports) const;
  void commit(CheckpointManifest& manifest, const std::vector<Report>& reports) const;
  CheckpointSaver::Outcome lead(CheckpointManifest& manifest, Report own);
  CheckpointSaver::Outcome follow();
  void publish(const CheckpointSaver::Outcome& outcome);
  std::optional<std::string> wait(const std::string& key, Clock::time_point deadline);
  std::string key(const std::string& what) const;
  std::string rank_key(int64_t rank) const { return key("rank/" + std::to_string(rank)); }
  CheckpointSaver::Outcome failed(const std::string& reason) const;
  double seconds() const;

  const SaverOptions& options_;
  KeyValueStore& store_;
  const std::atomic<bool>& abandoned_;
  int64_t attempt_, step_;
  Clock::time_point start_;
};

}  // namespace ashlar
