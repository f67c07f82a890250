#pragma once

namespace pgconv {

enum HalfType { kFloat16, kBfloat16Type };

}  // namespace pgconv
