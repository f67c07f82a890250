#define PGCONV_ISA isa_avx512bf16
#define PGCONV_ISA_NAME "avx512bf16"
#include "table_impl.h"
