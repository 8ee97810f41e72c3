#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <unordered_map>

#include "core/base/error.h"
#include "data/tokenizer/hf_json.h"
#include "data/tokenizer/pre_tokenizers.h"
#include "export/gguf_metadata.h"

namespace ashlar {
namespace {

// tokenizer.ggml.token_type
enum TokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

constexpr const char* kSpace = "\xe2\x96\x81";  // U+2581
constexpr const char* kFile = "tokenizer.json";

[[noreturn]] void refuse(const std::string& reason) {
  fail(ErrorCode::kRequest, "GGUF cannot hold this tokenizer: {}", reason);
}

struct TokenList {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
};

bool is_byte(const std::string& token) {
  return token.size() == 6 && token.starts_with("<0x") && token.back() == '>';
}

// Token types say what is special, not how tokens treat the spaces beside them.
void warn_of_spaces(const BpeVocabulary& vocabulary) {
  for (const AddedToken& token : vocabulary.added) {
    if (!token.lstrip && !token.rstrip) continue;
    spdlog::warn(
        "token '{}' takes the spaces beside it along, which GGUF cannot say: texts where it is "
        "written out next to spaces have other ids there",
        token.content);
    return;
  }
}

// Every id up to the model's vocabulary; ids without a token get a name that no text contains.
TokenList list_tokens(const BpeVocabulary& vocabulary, int64_t count) {
  TokenList out;
  for (size_t id = 0; id < static_cast<size_t>(count); ++id) {
    const bool present = id < vocabulary.spelling.size() && vocabulary.present[id];
    out.tokens.push_back(present ? vocabulary.spelling[id] : fmt::format("[PAD{}]", id));
    const bool byte = present && !vocabulary.byte_level && is_byte(vocabulary.spelling[id]);
    out.types.push_back(!present ? kUnused : byte ? kByte : kNormal);
  }
  for (const AddedToken& token : vocabulary.added) {
    const auto id = static_cast<size_t>(token.id);
    const bool unknown = !vocabulary.byte_level && token.content == "<unk>";
    out.types[id] = unknown ? kUnknown : token.special ? kControl : kUserDefined;
  }
  return out;
}

std::vector<BpeModel::Merge> in_rank_order(const BpeVocabulary& vocabulary) {
  std::vector<BpeModel::Merge> merges = vocabulary.merges;
  std::stable_sort(merges.begin(), merges.end(),
                   [](const auto& a, const auto& b) { return a.rank < b.rank; });
  return merges;
}

void add_byte_level(const BpeVocabulary& vocabulary, const TokenList& list, GgufMetadata& out) {
  const PreTokenizer* pre = match_pre_tokenizer(vocabulary);
  if (pre == nullptr) {
    refuse("its pre-tokenizer is none of " + known_pre_tokenizers());
  }
  out.text("tokenizer.ggml.model", "gpt2");
  out.text("tokenizer.ggml.pre", pre->name);
  out.texts("tokenizer.ggml.tokens", list.tokens);
  out.i32s("tokenizer.ggml.token_type", list.types);
  std::vector<std::string> merges;
  for (const BpeModel::Merge& merge : in_rank_order(vocabulary)) {
    merges.push_back(vocabulary.spelling[static_cast<size_t>(merge.left)] + " " +
                     vocabulary.spelling[static_cast<size_t>(merge.right)]);
  }
  out.texts("tokenizer.ggml.merges", merges);
}

// How a vocabulary with byte fallback treats spaces.
struct Spaces {
  bool prefix = false;    // one is put in front of a text
  bool replaced = false;  // they are spelled U+2581
  bool split = false;     // tokens do not reach across them
};

Spaces read_spaces(const BpeVocabulary& vocabulary) {
  Spaces out;
  if (!vocabulary.splits.empty()) refuse("it splits texts before merging");
  for (const NormalizerStep& step : vocabulary.normalizers) {
    const bool space = step.to == kSpace || step.to == " ";
    if (step.kind == NormalizerStep::Kind::kPrepend && space) {
      out.prefix = true;
    } else if (step.kind == NormalizerStep::Kind::kReplace && step.from == " " &&
               step.to == kSpace) {
      out.replaced = true;
    } else {
      refuse("its normalizer does more than mark spaces");
    }
  }
  if (vocabulary.metaspace) {
    if (vocabulary.metaspace->replacement != kSpace) refuse("it marks spaces in another way");
    out.replaced = true;
    out.prefix = vocabulary.metaspace->prepend != Metaspace::Prepend::kNever;
    out.split = vocabulary.metaspace->split;
  }
  return out;
}

// SentencePiece merges by score: the pair that makes the best token first. Ranks say the same if
// all merges that make one token follow each other, and if every token that two others make has a
// merge.
class Scores {
 public:
  Scores(const BpeVocabulary& vocabulary, const TokenList& list) : list_(list) {
    for (size_t id = 0; id < list.tokens.size(); ++id) {
      if (list.types[id] == kNormal) ids_.emplace(list.tokens[id], id);
    }
    const std::vector<BpeModel::Merge> merges = in_rank_order(vocabulary);
    const auto lowest = -static_cast<float>(merges.size());
    scores_.assign(list.tokens.size(), 0);
    for (const auto& [token, id] : ids_) scores_[id] = lowest;
    std::vector<bool> made(list.tokens.size(), false);
    for (size_t i = 0; i < merges.size(); ++i) {
      const auto result = static_cast<size_t>(merges[i].result);
      if (i > 0 && merges[i - 1].result == merges[i].result) continue;
      if (made[result]) refuse_order(result);
      made[result] = true;
      scores_[result] = -static_cast<float>(i);
    }
    for (const auto& [token, id] : ids_) {
      if (!made[id] && is_joined(token)) refuse_order(id);
    }
  }

  const std::vector<float>& values() const { return scores_; }

 private:
  [[noreturn]] void refuse_order(size_t id) const {
    refuse(fmt::format("scores cannot express the order of its merges (token {}: '{}')", id,
                       list_.tokens[id]));
  }
  bool is_joined(const std::string& token) const {
    for (size_t at = 1; at < token.size(); ++at) {
      if (ids_.count(token.substr(0, at)) != 0 && ids_.count(token.substr(at)) != 0) return true;
    }
    return false;
  }

  const TokenList& list_;
  std::unordered_map<std::string, size_t> ids_;
  std::vector<float> scores_;
};

void spell_spaces(TokenList& list) {
  for (size_t id = 0; id < list.tokens.size(); ++id) {
    if (list.types[id] != kNormal) continue;
    std::string spelled;
    for (char c : list.tokens[id]) spelled += c == ' ' ? std::string(kSpace) : std::string(1, c);
    list.tokens[id] = std::move(spelled);
  }
}

void add_sentence_piece(const BpeVocabulary& vocabulary, TokenList list, GgufMetadata& out) {
  const Spaces spaces = read_spaces(vocabulary);
  if (!spaces.replaced) spell_spaces(list);
  for (size_t id = 0; id < list.tokens.size() && spaces.split; ++id) {
    if (list.types[id] == kNormal && list.tokens[id].find(kSpace, 1) != std::string::npos) {
      refuse(fmt::format("it splits at spaces, but token {} reaches across one", id));
    }
  }
  const Scores scores(vocabulary, list);
  out.text("tokenizer.ggml.model", "llama");
  out.text("tokenizer.ggml.pre", "default");
  out.texts("tokenizer.ggml.tokens", list.tokens);
  out.f32s("tokenizer.ggml.scores", scores.values());
  out.i32s("tokenizer.ggml.token_type", list.types);
  out.boolean("tokenizer.ggml.add_space_prefix", spaces.prefix);
}

// EOS first, then what else ends an answer; a start token that also ends one comes last.
void add_stop_tokens(const ModelData& model, GgufMetadata& out) {
  std::vector<int64_t> stops = model.stop_tokens;
  std::stable_partition(stops.begin(), stops.end(),
                        [&](int64_t id) { return id != model.start_token; });
  constexpr const char* kKeys[] = {"eos", "eot", "eom"};
  require(stops.size() <= std::size(kKeys), ErrorCode::kRequest,
          "GGUF cannot hold this model: {} stop tokens, it names three (EOS, end of turn, end of "
          "message)",
          stops.size());
  for (size_t i = 0; i < stops.size(); ++i) {
    out.u32(fmt::format("tokenizer.ggml.{}_token_id", kKeys[i]), stops[i]);
  }
}

}  // namespace

void add_tokenizer_keys(const ModelData& model, GgufMetadata& out) {
  std::optional<int64_t> bos = model.start_token;
  if (model.tokenizer_json.empty()) {
    out.text("tokenizer.ggml.model", "no_vocab");
  } else {
    const BpeVocabulary vocabulary = parse_hf_vocabulary(model.tokenizer_json, kFile);
    const int64_t count = model.spec.vocab_size;
    require(static_cast<int64_t>(vocabulary.spelling.size()) <= count, ErrorCode::kRequest,
            "the tokenizer has {} tokens, the model only {}", vocabulary.spelling.size(), count);
    warn_of_spaces(vocabulary);
    const TokenList list = list_tokens(vocabulary, count);
    if (vocabulary.byte_level) {
      add_byte_level(vocabulary, list, out);
    } else {
      add_sentence_piece(vocabulary, list, out);
    }
    if (!bos && vocabulary.bos) bos = *vocabulary.bos;
    out.boolean("tokenizer.ggml.add_eos_token", !vocabulary.suffix.empty());
  }
  if (bos) out.u32("tokenizer.ggml.bos_token_id", *bos);
  out.boolean("tokenizer.ggml.add_bos_token", model.start_token.has_value());
  add_stop_tokens(model, out);
  if (!model.chat_template.empty()) out.text("tokenizer.chat_template", model.chat_template);
}

}  // namespace ashlar
