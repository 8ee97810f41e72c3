#include "train/events.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>
#include <cstring>

#include "core/base/error.h"

// TensorBoard's log format written directly: TFRecord framing around protobuf messages
// (tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto).

namespace ashlar {
namespace {

constexpr auto kCrcTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ ((c & 1u) != 0 ? 0x82F63B78u : 0u);
    table[i] = c;
  }
  return table;
}();

template <typename T>
void put_little(std::string& out, T value) {
  static_assert(std::endian::native == std::endian::little);
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>((value & 0x7f) | 0x80));
  out.push_back(static_cast<char>(value));
}

// Wire types of protobuf: 0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes.
void put_key(std::string& out, uint32_t field, uint32_t wire) {
  put_varint(out, (field << 3) | wire);
}
void put_bytes(std::string& out, uint32_t field, std::string_view value) {
  put_key(out, field, 2);
  put_varint(out, value.size());
  out.append(value);
}

uint32_t masked_crc(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8u; }

std::string event_head(double wall_time, int64_t step) {
  std::string event;
  put_key(event, 1, 1);
  put_little(event, wall_time);
  if (step != 0) {  // proto3 leaves out defaults
    put_key(event, 2, 0);
    put_varint(event, static_cast<uint64_t>(step));
  }
  return event;
}

double now() {
  using namespace std::chrono;
  return duration<double>(system_clock::now().time_since_epoch()).count();
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = 0xffffffffu;
  for (const char byte : bytes) {
    crc = kCrcTable[(crc ^ static_cast<uint8_t>(byte)) & 0xffu] ^ (crc >> 8);
  }
  return ~crc;
}

std::string tf_record(std::string_view data) {
  std::string out;
  put_little<uint64_t>(out, data.size());
  put_little(out, masked_crc(out));
  out.append(data);
  put_little(out, masked_crc(data));
  return out;
}

std::string scalar_event(double wall_time, int64_t step,
                         const std::vector<std::pair<std::string, double>>& values) {
  std::string summary;
  for (const auto& [tag, number] : values) {
    std::string value;
    put_bytes(value, 1, tag);
    put_key(value, 2, 5);
    put_little(value, static_cast<float>(number));
    put_bytes(summary, 1, value);
  }
  std::string event = event_head(wall_time, step);
  put_bytes(event, 5, summary);
  return event;
}

std::string version_event(double wall_time) {
  std::string event = event_head(wall_time, 0);
  put_bytes(event, 3, "brain.Event:2");
  return event;
}

std::string session_start_event(double wall_time, int64_t step) {
  std::string event = event_head(wall_time, step), status;
  put_key(status, 1, 0);
  put_varint(status, 1);
  put_bytes(event, 7, status);
  return event;
}

EventWriter::EventWriter(const std::filesystem::path& folder, int64_t step) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  require(!error, ErrorCode::kIo, "{}: {}", folder.string(), error.message());
  char host[256] = {};
  if (gethostname(host, sizeof(host) - 1) != 0) std::strcpy(host, "localhost");
  const double start = now();
  file_.emplace(folder / fmt::format("events.out.tfevents.{:010}.{}.{}.{}",
                                     static_cast<int64_t>(start), host, getpid(), step),
                0);
  file_->append(tf_record(version_event(start)));
  if (step > 0) file_->append(tf_record(session_start_event(start, step + 1)));
}

void EventWriter::scalars(int64_t step, const std::vector<std::pair<std::string, double>>& values) {
  file_->append(tf_record(scalar_event(now(), step, values)));
}

}  // namespace ashlar
