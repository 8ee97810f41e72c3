#pragma once

#include <memory>
#include <optional>
#include <string>

#include "core/base/node.h"
#include "data/tokenizer/bpe_tokenizer.h"
#include "data/tokenizer/tokenizer.h"

namespace ashlar {

/// What lies beside a tokenizer.json: `tokenizer_config.json` names BOS and EOS.
struct TokenizerHints {
  std::optional<std::string> bos, eos;
};

/// bos_token and eos_token of a tokenizer_config.json, as text or as {content}.
TokenizerHints read_tokenizer_config(const Node& config);

/// Reads the text of a Hugging Face `tokenizer.json` with a BPE model, byte-level or with byte
/// fallback, or a Unigram one that parse_unigram_json knows. Model, normalizer, pre-tokenizer,
/// post-processor and decoder types that are not supported are refused by name, as are unknown
/// keys: nothing is guessed. `truncation` and `padding` belong to batches and are not applied. BOS
/// and EOS come from `hints`, else from the post-processor's template, else from well-known names
/// among the special tokens. Throws Error(kData) naming `file` and key.
std::unique_ptr<Tokenizer> parse_hf_tokenizer(const std::string& text, const std::string& file,
                                              const TokenizerHints& hints = {});

/// The same before a tokenizer is made of it, BPE only; `json` holds the text.
BpeVocabulary parse_hf_vocabulary(const std::string& text, const std::string& file,
                                  const TokenizerHints& hints = {});

/// Writes the tokenizer.json of `vocabulary` (its `json` is ignored): loadable by the Python
/// library `tokenizers` ≥ 0.20, which gives the same ids. A byte-level vocabulary's last split is
/// the ByteLevel step: with GPT-2's pattern or none.
std::string write_hf_tokenizer(const BpeVocabulary& vocabulary);

}  // namespace ashlar
