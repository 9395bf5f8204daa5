"""Analyses that warn: names and definitions nobody uses, options without effect. Each reads the tree or the program and changes nothing."""
