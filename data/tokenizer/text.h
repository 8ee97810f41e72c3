#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

// UTF-8, white space, normal forms and the byte alphabet of byte-level BPE.

namespace ashlar {

struct Utf8Char {
  int32_t code_point = -1;  ///< -1: the byte at this place begins no valid character
  int length = 1;           ///< bytes; 1 for an invalid byte
};

/// The character at `position` < text.size(). Overlong forms, surrogates and values above U+10FFFF
/// are invalid.
Utf8Char utf8_at(std::string_view text, size_t position);
/// The same in text known to be valid, where a character begins.
inline Utf8Char valid_utf8_at(std::string_view text, size_t position) {
  const auto byte = [&](size_t i) {
    return static_cast<int32_t>(static_cast<uint8_t>(text[position + i]));
  };
  const int32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  if (first < 0xe0) return {(first & 0x1f) << 6 | (byte(1) & 0x3f), 2};
  if (first < 0xf0) {
    return {(first & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f), 3};
  }
  return {(first & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f),
          4};
}
void append_utf8(std::string& out, int32_t code_point);

/// The longest prefix of `text` from `position` on that is valid UTF-8, or, when the byte there is
/// invalid, the run of bytes until the next valid character.
struct Utf8Run {
  std::string_view bytes;
  bool valid = true;
};
Utf8Run next_utf8_run(std::string_view text, size_t position);

/// Unicode's White_Space property (unicode.h); false for a negative value.
bool is_white_space(int32_t code_point);

/// Where the white space that ends at `end` begins, not before `from`.
size_t white_space_before(std::string_view text, size_t from, size_t end);
/// Where the white space that begins at `begin` ends.
size_t white_space_after(std::string_view text, size_t begin);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
/// Normalises every valid run by the rules of Unicode 9.0, as the reference does (unicode.h);
/// invalid bytes stay as they are.
std::string normalize(std::string_view text, NormalForm form);

/// GPT-2's printable alphabet: the character that stands for a byte in vocabularies, and back.
/// Bytes that print in Latin-1 stand for themselves, the rest take U+0100 and up.
int32_t byte_to_char(uint8_t byte);
std::optional<uint8_t> char_to_byte(int32_t code_point);
/// Bytes → the alphabet's text.
std::string bytes_to_alphabet(std::string_view bytes);
/// The alphabet's text → bytes; nullopt when a character is not of the alphabet.
std::optional<std::string> alphabet_to_bytes(std::string_view text);

}  // namespace ashlar
