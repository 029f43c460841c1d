/// What every room of this module needs at its edges: [InputException] for whatever a user got wrong, with [Nearest] to
/// guess what was meant; [JsonFile] for files that hold one JSON object; [Drafts] for files and folders that appear
/// whole or not at all.
@NullMarked
package dev.loran.peft.io;

import org.jspecify.annotations.NullMarked;
