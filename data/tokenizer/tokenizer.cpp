#include "data/tokenizer/tokenizer.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/io/atomic_file.h"
#include "core/io/gguf.h"
#include "core/io/json.h"
#include "data/tokenizer/gguf_vocabulary.h"
#include "data/tokenizer/hf_json.h"
#include "data/tokenizer/llama2c.h"
#include "data/tokenizer/sentencepiece.h"
#include "data/tokenizer/text.h"

namespace ashlar {

namespace fs = std::filesystem;

const std::string& Tokenizer::hash() const { return hash_; }

std::vector<int32_t> Tokenizer::encode_parallel(std::string_view text, ThreadPool&,
                                                const EncodeOptions& options, int64_t) const {
  return encode(text, options);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool keep_special) const {
  std::string bytes;
  for (int32_t id : ids) {
    const std::string& piece = token_bytes(id);
    if (keep_special || !is_special(id)) bytes += piece;
  }
  if (strips_leading_space() && bytes.starts_with(' ')) bytes.erase(0, 1);
  return bytes;
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool text_start)
    : tokenizer_(tokenizer), strip_(text_start && tokenizer.strips_leading_space()) {}

std::string StreamDecoder::push(int32_t id) {
  const std::string& piece = tokenizer_.token_bytes(id);
  if (piece.empty() || tokenizer_.is_special(id)) return {};
  pending_ += piece;
  if (strip_ && pending_.starts_with(' ')) pending_.erase(0, 1);
  strip_ = false;
  std::string rest;
  std::string out = to_valid_utf8(pending_, &rest);
  pending_ = std::move(rest);
  return out;
}

std::string StreamDecoder::finish() {
  std::string out = to_valid_utf8(pending_);
  pending_.clear();
  return out;
}

namespace {

/// Length of the longest prefix of `bytes` that begins some valid character but is not one yet, at
/// most 3; 0 when the first byte cannot begin a character.
size_t unfinished_length(std::string_view bytes) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  const uint8_t lead = byte(0);
  size_t need = 0;
  uint8_t low = 0x80, high = 0xbf;  // allowed second byte (Unicode 15, table 3-7)
  if (lead >= 0xc2 && lead <= 0xdf) need = 2;
  if (lead >= 0xe0 && lead <= 0xef) need = 3;
  if (lead >= 0xf0 && lead <= 0xf4) need = 4;
  if (need == 0) return 0;
  if (lead == 0xe0) low = 0xa0;
  if (lead == 0xed) high = 0x9f;
  if (lead == 0xf0) low = 0x90;
  if (lead == 0xf4) high = 0x8f;
  size_t n = 1;
  while (n < need && n < bytes.size()) {
    if (byte(n) < low || byte(n) > high) break;
    low = 0x80;
    high = 0xbf;
    ++n;
  }
  return n;
}

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

}  // namespace

std::string to_valid_utf8(std::string_view bytes, std::string* rest) {
  std::string out;
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Char c = utf8_at(bytes, at);
    if (c.code_point >= 0) {
      out += bytes.substr(at, static_cast<size_t>(c.length));
      at += static_cast<size_t>(c.length);
      continue;
    }
    const size_t length = unfinished_length(bytes.substr(at));
    if (rest != nullptr && length > 0 && at + length == bytes.size()) {
      *rest = bytes.substr(at);
      return out;
    }
    out += kReplacement;
    at += std::max<size_t>(length, 1);
  }
  return out;
}

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) {
    const fs::path file = path / "tokenizer.json";
    const fs::path model = path / "tokenizer.model";
    if (!fs::exists(file, error) && fs::exists(model, error)) return load_tokenizer(model);
    require(fs::exists(file, error), ErrorCode::kRequest,
            "{}: no tokenizer.json or tokenizer.model in this folder", path.string());
    TokenizerHints hints;
    const fs::path config = path / "tokenizer_config.json";
    if (fs::exists(config, error)) hints = read_tokenizer_config(load_json(config));
    return parse_hf_tokenizer(read_file(file), file.string(), hints);
  }
  if (is_gguf(path)) return parse_gguf_tokenizer(GgufFile(path).metadata(), path.string());
  const std::string bytes = read_file(path);
  const size_t first = bytes.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && bytes[first] == '{') {
    return parse_hf_tokenizer(bytes, path.string());
  }
  if (path.extension() == ".bin") return parse_llama2c_tokenizer(bytes, path.string());
  if (path.extension() == ".model") return parse_sentencepiece(bytes, path.string());
  fail(ErrorCode::kData,
       "{}: neither a tokenizer.json nor a GGUF file, a SentencePiece .model or a llama2.c .bin",
       path.string());
}

}  // namespace ashlar
