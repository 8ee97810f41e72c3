#include <cuda_runtime.h>

#include "attention/cuda/launch.h"
#include "attention/cuda/row_math.h"

namespace ashlar::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int64_t kMostBlocks = int64_t{1} << 30;

// The threads of a block. Sums are in the same order in every run.
class BlockTeam {
 public:
  __device__ explicit BlockTeam(float* shared) : shared_(shared) {}
  __device__ int64_t lane() const { return threadIdx.x; }
  __device__ int64_t size() const { return kThreads; }
  __device__ float sum(float x) const {
    return reduce(x, 0.0f, [](float a, float b) { return a + b; });
  }
  __device__ float max(float x) const {
    return reduce(x, -INFINITY, [](float a, float b) { return fmaxf(a, b); });
  }

 private:
  template <typename Op>
  __device__ float reduce(float x, float neutral, Op op) const {
    for (int step = 16; step > 0; step /= 2) x = op(x, __shfl_xor_sync(0xffffffffu, x, step));
    __syncthreads();  // what an earlier reduction left has been read
    if (threadIdx.x % 32 == 0) shared_[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < kWarps ? shared_[threadIdx.x % 32] : neutral;
    for (int step = 16; step > 0; step /= 2) x = op(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
  }
  float* shared_;
};

template <typename T>
__global__ void rms_norm_kernel(const T* x, const float* gain, T* y, float* inverse, int64_t width,
                                float eps) {
  __shared__ float shared[kWarps];
  const int64_t row = blockIdx.x, at = row * width;
  rms_norm_row(BlockTeam(shared), x + at, gain, y + at, inverse + row, width, eps);
}

template <typename T>
__global__ void rms_norm_backward_kernel(const T* x, const float* gain, const float* inverse,
                                         const T* dy, const T* residual, T* dx, int64_t width) {
  __shared__ float shared[kWarps];
  const int64_t row = blockIdx.x, at = row * width;
  rms_norm_backward_row(BlockTeam(shared), x + at, gain, inverse[row], dy + at,
                        residual == nullptr ? nullptr : residual + at, dx + at, width);
}

template <typename T>
__global__ void gain_kernel(const T* x, const T* dy, const float* inverse, float* parts,
                            int64_t rows, int64_t width) {
  const int64_t column = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (column >= width) return;
  const int64_t first = int64_t{blockIdx.x} * kGainRows;
  const int64_t count = rows - first < kGainRows ? rows - first : kGainRows;
  parts[blockIdx.x * width + column] =
      gain_gradient(x + first * width, dy + first * width, inverse + first, count, width, column);
}

template <typename T>
__global__ void rotate_kernel(const T* x, T* y, const float* cosine, const float* sine,
                              int64_t count, int64_t positions, int64_t heads, rows::HeadPart part,
                              float direction) {
  const int64_t slots = rotation_slots(part), half = part.turned / 2;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t head = i / slots, position = head / heads % positions;
  rotate_slot(x + head * part.dim, y + head * part.dim, cosine + position * half,
              sine + position * half, i % slots, part, direction);
}

template <typename T>
__global__ void swiglu_kernel(const T* gate, const T* up, T* y, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) swiglu_element(gate, up, y, i);
}

template <typename T>
__global__ void swiglu_backward_kernel(const T* gate, const T* up, const T* dy, T* dgate, T* dup,
                                       int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) swiglu_backward_element(gate, up, dy, dgate, dup, i);
}

template <typename T>
__global__ void cross_entropy_kernel(T* logits, const int64_t* targets, const float* weights,
                                     double* loss, int64_t classes, rows::LossShape shape,
                                     bool gradient) {
  __shared__ float shared[kWarps];
  const int64_t row = blockIdx.x;
  cross_entropy_row(BlockTeam(shared), logits + row * classes, targets[row], weights[row],
                    loss + row, classes, shape, gradient);
}

int64_t blocks_of(int64_t count) { return (count + kThreads - 1) / kThreads; }

const char* reason(cudaError_t status) {
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

const char* too_large(int64_t blocks) {
  return blocks > kMostBlocks ? "more blocks than a grid holds" : nullptr;
}

cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }

}  // namespace

template <typename T>
const char* rms_norm(const T* x, const float* gain, T* y, float* inverse_rms, int64_t rows,
                     int64_t width, float eps, void* stream) {
  if (rows == 0) return nullptr;
  if (const char* why = too_large(rows)) return why;
  rms_norm_kernel<<<static_cast<unsigned>(rows), kThreads, 0, as_stream(stream)>>>(
      x, gain, y, inverse_rms, width, eps);
  return reason(cudaGetLastError());
}

template <typename T>
const char* rms_norm_backward(const T* x, const float* gain, const float* inverse_rms, const T* dy,
                              const T* residual, T* dx, float* parts, int64_t rows, int64_t width,
                              void* stream) {
  if (rows == 0) return nullptr;
  if (const char* why = too_large(rows)) return why;
  rms_norm_backward_kernel<<<static_cast<unsigned>(rows), kThreads, 0, as_stream(stream)>>>(
      x, gain, inverse_rms, dy, residual, dx, width);
  const dim3 grid(static_cast<unsigned>((rows + kGainRows - 1) / kGainRows),
                  static_cast<unsigned>(blocks_of(width)));
  gain_kernel<<<grid, kThreads, 0, as_stream(stream)>>>(x, dy, inverse_rms, parts, rows, width);
  return reason(cudaGetLastError());
}

template <typename T>
const char* rotate(const T* x, T* y, const float* cosine, const float* sine, int64_t rows,
                   int64_t positions, int64_t heads, const rows::HeadPart& part, int direction,
                   void* stream) {
  const int64_t count = rows * heads * rotation_slots(part);
  if (count == 0) return nullptr;
  if (const char* why = too_large(blocks_of(count))) return why;
  rotate_kernel<<<static_cast<unsigned>(blocks_of(count)), kThreads, 0, as_stream(stream)>>>(
      x, y, cosine, sine, count, positions, heads, part, static_cast<float>(direction));
  return reason(cudaGetLastError());
}

template <typename T>
const char* swiglu(const T* gate, const T* up, T* y, int64_t count, void* stream) {
  if (count == 0) return nullptr;
  if (const char* why = too_large(blocks_of(count))) return why;
  swiglu_kernel<<<static_cast<unsigned>(blocks_of(count)), kThreads, 0, as_stream(stream)>>>(
      gate, up, y, count);
  return reason(cudaGetLastError());
}

template <typename T>
const char* swiglu_backward(const T* gate, const T* up, const T* dy, T* dgate, T* dup,
                            int64_t count, void* stream) {
  if (count == 0) return nullptr;
  if (const char* why = too_large(blocks_of(count))) return why;
  swiglu_backward_kernel<<<static_cast<unsigned>(blocks_of(count)), kThreads, 0,
                           as_stream(stream)>>>(gate, up, dy, dgate, dup, count);
  return reason(cudaGetLastError());
}

template <typename T>
const char* cross_entropy(T* logits, const int64_t* targets, const float* weights, double* loss,
                          int64_t rows, int64_t classes, const rows::LossShape& shape,
                          bool gradient, void* stream) {
  if (rows == 0) return nullptr;
  if (const char* why = too_large(rows)) return why;
  cross_entropy_kernel<<<static_cast<unsigned>(rows), kThreads, 0, as_stream(stream)>>>(
      logits, targets, weights, loss, classes, shape, gradient);
  return reason(cudaGetLastError());
}

#define ASHLAR_LAUNCH(T)                                                                         \
  template const char* rms_norm<T>(const T*, const float*, T*, float*, int64_t, int64_t, float,  \
                                   void*);                                                       \
  template const char* rms_norm_backward<T>(const T*, const float*, const float*, const T*,      \
                                            const T*, T*, float*, int64_t, int64_t, void*);      \
  template const char* rotate<T>(const T*, T*, const float*, const float*, int64_t, int64_t,     \
                                 int64_t, const rows::HeadPart&, int, void*);                    \
  template const char* swiglu<T>(const T*, const T*, T*, int64_t, void*);                        \
  template const char* swiglu_backward<T>(const T*, const T*, const T*, T*, T*, int64_t, void*); \
  template const char* cross_entropy<T>(T*, const int64_t*, const float*, double*, int64_t,      \
                                        int64_t, const rows::LossShape&, bool, void*);

ASHLAR_LAUNCH(float)
ASHLAR_LAUNCH(Bf16)

#undef ASHLAR_LAUNCH

}  // namespace ashlar::cuda
