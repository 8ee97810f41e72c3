#include "train/dist/rank_identity.h"

#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/base/error.h"
#include "train/dist/record.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

std::string link_of(const char* path) {
  std::error_code error;
  const fs::path target = fs::read_symlink(path, error);
  return error ? "" : target.string();
}

struct ProcessStatus {
  char state = 0;
  int64_t started = 0;
};

// /proc/PID/stat: "pid (name) state …"; the name may hold anything, the start time is field 22.
bool read_status(int64_t pid, ProcessStatus& status) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return false;
  std::istringstream fields(text.substr(name_end + 1));
  fields >> status.state;
  std::string skipped;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  fields >> status.started;
  return static_cast<bool>(fields);
}

}  // namespace

RankIdentity RankIdentity::of_this_process() {
  RankIdentity identity;
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) == 0) identity.host = host.data();
  std::ifstream("/proc/sys/kernel/random/boot_id") >> identity.machine;
  identity.network = link_of("/proc/self/ns/net");
  identity.processes = link_of("/proc/self/ns/pid");
  identity.pid = getpid();
  ProcessStatus status;
  if (read_status(identity.pid, status)) identity.started = status.started;
  return identity;
}

std::string RankIdentity::encode() const {
  return encode_record(
      {host, machine, network, processes, std::to_string(pid), std::to_string(started)});
}

RankIdentity RankIdentity::decode(const std::string& text) {
  const auto fields = decode_record(text, 6);
  RankIdentity identity{fields[0], fields[1], fields[2], fields[3], 0, 0};
  identity.pid = record_number(fields[4]);
  identity.started = record_number(fields[5]);
  return identity;
}

ProcessState process_state(const RankIdentity& other, const RankIdentity& self) {
  const bool visible = !self.machine.empty() && self.machine == other.machine &&
                       !self.processes.empty() && self.processes == other.processes &&
                       self.started != 0 && other.started != 0;
  if (!visible) return ProcessState::kUnknown;
  ProcessStatus status;
  if (!read_status(other.pid, status) || status.started != other.started) {
    return ProcessState::kGone;
  }
  if (status.state == 'Z' || status.state == 'X') return ProcessState::kGone;
  return status.state == 'T' || status.state == 't' ? ProcessState::kStopped
                                                    : ProcessState::kRunning;
}

}  // namespace ashlar
