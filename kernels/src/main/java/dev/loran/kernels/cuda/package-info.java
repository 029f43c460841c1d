/// The backend for NVIDIA GPUs: JCuda, cuBLAS and the kernels in `src-cuda`. It is a separate package because only this
/// code uses JCuda, which is optional: nothing here is loaded before [CudaBackend] is requested.
@NullMarked
package dev.loran.kernels.cuda;

import org.jspecify.annotations.NullMarked;
