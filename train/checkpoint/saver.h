#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/comm/store.h"
#include "train/checkpoint/checkpoint.h"

namespace ashlar {

struct SaverOptions {
  std::filesystem::path run;  ///< a folder that all ranks share
  int64_t rank = 0;
  int64_t world = 1;
  int64_t keep = 2;          ///< newest checkpoints that stay
  int64_t keep_every = 0;    ///< multiples of this many steps stay for good; 0: none
  bool asynchronous = true;  ///< save() returns when it owns the values, not when they are on disk
  /// How long rank 0 waits for the others' files, counted from its own save(). The others wait
  /// twice as long for rank 0's word.
  std::chrono::milliseconds timeout{600'000};
};

/// One rank's share of a checkpoint: copies of the values as they were.
struct Snapshot {
  struct Piece {
    std::string name;
    std::vector<int64_t> shape;  ///< of the whole tensor
    int64_t first = 0;           ///< element of the tensor where `values` begin
    std::vector<float> values;
  };
  std::vector<Piece> pieces;

  void add(std::string name, std::vector<int64_t> shape, int64_t first,
           std::span<const float> values) {
    pieces.push_back({std::move(name), std::move(shape), first, {values.begin(), values.end()}});
  }
};

/// Writes checkpoints beside the training, one saver per rank. Each rank's file is written by a
/// thread of its own and reported through the store; rank 0 puts the manifest last, gives the
/// folder its name and removes what need not stay. There are no collectives, so a save cannot hang
/// the training: a full disk, a folder that is gone or a rank that is silent gives a failed
/// outcome, a loud line in the log of rank 0, and the checkpoints there were.
class CheckpointSaver {
 public:
  /// `store` must outlive the saver and must not hold keys of an earlier life of the run.
  CheckpointSaver(SaverOptions options, KeyValueStore& store);
  /// Gives up a save that still waits for other ranks; call finish() to wait for it.
  ~CheckpointSaver();
  CheckpointSaver(const CheckpointSaver&) = delete;
  CheckpointSaver& operator=(const CheckpointSaver&) = delete;

  /// Begins the checkpoint of step manifest.position.step; every rank calls it for the same steps
  /// in the same order. `world` and `files` of the manifest are filled in here, and only rank 0's
  /// manifest counts. Waits first for an earlier save that is still under way, and says so in the
  /// log. A checkpoint of the same step is replaced when the new one is complete; those of later
  /// steps are removed then. Does not throw for anything that happens to the files.
  void save(CheckpointManifest manifest, Snapshot snapshot);

  struct Outcome {
    int64_t step = 0;
    bool ok = false;
    std::string reason;  ///< why not: rank and trouble
    double seconds = 0;  ///< from rank 0's save() to the end
    int64_t bytes = 0;   ///< of all files
  };
  /// Saves that ended since the last call, in order. All ranks learn the same outcomes, but not at
  /// the same moment.
  std::vector<Outcome> poll();
  /// Waits for the save under way, then as poll().
  std::vector<Outcome> finish();

 private:
  struct Job {
    CheckpointManifest manifest;
    Snapshot snapshot;
    int64_t attempt = 0;  // counts save() calls, the same on all ranks
    std::chrono::steady_clock::time_point start;
  };
  void work();
  void end(Outcome outcome);

  SaverOptions options_;
  KeyValueStore& store_;
  int64_t attempts_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Job> job_;       // waiting for the thread
  std::optional<int64_t> busy_;  // step of the save under way
  std::vector<Outcome> ended_;
  bool closing_ = false;
  std::atomic<bool> abandoned_{false};
  std::thread thread_;
};

}  // namespace ashlar
