#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "core/comm/store.h"
#include "train/checkpoint/checkpoint.h"

namespace ashlar {

/// The ranks of a run that verify checkpoints together: each hashes its share of the files, and all
/// come to the same answer. Every rank makes the same calls in the same order; what is found can be
/// opened with Verify::kSizes.
class SharedVerifier {
 public:
  /// `store` must outlive it and must not hold keys of an earlier life of the run. `timeout`: how
  /// long the slowest rank may take for its share of one checkpoint.
  SharedVerifier(int64_t rank, int64_t world, KeyValueStore& store,
                 std::chrono::milliseconds timeout);

  /// newest_checkpoint() of all ranks; rank 0 warns about those that are passed over. Throws
  /// Error(kIo) on every rank, with the names, when one does not answer in time.
  std::optional<std::filesystem::path> newest(const std::filesystem::path& run);
  /// Throws Error(kData) on every rank with what any of them found wrong.
  void verify(const std::filesystem::path& checkpoint);

 private:
  std::optional<std::string> trouble(const std::filesystem::path& folder);
  std::string collect(const std::string& key, std::optional<std::string> own,
                      const std::filesystem::path& folder);
  std::string hear(const std::string& key);

  int64_t rank_, world_;
  KeyValueStore& store_;
  std::chrono::milliseconds timeout_;
  int64_t questions_ = 0;
};

}  // namespace ashlar
