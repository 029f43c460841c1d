/// Five tasks of search engine optimization, with rows that come with Loran: [SeoTask] says what they are and where
/// they are from, [Baselines] what can be had without a model.
@NullMarked
package dev.loran.peft.seo;

import org.jspecify.annotations.NullMarked;
