#include "train/checkpoint/folders.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>

#include "core/base/error.h"
#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "core/io/sha256.h"

namespace ashlar {
namespace fs = std::filesystem;
using namespace checkpoint_folders;

namespace {

constexpr const char* kDigest = "digest";
constexpr std::string_view kPrefix = "step_";

struct StepFolder {
  int64_t step = 0;
  std::string suffix;
  fs::path path;
};

// Everything under RUN/checkpoints that is ours, newest first; a checkpoint before the one that it
// replaced.
std::vector<StepFolder> step_folders(const fs::path& run) {
  std::vector<StepFolder> out;
  std::error_code error;
  for (fs::directory_iterator it(run / kRoot, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    std::error_code ignored;
    if (!name.starts_with(kPrefix) || !it->is_directory(ignored)) continue;
    int64_t step = 0;
    const auto [stop, code] =
        std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), step);
    const std::string suffix(stop, name.data() + name.size());
    const bool known = suffix.empty() || suffix == kPartial || suffix == kOld;
    if (code == std::errc{} && known && step >= 0) out.push_back({step, suffix, it->path()});
  }
  std::sort(out.begin(), out.end(), [](const StepFolder& a, const StepFolder& b) {
    return a.step != b.step ? a.step > b.step : a.suffix < b.suffix;
  });
  return out;
}

bool has_manifest(const fs::path& folder) {
  std::error_code ignored;
  return fs::exists(folder / kManifest, ignored);
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

void check_file(const CheckpointManifest::File& file, const fs::path& folder, Verify verify) {
  const fs::path path = folder / file.name;
  std::error_code error;
  const auto bytes = fs::file_size(path, error);
  require(!error, ErrorCode::kData, "{}: {}", path.string(), error.message());
  require(std::cmp_equal(bytes, file.bytes), ErrorCode::kData,
          "{}: {} bytes, but the manifest says {}", path.string(), bytes, file.bytes);
  if (verify == Verify::kSizes) return;
  require(sha256_file(path) == file.sha256, ErrorCode::kData,
          "{}: its SHA-256 differs from the manifest's, so the file is damaged", path.string());
}

void rename_folder(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  require(!error, ErrorCode::kIo, "{}: cannot rename to {}: {}", from.string(), to.string(),
          error.message());
}

}  // namespace

namespace checkpoint_folders {

fs::path path_of(const fs::path& run, int64_t step) {
  return run / kRoot / fmt::format("{}{:08}", kPrefix, step);
}

fs::path partial_path_of(const fs::path& run, int64_t step) {
  fs::path path = path_of(run, step);
  path += kPartial;
  return path;
}

void write_manifest(const fs::path& folder, const CheckpointManifest& manifest) {
  Node node = to_node(manifest);
  node.set(kDigest, digest_of(node));
  write_file_atomically(folder / kManifest, write_json(node, 1) + "\n");
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

void put_in_place(const fs::path& run, int64_t step) {
  const fs::path partial = partial_path_of(run, step), target = path_of(run, step);
  fs::path replaced = partial;
  if (!fs::exists(target)) {
    rename_folder(partial, target);
    replaced.clear();
  } else if (renameat2(AT_FDCWD, partial.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) != 0) {
    // Some file systems cannot swap; the loader then knows the checkpoint under its other name too.
    replaced = target;
    replaced += kOld;
    const std::error_code error = remove_folder(replaced);
    require(!error, ErrorCode::kIo, "{}: {}", replaced.string(), error.message());
    rename_folder(target, replaced);
    rename_folder(partial, target);
  }
  sync_folder(target.parent_path());
  if (replaced.empty()) return;
  if (const std::error_code error = remove_folder(replaced)) {
    spdlog::warn("{}: {}", replaced.string(), error.message());
  }
}

// The manifest goes first: a crash in between must not leave one without its data.
std::error_code remove_folder(const fs::path& folder) {
  std::error_code error;
  fs::remove(folder / kManifest, error);
  fs::remove_all(folder, error);
  return error;
}

}  // namespace checkpoint_folders

CheckpointManifest verify_checkpoint(const fs::path& folder, Verify verify) {
  require(has_manifest(folder), ErrorCode::kData, "{}: no {}, so it was never finished",
          folder.string(), kManifest);
  CheckpointManifest manifest = load_manifest(folder);
  require(static_cast<int64_t>(manifest.files.size()) == manifest.world, ErrorCode::kData,
          "{}: {} files for {} ranks", (folder / kManifest).string(), manifest.files.size(),
          manifest.world);
  for (const auto& file : manifest.files) check_file(file, folder, verify);
  return manifest;
}

std::optional<std::string> verify_files(const CheckpointManifest& manifest, const fs::path& folder,
                                        int64_t rank, int64_t world) {
  ASHLAR_CHECK(world >= 1 && rank >= 0 && rank < world);
  try {
    for (size_t f = static_cast<size_t>(rank); f < manifest.files.size();
         f += static_cast<size_t>(world)) {
      check_file(manifest.files[f], folder, Verify::kFull);
    }
  } catch (const std::exception& error) {
    return error.what();
  }
  return std::nullopt;
}

std::vector<fs::path> checkpoint_candidates(const fs::path& run) {
  std::vector<fs::path> out;
  for (const StepFolder& folder : step_folders(run)) {
    if (folder.suffix != kPartial) out.push_back(folder.path);
  }
  return out;
}

std::optional<fs::path> newest_checkpoint(const fs::path& run) {
  for (const fs::path& folder : checkpoint_candidates(run)) {
    try {
      verify_checkpoint(folder);
      return folder;
    } catch (const Error& error) {
      spdlog::warn("passing over a checkpoint: {}", error.what());
    }
  }
  return std::nullopt;
}

void retain_checkpoints(const fs::path& run, const Retention& retention, int64_t newest) {
  int64_t kept = 0;
  for (const StepFolder& folder : step_folders(run)) {
    const bool whole = folder.suffix.empty() && has_manifest(folder.path);
    if (whole && folder.step <= newest) {
      if (folder.step == newest || kept < retention.keep) {
        ++kept;
        continue;
      }
      if (retention.keep_every > 0 && folder.step % retention.keep_every == 0) continue;
    }
    if (whole && folder.step > newest) {
      spdlog::info("removing {}: the run has gone back to before it", folder.path.string());
    }
    const std::error_code error = checkpoint_folders::remove_folder(folder.path);
    if (error) spdlog::warn("{}: cannot remove: {}", folder.path.string(), error.message());
  }
}

}  // namespace ashlar
