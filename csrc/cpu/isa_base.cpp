#define PGCONV_ISA isa_base
#define PGCONV_ISA_NAME "base"
#include "table_impl.h"
