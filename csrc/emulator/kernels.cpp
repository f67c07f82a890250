// The GPU kernels' own sources, compiled for the emulator.
#include "../cuda/conv_chain.cu"
#include "../cuda/conv_feature_gradient.cu"
#include "../cuda/conv_head_gradient.cu"
#include "../cuda/elements.cu"
#include "../cuda/features.cu"
#include "../cuda/half_net.cu"
#include "../cuda/point_gradient.cu"
#include "../cuda/point_moments.cu"
