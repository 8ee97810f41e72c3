#pragma once

#include <memory>
#include <string>

#include "data/tokenizer/tokenizer.h"

namespace ashlar {

/// Reads the bytes of a SentencePiece `.model` file: the protocol buffer `ModelProto` of
/// sentencepiece_model.proto, of which the pieces, the trainer's model type, special ids and
/// unknown surface, and the normalizer matter here. Type Unigram with any normalizer
/// (UnigramTokenizer); type BPE with byte fallback and without a character map (the `identity`
/// normalizer), as in Llama and Mistral; everything else is refused by name. BOS is what
/// `add_special` puts in front, as those families do. Throws Error(kData) naming `file`.
std::unique_ptr<Tokenizer> parse_sentencepiece(const std::string& bytes, const std::string& file);

}  // namespace ashlar
