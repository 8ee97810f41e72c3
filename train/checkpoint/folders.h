#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "train/checkpoint/checkpoint.h"

// Private to train/checkpoint: the folders under RUN/checkpoints. step_00000200 is a checkpoint;
// step_00000200.partial is one being written; step_00000200.old is one that its successor is about
// to replace, on file systems that cannot swap two names.

namespace ashlar::checkpoint_folders {

inline constexpr const char* kManifest = "manifest.json";
inline constexpr const char* kRoot = "checkpoints";
inline constexpr const char* kPartial = ".partial";
inline constexpr const char* kOld = ".old";

std::filesystem::path path_of(const std::filesystem::path& run, int64_t step);
std::filesystem::path partial_path_of(const std::filesystem::path& run, int64_t step);

/// Writes the manifest with its digest into `folder`, durably.
void write_manifest(const std::filesystem::path& folder, const CheckpointManifest& manifest);
/// Reads one and checks its digest.
CheckpointManifest load_manifest(const std::filesystem::path& folder);

/// Gives a complete partial folder its final name; one of that name is replaced, and there is no
/// moment without one of the two. Throws Error(kIo).
void put_in_place(const std::filesystem::path& run, int64_t step);

/// Removes a folder, its manifest first.
std::error_code remove_folder(const std::filesystem::path& folder);

}  // namespace ashlar::checkpoint_folders
