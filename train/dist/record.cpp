#include "train/dist/record.h"

#include <charconv>

#include "core/base/error.h"

namespace ashlar {

constexpr char kSeparator = '\x1f';

std::string encode_record(const std::vector<std::string>& fields) {
  std::string text;
  for (size_t i = 0; i < fields.size(); ++i) {
    if (i > 0) text += kSeparator;
    for (const char c : fields[i]) text += c == kSeparator ? ' ' : c;
  }
  return text;
}

std::vector<std::string> decode_record(const std::string& text, size_t count) {
  std::vector<std::string> fields(1);
  for (const char c : text) {
    if (c == kSeparator) {
      fields.emplace_back();
    } else {
      fields.back() += c;
    }
  }
  require(fields.size() == count, ErrorCode::kIo,
          "the store of the run holds a record of {} fields where {} belong: does another program, "
          "or another version, use the same MASTER_ADDR and MASTER_PORT?",
          fields.size(), count);
  return fields;
}

int64_t record_number(const std::string& field) {
  int64_t value = 0;
  const char* end = field.data() + field.size();
  const auto [stop, error] = std::from_chars(field.data(), end, value);
  require(error == std::errc{} && stop == end, ErrorCode::kIo,
          "the store of the run holds \"{}\" where a number belongs", field);
  return value;
}

}  // namespace ashlar
