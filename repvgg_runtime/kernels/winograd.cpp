// Winograd convolution F(4x4, 3x3) or F(6x6, 3x3) of float32 maps (Lavin and Gray, CVPR 2016,
// https://arxiv.org/abs/1509.09308), of stride 1, any dilation and any groups. Transforms and
// sums are in float32, products in float32 or bfloat16.
//
// A conv of dilation d is d x d independent ordinary ones, each on every d-th pixel, so that
// dilation is only a matter of which pixels a tile is made of.
//
//   1. Tiles of input pixels are transformed, as many at a time as MEMORY allows.
//   2. For a block of output channels, and a slice of the input channels, the kernels are
//      transformed, and multiplied with the tiles: one matrix product for each of the 36 or 64
//      frequencies, added up over the slices.
//   3. The products are transformed back to output pixels, with bias and ReLU.
//
// The tiles (transforms.h) and the products are template arguments: products by multiply-add
// instructions (float32_products.h) or by matrix units (bfloat16_products.h), which are so fast
// that memory limits them. Step 2 is made in passes of some frequencies each, whose kernels and
// products stay in the cache.
//
// Blocks and slices are such that what 2 and 3 work on stays in the cache of a core. Kernels
// are transformed in every call. Transformed kernels take 4 times the memory in float32, twice
// in bfloat16, and reading them takes about as long as making them (docs/winograd.md).
//
// build.py compiles it to a library of its own, without Python or torch, whose threads are those
// of OpenMP; or with WINOGRAD_TBB, and openvino_extension.cpp, to one of OpenVINO's threads.

#ifdef WINOGRAD_TBB
#include <tbb/parallel_for.h>
#else
#include <omp.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <vector>

#include "bfloat16_products.h"
#include "float32_products.h"
#include "transforms.h"
#include "vectors.h"

namespace {

constexpr int TAPS = 9;

constexpr int64_t PIECE = 16;         // output channels of which kernels lie together
static_assert(PIECE % LANES == 0, "a vector of kernels is of one piece");
constexpr int64_t CHUNK = 192;        // tiles transformed at a time, at least
constexpr int64_t AHEAD = 128;        // floats, by which memory is asked for before it is read

// Calls `function` with the numbers below END, as types.
template <int END, int FROM = 0, class Function>
void for_each(const Function& function) {
  function(std::integral_constant<int, FROM>{});
  if constexpr (FROM + 1 < END) for_each<END, FROM + 1>(function);
}

struct Geometry {
  int64_t images, height, width, in_channels, out_channels, groups, dilation;

  int64_t group_in() const { return in_channels / groups; }
  int64_t group_out() const { return out_channels / groups; }
};

constexpr int64_t NOWHERE = -1;  // padding, or not asked for

// The rows or columns that a tile reads and writes.
template <class Tiles>
struct Span {
  int64_t from[Tiles::SIDE], to[Tiles::TILE];
};

using Line = std::vector<int64_t>;  // pixels of a side, with padding around them

template <class Tiles>
void cut(const Line& line, std::vector<Span<Tiles>>& spans) {
  const int64_t size = line.size();
  const auto pixel = [&](int64_t i) { return i < 0 || i >= size ? NOWHERE : line[i]; };
  for (int64_t begin = 0; begin < size; begin += Tiles::TILE) {
    Span<Tiles>& span = spans.emplace_back();
    for (int i = 0; i < Tiles::SIDE; ++i) span.from[i] = pixel(begin + i - 1);
    for (int i = 0; i < Tiles::TILE; ++i) span.to[i] = pixel(begin + i);
  }
}

// Cuts a side into spans. Each phase, of every `dilation`-th pixel, is a line for itself, or
// all are one line with a pixel of padding between them, whatever takes fewer spans: two
// phases of 45 are 23 spans of 4 together and 24 apart, of 16 they are 9 and 8.
template <class Tiles>
std::vector<Span<Tiles>> spans(int64_t side, int64_t dilation) {
  std::vector<Span<Tiles>> apart, joined;
  Line all;
  for (int64_t phase = 0; phase < std::min(dilation, side); ++phase) {
    Line line;
    for (int64_t pixel = phase; pixel < side; pixel += dilation) line.push_back(pixel);
    cut(line, apart);
    if (phase > 0) all.push_back(NOWHERE);
    all.insert(all.end(), line.begin(), line.end());
  }
  cut(all, joined);
  return joined.size() < apart.size() ? joined : apart;
}

constexpr int64_t HUGE_PAGE = 2 << 20;

// Memory that a thread keeps from call to call: fresh pages would cost more than the
// transforms. The pages are huge where the system has such, since the planes are many pages apart.
class Workspace {
 public:
  ~Workspace() { std::free(data_); }

  template <class Number>
  Number* get(int64_t count) {
    const int64_t bytes = (count * sizeof(Number) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    if (bytes > bytes_) {
      std::free(data_);
      bytes_ = 0;
      data_ = std::aligned_alloc(HUGE_PAGE, bytes);
      if (data_ == nullptr) throw std::bad_alloc();
#ifdef __linux__
      madvise(data_, bytes, MADV_HUGEPAGE);
#endif
      bytes_ = bytes;
    }
    return static_cast<Number*>(data_);
  }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

int64_t rounded_up(int64_t size, int64_t multiple) { return (size + multiple - 1) / multiple * multiple; }

// The size of the pieces, multiples of `unit`, as few and as equal as can be, of which none is
// larger than `most`.
int64_t evenly(int64_t whole, int64_t most, int64_t unit = 1) {
  const int64_t pieces = (whole + most - 1) / most;
  return rounded_up((whole + pieces - 1) / pieces, unit);
}

// Planes a multiple of a page apart would all share the same few lines of the cache.
template <class Number>
int64_t padded(int64_t size) {
  return rounded_up(size, 4096 / sizeof(Number)) + 64 / sizeof(Number);
}

// Transforms one tile of as many channels as V has lanes, from `x`; puts each frequency.
template <class Tiles, class V, class Put>
void transform_input(const Geometry& g, const Span<Tiles>& rows, const Span<Tiles>& columns, const float* x,
                     const Put& put) {
  constexpr int SIDE = Tiles::SIDE;
  V half[SIDE][SIDE];
  for (int j = 0; j < SIDE; ++j) {
    V column[SIDE] = {};
    for (int i = 0; i < SIDE; ++i) {
      if (rows.from[i] == NOWHERE || columns.from[j] == NOWHERE) continue;
      const float* const pixel = x + (rows.from[i] * g.width + columns.from[j]) * g.in_channels;
      column[i] = load<V>(pixel);
      __builtin_prefetch(pixel + AHEAD);
    }
    Tiles::input(column, half[j]);
  }
  for (int i = 0; i < SIDE; ++i) {
    V row[SIDE], out[SIDE];
    for (int j = 0; j < SIDE; ++j) row[j] = half[j][i];
    Tiles::input(row, out);
    for (int j = 0; j < SIDE; ++j) put(i * SIDE + j, out[j]);
  }
}

// Transforms the kernels of N input channels, of which `channels` exist, and as many output
// channels as V has lanes; puts the frequencies of `ROWS` rows from `FIRST` on.
template <class Tiles, class V, int N, int FIRST, int ROWS, class Put>
void transform_kernel(const float* w, int64_t tap, int64_t channels, const Put& put) {
  constexpr int SIDE = Tiles::SIDE;
  V half[N][3][SIDE] = {};
  for (int n = 0; n < N; ++n, w += TAPS * tap) {
    if (n >= channels) break;
    for (int j = 0; j < 3; ++j) {
      const V column[3] = {load<V>(w + j * tap), load<V>(w + (3 + j) * tap), load<V>(w + (6 + j) * tap)};
      Tiles::kernel(column, half[n][j]);
    }
  }
  for (int i = FIRST; i < FIRST + ROWS; ++i) {
    V out[N][SIDE];
    for (int n = 0; n < N; ++n) {
      const V row[3] = {half[n][0][i], half[n][1][i], half[n][2][i]};
      Tiles::kernel(row, out[n]);
    }
    for (int j = 0; j < SIDE; ++j) {
      V values[N];
      for (int n = 0; n < N; ++n) values[n] = out[n][j];
      put(i * SIDE + j, values);
    }
  }
}

// Transforms one tile back, of as many channels as V has lanes, from the planes of all
// frequencies to `y`.
template <class Tiles, class V>
void transform_output(const Geometry& g, const Span<Tiles>& rows, const Span<Tiles>& columns, const float* m,
                      int64_t plane, V bias, bool relu, float* y) {
  constexpr int SIDE = Tiles::SIDE, TILE = Tiles::TILE;
  V half[SIDE][TILE];
  for (int j = 0; j < SIDE; ++j) {
    V column[SIDE];
    for (int i = 0; i < SIDE; ++i) {
      const float* const from = m + (i * SIDE + j) * plane;
      column[i] = load<V>(from);
      __builtin_prefetch(from + AHEAD);
    }
    Tiles::output(column, half[j]);
  }
  for (int i = 0; i < TILE; ++i) {
    if (rows.to[i] == NOWHERE) continue;
    V row[SIDE], out[TILE];
    for (int j = 0; j < SIDE; ++j) row[j] = half[j][i];
    Tiles::output(row, out);
    for (int j = 0; j < TILE; ++j) {
      if (columns.to[j] == NOWHERE) continue;
      V value = out[j] + bias;
      if (relu) value = value < V{} ? V{} : value;  // keeps what is not a number
      store(y + (rows.to[i] * g.width + columns.to[j]) * g.out_channels, value);
    }
  }
}

// Shares out `count` items among threads, each a range. What one of them throws (only a lack
// of memory can be the cause) is thrown here.
template <class Work>
void in_parallel(int threads, int64_t count, const Work& work) {
#ifdef WINOGRAD_TBB
  const auto part = [&](int here) {
    const int64_t from = count * here / threads, to = count * (here + 1) / threads;
    if (from < to) work(from, to);
  };
  tbb::parallel_for(0, threads, part, tbb::static_partitioner());
#else
  std::atomic<bool> failed{false};
#pragma omp parallel num_threads(threads)
  {
    const int64_t all = omp_get_num_threads(), here = omp_get_thread_num();
    const int64_t from = count * here / all, to = count * (here + 1) / all;
    try {
      if (from < to) work(from, to);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
  }
  if (failed) throw std::bad_alloc();
#endif
}

thread_local Workspace tiles_space, kernels_space, products_space;

template <class Tiles, class Products>
class Convolution {
 public:
  Convolution(const Geometry& geometry, const float* x, const float* w, const float* bias, bool relu, float* y)
      : g_(geometry), x_(x), w_(w), bias_(bias), relu_(relu), y_(y),
        rows_(spans<Tiles>(g_.height, g_.dilation)), columns_(spans<Tiles>(g_.width, g_.dilation)),
        depth_(evenly(g_.group_in(), Products::SLICE, std::max<int64_t>(Products::DEPTH, LANES))),
        slices_((g_.group_in() + depth_ - 1) / depth_),
        units_((g_.group_out() + Products::UNIT - 1) / Products::UNIT),
        blocks_((units_ + Products::WIDTH - 1) / Products::WIDTH),
        tiles_(g_.images * rows_.size() * columns_.size()),
        chunk_(evenly(tiles_, std::max(CHUNK, Products::MEMORY / bytes_of_tile()), Products::ROWS)),
        v_plane_(padded<Number>(Products::size_of_tiles(chunk_, depth_))),
        u_plane_(padded<Number>(Products::size_of_kernels(depth_, BLOCK))),
        m_plane_(padded<float>(Products::PART * BLOCK)) {}

  void run(int threads) {
    v_ = tiles_space.get<Number>(FREQUENCIES * g_.groups * slices_ * v_plane_);
    for (int64_t start = 0; start < tiles_; start += chunk_) {
      const int64_t size = std::min(chunk_, tiles_ - start);
      in_parallel(threads, size, [&](int64_t from, int64_t to) {
        for (int64_t t = from; t < to; ++t) transform_inputs(start + t, t);
      });
      // Shared out is the work of blocks times strips of tiles, block by block, by the number
      // of units in a block: a thread gets all strips of most of its blocks.
      const int64_t strips = (size + Products::STRIP - 1) / Products::STRIP;
      in_parallel(threads, g_.groups * units_ * strips, [&](int64_t from, int64_t to) {
        typename Products::Unit unit;
        for (int64_t block = 0; block < g_.groups * blocks_; ++block) {
          const int64_t done = first_unit(block) * strips, units = first_unit(block + 1) - first_unit(block);
          const int64_t first = std::clamp<int64_t>((from - done) / units, 0, strips);
          const int64_t last = std::clamp<int64_t>((to - done) / units, 0, strips);
          if (first < last)
            compute(unit, block, start, first * Products::STRIP, std::min(size, last * Products::STRIP));
        }
      });
    }
  }

 private:
  using Number = typename Products::Number;
  static constexpr int SIDE = Tiles::SIDE, FREQUENCIES = Tiles::FREQUENCIES;
  static constexpr int FREQUENCY_ROWS = SIDE / Products::PASSES;  // rows of frequencies at a time
  static_assert(SIDE % Products::PASSES == 0, "all passes compute as many rows");
  static constexpr int64_t BLOCK = Products::WIDTH * Products::UNIT;  // output channels in a block

  struct Tile {
    int64_t image;
    const Span<Tiles>&rows, &columns;
  };

  Tile tile(int64_t index) const {
    const int64_t width = columns_.size(), area = rows_.size() * width;
    return {index / area, rows_[index % area / width], columns_[index % width]};
  }

  int64_t width_of_slice(int64_t slice) const { return std::min(depth_, g_.group_in() - slice * depth_); }
  int64_t depth_of_slice(int64_t slice) const { return rounded_up(width_of_slice(slice), Products::DEPTH); }

  int64_t bytes_of_tile() const {
    const int64_t numbers = Products::size_of_tiles(Products::ROWS, g_.in_channels) / Products::ROWS;
    return FREQUENCIES * numbers * static_cast<int64_t>(sizeof(Number));
  }

  // Blocks of a group are as wide as each other, or one unit apart.
  int64_t first_unit(int64_t block) const { return block / blocks_ * units_ + block % blocks_ * units_ / blocks_; }

  // Step 1 for a tile, the t-th of a chunk: all channels. What fills up a slice is 0.
  void transform_inputs(int64_t index, int64_t t) const {
    const Tile at = tile(index);
    const float* const image = x_ + at.image * g_.height * g_.width * g_.in_channels;
    for (int64_t s = 0; s < g_.groups * slices_; ++s) {
      const int64_t slice = s % slices_, width = width_of_slice(slice), depth = depth_of_slice(slice);
      const float* const x = image + s / slices_ * g_.group_in() + slice * depth_;
      Number* const v = v_ + s * FREQUENCIES * v_plane_;
      const auto put = [=, plane = v_plane_](int64_t c) {
        Number* const to = v + Products::place_of_tile(t, c, depth);
        return [=](int f, auto value) { Products::put_tile(to + f * plane, value); };
      };
      int64_t c = 0;
      for (; c + LANES <= width; c += LANES) transform_input<Tiles, Vector>(g_, at.rows, at.columns, x + c, put(c));
      for (; c < width; ++c) transform_input<Tiles, float>(g_, at.rows, at.columns, x + c, put(c));
      for (; c < depth; ++c)
        for (int f = 0; f < FREQUENCIES; ++f) put(c)(f, 0.0f);
    }
  }

  // Steps 2 and 3 for a block of output channels and a chunk's tiles from `first` to `last`.
  void compute(typename Products::Unit& unit, int64_t block, int64_t start, int64_t first, int64_t last) const {
    const int64_t group = block / blocks_, offset = (first_unit(block) - group * units_) * Products::UNIT;
    const int64_t lanes = (first_unit(block + 1) - first_unit(block)) * Products::UNIT;
    const int64_t width = std::min(lanes, g_.group_out() - offset), channel = group * g_.group_out() + offset;
    // Kernels of all slices are kept where another part will use them.
    const int64_t most = Products::PART, parts = (last - first + most - 1) / most;
    const int64_t kept = parts > 1 ? FREQUENCIES * u_plane_ : 0;
    Number* const u = kernels_space.get<Number>(FREQUENCIES * u_plane_ + kept * (slices_ - 1));
    float* const m = products_space.get<float>(FREQUENCIES * m_plane_);
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t begin = first + part * most, end = std::min(begin + most, last);
      const auto multiply = [&](auto pass) {
        constexpr int FIRST = decltype(pass)::value * FREQUENCY_ROWS;
        for (int64_t slice = 0; slice < slices_; ++slice) {
          Number* const here = u + slice * kept;
          if (part == 0) transform_kernels<FIRST>(group, slice, offset, width, lanes, here);
          const Number* const v = v_ + (group * slices_ + slice) * FREQUENCIES * v_plane_;
          for (int f = FIRST * SIDE; f < (FIRST + FREQUENCY_ROWS) * SIDE; ++f)
            Products::multiply(unit, begin, end - begin, depth_of_slice(slice), lanes, v + f * v_plane_,
                               here + f * u_plane_, m + f * m_plane_, slice > 0);
        }
      };
      for_each<Products::PASSES>(multiply);
      for (int64_t t = begin; t < end; ++t) {
        if (t + 1 < end) expect_outputs(tile(start + t + 1), channel, width);
        transform_outputs(tile(start + t), channel, width, m + (t - begin) * lanes);
      }
    }
  }

  // Step 3 for a tile: `width` channels.
  void transform_outputs(const Tile& at, int64_t channel, int64_t width, const float* m) const {
    float* const y = output(at) + channel;
    int64_t c = 0;
    for (; c + LANES <= width; c += LANES)
      transform_output<Tiles>(g_, at.rows, at.columns, m + c, m_plane_, bias<Vector>(channel + c), relu_, y + c);
    for (; c < width; ++c)
      transform_output<Tiles>(g_, at.rows, at.columns, m + c, m_plane_, bias<float>(channel + c), relu_, y + c);
  }

  // Transforms the kernels from a slice of input channels, of a group, to `width` output channels
  // from `offset` on, in some rows of frequencies; what fills up the slice and the lanes is 0.
  template <int FIRST>
  void transform_kernels(int64_t group, int64_t slice, int64_t offset, int64_t width, int64_t lanes, Number* u) const {
    constexpr int KERNELS = Products::KERNELS, ROWS = FREQUENCY_ROWS;
    const int64_t depth = depth_of_slice(slice);
    for (int64_t k = 0; k < depth; k += KERNELS)
      for (int64_t c = 0; c < lanes; c += LANES) {
        const int64_t piece = (offset + c) / PIECE * PIECE, row = std::min(PIECE, g_.group_out() - piece);
        const int64_t channels = std::min<int64_t>(KERNELS, width_of_slice(slice) - k);
        const float* const w = w_ + (group * g_.group_out() + piece) * g_.group_in() * TAPS +
                               (slice * depth_ + k) * TAPS * row + offset + c - piece;
        for (int t = 0; t < TAPS * channels; ++t) __builtin_prefetch(w + (8 * TAPS + t) * row, 0, 2);
        const auto put = [=, plane = u_plane_](int64_t lane) {
          Number* const to = u + Products::place_of_kernel(k, lane, depth, lanes);
          return [=](int f, auto& values) { Products::put_kernels(to + f * plane, values); };
        };
        if (c + LANES <= width)
          transform_kernel<Tiles, Vector, KERNELS, FIRST, ROWS>(w, row, channels, put(c));
        else
          for (int64_t lane = c; lane < c + LANES; ++lane)
            transform_kernel<Tiles, float, KERNELS, FIRST, ROWS>(w + lane - c, row, lane < width ? channels : 0,
                                                                 put(lane));
      }
  }

  float* output(const Tile& at) const { return y_ + at.image * g_.height * g_.width * g_.out_channels; }

  // Asks for the memory that a tile will be written to, pixels far apart. Not inlined, it would
  // be left out: to GCC a function that only prefetches does nothing.
  __attribute__((always_inline)) void expect_outputs(const Tile& at, int64_t channel, int64_t width) const {
    for (const int64_t row : at.rows.to)
      for (const int64_t column : at.columns.to) {
        if (row == NOWHERE || column == NOWHERE) continue;
        const float* const pixel = output(at) + (row * g_.width + column) * g_.out_channels + channel;
        for (int64_t c = 0; c < width; c += LANES) __builtin_prefetch(pixel + c, 1);
      }
  }

  template <class V>
  V bias(int64_t channel) const {
    return bias_ ? load<V>(bias_ + channel) : V{};
  }

  const Geometry g_;
  const float *const x_, *const w_, *const bias_;
  const bool relu_;
  float* const y_;
  const std::vector<Span<Tiles>> rows_, columns_;
  const int64_t depth_, slices_, units_, blocks_, tiles_, chunk_, v_plane_, u_plane_, m_plane_;
  Number* v_ = nullptr;
};

// The time of products and transforms of kernels, which take as long as the products of 64 tiles.
template <class Tiles>
int64_t cost(const Geometry& g) {
  const int64_t rows = spans<Tiles>(g.height, g.dilation).size(), columns = spans<Tiles>(g.width, g.dilation).size();
  return (g.images * rows * columns + 64) * Tiles::FREQUENCIES;
}

// With few channels, transforms of larger tiles cost what their products save.
bool pays_with_large_tiles(const Geometry& g) {
  return std::min(g.group_in(), g.group_out()) > 128 && cost<Tiles6>(g) < cost<Tiles4>(g);
}

}  // namespace

// x: (images, height, width, in_channels); bias: (out_channels) or null; y: (images, height,
// width, out_channels); w: pieces of (in_channels / groups, 3, 3, PIECE output channels), one
// after another, of which the last of a group may be narrower.
// parts: how many bfloat16 numbers stand for a float32 number in the products, 1 or 2; or 0 for
// products in float32. A processor without matrix units computes all products in float32, and
// with 1 or 2 parts uses larger tiles, which are less exact, where they are faster.
// Returns 0, or 1 where there is not enough memory.
extern "C" int winograd_conv(const float* x, const float* w, const float* bias, float* y, int64_t images,
                             int64_t height, int64_t width, int64_t in_channels, int64_t out_channels,
                             int64_t groups, int64_t dilation, int relu, int parts, int threads) {
  const Geometry geometry{images, height, width, in_channels, out_channels, groups, dilation};
  const auto convolve = [&](auto tiles, auto products) {
    Convolution<decltype(tiles), decltype(products)>(geometry, x, w, bias, relu, y).run(threads);
  };
  try {
#ifdef WINOGRAD_TILE_REGISTERS
    if (parts == 1 && TileRegisters::available())
      convolve(Tiles4{}, BFloat16Products<1>{});
    else if (parts == 2 && TileRegisters::available())
      convolve(Tiles4{}, BFloat16Products<2>{});
    else
#endif
    if (parts != 0 && pays_with_large_tiles(geometry))
      convolve(Tiles6{}, Float32Products<192, 2>{});
    else
      convolve(Tiles4{}, Float32Products<128, 3>{});
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

// Whether this processor, and its system, have matrix units for products in bfloat16.
extern "C" int winograd_has_matrix_units() {
#ifdef WINOGRAD_TILE_REGISTERS
  return TileRegisters::available();
#else
  return 0;
#endif
}
