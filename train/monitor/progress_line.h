#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace ashlar {

/// What a line about a training step says; what is absent is left out of it.
struct ProgressValues {
  int64_t step = 0;
  int64_t steps = 0;
  double loss = 0;  ///< nats
  std::optional<double> lr;
  std::optional<double> grad_norm;
  double tokens_per_second = 0;
  std::optional<double> mfu;                 ///< share of the peak, 0…1
  std::optional<double> data_wait;           ///< share of the time, 0…1
  std::optional<double> communication_wait;  ///< share of the time, 0…1
  std::optional<double> memory_bytes;        ///< in use by this process or its device
  std::optional<double> seconds_left;
};

/// One line of a log: "step 20/600 loss 3.1416 lr 0.0003 norm 0.512 | 12.3k tokens/s, MFU 41.2% |
/// waits: data 0.3%, communication 5.1% | 3.1 GiB | 0:12:40 left".
std::string progress_line(const ProgressValues& v);

/// The same in the space beside a progress bar: "loss 3.142 12.3k tok/s 41% MFU 0:12:40 left".
std::string progress_note(const ProgressValues& v);

/// "0:12:40", "26:03:00", "12d 02:03:00"; "?" when it is not known (not finite or negative).
std::string format_duration(double seconds);

/// Three digits and a unit: "999", "12.3k", "1.25M", "3.00G".
std::string format_count(double value);

/// Model FLOPs utilization (arXiv 2204.02311, appendix B): the share of the machine's peak that the
/// model's own operations account for, recomputation not counted. `flops_per_token` of a forward
/// and a backward pass; `peak` of all ranks together, FLOP/s. Absent unless all are positive.
std::optional<double> model_flops_utilization(double flops_per_token, double tokens_per_second,
                                              double peak);

/// Seconds that the remaining steps take at `steps_per_second`; absent when it is not positive.
std::optional<double> seconds_left(int64_t step, int64_t steps, double steps_per_second);

}  // namespace ashlar
