"""Privacy: gradients record by record, where private values go, which mechanisms release them, and what these spend together."""
