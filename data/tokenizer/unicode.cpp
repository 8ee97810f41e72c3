#include "data/tokenizer/unicode.h"

#include <algorithm>
#include <functional>

#include "core/base/error.h"
#include "data/tokenizer/unicode_tables.h"

namespace ashlar {
namespace {

constexpr std::string_view kNames[] = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl",
                                       "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc",
                                       "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"};

/// The values of a table of unicode_tables.h, one per code point.
std::vector<uint8_t> expand(const char* runs) {
  std::vector<uint8_t> out;
  out.reserve(kCodePoints);
  for (const char* at = runs; *at != 0;) {
    const char symbol = *at++;
    size_t length = 0;
    while (*at >= '0' && *at <= '9') length = length * 10 + static_cast<size_t>(*at++ - '0');
    const int value = symbol >= 'a' ? symbol - 'a' + 26 : symbol - 'A';
    out.insert(out.end(), std::max<size_t>(length, 1), static_cast<uint8_t>(value));
  }
  ASHLAR_CHECK(out.size() == kCodePoints);
  return out;
}

const std::vector<uint8_t>& categories() {
  static const std::vector<uint8_t> table = expand(kCategoryRuns);
  return table;
}

CodePointSet where(const std::vector<uint8_t>& table, const std::function<bool(uint8_t)>& wanted) {
  std::vector<CodePointSet::Range> ranges;
  for (int32_t c = 0; c < kCodePoints; ++c) {
    if (!wanted(table[static_cast<size_t>(c)])) continue;
    if (!ranges.empty() && ranges.back().second == c - 1) {
      ranges.back().second = c;
    } else {
      ranges.emplace_back(c, c);
    }
  }
  return CodePointSet(std::move(ranges));
}

std::vector<CharKind> make_kinds() {
  std::vector<CharKind> out(kCodePoints, CharKind::kOther);
  for (size_t c = 0; c < out.size(); ++c) {
    const char group = kNames[categories()[c]][0];
    if (group == 'L') out[c] = CharKind::kLetter;
    if (group == 'N') out[c] = CharKind::kNumber;
  }
  for (const auto& [first, last] : white_space().ranges()) {
    for (int32_t c = first; c <= last; ++c) out[static_cast<size_t>(c)] = CharKind::kSpace;
  }
  return out;
}

}  // namespace

const CharKind* char_kinds() {
  static const std::vector<CharKind> table = make_kinds();
  return table.data();
}

const uint8_t* normal_form_flags() {
  static const std::vector<uint8_t> table = expand(kNormalFormRuns);
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
  return where(categories(), [&](uint8_t category) { return (wanted >> category & 1) != 0; });
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

CodePointSet digits_pre_tokenizer_extra() {
  return where(expand(kExtraNumberRuns), [](uint8_t value) { return value != 0; });
}

}  // namespace ashlar
