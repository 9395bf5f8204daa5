"""The built-in functions of the language: one table, by family. One more built-in is one more function here; the compiler's core does not grow."""
