#include "export/gguf.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/error.h"
#include "export/gguf_metadata.h"
#include "package/import/gguf_blocks.h"

namespace ashlar {
namespace {

using Role = ParameterRole;
using Bytes = std::vector<std::byte>;

// Values converted at a time.
constexpr int64_t kChunk = int64_t{1} << 20;

struct FileType {
  GgufFileType type;
  const char* name;
  GgufType matrix;
  GgufType table;
  int64_t number;  // general.file_type
};
constexpr FileType kFileTypes[] = {
    {GgufFileType::kF16, "f16", GgufType::kF16, GgufType::kF16, 1},
    {GgufFileType::kQ8_0, "q8_0", GgufType::kQ8_0, GgufType::kQ8_0, 7},
    {GgufFileType::kQ4_0, "q4_0", GgufType::kQ4_0, GgufType::kQ8_0, 2},
};

// One tensor of the file: a parameter, or q, k and v one after the other.
struct Entry {
  GgufTensor tensor;
  std::vector<std::string> parameters;
  int64_t paired_heads = 0;  // > 0: rows of this many heads go back to neighbours
};

class Exporter {
 public:
  Exporter(const ModelData& model, const FileType& type)
      : model_(model), type_(type), arch_(gguf_arch_of(model)) {
    for (const ParameterSpec& p : parameters(model.spec)) add(p);
    if (arch_ == GgufArch::kGptNeox && model.spec.tied_head) add_tied_head();
    check_encodings();
  }

  int64_t write(const std::filesystem::path& path) const;

 private:
  const AttentionSpec& attention() const { return model_.spec.stacks[0].layers[0].attention; }
  GgufType type_of(const ParameterSpec& p) const;
  void add(const ParameterSpec& p);
  bool join_fused(const ParameterSpec& p);
  void add_tied_head();
  void check_encodings() const;
  void write_entry(const Entry& entry, GgufWriter& writer) const;

  const ModelData& model_;
  const FileType& type_;
  GgufArch arch_;
  std::vector<Entry> entries_;
};

GgufType Exporter::type_of(const ParameterSpec& p) const {
  if (!p.is_matrix()) return GgufType::kF32;
  const bool table = p.role == Role::kEmbedding || p.role == Role::kHead;
  return table ? type_.table : type_.matrix;
}

// q, k and v of gptneox; they follow each other in the list of parameters, weights and biases apart
// or in turn.
bool Exporter::join_fused(const ParameterSpec& p) {
  if (arch_ != GgufArch::kGptNeox) return false;
  const bool bias =
      p.role == Role::kQueryBias || p.role == Role::kKeyBias || p.role == Role::kValueBias;
  if (!bias && p.role != Role::kQuery && p.role != Role::kKey && p.role != Role::kValue) {
    return false;
  }
  const std::string name = gguf_fused_name(p.layer, bias);
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& e) { return e.tensor.name == name; });
  if (found == entries_.end()) {
    entries_.push_back({{name, type_of(p), p.shape, 0, 0}, {p.name}, 0});
  } else {
    found->tensor.shape[0] += p.shape[0];
    found->parameters.push_back(p.name);
  }
  return true;
}

void Exporter::add(const ParameterSpec& p) {
  if (join_fused(p)) return;
  const auto name = gguf_tensor_name(p.role, p.layer);
  ASHLAR_CHECK(name.has_value());
  const bool paired = pairs_neighbours(arch_) && is_roped(p.role);
  entries_.push_back({{*name, type_of(p), p.shape, 0, 0},
                      {p.name},
                      paired ? p.shape[0] / attention().head_dim : 0});
}

// llama.cpp's gptneox has no tied head.
void Exporter::add_tied_head() {
  Entry head = entries_.front();
  head.tensor.name = *gguf_tensor_name(Role::kHead, -1);
  entries_.push_back(std::move(head));
}

void Exporter::check_encodings() const {
  for (const Entry& entry : entries_) {
    const GgufTypeInfo& info = gguf_type_info(entry.tensor.type);
    const int64_t in = entry.tensor.shape.back();
    require(in % info.block == 0, ErrorCode::kRequest,
            "tensor '{}': rows of {} are no whole {} blocks of {}; use --type f16",
            entry.parameters[0], in, info.name, info.block);
    for (const std::string& name : entry.parameters) {
      const TensorSource& source = model_.tensors.at(name);
      require(!source.quantized() || info.block == 1 ||
                  fits_gguf_blocks(source.encoding(), in, entry.tensor.type),
              ErrorCode::kRequest,
              "tensor '{}' holds {}: as {} it would be rounded a second time; use --type f16, or "
              "export the unquantized model",
              name, source.encoding().description(), info.name);
    }
  }
}

Bytes encode_rows(const WeightTensor& tensor, GgufType type, int64_t first, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count * tensor.shape[1]));
  dequantize_rows(tensor, first, values);
  return encode_gguf(type, values, fmt::format("tensor '{}'", tensor.name));
}

Bytes encode_all(const WeightTensor& tensor, GgufType type) {
  if (tensor.shape.size() == 1) return encode_gguf(type, to_floats(tensor), tensor.name);
  if (fits_gguf_blocks(tensor.encoding(), tensor.shape[1], type)) {
    return blocks_from_codes(tensor, type);
  }
  return encode_rows(tensor, type, 0, tensor.shape[0]);
}

// Rows of half-split pairs back to neighbours.
Bytes to_neighbours(const Bytes& halves, const std::vector<int64_t>& order) {
  const size_t row = halves.size() / order.size();
  Bytes out(halves.size());
  for (size_t r = 0; r < order.size(); ++r) {
    std::memcpy(out.data() + static_cast<size_t>(order[r]) * row, halves.data() + r * row, row);
  }
  return out;
}

void Exporter::write_entry(const Entry& entry, GgufWriter& writer) const {
  const GgufType type = entry.tensor.type;
  for (const std::string& name : entry.parameters) {
    const WeightTensor tensor = model_.tensor(name);
    if (entry.paired_heads > 0) {
      const auto order =
          half_split_rows(entry.paired_heads, attention().head_dim, attention().rope.dim);
      writer.write_part(to_neighbours(encode_all(tensor, type), order));
      continue;
    }
    const bool whole =
        tensor.shape.size() == 1 || fits_gguf_blocks(tensor.encoding(), tensor.shape[1], type);
    if (whole) {
      writer.write_part(encode_all(tensor, type));
      continue;
    }
    const int64_t step = std::max<int64_t>(1, kChunk / tensor.shape[1]);
    for (int64_t row = 0; row < tensor.shape[0]; row += step) {
      const int64_t count = std::min(step, tensor.shape[0] - row);
      writer.write_part(encode_rows(tensor, type, row, count));
    }
  }
}

int64_t Exporter::write(const std::filesystem::path& path) const {
  GgufMetadata metadata;
  add_model_keys(model_, arch_, metadata);
  metadata.u32("general.file_type", type_.number);
  metadata.u32("general.quantization_version", 2);
  add_tokenizer_keys(model_, metadata);
  std::vector<GgufTensor> tensors;
  const RopeSpec& rope = attention().rope;
  const bool divisors = rope.scaling.kind == RopeScalingKind::kLlama3;
  if (divisors) tensors.push_back({kRopeDivisors, GgufType::kF32, {rope.dim / 2}, 0, 0});
  for (const Entry& entry : entries_) tensors.push_back(entry.tensor);
  GgufWriter writer(path, metadata, tensors);
  if (divisors) writer.write_part(std::as_bytes(std::span<const float>(llama3_divisors(rope))));
  for (const Entry& entry : entries_) write_entry(entry, writer);
  writer.commit();
  int64_t bytes = 0;
  for (const GgufTensor& t : writer.layout()) bytes += t.bytes;
  return bytes;
}

}  // namespace

GgufFileType gguf_file_type(std::string_view name) {
  for (const FileType& entry : kFileTypes) {
    if (name == entry.name) return entry.type;
  }
  fail(ErrorCode::kRequest, "'{}' is no type of a GGUF file; use f16, q8_0 or q4_0", name);
}

int64_t write_gguf(const ModelData& model, const std::filesystem::path& path, GgufFileType type) {
  require(!std::filesystem::exists(path), ErrorCode::kRequest,
          "{}: exists already; remove it or choose another output", path.string());
  validate(model, path.string());
  for (const FileType& entry : kFileTypes) {
    if (entry.type == type) return Exporter(model, entry).write(path);
  }
  fail(ErrorCode::kInternal, "unknown file type");
}

}  // namespace ashlar
