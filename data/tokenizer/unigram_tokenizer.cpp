#include "data/tokenizer/unigram_tokenizer.h"

#include <cmath>
#include <unordered_set>

#include "core/base/error.h"
#include "core/io/sha256.h"
#include "data/tokenizer/bpe_tokenizer.h"
#include "data/tokenizer/text.h"

namespace ashlar {
namespace {

using Pieces = std::vector<SpmVocabulary::Piece>;

constexpr float kScoreLimit = 1e9f;  // no sum over a text overflows

bool written_special(SpmKind kind) {
  return kind == SpmKind::kControl || kind == SpmKind::kUnknown;
}

/// The library's own conditions, and UTF-8.
const Pieces& checked(const Pieces& pieces, const std::string& file) {
  std::unordered_set<std::string_view> matched, reserved;
  int normal = 0, unknown = 0;
  for (size_t id = 0; id < pieces.size(); ++id) {
    const auto& [text, score, kind] = pieces[id];
    require(!text.empty(), ErrorCode::kData, "{}: token {} is empty", file, id);
    const Utf8Run run = next_utf8_run(text, 0);
    require(run.valid && run.bytes.size() == text.size(), ErrorCode::kData,
            "{}: token {} is not UTF-8", file, id);
    require(std::abs(score) <= kScoreLimit, ErrorCode::kData,
            "{}: token {}: score is not a number or out of range", file, id);
    const bool inside = !written_special(kind) && kind != SpmKind::kByte;
    require((inside ? matched : reserved).insert(text).second, ErrorCode::kData,
            "{}: the vocabulary holds '{}' twice", file, text);
    normal += kind == SpmKind::kNormal;
    unknown += kind == SpmKind::kUnknown;
  }
  require(unknown == 1, ErrorCode::kData, "{}: {} unknown tokens, expected one", file, unknown);
  require(normal > 0, ErrorCode::kData, "{}: the vocabulary has no normal token", file);
  return pieces;
}

std::vector<std::string> user_defined(const Pieces& pieces) {
  std::vector<std::string> out;
  for (const SpmVocabulary::Piece& piece : pieces) {
    if (piece.kind == SpmKind::kUserDefined) out.push_back(piece.text);
  }
  return out;
}

std::string with_spaces(const std::string& text) {
  const std::string_view mark = kWordStart;
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const bool space = text.compare(at, mark.size(), mark) == 0;
    out += space ? ' ' : text[at];
    at += space ? mark.size() : 1;
  }
  return out;
}

}  // namespace

UnigramTokenizer::UnigramTokenizer(UnigramVocabulary vocabulary, const std::string& file)
    : vocabulary_(std::move(vocabulary)),
      model_(checked(vocabulary_.pieces, file)),
      normalizer_(vocabulary_.normalizer, user_defined(vocabulary_.pieces), file) {
  hash_ = sha256_hex(std::as_bytes(std::span(vocabulary_.json)));
  std::vector<AddedToken> special;
  for (size_t i = 0; i < vocabulary_.pieces.size(); ++i) {
    const SpmVocabulary::Piece& piece = vocabulary_.pieces[i];
    const auto id = static_cast<int32_t>(i);
    id_of_.emplace(piece.text, id);
    if (piece.kind == SpmKind::kUnknown) unknown_ = id;
    if (!written_special(piece.kind)) continue;
    id_of_[piece.text] = id;
    special.push_back({.id = id, .content = piece.text, .special = true});
  }
  special_tokens_ = AddedTokenFinder(std::move(special));
  build_bytes(file);
}

void UnigramTokenizer::build_bytes(const std::string& file) {
  byte_ids_.fill(-1);
  std::unordered_map<std::string, int> byte_of;
  for (int byte = 0; byte < 256; ++byte) byte_of.emplace(fmt::format("<0x{:02X}>", byte), byte);
  for (size_t id = 0; id < vocabulary_.pieces.size(); ++id) {
    const SpmVocabulary::Piece& piece = vocabulary_.pieces[id];
    std::string& bytes = bytes_.emplace_back();
    if (piece.kind == SpmKind::kByte) {
      const auto found = byte_of.find(piece.text);
      require(vocabulary_.byte_fallback && found != byte_of.end(), ErrorCode::kData,
              "{}: byte token '{}' without byte_fallback, or no byte", file, piece.text);
      byte_ids_[static_cast<size_t>(found->second)] = static_cast<int32_t>(id);
      bytes.assign(1, static_cast<char>(found->second));
    } else if (piece.kind == SpmKind::kUnknown) {
      bytes = vocabulary_.unknown_surface;
    } else {
      bytes = piece.kind == SpmKind::kControl ? piece.text : with_spaces(piece.text);
    }
  }
  for (size_t byte = 0; byte < 256 && vocabulary_.byte_fallback; ++byte) {
    require(byte_ids_[byte] >= 0, ErrorCode::kData, "{}: no token for byte 0x{:02X}", file, byte);
  }
}

const std::string& UnigramTokenizer::token_bytes(int32_t id) const {
  require(id >= 0 && id < vocab_size(), ErrorCode::kRequest,
          "token id {} is outside the vocabulary of {}", id, vocab_size());
  return bytes_[static_cast<size_t>(id)];
}

bool UnigramTokenizer::is_special(int32_t id) const {
  return id >= 0 && id < vocab_size() &&
         vocabulary_.pieces[static_cast<size_t>(id)].kind == SpmKind::kControl;
}

bool UnigramTokenizer::strips_leading_space() const {
  // Without the dummy prefix the library still drops a U+2581 in front where extra white space is
  // removed; no text encodes to one then, and the unknown token's own space has to stay.
  return vocabulary_.normalizer.escape_spaces && vocabulary_.normalizer.dummy_prefix;
}

std::optional<int32_t> UnigramTokenizer::find_token(std::string_view content) const {
  const auto found = id_of_.find(std::string(content));
  if (found == id_of_.end()) return std::nullopt;
  return found->second;
}

std::string UnigramTokenizer::description() const {
  return fmt::format("SentencePiece Unigram, {} tokens", vocab_size());
}

void UnigramTokenizer::encode_text(std::string_view text, bool continues, bool lossy,
                                   std::vector<int32_t>& ids) const {
  const std::string normalized = normalizer_.normalize(text, continues, lossy);
  bool after_unknown = false;
  for (const UnigramModel::Span& span : model_.best_path(normalized)) {
    const bool is_unknown = span.id == unknown_;
    if (is_unknown && vocabulary_.byte_fallback) {
      for (size_t at = span.begin; at < span.end; ++at) {
        ids.push_back(byte_ids_[static_cast<uint8_t>(normalized[at])]);
      }
    } else if (!is_unknown || !after_unknown) {
      ids.push_back(span.id);
    }
    after_unknown = is_unknown;
  }
}

std::vector<int32_t> UnigramTokenizer::encode(std::string_view text,
                                              const EncodeOptions& options) const {
  std::vector<int32_t> ids;
  if (options.add_special && vocabulary_.bos) ids.push_back(*vocabulary_.bos);
  special_tokens_.split(text, !options.parse_special,
                        [&](std::string_view part, const AddedToken* token) {
                          if (token != nullptr) {
                            ids.push_back(token->id);
                          } else {
                            encode_text(part, false, options.lossy, ids);
                          }
                        });
  return ids;
}

std::vector<int32_t> UnigramTokenizer::encode_pieces(std::span<const TextPiece> pieces,
                                                     bool text_start) const {
  std::vector<int32_t> ids;
  std::string run;  // plain text since the last special token
  bool continues = !text_start;
  for (const TextPiece& piece : pieces) {
    const std::optional<int32_t> id = piece.special ? find_token(piece.text) : std::nullopt;
    if (!id || !written_special(vocabulary_.pieces[static_cast<size_t>(*id)].kind)) {
      run += piece.text;
      continue;
    }
    encode_text(run, continues, false, ids);
    ids.push_back(*id);
    run.clear();
    continues = false;
  }
  encode_text(run, continues, false, ids);
  return ids;
}

}  // namespace ashlar
