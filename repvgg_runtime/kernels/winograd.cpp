// Winograd convolution F(4x4, 3x3) in float32 (Lavin and Gray, CVPR 2016,
// https://arxiv.org/abs/1509.09308), of stride 1, any dilation and any groups.
//
// A conv of dilation d is d x d independent ordinary ones, each on every d-th pixel, so that
// dilation is only a matter of which pixels a tile is made of.
//
//   1. Tiles of 6x6 input pixels are transformed, as many at a time as MEMORY allows.
//   2. For a block of output channels, and a slice of the input channels, the kernels are
//      transformed, and multiplied with the tiles: one matrix product for each of the 36
//      frequencies, added up over the slices.
//   3. The products are transformed back to 4x4 output pixels, with bias and ReLU.
//
// Blocks and slices are such that what 2 and 3 work on stays in the cache of a core. Kernels
// are transformed anew in every call: keeping them would take 4 times the memory of the
// kernels, and reading them as long as making them.
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
#include <cstring>
#include <new>
#include <vector>

namespace {

constexpr int TILE = 4;         // output pixels of a tile, in each direction
constexpr int SIDE = TILE + 2;  // input pixels
constexpr int FREQUENCIES = SIDE * SIDE;
constexpr int TAPS = 9;

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int REGISTERS = 24;  // that hold sums, of 32
#elif defined(__AVX__)
constexpr int LANES = 8;
constexpr int REGISTERS = 12;  // of 16
#else
constexpr int LANES = 4;
constexpr int REGISTERS = 24;  // of 32 in NEON
#endif
constexpr int WIDTH = LANES == 8 ? 2 : 4;  // vectors of output channels in a block
constexpr int64_t BLOCK = WIDTH * LANES;   // output channels in a block
constexpr int64_t PIECE = 16;              // output channels of which kernels lie together
static_assert(PIECE % LANES == 0, "a vector of kernels is of one piece");
constexpr int64_t SLICE = 128;             // input channels in a slice, at most
constexpr int64_t MEMORY = 12 << 20;       // floats of tiles transformed at a time, about
constexpr int64_t CHUNK = 192;             // tiles transformed at a time, at least
constexpr int64_t PART = 264;              // tiles whose products stay in the cache
constexpr int64_t STRIP = 24;              // tiles that threads share out: a multiple of rows
constexpr int64_t AHEAD = 128;             // floats, by which memory is asked for before it is used

typedef float Vector __attribute__((vector_size(LANES * sizeof(float))));

// Points of interpolation: 0, A, -A, B, -B and infinity. Of all pairs of sixteenths this
// one has the least error in float32.
constexpr float A = 0.625f, B = 1.5f, A2 = A * A, B2 = B * B;

template <class V>
V load(const float* from) {
  V value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class V>
void store(float* to, V value) {
  std::memcpy(to, &value, sizeof value);
}

// Stores, and asks for the memory that will be stored to a little later: of 36 planes written
// in turn the processor itself sees no pattern.
template <class V>
void store_on(float* to, V value) {
  store(to, value);
  __builtin_prefetch(to + AHEAD, 1);
}

// The three transforms of one row or column; points of opposite sign share their terms.

template <class V>
void transform_input(const V (&x)[SIDE], V (&v)[SIDE]) {
  const V even_a = x[4] - B2 * x[2], odd_a = A * (x[3] - B2 * x[1]);
  const V even_b = x[4] - A2 * x[2], odd_b = B * (x[3] - A2 * x[1]);
  v[0] = A2 * B2 * x[0] - (A2 + B2) * x[2] + x[4];
  v[1] = even_a + odd_a;
  v[2] = even_a - odd_a;
  v[3] = even_b + odd_b;
  v[4] = even_b - odd_b;
  v[5] = A2 * B2 * x[1] - (A2 + B2) * x[3] + x[5];
}

template <class V>
void transform_kernel(const V (&g)[3], V (&u)[SIDE]) {
  constexpr float scale = 1 / (A2 * B2);
  constexpr float scale_a = 1 / (2 * A2 * (A2 - B2)), scale_b = 1 / (2 * B2 * (B2 - A2));
  const V even_a = scale_a * g[0] + (scale_a * A2) * g[2], odd_a = (scale_a * A) * g[1];
  const V even_b = scale_b * g[0] + (scale_b * B2) * g[2], odd_b = (scale_b * B) * g[1];
  u[0] = scale * g[0];
  u[1] = even_a + odd_a;
  u[2] = even_a - odd_a;
  u[3] = even_b + odd_b;
  u[4] = even_b - odd_b;
  u[5] = g[2];
}

template <class V>
void transform_output(const V (&m)[SIDE], V (&y)[TILE]) {
  const V even_a = m[1] + m[2], odd_a = A * (m[1] - m[2]);
  const V even_b = m[3] + m[4], odd_b = B * (m[3] - m[4]);
  y[0] = m[0] + even_a + even_b;
  y[1] = odd_a + odd_b;
  y[2] = A2 * even_a + B2 * even_b;
  y[3] = A2 * odd_a + B2 * odd_b + m[5];
}

struct Geometry {
  int64_t images, height, width, in_channels, out_channels, groups, dilation;

  int64_t group_in() const { return in_channels / groups; }
  int64_t group_out() const { return out_channels / groups; }
};

constexpr int64_t NOWHERE = -1;  // padding, or not asked for

// The rows or columns that a tile reads and writes.
struct Span {
  int64_t from[SIDE], to[TILE];
};

using Line = std::vector<int64_t>;  // pixels of a side, with padding around them

void cut(const Line& line, std::vector<Span>& spans) {
  const int64_t size = line.size();
  const auto pixel = [&](int64_t i) { return i < 0 || i >= size ? NOWHERE : line[i]; };
  for (int64_t begin = 0; begin < size; begin += TILE) {
    Span& span = spans.emplace_back();
    for (int i = 0; i < SIDE; ++i) span.from[i] = pixel(begin + i - 1);
    for (int i = 0; i < TILE; ++i) span.to[i] = pixel(begin + i);
  }
}

// Cuts a side into spans. Each phase, of every `dilation`-th pixel, is a line for itself, or
// all are one line with a pixel of padding between them, whatever takes fewer spans: two
// phases of 45 are 23 spans together and 24 apart, of 16 they are 9 and 8.
std::vector<Span> spans(int64_t side, int64_t dilation) {
  std::vector<Span> apart, joined;
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
// transforms. Huge ones, where the system has them: the planes are many pages apart.
class Workspace {
 public:
  ~Workspace() { std::free(data_); }

  float* get(int64_t size) {
    if (size > size_) {
      std::free(data_);
      size_ = 0;
      const int64_t bytes = (size * sizeof(float) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
      data_ = static_cast<float*>(std::aligned_alloc(HUGE_PAGE, bytes));
      if (data_ == nullptr) throw std::bad_alloc();
#ifdef __linux__
      madvise(data_, bytes, MADV_HUGEPAGE);
#endif
      size_ = size;
    }
    return data_;
  }

 private:
  float* data_ = nullptr;
  int64_t size_ = 0;
};

// The size of the pieces, as few and as equal as can be, of which none is larger than `most`.
int64_t evenly(int64_t whole, int64_t most) {
  const int64_t pieces = (whole + most - 1) / most;
  return (whole + pieces - 1) / pieces;
}

// Planes a multiple of a page apart would all share the same few lines of the cache.
int64_t padded(int64_t size) { return (size + 1023) / 1024 * 1024 + 16; }

// Transforms one tile of as many channels as V has lanes, from `x` to 36 planes.
template <class V>
void take_tile(const Geometry& g, const Span& rows, const Span& columns, const float* x, float* v, int64_t plane) {
  V half[SIDE][SIDE];
  for (int j = 0; j < SIDE; ++j) {
    V column[SIDE] = {};
    for (int i = 0; i < SIDE; ++i) {
      if (rows.from[i] == NOWHERE || columns.from[j] == NOWHERE) continue;
      const float* const pixel = x + (rows.from[i] * g.width + columns.from[j]) * g.in_channels;
      column[i] = load<V>(pixel);
      __builtin_prefetch(pixel + AHEAD);
    }
    transform_input(column, half[j]);
  }
  for (int i = 0; i < SIDE; ++i) {
    V row[SIDE], out[SIDE];
    for (int j = 0; j < SIDE; ++j) row[j] = half[j][i];
    transform_input(row, out);
    for (int j = 0; j < SIDE; ++j) store_on(v + (i * SIDE + j) * plane, out[j]);
  }
}

// Transforms one input channel's kernels of as many output channels as V has lanes.
template <class V>
void take_kernel(const float* w, int64_t tap, float* u, int64_t plane) {
  V half[3][SIDE];
  for (int j = 0; j < 3; ++j) {
    const V column[3] = {load<V>(w + j * tap), load<V>(w + (3 + j) * tap), load<V>(w + (6 + j) * tap)};
    transform_kernel(column, half[j]);
  }
  for (int i = 0; i < SIDE; ++i) {
    const V row[3] = {half[0][i], half[1][i], half[2][i]};
    V out[SIDE];
    transform_kernel(row, out);
    for (int j = 0; j < SIDE; ++j) store_on(u + (i * SIDE + j) * plane, out[j]);
  }
}

// Transforms one tile back, of as many channels as V has lanes, from 36 planes to `y`.
template <class V>
void give_tile(const Geometry& g, const Span& rows, const Span& columns, const float* m, int64_t plane, V bias,
               bool relu, float* y) {
  V half[SIDE][TILE];
  for (int j = 0; j < SIDE; ++j) {
    V column[SIDE];
    for (int i = 0; i < SIDE; ++i) {
      const float* const from = m + (i * SIDE + j) * plane;
      column[i] = load<V>(from);
      __builtin_prefetch(from + AHEAD);
    }
    transform_output(column, half[j]);
  }
  for (int i = 0; i < TILE; ++i) {
    if (rows.to[i] == NOWHERE) continue;
    V row[SIDE], out[TILE];
    for (int j = 0; j < SIDE; ++j) row[j] = half[j][i];
    transform_output(row, out);
    for (int j = 0; j < TILE; ++j) {
      if (columns.to[j] == NOWHERE) continue;
      V value = out[j] + bias;
      if (relu) value = value < V{} ? V{} : value;  // keeps what is not a number
      store(y + (rows.to[i] * g.width + columns.to[j]) * g.out_channels, value);
    }
  }
}

// c[R][W] (+)= a[R][depth] b[depth][W]: W vectors, all sums in registers. What was in c is
// added last: short sums lose less.
template <int W, int R>
void multiply(int64_t depth, const float* a, const float* b, float* c, bool add) {
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
void multiply_rest(int64_t rows, int64_t depth, const float* a, const float* b, float* c, bool add) {
  if (rows == R) return multiply<W, R>(depth, a, b, c, add);
  if constexpr (R > 1) multiply_rest<W, R - 1>(rows, depth, a, b, c, add);
}

template <int W>
void product(int64_t rows, int64_t depth, const float* a, const float* b, float* c, bool add) {
  constexpr int R = REGISTERS / W;
  int64_t r = 0;
  for (; r + R <= rows; r += R) multiply<W, R>(depth, a + r * depth, b, c + r * W * LANES, add);
  if (r < rows) multiply_rest<W, R>(rows - r, depth, a + r * depth, b, c + r * W * LANES, add);
}

constexpr decltype(&product<1>) PRODUCTS[] = {product<1>, product<2>, product<3>, product<4>};

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

class Convolution {
 public:
  Convolution(const Geometry& geometry, const float* x, const float* w, const float* bias, bool relu, float* y)
      : g_(geometry), x_(x), w_(w), bias_(bias), relu_(relu), y_(y),
        rows_(spans(g_.height, g_.dilation)), columns_(spans(g_.width, g_.dilation)),
        depth_(evenly(g_.group_in(), SLICE)),
        slices_((g_.group_in() + depth_ - 1) / depth_),
        vectors_((g_.group_out() + LANES - 1) / LANES),
        blocks_((vectors_ + WIDTH - 1) / WIDTH),
        tiles_(g_.images * rows_.size() * columns_.size()),
        chunk_(evenly(tiles_, std::max(CHUNK, MEMORY / (FREQUENCIES * g_.in_channels)))),
        v_plane_(padded(chunk_ * depth_)), u_plane_(padded(depth_ * BLOCK)), m_plane_(padded(PART * BLOCK)) {}

  void run(int threads) {
    v_ = tiles_space.get(FREQUENCIES * g_.groups * slices_ * v_plane_);
    for (int64_t start = 0; start < tiles_; start += chunk_) {
      const int64_t size = std::min(chunk_, tiles_ - start);
      in_parallel(threads, size, [&](int64_t from, int64_t to) {
        for (int64_t t = from; t < to; ++t) take(start + t, t);
      });
      // Shared out is the work of blocks times strips of tiles, block by block, by the number
      // of vectors in a block: a thread gets all strips of most of its blocks.
      const int64_t strips = (size + STRIP - 1) / STRIP;
      in_parallel(threads, g_.groups * vectors_ * strips, [&](int64_t from, int64_t to) {
        for (int64_t block = 0; block < g_.groups * blocks_; ++block) {
          const int64_t done = first_vector(block) * strips, vectors = first_vector(block + 1) - first_vector(block);
          const int64_t first = std::clamp<int64_t>((from - done) / vectors, 0, strips);
          const int64_t last = std::clamp<int64_t>((to - done) / vectors, 0, strips);
          if (first < last) compute(block, start, first * STRIP, std::min(size, last * STRIP));
        }
      });
    }
  }

 private:
  struct Tile {
    int64_t image;
    const Span &rows, &columns;
  };

  Tile tile(int64_t index) const {
    const int64_t width = columns_.size(), area = rows_.size() * width;
    return {index / area, rows_[index % area / width], columns_[index % width]};
  }

  int64_t width_of_slice(int64_t slice) const { return std::min(depth_, g_.group_in() - slice * depth_); }

  // Blocks of a group are as wide as each other, or one vector apart.
  int64_t first_vector(int64_t block) const {
    return block / blocks_ * vectors_ + block % blocks_ * vectors_ / blocks_;
  }

  // Step 1 for a tile, the t-th of a chunk: all channels.
  void take(int64_t index, int64_t t) const {
    const Tile at = tile(index);
    const float* const image = x_ + at.image * g_.height * g_.width * g_.in_channels;
    for (int64_t s = 0; s < g_.groups * slices_; ++s) {
      const int64_t slice = s % slices_, width = width_of_slice(slice);
      const float* const x = image + s / slices_ * g_.group_in() + slice * depth_;
      float* const v = v_ + s * FREQUENCIES * v_plane_ + t * width;
      int64_t c = 0;
      for (; c + LANES <= width; c += LANES) take_tile<Vector>(g_, at.rows, at.columns, x + c, v + c, v_plane_);
      for (; c < width; ++c) take_tile<float>(g_, at.rows, at.columns, x + c, v + c, v_plane_);
    }
  }

  // Steps 2 and 3 for a block of output channels and a chunk's tiles from `first` to `last`.
  void compute(int64_t block, int64_t start, int64_t first, int64_t last) const {
    const int64_t group = block / blocks_, offset = (first_vector(block) - group * vectors_) * LANES;
    const int64_t vectors = first_vector(block + 1) - first_vector(block), lanes = vectors * LANES;
    const int64_t width = std::min(lanes, g_.group_out() - offset), channel = group * g_.group_out() + offset;
    // Kernels of all slices are kept where another part will use them.
    const int64_t parts = (last - first + PART - 1) / PART, kept = parts > 1 ? FREQUENCIES * u_plane_ : 0;
    float* const u = kernels_space.get(FREQUENCIES * u_plane_ + kept * (slices_ - 1));
    float* const m = products_space.get(FREQUENCIES * m_plane_);
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t begin = first + part * PART, end = std::min(begin + PART, last);
      for (int64_t slice = 0; slice < slices_; ++slice) {
        const int64_t depth = width_of_slice(slice);
        float* const here = u + slice * kept;
        if (part == 0) take_kernels(group, slice, offset, width, here);
        const float* const v = v_ + (group * slices_ + slice) * FREQUENCIES * v_plane_ + begin * depth;
        for (int f = 0; f < FREQUENCIES; ++f)
          PRODUCTS[vectors - 1](end - begin, depth, v + f * v_plane_, here + f * u_plane_, m + f * m_plane_, slice > 0);
      }
      for (int64_t t = begin; t < end; ++t) {
        if (t + 1 < end) expect_outputs(tile(start + t + 1), channel, width);
        give(tile(start + t), channel, width, m + (t - begin) * lanes);
      }
    }
  }

  // Step 3 for a tile: `width` channels.
  void give(const Tile& at, int64_t channel, int64_t width, const float* m) const {
    float* const y = output(at) + channel;
    int64_t c = 0;
    for (; c + LANES <= width; c += LANES)
      give_tile(g_, at.rows, at.columns, m + c, m_plane_, bias<Vector>(channel + c), relu_, y + c);
    for (; c < width; ++c)
      give_tile(g_, at.rows, at.columns, m + c, m_plane_, bias<float>(channel + c), relu_, y + c);
  }

  // Transforms the kernels from `depth` input channels of a slice, of a group, to `width`
  // output channels from `offset` on; what fills up the last vector is 0.
  void take_kernels(int64_t group, int64_t slice, int64_t offset, int64_t width, float* u) const {
    const int64_t lanes = (width + LANES - 1) / LANES * LANES, depth = width_of_slice(slice);
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t c = 0; c < lanes; c += LANES) {
        const int64_t piece = (offset + c) / PIECE * PIECE, row = std::min(PIECE, g_.group_out() - piece);
        const float* const w = w_ + (group * g_.group_out() + piece) * g_.group_in() * TAPS +
                               (slice * depth_ + k) * TAPS * row + offset + c - piece;
        float* const to = u + k * lanes + c;
        for (int t = 0; t < TAPS; ++t) __builtin_prefetch(w + (8 * TAPS + t) * row, 0, 2);
        if (c + LANES <= width) {
          take_kernel<Vector>(w, row, to, u_plane_);
          continue;
        }
        for (int64_t i = 0; i < LANES; ++i)
          if (c + i < width)
            take_kernel<float>(w + i, row, to + i, u_plane_);
          else
            for (int f = 0; f < FREQUENCIES; ++f) to[f * u_plane_ + i] = 0;
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
  const std::vector<Span> rows_, columns_;
  const int64_t depth_, slices_, vectors_, blocks_, tiles_, chunk_, v_plane_, u_plane_, m_plane_;
  float* v_ = nullptr;
};

}  // namespace

// x: (images, height, width, in_channels); bias: (out_channels) or null; y: (images, height,
// width, out_channels); w: pieces of (in_channels / groups, 3, 3, PIECE output channels), one
// after another, of which the last of a group may be narrower.
// Returns 0, or 1 where there is not enough memory.
extern "C" int winograd_conv(const float* x, const float* w, const float* bias, float* y, int64_t images,
                             int64_t height, int64_t width, int64_t in_channels, int64_t out_channels,
                             int64_t groups, int64_t dilation, int relu, int threads) {
  try {
    Convolution({images, height, width, in_channels, out_channels, groups, dilation}, x, w, bias, relu, y).run(threads);
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}
