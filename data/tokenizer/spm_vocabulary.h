#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace ashlar {

/// SentencePiece's kinds of token; GGUF numbers them the same way.
enum class SpmKind {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

/// A SentencePiece vocabulary of type BPE, whatever file it came from.
struct SpmVocabulary {
  struct Piece {
    std::string text;  ///< spaces written as U+2581
    float score = 0;
    SpmKind kind = SpmKind::kNormal;
  };
  std::string source;  ///< "SentencePiece" or "GGUF", for people
  std::vector<Piece> pieces;
  bool space_prefix = true;  ///< a space is put before non-empty text
  bool add_bos = true, add_eos = false;
  std::optional<int32_t> bos, eos;
};

/// Its tokenizer: merges by score, bytes as <0xNN>. Control and unknown tokens are special,
/// user-defined ones are ordinary added tokens. json() says the same as merge ranks, as Hugging
/// Face's own conversions do. Deviation from the SentencePiece library: as in those conversions the
/// space is put before every stretch of text between added tokens. Throws Error(kData) naming
/// `file`.
std::unique_ptr<Tokenizer> make_spm_tokenizer(const SpmVocabulary& spm, const std::string& file);

}  // namespace ashlar
