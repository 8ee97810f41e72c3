#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/io/safetensors.h"

namespace ashlar {

/// The tensors of a Hugging Face folder: `model.safetensors`, or the shards that
/// `model.safetensors.index.json` names. The index and the shards have to tell the same story:
/// every tensor in exactly the file the index says, and none besides.
class SafetensorsFolder {
 public:
  struct Entry {
    std::shared_ptr<const SafetensorsFile> file;
    TensorInfo info;
    std::span<const std::byte> bytes() const { return file->data(info); }
    /// Keeps the file open, and hands the tensor's pages back when the last copy goes.
    std::shared_ptr<const void> owner() const;
  };

  /// Throws Error(kRequest) when there are no such files or a shard lies outside the folder (links
  /// inside it may point anywhere, as in the hub's cache), Error(kData) when they are damaged or
  /// contradict each other.
  explicit SafetensorsFolder(const std::filesystem::path& folder);

  /// True if there is something to open.
  static bool exists(const std::filesystem::path& folder);

  const std::map<std::string, Entry>& tensors() const { return tensors_; }
  /// nullptr when absent.
  const Entry* find(const std::string& name) const;

 private:
  void read_index(const std::filesystem::path& folder);
  void add(const std::shared_ptr<const SafetensorsFile>& file);

  std::map<std::string, Entry> tensors_;
};

/// Bytes and whoever keeps them alive.
struct HeldBytes {
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
};

/// Writes `tensors` (offsets are ignored) as `model.safetensors`, or, when they take more than
/// `shard_bytes`, as `model-00001-of-0000N.safetensors`, ... with their index. A shard is larger
/// than that only when a single tensor is. `bytes_of` is asked once for each, one at a time.
void write_safetensors_folder(const std::filesystem::path& folder,
                              const std::vector<TensorInfo>& tensors, int64_t shard_bytes,
                              const std::function<HeldBytes(const std::string& name)>& bytes_of);

}  // namespace ashlar
