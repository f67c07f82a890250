#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace pgconv {

namespace isa_base {
extern const KernelTable table;
}
#if defined(PGCONV_X86)
namespace isa_avx2 {
extern const KernelTable table;
}
namespace isa_avx512 {
extern const KernelTable table;
}
namespace isa_avx512bf16 {
extern const KernelTable table;
}
#endif

namespace {

const char* const kNames[kLevels] = {"base", "avx2", "avx512", "avx512bf16"};

int initial_level() {
  int best = 0;
  for (int level = 1; level < kLevels; ++level)
    if (level_supported(level)) best = level;
  // An unknown or unsupported name is ignored here: loading a library is no place to fail. pgconv.show_config() prints
  // the level in use.
  if (const char* name = std::getenv("PGCONV_CPU_ISA")) {
    int level = level_from_name(name);
    if (level >= 0 && level_supported(level)) return level;
  }
  return best;
}

std::atomic<int>& level_in_use() {
  static std::atomic<int> level{initial_level()};
  return level;
}

}  // namespace

const KernelTable* level_table(int level) {
#if defined(PGCONV_X86)
  if (level == 1) return &isa_avx2::table;
  if (level == 2) return &isa_avx512::table;
  if (level == 3) return &isa_avx512bf16::table;
#endif
  return level == 0 ? &isa_base::table : nullptr;
}

bool level_supported(int level) {
#if defined(PGCONV_X86)
  // The builtin also asks whether the operating system saves the wide registers.
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (level == 1) return avx2;
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (level == 2) return avx512;
  if (level == 3) return avx512 && __builtin_cpu_supports("avx512bf16");
#endif
  return level == 0;
}

int level_from_name(const char* name) {
  for (int level = 0; level < kLevels; ++level)
    if (std::strcmp(name, kNames[level]) == 0) return level;
  return -1;
}

const char* level_name(int level) { return kNames[level]; }
int current_level() { return level_in_use().load(std::memory_order_relaxed); }
void set_current_level(int level) { level_in_use().store(level, std::memory_order_relaxed); }

}  // namespace pgconv
