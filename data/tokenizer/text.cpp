#include "data/tokenizer/text.h"

#include <utf8proc.h>

#include <cstdlib>
#include <cstring>
#include <memory>

#include "core/base/error.h"
#include "data/tokenizer/unicode.h"

namespace ashlar {

Utf8Char utf8_at(std::string_view text, size_t position) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.data()) + position;
  const size_t left = text.size() - position;
  const uint8_t first = bytes[0];
  const auto follows = [&](size_t i, uint8_t low, uint8_t high) {
    return i < left && bytes[i] >= low && bytes[i] <= high;
  };
  if (first < 0x80) return {first, 1};
  // Unicode 16, table 3-7.
  bool valid = false;
  if (first >= 0xc2 && first <= 0xdf) {
    valid = follows(1, 0x80, 0xbf);
  } else if (first >= 0xe0 && first <= 0xef) {
    const uint8_t low = first == 0xe0 ? 0xa0 : 0x80, high = first == 0xed ? 0x9f : 0xbf;
    valid = follows(1, low, high) && follows(2, 0x80, 0xbf);
  } else if (first >= 0xf0 && first <= 0xf4) {
    const uint8_t low = first == 0xf0 ? 0x90 : 0x80, high = first == 0xf4 ? 0x8f : 0xbf;
    valid = follows(1, low, high) && follows(2, 0x80, 0xbf) && follows(3, 0x80, 0xbf);
  }
  if (!valid) return {-1, 1};
  return valid_utf8_at(text, position);
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
    uint64_t eight = 0;  // most text is ASCII
    if (valid && text.size() - end >= sizeof eight) {
      std::memcpy(&eight, text.data() + end, sizeof eight);
      if ((eight & 0x8080808080808080u) == 0) {
        end += sizeof eight;
        continue;
      }
    }
    const Utf8Char c = utf8_at(text, end);
    if ((c.code_point >= 0) != valid) break;
    end += static_cast<size_t>(c.length);
  }
  return {text.substr(position, end - position), valid};
}

bool is_white_space(int32_t code_point) {
  return code_point >= 0 && char_kinds()[code_point] == CharKind::kSpace;
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

void append_normalized(std::string& out, std::string_view text, NormalForm form) {
  utf8proc_uint8_t* raw = nullptr;
  const auto length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                   static_cast<utf8proc_ssize_t>(text.size()), &raw,
                                   static_cast<utf8proc_option_t>(form_options(form)));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(raw, &std::free);
  require(length >= 0, ErrorCode::kResource, "cannot normalise {} bytes of text: {}", text.size(),
          utf8proc_errmsg(length));
  out.append(reinterpret_cast<const char*>(raw), static_cast<size_t>(length));
}

/// Normalises valid text piece by piece: where a safe character begins, what is before it cannot
/// matter to what follows, nor the other way round (Unicode standard annex 15, section 9). So only
/// stretches with an unsafe character are looked at, from the safe one in front of them.
void append_valid_normalized(std::string& out, std::string_view text, NormalForm form) {
  const uint8_t* flags = normal_form_flags();
  const auto unsafe = static_cast<uint8_t>(1u << static_cast<unsigned>(form));
  size_t done = 0;      // bytes already in `out`
  size_t boundary = 0;  // where the last safe character begins
  for (size_t at = 0; at < text.size();) {
    if (static_cast<uint8_t>(text[at]) < 0x80) {
      boundary = at++;
      continue;
    }
    const Utf8Char c = valid_utf8_at(text, at);
    const uint8_t flag = flags[c.code_point];
    const size_t next = at + static_cast<size_t>(c.length);
    if ((flag & unsafe) == 0) {
      boundary = (flag & kNewerCharacter) != 0 ? next : at;
      at = next;
      continue;
    }
    for (at = next; at < text.size();) {
      const Utf8Char follows = valid_utf8_at(text, at);
      if ((flags[follows.code_point] & unsafe) == 0) break;
      at += static_cast<size_t>(follows.length);
    }
    out += text.substr(done, boundary - done);
    append_normalized(out, text.substr(boundary, at - boundary), form);
    done = boundary = at;
  }
  out += text.substr(done);
}

}  // namespace

std::string normalize(std::string_view text, NormalForm form) {
  std::string out;
  out.reserve(text.size());
  for (size_t position = 0; position < text.size();) {
    const Utf8Run run = next_utf8_run(text, position);
    position += run.bytes.size();
    if (run.valid) {
      append_valid_normalized(out, run.bytes, form);
    } else {
      out += run.bytes;
    }
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
