#include "cli/kv_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "cli/model_options.h"
#include "core/base/error.h"
#include "core/config/config.h"
#include "engine/cache/prefix_index.h"

namespace ashlar::cli {
namespace {

// Long enough for every default of a policy, in blocks of four, too; shorter than the text.
constexpr const char* kBudget = "256";
constexpr int64_t kText = 512;
constexpr const char* kOracle = "oracle";

std::vector<std::string> policies() {
  std::vector<std::string> names = policy_names();
  names.emplace_back(kOracle);
  return names;
}

struct Codec {
  std::string name, codec;
  int64_t fp16_rows = 0;
};

// Keys and values alike, one pair that differs, and each beside rows that stay fp16.
std::vector<Codec> codecs() {
  std::vector<Codec> out;
  for (const CodecKind kind : kCodecKinds) {
    const std::string name(codec_name(kind));
    out.push_back({name, name});
  }
  out.push_back({"q4:q8", "q4:q8"});
  out.push_back({"zipcache", "zipcache"});
  for (size_t i = 0, plain = out.size(); i < plain; ++i) {
    out.push_back({out[i].name + " + fp16 rows", out[i].codec, 16});
  }
  return out;
}

ModelData model_of(const ModelSpec& spec) {
  ModelData model;
  model.spec = spec;
  return model;
}

CacheRequest request_of(const std::string& policy) {
  CacheRequest request;
  request.codec = "fp16";
  request.policy = policy;
  if (policy != "none") request.budget = kBudget;
  return request;
}

// What an evaluation would say, which alone gives an oracle something to know.
CacheChoice choose(const ModelData& model, const CacheRequest& request) {
  EngineArguments arguments;
  arguments.cache = request;
  return choose_cache(arguments, model, kText,
                      request.policy == kOracle ? nothing_to_come() : nullptr);
}

std::string refusal_of(const ModelData& model, const CacheRequest& request) {
  try {
    choose(model, request);
    return "";
  } catch (const Error& error) {
    require(error.code() == ErrorCode::kRequest, error.code(), "{}", error.what());
    return error.what();
  }
}

// The same reason of several policies once.
std::string without_name(std::string reason, const std::string& policy) {
  const std::string named = "--kv-policy " + policy + ": ";
  if (reason.starts_with(named)) reason.erase(0, named.size());
  return reason;
}

/// Cells of tables and the reasons that they point to.
class Cells {
 public:
  std::string of(const std::string& refusal, const std::string& policy) {
    if (refusal.empty()) return "yes";
    const std::string reason = without_name(refusal, policy);
    auto found = std::ranges::find(reasons_, reason);
    if (found == reasons_.end()) found = reasons_.insert(found, reason);
    return fmt::format("no ({})", found - reasons_.begin() + 1);
  }
  std::string list() const {
    std::string out;
    for (size_t i = 0; i < reasons_.size(); ++i) {
      out += fmt::format("- ({}) {}\n", i + 1, reasons_[i]);
    }
    return out;
  }

 private:
  std::vector<std::string> reasons_;
};

std::string line(const std::vector<std::string>& cells) {
  std::string out = "|";
  for (const std::string& cell : cells) out += " " + cell + " |";
  return out + "\n";
}

std::string head(const std::vector<std::string>& cells) {
  std::string out = line(cells) + "|";
  for (size_t i = 0; i < cells.size(); ++i) out += "---|";
  return out + "\n";
}

/// The answers, by architecture, policy and codec.
class Answers {
 public:
  explicit Answers(const NamedSpecs& models) {
    for (MatrixAnswer& answer : ask_matrix(models)) {
      refusals_[{answer.architecture, answer.policy, answer.codec}] = std::move(answer.refusal);
    }
  }
  const std::string& of(const std::string& architecture, const std::string& policy,
                        const std::string& codec) const {
    return refusals_.at({architecture, policy, codec});
  }

 private:
  std::map<std::tuple<std::string, std::string, std::string>, std::string> refusals_;
};

std::vector<std::string> titles(const std::string& first, const NamedSpecs& models) {
  std::vector<std::string> out = {first};
  for (const auto& [name, spec] : models) out.push_back(name);
  return out;
}

std::string policy_table(const NamedSpecs& models, const Answers& answers, Cells& cells) {
  std::string out = head(titles("policy", models));
  for (const std::string& policy : policies()) {
    std::vector<std::string> row = {"`" + policy + "`"};
    for (const auto& [name, spec] : models) {
      row.push_back(cells.of(answers.of(name, policy, "fp16"), policy));
    }
    out += line(row);
  }
  return out;
}

std::string codec_table(const NamedSpecs& models, const Answers& answers, Cells& cells) {
  std::string out = head(titles("codec", models));
  for (const Codec& codec : codecs()) {
    std::vector<std::string> row = {codec.name};
    for (const auto& [name, spec] : models) {
      row.push_back(cells.of(answers.of(name, "none", codec.name), "none"));
    }
    out += line(row);
  }
  return out;
}

// What is refused though policy and codec both go on the architecture: lines of one codec, or one
// that speaks for all policies.
std::string exceptions_of(const Codec& codec, const NamedSpecs& models, const Answers& answers,
                          Cells& cells) {
  std::string out, same;
  bool alike = true;
  for (const auto& [name, spec] : models) {
    for (const std::string& policy : policies()) {
      const std::string& refusal = answers.of(name, policy, codec.name);
      const bool apart =
          answers.of(name, policy, "fp16").empty() && answers.of(name, "none", codec.name).empty();
      if (policy == "none" || !apart) continue;
      const std::string cell = refusal.empty() ? "" : cells.of(refusal, policy);
      if (same.empty()) same = cell;
      alike = alike && cell == same;
      if (!refusal.empty())
        out += fmt::format("- {}, `{}`, {}: {}\n", name, policy, codec.name, cell);
    }
  }
  return alike && !same.empty() ? fmt::format("- every policy, {}: {}\n", codec.name, same) : out;
}

std::string exceptions(const NamedSpecs& models, const Answers& answers, Cells& cells) {
  std::string out;
  for (const Codec& codec : codecs()) out += exceptions_of(codec, models, answers, cells);
  return out.empty()
             ? "Every policy goes with every codec wherever both go at all.\n"
             : "Every policy goes with every codec wherever both go at all, except:\n\n" + out;
}

struct Option {
  const char* name;
  void (*give)(CacheRequest&);
};

constexpr Option kOptions[] = {
    {"budget in %", [](CacheRequest& r) { r.budget = "50%"; }},
    {"budget in bytes", [](CacheRequest& r) { r.budget = "1MiB"; }},
    {"`--kv-window`", [](CacheRequest& r) { r.window = 8; }},
    {"`--kv-pool`", [](CacheRequest& r) { r.pool = "max:7"; }},
    {"`--kv-drop`", [](CacheRequest& r) { r.drop = "2"; }},
    {"`--kv-layers`", [](CacheRequest& r) { r.layers = "falling:20"; }},
    {"`--kv-seed`", [](CacheRequest& r) { r.seed = 1; }},
    {"`--kv-by-age`", [](CacheRequest& r) { r.by_age = true; }},
    {"`--kv-crush`", [](CacheRequest& r) { r.crush = "ratio=0.5"; }},
    {"`--kv-topk`", [](CacheRequest& r) { r.topk = 64; }},
    {"`--kv-digest`", [](CacheRequest& r) { r.digest = "cuboid_max:8"; }},
    {"`--kv-dense-layers`", [](CacheRequest& r) { r.dense_layers = 1; }},
    {"`--kv-select-every`", [](CacheRequest& r) { r.select_every = 2; }},
};

std::string option_table(const ModelSpec& spec, Cells& cells) {
  std::vector<std::string> first = {"policy"};
  for (const Option& option : kOptions) first.emplace_back(option.name);
  first.insert(first.end(), {"chooses per head", "keeps scores", "shares pages"});
  std::string out = head(first);
  const ModelData model = model_of(spec);
  for (const std::string& policy : policies()) {
    std::vector<std::string> row = {"`" + policy + "`"};
    for (const Option& option : kOptions) {
      CacheRequest request = request_of(policy);
      option.give(request);
      row.push_back(cells.of(refusal_of(model, request), policy));
    }
    const CacheChoice choice = choose(model, request_of(policy));
    const PolicyNeeds needs = choice.policy ? choice.policy->needs() : PolicyNeeds{};
    const auto word = [](bool yes) { return std::string(yes ? "yes" : "–"); };
    row.push_back(word(needs.per_head || needs.head_scores));
    row.push_back(word(needs.reducer != ScoreReducer::kNone));
    row.push_back(word(PrefixIndex::shares(choice.policy.get(), choice.options)));
    out += line(row);
  }
  return out;
}

}  // namespace

NamedSpecs matrix_architectures() {
  const auto spec = [](const std::string& text) {
    return model_spec_from_config(parse_yaml(text, "kv-matrix"));
  };
  const auto decoder = [&](const std::string& attention, const std::string& more) {
    return spec(
        "kind: decoder\nvocab_size: 64\ncontext_length: 1024\ndecoder: {d_model: 32, "
        "layers: 4, attention: {" +
        attention + "}, ffn: {d_ff: 24}" + more + "}\n");
  };
  const auto block = [&](const std::string& attention, const std::string& more) {
    return spec(
        "kind: block_transformer\nvocab_size: 64\ncontext_length: 1024\nblock: {length: 4, "
        "prefix_length: 2}\nglobal: {d_model: 48, layers: 4, attention: {heads: 4, "
        "kv_heads: 2, head_dim: 12" +
        attention + "}" + more +
        ", ffn: {d_ff: 40}}\nlocal: {d_model: 24, layers: 2, attention: {heads: 2, "
        "head_dim: 12}, ffn: {d_ff: 28}}\n");
  };
  const std::string gqa = "heads: 4, kv_heads: 2, head_dim: 8";
  const std::string mla = "kind: mla, heads: 4, head_dim: 8, latent_dim: 12, rope_dim: 4";
  return {
      {"decoder", decoder(gqa, "")},
      {"CLA", decoder(gqa, ", kv_sharing: cla2")},
      {"MLA", decoder(mla, "")},
      {"some windows", decoder(gqa, ", overrides: [{layers: [1, 2], attention: {window: 16}}]")},
      {"all windows", decoder(gqa + ", window: 16", "")},
      {"Block", block("", "")},
      {"Block, CLA", block("", ", kv_sharing: cla2")},
      {"Block, all windows", block(", window: 8", "")},
  };
}

std::vector<MatrixAnswer> ask_matrix(const NamedSpecs& models) {
  std::vector<MatrixAnswer> out;
  for (const auto& [name, spec] : models) {
    const ModelData model = model_of(spec);
    for (const std::string& policy : policies()) {
      for (const Codec& codec : codecs()) {
        CacheRequest request = request_of(policy);
        request.codec = codec.codec;
        request.fp16_first = request.fp16_newest = codec.fp16_rows;
        out.push_back({name, policy, codec.name, refusal_of(model, request)});
      }
    }
  }
  return out;
}

Node to_node(const std::vector<MatrixAnswer>& answers) {
  Node::List out;
  for (const MatrixAnswer& answer : answers) {
    Node row = Node::Map{{"architecture", answer.architecture},
                         {"policy", answer.policy},
                         {"codec", answer.codec},
                         {"goes", answer.refusal.empty()}};
    row.set("reason", answer.refusal.empty() ? Node() : Node(answer.refusal));
    out.push_back(std::move(row));
  }
  return Node(std::move(out));
}

std::string matrix_markdown(const NamedSpecs& models) {
  const Answers answers(models);
  Cells cells;
  std::string out = policy_table(models, answers, cells);
  out += "\n" + codec_table(models, answers, cells);
  out += "\n" + exceptions(models, answers, cells);
  // Options are the policy's own: the first model that policies act on answers for all.
  for (const auto& [name, spec] : models) {
    if (governed_groups(kv_groups(spec)).empty()) continue;
    out += "\n" + option_table(spec, cells);
    break;
  }
  EngineArguments other;
  other.cache = request_of(kOracle);
  std::string elsewhere;
  try {
    choose_cache(other, model_of(models.front().second), kText);
  } catch (const Error& error) {
    elsewhere = error.what();
  }
  return out + "\n" + cells.list() +
         (elsewhere.empty() ? ""
                            : fmt::format("- `oracle` in other commands than eval: {}\n",
                                          without_name(elsewhere, kOracle)));
}

}  // namespace ashlar::cli
