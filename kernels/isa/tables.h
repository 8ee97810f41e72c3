#pragma once

#include "kernels/dispatch.h"

namespace ashlar {

// One per source in this folder, constant-initialised.
extern const KernelTable kGenericKernels;
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
extern const KernelTable kAvx512VnniKernels;

}  // namespace ashlar
