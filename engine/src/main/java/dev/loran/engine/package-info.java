/// Tensors, automatic differentiation and the operations of a transformer, with a scalar reference backend that
/// specifies what every faster backend must compute; plain JDK, no flags, no dependencies.
@NullMarked
package dev.loran.engine;

import org.jspecify.annotations.NullMarked;
