#include "package/import/open_model.h"

#include "core/base/error.h"
#include "data/tokenizer/tokenizer.h"
#include "package/format/package.h"
#include "package/import/gguf_model.h"
#include "package/import/hf_model.h"
#include "package/import/llama2c.h"

namespace ashlar {
namespace fs = std::filesystem;
namespace {

// The tokenizer that lies beside a model file, or an empty path.
fs::path tokenizer_beside(const fs::path& model, int64_t vocab_size) {
  const fs::path folder = model.has_parent_path() ? model.parent_path() : fs::path(".");
  for (const std::string& name :
       {std::string("tokenizer.json"), fmt::format("tok{}.bin", vocab_size),
        std::string("tokenizer.bin")}) {
    if (fs::is_regular_file(folder / name)) return folder / name;
  }
  return {};
}

}  // namespace

void check_vocabulary(const Tokenizer& tokenizer, const ModelData& model, const fs::path& path) {
  require(tokenizer.vocab_size() <= model.spec.vocab_size, ErrorCode::kRequest,
          "{}: the tokenizer has {} tokens, the model only {}", path.string(),
          tokenizer.vocab_size(), model.spec.vocab_size);
}

ModelData open_model(const fs::path& path, const fs::path& tokenizer_path) {
  require(fs::exists(path), ErrorCode::kRequest, "{}: no such file or folder", path.string());
  ModelData model;
  fs::path tokenizer = tokenizer_path;
  if (is_package(path)) {
    model = read_package(path);
  } else if (is_hf_folder(path)) {
    return import_hf(path, tokenizer_path);
  } else if (fs::is_regular_file(path) && path.extension() == ".bin") {
    refuse_pickle(path);
    model = import_llama2c(path, "");
    if (tokenizer.empty()) tokenizer = tokenizer_beside(path, model.spec.vocab_size);
  } else if (is_gguf(path)) {
    const GgufFile file(path);
    model = import_gguf(file);
    if (tokenizer.empty() && has_gguf_tokenizer(file)) tokenizer = path;
  } else {
    if (fs::is_regular_file(path)) refuse_pickle(path);
    fail(ErrorCode::kRequest,
         "{}: neither a package or Hugging Face folder (config.json is missing) nor a GGUF file or "
         "llama2.c model (.bin)",
         path.string());
  }
  if (!tokenizer.empty()) {
    const auto loaded = load_tokenizer(tokenizer);
    check_vocabulary(*loaded, model, tokenizer);
    model.tokenizer_json = loaded->json();
  }
  return model;
}

}  // namespace ashlar
