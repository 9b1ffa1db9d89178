// Matrix products of float32 numbers by the matrix units of a processor (AMX), which multiply
// bfloat16 numbers and add in float32.
//
// With one part, each number is rounded to bfloat16. With two, it is the sum of itself rounded
// and of what that lost, rounded, and a product of two numbers is three products of parts: that
// of the two small parts is smaller than what both lost.

#pragma once

#include <cmath>
#include <cstdint>

#if defined(__AMX_BF16__) && defined(__linux__) && !defined(WINOGRAD_EMULATE_TILES)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "vectors.h"

constexpr int64_t SQUARE = 16;           // rows of a tile register, and float32 numbers in a row
constexpr int64_t STEP = 2 * SQUARE;     // bfloat16 numbers in a row
constexpr int64_t ROW_BYTES = 64;
constexpr int64_t NUMBERS = SQUARE * STEP;  // bfloat16 numbers in a tile register

// The eight tile registers. c += a b multiplies a (16 rows of 32) with b, whose row i has rows
// 2i and 2i + 1 of a matrix of 32 rows of 16, number by number.
#if defined(WINOGRAD_EMULATE_TILES)
#define WINOGRAD_TILE_REGISTERS

// What the processor computes, to the last bit, for tests on any machine.
class TileRegisters {
 public:
  static bool available() { return true; }

  template <int T>
  void clear() {
    std::memset(tiles_[T], 0, sizeof tiles_[T]);
  }

  template <int T>
  void read(const void* from, int64_t row_bytes) {
    for (int64_t r = 0; r < SQUARE; ++r)
      std::memcpy(tiles_[T] + r * ROW_BYTES, static_cast<const char*>(from) + r * row_bytes, ROW_BYTES);
  }

  template <int T>
  void write(void* to, int64_t row_bytes) const {
    for (int64_t r = 0; r < SQUARE; ++r)
      std::memcpy(static_cast<char*>(to) + r * row_bytes, tiles_[T] + r * ROW_BYTES, ROW_BYTES);
  }

  // Products with even and with odd index are summed apart, then both sums are added to c.
  template <int C, int A, int B>
  void multiply() {
    for (int64_t m = 0; m < SQUARE; ++m)
      for (int64_t n = 0; n < SQUARE; ++n) {
        float sums[2] = {};
        for (int64_t k = 0; k < STEP; ++k) {
          float& sum = sums[k % 2];
          sum = normal(std::fma(number(tiles_[A] + m * ROW_BYTES + 2 * k),
                                number(tiles_[B] + k / 2 * ROW_BYTES + 4 * n + 2 * (k % 2)), sum));
        }
        char* const c = tiles_[C] + m * ROW_BYTES + 4 * n;
        store(c, normal(normal(load<float>(c)) + normal(sums[0] + sums[1])));
      }
  }

 private:
  static float number(const char* from) {
    const uint32_t word = uint32_t{load<uint16_t>(from)} << 16;
    return normal(load<float>(&word));
  }

  // The units take and give zero for numbers too small for a full mantissa.
  static float normal(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }

  char tiles_[8][SQUARE * ROW_BYTES];
};

#elif defined(__AMX_BF16__) && defined(__linux__)
#define WINOGRAD_TILE_REGISTERS

class TileRegisters {
 public:
  // Linux lets a process use them after it has asked once.
  static bool available() {
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    static const bool granted = syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
    return granted;
  }

  // Other libraries use the registers in the same threads and may expect their shapes unchanged.
  TileRegisters() {
    asm volatile("sttilecfg %0" : "=m"(before_));
    Configuration whole;
    for (int t = 0; t < 8; ++t) {
      whole.row_bytes[t] = ROW_BYTES;
      whole.rows[t] = SQUARE;
    }
    asm volatile("ldtilecfg %0" : : "m"(whole));
  }

  ~TileRegisters() {
    if (before_.palette == 0)
      asm volatile("tilerelease");
    else
      asm volatile("ldtilecfg %0" : : "m"(before_));
  }

  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;

  template <int T>
  void clear() {
    asm volatile("tilezero %%tmm%c0" : : "i"(T));
  }

  template <int T>
  void read(const void* from, int64_t row_bytes) {
    asm volatile("tileloadd (%0, %1), %%tmm%c2" : : "r"(from), "r"(row_bytes), "i"(T) : "memory");
  }

  template <int T>
  void write(void* to, int64_t row_bytes) const {
    asm volatile("tilestored %%tmm%c2, (%0, %1)" : : "r"(to), "r"(row_bytes), "i"(T) : "memory");
  }

  template <int C, int A, int B>
  void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
  }

 private:
  struct Configuration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };

  Configuration before_;
};

#endif

#ifdef WINOGRAD_TILE_REGISTERS

template <int PARTS>
struct BFloat16Products {
  using Number = uint16_t;
  using Unit = TileRegisters;

  static constexpr int64_t UNIT = SQUARE;                // output channels come in units of this size
  static constexpr int64_t WIDTH = 4;                    // units in a block, at most
  static constexpr int64_t ROWS = SQUARE, DEPTH = STEP;  // tiles and input channels come in multiples
  static constexpr int64_t KERNELS = 2;                  // input channels that are stored at a time
  static constexpr int PASSES = 3;                       // in which the frequencies are computed
  static constexpr int64_t SLICE = 192 / PARTS;          // input channels at a time, at most
  static constexpr int64_t STRIP = 2 * SQUARE;           // tiles that threads share out
  static constexpr int64_t PART = 9 * STRIP;             // tiles whose products stay in the cache
  static constexpr int64_t MEMORY = 24 << 20;            // bytes of tiles transformed at a time, about

  static int64_t size_of_tiles(int64_t tiles, int64_t depth) {
    return (tiles + ROWS - 1) / ROWS * ROWS * depth * PARTS;
  }
  static int64_t size_of_kernels(int64_t depth, int64_t lanes) { return depth * lanes * PARTS; }

  // What a tile register holds lies together: 16 tiles of 32 channels. All parts of it follow
  // each other, then come the next 32 channels. Kernels lie likewise, 16 output channels of 32
  // input channels, of which each pair lies together.
  static int64_t place_of_tile(int64_t tile, int64_t channel, int64_t depth) {
    return (tile / ROWS * (depth / STEP) + channel / STEP) * PARTS * NUMBERS + tile % ROWS * STEP + channel % STEP;
  }
  static int64_t place_of_kernel(int64_t channel, int64_t lane, int64_t depth, int64_t) {
    return (lane / UNIT * (depth / STEP) + channel / STEP) * PARTS * NUMBERS + channel % STEP * UNIT + lane % UNIT * 2;
  }

  template <class V>
  static void put_tile(Number* to, V value) {
    for (int part = 0; part < PARTS; ++part) {
      const auto bits = rounded(value);
      store(to + part * NUMBERS, upper_half(bits));
      value -= load<V>(&bits);
    }
    for (int part = 0; part < PARTS; ++part) __builtin_prefetch(to + (part + PARTS) * NUMBERS, 1);
  }

  template <class V>
  static void put_kernels(Number* to, V (&pair)[2]) {
    for (int part = 0; part < PARTS; ++part) {
      const auto even = rounded(pair[0]), odd = rounded(pair[1]);
      store(to + part * NUMBERS, even >> 16 | odd);
      pair[0] -= load<V>(&even);
      pair[1] -= load<V>(&odd);
    }
  }

  // c[rows][lanes] (+)= a[rows][depth] b[depth][lanes], for the rows from `first` on, a multiple of
  // ROWS. Writes c up to the next multiple of ROWS.
  static void multiply(Unit& unit, int64_t first, int64_t rows, int64_t depth, int64_t lanes, const Number* a,
                       const Number* b, float* c, bool add) {
    a += first * depth * PARTS;
    for (int64_t row = 0; row < rows; row += 2 * ROWS) {
      const bool two_rows = row + ROWS < rows;
      for (int64_t lane = 0; lane < lanes; lane += 2 * UNIT) {
        const bool two_columns = lane + UNIT < lanes;
        const auto product = two_rows ? two_columns ? multiply_squares<2, 2> : multiply_squares<2, 1>
                             : two_columns ? multiply_squares<1, 2>
                                           : multiply_squares<1, 1>;
        product(unit, depth, a + row * depth * PARTS, b + lane * depth * PARTS, c + row * lanes + lane, lanes, add);
      }
    }
  }

 private:
  static uint32_t bits(float value) { return load<uint32_t>(&value); }
  static Words bits(Vector value) { return (Words)value; }

  // The bits of the nearest bfloat16 number, as those of a float32 number.
  template <class V>
  static auto rounded(V value) {
    return (bits(value) + 0x8000u) & 0xffff0000u;
  }

  static uint16_t upper_half(uint32_t word) { return word >> 16; }
  static Halves upper_half(Words words) { return __builtin_convertvector(words >> 16, Halves); }

  template <int R, int W>
  static void multiply_squares(Unit& unit, int64_t depth, const Number* a, const Number* b, float* c, int64_t lanes,
                               bool add) {
    const int64_t row_bytes = lanes * sizeof(float), panel = depth * UNIT * PARTS;
    float* const below = c + ROWS * lanes;
    if (add) {
      unit.template read<0>(c, row_bytes);
      if constexpr (W > 1) unit.template read<1>(c + UNIT, row_bytes);
      if constexpr (R > 1) unit.template read<2>(below, row_bytes);
      if constexpr (R > 1 && W > 1) unit.template read<3>(below + UNIT, row_bytes);
    } else {
      unit.template clear<0>();
      unit.template clear<1>();
      unit.template clear<2>();
      unit.template clear<3>();
    }
    for (int64_t k = 0; k < depth * UNIT * PARTS; k += PARTS * NUMBERS)
      for (int kernel_part = PARTS - 1; kernel_part >= 0; --kernel_part) {
        const Number* const kernels = b + k + kernel_part * NUMBERS;
        unit.template read<6>(kernels, ROW_BYTES);
        if constexpr (W > 1) unit.template read<7>(kernels + panel, ROW_BYTES);
        for (int part = 0; part < PARTS - kernel_part; ++part) {
          const Number* const tiles = a + k + part * NUMBERS;
          unit.template read<4>(tiles, ROW_BYTES);
          unit.template multiply<0, 4, 6>();
          if constexpr (W > 1) unit.template multiply<1, 4, 7>();
          if constexpr (R > 1) {
            unit.template read<5>(tiles + panel, ROW_BYTES);
            unit.template multiply<2, 5, 6>();
            if constexpr (W > 1) unit.template multiply<3, 5, 7>();
          }
        }
      }
    unit.template write<0>(c, row_bytes);
    if constexpr (W > 1) unit.template write<1>(c + UNIT, row_bytes);
    if constexpr (R > 1) unit.template write<2>(below, row_bytes);
    if constexpr (R > 1 && W > 1) unit.template write<3>(below + UNIT, row_bytes);
  }
};

#endif
