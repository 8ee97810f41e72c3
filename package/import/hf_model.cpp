#include "package/import/hf_model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <set>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/io/json.h"
#include "core/io/safetensors_folder.h"
#include "data/tokenizer/chat_template.h"
#include "data/tokenizer/tokenizer.h"
#include "package/import/hf_names.h"
#include "package/import/open_model.h"

namespace ashlar {
namespace fs = std::filesystem;
namespace {

constexpr const char* kPickleReason =
    "a pickle can run code when it is opened, so it is never read; use the model's safetensors "
    "files";

// The folder that holds config.json: `path`, or the snapshot that refs/main of a hub model names.
fs::path snapshot_of(const fs::path& path) {
  if (fs::exists(path / "config.json") || !fs::is_directory(path / "snapshots")) return path;
  std::string revision = read_file(path / "refs" / "main");
  while (!revision.empty() && std::isspace(static_cast<unsigned char>(revision.back()))) {
    revision.pop_back();
  }
  const fs::path name(revision);
  require(!revision.empty() && name.filename() == name && revision != "." && revision != "..",
          ErrorCode::kData, "{}: '{}' is no revision", (path / "refs" / "main").string(), revision);
  return path / "snapshots" / name;
}

// "org/name" if a part of the path is the hub's "models--org--name".
std::string hub_name(const fs::path& path) {
  for (const fs::path& part : fs::absolute(path).lexically_normal()) {
    const std::string name = part.string();
    if (!name.starts_with("models--")) continue;
    const size_t begin = std::strlen("models--"), at = name.find("--", begin);
    if (at == std::string::npos) return name.substr(begin);
    return name.substr(begin, at - begin) + "/" + name.substr(at + 2);
  }
  return {};
}

std::string folder_name(const fs::path& folder) {
  const fs::path path = fs::absolute(folder).lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

void check_weights_exist(const fs::path& folder) {
  if (SafetensorsFolder::exists(folder)) return;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string type = entry.path().extension().string();
    for (const char* pickled : {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}) {
      require(type != pickled, ErrorCode::kRequest, "{}: {}", entry.path().string(), kPickleReason);
    }
  }
  fail(ErrorCode::kRequest, "{}: neither model.safetensors nor model.safetensors.index.json",
       folder.string());
}

using Entry = SafetensorsFolder::Entry;

// One of q, k, v of a fused projection [heads, 3, rows, in]; a bias has no `in`.
WeightTensor unfuse(const Entry& entry, const ParameterSpec& p, int64_t heads, int part) {
  const auto fused = entry.bytes();
  const size_t slice = fused.size() / static_cast<size_t>(3 * heads);
  const auto bytes = std::make_shared<std::vector<std::byte>>(slice * static_cast<size_t>(heads));
  for (size_t h = 0; h < static_cast<size_t>(heads); ++h) {
    std::memcpy(bytes->data() + h * slice,
                fused.data() + (3 * h + static_cast<size_t>(part)) * slice, slice);
  }
  return {p.name, p.shape, DenseTensor{entry.info.dtype, *bytes}, bytes};
}

class Importer {
 public:
  Importer(const fs::path& folder, HfConfig config)
      : folder_(folder), weights_(folder), config_(std::move(config)) {}

  std::map<std::string, TensorSource> run() {
    for (const ParameterSpec& p : parameters(config_.spec)) add(p);
    check_leftovers();
    return std::move(out_);
  }

 private:
  const Entry& entry(const std::string& name) {
    const Entry* found = weights_.find(name);
    require(found != nullptr, ErrorCode::kData, "{}: tensor '{}' is missing", folder_.string(),
            name);
    used_.insert(name);
    return *found;
  }

  const Entry& head(const std::string& name) {
    // transformers 5 knows GPT-NeoX's head by Llama's name as well.
    for (const std::string& known : {name, std::string("lm_head.weight")}) {
      if (weights_.find(known) != nullptr) return entry(known);
    }
    fail(ErrorCode::kData,
         "{}: tensor '{}' is missing, but config.json says that the head is not tied to the token "
         "table (tie_word_embeddings)",
         folder_.string(), name);
  }

  void add(const ParameterSpec& p) {
    const HfName theirs = hf_name(config_.family, p);
    const Entry& e = p.role == ParameterRole::kHead ? head(theirs.name) : entry(theirs.name);
    std::vector<int64_t> shape = p.shape;
    if (theirs.part >= 0) shape[0] *= 3;
    require(e.info.shape == shape, ErrorCode::kData,
            "{}: tensor '{}' has shape [{}], config.json needs [{}]", e.file->path().string(),
            e.info.name, fmt::join(e.info.shape, ", "), fmt::join(shape, ", "));
    const DType type = e.info.dtype;
    require(type == DType::kF32 || type == DType::kF16 || type == DType::kBF16, ErrorCode::kData,
            "{}: tensor '{}': elements of type {} are not supported", e.file->path().string(),
            e.info.name, dtype_name(type));
    const int64_t heads = config_.spec.stacks[0].layers[0].attention.heads;
    out_[p.name] =
        TensorSource(p.name, p.shape, TensorEncoding::dense(type),
                     [e, p, heads, part = theirs.part]() -> WeightTensor {
                       if (part >= 0) return unfuse(e, p, heads, part);
                       return {p.name, p.shape, DenseTensor{e.info.dtype, e.bytes()}, e.owner()};
                     });
  }

  // Some files of tied models hold the table twice.
  bool is_tied_copy(const std::string& name, const Entry& e) const {
    const ParameterSpec table = parameters(config_.spec).front();
    if (!config_.spec.tied_head || (name != "lm_head.weight" && name != "embed_out.weight")) {
      return false;
    }
    const Entry& own = *weights_.find(hf_name(config_.family, table).name);
    return own.info.dtype == e.info.dtype && std::ranges::equal(own.bytes(), e.bytes());
  }

  void check_leftovers() const {
    for (const auto& [name, e] : weights_.tensors()) {
      if (used_.count(name) != 0 || is_known_leftover(config_.family, name)) continue;
      if (is_tied_copy(name, e)) continue;
      const bool head = name == "lm_head.weight" || name == "embed_out.weight";
      fail(ErrorCode::kData, "{}: tensor '{}' {}", e.file->path().string(), name,
           head ? "is another table than the token table, to which config.json ties the head "
                  "(tie_word_embeddings)"
                : "does not belong to this model");
    }
  }

  fs::path folder_;
  SafetensorsFolder weights_;
  HfConfig config_;
  std::set<std::string> used_;
  std::map<std::string, TensorSource> out_;
};

std::optional<Node> load_if_there(const fs::path& path) {
  if (!fs::is_regular_file(path)) return std::nullopt;
  return load_json(path);
}

std::optional<int64_t> start_token(const Tokenizer& tokenizer, const std::optional<Node>& config) {
  const std::optional<int32_t> bos = tokenizer.bos_id();
  if (!bos) return std::nullopt;
  const Node* add = config ? config->find("add_bos_token") : nullptr;
  if (add != nullptr && add->is_bool()) {
    return add->as_bool() ? std::optional<int64_t>(*bos) : std::nullopt;
  }
  const std::vector<int32_t> around = tokenizer.encode("", {.add_special = true});
  if (around.empty() || around.front() != *bos) return std::nullopt;
  return *bos;
}

// tokenizer.json by its folder, so that tokenizer_config.json is read with it.
fs::path tokenizer_in(const fs::path& folder) {
  if (fs::is_regular_file(folder / "tokenizer.json")) return folder;
  if (fs::is_regular_file(folder / "tokenizer.model")) return folder / "tokenizer.model";
  return {};
}

void read_tokenizer(const fs::path& folder, const fs::path& given, ModelData& model) {
  const std::optional<Node> config = load_if_there(folder / "tokenizer_config.json");
  model.chat_template = read_chat_template(folder);
  const fs::path path = given.empty() ? tokenizer_in(folder) : given;
  if (path.empty()) return;
  const auto tokenizer = load_tokenizer(path);
  check_vocabulary(*tokenizer, model, path);
  model.tokenizer_json = tokenizer->json();
  model.start_token = start_token(*tokenizer, config);
  if (model.stop_tokens.empty() && tokenizer->eos_id()) {
    model.stop_tokens = {*tokenizer->eos_id()};
  }
}

}  // namespace

bool is_hf_folder(const fs::path& path) {
  return fs::is_directory(path) &&
         (fs::exists(path / "config.json") || fs::is_directory(path / "snapshots"));
}

void refuse_pickle(const fs::path& file) {
  std::array<char, 4> head{};
  std::ifstream(file, std::ios::binary).read(head.data(), head.size());
  const bool zip = std::memcmp(head.data(), "PK\x03\x04", 4) == 0;
  const bool pickle = head[0] == '\x80' && head[1] >= 2 && head[1] <= 5 && head[2] != 0;
  require(!zip && !pickle, ErrorCode::kRequest, "{}: {}", file.string(), kPickleReason);
}

ModelData import_hf(const fs::path& path, const fs::path& tokenizer) {
  const fs::path folder = snapshot_of(path);
  require(fs::is_regular_file(folder / "config.json"), ErrorCode::kRequest,
          "{}: no config.json in this folder", folder.string());
  HfConfig config = read_hf_config(load_json(folder / "config.json"));
  check_weights_exist(folder);
  ModelData model;
  model.spec = config.spec;
  model.stop_tokens = config.stop_tokens;
  model.name = hub_name(path);
  if (model.name.empty()) model.name = config.name;
  if (model.name.empty()) model.name = folder_name(path);
  if (const auto generation = load_if_there(folder / "generation_config.json")) {
    const std::vector<int64_t> stop = read_stop_tokens(*generation);
    if (!stop.empty()) model.stop_tokens = stop;
  }
  model.tensors = Importer(folder, std::move(config)).run();
  read_tokenizer(folder, tokenizer, model);
  validate(model, folder.string());
  return model;
}

}  // namespace ashlar
