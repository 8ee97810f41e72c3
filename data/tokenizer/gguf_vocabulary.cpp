#include "data/tokenizer/gguf_vocabulary.h"

#include <spdlog/spdlog.h>

#include <array>
#include <unordered_map>

#include "core/base/error.h"
#include "data/tokenizer/bpe_tokenizer.h"
#include "data/tokenizer/hf_json.h"
#include "data/tokenizer/pre_tokenizers.h"
#include "data/tokenizer/spm_vocabulary.h"

namespace ashlar {
namespace {

/// Access to `tokenizer.ggml.*` that names file and key.
class Metadata {
 public:
  Metadata(const Node& node, const std::string& file) : node_(node), file_(file) {}

  [[noreturn]] void refuse(const std::string& key, const std::string& reason) const {
    fail(ErrorCode::kData, "{}: tokenizer.ggml.{}: {}", file_, key, reason);
  }
  const Node* find(const std::string& key) const { return node_.find("tokenizer.ggml." + key); }
  const Node& at(const std::string& key) const {
    const Node* node = find(key);
    if (node == nullptr) refuse(key, "is missing");
    return *node;
  }
  const std::string& text(const std::string& key) const {
    if (!at(key).is_string())
      refuse(key, std::string("expected text, found ") + at(key).kind_name());
    return at(key).as_string();
  }
  bool flag(const std::string& key, bool fallback) const {
    const Node* node = find(key);
    if (node == nullptr) return fallback;
    if (!node->is_bool()) refuse(key, std::string("expected a flag, found ") + node->kind_name());
    return node->as_bool();
  }
  /// A list of `count` entries (any number when < 0), each of which `good` accepts.
  const Node::List& list(const std::string& key, int64_t count, bool (Node::*good)() const,
                         const char* what) const {
    const Node& node = at(key);
    if (!node.is_list()) refuse(key, std::string("expected a list, found ") + node.kind_name());
    const Node::List& entries = node.as_list();
    if (count >= 0 && static_cast<int64_t>(entries.size()) != count) {
      refuse(key, fmt::format("{} entries for {} tokens", entries.size(), count));
    }
    for (const Node& entry : entries) {
      if (!(entry.*good)()) refuse(key, fmt::format("expected {}", what));
    }
    return entries;
  }
  /// A token id, if the file has one: absent or −1 is none.
  std::optional<int32_t> id(const std::string& key, size_t tokens) const {
    const Node* node = find(key);
    if (node == nullptr) return std::nullopt;
    if (!node->is_int()) refuse(key, "expected a token id");
    const int64_t id = node->as_int();
    if (id == -1 || id == 0xffffffff) return std::nullopt;
    if (id < 0 || id >= static_cast<int64_t>(tokens)) {
      refuse(key, fmt::format("{} is outside the vocabulary of {}", id, tokens));
    }
    return static_cast<int32_t>(id);
  }

 private:
  const Node& node_;
  const std::string& file_;
};

std::vector<SpmKind> kinds(const Metadata& meta, size_t tokens) {
  std::vector<SpmKind> out(tokens, SpmKind::kNormal);
  if (meta.find("token_type") == nullptr) return out;
  const Node::List& list =
      meta.list("token_type", static_cast<int64_t>(tokens), &Node::is_int, "numbers");
  for (size_t i = 0; i < tokens; ++i) {
    const int64_t kind = list[i].as_int();
    if (kind < 1 || kind > 6) meta.refuse("token_type", fmt::format("unknown type {}", kind));
    out[i] = static_cast<SpmKind>(kind);
  }
  return out;
}

/// A byte-level vocabulary's merges, "left right" each.
class MergeReader {
 public:
  MergeReader(const Metadata& meta, const BpeVocabulary& vocabulary) : meta_(meta) {
    for (size_t id = 0; id < vocabulary.spelling.size(); ++id) {
      if (!ids_.emplace(vocabulary.spelling[id], static_cast<int32_t>(id)).second) {
        meta.refuse("tokens",
                    fmt::format("token {}: '{}' stands for two ids", id, vocabulary.spelling[id]));
      }
    }
  }

  std::vector<BpeModel::Merge> run() const {
    std::vector<BpeModel::Merge> out;
    for (const Node& node : meta_.list("merges", -1, &Node::is_string, "text")) {
      const std::string& text = node.as_string();
      const size_t space = text.find(' ', 1);
      if (space == std::string::npos) meta_.refuse("merges", "'" + text + "' is no pair");
      const std::string left = text.substr(0, space), right = text.substr(space + 1);
      out.push_back({id(left), id(right), static_cast<int32_t>(out.size()), id(left + right)});
    }
    return out;
  }

 private:
  int32_t id(const std::string& spelling) const {
    const auto found = ids_.find(spelling);
    if (found == ids_.end()) meta_.refuse("merges", "'" + spelling + "' is not in the vocabulary");
    return found->second;
  }

  const Metadata& meta_;
  std::unordered_map<std::string_view, int32_t> ids_;
};

const PreTokenizer& pre_tokenizer(const Metadata& meta, const std::string& file) {
  if (meta.find("pre") == nullptr) {
    spdlog::warn("{}: names no pre-tokenizer (tokenizer.ggml.pre): taking 'default'", file);
    return *find_pre_tokenizer("default");
  }
  const PreTokenizer* pre = find_pre_tokenizer(meta.text("pre"));
  if (pre == nullptr) {
    meta.refuse("pre", fmt::format("'{}' is not supported: use one of {}", meta.text("pre"),
                                   known_pre_tokenizers()));
  }
  return *pre;
}

std::unique_ptr<Tokenizer> byte_level(const Metadata& meta, const std::string& file) {
  const PreTokenizer& pre = pre_tokenizer(meta, file);
  BpeVocabulary out;
  for (const Node& node : meta.list("tokens", -1, &Node::is_string, "text")) {
    out.spelling.push_back(node.as_string());
    out.present.push_back(true);
  }
  const size_t count = out.spelling.size();
  const std::vector<SpmKind> kind = kinds(meta, count);
  for (size_t id = 0; id < count; ++id) {
    if (kind[id] == SpmKind::kByte) meta.refuse("token_type", "byte tokens in a byte-level model");
    const bool special = kind[id] == SpmKind::kControl || kind[id] == SpmKind::kUnknown;
    if (!special && kind[id] != SpmKind::kUserDefined) continue;
    AddedToken token;
    token.id = static_cast<int32_t>(id);
    token.content = out.spelling[id];
    token.special = special;
    out.added.push_back(std::move(token));
  }
  out.merges = MergeReader(meta, out).run();
  apply_pre_tokenizer(pre, out);
  out.bos = meta.id("bos_token_id", count);
  out.eos = meta.id("eos_token_id", count);
  if (meta.flag("add_bos_token", pre.add_bos) && out.bos) out.prefix = {*out.bos};
  if (meta.flag("add_eos_token", false) && out.eos) out.suffix = {*out.eos};
  out.description = fmt::format("byte-level BPE (GGUF, {}), {} tokens", pre.name, count);
  out.json = write_hf_tokenizer(out);
  return std::make_unique<BpeTokenizer>(std::move(out), file);
}

std::unique_ptr<Tokenizer> sentencepiece(const Metadata& meta, const std::string& file) {
  SpmVocabulary spm;
  spm.source = "SentencePiece (GGUF)";
  const Node::List& tokens = meta.list("tokens", -1, &Node::is_string, "text");
  const size_t count = tokens.size();
  const std::vector<SpmKind> kind = kinds(meta, count);
  const auto scores = [&](const Node& node) { return node.is_double() || node.is_int(); };
  const Node::List& score = meta.at("scores").is_list() ? meta.at("scores").as_list() : tokens;
  if (&score == &tokens || score.size() != count) {
    meta.refuse("scores", fmt::format("expected {} numbers", count));
  }
  for (size_t id = 0; id < count; ++id) {
    if (!scores(score[id])) meta.refuse("scores", "expected numbers");
    spm.pieces.push_back(
        {tokens[id].as_string(), static_cast<float>(score[id].as_double()), kind[id]});
  }
  if (meta.flag("remove_extra_whitespaces", false)) {
    meta.refuse("remove_extra_whitespaces", "is not supported");
  }
  if (const Node* map = meta.find("precompiled_charsmap");
      map != nullptr && !(map->is_list() && map->as_list().empty())) {
    meta.refuse("precompiled_charsmap", "is not supported");
  }
  spm.space_prefix = meta.flag("add_space_prefix", true);
  spm.add_bos = meta.flag("add_bos_token", true);
  spm.add_eos = meta.flag("add_eos_token", false);
  spm.bos = meta.id("bos_token_id", count);
  spm.eos = meta.id("eos_token_id", count);
  return make_spm_tokenizer(spm, file);
}

}  // namespace

std::unique_ptr<Tokenizer> parse_gguf_tokenizer(const Node& metadata, const std::string& file) {
  const Metadata meta(metadata, file);
  const std::string& model = meta.text("model");
  if (model == "gpt2") return byte_level(meta, file);
  if (model == "llama") return sentencepiece(meta, file);
  meta.refuse("model", fmt::format("'{}' is not supported: use one of gpt2, llama", model));
}

}  // namespace ashlar
