#include "core/io/safetensors_folder.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/io/json.h"

namespace ashlar {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

// A name in the index is a file of the folder itself: nobody writes anything else.
void check_shard_name(const std::string& name, const fs::path& index) {
  const fs::path path(name);
  require(!name.empty() && path.filename() == path && name != "." && name != ".." &&
              name.find('\0') == std::string::npos,
          ErrorCode::kRequest, "{}: weight_map: shard '{}' lies outside the folder", index.string(),
          name);
  require(
      path.extension() == ".safetensors", ErrorCode::kRequest,
      "{}: weight_map: shard '{}' is not a .safetensors file; pickled weights can run code when "
      "they are opened and are never read",
      index.string(), name);
}

}  // namespace

std::shared_ptr<const void> SafetensorsFolder::Entry::owner() const {
  return hold(std::shared_ptr<const MappedFile>(file, &file->mapping()), bytes());
}

bool SafetensorsFolder::exists(const fs::path& folder) {
  return fs::is_regular_file(folder / kSingle) || fs::is_regular_file(folder / kIndex);
}

SafetensorsFolder::SafetensorsFolder(const fs::path& folder) {
  if (fs::is_regular_file(folder / kSingle)) {
    add(std::make_shared<SafetensorsFile>(folder / kSingle));
    return;
  }
  require(fs::is_regular_file(folder / kIndex), ErrorCode::kRequest,
          "{}: neither {} nor {} is in this folder", folder.string(), kSingle, kIndex);
  read_index(folder);
}

void SafetensorsFolder::add(const std::shared_ptr<const SafetensorsFile>& file) {
  for (const TensorInfo& info : file->tensors()) {
    const auto [other, fresh] = tensors_.try_emplace(info.name, Entry{file, info});
    require(fresh, ErrorCode::kData, "{}: tensor '{}' is in {} as well", file->path().string(),
            info.name, other->second.file->path().filename().string());
  }
}

void SafetensorsFolder::read_index(const fs::path& folder) {
  const fs::path path = folder / kIndex;
  const Node index = load_json(path);
  const Node* map = index.find("weight_map");
  require(map != nullptr && map->is_map(), ErrorCode::kData, "{}: weight_map is missing",
          path.string());
  std::map<std::string, std::string> wanted;  // tensor -> shard
  std::map<std::string, bool> shards;
  for (const auto& [tensor, shard] : map->as_map()) {
    require(shard.is_string(), ErrorCode::kData, "{}: weight_map: '{}' names no file",
            path.string(), tensor);
    check_shard_name(shard.as_string(), path);
    wanted[tensor] = shard.as_string();
    shards[shard.as_string()] = true;
  }
  for (const auto& [name, used] : shards) {
    require(fs::is_regular_file(folder / name), ErrorCode::kData, "{}: shard {} is missing",
            path.string(), name);
    add(std::make_shared<SafetensorsFile>(folder / name));
  }
  for (const auto& [tensor, shard] : wanted) {
    const Entry* entry = find(tensor);
    require(entry != nullptr && entry->file->path().filename() == shard, ErrorCode::kData,
            "{}: tensor '{}' is not in {}", path.string(), tensor, shard);
  }
  for (const auto& [tensor, entry] : tensors_) {
    require(wanted.count(tensor) != 0, ErrorCode::kData,
            "{}: tensor '{}' of {} is not in the index", path.string(), tensor,
            entry.file->path().filename().string());
  }
}

const SafetensorsFolder::Entry* SafetensorsFolder::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

void write_safetensors_folder(const fs::path& folder, const std::vector<TensorInfo>& tensors,
                              int64_t shard_bytes,
                              const std::function<HeldBytes(const std::string&)>& bytes_of) {
  std::vector<std::vector<TensorInfo>> shards(1);
  int64_t filled = 0, total = 0;
  for (const TensorInfo& t : tensors) {
    const int64_t bytes =
        checked_mul(checked_numel(t.shape, t.name.c_str()), dtype_bytes(t.dtype), t.name.c_str());
    if (!shards.back().empty() && filled + bytes > shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(t);
    filled += bytes;
    total += bytes;
  }
  Node map = Node::map();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name =
        shards.size() == 1 ? std::string(kSingle)
                           : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    SafetensorsWriter writer(folder / name, shards[i], {{"format", "pt"}});
    for (const TensorInfo& info : writer.layout()) {
      const HeldBytes held = bytes_of(info.name);
      writer.write_next(held.bytes);
      map.set(info.name, name);
    }
    writer.commit();
  }
  if (shards.size() == 1) return;
  const Node index =
      Node::Map{{"metadata", Node::Map{{"total_size", total}}}, {"weight_map", std::move(map)}};
  write_file_atomically(folder / kIndex, write_json(index, 2) + "\n");
}

}  // namespace ashlar
