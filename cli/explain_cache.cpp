#include "cli/explain_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "core/base/checked.h"
#include "engine/decode/budget.h"

namespace ashlar::cli {
namespace {

enum Form : size_t { kFp16, kCodec, kRegular, kRaw, kForms };
constexpr std::array<char, kForms> kSigns = {'h', '#', '-', 'r'};
constexpr char kSome = '+', kGone = '.';

// The form of the row in a slot.
Form form_of(const Lane& lane, const Lane::Forms& forms, int64_t slot) {
  if (slot < forms.sinks) return kFp16;
  if (slot < forms.sinks + forms.coded) {
    return lane.zip() == nullptr || lane.zip()->is_salient(slot) ? kCodec : kRegular;
  }
  return slot < forms.sinks + forms.coded + forms.late ? kFp16 : kRaw;
}

// Bits of all numbers of a row in one head, and how many they are.
double row_bits(const KvGroup& group, CodecKind key, CodecKind value) {
  int64_t bytes = codec_vector_bytes(key, group.key_dim);
  if (!group.value_in_key) bytes += codec_vector_bytes(value, group.value_dim);
  return 8 * static_cast<double>(bytes);
}

std::vector<int32_t> sorted(std::span<const int32_t> positions) {
  std::vector<int32_t> out(positions.begin(), positions.end());
  std::ranges::sort(out);
  return out;
}

int64_t missing(const std::vector<int32_t>& from, const std::vector<int32_t>& in) {
  std::vector<int32_t> gone;
  std::ranges::set_difference(from, in, std::back_inserter(gone));
  return std::ssize(gone);
}

}  // namespace

CacheExplainer::CacheExplainer(const Engine& engine, const Sequence& sequence)
    : sequence_(sequence), length_(sequence.length()) {
  const SequenceCache& cache = sequence.cache();
  const std::vector<const Lane*> lanes = cache.lanes();
  size_t index = 0;
  for (const KvGroup& group : engine.groups()) {
    if (group.lifetime != KvLifetime::kSequence) continue;
    int64_t lane = 0;
    for (int64_t head = 0; head < group.heads; head += lanes[index++]->heads()) {
      states_.push_back(
          {&group, index, lane++, sorted(lanes[index]->positions()), cache.position(group.id)});
    }
  }
  ASHLAR_CHECK_EQ(index, lanes.size());
}

void CacheExplainer::observe() {
  const SequenceCache& cache = sequence_.cache();
  if (sequence_.length() == length_) return;
  length_ = sequence_.length();
  const std::vector<const Lane*> lanes = cache.lanes();
  for (LaneState& state : states_) {
    const Lane& lane = *lanes[state.index];
    std::vector<int32_t> now = sorted(lane.positions());
    const int64_t before = state.fed;
    state.fed = cache.position(state.group->id);
    const auto came_back = std::ranges::lower_bound(now, static_cast<int32_t>(before));
    const int64_t recalled = missing(std::vector<int32_t>(now.begin(), came_back), state.held);
    for (int64_t p = before; p < state.fed; ++p) state.held.push_back(static_cast<int32_t>(p));
    rows_.push_back({steps_, state.group->id, state.lane, std::ssize(now), missing(state.held, now),
                     recalled, bits_of(state, lane)});
    state.held = std::move(now);
  }
  ++steps_;
}

double CacheExplainer::bits_of(const LaneState& state, const Lane& lane) const {
  const KvGroup& group = *state.group;
  const CacheOptions& options = sequence_.cache().options();
  const Lane::Forms forms = lane.forms();
  const int64_t fp16 = forms.sinks + forms.late, raw = lane.rows() - fp16 - forms.coded;
  if (lane.rows() == 0) return 0;
  const double coded = lane.zip() != nullptr
                           ? static_cast<double>(lane.zip()->bits())
                           : static_cast<double>(forms.coded) *
                                 row_bits(group, options.key_codec, options.value_codec);
  const double bits =
      static_cast<double>(fp16) * row_bits(group, CodecKind::kF16, CodecKind::kF16) + coded +
      static_cast<double>(raw) * row_bits(group, CodecKind::kF32, CodecKind::kF32);
  return bits / static_cast<double>(lane.rows() * group.entry_width());
}

Node CacheExplainer::rows() const {
  Node out = Node::list();
  for (const Row& row : rows_) {
    out.push(Node::Map{{"step", row.step},
                       {"group", row.group},
                       {"lane", row.lane},
                       {"kept", row.kept},
                       {"evicted", row.evicted},
                       {"recalled", row.recalled},
                       {"bits", row.bits}});
  }
  return out;
}

// A sign for every `per_sign` positions: the form that most of them have, if all are held.
std::string CacheExplainer::signs_of(const LaneState& state, const Lane& lane,
                                     int64_t per_sign) const {
  std::vector<std::array<int64_t, kForms>> counts(
      static_cast<size_t>(ceil_div(state.fed, per_sign)));
  const auto positions = lane.positions();
  for (size_t slot = 0; slot < positions.size(); ++slot) {
    ++counts[static_cast<size_t>(positions[slot] / per_sign)]
            [form_of(lane, lane.forms(), static_cast<int64_t>(slot))];
  }
  std::string out;
  for (size_t column = 0; column < counts.size(); ++column) {
    const auto& own = counts[column];
    const int64_t begin = static_cast<int64_t>(column) * per_sign;
    const int64_t all = std::min(per_sign, state.fed - begin);
    const int64_t held = own[kFp16] + own[kCodec] + own[kRegular] + own[kRaw];
    const auto most = std::max_element(own.begin(), own.end()) - own.begin();
    out += held == 0 ? kGone : held < all ? kSome : kSigns[static_cast<size_t>(most)];
  }
  return out;
}

std::string CacheExplainer::picture(int columns) const {
  if (rows_.empty()) return "";
  const std::vector<const Lane*> lanes = sequence_.cache().lanes();
  std::vector<std::string> names, figures;
  size_t name_width = 0, figure_width = 0;
  int64_t longest = 1;
  const size_t last = rows_.size() - states_.size();  // rows of the last step
  for (size_t i = 0; i < states_.size(); ++i) {
    const LaneState& state = states_[i];
    names.push_back(fmt::format("group {} lane {}", state.group->id, state.lane));
    figures.push_back(fmt::format("{} of {}, {:.1f} bits", rows_[last + i].kept, state.fed,
                                  rows_[last + i].bits));
    name_width = std::max(name_width, names.back().size());
    figure_width = std::max(figure_width, figures.back().size());
    longest = std::max(longest, state.fed);
  }
  const auto room = std::max<int64_t>(
      8, columns - static_cast<int64_t>(name_width + figure_width) - 4);  // bars and spaces
  const int64_t per_sign = ceil_div(longest, room);
  std::string out, used;
  for (size_t i = 0; i < states_.size(); ++i) {
    const std::string signs = signs_of(states_[i], *lanes[states_[i].index], per_sign);
    used += signs;
    out += fmt::format("{:<{}} |{:<{}}| {:>{}}\n", names[i], name_width, signs,
                       ceil_div(longest, per_sign), figures[i], figure_width);
  }
  const CacheOptions& options = sequence_.cache().options();
  const auto [key, value] = codec_names(options);
  const std::string codec = options.zip    ? "zipcache, 4 bits a number"
                            : key == value ? key
                                           : key + " keys, " + value + " values";
  out += fmt::format("Rows of the cache by position in the text{}; after {} steps:\n",
                     per_sign > 1 ? fmt::format(", {} rows a sign", per_sign) : "", steps_);
  const std::pair<char, std::string> legend[] = {
      {kSigns[kCodec], "kept, coded as " + codec},
      {kSigns[kRegular], "kept, coded as zipcache, 2 bits a number"},
      {kSigns[kFp16], "kept, still fp16"},
      {kSigns[kRaw], "kept, raw fp32 until its page is full"},
      {kSome, "some of them kept"},
      {kGone, sequence_.backup_bytes() > 0 ? "in the backup alone, or left behind by a window"
                                           : "evicted, or left behind by a window"}};
  for (const auto& [sign, meaning] : legend) {
    if (used.find(sign) != std::string::npos) out += fmt::format("  {}  {}\n", sign, meaning);
  }
  return out;
}

}  // namespace ashlar::cli
