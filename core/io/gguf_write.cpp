#include <fmt/format.h>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/io/gguf.h"
#include "core/io/gguf_layout.h"

namespace ashlar {
namespace {
using namespace gguf;

template <typename T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void append_text(std::string& out, std::string_view text) {
  append(out, static_cast<uint64_t>(text.size()));
  out += text;
}

template <typename T>
void append_all(std::string& out, std::span<const T> values) {
  out.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
}

}  // namespace

void GgufMetadata::begin(std::string_view key, uint32_t type) {
  ASHLAR_CHECK(is_name(key));
  append_text(bytes_, key);
  append(bytes_, type);
  ++count_;
}

void GgufMetadata::begin_list(std::string_view key, uint32_t type, size_t count) {
  begin(key, kArray);
  append(bytes_, type);
  append(bytes_, static_cast<uint64_t>(count));
}

void GgufMetadata::u32(std::string_view key, int64_t value) {
  begin(key, kU32);
  append(bytes_, checked_cast<uint32_t>(value, std::string(key).c_str()));
}

void GgufMetadata::f32(std::string_view key, double value) {
  begin(key, kF32);
  append(bytes_, static_cast<float>(value));
}

void GgufMetadata::boolean(std::string_view key, bool value) {
  begin(key, kBool);
  append(bytes_, static_cast<uint8_t>(value));
}

void GgufMetadata::text(std::string_view key, std::string_view value) {
  begin(key, kString);
  append_text(bytes_, value);
}

void GgufMetadata::texts(std::string_view key, std::span<const std::string> values) {
  begin_list(key, kString, values.size());
  for (const std::string& value : values) append_text(bytes_, value);
}

void GgufMetadata::i32s(std::string_view key, std::span<const int32_t> values) {
  begin_list(key, kI32, values.size());
  append_all(bytes_, values);
}

void GgufMetadata::f32s(std::string_view key, std::span<const float> values) {
  begin_list(key, kF32, values.size());
  append_all(bytes_, values);
}

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
                       std::vector<GgufTensor> tensors)
    : file_(path), tensors_(std::move(tensors)) {
  std::string header(kMagic);
  append(header, uint32_t{3});
  append(header, static_cast<uint64_t>(tensors_.size()));
  append(header, static_cast<uint64_t>(metadata.count()));
  header += metadata.bytes();
  int64_t offset = 0;
  for (GgufTensor& t : tensors_) {
    const GgufTypeInfo& info = gguf_type_info(t.type);
    ASHLAR_CHECK(is_name(t.name) && !t.shape.empty());
    ASHLAR_CHECK_EQ(t.shape.back() % info.block, 0);
    t.offset = offset;
    t.bytes = checked_mul(checked_numel(t.shape, "tensor") / info.block, info.bytes, "tensor");
    offset = round_up(checked_add(offset, t.bytes, "GGUF"), kDefaultAlignment);
    append_text(header, t.name);
    append(header, static_cast<uint32_t>(t.shape.size()));
    for (auto d = t.shape.rbegin(); d != t.shape.rend(); ++d) {
      append(header, static_cast<uint64_t>(*d));
    }
    append(header, static_cast<uint32_t>(t.type));
    append(header, static_cast<uint64_t>(t.offset));
  }
  file_.write(header);
  pad(static_cast<int64_t>(header.size()));
}

void GgufWriter::pad(int64_t written) {
  const int64_t missing = round_up(written, kDefaultAlignment) - written;
  file_.write(std::string(static_cast<size_t>(missing), '\0'));
}

void GgufWriter::write_part(std::span<const std::byte> bytes) {
  ASHLAR_CHECK(next_ < tensors_.size());
  written_ += static_cast<int64_t>(bytes.size());
  ASHLAR_CHECK_LE(written_, tensors_[next_].bytes);
  file_.write(bytes);
  if (written_ < tensors_[next_].bytes) return;
  pad(written_);
  written_ = 0;
  ++next_;
}

void GgufWriter::write_next(std::span<const std::byte> bytes) {
  ASHLAR_CHECK(next_ < tensors_.size() && written_ == 0);
  ASHLAR_CHECK_EQ(static_cast<int64_t>(bytes.size()), tensors_[next_].bytes);
  write_part(bytes);
}

void GgufWriter::commit() {
  ASHLAR_CHECK_EQ(next_, tensors_.size());
  file_.commit();
}

}  // namespace ashlar
