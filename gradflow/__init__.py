"""GradFlow: a declarative language and a compiler for gradient methods."""

__version__ = "0.1.0"
