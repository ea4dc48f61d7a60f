// A tensor as files store it → a matrix as matrix.h describes it.
#pragma once
#include "matrix.h"

namespace edge {

// The kind that holds a type of ggml's list (0 F32, 1 F16, 2 Q4_0, ... 30 BF16); -1: none does.
int kind_of(int ggml_type);

// Whether rows of `cols` numbers of a type can be held: whole blocks of a type that has a kind.
bool can_hold(int ggml_type, int cols);

// Bytes of `cols` numbers of a type in a file.
size_t row_bytes(int ggml_type, int cols);

// Blocks [first, end) of `w` from the rows at `raw`, which lie row by row as the type stores them.
// False when a scale, or a number of 16 or 32 bits, is not finite, or too large for float16.
bool pack_blocks(const Matrix& w, uint8_t* data, int ggml_type, const void* raw, int first, int end);

// Row `row` of a packed matrix as float32, `cols` numbers.
void unpack_row(const Matrix& w, int row, float* out);

}  // namespace edge
