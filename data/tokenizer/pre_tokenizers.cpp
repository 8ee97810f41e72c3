#include "data/tokenizer/pre_tokenizers.h"

#include <algorithm>

namespace ashlar {
namespace {

constexpr const char* kDigit = R"(\p{N})";
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// Only families whose tokenizer.json is known for certain.
const std::vector<PreTokenizer>& table() {
  static const std::vector<PreTokenizer> entries = {
      // No family's: llama.cpp's rule for files that name none.
      {"default", {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2Pattern, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
      {"gpt-2", {}, true},
      {"llama-bpe", {kLlama3}, false, false, true, true},
      {"llama3", {kLlama3}, false, false, true, true},
      {"llama-v3", {kLlama3}, false, false, true, true},
      {"mpt", {}, true, true},   // GPT-NeoX's vocabulary, Pythia included
      {"olmo", {}, true, true},  // the same with tokens of its own
      {"phi-2", {}, true},
      {"qwen2", {kQwen2}, false, true},
      {"refact", {kDigit}, true},
      {"smollm", {kDigit}, true},
      {"starcoder", {kDigit}, true},
      {"tekken", {kTekken}, false, false, true, true},
  };
  return entries;
}

}  // namespace

const PreTokenizer* find_pre_tokenizer(const std::string& name) {
  for (const PreTokenizer& entry : table()) {
    if (name == entry.name) return &entry;
  }
  return nullptr;
}

std::string known_pre_tokenizers() {
  std::string names;
  for (const PreTokenizer& entry : table()) {
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  return names;
}

namespace {

bool same_steps(const BpeVocabulary& a, const BpeVocabulary& b) {
  const auto normalizer = [](const NormalizerStep& x, const NormalizerStep& y) {
    return x.kind == y.kind && x.form == y.form && x.from == y.from && x.to == y.to;
  };
  const auto split = [](const SplitStep& x, const SplitStep& y) {
    return x.regex == y.regex && x.matches_only == y.matches_only &&
           x.prefix_space == y.prefix_space;
  };
  return std::equal(a.normalizers.begin(), a.normalizers.end(), b.normalizers.begin(),
                    b.normalizers.end(), normalizer) &&
         std::equal(a.splits.begin(), a.splits.end(), b.splits.begin(), b.splits.end(), split) &&
         a.byte_level == b.byte_level && a.ignore_merges == b.ignore_merges &&
         a.metaspace.has_value() == b.metaspace.has_value();
}

}  // namespace

const PreTokenizer* match_pre_tokenizer(const BpeVocabulary& vocabulary) {
  for (const PreTokenizer& entry : table()) {
    BpeVocabulary steps;
    apply_pre_tokenizer(entry, steps);
    if (same_steps(steps, vocabulary)) return &entry;
  }
  return nullptr;
}

void apply_pre_tokenizer(const PreTokenizer& pre, BpeVocabulary& out) {
  const std::string where = std::string("pre-tokenizer ") + pre.name;
  if (pre.nfc) out.normalizers.emplace_back();  // kForm, NFC
  for (const char* pattern : pre.splits) out.splits.push_back(split_step(pattern, where));
  out.splits.push_back(pre.gpt2 ? split_step(kGpt2Pattern, where) : SplitStep{});
  out.byte_level = true;
  out.ignore_merges = pre.ignore_merges;
}

}  // namespace ashlar
