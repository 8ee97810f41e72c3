#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/node.h"
#include "models/spec/spec.h"

// Checkpoints on disk, without torch: RUN/checkpoints/step_00000200/ holds one HDF5 file per rank
// (datasets "parameters/<name>", "optimizer/exp_avg/<name>", ..., fp32: whole tensors or runs of
// their elements, see shard.h) and manifest.json, which is written last, names every file with its
// size and SHA-256 and carries a digest of itself. A folder without a manifest, or one whose files
// do not match it, is no checkpoint. docs/formats.md describes every key. saver.h writes them.

namespace ashlar {

/// Where a run stands: everything besides tensors that a bit-for-bit continuation needs.
struct RunPosition {
  int64_t step = 0;           ///< optimizer steps done
  int64_t tokens = 0;         ///< training targets seen
  int64_t next_sample = 0;    ///< first training sample that was not used yet; not step·batch_size
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
  Node config;               ///< the resolved configuration of the run
  Node state = Node::map();  ///< what else the trainer keeps besides tensors: windows of guards, …
  std::vector<File> files;   ///< filled in by the saver
};

/// What a reader checks of a checkpoint's files before it trusts them. The manifest's own digest
/// and the presence of every file are always checked.
enum class Verify {
  kFull,   ///< size and SHA-256 of every file
  kSizes,  ///< sizes alone: the digests have been checked elsewhere (verify_files, together.h)
};

/// An opened checkpoint whose files have been verified against the manifest. Tensors are whole,
/// whichever files hold their elements: the number of ranks that wrote does not matter.
class CheckpointReader {
 public:
  /// `path` is a run folder (its newest checkpoint that verifies is taken, the others are warned
  /// about) or a checkpoint folder (which must verify). Throws Error(kRequest) when nothing is
  /// there and Error(kData) with file and reason when it is damaged.
  explicit CheckpointReader(const std::filesystem::path& path, Verify verify = Verify::kFull);
  ~CheckpointReader();
  CheckpointReader(CheckpointReader&&) noexcept;
  CheckpointReader& operator=(CheckpointReader&&) noexcept;

  const CheckpointManifest& manifest() const { return manifest_; }
  const ModelSpec& spec() const { return manifest_.spec; }
  const std::filesystem::path& path() const { return path_; }
  /// tokenizer.json of the run this checkpoint belongs to.
  std::filesystem::path tokenizer_path() const;

  /// Tensor names over all files, sorted.
  std::vector<std::string> names() const;
  bool has(const std::string& name) const;
  /// Throws Error(kData) when no file holds anything of `name`.
  std::vector<int64_t> shape(const std::string& name) const;
  /// All of a tensor; throws Error(kData) unless it has exactly `out.size()` elements.
  void read(const std::string& name, std::span<float> out) const;
  /// Elements [first, first + out.size()), row-major, put together from whatever files hold them;
  /// where several do (replicas), any of them is taken. Throws Error(kData) naming tensor and
  /// elements when the run leaves the tensor or when no file holds a part of it. One thread at a
  /// time.
  void read(const std::string& name, int64_t first, std::span<float> out) const;

 private:
  struct Index;
  std::filesystem::path path_;
  CheckpointManifest manifest_;
  std::unique_ptr<Index> index_;
};

/// Reads manifest.json of a checkpoint folder and checks its digest, its consistency, and that
/// every file is there with its size; with kFull their SHA-256 as well. Throws Error(kData) naming
/// file and reason.
CheckpointManifest verify_checkpoint(const std::filesystem::path& folder,
                                     Verify verify = Verify::kFull);

/// Checks size and SHA-256 of the files f of a checkpoint with f mod world = rank: one rank's share
/// of the work. What is wrong, with the file's name; absent when all is well. Does not throw.
std::optional<std::string> verify_files(const CheckpointManifest& manifest,
                                        const std::filesystem::path& folder, int64_t rank,
                                        int64_t world);

/// Folders of a run that should each hold a checkpoint, newest first; nothing has been checked.
std::vector<std::filesystem::path> checkpoint_candidates(const std::filesystem::path& run);

/// The checkpoint of a run with the highest step that verifies; a warning says why each newer one
/// was passed over.
std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& run);

/// Which checkpoints of a run stay.
struct Retention {
  int64_t keep = 2;        ///< this many of the newest
  int64_t keep_every = 0;  ///< and those of every multiple of this many steps; 0: none
};

/// Deletes what `retention` does not keep, once the checkpoint of step `newest` is complete: older
/// ones, folders of saves that never ended, and those of later steps, which belong to a course
/// that the run has left by going back. Never `newest` itself. Troubles are warnings.
void retain_checkpoints(const std::filesystem::path& run, const Retention& retention,
                        int64_t newest);

Node to_node(const CheckpointManifest& manifest);
/// Reads a manifest from an untrusted tree; file names must be plain names.
CheckpointManifest manifest_from_node(const Node& node);

}  // namespace ashlar
