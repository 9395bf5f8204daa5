"""Storage formats: how a tensor is kept (groups of small integers with a scale, say), as the language defines it.

`elaborate` turns a `format` into two regions for a leaf: what is stored of a value, and the value that is stored. `storage` keeps a torch
module's tensors so, packed, and makes each anew when the module asks for it.
"""
