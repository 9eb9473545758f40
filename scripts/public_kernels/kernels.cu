// Kernels as CUDA's samples and libraries have them, written anew; cuda_cases.py launches each.
#include <cooperative_groups.h>
#include <cuda_fp16.h>
#include <mma.h>

extern "C" {

__global__ void saxpy(float a, const float *x, float *y, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] += a * x[i];
}

__global__ void reduce_tree(const float *x, float *out, int n) {
  __shared__ float part[256];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  part[threadIdx.x] = i < n ? x[i] : 0.f;
  __syncthreads();
  for (int step = blockDim.x / 2; step > 0; step /= 2) {
    if (threadIdx.x < step) part[threadIdx.x] += part[threadIdx.x + step];
    __syncthreads();
  }
  if (threadIdx.x == 0) atomicAdd(out, part[0]);
}

__global__ void reduce_warps(const float *x, float *out, int n) {
  __shared__ float part[32];
  float v = 0.f;
  for (int i = threadIdx.x; i < n; i += blockDim.x) v += x[blockIdx.x * n + i];
  for (int step = 16; step > 0; step /= 2) v += __shfl_down_sync(~0u, v, step);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x < 32) {
    v = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0.f;
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
    if (threadIdx.x == 0) out[blockIdx.x] = v;
  }
}

__device__ unsigned arrived = 0;

// The last block adds up what all have left.
__global__ void reduce_last_block(const float *x, float *parts, float *out, unsigned *count, int n) {
  __shared__ float part[128];
  __shared__ bool last;
  float v = 0.f;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
  part[threadIdx.x] = v;
  __syncthreads();
  for (int step = 64; step > 0; step /= 2) {
    if (threadIdx.x < step) part[threadIdx.x] += part[threadIdx.x + step];
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = part[0];
    __threadfence();
    last = atomicInc(count, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    __threadfence();
    float total = 0.f;
    for (int i = 0; i < gridDim.x; i++) total += parts[i];
    *out = total;
  }
}

// Blelloch's scan of 2 * blockDim.x numbers.
__global__ void scan_block(const int *x, int *out) {
  extern __shared__ int t[];
  int n = 2 * blockDim.x, id = threadIdx.x, offset = 1;
  t[2 * id] = x[2 * id];
  t[2 * id + 1] = x[2 * id + 1];
  for (int d = n >> 1; d > 0; d >>= 1) {
    __syncthreads();
    if (id < d) t[offset * (2 * id + 2) - 1] += t[offset * (2 * id + 1) - 1];
    offset *= 2;
  }
  if (id == 0) t[n - 1] = 0;
  for (int d = 1; d < n; d *= 2) {
    offset >>= 1;
    __syncthreads();
    if (id < d) {
      int a = offset * (2 * id + 1) - 1, b = offset * (2 * id + 2) - 1, was = t[a];
      t[a] = t[b];
      t[b] += was;
    }
  }
  __syncthreads();
  out[2 * id] = t[2 * id];
  out[2 * id + 1] = t[2 * id + 1];
}

__global__ void transpose_tiles(const float *x, float *out, int rows, int columns) {
  __shared__ float tile[32][33];
  int c = blockIdx.x * 32 + threadIdx.x, r = blockIdx.y * 32 + threadIdx.y;
  for (int i = 0; i < 32; i += 8)
    if (c < columns && r + i < rows) tile[threadIdx.y + i][threadIdx.x] = x[(r + i) * columns + c];
  __syncthreads();
  c = blockIdx.y * 32 + threadIdx.x;
  r = blockIdx.x * 32 + threadIdx.y;
  for (int i = 0; i < 32; i += 8)
    if (c < rows && r + i < columns) out[(r + i) * rows + c] = tile[threadIdx.x][threadIdx.y + i];
}

__global__ void sgemm(const float *a, const float *b, float *c, int M, int N, int K) {
  __shared__ float as[16][16], bs[16][16];
  int r = blockIdx.y * 16 + threadIdx.y, n = blockIdx.x * 16 + threadIdx.x;
  float total = 0.f;
  for (int k = 0; k < K; k += 16) {
    as[threadIdx.y][threadIdx.x] = r < M && k + threadIdx.x < K ? a[r * K + k + threadIdx.x] : 0.f;
    bs[threadIdx.y][threadIdx.x] = n < N && k + threadIdx.y < K ? b[(k + threadIdx.y) * N + n] : 0.f;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 16; i++) total += as[threadIdx.y][i] * bs[i][threadIdx.x];
    __syncthreads();
  }
  if (r < M && n < N) c[r * N + n] = total;
}

__global__ void histogram_shared(const unsigned char *x, unsigned *bins, int n) {
  __shared__ unsigned local[64];
  if (threadIdx.x < 64) local[threadIdx.x] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&local[x[i] & 63], 1u);
  __syncthreads();
  if (threadIdx.x < 64) atomicAdd(&bins[threadIdx.x], local[threadIdx.x]);
}

__global__ void stencil(const float *x, float *out, int n) {
  __shared__ float t[128 + 6];
  int i = blockIdx.x * 128 + threadIdx.x;
  t[threadIdx.x + 3] = i < n ? x[i] : 0.f;
  if (threadIdx.x < 3) {
    t[threadIdx.x] = i >= 3 ? x[i - 3] : 0.f;
    t[threadIdx.x + 131] = i + 128 < n ? x[i + 128] : 0.f;
  }
  __syncthreads();
  float total = 0.f;
  for (int d = 0; d < 7; d++) total += t[threadIdx.x + d];
  if (i < n) out[i] = total;
}

struct Body { float x, y, z, mass; };

__global__ void nbody(const float4 *bodies, float4 *force, int n) {
  __shared__ float4 tile[64];
  int i = blockIdx.x * 64 + threadIdx.x;
  float4 own = i < n ? bodies[i] : make_float4(0, 0, 0, 0), f = make_float4(0, 0, 0, 0);
  for (int start = 0; start < n; start += 64) {
    tile[threadIdx.x] = start + threadIdx.x < n ? bodies[start + threadIdx.x] : make_float4(0, 0, 0, 0);
    __syncthreads();
    for (int j = 0; j < 64; j++) {
      float dx = tile[j].x - own.x, dy = tile[j].y - own.y, dz = tile[j].z - own.z;
      float inverse = rsqrtf(dx * dx + dy * dy + dz * dz + 0.01f);
      float s = tile[j].w * inverse * inverse * inverse;
      f.x += dx * s; f.y += dy * s; f.z += dz * s;
    }
    __syncthreads();
  }
  if (i < n) force[i] = f;
}

__constant__ float weights[9] = {0.0625f, 0.125f, 0.0625f, 0.125f, 0.25f, 0.125f, 0.0625f, 0.125f, 0.0625f};

__global__ void blur(const unsigned char *image, unsigned char *out, int width, int height) {
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= width || y >= height) return;
  float total = 0.f;
  for (int dy = -1; dy <= 1; dy++)
    for (int dx = -1; dx <= 1; dx++) {
      int cx = min(max(x + dx, 0), width - 1), cy = min(max(y + dy, 0), height - 1);
      total += weights[(dy + 1) * 3 + dx + 1] * image[cy * width + cx];
    }
  out[y * width + x] = (unsigned char)(total + 0.5f);
}

__global__ void mandelbrot(int *out, int width, int height, int most) {
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= width || y >= height) return;
  float cr = -2.f + 3.f * x / width, ci = -1.f + 2.f * y / height, zr = 0.f, zi = 0.f;
  int i = 0;
  while (i < most && __fadd_rn(__fmul_rn(zr, zr), __fmul_rn(zi, zi)) < 4.f) {
    float next = __fadd_rn(__fsub_rn(__fmul_rn(zr, zr), __fmul_rn(zi, zi)), cr);
    zi = __fadd_rn(__fmul_rn(__fmul_rn(2.f, zr), zi), ci);
    zr = next;
    i++;
  }
  out[y * width + x] = i;
}

__device__ float phi(float d) { return 0.5f * erfcf(-d * 0.70710678f); }

__global__ void black_scholes(const float *price, const float *strike, const float *years, float *call, int n, float r, float v) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float root = sqrtf(years[i]), d1 = (logf(price[i] / strike[i]) + (r + 0.5f * v * v) * years[i]) / (v * root);
  call[i] = price[i] * phi(d1) - strike[i] * expf(-r * years[i]) * phi(d1 - v * root);
}

// The grid meets between rounds of a cooperative launch.
__global__ void jacobi(float *a, float *b, int n, int rounds) {
  cooperative_groups::grid_group grid = cooperative_groups::this_grid();
  for (int round = 0; round < rounds; round++) {
    for (int i = grid.thread_rank(); i < n; i += grid.size()) {
      float left = i ? a[i - 1] : 0.f, right = i + 1 < n ? a[i + 1] : 0.f;
      b[i] = 0.5f * (left + right);
    }
    grid.sync();
    float *t = a; a = b; b = t;
  }
}

__global__ void bitonic_sort(unsigned *keys) {
  __shared__ unsigned t[256];
  t[threadIdx.x] = keys[blockIdx.x * 256 + threadIdx.x];
  for (unsigned k = 2; k <= 256; k *= 2)
    for (unsigned j = k / 2; j > 0; j /= 2) {
      __syncthreads();
      unsigned other = threadIdx.x ^ j;
      if (other > threadIdx.x) {
        bool up = (threadIdx.x & k) == 0;
        if ((t[threadIdx.x] > t[other]) == up) {
          unsigned was = t[threadIdx.x];
          t[threadIdx.x] = t[other];
          t[other] = was;
        }
      }
    }
  __syncthreads();
  keys[blockIdx.x * 256 + threadIdx.x] = t[threadIdx.x];
}

__global__ void wmma_gemm(const half *a, const half *b, float *c, int N, int K) {
  using namespace nvcuda::wmma;
  fragment<matrix_a, 16, 16, 16, half, row_major> x;
  fragment<matrix_b, 16, 16, 16, half, row_major> y;
  fragment<accumulator, 16, 16, 16, float> total;
  fill_fragment(total, 0.f);
  for (int k = 0; k < K; k += 16) {
    load_matrix_sync(x, a + blockIdx.y * 16 * K + k, K);
    load_matrix_sync(y, b + k * N + blockIdx.x * 16, N);
    mma_sync(total, x, y, total);
  }
  store_matrix_sync(c + blockIdx.y * 16 * N + blockIdx.x * 16, total, N, mem_row_major);
}

__global__ void spmv(const int *rows, const int *columns, const float *values, const float *x, float *y, int n) {
  int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (row >= n) return;
  float total = 0.f;
  for (int i = rows[row] + lane; i < rows[row + 1]; i += 32) total += values[i] * x[columns[i]];
  for (int step = 16; step > 0; step /= 2) total += __shfl_down_sync(~0u, total, step);
  if (lane == 0) y[row] = total;
}

__global__ void bits(const unsigned *x, unsigned *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  unsigned v = x[i], a, b, c;
  asm("lop3.b32 %0, %1, %2, %3, 0x96;" : "=r"(a) : "r"(v), "r"(v >> 3), "r"(v << 5));
  asm("prmt.b32 %0, %1, %2, 0x0123;" : "=r"(b) : "r"(v), "r"(0));
  asm("{ .reg .u32 t; bfe.u32 t, %1, 4, 12; mad.lo.u32 %0, t, 3, 1; }" : "=r"(c) : "r"(v));
  out[i] = a ^ b ^ c ^ __popc(v) ^ __clz(v) ^ __ffs(v) ^ __brev(v) ^ __funnelshift_l(v, a, 7);
}

__global__ void dot_bytes(const int *a, const int *b, int *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = __dp4a(a[i], b[i], (int)__vaddss4(a[i], b[i]));
}

__global__ void half_math(const half2 *x, const half2 *y, half2 *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = __hmax2(__hfma2(x[i], y[i], __float2half2_rn(0.5f)), __hmul2(x[i], x[i]));
}

__global__ void spin_chain(volatile int *flags, int *order) {
  if (threadIdx.x == 0) {
    int next = gridDim.x - 1 - blockIdx.x;
    while (next > 0 && flags[blockIdx.x + 1] == 0) {}
    __threadfence();
    order[blockIdx.x] = next ? order[blockIdx.x + 1] + 1 : 0;
    __threadfence();
    flags[blockIdx.x] = 1;
  }
}

__global__ void vote_compact(const int *x, int *out, int *count, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  bool keep = i < n && x[i] > 0;
  unsigned mask = __ballot_sync(~0u, keep);
  int lane = threadIdx.x % 32, base = 0;
  if (lane == 0) base = atomicAdd(count, __popc(mask));
  base = __shfl_sync(~0u, base, 0);
  if (keep) out[base + __popc(mask & ((1u << lane) - 1))] = x[i];
}
}
