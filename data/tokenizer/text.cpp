#include "data/tokenizer/text.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "core/base/error.h"

namespace ashlar {

Utf8Char utf8_at(std::string_view text, size_t position) {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + position;
  if (*bytes < 0x80) return {*bytes, 1};
  utf8proc_int32_t code_point = -1;
  const auto length =
      utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(text.size() - position), &code_point);
  if (length <= 0) return {-1, 1};
  return {code_point, static_cast<int>(length)};
}

void append_utf8(std::string& out, int32_t code_point) {
  utf8proc_uint8_t bytes[4];
  const auto length = utf8proc_encode_char(code_point, bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
}

Utf8Run next_utf8_run(std::string_view text, size_t position) {
  size_t end = position;
  const bool valid = utf8_at(text, position).code_point >= 0;
  while (end < text.size()) {
    const Utf8Char c = utf8_at(text, end);
    if ((c.code_point >= 0) != valid) break;
    end += static_cast<size_t>(c.length);
  }
  return {text.substr(position, end - position), valid};
}

bool is_white_space(int32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

size_t white_space_before(std::string_view text, size_t from, size_t end) {
  while (end > from) {
    size_t begin = end - 1;
    while (begin > from && (static_cast<uint8_t>(text[begin]) & 0xc0) == 0x80) --begin;
    const Utf8Char c = utf8_at(text, begin);
    if (begin + static_cast<size_t>(c.length) != end || !is_white_space(c.code_point)) break;
    end = begin;
  }
  return end;
}

size_t white_space_after(std::string_view text, size_t begin) {
  size_t end = begin;
  while (end < text.size()) {
    const Utf8Char c = utf8_at(text, end);
    if (!is_white_space(c.code_point)) break;
    end += static_cast<size_t>(c.length);
  }
  return end;
}

namespace {

int form_options(NormalForm form) {
  switch (form) {
    case NormalForm::kNfc:
      return UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    case NormalForm::kNfd:
      return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    case NormalForm::kNfkc:
      return UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
    case NormalForm::kNfkd:
      return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
  }
  fail(ErrorCode::kInternal, "unknown normal form");
}

/// True when normalising cannot change the text: ASCII only, or for NFC only characters below
/// U+0300, which neither decompose for good nor compose with what precedes them.
bool is_inert(std::string_view text, NormalForm form) {
  const uint8_t limit = form == NormalForm::kNfc ? 0xcc : 0x80;
  for (char c : text) {
    if (static_cast<uint8_t>(c) >= limit) return false;
  }
  return true;
}

}  // namespace

std::string normalize(std::string_view text, NormalForm form) {
  std::string out;
  out.reserve(text.size());
  for (size_t position = 0; position < text.size();) {
    const Utf8Run run = next_utf8_run(text, position);
    position += run.bytes.size();
    if (!run.valid || is_inert(run.bytes, form)) {
      out += run.bytes;
      continue;
    }
    utf8proc_uint8_t* raw = nullptr;
    const auto length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(run.bytes.data()),
                                     static_cast<utf8proc_ssize_t>(run.bytes.size()), &raw,
                                     static_cast<utf8proc_option_t>(form_options(form)));
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(raw, &std::free);
    require(length >= 0, ErrorCode::kResource, "cannot normalise {} bytes of text: {}",
            run.bytes.size(), utf8proc_errmsg(length));
    out.append(reinterpret_cast<const char*>(raw), static_cast<size_t>(length));
  }
  return out;
}

namespace {

struct ByteAlphabet {
  std::array<int32_t, 256> to_char{};
  std::array<int16_t, 0x144> to_byte{};
  ByteAlphabet() {
    to_byte.fill(-1);
    int32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool prints = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      const int32_t c = prints ? b : next++;
      to_char[static_cast<size_t>(b)] = c;
      to_byte[static_cast<size_t>(c)] = static_cast<int16_t>(b);
    }
  }
};

const ByteAlphabet& alphabet() {
  static const ByteAlphabet table;
  return table;
}

}  // namespace

int32_t byte_to_char(uint8_t byte) { return alphabet().to_char[byte]; }

std::optional<uint8_t> char_to_byte(int32_t code_point) {
  const auto& table = alphabet().to_byte;
  if (code_point < 0 || code_point >= static_cast<int32_t>(table.size())) return std::nullopt;
  const int16_t byte = table[static_cast<size_t>(code_point)];
  if (byte < 0) return std::nullopt;
  return static_cast<uint8_t>(byte);
}

std::string bytes_to_alphabet(std::string_view bytes) {
  std::string out;
  for (char c : bytes) append_utf8(out, byte_to_char(static_cast<uint8_t>(c)));
  return out;
}

std::optional<std::string> alphabet_to_bytes(std::string_view text) {
  std::string out;
  for (size_t position = 0; position < text.size();) {
    const Utf8Char c = utf8_at(text, position);
    const std::optional<uint8_t> byte = char_to_byte(c.code_point);
    if (!byte) return std::nullopt;
    out.push_back(static_cast<char>(*byte));
    position += static_cast<size_t>(c.length);
  }
  return out;
}

}  // namespace ashlar
