#include "train/checkpoint/checkpoint.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <charconv>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "core/io/sha256.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

constexpr const char* kManifest = "manifest.json";
constexpr const char* kDigest = "digest";
constexpr const char* kFolder = "checkpoints";
constexpr const char* kPrefix = "step_";

// Checkpoint folders of a run with their steps, newest first.
std::vector<std::pair<int64_t, fs::path>> step_folders(const fs::path& run) {
  std::vector<std::pair<int64_t, fs::path>> out;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run / kFolder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix) || !entry.is_directory()) continue;
    int64_t step = 0;
    const char* end = name.data() + name.size();
    const auto [stop, code] = std::from_chars(name.data() + 5, end, step);
    if (code == std::errc{} && stop == end && step >= 0) out.emplace_back(step, entry.path());
  }
  std::sort(out.rbegin(), out.rend());
  return out;
}

bool has_manifest(const fs::path& folder) { return fs::exists(folder / kManifest); }

// The manifest goes first: a crash in between must not leave one without its data.
std::error_code remove_checkpoint(const fs::path& folder) {
  std::error_code error;
  fs::remove(folder / kManifest, error);
  fs::remove_all(folder, error);
  return error;
}

// Digest of a manifest's content, without the key that holds it.
std::string digest_of(const Node& manifest) {
  Node bare = Node::map();
  for (const auto& [key, value] : manifest.as_map()) {
    if (key != kDigest) bare.set(key, value);
  }
  const std::string text = write_json(bare);
  return sha256_hex(std::as_bytes(std::span(text)));
}

CheckpointManifest load_manifest(const fs::path& folder) {
  try {
    Node node = load_json(folder / kManifest);
    const Node* digest = node.is_map() ? node.find(kDigest) : nullptr;
    require(digest != nullptr && digest->is_string() && digest->as_string() == digest_of(node),
            ErrorCode::kData, "{}: its digest does not fit its content",
            (folder / kManifest).string());
    std::erase_if(node.as_map(), [](const auto& entry) { return entry.first == kDigest; });
    return manifest_from_node(node);
  } catch (const Error& error) {
    throw Error(ErrorCode::kData, error.what());
  }
}

std::string rank_file(int64_t rank) { return fmt::format("rank_{:05}.h5", rank); }

}  // namespace

CheckpointWriter::CheckpointWriter(const fs::path& run, int64_t step)
    : path_(run / kFolder / fmt::format("{}{:08}", kPrefix, step)), step_(step) {
  std::error_code error = remove_checkpoint(path_);
  fs::create_directories(path_, error);
  require(!error, ErrorCode::kIo, "{}: {}", path_.string(), error.message());
  temporary_ = path_ / (rank_file(0) + ".tmp");
  file_ = H5File::create(temporary_);
}

CheckpointWriter::~CheckpointWriter() {
  if (committed_) return;
  file_.reset();
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void CheckpointWriter::write(const std::string& name, const std::vector<int64_t>& shape,
                             std::span<const float> values) {
  ASHLAR_CHECK_EQ(checked_numel(shape, name.c_str()), static_cast<int64_t>(values.size()));
  file_->write<float>(name, shape, values);
}

void CheckpointWriter::commit(CheckpointManifest manifest) {
  ASHLAR_CHECK_EQ(manifest.position.step, step_);
  file_->close();
  file_.reset();
  sync_file(temporary_);
  const fs::path data = path_ / rank_file(0);
  manifest.files = {
      {rank_file(0), static_cast<int64_t>(fs::file_size(temporary_)), sha256_file(temporary_)}};
  std::error_code error;
  fs::rename(temporary_, data, error);
  require(!error, ErrorCode::kIo, "{}: {}", data.string(), error.message());
  sync_folder(path_);
  sync_folder(path_.parent_path());
  Node node = to_node(manifest);
  node.set(kDigest, digest_of(node));
  write_file_atomically(path_ / kManifest, write_json(node, 1) + "\n");
  committed_ = true;
}

CheckpointManifest verify_checkpoint(const fs::path& folder) {
  require(has_manifest(folder), ErrorCode::kData, "{}: no {}, so it was never finished",
          folder.string(), kManifest);
  CheckpointManifest manifest = load_manifest(folder);
  require(static_cast<int64_t>(manifest.files.size()) == manifest.world, ErrorCode::kData,
          "{}: {} files for {} ranks", (folder / kManifest).string(), manifest.files.size(),
          manifest.world);
  for (const auto& file : manifest.files) {
    const fs::path path = folder / file.name;
    std::error_code error;
    const auto bytes = fs::file_size(path, error);
    require(!error, ErrorCode::kData, "{}: {}", path.string(), error.message());
    require(std::cmp_equal(bytes, file.bytes), ErrorCode::kData,
            "{}: {} bytes, but the manifest says {}", path.string(), bytes, file.bytes);
    require(sha256_file(path) == file.sha256, ErrorCode::kData,
            "{}: its SHA-256 differs from the manifest's, so the file is damaged", path.string());
  }
  return manifest;
}

std::optional<fs::path> newest_checkpoint(const fs::path& run) {
  for (const auto& [step, folder] : step_folders(run)) {
    try {
      verify_checkpoint(folder);
      return folder;
    } catch (const Error& error) {
      spdlog::warn("passing over a checkpoint: {}", error.what());
    }
  }
  return std::nullopt;
}

void retain_checkpoints(const fs::path& run, int64_t keep) {
  int64_t kept = 0;
  for (const auto& [step, folder] : step_folders(run)) {
    const bool whole = has_manifest(folder);
    if (whole && kept < keep) {
      ++kept;
      continue;
    }
    if (kept == 0) continue;
    const std::error_code error = remove_checkpoint(folder);
    if (error) spdlog::warn("{}: {}", folder.string(), error.message());
  }
}

CheckpointReader::CheckpointReader(const fs::path& path) {
  require(fs::is_directory(path), ErrorCode::kRequest, "{}: no such run or checkpoint folder",
          path.string());
  path_ = fs::is_directory(path / kFolder) ? path / kFolder : path;
  if (path_ != path) {
    const auto newest = newest_checkpoint(path);
    require(newest.has_value(), ErrorCode::kRequest, "{}: no checkpoint that verifies",
            path.string());
    path_ = *newest;
  } else {
    require(has_manifest(path), ErrorCode::kRequest,
            "{}: neither a run folder (no {}/) nor a checkpoint (no {})", path.string(), kFolder,
            kManifest);
  }
  manifest_ = path_ == path ? verify_checkpoint(path_) : load_manifest(path_);
  require(manifest_.world == 1, ErrorCode::kRequest,
          "{}: written by {} ranks; reading sharded checkpoints is not part of this version",
          path_.string(), manifest_.world);
  file_ = H5File::open(path_ / manifest_.files.front().name);
}

fs::path CheckpointReader::tokenizer_path() const {
  return fs::weakly_canonical(path_).parent_path().parent_path() / "tokenizer.json";
}

std::vector<int64_t> CheckpointReader::shape(const std::string& name) const {
  return file_->dataset(name).shape;
}

void CheckpointReader::read(const std::string& name, std::span<float> out) const {
  const H5Dataset info = file_->dataset(name);
  require(info.dtype == DType::kF32 && info.elements == static_cast<int64_t>(out.size()),
          ErrorCode::kData, "{}: {} holds {} elements of {}, expected {} of F32",
          file_->path().string(), name, info.elements, dtype_name(info.dtype), out.size());
  file_->read_rows<float>(name, 0, info.shape.empty() ? 1 : info.shape[0], out);
}

}  // namespace ashlar
