#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ashlar {

/// What `--kv-zip` says: how ZipCache (arXiv 2405.14256) stores rows.
struct ZipOptions {
  double salient = 0.6;  ///< r: share of the rows of a segment that get 4 bits, [0, 1]
  double probes = 0.1;   ///< share of query rows that rows are ranked by, half of it the newest
  int64_t every = 100;   ///< rows that wait in fp16 until they become a segment
  uint64_t seed = 0;     ///< of the other half of the probe rows

  bool operator==(const ZipOptions&) const = default;
};

/// "salient=0.6,probes=0.1,every=100,seed=0", in any order, each at most once; what is not named
/// has its default. `every` is in tokens and becomes ⌈tokens / block_length⌉ rows. Throws
/// Error(kRequest) naming `--kv-zip` and the item.
ZipOptions read_zip(const std::string& text, int64_t block_length);
/// All of it in that form, `every` in rows; read_zip(·, 1) gives the same options.
std::string write_zip(const ZipOptions& options);
/// What `--help` says about the form.
std::string zip_help();
/// Throws Error(kRequest) for a number out of range.
void validate(const ZipOptions& options);

/// r·rows of a segment, to the nearest, halves up.
int64_t salient_rows(const ZipOptions& options, int64_t rows);

/// The query rows [begin, end) of a text among which some are probes: the newest p/2 of them, to
/// the nearest and at least one, and p/2 of the others, drawn without replacement. To draw k of m
/// rows they are cut into k stretches as equal as can be, and each gives one row by Philox (seed,
/// begin, end, stretch): so whether a row is a probe takes constant time and no table, whatever
/// pieces a prompt comes in. The end must be known before the first row runs.
class ProbeRows {
 public:
  ProbeRows() = default;
  ProbeRows(const ZipOptions& options, int64_t begin, int64_t end);

  int64_t begin() const { return begin_; }
  int64_t end() const { return end_; }
  int64_t count() const { return drawn_ + newest_; }
  bool contains(int64_t row) const;
  /// How many probes of [row, last) there are, for every row from `first` to `last`.
  std::vector<int64_t> counts_from(int64_t first, int64_t last) const;

 private:
  uint64_t seed_ = 0;
  int64_t begin_ = 0, end_ = 0;
  int64_t newest_ = 0, drawn_ = 0;
};

}  // namespace ashlar
