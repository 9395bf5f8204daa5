"""The names that users of other libraries know: what TRL and verl call an option, and what to write here. Data in `*.toml`, read by `table.py`."""
