"""Programs that measure. A package of its own, so that an installed one of this name does not hide it."""
