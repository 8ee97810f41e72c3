#include "data/tokenizer/hf_json.h"

#include <algorithm>
#include <unordered_map>

#include "core/base/error.h"
#include "core/io/json.h"
#include "data/tokenizer/hf_pipeline.h"
#include "data/tokenizer/unigram_tokenizer.h"

namespace ashlar {
namespace {

/// Ids may leave holes (Whisper's do not, some fine-tunes' do), but not so many that a table by id
/// would be memory by the file's word alone.
constexpr int64_t kMaxHoles = 65536;

class Reader {
 public:
  Reader(Node root, const std::string& text, const std::string& file)
      : root_(std::move(root)), file_(file) {
    out_.json = text;
  }

  BpeVocabulary run(const TokenizerHints& hints) {
    NodeReader top(root_);
    const std::string version = top.text("version");
    require(version == "1.0", ErrorCode::kData, "{}: version: '{}' is not supported", file_,
            version);
    top.optional("truncation");
    top.optional("padding");
    read_model(top.required("model"));
    if (const Node* added = top.optional("added_tokens")) read_added(*added);
    read_normalizer(top.optional("normalizer"), out_);
    read_pre_tokenizer(top.optional("pre_tokenizer"), file_, out_);
    read_decoder(top.required("decoder"), out_);
    template_ = read_post_processor(top.optional("post_processor"));
    top.finish();
    require(out_.byte_level || byte_fallback_, ErrorCode::kData,
            "{}: neither a ByteLevel pre-tokenizer nor byte_fallback: bytes would be lost", file_);
    require(!out_.byte_level || !byte_fallback_, ErrorCode::kData,
            "{}: model.byte_fallback together with ByteLevel is not supported", file_);
    name_ends(hints);
    out_.description =
        fmt::format("{} BPE, {} tokens", out_.byte_level ? "byte-level" : "byte-fallback",
                    out_.spelling.size());
    return std::move(out_);
  }

 private:
  void read_model(const Node& node) {
    NodeReader model(node, "model");
    const std::string type = model.text("type");
    if (type != "BPE") refuse_type(node, "model", type);
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const Node* value = model.optional(key);
      if (value != nullptr && !value->is_null() && !value->as_string().empty()) {
        fail_at(*value, std::string("model.") + key, "is not supported");
      }
    }
    const Node* dropout = model.optional("dropout");
    if (dropout != nullptr && !dropout->is_null() && dropout->as_double() != 0) {
      fail_at(*dropout, "model.dropout", "is not supported");
    }
    // Every byte has a token (checked later), so the unknown token can never be used.
    model.optional("unk_token");
    model.boolean_or("fuse_unk", false);
    byte_fallback_ = model.boolean_or("byte_fallback", false);
    out_.ignore_merges = model.boolean_or("ignore_merges", false);
    read_vocabulary(model.required("vocab"));
    read_merges(model.required("merges"));
    model.finish();
  }

  void put(int64_t id, const std::string& spelling, int64_t entries, const Node& node,
           const std::string& key) {
    if (id < 0 || id >= entries + kMaxHoles) {
      fail_at(node, key, fmt::format("id {} of '{}' is out of range", id, spelling));
    }
    const auto at = static_cast<size_t>(id);
    if (at >= out_.spelling.size()) {
      out_.spelling.resize(at + 1);
      out_.present.resize(at + 1, false);
    }
    if (out_.present[at] && out_.spelling[at] != spelling) {
      fail_at(node, key,
              fmt::format("id {} stands for both '{}' and '{}'", id, out_.spelling[at], spelling));
    }
    out_.spelling[at] = spelling;
    out_.present[at] = true;
  }

  void read_vocabulary(const Node& node) {
    const Node::Map& entries = node.as_map();
    const auto count = static_cast<int64_t>(entries.size());
    ids_.reserve(entries.size());
    for (const auto& [spelling, id] : entries) {
      put(id.as_int(), spelling, count, id, "model.vocab");
      ids_.emplace(spelling, static_cast<int32_t>(id.as_int()));
    }
  }

  int32_t id_of(const std::string& spelling, const Node& node) const {
    const auto found = ids_.find(spelling);
    if (found == ids_.end()) {
      fail_at(node, "model.merges", fmt::format("'{}' is not in the vocabulary", spelling));
    }
    return found->second;
  }

  void read_merges(const Node& node) {
    const Node::List& list = node.as_list();
    out_.merges.reserve(list.size());
    for (const Node& entry : list) {
      std::string left, right;
      if (entry.is_string()) {  // "a b", the form of tokenizers < 0.20
        const std::string& text = entry.as_string();
        const size_t space = text.find(' ');
        if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
          fail_at(entry, "model.merges", "expected two words, found '" + text + "'");
        }
        left = text.substr(0, space);
        right = text.substr(space + 1);
      } else {
        const Node::List& pair = entry.as_list();
        if (pair.size() != 2) fail_at(entry, "model.merges", "expected a pair");
        left = pair[0].as_string();
        right = pair[1].as_string();
      }
      out_.merges.push_back({id_of(left, entry), id_of(right, entry),
                             static_cast<int32_t>(out_.merges.size()), id_of(left + right, entry)});
    }
  }

  void read_added(const Node& node) {
    const auto count = static_cast<int64_t>(ids_.size() + node.as_list().size());
    for (const Node& entry : node.as_list()) {
      NodeReader token(entry, "added_tokens");
      AddedToken added;
      const int64_t id = token.integer("id", 0, INT32_MAX);
      added.content = token.text("content");
      added.special = token.boolean_or("special", false);
      added.normalized = token.boolean_or("normalized", !added.special);
      added.lstrip = token.boolean_or("lstrip", false);
      added.rstrip = token.boolean_or("rstrip", false);
      if (token.boolean_or("single_word", false)) {
        fail_at(entry, "added_tokens.single_word", "is not supported");
      }
      token.finish();
      if (added.content.empty()) fail_at(entry, "added_tokens.content", "is empty");
      put(id, added.content, count, entry, "added_tokens");
      added.id = static_cast<int32_t>(id);
      out_.added.push_back(std::move(added));
    }
  }

  std::optional<int32_t> find(const std::string& content) const {
    for (const AddedToken& token : out_.added) {
      if (token.content == content) return token.id;
    }
    const auto found = ids_.find(content);
    if (found == ids_.end()) return std::nullopt;
    return found->second;
  }

  int32_t must_find(const std::string& content, const std::string& key) const {
    const std::optional<int32_t> id = find(content);
    require(id.has_value(), ErrorCode::kData, "{}: {}: '{}' is not in the vocabulary", file_, key,
            content);
    return *id;
  }

  std::optional<int32_t> well_known(std::initializer_list<const char*> names) const {
    for (const char* name : names) {
      for (const AddedToken& token : out_.added) {
        if (token.content == name) return token.id;
      }
    }
    return std::nullopt;
  }

  void name_ends(const TokenizerHints& hints) {
    for (const std::string& content : template_.before) {
      out_.prefix.push_back(must_find(content, "post_processor.single"));
    }
    for (const std::string& content : template_.after) {
      out_.suffix.push_back(must_find(content, "post_processor.single"));
    }
    if (hints.bos) {
      out_.bos = must_find(*hints.bos, "tokenizer_config.json: bos_token");
    } else if (!out_.prefix.empty()) {
      out_.bos = out_.prefix.front();
    } else {
      out_.bos = well_known({"<s>", "<|begin_of_text|>", "<bos>"});
    }
    if (hints.eos) {
      out_.eos = must_find(*hints.eos, "tokenizer_config.json: eos_token");
    } else if (!out_.suffix.empty()) {
      out_.eos = out_.suffix.back();
    } else {
      out_.eos = well_known({"<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|eos|>"});
    }
  }

  Node root_;
  std::string file_;
  BpeVocabulary out_;
  std::unordered_map<std::string, int32_t> ids_;
  TokenTemplate template_;
  bool byte_fallback_ = false;
};

}  // namespace

TokenizerHints read_tokenizer_config(const Node& config) {
  const auto token = [&](const char* key) -> std::optional<std::string> {
    const Node* node = config.find(key);
    if (node == nullptr || node->is_null()) return std::nullopt;
    if (node->is_map()) node = node->find("content");
    if (node == nullptr || !node->is_string()) fail_at(config, key, "expected a token");
    return node->as_string();
  };
  return {token("bos_token"), token("eos_token")};
}

namespace {

BpeVocabulary read_bpe(Node root, const std::string& text, const std::string& file,
                       const TokenizerHints& hints) {
  try {
    return Reader(std::move(root), text, file).run(hints);
  } catch (const Error& error) {
    // Typed access to a Node blames the request; here it is the file that is wrong.
    if (error.code() != ErrorCode::kRequest) throw;
    throw Error(ErrorCode::kData, error.what());
  }
}

}  // namespace

BpeVocabulary parse_hf_vocabulary(const std::string& text, const std::string& file,
                                  const TokenizerHints& hints) {
  return read_bpe(parse_json(text, file), text, file, hints);
}

std::unique_ptr<Tokenizer> parse_hf_tokenizer(const std::string& text, const std::string& file,
                                              const TokenizerHints& hints) {
  Node root = parse_json(text, file);
  // BOS and EOS of a Unigram vocabulary are those of the SentencePiece model within.
  if (is_unigram_json(root)) return parse_unigram_json(root, text, file);
  return std::make_unique<BpeTokenizer>(read_bpe(std::move(root), text, file, hints), file);
}

}  // namespace ashlar
