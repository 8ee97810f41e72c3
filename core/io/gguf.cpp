#include "core/io/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/io/gguf_layout.h"

namespace ashlar {
namespace {
using namespace gguf;

static_assert(std::endian::native == std::endian::little);

constexpr const char* kAlignmentKey = "general.alignment";
constexpr int64_t kMaxDims = 4;
constexpr uint64_t kMaxKeys = 1 << 16;
// A value costs tens of bytes once read, whatever it takes in the file; the largest vocabularies
// have 1.3 million in all.
constexpr uint64_t kMaxValues = 1 << 22;

constexpr GgufTypeInfo kTypes[] = {
    {GgufType::kF32, "F32", 1, 4},
    {GgufType::kF16, "F16", 1, 2},
    {GgufType::kQ4_0, "Q4_0", 32, 18},
    {GgufType::kQ4_1, "Q4_1", 32, 20},
    {GgufType::kQ5_0, "Q5_0", 32, 22},
    {GgufType::kQ5_1, "Q5_1", 32, 24},
    {GgufType::kQ8_0, "Q8_0", 32, 34},
    {GgufType::kQ8_1, "Q8_1", 32, 40},
    {GgufType::kQ2_K, "Q2_K", 256, 84},
    {GgufType::kQ3_K, "Q3_K", 256, 110},
    {GgufType::kQ4_K, "Q4_K", 256, 144},
    {GgufType::kQ5_K, "Q5_K", 256, 176},
    {GgufType::kQ6_K, "Q6_K", 256, 210},
    {GgufType::kQ8_K, "Q8_K", 256, 292},
    {GgufType::kIQ2_XXS, "IQ2_XXS", 256, 66},
    {GgufType::kIQ2_XS, "IQ2_XS", 256, 74},
    {GgufType::kIQ3_XXS, "IQ3_XXS", 256, 98},
    {GgufType::kIQ1_S, "IQ1_S", 256, 50},
    {GgufType::kIQ4_NL, "IQ4_NL", 32, 18},
    {GgufType::kIQ3_S, "IQ3_S", 256, 110},
    {GgufType::kIQ2_S, "IQ2_S", 256, 82},
    {GgufType::kIQ4_XS, "IQ4_XS", 256, 136},
    {GgufType::kI8, "I8", 1, 1},
    {GgufType::kI16, "I16", 1, 2},
    {GgufType::kI32, "I32", 1, 4},
    {GgufType::kI64, "I64", 1, 8},
    {GgufType::kF64, "F64", 1, 8},
    {GgufType::kIQ1_M, "IQ1_M", 256, 56},
    {GgufType::kBF16, "BF16", 1, 2},
    {GgufType::kTQ1_0, "TQ1_0", 256, 54},
    {GgufType::kTQ2_0, "TQ2_0", 256, 66},
    {GgufType::kMXFP4, "MXFP4", 32, 17},
};

const GgufTypeInfo* find_type(uint32_t number) {
  for (const GgufTypeInfo& info : kTypes) {
    if (static_cast<uint32_t>(info.type) == number) return &info;
  }
  return nullptr;
}

// Fewest bytes a value of `type` takes; 0 for an unknown type.
uint64_t least_bytes(uint32_t type) {
  constexpr std::array<uint64_t, 13> kBytes = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
  return type < kBytes.size() ? kBytes[type] : 0;
}

double shortest_decimal(float value) {
  if (!std::isfinite(value)) return value;
  return std::strtod(fmt::format("{}", value).c_str(), nullptr);
}

class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, std::string file)
      : bytes_(bytes), file_(std::move(file)) {}

  const std::string& file() const { return file_; }
  size_t position() const { return at_; }
  uint64_t remaining() const { return bytes_.size() - at_; }

  template <typename T>
  T take(const char* what) {
    T value{};
    std::memcpy(&value, take_bytes(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  std::string_view take_text(const char* what) {
    const auto size = take<uint64_t>(what);
    const auto bytes = take_bytes(size, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  std::string take_name(const char* what) {
    const std::string_view name = take_text(what);
    require(is_name(name), ErrorCode::kData,
            "{}: {} at byte {} is not 1 to {} printable ASCII characters", file_, what, at_,
            kMaxNameBytes);
    return std::string(name);
  }

 private:
  std::span<const std::byte> take_bytes(uint64_t count, const char* what) {
    require(count <= remaining(), ErrorCode::kData,
            "{}: truncated: {} at byte {} needs {} bytes, the file has {} more", file_, what, at_,
            count, remaining());
    const auto part = bytes_.subspan(at_, static_cast<size_t>(count));
    at_ += static_cast<size_t>(count);
    return part;
  }

  std::span<const std::byte> bytes_;
  std::string file_;
  size_t at_ = 0;
};

class MetadataReader {
 public:
  MetadataReader(Cursor& cursor, uint64_t count) : in_(cursor), count_(count) {}

  Node read() {
    Node::Map entries;
    std::set<std::string> seen;
    for (uint64_t i = 0; i < count_; ++i) {
      key_ = in_.take_name("a metadata key");
      require(seen.insert(key_).second, ErrorCode::kData, "{}: key '{}' appears twice", in_.file(),
              key_);
      const auto type = in_.take<uint32_t>("a metadata type");
      entries.emplace_back(key_, type == kArray ? list() : value(type));
    }
    return Node(std::move(entries));
  }

 private:
  Node list() {
    const auto type = in_.take<uint32_t>("a list's type");
    const auto count = in_.take<uint64_t>("a list's length");
    require(type != kArray, ErrorCode::kData, "{}: key '{}': lists of lists are not supported",
            in_.file(), key_);
    const uint64_t least = known(type);
    require(count <= in_.remaining() / least, ErrorCode::kData,
            "{}: truncated: key '{}' lists {} values, the file has {} more bytes", in_.file(), key_,
            count, in_.remaining());
    values_ += count;
    require(values_ <= kMaxValues, ErrorCode::kData,
            "{}: key '{}': more than {} metadata values in the file", in_.file(), key_, kMaxValues);
    Node::List items;
    items.reserve(static_cast<size_t>(count));
    for (uint64_t i = 0; i < count; ++i) items.push_back(value(type));
    return Node(std::move(items));
  }

  uint64_t known(uint32_t type) const {
    const uint64_t least = least_bytes(type);
    require(least > 0, ErrorCode::kData, "{}: key '{}': unknown value type {}", in_.file(), key_,
            type);
    return least;
  }

  template <typename T>
  Node number() {
    return Node(static_cast<int64_t>(in_.take<T>("a metadata value")));
  }

  Node value(uint32_t type) {
    known(type);
    constexpr const char* kWhat = "a metadata value";
    switch (type) {
      case kU8:
        return number<uint8_t>();
      case kI8:
        return number<int8_t>();
      case kU16:
        return number<uint16_t>();
      case kI16:
        return number<int16_t>();
      case kU32:
        return number<uint32_t>();
      case kI32:
        return number<int32_t>();
      case kI64:
        return number<int64_t>();
      case kU64: {
        const auto v = in_.take<uint64_t>(kWhat);
        require(std::in_range<int64_t>(v), ErrorCode::kData, "{}: key '{}': {} is beyond 2^63-1",
                in_.file(), key_, v);
        return Node(static_cast<int64_t>(v));
      }
      case kF32:
        return Node(shortest_decimal(in_.take<float>(kWhat)));
      case kF64:
        return Node(in_.take<double>(kWhat));
      case kBool: {
        const auto v = in_.take<uint8_t>(kWhat);
        require(v <= 1, ErrorCode::kData, "{}: key '{}': {} is no truth value", in_.file(), key_,
                v);
        return Node(v == 1);
      }
      default:
        return Node(in_.take_text(kWhat));
    }
  }

  Cursor& in_;
  uint64_t count_;
  uint64_t values_ = 0;
  std::string key_;
};

GgufTensor read_tensor(Cursor& in) {
  GgufTensor t;
  t.name = in.take_name("a tensor name");
  const auto dims = in.take<uint32_t>("a tensor's dimensions");
  require(dims >= 1 && dims <= kMaxDims, ErrorCode::kData, "{}: tensor '{}' has {} dimensions",
          in.file(), t.name, dims);
  for (uint32_t i = 0; i < dims; ++i) {
    const auto d = in.take<uint64_t>("a tensor's dimension");
    require(d >= 1 && std::in_range<int64_t>(d), ErrorCode::kData,
            "{}: tensor '{}' has a dimension of {}", in.file(), t.name, d);
    t.shape.insert(t.shape.begin(), static_cast<int64_t>(d));
  }
  const auto number = in.take<uint32_t>("a tensor's type");
  const GgufTypeInfo* info = find_type(number);
  require(info != nullptr, ErrorCode::kData, "{}: tensor '{}' has the unknown type {}", in.file(),
          t.name, number);
  t.type = info->type;
  require(t.shape.back() % info->block == 0, ErrorCode::kData,
          "{}: tensor '{}': rows of {} are no whole {} blocks of {}", in.file(), t.name,
          t.shape.back(), info->name, info->block);
  const std::string what = fmt::format("{}: tensor '{}'", in.file(), t.name);
  t.bytes =
      checked_mul(checked_numel(t.shape, what.c_str()) / info->block, info->bytes, what.c_str());
  const auto offset = in.take<uint64_t>("a tensor's offset");
  require(std::in_range<int64_t>(offset), ErrorCode::kData, "{}: tensor '{}' starts at {}",
          in.file(), t.name, offset);
  t.offset = static_cast<int64_t>(offset);
  return t;
}

int64_t read_alignment(const Node& metadata, const std::string& file) {
  const Node* node = metadata.find(kAlignmentKey);
  if (node == nullptr) return kDefaultAlignment;
  require(node->is_int() && node->as_int() >= 1 && node->as_int() <= (1 << 20) &&
              std::has_single_bit(static_cast<uint64_t>(node->as_int())),
          ErrorCode::kData, "{}: {} is no power of two up to 2^20", file, kAlignmentKey);
  return node->as_int();
}

}  // namespace

const GgufTypeInfo& gguf_type_info(GgufType type) {
  const GgufTypeInfo* info = find_type(static_cast<uint32_t>(type));
  ASHLAR_CHECK(info != nullptr);
  return *info;
}

GgufFile::GgufFile(const std::filesystem::path& path) : file_(std::make_shared<MappedFile>(path)) {
  Cursor in(file_->bytes(), path.string());
  const auto magic = in.take<std::array<char, 4>>("the magic");
  require(std::string_view(magic.data(), magic.size()) == gguf::kMagic, ErrorCode::kData,
          "{}: not a GGUF file", in.file());
  const auto version = in.take<uint32_t>("the version");
  require((version & 0xffffu) != 0, ErrorCode::kData, "{}: big-endian GGUF is not supported",
          in.file());
  require(version == 2 || version == 3, ErrorCode::kData,
          "{}: GGUF version {} is not supported, only 2 and 3", in.file(), version);
  const auto tensors = in.take<uint64_t>("the number of tensors");
  const auto keys = in.take<uint64_t>("the number of keys");
  require(keys <= kMaxKeys, ErrorCode::kData, "{}: {} metadata keys", in.file(), keys);
  metadata_ = MetadataReader(in, keys).read();
  const int64_t alignment = read_alignment(metadata_, in.file());
  constexpr uint64_t kLeastTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;
  require(tensors <= in.remaining() / kLeastTensorBytes, ErrorCode::kData,
          "{}: truncated: {} tensors announced, the file has {} more bytes", in.file(), tensors,
          in.remaining());
  for (uint64_t i = 0; i < tensors; ++i) {
    tensors_.push_back(read_tensor(in));
    const std::string& name = tensors_.back().name;
    require(by_name_.emplace(name, tensors_.size() - 1).second, ErrorCode::kData,
            "{}: tensor '{}' appears twice", in.file(), name);
  }
  check_extents(in.position(), alignment);
}

void GgufFile::check_extents(size_t end_of_header, int64_t alignment) {
  const std::string file = path().string();
  const auto size = static_cast<int64_t>(file_->bytes().size());
  const int64_t start = round_up(static_cast<int64_t>(end_of_header), alignment);
  const int64_t available = std::max<int64_t>(size - start, 0);
  data_start_ = static_cast<size_t>(std::min(start, size));
  std::vector<const GgufTensor*> order;
  for (const GgufTensor& t : tensors_) order.push_back(&t);
  std::sort(order.begin(), order.end(),
            [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
  int64_t end = 0;
  for (const GgufTensor* t : order) {
    require(t->offset % alignment == 0, ErrorCode::kData,
            "{}: tensor '{}' starts at {}, no multiple of {}", file, t->name, t->offset, alignment);
    require(t->offset >= end, ErrorCode::kData, "{}: tensor '{}' overlaps the one before it", file,
            t->name);
    require(t->offset <= available && t->bytes <= available - t->offset, ErrorCode::kData,
            "{}: truncated: tensor '{}' needs {} bytes from {}, the data has {}", file, t->name,
            t->bytes, t->offset, available);
    end = t->offset + t->bytes;
  }
}

const GgufTensor* GgufFile::find(const std::string& name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

std::span<const std::byte> GgufFile::data(const GgufTensor& tensor) const {
  return file_->bytes().subspan(data_start_ + static_cast<size_t>(tensor.offset),
                                static_cast<size_t>(tensor.bytes));
}

bool is_gguf(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::array<char, 4> magic{};
  return in.read(magic.data(), magic.size()) &&
         std::string_view(magic.data(), magic.size()) == gguf::kMagic;
}

}  // namespace ashlar
