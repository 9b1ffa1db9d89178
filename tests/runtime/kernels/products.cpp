// The products of bfloat16_products.h as a library, for test_bfloat16_products.py.

#include "bfloat16_products.h"

template <int PARTS>
void multiply_parts(int64_t rows, int64_t depth, int64_t lanes, const uint16_t* a, const uint16_t* b, float* c,
                    bool add) {
  TileRegisters registers;
  BFloat16Products<PARTS>::multiply(registers, 0, rows, depth, lanes, a, b, c, add);
}

extern "C" int available() { return TileRegisters::available(); }

extern "C" void multiply(int parts, int64_t rows, int64_t depth, int64_t lanes, const uint16_t* a, const uint16_t* b,
                         float* c, int add) {
  (parts == 1 ? multiply_parts<1> : multiply_parts<2>)(rows, depth, lanes, a, b, c, add);
}
