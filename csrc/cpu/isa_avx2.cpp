#define PGCONV_ISA isa_avx2
#define PGCONV_ISA_NAME "avx2"
#include "table_impl.h"
