#pragma once

namespace pgconv {

// Of a signal in 16 bits; kFloat16Parts: float32 as two float16 parts, one array behind the other.
enum HalfType { kFloat16, kBfloat16Type, kFloat16Parts };

}  // namespace pgconv
