#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "core/base/node.h"
#include "core/io/folder_lock.h"
#include "data/shards/documents.h"
#include "data/shards/prepare.h"

// Private to data/shards.

namespace ashlar {

/// How far a preparation has come.
struct PrepareProgress {
  size_t file = 0;  ///< all before it are done
  RecordPosition place;
  int64_t documents = 0;  ///< read, whatever became of them
  PrepareStatistics statistics;
  std::vector<ShardWriter::State> parts;
  int64_t duplicate_keys = 0;  ///< in the file of keys
  bool complete = false;       ///< nothing is left but to give the output its name
};

/// What the output depends on, as far as the options say it.
Node request_of(const PrepareOptions& options, const std::string& vocabulary_sha256, DType dtype);

Node to_node(const InputStatistics& statistics);
Node to_node(const ShardInfo& shard);

/// The folder `output`.partial: shards in `shards`, the journal, the keys of kept documents; locked
/// against a second process.
class PrepareFolder {
 public:
  /// Throws Error(kRequest) when another process holds it, or when a folder of that name is
  /// something else.
  explicit PrepareFolder(const std::filesystem::path& output);

  std::filesystem::path shards() const { return path_ / "shards"; }
  std::filesystem::path keys() const { return path_ / "duplicates.raw.tmp"; }
  const std::filesystem::path& path() const { return path_; }

  /// What an interrupted preparation left, if it did. Throws Error(kRequest) when it was another
  /// request, naming what differs, or when input that it has read changed since.
  std::optional<PrepareProgress> load(const Node& request, const std::vector<InputFile>& files);
  /// Durable before it returns.
  void save(const Node& request, const std::vector<InputFile>& files,
            const PrepareProgress& progress);
  /// Removes everything but the lock.
  void clear();
  /// Gives the finished shards the name of the output and removes the rest.
  void publish();
  /// Removes the folder.
  void discard();

 private:
  std::filesystem::path output_, path_;
  std::optional<FolderLock> lock_;
};

}  // namespace ashlar
