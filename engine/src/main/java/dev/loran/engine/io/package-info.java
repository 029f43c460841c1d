/// Tensors in files. [SafeTensors] reads and writes Hugging Face's safetensors format. No other format is ever loaded,
/// least of all one that can contain code.
///
/// **File layout**: eight bytes for the length of the header (little-endian); the header, a JSON object with every
/// tensor's dtype, shape and offsets; the bytes of the tensors, row-major and little-endian, without gaps.
///
/// **Errors**: any fault in a file is reported as a [SafeTensorsException], whose one-line message names the file, the
/// tensor and the fault. A program whose user supplied the file can show that line and nothing else.
@NullMarked
package dev.loran.engine.io;

import org.jspecify.annotations.NullMarked;
