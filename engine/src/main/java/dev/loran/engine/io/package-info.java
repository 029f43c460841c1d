/// Tensors in files. [SafeTensors] reads and writes the safetensors format of Hugging Face; nothing else is ever
/// loaded, least of all a format that can hold code.
///
/// **Layout of a file**: eight bytes, the length of the header (little-endian); the header, a JSON object that gives
/// every tensor's dtype, shape and place; the tensors' bytes, row-major and little-endian, without holes.
///
/// **Errors**: whatever is wrong with a file is a [SafeTensorsException], whose one line names the file, the tensor and
/// the fault. A program that was given such a file by its user shows the line and nothing else.
@NullMarked
package dev.loran.engine.io;

import org.jspecify.annotations.NullMarked;
