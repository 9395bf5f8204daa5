"""Topologies: who is linked to whom, the mixing weights, and the facts that exchanges ask for."""
