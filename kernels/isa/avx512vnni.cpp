#include "kernels/simd/avx512_vnni.h"
// The lanes above are what everything below is written in.
#include "kernels/isa/tables.h"
#include "kernels/simd/table_impl.h"

namespace ashlar {

constinit const KernelTable kAvx512VnniKernels = make_table(Isa::kAvx512Vnni);

}  // namespace ashlar
