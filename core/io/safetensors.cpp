#include "core/io/safetensors.h"

#include <algorithm>
#include <cstring>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/io/json.h"

namespace ashlar {
namespace {

constexpr int64_t kMaxHeader = int64_t{100} << 20;  // the reference implementation's limit
constexpr int64_t kAlignment = 64;

TensorInfo parse_entry(const std::string& file, const std::string& name, const Node& node) {
  TensorInfo info;
  info.name = name;
  const Node* dtype = node.find("dtype");
  const Node* shape = node.find("shape");
  const Node* offsets = node.find("data_offsets");
  require(dtype != nullptr && dtype->is_string() && shape != nullptr && shape->is_list() &&
              offsets != nullptr && offsets->is_list() && offsets->as_list().size() == 2,
          ErrorCode::kData, "{}: tensor '{}': header entry lacks dtype, shape or data_offsets",
          file, name);
  for (const Node& d : shape->as_list()) {
    require(d.is_int() && d.as_int() >= 0, ErrorCode::kData, "{}: tensor '{}': invalid shape", file,
            name);
    info.shape.push_back(d.as_int());
  }
  const Node &begin = offsets->as_list()[0], &end = offsets->as_list()[1];
  require(begin.is_int() && end.is_int() && begin.as_int() >= 0 && end.as_int() >= begin.as_int(),
          ErrorCode::kData, "{}: tensor '{}': invalid data_offsets", file, name);
  info.offset = begin.as_int();
  info.bytes = end.as_int() - begin.as_int();
  int64_t expected = 0;
  try {
    info.dtype = dtype_from_name(dtype->as_string());
    expected = checked_mul(checked_numel(info.shape, "shape"), dtype_bytes(info.dtype), "bytes");
  } catch (const Error& error) {
    fail(ErrorCode::kData, "{}: tensor '{}': {}", file, name, error.what());
  }
  require(expected == info.bytes, ErrorCode::kData,
          "{}: tensor '{}': {} bytes in the file, but its shape and type need {}", file, name,
          info.bytes, expected);
  return info;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const auto bytes = file_.bytes();
  const std::string name = path.string();
  require(bytes.size() >= 8, ErrorCode::kData, "{}: truncated: {} bytes are no safetensors file",
          name, bytes.size());
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  require(header <= static_cast<uint64_t>(kMaxHeader) && header <= bytes.size() - 8,
          ErrorCode::kData, "{}: truncated or not safetensors: header of {} bytes in a file of {}",
          name, header, bytes.size());
  data_start_ = 8 + header;
  const Node root = parse_json(
      {reinterpret_cast<const char*>(bytes.data()) + 8, static_cast<size_t>(header)}, name);
  require(root.is_map(), ErrorCode::kData, "{}: the header is not a JSON object", name);
  for (const auto& [key, value] : root.as_map()) {
    if (key == "__metadata__") {
      require(value.is_map(), ErrorCode::kData, "{}: __metadata__ is not an object", name);
      for (const auto& [k, v] : value.as_map()) {
        require(v.is_string(), ErrorCode::kData, "{}: __metadata__.{} is not a string", name, k);
        metadata_[k] = v.as_string();
      }
      continue;
    }
    tensors_.push_back(parse_entry(name, key, value));
  }
  std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  const auto available = static_cast<int64_t>(bytes.size() - data_start_);
  int64_t position = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const TensorInfo& t = tensors_[i];
    require(t.offset == position, ErrorCode::kData, "{}: tensor '{}' starts at {}, expected {}",
            name, t.name, t.offset, position);
    require(t.bytes <= available - t.offset, ErrorCode::kData,
            "{}: truncated: tensor '{}' ends at byte {}, the data has {}", name, t.name,
            t.offset + t.bytes, available);
    position = t.offset + t.bytes;
    by_name_[t.name] = i;
  }
  require(position == available, ErrorCode::kData, "{}: {} bytes after the last tensor", name,
          available - position);
}

const TensorInfo* SafetensorsFile::find(const std::string& name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

std::span<const std::byte> SafetensorsFile::data(const TensorInfo& tensor) const {
  return file_.bytes().subspan(data_start_ + static_cast<size_t>(tensor.offset),
                               static_cast<size_t>(tensor.bytes));
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::vector<TensorInfo> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path), tensors_(std::move(tensors)) {
  for (TensorInfo& t : tensors_) t.bytes = checked_numel(t.shape, "tensor") * dtype_bytes(t.dtype);
  std::stable_partition(tensors_.begin(), tensors_.end(),
                        [](const TensorInfo& t) { return t.bytes % kAlignment == 0; });
  Node root = Node::map();
  if (!metadata.empty()) {
    Node entries = Node::map();
    for (const auto& [key, value] : metadata) entries.set(key, value);
    root.set("__metadata__", std::move(entries));
  }
  int64_t offset = 0;
  for (TensorInfo& t : tensors_) {
    t.offset = offset;
    offset = checked_add(offset, t.bytes, "safetensors");
    Node shape = Node::list();
    for (int64_t d : t.shape) shape.push(d);
    root.set(t.name, Node::Map{{"dtype", dtype_name(t.dtype)},
                               {"shape", std::move(shape)},
                               {"data_offsets", Node::List{t.offset, offset}}});
  }
  std::string header = write_json(root);
  header.resize(
      static_cast<size_t>(round_up(static_cast<int64_t>(header.size()) + 8, kAlignment)) - 8, ' ');
  const uint64_t size = header.size();
  file_.write(std::as_bytes(std::span(&size, 1)));
  file_.write(header);
}

void SafetensorsWriter::write_next(std::span<const std::byte> bytes) {
  ASHLAR_CHECK(next_ < tensors_.size());
  ASHLAR_CHECK_EQ(static_cast<int64_t>(bytes.size()), tensors_[next_].bytes);
  file_.write(bytes);
  ++next_;
}

void SafetensorsWriter::commit() {
  ASHLAR_CHECK_EQ(next_, tensors_.size());
  file_.commit();
}

}  // namespace ashlar
