#include <cstdio>
struct Pair { float scale; int count; char tag[5]; };
__constant__ float table[4] = {1, 2, 3, 4};
__device__ __noinline__ float curve(float x) { return __expf(x) * table[threadIdx.x & 3]; }
template <class T> __global__ void axpy(T *y, const T *x, T a, Pair pair, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = a * x[i] + (T)(pair.scale * pair.count);
}
template __global__ void axpy<double>(double *, const double *, double, Pair, int);
extern "C" __global__ void __launch_bounds__(256, 2) block_sum(float *out, const float *x, long long n) {
  __shared__ float part[256];
  float local[8];
  for (int j = 0; j < 8; j++) local[(j * threadIdx.x) & 7] = x[j];
  part[threadIdx.x] = threadIdx.x < n ? curve(x[threadIdx.x]) + local[threadIdx.x & 7] : 0;
  __syncthreads();
  for (int s = 128; s; s >>= 1) {
    if (threadIdx.x < s) part[threadIdx.x] += part[threadIdx.x + s];
    __syncthreads();
  }
  if (threadIdx.x == 0) { atomicAdd(out, part[0]); if (out[0] < 0) printf("%f\n", out[0]); }
}
extern "C" __global__ void nothing() {}
