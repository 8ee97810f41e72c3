#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/node.h"
#include "core/hdf5/hdf5.h"
#include "models/spec/spec.h"

// Checkpoints on disk, without torch: RUN/checkpoints/step_00000200/ holds one HDF5 file per rank
// (datasets "parameters/<name>", "optimizer/exp_avg/<name>", ..., fp32) and manifest.json, which is
// written last, names every file with its size and SHA-256 and carries a digest of itself. A folder
// without a manifest, or one whose files do not match it, is no checkpoint. docs/formats.md
// describes every key.

namespace ashlar {

/// Where a run stands: everything besides tensors that a bit-for-bit continuation needs.
struct RunPosition {
  int64_t step = 0;           ///< optimizer steps done
  int64_t tokens = 0;         ///< training targets seen
  int64_t next_sample = 0;    ///< first training sample that was not used yet
  uint64_t seed = 0;          ///< of the counter-based generators; they have no other state
  int64_t metrics_bytes = 0;  ///< length of metrics.jsonl that belongs to this checkpoint
  bool operator==(const RunPosition&) const = default;
};

struct CheckpointManifest {
  struct File {
    std::string name;
    int64_t bytes = 0;
    std::string sha256;
  };
  int64_t world = 1;  ///< ranks that wrote, one file each
  RunPosition position;
  ModelSpec spec;
  int64_t eos_id = 0;
  Node config;              ///< the resolved configuration of the run
  std::vector<File> files;  ///< filled in by the writer
};

/// Writes one checkpoint of a single process. Nothing is a checkpoint before `commit`.
class CheckpointWriter {
 public:
  /// Makes RUN/checkpoints/step_N; a leftover folder of that name (a crash, or a damaged
  /// checkpoint) is replaced.
  CheckpointWriter(const std::filesystem::path& run, int64_t step);
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  void write(const std::string& name, const std::vector<int64_t>& shape,
             std::span<const float> values);
  /// Closes and syncs the data file, then writes the manifest: temp name → fsync → rename → fsync
  /// of the folder each time.
  void commit(CheckpointManifest manifest);
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  std::optional<H5File> file_;
  int64_t step_;
  bool committed_ = false;
};

/// An opened checkpoint whose files have been verified against the manifest.
class CheckpointReader {
 public:
  /// `path` is a run folder (its newest checkpoint that verifies is taken, the others are warned
  /// about) or a checkpoint folder (which must verify). Throws Error(kRequest) when nothing is
  /// there and Error(kData) with file and reason when it is damaged.
  explicit CheckpointReader(const std::filesystem::path& path);

  const CheckpointManifest& manifest() const { return manifest_; }
  const ModelSpec& spec() const { return manifest_.spec; }
  const std::filesystem::path& path() const { return path_; }
  /// tokenizer.json of the run this checkpoint belongs to.
  std::filesystem::path tokenizer_path() const;

  /// Dataset names, sorted.
  std::vector<std::string> names() const { return file_->datasets(); }
  std::vector<int64_t> shape(const std::string& name) const;
  /// All of a dataset; throws Error(kData) unless it is fp32 and has exactly `out.size()` elements.
  void read(const std::string& name, std::span<float> out) const;

 private:
  std::filesystem::path path_;
  CheckpointManifest manifest_;
  std::optional<H5File> file_;
};

/// Reads manifest.json of a checkpoint folder and checks every file's size and digest. Throws
/// Error(kData) naming file and reason.
CheckpointManifest verify_checkpoint(const std::filesystem::path& folder);

/// The checkpoint of a run with the highest step that verifies; a warning says why each newer one
/// was passed over.
std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& run);

/// Deletes all but the `keep` newest checkpoints of a run (folders without a manifest as well,
/// apart from ones newer than the newest checkpoint).
void retain_checkpoints(const std::filesystem::path& run, int64_t keep);

Node to_node(const CheckpointManifest& manifest);
/// Reads a manifest from an untrusted tree; file names must be plain names.
CheckpointManifest manifest_from_node(const Node& node);

}  // namespace ashlar
