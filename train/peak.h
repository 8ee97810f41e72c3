#pragma once

#include <cstdint>
#include <string>

namespace ashlar {

/// The fastest square matrix product that was seen.
struct MatmulPeak {
  double flops_per_second = 0;  ///< 2·n³ per product
  int64_t size = 0;             ///< n of the fastest
  std::string description;      ///< "bf16 products of 1024×1024 on 2 threads: 1.2e+12 FLOP/s"
};

/// Measures, once and in at most 0.3 s or the time of a few small products, what the machine's own
/// matrix products reach with the current number of threads: the peak that MFU on processors refers
/// to, where there is no data sheet. Other work on the machine lowers it, so a run measures before
/// it begins. `cuda`: of the current GPU instead.
MatmulPeak measure_matmul_peak(bool bf16, bool cuda = false);

}  // namespace ashlar
