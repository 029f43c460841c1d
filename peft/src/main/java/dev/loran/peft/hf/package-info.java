/// Hugging Face's model folders: [HfModels] reads and writes them, and lists the families that it knows.
@NullMarked
package dev.loran.peft.hf;

import org.jspecify.annotations.NullMarked;
