/// The backend for NVIDIA GPUs: JCuda, cuBLAS and the kernels of `src-cuda`. A package of its own because only it sees
/// JCuda, which is optional: nothing here is touched before [CudaBackend] is asked for.
@NullMarked
package dev.loran.kernels.cuda;

import org.jspecify.annotations.NullMarked;
