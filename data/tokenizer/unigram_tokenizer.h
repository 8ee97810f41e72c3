#pragma once

#include <array>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/base/node.h"
#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/spm_normalizer.h"
#include "data/tokenizer/spm_vocabulary.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/unigram_model.h"

namespace ashlar {

/// A SentencePiece model of type Unigram as its file says.
struct UnigramVocabulary {
  std::vector<SpmVocabulary::Piece> pieces;
  SpmNormalizerSpec normalizer;
  bool byte_fallback = false;
  std::string unknown_surface = " \xe2\x81\x87 ";  ///< what the unknown token decodes to
  std::optional<int32_t> bos, eos;
  std::string json;
};

/// Unigram as the SentencePiece library does it. Where the library has no notion: special tokens
/// (control ones and the unknown one) written in a text are recognised with `parse_special`, and
/// each stretch of text between them is normalised as a text of its own.
class UnigramTokenizer : public Tokenizer {
 public:
  /// Throws Error(kData) naming `file` for a vocabulary the library would refuse.
  UnigramTokenizer(UnigramVocabulary vocabulary, const std::string& file);

  /// A character without a piece becomes the unknown token, a run of them one; with byte fallback
  /// its bytes. A byte that is no UTF-8 is an error unless `lossy`, which makes it U+FFFD.
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const override;
  std::vector<int32_t> encode_pieces(std::span<const TextPiece> pieces,
                                     bool text_start) const override;
  const std::string& token_bytes(int32_t id) const override;
  bool is_special(int32_t id) const override;
  bool strips_leading_space() const override;
  int64_t vocab_size() const override { return static_cast<int64_t>(vocabulary_.pieces.size()); }
  std::optional<int32_t> bos_id() const override { return vocabulary_.bos; }
  std::optional<int32_t> eos_id() const override { return vocabulary_.eos; }
  std::optional<int32_t> find_token(std::string_view content) const override;
  std::string description() const override;
  const std::string& json() const override { return vocabulary_.json; }

 private:
  void build_bytes(const std::string& file);
  void encode_text(std::string_view text, bool continues, bool lossy,
                   std::vector<int32_t>& ids) const;

  UnigramVocabulary vocabulary_;
  UnigramModel model_;
  SpmNormalizer normalizer_;
  AddedTokenFinder special_tokens_;
  std::unordered_map<std::string, int32_t> id_of_;
  std::vector<std::string> bytes_;  ///< decoded form by id
  std::array<int32_t, 256> byte_ids_{};
  int32_t unknown_ = -1;
};

/// The tokenizer.json of `vocabulary`, read from the bytes `model`: Hugging Face's form for other
/// programs, and the whole model in `model.sentencepiece` (base64), by which
/// parse_unigram_json gives the same ids. Hugging Face's meaning of that form differs in places:
/// it looks up the character map by grapheme cluster and sums scores in double.
std::string write_unigram_json(const UnigramVocabulary& vocabulary, std::string_view model);

/// True for a tokenizer.json whose model is of type Unigram.
bool is_unigram_json(const Node& root);
/// Reads what write_unigram_json wrote. Throws Error(kData) naming `file` for any other, even if
/// it was this once: what the file says and what the model in it says must be the same.
std::unique_ptr<Tokenizer> parse_unigram_json(const Node& root, const std::string& text,
                                              const std::string& file);

}  // namespace ashlar
