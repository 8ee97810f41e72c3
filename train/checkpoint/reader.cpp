#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/hdf5/hdf5.h"
#include "train/checkpoint/checkpoint.h"
#include "train/checkpoint/folders.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

// Files held open at once; a checkpoint of a thousand ranks must not use up the descriptors.
constexpr size_t kOpenFiles = 64;

// A dataset that holds the elements [first, first + count) of a tensor.
struct Run {
  size_t file = 0;
  std::string dataset;
  int64_t first = 0, count = 0;
  int64_t row = 1;  // elements per row of the dataset's first dimension
};

struct Tensor {
  std::vector<int64_t> shape;
  int64_t numel = 0;
  size_t file = 0;        // the one that gave the shape
  std::vector<Run> runs;  // by `first`
};

std::vector<int64_t> parse_shape(const std::string& text, const std::string& where) {
  std::vector<int64_t> shape;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (true) {
    int64_t value = 0;
    const auto [stop, code] = std::from_chars(at, end, value);
    const bool good = code == std::errc{} && value >= 0 && (stop == end || *stop == ',');
    require(good, ErrorCode::kData, "{}: its attribute shape '{}' is no list of sizes", where,
            text);
    shape.push_back(value);
    if (stop == end) return shape;
    at = stop + 1;
  }
}

}  // namespace

struct CheckpointReader::Index {
  std::vector<fs::path> files;
  std::map<std::string, Tensor> tensors;
  std::map<size_t, H5File> open;

  explicit Index(std::vector<fs::path> paths) : files(std::move(paths)) {
    for (size_t f = 0; f < files.size(); ++f) {
      for (const std::string& dataset : file(f).datasets()) add(f, dataset);
    }
    for (auto& [name, tensor] : tensors) {
      std::stable_sort(tensor.runs.begin(), tensor.runs.end(),
                       [](const Run& a, const Run& b) { return a.first < b.first; });
    }
  }

  H5File& file(size_t f) {
    const auto found = open.find(f);
    if (found != open.end()) return found->second;
    if (open.size() >= kOpenFiles) open.clear();
    return open.emplace(f, H5File::open(files[f])).first->second;
  }

  void add(size_t f, const std::string& dataset);
  void add_run(const std::string& name, std::vector<int64_t> shape, Run run);
  void read_run(const Run& run, int64_t first, std::span<float> out);
};

void CheckpointReader::Index::add(size_t f, const std::string& dataset) {
  H5File& h5 = file(f);
  const std::string where = fmt::format("{}: {}", files[f].string(), dataset);
  const H5Dataset info = h5.dataset(dataset);
  require(info.dtype == DType::kF32, ErrorCode::kData, "{}: holds {}, expected F32", where,
          dtype_name(info.dtype));
  Run run{f, dataset, 0, info.elements, 1};
  if (!h5.has_attribute(dataset, "first")) {
    if (!info.shape.empty()) {
      run.row = checked_numel(std::span(info.shape).subspan(1), where.c_str());
    }
    return add_run(dataset, info.shape, std::move(run));
  }
  require(info.shape.size() == 1, ErrorCode::kData, "{}: a piece has one dimension, this has {}",
          where, info.shape.size());
  run.first = h5.integer_attribute(dataset, "first");
  const std::string suffix = fmt::format("@{}", run.first);
  require(dataset.size() > suffix.size() && dataset.ends_with(suffix), ErrorCode::kData,
          "{}: its attribute first is {}, which its name does not say", where, run.first);
  add_run(dataset.substr(0, dataset.size() - suffix.size()),
          parse_shape(h5.text_attribute(dataset, "shape"), where), std::move(run));
}

void CheckpointReader::Index::add_run(const std::string& name, std::vector<int64_t> shape,
                                      Run run) {
  const std::string where = fmt::format("{}: {}", files[run.file].string(), run.dataset);
  const int64_t numel = checked_numel(shape, where.c_str());
  const auto [at, fresh] = tensors.try_emplace(name, Tensor{shape, numel, run.file, {}});
  const Tensor& known = at->second;
  require(known.shape == shape, ErrorCode::kData, "{}: of a tensor [{}], but {} has it as [{}]",
          where, fmt::join(shape, ", "), files[known.file].string(), fmt::join(known.shape, ", "));
  require(run.first >= 0 && run.count <= numel && run.first <= numel - run.count, ErrorCode::kData,
          "{}: elements {}+{} of a tensor of {}", where, run.first, run.count, numel);
  if (run.count > 0) at->second.runs.push_back(std::move(run));
}

// Elements [first, first + out.size()) counted from the run's own beginning. HDF5 gives whole rows:
// those that stick out go through a row of scratch.
void CheckpointReader::Index::read_run(const Run& run, int64_t first, std::span<float> out) {
  const H5File& h5 = file(run.file);
  std::vector<float> scratch;
  for (size_t done = 0; done < out.size();) {
    const int64_t at = first + static_cast<int64_t>(done);
    const int64_t left = static_cast<int64_t>(out.size() - done);
    const int64_t row = at / run.row, skip = at % run.row;
    if (skip == 0 && left >= run.row) {
      const int64_t whole = left / run.row * run.row;
      h5.read_rows<float>(run.dataset, row, whole / run.row,
                          out.subspan(done, static_cast<size_t>(whole)));
      done += static_cast<size_t>(whole);
      continue;
    }
    scratch.resize(static_cast<size_t>(run.row));
    h5.read_rows<float>(run.dataset, row, 1, std::span(scratch));
    const int64_t part = std::min(left, run.row - skip);
    std::copy_n(scratch.begin() + skip, part, out.begin() + static_cast<std::ptrdiff_t>(done));
    done += static_cast<size_t>(part);
  }
}

CheckpointReader::CheckpointReader(const fs::path& path, Verify verify) {
  namespace folders = checkpoint_folders;
  require(fs::is_directory(path), ErrorCode::kRequest, "{}: no such run or checkpoint folder",
          path.string());
  path_ = path;
  if (fs::is_directory(path / folders::kRoot)) {
    const auto newest = newest_checkpoint(path);
    require(newest.has_value(), ErrorCode::kRequest, "{}: no checkpoint that verifies",
            path.string());
    path_ = *newest;
    verify = Verify::kSizes;  // its digests have just been checked
  } else {
    require(fs::exists(path / folders::kManifest), ErrorCode::kRequest,
            "{}: neither a run folder (no {}/) nor a checkpoint (no {})", path.string(),
            folders::kRoot, folders::kManifest);
  }
  manifest_ = verify_checkpoint(path_, verify);
  std::vector<fs::path> files;
  for (const auto& file : manifest_.files) files.push_back(path_ / file.name);
  index_ = std::make_unique<Index>(std::move(files));
}

CheckpointReader::~CheckpointReader() = default;
CheckpointReader::CheckpointReader(CheckpointReader&&) noexcept = default;
CheckpointReader& CheckpointReader::operator=(CheckpointReader&&) noexcept = default;

fs::path CheckpointReader::tokenizer_path() const {
  return fs::weakly_canonical(path_).parent_path().parent_path() / "tokenizer.json";
}

std::vector<std::string> CheckpointReader::names() const {
  std::vector<std::string> out;
  for (const auto& [name, tensor] : index_->tensors) out.push_back(name);
  return out;
}

bool CheckpointReader::has(const std::string& name) const { return index_->tensors.contains(name); }

std::vector<int64_t> CheckpointReader::shape(const std::string& name) const {
  const auto found = index_->tensors.find(name);
  require(found != index_->tensors.end(), ErrorCode::kData, "{}: no file holds a tensor '{}'",
          path_.string(), name);
  return found->second.shape;
}

void CheckpointReader::read(const std::string& name, std::span<float> out) const {
  const int64_t numel = checked_numel(shape(name), name.c_str());
  require(std::cmp_equal(numel, out.size()), ErrorCode::kData,
          "{}: {} holds {} elements, expected {}", path_.string(), name, numel, out.size());
  read(name, 0, out);
}

void CheckpointReader::read(const std::string& name, int64_t first, std::span<float> out) const {
  shape(name);  // throws for a tensor that is not there
  const Tensor& tensor = index_->tensors.at(name);
  const auto count = static_cast<int64_t>(out.size());
  require(first >= 0 && count <= tensor.numel && first <= tensor.numel - count, ErrorCode::kData,
          "{}: {}: elements {}+{} were asked for, but it has {}", path_.string(), name, first,
          count, tensor.numel);
  const int64_t end = first + count;
  for (int64_t at = first; at < end;) {
    const Run* best = nullptr;  // of those that hold `at`, the one that reaches furthest
    int64_t reach = at, next = end;
    for (const Run& run : tensor.runs) {
      if (run.first > at) {
        next = std::min(next, run.first);
        break;
      }
      if (run.first + run.count > reach) {
        reach = run.first + run.count;
        best = &run;
      }
    }
    require(best != nullptr, ErrorCode::kData,
            "{}: {}: no file holds its elements {} to {} (of {})", path_.string(), name, at,
            next - 1, tensor.numel);
    const int64_t part = std::min(reach, end) - at;
    index_->read_run(*best, at - best->first,
                     out.subspan(static_cast<size_t>(at - first), static_cast<size_t>(part)));
    at += part;
  }
}

}  // namespace ashlar
