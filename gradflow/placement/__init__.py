"""Placement: which process holds which part of a program, and the program of one process. Nothing here moves data; no torch."""
