#include "engine/model/session.h"

#include <cstring>
#include <map>

#include "core/base/error.h"
#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "core/io/sha256.h"

namespace ashlar {
namespace {

// A text, and a text with a transcript.
constexpr const char* kFormat = "ashlar-session";
constexpr const char* kChatFormat = "ashlar-chat";
constexpr const char* kVersion = "6";

std::string describe(const SessionOrigin& origin) {
  return write_json(Node::Map{{"model", origin.model},
                              {"cache", ashlar::describe(origin.cache)},
                              {"policy", ashlar::describe(origin.policy)}});
}

Node cache_tree(const CacheImage& cache) {
  Node::List groups;
  for (const CacheImage::Group& group : cache.groups) {
    Node::List lanes;
    for (const LaneImage& lane : group.lanes) {
      lanes.emplace_back(Node::Map{{"sinks", lane.sinks},
                                   {"coded", lane.coded},
                                   {"late", lane.late},
                                   {"front", lane.front},
                                   {"scores", static_cast<int64_t>(lane.scores.size())},
                                   {"scored_rows", lane.scored_rows},
                                   {"scored_end", lane.scored_end}});
    }
    groups.emplace_back(Node::Map{{"position", group.position},
                                  {"acted", group.acted},
                                  {"probe_begin", group.probe_begin},
                                  {"probe_end", group.probe_end},
                                  {"probe_from", group.probe_from},
                                  {"lanes", Node(std::move(lanes))}});
  }
  return Node(std::move(groups));
}

// Calls f(name, tensor, dtype) for every array of an image.
template <typename Image, typename F>
void for_each_array(Image& image, const F& f) {
  for (size_t g = 0; g < image.cache.groups.size(); ++g) {
    auto& lanes = image.cache.groups[g].lanes;
    for (size_t l = 0; l < lanes.size(); ++l) {
      const std::string at = "groups." + std::to_string(g) + ".lanes." + std::to_string(l) + ".";
      f(at + "positions", lanes[l].positions, DType::kI32);
      f(at + "sinks", lanes[l].sink_pages, DType::kU8);
      f(at + "coded", lanes[l].coded_pages, DType::kU8);
      f(at + "late", lanes[l].late_pages, DType::kU8);
      f(at + "raw", lanes[l].raw, DType::kF32);
      f(at + "resident", lanes[l].resident, DType::kI32);
      f(at + "backup", lanes[l].backup, DType::kU8);
      f(at + "query", lanes[l].query, DType::kF32);
      f(at + "segments", lanes[l].segments, DType::kI32);
      for (size_t b = 0; b < lanes[l].scores.size(); ++b) {
        f(at + "scores." + std::to_string(b), lanes[l].scores[b], DType::kU32);
      }
    }
  }
  if (image.block) {
    for (size_t g = 0; g < image.block->groups.size(); ++g) {
      const std::string at = "block." + std::to_string(g) + ".";
      f(at + "keys", image.block->groups[g].keys, DType::kF32);
      f(at + "values", image.block->groups[g].values, DType::kF32);
    }
    f("block.context", image.block_context, DType::kF32);
  }
  f("logits", image.next_logits, DType::kF32);
  f("pending", image.pending, DType::kI32);
}

// A small number out of the file's own description.
int64_t count_of(const Node& node, const char* key, int64_t most, const std::string& what) {
  const Node* value = node.is_map() ? node.find(key) : nullptr;
  require(value != nullptr && value->is_int() && value->as_int() >= 0 && value->as_int() <= most,
          ErrorCode::kData, "{}: state: '{}' is missing or not a number from 0 to {}", what, key,
          most);
  return value->as_int();
}

const Node::List& list_of(const Node& node, const char* key, const std::string& what) {
  const Node* value = node.is_map() ? node.find(key) : nullptr;
  require(value != nullptr && value->is_list(), ErrorCode::kData, "{}: state: '{}' is no list",
          what, key);
  return value->as_list();
}

bool flag_of(const Node& node, const char* key, const std::string& what) {
  return count_of(node, key, 1, what) == 1;
}

// The image without its arrays: how many of them there are.
SequenceImage skeleton(const Node& state, const std::string& what) {
  SequenceImage image;
  image.length = count_of(state, "length", INT32_MAX, what);
  image.marker = flag_of(state, "marker", what);
  for (const Node& group : list_of(state, "groups", what)) {
    CacheImage::Group& out = image.cache.groups.emplace_back();
    out.position = count_of(group, "position", INT32_MAX, what);
    out.acted = count_of(group, "acted", INT32_MAX, what);
    out.probe_begin = count_of(group, "probe_begin", INT32_MAX, what);
    out.probe_end = count_of(group, "probe_end", INT32_MAX, what);
    out.probe_from = count_of(group, "probe_from", INT32_MAX, what);
    for (const Node& lane : list_of(group, "lanes", what)) {
      LaneImage& to = out.lanes.emplace_back();
      to.sinks = count_of(lane, "sinks", INT32_MAX, what);
      to.coded = count_of(lane, "coded", INT32_MAX, what);
      to.late = count_of(lane, "late", INT32_MAX, what);
      to.front = count_of(lane, "front", INT32_MAX, what);
      to.scores.resize(static_cast<size_t>(count_of(lane, "scores", 1 << 20, what)));
      to.scored_rows = count_of(lane, "scored_rows", INT32_MAX, what);
      to.scored_end = count_of(lane, "scored_end", INT32_MAX, what);
    }
  }
  if (!flag_of(state, "block", what)) return image;
  image.block.emplace();
  for (const Node& rows : list_of(state, "block_rows", what)) {
    require(rows.is_int(), ErrorCode::kData, "{}: state: rows of a block are no number", what);
    image.block->groups.emplace_back().rows = rows.as_int();
  }
  return image;
}

Node state_tree(const SequenceImage& image) {
  Node state = Node::Map{{"length", image.length},
                         {"marker", image.marker ? 1 : 0},
                         {"groups", cache_tree(image.cache)},
                         {"block", image.block ? 1 : 0}};
  if (image.block) {
    Node::List rows;
    for (const auto& group : image.block->groups) rows.emplace_back(group.rows);
    state.set("block_rows", Node(std::move(rows)));
  }
  return state;
}

std::string metadata_of(const SafetensorsFile& file, const char* key, const std::string& what) {
  const auto found = file.metadata().find(key);
  require(found != file.metadata().end(), ErrorCode::kData,
          "{}: not a saved session: its header has no '{}'", what, key);
  return found->second;
}

using Bytes = std::map<std::string, std::span<const std::byte>>;

// Over everything that taking the session up depends on. The transcript of a text is empty.
std::string checksum(const std::string& origin, const std::string& state,
                     const std::string& transcript, const Bytes& tensors) {
  Sha256 sha;
  for (const std::string& text : {origin, state, transcript}) {
    sha.update(std::as_bytes(std::span(text)));
  }
  for (const auto& [name, bytes] : tensors) {
    sha.update(std::as_bytes(std::span(name)));
    sha.update(bytes);
  }
  return sha.hex();
}

void save(const Engine& engine, const Sequence& sequence, const SessionOrigin& origin,
          const std::string* transcript, const std::filesystem::path& path) {
  const SequenceImage image = engine.image(sequence);
  std::vector<TensorInfo> infos;
  Bytes tensors;
  for_each_array(image, [&](const std::string& name, const auto& values, DType dtype) {
    if (values.empty()) return;
    TensorInfo info;
    info.name = name;
    info.dtype = dtype;
    info.shape = {static_cast<int64_t>(values.size())};
    infos.push_back(std::move(info));
    tensors[name] = std::as_bytes(std::span(values));
  });
  const std::string from = describe(origin), state = write_json(state_tree(image));
  std::map<std::string, std::string> metadata = {
      {"format", transcript == nullptr ? kFormat : kChatFormat},
      {"version", kVersion},
      {"origin", from},
      {"state", state},
      {"sha256", checksum(from, state, transcript == nullptr ? "" : *transcript, tensors)}};
  if (transcript != nullptr) metadata["transcript"] = *transcript;
  SafetensorsWriter writer(path, std::move(infos), metadata);
  for (const TensorInfo& tensor : writer.layout()) writer.write_next(tensors.at(tensor.name));
  writer.commit();
}

void check_format(const SafetensorsFile& file, bool chat, const std::string& what) {
  const std::string format = metadata_of(file, "format", what);
  require(format == kFormat || format == kChatFormat, ErrorCode::kData, "{}: not a saved session",
          what);
  require(chat || format == kFormat, ErrorCode::kRequest,
          "{}: holds a conversation, which only `chat` goes on with", what);
  require(!chat || format == kChatFormat, ErrorCode::kRequest,
          "{}: holds a text that `generate` goes on with, no conversation", what);
}

SavedChat restore(Engine& engine, const SessionOrigin& origin, std::shared_ptr<const Policy> policy,
                  bool chat, const std::filesystem::path& path) {
  const std::string what = path.string();
  const SafetensorsFile file(path);
  check_format(file, chat, what);
  const std::string version = metadata_of(file, "version", what);
  require(version == kVersion, ErrorCode::kData,
          "{}: a session of version {}, this program reads version {}", what, version, kVersion);
  const std::string from = metadata_of(file, "origin", what);
  const std::string state = metadata_of(file, "state", what);
  std::string transcript;
  if (chat) transcript = metadata_of(file, "transcript", what);
  Bytes tensors;
  for (const TensorInfo& tensor : file.tensors()) tensors[tensor.name] = file.data(tensor);
  require(checksum(from, state, transcript, tensors) == metadata_of(file, "sha256", what),
          ErrorCode::kData, "{}: damaged: its SHA-256 does not match", what);
  require(from == describe(origin), ErrorCode::kRequest,
          "{}: belongs to another model, cache or policy: it was saved with {}, this is {}", what,
          from, describe(origin));
  SequenceImage image = skeleton(parse_json(state, what), what);
  size_t used = 0;
  for_each_array(image, [&](const std::string& name, auto& values, DType dtype) {
    const TensorInfo* tensor = file.find(name);
    if (tensor == nullptr) return;
    require(tensor->dtype == dtype, ErrorCode::kData, "{}: {}: wrong type", what, name);
    const std::span<const std::byte> bytes = file.data(*tensor);
    values.resize(bytes.size() / sizeof(values[0]));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    ++used;
  });
  require(used == file.tensors().size(), ErrorCode::kData,
          "{}: holds tensors that its state does not mention", what);
  return {engine.resume(image, origin.cache, std::move(policy), what), std::move(transcript)};
}

}  // namespace

void save_session(const Engine& engine, const Sequence& sequence, const SessionOrigin& origin,
                  const std::filesystem::path& path) {
  save(engine, sequence, origin, nullptr, path);
}

std::unique_ptr<Sequence> restore_session(Engine& engine, const SessionOrigin& origin,
                                          std::shared_ptr<const Policy> policy,
                                          const std::filesystem::path& path) {
  return restore(engine, origin, std::move(policy), false, path).sequence;
}

void save_chat(const Engine& engine, const Sequence& sequence, const SessionOrigin& origin,
               const std::string& transcript, const std::filesystem::path& path) {
  save(engine, sequence, origin, &transcript, path);
}

SavedChat restore_chat(Engine& engine, const SessionOrigin& origin,
                       std::shared_ptr<const Policy> policy, const std::filesystem::path& path) {
  return restore(engine, origin, std::move(policy), true, path);
}

}  // namespace ashlar
