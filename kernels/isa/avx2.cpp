#include "kernels/simd/avx2.h"
// The lanes above are what everything below is written in.
#include "kernels/isa/tables.h"
#include "kernels/simd/table_impl.h"

namespace ashlar {

constinit const KernelTable kAvx2Kernels = make_table(Isa::kAvx2);

}  // namespace ashlar
