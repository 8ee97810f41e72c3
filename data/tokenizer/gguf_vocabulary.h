#pragma once

#include <memory>
#include <string>

#include "core/base/node.h"
#include "data/tokenizer/tokenizer.h"

namespace ashlar {

/// The tokenizer that a GGUF file's metadata (`tokenizer.ggml.*`) describes: model `gpt2`
/// (byte-level BPE) or `llama` (SentencePiece BPE). The name in `tokenizer.ggml.pre` becomes the
/// normalizer and pre-tokenizer of that family's tokenizer.json; a name that is not known is
/// refused, and so are other models. json() is a tokenizer.json of the same vocabulary. Throws
/// Error(kData) naming `file` and key.
std::unique_ptr<Tokenizer> parse_gguf_tokenizer(const Node& metadata, const std::string& file);

}  // namespace ashlar
