#pragma once

#include <string>
#include <string_view>

namespace ashlar {

/// Instruction sets a kernel source may be compiled for, in rising order.
enum class Isa { kGeneric, kAvx2, kAvx512, kAvx512Vnni };

/// What this processor and operating system can run.
struct CpuFeatures {
  bool avx2_fma_f16c = false;
  bool avx512 = false;       ///< F, BW, DQ, VL
  bool avx512_vnni = false;  ///< avx512 and VNNI
  bool avx512_bf16 = false;
  bool amx_bf16 = false;
  int cores = 1;  ///< processors this process may use (affinity respected)
  std::string model;
};

const CpuFeatures& cpu_features();

/// The best supported ISA, or the one that environment variable ASHLAR_ISA names
/// (`generic`, `avx2`, `avx512`, `avx512vnni`); throws `Error(kRequest)` if it names an unknown or
/// unsupported one. Chosen once per process.
Isa active_isa();
std::string_view isa_name(Isa isa);
Isa isa_from_name(std::string_view name);
bool isa_supported(Isa isa);

}  // namespace ashlar
