#include "data/tokenizer/unicode.h"

#include <algorithm>

#include "core/base/error.h"
#include "data/tokenizer/unicode_tables.h"

namespace ashlar {
namespace {

constexpr std::string_view kNames[] = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl",
                                       "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc",
                                       "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"};

struct Run {
  int32_t first, last;
  uint8_t value;
};

/// The runs of a table of unicode_tables.h.
std::vector<Run> read_runs(const char* text) {
  std::vector<Run> out;
  int32_t next = 0;
  for (const char* at = text; *at != 0;) {
    const char symbol = *at++;
    int32_t length = 0;
    while (*at >= '0' && *at <= '9') length = length * 10 + (*at++ - '0');
    const int value = symbol >= 'a' ? symbol - 'a' + 26 : symbol - 'A';
    length = std::max(length, 1);
    out.push_back({next, next + length - 1, static_cast<uint8_t>(value)});
    next += length;
  }
  ASHLAR_CHECK(next == kCodePoints);
  return out;
}

const std::vector<Run>& categories() {
  static const std::vector<Run> runs = read_runs(kCategoryRuns);
  return runs;
}

/// The code points whose value's bit is in `wanted`.
CodePointSet where(const std::vector<Run>& runs, uint32_t wanted) {
  std::vector<CodePointSet::Range> ranges;
  for (const Run& run : runs) {
    if ((wanted >> run.value & 1) != 0) ranges.emplace_back(run.first, run.last);
  }
  return CodePointSet(std::move(ranges));
}

template <typename T>
void fill(std::vector<T>& table, int32_t first, int32_t last, T value) {
  std::fill(table.begin() + first, table.begin() + last + 1, value);
}

std::vector<CharKind> make_kinds() {
  std::vector<CharKind> out(kCodePoints, CharKind::kOther);
  for (const Run& run : categories()) {
    const char group = kNames[run.value][0];
    if (group == 'L') fill(out, run.first, run.last, CharKind::kLetter);
    if (group == 'N') fill(out, run.first, run.last, CharKind::kNumber);
  }
  for (const auto& [first, last] : white_space().ranges()) fill(out, first, last, CharKind::kSpace);
  return out;
}

std::vector<uint8_t> make_flags() {
  std::vector<uint8_t> out(kCodePoints, 0);
  for (const Run& run : read_runs(kNormalFormRuns)) fill(out, run.first, run.last, run.value);
  return out;
}

}  // namespace

const CharKind* char_kinds() {
  static const std::vector<CharKind> table = make_kinds();
  return table.data();
}

const uint8_t* normal_form_flags() {
  static const std::vector<uint8_t> table = make_flags();
  return table.data();
}

CodePointSet::CodePointSet(std::vector<Range> ranges) : ranges_(std::move(ranges)) { tidy(); }

void CodePointSet::add(int32_t first, int32_t last) {
  ranges_.emplace_back(first, last);
  tidy();
}

void CodePointSet::add(const CodePointSet& other) {
  ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end());
  tidy();
}

void CodePointSet::tidy() {
  std::sort(ranges_.begin(), ranges_.end());
  std::vector<Range> out;
  for (const Range& range : ranges_) {
    if (!out.empty() && range.first <= out.back().second + 1) {
      out.back().second = std::max(out.back().second, range.second);
    } else {
      out.push_back(range);
    }
  }
  ranges_ = std::move(out);
}

CodePointSet CodePointSet::complement() const {
  std::vector<Range> out;
  int32_t next = 0;
  for (const auto& [first, last] : ranges_) {
    if (first > next) out.emplace_back(next, first - 1);
    next = last + 1;
  }
  if (next < kCodePoints) out.emplace_back(next, kCodePoints - 1);
  return CodePointSet(std::move(out));
}

bool CodePointSet::contains(int32_t code_point) const {
  const auto after = std::upper_bound(ranges_.begin(), ranges_.end(), Range(code_point, INT32_MAX));
  return after != ranges_.begin() && std::prev(after)->second >= code_point;
}

std::optional<CodePointSet> general_category(std::string_view name) {
  uint32_t wanted = 0;  // a bit per category
  for (size_t i = 0; i < std::size(kNames); ++i) {
    const bool group = name.size() == 1 && kNames[i][0] == name[0];
    if (group || kNames[i] == name) wanted |= uint32_t{1} << i;
  }
  if (wanted == 0) return std::nullopt;
  return where(categories(), wanted);
}

const CodePointSet& white_space() {
  static const CodePointSet set({{0x09, 0x0d},
                                 {0x20, 0x20},
                                 {0x85, 0x85},
                                 {0xa0, 0xa0},
                                 {0x1680, 0x1680},
                                 {0x2000, 0x200a},
                                 {0x2028, 0x2029},
                                 {0x202f, 0x202f},
                                 {0x205f, 0x205f},
                                 {0x3000, 0x3000}});
  return set;
}

CodePointSet digits_pre_tokenizer_extra() { return where(read_runs(kExtraNumberRuns), 1u << 1); }

}  // namespace ashlar
