#pragma once

#include <string>

#include "core/base/error.h"
#include "data/tokenizer/tokenizer.h"

namespace ashlar::test {

/// Every byte is a token: texts can be read back from ids without trusting a tokenizer.
class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() {
    for (int i = 0; i < 256; ++i) bytes_.emplace_back(1, static_cast<char>(i));
    hash_ = "bytes";
  }
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions&) const override {
    std::vector<int32_t> out;
    for (char c : text) out.push_back(static_cast<unsigned char>(c));
    return out;
  }
  std::vector<int32_t> encode_pieces(std::span<const TextPiece> pieces, bool) const override {
    std::string text;
    for (const TextPiece& piece : pieces) text += piece.text;
    return encode(text, {});
  }
  const std::string& token_bytes(int32_t id) const override {
    return bytes_.at(static_cast<size_t>(id));
  }
  bool is_special(int32_t) const override { return false; }
  bool strips_leading_space() const override { return false; }
  int64_t vocab_size() const override { return 256; }
  std::optional<int32_t> bos_id() const override { return {}; }
  std::optional<int32_t> eos_id() const override { return 0; }
  std::optional<int32_t> find_token(std::string_view) const override { return {}; }
  std::string description() const override { return "bytes"; }
  const std::string& json() const override { return json_; }

 private:
  std::vector<std::string> bytes_;
  std::string json_;
};

}  // namespace ashlar::test
