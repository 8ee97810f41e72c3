#pragma once

#include <string>
#include <vector>

#include "core/base/node.h"
#include "data/tokenizer/bpe_tokenizer.h"

// Private to data/tokenizer: the parts of a tokenizer.json around the model. Each reader fills its
// part of a BpeVocabulary and throws for a type or key it does not know. A null node means absent.

namespace ashlar {

/// The tokens a post-processor puts around one text.
struct TokenTemplate {
  std::vector<std::string> before, after;
};

[[noreturn]] void refuse_type(const Node& node, const std::string& key, const std::string& type);

void read_normalizer(const Node* node, BpeVocabulary& out);
/// `file` names patterns in messages. Sets `byte_level`.
void read_pre_tokenizer(const Node* node, const std::string& file, BpeVocabulary& out);
void read_decoder(const Node& node, BpeVocabulary& out);
TokenTemplate read_post_processor(const Node* node);

}  // namespace ashlar
