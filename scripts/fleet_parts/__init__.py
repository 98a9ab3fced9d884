"""The parts of ``simulate_fleet.py``."""
