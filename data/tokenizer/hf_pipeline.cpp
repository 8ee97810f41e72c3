#include "data/tokenizer/hf_pipeline.h"

#include "core/base/error.h"
#include "data/tokenizer/known_patterns.h"

namespace ashlar {

void refuse_type(const Node& node, const std::string& key, const std::string& type) {
  fail_at(node, key, "type '" + type + "' is not supported");
}

namespace {

bool absent(const Node* node) { return node == nullptr || node->is_null(); }

/// The steps of a node: itself, or the list `list_key` of a Sequence.
std::vector<const Node*> steps_of(const Node& node, const std::string& key,
                                  const std::string& list_key) {
  const Node* type = node.find("type");
  if (type == nullptr || type->as_string() != "Sequence") return {&node};
  NodeReader reader(node, key);
  reader.text("type");
  std::vector<const Node*> steps;
  for (const Node& step : reader.required(list_key).as_list()) {
    for (const Node* inner : steps_of(step, key, list_key)) steps.push_back(inner);
  }
  reader.finish();
  return steps;
}

/// {"String": "..."} or {"Regex": "..."} as a regular expression.
std::string pattern_of(const Node& node, const std::string& key, bool allow_regex) {
  NodeReader reader(node, key);
  if (allow_regex && reader.has("Regex")) {
    std::string regex = reader.text("Regex");
    reader.finish();
    return regex;
  }
  std::string literal = reader.text("String");
  reader.finish();
  return literal;
}

std::string escape_regex(const std::string& literal) {
  std::string out;
  for (char c : literal) {
    if (static_cast<unsigned char>(c) < 0x80 && std::ispunct(static_cast<unsigned char>(c))) {
      out += '\\';
    }
    out += c;
  }
  return out;
}

}  // namespace

void read_normalizer(const Node* node, BpeVocabulary& out) {
  if (absent(node)) return;
  for (const Node* step : steps_of(*node, "normalizer", "normalizers")) {
    NodeReader reader(*step, "normalizer");
    const std::string type = reader.text("type");
    NormalizerStep next;
    if (type == "NFC") {
      next.form = NormalForm::kNfc;
    } else if (type == "NFD") {
      next.form = NormalForm::kNfd;
    } else if (type == "NFKC") {
      next.form = NormalForm::kNfkc;
    } else if (type == "NFKD") {
      next.form = NormalForm::kNfkd;
    } else if (type == "Prepend") {
      next.kind = NormalizerStep::Kind::kPrepend;
      next.to = reader.text("prepend");
    } else if (type == "Replace") {
      next.kind = NormalizerStep::Kind::kReplace;
      next.from = pattern_of(reader.required("pattern"), "normalizer.pattern", false);
      next.to = reader.text("content");
      if (next.from.empty()) fail_at(*step, "normalizer.pattern", "is empty");
    } else {
      refuse_type(*step, "normalizer", type);
    }
    reader.finish();
    out.normalizers.push_back(std::move(next));
  }
}

namespace {

SplitStep read_split(NodeReader& reader, const Node& node, const std::string& file) {
  const Node& pattern = reader.required("pattern");
  std::string regex = pattern_of(pattern, "pre_tokenizer.pattern", true);
  if (pattern.find("String") != nullptr) regex = escape_regex(regex);
  const std::string behavior = reader.text("behavior");
  const bool invert = reader.boolean_or("invert", false);
  const bool matches_only = behavior == "Removed" && invert;
  if (behavior != "Isolated" && !matches_only) {
    fail_at(node, "pre_tokenizer.behavior",
            fmt::format("'{}' with invert {} is not supported", behavior, invert));
  }
  SplitStep step = split_step(regex, file + ": pre_tokenizer.pattern");
  step.matches_only = matches_only;
  return step;
}

SplitStep read_byte_level(NodeReader& reader, const std::string& where) {
  const bool prefix_space = reader.boolean_or("add_prefix_space", true);
  reader.boolean_or("trim_offsets", true);
  SplitStep step;
  if (reader.boolean_or("use_regex", true)) step = split_step(kGpt2Pattern, where);
  step.prefix_space = prefix_space;
  return step;
}

Metaspace read_metaspace(NodeReader& reader, const Node& node) {
  Metaspace meta;
  meta.replacement = reader.text("replacement");
  if (meta.replacement.empty()) fail_at(node, "pre_tokenizer.replacement", "is empty");
  // Files of tokenizers < 0.15 say add_prefix_space (and str_rep, which repeats the replacement).
  const bool old_prefix = reader.boolean_or("add_prefix_space", true);
  reader.text_or("str_rep", {});
  const size_t scheme =
      reader.choice_or("prepend_scheme", old_prefix ? 0 : 2, {"always", "first", "never"});
  meta.prepend = static_cast<Metaspace::Prepend>(scheme);
  meta.split = reader.boolean_or("split", true);
  return meta;
}

}  // namespace

void read_pre_tokenizer(const Node* node, const std::string& file, BpeVocabulary& out) {
  if (absent(node)) return;
  for (const Node* step : steps_of(*node, "pre_tokenizer", "pretokenizers")) {
    NodeReader reader(*step, "pre_tokenizer");
    const std::string type = reader.text("type");
    if (out.byte_level) {
      fail_at(*step, "pre_tokenizer", "a step after ByteLevel is not supported");
    }
    const std::string where = file + ": pre_tokenizer";
    if (out.metaspace || (type == "Metaspace" && !out.splits.empty())) {
      fail_at(*step, "pre_tokenizer", "Metaspace beside another step is not supported");
    }
    if (type == "ByteLevel") {
      out.byte_level = true;
      out.splits.push_back(read_byte_level(reader, where));
    } else if (type == "Metaspace") {
      out.metaspace = read_metaspace(reader, *step);
    } else if (type == "Split") {
      out.splits.push_back(read_split(reader, *step, file));
    } else if (type == "Digits") {
      const bool individual = reader.boolean_or("individual_digits", false);
      out.splits.push_back(split_step(digits_pattern(individual), where));
    } else {
      refuse_type(*step, "pre_tokenizer", type);
    }
    reader.finish();
  }
}

namespace {

/// The Llama family's chain: Replace, ByteFallback, Fuse, Strip of one leading space.
void read_fallback_decoder(const Node& node, BpeVocabulary& out) {
  bool bytes = false, fused = false;
  for (const Node* step : steps_of(node, "decoder", "decoders")) {
    NodeReader reader(*step, "decoder");
    const std::string type = reader.text("type");
    if (type == "Replace" && !bytes && !fused && out.decode_from.empty()) {
      out.decode_from = pattern_of(reader.required("pattern"), "decoder.pattern", false);
      out.decode_to = reader.text("content");
      if (out.decode_from.empty()) fail_at(*step, "decoder.pattern", "is empty");
    } else if (type == "ByteFallback" && !fused) {
      bytes = true;
    } else if (type == "Fuse") {
      fused = true;
    } else if (type == "Strip" && fused && !out.strip_leading_space) {
      if (reader.text("content") != " " || reader.integer("start", 0, 1 << 20) != 1 ||
          reader.integer("stop", 0, 1 << 20) != 0) {
        fail_at(*step, "decoder.Strip", "only one leading space is supported");
      }
      out.strip_leading_space = true;
    } else {
      fail_at(*step, "decoder", "type '" + type + "' is not supported at this place");
    }
    reader.finish();
  }
  if (!bytes) fail_at(node, "decoder", "without ByteFallback is not supported");
}

}  // namespace

void read_decoder(const Node& node, BpeVocabulary& out) {
  if (!out.byte_level) return read_fallback_decoder(node, out);
  for (const Node* step : steps_of(node, "decoder", "decoders")) {
    NodeReader reader(*step, "decoder");
    const std::string type = reader.text("type");
    if (type != "ByteLevel") refuse_type(*step, "decoder", type);
    for (const char* ignored : {"add_prefix_space", "trim_offsets", "use_regex"}) {
      reader.boolean_or(ignored, true);  // they concern encoding only
    }
    reader.finish();
  }
}

TokenTemplate read_post_processor(const Node* node) {
  TokenTemplate out;
  if (absent(node)) return out;
  for (const Node* step : steps_of(*node, "post_processor", "processors")) {
    NodeReader reader(*step, "post_processor");
    const std::string type = reader.text("type");
    if (type == "ByteLevel") {
      for (const char* offsets : {"add_prefix_space", "trim_offsets", "use_regex"}) {
        reader.boolean_or(offsets, true);  // they concern offsets only
      }
    } else if (type == "TemplateProcessing" && out.before.empty() && out.after.empty()) {
      bool seen = false;
      for (const Node& part : reader.required("single").as_list()) {
        if (part.find("Sequence") != nullptr) {
          if (seen) fail_at(part, "post_processor.single", "names the text twice");
          seen = true;
        } else if (const Node* token = part.find("SpecialToken")) {
          NodeReader special(*token, "post_processor.single");
          (seen ? out.after : out.before).push_back(special.text("id"));
        } else {
          fail_at(part, "post_processor.single", "expected Sequence or SpecialToken");
        }
      }
      reader.optional("pair");
      reader.optional("special_tokens");
    } else {
      refuse_type(*step, "post_processor", type);
    }
    reader.finish();
  }
  return out;
}

}  // namespace ashlar
