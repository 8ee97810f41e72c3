#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "train/append_file.h"

namespace ashlar {

/// CRC-32C (Castagnoli, reflected 0x82F63B78), as iSCSI and TFRecord use it.
uint32_t crc32c(std::string_view bytes);

/// One TFRecord: u64 length, masked CRC of the length, data, masked CRC of the data, where
/// masked = rotate_right(crc, 15) + 0xa282ead8.
std::string tf_record(std::string_view data);

/// A TensorBoard scalar event (protobuf `tensorflow.Event`): wall_time = 1 (double), step = 2
/// (int64), summary = 5 { value = 1 { tag = 1, simple_value = 2 (float) } }.
std::string scalar_event(double wall_time, int64_t step,
                         const std::vector<std::pair<std::string, double>>& values);

/// The event that opens a file (file_version = 3, "brain.Event:2").
std::string version_event(double wall_time);
/// session_log = 7 { status = 1: START } at `step`: TensorBoard forgets steps from there on in
/// earlier files.
std::string session_start_event(double wall_time, int64_t step);

/// Appends events to a fresh file in `folder`, named as TensorBoard expects. A file that
/// carries a run on after `step` begins with a session start.
class EventWriter {
 public:
  EventWriter(const std::filesystem::path& folder, int64_t step);

  /// A disk that is full delays the event (append_file.h).
  void scalars(int64_t step, const std::vector<std::pair<std::string, double>>& values);
  const std::filesystem::path& path() const { return file_->path(); }

 private:
  std::optional<AppendFile> file_;
};

}  // namespace ashlar
