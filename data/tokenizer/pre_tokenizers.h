#pragma once

#include <string>
#include <vector>

#include "data/tokenizer/bpe_tokenizer.h"

namespace ashlar {

/// What the tokenizer.json of a family of byte-level vocabularies does before merging, under the
/// name that GGUF's `tokenizer.ggml.pre` has for the family.
struct PreTokenizer {
  const char* name;
  std::vector<const char*> splits;  ///< patterns before the ByteLevel step, each isolating
  bool gpt2 = false;                ///< the ByteLevel step splits by GPT-2's pattern
  bool nfc = false;
  bool ignore_merges = false;
  bool add_bos = false;  ///< unless the file says otherwise
};

/// nullptr for a name that is not known.
const PreTokenizer* find_pre_tokenizer(const std::string& name);
/// The names, for messages.
std::string known_pre_tokenizers();
/// The first entry whose steps are those of a byte-level vocabulary, or nullptr.
const PreTokenizer* match_pre_tokenizer(const BpeVocabulary& vocabulary);
/// Sets normalizers, splits, byte_level and ignore_merges of `out`.
void apply_pre_tokenizer(const PreTokenizer& pre, BpeVocabulary& out);

}  // namespace ashlar
