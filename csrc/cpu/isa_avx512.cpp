#define PGCONV_ISA isa_avx512
#define PGCONV_ISA_NAME "avx512"
#include "table_impl.h"
