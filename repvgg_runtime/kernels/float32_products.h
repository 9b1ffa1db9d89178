// Matrix products of float32 numbers by multiply-add instructions.

#pragma once

#include <cstdint>

#include "vectors.h"

// Sums of `MOST` input channels at a time; all frequencies are computed in `TIMES` passes.
template <int64_t MOST, int TIMES>
struct Float32Products {
  using Number = float;

#if defined(__AVX512F__)
  static constexpr int REGISTERS = 24;  // that hold sums, of 32
#elif defined(__AVX__)
  static constexpr int REGISTERS = 12;  // of 16
#else
  static constexpr int REGISTERS = 24;  // of 32 in NEON
#endif
  static constexpr int64_t UNIT = LANES;                // output channels come in units of this size
  static constexpr int64_t WIDTH = LANES == 8 ? 2 : 4;  // units in a block, at most
  static constexpr int64_t ROWS = 1, DEPTH = 1;         // tiles and input channels come in multiples
  static constexpr int64_t KERNELS = 1;                 // input channels that are stored at a time
  static constexpr int PASSES = TIMES;                  // in which the frequencies are computed
  static constexpr int64_t SLICE = MOST;                // input channels at a time, at most
  static constexpr int64_t STRIP = 24;                  // tiles that threads share out: a multiple of rows
  static constexpr int64_t PART = 312;                  // tiles whose products stay in the cache
  static constexpr int64_t MEMORY = 48 << 20;           // bytes of tiles transformed at a time, about
  static constexpr int64_t AHEAD = 128;                 // floats, by which memory is asked for before it is used

  // Multiplying needs no preparation.
  struct Unit {};

  static int64_t size_of_tiles(int64_t tiles, int64_t depth) { return tiles * depth; }
  static int64_t size_of_kernels(int64_t depth, int64_t lanes) { return depth * lanes; }

  static int64_t place_of_tile(int64_t tile, int64_t channel, int64_t depth) { return tile * depth + channel; }
  static int64_t place_of_kernel(int64_t channel, int64_t lane, int64_t, int64_t lanes) {
    return channel * lanes + lane;
  }

  template <class V>
  static void put_tile(float* to, V value) {
    put(to, value);
  }

  template <class V>
  static void put_kernels(float* to, const V (&value)[1]) {
    put(to, value[0]);
  }

  // c[rows][lanes] (+)= a[rows][depth] b[depth][lanes], for the rows from `first` on.
  static void multiply(Unit&, int64_t first, int64_t rows, int64_t depth, int64_t lanes, const float* a,
                       const float* b, float* c, bool add) {
    constexpr decltype(&product<1>) PRODUCTS[] = {product<1>, product<2>, product<3>, product<4>};
    PRODUCTS[lanes / LANES - 1](rows, depth, a + first * depth, b, c, add);
  }

 private:
  // Stores, and asks for the memory that will be stored to a little later: of the planes written
  // in turn the processor itself sees no pattern.
  template <class V>
  static void put(float* to, V value) {
    store(to, value);
    __builtin_prefetch(to + AHEAD, 1);
  }

  // W vectors, all sums in registers. What was in c is added last: short sums lose less.
  template <int W, int R>
  static void multiply_rows(int64_t depth, const float* a, const float* b, float* c, bool add) {
    Vector sum[R][W];
    for (int r = 0; r < R; ++r)
      for (int w = 0; w < W; ++w) sum[r][w] = Vector{};
    for (int64_t k = 0; k < depth; ++k) {
      Vector row[W];
#pragma GCC unroll 4
      for (int w = 0; w < W; ++w) row[w] = load<Vector>(b + (k * W + w) * LANES);
      __builtin_prefetch(a + R * depth + k * R);  // the rows of the next call
#pragma GCC unroll 24
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int w = 0; w < W; ++w) sum[r][w] += a[r * depth + k] * row[w];
    }
    for (int r = 0; r < R; ++r)
      for (int w = 0; w < W; ++w) {
        float* const to = c + (r * W + w) * LANES;
        store(to, add ? load<Vector>(to) + sum[r][w] : sum[r][w]);
      }
  }

  template <int W, int R>
  static void multiply_rest(int64_t rows, int64_t depth, const float* a, const float* b, float* c, bool add) {
    if (rows == R) return multiply_rows<W, R>(depth, a, b, c, add);
    if constexpr (R > 1) multiply_rest<W, R - 1>(rows, depth, a, b, c, add);
  }

  template <int W>
  static void product(int64_t rows, int64_t depth, const float* a, const float* b, float* c, bool add) {
    constexpr int R = REGISTERS / W;
    int64_t r = 0;
    for (; r + R <= rows; r += R) multiply_rows<W, R>(depth, a + r * depth, b, c + r * W * LANES, add);
    if (r < rows) multiply_rest<W, R>(rows - r, depth, a + r * depth, b, c + r * W * LANES, add);
  }
};
