#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

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

/// Appends events to a fresh file in `folder`, named as TensorBoard expects. Every file opens with
/// file_version = 3 "brain.Event:2" and, when it carries a run on, with a session start at `step`,
/// which makes TensorBoard forget later steps of earlier files.
class EventWriter {
 public:
  EventWriter(const std::filesystem::path& folder, int64_t step);
  ~EventWriter();
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;

  /// Throws Error(kIo) when the disk refuses.
  void scalars(int64_t step, const std::vector<std::pair<std::string, double>>& values);
  const std::filesystem::path& path() const { return path_; }

 private:
  void append(const std::string& event);

  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace ashlar
